//! The evidence that a session may exist, and what it may do: a grant, compiled.

use std::sync::Arc;

use bytestring::ByteString;
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::hooks::{AclRule, Effect, GrantLimits};

/// What the gate decided for one connection. Only [`Permit::granted_by`] makes one.
#[derive(Debug, Clone)]
pub struct Permit {
    /// The client id that counts: as sent, bound, or assigned.
    pub client_id: ByteString,
    /// Set when the client sent none and is to be told.
    pub assigned: bool,
    pub device_id: Arc<str>,
    pub tenant: Option<Arc<str>>,
    pub certificate_fingerprint: Option<CertificateFingerprint>,
    pub limits: GrantLimits,
    /// Generation of the hook set that decided.
    pub generation: u64,
}

/// What [`Permit::granted_by`] compiles.
#[derive(Debug, Clone)]
pub struct Granted<'a> {
    pub client_id: ByteString,
    pub assigned: bool,
    pub device_id: &'a str,
    pub tenant: Option<&'a str>,
    pub certificate_fingerprint: Option<CertificateFingerprint>,
    pub rules: &'a [AclRule],
    pub otherwise: Effect,
    pub limits: GrantLimits,
    pub generation: u64,
}

/// The first thing wrong with a grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    #[error("rule {rule}: filter {filter:?} {problem}")]
    Filter { rule: usize, filter: String, problem: String },
}

impl Permit {
    /// Compiles a grant: variables replaced, filters parsed, a rule whose variable holds `/`, `+` or `#`
    /// (or is absent) left out if it allows, and matching everything if it denies.
    pub fn granted_by(granted: &Granted<'_>) -> Result<Self, GrantError> {
        let _ = granted.rules;
        todo!("the permit's author writes this")
    }
}
