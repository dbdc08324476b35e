//! Keys of OCSP stapling: the state of the server's certificates, sent with them.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::units::Span;

/// OCSP responses that are sent with the certificates of a listener ("stapled"), so that clients need not ask for them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ocsp {
    /// Whether they are fetched, checked and sent: for every certificate of the listener but the built-in one and others
    /// that sign themselves.
    #[serde(alias = "enable_ocsp_stapling")]
    pub enable: bool,
    /// `http://` address of the responder, instead of the one that a certificate names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub responder_url: Option<String>,
    /// PEM: the CA that issued the server's certificate, where it does not follow it in `certfile`; several for several
    /// certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer_pem: Option<PathBuf>,
    /// How often a response is fetched; sooner if half of the time that it counts is over before.
    pub refresh_interval: Span,
    /// Time for one fetch, redirects included.
    pub refresh_http_timeout: Span,
    /// Networks of responders that certificates name and that may be asked although they are private, of this machine, or
    /// link-local: `"10.1.0.0/16"`. The address in `responder_url` may be any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_networks: Vec<String>,
}

impl Default for Ocsp {
    fn default() -> Self {
        Self {
            enable: false,
            responder_url: None,
            issuer_pem: None,
            refresh_interval: Span::secs(300),
            refresh_http_timeout: Span::secs(15),
            allow_networks: Vec::new(),
        }
    }
}
