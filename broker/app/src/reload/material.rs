//! The server certificates of listeners as they were read: what a transition keeps when files are replaced.

use std::collections::BTreeMap;

use anyhow::Result;
use mqgate_identity::certificate::{CertificateFacts, certificates_from_pem};
use mqgate_identity::time::UnixMillis;
use mqgate_server::tls::server_name;

use super::ledger::{Material, Transition, new_id};
use crate::config::Config;
use crate::config::model::FileCertificate;

/// Certificate chain and key of a listener, as text.
#[derive(Debug, Clone)]
pub struct Pair {
    file: String,
    chain: String,
    key: String,
    /// Instead of those in the certificate.
    server_names: Vec<String>,
    facts: CertificateFacts,
}

/// When a transition runs, and who began it.
#[derive(Debug, Clone, Copy)]
pub struct Term<'a> {
    pub started_at: UnixMillis,
    pub ends_at: UnixMillis,
    pub actor: &'a str,
}

/// By listener, for those with TLS. What cannot be read is left out: whoever builds the listener says why.
pub fn read(config: &Config) -> BTreeMap<String, Vec<Pair>> {
    let listeners = config.listeners.iter().filter(|(_, listener)| listener.kind.has_tls());
    let pairs = listeners.map(|(name, listener)| {
        let files = listener.files();
        (name.clone(), files.iter().filter_map(pair).collect())
    });
    pairs.collect()
}

fn pair(files: &FileCertificate) -> Option<Pair> {
    let chain = std::fs::read_to_string(&files.certfile).ok()?;
    let key = std::fs::read_to_string(&files.keyfile).ok()?;
    let leaf = certificates_from_pem(chain.as_bytes()).ok()?.into_iter().next()?;
    let facts = CertificateFacts::parse(&leaf).ok()?;
    let server_names = files.sni.iter().filter_map(|name| server_name(name)).collect();
    Some(Pair { file: files.certfile.display().to_string(), chain, key, server_names, facts })
}

/// A transition for each certificate that listeners show no longer. One with an encrypted key has none: its password
/// is not written down.
pub fn replaced(
    before: &BTreeMap<String, Vec<Pair>>,
    after: &BTreeMap<String, Vec<Pair>>,
    term: Term<'_>,
) -> Result<Vec<Transition>> {
    let mut found: Vec<Transition> = Vec::new();
    let all = before.iter().flat_map(|(listener, pairs)| pairs.iter().map(move |pair| (listener, pair)));
    for (listener, old) in all {
        let Some(new) = after.get(listener) else { continue };
        let fingerprint = old.facts.certificate_fingerprint;
        if new.iter().any(|pair| pair.facts.certificate_fingerprint == fingerprint) {
            continue;
        }
        if old.key.contains("ENCRYPTED") {
            tracing::warn!(listener, "the key of the old certificate is encrypted: it has no transition");
            continue;
        }
        if let Some(known) = found.iter_mut().find(|known| known.fingerprint == fingerprint) {
            if !known.listeners.contains(listener) {
                known.listeners.push(listener.clone());
            }
            continue;
        }
        found.push(Transition {
            id: new_id()?,
            material: Material::ServerCertificate,
            name: old.file.clone(),
            fingerprint,
            subject: old.facts.subject.display.clone(),
            not_after: old.facts.not_after,
            listeners: vec![listener.clone()],
            started_at: term.started_at,
            ends_at: term.ends_at,
            actor: term.actor.to_owned(),
            pem: old.chain.clone(),
            key: Some(old.key.clone()),
            password: None,
            server_names: old.server_names.clone(),
        });
    }
    Ok(found)
}
