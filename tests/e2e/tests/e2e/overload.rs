//! What brings brokers down: small versions of `cargo xtask overload`, without its clock, and single packets.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};

use mqgate_client::Client;
use mqgate_codec::QoS;
use mqgate_e2e::broker::mqgate;
use mqgate_e2e::{Admin, Broker};
use serde_json::Value;
use xtask::attack::{self, Attack, Field, wire};

const MIB: u64 = 1024 * 1024;
/// What debug builds and allocators take besides what is promised.
const SLACK: u64 = 24 * MIB;

/// What is promised: all queues together; connections with buffers in use.
const fn promised(connections: u64) -> u64 {
    2 * 8 * MIB + connections * 128 * 1024 + SLACK
}

async fn broker(limits: &str) -> Broker {
    let limits = format!("[limits]\nmax_total_queued_bytes = \"8 MiB\"\n{limits}");
    Broker::builder()
        .tcp()
        .with_native("anonymous", "")
        .listener("send_buffer = \"64 KiB\"")
        .config(&limits)
        .start()
        .await
}

/// Clients that do nothing wrong: three pairs, whose messages are counted.
fn behaving(broker: &Broker, qos: &str) -> Child {
    let mut bench = Command::new(mqgate());
    bench.args([
        "bench",
        "pairs",
        "--pairs",
        "3",
        "-n",
        "200",
        "--rate",
        "200",
        "--warm-up",
        "0.1",
        "--json",
    ]);
    bench.args(["-q", qos, "-t", &format!("honest-{qos}"), "-i", &format!("honest-{qos}-")]);
    bench.args(["-h", "127.0.0.1", "-p", &broker.port().to_string()]);
    bench.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mqgate was built")
}

/// Attacks a broker while others behave, who lose nothing; memory grows by no more than `most`.
fn attacked(broker: &Broker, attack: Attack, scale: f64, most: u64) -> Field {
    let before = broker.memory();
    // More than anything can do.
    let field = Field::new(broker.port(), scale, 1_000_000.0);
    attack(&field).expect("the attack gets under way");
    for child in ["0", "1"].map(|qos| behaving(broker, qos)) {
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).expect("--json prints JSON");
        assert_eq!((&report["lost"], &report["out_of_order"]), (&0.into(), &0.into()), "{report}");
    }
    let grown = broker.memory().saturating_sub(before);
    field.stop();
    assert!(grown <= most, "{grown} bytes more, and {most} were promised");
    field
}

/// Of all series of a family together.
fn sum(admin: &Admin, family: &str) -> f64 {
    let (_, text) = admin.page("/metrics");
    let values = text.lines().filter(|line| line.starts_with(family));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test]
async fn ten_times_more_than_it_can_do() {
    let broker = broker("").await;
    let field = attacked(&broker, attack::flood, 0.3, promised(6));
    let done = field.done();
    assert!(done["taken"] > 0 && done["offered"] > done["taken"], "{done:?}");
    assert!(broker.admin().metric("mqgate_turns_waited_total") > 0.0);
}

#[tokio::test]
async fn many_that_take_nothing() {
    let broker = broker("").await;
    attacked(&broker, attack::slow_readers, 0.1, promised(100));
    let admin = broker.admin();
    let waiting = admin.metric("mqgate_queued_bytes") + 256.0 * admin.metric("mqgate_queued_messages");
    assert!(waiting <= (8 * MIB + MIB) as f64, "{waiting}");
    assert_eq!(admin.metric("mqgate_queued_bytes_limit"), (8 * MIB) as f64);
}

#[tokio::test]
async fn many_that_never_say_who_they_are() {
    let broker = broker("max_connect_size = \"2 KiB\"\nconnect_timeout = \"1s\"").await;
    let field = attacked(&broker, attack::half_open, 0.05, 500 * 16 * 1024 + SLACK);
    let admin = broker.admin();
    mqgate_e2e::eventually("they are closed and counted", async || {
        let timeouts = admin.metric("mqgate_connections_unanswered_total{reason=\"timeout\"}");
        let large = admin.metric("mqgate_connections_unanswered_total{reason=\"too_large\"}");
        (timeouts >= 300.0 && large >= 150.0).then_some(())
    })
    .await;
    assert!(field.done()["connections"] >= 500);
}

#[tokio::test]
async fn retained_messages_without_end() {
    let broker = broker("max_retained_messages = 2000\nmax_retained_bytes = \"1 MiB\"").await;
    attacked(&broker, attack::retained_flood, 0.2, promised(4) + 2000 * 1024 + MIB);
    let admin = broker.admin();
    assert_eq!(admin.metric("mqgate_messages_retained"), 2000.0);
    assert!(admin.metric("mqgate_retained_bytes") <= MIB as f64);
    assert!(admin.metric("mqgate_messages_dropped_total{reason=\"quota\"}") > 0.0);
}

