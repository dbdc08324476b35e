//! The CAs whose certificates let clients in: those of the configuration and those of the registry, as one
//! set that is replaced while the broker runs.
//!
//! A handshake uses one snapshot. Does not know where the CAs are kept.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::{ArcSwap, ArcSwapOption};
use mqgate_identity::certificate::{CertificateFacts, CertificateFingerprint};
use mqgate_identity::evaluation::{
    Anchor, AnchorError, AnchorLint, PathPolicy, Rejection, RevocationList, RevocationLists, TrustAnchors,
    ValidatedPath, evaluate_facts, lint,
};
use mqgate_identity::time::UnixSeconds;
use rustls::DistinguishedName;

use crate::directory::lock;

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

/// The set of trusted CAs, shared by listeners, gate and registry; and for each listener the part of it that
/// holds there, which is a store of its own that follows.
#[derive(Default)]
pub struct TrustStore {
    current: ArcSwap<TrustSet>,
    /// What the current set was made from; held while it is replaced.
    sources: Mutex<Sources>,
    listeners: Mutex<HashMap<Arc<str>, Arc<Self>>>,
    limit: AtomicUsize,
    /// Certificates that the broker itself shows: clients should not be let in by their CAs unless that is meant.
    own_chain: ArcSwap<Vec<CertificateFacts>>,
    /// One for the stores of all listeners.
    notices: Arc<Notices>,
}

/// Who wants to see certificates that lead to a trusted CA: to learn where their revocation lists are.
#[derive(Default)]
struct Notices(ArcSwapOption<Notice>);

type Notice = Box<dyn Fn(&CertificateFacts) + Send + Sync>;

#[derive(Default, Clone)]
struct Sources {
    configured: Vec<BoundAnchor>,
    registered: Vec<BoundAnchor>,
    /// Replaced or removed, and valid until their transition ends.
    retiring: Vec<BoundAnchor>,
    lists: Vec<Arc<RevocationList>>,
    hints: HintLimits,
}

/// A CA, and where it lets clients in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundAnchor {
    pub anchor: Anchor,
    /// Names of listeners; `None` means every one.
    pub listeners: Option<Vec<Arc<str>>>,
}

impl From<Anchor> for BoundAnchor {
    fn from(anchor: Anchor) -> Self {
        Self { anchor, listeners: None }
    }
}

impl BoundAnchor {
    fn holds_on(&self, listener: &str) -> bool {
        self.listeners.as_ref().is_none_or(|names| names.iter().any(|name| &**name == listener))
    }
}

