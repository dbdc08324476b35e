//! What a lookup at a connection costs when the registry remembers the record, and when it has to read it. Prints a
//! line of JSON for each figure. (What the storage costs with a million records is measured there.)
//!
//! `cargo bench -p mqgate-server --bench registry`

#![allow(clippy::print_stdout, reason = "it is what it is for")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::{
    DeviceCertificate, DeviceState, RecordWrite, RegistrationSource, RegistryChanges, Storage,
};
use mqgate_identity::time::{UnixMillis, UnixSeconds};
use mqgate_server::audit::AuditLog;
use mqgate_server::metrics::{BuildInfo, Metrics};
use mqgate_server::registry::{Registry, RegistrySettings};
use mqgate_server::trust::TrustStore;
use mqgate_storage::{FjallStorage, StorageOptions};

const COUNT: u64 = 20_000;

fn main() {
    let folder = tempfile::tempdir().expect("a folder for the database");
    let storage = FjallStorage::open(&folder.path().join("registry"), StorageOptions::default());
    let storage: Arc<dyn Storage> = Arc::new(storage.expect("a new database"));
    for first in (0..COUNT).step_by(500) {
        let writes = (first..first + 500)
            .map(|number| RecordWrite::Device { record: Box::new(record(number)), expected: None })
            .collect();
        storage.commit(&RegistryChanges { writes, events: Vec::new() }).expect("it is written");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    runtime.block_on(async {
        let metrics = Metrics::new(&BuildInfo::default()).expect("an empty registry");
        let registry = Registry::open(
            storage,
            Arc::new(TrustStore::new(32)),
            Arc::new(AuditLog::default()),
            Arc::clone(&metrics.gate),
            RegistrySettings::default(),
        );
        let registry = registry.await.expect("a registry");
        for name in ["lookup-from-storage", "lookup-from-memory", "lookup-from-memory"] {
            let mut times = Vec::new();
            for number in 0..COUNT {
                let id = id(number);
                let begun = Instant::now();
                let found = registry.lookup(id).await.expect("it can be read");
                times.push(begun.elapsed());
                assert!(found.is_some(), "certificate {number}");
            }
            times.sort_unstable();
            let at = |share: f64| micros(times[((times.len() - 1) as f64 * share) as usize]);
            println!(
                "{{\"name\":\"{name}\",\"unit\":\"us\",\"median\":{:.3},\"p99\":{:.3}}}",
                at(0.5),
                at(0.99)
            );
        }
    });
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn id(number: u64) -> CertificateFingerprint {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    CertificateFingerprint(bytes)
}

fn record(number: u64) -> DeviceCertificate {
    DeviceCertificate {
        id: id(number),
        state: DeviceState::Active,
        namespace: "default".to_owned(),
        trust_domain: "default".to_owned(),
        device_id: format!("meter-{number}"),
        tenant: None,
        tags: Vec::new(),
        client_id: None,
        ca_id: CertificateFingerprint([1; 32]),
        issuer_key_id: "01".repeat(32),
        subject: format!("CN=meter-{number}"),
        issuer: "CN=Factory CA".to_owned(),
        serial: format!("{number:016x}"),
        spki_sha256: format!("{number:064x}"),
        common_name: Some(format!("meter-{number}")),
        organizational_units: Vec::new(),
        subject_alt_names: Vec::new(),
        not_before: UnixSeconds(1_600_000_000),
        not_after: UnixSeconds(1_900_000_000),
        source: RegistrationSource::Import,
        registered_at: UnixMillis(1),
        updated_at: UnixMillis(1),
        last_seen: None,
        pending_until: None,
        superseded: None,
        quarantined: None,
        revocation_reason: None,
        revoked_at: None,
        deleted_at: None,
        attributes: BTreeMap::new(),
        revision: 1,
        pem: "x".repeat(900),
    }
}
