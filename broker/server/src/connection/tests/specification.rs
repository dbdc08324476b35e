//! Statements of the specifications that take more than one connection, for both versions.

use super::*;

/// A client of each version.
fn versions(client_id: &'static str) -> [Hello; 2] {
    [Hello::v5(client_id), Hello::v3(client_id)]
}

/// With a session that stays in either version.
fn staying(hello: &Hello) -> Hello {
    hello.clone().lasting(600)
}

fn retained(topic: &str, payload: &'static str, qos: QoS) -> Publish {
    Publish { retain: true, ..message(topic, payload, qos) }
}

/// The CONNECT of `hello` with a will.
fn with_will(hello: &Hello, retain: bool, properties: PublishProperties) -> Packet {
    let Packet::Connect(mut connect) = hello.packet() else { unreachable!("it is a CONNECT") };
    connect.will = Some(Will {
        topic: name("w"),
        payload: Bytes::from_static(b"gone"),
        qos: QoS::AtLeastOnce,
        retain,
        delay_interval: 0,
        properties,
    });
    Packet::Connect(connect)
}

async fn connected(world: &World, version: ProtocolVersion, connect: &Packet) -> Peer {
    let mut peer = world.dial(version, 64 * 1024);
    peer.send(connect).await;
    assert!(matches!(peer.next().await, Packet::ConnAck(connack) if !connack.code.reason().is_error()));
    peer
}

/// [MQTT-3.1.2-4, MQTT-3.1.2-5, MQTT-3.1.2-6, MQTT-3.1.2-23, MQTT-3.1.3-2, MQTT-3.1.4-4, MQTT-3.2.2-2, MQTT-3.2.2-3,
/// MQTT-4.1.0-1, MQTT-4.5.0-1; MQTT 3.1.1: MQTT-3.1.2-4, MQTT-3.1.2-5, MQTT-3.1.2-6, MQTT-3.1.3-2, MQTT-3.1.4-3,
/// MQTT-3.2.2-1, MQTT-3.2.2-2, MQTT-3.2.2-3, MQTT-4.1.0-1, MQTT-4.1.0-2, MQTT-4.5.0-1]
#[tokio::test(start_paused = true)]
async fn a_session_goes_on_or_begins_anew() {
    for clean in versions("c") {
        let world = World::new();
        let stays = staying(&clean);
        let mut publisher = world.client("p").await;
        let (mut peer, present) = world.connect(&stays).await;
        assert!(!present, "there was none");
        peer.subscribe("t", qos(1)).await;
        let (mut other, present) = world.connect(&Hello { client_id: "d", ..stays.clone() }).await;
        assert!(!present, "another client id is another session");
        other.is_quiet().await;
        peer.lose().await;
        publisher.publish(message("t", "kept", QoS::AtLeastOnce)).await;
        let (mut peer, present) = world.connect(&stays).await;
        assert!(present);
        assert_eq!(peer.message().await.payload, "kept");
        peer.is_quiet().await;
        peer.lose().await;
        publisher.publish(message("t", "lost", QoS::AtLeastOnce)).await;
        let (mut peer, present) = world.connect(&clean).await;
        assert!(!present, "thrown away");
        publisher.publish(message("t", "nobody's", QoS::AtLeastOnce)).await;
        peer.is_quiet().await;
        peer.lose().await;
        let (mut peer, present) = world.connect(&stays).await;
        assert!(!present, "a clean session ends with its connection");
        peer.is_quiet().await;
    }
}

/// [MQTT-3.1.2-7, MQTT-3.1.2-8, MQTT-3.1.2-14, MQTT-3.1.2-15; MQTT 3.1.1: MQTT-3.1.2-8, MQTT-3.1.2-16, MQTT-3.1.2-17]
#[tokio::test(start_paused = true)]
async fn a_will_is_retained_as_it_says() {
    for hello in versions("c") {
        for retain in [false, true] {
            let world = World::new();
            let mut watcher = world.client("watcher").await;
            watcher.subscribe("w", qos(1)).await;
            let connect = with_will(&hello, retain, PublishProperties::default());
            let peer = connected(&world, hello.version, &connect).await;
            watcher.is_quiet().await;
            peer.lose().await;
            let will = watcher.message().await;
            assert_eq!((&will.payload[..], will.qos), (&b"gone"[..], QoS::AtLeastOnce));
            watcher.is_quiet().await; // Once.
            let mut later = world.client("later").await;
            later.subscribe("w", qos(0)).await;
            if retain {
                assert_eq!(later.message().await.payload, "gone");
            }
            later.is_quiet().await;
        }
    }
}

