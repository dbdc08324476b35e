//! What a path must be like, beyond being a path.

use std::time::Duration;

use super::Rejection;
use crate::certificate::{CertificateFacts, oid};
use crate::reason::Reason;

/// Certificates a client may send.
pub const MAX_CHAIN_CERTIFICATES: usize = 10;
/// Bytes of all of them together.
pub const MAX_CHAIN_BYTES: usize = 64 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPolicy {
    /// Intermediates allowed between the end entity and the anchor.
    pub max_depth: PathDepth,
    pub v1_leaf: V1Leaf,
    /// Of every key on the path.
    pub min_rsa_bits: u32,
    /// How long before its validity a certificate is accepted.
    pub clock_skew: Duration,
    /// How long after its validity a certificate is accepted.
    pub expiry_skew: Duration,
}

/// Number of intermediates, at most [`PathDepth::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathDepth(u8);

/// End entities of X.509 version 1. They cannot say what they may be used for, but the common
/// `openssl x509 -req` without extensions makes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum V1Leaf {
    #[default]
    Allow,
    Deny,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("a depth of {0} intermediates is not supported: the most is {max}", max = PathDepth::MAX)]
    DepthTooLarge(u8),
}

impl PathDepth {
    /// The path builder goes no deeper.
    pub const MAX: u8 = 6;

    pub const fn new(intermediates: u8) -> Result<Self, PolicyError> {
        if intermediates > Self::MAX {
            return Err(PolicyError::DepthTooLarge(intermediates));
        }
        Ok(Self(intermediates))
    }

    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Default for PathPolicy {
    fn default() -> Self {
        Self {
            max_depth: PathDepth(PathDepth::MAX),
            v1_leaf: V1Leaf::Allow,
            min_rsa_bits: 2048,
            clock_skew: Duration::from_secs(300),
            expiry_skew: Duration::ZERO,
        }
    }
}

impl PathPolicy {
    pub(crate) fn clock_skew_seconds(&self) -> i64 {
        seconds(self.clock_skew)
    }

    pub(crate) fn expiry_skew_seconds(&self) -> i64 {
        seconds(self.expiry_skew)
    }

    pub(super) fn check_end_entity(&self, facts: &CertificateFacts) -> Result<(), Rejection> {
        match (facts.version, self.v1_leaf) {
            (3, _) | (1, V1Leaf::Allow) => {}
            (1, V1Leaf::Deny) => {
                return Err(Rejection::new(
                    Reason::CertV1,
                    "an X.509 version 1 certificate, which x509_v1_leaf = \"deny\" refuses: sign it with \
                     extensions (openssl x509 -req … -extfile …)",
                ));
            }
            (version, _) => {
                return Err(Rejection::new(
                    Reason::CertV1,
                    format!("X.509 version {version} is not supported: version 3 is needed"),
                ));
            }
        }
        if facts.is_ca {
            return Err(Rejection::new(
                Reason::CertCaAsLeaf,
                "a CA certificate (CA:TRUE) cannot identify a client",
            ));
        }
        if facts.key_usage.is_some_and(|usage| !usage.digital_signature && !usage.key_agreement) {
            return Err(Rejection::new(
                Reason::CertPurpose,
                "the key usage allows neither digitalSignature nor keyAgreement",
            ));
        }
        self.check_key(facts, "the client's")
    }

    /// An intermediate. That it is a CA, and all that RFC 5280 asks of a path, webpki or `v1` has checked.
    pub(super) fn check_ca(&self, facts: &CertificateFacts) -> Result<(), Rejection> {
        if facts.key_usage.is_some_and(|usage| !usage.key_cert_sign) {
            return Err(Rejection::new(
                Reason::CertPurpose,
                format!("the key usage of \"{}\" does not allow keyCertSign", facts.subject.display),
            ));
        }
        self.check_key(facts, "an intermediate's")
    }

    pub(super) fn check_key(&self, facts: &CertificateFacts, whose: &str) -> Result<(), Rejection> {
        let bits = facts.public_key.bits;
        if self.is_weak(facts) {
            return Err(Rejection::new(
                Reason::CertSigAlg,
                format!("{whose} RSA key has {bits} bits; at least {} are required", self.min_rsa_bits),
            ));
        }
        Ok(())
    }

    pub(super) fn is_weak(&self, facts: &CertificateFacts) -> bool {
        matches!(facts.public_key.algorithm_oid.as_str(), oid::RSA_ENCRYPTION | oid::RSA_PSS)
            && facts.public_key.bits < self.min_rsa_bits
    }

    pub(super) fn check_depth(&self, depth: usize) -> Result<(), Rejection> {
        if depth > usize::from(self.max_depth.0) {
            return Err(Rejection::new(
                Reason::CertDepth,
                format!("{depth} intermediates on the path; at most {} are allowed", self.max_depth.0),
            ));
        }
        Ok(())
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
