//! Those that do much, and those that do little; what is large is done in pieces.

use std::num::NonZeroU16;

use mqgate_protocol::limits::{Limits, OutboxLimits};

use super::*;

const RECEIVED: &str = r#"mqgate_messages_received_total{qos="0"}"#;

/// So many messages for topic `t`, as one piece.
fn messages(count: usize) -> BytesMut {
    messages_at(count, QoS::AtMostOnce)
}

fn messages_at(count: usize, at: QoS) -> BytesMut {
    let mut bytes = BytesMut::new();
    for _ in 0..count {
        let publish = message("t", "x", at);
        encode(&Packet::Publish(publish), ProtocolVersion::V5, &mut bytes).unwrap();
    }
    bytes
}

async fn subscribers(world: &World, count: usize) -> Vec<Peer> {
    subscribers_at(world, count, 0).await
}

async fn subscribers_at(world: &World, count: usize, at: u8) -> Vec<Peer> {
    let names = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let mut peers = Vec::new();
    for number in 0..count {
        // All of them have names: one client has one connection.
        let name = format!("{}{}", names[number % 10], "x".repeat(number / 10));
        let (mut peer, _) = world.connect(&Hello::v5(name.leak())).await;
        peer.subscribe("t", qos(at)).await;
        peers.push(peer);
    }
    peers
}

/// It is not known for long: what somebody did before does not count any more.
async fn well_known(world: &World, client_id: &'static str) -> Peer {
    let mut peer = world.client(client_id).await;
    for _ in 0..3 {
        tokio::time::sleep(SECOND).await;
        peer.is_quiet().await;
    }
    peer
}

#[tokio::test(start_paused = true)]
async fn a_piece_of_work_that_is_large_is_cut_up() {
    let world = World::new();
    let _all = subscribers(&world, 100).await;
    let mut light = well_known(&world, "light").await;
    let mut busy = world.client("busy").await;
    // 40,000 deliveries, of which as many are made at once as take 100 µs.
    busy.send_bytes(&messages(400)).await;
    light.is_quiet().await;
    let done = world.metric(RECEIVED);
    assert!(done > 0.0 && done < 100.0, "{done} of 400 messages were handled before anybody else was heard");
    busy.is_quiet().await;
    assert_eq!(world.metric(RECEIVED), 400.0);
}

/// Others are let run in between, and those who wait for the messages are not woken for each: a write for each message
/// would cost many times what the message does.
#[tokio::test(start_paused = true)]
async fn what_is_published_in_pieces_is_written_together() {
    const COUNT: usize = 400;
    let world = World::new();
    let mut readers = Vec::new();
    for mut peer in subscribers(&world, 100).await {
        readers.push(tokio::spawn(async move {
            let (mut reads, mut received) = (0, 0);
            while received < COUNT {
                peer.input.reserve(64 * 1024);
                peer.stream.read_buf(&mut peer.input).await.unwrap();
                reads += 1;
                while let Some(packet) = peer.decoder.decode(&mut peer.input).unwrap() {
                    assert!(matches!(packet, Packet::Publish(_)));
                    received += 1;
                }
            }
            reads
        }));
    }
    let mut busy = world.client("busy").await;
    busy.send_bytes(&messages(COUNT)).await;
    busy.is_quiet().await;
    for reader in readers {
        let reads = reader.await.unwrap();
        assert!(reads <= 4, "{COUNT} messages came in {reads} pieces");
    }
}

