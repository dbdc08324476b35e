//! TLS on a listener: server certificate, versions, client authentication, and the handshake itself.
//!
//! Knows CAs and certificates, not the registry: whether a device may come in is asked after the handshake
//! has proved possession of the key.

mod handshake;
pub mod material;
mod verifier;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use mqgate_identity::evaluation::PathPolicy;
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};

pub use self::handshake::{HandshakeFailure, Handshaken};
pub use self::material::{MaterialError, ServerCertificate};
use self::verifier::Verifier;
use crate::gate::AuthMode;
use crate::trust::TrustStore;

/// A TLS version that a listener may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    V1_2,
    V1_3,
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
    /// Whether sessions may be resumed; certificates are judged again in any case.
    pub resumption: bool,
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
            resumption: true,
            policy: PathPolicy::default(),
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

/// The TLS side of one listener.
pub struct TlsServer {
    settings: TlsSettings,
    certificate: ServerCertificate,
    trust: Arc<TrustStore>,
    /// Made for one generation of the trust set: the CAs named to clients, and keys for tickets, are of it.
    config: ArcSwapOption<Generation>,
}

struct Generation {
    trust: u64,
    config: Arc<ServerConfig>,
}

impl TlsServer {
    /// Fails if the settings or the certificate cannot work.
    pub fn new(
        settings: TlsSettings,
        certificate: ServerCertificate,
        trust: Arc<TrustStore>,
    ) -> Result<Self, TlsError> {
        if settings.min_version > settings.max_version {
            return Err(TlsError::Versions);
        }
        let server = Self { settings, certificate, trust, config: ArcSwapOption::empty() };
        server.config()?;
        Ok(server)
    }

    pub const fn settings(&self) -> &TlsSettings {
        &self.settings
    }

    pub const fn certificate(&self) -> &ServerCertificate {
        &self.certificate
    }

    /// The configuration for a new connection. When the trust set changed it is made anew: sessions from
    /// before the change cannot be resumed.
    fn config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let trust = self.trust.current();
        if let Some(current) = &*self.config.load()
            && current.trust == trust.generation
        {
            return Ok(Arc::clone(&current.config));
        }
        let library = |error: rustls::Error| TlsError::Library(error.to_string());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions: Vec<_> = [(TlsVersion::V1_3, &TLS13), (TlsVersion::V1_2, &TLS12)]
            .into_iter()
            .filter(|(version, _)| (self.settings.min_version..=self.settings.max_version).contains(version))
            .map(|(_, version)| version)
            .collect();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .map_err(library)?;
        let builder = match self.settings.client_auth {
            ClientAuth::None => builder.with_no_client_auth(),
            ClientAuth::Optional | ClientAuth::Required => {
                builder.with_client_cert_verifier(Arc::new(Verifier {
                    trust: Arc::clone(&self.trust),
                    hints: Arc::clone(&trust.hints),
                    policy: self.settings.policy.clone(),
                    mandatory: self.settings.client_auth == ClientAuth::Required,
                    algorithms: provider.signature_verification_algorithms,
                }))
            }
        };
        let resolver = SingleCertAndKey::from(Arc::clone(&self.certificate.certified));
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = self.settings.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        // Nothing may be sent before the handshake has proved who sends it.
        config.max_early_data_size = 0;
        // Tickets hold the session, encrypted with keys of this listener and this trust set.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if self.settings.resumption {
            config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(library)?;
        } else {
            config.send_tls13_tickets = 0;
        }
        let config = Arc::new(config);
        let made = Generation { trust: trust.generation, config: Arc::clone(&config) };
        self.config.store(Some(Arc::new(made)));
        Ok(config)
    }
}

#[cfg(test)]
mod tests;