fn every_property() -> PublishProperties {
    PublishProperties {
        payload_format_indicator: Some(true),
        response_topic: Some(name("answers/here")),
        correlation_data: Some(Bytes::from_static(&[0, 255, 7])),
        content_type: Some("text/plain".into()),
        user_properties: [("b", "1"), ("a", "2"), ("b", "0")].map(|(k, v)| (k.into(), v.into())).to_vec(),
        ..PublishProperties::default()
    }
}

/// [MQTT-3.1.3-10, MQTT-3.3.2-4, MQTT-3.3.2-15, MQTT-3.3.2-16, MQTT-3.3.2-17, MQTT-3.3.2-18, MQTT-3.3.2-20]
#[tokio::test(start_paused = true)]
async fn properties_are_passed_on_as_they_are() {
    let world = World::new();
    let mut peer = world.client("c").await;
    peer.subscribe("t", qos(1)).await;
    peer.subscribe("w", qos(1)).await;
    let mut publisher = world.client("p").await;
    let sent = Publish { properties: every_property(), ..message("t", "x", QoS::AtLeastOnce) };
    publisher.publish(sent).await;
    assert_eq!(peer.message().await.properties, every_property());
    let willed = with_will(&Hello::v5("willed"), false, every_property());
    connected(&world, ProtocolVersion::V5, &willed).await.lose().await;
    assert_eq!(peer.message().await.properties, every_property());
    // Stored and sent later, it is the same.
    publisher
        .publish(Publish { properties: every_property(), ..retained("t", "kept", QoS::AtLeastOnce) })
        .await;
    let mut later = world.client("later").await;
    later.subscribe("t", qos(1)).await;
    assert_eq!(later.message().await.properties, every_property());
}

/// [MQTT-3.3.2-6, MQTT-3.3.2-5]
#[tokio::test(start_paused = true)]
async fn the_time_spent_here_is_taken_off_the_expiry() {
    let world = World::new();
    let hello = Hello::v5("c").lasting(600);
    let (mut peer, _) = world.connect(&hello).await;
    peer.subscribe("t", qos(1)).await;
    peer.lose().await;
    let mut publisher = world.client("p").await;
    for (payload, expiry) in [("short", 5), ("long", 100)] {
        let properties =
            PublishProperties { message_expiry_interval: Some(expiry), ..PublishProperties::default() };
        publisher.publish(Publish { properties, ..message("t", payload, QoS::AtLeastOnce) }).await;
    }
    tokio::time::sleep(30 * SECOND).await;
    let (mut peer, _) = world.connect(&hello).await;
    let got = peer.message().await;
    assert_eq!((&got.payload[..], got.properties.message_expiry_interval), (&b"long"[..], Some(70)));
    peer.is_quiet().await;
}

/// [MQTT-3.3.1-3, MQTT-3.3.1-12, MQTT-3.3.1-13; MQTT 3.1.1: MQTT-3.3.1-3, MQTT-3.3.1-9]
#[tokio::test(start_paused = true)]
async fn flags_of_what_is_forwarded_are_its_own() {
    let world = World::new();
    let mut plain = world.client("plain").await;
    plain.subscribe("t", qos(1)).await;
    let (mut old, _) = world.connect(&Hello::v3("old")).await;
    old.subscribe("t", qos(1)).await;
    let mut as_published = world.client("as-published").await;
    as_published.subscribe("t", SubscriptionOptions { retain_as_published: true, ..qos(1) }).await;
    let mut publisher = world.client("p").await;
    for retain in [true, false] {
        publisher.publish(Publish { dup: true, retain, ..message("t", "x", QoS::AtLeastOnce) }).await;
        for (peer, expected) in [(&mut plain, false), (&mut old, false), (&mut as_published, retain)] {
            let got = peer.message().await;
            assert_eq!((got.retain, got.dup), (expected, false));
        }
    }
}

