//! The records: device certificates, CAs, registration codes, bundles of servers, counts and settings, as JSON.
//! What their keys look like is in [`crate::keys`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::{
    CaCertificate, CaTombstone, DeviceCertificate, DevicePage, DeviceQuery, DeviceState, EventsPage,
    KvAnswer, KvError, KvOperation, RecordWrite, RegistrationCode, RegistryChanges, ServerBundle, Storage,
    StorageError,
};
use mqgate_identity::time::UnixMillis;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::{Batch, Space};
use crate::keys::{
    bundle_key, code_key, count_key, device_prefix, id_key, name_of_key, setting_key, trailing_id,
};
use crate::{FjallStorage, counts, index, keys, kv, outbox, query, seen};

impl Storage for FjallStorage {
    fn device_certificate(
        &self,
        id: &CertificateFingerprint,
    ) -> Result<Option<DeviceCertificate>, StorageError> {
        self.engine.check_usable()?;
        read_device(&self.engine.registry, id)
    }

    fn device_certificates(
        &self,
        after: Option<&CertificateFingerprint>,
        limit: usize,
    ) -> Result<Vec<DeviceCertificate>, StorageError> {
        self.engine.check_usable()?;
        let space = &self.engine.registry;
        let after = after.map(|id| id_key(b'd', id));
        let mut records = Vec::new();
        for entry in space.scan(b"d", after.as_deref(), name_of_key).take(limit) {
            let (key, payload) = entry?;
            let mut record = parse_device(&key, &payload)?;
            record.last_seen = seen::read(space, &record.id)?;
            records.push(record);
        }
        Ok(records)
    }

    fn certificates_of_device(&self, device_id: &str) -> Result<Vec<DeviceCertificate>, StorageError> {
        self.engine.check_usable()?;
        let space = &self.engine.registry;
        let prefix = device_prefix(device_id);
        let mut records = Vec::new();
        for entry in space.scan(&prefix, None, name_of_key) {
            let (key, _) = entry?;
            // Between the index and the record another writer may have moved it.
            let record = trailing_id(&key).map(|id| read_device(space, &id)).transpose()?.flatten();
            records.extend(record.filter(|record| record.device_id == device_id));
        }
        Ok(records)
    }

    fn device_ids(&self, after: Option<&str>, limit: usize) -> Result<Vec<String>, StorageError> {
        self.engine.check_usable()?;
        let space = &self.engine.registry;
        let mut ids: Vec<String> = Vec::new();
        // Behind every certificate of the device before.
        let mut from = after.map_or_else(|| b"i".to_vec(), |id| keys::after_prefix(&device_prefix(id)));
        while ids.len() < limit {
            let Some(key) = space.keys(&from, &keys::after_prefix(b"i"), name_of_key).next() else { break };
            let key = key?;
            let corrupt = || StorageError::Corrupt(name_of_key(&key));
            let name = key.get(1..key.len().saturating_sub(33)).ok_or_else(corrupt)?;
            let id = std::str::from_utf8(name).map_err(|_| corrupt())?.to_owned();
            from = keys::after_prefix(&device_prefix(&id));
            ids.push(id);
        }
        Ok(ids)
    }

    fn may_bind_client_ids(&self) -> bool {
        self.binds_client_ids.load(Ordering::Acquire)
    }

    fn query_device_certificates(&self, query: &DeviceQuery) -> Result<DevicePage, StorageError> {
        self.engine.check_usable()?;
        query::run(&self.engine, query)
    }

    fn commit(&self, changes: &RegistryChanges) -> Result<u64, StorageError> {
        self.commit_beside(changes, &mut || ())
    }

    fn commit_beside(
        &self,
        changes: &RegistryChanges,
        applied: &mut dyn FnMut(),
    ) -> Result<u64, StorageError> {
        let space = &self.engine.registry;
        // Before anybody can find it.
        if changes.writes.iter().any(binds_client_id) {
            self.binds_client_ids.store(true, Ordering::Release);
        }
        let moved = RefCell::default();
        let change = |batch: &mut Batch| {
            for write in &changes.writes {
                write_one(space, batch, write)?;
            }
            *moved.borrow_mut() = counts::moved(space, batch)?;
            outbox::append(space, batch, &changes.events, self.outbox_events)
        };
        let mut written = || {
            self.counts.add(&moved.borrow());
            applied();
        };
        self.engine.write_beside(space, change, &mut written)
    }

