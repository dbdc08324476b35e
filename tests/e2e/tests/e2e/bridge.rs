//! Bridges: to another mqgate and to Mosquitto, in both directions, and not in circles.

use std::collections::BTreeSet;
use std::time::Duration;

use mqgate_client::{Client, Event, Message};
use mqgate_codec::{PublishProperties, QoS, TopicName};
use mqgate_e2e::mosquitto::free_port;
use mqgate_e2e::{Broker, BrokerBuilder, Mosquitto, eventually};

fn open() -> BrokerBuilder {
    let rules = "[[policy.acls.any.rules]]\ntopic = \"#\"\n";
    Broker::builder().tcp().with_native("anonymous", "config = { acl = \"any\" }").config(rules)
}

/// A table `[bridges.NAME]` to a port of this machine.
fn to(name: &str, port: u16, more: &str) -> String {
    format!(
        "[bridges.{name}]\naddresses = [\"mqtt://127.0.0.1:{port}\"]\nmin_backoff = \"50ms\"\nmax_backoff = \"200ms\"\n{more}\n"
    )
}

async fn up(broker: &Broker, bridge: &str) {
    let series = format!("mqgate_bridge_up{{bridge=\"{bridge}\"}}");
    let admin = broker.admin();
    eventually("the bridge is up", async || (admin.metric(&series) == 1.0).then_some(())).await;
    // And subscribed: the last thing it does.
    let name = bridge.to_owned();
    eventually("its own session", async || {
        let clients = admin.json(&["clients", "list"]);
        clients
            .as_array()?
            .iter()
            .any(|client| client["device_id"] == format!("$bridge/{name}"))
            .then_some(())
    })
    .await;
}

async fn client(options: mqgate_client::ConnectOptions, filters: &[&str]) -> Client {
    let (client, _) = Client::connect(options).await.unwrap();
    for filter in filters {
        assert!(!client.subscribe(&[(filter, QoS::ExactlyOnce)]).await.unwrap()[0].is_error());
    }
    client
}

async fn next(client: &mut Client) -> Message {
    match tokio::time::timeout(Duration::from_secs(10), client.recv()).await.expect("a message in time") {
        Event::Message(message) => message,
        Event::Disconnected { cause, .. } => panic!("{cause}"),
    }
}

fn texts(message: &Message) -> (String, String) {
    (message.topic.as_str().to_owned(), String::from_utf8_lossy(&message.payload).into_owned())
}

fn forwarded(broker: &Broker, bridge: &str, direction: &str, result: &str) -> f64 {
    broker.admin().metric(&format!(
        "mqgate_bridge_messages_total{{bridge=\"{bridge}\",direction=\"{direction}\",result=\"{result}\"}}"
    ))
}

/// Publishes until what is published comes out on the other side: from then on the subscriptions are in place.
async fn warm(publisher: &Client, topic: &str, receiver: &mut Client) {
    for number in 0.. {
        publisher.publish(topic, format!("warm {number}"), QoS::AtLeastOnce, false).await.unwrap();
        if let Ok(Event::Message(_)) = tokio::time::timeout(Duration::from_millis(100), receiver.recv()).await
        {
            break;
        }
        assert!(number < 100, "nothing comes through");
    }
    while let Ok(Event::Message(_)) = tokio::time::timeout(Duration::from_millis(300), receiver.recv()).await
    {
    }
}

