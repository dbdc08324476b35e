//! The certificates of one listener, in order, and which of them a client gets.
//!
//! By server name: one whose names hold it exactly, then one with a wildcard for its first label; else, and for
//! clients that name no server, the first of the list. Does not know where certificates are kept.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use mqgate_identity::certificate::CertificateFingerprint;
use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::ServerCertificate;
use super::verifier::FINDINGS;
use crate::metrics::gate::NAMESPACE;

/// Where a certificate of a listener came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CertificateSource {
    /// The broker made it for itself.
    Builtin,
    /// Files that the configuration names.
    Files { certificate: String, key: String, label: Option<String> },
    /// A bundle that the broker keeps.
    Bundle { namespace: String, name: String },
    /// Replaced, and shown to who asks for its names until its transition ends.
    Retired { transition: String },
}

/// One place in the list.
#[derive(Clone)]
pub struct BoundCertificate {
    pub source: CertificateSource,
    pub certificate: ServerCertificate,
    /// Server names that it is for, instead of those in the certificate; empty: those in the certificate.
    pub names: Vec<String>,
    /// A disabled bundle keeps its place and is not chosen.
    pub enabled: bool,
}

/// The ordered list; cheap to clone.
#[derive(Clone, Default)]
pub struct CertificateSet {
    bound: Arc<[BoundCertificate]>,
}

/// How a client's server name was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SniMatch {
    Exact,
    Wildcard,
    /// A name that no certificate has: the first of the list.
    Default,
    /// The client named none: the first of the list.
    None,
    /// Neither exact nor wildcard, and the listener is strict.
    Rejected,
}

impl SniMatch {
    pub const ALL: [Self; 5] = [Self::Exact, Self::Wildcard, Self::Default, Self::None, Self::Rejected];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Wildcard => "wildcard",
            Self::Default => "default",
            Self::None => "none",
            Self::Rejected => "rejected",
        }
    }
}

impl fmt::Display for CertificateSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin => f.write_str("builtin"),
            Self::Files { certificate, .. } => f.write_str(certificate),
            Self::Bundle { namespace, name } => write!(f, "{namespace}/{name}"),
            // Transitions are many, and metrics have this as a label.
            Self::Retired { .. } => f.write_str("retired"),
        }
    }
}

impl CertificateSource {
    /// Namespace and bundle, as labels of metrics: names that the operator chose.
    pub fn labels<'a>(&'a self, listener: &'a str) -> (&'a str, &'a str) {
        match self {
            Self::Builtin => (NAMESPACE, "builtin"),
            // Paths are not labels: the first pair of files is called as its listener.
            Self::Files { label: None, .. } => (NAMESPACE, listener),
            Self::Files { label: Some(label), .. } => (NAMESPACE, label),
            Self::Bundle { namespace, name } => (namespace, name),
            Self::Retired { .. } => (NAMESPACE, "retired"),
        }
    }
}

impl BoundCertificate {
    pub fn new(source: CertificateSource, certificate: ServerCertificate) -> Self {
        Self { source, certificate, names: Vec::new(), enabled: true }
    }

    /// The names it answers to, in lower case.
    pub fn server_names(&self) -> &[String] {
        if self.names.is_empty() { self.certificate.names() } else { &self.names }
    }
}

impl CertificateSet {
    pub fn new(bound: Vec<BoundCertificate>) -> Self {
        Self { bound: bound.into() }
    }

    /// No certificate that could be chosen.
    pub fn is_empty(&self) -> bool {
        self.bound.iter().all(|bound| !bound.enabled)
    }

    pub fn iter(&self) -> impl Iterator<Item = &BoundCertificate> {
        self.bound.iter()
    }

    /// The same list with `change` done to every place of `source`.
    #[must_use]
    pub fn changed(&self, source: &CertificateSource, change: impl Fn(&mut BoundCertificate)) -> Self {
        let mut bound = self.bound.to_vec();
        bound.iter_mut().filter(|bound| bound.source == *source).for_each(change);
        Self::new(bound)
    }

    /// The same list with one more at its end.
    #[must_use]
    pub fn with(&self, bound: BoundCertificate) -> Self {
        Self::new(self.bound.iter().cloned().chain([bound]).collect())
    }

    /// What rustls asks.
    pub(super) fn resolver(&self, strict: bool, staple: bool) -> Arc<Resolver> {
        Arc::new(Resolver::new(self, strict, staple))
    }
}

/// Chooses a certificate for each handshake.
pub(super) struct Resolver {
    certificates: Vec<ServerCertificate>,
    names: Names,
    /// Names that only what was replaced has.
    retired: Names,
    everyone: Vec<usize>,
    strict: bool,
    staple: bool,
}