/// [MQTT-3.3.1-5, MQTT-3.3.1-6, MQTT-3.3.1-7, MQTT-3.3.1-8, MQTT-3.3.1-9; MQTT 3.1.1: MQTT-3.1.2-7, MQTT-3.3.1-5,
/// MQTT-3.3.1-6, MQTT-3.3.1-7, MQTT-3.3.1-8, MQTT-3.3.1-10, MQTT-3.3.1-11, MQTT-3.3.1-12]
#[tokio::test(start_paused = true)]
async fn the_last_retained_message_is_kept() {
    for hello in versions("p") {
        let world = World::new();
        let mut standing = world.client("standing").await;
        standing.subscribe("t", qos(1)).await;
        let (mut publisher, _) = world.connect(&hello).await;
        let mut readers = 0;
        let mut greeting = async |expected: Option<(&'static str, QoS)>| {
            readers += 1;
            let id: &'static str = Box::leak(format!("reader-{readers}").into_boxed_str());
            let (mut reader, _) = world.connect(&Hello { client_id: id, ..hello.clone() }).await;
            reader.subscribe("t", qos(2)).await;
            if let Some((payload, qos)) = expected {
                let got = reader.message().await;
                assert_eq!((&got.payload[..], got.qos, got.retain), (payload.as_bytes(), qos, true));
            }
            reader.is_quiet().await;
        };
        publisher.publish(retained("t", "one", QoS::AtLeastOnce)).await;
        greeting(Some(("one", QoS::AtLeastOnce))).await;
        publisher.publish(message("t", "live", QoS::AtLeastOnce)).await;
        greeting(Some(("one", QoS::AtLeastOnce))).await;
        publisher.publish(message("t", "", QoS::AtLeastOnce)).await;
        greeting(Some(("one", QoS::AtLeastOnce))).await;
        publisher.publish(retained("t", "two", QoS::AtMostOnce)).await;
        publisher.is_quiet().await;
        greeting(Some(("two", QoS::AtMostOnce))).await;
        publisher.publish(retained("t", "", QoS::AtLeastOnce)).await;
        greeting(None).await;
        for payload in ["one", "live", "", "two", ""] {
            let got = standing.message().await;
            assert_eq!(
                (&got.payload[..], got.retain),
                (payload.as_bytes(), false),
                "delivered as any message"
            );
        }
        // The session of whoever published it ends; the message stays.
        publisher.publish(retained("t", "left", QoS::AtLeastOnce)).await;
        publisher.disconnect().await;
        greeting(Some(("left", QoS::AtLeastOnce))).await;
    }
}

/// [MQTT-3.3.4-2, MQTT-3.3.4-3, MQTT-3.3.4-4; MQTT 3.1.1: MQTT-3.3.5-1]
#[tokio::test(start_paused = true)]
async fn overlapping_subscriptions_send_one_copy_with_the_highest_qos() {
    for hello in versions("c") {
        let world = World::new();
        let (mut peer, _) = world.connect(&hello).await;
        for (filter, bits, identifier) in [("t/+", 0, 7), ("t/#", 2, 9), ("t/x", 1, 0)] {
            peer.send(&Packet::Subscribe(Subscribe {
                packet_id: PacketId::new(1).unwrap(),
                filters: vec![(TopicFilter::parse(filter.into()).unwrap(), qos(bits))],
                subscription_identifier: std::num::NonZeroU32::new(identifier),
                user_properties: Vec::new(),
            }))
            .await;
            assert!(matches!(peer.next().await, Packet::SubAck(_)));
        }
        world.client("p").await.publish(message("t/x", "x", QoS::ExactlyOnce)).await;
        let got = peer.message().await;
        assert_eq!(got.qos, QoS::ExactlyOnce);
        let identifiers: Vec<_> = got.properties.subscription_identifiers.iter().map(|id| id.get()).collect();
        let expected = if hello.version == ProtocolVersion::V5 { vec![7, 9] } else { vec![] };
        assert_eq!(identifiers, expected);
        peer.is_quiet().await;
    }
}

