//! Transitions of a CA.

use super::{CaResult, RuleError, Transition, Write, write_ca};
use crate::certificate::{CertificateFacts, CertificateFingerprint, to_pem};
use crate::evaluation::key_ids;
use crate::registry::rules::Force;
use crate::registry::{
    CaCertificate, CaSettings, CaState, CaTombstone, CaUsage, DEFAULT_NAMESPACE, MAX_CA_NAME_BYTES,
    OnDeactivate, RevocationReason, VerifiedBy, patterns,
};
use crate::time::UnixMillis;

/// A CA to be registered.
#[derive(Debug, Clone)]
pub struct NewCa<'a> {
    pub facts: &'a CertificateFacts,
    pub name: String,
    /// `None`: one of its own.
    pub trust_domain: Option<String>,
    pub settings: CaSettings,
    pub tags: Vec<String>,
    pub proof: Proof,
    /// Verified, but not to be used yet.
    pub inactive: bool,
}

/// Whether who registers a CA holds its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// Proved, or taken on somebody's word.
    Given(VerifiedBy),
    /// Not yet.
    Missing,
}

/// What the registry knows that a new CA has to do with. The caller sees to it that the name is not taken.
#[derive(Debug, Clone, Copy, Default)]
pub struct KnownCa<'a> {
    /// The record under its fingerprint.
    pub existing: Option<&'a CaCertificate>,
    /// What is left of it, if it was deleted.
    pub buried: Option<&'a CaTombstone>,
}

/// What an operator changes of a CA besides its state. `None` leaves it as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CaPatch {
    pub name: Option<String>,
    pub settings: Option<CaSettings>,
    pub tags: Option<Vec<String>>,
    pub trust_domain: Option<String>,
}

/// What becomes of the certificates of a CA that is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cascade {
    /// There must be none.
    #[default]
    Refuse,
    Revoke,
    /// They stay, and are refused for want of a CA until another carries them.
    Orphan,
}

/// Makes the record of a CA. Idempotent: a proof that comes later is taken, everything else is no change.
pub fn register_ca(new: NewCa<'_>, known: &KnownCa<'_>, now: UnixMillis) -> CaResult {
    check_name(&new.name)?;
    patterns::check(&new.settings)?;
    let is_revoked = |ca: &CaCertificate| ca.state == CaState::Revoked;
    let was_revoked = known.buried.is_some_and(|buried| buried.revocation_reason.is_some());
    if was_revoked || known.existing.is_some_and(is_revoked) {
        return Err(RuleError::CaRevoked);
    }
    if let Some(record) = known.existing {
        if record.namespace != DEFAULT_NAMESPACE {
            return Err(RuleError::CaNamespace(record.namespace.clone()));
        }
        return match (record.state, new.proof) {
            (CaState::PendingActivation, Proof::Given(by)) => verify_ca(record, by, now),
            (_, Proof::Given(_) | Proof::Missing) => Ok(Transition::Unchanged(record.clone())),
        };
    }
    let facts = new.facts;
    // A version 1 root cannot say that it is a CA; that the operator gives it as one has to do.
    let may_be_a_ca = facts.is_ca || (facts.version == 1 && facts.subject.raw == facts.issuer.raw);
    if !may_be_a_ca || facts.key_usage.is_some_and(|usage| !usage.key_cert_sign) {
        return Err(RuleError::NotACa);
    }
    let id = facts.certificate_fingerprint;
    let (state, verified_by) = match (new.proof, new.inactive) {
        (Proof::Missing, _) => (CaState::PendingActivation, None),
        (Proof::Given(by), true) => (CaState::Inactive, Some(by)),
        (Proof::Given(by), false) => (CaState::Active, Some(by)),
    };
    let (subject_key_id, authority_key_id) = key_ids(facts);
    let record = CaCertificate {
        id,
        name: new.name,
        namespace: DEFAULT_NAMESPACE.to_owned(),
        trust_domain: new.trust_domain.unwrap_or_else(|| id.to_hex()),
        state,
        usage: CaUsage::ClientAuth,
        deactivated: (state == CaState::Inactive).then_some(new.settings.on_deactivate),
        settings: new.settings,
        verified_by,
        tags: new.tags,
        subject: facts.subject.display.clone(),
        issuer: facts.issuer.display.clone(),
        serial: hex::encode(&facts.serial),
        spki_sha256: hex::encode(facts.public_key.spki_sha256),
        subject_key_id: subject_key_id.map(hex::encode),
        authority_key_id: authority_key_id.map(hex::encode),
        key_algorithm: facts.public_key.algorithm_oid.clone(),
        key_bits: facts.public_key.bits,
        is_self_issued: facts.subject.raw == facts.issuer.raw,
        not_before: facts.not_before,
        not_after: facts.not_after,
        retiring_until: None,
        replaced_by: None,
        revocation_reason: None,
        created_at: now,
        updated_at: now,
        last_activated: (state == CaState::Active).then_some(now),
        last_deactivated: None,
        revision: 1,
        pem: to_pem(&facts.der),
    };
    check_ca_not_expired(&record, now)?;
    Ok(Transition::Write(Write { record, expected: None }))
}

