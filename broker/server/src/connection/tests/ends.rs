//! How connections end, who hears of it, and what is written down.

use mqgate_identity::hooks::{
    Authentication, Authorization, ChainMember, ConnackReason, FailureKind, Grant, HookFailure,
};
use mqgate_protocol::message::Message;
use mqgate_protocol::session::SessionKey;

use super::*;
use crate::testing::{FakeHook, denial, failure, grant, hooks, identity, member};

/// [MQTT-3.1.2-22]
#[tokio::test(start_paused = true)]
async fn silence_ends_a_connection_after_one_and_a_half_keep_alives() {
    let world = World::new();
    let started = tokio::time::Instant::now();
    let (mut peer, _) = world.connect(&Hello { keep_alive: 10, ..Hello::v5("c") }).await;
    tokio::time::sleep(SECOND * 14).await;
    peer.is_quiet().await;
    assert_eq!(peer.dismissal().await, ReasonCode::KEEP_ALIVE_TIMEOUT);
    let took = started.elapsed();
    assert!(took >= SECOND * 29 && took < SECOND * 30, "{took:?}");

    let (mut old, _) = world.connect(&Hello { keep_alive: 10, ..Hello::v3("old") }).await;
    assert_eq!(old.receive().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_connect_is_closed_in_time() {
    let world = World::new();
    let started = tokio::time::Instant::now();
    let mut peer = world.dial(ProtocolVersion::V5, 1024);
    peer.send_bytes(&[0x10]).await;
    assert_eq!(peer.receive().await, None);
    assert!(started.elapsed() >= SECOND * 15 && started.elapsed() < SECOND * 16);
    peer.gone().await;
    assert!(world.broker.connections().is_empty());
    let audited = world.audited();
    assert_eq!(audited[0]["name"], "connection.refused");
    assert_eq!(audited[0]["reason"], "connect_timeout");
}

/// It leaves without reading what is still sent to it.
///
/// [MQTT-3.14.4-3; MQTT 3.1.1: MQTT-3.1.2-10]
#[tokio::test(start_paused = true)]
async fn a_disconnect_counts_although_messages_were_under_way() {
    let world = World::new();
    let mut heir = world.client("heir").await;
    heir.subscribe("will", qos(0)).await;
    for client_id in ["1", "2", "3", "4", "5", "6", "7", "8", "9"] {
        let hello = Hello { will: Some(("will", 0)), ..Hello::v5(client_id) };
        let (mut peer, _) = world.connect(&hello).await;
        peer.subscribe("t", qos(0)).await;
        peer.send(&Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS))).await;
        let Peer { stream, task, .. } = peer;
        drop(stream);
        world.broker.publish(&Message::published(
            name("t"),
            message("t", "x", QoS::AtMostOnce),
            SessionKey(0),
            world.broker.now(),
        ));
        task.await.unwrap();
    }
    heir.is_quiet().await;
    let by_client = r#"mqgate_disconnects_total{initiator="client",reason_code="normal"}"#;
    assert_eq!(world.metric(by_client), 9.0);
}

/// A will topic that holds a wildcard, or nothing.
///
/// [MQTT 3.1.1: MQTT-3.1.4-1]
#[tokio::test(start_paused = true)]
async fn a_connect_with_an_impossible_will_topic_is_answered_where_there_is_a_word_for_it() {
    let world = World::new();
    for topic in ["", "a/#"] {
        let will = [&[0, topic.len() as u8], topic.as_bytes(), b"\0\0"].concat();
        for (level, properties, expected) in
            [(4, &b""[..], None), (5, b"\0", Some(ReasonCode::TOPIC_NAME_INVALID))]
        {
            let head = [b"\0\x04MQTT".as_slice(), &[level, 0b0110, 0, 0], properties, b"\0\x01c", properties];
            let body = [&head.concat()[..], &will].concat();
            let version = if level == 4 { ProtocolVersion::V3_1_1 } else { ProtocolVersion::V5 };
            let mut peer = world.dial(version, 1024);
            peer.send_bytes(&[&[0x10, body.len() as u8][..], &body].concat()).await;
            let heard = peer.receive().await.map(|packet| match packet {
                Packet::ConnAck(connack) => connack.code.reason(),
                other => panic!("{other:?}"),
            });
            assert_eq!(heard, expected, "{topic:?} {level}");
            peer.gone().await;
        }
    }
}

