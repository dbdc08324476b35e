//! Judges a client's chain: is there a path from its certificate to one of our trust anchors, now, under
//! the policy? Pure: the same arguments give the same answer, so answers may be cached until `not_after`.
//!
//! Version 3 certificates are judged by `webpki`. A version 1 end entity, which `openssl x509 -req` makes
//! without `-extfile` and which webpki refuses, is judged by [`v1`](self::v1). Does not know the registry,
//! TLS, or whether the client holds the key.

mod anchors;
mod policy;
mod rejection;
mod signature;
mod v1;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage as ExtendedUsage, VerifiedPath};

pub use self::anchors::{Anchor, AnchorError, AnchorLint, AnchorWarning, TrustAnchors};
pub use self::policy::{MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES, PathDepth, PathPolicy, PolicyError, V1Leaf};
pub use self::rejection::{Rejection, reason_of};
pub use self::signature::{subject_public_key_info, verify_certificate_signature, verify_signature};
pub use self::v1::check_signed_by;
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
}

impl PathLint {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1Leaf => "x509_v1_leaf",
            Self::NotYetValidWithinSkew => "not_yet_valid_within_skew",
            Self::ExpiredWithinSkew => "expired_within_skew",
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
    if anchors.is_anchor(end_entity.certificate_fingerprint) {
        return Err(Rejection::new(
            Reason::CertCaAsLeaf,
            "the client presented one of our trust anchors as its own certificate",
        ));
    }
    policy.check_end_entity(end_entity)?;
    let intermediates: Vec<CertificateDer<'_>> =
        intermediates.iter().map(|der| CertificateDer::from(der.as_ref())).collect();

