//! What a listener speaks TLS with, as one value that is replaced while it runs.
//!
//! [`TlsSet`] is everything: settings, certificates, trusted CAs. It is complete and checked when it exists.
//! [`TlsServer`] is the handle that a listener keeps; whoever changes something builds the next set and swaps it.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::server::{NoServerSessionStorage, ServerConfig, ServerSessionMemoryCache};
use rustls::version::{TLS12, TLS13};

use super::certificates::{NotingResolver, Resolver, Shown};
use super::verifier::Verifier;
use super::{CertificateSet, ClientAuth, Resumption, SniMatch, TlsError, TlsSettings, TlsVersion};
use crate::trust::TrustStore;

/// Everything that a handshake of one listener is done with.
pub struct TlsSet {
    settings: TlsSettings,
    certificates: CertificateSet,
    resolver: Arc<Resolver>,
    trust: Arc<TrustStore>,
    /// Made for one generation of the trust set: the CAs named to clients, and keys for tickets, are of it.
    config: ArcSwapOption<Generation>,
}

pub(super) struct Generation {
    pub(super) trust: u64,
    pub(super) config: Arc<ServerConfig>,
}

/// The TLS side of one listener, swappable while it runs.
///
/// Handshakes begun after a swap use the new set from their first byte; those under way end with the old one; live
/// connections are not touched. To change something:
///
/// * build a [`TlsSet`] with [`TlsSet::new`] from settings and certificates: what cannot work is refused here, and
///   nothing has changed;
/// * [`TlsServer::swap`] puts it in place in one step and answers the set before, which can be put back in the same
///   way (a rollback), or kept as long as old material is to be accepted beside the new;
/// * [`TlsServer::update`] does both for a change that starts from the current set ("the same, with one certificate
///   replaced"): changes that come at the same time do not lose each other. A reload builds its set inside of it, too:
///   a bundle that is replaced meanwhile is then either read anew or changed afterwards.
///
/// [`TlsServer::current`] answers what is in use: its settings, its certificates and where each of them came from.
pub struct TlsServer {
    current: ArcSwap<TlsSet>,
    /// Held while the next set is made from the current one.
    changing: Mutex<()>,
}

impl TlsServer {
    pub fn new(set: TlsSet) -> Self {
        Self { current: ArcSwap::from_pointee(set), changing: Mutex::default() }
    }

    /// What new handshakes are done with.
    pub fn current(&self) -> Arc<TlsSet> {
        self.current.load_full()
    }

    /// Puts `next` in the place of the current set, which is the answer.
    pub fn swap(&self, next: TlsSet) -> Arc<TlsSet> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.current.swap(Arc::new(next))
    }

    /// Replaces the current set by one that `change` makes of it; the answer is the set before. If `change` fails,
    /// everything stays.
    pub fn update<E>(&self, change: impl FnOnce(&TlsSet) -> Result<TlsSet, E>) -> Result<Arc<TlsSet>, E> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let next = change(&self.current.load())?;
        Ok(self.current.swap(Arc::new(next)))
    }
}

impl TlsSet {
    /// Fails if the settings contradict each other or the certificates.
    pub fn new(
        settings: TlsSettings,
        certificates: CertificateSet,
        trust: Arc<TrustStore>,
    ) -> Result<Self, TlsError> {
        settings.check()?;
        if certificates.is_empty() {
            return Err(TlsError::NoCertificate);
        }
        let resolver = certificates.resolver(settings.strict_sni, settings.staple);
        let set = Self { settings, certificates, resolver, trust, config: ArcSwapOption::empty() };
        set.config()?;
        Ok(set)
    }

    /// The same with other certificates.
    pub fn with_certificates(&self, certificates: CertificateSet) -> Result<Self, TlsError> {
        Self::new(self.settings.clone(), certificates, Arc::clone(&self.trust))
    }

    /// The same with other settings.
    pub fn with_settings(&self, settings: TlsSettings) -> Result<Self, TlsError> {
        Self::new(settings, self.certificates.clone(), Arc::clone(&self.trust))
    }

    pub const fn settings(&self) -> &TlsSettings {
        &self.settings
    }

    pub const fn certificates(&self) -> &CertificateSet {
        &self.certificates
    }

    pub const fn trust(&self) -> &Arc<TrustStore> {
        &self.trust
    }

    /// How the server name of a client is met.
    pub fn sni_match(&self, server_name: Option<&str>) -> SniMatch {
        self.resolver.find(server_name).0
    }

    /// The configuration for a new connection. When the trust set changed it is made anew: sessions from
    /// before the change cannot be resumed.
    pub fn config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let trust = self.trust.current();
        if let Some(current) = &*self.config.load()
            && current.trust == trust.generation
        {
            return Ok(Arc::clone(&current.config));
        }
        let library = |error: rustls::Error| TlsError::Library(error.to_string());
        let settings = &self.settings;
        let provider = Arc::new(settings.provider());
        let versions: Vec<_> = [(TlsVersion::V1_3, &TLS13), (TlsVersion::V1_2, &TLS12)]
            .into_iter()
            .filter(|(version, _)| (settings.min_version..=settings.max_version).contains(version))
            .map(|(_, version)| version)
            .collect();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .map_err(library)?;
        let builder = match settings.client_auth {
            ClientAuth::None => builder.with_no_client_auth(),
            ClientAuth::Optional | ClientAuth::Required => {
                builder.with_client_cert_verifier(Arc::new(Verifier {
                    trust: Arc::clone(&self.trust),
                    hints: Arc::clone(&trust.hints),
                    policy: settings.policy.clone(),
                    mandatory: settings.client_auth == ClientAuth::Required,
                    algorithms: provider.signature_verification_algorithms,
                }))
            }
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&self.resolver) as Arc<_>);
        config.alpn_protocols = settings.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.ignore_client_order = settings.honor_cipher_order;
        // Nothing may be sent before the handshake has proved who sends it.
        config.max_early_data_size = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        match settings.resumption {
            // Tickets hold the session, encrypted with keys of this listener and this trust set.
            Resumption::Tickets => {
                config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(library)?;
            }
            Resumption::Cache { sessions } => {
                config.session_storage = ServerSessionMemoryCache::new(sessions);
            }
            Resumption::Off => config.send_tls13_tickets = 0,
        }
        let config = Arc::new(config);
        let made = Generation { trust: trust.generation, config: Arc::clone(&config) };
        self.config.store(Some(Arc::new(made)));
        Ok(config)
    }

    /// The same for one connection whose handshake is done elsewhere, and where it is noted which certificate was
    /// chosen.
    pub(crate) fn config_that_notes(&self) -> Result<(Arc<ServerConfig>, Shown), TlsError> {
        let mut config = ServerConfig::clone(&*self.config()?);
        let shown = Shown::default();
        config.cert_resolver =
            Arc::new(NotingResolver { resolver: Arc::clone(&self.resolver), shown: Arc::clone(&shown) });
        Ok((Arc::new(config), shown))
    }

    #[cfg(test)]
    pub(super) fn pretend(&self, trust: u64, config: Arc<ServerConfig>) {
        self.config.store(Some(Arc::new(Generation { trust, config })));
    }
}