#[tokio::test]
#[ignore = "full: two cores for seconds"]
async fn subscriptions_without_end() {
    let broker = broker("max_subscriptions = 100").await;
    attacked(&broker, attack::subscribe_flood, 0.2, promised(10) + 10 * 100 * 1024);
    let admin = broker.admin();
    let subscriptions = sum(&admin, "mqgate_subscriptions{");
    assert!(subscriptions <= 10.0 * 100.0 + 6.0, "{subscriptions}");
    assert!(admin.metric("mqgate_packets_received_total{type=\"subscribe\"}") > 100.0);
}

#[tokio::test]
#[ignore = "full: two cores for seconds"]
async fn retained_messages_asked_for_without_end() {
    let broker = broker("").await;
    attacked(&broker, attack::retained_sweep, 0.2, promised(4) + 10_000 * 1024 + 4 * 20_000 * 64);
    assert_eq!(broker.admin().metric("mqgate_messages_retained"), 10_000.0);
}

#[tokio::test]
#[ignore = "full: two cores for seconds"]
async fn wills_without_end() {
    let broker = broker("").await;
    attacked(&broker, attack::will_flood, 0.2, promised(20));
    assert!(broker.admin().metric("mqgate_will_published_total") > 10.0);
}

#[tokio::test]
#[ignore = "full: two cores for seconds"]
async fn connections_without_end() {
    let broker = broker("").await;
    attacked(&broker, attack::reconnect_flood, 0.2, promised(20));
    let admin = broker.admin();
    assert!(sum(&admin, "mqgate_connects_total{") > 20.0);
    assert!(admin.metric("mqgate_session_takeovers_total") > 0.0);
}

/// A stack that grows with the levels of a topic ends here.
#[tokio::test]
async fn a_subscription_to_nothing_but_slashes() {
    let usual = broker("").await;
    for count in [65_535, 65_534, 1_000] {
        let slashes = "/".repeat(count);
        let mut stream = wire::open(usual.port(), &wire::connect("slashes", None)).unwrap();
        stream.write_all(&wire::subscribe(std::slice::from_ref(&slashes), 0)).unwrap();
        // MQTT 3.1.1 has no word for it.
        assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0, "{count} slashes");
        let mut stream = wire::open(usual.port(), &wire::connect("slashes", None)).unwrap();
        stream.write_all(&wire::publish(&slashes, b"x", true)).unwrap();
        assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0, "{count} slashes");
    }
    let (client, _) = Client::connect(usual.plain_options("c")).await.expect("it is still there");
    client.publish("t", "x", QoS::AtLeastOnce, false).await.unwrap();

    let deep = broker("max_topic_levels = 65535").await;
    let slashes = "/".repeat(65_534);
    let mut stream = wire::open(deep.port(), &wire::connect("slashes", None)).unwrap();
    stream.write_all(&wire::subscribe(&[slashes.clone(), "+/".repeat(32_767)], 0)).unwrap();
    let mut suback = [0; 6];
    stream.read_exact(&mut suback).unwrap();
    assert_eq!(suback, [0x90, 4, 0, 1, 0, 0]);
    stream.write_all(&wire::publish(&slashes, b"x", true)).unwrap();
    let mut message = vec![0; 65_534 + 3 + 4];
    stream.read_exact(&mut message).unwrap();
    assert_eq!((message[0], message.last()), (0x30, Some(&b'x')));
    // What goes with the connection goes without a stack, too.
    drop(stream);
    let (client, _) = Client::connect(deep.plain_options("c")).await.expect("it is still there");
    client.publish("t", "x", QoS::AtLeastOnce, false).await.unwrap();
}

#[tokio::test]
async fn a_keep_alive_of_zero() {
    let broker = broker("").await;
    let mut options = broker.plain_options("silent");
    options.keep_alive = std::time::Duration::ZERO;
    let (client, connack) = Client::connect(options).await.expect("it is let in");
    assert_eq!(connack.properties.server_keep_alive, None);
    client.publish("t", "x", QoS::AtLeastOnce, false).await.unwrap();
    let limited = self::broker("max_keep_alive = \"30s\"").await;
    let mut options = limited.plain_options("silent");
    options.keep_alive = std::time::Duration::ZERO;
    let (_, connack) = Client::connect(options).await.expect("it is let in");
    assert_eq!(connack.properties.server_keep_alive, Some(30));
}