impl Sources {
    /// Whether more than the CAs is another.
    fn has_other_terms_than(&self, other: &Self) -> bool {
        let same_lists = self.lists.len() == other.lists.len()
            && self.lists.iter().zip(&other.lists).all(|(ours, theirs)| Arc::ptr_eq(ours, theirs));
        !same_lists || self.hints != other.hints
    }
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
    /// Those that are trusted only because their transition runs.
    retiring: HashSet<CertificateFingerprint>,
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
        Self { limit: AtomicUsize::new(limit), ..Self::default() }
    }

    /// The snapshot that new handshakes are judged by.
    pub fn current(&self) -> Arc<TrustSet> {
        self.current.load_full()
    }

    /// What a listener of this name trusts: follows every change.
    pub fn listener(&self, name: &str) -> Arc<Self> {
        // In the order in which `replace` takes them.
        let sources = lock(&self.sources);
        let mut listeners = lock(&self.listeners);
        if let Some(known) = listeners.get(name) {
            return Arc::clone(known);
        }
        let generation = self.current.load().generation;
        // A part of a set that could be built can be built.
        let set = TrustSet::build(&sources, Some(name), usize::MAX, generation).unwrap_or_default();
        let store = Arc::new(Self {
            current: ArcSwap::from_pointee(set),
            notices: Arc::clone(&self.notices),
            ..Self::default()
        });
        listeners.insert(name.into(), Arc::clone(&store));
        store
    }

    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes how many CAs may be trusted; those that are there stay.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Replaces the CAs of the configuration, for every listener.
    pub fn configure(&self, anchors: Vec<Anchor>) -> Result<(), TrustError> {
        self.configure_bound(anchors.into_iter().map(BoundAnchor::from).collect(), Vec::new())
    }

    /// Replaces the CAs of the configuration, and those in transition.
    pub fn configure_bound(
        &self,
        configured: Vec<BoundAnchor>,
        retiring: Vec<BoundAnchor>,
    ) -> Result<(), TrustError> {
        self.replace(|sources| (sources.configured, sources.retiring) = (configured, retiring))
    }

    /// Replaces those in transition.
    pub fn retire(&self, anchors: Vec<BoundAnchor>) -> Result<(), TrustError> {
        self.replace(|sources| sources.retiring = anchors)
    }

    /// Replaces the CAs of the registry.
    pub fn register(&self, anchors: Vec<Anchor>) -> Result<(), TrustError> {
        self.replace(|sources| sources.registered = anchors.into_iter().map(BoundAnchor::from).collect())
    }

    /// Replaces the CAs of the registry, and those in transition: no handshake sees the one without the other.
    pub fn register_and_retire(
        &self,
        anchors: Vec<Anchor>,
        retiring: Vec<BoundAnchor>,
    ) -> Result<(), TrustError> {
        self.replace(|sources| {
            sources.registered = anchors.into_iter().map(BoundAnchor::from).collect();
            sources.retiring = retiring;
        })
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
        let mut sources = lock(&self.sources).clone();
        sources.registered = anchors.into_iter().map(BoundAnchor::from).collect();
        TrustSet::build(&sources, None, self.limit(), 0).map(drop)
    }

    /// Whether the configuration's CAs could be replaced by these; changes nothing.
    pub fn check_configured(
        &self,
        configured: Vec<BoundAnchor>,
        retiring: Vec<BoundAnchor>,
        limit: usize,
    ) -> Result<(), TrustError> {
        let mut sources = lock(&self.sources).clone();
        (sources.configured, sources.retiring) = (configured, retiring);
        TrustSet::build(&sources, None, limit, 0).map(drop)
    }

    /// A store as this one would be with other CAs of the configuration; nothing follows it.
    #[must_use]
    pub fn preview(&self, configured: Vec<BoundAnchor>, retiring: Vec<BoundAnchor>) -> Self {
        let mut sources = lock(&self.sources).clone();
        (sources.configured, sources.retiring) = (configured, retiring);
        let generation = self.current.load().generation;
        let set = TrustSet::build(&sources, None, usize::MAX, generation).unwrap_or_default();
        Self {
            current: ArcSwap::from_pointee(set),
            sources: Mutex::new(sources),
            limit: AtomicUsize::new(usize::MAX),
            ..Self::default()
        }
    }

    fn replace(&self, change: impl FnOnce(&mut Sources)) -> Result<(), TrustError> {
        let mut sources = lock(&self.sources);
        let mut changed = sources.clone();
        change(&mut changed);
        let generation = self.current.load().generation + 1;
        let set = TrustSet::build(&changed, None, self.limit(), generation)?;
        let listeners = lock(&self.listeners);
        let mut parts = Vec::new();
        for (name, store) in listeners.iter() {
            let part = TrustSet::build(&changed, Some(name), usize::MAX, generation)?;
            // Where nothing changes, sessions can be resumed as before.
            if part.ids != store.current.load().ids || changed.has_other_terms_than(&sources) {
                parts.push((store, part));
            }
        }
        *sources = changed;
        for (store, part) in parts {
            store.current.store(Arc::new(part));
        }
        self.current.store(Arc::new(set));
        Ok(())
    }
}

