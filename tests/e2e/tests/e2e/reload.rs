//! Change while the broker runs: by signal, by file, by API; and what it means for who is connected.

use std::time::{Duration, Instant};

use mqgate_client::{Client, ConnectOptions, TlsVersion};
use mqgate_codec::ReasonCode;
use mqgate_e2e::{Broker, Identity, Pki, eventually};
use serde_json::Value;

/// A broker whose CA and server certificate are about to be replaced by those of `next`.
async fn broker_and_next(more: &str) -> (Broker, Pki) {
    let broker = Broker::builder().with_bundled_plugins().config(more).start().await;
    let next = Pki::create(&broker.folder.join("next"), "next");
    (broker, next)
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    // Replaced as a whole, the way tools that renew certificates do it.
    let beside = to.with_extension("new");
    std::fs::copy(from, &beside).unwrap();
    std::fs::rename(beside, to).unwrap();
}

/// A device of `pki` that still trusts the broker's first CA.
fn of(broker: &Broker, client_id: &str, device: &Identity) -> ConnectOptions {
    broker.options(client_id, device)
}

fn reloads(broker: &Broker, result: &str) -> f64 {
    broker.admin().metric(&format!("mqgate_config_reloads_total{{result=\"{result}\"}}"))
}

async fn reloaded(broker: &Broker, actor: &str) -> Value {
    broker.audited("the change", |line| line["name"] == "config.reloaded" && line["actor"] == actor).await
}

#[tokio::test]
async fn a_signal_takes_a_new_configuration_over_and_refuses_a_wrong_one() {
    let broker =
        Broker::builder().with_bundled_plugins().config("[limits]\nreceive_maximum = 7\n").start().await;
    let device = broker.pki.device("device");
    let receive_maximum = async |id: &str| {
        let (client, connack) = Client::connect(of(&broker, id, &device)).await.unwrap();
        (client, connack.properties.receive_maximum.map(std::num::NonZero::get))
    };
    let (mut first, before) = receive_maximum("first").await;
    assert_eq!(before, Some(7));

    broker.rewrite(|text| text.replace("receive_maximum = 7", "receive_maximum = 9\nmax_sessions = 77"));
    broker.hang_up();
    let line = reloaded(&broker, "system:SIGHUP").await;
    assert_eq!(line["fields"]["key.limits.receive_maximum"], "7 -> 9");
    assert!(
        line["fields"]["key.limits.max_sessions"].as_str().unwrap().ends_with("(after a restart)"),
        "{line}"
    );
    let (_second, after) = receive_maximum("second").await;
    assert_eq!(after, Some(9));
    assert_eq!(reloads(&broker, "applied"), 1.0);

    broker.rewrite(|text| text.replace("receive_maximum = 9", "receive_maximum = 9\nno_such_key = 1"));
    broker.hang_up();
    let line = broker.audited("the refusal", |line| line["name"] == "config.refused").await;
    assert!(line["fields"]["detail"].as_str().unwrap().contains("no_such_key"), "{line}");
    assert_eq!(reloads(&broker, "refused"), 1.0);
    let (_third, still) = receive_maximum("third").await;
    assert_eq!(still, Some(9));
    // Nobody was sent away by any of it.
    assert!(tokio::time::timeout(Duration::from_millis(50), first.disconnected()).await.is_err());
}

