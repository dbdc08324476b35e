//! The rules of the registry, as pure functions: a record and an event give the record to write, or an error
//! that says why not and what to do. They write nothing: the caller stores a [`Write`] with compare-and-set,
//! and on conflict reads again and asks again.

mod ca;
mod code;
mod condition;
mod device;
mod error;
mod merge;
mod registration;

pub use self::ca::{
    CaPatch, Cascade, KnownCa, NewCa, Proof, activate_ca, add_ca, bury_ca, change_ca, check_delete_ca,
    check_remove_ca, deactivate_ca, end_retirement, register_ca, retire_ca, revoke_ca, verify_ca,
};
pub use self::code::{check_code, check_verification, new_code, use_code};
pub use self::condition::{conditions, effective, is_wanted};
pub use self::device::{
    DevicePatch, Force, TOMBSTONE_SKEW_SECONDS, activate, change_device, deactivate, delete,
    end_supersession, is_spent_tombstone, lapse, purge, quarantine, reinstate, reject, release, reparent,
    revoke, supersede,
};
pub use self::error::{CaCondition, RULE_CODES, RuleError};
pub use self::merge::{merge_ca, merge_device};
pub use self::registration::{
    KnownDevices, NewDevice, OnTombstone, PENDING_TTL_MILLIS, check_auto_registration, register_new,
    renewed_by,
};
pub use super::RevocationReason;
use super::{CaCertificate, CaState, DeviceCertificate};
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

    /// What has to be written, if anything.
    pub fn write(self) -> Option<Write<R>> {
        match self {
            Self::Unchanged(_) => None,
            Self::Write(write) => Some(write),
        }
    }
}

type DeviceResult = Result<Transition<DeviceCertificate>, RuleError>;
type CaResult = Result<Transition<CaCertificate>, RuleError>;

fn check_not_expired(not_after: UnixSeconds, now: UnixMillis) -> Result<(), RuleError> {
    match now.seconds() > not_after {
        true => Err(RuleError::Expired { not_after }),
        false => Ok(()),
    }
}

/// The CA's state, as far as it stands in the way of its certificates.
fn ca_condition(ca: Option<&CaCertificate>) -> Option<CaCondition> {
    match ca.map(|ca| ca.state) {
        Some(CaState::Active) => None,
        Some(CaState::PendingActivation) => Some(CaCondition::Pending),
        Some(CaState::Inactive) => Some(CaCondition::Inactive),
        Some(CaState::Retiring) => Some(CaCondition::Retiring),
        Some(CaState::Revoked) => Some(CaCondition::Revoked),
        None => Some(CaCondition::Missing),
    }
}

/// For what an operator does by hand: the CA may be out of use, but it must be one.
fn check_ca_known(ca: Option<&CaCertificate>) -> Result<(), RuleError> {
    match ca_condition(ca) {
        None | Some(CaCondition::Inactive | CaCondition::Retiring) => Ok(()),
        Some(condition @ (CaCondition::Missing | CaCondition::Pending | CaCondition::Revoked)) => {
            Err(RuleError::Ca(condition))
        }
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

fn write_ca(
    record: &CaCertificate,
    now: UnixMillis,
    change: impl FnOnce(&mut CaCertificate),
) -> Transition<CaCertificate> {
    let mut next = record.clone();
    next.revision += 1;
    next.updated_at = now;
    change(&mut next);
    Transition::Write(Write { record: next, expected: Some(record.revision) })
}