#[tokio::test]
async fn topics_go_out_and_in_with_everything_that_belongs_to_a_message() {
    let remote = open().start().await;
    let topics = r#"topics = [
  { pattern = "out/#", direction = "out", qos = 2, remote_prefix = "site/" },
  { pattern = "in/#", direction = "in", qos = 2, local_prefix = "from/", remote_prefix = "site/" },
  { pattern = "answers/#", direction = "in", qos = 1, remote_prefix = "site/" },
]"#;
    let local = open().config(&to("hq", remote.port(), topics)).start().await;
    up(&local, "hq").await;
    let here = client(local.plain_options("here"), &["from/#"]).await;
    let mut there = client(remote.plain_options("there"), &["site/out/#"]).await;
    let mut here = here;
    warm(&here, "out/warm", &mut there).await;
    warm(&there, "site/in/warm", &mut here).await;

    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let name = |text: &str| TopicName::parse(text.into()).unwrap();
        let properties = PublishProperties {
            message_expiry_interval: Some(100),
            response_topic: Some(name("answers/7")),
            correlation_data: Some("c".into()),
            content_type: Some("text/plain".into()),
            payload_format_indicator: Some(true),
            user_properties: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
            ..PublishProperties::default()
        };
        here.publish_with("out/x", "payload", qos, false, properties.clone()).await.unwrap();
        let got = next(&mut there).await;
        assert_eq!((texts(&got), got.qos), (("site/out/x".into(), "payload".into()), qos));
        let seen = got.properties;
        assert_eq!(seen.response_topic, Some(name("site/answers/7")), "the answer comes back by a rule");
        assert_eq!(seen.correlation_data, properties.correlation_data);
        assert_eq!(seen.content_type, properties.content_type);
        assert_eq!(seen.payload_format_indicator, Some(true));
        assert!(seen.message_expiry_interval.is_some_and(|left| (90..=100).contains(&left)), "{seen:?}");
        assert_eq!(seen.user_properties[..2], properties.user_properties);
        assert_eq!(&*seen.user_properties[2].0, "mqgate-bridge");
        assert_eq!(seen.user_properties.len(), 3);

        there.publish("site/in/y", "back", qos, false).await.unwrap();
        let got = next(&mut here).await;
        assert_eq!((texts(&got), got.qos), (("from/in/y".into(), "back".into()), qos));
    }
    here.publish("elsewhere", "x", QoS::AtLeastOnce, false).await.unwrap();

    // Retained stays retained.
    here.publish("out/kept", "k", QoS::AtLeastOnce, true).await.unwrap();
    assert_eq!(texts(&next(&mut there).await).0, "site/out/kept");
    let mut late = client(remote.plain_options("late"), &["site/out/kept"]).await;
    let kept = next(&mut late).await;
    assert!(kept.retain);

    let admin = local.admin();
    let shown = admin.json(&["bridge", "show", "hq"]);
    assert_eq!((&shown["status"], &shown["queued_messages"]), (&"connected".into(), &0.into()), "{shown}");
    assert_eq!(shown["remote_id"].as_str().map(str::len), Some(16), "{shown}");
    let listed = admin.run(&["bridge", "list"]);
    assert!(listed.contains("hq") && listed.contains("connected"), "{listed}");
    local.audited("the bridge is up", |line| line["name"] == "bridge.up").await;
    assert!(admin.run(&["bridge", "stop", "hq"]).contains("stopped"));
    assert_eq!(admin.metric("mqgate_bridge_up{bridge=\"hq\"}"), 0.0);
    let clients = admin.json(&["clients", "list"]);
    assert!(!clients.to_string().contains("$bridge/hq"), "{clients}");
    admin.run(&["bridge", "start", "hq"]);
    up(&local, "hq").await;
    assert!(admin.run(&["bridge", "reconnect", "hq"]).contains("anew"));
    eventually("it is up again", async || {
        (admin.json(&["bridge", "show", "hq"])["connects"].as_u64()? >= 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_published_while_the_other_broker_is_away_waits_and_the_rest_is_counted() {
    let port = free_port();
    let more =
        "topics = [{ pattern = \"t/#\", qos = 1 }]\nmax_queued_messages = 5\nwhen_full = \"drop-oldest\"";
    let local = open().config(&to("away", port, more)).start().await;
    let admin = local.admin();
    eventually("its own session", async || {
        admin.json(&["clients", "list"]).to_string().contains("$bridge/away").then_some(())
    })
    .await;
    let here = client(local.plain_options("here"), &[]).await;
    eventually("it is subscribed", async || {
        let shown = admin.try_run(&["subscriptions", "list", "--client", "away", "--json"]);
        String::from_utf8_lossy(&shown.stdout).contains("t/#").then_some(())
    })
    .await;
    for number in 0..8 {
        here.publish("t/x", number.to_string(), QoS::AtLeastOnce, false).await.unwrap();
    }
    eventually("all are in the queue or lost", async || {
        (forwarded(&local, "away", "out", "queue_full") == 3.0).then_some(())
    })
    .await;
    assert_eq!(admin.metric("mqgate_bridge_queued_messages{bridge=\"away\"}"), 5.0);
    // The other broker comes: the five that are left arrive, the oldest first.
    let mut remote = open().start_shut().await;
    remote
        .rewrite(|text| text.replacen("bind = \"127.0.0.1:0\"", &format!("bind = \"127.0.0.1:{port}\""), 1));
    remote.open();
    remote.kill_and_restart();
    eventually("the queue is empty", async || {
        (admin.metric("mqgate_bridge_queued_messages{bridge=\"away\"}") == 0.0).then_some(())
    })
    .await;
    eventually("they were sent", async || {
        (forwarded(&local, "away", "out", "forwarded") == 5.0).then_some(())
    })
    .await;
}

/// Two brokers, each with a bridge to the other, for the same topic both ways.
async fn two_ways(version: &str) {
    let first = open().start().await;
    let port = first.port();
    let topics =
        format!("version = \"{version}\"\ntopics = [{{ pattern = \"t/#\", direction = \"both\", qos = 1 }}]");
    let second = open().config(&to("b", port, &topics)).start().await;
    let other = second.port();
    let mut first = first;
    first.rewrite(|text| {
        let fixed = text.replacen("bind = \"127.0.0.1:0\"", &format!("bind = \"127.0.0.1:{port}\""), 1);
        format!("{fixed}\n{}", to("a", other, &topics))
    });
    first.kill_and_restart();
    up(&first, "a").await;
    up(&second, "b").await;
    let mut on_first = client(first.plain_options("one"), &["t/#"]).await;
    let mut on_second = client(second.plain_options("two"), &["t/#"]).await;
    let publisher = client(first.plain_options("p"), &[]).await;
    let reply = client(second.plain_options("q"), &[]).await;
    // Both bridges are subscribed on both sides as soon as a message has come by each way.
    let ways = async |publisher: &Client, receiver: &mut Client| {
        for number in 0..100 {
            publisher.publish("t/warm", number.to_string(), QoS::AtLeastOnce, false).await.unwrap();
            let mut seen = 0;
            while let Ok(Event::Message(_)) =
                tokio::time::timeout(Duration::from_millis(300), receiver.recv()).await
            {
                seen += 1;
            }
            if seen == 2 {
                return;
            }
        }
        panic!("not both ways are open");
    };
    ways(&publisher, &mut on_second).await;
    ways(&reply, &mut on_first).await;
    while let Ok(Event::Message(_)) = tokio::time::timeout(Duration::from_millis(300), on_first.recv()).await
    {
    }
    while let Ok(Event::Message(_)) = tokio::time::timeout(Duration::from_millis(300), on_second.recv()).await
    {
    }
    for number in 0..5 {
        publisher.publish("t/x", number.to_string(), QoS::AtLeastOnce, false).await.unwrap();
    }
    for (receiver, expected) in [(&mut on_first, 5), (&mut on_second, 10)] {
        let mut seen = Vec::new();
        while let Ok(Event::Message(message)) =
            tokio::time::timeout(Duration::from_millis(700), receiver.recv()).await
        {
            seen.push(texts(&message).1);
            assert!(seen.len() <= 20, "it goes round in circles");
        }
        assert_eq!(seen.len(), expected, "once where it was published, once by each bridge there: {seen:?}");
    }
}

#[tokio::test]
async fn nothing_goes_round_between_two_bridges_to_each_other() {
    two_ways("5").await;
}

#[tokio::test]
async fn nor_where_messages_cannot_say_where_they_were() {
    two_ways("3.1.1").await;
}

#[tokio::test]
async fn mosquitto_gets_and_gives_every_qos_and_nothing_twice() {
    let Some(mosquitto) = Mosquitto::start("").await else { return };
    for version in ["5", "3.1.1"] {
        let topics = format!(
            "version = \"{version}\"\ntopics = [{{ pattern = \"{}/#\", direction = \"both\", qos = 2 }}]",
            &version[..1]
        );
        let local = open().config(&to("m", mosquitto.port(), &topics)).start().await;
        up(&local, "m").await;
        let root = &version[..1];
        let mut here = client(local.plain_options("here"), &["#"]).await;
        let mut there = client(mosquitto.options("there"), &[&format!("{root}/#")]).await;
        warm(&here, &format!("{root}/warm"), &mut there).await;
        warm(&there, &format!("{root}/warm"), &mut here).await;
        while let Ok(Event::Message(_)) = tokio::time::timeout(Duration::from_millis(300), there.recv()).await
        {
        }
        for (number, qos) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().enumerate() {
            let (out, back) = (format!("{root}/out/{number}"), format!("{root}/in/{number}"));
            here.publish(out.as_str(), "x", qos, false).await.unwrap();
            let got = next(&mut there).await;
            assert_eq!((texts(&got).0, got.qos), (out.clone(), qos), "{version}");
            assert_eq!(texts(&next(&mut here).await).0, out, "its own, once");
            there.publish(back.as_str(), "y", qos, false).await.unwrap();
            let got = next(&mut here).await;
            assert_eq!((texts(&got).0, got.qos), (back.clone(), qos), "{version}");
            assert_eq!(texts(&next(&mut there).await).0, back, "its own, once");
        }
        for receiver in [&mut here, &mut there] {
            let more = tokio::time::timeout(Duration::from_millis(500), receiver.recv()).await;
            assert!(more.is_err(), "it came back: {more:?}");
        }
    }
}

/// Mosquitto has a bridge to us, and we have one to it, both for the same topic both ways.
#[tokio::test]
async fn mosquitto_and_we_bridge_each_other_and_nothing_goes_round() {
    let port = free_port();
    for (ours, theirs) in [("5", "mqttv50"), ("3.1.1", "mqttv311")] {
        let bridge = format!(
            "connection c\naddress 127.0.0.1:{port}\nbridge_protocol_version {theirs}\ntopic t/# both 1\nrestart_timeout 1\nnotifications false"
        );
        let Some(mosquitto) = Mosquitto::start(&bridge).await else { return };
        let topics = format!(
            "version = \"{ours}\"\ntopics = [{{ pattern = \"t/#\", direction = \"both\", qos = 1 }}]"
        );
        let mut local = open().start_shut().await;
        local.rewrite(|text| {
            let fixed = text.replacen("bind = \"127.0.0.1:0\"", &format!("bind = \"127.0.0.1:{port}\""), 1);
            format!("{fixed}\n{}", to("m", mosquitto.port(), &topics))
        });
        local.open();
        local.kill_and_restart();
        up(&local, "m").await;
        let mut here = client(local.plain_options("here"), &["t/#"]).await;
        let mut there = client(mosquitto.options("there"), &["t/#"]).await;
        let published = std::cell::Cell::new(0);
        let both = async |publisher: &Client, receiver: &mut Client| {
            eventually("both ways are open", async || {
                published.set(published.get() + 1);
                publisher.publish("t/warm", "x", QoS::AtLeastOnce, false).await.unwrap();
                let mut seen = 0;
                while let Ok(Event::Message(_)) =
                    tokio::time::timeout(Duration::from_millis(300), receiver.recv()).await
                {
                    seen += 1;
                    // Those of earlier attempts may have waited for a way to open.
                    assert!(seen <= 4 * published.get(), "it goes round in circles");
                }
                (seen >= 2).then_some(())
            })
            .await;
        };
        let from_here = client(local.plain_options("p"), &[]).await;
        let from_there = client(mosquitto.options("q"), &[]).await;
        both(&from_here, &mut there).await;
        both(&from_there, &mut here).await;
        for receiver in [&mut here, &mut there] {
            while let Ok(Event::Message(_)) =
                tokio::time::timeout(Duration::from_millis(300), receiver.recv()).await
            {}
        }
        from_here.publish("t/x", "from here", QoS::AtLeastOnce, false).await.unwrap();
        from_there.publish("t/x", "from there", QoS::AtLeastOnce, false).await.unwrap();
        for receiver in [&mut here, &mut there] {
            let mut seen = Vec::new();
            while let Ok(Event::Message(message)) =
                tokio::time::timeout(Duration::from_millis(700), receiver.recv()).await
            {
                seen.push(texts(&message).1);
                assert!(seen.len() <= 20, "it goes round in circles: {seen:?}");
            }
            let different: BTreeSet<_> = seen.iter().collect();
            assert_eq!(different.len(), 2, "{seen:?}");
            assert!(seen.len() <= 6, "{ours}: {seen:?}");
        }
    }
}

#[tokio::test]
async fn mosquitto_asks_for_our_certificate() {
    let pki_owner = open().start().await;
    let (server, ours) = (pki_owner.pki.server(), pki_owner.pki.device("bridge-1"));
    let Some(mosquitto) = Mosquitto::with_tls(&server, &pki_owner.pki.ca()).await else { return };
    let config = format!(
        "[bridges.tls]\naddresses = [\"mqtts://localhost:{}\"]\nmin_backoff = \"50ms\"\ntopics = [{{ pattern = \"t/#\", direction = \"both\", qos = 1 }}]\n[bridges.tls.tls]\ncacertfile = \"{}\"\ncertfile = \"{}\"\nkeyfile = \"{}\"\n",
        mosquitto.port(),
        pki_owner.pki.ca().display(),
        ours.certificate.display(),
        ours.key.display(),
    );
    let local = open().config(&config).start().await;
    up(&local, "tls").await;
    let here = client(local.plain_options("here"), &[]).await;
    let mut tls = mqgate_client::TlsOptions::new();
    tls.ca_file = Some(pki_owner.pki.ca());
    (tls.cert_file, tls.key_file) = (Some(ours.certificate.clone()), Some(ours.key.clone()));
    let mut options = mosquitto.options("there");
    options.host = "localhost".into();
    options.tls = Some(tls);
    let mut there = client(options, &["t/#"]).await;
    warm(&here, "t/warm", &mut there).await;
    here.publish("t/x", "over TLS", QoS::AtLeastOnce, false).await.unwrap();
    assert_eq!(texts(&next(&mut there).await).1, "over TLS");
}

#[tokio::test]
async fn mosquitto_is_killed_and_nothing_above_qos_0_is_lost() {
    const PART: usize = 60;
    let Some(mut mosquitto) = Mosquitto::start("").await else { return };
    let topics = "topics = [{ pattern = \"t/#\", direction = \"out\", qos = 2 }]";
    let local = open().config(&to("m", mosquitto.port(), topics)).start().await;
    up(&local, "m").await;
    let here = client(local.plain_options("here"), &[]).await;
    // Its session is kept by Mosquitto, on the disk.
    let mut lasting = mosquitto.options("there");
    lasting.clean_start = false;
    lasting.properties.session_expiry_interval = Some(3600);
    let mut there = client(lasting.clone(), &["t/#"]).await;
    warm(&here, "t/warm", &mut there).await;
    there.disconnect().await.unwrap();
    let before = forwarded(&local, "m", "out", "forwarded");
    let publish = async |part: usize| {
        for number in part * PART..(part + 1) * PART {
            let qos = if number % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
            here.publish(format!("t/{number}"), "x", qos, false).await.unwrap();
        }
    };
    publish(0).await;
    eventually("Mosquitto has them", async || {
        (forwarded(&local, "m", "out", "forwarded") == before + PART as f64).then_some(())
    })
    .await;
    // Whoever is answered now comes after they were written to the disk.
    client(mosquitto.options("probe"), &["probe"]).await.disconnect().await.unwrap();
    mosquitto.freeze();
    publish(1).await;
    mosquitto.kill();
    eventually("the bridge is down", async || {
        (local.admin().metric("mqgate_bridge_up{bridge=\"m\"}") == 0.0).then_some(())
    })
    .await;
    publish(2).await;
    assert_eq!(forwarded(&local, "m", "out", "forwarded"), before + PART as f64);
    mosquitto.run().await;
    let (mut there, _) = Client::connect(lasting).await.unwrap();
    let mut seen: Vec<String> = Vec::new();
    while seen.len() < 3 * PART {
        let message = next(&mut there).await;
        seen.extend(Some(texts(&message).0).filter(|topic| topic != "t/warm"));
    }
    // Mosquitto passes QoS 2 on at PUBREL, which comes after the next message of QoS 1.
    seen.sort();
    let mut expected: Vec<String> = (0..3 * PART).map(|number| format!("t/{number}")).collect();
    expected.sort();
    assert_eq!(seen, expected, "each once");
    let more = tokio::time::timeout(Duration::from_millis(500), there.recv()).await;
    assert!(more.is_err(), "{more:?}");
    local.audited("the bridge was down", |line| line["name"] == "bridge.down").await;
    assert_eq!(forwarded(&local, "m", "out", "queue_full"), 0.0);
}
