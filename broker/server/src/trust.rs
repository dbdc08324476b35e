//! The CAs whose certificates let clients in: those of the configuration and those of the registry, as one
//! set that is replaced while the broker runs.
//!
//! A handshake uses one snapshot. Does not know where the CAs are kept.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use mqgate_identity::certificate::{CertificateFacts, CertificateFingerprint};
use mqgate_identity::evaluation::{
    Anchor, AnchorError, AnchorLint, PathPolicy, RevocationList, RevocationLists, TrustAnchors, lint,
};
use mqgate_identity::time::UnixSeconds;
use rustls::DistinguishedName;

/// CAs that may be trusted at the same time, unless configured otherwise.
pub const DEFAULT_LIMIT: usize = 32;
/// How many CAs clients are told are welcome; with more they are told none, which means any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HintLimits {
    pub count: usize,
    /// Of all names together, as they are sent.
    pub bytes: usize,
}

impl Default for HintLimits {
    fn default() -> Self {
        Self { count: DEFAULT_LIMIT, bytes: 8 * 1024 }
    }
}

/// The set of trusted CAs, shared by listeners, gate and registry.
pub struct TrustStore {
    current: ArcSwap<TrustSet>,
    /// What the current set was made from; held while it is replaced.
    sources: Mutex<Sources>,
    limit: usize,
    /// Certificates that the broker itself shows: clients should not be let in by their CAs unless that is meant.
    own_chain: ArcSwap<Vec<CertificateFacts>>,
    notices: Arc<Notices>,
}

/// Who wants to see certificates that lead to a trusted CA: to learn where their revocation lists are.
#[derive(Default)]
struct Notices(ArcSwapOption<Notice>);

type Notice = Box<dyn Fn(&CertificateFacts) + Send + Sync>;

#[derive(Default, Clone)]
struct Sources {
    configured: Vec<Anchor>,
    registered: Vec<Anchor>,
    lists: Vec<Arc<RevocationList>>,
    hints: HintLimits,
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
        Self {
            current: ArcSwap::default(),
            sources: Mutex::default(),
            limit,
            own_chain: ArcSwap::default(),
            notices: Arc::default(),
        }
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

    /// Says which certificates the broker itself shows, with their chains; for [`TrustStore::lint`].
    pub fn know_own_chain(&self, certificates: Vec<CertificateFacts>) {
        self.own_chain.store(Arc::new(certificates));
    }

    /// Shows `notice` each client's certificate that leads to a trusted CA; whether its key was proved, or it is
    /// revoked, is not known then. It must not block.
    pub fn on_notice(&self, notice: impl Fn(&CertificateFacts) + Send + Sync + 'static) {
        let notice: Notice = Box::new(notice);
        self.notices.0.store(Some(Arc::new(notice)));
    }

    pub(crate) fn notice(&self, facts: &CertificateFacts) {
        if let Some(notice) = &*self.notices.0.load() {
            notice(facts);
        }
    }

    /// What an operator should know of a CA, each with a sentence.
    pub fn lint(
        &self,
        ca: &CertificateFacts,
        policy: &PathPolicy,
        now: UnixSeconds,
    ) -> Vec<(AnchorLint, String)> {
        let mut lints = lint(ca, policy, now);
        let own = self.own_chain.load();
        if own.iter().any(|shown| {
            shown.certificate_fingerprint == ca.certificate_fingerprint || shown.issuer.raw == ca.subject.raw
        }) {
            let what = "the broker's own certificate is of this CA: whoever else gets a certificate of it for a \
                        server is let in as a client, unless `extended_key_usage_absent = \"deny\"` or the chain \
                        tells them apart; use a CA of its own for clients";
            lints.push((AnchorLint::ServerChain, what.to_owned()));
        }
        lints
    }

    /// Replaces the revocation lists.
    pub fn revoke(&self, lists: Vec<Arc<RevocationList>>) -> Result<(), TrustError> {
        self.replace(|sources| sources.lists = lists)
    }

    /// Changes how many CAs clients are told of.
    pub fn limit_hints(&self, hints: HintLimits) -> Result<(), TrustError> {
        self.replace(|sources| sources.hints = hints)
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
        let limits = &sources.hints;
        let hints = if bytes <= limits.bytes && subjects.len() <= limits.count {
            subjects.into_iter().map(DistinguishedName::from).collect()
        } else {
            Arc::default()
        };
        let cas: Vec<_> = anchors.iter().map(|(_, facts)| facts).collect();
        let lists = RevocationLists::new(sources.lists.iter().cloned(), &cas);
        let anchors = anchors.with_revocation_lists(Arc::new(lists));
        Ok(Self { generation, anchors, hints, ids })
    }

    /// Whether a CA is in the set.
    pub fn contains(&self, id: CertificateFingerprint) -> bool {
        self.ids.contains(&id)
    }
}
