//! Who is kept out, and how fast clients may be: bans, flapping, rates, slow subscribers.

use std::time::Duration;

use mqgate_client::Client;
use mqgate_codec::{QoS, ReasonCode};
use mqgate_e2e::Broker;

use crate::operating::anybody;

async fn refused(broker: &Broker, client_id: &str) -> Option<ReasonCode> {
    let error = Client::connect(broker.plain_options(client_id)).await.err().expect("it is kept out");
    error.reason_code()
}

#[tokio::test]
async fn a_ban_disconnects_keeps_out_and_outlives_the_broker() {
    let mut broker = anybody().start().await;
    let admin = broker.admin();
    let (mut bad, _) = Client::connect(broker.plain_options("bad")).await.unwrap();
    let (good, _) = Client::connect(broker.plain_options("good")).await.unwrap();
    let ban = admin.json(&["bans", "add", "--client", "bad", "--for", "1h", "--reason", "because"]);
    assert_eq!((&ban["disconnected"], &ban["by"]), (&1.into(), &"admin:default".into()), "{ban}");
    assert_eq!(bad.disconnected().await, Some(ReasonCode::NOT_AUTHORIZED));
    assert_eq!(refused(&broker, "bad").await, Some(ReasonCode::BANNED));
    good.publish("open/x", "x", QoS::AtLeastOnce, false).await.expect("the other one stays");
    assert_eq!(admin.metric("mqgate_banned_entries{kind=\"client\"}"), 1.0);
    broker.audited("the ban", |line| line["name"] == "ban.added" && line["fields"]["value"] == "bad").await;

    broker.kill_and_restart();
    let admin = broker.admin();
    assert_eq!(refused(&broker, "bad").await, Some(ReasonCode::BANNED));
    let listed = admin.json(&["bans", "list"]);
    assert_eq!((&listed[0]["reason"], &listed[0]["id"]), (&"because".into(), &ban["id"]));
    admin.run(&["bans", "remove", &ban["id"].as_str().unwrap()[..8]]);
    Client::connect(broker.plain_options("bad")).await.expect("it may come in again");
    broker.kill_and_restart();
    assert_eq!(broker.admin().json(&["bans", "list"]), serde_json::json!([]));
}

#[tokio::test]
async fn a_device_a_certificate_and_a_network_can_be_banned() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let admin = broker.admin();
    let (one, two) = (broker.pki.device("device-1"), broker.pki.device("device-2"));
    let mut clients = Vec::new();
    for identity in [&one, &two] {
        clients.push(Client::connect(broker.options("c", identity)).await.unwrap().0);
    }
    admin.run(&["bans", "add", "--device", "device-1"]);
    admin.run(&["bans", "add", "--fingerprint", &two.fingerprint]);
    for (mut client, identity) in clients.into_iter().zip([&one, &two]) {
        client.disconnected().await;
        let error = Client::connect(broker.options("other", identity)).await.err().unwrap();
        assert_eq!(error.reason_code(), Some(ReasonCode::BANNED), "{error}");
    }
    let three = broker.pki.device("device-3");
    let (mut client, _) = Client::connect(broker.options("c", &three)).await.unwrap();
    admin.run(&["bans", "add", "--address", "127.0.0.0/8"]);
    client.disconnected().await;
    assert!(Client::connect(broker.options("c", &three)).await.is_err());
    assert_eq!(admin.metric("mqgate_listener_rejected_total{listener=\"main\",reason=\"ip_block\"}"), 1.0);
    let wrong = admin.try_run(&["bans", "add", "--address", "127.0.0.1/8"]);
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(!wrong.status.success() && said.contains("first address of the network"), "{said}");
}

