//! Device certificates, CAs, bundles of servers, counts and settings.
//!
//! Keys: `d`+id, `i`+device id+NUL+id (index), `n`+CA id+state (count), `c`+id, `b`+namespace+NUL+name, `s`+name. Records are JSON.

use std::collections::BTreeMap;

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::{
    CaCertificate, DeviceCertificate, DeviceState, KvAnswer, KvError, KvOperation, ServerBundle, Storage,
    StorageError,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::FjallStorage;
use crate::engine::{Batch, Space};
use crate::kv;

const STATES: [(u8, DeviceState); 5] = [
    (b'p', DeviceState::PendingActivation),
    (b'a', DeviceState::Active),
    (b'i', DeviceState::Inactive),
    (b'r', DeviceState::Revoked),
    (b't', DeviceState::Tombstone),
];

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
        let after = after.map(|id| id_key(b'd', id));
        self.engine
            .registry
            .scan(b"d", after.as_deref(), name_of_key)
            .take(limit)
            .map(|entry| entry.and_then(|(key, payload)| parse_device(&key, &payload)))
            .collect()
    }

    fn certificates_of_device(&self, device_id: &str) -> Result<Vec<DeviceCertificate>, StorageError> {
        self.engine.check_usable()?;
        let prefix = index_prefix(device_id);
        let mut records = Vec::new();
        for entry in self.engine.registry.scan(&prefix, None, name_of_key) {
            let (key, _) = entry?;
            let id = key.get(prefix.len()..).and_then(|id| id.try_into().ok()).map(CertificateFingerprint);
            // Between the index and the record another writer may have moved it.
            let record = id.map(|id| read_device(&self.engine.registry, &id)).transpose()?.flatten();
            records.extend(record.filter(|record| record.device_id == device_id));
        }
        Ok(records)
    }

    fn put_device_certificate(
        &self,
        record: &DeviceCertificate,
        expected: Option<u64>,
    ) -> Result<(), StorageError> {
        let space = &self.engine.registry;
        self.engine.write(space, |batch| {
            let stored = read_device(space, &record.id)?;
            check_revision(stored.as_ref().map(|stored| stored.revision), expected, record.revision)?;
            batch.put(&id_key(b'd', &record.id), &to_json(record)?);
            let same_device = stored.as_ref().is_some_and(|stored| stored.device_id == record.device_id);
            if !same_device {
                if let Some(stored) = &stored {
                    batch.remove(&index_key(&stored.device_id, &record.id));
                }
                batch.put(&index_key(&record.device_id, &record.id), b"");
            }
            let counted = stored.as_ref().map(|stored| (stored.ca_id, stored.state));
            let counts = (record.ca_id, record.state);
            if counted != Some(counts) {
                if let Some((ca, state)) = counted {
                    change_count(space, batch, &ca, state, |count| count.checked_sub(1))?;
                }
                change_count(space, batch, &counts.0, counts.1, |count| count.checked_add(1))?;
            }
            Ok(())
        })
    }

    fn ca_certificates(&self) -> Result<Vec<CaCertificate>, StorageError> {
        self.engine.check_usable()?;
        self.engine
            .registry
            .scan(b"c", None, name_of_key)
            .map(|entry| entry.and_then(|(key, payload)| parse_ca(&key, &payload)))
            .collect()
    }

    fn put_ca_certificate(&self, record: &CaCertificate, expected: Option<u64>) -> Result<(), StorageError> {
        let space = &self.engine.registry;
        self.engine.write(space, |batch| {
            let stored = read_ca(space, &record.id)?;
            check_revision(stored.map(|stored| stored.revision), expected, record.revision)?;
            batch.put(&id_key(b'c', &record.id), &to_json(record)?);
            Ok(())
        })
    }

    fn remove_ca_certificate(&self, id: &CertificateFingerprint, expected: u64) -> Result<(), StorageError> {
        let space = &self.engine.registry;
        self.engine.write(space, |batch| {
            let current = read_ca(space, id)?.map(|stored| stored.revision);
            if current != Some(expected) {
                return Err(StorageError::Conflict { current });
            }
            batch.remove(&id_key(b'c', id));
            Ok(())
        })
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
        let mut counts = BTreeMap::new();
        for entry in self.engine.registry.scan(b"n", None, name_of_key) {
            let (key, payload) = entry?;
            let corrupt = || StorageError::Corrupt(name_of_key(&key));
            let (ca, state) = key[1..].split_at_checked(32).ok_or_else(corrupt)?;
            let ca = CertificateFingerprint(ca.try_into().map_err(|_| corrupt())?);
            let state = STATES.iter().find(|known| state == [known.0]).ok_or_else(corrupt)?.1;
            let count = u64::from_be_bytes(payload.try_into().map_err(|_| corrupt())?);
            if count > 0 {
                counts.insert((ca, state), count);
            }
        }
        Ok(counts)
    }

    fn setting(&self, key: &str) -> Result<Option<Vec<u8>>, StorageError> {
        self.engine.check_usable()?;
        let key = setting_key(key);
        self.engine.registry.get(&key, || name_of_key(&key))
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
}

