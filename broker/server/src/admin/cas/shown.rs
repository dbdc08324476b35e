//! What the API shows of a CA.

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::{
    AutoRegistration, CaCertificate, CaSettings, CaState, OnDeactivate, RegistrationRate, VerifiedBy,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::AdminParts;
use crate::retirement::Retiring;

/// A CA. Times of validity are in seconds since 1970, all others in milliseconds.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Ca")]
pub(super) struct Shown {
    /// SHA-256 of the DER, hex.
    pub id: String,
    /// Unique; the `ca` label of metrics.
    pub name: String,
    /// Devices of the same name under CAs of one trust domain are the same device.
    pub trust_domain: String,
    /// `PENDING_ACTIVATION`, `ACTIVE`, `INACTIVE`, `RETIRING` or `REVOKED`.
    #[schemars(with = "String")]
    pub state: CaState,
    /// `configuration`, `registry`, or `transition`: replaced or removed, and valid until that ends.
    pub source: &'static str,
    pub settings: Settings,
    /// `registration_code`, or `skipped`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified_by: Option<&'static str>,
    /// On whose word, where it was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification_skipped_by: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    pub subject: String,
    pub issuer: String,
    /// Hex.
    pub serial: String,
    /// SHA-256 of the SubjectPublicKeyInfo, hex: the same for every certificate with this key.
    pub spki_sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority_key_id: Option<String>,
    /// Dotted object identifier.
    pub key_algorithm: String,
    pub key_bits: u32,
    pub is_self_issued: bool,
    pub not_before: i64,
    pub not_after: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retiring_until: Option<u64>,
    /// SHA-256 of the CA that took its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<String>,
    /// While it is inactive: how it was deactivated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deactivated: Option<Mode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revocation_reason: Option<String>,
    pub created_at: u64,
    pub updated_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_activated: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_deactivated: Option<u64>,
    /// 0 for a CA of the configuration.
    pub revision: u64,
    pub pem: String,
    pub warnings: Vec<Warning>,
    /// What keeps the one valid whose place it took, or itself if it was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub transition: Option<Retiring>,
}

/// What an operator should know of it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "CaWarning")]
pub(super) struct Warning {
    lint: &'static str,
    detail: String,
}

impl Warning {
    pub(super) fn text(&self) -> String {
        format!("{}: {}", self.lint, self.detail)
    }
}

/// What is set for a CA.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "CaSettings")]
pub(super) struct Settings {
    pub auto_registration: Registers,
    pub on_deactivate: Mode,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_device_certs: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registration_rate: Option<Rate>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_patterns: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub san_patterns: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_leaf_lifetime_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub crl_sources: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registrar: Option<String>,
}

/// Whether certificates of a CA are registered at their first connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Registers {
    Off,
    /// They wait for an operator.
    Pending,
    Active,
}

/// What ends when a CA is deactivated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mode {
    BlockNewRegistrations,
    BlockNewConnections,
    /// Live connections as well.
    Disconnect,
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rate {
    /// Registrations per minute, at length.
    pub per_minute: u32,
    /// At once.
    pub burst: u32,
}

impl From<AutoRegistration> for Registers {
    fn from(of: AutoRegistration) -> Self {
        match of {
            AutoRegistration::Off => Self::Off,
            AutoRegistration::Pending => Self::Pending,
            AutoRegistration::Active => Self::Active,
        }
    }
}

impl From<Registers> for AutoRegistration {
    fn from(of: Registers) -> Self {
        match of {
            Registers::Off => Self::Off,
            Registers::Pending => Self::Pending,
            Registers::Active => Self::Active,
        }
    }
}

impl From<OnDeactivate> for Mode {
    fn from(of: OnDeactivate) -> Self {
        match of {
            OnDeactivate::BlockNewRegistrations => Self::BlockNewRegistrations,
            OnDeactivate::BlockNewConnections => Self::BlockNewConnections,
            OnDeactivate::Disconnect => Self::Disconnect,
        }
    }
}

impl From<Mode> for OnDeactivate {
    fn from(of: Mode) -> Self {
        match of {
            Mode::BlockNewRegistrations => Self::BlockNewRegistrations,
            Mode::BlockNewConnections => Self::BlockNewConnections,
            Mode::Disconnect => Self::Disconnect,
        }
    }
}

impl From<Rate> for RegistrationRate {
    fn from(Rate { per_minute, burst }: Rate) -> Self {
        Self { per_minute, burst }
    }
}

impl From<CaSettings> for Settings {
    fn from(of: CaSettings) -> Self {
        Self {
            auto_registration: of.auto_registration.into(),
            on_deactivate: of.on_deactivate.into(),
            max_device_certs: of.max_device_certs,
            registration_rate: of
                .registration_rate
                .map(|RegistrationRate { per_minute, burst }| Rate { per_minute, burst }),
            subject_patterns: of.subject_patterns,
            san_patterns: of.san_patterns,
            max_leaf_lifetime_seconds: of.max_leaf_lifetime_seconds,
            crl_sources: of.crl_sources,
            registrar: of.registrar,
        }
    }
}

impl Shown {
    pub(super) fn of(ca: CaCertificate, parts: &AdminParts) -> Self {
        let source = match ca.revision {
            _ if parts.registry.is_retiring(ca.id) => "transition",
            0 => "configuration",
            _ => "registry",
        };
        let lints = parts.registry.lint_ca(&ca).into_iter();
        let warnings = lints.map(|(lint, detail)| Warning { lint: lint.as_str(), detail }).collect();
        let (verified_by, verification_skipped_by) = match ca.verified_by {
            None => (None, None),
            Some(VerifiedBy::RegistrationCode) => (Some("registration_code"), None),
            Some(VerifiedBy::Skipped { by }) => (Some("skipped"), Some(by)),
        };
        Self {
            id: ca.id.to_hex(),
            name: ca.name,
            trust_domain: ca.trust_domain,
            state: ca.state,
            source,
            settings: ca.settings.into(),
            verified_by,
            verification_skipped_by,
            tags: ca.tags,
            subject: ca.subject,
            issuer: ca.issuer,
            serial: ca.serial,
            spki_sha256: ca.spki_sha256,
            subject_key_id: ca.subject_key_id,
            authority_key_id: ca.authority_key_id,
            key_algorithm: ca.key_algorithm,
            key_bits: ca.key_bits,
            is_self_issued: ca.is_self_issued,
            not_before: ca.not_before.0,
            not_after: ca.not_after.0,
            retiring_until: ca.retiring_until.map(|at| at.0),
            replaced_by: ca.replaced_by.map(CertificateFingerprint::to_hex),
            deactivated: ca.deactivated.map(Mode::from),
            revocation_reason: ca.revocation_reason,
            created_at: ca.created_at.0,
            updated_at: ca.updated_at.0,
            last_activated: ca.last_activated.map(|at| at.0),
            last_deactivated: ca.last_deactivated.map(|at| at.0),
            revision: ca.revision,
            pem: ca.pem,
            warnings,
            transition: None,
        }
    }
}
