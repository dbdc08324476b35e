//! How a certificate gets into the registry: by hand, or at its first connection.

use std::collections::BTreeMap;

use super::{DeviceResult, RuleError, Transition, Write, ca_condition, check_ca_known, check_not_expired};
use crate::certificate::{CertificateFacts, CertificateFingerprint, to_pem};
use crate::registry::{
    AutoRegistration, CaCertificate, DEFAULT_NAMESPACE, DEFAULT_TRUST_DOMAIN, DeviceCertificate, DeviceState,
    RegistrationSource, RevocationReason, alternative_names, check_device_id, common_name,
    organizational_units, patterns,
};
use crate::time::UnixMillis;

/// How long a certificate waits for its activation, unless told otherwise.
pub const PENDING_TTL_MILLIS: u64 = 7 * 24 * 60 * 60 * 1000;

/// A certificate to be registered.
#[derive(Debug, Clone)]
pub struct NewDevice<'a> {
    pub facts: &'a CertificateFacts,
    /// The anchor that the validated path ended in.
    pub ca_id: CertificateFingerprint,
    /// SHA-256 of the key that signed it.
    pub issuer_key: [u8; 32],
    pub device_id: String,
    pub tenant: Option<String>,
    pub tags: Vec<String>,
    /// The only client id it may use.
    pub client_id: Option<String>,
    pub attributes: BTreeMap<String, String>,
    /// Anything but a tombstone.
    pub state: DeviceState,
    pub source: RegistrationSource,
    pub on_tombstone: OnTombstone,
    /// How long it waits, if it is pending.
    pub pending_ttl_millis: u64,
}

/// What registering does with a certificate that was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnTombstone {
    #[default]
    Refuse,
    /// An explicit, audited action of the operator.
    Restore,
}

/// What the registry knows that a registration has to do with.
#[derive(Debug, Clone, Copy, Default)]
pub struct KnownDevices<'a> {
    /// The record under its fingerprint.
    pub existing: Option<&'a DeviceCertificate>,
    /// Of its CA.
    pub ca: Option<&'a CaCertificate>,
    /// Records of other certificates with the same key, tombstones included.
    pub same_key: &'a [DeviceCertificate],
    /// Another certificate with the same issuer and serial number.
    pub same_serial: Option<CertificateFingerprint>,
}

/// Registers a certificate. Idempotent: the same certificate for the same device and client id is no change.
/// A renewal, with the key of a certificate of the same device, inherits what is not given.
pub fn register_new(new: NewDevice<'_>, known: &KnownDevices<'_>, now: UnixMillis) -> DeviceResult {
    check_device_id(&new.device_id)?;
    if new.state == DeviceState::Tombstone {
        return Err(RuleError::StartState(new.state));
    }
    let older = renewed_by(&new, known).cloned();
    let client_id = new.client_id.or_else(|| older.as_ref().and_then(|older| older.client_id.clone()));
    let expected = match known.existing {
        None => None,
        Some(record) => match record.state {
            DeviceState::Tombstone if record.is_revoked() => return Err(RuleError::Revoked),
            DeviceState::Tombstone if new.on_tombstone == OnTombstone::Restore => Some(record.revision),
            DeviceState::Tombstone => return Err(RuleError::Tombstoned),
            DeviceState::Revoked => return Err(RuleError::Revoked),
            DeviceState::PendingActivation | DeviceState::Active | DeviceState::Inactive => {
                let same = record.device_id == new.device_id && record.client_id == client_id;
                return match same {
                    true => Ok(Transition::Unchanged(record.clone())),
                    false => Err(RuleError::Registered {
                        device_id: record.device_id.clone(),
                        client_id: record.client_id.clone(),
                    }),
                };
            }
        },
    };
    if let Some(existing) = known.same_serial {
        return Err(RuleError::DuplicateSerial { existing });
    }
    let compromised = known.same_key.iter().find(|other| other.is_key_compromised());
    if let (Some(other), false) = (compromised, new.state == DeviceState::Revoked) {
        return Err(RuleError::KeyCompromised { existing: other.id });
    }
    let facts = new.facts;
    check_not_expired(facts.not_after, now)?;
    match new.source {
        RegistrationSource::Api | RegistrationSource::Import => check_ca_known(known.ca)?,
        RegistrationSource::Jit => match ca_condition(known.ca) {
            None => {}
            Some(condition) => return Err(RuleError::Ca(condition)),
        },
    }
    let is_pending = new.state == DeviceState::PendingActivation;
    let is_revoked = new.state == DeviceState::Revoked;
    let (mut tags, mut attributes, mut tenant) = (new.tags, new.attributes, new.tenant);
    if let Some(older) = older {
        if tags.is_empty() {
            tags = older.tags;
        }
        for (name, value) in older.attributes {
            attributes.entry(name).or_insert(value);
        }
        tenant = tenant.or(older.tenant);
    }
    let record = DeviceCertificate {
        id: facts.certificate_fingerprint,
        state: new.state,
        namespace: DEFAULT_NAMESPACE.to_owned(),
        trust_domain: trust_domain(known.ca),
        device_id: new.device_id,
        tenant,
        tags,
        client_id,
        ca_id: new.ca_id,
        issuer_key_id: hex::encode(new.issuer_key),
        subject: facts.subject.display.clone(),
        issuer: facts.issuer.display.clone(),
        serial: hex::encode(&facts.serial),
        spki_sha256: hex::encode(facts.public_key.spki_sha256),
        common_name: common_name(facts),
        organizational_units: organizational_units(facts),
        subject_alt_names: alternative_names(facts),
        not_before: facts.not_before,
        not_after: facts.not_after,
        source: new.source,
        registered_at: now,
        updated_at: now,
        last_seen: None,
        pending_until: is_pending.then(|| UnixMillis(now.0.saturating_add(new.pending_ttl_millis))),
        superseded: None,
        quarantined: None,
        revocation_reason: is_revoked.then(|| RevocationReason::Unspecified.as_str().to_owned()),
        revoked_at: is_revoked.then_some(now),
        deleted_at: None,
        attributes,
        revision: expected.unwrap_or(0) + 1,
        pem: to_pem(&facts.der),
    };
    Ok(Transition::Write(Write { record, expected }))
}

