//! Tables of wrong packets, and how they are told apart.

use std::num::NonZeroU32;

use bytes::BytesMut;

use super::*;
use crate::{PropertyId, ReasonCode, TopicError};

const V3_1: Option<ProtocolVersion> = Some(ProtocolVersion::V3_1);
const V3: Option<ProtocolVersion> = Some(ProtocolVersion::V3_1_1);
const V5: Option<ProtocolVersion> = Some(ProtocolVersion::V5);

fn server(version: Option<ProtocolVersion>) -> Decoder {
    Decoder { version, ..Decoder::server(DecodeLimits::default()) }
}

fn client(version: Option<ProtocolVersion>) -> Decoder {
    Decoder { side: Side::Client, ..server(version) }
}

fn decode(mut decoder: Decoder, bytes: &[u8]) -> Result<Option<Packet>, DecodeError> {
    decoder.decode(&mut BytesMut::from(bytes))
}

/// A packet of less than 128 bytes whose length is put in.
fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first, u8::try_from(body.len()).unwrap()];
    packet.extend_from_slice(body);
    packet
}

/// Each body, after `first`, is refused by `decoder` with the error beside it.
fn refused(decoder: &Decoder, first: u8, table: &[(&[u8], DecodeError)]) {
    for (body, expected) in table {
        let result = decode(decoder.clone(), &framed(first, body));
        assert_eq!(result, Err(*expected), "{first:#04x} {body:02x?}");
    }
}

fn accepted(decoder: &Decoder, first: u8, body: &[u8]) -> Packet {
    let result = decode(decoder.clone(), &framed(first, body));
    result.unwrap_or_else(|error| panic!("{first:#04x} {body:02x?}: {error}")).expect("a whole packet")
}

/// The variable header of CONNECT up to the keep-alive.
fn connect(level: u8, flags: u8, rest: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', level, flags, 0, 60];
    body.extend_from_slice(rest);
    body
}

/// [MQTT 3.1.1: MQTT-3.1.0-1]
#[test]
fn the_first_packet_is_connect() {
    // [MQTT-3.1.0-1]
    for packet in PacketType::ALL.into_iter().filter(|&packet| packet != PacketType::Connect) {
        let result = decode(server(None), &[(packet as u8) << 4]);
        assert_eq!(result, Err(DecodeError::UnexpectedPacket(packet)));
    }
}

#[test]
fn each_side_hears_only_what_the_other_may_say() {
    use PacketType as P;
    for packet in [P::ConnAck, P::SubAck, P::UnsubAck, P::PingResp] {
        let result = decode(server(V5), &[(packet as u8) << 4]);
        assert_eq!(result, Err(DecodeError::UnexpectedPacket(packet)));
    }
    for packet in [P::Connect, P::Subscribe, P::Unsubscribe, P::PingReq] {
        let result = decode(client(V5), &[(packet as u8) << 4]);
        assert_eq!(result, Err(DecodeError::UnexpectedPacket(packet)));
    }
    // A server says DISCONNECT in MQTT 5.0 only.
    assert_eq!(decode(client(V3), &[0xE0, 0]), Err(DecodeError::UnexpectedPacket(P::Disconnect)));
    assert!(decode(client(V5), &[0xE0, 0]).is_ok());
}

/// [MQTT 3.1.1: MQTT-2.2.2-1, MQTT-3.6.1-1, MQTT-3.8.1-1, MQTT-3.10.1-1, MQTT-3.14.1-1]
#[test]
fn reserved_types_and_flags_are_refused_by_the_first_byte() {
    // [MQTT-2.1.3-1, MQTT-3.8.1-1, MQTT-3.10.1-1, MQTT-3.6.1-1, MQTT-3.14.1-1, MQTT-3.15.1-1]
    for version in [V3_1, V3, V5] {
        for first in 0..=u8::MAX {
            let (bits, flags) = (first >> 4, first & 0x0F);
            let decoder = Decoder { side: Side::Either, ..server(version) };
            let result = decode(decoder, &[first]);
            let right = match bits {
                0 => false,
                3 => true,
                6 | 8 | 10 => flags == 2 || (version == V3_1 && flags == 10),
                15 => version == V5 && flags == 0,
                _ => flags == 0,
            };
            assert_eq!(result == Ok(None), right, "{first:#04x} {version:?}: {result:?}");
        }
    }
}

