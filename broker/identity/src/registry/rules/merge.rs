//! What a record is after a backup was put back over it. Revocation wins: nothing that is revoked here or in
//! the backup can connect afterwards, whichever of the two is newer.

use super::{Transition, Write};
use crate::registry::{
    CaCertificate, CaState, CaTombstone, DeviceCertificate, DeviceState, RegistrationSource,
};
use crate::time::UnixMillis;

/// `current`: the stored record; `backup`: what the backup has.
pub fn merge_device(
    current: Option<&DeviceCertificate>,
    backup: &DeviceCertificate,
    now: UnixMillis,
) -> Transition<DeviceCertificate> {
    let Some(current) = current else {
        let record = DeviceCertificate { revision: 1, ..backup.clone() };
        return Transition::Write(Write { record, expected: None });
    };
    let mut next = newer(current, backup).clone();
    match [current, backup].into_iter().filter(|record| record.is_revoked()).min_by_key(|record| {
        // A compromised key outweighs other reasons; of two, what is here.
        !record.is_key_compromised()
    }) {
        Some(revoked) => {
            if next.state != DeviceState::Tombstone {
                next.state = DeviceState::Revoked;
            }
            next.revocation_reason.clone_from(&revoked.revocation_reason);
            next.revoked_at = revoked.revoked_at;
            next.pending_until = None;
        }
        // Deleted since the backup was made: it stays deleted.
        None if current.state == DeviceState::Tombstone => next = current.clone(),
        // Nothing registers itself past a tombstone: this was done where the tombstone had been lost.
        None if backup.state == DeviceState::Tombstone && current.source == RegistrationSource::Jit => {
            next = backup.clone();
        }
        None => {}
    }
    next.last_seen = current.last_seen.max(backup.last_seen);
    (next.revision, next.updated_at) = (current.revision, current.updated_at);
    if next == *current {
        return Transition::Unchanged(next);
    }
    (next.revision, next.updated_at) = (current.revision + 1, now);
    Transition::Write(Write { record: next, expected: Some(current.revision) })
}

fn newer<'a>(current: &'a DeviceCertificate, backup: &'a DeviceCertificate) -> &'a DeviceCertificate {
    match backup.updated_at > current.updated_at {
        true => backup,
        false => current,
    }
}

/// As [`merge_device`], for a CA. `buried`: what is left of it, if it was deleted here.
pub fn merge_ca(
    current: Option<&CaCertificate>,
    buried: Option<&CaTombstone>,
    backup: &CaCertificate,
    now: UnixMillis,
) -> Option<Transition<CaCertificate>> {
    let Some(current) = current else {
        // Deleted since the backup was made.
        if buried.is_some() {
            return None;
        }
        let record = CaCertificate { revision: 1, ..backup.clone() };
        return Some(Transition::Write(Write { record, expected: None }));
    };
    let mut next = match backup.updated_at > current.updated_at {
        true => backup.clone(),
        false => current.clone(),
    };
    if let Some(revoked) = [current, backup].into_iter().find(|ca| ca.state == CaState::Revoked) {
        next.state = CaState::Revoked;
        next.revocation_reason.clone_from(&revoked.revocation_reason);
        next.retiring_until = None;
        next.deactivated = None;
    }
    // The name is what metrics and people know it by here.
    next.name.clone_from(&current.name);
    (next.revision, next.updated_at) = (current.revision, current.updated_at);
    if next == *current {
        return Some(Transition::Unchanged(next));
    }
    (next.revision, next.updated_at) = (current.revision + 1, now);
    Some(Transition::Write(Write { record: next, expected: Some(current.revision) }))
}
