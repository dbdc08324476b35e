//! `/metrics` as Prometheus reads it.

use std::io::Write as _;
use std::process::Stdio;

use mqgate_e2e::{Broker, tools};

#[tokio::test]
async fn promtool_finds_nothing_to_complain_about() {
    let Some(mut promtool) = tools::promtool() else { return };
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("device-1");
    let (client, _) = mqgate_client::Client::connect(broker.options("m", &device)).await.unwrap();
    let (status, text) = broker.admin().page("/metrics");
    assert_eq!(status, 200);
    let mut check = promtool
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
    drop(client);
}

#[tokio::test]
async fn decisions_calls_and_the_registry_are_counted() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("device-1");
    let (_client, _) = mqgate_client::Client::connect(broker.options("m", &device)).await.unwrap();
    let admin = broker.admin();
    for (series, least) in [
        ("mqgate_clients_connected", 1.0),
        ("mqgate_plugin_calls_total{hook=\"authenticator\",plugin=\"cert-acl\",result=\"allow\"}", 1.0),
        ("mqgate_plugin_calls_total{hook=\"authorizer\",plugin=\"cert-acl\",result=\"allow\"}", 1.0),
        ("mqgate_tls_handshakes_total{listener=\"main\",result=\"ok\"}", 1.0),
    ] {
        assert!(admin.metric(series) >= least, "{series} in\n{}", admin.page("/metrics").1);
    }
    // No label may hold what a client chose.
    let (_, text) = admin.page("/metrics");
    assert!(!text.contains("device-1"), "a client's name is in /metrics");
}
