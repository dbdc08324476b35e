//! Statements of the specifications about bytes, one table for each.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::num::NonZeroU16;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use mqgate_codec::*;

const V3: ProtocolVersion = ProtocolVersion::V3_1_1;
const V5: ProtocolVersion = ProtocolVersion::V5;

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

fn bytes(packet: &Packet, version: ProtocolVersion) -> Vec<u8> {
    let mut buffer = BytesMut::new();
    encode(packet, version, &mut buffer).unwrap();
    buffer.to_vec()
}

/// As a server reads it, after a CONNECT of `version`.
fn read(bytes: &[u8], version: ProtocolVersion) -> Result<Packet, DecodeError> {
    let mut decoder = match bytes[0] >> 4 {
        1 => Decoder::server(DecodeLimits::default()),
        _ => Decoder::either(Some(version), DecodeLimits::default()),
    };
    decoder.decode(&mut BytesMut::from(bytes)).map(|packet| packet.expect("a whole packet"))
}

fn connect(version: ProtocolVersion) -> Connect {
    Connect {
        version,
        bridge: false,
        clean_start: true,
        keep_alive: 60,
        client_id: "c".into(),
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

fn will(topic: &str) -> Will {
    Will {
        topic: TopicName::parse(topic.into()).unwrap(),
        payload: Bytes::from_static(b"gone"),
        qos: QoS::AtLeastOnce,
        retain: true,
        delay_interval: 0,
        properties: PublishProperties::default(),
    }
}

fn publish(topic: &str) -> Publish {
    Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Some(TopicName::parse(topic.into()).unwrap()),
        packet_id: None,
        payload: Bytes::new(),
        properties: PublishProperties::default(),
    }
}

fn subscribe(filter: &str) -> Packet {
    Packet::Subscribe(Subscribe {
        packet_id: id(1),
        filters: vec![(
            TopicFilter::parse(filter.into()).unwrap(),
            SubscriptionOptions::new(QoS::AtMostOnce),
        )],
        subscription_identifier: None,
        user_properties: Vec::new(),
    })
}

fn unsubscribe(filter: &str) -> Packet {
    Packet::Unsubscribe(Unsubscribe {
        packet_id: id(1),
        filters: vec![TopicFilter::parse(filter.into()).unwrap()],
        user_properties: Vec::new(),
    })
}

/// Packets in which `text` stands in one string each.
fn strings(text: &str, version: ProtocolVersion) -> Vec<Packet> {
    let owned = || ByteString::from(text);
    let topic = || TopicName::parse(text.into()).unwrap();
    let connect = || connect(version);
    let mut all = vec![
        Packet::Connect(Box::new(Connect { client_id: owned(), ..connect() })),
        Packet::Connect(Box::new(Connect { user_name: Some(owned()), ..connect() })),
        Packet::Connect(Box::new(Connect { will: Some(will(text)), ..connect() })),
        Packet::Publish(publish(text)),
        subscribe(text),
        unsubscribe(text),
    ];
    if version == V5 {
        let with = |properties| Packet::Publish(Publish { properties, ..publish("t") });
        let none = PublishProperties::default;
        all.extend([
            with(PublishProperties { content_type: Some(owned()), ..none() }),
            with(PublishProperties { response_topic: Some(topic()), ..none() }),
            with(PublishProperties { user_properties: vec![(owned(), "x".into())], ..none() }),
            with(PublishProperties { user_properties: vec![("x".into(), owned())], ..none() }),
            Packet::Connect(Box::new(Connect {
                properties: ConnectProperties {
                    authentication_method: Some(owned()),
                    ..ConnectProperties::default()
                },
                ..connect()
            })),
        ]);
    }
    all
}

/// [MQTT-1.5.4-1, MQTT-1.5.4-2, MQTT-1.5.7-1, MQTT-3.1.3-4, MQTT-3.1.3-11, MQTT-3.1.3-12, MQTT-3.3.2-1,
/// MQTT-3.3.2-13, MQTT-3.3.2-19, MQTT-3.8.3-1, MQTT-3.10.3-1; MQTT 3.1.1: MQTT-1.5.3-1, MQTT-1.5.3-2, MQTT-3.1.3-4,
/// MQTT-3.1.3-10, MQTT-3.1.3-11, MQTT-3.3.2-1, MQTT-3.8.3-1, MQTT-3.10.3-1]
#[test]
fn every_string_is_utf_8_without_nul() {
    const PLACE: &str = "@@@";
    for version in [V3, V5] {
        for (number, packet) in strings(PLACE, version).iter().enumerate() {
            let good = bytes(packet, version);
            assert_eq!(read(&good, version).as_ref(), Ok(packet));
            let at = good.windows(3).position(|window| window == PLACE.as_bytes()).unwrap();
            // A surrogate, an overlong form, a lone continuation, U+0000.
            for bad in [[0xED, 0xA0, 0x80], [b'a', 0xC0, 0x80], [0x80, b'a', b'b'], [b'a', 0, b'b']] {
                let mut wrong = good.clone();
                wrong[at..at + 3].copy_from_slice(&bad);
                let error = read(&wrong, version).unwrap_err();
                assert_eq!(error.reason(), ReasonCode::MALFORMED_PACKET, "{version:?} {number} {bad:02x?}");
            }
        }
    }
}

/// [MQTT-1.5.4-3; MQTT 3.1.1: MQTT-1.5.3-3]
#[test]
fn a_byte_order_mark_is_kept() {
    for version in [V3, V5] {
        for packet in strings("\u{FEFF}a", version) {
            let written = bytes(&packet, version);
            assert!(written.windows(4).any(|window| window == b"\xEF\xBB\xBFa"));
            assert_eq!(read(&written, version), Ok(packet));
        }
    }
}

/// [MQTT-2.2.2-1]
#[test]
fn no_properties_are_a_length_of_zero() {
    let connack = ConnAck {
        session_present: false,
        code: ConnAckCode::V5(ReasonCode::SUCCESS),
        properties: ConnAckProperties::default(),
    };
    for (packet, expected) in [
        (Packet::ConnAck(Box::new(connack)), &b"\x20\x03\0\0\0"[..]),
        (Packet::Publish(publish("a")), b"\x30\x04\0\x01a\0"),
        (subscribe("a"), b"\x82\x07\0\x01\0\0\x01a\0"),
        (unsubscribe("a"), b"\xA2\x06\0\x01\0\0\x01a"),
        (Packet::Connect(Box::new(connect(V5))), b"\x10\x0E\0\x04MQTT\x05\x02\0\x3C\0\0\x01c"),
    ] {
        assert_eq!(bytes(&packet, V5), expected);
    }
}

/// [MQTT-2.2.1-2; MQTT 3.1.1: MQTT-2.3.1-5]
#[test]
fn qos_0_has_no_packet_identifier() {
    for (version, expected) in [(V3, &b"\x30\x05\0\x01a\0\x07"[..]), (V5, b"\x30\x06\0\x01a\0\0\x07")] {
        let wrong = Packet::Publish(Publish { packet_id: Some(id(7)), ..publish("a") });
        assert_eq!(encode(&wrong, version, &mut BytesMut::new()), Err(EncodeError::PacketId));
        // What stands in its place is payload.
        let Ok(Packet::Publish(read)) = read(expected, version) else { panic!("{version:?}") };
        assert_eq!((read.packet_id, &read.payload[..]), (None, &b"\0\x07"[..]));
    }
}

/// The flags tell what the payload of CONNECT has, and nothing may be left over.
///
/// [MQTT-3.1.2-9, MQTT-3.1.2-16, MQTT-3.1.2-17, MQTT-3.1.2-18, MQTT-3.1.2-19; MQTT 3.1.1: MQTT-3.1.2-9,
/// MQTT-3.1.2-11, MQTT-3.1.2-18, MQTT-3.1.2-19, MQTT-3.1.2-20, MQTT-3.1.2-21]
#[test]
fn each_part_of_connect_is_there_exactly_when_its_flag_is_set() {
    const WILL: u8 = 0b100;
    const PASSWORD: u8 = 0b0100_0000;
    const USER_NAME: u8 = 0b1000_0000;
    for version in [V3, V5] {
        let parts = [
            (WILL, if version == V5 { &b"\0\0\x01t\0\x01w"[..] } else { b"\0\x01t\0\x01w" }),
            (USER_NAME, b"\0\x01u"),
            (USER_NAME | PASSWORD, b"\0\x01u\0\x01p"),
        ];
        for (flags, part) in parts {
            let packet = |flags: u8, part: &[u8]| {
                let mut body = b"\0\x04MQTT".to_vec();
                body.extend([if version == V5 { 5 } else { 4 }, flags | 2, 0, 60]);
                body.extend(if version == V5 { &b"\0"[..] } else { b"" });
                body.extend(b"\0\x01c");
                body.extend(part);
                [&[0x10, body.len() as u8][..], &body].concat()
            };
            assert!(read(&packet(flags, part), version).is_ok(), "{flags:#b}");
            assert_eq!(read(&packet(0, part), version), Err(DecodeError::TrailingBytes), "{flags:#b}");
            assert!(read(&packet(flags, &part[..part.len() - 1]), version).is_err(), "{flags:#b}");
            assert_eq!(read(&packet(flags, b""), version), Err(DecodeError::Truncated), "{flags:#b}");
        }
    }
}

/// [MQTT-3.1.3-1, MQTT-3.1.3-3; MQTT 3.1.1: MQTT-3.1.3-1, MQTT-3.1.3-3]
#[test]
fn the_payload_of_connect_has_its_order() {
    for version in [V3, V5] {
        let mut body = b"\0\x04MQTT".to_vec();
        body.extend([if version == V5 { 5 } else { 4 }, 0b1110_1110, 0, 60]);
        let empty = if version == V5 { &b"\0"[..] } else { b"" };
        body.extend(empty);
        body.extend(b"\0\x01c");
        body.extend(empty);
        body.extend(b"\0\x01t\0\x04gone\0\x01u\0\x01p");
        let expected = Connect {
            will: Some(will("t")),
            user_name: Some("u".into()),
            password: Some(Bytes::from_static(b"p")),
            ..connect(version)
        };
        let expected = Packet::Connect(Box::new(expected));
        let packet = [&[0x10, body.len() as u8][..], &body].concat();
        assert_eq!(read(&packet, version).as_ref(), Ok(&expected));
        assert_eq!(bytes(&expected, version), packet);
    }
}

/// [MQTT-3.2.2-1]
#[test]
fn the_flags_of_connack_are_one_bit() {
    for present in [false, true] {
        for version in [V3, V5] {
            let code = ConnAckCode::for_version(ReasonCode::SUCCESS, version).unwrap();
            let connack =
                ConnAck { session_present: present, code, properties: ConnAckProperties::default() };
            assert_eq!(bytes(&Packet::ConnAck(Box::new(connack)), version)[2], u8::from(present));
        }
    }
}

/// Each packet that explains itself.
fn explained() -> Vec<Packet> {
    let reason_string = || Some(ByteString::from("r".repeat(100)));
    let user_properties = || vec![(ByteString::from("u".repeat(50)), ByteString::from("v".repeat(50)))];
    let ack = || Ack {
        packet_id: id(1),
        reason: ReasonCode::SUCCESS,
        reason_string: reason_string(),
        user_properties: user_properties(),
    };
    let connack = ConnAck {
        session_present: false,
        code: ConnAckCode::V5(ReasonCode::NOT_AUTHORIZED),
        properties: ConnAckProperties {
            reason_string: reason_string(),
            user_properties: user_properties(),
            ..ConnAckProperties::default()
        },
    };
    let (reasons, packet_id) = (vec![ReasonCode::SUCCESS], id(1));
    vec![
        Packet::ConnAck(Box::new(connack)),
        Packet::PubAck(ack()),
        Packet::PubRec(ack()),
        Packet::PubRel(ack()),
        Packet::PubComp(ack()),
        Packet::SubAck(SubAck {
            packet_id,
            reasons: reasons.clone(),
            reason_string: reason_string(),
            user_properties: user_properties(),
        }),
        Packet::UnsubAck(UnsubAck {
            packet_id,
            reasons,
            reason_string: reason_string(),
            user_properties: user_properties(),
        }),
        Packet::Disconnect(Disconnect {
            reason_string: reason_string(),
            user_properties: user_properties(),
            ..Disconnect::new(ReasonCode::PROTOCOL_ERROR)
        }),
        Packet::Auth(Auth {
            reason: ReasonCode::CONTINUE_AUTHENTICATION,
            authentication_method: Some("m".into()),
            authentication_data: None,
            reason_string: reason_string(),
            user_properties: user_properties(),
        }),
    ]
}

/// [MQTT-3.1.2-24, MQTT-3.2.2-19, MQTT-3.2.2-20, MQTT-3.4.2-2, MQTT-3.4.2-3, MQTT-3.5.2-2, MQTT-3.5.2-3,
/// MQTT-3.6.2-2, MQTT-3.6.2-3, MQTT-3.7.2-2, MQTT-3.7.2-3, MQTT-3.9.2-1, MQTT-3.9.2-2, MQTT-3.11.2-1, MQTT-3.11.2-2,
/// MQTT-3.14.2-3, MQTT-3.14.2-4, MQTT-3.15.2-2, MQTT-3.15.2-3]
#[test]
fn explanations_that_do_not_fit_are_left_out() {
    for full in explained() {
        let fitted = |maximum: usize| {
            let mut packet = full.clone();
            let fits = packet.fit(V5, u32::try_from(maximum).unwrap()).is_ok();
            let written = bytes(&packet, V5);
            assert!(!fits || written.len() <= maximum, "{} {maximum}", packet.packet_type());
            let has = |byte: u8| written.iter().filter(|found| **found == byte).count() >= 50;
            (fits, has(b'r'), has(b'v'))
        };
        let kind = full.packet_type();
        let size = bytes(&full, V5).len();
        assert_eq!(fitted(size), (true, true, true), "{kind}");
        // First the User Properties go, of 105 bytes; then the Reason String, of 103.
        assert_eq!(fitted(size - 1), (true, true, false), "{kind}");
        assert_eq!(fitted(size - 105), (true, true, false), "{kind}");
        assert_eq!(fitted(size - 112), (true, false, false), "{kind}");
        assert_eq!(fitted(size - 208), (true, false, false), "{kind}");
        assert_eq!(fitted(3).0, kind == PacketType::Disconnect, "{kind}");
    }
}

/// [MQTT-3.1.2-29]
#[test]
fn who_wants_no_explanations_gets_them_where_they_are_allowed() {
    for full in explained() {
        let mut packet = full.clone();
        packet.strip_problem_information();
        let allowed = matches!(full.packet_type(), PacketType::ConnAck | PacketType::Disconnect);
        assert_eq!(packet == full, allowed, "{}", full.packet_type());
        assert_eq!(bytes(&packet, V5).len() > 150, allowed, "{}", full.packet_type());
    }
}

/// The reason codes of each packet, by the specification's tables.
///
/// [MQTT-3.2.2-8, MQTT-3.4.2-1, MQTT-3.5.2-1, MQTT-3.6.2-1, MQTT-3.7.2-1, MQTT-3.9.3-2, MQTT-3.11.3-2,
/// MQTT-3.14.2-1, MQTT-3.15.2-1]
#[test]
fn each_packet_has_its_reason_codes() {
    let publish = [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
    let tables: [(PacketType, &[u8]); 9] = [
        (
            PacketType::ConnAck,
            &[
                0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95,
                0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
            ],
        ),
        (PacketType::PubAck, &publish),
        (PacketType::PubRec, &publish),
        (PacketType::PubRel, &[0x00, 0x92]),
        (PacketType::PubComp, &[0x00, 0x92]),
        (PacketType::SubAck, &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2]),
        (PacketType::UnsubAck, &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91]),
        (
            PacketType::Disconnect,
            &[
                0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94,
                0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
            ],
        ),
        (PacketType::Auth, &[0x00, 0x18, 0x19]),
    ];
    for (packet, codes) in tables {
        for code in 0..=u8::MAX {
            assert_eq!(ReasonCode(code).is_allowed_in(packet), codes.contains(&code), "{packet} {code:#04x}");
            // And so it is read.
            let first = (packet as u8) << 4 | u8::from(packet == PacketType::PubRel) << 1;
            let body: &[u8] = match packet {
                PacketType::ConnAck => &[0, code, 0],
                PacketType::SubAck | PacketType::UnsubAck => &[0, 1, 0, code],
                PacketType::Disconnect => &[code],
                PacketType::Auth => &[code, 4, 0x15, 0, 1, b'm'],
                _ => &[0, 1, code],
            };
            let read = read(&[&[first, body.len() as u8][..], body].concat(), V5);
            assert_eq!(read.is_ok(), codes.contains(&code), "{packet} {code:#04x}: {read:?}");
        }
    }
}