#[tokio::test]
async fn listeners_are_added_moved_and_removed() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("device");
    let (mut stays, _) = Client::connect(of(&broker, "stays", &device)).await.unwrap();
    let old_port = broker.port();
    let at = |port: u16, id: &str| {
        let mut options = of(&broker, id, &device);
        options.port = port;
        options
    };

    broker.rewrite(|text| {
        let table = text.split("[listeners.main]").nth(1).unwrap().split("\n[").next().unwrap();
        let second = format!("[listeners.second]{table}\n");
        text.replacen("[listeners.main]", &format!("{second}\n[listeners.main]"), 1)
    });
    let report = broker.admin().json(&["reload"]);
    assert_eq!(report["result"], "applied", "{report}");
    let second = broker.listener_port("second").await;
    Client::connect(at(second, "on-second")).await.expect("the new listener is open");

    // Moved: the old address is shut, who came by it stays.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    broker.admin().run(&["listener", "set", "main", &format!("bind=127.0.0.1:{free}")]);
    eventually("the new address", async || Client::connect(at(free, "moved")).await.ok()).await;
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", old_port)).await.is_err());

    // An address that cannot be had changes nothing.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let bind = format!("bind={}", taken.local_addr().unwrap());
    let output = broker.admin().try_run(&["listener", "set", "main", &bind]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("rolled_back"), "{said}");
    Client::connect(at(free, "again")).await.expect("it listens where it did");

    // Removed: nobody new, and those that are there are told how they want it.
    broker.rewrite(|text| {
        let table = text.split("[listeners.second]").nth(1).unwrap().split("\n[").next().unwrap();
        text.replacen(&format!("[listeners.second]{table}"), "", 1)
    });
    let (mut there, _) = Client::connect(at(second, "there")).await.unwrap();
    let dry = broker.admin().json(&["reload", "--dry-run"]);
    assert_eq!(dry["affected"]["by_reason"]["listener_removed"], 1, "{dry}");
    broker.admin().run(&["reload", "--disconnect", "affected"]);
    let gone = tokio::time::timeout(Duration::from_secs(10), there.disconnected()).await;
    assert_eq!(gone.expect("it is sent away"), Some(ReasonCode::ADMINISTRATIVE_ACTION));
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", second)).await.is_err());
    assert!(tokio::time::timeout(Duration::from_millis(50), stays.disconnected()).await.is_err());
}

#[tokio::test]
async fn a_dry_run_names_whom_a_change_would_concern() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("old-stack");
    let mut options = of(&broker, "speaks-1.2", &device);
    options.tls.as_mut().unwrap().only_version(TlsVersion::V1_2);
    let (mut old, _) = Client::connect(options.clone()).await.unwrap();
    let (mut new, _) = Client::connect(of(&broker, "speaks-1.3", &broker.pki.device("new"))).await.unwrap();

    let set = ["listener", "set", "main", "versions=[\"tlsv1.3\"]"];
    let admin = broker.admin();
    let dry = admin.json(&[&set[..], &["--dry-run"]].concat());
    assert_eq!((&dry["result"], &dry["affected"]["clients"]), (&"dry-run".into(), &1.into()), "{dry}");
    assert_eq!(dry["affected"]["by_reason"]["tls_version"], 1);
    assert_eq!(dry["affected"]["first"][0]["client_id"], "speaks-1.2");
    Client::connect(options.clone_with_client_id("still")).await.expect("nothing was done");

    let done = admin.json(&[&set[..], &["--disconnect", "affected"]].concat());
    // Who has just gone may still be there.
    assert!(done["disconnected"].as_u64() >= Some(1), "{done}");
    let gone = tokio::time::timeout(Duration::from_secs(10), old.disconnected()).await;
    assert_eq!(gone.expect("it is sent away"), Some(ReasonCode::ADMINISTRATIVE_ACTION));
    assert!(Client::connect(options.clone()).await.is_err(), "new connections need 1.3");
    assert!(tokio::time::timeout(Duration::from_millis(50), new.disconnected()).await.is_err());

    // It holds over the file, until it is taken away.
    broker.hang_up();
    let status = admin.json(&["listener", "show", "main"]);
    assert_eq!(status["overrides"]["versions"][0], "tlsv1.3", "{status}");
    admin.run(&["listener", "set", "main", "versions="]);
    Client::connect(options).await.expect("the file's value holds again");
}