#[test]
fn lengths_are_judged_before_the_body_comes() {
    let limits = DecodeLimits { maximum_packet_size: 200, ..DecodeLimits::default() };
    let decoder = Decoder { limits, ..server(V5) };
    let too_large = |size| Err(DecodeError::PacketTooLarge { size, limit: 200 });
    for (bytes, expected) in [
        (&[0x30][..], Ok(None)),
        (&[0x30, 0xC4], Ok(None)),
        (&[0x30, 0xC5, 0x01], Ok(None)), // 3 + 197 bytes
        (&[0x30, 0xC6, 0x01], too_large(201)),
        (&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], too_large(268_435_460)),
        // Four bytes at most, and no more than it takes. [MQTT-1.5.5-1]
        (&[0x30, 0x80, 0x80, 0x80, 0x80], Err(DecodeError::LengthTooLong)),
        (&[0x30, 0x80, 0x00], Err(DecodeError::LengthNotMinimal)),
        (&[0x30, 0xFF, 0x80, 0x00], Err(DecodeError::LengthNotMinimal)),
    ] {
        assert_eq!(decode(decoder.clone(), bytes), expected, "{bytes:02x?}");
    }
    // Older clients pad.
    assert_eq!(decode(server(V3), &[0xC0, 0x80, 0x00]), Ok(Some(Packet::PingReq)));
}

#[test]
fn a_stranger_may_send_less() {
    let limits = DecodeLimits { maximum_connect_size: 100, ..DecodeLimits::default() };
    let decoder = Decoder::server(limits);
    assert_eq!(decode(decoder.clone(), &[0x10, 98]), Ok(None));
    assert_eq!(decode(decoder, &[0x10, 99]), Err(DecodeError::PacketTooLarge { size: 101, limit: 100 }));
}

#[test]
fn the_reader_is_told_how_much_is_missing() {
    let packet = framed(0x30, b"\0\x01ahello");
    let mut decoder = server(V3);
    let mut buffer = BytesMut::new();
    for (index, &byte) in packet.iter().enumerate() {
        assert_eq!(decoder.decode(&mut buffer), Ok(None));
        let left = packet.len() - index;
        assert!((1..=left).contains(&decoder.missing()), "{} of {left}", decoder.missing());
        if index >= 2 {
            assert_eq!(decoder.missing(), left);
        }
        buffer.extend_from_slice(&[byte]);
    }
    assert!(decoder.decode(&mut buffer).unwrap().is_some());
}

#[test]
fn payload_and_topic_share_the_receive_buffer() {
    let mut buffer = BytesMut::from(&framed(0x30, b"\0\x03a/bhello")[..]);
    let range = buffer.as_ptr_range();
    let Ok(Some(Packet::Publish(publish))) = server(V3).decode(&mut buffer) else { panic!("a PUBLISH") };
    assert!(range.contains(&publish.payload.as_ptr()));
    assert!(range.contains(&publish.topic.unwrap().as_str().as_ptr()));
}