/// Acknowledgements make receivers busy, and their publisher waits in line with them: it does not have them woken for the
/// little that it did before.
#[tokio::test(start_paused = true)]
async fn receivers_in_line_with_their_publisher_are_not_woken_for_every_piece() {
    const COUNT: usize = 400;
    // As much under way as there is: what a receiver may have is not what it waits for.
    let limits = Limits { inflight_maximum: NonZeroU16::MAX, ..Limits::default() };
    let world = World::with(limits);
    let mut readers = Vec::new();
    for mut peer in subscribers_at(&world, 100, 1).await {
        readers.push(tokio::spawn(async move {
            let (mut reads, mut received) = (0, 0);
            while received < COUNT {
                peer.input.reserve(64 * 1024);
                peer.stream.read_buf(&mut peer.input).await.unwrap();
                reads += 1;
                let mut answers = BytesMut::new();
                while let Some(packet) = peer.decoder.decode(&mut peer.input).unwrap() {
                    let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
                    let ack = Ack::success(publish.packet_id.unwrap());
                    encode(&Packet::PubAck(ack), ProtocolVersion::V5, &mut answers).unwrap();
                    received += 1;
                }
                peer.send_bytes(&answers).await;
            }
            reads
        }));
    }
    let mut busy = world.client("busy").await;
    for _ in 0..4 {
        busy.send_bytes(&messages_at(COUNT / 4, QoS::AtLeastOnce)).await;
        for _ in 0..COUNT / 4 {
            assert!(matches!(busy.next().await, Packet::PubAck(_)));
        }
    }
    let mut most = 0;
    for reader in readers {
        most = most.max(reader.await.unwrap());
    }
    assert!(most <= 8, "{COUNT} messages came in {most} pieces");
}

#[tokio::test(start_paused = true)]
async fn whoever_does_little_is_behind_one_of_many_that_do_much() {
    let world = World::new();
    let _all = subscribers(&world, 20).await;
    let mut light = well_known(&world, "light").await;
    let mut busy = Vec::new();
    for client_id in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"] {
        busy.push(world.client(client_id).await);
    }
    for peer in &mut busy {
        peer.send_bytes(&messages(200)).await;
    }
    let before = world.metric(RECEIVED);
    light.is_quiet().await;
    let meanwhile = world.metric(RECEIVED) - before;
    // One of them has 100 µs, which are about 42 messages; two more may have begun.
    assert!(meanwhile <= 130.0, "{meanwhile} of 2,000 messages were handled before");
    assert!(world.metric("mqgate_turns_waited_total") > 0.0);
    for peer in &mut busy {
        peer.is_quiet().await;
    }
    assert_eq!(world.metric(RECEIVED), 2000.0);
}

#[tokio::test(start_paused = true)]
async fn those_who_said_nothing_do_not_end_all_at_once() {
    const COUNT: usize = 500;
    let unanswered = r#"mqgate_connections_unanswered_total{reason="timeout"}"#;
    let world = World::new();
    let mut light = well_known(&world, "light").await;
    let mut silent: Vec<Peer> = (0..COUNT).map(|_| world.dial(ProtocolVersion::V5, 1024)).collect();
    assert_eq!(silent[0].receive().await, None, "its time is over, and that of all others");
    light.is_quiet().await;
    let meanwhile = world.metric(unanswered);
    assert!(meanwhile <= 20.0, "{meanwhile} of {COUNT} ended before somebody else was answered");
    for peer in &mut silent[1..] {
        assert_eq!(peer.receive().await, None);
    }
    assert_eq!(world.metric(unanswered), COUNT as f64);
}

/// So many retained messages, `r/0` and so on.
async fn retained(world: &World, count: usize) -> Peer {
    let mut keeper = world.client("keeper").await;
    for number in 0..count {
        let publish = message(&format!("r/{number}"), "old", QoS::AtLeastOnce);
        keeper.publish(Publish { retain: true, ..publish }).await;
    }
    keeper.is_quiet().await;
    keeper
}

fn subscribe(filter: &str) -> Packet {
    Packet::Subscribe(Subscribe {
        packet_id: PacketId::new(1).unwrap(),
        filters: vec![(TopicFilter::parse(filter.into()).unwrap(), qos(1))],
        subscription_identifier: None,
        user_properties: Vec::new(),
    })
}

