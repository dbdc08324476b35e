//! How changes are made: stored and written down side by side, then known to everybody.

use std::sync::Arc;

use mqgate_identity::audit::{AuditEvent, Outcome};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::{DeviceCertificate, RecordWrite, RegistryChanges, Storage, StorageError};

use super::{Change, Flight, Registry, RegistryChange, RegistryError, changes, finished};
use crate::audit::{AuditLog, AuditRefused, Underway};

/// Changes that are on the disk.
pub(super) struct Stored {
    /// The number of the newest event.
    newest: u64,
    /// Their audit records.
    underway: Result<Underway, AuditRefused>,
}

impl Registry {
    /// Makes changes, all or none: stored, seen by every new lookup, made known to live connections, written down,
    /// in this order. Once begun it is finished, whether or not the caller still waits. The caller is in the
    /// flight of each certificate.
    pub(super) async fn commit(
        self: &Arc<Self>,
        flights: Vec<Flight>,
        changes: Vec<Change>,
    ) -> Result<(), RegistryError> {
        let this = Arc::clone(self);
        finished(async move {
            let done = this.commit_here(changes).await;
            drop(flights);
            done
        })
        .await
    }

    async fn commit_here(&self, changes: Vec<Change>) -> Result<(), RegistryError> {
        let (to_store, records) = written_for(&changes);
        let audit = Arc::clone(&self.audit);
        let written = self.blocking(move |storage| store_beside(storage, &audit, &to_store, records)).await;
        self.committed(&changes, written).await
    }

    /// What follows when changes were stored, or could not be.
    pub(super) async fn committed(
        &self,
        changes: &[Change],
        written: Result<Stored, StorageError>,
    ) -> Result<(), RegistryError> {
        for change in changes {
            let Some(id) = change.after.as_ref().or(change.before.as_ref()).map(|record| record.id) else {
                continue;
            };
            match &written {
                Ok(_) => self.cache.put(id, change.after.clone()),
                // Whatever is stored now, it is not known here.
                Err(_) => self.cache.forget(&id),
            }
        }
        let Stored { newest, underway } = written?;
        self.announce_newest(newest);
        for change in changes {
            self.count(change);
            match &change.after {
                Some(after) => match changes::barred(after).filter(|_| change.before.is_some()) {
                    Some(reason) => {
                        self.tell(RegistryChange::DeviceBarred { certificate: after.id, reason });
                    }
                    None => self.tell(RegistryChange::DeviceChanged { certificate: after.id }),
                },
                None => {
                    if let Some(before) = &change.before {
                        let reason = Reason::CertNotRegistered;
                        self.tell(RegistryChange::DeviceBarred { certificate: before.id, reason });
                    }
                }
            }
        }
        let safe = match underway {
            Ok(underway) => self.audit.safe(underway).await.map(drop),
            Err(refused) => Err(refused),
        };
        safe.map_err(unwritten)
    }

    /// Writes records and events in one step, and wakes who watches.
    pub(super) async fn store(&self, changes: RegistryChanges) -> Result<(), StorageError> {
        let newest = self.blocking(move |storage| storage.commit(&changes)).await?;
        self.announce_newest(newest);
        Ok(())
    }

    pub(super) fn announce_newest(&self, newest: u64) {
        self.newest_event.send_if_modified(|known| {
            let is_newer = newest > *known;
            *known = newest.max(*known);
            is_newer
        });
    }
}

/// What changes come to on the disk, and in the audit log.
pub(super) fn written_for(changes: &[Change]) -> (RegistryChanges, Vec<AuditEvent>) {
    let mut to_store = RegistryChanges::default();
    for change in changes {
        let expected = change.before.as_ref().map(|before| before.revision);
        match (&change.after, &change.before) {
            (Some(after), _) => to_store
                .writes
                .push(RecordWrite::Device { record: Box::new(DeviceCertificate::clone(after)), expected }),
            (None, Some(before)) => {
                to_store.writes.push(RecordWrite::RemoveDevice { id: before.id, expected: before.revision });
            }
            (None, None) => continue,
        }
        to_store.events.push(change.event.clone());
    }
    (to_store, changes.iter().map(|change| change.audit.clone()).collect())
}

/// Writes changes, their audit records on their way to the disk at the same time as they: who waits for both waits for the
/// slower one. Where the changes did not become safe, a record that says so follows those that tell of them.
pub(super) fn store_beside(
    storage: &dyn Storage,
    audit: &AuditLog,
    changes: &RegistryChanges,
    records: Vec<AuditEvent>,
) -> Result<Stored, StorageError> {
    let mut underway = None;
    let mut begin = || underway = Some(begin_all(audit, records.clone()));
    let newest = storage.commit_beside(changes, &mut begin);
    match (newest, underway) {
        (Ok(newest), Some(underway)) => Ok(Stored { newest, underway }),
        (Ok(newest), None) => Ok(Stored { newest, underway: begin_all(audit, records) }),
        (Err(error), None) => Err(error),
        (Err(error), Some(_)) => {
            for mut record in records {
                record.outcome = Outcome::Error;
                record.reason = Reason::RegistryUnavailable;
                audit.record(record.field("detail", format!("the change may not last: {error}")));
            }
            Err(error)
        }
    }
}

/// In order; when the last one is safe on the disk, those before are.
fn begin_all(audit: &AuditLog, mut records: Vec<AuditEvent>) -> Result<Underway, AuditRefused> {
    let Some(last) = records.pop() else { return Ok(Underway::over()) };
    records.into_iter().for_each(|record| audit.record(record));
    audit.begin_durable(last)
}

pub(super) fn unwritten(refused: AuditRefused) -> RegistryError {
    tracing::error!(%refused, "a change of the registry was made and is not in the audit log");
    RegistryError::Audit(refused)
}
