//! Forms on the wire, and the shared PUBLISH.

use std::num::NonZeroU32;

use bytes::{Buf, Bytes, BytesMut};

use super::*;
use crate::{
    Ack, Auth, ConnAck, ConnAckCode, ConnAckProperties, ConnectReturnCode, DecodeLimits, Decoder, Disconnect,
    PacketId, Publish, PublishProperties, QoS, ReasonCode, SubAck, TopicName, UnsubAck,
};

const V3: ProtocolVersion = ProtocolVersion::V3_1_1;
const V5: ProtocolVersion = ProtocolVersion::V5;

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

fn bytes(packet: &Packet, version: ProtocolVersion) -> Vec<u8> {
    let mut buffer = BytesMut::new();
    encode(packet, version, &mut buffer).unwrap();
    assert_eq!(encoded_len(packet, version), Ok(buffer.len()));
    buffer.to_vec()
}

fn publish(qos: QoS, payload: impl Into<Bytes>) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(TopicName::parse("a/b".into()).unwrap()),
        packet_id: (qos != QoS::AtMostOnce).then(|| id(7)),
        payload: payload.into(),
        properties: PublishProperties::default(),
    }
}

#[test]
fn the_shortest_form_is_taken() {
    let ack = |reason| Packet::PubAck(Ack::new(id(0x102), ReasonCode(reason)));
    for (packet, version, expected) in [
        (ack(0), V5, &[0x40, 2, 1, 2][..]),
        (ack(0x10), V5, &[0x40, 3, 1, 2, 0x10]),
        (ack(0x87), V3, &[0x40, 2, 1, 2]),
        (Packet::PubRel(Ack::success(id(1))), V5, &[0x62, 2, 0, 1]),
        (Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS)), V5, &[0xE0, 0]),
        (Packet::Disconnect(Disconnect::new(ReasonCode::SESSION_TAKEN_OVER)), V5, &[0xE0, 1, 0x8E]),
        (Packet::Disconnect(Disconnect::new(ReasonCode::SESSION_TAKEN_OVER)), V3, &[0xE0, 0]),
        (Packet::PingResp, V5, &[0xD0, 0]),
        (Packet::Publish(publish(QoS::AtMostOnce, "x")), V3, b"\x30\x06\0\x03a/bx"),
        (Packet::Publish(publish(QoS::ExactlyOnce, "x")), V5, b"\x34\x09\0\x03a/b\0\x07\0x"),
    ] {
        assert_eq!(bytes(&packet, version), expected, "{packet:?}");
    }
}

#[test]
fn older_versions_get_what_they_understand() {
    let failed = vec![ReasonCode::GRANTED_QOS_1, ReasonCode::NOT_AUTHORIZED];
    let packet_id = id(1);
    let suback = SubAck {
        packet_id,
        reasons: failed.clone(),
        reason_string: Some("no".into()),
        user_properties: vec![],
    };
    assert_eq!(bytes(&Packet::SubAck(suback), V3), [0x90, 4, 0, 1, 1, 0x80]); // [MQTT 3.1.1: MQTT-3.9.3-2]
    let unsuback = UnsubAck { packet_id, reasons: failed, reason_string: None, user_properties: vec![] };
    assert_eq!(bytes(&Packet::UnsubAck(unsuback), V3), [0xB0, 2, 0, 1]);
    let connack = Packet::ConnAck(Box::new(ConnAck {
        session_present: true,
        code: ConnAckCode::V3(ConnectReturnCode::Accepted),
        properties: ConnAckProperties { server_keep_alive: Some(1), ..ConnAckProperties::default() },
    }));
    assert_eq!(bytes(&connack, V3), [0x20, 2, 1, 0]);
    assert_eq!(bytes(&connack, ProtocolVersion::V3_1), [0x20, 2, 0, 0]);
}

#[test]
fn what_cannot_be_written_leaves_the_buffer_alone() {
    let mut buffer = BytesMut::from(&b"before"[..]);
    let auth = Packet::Auth(Auth {
        reason: ReasonCode::CONTINUE_AUTHENTICATION,
        authentication_method: Some("m".into()),
        authentication_data: Some(vec![0; 65_536].into()),
        reason_string: None,
        user_properties: vec![],
    });
    let mut without_topic = publish(QoS::AtMostOnce, "");
    without_topic.topic = None;
    let mut without_id = publish(QoS::AtLeastOnce, "");
    without_id.packet_id = None;
    let mut large_identifier = publish(QoS::AtMostOnce, "");
    large_identifier.properties.subscription_identifiers = vec![NonZeroU32::MAX];
    let v5_connack = Packet::ConnAck(Box::new(ConnAck {
        session_present: false,
        code: ConnAckCode::V5(ReasonCode::SUCCESS),
        properties: ConnAckProperties::default(),
    }));
    let wrong_version = |packet| EncodeError::WrongVersion { packet, version: V3 };
    for (packet, version, expected) in [
        (auth.clone(), V5, EncodeError::FieldTooLong),
        (auth, V3, wrong_version(PacketType::Auth)),
        (v5_connack, V3, wrong_version(PacketType::ConnAck)),
        (Packet::Publish(without_topic), V5, EncodeError::TopicMissing),
        (Packet::Publish(without_id), V5, EncodeError::PacketId),
        (Packet::Publish(large_identifier), V5, EncodeError::SubscriptionIdentifierTooLarge),
    ] {
        assert_eq!(encode(&packet, version, &mut buffer), Err(expected));
        assert_eq!(&buffer[..], b"before");
    }
}

