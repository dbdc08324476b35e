//! What a record comes to today: conditions that are never stored, and whether its certificate may connect.

use crate::evaluation::PathPolicy;
use crate::reason::Reason;
use crate::registry::{
    CaCertificate, CaState, Condition, DeviceCertificate, DeviceState, Effective, EffectiveFilter,
};
use crate::time::UnixMillis;

/// Every condition that can be seen from the record, its CA and the clock.
pub fn conditions(
    record: &DeviceCertificate,
    ca: Option<&CaCertificate>,
    policy: &PathPolicy,
    now: UnixMillis,
) -> Vec<Condition> {
    let seconds = now.seconds().0;
    let not_yet = record.not_before.0.saturating_sub(seconds) > policy.clock_skew_seconds();
    let expired = seconds.saturating_sub(record.not_after.0) > policy.expiry_skew_seconds();
    let of_ca = match ca {
        None => Some(Condition::CaMissing),
        Some(ca) if ca.state == CaState::Revoked => Some(Condition::CaRevoked),
        Some(ca) if !ca.carries_connections() => Some(Condition::CaInactive),
        Some(_) => None,
    };
    let superseded = record.superseded.is_some_and(|superseded| superseded.ends_at <= now);
    [
        not_yet.then_some(Condition::NotYetValid),
        expired.then_some(Condition::Expired),
        of_ca,
        superseded.then_some(Condition::Superseded),
        record.quarantined.is_some().then_some(Condition::Quarantined),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Whether a registered certificate may connect now: its state, and no condition. What an operator decided is
/// said before what time or a CA did.
pub fn effective(
    record: &DeviceCertificate,
    ca: Option<&CaCertificate>,
    policy: &PathPolicy,
    now: UnixMillis,
) -> Result<(), Reason> {
    let conditions = conditions(record, ca, policy, now);
    match record.state {
        DeviceState::Tombstone => return Err(Reason::CertTombstoned),
        DeviceState::Revoked => return Err(Reason::CertRevoked),
        _ if conditions.contains(&Condition::Quarantined) => return Err(Reason::CertQuarantined),
        _ if conditions.contains(&Condition::Superseded) => return Err(Reason::CertSuperseded),
        DeviceState::PendingActivation => return Err(Reason::CertPending),
        DeviceState::Inactive => return Err(Reason::CertInactive),
        DeviceState::Active => {}
    }
    let reason = |condition| match condition {
        Condition::CaMissing | Condition::CaInactive | Condition::CaRevoked => (0, Reason::CaInactive),
        Condition::NotYetValid => (1, Reason::CertNotYetValid),
        Condition::Expired => (2, Reason::CertExpired),
        Condition::CrlRevoked => (3, Reason::CertRevokedCrl),
        Condition::Superseded => (4, Reason::CertSuperseded),
        Condition::BindingConflict => (5, Reason::ClientIdMismatch),
        Condition::Quarantined => (6, Reason::CertQuarantined),
    };
    match conditions.into_iter().map(reason).min_by_key(|reason| reason.0) {
        Some((_, reason)) => Err(reason),
        None => Ok(()),
    }
}

/// Whether a record passes the filter.
pub fn is_wanted(record: &DeviceCertificate, filter: &EffectiveFilter) -> bool {
    let ca = filter.cas.iter().find(|ca| ca.id == record.ca_id);
    let verdict = || effective(record, ca, &filter.policy, filter.now);
    match filter.wanted {
        Effective::Ok => verdict().is_ok(),
        Effective::Barred => verdict().is_err(),
        Effective::Condition(condition) => {
            conditions(record, ca, &filter.policy, filter.now).contains(&condition)
        }
    }
}
