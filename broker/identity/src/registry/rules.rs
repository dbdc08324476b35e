//! The rules of the registry, as pure functions: a record and an event give the record to write, or an error
//! that says why not and what to do. They write nothing: the caller stores a [`Write`] with compare-and-set,
//! and on conflict reads again and asks again.

use std::collections::BTreeMap;

use super::{CaCertificate, CaState, DeviceCertificate, DeviceState, RegistrationSource, check_device_id};
use crate::certificate::{CertificateFacts, CertificateFingerprint, to_pem};
use crate::evaluation::PathPolicy;
use crate::reason::Reason;
use crate::registry::IdentifierError;
use crate::time::{UnixMillis, UnixSeconds};

/// What a permitted transition asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition<R> {
    /// The record is as wanted already.
    Unchanged(R),
    Write(Write<R>),
}

/// `record`, to be stored if the stored revision is `expected`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write<R> {
    pub record: R,
    pub expected: Option<u64>,
}

impl<R> Transition<R> {
    /// The record as it is after the transition.
    pub fn record(&self) -> &R {
        match self {
            Self::Unchanged(record) => record,
            Self::Write(write) => &write.record,
        }
    }
}

/// A transition that the rules forbid. The text is for the operator: why, and what to do instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error(transparent)]
    DeviceId(#[from] IdentifierError),
    #[error("the certificate is revoked, which is final: issue a new certificate for the device")]
    Revoked,
    #[error(
        "the certificate was deleted and is remembered, so that it cannot come back by itself; register it \
         with the explicit wish to restore it, or issue a new one"
    )]
    Tombstoned,
    #[error("the certificate is registered already, for device \"{device_id}\"{bound}; deactivate and delete it first", bound = bound_to(.client_id))]
    Registered { device_id: String, client_id: Option<String> },
    #[error("the certificate expired ({not_after}): issue a new one")]
    Expired { not_after: UnixSeconds },
    #[error("the certificate's CA is {0}: add or activate the CA first")]
    Ca(CaCondition),
    #[error("the certificate waits for its activation: activate it, or revoke it")]
    Pending,
    #[error("the certificate is active: deactivate it first, or delete it with force")]
    Active,
    #[error("a new certificate cannot start as {}: use active, inactive or pending", state_name(*.0))]
    StartState(DeviceState),
    #[error("removeFromCRL only lifts a certificateHold, and the certificate is not on hold")]
    NotOnHold,
    #[error("not a CA certificate: it is not marked CA:TRUE")]
    NotACa,
    #[error(
        "related_device_certificates_exist: {0} certificates are registered under the CA; revoke and delete \
         them first, or remove the CA with force"
    )]
    DevicesExist(u64),
    #[error("the CA is revoked, which is final: add a new CA")]
    CaRevoked,
    #[error("a CA name has 1 to {MAX_CA_NAME_BYTES} bytes of letters, digits, '-', '_' and '.'")]
    CaName,
}

/// Why a certificate's CA does not carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaCondition {
    Missing,
    Inactive,
    Revoked,
}

impl std::fmt::Display for CaCondition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => "not in the registry",
            Self::Inactive => "not active",
            Self::Revoked => "revoked",
        })
    }
}

fn bound_to(client_id: &Option<String>) -> String {
    client_id.as_ref().map(|id| format!(" bound to client id \"{id}\"")).unwrap_or_default()
}

fn state_name(state: DeviceState) -> &'static str {
    match state {
        DeviceState::PendingActivation => "pending",
        DeviceState::Active => "active",
        DeviceState::Inactive => "inactive",
        DeviceState::Revoked => "revoked",
        DeviceState::Tombstone => "deleted",
    }
}

/// Bytes of a CA's name: it is a metric label.
pub const MAX_CA_NAME_BYTES: usize = 64;

/// RFC 5280, 5.3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RevocationReason {
    #[default]
    Unspecified,
    KeyCompromise,
    CaCompromise,
    AffiliationChanged,
    Superseded,
    CessationOfOperation,
    /// Not final: maps to `INACTIVE`.
    CertificateHold,
    /// Lifts a hold.
    RemoveFromCrl,
    PrivilegeWithdrawn,
    AaCompromise,
}