/// [MQTT-3.8.4-8; MQTT 3.1.1: MQTT-3.8.4-6]
#[tokio::test(start_paused = true)]
async fn messages_come_with_the_lower_qos() {
    for hello in versions("c") {
        for granted in 0..=2 {
            let world = World::new();
            let (mut peer, _) = world.connect(&hello).await;
            peer.subscribe("t", qos(granted)).await;
            let mut publisher = world.client("p").await;
            for published in 0..=2 {
                publisher.publish(message("t", "x", QoS::from_bits(published).unwrap())).await;
                assert_eq!(peer.message().await.qos as u8, granted.min(published));
            }
        }
    }
}

/// [MQTT-3.10.4-1, MQTT-3.10.4-2, MQTT-3.10.4-3; MQTT 3.1.1: MQTT-3.10.4-2, MQTT-3.10.4-3]
#[tokio::test(start_paused = true)]
async fn unsubscribe_ends_what_is_new_and_no_more() {
    for hello in versions("c") {
        let world = World::new();
        let (mut peer, _) = world.connect(&hello).await;
        peer.subscribe("t", qos(2)).await;
        peer.subscribe("u", qos(2)).await;
        let mut publisher = world.client("p").await;
        publisher.publish(message("t", "begun", QoS::ExactlyOnce)).await;
        let begun = peer.message().await;
        peer.send(&Packet::Unsubscribe(Unsubscribe {
            packet_id: PacketId::new(5).unwrap(),
            filters: vec![TopicFilter::parse("t".into()).unwrap()],
            user_properties: Vec::new(),
        }))
        .await;
        assert!(matches!(peer.next().await, Packet::UnsubAck(ack) if ack.packet_id.get() == 5));
        publisher.publish(message("t", "too late", QoS::ExactlyOnce)).await;
        publisher.publish(message("u", "other", QoS::AtMostOnce)).await;
        publisher.is_quiet().await;
        assert_eq!(peer.message().await.payload, "other");
        let id = begun.packet_id.unwrap();
        peer.send(&Packet::PubRec(Ack::success(id))).await;
        assert_eq!(peer.next().await, Packet::PubRel(Ack::success(id)));
        peer.send(&Packet::PubComp(Ack::success(id))).await;
        peer.is_quiet().await;
        assert_eq!(world.metric("mqgate_inflight_messages"), 0.0);
    }
}

/// Across takeovers too, nothing is lost, twice, or out of order.
///
/// [MQTT-4.6.0-5, MQTT-4.6.0-6, MQTT-4.4.0-1; MQTT 3.1.1: MQTT-4.6.0-1, MQTT-4.6.0-2, MQTT-4.6.0-3, MQTT-4.6.0-5,
/// MQTT-4.6.0-6, MQTT-4.1.0-1]
#[tokio::test(start_paused = true)]
async fn a_topic_keeps_its_order() {
    for hello in versions("c") {
        for bits in [1, 2] {
            let world = World::new();
            let stays = Hello { receive_maximum: Some(3), ..staying(&hello) };
            let (mut peer, _) = world.connect(&stays).await;
            peer.subscribe("t", qos(bits)).await;
            let mut publisher = world.client("p").await;
            let level = QoS::from_bits(bits).unwrap();
            let mut got: Vec<String> = Vec::new();
            for number in 0..60_u32 {
                publisher.publish(message("t", number.to_string(), level)).await;
                match number % 20 {
                    7 => peer = world.connect(&stays).await.0,
                    15 => {
                        peer.lose().await;
                        peer = world.connect(&stays).await.0;
                    }
                    _ => {}
                }
                // Some are read, fewer than are sent.
                if number % 3 == 0 {
                    take(&mut peer, &mut got).await;
                }
            }
            while got.last().is_none_or(|last| last != "59") {
                take(&mut peer, &mut got).await;
            }
            let mut seen = got.clone();
            seen.dedup();
            let expected: Vec<_> = (0..60).map(|number: u32| number.to_string()).collect();
            // A message of QoS 1 that was not acknowledged may come again; QoS 2 may not, once it was released.
            let firsts: Vec<_> = seen
                .iter()
                .enumerate()
                .filter(|(at, text)| !seen[..*at].contains(text))
                .map(|(_, text)| text.clone())
                .collect();
            assert_eq!(firsts, expected, "{:?} {bits}", hello.version);
            if bits == 2 {
                assert_eq!(got, expected);
            }
        }
    }
}

