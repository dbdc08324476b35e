//! The certificates of one listener, in order, and which of them a client gets.
//!
//! By server name: one whose names hold it exactly, then one with a wildcard for its first label; else, and for
//! clients that name no server, the first of the list. Does not know where certificates are kept.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

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

    /// What rustls asks.
    pub(super) fn resolver(&self, strict: bool, staple: bool) -> Arc<Resolver> {
        Arc::new(Resolver::new(self, strict, staple))
    }
}

/// Chooses a certificate for each handshake.
pub(super) struct Resolver {
    certificates: Vec<ServerCertificate>,
    exact: HashMap<String, Vec<usize>>,
    /// By what follows the first label.
    wildcard: HashMap<String, Vec<usize>>,
    everyone: Vec<usize>,
    strict: bool,
    staple: bool,
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
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            everyone: Vec::new(),
            strict,
            staple,
        };
        for bound in set.iter().filter(|bound| bound.enabled) {
            let index = resolver.certificates.len();
            resolver.certificates.push(bound.certificate.clone());
            for name in bound.server_names() {
                let (table, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut resolver.wildcard, parent),
                    None => (&mut resolver.exact, name.as_str()),
                };
                table.entry(name.to_owned()).or_default().push(index);
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
        if let Some(found) = self.exact.get(&name) {
            return (SniMatch::Exact, found);
        }
        match name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent)) {
            Some(found) => (SniMatch::Wildcard, found),
            None => otherwise(SniMatch::Default),
        }
    }

    /// The first that the client can check the signature of, else the first.
    fn choose(&self, among: &[usize], schemes: &[SignatureScheme]) -> Option<&ServerCertificate> {
        let mut candidates = among.iter().filter_map(|index| self.certificates.get(*index));
        let first = candidates.clone().next()?;
        let fits = candidates.find(|candidate| candidate.certified().key.choose_scheme(schemes).is_some());
        Some(fits.unwrap_or(first))
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let (_, among) = self.find(hello.server_name());
        let chosen = self.choose(among, hello.signature_schemes())?;
        let shown = chosen.facts().certificate_fingerprint;
        // Outside a handshake of ours (there is none) only the note is lost.
        let _ = FINDINGS.try_with(|cell| cell.borrow_mut().shown = Some(shown));
        // Another listener may have had one fetched for the same certificate.
        Some(if self.staple { chosen.certified() } else { chosen.without_staple() })
    }
}