/// [MQTT-4.7.0-1, MQTT-4.7.3-1, MQTT-4.7.3-2, MQTT-4.7.3-3; MQTT 3.1.1: MQTT-4.7.1-1, MQTT-4.7.3-1, MQTT-4.7.3-2,
/// MQTT-4.7.3-3]
#[test]
fn topics_have_1_to_65535_bytes_and_names_no_wildcards() {
    let name = |text: &str| TopicName::parse(text.into()).err();
    let filter = |text: &str| TopicFilter::parse(text.into()).err();
    assert_eq!((name("/"), filter("/")), (None, None));
    assert_eq!((name(""), filter("")), (Some(TopicError::Empty), Some(TopicError::Empty)));
    let (longest, too_long) = ("x".repeat(65_535), "x".repeat(65_536));
    assert_eq!((name(&longest), filter(&longest)), (None, None));
    assert_eq!((name(&too_long), filter(&too_long)), (Some(TopicError::TooLong), Some(TopicError::TooLong)));
    assert_eq!((name("a\0"), filter("a\0")), (Some(TopicError::Nul), Some(TopicError::Nul)));
    for wild in ["#", "+", "a/+", "a/#", "a+", "#a"] {
        assert_eq!(name(wild), Some(TopicError::Wildcard), "{wild}");
    }
}

/// [MQTT-3.3.2-8]
#[test]
fn a_topic_alias_of_zero_does_not_exist() {
    assert_eq!(read(b"\x30\x07\0\x01a\x03\x23\0\0", V5), Err(DecodeError::TopicAliasZero));
    let alias = NonZeroU16::new(1);
    let properties = PublishProperties { topic_alias: alias, ..PublishProperties::default() };
    let expected = Packet::Publish(Publish { properties, ..publish("a") });
    assert_eq!(read(b"\x30\x07\0\x01a\x03\x23\0\x01", V5), Ok(expected));
}