#[tokio::test]
async fn the_auth_mode_of_a_listener_changes_for_who_comes_next() {
    let broker = Broker::builder().auth_mode("mutual").with_bundled_plugins().start().await;
    let device = broker.pki.device("unregistered");
    let (mut stays, _) = Client::connect(of(&broker, "stays", &device)).await.unwrap();
    broker.admin().run(&["listener", "set", "main", "auth_mode=per-device", "registration=manual"]);
    let error = Client::connect(of(&broker, "new", &device)).await.err().expect("it is not registered");
    assert_eq!(error.reason_code(), Some(ReasonCode::NOT_AUTHORIZED), "{error}");
    broker.audited("why", |line| line["reason"] == "cert_not_registered").await;
    assert!(tokio::time::timeout(Duration::from_millis(50), stays.disconnected()).await.is_err());
    let output = broker.admin().try_run(&["listener", "set", "main", "auth_mode=sometimes"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("bad_configuration"), "{said}");
    let output = broker.admin().try_run(&["listener", "set", "nowhere", "auth_mode=mutual"]);
    assert!(!output.status.success());
}

#[tokio::test]
async fn a_ca_that_is_replaced_stays_valid_for_its_grace_and_its_clients_go_when_it_ends() {
    let (mut broker, next) = broker_and_next("[reload]\nwatch = \"0s\"\n").await;
    let (old_device, new_device) = (broker.pki.device("old"), next.device("new"));
    let (mut old, _) = Client::connect(of(&broker, "old", &old_device)).await.unwrap();
    assert!(Client::connect(of(&broker, "new", &new_device)).await.is_err());

    // The broker's own certificate stays, so the file of the CA that clients trust it by is kept aside.
    let ca = broker.pki.ca();
    let first_ca = broker.folder.join("first-ca.pem");
    std::fs::copy(&ca, &first_ca).unwrap();
    let trusting_first = |mut options: ConnectOptions| {
        options.tls.as_mut().unwrap().ca_file = Some(first_ca.clone());
        options
    };
    copy(&next.ca(), &ca);
    let report = broker.admin().json(&["reload", "--grace", "1h"]);
    assert_eq!(report["transitions"][0]["material"], "ca", "{report}");
    assert_eq!(report["affected"]["by_reason"]["ca_removed"], 1, "{report}");
    broker.audited("its start", |line| line["name"] == "transition.started").await;

    // Both are valid, also after the broker was killed.
    for round in 0..2 {
        let connects = async |id: &str, device: &Identity| {
            Client::connect(trusting_first(of(&broker, id, device))).await.map(drop)
        };
        connects("old-again", &old_device).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        connects("new", &new_device).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        if round == 0 {
            assert!(tokio::time::timeout(Duration::from_millis(50), old.disconnected()).await.is_err());
            broker.kill_and_restart();
        }
    }
    let (mut old, _) = Client::connect(trusting_first(of(&broker, "old", &old_device))).await.unwrap();
    let (mut new, _) = Client::connect(trusting_first(of(&broker, "new", &new_device))).await.unwrap();
    let admin = broker.admin();
    let list = admin.json(&["transition", "list"]);
    assert_eq!((list.as_array().map(Vec::len), &list[0]["clients"]), (Some(1), &1.into()), "{list}");
    eventually("the gauge", async || {
        let old = admin.metric("mqgate_tls_grace_clients{listener=\"main\",material=\"old\"}");
        (old == 1.0).then_some(())
    })
    .await;

    let id = list[0]["id"].as_str().unwrap();
    admin.run(&["transition", "extend", id, "2h"]);
    let extended = admin.json(&["transition", "list"]);
    assert!(extended[0]["ends_at"].as_u64() > list[0]["ends_at"].as_u64(), "{extended}");

    let ended = Instant::now();
    admin.run(&["transition", "extend", id, "1s"]);
    let gone = tokio::time::timeout(Duration::from_secs(10), old.disconnected()).await;
    assert_eq!(gone.expect("its CA is gone"), Some(ReasonCode::NOT_AUTHORIZED));
    // One second of grace and the promised one; a loaded test machine gets two more.
    assert!(ended.elapsed() < Duration::from_secs(4), "{:?}", ended.elapsed());
    assert!(Client::connect(trusting_first(of(&broker, "old", &old_device))).await.is_err());
    Client::connect(trusting_first(of(&broker, "new-again", &new_device))).await.expect("it is trusted");
    assert!(tokio::time::timeout(Duration::from_millis(50), new.disconnected()).await.is_err());
    assert_eq!(admin.json(&["transition", "list"]).as_array().map(Vec::len), Some(0));
    broker.audited("its end", |line| line["name"] == "transition.ended").await;
    broker
        .audited("the reason", |line| line["name"] == "connection.closed" && line["reason"] == "ca_inactive")
        .await;
    assert!(admin.metric("mqgate_revocation_disconnect_latency_seconds_count{trigger=\"ca\"}") >= 1.0);
}

#[tokio::test]
async fn without_grace_a_ca_is_gone_at_once() {
    let (broker, next) = broker_and_next("[reload]\nwatch = \"0s\"\n").await;
    let (mut old, _) = Client::connect(of(&broker, "old", &broker.pki.device("old"))).await.unwrap();
    copy(&next.ca(), &broker.pki.ca());
    let began = Instant::now();
    let report = broker.admin().json(&["reload", "--grace", "0s"]);
    assert_eq!(report["transitions"].as_array().map(Vec::len), Some(0), "{report}");
    let gone = tokio::time::timeout(Duration::from_secs(10), old.disconnected()).await;
    assert_eq!(gone.expect("its CA is gone"), Some(ReasonCode::NOT_AUTHORIZED));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn certificates_that_are_replaced_on_the_disk_are_taken_over() {
    let (broker, next) = broker_and_next("[reload]\nwatch = \"100ms\"\ngrace = \"1h\"\n").await;
    let device = broker.pki.device("device");
    let (mut stays, _) = Client::connect(of(&broker, "stays", &device)).await.unwrap();
    let (server, renewed) = (broker.pki.server(), next.server());
    copy(&renewed.certificate, &server.certificate);
    // A key that does not belong to it: nothing changes before the right one is there.
    copy(&renewed.key, &server.key);
    let mut options = of(&broker, "trusts-the-next", &device);
    options.tls.as_mut().unwrap().ca_file = Some(next.ca());
    eventually("the new certificate", async || Client::connect(options.clone()).await.ok()).await;
    reloaded(&broker, "system:file").await;
    assert!(tokio::time::timeout(Duration::from_millis(50), stays.disconnected()).await.is_err());
    let list = broker.admin().json(&["transition", "list"]);
    assert_eq!(list[0]["material"], "server-certificate", "{list}");
    // Who came before was shown the old one.
    assert_eq!(list[0]["clients"], 1, "{list}");
    let ledger = std::fs::read_to_string(broker.folder.join("data/transitions.json")).unwrap();
    assert!(ledger.contains("PRIVATE KEY"));
    broker.admin().run(&["transition", "end", list[0]["id"].as_str().unwrap()]);
    let ledger = std::fs::read_to_string(broker.folder.join("data/transitions.json")).unwrap();
    assert!(!ledger.contains("PRIVATE KEY"), "a key is kept no longer than it is needed");
}

#[tokio::test]
async fn a_certificate_that_expires_while_connected_ends_its_connection() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device_valid_for("short-lived", Duration::from_secs(3));
    let (mut client, _) = Client::connect(of(&broker, "short", &device)).await.unwrap();
    let gone = tokio::time::timeout(Duration::from_secs(20), client.disconnected()).await;
    assert_eq!(gone.expect("it has expired"), Some(ReasonCode::NOT_AUTHORIZED));
    broker
        .audited("the reason", |line| line["name"] == "connection.closed" && line["reason"] == "cert_expired")
        .await;
    assert!(
        broker.admin().metric("mqgate_revocation_disconnect_latency_seconds_count{trigger=\"expiry\"}")
            >= 1.0
    );
}
