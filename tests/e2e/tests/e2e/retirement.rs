//! CAs of the registry and server certificates of bundles that are replaced, and what is valid beside them; settings
//! that are taken over without a restart.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mqgate_client::{Client, ConnectOptions};
use mqgate_codec::ReasonCode;
use mqgate_e2e::{Broker, Identity, Pki, eventually};

/// A broker whose registry trusts the CA of `old`, beside the one that its configuration names.
async fn with_registered_ca() -> (Broker, Pki, Pki) {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let [old, new] = ["old", "new"].map(|name| Pki::create(&broker.folder.join(name), name));
    broker.admin().run(&["ca", "add", "--name", "factory", text(&old.ca())]);
    (broker, old, new)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn gets_in(broker: &Broker, id: &str, device: &Identity) -> bool {
    Client::connect(broker.options(id, device)).await.is_ok()
}

async fn ending(client: &mut Client) -> Option<ReasonCode> {
    let gone = tokio::time::timeout(Duration::from_secs(10), client.disconnected()).await;
    gone.expect("it is sent away")
}

#[tokio::test]
async fn a_registered_ca_that_is_replaced_stays_valid_for_its_grace_and_no_longer() {
    let (mut broker, old, new) = with_registered_ca().await;
    let (old_device, new_device) = (old.device("old"), new.device("new"));
    assert!(gets_in(&broker, "old", &old_device).await && !gets_in(&broker, "new", &new_device).await);

    let replaced = broker.admin().json(&["ca", "replace", "factory", text(&new.ca()), "--grace", "1h"]);
    assert_eq!(
        (&replaced["name"], &replaced["source"]),
        (&"factory".into(), &"registry".into()),
        "{replaced}"
    );
    let id = replaced["transition"]["id"].as_str().expect("it has a transition").to_owned();
    let cas = broker.admin().json(&["ca", "list"]);
    let sources: Vec<_> = cas.as_array().unwrap().iter().map(|ca| ca["source"].as_str().unwrap()).collect();
    assert_eq!(sources, ["configuration", "registry", "transition"], "{cas}");

    // Both are valid, and a restart neither ends nor prolongs that.
    let ends = broker.admin().json(&["transition", "list"])[0]["ends_at"].clone();
    for _ in 0..2 {
        assert!(gets_in(&broker, "old", &old_device).await && gets_in(&broker, "new", &new_device).await);
        broker.kill_and_restart();
        assert_eq!(broker.admin().json(&["transition", "list"])[0]["ends_at"], ends);
    }
    let (mut of_old, _) = Client::connect(broker.options("old", &old_device)).await.unwrap();
    let (mut of_new, _) = Client::connect(broker.options("new", &new_device)).await.unwrap();
    let list = broker.admin().json(&["transition", "list"]);
    assert_eq!((&list[0]["id"], &list[0]["clients"]), (&id.as_str().into(), &1.into()), "{list}");
    assert_eq!((&list[0]["material"], &list[0]["name"]), (&"ca".into(), &"factory".into()), "{list}");

    // It is on its way out: there is nothing to replace or remove a second time.
    let name = cas[2]["name"].as_str().unwrap();
    assert!(name.starts_with("factory-") && cas[2]["state"] == "RETIRING", "{cas}");
    let again = broker.admin().try_run(&["ca", "remove", name, "--force"]);
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(!again.status.success() && said.contains("ca_in_transition"), "{said}");

    broker.admin().run(&["transition", "end", &id]);
    assert_eq!(ending(&mut of_old).await, Some(ReasonCode::NOT_AUTHORIZED));
    assert!(!gets_in(&broker, "old", &old_device).await);
    broker.kill_and_restart();
    assert!(!gets_in(&broker, "old", &old_device).await && gets_in(&broker, "new", &new_device).await);
    assert_eq!(ending(&mut of_new).await, None, "the broker was killed");
}

#[tokio::test]
async fn after_a_compromise_a_ca_is_gone_at_once_whatever_ran() {
    let (broker, old, new) = with_registered_ca().await;
    let device = old.device("old");
    let (mut client, _) = Client::connect(broker.options("old", &device)).await.unwrap();
    let admin = broker.admin();
    let removed = admin.json(&["ca", "remove", "factory", "--force", "--grace", "1h"]);
    assert!(removed["transition"]["id"].is_string(), "{removed}");
    assert!(gets_in(&broker, "again", &device).await);

    // Put back, and replaced because somebody has its key: the hour from before does not count.
    admin.run(&["ca", "add", "--name", "factory", text(&old.ca())]);
    let replaced = admin.json(&["ca", "replace", "factory", text(&new.ca()), "--grace", "0s"]);
    assert!(replaced["transition"].is_null(), "{replaced}");
    assert_eq!(ending(&mut client).await, Some(ReasonCode::NOT_AUTHORIZED));
    assert!(!gets_in(&broker, "again", &device).await);
    let new_device = new.device("new");
    assert!(gets_in(&broker, "new", &new_device).await);
    assert_eq!(admin.json(&["transition", "list"]).as_array().map(Vec::len), Some(0));

    let output = admin.try_run(&["ca", "replace", "factory", text(&new.ca())]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("same_ca"), "{said}");
    let output = admin.try_run(&["ca", "remove", "factory", "--grace", "soon"]);
    assert!(!output.status.success());
    assert!(gets_in(&broker, "new", &new_device).await, "neither changed anything");
}

/// The same grace for a CA that the configuration names: a second change without any ends the first.
#[tokio::test]
async fn a_configured_ca_that_is_replaced_again_without_grace_is_gone() {
    let broker = Broker::builder().with_bundled_plugins().config("[reload]\nwatch = \"0s\"\n").start().await;
    let next = Pki::create(&broker.folder.join("next"), "next");
    let (ca, first) = (broker.pki.ca(), broker.folder.join("first-ca.pem"));
    fs::copy(&ca, &first).unwrap();
    let device = broker.pki.device("old");
    let options = || {
        let mut options = broker.options("old", &device);
        options.tls.as_mut().unwrap().ca_file = Some(first.clone());
        options
    };
    // A CA on its way out registers nobody.
    Client::connect(options()).await.expect("it registers");
    let put = |file: &Path| fs::copy(file, &ca).unwrap();
    put(&next.ca());
    let begun = broker.admin().json(&["reload", "--grace", "1h"]);
    let old = &begun["transitions"][0]["fingerprint"];
    assert!(old.is_string(), "{begun}");
    Client::connect(options()).await.expect("it has an hour");
    put(&first);
    broker.admin().run(&["reload"]);
    put(&next.ca());
    broker.admin().run(&["reload", "--grace", "0s"]);
    assert!(Client::connect(options()).await.is_err());
    let list = broker.admin().json(&["transition", "list"]);
    assert!(list.as_array().unwrap().iter().all(|running| running["fingerprint"] != *old), "{list}");
}

#[tokio::test]
async fn a_bundle_that_is_replaced_has_a_transition_that_counts_its_clients() {
    let listeners = "\n[listeners.quic]\ntype = \"quic\"\nbind = \"127.0.0.1:0\"\nauth_mode = \"per-device\"\ncacertfile = \"pki/ca.pem\"\n\
                     builtin_certificate = true\n";
    let broker = Broker::builder()
        .with_bundled_plugins()
        .config(&format!("[reload]\nwatch = \"0s\"\n{listeners}"))
        .start()
        .await;
    let admin = broker.admin();
    let server = broker.pki.server();
    let files = |server: &Identity| {
        let [chain, key] = [&server.certificate, &server.key].map(|path| path.display().to_string());
        [String::from("--chain"), chain, String::from("--key"), key]
    };
    let run = |words: &[&str], server: &Identity, more: &[&str]| {
        let files = files(server);
        let words: Vec<&str> = words
            .iter()
            .copied()
            .chain(files.iter().map(String::as_str))
            .chain(more.iter().copied())
            .collect();
        admin.json(&words)
    };
    run(&["server-cert", "add", "shop"], &server, &[]);
    // Without a listener that shows it nothing is in transition.
    let next = Pki::create(&broker.folder.join("next"), "next");
    let replaced = run(&["server-cert", "replace", "shop"], &next.server(), &[]);
    assert!(replaced["transition"].is_null(), "{replaced}");
    run(&["server-cert", "replace", "shop"], &server, &[]);
    broker.rewrite(|text| {
        text.replace(
            "certfile = \"pki/server.pem\"\nkeyfile = \"pki/server.key\"",
            "managed_certs = [{ bundle_name = \"shop\" }]",
        )
        .replace("builtin_certificate = true", "managed_certs = [{ bundle_name = \"shop\" }]")
    });
    admin.run(&["reload", "--grace", "0s"]);
    let device = broker.pki.device("device");
    let (mut over_tls, _) = Client::connect(broker.options("tls", &device)).await.unwrap();
    let port = broker.port_of("quic").await;
    let (quic, _endpoint, _send, _receive) = super::quic::connected(&broker, port, &device).await;

    let replaced = run(&["server-cert", "replace", "shop"], &next.server(), &["--grace", "1h"]);
    let id = replaced["transition"]["id"].as_str().expect("it has a transition");
    let list = admin.json(&["transition", "list"]);
    assert_eq!((&list[0]["id"], &list[0]["name"]), (&id.into(), &"global/shop".into()), "{list}");
    assert_eq!(
        (&list[0]["clients"], &list[0]["listeners"]),
        (&2.into(), &serde_json::json!(["main", "quic"])),
        "{list}"
    );
    let renewed = |id: &str| {
        let mut options: ConnectOptions = broker.options(id, &device);
        options.tls.as_mut().unwrap().ca_file = Some(next.ca());
        options
    };
    Client::connect(renewed("new")).await.expect("the new one is shown");
    quic.close(0_u32.into(), b"");
    eventually("the client of QUIC counts no more", async || {
        (admin.json(&["transition", "list"])[0]["clients"] == 1).then_some(())
    })
    .await;
    assert!(tokio::time::timeout(Duration::from_millis(50), over_tls.disconnected()).await.is_err());
    let ledger = broker.folder.join("data/transitions.json");
    assert!(fs::read_to_string(&ledger).unwrap().contains("PRIVATE KEY"));
    admin.run(&["transition", "end", id]);
    assert!(!fs::read_to_string(&ledger).unwrap().contains("PRIVATE KEY"));
}

#[tokio::test]
async fn revocation_lists_and_rates_are_taken_over_without_a_restart() {
    let broker = Broker::builder().with_bundled_plugins().config("[reload]\nwatch = \"0s\"\n").start().await;
    let (good, bad) = (broker.pki.device("good"), broker.pki.device("bad"));
    fs::write(broker.folder.join("list.pem"), broker.pki.revocation_list(1, 2090, &[&bad])).unwrap();
    assert!(gets_in(&broker, "bad", &bad).await);
    let admin = broker.admin();
    broker.rewrite(|text| {
        text.replace(
            "[listeners.main]",
            "[listeners.main]\ncrl_check = true\nrates = { client_messages = 7 }",
        ) + "\n[crl]\nfiles = [\"list.pem\"]\n"
    });
    let report = admin.json(&["reload"]);
    assert_eq!(
        (&report["result"], &report["restart_required"]),
        (&"applied".into(), &serde_json::json!([])),
        "{report}"
    );
    // From the first moment: the list is in force before anybody is judged by it.
    assert!(gets_in(&broker, "good", &good).await && !gets_in(&broker, "bad", &bad).await);
    broker.audited("why", |line| line["reason"] == "cert_revoked_crl").await;

    // What it is worth that there is no list is a setting, too.
    fs::create_dir(broker.folder.join("none")).unwrap();
    let (mut client, _) = Client::connect(broker.options("good", &good)).await.unwrap();
    broker.rewrite(|text| {
        text.replace("files = [\"list.pem\"]", "directories = [\"none\"]\nunknown = \"allow\"")
    });
    let report = admin.json(&["reload"]);
    assert_eq!(report["restart_required"], serde_json::json!([]), "{report}");
    assert!(gets_in(&broker, "bad", &bad).await);
    broker.rewrite(|text| text.replace("unknown = \"allow\"", "unknown = \"deny\""));
    let dry = admin.json(&["reload", "--dry-run"]);
    // Who has just gone may still be there.
    assert!(dry["affected"]["by_reason"]["certificate_refused"].as_u64() >= Some(1), "{dry}");
    admin.run(&["reload", "--disconnect", "affected"]);
    assert!(ending(&mut client).await.is_some());
    assert!(!gets_in(&broker, "good", &good).await);
}
