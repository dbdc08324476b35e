//! What goes on while something else waits: the gate that thinks, a client that does not read.

use super::*;

const GATE: u32 = 32;

#[tokio::test(start_paused = true)]
async fn a_session_goes_on_while_the_gate_thinks() {
    let world = World::new();
    let (mut peer, _) = world.connect(&Hello { keep_alive: 10, ..Hello::v5("c") }).await;
    let busy = world.broker.reauthorizations.acquire_many(GATE).await.unwrap();
    world.broker.connections().reauthorize_where(|_| true);
    peer.is_quiet().await;
    peer.send(&Packet::Publish(message("t", "x", QoS::AtLeastOnce))).await;
    peer.send(&Packet::PingReq).await;
    tokio::time::sleep(SECOND * 60).await;
    assert_eq!(world.asked.load(Ordering::SeqCst), 1, "it is this side that is silent");
    drop(busy);
    assert!(matches!(peer.next().await, Packet::PubAck(_)));
    assert_eq!(peer.next().await, Packet::PingResp);

    let _busy = world.broker.reauthorizations.acquire_many(GATE).await.unwrap();
    world.broker.connections().reauthorize_where(|_| true);
    peer.is_quiet().await;
    let (_second, _) = world.connect(&Hello::v5("c")).await;
    assert_eq!(peer.dismissal().await, ReasonCode::SESSION_TAKEN_OVER);
}

#[tokio::test(start_paused = true)]
async fn silence_counts_while_the_gate_thinks() {
    let world = World::new();
    let (mut peer, _) = world.connect(&Hello { keep_alive: 10, ..Hello::v5("c") }).await;
    let _busy = world.broker.reauthorizations.acquire_many(GATE).await.unwrap();
    world.broker.connections().reauthorize_where(|_| true);
    assert_eq!(peer.dismissal().await, ReasonCode::KEEP_ALIVE_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn an_answer_older_than_the_question_does_not_count() {
    let world = World::new();
    let mut peer = world.client("c").await;
    let busy = world.broker.reauthorizations.acquire_many(GATE).await.unwrap();
    for _ in 0..3 {
        world.broker.connections().reauthorize_where(|_| true);
        peer.is_quiet().await;
    }
    drop(busy);
    tokio::time::sleep(SECOND).await;
    assert_eq!(world.asked.load(Ordering::SeqCst), 3);
}

/// A subscriber that has taken none of a lot that waits for it.
async fn behind(world: &World, hello: &Hello) -> Peer {
    let mut slow = world.dial(hello.version, 4096);
    slow.send(&hello.packet()).await;
    slow.next().await;
    slow.subscribe("t", qos(0)).await;
    let mut quick = world.client("quick").await;
    let payload = Bytes::from(vec![b'x'; 1000]);
    for _ in 0..1000 {
        quick.publish(message("t", payload.clone(), QoS::AtMostOnce)).await;
    }
    quick.is_quiet().await;
    assert!(world.metric("mqgate_queued_messages") > 100.0);
    slow
}

#[tokio::test(start_paused = true)]
async fn a_client_with_a_backlog_is_heard() {
    let world = World::with(Limits { write_stall_timeout: SECOND * 600, ..Limits::default() });
    let mut slow = behind(&world, &Hello { keep_alive: 10, ..Hello::v5("slow") }).await;
    for _ in 0..10 {
        slow.send(&Packet::PingReq).await;
        tokio::time::sleep(SECOND * 10).await;
    }
    let mut answers = 0;
    while answers < 10 {
        match slow.next().await {
            Packet::Publish(_) => {}
            Packet::PingResp => answers += 1,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_closed() {
    let world = World::new();
    let _slow = behind(&world, &Hello::v5("slow")).await;
    tokio::time::sleep(SECOND * 59).await;
    assert_eq!(world.metric("mqgate_clients_connected"), 1.0);
    tokio::time::sleep(SECOND * 2).await;
    assert_eq!(world.metric("mqgate_clients_connected"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_barred_client_gets_nothing_that_waited() {
    let world = World::new();
    let mut slow = behind(&world, &Hello { will: Some(("t", 0)), ..Hello::v5("slow") }).await;
    world.broker.connections().disconnect_where(
        |handle| handle.client_id() == Some("slow"),
        ReasonCode::NOT_AUTHORIZED,
        Reason::CertRevoked,
    );
    tokio::time::sleep(SECOND * 3).await;
    let mut rest = Vec::new();
    slow.stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() <= 4096, "{}", rest.len());
    assert_eq!(world.metric("mqgate_will_published_total"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn retained_messages_wait_for_a_slow_client_outside_the_output() {
    let world = World::new();
    let mut publisher = world.client("p").await;
    let payload = Bytes::from(vec![b'x'; 1000]);
    for number in 0..1000 {
        let topic = format!("r/{number}");
        publisher
            .publish(Publish { retain: true, ..message(&topic, payload.clone(), QoS::AtMostOnce) })
            .await;
    }
    publisher.is_quiet().await;
    let mut slow = world.dial(ProtocolVersion::V5, 4096);
    slow.send(&Hello::v5("slow").packet()).await;
    slow.next().await;
    let filter = || (TopicFilter::parse("r/+".into()).unwrap(), qos(0));
    let subscribe = Subscribe {
        packet_id: PacketId::new(1).unwrap(),
        filters: vec![filter(), filter(), filter()],
        subscription_identifier: None,
        user_properties: Vec::new(),
    };
    slow.send(&Packet::Subscribe(subscribe)).await;
    assert!(matches!(slow.next().await, Packet::SubAck(_)));
    tokio::time::sleep(SECOND).await;
    let sent = || world.metric(r#"mqgate_messages_sent_total{qos="0"}"#);
    assert!(sent() < 300.0, "{}", sent());
    for _ in 0..1000 {
        assert!(matches!(slow.next().await, Packet::Publish(_)));
    }
    slow.is_quiet().await;
    assert_eq!(sent(), 1000.0, "each once, however often the filter is named");
}
