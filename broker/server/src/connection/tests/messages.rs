//! Messages from client to client.

use mqgate_protocol::limits::OutboxLimits;
use mqgate_protocol::message::Message;
use mqgate_protocol::session::SessionKey;

use super::*;

/// [MQTT-4.2.0-1, MQTT-4.3.1-1, MQTT-4.3.2-2; MQTT 3.1.1: MQTT-4.3.1-1, MQTT-7.0.0-2, MQTT-7.1.1-1]
#[tokio::test(start_paused = true)]
async fn messages_flow_between_all_versions_at_every_qos() {
    for (from, to) in
        [(Hello::v5("a"), Hello::v3("b")), (Hello::v3("a"), Hello::v5("b")), (Hello::v5("a"), Hello::v5("b"))]
    {
        let world = World::new();
        let (mut a, _) = world.connect(&from).await;
        let (mut b, _) = world.connect(&to).await;
        assert_eq!(b.subscribe("t/+", qos(2)).await, ReasonCode::GRANTED_QOS_2);
        for bits in 0..=2 {
            let sent = message("t/x", format!("qos {bits}"), QoS::from_bits(bits).unwrap());
            assert_eq!(a.publish(sent).await, ReasonCode::SUCCESS);
            let got = b.message().await;
            assert_eq!((got.qos as u8, got.retain), (bits, false));
            assert_eq!(got.payload, format!("qos {bits}"));
            if bits == 2 {
                b.send(&Packet::PubRec(Ack::success(got.packet_id.unwrap()))).await;
                assert_eq!(b.next().await, Packet::PubRel(Ack::success(got.packet_id.unwrap())));
                b.send(&Packet::PubComp(Ack::success(got.packet_id.unwrap()))).await;
            }
        }
        b.is_quiet().await;
        assert_eq!(world.metric("mqgate_inflight_messages"), 0.0);
        assert_eq!(world.metric("mqgate_queued_messages"), 0.0);
        assert_eq!(world.metric(r#"mqgate_messages_sent_total{qos="1"}"#), 1.0);
    }
}

#[tokio::test(start_paused = true)]
async fn one_message_reaches_many_in_their_own_form() {
    let world = World::new();
    let mut receivers = Vec::new();
    for (hello, bits) in [
        (Hello::v3("v3-0"), 0),
        (Hello::v3("v3-1"), 1),
        (Hello::v5("v5-0"), 0),
        (Hello::v5("v5-1"), 1),
        (Hello::v5("v5-2"), 1),
    ] {
        let (mut peer, _) = world.connect(&hello).await;
        peer.subscribe("t", qos(bits)).await;
        receivers.push((peer, bits));
    }
    let mut publisher = world.client("p").await;
    let properties = PublishProperties {
        message_expiry_interval: Some(30),
        content_type: Some("text/plain".into()),
        ..PublishProperties::default()
    };
    publisher.publish(Publish { properties, ..message("t", vec![b'x'; 5000], QoS::ExactlyOnce) }).await;
    for (peer, bits) in &mut receivers {
        let got = peer.message().await;
        assert_eq!((got.qos as u8, got.payload.len()), (*bits, 5000));
        let five = peer.version == ProtocolVersion::V5;
        assert_eq!(got.properties.content_type.is_some(), five);
        assert_eq!(got.properties.message_expiry_interval, five.then_some(30));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_bounded_and_holds_nobody_up() {
    let outbox = OutboxLimits { qos0_messages: 100, ..OutboxLimits::default() };
    let world = World::with(Limits { outbox, ..Limits::default() });
    let mut slow = world.dial(ProtocolVersion::V5, 4096);
    slow.send(&Hello::v5("slow").packet()).await;
    slow.next().await;
    slow.subscribe("t", qos(0)).await;
    let mut quick = world.client("quick").await;
    let payload = Bytes::from(vec![b'x'; 1000]);
    for _ in 0..1000 {
        quick.publish(message("t", payload.clone(), QoS::AtMostOnce)).await;
    }
    quick.is_quiet().await;
    let dropped = world.metric(r#"mqgate_messages_dropped_total{reason="slow"}"#);
    assert!(dropped > 500.0, "{dropped}");
    assert!(world.metric("mqgate_queued_messages") <= 100.0);
    let mut received = 0.0;
    slow.send(&Packet::PingReq).await;
    loop {
        match slow.next().await {
            Packet::Publish(_) => received += 1.0,
            Packet::PingResp if received + dropped >= 1000.0 => break,
            Packet::PingResp => slow.send(&Packet::PingReq).await,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(received + dropped, 1000.0);
    assert_eq!(world.metric("mqgate_queued_messages"), 0.0);
    assert_eq!(world.metric("mqgate_queued_bytes"), 0.0);
}

/// [MQTT-3.3.4-9, MQTT-4.9.0-1, MQTT-4.9.0-2]
#[tokio::test(start_paused = true)]
async fn the_receive_maximum_of_a_client_is_kept() {
    let world = World::new();
    let (mut peer, _) = world.connect(&Hello { receive_maximum: Some(2), ..Hello::v5("c") }).await;
    peer.subscribe("t", qos(1)).await;
    let mut publisher = world.client("p").await;
    for number in 0..5 {
        publisher.publish(message("t", number.to_string(), QoS::AtLeastOnce)).await;
    }
    let mut under_way = Vec::new();
    for expected in ["0", "1"] {
        let Packet::Publish(got) = peer.next().await else { panic!() };
        assert_eq!(got.payload, expected);
        under_way.push(got.packet_id.unwrap());
    }
    peer.is_quiet().await;
    for id in under_way {
        peer.send(&Packet::PubAck(Ack::success(id))).await;
    }
    for expected in ["2", "3", "4"] {
        assert_eq!(peer.message().await.payload, expected);
    }
}

/// [MQTT-3.1.2-24, MQTT-3.1.2-25]
#[tokio::test(start_paused = true)]
async fn a_client_never_gets_more_than_it_takes() {
    let world = World::new();
    let (mut small, _) = world.connect(&Hello { maximum_packet_size: Some(100), ..Hello::v5("small") }).await;
    small.subscribe("t", qos(1)).await;
    let mut large = world.client("large").await;
    large.subscribe("t", qos(1)).await;
    let mut publisher = world.client("p").await;
    for size in [200_000, 50] {
        publisher.publish(message("t", vec![b'x'; size], QoS::AtLeastOnce)).await;
        assert_eq!(large.message().await.payload.len(), size);
    }
    assert_eq!(small.message().await.payload.len(), 50);
    assert_eq!(world.metric(r#"mqgate_messages_dropped_total{reason="too_large"}"#), 1.0);
    publisher.send_bytes(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]).await;
    assert_eq!(publisher.dismissal().await, ReasonCode::PACKET_TOO_LARGE);
}

#[tokio::test(start_paused = true)]
async fn retained_messages_greet_new_subscribers() {
    let world = World::new();
    let mut publisher = world.client("p").await;
    let properties = PublishProperties { message_expiry_interval: Some(10), ..PublishProperties::default() };
    let retained = |topic: &str, payload: &'static str| Publish {
        retain: true,
        ..message(topic, payload, QoS::AtLeastOnce)
    };
    publisher.publish(retained("r/a", "stays")).await;
    publisher.publish(retained("r/c", "cleared")).await;
    publisher.publish(retained("r/c", "")).await;
    publisher.publish(Publish { properties, ..retained("r/b", "expires") }).await;
    assert_eq!(world.metric("mqgate_messages_retained"), 2.0);

    let mut early = world.client("early").await;
    early.subscribe("r/#", qos(1)).await;
    let mut got = [early.message().await, early.message().await];
    got.sort_by(|left, right| left.payload.cmp(&right.payload));
    assert!(got.iter().all(|got| got.retain));
    assert_eq!((&got[0].payload[..], &got[1].payload[..]), (&b"expires"[..], &b"stays"[..]));
    early.is_quiet().await;

    tokio::time::sleep(SECOND * 11).await;
    assert_eq!(world.metric("mqgate_messages_retained"), 1.0);
    let mut late = world.client("late").await;
    late.subscribe("r/#", qos(0)).await;
    assert_eq!(late.message().await.payload, "stays");
    late.is_quiet().await;

    publisher.publish(retained("r/a", "news")).await;
    assert!(!late.message().await.retain, "not for those who were there already");
}

/// [MQTT-3.8.3-3]
#[tokio::test(start_paused = true)]
async fn no_local_holds_for_retained_messages() {
    let world = World::new();
    let (mut one, mut other) = (world.client("one").await, world.client("other").await);
    let retained = |payload: &'static str| Publish { retain: true, ..message("r", payload, QoS::AtMostOnce) };
    let no_local = SubscriptionOptions { no_local: true, ..qos(0) };
    one.publish(retained("of one")).await;
    assert_eq!(one.subscribe("r", no_local).await, ReasonCode::SUCCESS);
    one.is_quiet().await;
    other.subscribe("r", no_local).await;
    assert_eq!(other.message().await.payload, "of one");
    one.subscribe("r", qos(0)).await;
    assert_eq!(one.message().await.payload, "of one");
}

/// Only what is the broker's own is kept apart.
#[tokio::test(start_paused = true)]
async fn retained_messages_of_topics_that_only_look_like_sys_are_found() {
    let world = World::new();
    let publish = Publish { retain: true, ..message("$SYSTEM/x", "found", QoS::AtMostOnce) };
    let found = Message::published(name("$SYSTEM/x"), publish, SessionKey(0), world.broker.now());
    world.broker.publish(&found);
    let filter = TopicFilter::parse("$SYSTEM/+".into()).unwrap();
    assert_eq!(world.broker.router.retained_matching(&filter, world.broker.now()).len(), 1);
    assert_eq!(world.metric("mqgate_messages_retained"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn no_local_and_no_subscribers_are_told_apart() {
    let world = World::new();
    let mut peer = world.client("c").await;
    peer.subscribe("own", SubscriptionOptions { no_local: true, ..qos(1) }).await;
    let own = peer.publish(message("own", "x", QoS::AtLeastOnce)).await;
    let none = peer.publish(message("none", "x", QoS::AtLeastOnce)).await;
    assert_eq!((own, none), (ReasonCode::SUCCESS, ReasonCode::NO_MATCHING_SUBSCRIBERS));
    assert_eq!(world.metric(r#"mqgate_messages_dropped_total{reason="no_local"}"#), 1.0);
    assert_eq!(world.metric(r#"mqgate_messages_dropped_total{reason="no_subscribers"}"#), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_shared_subscription_takes_turns_among_those_connected() {
    let world = World::new();
    let (mut one, mut two) = (world.client("one").await, world.client("two").await);
    let (mut away, _) = world.connect(&Hello::v5("away").lasting(60)).await;
    for peer in [&mut one, &mut two, &mut away] {
        peer.subscribe("$share/g/t", qos(1)).await;
    }
    assert_eq!(world.metric(r#"mqgate_subscriptions{kind="shared"}"#), 3.0);
    away.lose().await;
    let mut publisher = world.client("p").await;
    for number in 0..6 {
        publisher.publish(message("t", number.to_string(), QoS::AtLeastOnce)).await;
    }
    let mut got = Vec::new();
    for peer in [&mut one, &mut two] {
        peer.send(&Packet::PingReq).await;
        let mut count = 0;
        while let Packet::Publish(publish) = peer.next().await {
            got.push(publish.payload);
            count += 1;
        }
        assert!(count >= 2, "{count}");
    }
    got.sort();
    assert_eq!(got, ["0", "1", "2", "3", "4", "5"]);
}

/// [MQTT-4.3.2-4; MQTT 3.1.1: MQTT-4.6.0-2]
#[tokio::test(start_paused = true)]
async fn many_packets_in_one_read_are_all_answered_in_order() {
    let world = World::new();
    let mut peer = world.client("c").await;
    let mut bytes = BytesMut::new();
    for number in 1..=200 {
        let mut publish = message("t", "x", QoS::AtLeastOnce);
        publish.packet_id = PacketId::new(number);
        encode(&Packet::Publish(publish), ProtocolVersion::V5, &mut bytes).unwrap();
    }
    let (first, second) = bytes.split_at(1001);
    peer.send_bytes(first).await;
    peer.send_bytes(second).await;
    for number in 1..=200 {
        let Packet::PubAck(ack) = peer.next().await else { panic!() };
        assert_eq!(ack.packet_id.get(), number);
    }
}