/// The newest certificate of the same device with the same key, if there is one: then this is its renewal.
pub fn renewed_by<'a>(new: &NewDevice<'_>, known: &KnownDevices<'a>) -> Option<&'a DeviceCertificate> {
    let domain = trust_domain(known.ca);
    let is_older = |other: &&DeviceCertificate| {
        other.id != new.facts.certificate_fingerprint
            && other.device_id == new.device_id
            && other.trust_domain == domain
            && other.namespace == DEFAULT_NAMESPACE
            && matches!(other.state, DeviceState::Active | DeviceState::Inactive)
    };
    known.same_key.iter().filter(is_older).max_by_key(|other| other.registered_at)
}

fn trust_domain(ca: Option<&CaCertificate>) -> String {
    ca.map_or_else(|| DEFAULT_TRUST_DOMAIN.to_owned(), |ca| ca.trust_domain.clone())
}

/// Whether a CA's settings let a certificate register itself at its first connection, and whether it has to
/// wait then. `registered`: the CA's certificates that are neither revoked nor deleted.
pub fn check_auto_registration(
    ca: &CaCertificate,
    facts: &CertificateFacts,
    registered: u64,
) -> Result<AutoRegistration, RuleError> {
    let name = || ca.name.clone();
    if let Some(condition) = ca_condition(Some(ca)) {
        return Err(RuleError::Ca(condition));
    }
    let settings = &ca.settings;
    if settings.auto_registration == AutoRegistration::Off {
        return Err(RuleError::AutoRegistrationOff { ca: name() });
    }
    if !patterns::subject_fits(&settings.subject_patterns, facts) {
        return Err(RuleError::SubjectNotAllowed { ca: name(), subject: facts.subject.display.clone() });
    }
    if let Some(misfit) = patterns::misfit(&settings.san_patterns, facts) {
        return Err(RuleError::SanNotAllowed { ca: name(), name: misfit });
    }
    if let Some(limit) = settings.max_leaf_lifetime_seconds {
        // RFC 5280, 4.1.2.5: both ends belong to it.
        let seconds = facts.not_after.0.saturating_sub(facts.not_before.0).saturating_add(1);
        let seconds = u64::try_from(seconds).unwrap_or(0);
        if seconds > limit {
            return Err(RuleError::LeafLifetime { ca: name(), seconds, limit });
        }
    }
    match settings.max_device_certs {
        Some(limit) if registered >= limit => Err(RuleError::Quota { ca: name(), limit }),
        Some(_) | None => Ok(settings.auto_registration),
    }
}
