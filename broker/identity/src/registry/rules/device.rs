//! Transitions of a device certificate that is registered.

use std::collections::BTreeMap;

use super::{DeviceResult, RuleError, Transition, check_ca_known, check_not_expired, write};
use crate::certificate::CertificateFingerprint;
use crate::registry::{
    CaCertificate, DeviceCertificate, DeviceState, Quarantine, RevocationReason, Supersession,
};
use crate::time::UnixMillis;

/// How long after a certificate has expired its tombstone is kept: longer than any clock skew that is allowed.
pub const TOMBSTONE_SKEW_SECONDS: i64 = 24 * 60 * 60;
/// The reason in the record of a certificate that was never let in.
const REJECTED: &str = "rejected";

/// Whether [`delete`] may take an active certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Force {
    #[default]
    No,
    Yes,
}

/// What an operator changes of a record besides its state. `None` leaves it as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DevicePatch {
    /// The only client id it may use; `Some(None)` unbinds it.
    pub client_id: Option<Option<String>>,
    pub tenant: Option<Option<String>>,
    pub tags: Option<Vec<String>>,
    pub attributes: Option<BTreeMap<String, String>>,
}

/// `PENDING_ACTIVATION` or `INACTIVE` to `ACTIVE`.
pub fn activate(record: &DeviceCertificate, ca: Option<&CaCertificate>, now: UnixMillis) -> DeviceResult {
    match (record.state, record.superseded) {
        (DeviceState::Active, _) => Ok(Transition::Unchanged(record.clone())),
        (DeviceState::Revoked, _) => Err(RuleError::Revoked),
        (DeviceState::Tombstone, _) => Err(RuleError::Tombstoned),
        (DeviceState::Inactive, Some(superseded)) => Err(RuleError::Superseded { by: superseded.by }),
        (DeviceState::PendingActivation | DeviceState::Inactive, _) => {
            check_not_expired(record.not_after, now)?;
            check_ca_known(ca)?;
            Ok(write(record, now, |next| {
                next.state = DeviceState::Active;
                next.pending_until = None;
                next.revocation_reason = None;
            }))
        }
    }
}

/// `ACTIVE` to `INACTIVE`; can be undone.
pub fn deactivate(record: &DeviceCertificate, now: UnixMillis) -> DeviceResult {
    match record.state {
        DeviceState::Inactive => Ok(Transition::Unchanged(record.clone())),
        DeviceState::Active => Ok(write(record, now, |next| next.state = DeviceState::Inactive)),
        DeviceState::PendingActivation => Err(RuleError::Pending),
        DeviceState::Revoked => Err(RuleError::Revoked),
        DeviceState::Tombstone => Err(RuleError::Tombstoned),
    }
}