#[tokio::test(start_paused = true)]
async fn many_retained_messages_are_looked_for_in_pieces_and_come_before_newer_ones() {
    const COUNT: usize = 5_000;
    let world = World::new();
    let mut keeper = retained(&world, COUNT).await;
    let mut light = well_known(&world, "light").await;
    let mut peer = world.client("c").await;
    peer.send(&subscribe("r/#")).await;
    peer.send(&Packet::PingReq).await;
    assert!(matches!(peer.next().await, Packet::SubAck(_)));
    light.is_quiet().await;
    let number = COUNT - 1;
    for topic in ["r/0".to_owned(), format!("r/{number}"), "r/more".to_owned()] {
        keeper.publish(message(&topic, "new", QoS::AtMostOnce)).await;
    }
    let (mut old, mut new, mut answered) = (HashSet::new(), Vec::new(), false);
    while old.len() < COUNT || new.len() < 3 || !answered {
        match peer.next().await {
            Packet::Publish(publish) if publish.retain => {
                peer.send(&Packet::PubAck(Ack::success(publish.packet_id.unwrap()))).await;
                assert!(old.insert(publish.topic.unwrap()), "each once");
                assert!(new.is_empty(), "what is newer comes later");
            }
            Packet::Publish(publish) => new.push(publish.payload),
            Packet::PingResp => answered = true,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(new, ["new"; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_outlives_its_connection_gets_what_was_still_looked_for() {
    const COUNT: usize = 5_000;
    let world = World::new();
    let _keeper = retained(&world, COUNT).await;
    let (mut driver, mut peer) = bare(&world, 64 * 1024);
    let story = async {
        peer.send(&Hello::v5("c").lasting(60).packet()).await;
        assert!(matches!(peer.next().await, Packet::ConnAck(_)));
        peer.send(&subscribe("r/#")).await;
        assert!(matches!(peer.next().await, Packet::SubAck(_)));
    };
    let shutdown = CancellationToken::new();
    tokio::select! {
        closing = driver.run(&shutdown) => panic!("{closing:?}"),
        () = story => {}
    }
    assert!(driver.searching.is_some(), "not all was looked at in one go");
    driver.close(ReasonCode::SESSION_TAKEN_OVER, Reason::TakenOver);
    let mut session = driver.handover().unwrap().session;
    let before = session.inflight.len() + session.backlog.len();
    assert!(before > 0 && before < COUNT, "{before}");
    driver.finish_search(&mut session).await;
    assert_eq!(session.inflight.len() + session.backlog.len(), COUNT);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_all_is_bounded_and_who_reads_loses_nothing() {
    const MOST: usize = 256 * 1024;
    let outbox = OutboxLimits { bytes: MOST, ..OutboxLimits::default() };
    let world = World::with(Limits { queued_bytes: MOST, outbox, ..Limits::default() });
    let mut slow = Vec::new();
    for client_id in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"] {
        let mut peer = world.dial(ProtocolVersion::V5, 1024);
        peer.send(&Hello::v5(client_id).packet()).await;
        peer.next().await;
        peer.subscribe("t", qos(1)).await;
        slow.push(peer);
    }
    let mut quick = world.client("quick").await;
    quick.subscribe("t", qos(1)).await;
    let mut publisher = world.client("p").await;
    let payload = Bytes::from(vec![b'x'; 700]);
    for number in 0..400_u16 {
        let level = if number % 2 == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        publisher.publish(message("t", payload.clone(), level)).await;
        assert_eq!(quick.message().await.payload, payload);
        if number % 40 != 39 {
            continue;
        }
        let waiting = world.metric("mqgate_queued_bytes")
            + world.metric("mqgate_queued_messages") * 256.0
            + world.metric("mqgate_output_bytes");
        // As packets they are a little larger.
        assert!(waiting <= (MOST + 4 * 1024) as f64, "{waiting} bytes wait");
    }
    assert!(world.metric(r#"mqgate_messages_dropped_total{reason="all_queues_full"}"#) > 100.0);
    assert_eq!(world.metric("mqgate_queued_bytes_limit"), MOST as f64);
    for peer in slow {
        peer.lose().await;
    }
    quick.disconnect().await;
    publisher.disconnect().await;
    for what in ["queued_bytes", "queued_messages", "output_bytes", "inflight_bytes", "inflight_messages"] {
        assert_eq!(world.metric(&format!("mqgate_{what}")), 0.0, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn before_a_client_is_let_in_its_packets_are_small() {
    let hello = Hello { will: Some(("t", 0)), ..Hello::v5("c") };
    let mut bytes = BytesMut::new();
    encode(&hello.packet(), ProtocolVersion::V5, &mut bytes).unwrap();
    let size = u32::try_from(bytes.len()).unwrap();
    let world = World::with(Limits { connect_packet_size: size, ..Limits::default() });
    let (mut peer, _) = world.connect(&hello).await;
    let large = Bytes::from(vec![b'x'; 10_000]);
    assert_eq!(
        peer.publish(message("t", large, QoS::AtLeastOnce)).await,
        ReasonCode::NO_MATCHING_SUBSCRIBERS
    );

    let world = World::with(Limits { connect_packet_size: size - 1, ..Limits::default() });
    let mut peer = world.dial(ProtocolVersion::V5, 1024);
    peer.send_bytes(&bytes).await;
    assert_eq!(peer.receive().await, None);
    assert_eq!(world.metric(r#"mqgate_connections_unanswered_total{reason="too_large"}"#), 1.0);
    let mut silent = world.dial(ProtocolVersion::V5, 1024);
    assert_eq!(silent.receive().await, None);
    assert_eq!(world.metric(r#"mqgate_connections_unanswered_total{reason="timeout"}"#), 1.0);
    world.dial(ProtocolVersion::V5, 1024).lose().await;
    assert_eq!(world.metric(r#"mqgate_connections_unanswered_total{reason="gone"}"#), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_search_that_is_cut_short_is_counted() {
    let cut = async |limits: Limits, count: usize| {
        let world = World::with(limits);
        let _keeper = retained(&world, 20).await;
        let mut peer = world.client("c").await;
        peer.send(&subscribe("r/#")).await;
        assert!(matches!(peer.next().await, Packet::SubAck(_)));
        for _ in 0..count {
            peer.message().await;
        }
        peer.is_quiet().await;
        world.metric("mqgate_retained_cut_total")
    };
    let usual = Limits::default;
    assert_eq!(cut(usual(), 20).await, 0.0);
    assert_eq!(cut(Limits { retained_per_subscription: 20, ..usual() }, 20).await, 0.0);
    assert_eq!(cut(Limits { retained_per_subscription: 19, ..usual() }, 19).await, 1.0);
    assert_eq!(cut(Limits { retained_backlog: 5, ..usual() }, 5).await, 1.0);
    // `r` is one of them.
    assert_eq!(cut(Limits { retained_visits_per_subscribe: 11, ..usual() }, 10).await, 1.0);
}

/// What was counted is forgotten also if it is acknowledged with the last packets.
#[tokio::test(start_paused = true)]
async fn nothing_stays_counted_that_the_last_packets_acknowledged() {
    let world = World::new();
    let mut publisher = world.client("p").await;
    let inflight =
        || ["mqgate_inflight_messages", "mqgate_inflight_bytes"].map(|gauge| world.metric(gauge) as u64);
    for hello in [Hello::v5("clean"), Hello::v5("lasting").lasting(60), Hello::v5("lasting").lasting(60)] {
        let (mut peer, _) = world.connect(&hello).await;
        peer.subscribe("t", qos(1)).await;
        publisher.publish(message("t", "12345", QoS::AtLeastOnce)).await;
        let Packet::Publish(publish) = peer.next().await else { panic!() };
        assert_eq!(inflight(), [1, 6]);
        let mut last = BytesMut::new();
        let acknowledgement = Packet::PubAck(Ack::success(publish.packet_id.unwrap()));
        encode(&acknowledgement, ProtocolVersion::V5, &mut last).unwrap();
        encode(&Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS)), ProtocolVersion::V5, &mut last)
            .unwrap();
        peer.send_bytes(&last).await;
        assert_eq!(peer.receive().await, None);
        peer.gone().await;
        assert_eq!(inflight(), [0, 0]);
    }
}