#[tokio::test]
async fn a_client_that_comes_and_goes_is_kept_out_for_a_while() {
    let broker = anybody().config("[flapping]\nenable = true\nmax_disconnects = 3").start().await;
    for _ in 0..3 {
        let (client, _) = Client::connect(broker.plain_options("moth")).await.unwrap();
        client.disconnect().await.unwrap();
    }
    let line = broker.audited("the ban", |line| line["name"] == "ban.added").await;
    assert_eq!((&line["actor"], &line["device_id"]), (&"system:flapping".into(), &"anonymous".into()));
    assert_eq!(refused(&broker, "moth").await, Some(ReasonCode::BANNED));
    Client::connect(broker.plain_options("other")).await.expect("it has not flapped");
    assert_eq!(broker.admin().metric("mqgate_flapping_clients_total"), 1.0);
}

#[tokio::test]
async fn who_is_too_fast_is_not_read_and_loses_nothing() {
    let broker = anybody().listener("rates = { messages = 50, client_messages = 1000 }").start().await;
    let (mut listener, _) = Client::connect(broker.plain_options("listener")).await.unwrap();
    listener.subscribe(&[("open/#", QoS::AtMostOnce)]).await.unwrap();
    let (publisher, _) = Client::connect(broker.plain_options("publisher")).await.unwrap();
    let started = std::time::Instant::now();
    for number in 0..100 {
        publisher.publish("open/x", number.to_string(), QoS::AtMostOnce, false).await.unwrap();
    }
    for number in 0..100 {
        assert_eq!(crate::operating::payload(&mut listener).await, number.to_string());
    }
    // One second's worth at once, the other fifty at fifty a second.
    assert!(started.elapsed() >= Duration::from_millis(800), "{:?}", started.elapsed());
    let limited = broker.admin().metric("mqgate_rate_limited_total{kind=\"msg\",scope=\"listener\"}");
    assert!(limited >= 1.0);
    assert_eq!(broker.admin().metric("mqgate_messages_dropped_total{reason=\"slow\"}"), 0.0);
}

#[tokio::test]
async fn connections_beyond_the_rate_wait_and_come_in() {
    let broker = anybody().listener("rates = { connections = 2 }").start().await;
    let started = std::time::Instant::now();
    let mut clients = Vec::new();
    for number in 0..4 {
        clients.push(Client::connect(broker.plain_options(&number.to_string())).await.unwrap());
    }
    assert!(started.elapsed() >= Duration::from_millis(400), "{:?}", started.elapsed());
    let limited = broker.admin().metric("mqgate_rate_limited_total{kind=\"conn\",scope=\"listener\"}");
    assert!(limited >= 1.0);
}

/// Asks again until it is so.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !so() {
        assert!(started.elapsed() < Duration::from_secs(30), "{what}");
    }
}

#[tokio::test]
async fn a_slow_subscriber_is_listed_and_where_told_disconnected() {
    for disconnect in [false, true] {
        let rules = format!("[slow_subscribers]\nmessages = 100\nage = \"1s\"\ndisconnect = {disconnect}");
        let broker = anybody().config(&rules).start().await;
        let admin = broker.admin();
        let mut options = broker.plain_options("slow");
        options.event_capacity = 1;
        let (slow, _) = Client::connect(options).await.unwrap();
        slow.subscribe(&[("open/#", QoS::AtLeastOnce)]).await.unwrap();
        let (quick, _) = Client::connect(broker.plain_options("quick")).await.unwrap();
        for _ in 0..400 {
            quick.publish("open/x", "x", QoS::AtLeastOnce, false).await.unwrap();
        }
        match disconnect {
            false => {
                until("it is slow", || admin.metric("mqgate_slow_subscribers") == 1.0);
                let listed = admin.json(&["clients", "slow"]);
                assert_eq!((&listed[0]["client_id"], listed.as_array().unwrap().len()), (&"slow".into(), 1));
                assert!(listed[0]["queued_messages"].as_u64().unwrap() > 100, "{listed}");
                assert_eq!(admin.metric("mqgate_slow_subscriber_disconnects_total"), 0.0);
            }
            true => {
                until("it is closed", || admin.metric("mqgate_slow_subscriber_disconnects_total") == 1.0);
                broker
                    .audited("the end", |line| {
                        line["name"] == "connection.closed" && line["client_id"] == "slow"
                    })
                    .await;
            }
        }
    }
}