/// [MQTT 3.1.1: MQTT-3.1.2-1, MQTT-3.1.2-3, MQTT-3.1.2-11, MQTT-3.1.2-13, MQTT-3.1.2-14, MQTT-3.1.2-15]
#[test]
fn malformed_connects() {
    use DecodeError as E;
    let decoder = server(None);
    let id = b"\0\x01c";
    for (body, expected) in [
        (vec![0, 4, b'M', b'Q'], E::Truncated),
        (b"\0\x04HTTP\x04\x02\0\0\0\x01c".to_vec(), E::UnknownProtocolName), // [MQTT-3.1.2-1]
        (b"\0\x04mqtt\x04\x02\0\0\0\x01c".to_vec(), E::UnknownProtocolName),
        (connect(3, 2, id), E::UnsupportedProtocolLevel(3)), // [MQTT-3.1.2-2]
        (connect(6, 2, id), E::UnsupportedProtocolLevel(6)),
        (b"\0\x06MQIsdp\x04\x02\0\0\0\x01c".to_vec(), E::UnsupportedProtocolLevel(4)),
        (connect(4, 3, id), E::ConnectFlags(3)), // [MQTT-3.1.2-3]
        (connect(4, 0b0000_1010, id), E::ConnectFlags(0b0000_1010)), // [MQTT-3.1.2-11]
        (connect(4, 0b0010_0010, id), E::ConnectFlags(0b0010_0010)), // [MQTT-3.1.2-13]
        (connect(4, 0b0001_1110, id), E::QoSReserved), // [MQTT-3.1.2-12]
        (connect(4, 0b0100_0010, b"\0\x01c\0\x01p"), E::PasswordWithoutUserName), // [MQTT 3.1.1: MQTT-3.1.2-22]
        (connect(4, 0, b"\0\0"), E::ClientIdEmpty), // [MQTT 3.1.1: MQTT-3.1.3-7]
        (b"\0\x06MQIsdp\x03\x02\0\0\0\0".to_vec(), E::ClientIdEmpty),
        (connect(4, 2, b"\0\x02c\0"), E::Nul),          // [MQTT-1.5.4-2]
        (connect(4, 2, b"\0\x02\xC0\x80"), E::NotUtf8), // Overlong. [MQTT-1.5.4-1]
        (connect(4, 2, b"\0\x03\xED\xA0\x80"), E::NotUtf8), // A surrogate. [MQTT-1.5.4-1]
        (connect(4, 2, b"\0\x01cx"), E::TrailingBytes),
        (connect(4, 6, b"\0\x01c\0\0\0\0"), E::TopicName(TopicError::Empty)), // [MQTT-4.7.3-1]
        (connect(4, 6, b"\0\x01c\0\x01#\0\0"), E::TopicName(TopicError::Wildcard)),
        (connect(4, 0b1000_0010, b"\0\x01c"), E::Truncated), // [MQTT-3.1.2-17]
        (connect(5, 2, b"\x05\x11\0\0\0\0"), E::Truncated),  // No client identifier.
        (connect(5, 2, b"\x7F"), E::Truncated),
        (connect(5, 2, b"\x80\x00\0\x01c"), E::LengthNotMinimal),
        (connect(5, 6, b"\0\0\x01c\x03\x23\0\x01\0\x01w\0\0"), not_allowed(PropertyId::TopicAlias)),
        (connect(5, 6, b"\0\0\x01c\x02\x0B\x01\0\x01w\0\0"), not_allowed(PropertyId::SubscriptionIdentifier)),
    ] {
        assert_eq!(decode(decoder.clone(), &framed(0x10, &body)), Err(expected), "{body:02x?}");
    }
}

fn not_allowed(property: PropertyId) -> DecodeError {
    DecodeError::PropertyNotAllowed { packet: PacketType::Connect, property }
}

#[test]
fn wrong_properties_of_connect() {
    use DecodeError as E;
    use PropertyId as P;
    for (properties, expected) in [
        (&b"\x11\0\0\0\x01\x11\0\0\0\x01"[..], E::DuplicateProperty(P::SessionExpiryInterval)),
        (b"\x21\0\x01\x21\0\x01", E::DuplicateProperty(P::ReceiveMaximum)),
        (b"\x21\0\0", E::PropertyValue(P::ReceiveMaximum)),
        (b"\x27\0\0\0\0", E::PropertyValue(P::MaximumPacketSize)),
        (b"\x17\x02", E::PropertyValue(P::RequestProblemInformation)),
        (b"\x19\x02", E::PropertyValue(P::RequestResponseInformation)),
        (b"\x16\0\x01x", E::AuthenticationMethodMissing),
        (b"\x04", E::UnknownProperty(4)),
        (b"\xFF", E::UnknownProperty(0xFF)),
        (b"\x1F\0\0", not_allowed(P::ReasonString)),
        (b"\x18\0\0\0\0", not_allowed(P::WillDelayInterval)),
        (b"\x11\0\0", E::Truncated),
        (b"\x26\0\x01a", E::Truncated),
    ] {
        let mut rest = vec![u8::try_from(properties.len()).unwrap()];
        rest.extend_from_slice(properties);
        rest.extend_from_slice(b"\0\x01c");
        let body = connect(5, 2, &rest);
        assert_eq!(decode(server(None), &framed(0x10, &body)), Err(expected), "{properties:02x?}");
    }
}

