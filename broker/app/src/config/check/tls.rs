//! What the TLS keys of a listener must not say: certificates by halves, names of suites and groups that lead to
//! nothing, versions that none of them serves, server names that cannot be any, more certificates than allowed.

use std::collections::BTreeSet;
use std::path::Path;

use mqgate_server::clock;
use mqgate_server::tls::{
    CipherSuites, KeyExchangeGroups, MaterialError, ServerCertificate, TlsSettings, TlsVersion, server_name,
};

use super::Checker;
use crate::config::anchor_password;
use crate::config::model::{self, Config, Listener, Transport};
use crate::secret;

pub(super) fn check(checker: &mut Checker<'_, '_>, key: &dyn Fn(&str) -> String, listener: &Listener) {
    certificates(checker, key, listener);
    super::ocsp::check(checker, key, &listener.ocsp);
    let words = |names: &model::Names| -> Vec<String> { names.0.clone() };
    let (suites, groups) = (words(&listener.ciphers), words(&listener.groups));
    let mut settings = TlsSettings {
        // QUIC has no other.
        min_version: match listener.kind {
            Transport::Quic => TlsVersion::V1_3,
            _ => version(listener.versions.lowest),
        },
        max_version: version(listener.versions.highest),
        ..TlsSettings::default()
    };
    if !suites.is_empty() {
        match CipherSuites::parse(suites.iter().map(String::as_str)) {
            Ok(suites) => settings.cipher_suites = suites,
            Err(error) => checker.add(&key("ciphers"), error.to_string(), None),
        }
    }
    if !groups.is_empty() {
        match KeyExchangeGroups::parse(groups.iter().map(String::as_str)) {
            Ok(groups) => settings.groups = groups,
            Err(error) => checker.add(&key("groups"), error.to_string(), None),
        }
    }
    // A listener of QUIC without TLS 1.3 has its own complaint.
    if settings.min_version <= settings.max_version
        && let Err(error) = settings.check()
    {
        let at = if suites.is_empty() { "groups" } else { "ciphers" };
        checker.add(&key(at), error.to_string(), None);
    }
}

pub fn version(version: model::TlsVersion) -> TlsVersion {
    match version {
        model::TlsVersion::Tls12 => TlsVersion::V1_2,
        model::TlsVersion::Tls13 => TlsVersion::V1_3,
    }
}

fn certificates(checker: &mut Checker<'_, '_>, key: &dyn Fn(&str) -> String, listener: &Listener) {
    match (&listener.certfile, &listener.keyfile) {
        (Some(_), None) => checker.add(
            &key("keyfile"),
            "missing: a certificate needs its private key",
            Some("name the PEM file; `mqgate pki demo --dir DIR` makes both to try with"),
        ),
        (None, Some(_)) => checker.add(
            &key("certfile"),
            "missing: this is the key of no certificate",
            Some("name the PEM file of its certificate, or remove `keyfile` for the built-in one"),
        ),
        (None, None) if listener.password.is_some() => {
            checker.add(&key("password"), "there is no `keyfile` that it could be for", Some("remove it"));
        }
        _ => {}
    }
    let others = listener.certfile.is_some()
        || !listener.certificates.is_empty()
        || !listener.managed_certs.is_empty();
    if listener.builtin_certificate == Some(false) && !others {
        checker.add(
            &key("builtin_certificate"),
            "the built-in certificate may be turned off only where there is another",
            Some("name one with `certfile` and `keyfile`, or in `managed_certs`"),
        );
    }
    let files = listener.certificates.iter().map(|certificate| &certificate.sni).enumerate();
    let managed = listener.managed_certs.iter().map(|certificate| &certificate.sni).enumerate();
    let named = files.map(|(index, sni)| ("certificates", index, sni));
    for (list, index, sni) in named.chain(managed.map(|(index, sni)| ("managed_certs", index, sni))) {
        if let Some(name) = sni
            && server_name(name).is_none()
        {
            checker.add(
                &key(&format!("{list}[{index}].sni")),
                format!("`{name}` is not a server name"),
                Some("write a host name, or \"*.example.com\" for all hosts of a domain"),
            );
        }
    }
}

/// Certificates and keys that are there and cannot be used.
pub(super) fn check_files(checker: &mut Checker<'_, '_>, at: &str, listener: &Listener, base: &Path) {
    for (index, files) in listener.files().into_iter().enumerate() {
        let key = format!("{at}.{}", listener.file_key(index));
        let (certificate, private) = (base.join(&files.certfile), base.join(&files.keyfile));
        if !certificate.is_file() || !private.is_file() {
            continue;
        }
        let password = files.password.map(|mut password| {
            anchor_password(&mut password, base);
            secret::resolve(&password)
        });
        let password = match password.transpose() {
            Ok(password) => password,
            Err(error) => {
                checker.add(&key.replace("certfile", "password"), error.to_string(), None);
                continue;
            }
        };
        let now = clock::now().seconds();
        if let Err(error) = ServerCertificate::load(&certificate, &private, password.as_deref(), now) {
            let of_key = matches!(error, MaterialError::Key { .. } | MaterialError::KeyMismatch { .. });
            let at = if of_key { key.replace("certfile", "keyfile") } else { key };
            checker.add(&at, error.to_string(), None);
        }
    }
}

impl Checker<'_, '_> {
    /// Pairs of files that listeners name, each counted once.
    pub(super) fn server_certificates(&mut self, config: &Config) {
        let limit = config.limits.server_certs as usize;
        let mut known = BTreeSet::new();
        for (name, listener) in &config.listeners {
            for (index, files) in listener.files().into_iter().enumerate() {
                if known.insert((files.certfile, files.keyfile)) && known.len() == limit + 1 {
                    let at = format!("listeners.{name}.{}", listener.file_key(index));
                    self.add(
                        &at,
                        format!(
                            "this is server certificate {}, the limit is {limit} (`limits.server_certs`)",
                            limit + 1
                        ),
                        Some("remove one, or raise `limits.server_certs`"),
                    );
                }
            }
        }
    }
}
