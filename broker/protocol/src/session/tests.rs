use std::num::NonZeroU16;

use bytes::Bytes;
use mqgate_codec::{Publish, PublishProperties, QoS, TopicName};

use super::*;

fn outgoing(text: &'static str, qos: QoS) -> Outgoing {
    let publish = Publish {
        dup: false,
        qos,
        retain: false,
        topic: None,
        packet_id: None,
        payload: Bytes::from_static(text.as_bytes()),
        properties: PublishProperties::default(),
    };
    let topic = TopicName::parse("t".into()).unwrap();
    let message = Message::published(topic, publish, SessionKey(1), Instant::ZERO);
    Outgoing { message, qos, retain: false, origin: None }
}

fn id(number: u16) -> PacketId {
    PacketId(NonZeroU16::new(number).unwrap())
}

fn maximum(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

/// What is sent again, as `dup payload` or `release id`.
fn redelivered(inflight: &mut Inflight, receive_maximum: u16) -> Vec<String> {
    std::iter::from_fn(|| inflight.redeliver(maximum(receive_maximum)))
        .map(|redelivery| match redelivery {
            Redelivery::Publish(delivery) => {
                assert!(delivery.dup);
                format!("publish {}", String::from_utf8_lossy(&delivery.message.payload))
            }
            Redelivery::Release(packet_id) => format!("release {}", packet_id.0),
        })
        .collect()
}

/// [MQTT-2.2.1-4, MQTT-4.3.2-1; MQTT 3.1.1: MQTT-2.3.1-4, MQTT-4.3.2-1]
#[test]
fn packet_ids_skip_those_under_way_after_wrapping() {
    let mut inflight = Inflight::default();
    assert_eq!(inflight.send(outgoing("kept", QoS::AtLeastOnce)).packet_id, Some(id(1)));
    for expected in 2..=65_535_u16 {
        let sent = inflight.send(outgoing("x", QoS::AtLeastOnce)).packet_id.unwrap();
        assert_eq!(sent, id(expected));
        assert_eq!(inflight.puback(sent), Acknowledged::Finished);
    }
    assert_eq!(inflight.send(outgoing("after", QoS::AtLeastOnce)).packet_id, Some(id(2)));
}

/// [MQTT-4.4.0-1, MQTT-4.3.3-6; MQTT 3.1.1: MQTT-4.4.0-1, MQTT-4.6.0-1]
#[test]
fn a_resumed_session_sends_again_in_order_within_the_new_receive_maximum() {
    let mut inflight = Inflight::default();
    for text in ["a", "b", "c"] {
        inflight.send(outgoing(text, QoS::ExactlyOnce));
    }
    assert_eq!(inflight.pubrec(id(2), true), Acknowledged::Release);
    inflight.restart();
    assert_eq!(inflight.quota(maximum(2)), 0);
    assert_eq!(redelivered(&mut inflight, 2), ["publish a", "release 2"]);
    assert_eq!(inflight.pubrec(id(3), true), Acknowledged::Unknown, "not sent on this connection");
    assert_eq!(inflight.pubcomp(id(2)), Acknowledged::Finished);
    assert_eq!(redelivered(&mut inflight, 2), ["publish c"]);
    assert_eq!(inflight.quota(maximum(2)), 0);
    assert_eq!(inflight.pubrec(id(1), false), Acknowledged::Finished);
    assert_eq!(inflight.quota(maximum(2)), 1);
}

/// [MQTT-4.3.2-3, MQTT-4.3.3-3, MQTT-4.3.3-5; MQTT 3.1.1: MQTT-4.3.2-1]
#[test]
fn an_acknowledgement_of_the_wrong_kind_frees_nothing() {
    let mut inflight = Inflight::default();
    inflight.send(outgoing("one", QoS::AtLeastOnce));
    inflight.send(outgoing("two", QoS::ExactlyOnce));
    assert_eq!(inflight.puback(id(2)), Acknowledged::Unknown);
    assert_eq!(inflight.pubrec(id(1), true), Acknowledged::Unknown);
    assert_eq!(inflight.pubcomp(id(2)), Acknowledged::Unknown);
    assert_eq!(inflight.pubrec(id(2), true), Acknowledged::Release);
    assert_eq!(inflight.pubrec(id(2), true), Acknowledged::Release, "PUBREC again is answered again");
    assert_eq!(inflight.pubcomp(id(2)), Acknowledged::Finished);
    assert_eq!(inflight.len(), 1);
}

/// [MQTT-3.1.2-8, MQTT-3.1.2-10; MQTT 3.1.1: MQTT-3.1.2-10]
#[test]
fn a_session_is_due_at_the_earlier_of_will_and_end() {
    let mut session = Session::new(SessionKey(1), "c".into(), "c".into());
    let message = outgoing("gone", QoS::AtMostOnce).message;
    session.will = Some(PendingWill { message, due: Instant::ZERO.after_seconds(30) });
    session.ends_at = SessionExpiry::After(10).ends_at(Instant::ZERO);
    assert_eq!(session.due(), Some(Instant::ZERO.after_seconds(10)));
    assert!(session.take_due_will(Instant::ZERO.after_seconds(9)).is_none());
    assert!(session.take_due_will(Instant::ZERO.after_seconds(10)).is_some(), "the session ends");
    assert!(session.take_due_will(Instant::ZERO.after_seconds(60)).is_none(), "once");
}

#[test]
fn expiry_is_capped() {
    let two_hours = Duration::from_secs(7200);
    assert_eq!(SessionExpiry::Never.at_most(two_hours), SessionExpiry::After(7200));
    assert_eq!(SessionExpiry::After(5).at_most(two_hours), SessionExpiry::After(5));
    assert_eq!(SessionExpiry::Never.at_most(Duration::MAX), SessionExpiry::Never);
}

#[test]
fn bytes_under_way_are_those_that_may_have_to_be_sent_again() {
    let mut inflight = Inflight::default();
    inflight.send(outgoing("not kept", QoS::AtMostOnce));
    assert_eq!(inflight.bytes(), 0);
    for (text, qos, bytes) in
        [("12", QoS::AtLeastOnce, 3), ("345", QoS::ExactlyOnce, 7), ("6", QoS::AtLeastOnce, 9)]
    {
        inflight.send(outgoing(text, qos));
        assert_eq!(inflight.bytes(), bytes);
    }
    inflight.puback(id(1));
    assert_eq!(inflight.bytes(), 6);
    inflight.pubrec(id(2), true);
    inflight.pubrec(id(2), true);
    assert_eq!(inflight.bytes(), 2, "of QoS 2 only the identifier is left");
    inflight.pubcomp(id(2));
    inflight.detach_small();
    assert_eq!((inflight.bytes(), inflight.len()), (2, 1));
    inflight.restart();
    inflight.forget_unsent(|_| false);
    assert_eq!((inflight.bytes(), inflight.len()), (0, 0));
    inflight.send(outgoing("gone", QoS::AtLeastOnce));
    inflight.abandon(id(4));
    assert_eq!(inflight.bytes(), 0);
}

#[test]
fn what_is_not_acknowledged_for_long_keeps_no_receive_buffer() {
    let buffer = Bytes::from(vec![b'x'; 64 * 1024]);
    let mut inflight = Inflight::default();
    let send = |inflight: &mut Inflight, payload| {
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: None,
            packet_id: None,
            payload,
            properties: PublishProperties::default(),
        };
        let topic = TopicName::parse("t".into()).unwrap();
        let message = Message::published(topic, publish, SessionKey(1), Instant::ZERO);
        inflight.send(Outgoing { message, qos: QoS::AtLeastOnce, retain: false, origin: None });
    };
    send(&mut inflight, buffer.slice(..4096));
    assert!(!buffer.is_unique());
    inflight.detach_small();
    assert!(buffer.is_unique());
    let again = |inflight: &mut Inflight| {
        inflight.restart();
        match inflight.redeliver(NonZeroU16::MAX) {
            Some(Redelivery::Publish(delivery)) => delivery.message,
            other => panic!("{other:?}"),
        }
    };
    let own = again(&mut inflight);
    inflight.detach_small();
    assert!(Arc::ptr_eq(&own, &again(&mut inflight)), "it is copied once");
    send(&mut inflight, buffer.slice(..4097));
    inflight.detach_small();
    assert!(!buffer.is_unique(), "a large one is shared by all who wait for it");
}