/// [MQTT-3.1.2-2; MQTT 3.1.1: MQTT-3.1.2-2]
#[test]
fn a_refused_connect_tells_in_which_version_to_answer() {
    for (body, expected) in [
        (connect(4, 3, b"\0\x01c"), V3),
        (connect(5, 3, b"\0\x01c"), V5),
        (connect(6, 2, b""), V5),
        (connect(3, 2, b""), V3),
        (connect(0x84, 2, b"\0"), V3),
        (connect(0x85, 2, b""), V3),
        (b"\0\x04HTTP\x04".to_vec(), None),
        (b"\0\x04MQTT".to_vec(), None),
    ] {
        let mut decoder = server(None);
        assert!(decoder.decode(&mut BytesMut::from(&framed(0x10, &body)[..])).is_err());
        assert_eq!(decoder.version(), expected, "{body:02x?}");
    }
    let unsupported = DecodeError::UnsupportedProtocolLevel(6);
    assert_eq!(unsupported.reason(), ReasonCode::UNSUPPORTED_PROTOCOL_VERSION);
}

#[test]
fn the_decoder_learns_the_version_and_keeps_it() {
    let mut decoder = server(None);
    let mut buffer = BytesMut::new();
    buffer.extend_from_slice(&framed(0x10, &connect(5, 2, b"\0\0\x01c")));
    buffer.extend_from_slice(&framed(0x10, &connect(4, 2, b"\0\x01c")));
    assert!(matches!(decoder.decode(&mut buffer), Ok(Some(Packet::Connect(_)))));
    // Whether a second CONNECT is wrong is not the decoder's to say, but it changes nothing.
    assert!(matches!(decoder.decode(&mut buffer), Ok(Some(Packet::Connect(_)))));
    assert_eq!(decoder.version(), V5);
}

#[test]
fn mqtt_3_1_is_laxer() {
    // Bit 0 of the connect flags is not used, and the length decides about user name and password.
    let body = b"\0\x06MQIsdp\x03\xC3\0\0\0\x01c".to_vec();
    let Packet::Connect(connect) = accepted(&server(None), 0x10, &body) else { panic!("a CONNECT") };
    assert_eq!((connect.version, connect.user_name), (ProtocolVersion::V3_1, None));
}