/// Reads one packet that belongs to a message, and answers it; what is there of others goes on.
async fn take(peer: &mut Peer, got: &mut Vec<String>) {
    match peer.next().await {
        Packet::Publish(publish) => {
            let text = String::from_utf8(publish.payload.to_vec()).unwrap();
            let id = publish.packet_id.unwrap();
            if publish.qos == QoS::AtLeastOnce {
                got.push(text);
                peer.send(&Packet::PubAck(Ack::success(id))).await;
            } else {
                // The receiver of QoS 2 knows what it has.
                if !got.contains(&text) {
                    got.push(text);
                }
                peer.send(&Packet::PubRec(Ack::success(id))).await;
            }
        }
        Packet::PubRel(release) => peer.send(&Packet::PubComp(Ack::success(release.packet_id))).await,
        other => panic!("{other:?}"),
    }
}

/// [MQTT 3.1.1: MQTT-4.6.0-2, MQTT-4.6.0-3]
#[tokio::test(start_paused = true)]
async fn acknowledgements_come_in_the_order_of_the_messages() {
    for hello in versions("c") {
        let world = World::new();
        let (mut peer, _) = world.connect(&hello).await;
        let mut bytes = BytesMut::new();
        for number in 1..=40_u16 {
            let level = if number % 2 == 0 { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
            let publish = Publish { packet_id: PacketId::new(number), ..message("t", "x", level) };
            encode(&Packet::Publish(publish), hello.version, &mut bytes).unwrap();
        }
        peer.send_bytes(&bytes).await;
        for number in 1..=40 {
            let (ack, even) = match peer.next().await {
                Packet::PubAck(ack) => (ack, false),
                Packet::PubRec(ack) => (ack, true),
                other => panic!("{other:?}"),
            };
            assert_eq!((ack.packet_id.get(), even), (number, number % 2 == 0));
        }
    }
}

/// What each of `peers` has got, until nothing comes any more.
async fn delivered(peers: &mut [Peer]) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for peer in peers {
        let mut got = Vec::new();
        peer.send(&Packet::PingReq).await;
        while let Packet::Publish(publish) = peer.next().await {
            got.push(String::from_utf8(publish.payload.to_vec()).unwrap());
        }
        all.push(got);
    }
    all
}

/// [MQTT-4.8.2-3, MQTT-4.8.2-4, MQTT-4.8.2-5]
#[tokio::test(start_paused = true)]
async fn what_a_member_cannot_have_any_more_goes_to_another() {
    let world = World::new();
    // One message under way, the others wait.
    let member = Hello { receive_maximum: Some(1), ..Hello::v5("first").lasting(60) };
    let (mut first, _) = world.connect(&member).await;
    first.subscribe("$share/g/t", qos(2)).await;
    let mut publisher = world.client("p").await;
    for (payload, level) in [("q2", QoS::ExactlyOnce), ("a", QoS::ExactlyOnce), ("b", QoS::AtLeastOnce)] {
        publisher.publish(message("t", payload, level)).await;
    }
    let begun = first.message().await;
    assert_eq!(begun.payload, "q2");
    let mut second = world.client("second").await;
    assert_eq!(second.subscribe("$share/g/t", qos(1)).await, ReasonCode::GRANTED_QOS_1);
    // It is away: what was not begun goes to who is there, with the QoS that was granted there.
    first.lose().await;
    for expected in ["a", "b"] {
        let got = second.message().await;
        assert_eq!((&got.payload[..], got.qos), (expected.as_bytes(), QoS::AtLeastOnce));
    }
    second.is_quiet().await;
    // What was begun is brought to its end with the same one.
    let (mut first, present) = world.connect(&member).await;
    assert!(present);
    let again = first.message().await;
    assert_eq!((again.payload, again.packet_id, again.dup), (begun.payload, begun.packet_id, true));
    first.is_quiet().await;
    first.lose().await;
    tokio::time::sleep(61 * SECOND).await;
    second.is_quiet().await; // And with nobody else, if that one never comes back.
    assert_eq!(world.metric("mqgate_inflight_messages"), 0.0);
    assert_eq!(world.metric("mqgate_queued_messages"), 0.0);
}

