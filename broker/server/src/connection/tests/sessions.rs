//! Sessions that outlive connections: takeover, what waits for a client, wills, expiry.

use mqgate_protocol::limits::OutboxLimits;

use super::*;

/// [MQTT-3.1.4-3, MQTT-4.1.0-1; MQTT 3.1.1: MQTT-3.1.4-2, MQTT-4.1.0-2]
#[tokio::test(start_paused = true)]
async fn a_takeover_hands_the_session_over() {
    let world = World::new();
    let hello = Hello::v5("c").lasting(60);
    let (mut first, present) = world.connect(&hello).await;
    assert!(!present);
    first.subscribe("t", qos(2)).await;
    let mut publisher = world.client("p").await;
    publisher.publish(message("t", "one", QoS::ExactlyOnce)).await;
    let one = first.message().await;

    let (mut second, present) = world.connect(&hello).await;
    assert!(present);
    assert_eq!(first.dismissal().await, ReasonCode::SESSION_TAKEN_OVER);
    let again = second.message().await;
    assert_eq!((again.packet_id, again.dup, &again.payload[..]), (one.packet_id, true, &b"one"[..]));
    second.send(&Packet::PubRec(Ack::success(again.packet_id.unwrap()))).await;
    assert!(matches!(second.next().await, Packet::PubRel(_)));

    let (mut third, present) = world.connect(&hello).await;
    assert!(present);
    assert_eq!(third.next().await, Packet::PubRel(Ack::success(one.packet_id.unwrap())), "still owed");
    third.send(&Packet::PubComp(Ack::success(one.packet_id.unwrap()))).await;
    publisher.publish(message("t", "two", QoS::AtLeastOnce)).await;
    assert_eq!(third.message().await.payload, "two");
    assert_eq!(world.metric("mqgate_session_takeovers_total"), 2.0);
    assert_eq!(world.metric(r#"mqgate_sessions{state="online"}"#), 2.0);
}

#[tokio::test(start_paused = true)]
async fn many_takeovers_at_once_leave_one_connection() {
    let world = World::new();
    let hello = Hello::v5("c").lasting(60);
    let (mut first, _) = world.connect(&hello).await;
    first.subscribe("t", qos(1)).await;
    let mut peers = vec![first];
    for _ in 0..10 {
        let mut peer = world.dial(ProtocolVersion::V5, 4096);
        peer.send(&hello.packet()).await;
        peers.push(peer);
    }
    let mut taken_over = 0;
    let mut publisher = world.client("p").await;
    let mut last = None;
    for mut peer in peers {
        let ended = loop {
            let Ok(received) = tokio::time::timeout(SECOND, peer.receive()).await else { break false };
            match received {
                Some(Packet::ConnAck(connack)) => {
                    assert!(!connack.code.reason().is_error() && connack.session_present);
                }
                Some(Packet::Disconnect(disconnect)) => {
                    assert_eq!(disconnect.reason, ReasonCode::SESSION_TAKEN_OVER);
                    taken_over += 1;
                }
                Some(other) => panic!("{other:?}"),
                None => break true,
            }
        };
        if !ended {
            assert!(last.replace(peer).is_none_or(|_: Peer| taken_over > 0));
        }
    }
    let mut last = last.unwrap();
    publisher.publish(message("t", "x", QoS::AtLeastOnce)).await;
    assert_eq!(last.message().await.payload, "x");
    assert_eq!(taken_over, 10);
    assert_eq!(world.metric(r#"mqgate_sessions{state="online"}"#), 2.0);
}

/// [MQTT-4.5.0-1; MQTT 3.1.1: MQTT-3.1.2-5, MQTT-4.5.0-1]
#[tokio::test(start_paused = true)]
async fn messages_wait_for_a_client_that_is_away() {
    let world = World::new();
    let hello = Hello::v3("c").lasting(0);
    let (mut peer, _) = world.connect(&hello).await;
    peer.subscribe("t", qos(1)).await;
    peer.disconnect().await;
    assert_eq!(world.metric(r#"mqgate_sessions{state="offline"}"#), 1.0);
    let mut publisher = world.client("p").await;
    for (payload, qos) in [("dropped", QoS::AtMostOnce), ("one", QoS::AtLeastOnce), ("two", QoS::ExactlyOnce)]
    {
        publisher.publish(message("t", payload, qos)).await;
    }
    publisher.is_quiet().await;
    assert_eq!(world.metric(r#"mqgate_messages_dropped_total{reason="qos0"}"#), 1.0);
    assert_eq!(world.metric("mqgate_queued_messages"), 2.0);
    let (mut peer, present) = world.connect(&hello).await;
    assert!(present);
    assert_eq!(peer.message().await.payload, "one");
    assert_eq!(peer.message().await.payload, "two");
    assert_eq!(world.metric("mqgate_queued_messages"), 0.0);

    let (mut clean, present) = world.connect(&Hello::v3("c")).await;
    assert!(!present);
    publisher.publish(message("t", "nobody", QoS::AtLeastOnce)).await;
    clean.is_quiet().await;
    assert_eq!(world.metric(r#"mqgate_subscriptions{kind="normal"}"#), 0.0);
}

/// [MQTT-4.1.0-2]
#[tokio::test(start_paused = true)]
async fn sessions_end_when_they_expire() {
    let world = World::new();
    let hello = Hello::v5("c").lasting(60);
    let (mut peer, _) = world.connect(&hello).await;
    peer.subscribe("t", qos(1)).await;
    peer.lose().await;
    let mut publisher = world.client("p").await;
    publisher.publish(message("t", "x", QoS::AtLeastOnce)).await;
    tokio::time::sleep(SECOND * 59).await;
    assert_eq!(world.metric(r#"mqgate_sessions{state="offline"}"#), 1.0);
    tokio::time::sleep(SECOND * 2).await;
    assert_eq!(world.metric(r#"mqgate_sessions{state="offline"}"#), 0.0);
    assert_eq!(world.metric("mqgate_queued_messages"), 0.0);
    assert_eq!(
        publisher.publish(message("t", "x", QoS::AtLeastOnce)).await,
        ReasonCode::NO_MATCHING_SUBSCRIBERS
    );
    assert!(!world.connect(&hello).await.1);
}

/// [MQTT-3.1.3-9]
///
/// [MQTT-3.1.2-8]
#[tokio::test(start_paused = true)]
async fn a_will_waits_for_its_delay_and_is_forgotten_when_the_client_comes_back() {
    let world = World::new();
    let mut watcher = world.client("w").await;
    watcher.subscribe("gone", qos(0)).await;
    let hello = Hello { will: Some(("gone", 10)), ..Hello::v5("c").lasting(60) };

    world.connect(&hello).await.0.lose().await;
    tokio::time::sleep(SECOND * 9).await;
    watcher.is_quiet().await;
    let (back, present) = world.connect(&hello).await;
    assert!(present);
    tokio::time::sleep(SECOND * 20).await;
    watcher.is_quiet().await;

    back.disconnect().await;
    tokio::time::sleep(SECOND * 20).await;
    watcher.is_quiet().await;

    world.connect(&hello).await.0.lose().await;
    tokio::time::sleep(SECOND * 11).await;
    assert_eq!(watcher.message().await.payload, "gone");
    watcher.is_quiet().await;

    world.connect(&hello).await.0.lose().await;
    let (_clean, _) = world.connect(&Hello::v5("c")).await;
    assert_eq!(watcher.message().await.payload, "gone", "the session ended");

    world.connect(&Hello { will: Some(("gone", 0)), ..Hello::v3("old") }).await.0.lose().await;
    assert_eq!(watcher.message().await.payload, "gone");
    assert_eq!(world.metric("mqgate_will_published_total"), 3.0);
}

/// Its next connection may be seen before the end of this one is read.
#[tokio::test(start_paused = true)]
async fn what_a_client_said_before_it_came_again_counts() {
    let world = World::new();
    let mut watcher = world.client("w").await;
    watcher.subscribe("gone", qos(0)).await;
    let (mut peer, _) = world.connect(&Hello { will: Some(("gone", 0)), ..Hello::v5("c").lasting(60) }).await;
    let connections = world.broker.connections().list();
    let handle = connections.into_iter().find(|handle| handle.client_id() == Some("c")).unwrap();
    let mut last = BytesMut::new();
    encode(&Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS)), ProtocolVersion::V5, &mut last)
        .unwrap();
    peer.send_bytes(&last).await;
    handle.hand_over(tokio::sync::oneshot::channel().0);
    assert_eq!(peer.receive().await, None);
    peer.gone().await;
    watcher.is_quiet().await;
}

/// A client id is a name within a device: it is neither a way to the messages of another device nor to its
/// connection.
/// A queue full of what nobody gets any more is no reason to refuse what comes now.
///
/// [MQTT-3.3.2-5]
#[tokio::test(start_paused = true)]
async fn messages_that_expired_make_room_for_new_ones() {
    let outbox = OutboxLimits { messages: 2, ..OutboxLimits::default() };
    let world = World::with(Limits { outbox, ..Limits::default() });
    let hello = Hello::v5("c").lasting(600);
    let (mut peer, _) = world.connect(&hello).await;
    peer.subscribe("t", qos(1)).await;
    peer.disconnect().await;
    let mut publisher = world.client("p").await;
    let expiring = |payload: &'static str| {
        let mut publish = message("t", payload, QoS::AtLeastOnce);
        publish.properties.message_expiry_interval = Some(10);
        publish
    };
    for payload in ["1", "2"] {
        publisher.publish(expiring(payload)).await;
    }
    tokio::time::sleep(SECOND * 11).await;
    for payload in ["3", "4", "too many"] {
        publisher.publish(expiring(payload)).await;
    }
    publisher.is_quiet().await;
    let dropped = |reason| world.metric(&format!(r#"mqgate_messages_dropped_total{{reason="{reason}"}}"#));
    assert_eq!((dropped("expired"), dropped("queue_full")), (2.0, 1.0));
    assert_eq!(world.metric("mqgate_queued_messages"), 2.0);
    let (mut peer, _) = world.connect(&hello).await;
    for expected in ["3", "4"] {
        assert_eq!(peer.message().await.payload, expected);
    }
    peer.is_quiet().await;
    assert_eq!(world.metric("mqgate_queued_bytes"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn devices_with_one_client_id_do_not_meet() {
    let world = World::new();
    let (mut owner, _) = world.connect(&Hello::v5("c@owner").lasting(60)).await;
    owner.subscribe("t", qos(1)).await;
    let mut publisher = world.client("p").await;
    let (mut other, present) = world.connect(&Hello::v5("c@other").lasting(60)).await;
    assert!(!present);
    publisher.publish(message("t", "one", QoS::AtLeastOnce)).await;
    assert_eq!(owner.message().await.payload, "one");
    other.is_quiet().await;
    assert_eq!(world.metric("mqgate_session_takeovers_total"), 0.0);

    owner.lose().await;
    publisher.publish(message("t", "two", QoS::AtLeastOnce)).await;
    let (_clean, _) = world.connect(&Hello::v5("c@other")).await;
    let (mut owner, present) = world.connect(&Hello::v5("c@owner").lasting(60)).await;
    assert!(present, "what the other does with its session is its own affair");
    assert_eq!(owner.message().await.payload, "two");
}

#[tokio::test(start_paused = true)]
async fn the_client_ids_of_one_device_are_bounded() {
    let world = World::with(Limits { sessions_per_device: 2, ..Limits::default() });
    let (first, _) = world.connect(&Hello::v5("a@one")).await;
    let (parked, _) = world.connect(&Hello::v5("b@one").lasting(60)).await;
    parked.lose().await;
    let mut third = world.dial(ProtocolVersion::V5, 1024);
    third.send(&Hello::v5("c@one").packet()).await;
    let Packet::ConnAck(connack) = third.next().await else { panic!() };
    assert_eq!(connack.code.reason(), ReasonCode::QUOTA_EXCEEDED);
    world.connect(&Hello::v5("c@two")).await;
    assert!(world.connect(&Hello::v5("b@one").lasting(60)).await.1, "its own session is no new one");
    first.disconnect().await;
    world.connect(&Hello::v5("c@one")).await;
}

#[tokio::test(start_paused = true)]
async fn the_number_of_sessions_is_bounded() {
    let world = World::with(Limits { sessions: 1, ..Limits::default() });
    let (first, _) = world.connect(&Hello::v5("one")).await;
    let mut second = world.dial(ProtocolVersion::V5, 1024);
    second.send(&Hello::v5("two").packet()).await;
    let Packet::ConnAck(connack) = second.next().await else { panic!() };
    assert_eq!(connack.code.reason(), ReasonCode::QUOTA_EXCEEDED);
    first.disconnect().await;
    world.connect(&Hello::v5("two")).await;
}