impl RevocationReason {
    pub const ALL: [Self; 10] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::CaCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::CertificateHold,
        Self::RemoveFromCrl,
        Self::PrivilegeWithdrawn,
        Self::AaCompromise,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::CaCompromise => "cACompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
            Self::CertificateHold => "certificateHold",
            Self::RemoveFromCrl => "removeFromCRL",
            Self::PrivilegeWithdrawn => "privilegeWithdrawn",
            Self::AaCompromise => "aACompromise",
        }
    }

    /// Reads the RFC's name, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str().eq_ignore_ascii_case(text))
    }
}

/// A certificate to be registered.
#[derive(Debug, Clone)]
pub struct NewDevice<'a> {
    pub facts: &'a CertificateFacts,
    /// The anchor that the validated path ended in.
    pub ca_id: CertificateFingerprint,
    pub device_id: String,
    pub tenant: Option<String>,
    pub tags: Vec<String>,
    /// The only client id it may use.
    pub client_id: Option<String>,
    pub attributes: BTreeMap<String, String>,
    /// `Active`, `Inactive` or `PendingActivation`.
    pub state: DeviceState,
    pub source: RegistrationSource,
    pub on_tombstone: OnTombstone,
}

/// What registering does with a certificate that was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnTombstone {
    #[default]
    Refuse,
    /// An explicit, audited action of the operator.
    Restore,
}

