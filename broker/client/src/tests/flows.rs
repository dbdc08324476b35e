//! QoS flows, subscriptions, windows, pings, and ways to end.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use mqgate_codec::{ConnectProperties, Disconnect, EncodeError, SubAck, UnsubAck};

use super::*;
use crate::{ClientError, Event};

fn text(event: Event) -> String {
    match event {
        Event::Message(message) => String::from_utf8_lossy(&message.payload).into_owned(),
        Event::Disconnected { cause, .. } => format!("disconnected: {cause}"),
    }
}

#[tokio::test]
async fn qos_0_is_done_when_it_is_on_its_way() {
    let (client, mut server) = plainly_connected().await;
    assert_eq!(client.publish("t", "x", QoS::AtMostOnce, false).await, Ok(ReasonCode::SUCCESS));
    server.expect(Packet::Publish(message(QoS::AtMostOnce, 0, "x"))).await;
}

#[tokio::test]
async fn qos_1_ends_with_the_reason_of_puback() {
    let (client, mut server) = plainly_connected().await;
    for (packet_id, reason) in [(1, ReasonCode::SUCCESS), (2, ReasonCode::NOT_AUTHORIZED)] {
        let answering = async {
            server.expect(Packet::Publish(message(QoS::AtLeastOnce, packet_id, "x"))).await;
            server.send(Packet::PubAck(Ack::new(id(packet_id), reason))).await;
        };
        let (result, ()) = tokio::join!(client.publish("t", "x", QoS::AtLeastOnce, false), answering);
        assert_eq!(result, Ok(reason));
    }
}

#[tokio::test]
async fn qos_2_takes_four_packets() {
    // [MQTT-4.3.3-1, MQTT-4.3.3-4]
    let (client, mut server) = plainly_connected().await;
    let answering = async {
        server.expect(Packet::Publish(message(QoS::ExactlyOnce, 1, "x"))).await;
        server.send(Packet::PubRec(Ack::new(id(1), ReasonCode::NO_MATCHING_SUBSCRIBERS))).await;
        server.expect(Packet::PubRel(ack(1))).await;
        // A server that asks again is answered again.
        server.send(Packet::PubRec(ack(1))).await;
        server.expect(Packet::PubRel(ack(1))).await;
        server.send(Packet::PubComp(ack(1))).await;
    };
    let (result, ()) = tokio::join!(client.publish("t", "x", QoS::ExactlyOnce, false), answering);
    assert_eq!(result, Ok(ReasonCode::NO_MATCHING_SUBSCRIBERS));
}

#[tokio::test]
async fn a_refused_qos_2_message_is_not_released() {
    let (client, mut server) = plainly_connected().await;
    let answering = async {
        server.next().await;
        server.send(Packet::PubRec(Ack::new(id(1), ReasonCode::QUOTA_EXCEEDED))).await;
    };
    let (result, ()) = tokio::join!(client.publish("t", "x", QoS::ExactlyOnce, false), answering);
    assert_eq!(result, Ok(ReasonCode::QUOTA_EXCEEDED));
    client.disconnect().await.unwrap();
    server.expect(Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS))).await;
}

#[tokio::test]
async fn a_qos_2_message_is_delivered_once() {
    // [MQTT-4.3.3-10]
    let (mut client, mut server) = plainly_connected().await;
    let mut again = message(QoS::ExactlyOnce, 9, "once");
    server.send(Packet::Publish(again.clone())).await;
    server.expect(Packet::PubRec(ack(9))).await;
    again.dup = true;
    server.send(Packet::Publish(again)).await;
    server.expect(Packet::PubRec(ack(9))).await;
    server.send(Packet::PubRel(ack(9))).await;
    server.expect(Packet::PubComp(ack(9))).await;
    // Released: the identifier is free, and another release finds nothing.
    server.send(Packet::PubRel(ack(9))).await;
    server.expect(Packet::PubComp(Ack::new(id(9), ReasonCode::PACKET_IDENTIFIER_NOT_FOUND))).await;
    server.send(Packet::Publish(message(QoS::ExactlyOnce, 9, "next"))).await;
    server.expect(Packet::PubRec(ack(9))).await;
    assert_eq!(text(client.recv().await), "once");
    assert_eq!(text(client.recv().await), "next");
}

#[tokio::test]
async fn qos_1_messages_are_acknowledged() {
    let (mut client, mut server) = plainly_connected().await;
    server.send(Packet::Publish(message(QoS::AtLeastOnce, 3, "m"))).await;
    server.expect(Packet::PubAck(ack(3))).await;
    assert_eq!(text(client.recv().await), "m");
}

