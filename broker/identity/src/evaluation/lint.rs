//! What an operator should know of a CA before clients are turned away because of it.

use std::sync::Arc;

use super::policy::PathPolicy;
use crate::certificate::{CertificateFacts, Structure, object_identifier, tag, take_tagged};
use crate::time::UnixSeconds;

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
    WeakSignature,
    /// Its usage, a critical extension or its form refuses every path that ends in it.
    Unusable,
    /// The same certificate is there twice; the first name counts.
    Duplicate,
    /// The server's own certificate leads to it.
    ServerChain,
}

impl AnchorLint {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Version1 => "version_1",
            Self::NoBasicConstraints => "no_basic_constraints",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::WeakKey => "weak_key",
            Self::WeakSignature => "weak_signature",
            Self::Unusable => "unusable",
            Self::Duplicate => "duplicate",
            Self::ServerChain => "server_chain",
        }
    }
}

/// Each thing that is odd about a CA certificate, with a sentence about it.
pub fn lint(facts: &CertificateFacts, policy: &PathPolicy, now: UnixSeconds) -> Vec<(AnchorLint, String)> {
    let mut lints = Vec::new();
    if facts.version < 3 {
        let what = format!("an X.509 version {} certificate does not say that it is a CA", facts.version);
        lints.push((AnchorLint::Version1, what));
    } else if facts.basic_constraints().is_none() {
        let what = "without basic constraints the certificate does not say that it is a CA";
        lints.push((AnchorLint::NoBasicConstraints, what.to_owned()));
    }
    if facts.not_after < now {
        let what = format!("expired (not after {}): every client of it is refused", facts.not_after);
        lints.push((AnchorLint::Expired, what));
    }
    if facts.not_before > now {
        lints.push((AnchorLint::NotYetValid, format!("not valid before {}", facts.not_before)));
    }
    if let Some(problem) = policy.key_problem(facts) {
        lints.push((AnchorLint::WeakKey, format!("its {problem}: every client of it is refused")));
    } else if let Err(rejection) = policy.check_anchor(facts) {
        let what = format!("every client of it is refused: {}", rejection.detail);
        lints.push((AnchorLint::Unusable, what));
    }
    if let Some(digest) = weak_digest(facts) {
        let what = format!(
            "it is signed with {digest}: nothing here relies on the signature of a trust anchor, but clients that \
             check it may refuse, and its other certificates may be signed alike, which is refused"
        );
        lints.push((AnchorLint::WeakSignature, what));
    }
    lints
}

fn weak_digest(facts: &CertificateFacts) -> Option<&'static str> {
    let structure = Structure::read(&facts.der).ok()?;
    let mut algorithm = structure.algorithm;
    let oid = take_tagged(&mut algorithm, tag::OBJECT_IDENTIFIER)?;
    match object_identifier(oid.content)?.as_str() {
        "1.2.840.113549.1.1.2" => Some("MD2"),
        "1.2.840.113549.1.1.4" => Some("MD5"),
        "1.2.840.113549.1.1.5" | "1.3.14.3.2.29" | "1.2.840.10040.4.3" | "1.2.840.10045.4.1" => Some("SHA-1"),
        _ => None,
    }
}