impl TrustSet {
    /// The whole set, or what holds on one listener.
    fn build(
        sources: &Sources,
        listener: Option<&str>,
        limit: usize,
        generation: u64,
    ) -> Result<Self, TrustError> {
        // A CA that is in both places is one CA, under the name in the configuration.
        let mut ders = HashSet::new();
        let mut names = HashSet::new();
        let mut anchors = Vec::new();
        let mut retiring = HashSet::new();
        let all = [&sources.configured, &sources.registered, &sources.retiring];
        for (number, bound) in
            all.into_iter().enumerate().flat_map(|(n, list)| list.iter().map(move |b| (n, b)))
        {
            if listener.is_some_and(|listener| !bound.holds_on(listener)) {
                continue;
            }
            let mut anchor = bound.anchor.clone();
            if !ders.insert(Arc::clone(&anchor.der)) {
                continue;
            }
            let is_retiring = number == 2;
            if is_retiring {
                // Its name may be its successor's now.
                retiring.insert(CertificateFingerprint::of(&anchor.der));
                let plain = Arc::clone(&anchor.name);
                let mut number = 1_u32;
                while names.contains(&anchor.name) {
                    anchor.name = match number {
                        1 => format!("{plain}-retiring").into(),
                        number => format!("{plain}-retiring-{number}").into(),
                    };
                    number += 1;
                }
            }
            if !names.insert(Arc::clone(&anchor.name)) {
                return Err(TrustError::NameTaken(anchor.name.to_string()));
            }
            anchors.push(anchor);
        }
        // What is in transition has a successor, which must not be refused for lack of a place.
        let given = anchors.len() - retiring.len();
        if given > limit {
            return Err(TrustError::TooMany { given, limit });
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
        Ok(Self { generation, anchors, hints, ids, retiring })
    }

    /// Which set, and which rules, a path was judged by: while that is the same, so is the judgement.
    pub fn judged_by(&self, policy: &PathPolicy) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.generation, policy).hash(&mut hasher);
        hasher.finish()
    }

    /// Judges a client's chain by this set: the one place where it is done.
    pub fn judge<I: AsRef<[u8]>>(
        &self,
        end_entity: &CertificateFacts,
        intermediates: &[I],
        policy: &PathPolicy,
        now: UnixSeconds,
    ) -> Result<ValidatedPath, Rejection> {
        evaluate_facts(end_entity, intermediates, &self.anchors, policy, now)
    }

    /// Whether a CA was replaced or removed, and is in the set until its transition ends.
    pub fn is_retiring(&self, id: CertificateFingerprint) -> bool {
        self.retiring.contains(&id)
    }

    /// Whether a CA is in the set.
    pub fn contains(&self, id: CertificateFingerprint) -> bool {
        self.ids.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestCa;

    fn on(ca: &TestCa, listeners: &[&str]) -> BoundAnchor {
        let listeners = listeners.iter().map(|name| Arc::from(*name)).collect();
        BoundAnchor { anchor: ca.anchor(), listeners: Some(listeners) }
    }

    #[test]
    fn each_listener_trusts_what_is_bound_to_it_and_what_is_registered() {
        let (a, b, everywhere) = (TestCa::new("a"), TestCa::new("b"), TestCa::new("everywhere"));
        let store = TrustStore::new(3);
        let main = store.listener("main");
        store.configure_bound(vec![on(&a, &["main"]), on(&b, &["main", "other"])], Vec::new()).unwrap();
        store.register(vec![everywhere.anchor()]).unwrap();
        let other = store.listener("other");
        let holds = |store: &TrustStore| [&a, &b, &everywhere].map(|ca| store.current().contains(ca.id()));
        assert_eq!(holds(&store), [true, true, true]);
        assert_eq!(holds(&main), [true, true, true]);
        assert_eq!(holds(&other), [false, true, true]);
        assert_eq!(holds(&store.listener("third")), [false, false, true]);

        // A change that does not concern a listener leaves its set as it is.
        let before = other.current().generation;
        store.configure_bound(vec![on(&b, &["main", "other"])], Vec::new()).unwrap();
        assert_eq!(holds(&main), [false, true, true]);
        assert_eq!(other.current().generation, before);
    }

    #[test]
    fn ca_accidentally_public() {
        let (servers, clients) = (TestCa::new("servers"), TestCa::new("clients"));
        let store = TrustStore::new(2);
        store.know_own_chain(vec![servers.server().facts()]);
        let lints = |ca: &TestCa| -> Vec<AnchorLint> {
            let facts = CertificateFacts::parse(&ca.der()).unwrap();
            let found = store.lint(&facts, &PathPolicy::default(), crate::clock::now().seconds());
            found.into_iter().map(|(lint, _)| lint).collect()
        };
        assert!(lints(&servers).contains(&AnchorLint::ServerChain));
        assert!(!lints(&clients).contains(&AnchorLint::ServerChain));
    }

    #[test]
    fn clients_are_told_of_so_many_cas_and_of_none_when_there_are_more() {
        let cas: Vec<TestCa> = (0..3).map(|number| TestCa::new(&format!("ca {number}"))).collect();
        let store = TrustStore::new(3);
        store.configure(cas.iter().map(TestCa::anchor).collect()).unwrap();
        let main = store.listener("main");
        let told = || main.current().hints.len();
        assert_eq!((HintLimits::default().count, told()), (32, 3));
        let name = main.current().anchors.iter().next().unwrap().1.subject.raw.len() + 2;
        for (count, bytes, expected) in
            [(3, 8192, 3), (2, 8192, 0), (3, 3 * name, 3), (3, 3 * name - 1, 0), (0, 0, 0)]
        {
            store.limit_hints(HintLimits { count, bytes }).unwrap();
            assert_eq!(told(), expected, "{count} names of {bytes} bytes");
        }
    }

    #[test]
    fn a_ca_in_transition_is_valid_beside_its_successor_of_the_same_name_and_needs_no_place() {
        let (old, new) = (TestCa::new("factory"), TestCa::new("factory"));
        let store = TrustStore::new(1);
        store.configure_bound(vec![on(&new, &["main"])], vec![on(&old, &["main"])]).unwrap();
        let names: Vec<_> = store.current().anchors.iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["factory", "factory-retiring"]);
        assert!(store.listener("main").current().contains(old.id()));
        store.retire(Vec::new()).unwrap();
        assert!(!store.listener("main").current().contains(old.id()));
        let third = TestCa::new("third");
        let error = store.configure_bound(vec![on(&new, &["main"]), on(&third, &["main"])], Vec::new());
        assert_eq!(error, Err(TrustError::TooMany { given: 2, limit: 1 }));
        assert!(store.current().contains(new.id()), "what cannot be used changes nothing");
    }
}