fn id_key(kind: u8, id: &CertificateFingerprint) -> Vec<u8> {
    [&[kind][..], &id.0].concat()
}

/// Names of namespaces and bundles have no control characters.
fn bundle_key(namespace: &str, name: &str) -> Vec<u8> {
    [b"b", namespace.as_bytes(), &[0], name.as_bytes()].concat()
}

fn setting_key(name: &str) -> Vec<u8> {
    [b"s", name.as_bytes()].concat()
}

/// The rules forbid control characters in device ids, so that NUL ends one.
fn index_prefix(device_id: &str) -> Vec<u8> {
    [b"i", device_id.as_bytes(), &[0]].concat()
}

fn index_key(device_id: &str, id: &CertificateFingerprint) -> Vec<u8> {
    [&index_prefix(device_id)[..], &id.0].concat()
}

fn count_key(ca: &CertificateFingerprint, state: DeviceState) -> Vec<u8> {
    let letter = match state {
        DeviceState::PendingActivation => b'p',
        DeviceState::Active => b'a',
        DeviceState::Inactive => b'i',
        DeviceState::Revoked => b'r',
        DeviceState::Tombstone => b't',
    };
    [b"n", &ca.0[..], &[letter]].concat()
}

/// For messages: what a key stands for.
fn name_of_key(key: &[u8]) -> String {
    let rest = key.get(1..).unwrap_or_default();
    match key.first() {
        Some(b'd') => format!("device certificate {}", hex::encode(rest)),
        Some(b'c') => format!("CA certificate {}", hex::encode(rest)),
        Some(b'i') => format!("index of devices at \"{}\"", rest.escape_ascii()),
        Some(b'n') => format!("count of certificates of CA {}", hex::encode(rest.get(..32).unwrap_or(rest))),
        Some(b'b') => format!("server certificate \"{}\"", rest.escape_ascii()),
        Some(b's') => format!("setting \"{}\"", rest.escape_ascii()),
        _ => format!("key \"{}\"", key.escape_ascii()),
    }
}

fn check_revision(current: Option<u64>, expected: Option<u64>, next: u64) -> Result<(), StorageError> {
    if current != expected || expected.unwrap_or(0).checked_add(1) != Some(next) {
        return Err(StorageError::Conflict { current });
    }
    Ok(())
}

fn read_device(
    space: &Space,
    id: &CertificateFingerprint,
) -> Result<Option<DeviceCertificate>, StorageError> {
    let key = id_key(b'd', id);
    space.get(&key, || name_of_key(&key))?.map(|payload| parse_device(&key, &payload)).transpose()
}

fn read_ca(space: &Space, id: &CertificateFingerprint) -> Result<Option<CaCertificate>, StorageError> {
    let key = id_key(b'c', id);
    space.get(&key, || name_of_key(&key))?.map(|payload| parse_ca(&key, &payload)).transpose()
}

fn parse_device(key: &[u8], payload: &[u8]) -> Result<DeviceCertificate, StorageError> {
    let record: DeviceCertificate = from_json(key, payload)?;
    check_id(key, &record.id)?;
    Ok(record)
}

fn parse_ca(key: &[u8], payload: &[u8]) -> Result<CaCertificate, StorageError> {
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

fn from_json<T: DeserializeOwned>(key: &[u8], payload: &[u8]) -> Result<T, StorageError> {
    serde_json::from_slice(payload)
        .map_err(|error| StorageError::Corrupt(format!("{}: {error}", name_of_key(key))))
}

fn to_json<T: Serialize>(record: &T) -> Result<Vec<u8>, StorageError> {
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
    let count = match space.get(&key, || name_of_key(&key))? {
        Some(payload) => u64::from_be_bytes(payload.try_into().map_err(|_| corrupt())?),
        None => 0,
    };
    batch.put(&key, &change(count).ok_or_else(corrupt)?.to_be_bytes());
    Ok(())
}
