//! Keys of the admin API's own TLS.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::listener::{AuthMode, Listener};
use super::tls::{FileCertificate, ManagedCertificate, Names, TlsVersions};
use crate::config::units::Span;

/// With this table the admin API is HTTPS. The keys mean what they mean at a listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdminTls {
    /// Certificate of the server, PEM, then those of the CAs that signed it. Without any certificate the built-in one is
    /// served, which `builtin/ca.pem` in `data_dir` proves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certfile: Option<PathBuf>,
    /// Its private key, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyfile: Option<PathBuf>,
    /// Password of `keyfile`: the text, `"file://PATH"`, or `"env:NAME"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// More certificates in files, chosen by server name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<FileCertificate>,
    /// More certificates, kept by the broker (`mqgate server-cert`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub managed_certs: Vec<ManagedCertificate>,
    /// Whether the built-in certificate is served, after all others. The default is `true` only where there is no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builtin_certificate: Option<bool>,
    /// TLS versions, as at a listener.
    pub versions: TlsVersions,
    /// Cipher suites in order of preference, as at a listener.
    #[serde(skip_serializing_if = "is_empty")]
    pub ciphers: Names,
    /// Key-exchange groups in order of preference, as at a listener.
    #[serde(skip_serializing_if = "is_empty")]
    pub groups: Names,
    /// CAs of operators' certificates, PEM: whoever asks must show one, and have the token as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cacertfile: Option<PathBuf>,
    /// More files like `cacertfile`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cacertfiles: Vec<PathBuf>,
    /// Time for the TLS handshake.
    pub handshake_timeout: Span,
}

impl Default for AdminTls {
    fn default() -> Self {
        Self {
            certfile: None,
            keyfile: None,
            password: None,
            certificates: Vec::new(),
            managed_certs: Vec::new(),
            builtin_certificate: None,
            versions: TlsVersions::default(),
            ciphers: Names::default(),
            groups: Names::default(),
            cacertfile: None,
            cacertfiles: Vec::new(),
            handshake_timeout: Span::secs(15),
        }
    }
}

impl AdminTls {
    /// A listener with the same TLS.
    pub fn as_listener(&self) -> Listener {
        let asks = self.cacertfile.is_some() || !self.cacertfiles.is_empty();
        Listener {
            auth_mode: Some(if asks { AuthMode::Mutual } else { AuthMode::OneWay }),
            certfile: self.certfile.clone(),
            keyfile: self.keyfile.clone(),
            password: self.password.clone(),
            certificates: self.certificates.clone(),
            managed_certs: self.managed_certs.clone(),
            builtin_certificate: self.builtin_certificate,
            versions: self.versions.clone(),
            ciphers: self.ciphers.clone(),
            groups: self.groups.clone(),
            cacertfile: self.cacertfile.clone(),
            cacertfiles: self.cacertfiles.clone(),
            handshake_timeout: self.handshake_timeout,
            ..Listener::default()
        }
    }
}

fn is_empty(names: &Names) -> bool {
    names.0.is_empty()
}