/// [MQTT 3.1.1: MQTT-2.3.1-1, MQTT-3.3.1-2, MQTT-3.3.1-4, MQTT-3.3.2-2]
#[test]
fn malformed_publishes() {
    use DecodeError as E;
    refused(&server(V3), 0x36, &[(b"\0\x01a\0\x01", E::QoSReserved)]); // [MQTT-3.3.1-4]
    refused(&server(V3), 0x38, &[(b"\0\x01a", E::DupWithoutQoS)]); // [MQTT-3.3.1-2]
    refused(&server(V3), 0x32, &[(b"\0\x01a\0\0", E::PacketIdZero), (b"\0\x01a\0", E::Truncated)]); // [MQTT-2.2.1-3]
    for version in [V3, V5] {
        refused(
            &server(version),
            0x30,
            &[
                (b"", E::Truncated),
                (b"\0", E::Truncated),
                (b"\0\x02a", E::Truncated),
                (b"\0\x01+\0", E::TopicName(TopicError::Wildcard)), // [MQTT-3.3.2-2]
                (b"\0\x03a/#\0", E::TopicName(TopicError::Wildcard)),
                (b"\0\x02a\0\0", E::TopicName(TopicError::Nul)), // [MQTT-1.5.4-2]
                (b"\0\x01\xFF\0", E::NotUtf8),                   // [MQTT-3.3.2-1]
            ],
        );
    }
    refused(&server(V3), 0x30, &[(b"\0\0", E::TopicName(TopicError::Empty))]);
    let not_allowed = |property| E::PropertyNotAllowed { packet: PacketType::Publish, property };
    refused(
        &server(V5),
        0x30,
        &[
            (b"\0\x01a", E::Truncated),
            (b"\0\x01a\x02\x01", E::Truncated),
            (b"\0\0\0", E::TopicMissing),
            (b"\0\0\x03\x23\0\0", E::TopicAliasZero), // [MQTT-3.3.2-8]
            (b"\0\x01a\x06\x23\0\x01\x23\0\x01", E::DuplicateProperty(PropertyId::TopicAlias)),
            (b"\0\x01a\x02\x01\x02", E::PropertyValue(PropertyId::PayloadFormatIndicator)),
            (b"\0\x01a\x04\x08\0\x01#", E::ResponseTopic(TopicError::Wildcard)), // [MQTT-3.3.2-14]
            (b"\0\x01a\x03\x08\0\0", E::ResponseTopic(TopicError::Empty)),
            (b"\0\x01a\x02\x0B\x00", E::PropertyValue(PropertyId::SubscriptionIdentifier)),
            // A client may not send one at all. [MQTT-3.3.4-6]
            (b"\0\x01a\x02\x0B\x01", E::PropertyValue(PropertyId::SubscriptionIdentifier)),
            (b"\0\x01a\x05\x11\0\0\0\0", not_allowed(PropertyId::SessionExpiryInterval)),
        ],
    );
    // A server sends one for each subscription.
    let Packet::Publish(publish) = accepted(&client(V5), 0x30, b"\0\x01a\x05\x0B\x01\x0B\x80\x01") else {
        panic!("a PUBLISH")
    };
    let identifiers = publish.properties.subscription_identifiers;
    assert_eq!(identifiers, [1, 128].map(|identifier| NonZeroU32::new(identifier).unwrap()));
}

/// [MQTT 3.1.1: MQTT-3.8.3-3, MQTT-3.8.3-4, MQTT-3.10.3-2, MQTT-4.7.1-2, MQTT-4.7.1-3]
#[test]
fn malformed_subscriptions() {
    use DecodeError as E;
    refused(
        &server(V3),
        0x82,
        &[
            (b"\0\0\0\x01a\0", E::PacketIdZero),              // [MQTT-2.2.1-3]
            (b"\0\x01", E::NoFilters(PacketType::Subscribe)), // [MQTT-3.8.3-2]
            (b"\0\x01\0\x01a", E::Truncated),
            (b"\0\x01\0\x01a\x04", E::SubscriptionOptionsReserved(4)),
            (b"\0\x01\0\x01a\x03", E::SubscriptionOptionsValue),
            (b"\0\x01\0\0\0", E::TopicFilter(TopicError::Empty)), // [MQTT-4.7.3-1]
            (b"\0\x01\0\x02a#\0", E::TopicFilter(TopicError::Wildcard)), // [MQTT-4.7.1-1]
            (b"\0\x01\0\x02a+\0", E::TopicFilter(TopicError::Wildcard)), // [MQTT-4.7.1-2]
            (b"\0\x01\0\x02a\0\0", E::TopicFilter(TopicError::Nul)), // [MQTT-4.7.3-2]
            (b"\0\x01\0\x08$share/g\0", E::TopicFilter(TopicError::Shared)), // [MQTT-4.8.2-1]
        ],
    );
    refused(
        &server(V5),
        0x82,
        &[
            (b"\0\x01\0", E::NoFilters(PacketType::Subscribe)),
            (b"\0\x01\0\0\x01a\x40", E::SubscriptionOptionsReserved(0x40)), // [MQTT-3.8.3-5]
            (b"\0\x01\0\0\x01a\x30", E::SubscriptionOptionsValue),
            (b"\0\x01\0\0\x01a\x03", E::SubscriptionOptionsValue),
            (b"\0\x01\0\0\x0A$share/g/a\x04", E::NoLocalOnShared), // [MQTT-3.8.3-4]
            (b"\0\x01\x02\x0B\0\0\x01a\0", E::PropertyValue(PropertyId::SubscriptionIdentifier)),
            (
                b"\0\x01\x04\x0B\x01\x0B\x02\0\x01a\0",
                E::DuplicateProperty(PropertyId::SubscriptionIdentifier),
            ),
        ],
    );
    refused(
        &server(V5),
        0xA2,
        &[
            (b"\0\x01\0", E::NoFilters(PacketType::Unsubscribe)), // [MQTT-3.10.3-2]
            (b"\0\x01\0\0\x01", E::Truncated),
            (
                b"\0\x01\x02\x0B\x01\0\x01a",
                E::PropertyNotAllowed {
                    packet: PacketType::Unsubscribe,
                    property: PropertyId::SubscriptionIdentifier,
                },
            ),
        ],
    );
    refused(&server(V3), 0xA2, &[(b"\0\x01", E::NoFilters(PacketType::Unsubscribe))]);
}