/// A CA on the operator's word, with every setting at its default and in the default trust domain.
pub fn add_ca(
    facts: &CertificateFacts,
    name: &str,
    existing: Option<&CaCertificate>,
    by: &str,
    now: UnixMillis,
) -> CaResult {
    let new = NewCa {
        facts,
        name: name.to_owned(),
        trust_domain: Some(crate::registry::DEFAULT_TRUST_DOMAIN.to_owned()),
        settings: CaSettings::default(),
        tags: Vec::new(),
        proof: Proof::Given(VerifiedBy::Skipped { by: by.to_owned() }),
        inactive: false,
    };
    register_ca(new, &KnownCa { existing, buried: None }, now)
}

/// `PENDING_ACTIVATION` to `ACTIVE`. In other states a proof takes the place of somebody's word.
pub fn verify_ca(record: &CaCertificate, by: VerifiedBy, now: UnixMillis) -> CaResult {
    match record.state {
        CaState::Revoked => Err(RuleError::CaRevoked),
        CaState::PendingActivation => {
            check_ca_not_expired(record, now)?;
            Ok(write_ca(record, now, |next| {
                next.state = CaState::Active;
                next.verified_by = Some(by);
                next.last_activated = Some(now);
            }))
        }
        CaState::Active | CaState::Inactive | CaState::Retiring => {
            let is_proved = record.verified_by == Some(VerifiedBy::RegistrationCode);
            match is_proved || by != VerifiedBy::RegistrationCode {
                true => Ok(Transition::Unchanged(record.clone())),
                false => Ok(write_ca(record, now, |next| next.verified_by = Some(by))),
            }
        }
    }
}

/// `INACTIVE` to `ACTIVE`. The caller sees to the limit on CAs.
pub fn activate_ca(record: &CaCertificate, now: UnixMillis) -> CaResult {
    match record.state {
        CaState::Active => Ok(Transition::Unchanged(record.clone())),
        CaState::Inactive => {
            check_ca_not_expired(record, now)?;
            Ok(write_ca(record, now, |next| {
                next.state = CaState::Active;
                next.deactivated = None;
                next.replaced_by = None;
                next.last_activated = Some(now);
            }))
        }
        CaState::PendingActivation => Err(RuleError::CaPending),
        CaState::Retiring => Err(retiring(record)),
        CaState::Revoked => Err(RuleError::CaRevoked),
    }
}

/// `ACTIVE` to `INACTIVE`. Without a mode, that of its settings; an inactive CA may be given another.
pub fn deactivate_ca(record: &CaCertificate, mode: Option<OnDeactivate>, now: UnixMillis) -> CaResult {
    match record.state {
        CaState::Active => Ok(write_ca(record, now, |next| {
            next.state = CaState::Inactive;
            next.deactivated = Some(mode.unwrap_or(record.settings.on_deactivate));
            next.last_deactivated = Some(now);
        })),
        CaState::Inactive if mode.is_none() || mode == record.deactivated => {
            Ok(Transition::Unchanged(record.clone()))
        }
        CaState::Inactive => Ok(write_ca(record, now, |next| next.deactivated = mode)),
        CaState::PendingActivation => Err(RuleError::CaPending),
        CaState::Retiring => Err(retiring(record)),
        CaState::Revoked => Err(RuleError::CaRevoked),
    }
}

/// Another CA takes its place: `RETIRING` until then, or `INACTIVE` at once.
pub fn retire_ca(
    record: &CaCertificate,
    successor: CertificateFingerprint,
    until: Option<UnixMillis>,
    now: UnixMillis,
) -> CaResult {
    match record.state {
        CaState::Active | CaState::Inactive => Ok(write_ca(record, now, |next| {
            next.replaced_by = Some(successor);
            next.retiring_until = until;
            (next.state, next.deactivated) = match until {
                Some(_) => (CaState::Retiring, None),
                None => (CaState::Inactive, Some(OnDeactivate::Disconnect)),
            };
            if until.is_none() {
                next.last_deactivated = Some(now);
            }
        })),
        state @ (CaState::PendingActivation | CaState::Retiring) => Err(RuleError::CaNotReplaceable(state)),
        CaState::Revoked => Err(RuleError::CaRevoked),
    }
}