/// `PENDING_ACTIVATION` to `REVOKED`: it was never let in, and never will be.
pub fn reject(record: &DeviceCertificate, now: UnixMillis) -> DeviceResult {
    match record.state {
        DeviceState::PendingActivation => Ok(to_revoked(record, REJECTED, now)),
        DeviceState::Revoked if record.revocation_reason.as_deref() == Some(REJECTED) => {
            Ok(Transition::Unchanged(record.clone()))
        }
        DeviceState::Active | DeviceState::Inactive => Err(RuleError::NotPending),
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
) -> DeviceResult {
    let hold = RevocationReason::CertificateHold.as_str();
    let is_held = record.revocation_reason.as_deref() == Some(hold);
    match (record.state, reason) {
        (DeviceState::Tombstone, _) => Err(RuleError::Tombstoned),
        (DeviceState::Revoked, RevocationReason::RemoveFromCrl) => Err(RuleError::Revoked),
        // The first reason stands, unless it is found out later that somebody has the key.
        (DeviceState::Revoked, reason) if reason.is_compromise() && !record.is_key_compromised() => {
            Ok(write(record, now, |next| next.revocation_reason = Some(reason.as_str().to_owned())))
        }
        (DeviceState::Revoked, _) => Ok(Transition::Unchanged(record.clone())),
        (DeviceState::Inactive, RevocationReason::RemoveFromCrl) if is_held => activate(record, ca, now),
        (_, RevocationReason::RemoveFromCrl) => Err(RuleError::NotOnHold),
        (DeviceState::PendingActivation, RevocationReason::CertificateHold) => Err(RuleError::Pending),
        (DeviceState::Inactive, RevocationReason::CertificateHold) if is_held => {
            Ok(Transition::Unchanged(record.clone()))
        }
        (DeviceState::Active | DeviceState::Inactive, RevocationReason::CertificateHold) => {
            Ok(write(record, now, |next| {
                next.state = DeviceState::Inactive;
                next.revocation_reason = Some(hold.to_owned());
            }))
        }
        (DeviceState::PendingActivation | DeviceState::Active | DeviceState::Inactive, _) => {
            Ok(to_revoked(record, reason.as_str(), now))
        }
    }
}

fn to_revoked(record: &DeviceCertificate, reason: &str, now: UnixMillis) -> Transition<DeviceCertificate> {
    write(record, now, |next| {
        next.state = DeviceState::Revoked;
        next.revocation_reason = Some(reason.to_owned());
        next.revoked_at = Some(now);
        next.pending_until = None;
    })
}

/// To a tombstone, which remembers the certificate's identity and nothing else about the device but its id.
pub fn delete(record: &DeviceCertificate, force: Force, now: UnixMillis) -> DeviceResult {
    match (record.state, force) {
        (DeviceState::Tombstone, _) => Ok(Transition::Unchanged(record.clone())),
        (DeviceState::Active, Force::No) => Err(RuleError::Active),
        (
            DeviceState::PendingActivation
            | DeviceState::Active
            | DeviceState::Inactive
            | DeviceState::Revoked,
            _,
        ) => Ok(write(record, now, |next| {
            // A revoked certificate stays so: its reason is kept, and no restoring gets past it.
            if !record.is_revoked() {
                next.revocation_reason = None;
            }
            next.state = DeviceState::Tombstone;
            next.deleted_at = Some(now);
            next.tenant = None;
            next.tags.clear();
            next.client_id = None;
            next.attributes.clear();
            next.last_seen = None;
            next.pending_until = None;
            next.superseded = None;
            next.quarantined = None;
            next.pem.clear();
        })),
    }
}

/// Whether a pending certificate has waited long enough to be forgotten, without a tombstone.
pub fn lapse(record: &DeviceCertificate, now: UnixMillis) -> Result<(), RuleError> {
    match (record.state, record.pending_until) {
        (DeviceState::PendingActivation, Some(until)) if until <= now => Ok(()),
        (DeviceState::PendingActivation, until) => {
            Err(RuleError::StillPending { until: until.unwrap_or(UnixMillis(u64::MAX)) })
        }
        (DeviceState::Active | DeviceState::Inactive, _) => Err(RuleError::NotPending),
        (DeviceState::Revoked, _) => Err(RuleError::Revoked),
        (DeviceState::Tombstone, _) => Err(RuleError::Tombstoned),
    }
}

/// Whether an operator may have a tombstone forgotten: the certificate may be registered again then. One that
/// was revoked stays until it has expired.
pub fn purge(record: &DeviceCertificate, now: UnixMillis) -> Result<(), RuleError> {
    match record.state {
        DeviceState::Tombstone if record.is_revoked() && now.seconds() <= record.not_after => {
            Err(RuleError::TombstoneKept { not_after: record.not_after })
        }
        DeviceState::Tombstone => Ok(()),
        DeviceState::PendingActivation
        | DeviceState::Active
        | DeviceState::Inactive
        | DeviceState::Revoked => Err(RuleError::NotTombstoned),
    }
}

/// Whether a tombstone has no use any more: the certificate has expired everywhere, and its key may be used
/// again.
pub fn is_spent_tombstone(record: &DeviceCertificate, now: UnixMillis) -> bool {
    let end = record.not_after.0.saturating_add(TOMBSTONE_SKEW_SECONDS);
    record.state == DeviceState::Tombstone && !record.is_key_compromised() && now.seconds().0 > end
}

/// A newer certificate of the device is in use: the older one is good until the overlap ends.
pub fn supersede(
    record: &DeviceCertificate,
    by: &DeviceCertificate,
    overlap_millis: u64,
    now: UnixMillis,
) -> DeviceResult {
    if record.id == by.id || !record.is_same_device(by) || by.state != DeviceState::Active {
        return Err(RuleError::NotSuccessor);
    }
    match (record.state, record.superseded) {
        (DeviceState::Active, None) => Ok(write(record, now, |next| {
            let ends_at = UnixMillis(now.0.saturating_add(overlap_millis));
            next.superseded = Some(Supersession { by: by.id, at: now, ends_at });
        })),
        (DeviceState::Active | DeviceState::Inactive, _) => Ok(Transition::Unchanged(record.clone())),
        (DeviceState::PendingActivation, _) => Err(RuleError::Pending),
        (DeviceState::Revoked, _) => Err(RuleError::Revoked),
        (DeviceState::Tombstone, _) => Err(RuleError::Tombstoned),
    }
}

/// The overlap is over: `ACTIVE` to `INACTIVE`.
pub fn end_supersession(record: &DeviceCertificate, now: UnixMillis) -> DeviceResult {
    match (record.state, record.superseded) {
        (DeviceState::Active, Some(superseded)) if superseded.ends_at <= now => {
            Ok(write(record, now, |next| next.state = DeviceState::Inactive))
        }
        (DeviceState::Active | DeviceState::Inactive, Some(_)) => Ok(Transition::Unchanged(record.clone())),
        (DeviceState::Active | DeviceState::Inactive, None) => Err(RuleError::NotSuperseded),
        (DeviceState::PendingActivation, _) => Err(RuleError::Pending),
        (DeviceState::Revoked, _) => Err(RuleError::Revoked),
        (DeviceState::Tombstone, _) => Err(RuleError::Tombstoned),
    }
}

/// A superseded certificate is good again, beside its successor; one that is also on hold stays so.
pub fn reinstate(record: &DeviceCertificate, ca: Option<&CaCertificate>, now: UnixMillis) -> DeviceResult {
    match (record.state, record.superseded) {
        (DeviceState::Revoked, _) => Err(RuleError::Revoked),
        (DeviceState::Tombstone, _) => Err(RuleError::Tombstoned),
        (DeviceState::PendingActivation, _) => Err(RuleError::Pending),
        (DeviceState::Active | DeviceState::Inactive, None) => Err(RuleError::NotSuperseded),
        (DeviceState::Active | DeviceState::Inactive, Some(_)) => {
            check_not_expired(record.not_after, now)?;
            check_ca_known(ca)?;
            Ok(write(record, now, |next| {
                next.superseded = None;
                // A hold is somebody else's word: it is lifted by itself.
                if next.revocation_reason.is_none() {
                    next.state = DeviceState::Active;
                }
            }))
        }
    }
}

/// Keeps a certificate out until [`release`]; its state stays.
pub fn quarantine(record: &DeviceCertificate, why: &str, now: UnixMillis) -> DeviceResult {
    match record.state {
        DeviceState::Active | DeviceState::PendingActivation => match record.quarantined {
            Some(_) => Ok(Transition::Unchanged(record.clone())),
            None => Ok(write(record, now, |next| {
                next.quarantined = Some(Quarantine { at: now, why: why.to_owned() });
            })),
        },
        state @ (DeviceState::Inactive | DeviceState::Revoked | DeviceState::Tombstone) => {
            Err(RuleError::CannotQuarantine(state))
        }
    }
}

/// Ends a quarantine.
pub fn release(record: &DeviceCertificate, now: UnixMillis) -> DeviceResult {
    match (record.state, &record.quarantined) {
        (DeviceState::Revoked, _) => Err(RuleError::Revoked),
        (DeviceState::Tombstone, _) => Err(RuleError::Tombstoned),
        (DeviceState::PendingActivation | DeviceState::Active | DeviceState::Inactive, None) => {
            Err(RuleError::NotQuarantined)
        }
        (DeviceState::PendingActivation | DeviceState::Active | DeviceState::Inactive, Some(_)) => {
            Ok(write(record, now, |next| next.quarantined = None))
        }
    }
}

/// Changes what an operator may change of a record in use.
pub fn change_device(record: &DeviceCertificate, patch: &DevicePatch, now: UnixMillis) -> DeviceResult {
    match record.state {
        DeviceState::Revoked => return Err(RuleError::Revoked),
        DeviceState::Tombstone => return Err(RuleError::Tombstoned),
        DeviceState::PendingActivation | DeviceState::Active | DeviceState::Inactive => {}
    }
    let mut next = record.clone();
    let DevicePatch { client_id, tenant, tags, attributes } = patch.clone();
    next.client_id = client_id.unwrap_or(next.client_id);
    next.tenant = tenant.unwrap_or(next.tenant);
    next.tags = tags.unwrap_or(next.tags);
    next.attributes = attributes.unwrap_or(next.attributes);
    if next == *record {
        return Ok(Transition::Unchanged(next));
    }
    Ok(write(record, now, |written| {
        written.client_id = next.client_id;
        written.tenant = next.tenant;
        written.tags = next.tags;
        written.attributes = next.attributes;
    }))
}

/// Another CA carries the certificate now: its own has gone or was renewed, and a path leads to this one.
pub fn reparent(record: &DeviceCertificate, ca: CertificateFingerprint, now: UnixMillis) -> DeviceResult {
    match record.state {
        DeviceState::Revoked => Err(RuleError::Revoked),
        DeviceState::Tombstone => Err(RuleError::Tombstoned),
        _ if record.ca_id == ca => Ok(Transition::Unchanged(record.clone())),
        DeviceState::PendingActivation | DeviceState::Active | DeviceState::Inactive => {
            Ok(write(record, now, |next| next.ca_id = ca))
        }
    }
}