#[test]
fn malformed_acknowledgements() {
    use DecodeError as E;
    for (packet, first) in [
        (PacketType::PubAck, 0x40),
        (PacketType::PubRec, 0x50),
        (PacketType::PubRel, 0x62),
        (PacketType::PubComp, 0x70),
    ] {
        for version in [V3, V5] {
            refused(&server(version), first, &[(b"\0\0", E::PacketIdZero), (b"\0", E::Truncated)]);
        }
        refused(&server(V3), first, &[(b"\0\x01\0", E::TrailingBytes)]);
        let reason = ReasonCode(0x01);
        refused(
            &server(V5),
            first,
            &[
                (b"\0\x01\x01", E::ReasonCodeNotAllowed { packet, reason }),
                (b"\0\x01\0\0x", E::TrailingBytes),
                (b"\0\x01\0\x06\x1F\0\0\x1F\0\0", E::DuplicateProperty(PropertyId::ReasonString)),
            ],
        );
        for body in [&b"\0\x01"[..], b"\0\x01\0", b"\0\x01\0\0"] {
            accepted(&server(V5), first, body);
        }
    }
    let reason = ReasonCode(0x03);
    refused(
        &client(V3),
        0x90,
        &[
            (b"\0\x01", E::NoFilters(PacketType::SubAck)),
            (b"\0\x01\x03", E::ReasonCodeNotAllowed { packet: PacketType::SubAck, reason }), // [MQTT 3.1.1: MQTT-3.9.3-2]
        ],
    );
    refused(&client(V5), 0xB0, &[(b"\0\x01\0", E::NoFilters(PacketType::UnsubAck))]);
    accepted(&client(V3), 0xB0, b"\0\x01");
    refused(&client(V3), 0xB0, &[(b"\0\x01\0", E::TrailingBytes)]);
}

#[test]
fn malformed_ends() {
    use DecodeError as E;
    let wrong = |packet, reason| E::ReasonCodeNotAllowed { packet, reason: ReasonCode(reason) };
    refused(&server(V3), 0xC0, &[(b"x", E::TrailingBytes)]);
    refused(&server(V3), 0xE0, &[(b"\0", E::TrailingBytes)]);
    refused(
        &server(V5),
        0xE0,
        &[
            (b"\x01", wrong(PacketType::Disconnect, 1)), // [MQTT-3.14.2-1]
            (b"\0\0x", E::TrailingBytes),
        ],
    );
    // [MQTT-3.14.2-2]
    let expiry = PropertyId::SessionExpiryInterval;
    refused(&client(V5), 0xE0, &[(b"\0\x05\x11\0\0\0\0", E::PropertyValue(expiry))]);
    refused(
        &server(V5),
        0xF0,
        &[
            (b"", wrong(PacketType::Auth, 0)),
            (b"\x18\0", E::AuthenticationMethodMissing),
            (b"\x01\0", wrong(PacketType::Auth, 1)), // [MQTT-3.15.2-1]
        ],
    );
    refused(&client(V5), 0xF0, &[(b"\x19\x04\x15\0\x01m", wrong(PacketType::Auth, 0x19))]);
    assert_eq!(decode(server(V3), &[0xF0, 0]), Err(E::ReservedPacketType(15)));
}

