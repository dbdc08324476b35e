//! Revocation lists: who is on one is out, and a list that changes counts without a restart.

use std::fs;
use std::path::Path;

use mqgate_client::Client;
use mqgate_e2e::pki::Pki;
use mqgate_e2e::{Broker, Identity, eventually};

async fn start(listener: &str, tables: &str, first: impl FnOnce(&Path, &Pki)) -> Broker {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().to_path_buf();
    let pki = Pki::create(&folder.join("pki"), "test");
    fs::create_dir(folder.join("lists")).unwrap();
    first(&folder, &pki);
    Broker::builder()
        .listener(&format!("crl_check = true\n{listener}"))
        .config(tables)
        .with_bundled_plugins()
        .start_in(folder, pki, Some(temporary))
        .await
}

fn lists(broker: &Broker) -> std::path::PathBuf {
    broker.pki.ca().ancestors().nth(2).unwrap().join("lists")
}

async fn gets_in(broker: &Broker, device: &Identity) -> bool {
    Client::connect(broker.options("device", device)).await.is_ok()
}

#[tokio::test]
async fn revoked_in_a_list_active_in_the_registry() {
    let broker = start("", "[crl]\ndirectories = [\"lists\"]", |folder, pki| {
        fs::write(folder.join("lists/ca.pem"), pki.revocation_list(1, 2090, &[])).unwrap();
    })
    .await;
    let (good, bad) = (broker.pki.device("good"), broker.pki.device("bad"));
    assert!(gets_in(&broker, &good).await && gets_in(&broker, &bad).await);
    let listed = broker.admin().json(&["crl", "list"]);
    assert_eq!(
        (&listed[0]["ca"], &listed[0]["entries"], &listed[0]["stale"]),
        (&"ca".into(), &0.into(), &false.into())
    );

    let file = lists(&broker).join("ca.pem");
    fs::write(file.with_extension("new"), broker.pki.revocation_list(2, 2090, &[&bad])).unwrap();
    fs::rename(file.with_extension("new"), &file).unwrap();
    broker.admin().run(&["crl", "refresh"]);
    eventually("the new list is in force", async || (!gets_in(&broker, &bad).await).then_some(())).await;
    assert!(gets_in(&broker, &good).await);
    let kept = broker.admin().json(&["cert", "show", &bad.fingerprint]);
    assert_eq!(kept["state"], "ACTIVE", "what a list says is not written into the record");
    let refused = broker
        .audited("the refusal", |line| {
            line["name"] == "tls.handshake_failed" && line["reason"] == "cert_revoked_crl"
        })
        .await;
    assert_eq!(refused["fingerprint"], bad.fingerprint.as_str());
    assert_eq!(refused["fields"]["certificate.serial"], hex::encode(&bad.serial));
    // Explained as it is judged.
    for (device, step) in [(&good, None), (&bad, Some("revocation"))] {
        let file = device.certificate.display().to_string();
        let output = broker.admin().try_run(&["pki", "explain", &file, "--json"]);
        let story: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let failed = story["steps"].as_array().unwrap().iter().find(|step| step["outcome"] == "failed");
        assert_eq!(failed.map(|failed| failed["step"].as_str().unwrap()), step, "{story}");
        assert_eq!(output.status.success(), step.is_none());
    }
    broker
        .audited("the list", |line| line["name"] == "crl.updated" && line["fields"]["entries"] == "1")
        .await;
    assert_eq!(broker.admin().metric("mqgate_crl_entries{ca=\"ca\"}"), 1.0);

    // A list that is older, or no list at all, changes nothing.
    fs::write(&file, broker.pki.revocation_list(1, 2090, &[])).unwrap();
    broker.admin().run(&["crl", "refresh"]);
    broker.audited("the older list", |line| line["name"] == "crl.refused").await;
    assert!(!gets_in(&broker, &bad).await);
}

#[tokio::test]
async fn crl_stale_lets_nobody_in_unless_the_policy_says_so() {
    let tables = "[crl]\nfiles = [\"lists/ca.pem\"]";
    for (more, gets_in_with_old) in [("", false), ("\nstale = \"fail-open\"", true)] {
        let broker = start("", &format!("{tables}{more}"), |folder, pki| {
            fs::write(folder.join("lists/ca.pem"), pki.revocation_list(1, 2024, &[])).unwrap();
        })
        .await;
        let device = broker.pki.device("device");
        assert_eq!(gets_in(&broker, &device).await, gets_in_with_old, "{more}");
        if !gets_in_with_old {
            broker.audited("the refusal", |line| line["reason"] == "crl_stale").await;
            fs::write(lists(&broker).join("ca.pem"), broker.pki.revocation_list(2, 2090, &[])).unwrap();
            broker.admin().run(&["crl", "refresh"]);
            eventually("the new list is in force", async || gets_in(&broker, &device).await.then_some(()))
                .await;
        }
    }
}