/// Registers a certificate. `existing`: the record stored under its fingerprint; `ca`: that of its CA.
/// Idempotent: the same certificate for the same device and client id is no change.
pub fn register_new(
    new: NewDevice<'_>,
    existing: Option<&DeviceCertificate>,
    ca: Option<&CaCertificate>,
    now: UnixMillis,
) -> Result<Transition<DeviceCertificate>, RuleError> {
    check_device_id(&new.device_id)?;
    if !matches!(new.state, DeviceState::Active | DeviceState::Inactive | DeviceState::PendingActivation) {
        return Err(RuleError::StartState(new.state));
    }
    let expected = match existing {
        None => None,
        Some(record) => match record.state {
            DeviceState::Tombstone if record.revocation_reason.is_some() => return Err(RuleError::Revoked),
            DeviceState::Tombstone if new.on_tombstone == OnTombstone::Restore => Some(record.revision),
            DeviceState::Tombstone => return Err(RuleError::Tombstoned),
            DeviceState::Revoked => return Err(RuleError::Revoked),
            DeviceState::PendingActivation | DeviceState::Active | DeviceState::Inactive => {
                let same = record.device_id == new.device_id && record.client_id == new.client_id;
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
    check_not_expired(new.facts.not_after, now)?;
    check_ca(ca)?;
    let facts = new.facts;
    let record = DeviceCertificate {
        id: facts.certificate_fingerprint,
        state: new.state,
        device_id: new.device_id,
        tenant: new.tenant,
        tags: new.tags,
        client_id: new.client_id,
        ca_id: new.ca_id,
        subject: facts.subject.display.clone(),
        issuer: facts.issuer.display.clone(),
        serial: hex::encode(&facts.serial),
        spki_sha256: hex::encode(facts.public_key.spki_sha256),
        not_before: facts.not_before,
        not_after: facts.not_after,
        source: new.source,
        registered_at: now,
        updated_at: now,
        last_seen: None,
        revocation_reason: None,
        attributes: new.attributes,
        revision: expected.unwrap_or(0) + 1,
        pem: to_pem(&facts.der),
    };
    Ok(Transition::Write(Write { record, expected }))
}

/// `PENDING_ACTIVATION` or `INACTIVE` to `ACTIVE`.
pub fn activate(
    record: &DeviceCertificate,
    ca: Option<&CaCertificate>,
    now: UnixMillis,
) -> Result<Transition<DeviceCertificate>, RuleError> {
    match record.state {
        DeviceState::Active => Ok(Transition::Unchanged(record.clone())),
        DeviceState::Revoked => Err(RuleError::Revoked),
        DeviceState::Tombstone => Err(RuleError::Tombstoned),
        DeviceState::PendingActivation | DeviceState::Inactive => {
            check_not_expired(record.not_after, now)?;
            check_ca(ca)?;
            Ok(write(record, now, |next| {
                next.state = DeviceState::Active;
                next.revocation_reason = None;
            }))
        }
    }
}

/// `ACTIVE` to `INACTIVE`; can be undone.
pub fn deactivate(
    record: &DeviceCertificate,
    now: UnixMillis,
) -> Result<Transition<DeviceCertificate>, RuleError> {
    match record.state {
        DeviceState::Inactive => Ok(Transition::Unchanged(record.clone())),
        DeviceState::Active => Ok(write(record, now, |next| next.state = DeviceState::Inactive)),
        DeviceState::PendingActivation => Err(RuleError::Pending),
        DeviceState::Revoked => Err(RuleError::Revoked),
        DeviceState::Tombstone => Err(RuleError::Tombstoned),
    }
}

/// To `REVOKED`, for good. `certificateHold` is a deactivation, `removeFromCRL` lifts one (with the guards of
/// [`activate`]).
pub fn revoke(
    record: &DeviceCertificate,
    reason: RevocationReason,
    ca: Option<&CaCertificate>,
    now: UnixMillis,
) -> Result<Transition<DeviceCertificate>, RuleError> {
    let hold = RevocationReason::CertificateHold.as_str();
    match (record.state, reason) {
        (DeviceState::Tombstone, _) => Err(RuleError::Tombstoned),
        (DeviceState::Revoked, RevocationReason::RemoveFromCrl) => Err(RuleError::Revoked),
        // The first reason stands.
        (DeviceState::Revoked, _) => Ok(Transition::Unchanged(record.clone())),
        (DeviceState::Inactive, RevocationReason::RemoveFromCrl)
            if record.revocation_reason.as_deref() == Some(hold) =>
        {
            activate(record, ca, now)
        }
        (_, RevocationReason::RemoveFromCrl) => Err(RuleError::NotOnHold),
        (DeviceState::PendingActivation, RevocationReason::CertificateHold) => Err(RuleError::Pending),
        (DeviceState::Inactive, RevocationReason::CertificateHold)
            if record.revocation_reason.as_deref() == Some(hold) =>
        {
            Ok(Transition::Unchanged(record.clone()))
        }
        (DeviceState::Active | DeviceState::Inactive, RevocationReason::CertificateHold) => {
            Ok(write(record, now, |next| {
                next.state = DeviceState::Inactive;
                next.revocation_reason = Some(hold.to_owned());
            }))
        }
        (DeviceState::PendingActivation | DeviceState::Active | DeviceState::Inactive, _) => {
            Ok(write(record, now, |next| {
                next.state = DeviceState::Revoked;
                next.revocation_reason = Some(reason.as_str().to_owned());
            }))
        }
    }
}

/// Whether [`delete`] may take an active certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Force {
    #[default]
    No,
    Yes,
}

/// To a tombstone, which remembers the certificate's identity and nothing else about the device but its id.
pub fn delete(
    record: &DeviceCertificate,
    force: Force,
    now: UnixMillis,
) -> Result<Transition<DeviceCertificate>, RuleError> {
    match (record.state, force) {
        (DeviceState::Tombstone, _) => Ok(Transition::Unchanged(record.clone())),
        (DeviceState::Active, Force::No) => Err(RuleError::Active),
        (state, _) => Ok(write(record, now, |next| {
            next.state = DeviceState::Tombstone;
            // A revoked certificate stays so: its reason is kept, and no restoring gets past it.
            if state != DeviceState::Revoked {
                next.revocation_reason = None;
            }
            next.tenant = None;
            next.tags.clear();
            next.client_id = None;
            next.attributes.clear();
            next.last_seen = None;
            next.pem.clear();
        })),
    }
}

/// Whether a registered certificate may connect now: its state, its validity, and its CA.
pub fn effective(
    record: &DeviceCertificate,
    ca: Option<&CaCertificate>,
    policy: &PathPolicy,
    now: UnixSeconds,
) -> Result<(), Reason> {
    match record.state {
        DeviceState::Tombstone => return Err(Reason::CertTombstoned),
        DeviceState::Revoked => return Err(Reason::CertRevoked),
        DeviceState::PendingActivation => return Err(Reason::CertPending),
        DeviceState::Inactive => return Err(Reason::CertInactive),
        DeviceState::Active => {}
    }
    check_ca(ca).map_err(|_| Reason::CaInactive)?;
    if record.not_before.0.saturating_sub(now.0) > policy.clock_skew_seconds() {
        return Err(Reason::CertNotYetValid);
    }
    if now.0.saturating_sub(record.not_after.0) > policy.expiry_skew_seconds() {
        return Err(Reason::CertExpired);
    }
    Ok(())
}

/// Makes the record of a CA. `existing`: the record under its fingerprint. The caller sees to it that the name
/// is not taken.
pub fn add_ca(
    facts: &CertificateFacts,
    name: &str,
    existing: Option<&CaCertificate>,
    now: UnixMillis,
) -> Result<Transition<CaCertificate>, RuleError> {
    let fitting = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.is_empty() || name.len() > MAX_CA_NAME_BYTES || !name.bytes().all(fitting) {
        return Err(RuleError::CaName);
    }
    match existing {
        Some(record) if record.state == CaState::Revoked => return Err(RuleError::CaRevoked),
        Some(record) => return Ok(Transition::Unchanged(record.clone())),
        None => {}
    }
    // A version 1 root cannot say that it is a CA; that the operator gives it as one has to do.
    let may_be_a_ca = facts.is_ca || (facts.version == 1 && facts.subject.raw == facts.issuer.raw);
    if !may_be_a_ca || facts.key_usage.is_some_and(|usage| !usage.key_cert_sign) {
        return Err(RuleError::NotACa);
    }
    check_not_expired(facts.not_after, now)?;
    let record = CaCertificate {
        id: facts.certificate_fingerprint,
        name: name.to_owned(),
        state: CaState::Active,
        subject: facts.subject.display.clone(),
        not_before: facts.not_before,
        not_after: facts.not_after,
        created_at: now,
        updated_at: now,
        revision: 1,
        pem: to_pem(&facts.der),
    };
    Ok(Transition::Write(Write { record, expected: None }))
}

/// Changes a CA's state. `Revoked` is final.
pub fn set_ca_state(
    record: &CaCertificate,
    state: CaState,
    now: UnixMillis,
) -> Result<Transition<CaCertificate>, RuleError> {
    match (record.state, state) {
        (from, to) if from == to => Ok(Transition::Unchanged(record.clone())),
        (CaState::Revoked, _) => Err(RuleError::CaRevoked),
        (CaState::Active | CaState::Inactive, CaState::Active) => {
            check_not_expired(record.not_after, now)?;
            Ok(write_ca(record, state, now))
        }
        (CaState::Active | CaState::Inactive, CaState::Inactive | CaState::Revoked) => {
            Ok(write_ca(record, state, now))
        }
    }
}

/// Whether a CA may be removed. `devices`: certificates registered under it that are not deleted.
pub fn check_remove_ca(devices: u64, force: Force) -> Result<(), RuleError> {
    match (devices, force) {
        (0, _) | (_, Force::Yes) => Ok(()),
        (devices, Force::No) => Err(RuleError::DevicesExist(devices)),
    }
}

fn check_not_expired(not_after: UnixSeconds, now: UnixMillis) -> Result<(), RuleError> {
    match now.seconds() > not_after {
        true => Err(RuleError::Expired { not_after }),
        false => Ok(()),
    }
}

fn check_ca(ca: Option<&CaCertificate>) -> Result<(), RuleError> {
    match ca.map(|ca| ca.state) {
        Some(CaState::Active) => Ok(()),
        Some(CaState::Inactive) => Err(RuleError::Ca(CaCondition::Inactive)),
        Some(CaState::Revoked) => Err(RuleError::Ca(CaCondition::Revoked)),
        None => Err(RuleError::Ca(CaCondition::Missing)),
    }
}

fn write(
    record: &DeviceCertificate,
    now: UnixMillis,
    change: impl FnOnce(&mut DeviceCertificate),
) -> Transition<DeviceCertificate> {
    let mut next = record.clone();
    next.revision += 1;
    next.updated_at = now;
    change(&mut next);
    Transition::Write(Write { record: next, expected: Some(record.revision) })
}

fn write_ca(record: &CaCertificate, state: CaState, now: UnixMillis) -> Transition<CaCertificate> {
    let next = CaCertificate { state, updated_at: now, revision: record.revision + 1, ..record.clone() };
    Transition::Write(Write { record: next, expected: Some(record.revision) })
}
