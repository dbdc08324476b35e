//! Would this chain get in, and if not, at which step does it fail? The same evaluation as in a handshake, told
//! step by step. For `mqgate pki explain`, and for whoever runs collections of test chains against it.

use super::{PathPolicy, Rejection, TrustAnchors, ValidatedPath, evaluate};
use crate::reason::Reason;
use crate::time::UnixSeconds;

/// The steps of an evaluation. Their order is that in which a reader wants them; a path is searched for as a
/// whole, so that the last four are about the path that came nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Number and bytes of the certificates.
    Size,
    /// The client's certificate can be read.
    Parse,
    /// Its version, and that it is no CA.
    Kind,
    /// Its usages allow what it is used for; those of the CAs as well.
    Purpose,
    /// Keys and signature algorithms are strong enough.
    Strength,
    /// Every signature on the path is by the key above it.
    Signature,
    /// The path ends in a trust anchor.
    Anchor,
    /// It is not longer than policy and CAs allow.
    Depth,
    /// Names are within what the CAs permit.
    Names,
    /// Certificate policies that CAs demand are valid along it.
    Policies,
    /// Everything on it is valid now.
    Validity,
    /// Nothing on it is revoked, as far as the policy asks.
    Revocation,
}

impl Step {
    pub const ALL: [Self; 12] = [
        Self::Size,
        Self::Parse,
        Self::Kind,
        Self::Purpose,
        Self::Strength,
        Self::Signature,
        Self::Anchor,
        Self::Depth,
        Self::Names,
        Self::Policies,
        Self::Validity,
        Self::Revocation,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Parse => "parse",
            Self::Kind => "kind",
            Self::Purpose => "purpose",
            Self::Strength => "strength",
            Self::Signature => "signature",
            Self::Anchor => "anchor",
            Self::Depth => "depth",
            Self::Names => "names",
            Self::Policies => "policies",
            Self::Validity => "validity",
            Self::Revocation => "revocation",
        }
    }

    /// The step that answers with this reason.
    pub const fn of(reason: Reason) -> Self {
        match reason {
            Reason::CertTooLarge => Self::Size,
            Reason::CertV1 | Reason::CertCaAsLeaf => Self::Kind,
            Reason::CertPurpose => Self::Purpose,
            Reason::CertSigAlg => Self::Strength,
            Reason::CertBadSignature => Self::Signature,
            Reason::CertUnknownCa => Self::Anchor,
            Reason::CertDepth => Self::Depth,
            Reason::CertNameConstraint => Self::Names,
            Reason::CertPolicy => Self::Policies,
            Reason::CertExpired | Reason::CertNotYetValid => Self::Validity,
            Reason::CertRevokedCrl | Reason::CrlUnknown | Reason::CrlStale => Self::Revocation,
            _ => Self::Parse,
        }
    }
}

/// What an evaluation came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub verdict: Result<ValidatedPath, Rejection>,
    /// The one that refuses.
    pub refused_at: Option<Step>,
}

impl Explanation {
    pub const fn is_accepted(&self) -> bool {
        self.verdict.is_ok()
    }
}

/// Judges a chain, the client's certificate first, as a handshake at `now` would.
pub fn explain<I: AsRef<[u8]>>(
    chain: &[I],
    anchors: &TrustAnchors,
    policy: &PathPolicy,
    now: UnixSeconds,
) -> Explanation {
    let verdict = match chain.split_first() {
        Some((end_entity, intermediates)) => {
            evaluate(end_entity.as_ref(), intermediates, anchors, policy, now)
        }
        None => Err(Rejection::new(Reason::TlsNoPeerCert, "there is no certificate")),
    };
    let refused_at = verdict.as_ref().err().map(|rejection| Step::of(rejection.reason));
    Explanation { verdict, refused_at }
}
