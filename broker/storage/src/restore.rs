//! Puts a backup back into a registry in use. What is revoked or deleted here stays so, and what is revoked in the
//! backup becomes so, whoever has a key that the backup knows to be compromised included: revocation wins.

use mqgate_identity::registry::rules::{Transition, merge_ca, merge_device, revoke};
use mqgate_identity::registry::{
    DeviceCertificate, DeviceQuery, DeviceState, EventKind, NewEvent, RecordWrite, RegistryChanges,
    RevocationReason, Storage, StorageError,
};
use mqgate_identity::time::UnixMillis;

/// Records read and written in one step.
const STEP: usize = 500;
/// Times that a record is read again because somebody else changed it.
const TRIES: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RestoreReport {
    pub added: u64,
    pub changed: u64,
    /// As they were, because nothing differs or what is here wins.
    pub kept: u64,
    /// Not put back: another certificate has the issuer and serial number, or the key is compromised.
    pub refused: u64,
}

/// Merges every CA and device certificate of `backup` into `current`.
pub fn restore(
    current: &dyn Storage,
    backup: &dyn Storage,
    actor: &str,
    now: UnixMillis,
) -> Result<RestoreReport, StorageError> {
    let mut report = RestoreReport::default();
    restore_cas(current, backup, actor, now, &mut report)?;
    let mut after = None;
    loop {
        let page = backup.device_certificates(after.as_ref(), STEP)?;
        restore_devices(current, &page, actor, now, &mut report)?;
        for record in page.iter().filter(|record| record.is_key_compromised()) {
            revoke_same_key(current, record, actor, now, &mut report)?;
        }
        match page.last() {
            Some(last) if page.len() == STEP => after = Some(last.id),
            Some(_) | None => return Ok(report),
        }
    }
}

/// In one step if it can be; where one record stands in the way, each by itself.
fn restore_devices(
    current: &dyn Storage,
    page: &[DeviceCertificate],
    actor: &str,
    now: UnixMillis,
    report: &mut RestoreReport,
) -> Result<(), StorageError> {
    let mut counted = *report;
    let mut changes = RegistryChanges::default();
    for record in page {
        merge(current, record, actor, now, &mut changes, &mut counted)?;
    }
    match current.commit(&changes) {
        Ok(_) => {
            *report = counted;
            return Ok(());
        }
        Err(error) if is_about_a_record(&error) => {}
        Err(error) => return Err(error),
    }
    for record in page {
        for left in (0..TRIES).rev() {
            let mut counted = *report;
            let mut changes = RegistryChanges::default();
            merge(current, record, actor, now, &mut changes, &mut counted)?;
            match current.commit(&changes) {
                Ok(_) => *report = counted,
                Err(StorageError::Conflict { .. }) if left > 0 => continue,
                Err(StorageError::DuplicateSerial { .. } | StorageError::KeyCompromised { .. }) => {
                    report.refused += 1;
                }
                Err(error) => return Err(error),
            }
            break;
        }
    }
    Ok(())
}

fn is_about_a_record(error: &StorageError) -> bool {
    match error {
        StorageError::Conflict { .. }
        | StorageError::DuplicateSerial { .. }
        | StorageError::KeyCompromised { .. } => true,
        StorageError::BadCursor | StorageError::Unavailable(_) | StorageError::Corrupt(_) => false,
    }
}

