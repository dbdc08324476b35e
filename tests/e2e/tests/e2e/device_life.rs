//! The life of a device's certificate as its owner sees it: the wait for an operator, the client id it is bound to, its
//! successor, its copy. The cases of docs/registry-edge-cases.md that need a whole broker; each test has the name of
//! its case.

use std::time::Duration;

use mqgate_client::{Client, ConnectError};
use mqgate_codec::{ConnAck, ConnectReturnCode, ProtocolVersion, ReasonCode};
use mqgate_e2e::{Broker, Identity, eventually};

/// The answer to a client that is refused.
async fn refused(options: mqgate_client::ConnectOptions) -> Box<ConnAck> {
    match Client::connect(options).await {
        Err(ConnectError::Refused(connack)) => connack,
        Err(error) => panic!("it is refused in words, and not by {error}"),
        Ok(_) => panic!("it is let in"),
    }
}

fn user_property(connack: &ConnAck, name: &str) -> Option<String> {
    let mut all = connack.properties.user_properties.iter();
    all.find(|(known, _)| known == name).map(|(_, value)| value.to_string())
}

fn pending(config: &str) -> mqgate_e2e::BrokerBuilder {
    Broker::builder()
        .with_auto_register("config = { cas = [{ mode = \"pending\" }] }")
        .with_cert_acl("")
        .config(config)
}

async fn state(broker: &Broker, device: &Identity) -> String {
    eventually("the certificate is in the registry", async || {
        let output = broker.admin().try_run(&["cert", "show", &device.fingerprint, "--json"]);
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        shown["state"].as_str().map(str::to_owned)
    })
    .await
}

#[tokio::test]
async fn a_client_waits_for_its_operator_and_goes_on_when_it_is_let_in() {
    let broker = pending("[provisioning]\npark_timeout = \"60s\"").start().await;
    let device = broker.pki.device("device-7");
    let mut options = broker.options("seven", &device);
    options.connect_timeout = Duration::from_secs(60);
    let waits = tokio::spawn(Client::connect(options.clone()));
    assert_eq!(state(&broker, &device).await, "PENDING_ACTIVATION");
    let parked = "mqgate_provision_parked_connections{listener=\"main\"}";
    eventually("it waits", async || (broker.admin().metric(parked) == 1.0).then_some(())).await;
    broker.admin().run(&["cert", "activate", &device.fingerprint]);
    let (client, _) = waits.await.unwrap().expect("it was waiting for this");
    assert_eq!(broker.admin().metric(parked), 0.0);
    assert_eq!(broker.admin().metric("mqgate_provision_parked_total{outcome=\"activated\"}"), 1.0);
    client.disconnect().await.unwrap();

    // One that is turned away instead hears so at once.
    let other = broker.pki.device("device-8");
    let waits = tokio::spawn(Client::connect(broker.options("eight", &other).clone()));
    assert_eq!(state(&broker, &other).await, "PENDING_ACTIVATION");
    broker.admin().run(&["cert", "revoke", &other.fingerprint]);
    let error = waits.await.unwrap().err().expect("it was turned away");
    assert_eq!(error.reason_code(), Some(ReasonCode::NOT_AUTHORIZED), "{error}");
}

#[tokio::test]
async fn a_client_that_may_not_wait_is_told_when_to_come_again() {
    let broker = pending("[provisioning]\npark_timeout = \"0s\"\n[policy]\npending_retry_after = \"30s\"")
        .start()
        .await;
    let device = broker.pki.device("device-7");
    let connack = refused(broker.options("seven", &device)).await;
    assert_eq!(connack.code.reason(), ReasonCode::NOT_AUTHORIZED);
    assert_eq!(user_property(&connack, "retry-after").as_deref(), Some("30"));
    // 3.1.1 has no such word: "not authorized" would be taken for the last one.
    let mut old = broker.options("seven", &device);
    old.version = ProtocolVersion::V3_1_1;
    let error = Client::connect(old).await.err().unwrap();
    assert_eq!(error.return_code(), Some(ConnectReturnCode::ServerUnavailable), "{error}");
}

#[tokio::test]
async fn who_registers_too_fast_is_told_so_and_writes_nothing() {
    let broker = Broker::builder()
        .with_bundled_plugins()
        .config("[provisioning]\nca_rate = 1\nca_burst = 2\n")
        .start()
        .await;
    let devices: Vec<_> = (0..4).map(|number| broker.pki.device(&format!("device-{number}"))).collect();
    let mut refusals = 0;
    for (number, device) in devices.iter().enumerate() {
        let mut options = broker.options("c", device);
        if number == 3 {
            options.version = ProtocolVersion::V3_1_1;
        }
        if let Err(error) = Client::connect(options).await {
            refusals += 1;
            match number {
                3 => assert_eq!(error.return_code(), Some(ConnectReturnCode::ServerUnavailable), "{error}"),
                _ => assert_eq!(error.reason_code(), Some(ReasonCode::CONNECTION_RATE_EXCEEDED), "{error}"),
            }
        }
    }
    // A machine that takes a second for a connection earns a token meanwhile.
    assert!(refusals >= 1, "four at once, and two are let in");
    let known = broker.admin().json(&["cert", "list"]).as_array().map(Vec::len);
    assert_eq!(known, Some(4 - refusals));
    let limited = broker.admin().metric("mqgate_provision_rate_limited_total{bucket=\"ca\"}");
    assert_eq!(limited, refusals as f64);
    // Who is known already is not concerned.
    Client::connect(broker.options("c", &devices[0])).await.expect("it is registered");
}

