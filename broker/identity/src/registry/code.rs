//! Registration codes: what the holder of a CA's key signs to prove it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::certificate::CertificateFingerprint;
use crate::time::UnixMillis;

/// Random bytes of a code. As hex they just fit into a common name (RFC 5280, ub-common-name).
pub const REGISTRATION_CODE_BYTES: usize = 32;
/// How long a code is good for, unless asked otherwise.
pub const REGISTRATION_CODE_TTL_MILLIS: u64 = 24 * 60 * 60 * 1000;
/// Codes of one namespace that are neither used nor expired.
pub const MAX_REGISTRATION_CODES: usize = 100;

/// Good for one CA, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegistrationCode {
    /// 64 hex digits.
    pub code: String,
    pub namespace: String,
    pub created_at: UnixMillis,
    pub expires_at: UnixMillis,
    pub created_by: String,
    /// When it was used, and for which CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<CodeUse>,
    pub revision: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CodeUse {
    pub at: UnixMillis,
    pub ca: CertificateFingerprint,
}
