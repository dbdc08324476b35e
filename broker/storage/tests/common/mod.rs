//! Records for tests, made without certificates.

#![allow(dead_code, reason = "each test uses a part")]

use std::path::{Path, PathBuf};

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::{
    CaCertificate, CaSettings, CaState, CaUsage, DeviceCertificate, DeviceState, RegistrationSource,
};
use mqgate_identity::time::{UnixMillis, UnixSeconds};
use mqgate_storage::{FjallStorage, StorageOptions};
use tempfile::TempDir;

pub fn open(path: &Path) -> FjallStorage {
    FjallStorage::open(path, StorageOptions::default()).unwrap()
}

pub fn fresh() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry");
    (directory, path)
}

/// Fingerprints in the order of their numbers.
pub fn id(number: u64) -> CertificateFingerprint {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    CertificateFingerprint(bytes)
}

pub fn device(number: u64, device_id: &str, state: DeviceState, revision: u64) -> DeviceCertificate {
    DeviceCertificate {
        id: id(number),
        state,
        namespace: "default".into(),
        trust_domain: "default".into(),
        device_id: device_id.into(),
        tenant: None,
        tags: vec!["meter".into()],
        client_id: None,
        ca_id: id(1000),
        issuer_key_id: String::new(),
        subject: format!("CN={device_id}"),
        issuer: "CN=ca".into(),
        serial: format!("{number:x}"),
        spki_sha256: format!("{number:064x}"),
        common_name: Some(device_id.into()),
        organizational_units: Vec::new(),
        subject_alt_names: Vec::new(),
        not_before: UnixSeconds(0),
        not_after: UnixSeconds(2_000_000_000),
        source: RegistrationSource::Jit,
        registered_at: UnixMillis(1),
        updated_at: UnixMillis(2),
        last_seen: None,
        pending_until: None,
        superseded: None,
        quarantined: None,
        revocation_reason: None,
        revoked_at: None,
        deleted_at: None,
        attributes: [("site".to_owned(), "north".to_owned())].into(),
        revision,
        pem: "-----BEGIN CERTIFICATE-----\n".into(),
    }
}

pub fn ca(number: u64, name: &str, revision: u64) -> CaCertificate {
    CaCertificate {
        id: id(number),
        name: name.into(),
        namespace: "default".into(),
        trust_domain: "default".into(),
        state: CaState::Active,
        usage: CaUsage::ClientAuth,
        settings: CaSettings::default(),
        verified_by: None,
        tags: Vec::new(),
        subject: "CN=ca".into(),
        issuer: "CN=ca".into(),
        serial: "01".into(),
        spki_sha256: "00".repeat(32),
        subject_key_id: None,
        authority_key_id: None,
        key_algorithm: "1.2.840.10045.2.1".into(),
        key_bits: 256,
        is_self_issued: true,
        not_before: UnixSeconds(0),
        not_after: UnixSeconds(2_000_000_000),
        retiring_until: None,
        replaced_by: None,
        deactivated: None,
        revocation_reason: None,
        created_at: UnixMillis(1),
        updated_at: UnixMillis(1),
        last_activated: None,
        last_deactivated: None,
        revision,
        pem: String::new(),
    }
}

pub fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_directory(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}
