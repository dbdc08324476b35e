//! What people expect of a broker besides the protocol: `$SYS`, delayed messages, exclusive and automatic
//! subscriptions, rewritten topics, traces.

use mqgate_client::{Client, Event};
use mqgate_codec::{QoS, ReasonCode};

use crate::operating::{anybody, payload};

#[tokio::test]
async fn the_broker_tells_of_itself_to_those_who_may_know() {
    let broker = anybody().config("[sys]\ninterval = \"200ms\"").start().await;
    let (mut client, _) = Client::connect(broker.plain_options("c")).await.unwrap();
    let reasons = client.subscribe(&[("$SYS/broker/clients/connected", QoS::AtMostOnce)]).await.unwrap();
    assert_eq!(reasons, [ReasonCode::SUCCESS]);
    // What is retained comes first, whatever it was by then.
    while payload(&mut client).await != "1" {}
    let (_second, _) = Client::connect(broker.plain_options("d")).await.unwrap();
    assert_eq!(payload(&mut client).await, "2");
    client.unsubscribe(&["$SYS/broker/clients/connected"]).await.unwrap();
    client.subscribe(&[("$SYS/broker/version", QoS::AtMostOnce)]).await.unwrap();
    assert_eq!(payload(&mut client).await, format!("mqgate version {}", env!("CARGO_PKG_VERSION")));

    let reason = client.publish("$SYS/broker/version", "mine", QoS::AtLeastOnce, true).await.unwrap();
    assert_eq!(reason, ReasonCode::NOT_AUTHORIZED, "although a rule allows all of $SYS");
    let admin = broker.admin();
    assert_eq!(admin.metric("mqgate_messages_retained"), 0.0, "it counts against nobody's limits");
    let listed = admin.json(&["retained", "list", "--filter", "$SYS/broker/load/#"]);
    assert_eq!(listed.as_array().unwrap().len(), 27, "nine loads over three spans: {listed}");
}

#[tokio::test]
async fn without_a_rule_nobody_reads_sys() {
    let rules = "[[policy.acls.any.rules]]\ntopic = \"#\"\n";
    let broker = mqgate_e2e::Broker::builder()
        .tcp()
        .with_native("anonymous", "config = { acl = \"any\" }")
        .config(rules)
        .start()
        .await;
    let (client, _) = Client::connect(broker.plain_options("c")).await.unwrap();
    for (filter, expected) in [("$SYS/#", ReasonCode::NOT_AUTHORIZED), ("#", ReasonCode::SUCCESS)] {
        assert_eq!(client.subscribe(&[(filter, QoS::AtMostOnce)]).await.unwrap(), [expected], "{filter}");
    }
}

#[tokio::test]
async fn a_delayed_message_waits_and_can_be_taken_back() {
    let broker = anybody().config("[delayed]\nmax_messages = 2\nmax_delay = \"1h\"").start().await;
    let admin = broker.admin();
    let (mut client, _) = Client::connect(broker.plain_options("c")).await.unwrap();
    client.subscribe(&[("open/#", QoS::AtLeastOnce)]).await.unwrap();
    for (topic, expected) in [
        ("$delayed/1/open/soon", ReasonCode::SUCCESS),
        ("$delayed/3000/open/late", ReasonCode::SUCCESS),
        ("$delayed/1/open/too-many", ReasonCode::QUOTA_EXCEEDED),
        ("$delayed/4000/open/too-late", ReasonCode::NOT_AUTHORIZED),
        ("$delayed/1/secret", ReasonCode::NOT_AUTHORIZED),
        ("$delayed/1/$SYS/broker/x", ReasonCode::NOT_AUTHORIZED),
        ("$delayed/soon/open/x", ReasonCode::NOT_AUTHORIZED),
    ] {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            if expected == ReasonCode::SUCCESS && qos == QoS::ExactlyOnce {
                continue; // There is room for two.
            }
            assert_eq!(client.publish(topic, "x", qos, false).await.unwrap(), expected, "{topic}");
        }
    }
    let waiting = admin.json(&["message", "delayed"]);
    assert_eq!(waiting.as_array().unwrap().len(), 2, "{waiting}");
    match client.recv().await {
        Event::Message(message) => assert_eq!(message.topic.as_str(), "open/soon"),
        Event::Disconnected { cause, .. } => panic!("{cause}"),
    }
    assert_eq!(admin.metric("mqgate_delayed_messages"), 1.0);
    let late = &admin.json(&["message", "delayed"])[0];
    assert_eq!((&late["topic"], late["due_in_seconds"].as_u64() > Some(2900)), (&"open/late".into(), true));
    admin.run(&["message", "cancel", &late["id"].to_string()]);
    assert_eq!(admin.json(&["message", "delayed"]), serde_json::json!([]));
    // Through the API too.
    admin.run(&["message", "send", "$delayed/1/open/again", "--message", "later"]);
    assert_eq!(payload(&mut client).await, "later");
}

