//! The CAs whose certificates let clients in: those of the configuration and those of the registry, as one
//! set that is replaced while the broker runs.
//!
//! A handshake uses one snapshot. Does not know where the CAs are kept.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::evaluation::{Anchor, AnchorError, TrustAnchors};
use rustls::DistinguishedName;

/// CAs that may be trusted at the same time, unless configured otherwise.
pub const DEFAULT_LIMIT: usize = 32;
/// Clients are told which CAs are welcome, unless the list is longer than this.
const MOST_HINT_BYTES: usize = 8 * 1024;

/// The set of trusted CAs, shared by listeners, gate and registry.
pub struct TrustStore {
    current: ArcSwap<TrustSet>,
    /// What the current set was made from; held while it is replaced.
    sources: Mutex<Sources>,
    limit: usize,
}

#[derive(Default, Clone)]
struct Sources {
    configured: Vec<Anchor>,
    registered: Vec<Anchor>,
}

/// One immutable snapshot.
#[derive(Default)]
pub struct TrustSet {
    /// Rises with every change.
    pub generation: u64,
    pub anchors: TrustAnchors,
    /// Sent to clients in the CertificateRequest; empty when there are too many.
    pub(crate) hints: Arc<[DistinguishedName]>,
    ids: HashSet<CertificateFingerprint>,
}

/// A set that cannot be used; the current one stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    #[error(transparent)]
    Anchor(#[from] AnchorError),
    #[error("two CA certificates have the name \"{0}\": give each its own")]
    NameTaken(String),
    #[error(
        "{given} CA certificates are more than the limit of {limit}: remove one, or raise `limits.ca_certs`"
    )]
    TooMany { given: usize, limit: usize },
}

impl TrustStore {
    pub fn new(limit: usize) -> Self {
        Self { current: ArcSwap::default(), sources: Mutex::default(), limit }
    }

    /// The snapshot that new handshakes are judged by.
    pub fn current(&self) -> Arc<TrustSet> {
        self.current.load_full()
    }

    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// Replaces the CAs of the configuration.
    pub fn configure(&self, anchors: Vec<Anchor>) -> Result<(), TrustError> {
        self.replace(|sources| sources.configured = anchors)
    }

    /// Replaces the CAs of the registry.
    pub fn register(&self, anchors: Vec<Anchor>) -> Result<(), TrustError> {
        self.replace(|sources| sources.registered = anchors)
    }

    /// Whether the registry's CAs could be replaced by these; changes nothing.
    pub fn check_registered(&self, anchors: Vec<Anchor>) -> Result<(), TrustError> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone();
        sources.registered = anchors;
        TrustSet::build(&sources, self.limit, 0).map(drop)
    }

    fn replace(&self, change: impl FnOnce(&mut Sources)) -> Result<(), TrustError> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = sources.clone();
        change(&mut changed);
        let set = TrustSet::build(&changed, self.limit, self.current.load().generation + 1)?;
        *sources = changed;
        self.current.store(Arc::new(set));
        Ok(())
    }
}

impl TrustSet {
    fn build(sources: &Sources, limit: usize, generation: u64) -> Result<Self, TrustError> {
        // A CA that is in both places is one CA, under the name in the configuration.
        let mut ders = HashSet::new();
        let mut names = HashSet::new();
        let mut anchors = Vec::new();
        for anchor in sources.configured.iter().chain(&sources.registered) {
            if !ders.insert(Arc::clone(&anchor.der)) {
                continue;
            }
            if !names.insert(Arc::clone(&anchor.name)) {
                return Err(TrustError::NameTaken(anchor.name.to_string()));
            }
            anchors.push(anchor.clone());
        }
        if anchors.len() > limit {
            return Err(TrustError::TooMany { given: anchors.len(), limit });
        }
        let anchors = TrustAnchors::new(anchors)?;
        let ids = anchors.iter().map(|(_, facts)| facts.certificate_fingerprint).collect();
        let subjects: Vec<_> = anchors.iter().map(|(_, facts)| facts.subject.raw.clone()).collect();
        let bytes: usize = subjects.iter().map(|subject| subject.len() + 2).sum();
        let hints = if bytes <= MOST_HINT_BYTES {
            subjects.into_iter().map(DistinguishedName::from).collect()
        } else {
            Arc::default()
        };
        Ok(Self { generation, anchors, hints, ids })
    }

    /// Whether a CA is in the set.
    pub fn contains(&self, id: CertificateFingerprint) -> bool {
        self.ids.contains(&id)
    }
}
