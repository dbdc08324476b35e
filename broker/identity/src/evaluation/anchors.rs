//! The CAs that a listener trusts.

use std::sync::Arc;

use super::links::Links;
use super::lint::{AnchorLint, AnchorWarning, lint};
use super::revocation::RevocationLists;
use super::{PathPolicy, Rejection};
use crate::certificate::{CertificateError, CertificateFacts, CertificateFingerprint, MatchedAnchor};
use crate::time::UnixSeconds;

/// A CA certificate and the name that the operator gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    pub name: Arc<str>,
    pub der: Arc<[u8]>,
}

/// A set of trust anchors, ready to judge with. Several may have the same subject.
#[derive(Debug, Clone, Default)]
pub struct TrustAnchors {
    loaded: Vec<Loaded>,
    lists: Arc<RevocationLists>,
}

#[derive(Debug, Clone)]
pub(super) struct Loaded {
    name: Arc<str>,
    pub facts: CertificateFacts,
    pub links: Links,
}

/// A certificate that cannot be a trust anchor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnchorError {
    #[error("trust anchor \"{name}\": {error}")]
    Malformed { name: Arc<str>, error: CertificateError },
    #[error(
        "trust anchor \"{name}\" is not a CA certificate (\"{subject}\" is marked CA:FALSE, or may not sign \
         certificates); give the certificate of the CA that issued it"
    )]
    NotACa { name: Arc<str>, subject: String },
    #[error("trust anchor \"{name}\": {problem}")]
    Unusable { name: Arc<str>, problem: Rejection },
}

impl TrustAnchors {
    pub fn new(anchors: Vec<Anchor>) -> Result<Self, AnchorError> {
        let mut set = Self::default();
        for Anchor { name, der } in anchors {
            let malformed = |error| AnchorError::Malformed { name: name.clone(), error };
            let facts = CertificateFacts::parse(&der).map_err(malformed)?;
            let denied = facts.basic_constraints().is_some_and(|(is_ca, _)| !is_ca)
                || facts.key_usage.is_some_and(|usage| !usage.key_cert_sign);
            if denied {
                return Err(AnchorError::NotACa { name, subject: facts.subject.display });
            }
            let links = Links::read(&facts)
                .map_err(|problem| AnchorError::Unusable { name: name.clone(), problem })?;
            set.loaded.push(Loaded { name, facts, links });
        }
        Ok(set)
    }

    pub fn is_empty(&self) -> bool {
        self.loaded.is_empty()
    }

    /// Name and facts of each anchor, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &CertificateFacts)> {
        self.loaded.iter().map(|anchor| (&anchor.name, &anchor.facts))
    }

    pub fn warnings(&self, policy: &PathPolicy, now: UnixSeconds) -> Vec<AnchorWarning> {
        let mut warnings = Vec::new();
        for (at, Loaded { name, facts, .. }) in self.loaded.iter().enumerate() {
            let lints = lint(facts, policy, now);
            warnings.extend(lints.into_iter().map(|(lint, detail)| AnchorWarning {
                name: name.clone(),
                lint,
                detail,
            }));
            let known = &self.loaded[..at];
            if known.iter().any(|other| other.facts.certificate_fingerprint == facts.certificate_fingerprint)
            {
                let detail = "the same certificate is given twice".to_owned();
                warnings.push(AnchorWarning { name: name.clone(), lint: AnchorLint::Duplicate, detail });
            }
        }
        warnings
    }

    /// The same anchors, with what their CAs have revoked.
    #[must_use]
    pub fn with_revocation_lists(mut self, lists: Arc<RevocationLists>) -> Self {
        self.lists = lists;
        self
    }

    /// What their CAs have revoked.
    pub fn lists(&self) -> &RevocationLists {
        &self.lists
    }

    pub(super) fn loaded(&self) -> &[Loaded] {
        &self.loaded
    }

    pub(super) fn is_anchor(&self, fingerprint: CertificateFingerprint) -> bool {
        self.loaded.iter().any(|anchor| anchor.facts.certificate_fingerprint == fingerprint)
    }

    pub(super) fn has_subject(&self, raw: &[u8]) -> bool {
        self.loaded.iter().any(|anchor| anchor.facts.subject.raw == raw)
    }

    pub(super) fn matched(&self, at: usize) -> MatchedAnchor {
        let anchor = &self.loaded[at];
        MatchedAnchor {
            name: anchor.name.clone(),
            certificate_fingerprint: anchor.facts.certificate_fingerprint,
        }
    }
}