    fn touch_device_certificates(
        &self,
        seen: &[(CertificateFingerprint, UnixMillis)],
    ) -> Result<(), StorageError> {
        let space = &self.engine.registry;
        self.engine.write(space, |batch| {
            for (id, at) in seen {
                if space.has(&id_key(b'd', id))? {
                    seen::note(space, batch, id, *at)?;
                }
            }
            Ok(())
        })
    }

    fn events(&self, after: u64, limit: usize) -> Result<EventsPage, StorageError> {
        self.engine.check_usable()?;
        outbox::page(&self.engine, after, limit)
    }

    fn ca_certificates(&self) -> Result<Vec<CaCertificate>, StorageError> {
        self.engine.check_usable()?;
        self.engine
            .registry
            .scan(b"c", None, name_of_key)
            .map(|entry| entry.and_then(|(key, payload)| parse_ca(&key, &payload)))
            .collect()
    }

    fn ca_tombstones(&self) -> Result<Vec<CaTombstone>, StorageError> {
        self.engine.check_usable()?;
        let entries = self.engine.registry.scan(b"t", None, name_of_key);
        entries.map(|entry| entry.and_then(|(key, payload)| from_json(&key, &payload))).collect()
    }

    fn registration_codes(&self) -> Result<Vec<RegistrationCode>, StorageError> {
        self.engine.check_usable()?;
        let entries = self.engine.registry.scan(b"g", None, name_of_key);
        entries.map(|entry| entry.and_then(|(key, payload)| from_json(&key, &payload))).collect()
    }

    fn server_bundles(&self) -> Result<Vec<ServerBundle>, StorageError> {
        self.engine.check_usable()?;
        self.engine
            .registry
            .scan(b"b", None, name_of_key)
            .map(|entry| entry.and_then(|(key, payload)| parse_bundle(&key, &payload)))
            .collect()
    }

    fn put_server_bundle(&self, record: &ServerBundle, expected: Option<u64>) -> Result<(), StorageError> {
        let space = &self.engine.registry;
        let key = bundle_key(&record.namespace, &record.name);
        self.engine.write(space, |batch| {
            let stored = read_bundle(space, &key)?;
            check_revision(stored.map(|stored| stored.revision), expected, record.revision)?;
            batch.put(&key, &to_json(record)?);
            Ok(())
        })
    }

    fn remove_server_bundle(&self, namespace: &str, name: &str, expected: u64) -> Result<(), StorageError> {
        let space = &self.engine.registry;
        let key = bundle_key(namespace, name);
        self.engine.write(space, |batch| {
            let current = read_bundle(space, &key)?.map(|stored| stored.revision);
            if current != Some(expected) {
                return Err(StorageError::Conflict { current });
            }
            batch.remove(&key);
            Ok(())
        })
    }

    fn device_certificate_counts(
        &self,
    ) -> Result<BTreeMap<(CertificateFingerprint, DeviceState), u64>, StorageError> {
        self.engine.check_usable()?;
        Ok(self.counts.all())
    }

    fn setting(&self, key: &str) -> Result<Option<Vec<u8>>, StorageError> {
        self.engine.check_usable()?;
        let key = setting_key(key);
        Ok(self.engine.registry.get(&key, || name_of_key(&key))?.map(|value| value.to_vec()))
    }

    fn put_setting(&self, key: &str, value: &[u8]) -> Result<(), StorageError> {
        self.engine.write(&self.engine.registry, |batch| {
            batch.put(&setting_key(key), value);
            Ok(())
        })
    }

    fn kv(&self, plugin: &str, operation: KvOperation<'_>) -> Result<KvAnswer, KvError> {
        kv::run(&self.engine, plugin, operation)
    }

    fn kv_at_once(&self, plugin: &str, operation: KvOperation<'_>) -> Option<Result<KvAnswer, KvError>> {
        kv::run_at_once(&self.engine, plugin, operation)
    }
}