/// A member that leaves for good leaves nothing behind that others could have.
#[tokio::test(start_paused = true)]
async fn messages_of_qos_1_outlive_a_member() {
    let world = World::new();
    let mut first = world.client("first").await;
    first.subscribe("$share/g/t", qos(1)).await;
    let mut publisher = world.client("p").await;
    for payload in ["a", "b", "c"] {
        publisher.publish(message("t", payload, QoS::AtLeastOnce)).await;
    }
    let Packet::Publish(publish) = first.next().await else { panic!("a message") };
    assert_eq!(publish.payload, "a");
    first.send(&Packet::PubAck(Ack::success(publish.packet_id.unwrap()))).await;
    first.is_quiet_after(2).await;
    let second = world.client("second").await;
    let mut second = [second];
    second[0].subscribe("$share/g/t", qos(1)).await;
    first.disconnect().await; // Its session ends: b and c were sent and not acknowledged.
    assert_eq!(delivered(&mut second).await, [["b", "c"]]);
}

/// Each message reaches one member, by every strategy, and a member that is full is passed over.
#[tokio::test(start_paused = true)]
async fn every_strategy_delivers_each_message_once() {
    use mqgate_protocol::subscriptions::ShareStrategy as Strategy;
    for share_strategy in [
        Strategy::RoundRobin,
        Strategy::Random,
        Strategy::Sticky,
        Strategy::HashClient,
        Strategy::HashTopic,
        Strategy::LeastOutstanding,
    ] {
        let world = World::with(Limits { share_strategy, ..Limits::default() });
        let mut members = Vec::new();
        for id in ["one", "two", "three"] {
            let mut member = world.client(id).await;
            assert!(!member.subscribe("$share/g/t/+", qos(1)).await.is_error());
            members.push(member);
        }
        let mut publisher = world.client("p").await;
        for number in 0..30 {
            publisher.publish(message(&format!("t/{number}"), number.to_string(), QoS::AtLeastOnce)).await;
        }
        let got = delivered(&mut members).await;
        let served = got.iter().filter(|messages| !messages.is_empty()).count();
        let mut all: Vec<u32> = got.iter().flatten().map(|text| text.parse().unwrap()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..30).collect::<Vec<_>>(), "{share_strategy:?}");
        let one = matches!(share_strategy, Strategy::Sticky | Strategy::HashClient);
        assert_eq!(served == 1, one, "{share_strategy:?}: {got:?}");
        if matches!(share_strategy, Strategy::RoundRobin | Strategy::LeastOutstanding) {
            assert!(got.iter().all(|messages| messages.len() == 10), "{share_strategy:?}: {got:?}");
        }
    }
    // A full member is passed over.
    let outbox = mqgate_protocol::limits::OutboxLimits { messages: 1, ..Default::default() };
    let world = World::with(Limits { share_strategy: Strategy::HashClient, outbox, ..Limits::default() });
    let narrow = |id| Hello { receive_maximum: Some(1), ..Hello::v5(id) };
    let mut members = vec![world.connect(&narrow("one")).await.0, world.connect(&narrow("two")).await.0];
    for member in &mut members {
        member.subscribe("$share/g/t", qos(1)).await;
    }
    let mut publisher = world.client("p").await;
    for number in 0..4 {
        publisher.publish(message("t", number.to_string(), QoS::AtLeastOnce)).await;
    }
    let mut got = Vec::new();
    for member in &mut members {
        got.extend([member.message().await.payload, member.message().await.payload]);
    }
    got.sort();
    assert_eq!(got, ["0", "1", "2", "3"], "nothing is lost while somebody has room");
}