    let found = with_skew(policy, now, |at| match end_entity.version {
        3 => judge_v3(end_entity, &intermediates, anchors, policy, at),
        _ => v1::judge(end_entity, &intermediates, anchors, policy, at),
    });
    let (found, at) = found.map_err(|rejection| rejection.with_hint(end_entity, &intermediates, anchors))?;
    let lints = [
        (end_entity.version < 3).then_some(PathLint::V1Leaf),
        (at > now).then_some(PathLint::NotYetValidWithinSkew),
        (at < now).then_some(PathLint::ExpiredWithinSkew),
    ];
    Ok(ValidatedPath {
        anchor: anchors.matched(found.anchor),
        not_after: found.not_after,
        depth: found.depth,
        lints: lints.into_iter().flatten().collect(),
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

/// A path that holds at one moment.
#[derive(Debug, Clone, Copy)]
struct Found {
    /// Index of the anchor.
    anchor: usize,
    not_after: UnixSeconds,
    depth: usize,
}

/// Why there is no path at one moment.
#[derive(Debug)]
enum Obstacle {
    NotYetValid { not_before: UnixSeconds },
    Expired { not_after: UnixSeconds },
    Rejected(Rejection),
}

impl From<Rejection> for Obstacle {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<webpki::Error> for Obstacle {
    fn from(error: webpki::Error) -> Self {
        match error {
            webpki::Error::CertNotValidYet { not_before, .. } => {
                Self::NotYetValid { not_before: UnixSeconds(not_before.as_secs() as i64) }
            }
            webpki::Error::CertExpired { not_after, .. } => {
                Self::Expired { not_after: UnixSeconds(not_after.as_secs() as i64) }
            }
            error => Self::Rejected(Rejection::from(error)),
        }
    }
}

/// Tries now; if only the clock is in the way, and by no more than the skew allows, tries the nearest moment
/// at which it is not. Sound, because a path that is valid at a moment within
/// `now - expiry_skew ..= now + clock_skew` is within the skew of now at every certificate on it.
fn with_skew(
    policy: &PathPolicy,
    now: UnixSeconds,
    judge: impl Fn(UnixSeconds) -> Result<Found, Obstacle>,
) -> Result<(Found, UnixSeconds), Rejection> {
    let mut at = now;
    // Each round clears the limit of at least one certificate on the path.
    for _ in 0..=MAX_CHAIN_CERTIFICATES {
        match judge(at) {
            Ok(found) => return Ok((found, at)),
            Err(Obstacle::Rejected(rejection)) => return Err(rejection),
            Err(Obstacle::NotYetValid { not_before }) => {
                let early = not_before.0.saturating_sub(now.0);
                let skew = policy.clock_skew_seconds();
                if early > skew || not_before <= at || at < now {
                    return Err(Rejection::new(
                        Reason::CertNotYetValid,
                        format!(
                            "not valid for another {early} s (not before {not_before}; tolerated: {skew} s)"
                        ),
                    ));
                }
                at = not_before;
            }
            Err(Obstacle::Expired { not_after }) => {
                let late = now.0.saturating_sub(not_after.0);
                let skew = policy.expiry_skew_seconds();
                if late > skew || not_after >= at || at > now {
                    return Err(Rejection::new(
                        Reason::CertExpired,
                        format!("expired {late} s ago (not after {not_after}; tolerated: {skew} s)"),
                    ));
                }
                at = not_after;
            }
        }
    }
    Err(Rejection::new(Reason::CertNotYetValid, "no moment within the tolerated skew suits the whole path"))
}

fn judge_v3(
    end_entity: &CertificateFacts,
    intermediates: &[CertificateDer<'_>],
    anchors: &TrustAnchors,
    policy: &PathPolicy,
    at: UnixSeconds,
) -> Result<Found, Obstacle> {
    let der = CertificateDer::from(&*end_entity.der);
    let leaf = EndEntityCert::try_from(&der)?;
    let time = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(at.0).unwrap_or(0)));
    // webpki asks about each complete path and goes on to the next if we refuse it. Our own reason is kept
    // aside, because its error type has no room for it.
    let refused = RefCell::new(None);
    let accepted = Cell::new(None);
    let check = |path: &VerifiedPath<'_>| match check_path(path, end_entity, anchors, policy, at) {
        Ok(found) => {
            accepted.set(Some(found));
            Ok(())
        }
        Err(obstacle) => {
            refused.borrow_mut().get_or_insert(obstacle);
            Err(webpki::Error::UnknownIssuer)
        }
    };
    let verdict = leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        anchors.roots(),
        intermediates,
        time,
        // Required if the extension is there: without it the certificate is for any use.
        ExtendedUsage::client_auth(),
        None,
        Some(&check),
    );
    match (verdict, accepted.get(), refused.take()) {
        (Ok(_), Some(found), _) => Ok(found),
        // A path that we refused is closer to what was meant than one that webpki did not complete.
        (_, _, Some(obstacle)) => Err(obstacle),
        (Err(error), _, None) => Err(error.into()),
        // webpki calls `check` for each path it accepts.
        (Ok(_), None, None) => Err(Rejection::new(Reason::Other, "the path was not checked").into()),
    }
}

/// What webpki leaves to its caller: depth, strength and usage of CA keys, and the anchor's own limits.
fn check_path(
    path: &VerifiedPath<'_>,
    end_entity: &CertificateFacts,
    anchors: &TrustAnchors,
    policy: &PathPolicy,
    at: UnixSeconds,
) -> Result<Found, Obstacle> {
    let anchor = anchors
        .roots()
        .iter()
        .position(|root| std::ptr::eq(root, path.anchor()))
        .ok_or_else(|| Rejection::new(Reason::CertUnknownCa, "the anchor is not among ours"))?;
    let mut not_after = end_entity.not_after;
    let mut depth = 0;
    for intermediate in path.intermediate_certificates() {
        depth += 1;
        let facts = CertificateFacts::parse(&intermediate.der()).map_err(Rejection::from)?;
        policy.check_ca(&facts)?;
        not_after = not_after.min(facts.not_after);
    }
    policy.check_depth(depth)?;
    let anchor_not_after = anchors.check(anchor, depth, policy, at)?;
    Ok(Found { anchor, not_after: not_after.min(anchor_not_after), depth })
}
