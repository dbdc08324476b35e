//! The first minutes: start without a configuration, health and readiness, a clean end.

use mqgate_client::Client;
use mqgate_e2e::Broker;

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
