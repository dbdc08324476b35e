//! The CAs that a listener trusts.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, TrustAnchor};

use super::{Obstacle, PathPolicy, Rejection, subject_public_key_info};
use crate::certificate::{CertificateError, CertificateFacts, CertificateFingerprint, MatchedAnchor};
use crate::reason::Reason;
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
    /// The same, in the same order, as webpki wants them.
    roots: Vec<TrustAnchor<'static>>,
}

#[derive(Debug, Clone)]
pub(super) struct Loaded {
    name: Arc<str>,
    pub facts: CertificateFacts,
    pub key: SubjectPublicKeyInfoDer<'static>,
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
}

/// Something an operator should know of an anchor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnchorWarning {
    pub name: Arc<str>,
    pub lint: AnchorLint,
    /// One sentence.
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnchorLint {
    Version1,
    NoBasicConstraints,
    Expired,
    NotYetValid,
    WeakKey,
    /// The same certificate is there twice; the first name counts.
    Duplicate,
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
            let certificate = CertificateDer::from(&*der);
            let root = webpki::anchor_from_trusted_cert(&certificate)
                .map_err(|_| malformed(CertificateError::Malformed("not usable as a trust anchor")))?;
            let key = subject_public_key_info(&der).map_err(malformed)?;
            set.roots.push(root.to_owned());
            set.loaded.push(Loaded { name, facts, key });
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
            let mut warn = |lint, detail: String| {
                warnings.push(AnchorWarning { name: name.clone(), lint, detail });
            };
            if facts.version < 3 {
                warn(
                    AnchorLint::Version1,
                    format!("an X.509 version {} certificate does not say that it is a CA", facts.version),
                );
            } else if facts.basic_constraints().is_none() {
                warn(
                    AnchorLint::NoBasicConstraints,
                    "without basic constraints the certificate does not say that it is a CA".to_owned(),
                );
            }
            if facts.not_after < now {
                warn(
                    AnchorLint::Expired,
                    format!("expired (not after {}): every client of it is refused", facts.not_after),
                );
            }
            if facts.not_before > now {
                warn(AnchorLint::NotYetValid, format!("not valid before {}", facts.not_before));
            }
            if policy.is_weak(facts) {
                warn(
                    AnchorLint::WeakKey,
                    format!(
                        "its RSA key has {} bits, below {}: every client of it is refused",
                        facts.public_key.bits, policy.min_rsa_bits
                    ),
                );
            }
            let known = &self.loaded[..at];
            if known.iter().any(|other| other.facts.certificate_fingerprint == facts.certificate_fingerprint)
            {
                warn(AnchorLint::Duplicate, "the same certificate is given twice".to_owned());
            }
        }
        warnings
    }

    pub(super) fn roots(&self) -> &[TrustAnchor<'static>] {
        &self.roots
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

    /// The anchor's own limits, which webpki does not look at. `at` indexes `loaded`. Answers the anchor's end
    /// of validity.
    pub(super) fn check(
        &self,
        at: usize,
        depth: usize,
        policy: &PathPolicy,
        now: UnixSeconds,
    ) -> Result<UnixSeconds, Obstacle> {
        let facts = &self.loaded[at].facts;
        check_validity(facts, now)?;
        policy.check_key(facts, "the trust anchor's")?;
        match facts.basic_constraints() {
            Some((_, Some(limit))) if depth > limit as usize => Err(Rejection::new(
                Reason::CertDepth,
                format!("{depth} intermediates below a CA whose pathLenConstraint is {limit}"),
            )
            .into()),
            _ => Ok(facts.not_after),
        }
    }

    pub(super) fn matched(&self, at: usize) -> MatchedAnchor {
        let anchor = &self.loaded[at];
        MatchedAnchor {
            name: anchor.name.clone(),
            certificate_fingerprint: anchor.facts.certificate_fingerprint,
        }
    }
}

pub(super) fn check_validity(facts: &CertificateFacts, now: UnixSeconds) -> Result<(), Obstacle> {
    if now < facts.not_before {
        return Err(Obstacle::NotYetValid { not_before: facts.not_before });
    }
    if now > facts.not_after {
        return Err(Obstacle::Expired { not_after: facts.not_after });
    }
    Ok(())
}