#[tokio::test]
async fn subscriptions_are_answered_filter_by_filter() {
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        let mut options = options();
        options.version = version;
        let (client, mut server) = connected(options, ConnAckProperties::default()).await;
        let reasons = vec![ReasonCode::GRANTED_QOS_1, ReasonCode::UNSPECIFIED_ERROR];
        let answering = async {
            let packet = server.next().await;
            assert!(
                matches!(&packet, Some(Packet::Subscribe(subscribe)) if subscribe.filters.len() == 2),
                "{packet:?}"
            );
            let suback = SubAck {
                packet_id: id(1),
                reasons: reasons.clone(),
                reason_string: None,
                user_properties: vec![],
            };
            server.send(Packet::SubAck(suback)).await;
            let packet = server.next().await;
            assert!(matches!(packet, Some(Packet::Unsubscribe(_))), "{packet:?}");
            let reasons = vec![ReasonCode::SUCCESS];
            let unsuback =
                UnsubAck { packet_id: id(2), reasons, reason_string: None, user_properties: vec![] };
            server.send(Packet::UnsubAck(unsuback)).await;
        };
        let asking = async {
            let granted = client.subscribe(&[("a/#", QoS::AtLeastOnce), ("#", QoS::AtMostOnce)]).await;
            (granted, client.unsubscribe(&["a/#"]).await)
        };
        let (results, ()) = tokio::join!(asking, answering);
        assert_eq!(results, (Ok(reasons), Ok(vec![ReasonCode::SUCCESS])), "{version:?}");
        assert_eq!(
            client.subscribe(&[("a#", QoS::AtMostOnce)]).await,
            Err(ClientError::TopicFilter(mqgate_codec::TopicError::Wildcard))
        );
    }
}

#[tokio::test]
async fn no_more_is_in_flight_than_the_server_allows() {
    // [MQTT-3.3.4-7]
    let properties =
        ConnAckProperties { receive_maximum: NonZeroU16::new(1), ..ConnAckProperties::default() };
    let (client, mut server) = connected(options(), properties).await;
    let sender = client.handle();
    let first = tokio::spawn(async move { sender.publish("t", "1", QoS::AtLeastOnce, false).await });
    server.expect(Packet::Publish(message(QoS::AtLeastOnce, 1, "1"))).await;
    let sender = client.handle();
    let second = tokio::spawn(async move { sender.publish("t", "2", QoS::ExactlyOnce, false).await });
    // Nothing comes while the first waits for its acknowledgement: a message of the server goes both ways
    // meanwhile.
    server.send(Packet::Publish(message(QoS::AtLeastOnce, 5, "x"))).await;
    server.expect(Packet::PubAck(ack(5))).await;
    assert!(!second.is_finished());
    server.send(Packet::PubAck(ack(1))).await;
    assert_eq!(first.await.unwrap(), Ok(ReasonCode::SUCCESS));
    server.expect(Packet::Publish(message(QoS::ExactlyOnce, 2, "2"))).await;
    server.send(Packet::PubRec(ack(2))).await;
    server.expect(Packet::PubRel(ack(2))).await;
    server.send(Packet::PubComp(ack(2))).await;
    assert_eq!(second.await.unwrap(), Ok(ReasonCode::SUCCESS));
}

#[tokio::test]
async fn what_the_server_does_not_take_is_not_sent() {
    // [MQTT-3.2.2-11, MQTT-3.2.2-14, MQTT-3.2.2-15]
    let properties = ConnAckProperties {
        maximum_qos: Some(QoS::AtLeastOnce),
        retain_available: Some(false),
        maximum_packet_size: NonZeroU32::new(20),
        ..ConnAckProperties::default()
    };
    let (client, mut server) = connected(options(), properties).await;
    let result = client.publish("t", "x", QoS::ExactlyOnce, false).await;
    assert_eq!(result, Err(ClientError::NotSupported(ReasonCode::QOS_NOT_SUPPORTED)));
    let result = client.publish("t", "x", QoS::AtMostOnce, true).await;
    assert_eq!(result, Err(ClientError::NotSupported(ReasonCode::RETAIN_NOT_SUPPORTED)));
    let result = client.publish("t", vec![b'x'; 15], QoS::AtMostOnce, false).await;
    let too_large = EncodeError::PacketTooLarge { size: 21, limit: 20 };
    assert_eq!(result, Err(ClientError::Encode(too_large)));
    assert!(client.publish("t", "x", QoS::AtMostOnce, false).await.is_ok());
    server.expect(Packet::Publish(message(QoS::AtMostOnce, 0, "x"))).await;
}