/// [MQTT-3.1.2-26, MQTT-3.3.2-7, MQTT-3.3.2-11]
#[tokio::test(start_paused = true)]
async fn an_alias_stands_for_its_topic_on_the_wire() {
    let world = World::new();
    let Packet::Connect(mut connect) = Hello::v5("c").packet() else { unreachable!("it is a CONNECT") };
    connect.properties.topic_alias_maximum = Some(1);
    let mut peer = connected(&world, ProtocolVersion::V5, &Packet::Connect(connect)).await;
    assert!(!peer.subscribe("t/#", qos(1)).await.is_error());
    let mut publisher = world.client("p").await;
    for (topic, size) in [("t/long/topic", 5), ("t/long/topic", 5000), ("t/other", 5), ("t/long/topic", 5)] {
        publisher.publish(message(topic, vec![b'x'; size], QoS::AtLeastOnce)).await;
    }
    let mut seen = Vec::new();
    for _ in 0..4 {
        let got = peer.message().await;
        let topic = got.topic.as_ref().map_or("-", TopicName::as_str).to_owned();
        seen.push((topic, got.properties.topic_alias.map(std::num::NonZero::get), got.payload.len()));
    }
    let expected = [("t/long/topic", 5), ("-", 5000), ("t/other", 5), ("t/long/topic", 5)];
    assert_eq!(seen, expected.map(|(topic, size)| (topic.to_owned(), Some(1), size)));
}

/// [MQTT-3.2.0-1, MQTT-3.2.0-2; MQTT 3.1.1: MQTT-3.2.0-1]
#[tokio::test(start_paused = true)]
async fn connack_comes_first_and_once() {
    for hello in versions("c") {
        let world = World::new();
        let stays = staying(&hello);
        let (mut peer, _) = world.connect(&stays).await;
        peer.subscribe("t", qos(1)).await;
        peer.lose().await;
        world.client("p").await.publish(message("t", "x", QoS::AtLeastOnce)).await;
        // Everything at once: what waits comes after CONNACK, and there is no second one.
        let mut peer = world.dial(hello.version, 64 * 1024);
        peer.send(&stays.packet()).await;
        peer.send(&Packet::PingReq).await;
        assert!(matches!(peer.next().await, Packet::ConnAck(_)));
        let mut rest = vec![peer.next().await, peer.next().await];
        rest.sort_by_key(|packet| packet.packet_type() as u8);
        assert!(matches!(&rest[..], [Packet::Publish(_), Packet::PingResp]), "{rest:?}");
    }
}

/// [MQTT-3.8.3-3]
#[tokio::test(start_paused = true)]
async fn no_local_keeps_own_messages_away() {
    let world = World::new();
    let mut peer = world.client("c").await;
    peer.subscribe("t", SubscriptionOptions { no_local: true, ..qos(1) }).await;
    peer.publish(message("t", "own", QoS::AtMostOnce)).await;
    peer.is_quiet().await;
    world.client("p").await.publish(message("t", "another's", QoS::AtMostOnce)).await;
    assert_eq!(peer.message().await.payload, "another's");
}

/// [MQTT-3.8.4-3, MQTT-3.8.4-4; MQTT 3.1.1: MQTT-3.8.4-3]
#[tokio::test(start_paused = true)]
async fn a_subscription_is_replaced_without_a_gap() {
    for hello in versions("c") {
        let world = World::new();
        let mut publisher = world.client("p").await;
        publisher.publish(retained("t", "kept", QoS::AtLeastOnce)).await;
        let (mut peer, _) = world.connect(&hello).await;
        peer.subscribe("t", qos(0)).await;
        assert_eq!(peer.message().await.qos, QoS::AtMostOnce);
        peer.subscribe("t", qos(1)).await;
        let again = peer.message().await;
        assert_eq!((again.qos, again.retain), (QoS::AtLeastOnce, true));
        publisher.publish(message("t", "live", QoS::AtLeastOnce)).await;
        let live = peer.message().await;
        assert_eq!((&live.payload[..], live.qos), (&b"live"[..], QoS::AtLeastOnce));
        peer.is_quiet().await; // Once: it is one subscription.
        assert_eq!(world.metric(r#"mqgate_subscriptions{kind="normal"}"#), 1.0);
    }
}