fn binds_client_id(write: &RecordWrite) -> bool {
    matches!(write, RecordWrite::Device { record, .. } if record.client_id.is_some())
}

fn check_revision(current: Option<u64>, expected: Option<u64>, next: u64) -> Result<(), StorageError> {
    if current != expected || expected.unwrap_or(0).checked_add(1) != Some(next) {
        return Err(StorageError::Conflict { current });
    }
    Ok(())
}

/// A record with when it was last seen.
pub(crate) fn read_device(
    space: &Space,
    id: &CertificateFingerprint,
) -> Result<Option<DeviceCertificate>, StorageError> {
    let Some(mut record) = read_plain(space, id)? else { return Ok(None) };
    record.last_seen = seen::read(space, id)?;
    Ok(Some(record))
}

/// A record without when it was last seen.
pub(crate) fn read_plain(
    space: &Space,
    id: &CertificateFingerprint,
) -> Result<Option<DeviceCertificate>, StorageError> {
    let key = id_key(b'd', id);
    space.get(&key, || name_of_key(&key))?.map(|payload| parse_device(&key, &payload)).transpose()
}

/// As stored, with what the batch makes of it.
fn device_in(
    space: &Space,
    batch: &Batch,
    id: &CertificateFingerprint,
) -> Result<Option<DeviceCertificate>, StorageError> {
    let key = id_key(b'd', id);
    let payload = get_in(space, batch, &key)?;
    payload.map(|payload| parse_device(&key, &payload)).transpose()
}

fn get_in(space: &Space, batch: &Batch, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
    match batch.change(key) {
        Some(change) => Ok(change.map(<[u8]>::to_vec)),
        None => Ok(space.get(key, || name_of_key(key))?.map(|payload| payload.to_vec())),
    }
}

/// The record itself, and when it was last seen beside it.
pub(crate) fn put_device_payload(
    space: &Space,
    batch: &mut Batch,
    record: &DeviceCertificate,
) -> Result<(), StorageError> {
    let mut plain = record.clone();
    plain.last_seen = None;
    batch.put(&id_key(b'd', &record.id), &to_json(&plain)?);
    match record.last_seen {
        Some(at) => seen::note(space, batch, &record.id, at),
        None if record.state == DeviceState::Tombstone => seen::forget(space, batch, &record.id),
        None => Ok(()),
    }
}

fn write_one(space: &Space, batch: &mut Batch, write: &RecordWrite) -> Result<(), StorageError> {
    match write {
        RecordWrite::Device { record, expected } => {
            let stored = device_in(space, batch, &record.id)?;
            check_revision(stored.as_ref().map(|stored| stored.revision), *expected, record.revision)?;
            put_device_payload(space, batch, record)?;
            index::update(space, batch, stored.as_ref(), Some(record))?;
            count(space, batch, stored.as_ref(), Some(record))
        }
        RecordWrite::RemoveDevice { id, expected } => {
            let stored = device_in(space, batch, id)?;
            check_is(stored.as_ref().map(|stored| stored.revision), *expected)?;
            batch.remove(&id_key(b'd', id));
            seen::forget(space, batch, id)?;
            index::update(space, batch, stored.as_ref(), None)?;
            count(space, batch, stored.as_ref(), None)
        }
        RecordWrite::Ca { record, expected } => {
            let stored = ca_in(space, batch, &record.id)?;
            check_revision(stored.map(|stored| stored.revision), *expected, record.revision)?;
            batch.put(&id_key(b'c', &record.id), &to_json(&**record)?);
            Ok(())
        }
        RecordWrite::RemoveCa { id, expected } => {
            check_is(ca_in(space, batch, id)?.map(|stored| stored.revision), *expected)?;
            batch.remove(&id_key(b'c', id));
            Ok(())
        }
        RecordWrite::CaTombstone { tombstone } => {
            batch.put(&id_key(b't', &tombstone.id), &to_json(&**tombstone)?);
            Ok(())
        }
        RecordWrite::RemoveCaTombstone { id } => {
            batch.remove(&id_key(b't', id));
            Ok(())
        }
        RecordWrite::Code { record, expected } => {
            let key = code_key(&record.code);
            let stored = get_in(space, batch, &key)?;
            let stored = stored.map(|payload| from_json::<RegistrationCode>(&key, &payload)).transpose()?;
            check_revision(stored.map(|stored| stored.revision), *expected, record.revision)?;
            batch.put(&key, &to_json(&**record)?);
            Ok(())
        }
        RecordWrite::RemoveCode { code } => {
            batch.remove(&code_key(code));
            Ok(())
        }
    }
}

