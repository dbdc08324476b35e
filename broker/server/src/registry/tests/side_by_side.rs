//! What is stored and what is written down about it.

use super::*;

/// A log on disk, and all records in it.
fn audit_log() -> (tempfile::TempDir, Arc<AuditLog>) {
    let folder = tempfile::tempdir().unwrap();
    let path = Some(folder.path().join("audit.jsonl"));
    let settings = crate::audit::AuditSettings { path, ..crate::audit::AuditSettings::default() };
    let audit = AuditLog::open(settings, Arc::clone(&metrics().gate)).unwrap();
    (folder, Arc::new(audit))
}

async fn audited_world(ca: &TestCa) -> (tempfile::TempDir, World) {
    let mut world = World::new(&[ca]).await;
    let (folder, audit) = audit_log();
    let registry = Registry::open(
        Arc::clone(&world.storage) as _,
        Arc::clone(&world.trust),
        Arc::clone(&audit),
        Arc::clone(&world.metrics),
        RegistrySettings::default(),
    );
    world.registry = registry.await.unwrap();
    world.audit = audit;
    (folder, world)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_and_its_record_reach_the_disk_side_by_side() {
    let ca = TestCa::new("devices");
    let (_folder, world) = audited_world(&ca).await;
    let durable = world.audit.durable();
    // A disk that takes the registry's change only after the record of it.
    *world.storage.synchronising.lock().unwrap() = Some(Box::new(move || {
        let begun = std::time::Instant::now();
        while *durable.borrow() == 0 {
            if begun.elapsed() > Duration::from_secs(20) {
                return Err(StorageError::Unavailable("the record was not on its way".into()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }));
    world.register(&ca.device("device-7")).await.unwrap();
}

#[tokio::test]
async fn a_change_that_may_not_last_is_said_so_in_the_audit_log() {
    let ca = TestCa::new("devices");
    let (folder, world) = audited_world(&ca).await;
    *world.storage.synchronising.lock().unwrap() =
        Some(Box::new(|| Err(StorageError::Unavailable("the disk is full".into()))));
    let device = ca.device("device-7");
    let error = world.register(&device).await.unwrap_err();
    assert!(matches!(error, RegistryError::Storage(StorageError::Unavailable(_))), "{error}");
    world.audit.close();
    let text = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
    let told: Vec<String> = text
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let part = |name: &str| line[name].as_str().unwrap().to_owned();
            assert_eq!(line["fingerprint"], device.id().to_hex());
            format!("{} {} {}", part("name"), part("outcome"), part("reason"))
        })
        .collect();
    assert_eq!(told, ["device.registered success ok", "device.registered error registry_unavailable"]);
}
