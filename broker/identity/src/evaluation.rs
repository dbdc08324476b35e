//! Judges a client's chain: is there a path from its certificate to one of our trust anchors, now, under
//! the policy? Pure: the same arguments give the same answer, so answers may be cached until `not_after`.
//!
//! The path is built here, not by webpki, which does the signatures only. Reasons: it compares no mailboxes,
//! URIs and directory names with name constraints; it takes one extended key usage, and not the one that stands
//! for any; it reads no certificates of version 1, leaves a CA's key usage, the limits of trust anchors and the
//! age of revocation lists to its caller, compares names byte by byte where RFC 5280, 7.1, does not, and answers
//! with one error where an operator needs to know which certificate broke which rule. What differs from OpenSSL,
//! and the clause that decides, is in `docs/path-validation.md`; a test holds both against each other.
//!
//! Does not know the registry, TLS, or whether the client holds the key.

mod anchors;
mod explain;
mod links;
mod lint;
mod list;
mod name_constraints;
mod ocsp;
mod path;
mod policies;
mod policy;
mod rejection;
mod revocation;
mod signature;
mod strict;

pub use self::anchors::{Anchor, AnchorError, TrustAnchors};
pub use self::explain::{Explanation, Step, explain};
pub use self::links::key_ids;
pub use self::lint::{AnchorLint, AnchorWarning, lint};
pub use self::list::{DEFAULT_MAX_LIST_BYTES, ListError, RevocationList, distribution_urls};
pub use self::ocsp::{OcspError, OcspGood, OcspQuestion, must_staple, ocsp_responder};
pub use self::policy::{
    ANY_USAGE, AbsentUsage, CLIENT_AUTH, CaAsLeaf, MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES, MAX_RSA_BITS,
    PathDepth, PathPolicy, PolicyError, Strictness, UsageRule, V1Leaf,
};
pub use self::rejection::Rejection;
pub use self::revocation::{RevocationLists, RevocationPolicy, RevocationScope, StaleLists, UnknownStatus};
pub use self::signature::{
    check_signed_by, subject_public_key_info, verify_certificate_signature, verify_signature,
};
use crate::certificate::{CertificateFacts, MatchedAnchor};
use crate::reason::Reason;
use crate::time::UnixSeconds;

/// A path to a trust anchor was found, and every rule of the policy holds on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatedPath {
    pub anchor: MatchedAnchor,
    /// The earliest end of validity on the path, anchor included.
    pub not_after: UnixSeconds,
    /// Intermediates between the end entity and the anchor.
    pub depth: usize,
    pub lints: Vec<PathLint>,
    /// SHA-256 of the public key that signed the end entity's certificate.
    pub issuer_key: [u8; 32],
}

/// Accepted, but an operator should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathLint {
    /// An X.509 version 1 certificate: it says nothing of what it may be used for.
    V1Leaf,
    /// Something on the path is not valid yet, within `clock_skew`.
    NotYetValidWithinSkew,
    /// Something on the path has expired, within `expiry_skew`.
    ExpiredWithinSkew,
    /// No revocation list is about something on the path, and the policy lets that pass.
    NoRevocationList,
    /// A revocation list is past its time, and the policy lets that pass.
    StaleRevocationList,
}

impl PathLint {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1Leaf => "x509_v1_leaf",
            Self::NotYetValidWithinSkew => "not_yet_valid_within_skew",
            Self::ExpiredWithinSkew => "expired_within_skew",
            Self::NoRevocationList => "no_revocation_list",
            Self::StaleRevocationList => "stale_revocation_list",
        }
    }
}

/// Judges the chain that a client sent: `end_entity` first, `intermediates` in any order.
pub fn evaluate<I: AsRef<[u8]>>(
    end_entity: &[u8],
    intermediates: &[I],
    anchors: &TrustAnchors,
    policy: &PathPolicy,
    now: UnixSeconds,
) -> Result<ValidatedPath, Rejection> {
    check_size(end_entity, intermediates)?;
    evaluate_facts(&CertificateFacts::parse(end_entity)?, intermediates, anchors, policy, now)
}

/// As [`evaluate`], for who has parsed the end entity already.
pub fn evaluate_facts<I: AsRef<[u8]>>(
    end_entity: &CertificateFacts,
    intermediates: &[I],
    anchors: &TrustAnchors,
    policy: &PathPolicy,
    now: UnixSeconds,
) -> Result<ValidatedPath, Rejection> {
    check_size(&end_entity.der, intermediates)?;
    if anchors.is_anchor(end_entity.certificate_fingerprint) && policy.ca_as_leaf == CaAsLeaf::Deny {
        return Err(Rejection::new(
            Reason::CertCaAsLeaf,
            "the client presented one of our trust anchors as its own certificate",
        ));
    }
    policy.check_end_entity(end_entity)?;
    let intermediates: Vec<_> =
        intermediates.iter().filter_map(|der| CertificateFacts::parse(der.as_ref()).ok()).collect();
    let found = path::find(end_entity, &intermediates, anchors, policy, now)
        .map_err(|rejection| rejection.with_hint(end_entity, &intermediates, anchors))?;
    let mut lints = found.lints;
    if end_entity.version < 3 {
        lints.insert(0, PathLint::V1Leaf);
    }
    Ok(ValidatedPath {
        anchor: anchors.matched(found.anchor),
        not_after: found.not_after,
        depth: found.depth,
        lints,
        issuer_key: found.issuer_key,
    })
}

fn check_size<I: AsRef<[u8]>>(end_entity: &[u8], intermediates: &[I]) -> Result<(), Rejection> {
    let certificates = intermediates.len() + 1;
    let bytes =
        intermediates.iter().fold(end_entity.len(), |sum, der| sum.saturating_add(der.as_ref().len()));
    if certificates > MAX_CHAIN_CERTIFICATES || bytes > MAX_CHAIN_BYTES {
        return Err(Rejection::new(
            Reason::CertTooLarge,
            format!(
                "the client sent {certificates} certificates of {bytes} bytes; at most \
                 {MAX_CHAIN_CERTIFICATES} of {MAX_CHAIN_BYTES} bytes are accepted"
            ),
        ));
    }
    Ok(())
}
