//! What a connection has that does nothing.

use super::*;

/// [MQTT 5.0, 3.1.2.10: a Keep Alive of zero turns the mechanism off.]
#[tokio::test(start_paused = true)]
async fn a_keep_alive_of_zero_is_taken_and_means_that_silence_is_no_end() {
    let world = World::new();
    let hellos = [Hello::v5("new"), Hello::v3("old")];
    let mut peers = Vec::new();
    for hello in hellos {
        let mut peer = world.dial(hello.version, 1024);
        peer.send(&Hello { keep_alive: 0, ..hello }.packet()).await;
        let Packet::ConnAck(connack) = peer.next().await else { panic!("no CONNACK") };
        assert_eq!(connack.code.reason(), ReasonCode::SUCCESS);
        assert_eq!(connack.properties.server_keep_alive, None);
        peers.push(peer);
    }
    tokio::time::sleep(SECOND * 7200).await;
    for mut peer in peers {
        peer.is_quiet().await;
    }
}

/// Much has come and gone; nothing of that is kept. The pipe is small, so that what is written waits.
#[tokio::test(start_paused = true)]
async fn an_idle_connection_holds_no_buffers() {
    let world = World::new();
    let (mut driver, mut peer) = bare(&world, 2048);
    let story = async {
        peer.send(&Hello::v5("c").packet()).await;
        assert!(matches!(peer.next().await, Packet::ConnAck(_)));
        assert_eq!(peer.subscribe("t", qos(1)).await, ReasonCode::GRANTED_QOS_1);
        for size in [1, 100_000] {
            for level in [QoS::AtMostOnce, QoS::AtLeastOnce] {
                let payload = Bytes::from(vec![b'x'; size]);
                peer.send(&Packet::Publish(message("t", payload, level))).await;
                let mut answers = if level == QoS::AtMostOnce { 1 } else { 2 };
                while answers > 0 {
                    answers -= 1;
                    if let Packet::Publish(Publish { packet_id: Some(id), .. }) = peer.next().await {
                        peer.send(&Packet::PubAck(Ack::success(id))).await;
                    }
                }
            }
        }
        peer.is_quiet().await;
        peer
    };
    let shutdown = CancellationToken::new();
    tokio::select! {
        closing = driver.run(&shutdown) => panic!("{closing:?}"),
        _peer = story => {}
    }
    assert_eq!(driver.input.capacity(), 0, "what was read");
    assert_eq!((driver.output.remaining(), driver.output.capacity()), (0, (0, 0)), "what was written");
    let mailbox = driver.mailbox.as_ref().unwrap();
    assert_eq!(mailbox.waiting(), (0, 0));
    let session = driver.machine.session().unwrap();
    assert!(session.inflight.is_empty() && session.backlog.capacity() == 0);
    assert!(driver.searching.is_none() && driver.held.is_none() && driver.todo.is_none());
}

/// The rest of a connection is its task: no array of bytes lies in there.
#[tokio::test]
async fn the_task_of_a_connection_is_small() {
    let world = World::new();
    let (_ours, theirs) = tokio::io::duplex(64);
    let task = serve(theirs, accepted(&world.broker), Arc::clone(&world.broker), world.shutdown.clone());
    let size = size_of_val(&task);
    assert!(size <= 2_500, "{size} bytes");
}