#[test]
fn explanations_go_before_the_packet_does() {
    // [MQTT-3.4.2-2, MQTT-3.4.2-3]
    let mut ack = Ack::new(id(1), ReasonCode::NOT_AUTHORIZED);
    ack.reason_string = Some("0123456789".into());
    ack.user_properties = vec![("name".into(), "value".into())];
    let full = Packet::PubAck(ack);
    for (maximum, size, has_string, has_pairs) in
        [(u32::MAX, 33, true, true), (33, 33, true, true), (32, 19, true, false), (18, 5, false, false)]
    {
        let mut packet = full.clone();
        assert_eq!(packet.fit(V5, maximum), Ok(size), "{maximum}");
        let Packet::PubAck(ack) = packet else { panic!("a PUBACK") };
        assert_eq!((ack.reason_string.is_some(), !ack.user_properties.is_empty()), (has_string, has_pairs));
    }
    assert_eq!(full.clone().fit(V5, 4), Err(EncodeError::PacketTooLarge { size: 5, limit: 4 }));
    let mut stripped = full;
    stripped.strip_problem_information(); // [MQTT-3.1.2-29]
    assert_eq!(bytes(&stripped, V5), [0x40, 3, 0, 1, 0x87]);
}

/// One receiver's copy equals what `encode` writes for it.
#[test]
fn a_shared_publish_is_patched_for_each_receiver() {
    for (version, qos, payload, expiry) in [
        (V3, QoS::AtMostOnce, 5, None),
        (V3, QoS::ExactlyOnce, 100_000, None),
        (V5, QoS::AtMostOnce, 5, Some(90)),
        (V5, QoS::AtLeastOnce, 0, Some(90)),
        (V5, QoS::ExactlyOnce, 100_000, Some(90)),
        (V5, QoS::AtLeastOnce, 5, None),
    ] {
        let mut message = publish(qos, vec![b'x'; payload]);
        message.properties.message_expiry_interval = expiry;
        // Long enough for a Property Length of two bytes.
        message.properties.content_type = Some("t".repeat(200).into());
        let shared = EncodedPublish::new(&message, version).unwrap();
        let mut output = Output::new();
        let mut expected = BytesMut::new();
        for (packet_id, dup, retain) in [(1, false, false), (65_535, true, true), (2, false, true)] {
            message.packet_id = (qos != QoS::AtMostOnce).then(|| id(packet_id));
            (message.dup, message.retain) = (dup && qos != QoS::AtMostOnce, retain);
            message.properties.message_expiry_interval = expiry.map(|seconds| seconds - u32::from(dup));
            let patch = PublishPatch {
                packet_id: message.packet_id,
                dup,
                retain,
                message_expiry_interval: message.properties.message_expiry_interval,
            };
            output.push_publish(&shared, patch);
            let before = expected.len();
            encode(&Packet::Publish(message.clone()), version, &mut expected).unwrap();
            assert_eq!(shared.packet_size(), expected.len() - before);
        }
        assert_eq!(output.remaining(), expected.len());
        assert_eq!(
            output.copy_to_bytes(output.remaining()),
            expected.freeze(),
            "{version:?} {qos:?} {payload}"
        );
    }
}

#[test]
fn a_large_payload_is_not_copied() {
    let payload = Bytes::from(vec![0; 100_000]);
    let shared = EncodedPublish::new(&publish(QoS::AtMostOnce, payload.clone()), V3).unwrap();
    let mut output = Output::new();
    output.push_publish(&shared, PublishPatch::default());
    output.push(&Packet::PingResp, V3).unwrap();
    let mut slices = [std::io::IoSlice::new(&[]); 4];
    assert_eq!(output.chunks_vectored(&mut slices), 3);
    assert_eq!(slices[1].as_ptr(), payload.as_ptr());
    // Half a piece, then the rest.
    let total = output.remaining();
    output.advance(50_000);
    assert_eq!(output.remaining(), total - 50_000);
    output.advance(total - 50_000 - 2);
    assert_eq!(output.chunk(), [0xD0, 0]);
    output.advance(2);
    assert!(!output.has_remaining());
}

#[test]
fn the_largest_packet_is_the_largest() {
    let room = MAXIMUM_REMAINING_LENGTH - 5;
    let payload = Bytes::from(vec![0; room + 1]);
    let fits = Packet::Publish(publish(QoS::AtMostOnce, payload.slice(..room)));
    assert_eq!(encoded_len(&fits, V3), Ok(MAXIMUM_REMAINING_LENGTH + 5));
    let large = publish(QoS::AtMostOnce, payload);
    let limit = u32::try_from(MAXIMUM_REMAINING_LENGTH).unwrap();
    let expected = EncodeError::PacketTooLarge { size: MAXIMUM_REMAINING_LENGTH + 1, limit };
    assert_eq!(encoded_len(&Packet::Publish(large.clone()), V3), Err(expected));
    assert_eq!(EncodedPublish::new(&large, V3).err(), Some(expected));
}

#[test]
fn lengths_take_as_many_bytes_as_they_need() {
    for length in [0, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152] {
        let packet = Packet::Publish(publish(QoS::AtMostOnce, vec![0; length]));
        let mut buffer = BytesMut::new();
        encode(&packet, V3, &mut buffer).unwrap();
        let mut decoder = Decoder::client(V3, DecodeLimits::UNLIMITED);
        assert_eq!(decoder.decode(&mut buffer), Ok(Some(packet)), "{length}");
    }
}
