//! What the API shows of a device certificate.

use std::collections::BTreeMap;

use mqgate_identity::registry::{Condition, DeviceCertificate, DeviceState};
use schemars::JsonSchema;
use serde::Serialize;

use super::super::AdminParts;

/// A record, and what it comes to now. Times of validity are in seconds since 1970, all others in milliseconds.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(in crate::admin) struct Shown {
    /// SHA-256 of the DER, hex.
    pub id: String,
    /// `PENDING_ACTIVATION`, `ACTIVE`, `INACTIVE`, `REVOKED` or `TOMBSTONE`.
    #[schemars(with = "String")]
    pub state: DeviceState,
    /// `ok`, or the reason why it may not connect now.
    pub effective: &'static str,
    /// What besides its state keeps it out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<&'static str>,
    /// Devices of the same name in another trust domain are other devices.
    pub trust_domain: String,
    pub device_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The only client id that it may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Name of the CA that carries it, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    pub ca_id: String,
    pub subject: String,
    pub issuer: String,
    /// Hex.
    pub serial: String,
    /// SHA-256 of the SubjectPublicKeyInfo, hex.
    pub spki_sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub common_name: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub organizational_units: Vec<String>,
    /// `dns:`, `uri:`, `email:`, `ip:` or `id:`, and the name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<String>,
    pub not_before: i64,
    pub not_after: i64,
    /// `api`, `jit` (at the first connection) or `import`.
    pub source: &'static str,
    pub registered_at: u64,
    pub updated_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<u64>,
    /// While it is pending: when it is forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_until: Option<u64>,
    /// A newer certificate of the device took its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub superseded: Option<Superseded>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<Quarantined>,
    /// RFC 5280's name of it; `rejected` for one that was never let in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revocation_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    pub revision: u64,
    pub pem: String,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(in crate::admin) struct Superseded {
    /// SHA-256 of the newer one.
    pub by: String,
    pub at: u64,
    /// Until then both are good.
    pub ends_at: u64,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(in crate::admin) struct Quarantined {
    pub at: u64,
    pub why: String,
}

impl Shown {
    pub(in crate::admin) fn of(record: DeviceCertificate, parts: &AdminParts) -> Self {
        let ca = parts.registry.ca(record.ca_id);
        let verdict = parts.registry.effective(&record);
        let conditions = parts.registry.conditions(&record);
        Self {
            id: record.id.to_hex(),
            state: record.state,
            effective: verdict.err().map_or("ok", |reason| reason.as_str()),
            conditions: conditions.into_iter().map(Condition::as_str).collect(),
            trust_domain: record.trust_domain,
            device_id: record.device_id,
            tenant: record.tenant,
            tags: record.tags,
            client_id: record.client_id,
            ca: ca.map(|ca| ca.name),
            ca_id: record.ca_id.to_hex(),
            subject: record.subject,
            issuer: record.issuer,
            serial: record.serial,
            spki_sha256: record.spki_sha256,
            common_name: record.common_name,
            organizational_units: record.organizational_units,
            subject_alt_names: record.subject_alt_names,
            not_before: record.not_before.0,
            not_after: record.not_after.0,
            source: record.source.as_str(),
            registered_at: record.registered_at.0,
            updated_at: record.updated_at.0,
            last_seen: record.last_seen.map(|at| at.0),
            pending_until: record.pending_until.map(|at| at.0),
            superseded: record.superseded.map(|superseded| Superseded {
                by: superseded.by.to_hex(),
                at: superseded.at.0,
                ends_at: superseded.ends_at.0,
            }),
            quarantined: record
                .quarantined
                .map(|quarantined| Quarantined { at: quarantined.at.0, why: quarantined.why }),
            revocation_reason: record.revocation_reason,
            revoked_at: record.revoked_at.map(|at| at.0),
            deleted_at: record.deleted_at.map(|at| at.0),
            attributes: record.attributes,
            revision: record.revision,
            pem: record.pem,
        }
    }
}