#[tokio::test]
async fn use_cert_as_clientid_and_another_client_id() {
    let broker = Broker::builder()
        .with_bundled_plugins()
        .config("[provisioning]\nbind_client_id = \"cn\"\n")
        .start()
        .await;
    let device = broker.pki.device("pump-1");
    let connack = refused(broker.options("other", &device)).await;
    assert_eq!(connack.code.reason(), ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
    let known = broker.admin().json(&["cert", "list"]).as_array().map(Vec::len);
    assert_eq!(known, Some(0), "nothing is written of a client that is refused for its client id");
    let mut old = broker.options("other", &device);
    old.version = ProtocolVersion::V3_1_1;
    let error = Client::connect(old).await.err().unwrap();
    assert_eq!(error.return_code(), Some(ConnectReturnCode::IdentifierRejected), "{error}");

    let (_client, connack) = Client::connect(broker.options("pump-1", &device)).await.expect("its own name");
    assert_eq!(connack.properties.assigned_client_id, None);
    assert_eq!(broker.admin().json(&["cert", "show", &device.fingerprint])["client_id"], "pump-1");
    // It is registered now, and bound.
    let connack = refused(broker.options("other", &device)).await;
    assert_eq!(connack.code.reason(), ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
    broker
        .audited("the finding", |line| {
            line["name"] == "certificate.finding" && line["fields"]["finding"] == "certs.binding_violation"
        })
        .await;
}

#[tokio::test]
async fn client_id_empty_with_binding() {
    let broker = Broker::builder()
        .with_bundled_plugins()
        .config("[provisioning]\nbind_client_id = \"cn\"\non_client_id_mismatch = \"override\"\n")
        .start()
        .await;
    let device = broker.pki.device("pump-1");
    let (client, connack) = Client::connect(broker.options("", &device)).await.expect("it is given its own");
    assert_eq!(connack.properties.assigned_client_id.as_deref(), Some("pump-1"));
    client.disconnect().await.unwrap();
    // Another one is overridden, and the client is told in other words: it did send one.
    let (client, connack) = Client::connect(broker.options("other", &device)).await.expect("overridden");
    assert_eq!(connack.properties.assigned_client_id, None);
    assert_eq!(user_property(&connack, "client-id").as_deref(), Some("pump-1"));
    client.disconnect().await.unwrap();
    let (_client, connack) = Client::connect(broker.options("pump-1", &device)).await.unwrap();
    assert_eq!(user_property(&connack, "client-id"), None);
}

#[tokio::test]
async fn the_first_client_id_is_the_only_one() {
    let broker = Broker::builder()
        .with_bundled_plugins()
        .config("[provisioning]\nbind_client_id = \"first-connect\"\n")
        .start()
        .await;
    let device = broker.pki.device("device-7");
    let (client, _) = Client::connect(broker.options("mine", &device)).await.unwrap();
    client.disconnect().await.unwrap();
    let connack = refused(broker.options("another", &device)).await;
    assert_eq!(connack.code.reason(), ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
    // One that leaves the choice to the broker gets the same each time.
    let quiet = broker.pki.device("device-8");
    let mut given = Vec::new();
    for _ in 0..2 {
        let (client, connack) = Client::connect(broker.options("", &quiet)).await.unwrap();
        given.push(connack.properties.assigned_client_id.expect("it sent none"));
        client.disconnect().await.unwrap();
    }
    assert_eq!(given[0], given[1]);
    // Nobody else may take a client id that a certificate is bound to.
    let thief = broker.pki.device("device-9");
    let connack = refused(broker.options("mine", &thief)).await;
    assert_eq!(connack.code.reason(), ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
}

#[tokio::test]
async fn rotation_new_key_same_cn_same_ca() {
    let broker =
        Broker::builder().with_bundled_plugins().config("[rotation]\noverlap = \"2s\"\n").start().await;
    let old = broker.pki.device("device-7");
    let (mut with_old, _) = Client::connect(broker.options("a", &old)).await.unwrap();
    let new = broker.pki.device("device-7");
    assert_ne!(old.fingerprint, new.fingerprint);
    let (with_new, _) =
        Client::connect(broker.options("b", &new)).await.expect("a new key for the same name");
    let of = |device: &Identity| broker.admin().json(&["cert", "show", &device.fingerprint]);
    assert_eq!(of(&new)["device_id"], "device-7");
    let superseded = eventually("the older one is superseded", async || {
        of(&old)["superseded"]["by"].as_str().map(str::to_owned)
    })
    .await;
    assert_eq!(superseded, new.fingerprint);
    // When the overlap is over it goes, and cannot come back.
    let gone = tokio::time::timeout(Duration::from_secs(30), with_old.disconnected()).await;
    assert_eq!(gone.expect("its time is over"), Some(ReasonCode::NOT_AUTHORIZED));
    assert_eq!(of(&old)["state"], "INACTIVE");
    with_new.disconnect().await.expect("the new one is not concerned");
}

/// The same identity in files of its own: the next one of that name overwrites what it had.
fn set_aside(identity: Identity) -> Identity {
    let aside = |file: &std::path::Path, extension| {
        let other = file.with_extension(extension);
        std::fs::rename(file, &other).unwrap();
        other
    };
    Identity {
        certificate: aside(&identity.certificate, "older.pem"),
        key: aside(&identity.key, "older.key"),
        ..identity
    }
}

#[tokio::test]
async fn older_cert_reconnects_after_supersession() {
    let broker =
        Broker::builder().with_bundled_plugins().config("[rotation]\noverlap = \"0s\"\n").start().await;
    let old = set_aside(broker.pki.device("device-7"));
    let new = broker.pki.device("device-7");
    for device in [&old, &new] {
        let (client, _) = Client::connect(broker.options("a", device)).await.unwrap();
        client.disconnect().await.unwrap();
    }
    let of = |device: &Identity| broker.admin().json(&["cert", "show", &device.fingerprint]);
    eventually("the older one is out of use", async || (of(&old)["state"] == "INACTIVE").then_some(())).await;
    let connack = refused(broker.options("a", &old)).await;
    assert_eq!(connack.code.reason(), ReasonCode::NOT_AUTHORIZED);
    broker.audited("the reason", |line| line["reason"] == "cert_superseded").await;
    Client::connect(broker.options("a", &new)).await.expect("it is the one that counts");
}

#[tokio::test]
async fn same_cert_two_devices_different_client_ids() {
    let broker =
        Broker::builder().with_bundled_plugins().config("[sharing]\npolicy = \"reject-new\"\n").start().await;
    let device = broker.pki.device("device-7");
    let (first, _) = Client::connect(broker.options("first", &device)).await.unwrap();
    let mut copy = broker.options("copy", &device);
    copy.source = Some("127.0.0.2".parse().unwrap());
    assert_eq!(refused(copy).await.code.reason(), ReasonCode::NOT_AUTHORIZED);
    let line = broker
        .audited("the finding", |line| {
            line["name"] == "certificate.finding" && line["fields"]["finding"] == "certs.shared_detected"
        })
        .await;
    assert_eq!(line["fingerprint"], device.fingerprint.as_str());
    broker.audited("the refusal", |line| line["reason"] == "clone_detected").await;
    first.disconnect().await.expect("the first one is not concerned");
}

#[tokio::test]
async fn same_cert_two_devices_same_client_id() {
    let broker =
        Broker::builder().with_bundled_plugins().config("[sharing]\npolicy = \"quarantine\"\n").start().await;
    let device = broker.pki.device("device-7");
    let mut clients = Vec::new();
    let mut refusal = None;
    for number in 0..5 {
        let mut options = broker.options("same", &device);
        options.source = Some(format!("127.0.0.{}", 1 + number % 2).parse().unwrap());
        match Client::connect(options).await {
            Ok((client, _)) => clients.push(client),
            Err(error) => refusal = Some((number, error)),
        }
    }
    let (number, error) = refusal.expect("the fourth takeover within a minute is one too many");
    assert_eq!((number, error.reason_code()), (4, Some(ReasonCode::NOT_AUTHORIZED)), "{error}");
    for mut client in clients {
        client.disconnected().await;
    }
    let connack = refused(broker.options("same", &device)).await;
    assert_eq!(connack.code.reason(), ReasonCode::NOT_AUTHORIZED);
    broker.audited("the reason", |line| line["reason"] == "cert_quarantined").await;
}

#[tokio::test]
async fn ca_deactivated_with_live_clients() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let admin = broker.admin();
    let mut clients = Vec::new();
    for (name, mode) in
        [("quiet", "block-new-registrations"), ("shut", "block-new-connections"), ("gone", "disconnect")]
    {
        let pki = mqgate_e2e::Pki::create(&broker.folder.join(name), name);
        admin.run(&["ca", "add", "--name", name, pki.ca().to_str().unwrap()]);
        let (known, new) = (pki.device(&format!("{name}-known")), pki.device(&format!("{name}-new")));
        let (client, _) = Client::connect(broker.options("c", &known)).await.expect("its CA is active");
        admin.run(&["ca", "deactivate", name, "--mode", mode]);
        let again = Client::connect(broker.options("again", &known)).await.is_ok();
        let registers = Client::connect(broker.options("new", &new)).await.is_ok();
        assert_eq!((again, registers), (name == "quiet", false), "{mode}");
        clients.push((name, client));
    }
    for (name, mut client) in clients {
        if name == "gone" {
            assert_eq!(client.disconnected().await, Some(ReasonCode::NOT_AUTHORIZED));
        } else {
            client.disconnect().await.expect("it stays");
        }
    }
}