/// Revokes what is in use here with a key of which the backup says that it is compromised. Where the registry was
/// lost, a certificate with it may have been registered since.
fn revoke_same_key(
    current: &dyn Storage,
    compromised: &DeviceCertificate,
    actor: &str,
    now: UnixMillis,
    report: &mut RestoreReport,
) -> Result<(), StorageError> {
    let reason = compromised.revocation_reason.as_deref().and_then(RevocationReason::parse);
    let query = DeviceQuery {
        spki_sha256: Some(compromised.spki_sha256.clone()),
        states: vec![DeviceState::PendingActivation, DeviceState::Active, DeviceState::Inactive],
        ..DeviceQuery::default()
    };
    for left in (0..TRIES).rev() {
        let (mut changes, mut cursor) = (RegistryChanges::default(), None);
        loop {
            let page = current.query_device_certificates(&DeviceQuery { cursor, ..query.clone() })?;
            for record in &page.records {
                let revoked = revoke(record, reason.unwrap_or_default(), None, now);
                let Ok(Transition::Write(write)) = revoked else { continue };
                let kind = EventKind::CertRevoked;
                changes.events.push(NewEvent::device(kind, Some(record.state), &write.record, actor, now));
                let record = Box::new(write.record);
                changes.writes.push(RecordWrite::Device { record, expected: write.expected });
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        if changes.writes.is_empty() {
            return Ok(());
        }
        match current.commit(&changes) {
            Ok(_) => {
                report.changed += changes.writes.len() as u64;
                return Ok(());
            }
            Err(StorageError::Conflict { .. }) if left > 0 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Adds what has to be written for one record.
fn merge(
    current: &dyn Storage,
    record: &DeviceCertificate,
    actor: &str,
    now: UnixMillis,
    changes: &mut RegistryChanges,
    report: &mut RestoreReport,
) -> Result<(), StorageError> {
    let stored = current.device_certificate(&record.id)?;
    let Transition::Write(write) = merge_device(stored.as_ref(), record, now) else {
        report.kept += 1;
        return Ok(());
    };
    let from = stored.as_ref().map(|stored| stored.state);
    let kind = match (from, write.record.state) {
        (None, _) => EventKind::CertRegistered,
        (Some(from), DeviceState::Revoked) if from != DeviceState::Revoked => EventKind::CertRevoked,
        (Some(from), DeviceState::Tombstone) if from != DeviceState::Tombstone => EventKind::CertDeleted,
        (Some(_), _) => EventKind::CertChanged,
    };
    match from {
        None => report.added += 1,
        Some(_) => report.changed += 1,
    }
    changes.events.push(NewEvent::device(kind, from, &write.record, actor, now));
    changes.writes.push(RecordWrite::Device { record: Box::new(write.record), expected: write.expected });
    Ok(())
}

fn restore_cas(
    current: &dyn Storage,
    backup: &dyn Storage,
    actor: &str,
    now: UnixMillis,
    report: &mut RestoreReport,
) -> Result<(), StorageError> {
    let (known, buried) = (current.ca_certificates()?, current.ca_tombstones()?);
    for ca in backup.ca_certificates()? {
        let stored = known.iter().find(|known| known.id == ca.id);
        let tombstone = buried.iter().find(|buried| buried.id == ca.id);
        let write = match merge_ca(stored, tombstone, &ca, now) {
            None | Some(Transition::Unchanged(_)) => {
                report.kept += 1;
                continue;
            }
            Some(Transition::Write(write)) => write,
        };
        let from = stored.map(|stored| stored.state);
        let kind = if from.is_none() { EventKind::CaRegistered } else { EventKind::CaChanged };
        let event = NewEvent::ca(kind, from, &write.record, actor, now);
        let record = RecordWrite::Ca { record: Box::new(write.record), expected: write.expected };
        current.commit(&RegistryChanges { writes: vec![record], events: vec![event] })?;
        match from {
            None => report.added += 1,
            Some(_) => report.changed += 1,
        }
    }
    // A CA that the backup knows as revoked and deleted stays so here, too.
    for tombstone in backup.ca_tombstones()? {
        let is_known = buried.iter().any(|buried| buried.id == tombstone.id);
        if !is_known && tombstone.revocation_reason.is_some() {
            let write = RecordWrite::CaTombstone { tombstone: Box::new(tombstone) };
            current.commit(&RegistryChanges::write(write))?;
        }
    }
    Ok(())
}
