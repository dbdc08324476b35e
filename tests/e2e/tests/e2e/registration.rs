//! One device, one certificate: registered at the first connection or by hand before, and shut out for good.

use std::time::{Duration, Instant};

use mqgate_client::{Client, ConnectError, TlsVersion};
use mqgate_codec::{ConnectReturnCode, ProtocolVersion, ReasonCode};
use mqgate_e2e::Broker;

#[tokio::test]
async fn a_new_certificate_registers_itself_and_connects_at_once() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    assert_eq!(broker.admin().json(&["cert", "list"]).as_array().map(Vec::len), Some(0));
    let device = broker.pki.device("device-7");
    let (client, _) = Client::connect(broker.options("seven", &device)).await.unwrap();

    let certificate = broker.admin().json(&["cert", "show", &device.fingerprint]);
    assert_eq!(certificate["state"], "ACTIVE");
    assert_eq!(certificate["device_id"], "device-7");
    assert_eq!(certificate["source"], "jit");
    let line = broker.audited("the registration", |line| line["name"] == "device.registered").await;
    assert_eq!(line["fingerprint"], device.fingerprint.as_str());
    assert!(has_plugin(&line, "auto-register"), "{line}");
    let line = broker.audited("the admission", |line| line["name"] == "connection.accepted").await;
    assert!(has_plugin(&line, "cert-acl"), "{line}");
    drop(client);
}

fn has_plugin(line: &serde_json::Value, name: &str) -> bool {
    line["plugins"].as_array().into_iter().flatten().any(|plugin| {
        plugin["name"] == name
            && plugin["digest"].as_str().is_some_and(|digest| digest.starts_with("sha256:"))
    })
}

async fn refusal(broker: &Broker, device: &mqgate_e2e::Identity, version: ProtocolVersion) -> ConnectError {
    let mut options = broker.options("by-hand", device);
    options.version = version;
    Client::connect(options).await.err().expect("the device is not registered")
}

#[tokio::test]
async fn with_manual_registration_a_device_waits_for_its_operator() {
    let broker = Broker::builder().registration("manual").with_bundled_plugins().start().await;
    let device = broker.pki.device("device-8");
    assert_eq!(
        refusal(&broker, &device, ProtocolVersion::V5).await.reason_code(),
        Some(ReasonCode::NOT_AUTHORIZED)
    );
    assert_eq!(
        refusal(&broker, &device, ProtocolVersion::V3_1_1).await.return_code(),
        Some(ConnectReturnCode::NotAuthorized)
    );
    let line = broker.audited("the refusal", |line| line["name"] == "connection.refused").await;
    assert_eq!(line["reason"], "cert_not_registered");
    assert_eq!(line["fingerprint"], device.fingerprint.as_str());
    assert!(line["subject"].as_str().is_some_and(|subject| subject.contains("device-8")), "{line}");

    broker.admin().run(&["cert", "register", device.certificate.to_str().unwrap()]);
    Client::connect(broker.options("by-hand", &device)).await.expect("it is registered now");
}

#[tokio::test]
async fn a_revoked_device_is_disconnected_within_a_second_and_stays_out() {
    for tls in [TlsVersion::V1_2, TlsVersion::V1_3] {
        let resumption = "session_resumption = \"tickets\"";
        let broker = Broker::builder().listener(resumption).with_bundled_plugins().start().await;
        let device = broker.pki.device("device-9");
        let mut options = broker.options("nine", &device);
        let tls_options = options.tls.as_mut().unwrap();
        tls_options.only_version(tls);
        // One session store for all connections, so that the later ones resume.
        tls_options.share_sessions();
        let (mut client, _) = Client::connect(options.clone()).await.unwrap();
        let (other, _) = Client::connect(options.clone_with_client_id("nine-again")).await.unwrap();
        assert!(other.tls_resumed(), "the second connection resumes the first one's {tls} session");

        let revoked = Instant::now();
        broker.admin().run(&["cert", "revoke", &device.fingerprint, "--reason", "key-compromise"]);
        let gone = tokio::time::timeout(Duration::from_secs(10), client.disconnected()).await;
        assert_eq!(gone.expect("it is disconnected"), Some(ReasonCode::NOT_AUTHORIZED));
        // The promise is one second; a loaded test machine gets one more.
        assert!(revoked.elapsed() < Duration::from_secs(2), "{:?}", revoked.elapsed());

        let error = Client::connect(options.clone()).await.err().expect("it is revoked");
        assert_eq!(error.reason_code(), Some(ReasonCode::NOT_AUTHORIZED), "{error}");
        let refused = broker
            .audited("the refusal", |line| {
                line["name"] == "connection.refused" && line["reason"] == "cert_revoked"
            })
            .await;
        assert_eq!(
            refused["fields"]["tls.resumed"], true,
            "the refused connection had resumed a {tls} session: {refused}"
        );
        broker.audited("the revocation", |line| line["name"] == "device.revoked").await;
    }
}

#[tokio::test]
async fn the_registry_survives_a_kill() {
    let mut broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("device-10");
    Client::connect(broker.options("ten", &device)).await.unwrap();
    // The CONNACK said yes: the registration is on the disk.
    broker.kill_and_restart();
    assert_eq!(broker.admin().json(&["cert", "show", &device.fingerprint])["state"], "ACTIVE");
    broker.admin().run(&["cert", "revoke", &device.fingerprint]);
    broker.kill_and_restart();
    let error = Client::connect(broker.options("ten", &device)).await.err().expect("it stays revoked");
    assert_eq!(error.reason_code(), Some(ReasonCode::NOT_AUTHORIZED));
}

#[tokio::test]
async fn deactivation_is_reversible_and_deletion_is_not_resurrected() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("device-11");
    Client::connect(broker.options("eleven", &device)).await.unwrap();
    let admin = broker.admin();
    admin.run(&["cert", "deactivate", &device.fingerprint]);
    assert!(Client::connect(broker.options("eleven", &device)).await.is_err());
    admin.run(&["cert", "activate", &device.fingerprint]);
    Client::connect(broker.options("eleven", &device)).await.expect("active again");
    admin.run(&["cert", "deactivate", &device.fingerprint]);
    admin.run(&["cert", "delete", &device.fingerprint]);
    let error =
        Client::connect(broker.options("eleven", &device)).await.err().expect("a tombstone stands there");
    assert_eq!(error.reason_code(), Some(ReasonCode::NOT_AUTHORIZED));
    broker.audited("the tombstone", |line| line["reason"] == "cert_tombstoned").await;
}

#[tokio::test]
async fn a_ca_added_and_removed_while_running() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let other = mqgate_e2e::Pki::create(&broker.folder.join("other"), "other");
    let stranger = other.device("stranger");
    assert!(Client::connect(broker.options("s", &stranger)).await.is_err());
    broker
        .audited("the failed handshake", |line| {
            line["name"] == "tls.handshake_failed" && line["reason"] == "cert_unknown_ca"
        })
        .await;
    let admin = broker.admin();
    admin.run(&["ca", "add", "--name", "other", other.ca().to_str().unwrap()]);
    Client::connect(broker.options("s", &stranger)).await.expect("its CA is trusted now");
    let output = admin.try_run(&["ca", "remove", "other"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("related_device_certificates_exist"), "{said}");
    admin.run(&["ca", "remove", "other", "--force", "--grace", "0s"]);
    assert!(Client::connect(broker.options("s", &stranger)).await.is_err());
}