/// The socket is not closed under what the client still sends: it would be reset, and our Close frame lost.
#[tokio::test]
async fn a_broken_websocket_frame_is_answered_with_a_close_frame() {
    let world = World::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let stream = crate::websocket::WebSocket::new(socket, Bytes::new(), Default::default());
    let accepted = Accepted { transport: Transport::Ws, ..accepted(&world.broker) };
    let task = tokio::spawn(serve(stream, accepted, Arc::clone(&world.broker), world.shutdown.clone()));
    // A reserved operation, masked; and more than one read takes.
    let bytes = [&[0x83, 0x80, 0, 0, 0, 0][..], &[0; 100_000]].concat();
    client.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, [0x88, 2, 0x03, 0xEA], "Close, 1002");
    drop(client);
    task.await.unwrap();
}

/// [MQTT-4.13.1-1, MQTT-4.13.2-1]
#[tokio::test(start_paused = true)]
async fn malformed_bytes_are_answered_and_disturb_nobody() {
    let world = World::new();
    let mut other = world.client("other").await;
    let mut peer = world.client("c").await;
    peer.send_bytes(&[0x36, 0x02, 0, 0]).await;
    assert_eq!(peer.dismissal().await, ReasonCode::MALFORMED_PACKET);
    let mut stranger = world.dial(ProtocolVersion::V5, 1024);
    stranger.send_bytes(b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(stranger.receive().await, None);
    other.is_quiet().await;
    assert_eq!(
        world.metric(r#"mqgate_disconnects_total{initiator="server",reason_code="malformed_packet"}"#),
        1.0
    );
    assert_eq!(world.metric("mqgate_clients_connected"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn shutdown_tells_every_client() {
    let world = World::new();
    let mut new = world.client("new").await;
    let (mut old, _) = world.connect(&Hello::v3("old")).await;
    world.shutdown.cancel();
    assert_eq!(new.dismissal().await, ReasonCode::SERVER_SHUTTING_DOWN);
    assert_eq!(old.receive().await, None);
    new.gone().await;
    old.gone().await;
    assert_eq!(world.metric("mqgate_clients_connected"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn whoever_is_picked_is_disconnected_and_it_is_written_down() {
    let world = World::new();
    let mut kept = world.client("kept").await;
    let mut picked = world.client("picked").await;
    let count = world.broker.connections().disconnect_where(
        |handle| handle.client_id() == Some("picked"),
        ReasonCode::NOT_AUTHORIZED,
        Reason::CertRevoked,
    );
    assert_eq!(count, 1);
    assert_eq!(picked.dismissal().await, ReasonCode::NOT_AUTHORIZED);
    picked.gone().await;
    kept.is_quiet().await;
    let audited = world.audited();
    assert_eq!(audited.len(), 1, "{audited:?}");
    assert_eq!(audited[0]["name"], "connection.closed");
    assert_eq!(audited[0]["reason"], "cert_revoked");
    assert_eq!(audited[0]["client_id"], "picked");
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_permit_ends_the_session() {
    let world = World::new();
    let (mut kept, mut barred) = (world.client("kept").await, world.client("barred").await);
    world.barred.lock().unwrap().insert("barred".into());
    assert_eq!(world.broker.connections().reauthorize_where(|_| true), 2);
    assert_eq!(barred.dismissal().await, ReasonCode::NOT_AUTHORIZED);
    kept.is_quiet().await;
    let mut again = world.dial(ProtocolVersion::V5, 1024);
    again.send(&Hello::v5("barred").packet()).await;
    let Packet::ConnAck(connack) = again.next().await else { panic!() };
    assert_eq!(connack.code.reason(), ReasonCode::NOT_AUTHORIZED);
    let refused =
        r#"mqgate_connects_total{protocol_version="5",reason_code="not_authorized",result="refused"}"#;
    assert_eq!(world.metric(refused), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_permit_lasts_as_long_as_it_says() {
    let world = World::new();
    let asked = || world.asked.load(Ordering::SeqCst);
    let valid_for = |validity| *world.valid_for.lock().unwrap() = validity;
    valid_for(Some(SECOND * 60));
    let mut peer = world.client("c").await;
    tokio::time::sleep(SECOND * 59).await;
    peer.is_quiet().await;
    assert_eq!(asked(), 1);
    valid_for(Some(SECOND * 10));
    tokio::time::sleep(SECOND * 2).await;
    peer.is_quiet().await;
    assert_eq!(asked(), 2);
    // A permit that comes for another reason has a clock of its own.
    tokio::time::sleep(SECOND * 5).await;
    valid_for(Some(Duration::ZERO));
    world.broker.connections().reauthorize_where(|_| true);
    peer.is_quiet().await;
    assert_eq!(asked(), 3);
    tokio::time::sleep(SECOND * 10 + SECOND / 2).await;
    assert_eq!(asked(), 13, "not more than once in a second");
    world.barred.lock().unwrap().insert("c".into());
    assert_eq!(peer.dismissal().await, ReasonCode::NOT_AUTHORIZED);
    peer.gone().await;
    tokio::time::sleep(SECOND * 60).await;
    assert_eq!(asked(), 14, "nobody is asked about a connection that is gone");
}

#[tokio::test(start_paused = true)]
async fn a_permit_goes_on_while_nobody_can_be_asked() {
    let authorizer = |answer: Result<Authorization, HookFailure>| {
        Arc::new(FakeHook { authorization: Some(answer), ..FakeHook::default() })
    };
    let chain = |authorizer: &Arc<FakeHook>| -> Vec<Arc<ChainMember>> {
        let accept = Authentication::Accept { identity: identity("d"), cache: None };
        let accept = Arc::new(FakeHook { authentication: Some(Ok(accept)), ..FakeHook::default() });
        vec![member("who", &accept), member("may", authorizer)]
    };
    let valid = Grant { valid_for: Some(SECOND * 60), ..grant("#") };
    let hooks_in_force = hooks(chain(&authorizer(Ok(Authorization::Allow(valid)))));
    let world = World::gated(&hooks_in_force);
    let mut peer = world.client("c").await;
    let fails = authorizer(Err(failure(FailureKind::Trap)));
    hooks_in_force.store(hooks(chain(&fails)).load_full());
    for minute in 0..3 {
        assert_eq!(fails.asked.load(Ordering::SeqCst), minute);
        tokio::time::sleep(SECOND * 60 + SECOND / 10).await;
        peer.is_quiet().await;
    }
    assert_eq!(peer.publish(message("a", "x", QoS::AtLeastOnce)).await, ReasonCode::NO_MATCHING_SUBSCRIBERS);
    let denies = authorizer(Ok(Authorization::Deny(denial(ConnackReason::Banned))));
    hooks_in_force.store(hooks(chain(&denies)).load_full());
    assert_eq!(peer.dismissal().await, ReasonCode::NOT_AUTHORIZED);
    assert_eq!((fails.asked.load(Ordering::SeqCst), denies.asked.load(Ordering::SeqCst)), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn denials_are_heard_and_written_down_once_with_a_count() {
    let world = World::new();
    let mut peer = world.client("c").await;
    assert_eq!(peer.subscribe("secret/a", qos(0)).await, ReasonCode::NOT_AUTHORIZED);
    assert_eq!(peer.subscribe("#", qos(0)).await, ReasonCode::NOT_AUTHORIZED);
    for bits in [1, 2, 1] {
        let publish = message("secret/a", "x", QoS::from_bits(bits).unwrap());
        assert_eq!(peer.publish(publish).await, ReasonCode::NOT_AUTHORIZED);
    }
    peer.publish(message("secret/a", "x", QoS::AtMostOnce)).await;
    peer.is_quiet().await;
    peer.disconnect().await;
    let (mut old, _) = world.connect(&Hello::v3("old")).await;
    assert_eq!(old.subscribe("secret/a", qos(0)).await, ReasonCode::UNSPECIFIED_ERROR);
    old.publish(message("secret/a", "x", QoS::AtLeastOnce)).await;

    let mut told: Vec<_> = world
        .audited()
        .iter()
        .map(|event| format!("{} {} {}", event["client_id"], event["name"], event["fields"]["count"]))
        .collect();
    told[2..4].sort();
    assert_eq!(
        told,
        [
            r#""c" "authorization.subscribe_denied" null"#,
            r#""c" "authorization.publish_denied" null"#,
            r#""c" "authorization.publish_denied" "3""#,
            r#""c" "authorization.subscribe_denied" "1""#,
            r#""c" "connection.closed" null"#,
            r#""old" "authorization.subscribe_denied" null"#,
            r#""old" "authorization.publish_denied" null"#,
        ]
    );
}
