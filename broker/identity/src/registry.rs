//! The registry of CAs and device certificates: records, states, transitions, and the seam to the disk.

mod identifier;
pub mod rules;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::identifier::{IdentifierError, MAX_DEVICE_ID_BYTES, check_device_id, is_topic_safe};
use crate::certificate::CertificateFingerprint;
use crate::time::{UnixMillis, UnixSeconds};

/// A device certificate's stored state. Whether it may connect also depends on conditions that are never
/// stored: validity, the state of its CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DeviceState {
    PendingActivation,
    Active,
    Inactive,
    /// Terminal.
    Revoked,
    /// Deleted, and remembered so that auto-registration cannot resurrect it.
    Tombstone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CaState {
    Active,
    Inactive,
    /// Terminal.
    Revoked,
}

/// How a record came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegistrationSource {
    /// By hand: command line or API.
    Api,
    /// At the device's first connection.
    Jit,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCertificate {
    /// SHA-256 of the DER: the primary key.
    pub id: CertificateFingerprint,
    pub state: DeviceState,
    pub device_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The only client id this certificate may use, if bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Trust anchor it was registered under.
    pub ca_id: CertificateFingerprint,
    /// RFC 4514 rendering.
    pub subject: String,
    pub issuer: String,
    /// Hex, big-endian.
    pub serial: String,
    /// Hex.
    pub spki_sha256: String,
    pub not_before: UnixSeconds,
    pub not_after: UnixSeconds,
    pub source: RegistrationSource,
    pub registered_at: UnixMillis,
    pub updated_at: UnixMillis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<UnixMillis>,
    /// RFC 5280 reason name, when revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation_reason: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Rises by one with every write; 1 for a new record.
    pub revision: u64,
    pub pem: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaCertificate {
    /// SHA-256 of the DER.
    pub id: CertificateFingerprint,
    /// Unique; the `ca` label of metrics.
    pub name: String,
    pub state: CaState,
    pub subject: String,
    pub not_before: UnixSeconds,
    pub not_after: UnixSeconds,
    pub created_at: UnixMillis,
    pub updated_at: UnixMillis,
    pub revision: u64,
    pub pem: String,
}

/// A server's certificate chain and private key, kept under a name in a namespace.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerBundle {
    pub namespace: String,
    pub name: String,
    /// A bundle that is not enabled keeps its places in listeners and is served by none.
    pub enabled: bool,
    pub created_at: UnixMillis,
    pub updated_at: UnixMillis,
    pub revision: u64,
    /// The server's own certificate, then its issuers'.
    pub chain_pem: String,
    pub key_pem: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// Without the secrets.
impl std::fmt::Debug for ServerBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerBundle")
            .field("namespace", &self.namespace)
            .field("name", &self.name)
            .field("enabled", &self.enabled)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The record changed since it was read, or exists already.
    #[error("revision conflict: the record is at revision {current:?}")]
    Conflict { current: Option<u64> },
    #[error("the storage is unavailable: {0}")]
    Unavailable(String),
    #[error("the storage is corrupt: {0}")]
    Corrupt(String),
}

/// The seam to the disk. Every call may block: callers in async code use a blocking thread. A write is
/// durable when it returns.
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
    /// Every certificate registered for a device.
    fn certificates_of_device(&self, device_id: &str) -> Result<Vec<DeviceCertificate>, StorageError>;
    /// Writes `record` if the stored revision is `expected` (`None`: there must be no record).
    /// `record.revision` must be `expected + 1`, or 1.
    fn put_device_certificate(
        &self,
        record: &DeviceCertificate,
        expected: Option<u64>,
    ) -> Result<(), StorageError>;
    fn ca_certificates(&self) -> Result<Vec<CaCertificate>, StorageError>;
    fn put_ca_certificate(&self, record: &CaCertificate, expected: Option<u64>) -> Result<(), StorageError>;
    fn remove_ca_certificate(&self, id: &CertificateFingerprint, expected: u64) -> Result<(), StorageError>;
    fn server_bundles(&self) -> Result<Vec<ServerBundle>, StorageError>;
    fn put_server_bundle(&self, record: &ServerBundle, expected: Option<u64>) -> Result<(), StorageError>;
    fn remove_server_bundle(&self, namespace: &str, name: &str, expected: u64) -> Result<(), StorageError>;
    /// Number of device certificates per CA and state.
    fn device_certificate_counts(
        &self,
    ) -> Result<BTreeMap<(CertificateFingerprint, DeviceState), u64>, StorageError>;
    /// A small value of the broker itself (the admin token's hash, what plugins are loaded).
    fn setting(&self, key: &str) -> Result<Option<Vec<u8>>, StorageError>;
    fn put_setting(&self, key: &str, value: &[u8]) -> Result<(), StorageError>;
    /// One plugin's key-value space; see [`KvOperation`].
    fn kv(&self, plugin: &str, operation: KvOperation<'_>) -> Result<KvAnswer, KvError>;
}

/// `mqgate:plugin/key-value`, one plugin's space. Times are for expiry; the caller owns the clock.
#[derive(Debug, Clone, Copy)]
pub struct KvOperation<'a> {
    pub now: UnixMillis,
    pub quota: KvQuota,
    pub what: KvRequest<'a>,
}

#[derive(Debug, Clone, Copy)]
pub struct KvQuota {
    pub bytes: u64,
    pub entries: u64,
    pub value_bytes: u32,
}

#[derive(Debug, Clone, Copy)]
pub enum KvRequest<'a> {
    Get { key: &'a str },
    Set { key: &'a str, value: &'a [u8], expires: Option<UnixMillis> },
    Swap { key: &'a str, expected: Option<u64>, value: &'a [u8], expires: Option<UnixMillis> },
    Add { key: &'a str, delta: i64, expires: Option<UnixMillis> },
    Delete { key: &'a str },
    List { prefix: &'a str, cursor: Option<&'a str>, limit: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvAnswer {
    Entry(Option<KvEntry>),
    Done,
    Version(u64),
    Number(i64),
    Page { keys: Vec<String>, cursor: Option<String> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvEntry {
    pub value: Vec<u8>,
    pub version: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    #[error("the bytes or entries granted are used up")]
    QuotaExceeded,
    #[error("a key over 512 bytes or a value over the granted size")]
    TooLarge,
    #[error("the entry changed since it was read")]
    Conflict,
    #[error("{0}")]
    Unavailable(String),
}
