//! From the configuration to the TLS of the admin API.

use std::sync::Arc;

use anyhow::Result;
use mqgate_identity::certificate::certificates_from_pem;
use mqgate_identity::evaluation::Anchor;
use mqgate_server::admin::ADMIN_TLS;
use mqgate_server::bundles::Bundles;
use mqgate_server::tls::{TlsSet, TlsSettings};
use mqgate_server::trust::TrustStore;

use super::build;
use super::paths::path_policy;
use crate::config::Config;
use crate::exit::{Exit, Failure};

/// What it speaks TLS with; nothing without `[admin.tls]`. Operators' CAs are a set of their own: no device's CA is
/// among them.
pub fn set(config: &Config, bundles: &Bundles) -> Result<Option<TlsSet>> {
    let Some(tls) = config.admin.tls.as_ref().filter(|_| config.admin.enable || config.metrics.tls) else {
        return Ok(None);
    };
    let listener = tls.as_listener();
    let mut anchors = Vec::new();
    for file in listener.ca_files() {
        let unusable = |error: &dyn std::fmt::Display| {
            let what = format!("`{ADMIN_TLS}.cacertfile`: {}: {error}", file.display());
            Failure::new(Exit::Config, what)
        };
        let pem = std::fs::read(file).map_err(|error| unusable(&error))?;
        for der in certificates_from_pem(&pem).map_err(|error| unusable(&error))? {
            let name = format!("operators-{}", anchors.len() + 1);
            anchors.push(Anchor { name: name.into(), der: der.into() });
        }
    }
    let trust = Arc::new(TrustStore::new(config.limits.ca_certs as usize));
    trust
        .configure(anchors)
        .map_err(|error| Failure::new(Exit::Config, format!("`{ADMIN_TLS}.cacertfile`: {error}")))?;
    let policy = path_policy(config, &listener);
    let set = build::tls(ADMIN_TLS, ADMIN_TLS, &listener, policy, &trust, bundles, &[])?;
    let alpn = vec![String::from("http/1.1")];
    let settings = TlsSettings { alpn, ..set.settings().clone() };
    Ok(Some(set.with_settings(settings)?))
}
