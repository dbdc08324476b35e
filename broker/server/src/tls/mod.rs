//! TLS on a listener: server certificate, versions, client authentication, and the handshake itself.
//!
//! Knows CAs and certificates, not the registry: whether a device may come in is asked after the handshake
//! has proved possession of the key.

mod certificates;
mod handshake;
mod judge;
mod key;
pub mod material;
mod set;
mod suites;
mod verifier;

use std::time::Duration;

use mqgate_identity::evaluation::PathPolicy;
use rustls::crypto::CryptoProvider;

pub use self::certificates::{BoundCertificate, CertificateSet, CertificateSource, SniMatch};
pub use self::handshake::{HandshakeFailure, Handshaken, Presented};
pub(crate) use self::judge::ChainJudge;
pub use self::key::{KeyError, plain_pem};
pub use self::material::{MaterialError, ServerCertificate, server_name};
pub use self::set::{TlsServer, TlsSet};
pub use self::suites::{CipherSuites, KeyExchangeGroups, NameError};
pub(crate) use self::verifier::Findings;
use crate::gate::AuthMode;

/// A TLS version that a listener may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

impl std::fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        })
    }
}

/// Whether TLS sessions may be resumed. Certificates are judged again in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumption {
    Off,
    /// The client keeps the session, encrypted with a key of this listener that changes every six hours.
    Tickets,
    /// The broker keeps this many, the oldest are forgotten.
    Cache {
        sessions: usize,
    },
}

impl Resumption {
    /// Off where clients are asked for certificates.
    pub const fn default_for(client_auth: ClientAuth) -> Self {
        match client_auth {
            ClientAuth::None => Self::Tickets,
            ClientAuth::Optional | ClientAuth::Required => Self::Off,
        }
    }
}

/// What is asked of a client in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate is asked for.
    None,
    /// Having none is fine; an invalid one is refused.
    Optional,
    Required,
}

/// `verify` as other brokers name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    None,
    Peer,
}

/// Settings that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    #[error(
        "fail_if_no_peer_cert = true needs verify = \"verify_peer\": without verification no certificate is \
         asked for; use auth_mode = \"mutual\" to require one, or set fail_if_no_peer_cert = false"
    )]
    FailWithoutVerify,
    #[error(
        "auth_mode = \"{0}\" needs verify = \"verify_peer\": remove verify, or use auth_mode = \"one_way\""
    )]
    ModeNeedsVerify(&'static str),
    #[error("verify = \"verify_peer\" contradicts auth_mode = \"one_way\": use auth_mode = \"mutual\"")]
    OneWayVerifies,
    #[error(
        "auth_mode = \"per_device\" contradicts fail_if_no_peer_cert = false: every device needs its certificate"
    )]
    PerDeviceOptional,
    #[error(
        "the lowest TLS version is above the highest: set min_version and max_version to \"1.2\" or \"1.3\""
    )]
    Versions,
    #[error(
        "no cipher suite of TLS {version} is in the list: add one of {suites}, or take {version} out of the versions"
    )]
    NoSuite { version: TlsVersion, suites: String },
    #[error("every key-exchange group in the list is of TLS 1.3 only: add X25519 or secp256r1 for TLS 1.2")]
    NoGroup,
    #[error("no certificate is left: a listener of type `tls` needs one that is enabled")]
    NoCertificate,
    #[error("the TLS library refuses: {0}")]
    Library(String),
}

/// How a listener speaks TLS.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
    pub client_auth: ClientAuth,
    /// Offered by ALPN; a client that uses ALPN must know one of them, one that does not is fine.
    pub alpn: Vec<String>,
    /// From the first byte to the last, waiting for a free place included.
    pub handshake_timeout: Duration,
    pub resumption: Resumption,
    pub cipher_suites: CipherSuites,
    pub groups: KeyExchangeGroups,
    /// Whether the order of our cipher suites counts, or the client's.
    pub honor_cipher_order: bool,
    /// Refuse clients whose server name no certificate has, or that name none.
    pub strict_sni: bool,
    /// Whether an OCSP response that a certificate has is sent with it.
    pub staple: bool,
    pub policy: PathPolicy,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            min_version: TlsVersion::V1_2,
            max_version: TlsVersion::V1_3,
            client_auth: ClientAuth::Required,
            alpn: vec!["mqtt".into()],
            handshake_timeout: Duration::from_secs(15),
            resumption: Resumption::Off,
            cipher_suites: CipherSuites::default(),
            groups: KeyExchangeGroups::default(),
            honor_cipher_order: true,
            strict_sni: false,
            staple: false,
            policy: PathPolicy::default(),
        }
    }
}

impl TlsSettings {
    /// Refuses what contradicts itself.
    pub fn check(&self) -> Result<(), TlsError> {
        if self.min_version > self.max_version {
            return Err(TlsError::Versions);
        }
        for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
            let spoken = (self.min_version..=self.max_version).contains(&version);
            if spoken && !self.cipher_suites.serves(version) {
                return Err(TlsError::NoSuite { version, suites: CipherSuites::all_of(version) });
            }
        }
        if self.min_version == TlsVersion::V1_2 && !self.groups.serves_tls12() {
            return Err(TlsError::NoGroup);
        }
        Ok(())
    }

    fn provider(&self) -> CryptoProvider {
        CryptoProvider {
            cipher_suites: self.cipher_suites.to_vec(),
            kx_groups: self.groups.to_vec(),
            ..rustls::crypto::aws_lc_rs::default_provider()
        }
    }
}

impl ClientAuth {
    /// What a listener's mode and the two keys that other brokers have mean together.
    pub fn resolve(
        mode: AuthMode,
        verify: Option<Verify>,
        fail_if_no_peer_cert: Option<bool>,
    ) -> Result<Self, TlsError> {
        match (mode, verify, fail_if_no_peer_cert) {
            (_, Some(Verify::None), Some(true)) | (AuthMode::OneWay, None, Some(true)) => {
                Err(TlsError::FailWithoutVerify)
            }
            (AuthMode::OneWay, Some(Verify::Peer), _) => Err(TlsError::OneWayVerifies),
            (AuthMode::OneWay, None | Some(Verify::None), _) => Ok(Self::None),
            (AuthMode::Mutual, Some(Verify::None), _) => Err(TlsError::ModeNeedsVerify("mutual")),
            (AuthMode::PerDevice, Some(Verify::None), _) => Err(TlsError::ModeNeedsVerify("per_device")),
            (AuthMode::PerDevice, _, Some(false)) => Err(TlsError::PerDeviceOptional),
            (AuthMode::Mutual, _, Some(false)) => Ok(Self::Optional),
            (AuthMode::Mutual | AuthMode::PerDevice, _, None | Some(true)) => Ok(Self::Required),
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_keys;
#[cfg(test)]
mod tests_names;