#[test]
fn malformed_connacks() {
    use DecodeError as E;
    let wrong = |reason| E::ReasonCodeNotAllowed { packet: PacketType::ConnAck, reason: ReasonCode(reason) };
    refused(
        &client(V3),
        0x20,
        &[
            (b"\x02\0", E::ConnAckFlags(2)),           // [MQTT-3.2.2-1]
            (b"\x01\x05", E::SessionPresentOnRefusal), // [MQTT-3.2.2-6]
            (b"\0\x06", wrong(6)),
            (b"\0\0\0", E::TrailingBytes),
        ],
    );
    refused(
        &client(V5),
        0x20,
        &[
            (b"\0\0", E::Truncated),
            (b"\0\x01\0", wrong(1)), // [MQTT-3.2.2-8]
            (b"\0\0\x02\x24\x02", E::PropertyValue(PropertyId::MaximumQoS)),
            (b"\x01\x87\0", E::SessionPresentOnRefusal),
        ],
    );
}

#[test]
fn what_a_packet_may_make_us_hold_is_limited() {
    let limits = DecodeLimits {
        maximum_topic_levels: 3,
        maximum_filters: 2,
        maximum_user_properties: 2,
        ..DecodeLimits::default()
    };
    let decoder = Decoder { limits, ..server(V5) };
    accepted(&decoder, 0x30, b"\0\x05a/b/c\0");
    accepted(&decoder, 0x30, b"\0\x02//\0");
    refused(&decoder, 0x30, &[(b"\0\x03///\0", DecodeError::TopicNameTooDeep { limit: 3 })]);
    refused(&decoder, 0x82, &[(b"\0\x01\0\0\x03///\0", DecodeError::TopicFilterTooDeep { limit: 3 })]);
    let filters = b"\0\x01\0\0\x01a\0\0\x01b\0\0\x01c\0";
    refused(&decoder, 0x82, &[(filters, DecodeError::TooManyFilters { limit: 2 })]);
    let properties = b"\0\x01a\x0F\x26\0\0\0\0\x26\0\0\0\0\x26\0\0\0\0";
    refused(&decoder, 0x30, &[(properties, DecodeError::TooManyUserProperties { limit: 2 })]);
}

#[test]
fn the_reason_of_an_error_is_what_the_specification_says() {
    for (error, reason) in [
        (DecodeError::LengthTooLong, ReasonCode::MALFORMED_PACKET),
        (DecodeError::PacketTooLarge { size: 2, limit: 1 }, ReasonCode::PACKET_TOO_LARGE),
        (DecodeError::DuplicateProperty(PropertyId::TopicAlias), ReasonCode::PROTOCOL_ERROR),
        (DecodeError::UnknownProperty(0), ReasonCode::MALFORMED_PACKET),
        (DecodeError::QoSReserved, ReasonCode::MALFORMED_PACKET),
        (DecodeError::SubscriptionOptionsValue, ReasonCode::PROTOCOL_ERROR),
        (DecodeError::ClientIdEmpty, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID),
        (DecodeError::TopicName(TopicError::Wildcard), ReasonCode::TOPIC_NAME_INVALID),
        (DecodeError::TopicName(TopicError::Nul), ReasonCode::MALFORMED_PACKET),
        (DecodeError::TopicFilter(TopicError::Wildcard), ReasonCode::TOPIC_FILTER_INVALID),
        (DecodeError::TopicAliasZero, ReasonCode::TOPIC_ALIAS_INVALID),
    ] {
        assert_eq!(error.reason(), reason, "{error}");
    }
}