/// The grace is over: `RETIRING` to `INACTIVE`.
pub fn end_retirement(record: &CaCertificate, now: UnixMillis) -> CaResult {
    match record.state {
        CaState::Retiring => Ok(write_ca(record, now, |next| {
            next.state = CaState::Inactive;
            next.retiring_until = None;
            next.deactivated = Some(OnDeactivate::Disconnect);
            next.last_deactivated = Some(now);
        })),
        CaState::PendingActivation | CaState::Active | CaState::Inactive => {
            Ok(Transition::Unchanged(record.clone()))
        }
        CaState::Revoked => Err(RuleError::CaRevoked),
    }
}

/// To `REVOKED`, for good.
pub fn revoke_ca(record: &CaCertificate, reason: RevocationReason, now: UnixMillis) -> CaResult {
    match record.state {
        // The first reason stands.
        CaState::Revoked => Ok(Transition::Unchanged(record.clone())),
        CaState::PendingActivation | CaState::Active | CaState::Inactive | CaState::Retiring => {
            Ok(write_ca(record, now, |next| {
                next.state = CaState::Revoked;
                next.revocation_reason = Some(reason.as_str().to_owned());
                next.retiring_until = None;
                next.deactivated = None;
                next.last_deactivated = Some(now);
            }))
        }
    }
}

/// Changes what an operator may change of a CA. The caller sees to it that the name is not taken.
pub fn change_ca(record: &CaCertificate, patch: &CaPatch, now: UnixMillis) -> CaResult {
    if record.state == CaState::Revoked {
        return Err(RuleError::CaRevoked);
    }
    let CaPatch { name, settings, tags, trust_domain } = patch.clone();
    if let Some(name) = &name {
        check_name(name)?;
    }
    if let Some(settings) = &settings {
        patterns::check(settings)?;
    }
    let mut next = record.clone();
    next.name = name.unwrap_or(next.name);
    next.settings = settings.unwrap_or(next.settings);
    next.tags = tags.unwrap_or(next.tags);
    next.trust_domain = trust_domain.unwrap_or(next.trust_domain);
    if next == *record {
        return Ok(Transition::Unchanged(next));
    }
    Ok(write_ca(record, now, |written| {
        written.name = next.name;
        written.settings = next.settings;
        written.tags = next.tags;
        written.trust_domain = next.trust_domain;
    }))
}

/// Whether a CA may be deleted. `devices`: certificates registered under it that are not deleted.
pub fn check_delete_ca(record: &CaCertificate, devices: u64, cascade: Cascade) -> Result<(), RuleError> {
    match record.state {
        CaState::Active | CaState::Retiring => Err(RuleError::CaInUse(record.state)),
        CaState::PendingActivation | CaState::Inactive | CaState::Revoked => match cascade {
            Cascade::Refuse if devices > 0 => Err(RuleError::DevicesExist(devices)),
            Cascade::Refuse | Cascade::Revoke | Cascade::Orphan => Ok(()),
        },
    }
}

/// Whether a CA may be removed in one step, from whatever state. `devices` as above.
pub fn check_remove_ca(devices: u64, force: Force) -> Result<(), RuleError> {
    match (devices, force) {
        (0, _) | (_, Force::Yes) => Ok(()),
        (devices, Force::No) => Err(RuleError::DevicesExist(devices)),
    }
}

/// What stays of a CA that is deleted.
pub fn bury_ca(record: &CaCertificate, now: UnixMillis) -> CaTombstone {
    CaTombstone {
        id: record.id,
        name: record.name.clone(),
        subject: record.subject.clone(),
        not_after: record.not_after,
        revocation_reason: record.revocation_reason.clone(),
        deleted_at: now,
    }
}

fn retiring(record: &CaCertificate) -> RuleError {
    RuleError::CaRetiring { until: record.retiring_until.unwrap_or_default() }
}

fn check_name(name: &str) -> Result<(), RuleError> {
    let fitting = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    match name.is_empty() || name.len() > MAX_CA_NAME_BYTES || !name.bytes().all(fitting) {
        true => Err(RuleError::CaName),
        false => Ok(()),
    }
}

fn check_ca_not_expired(record: &CaCertificate, now: UnixMillis) -> Result<(), RuleError> {
    match record.is_expired(now) {
        true => Err(RuleError::CaExpired { not_after: record.not_after }),
        false => Ok(()),
    }
}
