//! What an operator sees and does while clients are connected: the commands, and the API behind them.

use mqgate_client::{Client, ConnectOptions, Event};
use mqgate_codec::{QoS, ReasonCode};
use mqgate_e2e::Broker;
use mqgate_e2e::broker::BrokerBuilder;

/// Anybody on this machine, below `open/` and what begins with `$`.
pub fn anybody() -> BrokerBuilder {
    let rules = ["open/#", "$SYS/#"].map(|topic| format!("[[policy.acls.any.rules]]\ntopic = \"{topic}\"\n"));
    Broker::builder().tcp().with_native("anonymous", "config = { acl = \"any\" }").config(&rules.concat())
}

pub async fn payload(client: &mut Client) -> String {
    match client.recv().await {
        Event::Message(message) => String::from_utf8(message.payload.to_vec()).unwrap(),
        Event::Disconnected { cause, .. } => panic!("{cause}"),
    }
}

fn lasting(mut options: ConnectOptions) -> ConnectOptions {
    options.clean_start = false;
    options.properties.session_expiry_interval = Some(600);
    options
}

#[tokio::test]
async fn clients_are_listed_shown_and_sent_away() {
    let broker = anybody().start().await;
    let admin = broker.admin();
    let (mut seven, _) = Client::connect(broker.plain_options("seven")).await.unwrap();
    let (_eight, _) = Client::connect(broker.plain_options("eight")).await.unwrap();
    seven.subscribe(&[("open/a/+", QoS::AtLeastOnce)]).await.unwrap();

    let all = admin.json(&["clients", "list"]);
    assert_eq!(all.as_array().unwrap().len(), 2, "{all}");
    for (filter, value, count) in [
        ("--client", "seven", 1),
        ("--device", "anonymous", 2),
        ("--listener", "other", 0),
        ("--address", "127.0.0.0/8", 2),
        ("--address", "192.0.2.0/24", 0),
    ] {
        let some = admin.json(&["clients", "list", filter, value]);
        assert_eq!(some.as_array().unwrap().len(), count, "{filter} {value}: {some}");
    }
    assert!(admin.run(&["clients", "list"]).contains("CLIENT ID"));
    let shown = admin.json(&["clients", "show", "seven"]);
    assert_eq!(shown["session"]["subscriptions"][0]["filter"], "open/a/+");
    assert_eq!(shown["session"]["protocol"], "5.0");

    admin.run(&["clients", "disconnect", "seven"]);
    assert_eq!(seven.disconnected().await, Some(ReasonCode::ADMINISTRATIVE_ACTION));
    let output = admin.try_run(&["clients", "disconnect", "nobody"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("mqgate clients list"), "{said}");
    let line = broker
        .audited("the disconnection", |line| {
            line["fields"]["action"] == "client.kick" && line["outcome"] == "success"
        })
        .await;
    assert_eq!((&line["client_id"], &line["actor"]), (&"seven".into(), &"admin:default".into()));
}

#[tokio::test]
async fn sessions_stay_until_they_are_deleted() {
    let broker = anybody().start().await;
    let admin = broker.admin();
    for id in ["a", "b", "c"] {
        let (client, _) = Client::connect(lasting(broker.plain_options(id))).await.unwrap();
        client.subscribe(&[("open/x", QoS::AtLeastOnce)]).await.unwrap();
        client.disconnect().await.unwrap();
    }
    let (mut here, _) = Client::connect(lasting(broker.plain_options("here"))).await.unwrap();
    here.publish("open/x", "kept", QoS::AtLeastOnce, false).await.unwrap();
    let away = admin.json(&["sessions", "list", "--away"]);
    assert_eq!(away.as_array().unwrap().len(), 3, "{away}");
    assert_eq!((&away[0]["client_id"], &away[0]["queued_messages"]), (&"a".into(), &1.into()));
    let shown = admin.json(&["sessions", "show", "a"]);
    assert_eq!((&shown["connected"], &shown["subscriptions"][0]["qos"]), (&false.into(), &1.into()));

    admin.run(&["sessions", "delete", "a"]);
    admin.run(&["sessions", "delete", "here"]);
    assert_eq!(here.disconnected().await, Some(ReasonCode::ADMINISTRATIVE_ACTION));
    let left = admin.json(&["sessions", "list"]);
    assert_eq!(left.as_array().unwrap().len(), 2, "{left}");
    let (_, connack) = Client::connect(lasting(broker.plain_options("a"))).await.unwrap();
    assert!(!connack.session_present, "the session was deleted");
    assert_eq!(admin.try_run(&["sessions", "delete", "a-no-one"]).status.code(), Some(1));
}

#[tokio::test]
async fn an_operator_subscribes_a_client_within_its_permit() {
    let broker = anybody().start().await;
    let admin = broker.admin();
    let (mut client, _) = Client::connect(broker.plain_options("c")).await.unwrap();
    admin.run(&["subscriptions", "add", "c", "open/b", "--qos", "1"]);
    let refused = admin.try_run(&["subscriptions", "add", "c", "secret/#"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("not_permitted") && said.contains("grant"), "{said}");

    let to = admin.json(&["subscriptions", "list", "--topic", "open/b"]);
    assert_eq!((&to[0]["client_id"], &to[0]["qos"]), (&"c".into(), &1.into()), "{to}");
    let sent = admin.json(&["message", "send", "open/b", "--message", "hello", "--qos", "1"]);
    assert_eq!(sent["delivered"], true);
    assert_eq!(payload(&mut client).await, "hello");

    admin.run(&["subscriptions", "remove", "c", "open/b"]);
    assert_eq!(admin.json(&["subscriptions", "list", "--client", "c"]), serde_json::json!([]));
    assert_eq!(admin.json(&["message", "send", "open/b"])["delivered"], false);
    broker.audited("the message", |line| line["fields"]["action"] == "message.publish").await;
}

#[tokio::test]
async fn retained_messages_are_listed_read_and_deleted() {
    let broker = anybody().start().await;
    let admin = broker.admin();
    for number in 0..5 {
        let topic = format!("open/{number}");
        admin.run(&["message", "send", &topic, "--message", "kept", "--retain", "--expiry", "600"]);
    }
    let listed = admin.json(&["retained", "list", "--filter", "open/+"]);
    let topics: Vec<&str> =
        listed.as_array().unwrap().iter().map(|item| item["topic"].as_str().unwrap()).collect();
    assert_eq!(topics, ["open/0", "open/1", "open/2", "open/3", "open/4"]);
    let shown = admin.json(&["retained", "show", "open/3"]);
    assert_eq!((&shown["payload"], &shown["payload_bytes"]), (&"kept".into(), &4.into()));
    assert!(shown["expires_in_seconds"].as_u64().unwrap() > 500);
    assert!(admin.run(&["retained", "delete", "open/#"]).contains("deleted: 5"));
    assert_eq!(admin.try_run(&["retained", "show", "open/3"]).status.code(), Some(1));
    assert_eq!(admin.metric("mqgate_messages_retained"), 0.0);
}
