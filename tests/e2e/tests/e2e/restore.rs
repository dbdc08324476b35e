//! A backup of the registry is put back.

use std::fs;
use std::path::Path;

use mqgate_client::Client;
use mqgate_e2e::Broker;

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Edge case of the design: an old registry restored must not un-revoke.
#[tokio::test]
async fn backup_restore_of_an_old_registry() {
    let mut broker = Broker::builder().with_bundled_plugins().start().await;
    let [kept, revoked, deleted] = ["kept", "revoked", "deleted"].map(|name| broker.pki.device(name));
    for device in [&kept, &revoked, &deleted] {
        Client::connect(broker.options("c", device)).await.unwrap();
    }
    broker.stop();
    let (registry, backup) = (broker.folder.join("data/registry"), broker.folder.join("backup"));
    copy(&registry, &backup);
    broker.kill_and_restart();
    let admin = broker.admin();
    admin.run(&["cert", "revoke", &revoked.fingerprint, "--reason", "keyCompromise"]);
    admin.run(&["cert", "deactivate", &deleted.fingerprint]);
    admin.run(&["cert", "delete", &deleted.fingerprint]);

    let restore = ["registry", "restore", backup.to_str().unwrap()];
    let running = admin.try_run(&restore);
    let said = String::from_utf8_lossy(&running.stderr);
    assert_eq!(running.status.code(), Some(69), "{said}");
    assert!(said.contains("is another mqgate running?"), "{said}");
    broker.stop();
    let admin = broker.admin();
    let report = admin.json(&restore);
    assert_eq!((&report["added"], &report["refused"]), (&0.into(), &0.into()), "{report}");
    let itself = admin.try_run(&["registry", "restore", registry.to_str().unwrap()]);
    assert!(!itself.status.success());

    broker.kill_and_restart();
    assert!(Client::connect(broker.options("c", &kept)).await.is_ok());
    assert!(Client::connect(broker.options("c", &revoked)).await.is_err());
    assert!(Client::connect(broker.options("c", &deleted)).await.is_err());
    assert_eq!(broker.admin().json(&["cert", "show", &revoked.fingerprint])["state"], "REVOKED");
    broker.audited("the restoring", |line| line["name"] == "registry.restored").await;

    // Into an empty registry everything comes back.
    broker.stop();
    fs::remove_dir_all(&registry).unwrap();
    let report = broker.admin().json(&restore);
    assert_eq!(report["added"], 3, "{report}");
    broker.kill_and_restart();
    assert!(Client::connect(broker.options("c", &revoked)).await.is_ok(), "it was not revoked by then");
}