/// Certificates by the names that they are for.
#[derive(Default)]
struct Names {
    exact: HashMap<String, Vec<usize>>,
    /// By what follows the first label.
    wildcard: HashMap<String, Vec<usize>>,
}

impl Names {
    fn add(&mut self, name: &str, index: usize) {
        let (table, name) = match name.strip_prefix("*.") {
            Some(parent) => (&mut self.wildcard, parent),
            None => (&mut self.exact, name),
        };
        table.entry(name.to_owned()).or_default().push(index);
    }

    fn has(&self, name: &str) -> bool {
        match name.strip_prefix("*.") {
            Some(parent) => self.wildcard.contains_key(parent),
            None => self.exact.contains_key(name),
        }
    }

    fn find(&self, name: &str) -> Option<(SniMatch, &[usize])> {
        if let Some(found) = self.exact.get(name) {
            return Some((SniMatch::Exact, found));
        }
        let (_, parent) = name.split_once('.')?;
        self.wildcard.get(parent).map(|found| (SniMatch::Wildcard, found.as_slice()))
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("certificates", &self.certificates.len())
            .field("strict", &self.strict)
            .finish_non_exhaustive()
    }
}

impl Resolver {
    fn new(set: &CertificateSet, strict: bool, staple: bool) -> Self {
        let mut resolver = Self {
            certificates: Vec::new(),
            names: Names::default(),
            retired: Names::default(),
            everyone: Vec::new(),
            strict,
            staple,
        };
        for bound in set.iter().filter(|bound| bound.enabled) {
            let index = resolver.certificates.len();
            resolver.certificates.push(bound.certificate.clone());
            let is_retired = matches!(bound.source, CertificateSource::Retired { .. });
            for name in bound.server_names() {
                // A name that its successor has, too, be it by a wildcard, is its successor's. Behind that it
                // stands for clients that cannot check the signature of the other.
                match is_retired && !resolver.names.has(name) {
                    true => resolver.retired.add(name, index),
                    false => resolver.names.add(name, index),
                }
            }
            // The first is for everyone whom no name sends elsewhere; and what is for the same names, so that
            // an RSA and an ECDSA certificate of one server can stand beside each other.
            let same = |first: &BoundCertificate| first.server_names() == bound.server_names();
            if set.iter().find(|bound| bound.enabled).is_some_and(same) {
                resolver.everyone.push(index);
            }
        }
        resolver
    }

    /// How a server name is met, and what may be chosen then, in order.
    pub(super) fn find(&self, server_name: Option<&str>) -> (SniMatch, &[usize]) {
        let otherwise = |found| match self.strict {
            true => (SniMatch::Rejected, &[][..]),
            false => (found, self.everyone.as_slice()),
        };
        let Some(name) = server_name else { return otherwise(SniMatch::None) };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let found = self.names.find(&name).or_else(|| self.retired.find(&name));
        found.unwrap_or_else(|| otherwise(SniMatch::Default))
    }

    /// The first that the client can check the signature of, else the first.
    fn choose(&self, among: &[usize], schemes: &[SignatureScheme]) -> Option<&ServerCertificate> {
        let mut candidates = among.iter().filter_map(|index| self.certificates.get(*index));
        let first = candidates.clone().next()?;
        let fits = candidates.find(|candidate| candidate.certified().key.choose_scheme(schemes).is_some());
        Some(fits.unwrap_or(first))
    }
}

impl Resolver {
    fn chosen(&self, hello: &ClientHello<'_>) -> Option<&ServerCertificate> {
        let (_, among) = self.find(hello.server_name());
        self.choose(among, hello.signature_schemes())
    }

    /// Another listener may have had a response fetched for the same certificate.
    fn answer(&self, chosen: &ServerCertificate) -> Arc<CertifiedKey> {
        if self.staple { chosen.certified() } else { chosen.without_staple() }
    }
}

/// Where the certificate is noted that one client was shown.
pub(crate) type Shown = Arc<OnceLock<CertificateFingerprint>>;

/// For one connection.
#[derive(Debug)]
pub(super) struct NotingResolver {
    pub(super) resolver: Arc<Resolver>,
    pub(super) shown: Shown,
}

impl ResolvesServerCert for NotingResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let chosen = self.resolver.chosen(&hello)?;
        // Only the first answer is used.
        let _ = self.shown.set(chosen.facts().certificate_fingerprint);
        Some(self.resolver.answer(chosen))
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let chosen = self.chosen(&hello)?;
        let shown = chosen.facts().certificate_fingerprint;
        // Outside a handshake of ours (there is none) only the note is lost.
        let _ = FINDINGS.try_with(|cell| cell.borrow_mut().shown = Some(shown));
        Some(self.answer(chosen))
    }
}
