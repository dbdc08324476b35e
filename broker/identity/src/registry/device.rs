//! The record of a device certificate. Which change of it is allowed is the subject of [`super::rules`].

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ca::{default_namespace, default_trust_domain};
use super::{DEFAULT_TRUST_DOMAIN, RevocationReason};
use crate::certificate::CertificateFingerprint;
use crate::time::{UnixMillis, UnixSeconds};

/// A device certificate's stored state. Whether it may connect also depends on conditions that are never
/// stored ([`Condition`]): validity, the state of its CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DeviceState {
    PendingActivation,
    Active,
    Inactive,
    /// Terminal.
    Revoked,
    /// Deleted, and remembered so that auto-registration cannot resurrect it.
    Tombstone,
}

impl DeviceState {
    pub const ALL: [Self; 5] =
        [Self::PendingActivation, Self::Active, Self::Inactive, Self::Revoked, Self::Tombstone];

    /// As in metrics, audit records and command lines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PendingActivation => "pending_activation",
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Revoked => "revoked",
            Self::Tombstone => "tombstone",
        }
    }
}

/// Something besides the stored state that keeps a certificate out. Seen from the record, its CA and the clock
/// each time, and never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Condition {
    NotYetValid,
    Expired,
    CaMissing,
    CaInactive,
    CaRevoked,
    /// Known only where a path is judged.
    CrlRevoked,
    Superseded,
    /// Known only where a client asks for a client id.
    BindingConflict,
    Quarantined,
}

impl Condition {
    pub const ALL: [Self; 9] = [
        Self::NotYetValid,
        Self::Expired,
        Self::CaMissing,
        Self::CaInactive,
        Self::CaRevoked,
        Self::CrlRevoked,
        Self::Superseded,
        Self::BindingConflict,
        Self::Quarantined,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotYetValid => "not_yet_valid",
            Self::Expired => "expired",
            Self::CaMissing => "ca_missing",
            Self::CaInactive => "ca_inactive",
            Self::CaRevoked => "ca_revoked",
            Self::CrlRevoked => "crl_revoked",
            Self::Superseded => "superseded",
            Self::BindingConflict => "binding_conflict",
            Self::Quarantined => "quarantined",
        }
    }
}

/// How a record came to be.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum RegistrationSource {
    /// By hand: command line or API.
    #[default]
    Api,
    /// At the device's first connection.
    Jit,
    /// In bulk, from a file.
    Import,
}

impl RegistrationSource {
    pub const ALL: [Self; 3] = [Self::Api, Self::Jit, Self::Import];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Jit => "jit",
            Self::Import => "import",
        }
    }
}

/// A newer certificate of the same device is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Supersession {
    pub by: CertificateFingerprint,
    pub at: UnixMillis,
    /// Until then both are good: the overlap.
    pub ends_at: UnixMillis,
}

/// Kept out until somebody has looked at it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Quarantine {
    pub at: UnixMillis,
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceCertificate {
    /// SHA-256 of the DER: the primary key.
    pub id: CertificateFingerprint,
    pub state: DeviceState,
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// That of its CA when it was registered; see [`DeviceCertificate::device_key`].
    #[serde(default = "default_trust_domain")]
    pub trust_domain: String,
    pub device_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The only client id this certificate may use, if bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Trust anchor it was registered under.
    pub ca_id: CertificateFingerprint,
    /// Hex SHA-256 of the SubjectPublicKeyInfo that signed it, the anchor's or an intermediate's. Empty in
    /// records that were written before this was kept: then the name of the issuer stands for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub issuer_key_id: String,
    /// RFC 4514 rendering.
    pub subject: String,
    pub issuer: String,
    /// Hex, big-endian.
    pub serial: String,
    /// Hex.
    pub spki_sha256: String,
    /// The last common name of the subject, where it decodes strictly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common_name: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub organizational_units: Vec<String>,
    /// `dns:`, `uri:`, `email:`, `ip:` or `id:` and the name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<String>,
    pub not_before: UnixSeconds,
    pub not_after: UnixSeconds,
    pub source: RegistrationSource,
    pub registered_at: UnixMillis,
    pub updated_at: UnixMillis,
    /// Kept beside the record: it changes without a new revision, and some minutes late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<UnixMillis>,
    /// While pending: when it is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_until: Option<UnixMillis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded: Option<Supersession>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<Quarantine>,
    /// RFC 5280 reason name, when revoked; `rejected` for one that was never let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation_reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<UnixMillis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<UnixMillis>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Rises by one with every write; 1 for a new record.
    pub revision: u64,
    pub pem: String,
}

impl DeviceCertificate {
    /// What tells devices apart: their id, and the trust domain unless it is the default one. (A device id has
    /// no `/`.)
    pub fn device_key(&self) -> String {
        match self.trust_domain == DEFAULT_TRUST_DOMAIN {
            true => self.device_id.clone(),
            false => format!("{}/{}", self.trust_domain, self.device_id),
        }
    }

    /// Whether another certificate is for the same device.
    pub fn is_same_device(&self, other: &Self) -> bool {
        self.namespace == other.namespace
            && self.trust_domain == other.trust_domain
            && self.device_id == other.device_id
    }

    /// Whether it is revoked, deleted since or not.
    pub fn is_revoked(&self) -> bool {
        match self.state {
            DeviceState::Revoked => true,
            DeviceState::Tombstone => self.revocation_reason.is_some(),
            DeviceState::PendingActivation | DeviceState::Active | DeviceState::Inactive => false,
        }
    }

    /// Whether its key must never be seen again.
    pub fn is_key_compromised(&self) -> bool {
        let reason = self.revocation_reason.as_deref().and_then(RevocationReason::parse);
        self.is_revoked() && reason.is_some_and(RevocationReason::is_compromise)
    }
}
