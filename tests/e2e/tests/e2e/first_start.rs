//! The first minutes: start without a configuration, health and readiness, a clean end.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use mqgate_client::{Client, ConnectOptions, TlsOptions};
use mqgate_e2e::Broker;
use mqgate_e2e::broker::{components, mqgate};

/// Nobody wrote a configuration: the listener asks for a certificate, and the material to try it is there.
#[tokio::test]
async fn without_a_configuration_the_gate_is_shut_to_strangers() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Command::new(mqgate())
        .arg("run")
        .current_dir(folder.path())
        .env("MQGATE_COMPONENTS", components())
        .env("MQGATE__NODE__DATA_DIR", folder.path().join("data"))
        .env("MQGATE__ADMIN__BIND", "127.0.0.1:0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The default port may be taken on this machine; then the broker says so and ends.
    let mut port = None;
    for line in BufReader::new(broker.stdout.take().unwrap()).lines().map_while(Result::ok) {
        if line.starts_with("listening: tls") {
            assert!(line.contains("127.0.0.1:8883"), "loopback, and no other address: {line}");
            port = Some(8883);
            break;
        }
    }
    let outcome = match port {
        None => None,
        Some(port) => {
            let pki = folder.path().join("data/demo-pki");
            let mut tls = TlsOptions::new();
            tls.ca_file = Some(pki.join("ca.pem"));
            let mut stranger = ConnectOptions::new("localhost", port);
            stranger.tls = Some(tls.clone());
            let refused = Client::connect(stranger.clone()).await.is_err();
            tls.cert_file = Some(pki.join("device-1.pem"));
            tls.key_file = Some(pki.join("device-1.key"));
            stranger.tls = Some(tls);
            Some((refused, Client::connect(stranger).await.map(drop)))
        }
    };
    let _ = broker.kill();
    let _ = broker.wait();
    match outcome {
        None => mqgate_e2e::tools::skip("port 8883 is in use on this machine"),
        Some((refused, device)) => {
            assert!(refused, "a client without a certificate got in");
            device.expect("a demo certificate connects");
        }
    }
}

#[tokio::test]
async fn health_and_readiness_answer_without_a_token_and_the_api_does_not() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let admin = broker.admin();
    assert_eq!(admin.page("/health").0, 200);
    assert_eq!(admin.page("/ready").0, 200);
    assert_eq!(admin.page("/api/v1/plugins").0, 401);
    broker.audited("the refused request", |line| line["name"] == "admin.refused").await;
}

#[tokio::test]
async fn a_required_plugin_that_is_not_live_keeps_the_listener_shut() {
    let missing = "required = true\nconfig = { init = \"fail\" }";
    let guest = xtask::components::path("test-guest").unwrap();
    let mut broker = Broker::builder()
        .with_plugin("needed", guest.to_str().unwrap(), missing)
        .with_bundled_plugins()
        .start_shut()
        .await;
    let admin = broker.admin();
    let (status, text) = admin.page("/ready");
    assert_eq!(status, 503);
    assert!(text.contains("needed"), "{text}");
    // A version that works opens the gate.
    admin.run(&["plugin", "load", guest.to_str().unwrap(), "--name", "needed", "--config-json", "{}"]);
    broker.open();
    let device = broker.pki.device("device-1");
    Client::connect(broker.options("x", &device)).await.expect("the listener is open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polite_kill_says_goodbye() {
    let mut broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("device-1");
    let (mut client, _) = Client::connect(broker.options("x", &device)).await.unwrap();
    let status = tokio::task::block_in_place(|| broker.stop());
    assert!(status.success(), "{status}");
    let reason = client.disconnected().await;
    assert_eq!(reason, Some(mqgate_codec::ReasonCode::SERVER_SHUTTING_DOWN));
}
