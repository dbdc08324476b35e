//! The seam to the disk.

use std::collections::BTreeMap;

use super::{
    CaCertificate, CaTombstone, DeviceCertificate, DevicePage, DeviceQuery, DeviceState, EventsPage,
    KvAnswer, KvError, KvOperation, NewEvent, RegistrationCode, ServerBundle,
};
use crate::certificate::CertificateFingerprint;
use crate::time::UnixMillis;

#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The record changed since it was read, or exists already.
    #[error("revision conflict: the record is at revision {current:?}")]
    Conflict { current: Option<u64> },
    /// Another certificate has the same issuer and serial number.
    #[error(
        "duplicate_serial: certificate {existing} has the same issuer and serial number: the CA gave one number \
         to two certificates; have it issue one with another"
    )]
    DuplicateSerial { existing: CertificateFingerprint },
    /// A certificate with the same key was revoked because the key is known to others.
    #[error(
        "key_compromised: the key is that of certificate {existing}, which was revoked because the key is \
         compromised; make a new key for the device"
    )]
    KeyCompromised { existing: CertificateFingerprint },
    #[error("the cursor is not one of this query: begin again without one")]
    BadCursor,
    #[error("the storage is unavailable: {0}")]
    Unavailable(String),
    #[error("the storage is corrupt: {0}")]
    Corrupt(String),
}

/// One record to be written, if the stored revision is the one expected (`None`: there must be no record). A
/// record that is put has the revision that follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordWrite {
    Device {
        record: Box<DeviceCertificate>,
        expected: Option<u64>,
    },
    /// Without a tombstone.
    RemoveDevice {
        id: CertificateFingerprint,
        expected: u64,
    },
    Ca {
        record: Box<CaCertificate>,
        expected: Option<u64>,
    },
    RemoveCa {
        id: CertificateFingerprint,
        expected: u64,
    },
    CaTombstone {
        tombstone: Box<CaTombstone>,
    },
    RemoveCaTombstone {
        id: CertificateFingerprint,
    },
    Code {
        record: Box<RegistrationCode>,
        expected: Option<u64>,
    },
    RemoveCode {
        code: String,
    },
}

/// What is written in one step: all of it or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegistryChanges {
    pub writes: Vec<RecordWrite>,
    pub events: Vec<NewEvent>,
}

/// The seam to the disk. Every call may block: callers in async code use a blocking thread. A write is
/// durable when it returns, unless it says otherwise.
pub trait Storage: Send + Sync {
    fn device_certificate(
        &self,
        id: &CertificateFingerprint,
    ) -> Result<Option<DeviceCertificate>, StorageError>;
    /// Records with an id above `after`, in order of id, at most `limit`.
    fn device_certificates(
        &self,
        after: Option<&CertificateFingerprint>,
        limit: usize,
    ) -> Result<Vec<DeviceCertificate>, StorageError>;
    /// Every certificate registered for a device of this id, in whatever trust domain.
    fn certificates_of_device(&self, device_id: &str) -> Result<Vec<DeviceCertificate>, StorageError>;
    /// Ids of devices above `after`, in order, at most `limit`; those whose certificates are deleted included.
    fn device_ids(&self, after: Option<&str>, limit: usize) -> Result<Vec<String>, StorageError>;
    /// Whether a certificate may be bound to a client id: if not, none is. Never blocks.
    fn may_bind_client_ids(&self) -> bool {
        true
    }
    /// A page of the records that a query is for, by the most selective index.
    fn query_device_certificates(&self, query: &DeviceQuery) -> Result<DevicePage, StorageError>;
    /// Makes a change; answers the number of the last event in the outbox after it.
    fn commit(&self, changes: &RegistryChanges) -> Result<u64, StorageError>;
    /// The same; calls `applied` when nothing but the disk can refuse the change any more, and before it is safe there, so
    /// that what goes with it can be made safe at the same time. Not called where nothing is written.
    fn commit_beside(
        &self,
        changes: &RegistryChanges,
        applied: &mut dyn FnMut(),
    ) -> Result<u64, StorageError> {
        let newest = self.commit(changes)?;
        applied();
        Ok(newest)
    }
    /// Notes when certificates were last seen. No revision changes, and unknown ones are passed over.
    fn touch_device_certificates(
        &self,
        seen: &[(CertificateFingerprint, UnixMillis)],
    ) -> Result<(), StorageError>;
    /// Events with a number above `after`, in order, at most `limit`.
    fn events(&self, after: u64, limit: usize) -> Result<EventsPage, StorageError>;
    fn ca_certificates(&self) -> Result<Vec<CaCertificate>, StorageError>;
    fn ca_tombstones(&self) -> Result<Vec<CaTombstone>, StorageError>;
    fn registration_codes(&self) -> Result<Vec<RegistrationCode>, StorageError>;
    fn server_bundles(&self) -> Result<Vec<ServerBundle>, StorageError>;
    fn put_server_bundle(&self, record: &ServerBundle, expected: Option<u64>) -> Result<(), StorageError>;
    fn remove_server_bundle(&self, namespace: &str, name: &str, expected: u64) -> Result<(), StorageError>;
    /// Number of device certificates per CA and state. Kept in memory: never blocks.
    fn device_certificate_counts(
        &self,
    ) -> Result<BTreeMap<(CertificateFingerprint, DeviceState), u64>, StorageError>;
    /// A small value of the broker itself (the admin token's hash, what plugins are loaded).
    fn setting(&self, key: &str) -> Result<Option<Vec<u8>>, StorageError>;
    fn put_setting(&self, key: &str, value: &[u8]) -> Result<(), StorageError>;
    /// One plugin's key-value space; see [`KvOperation`]. The end of the process does not lose what was written; it need
    /// not be on the disk when this returns, and is within about a second.
    fn kv(&self, plugin: &str, operation: KvOperation<'_>) -> Result<KvAnswer, KvError>;
    /// The same, where it takes about as long as handing it to another thread would. `None`, and nothing done: it may wait
    /// for somebody.
    fn kv_at_once(&self, _plugin: &str, _operation: KvOperation<'_>) -> Option<Result<KvAnswer, KvError>> {
        None
    }

    /// Writes `record`, without an event.
    fn put_device_certificate(
        &self,
        record: &DeviceCertificate,
        expected: Option<u64>,
    ) -> Result<(), StorageError> {
        self.commit(&RegistryChanges::write(RecordWrite::Device {
            record: Box::new(record.clone()),
            expected,
        }))
        .map(drop)
    }

    fn put_ca_certificate(&self, record: &CaCertificate, expected: Option<u64>) -> Result<(), StorageError> {
        self.commit(&RegistryChanges::write(RecordWrite::Ca { record: Box::new(record.clone()), expected }))
            .map(drop)
    }

    fn remove_ca_certificate(&self, id: &CertificateFingerprint, expected: u64) -> Result<(), StorageError> {
        self.commit(&RegistryChanges::write(RecordWrite::RemoveCa { id: *id, expected })).map(drop)
    }
}

impl RegistryChanges {
    pub fn write(write: RecordWrite) -> Self {
        Self { writes: vec![write], events: Vec::new() }
    }
}