/// Keeps the numbers of certificates per CA and state.
fn count(
    space: &Space,
    batch: &mut Batch,
    stored: Option<&DeviceCertificate>,
    next: Option<&DeviceCertificate>,
) -> Result<(), StorageError> {
    let place = |record: &DeviceCertificate| (record.ca_id, record.state);
    let (before, after) = (stored.map(place), next.map(place));
    if before == after {
        return Ok(());
    }
    if let Some((ca, state)) = before {
        change_count(space, batch, &ca, state, |count| count.checked_sub(1))?;
    }
    if let Some((ca, state)) = after {
        change_count(space, batch, &ca, state, |count| count.checked_add(1))?;
    }
    Ok(())
}

fn check_is(current: Option<u64>, expected: u64) -> Result<(), StorageError> {
    match current == Some(expected) {
        true => Ok(()),
        false => Err(StorageError::Conflict { current }),
    }
}

fn ca_in(
    space: &Space,
    batch: &Batch,
    id: &CertificateFingerprint,
) -> Result<Option<CaCertificate>, StorageError> {
    let key = id_key(b'c', id);
    get_in(space, batch, &key)?.map(|payload| parse_ca(&key, &payload)).transpose()
}

pub(crate) fn parse_device(key: &[u8], payload: &[u8]) -> Result<DeviceCertificate, StorageError> {
    let record: DeviceCertificate = from_json(key, payload)?;
    check_id(key, &record.id)?;
    Ok(record)
}

pub(crate) fn parse_ca(key: &[u8], payload: &[u8]) -> Result<CaCertificate, StorageError> {
    let record: CaCertificate = from_json(key, payload)?;
    check_id(key, &record.id)?;
    Ok(record)
}

fn read_bundle(space: &Space, key: &[u8]) -> Result<Option<ServerBundle>, StorageError> {
    space.get(key, || name_of_key(key))?.map(|payload| parse_bundle(key, &payload)).transpose()
}

fn parse_bundle(key: &[u8], payload: &[u8]) -> Result<ServerBundle, StorageError> {
    let record: ServerBundle = from_json(key, payload)?;
    match key == bundle_key(&record.namespace, &record.name) {
        true => Ok(record),
        false => Err(StorageError::Corrupt(format!("{}: it holds another's record", name_of_key(key)))),
    }
}

fn check_id(key: &[u8], id: &CertificateFingerprint) -> Result<(), StorageError> {
    match key.get(1..) == Some(&id.0) {
        true => Ok(()),
        false => Err(StorageError::Corrupt(format!("{}: it holds the record of {id}", name_of_key(key)))),
    }
}

pub(crate) fn from_json<T: DeserializeOwned>(key: &[u8], payload: &[u8]) -> Result<T, StorageError> {
    serde_json::from_slice(payload)
        .map_err(|error| StorageError::Corrupt(format!("{}: {error}", name_of_key(key))))
}

pub(crate) fn to_json<T: Serialize>(record: &T) -> Result<Vec<u8>, StorageError> {
    serde_json::to_vec(record)
        .map_err(|error| StorageError::Unavailable(format!("a record cannot be written as JSON: {error}")))
}

fn change_count(
    space: &Space,
    batch: &mut Batch,
    ca: &CertificateFingerprint,
    state: DeviceState,
    change: impl FnOnce(u64) -> Option<u64>,
) -> Result<(), StorageError> {
    let key = count_key(ca, state);
    let corrupt = || StorageError::Corrupt(name_of_key(&key));
    let count = match get_in(space, batch, &key)? {
        Some(payload) => u64::from_be_bytes(payload.try_into().map_err(|_| corrupt())?),
        None => 0,
    };
    batch.put(&key, &change(count).ok_or_else(corrupt)?.to_be_bytes());
    Ok(())
}