#[tokio::test]
async fn a_topic_alias_stands_for_its_name() {
    let mut options = options();
    options.properties = ConnectProperties { topic_alias_maximum: Some(1), ..ConnectProperties::default() };
    let (mut client, mut server) = connected(options, ConnAckProperties::default()).await;
    let mut publish = message(QoS::AtMostOnce, 0, "x");
    publish.properties.topic_alias = NonZeroU16::new(1);
    server.send(Packet::Publish(publish.clone())).await;
    publish.topic = None;
    server.send(Packet::Publish(publish.clone())).await;
    for _ in 0..2 {
        let Event::Message(message) = client.recv().await else { panic!("a message") };
        assert_eq!(message.topic.as_str(), "t");
    }
    publish.properties.topic_alias = NonZeroU16::new(2);
    server.send(Packet::Publish(publish)).await;
    server.expect(Packet::Disconnect(Disconnect::new(ReasonCode::TOPIC_ALIAS_INVALID))).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_drowned() {
    let mut options = options();
    options.event_capacity = 1;
    let (mut client, mut server) = connected(options, ConnAckProperties::default()).await;
    let sending = tokio::spawn(async move {
        for _ in 0..50_000 {
            server.send(Packet::Publish(message(QoS::AtMostOnce, 0, "0123456789"))).await;
        }
        server
    });
    // The pipe is full long before that, and the sender waits.
    assert_eq!(text(client.recv().await), "0123456789");
    assert!(!sending.is_finished());
    for _ in 1..50_000 {
        assert_eq!(text(client.recv().await), "0123456789");
    }
    sending.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn silence_is_broken_by_pings_and_ends_the_connection() {
    // [MQTT-3.1.2-20]
    let mut options = options();
    options.keep_alive = Duration::from_secs(60);
    let (mut client, mut server) = connected(options, ConnAckProperties::default()).await;
    let start = tokio::time::Instant::now();
    for count in 1..=2 {
        server.expect(Packet::PingReq).await;
        assert!(start.elapsed() <= Duration::from_secs(60) * count);
        server.send(Packet::PingResp).await;
    }
    server.expect(Packet::PingReq).await;
    assert_eq!(text(client.recv().await), "disconnected: the server did not answer PINGREQ");
    assert_eq!(server.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_still_lives() {
    // [MQTT-3.1.2-20]
    let mut options = options();
    options.event_capacity = 1;
    let (mut client, mut server) = connected(options, ConnAckProperties::default()).await;
    for payload in ["one", "two", "three"] {
        server.send(Packet::Publish(message(QoS::AtMostOnce, 0, payload))).await;
    }
    // Nobody takes them, nothing is read, and so no PINGRESP is seen.
    for _ in 0..5 {
        server.expect(Packet::PingReq).await;
    }
    for payload in ["one", "two", "three"] {
        assert_eq!(text(client.recv().await), payload);
    }
}

#[tokio::test]
async fn the_servers_goodbye_is_told_to_all() {
    let (mut client, mut server) = plainly_connected().await;
    let sender = client.handle();
    let waiting = tokio::spawn(async move { sender.publish("t", "x", QoS::AtLeastOnce, false).await });
    server.next().await;
    server.send(Packet::Disconnect(Disconnect::new(ReasonCode::SESSION_TAKEN_OVER))).await;
    let reason = Some(ReasonCode::SESSION_TAKEN_OVER);
    assert_eq!(client.disconnected().await, reason);
    assert_eq!(client.disconnected().await, reason);
    assert_eq!(waiting.await.unwrap(), Err(ClientError::Closed { reason }));
    assert_eq!(client.publish("t", "x", QoS::AtMostOnce, false).await, Err(ClientError::Closed { reason }));
}

#[tokio::test]
async fn a_wrong_server_hears_why() {
    // [MQTT-4.13.1-1]
    for (bytes, expected) in [
        (&[0x30, 0x04, 0, 1, b'#', 0][..], ReasonCode::TOPIC_NAME_INVALID),
        (&[0x36, 0x00], ReasonCode::MALFORMED_PACKET),
        (&[0x40, 0x02, 0, 1], ReasonCode::PROTOCOL_ERROR),
        (&[0x20, 0x03, 0, 0, 0], ReasonCode::PROTOCOL_ERROR),
    ] {
        let (mut client, mut server) = plainly_connected().await;
        server.send_bytes(bytes).await;
        server.expect(Packet::Disconnect(Disconnect::new(expected))).await;
        assert_eq!(server.next().await, None);
        assert_eq!(client.disconnected().await, None, "{bytes:02x?}");
    }
}

#[tokio::test]
async fn a_dropped_client_is_lost_and_a_polite_one_says_goodbye() {
    let (client, mut server) = plainly_connected().await;
    let handle = client.handle();
    drop(client);
    // A handle keeps it.
    assert!(handle.publish("t", "x", QoS::AtMostOnce, false).await.is_ok());
    server.next().await;
    drop(handle);
    assert_eq!(server.next().await, None);

    let (client, mut server) = plainly_connected().await;
    let goodbye = Disconnect::new(ReasonCode::DISCONNECT_WITH_WILL);
    client.disconnect_with(goodbye.clone()).await.unwrap();
    server.expect(Packet::Disconnect(goodbye)).await;
    assert_eq!(server.next().await, None);
}