#[tokio::test]
async fn an_exclusive_subscription_is_one_sessions_until_it_lets_go() {
    let broker = anybody().start().await;
    let (mut first, _) = Client::connect(broker.plain_options("first")).await.unwrap();
    let (second, _) = Client::connect(broker.plain_options("second")).await.unwrap();
    let filter = [("$exclusive/open/job", QoS::AtLeastOnce)];
    assert_eq!(first.subscribe(&filter).await.unwrap(), [ReasonCode::GRANTED_QOS_1]);
    assert_eq!(first.subscribe(&filter).await.unwrap(), [ReasonCode::GRANTED_QOS_1], "its own");
    assert_eq!(second.subscribe(&filter).await.unwrap(), [ReasonCode::QUOTA_EXCEEDED]);
    let forbidden = [("$exclusive/secret", QoS::AtMostOnce)];
    assert_eq!(second.subscribe(&forbidden).await.unwrap(), [ReasonCode::NOT_AUTHORIZED]);
    second.publish("open/job", "do", QoS::AtLeastOnce, false).await.unwrap();
    assert_eq!(payload(&mut first).await, "do");
    assert_eq!(broker.admin().metric("mqgate_subscriptions{kind=\"exclusive\"}"), 1.0);
    first.unsubscribe(&["$exclusive/open/job"]).await.unwrap();
    assert_eq!(second.subscribe(&filter).await.unwrap(), [ReasonCode::GRANTED_QOS_1]);
    // It is given back with the session as well.
    second.disconnect().await.unwrap();
    broker
        .audited("the end", |line| line["name"] == "connection.closed" && line["client_id"] == "second")
        .await;
    assert_eq!(first.subscribe(&filter).await.unwrap(), [ReasonCode::GRANTED_QOS_1]);
}

#[tokio::test]
async fn clients_are_subscribed_by_the_configuration_within_their_permit() {
    let broker = anybody()
        .config(
            "[[topics.subscribe]]\nfilter = \"open/to/${device-id}/${client-id}\"\nqos = 1\n\
             [[topics.subscribe]]\nfilter = \"secret/#\"\n",
        )
        .start()
        .await;
    let admin = broker.admin();
    let (mut client, _) = Client::connect(broker.plain_options("seven")).await.unwrap();
    let (_odd, _) = Client::connect(broker.plain_options("a+b")).await.unwrap();
    let has = |id: &str| {
        let list = admin.json(&["subscriptions", "list", "--client", id]);
        let filters = list.as_array().unwrap().iter().map(|one| one["filter"].as_str().unwrap().to_owned());
        filters.collect::<Vec<_>>()
    };
    assert_eq!(has("seven"), ["open/to/anonymous/seven"]);
    assert_eq!(has("a+b"), Vec::<String>::new());
    admin.run(&["message", "send", "open/to/anonymous/seven", "--message", "hello"]);
    assert_eq!(payload(&mut client).await, "hello");
}

#[tokio::test]
async fn topics_are_rewritten_before_permits_see_them() {
    let broker = anybody()
        .config(
            "[[topics.rewrite]]\nfrom = \"old/+/#\"\nto = \"open/$2/$1\"\n\
             [[topics.rewrite]]\nfrom = \"open/inside\"\nto = \"secret\"\naction = \"publish\"\n",
        )
        .start()
        .await;
    let (mut client, _) = Client::connect(broker.plain_options("c")).await.unwrap();
    assert_eq!(client.subscribe(&[("old/a/b", QoS::AtMostOnce)]).await.unwrap(), [ReasonCode::SUCCESS]);
    client.publish("old/a/b", "x", QoS::AtLeastOnce, false).await.unwrap();
    match client.recv().await {
        Event::Message(message) => assert_eq!(message.topic.as_str(), "open/b/a"),
        Event::Disconnected { cause, .. } => panic!("{cause}"),
    }
    let reason = client.publish("open/inside", "x", QoS::AtLeastOnce, false).await.unwrap();
    assert_eq!(reason, ReasonCode::NOT_AUTHORIZED, "judged as what it became");
    assert_eq!(client.unsubscribe(&["old/a/b"]).await.unwrap(), [ReasonCode::SUCCESS]);
    let will = |topic: &str| {
        let mut options = broker.plain_options("w");
        options.set_will(topic, "x", QoS::AtMostOnce, false);
        options
    };
    assert!(Client::connect(will("old/a/b")).await.is_ok());
    assert!(Client::connect(will("open/inside")).await.is_err(), "a will is published like a message");
}

#[tokio::test]
async fn a_trace_has_what_was_said_and_no_secrets() {
    let broker = anybody().start().await;
    let admin = broker.admin();
    admin.run(&["trace", "start", "seven", "--client", "seven", "--for", "1m"]);
    admin.run(&["trace", "start", "payloads", "--topic", "open/+", "--payloads"]);
    let (mut seven, _) = Client::connect(broker.plain_options("seven")).await.unwrap();
    let (other, _) = Client::connect(broker.plain_options("other")).await.unwrap();
    seven.subscribe(&[("open/a", QoS::AtMostOnce)]).await.unwrap();
    other.publish("open/a", "private", QoS::AtLeastOnce, false).await.unwrap();
    assert_eq!(payload(&mut seven).await, "private");
    let listed = admin.json(&["trace", "list"]);
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    for name in ["seven", "payloads"] {
        admin.run(&["trace", "stop", name]);
    }
    let wait_for = |name: &'static str, what: &'static str| {
        let admin = broker.admin();
        move || {
            for _ in 0..500 {
                let text = admin.run(&["trace", "show", name]);
                if text.contains(what) {
                    return text;
                }
            }
            panic!("{what} is not in the trace {name}")
        }
    };
    let text = wait_for("seven", "-> connection=1 client=\"seven\" address=127.0.0.1 PUBLISH")();
    for part in ["<-", "CONNECT", "CONNACK", "SUBSCRIBE", "filter=\"open/a\"", "SUBACK", "bytes=7"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("private") && !text.contains("other"), "{text}");
    let text = wait_for("payloads", "->")();
    assert!(text.contains("payload=\"private\"") && text.contains("client=\"other\""), "{text}");
    assert!(!text.contains("CONNECT"), "{text}");
    let again = admin.try_run(&["trace", "start", "seven", "--client", "x"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("trace_exists"));
    admin.run(&["trace", "delete", "seven"]);
    assert_eq!(admin.try_run(&["trace", "show", "seven"]).status.code(), Some(1));
    broker.audited("the start", |line| line["fields"]["action"] == "trace.start").await;
}
