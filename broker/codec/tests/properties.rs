//! What holds for all packets: what is written is read back, however it is cut; and no bytes cause a panic.
#![allow(clippy::unwrap_used, reason = "this is a test; clippy sees that only inside test functions")]

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{Buf, Bytes, BytesMut};
use bytestring::ByteString;
use mqgate_codec::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn versions() -> impl Strategy<Value = ProtocolVersion> {
    prop_oneof![Just(ProtocolVersion::V3_1), Just(ProtocolVersion::V3_1_1), Just(ProtocolVersion::V5)]
}

fn text() -> impl Strategy<Value = ByteString> {
    prop_oneof![4 => "[a-zA-Z0-9 ]{0,12}", 1 => "[^\0]{0,8}", 1 => Just("x".repeat(300))]
        .prop_map(ByteString::from)
}

fn binary() -> impl Strategy<Value = Bytes> {
    prop_oneof![4 => vec(any::<u8>(), 0..20), 1 => vec(any::<u8>(), 200..3000)].prop_map(Bytes::from)
}

fn topic_name() -> impl Strategy<Value = TopicName> {
    "(/?[a-zäß€ ]{1,6}){1,4}/?".prop_map(|text| TopicName::parse(text.into()).unwrap())
}

fn topic_filter() -> impl Strategy<Value = TopicFilter> {
    "(\\$share/group/)?([a-z]{0,4}/|\\+/){0,4}(#|\\+|[a-z]{1,4})"
        .prop_map(|text| TopicFilter::parse(text.into()).unwrap())
}

fn qos() -> impl Strategy<Value = QoS> {
    (0..=2_u8).prop_map(|bits| QoS::from_bits(bits).unwrap())
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|value| PacketId::new(value).unwrap())
}

fn non_zero_u16() -> impl Strategy<Value = NonZeroU16> {
    (1..=u16::MAX).prop_map(|value| NonZeroU16::new(value).unwrap())
}

fn non_zero_u32(maximum: u32) -> impl Strategy<Value = NonZeroU32> {
    prop_oneof![1..300_u32, 1..=maximum].prop_map(|value| NonZeroU32::new(value).unwrap())
}

fn user_properties() -> impl Strategy<Value = Vec<UserProperty>> {
    vec((text(), text()), 0..3)
}

fn reason(packet: PacketType) -> impl Strategy<Value = ReasonCode> {
    let allowed: Vec<_> = (0..=u8::MAX).map(ReasonCode).filter(|code| code.is_allowed_in(packet)).collect();
    prop::sample::select(allowed)
}

fn message_properties() -> impl Strategy<Value = PublishProperties> {
    let fields = (
        option::of(any::<bool>()),
        option::of(any::<u32>()),
        option::of(topic_name()),
        option::of(binary()),
        user_properties(),
        option::of(text()),
    );
    fields.prop_map(|(format, expiry, response_topic, correlation_data, user_properties, content_type)| {
        PublishProperties {
            payload_format_indicator: format,
            message_expiry_interval: expiry,
            topic_alias: None,
            response_topic,
            correlation_data,
            user_properties,
            subscription_identifiers: Vec::new(),
            content_type,
        }
    })
}

/// Properties where the version has them, and nothing where not.
fn only_v5<T: Default + std::fmt::Debug>(
    version: ProtocolVersion,
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<T> {
    match version {
        ProtocolVersion::V5 => strategy.boxed(),
        ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => Just(()).prop_map(|()| T::default()).boxed(),
    }
}

fn publish(version: ProtocolVersion) -> impl Strategy<Value = Packet> {
    let v5 = version == ProtocolVersion::V5;
    let properties = (message_properties(), option::of(non_zero_u16()), vec(non_zero_u32(268_435_455), 0..3));
    let properties = properties.prop_map(|(mut properties, alias, identifiers)| {
        properties.topic_alias = alias;
        properties.subscription_identifiers = identifiers;
        properties
    });
    let fields = (
        qos(),
        any::<(bool, bool, bool)>(),
        topic_name(),
        packet_id(),
        binary(),
        only_v5(version, properties),
    );
    fields.prop_map(move |(qos, (dup, retain, by_alias), topic, packet_id, payload, properties)| {
        let nameless = v5 && by_alias && properties.topic_alias.is_some();
        let acknowledged = qos != QoS::AtMostOnce;
        Packet::Publish(Publish {
            dup: dup && acknowledged,
            qos,
            retain,
            topic: (!nameless).then_some(topic),
            packet_id: acknowledged.then_some(packet_id),
            payload,
            properties,
        })
    })
}

fn connect(version: ProtocolVersion) -> impl Strategy<Value = Packet> {
    let properties = (
        option::of(any::<u32>()),
        option::of(non_zero_u16()),
        option::of(non_zero_u32(u32::MAX)),
        option::of(any::<u16>()),
        option::of(any::<bool>()),
        option::of(any::<bool>()),
        option::of((text(), option::of(binary()))),
        user_properties(),
    );
    let properties = properties.prop_map(|(expiry, receive, size, alias, response, problem, auth, user)| {
        let (method, data) = auth.map_or((None, None), |(method, data)| (Some(method), data));
        ConnectProperties {
            session_expiry_interval: expiry,
            receive_maximum: receive,
            maximum_packet_size: size,
            topic_alias_maximum: alias,
            request_response_information: response,
            request_problem_information: problem,
            authentication_method: method,
            authentication_data: data,
            user_properties: user,
        }
    });
    let will = (topic_name(), binary(), qos(), any::<bool>(), only_v5(version, any::<u32>()));
    let will = (will, only_v5(version, message_properties())).prop_map(
        |((topic, payload, qos, retain, delay_interval), properties)| Will {
            topic,
            payload,
            qos,
            retain,
            delay_interval,
            properties,
        },
    );
    let fields = (
        any::<bool>(),
        any::<u16>(),
        text(),
        option::of(will),
        option::of(text()),
        option::of(binary()),
        only_v5(version, properties),
    );
    fields.prop_map(move |(clean_start, keep_alive, client_id, will, user_name, password, properties)| {
        let v5 = version == ProtocolVersion::V5;
        let client_id = if client_id.is_empty() && !v5 { "c".into() } else { client_id };
        let password = password.filter(|_| v5 || user_name.is_some());
        let connect = Connect {
            version,
            bridge: false,
            clean_start,
            keep_alive,
            client_id,
            will,
            user_name,
            password,
            properties,
        };
        Packet::Connect(Box::new(connect))
    })
}

fn connack(version: ProtocolVersion) -> BoxedStrategy<Packet> {
    if version != ProtocolVersion::V5 {
        let fields = (prop::sample::select(&ConnectReturnCode::ALL[..]), any::<bool>());
        let packet = move |(code, present)| {
            let accepted = code == ConnectReturnCode::Accepted;
            Packet::ConnAck(Box::new(ConnAck {
                session_present: present && accepted && version == ProtocolVersion::V3_1_1,
                code: ConnAckCode::V3(code),
                properties: ConnAckProperties::default(),
            }))
        };
        return fields.prop_map(packet).boxed();
    }
    let numbers = (
        option::of(any::<u32>()),
        option::of(non_zero_u16()),
        option::of(prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce)]),
        option::of(non_zero_u32(u32::MAX)),
        option::of(any::<u16>()),
        option::of(any::<u16>()),
        any::<[Option<bool>; 4]>(),
    );
    let texts = (vec(option::of(text()), 5), option::of(binary()), user_properties());
    let fields = (reason(PacketType::ConnAck), any::<bool>(), numbers, texts);
    let packet = |(code, present, numbers, texts): (ReasonCode, bool, _, _)| {
        let (expiry, receive, maximum_qos, size, alias, keep_alive, [retain, wildcard, identifiers, shared]) =
            numbers;
        let (texts, authentication_data, user_properties): (Vec<Option<ByteString>>, _, _) = texts;
        let mut texts = texts.into_iter();
        let mut text = || texts.next().flatten();
        Packet::ConnAck(Box::new(ConnAck {
            session_present: present && !code.is_error(),
            code: ConnAckCode::V5(code),
            properties: ConnAckProperties {
                session_expiry_interval: expiry,
                receive_maximum: receive,
                maximum_qos,
                retain_available: retain,
                maximum_packet_size: size,
                assigned_client_id: text(),
                topic_alias_maximum: alias,
                reason_string: text(),
                user_properties,
                wildcard_subscription_available: wildcard,
                subscription_identifiers_available: identifiers,
                shared_subscription_available: shared,
                server_keep_alive: keep_alive,
                response_information: text(),
                server_reference: text(),
                authentication_method: text(),
                authentication_data,
            },
        }))
    };
    fields.prop_map(packet).boxed()
}

fn acks(version: ProtocolVersion) -> BoxedStrategy<Packet> {
    let one = move |packet: PacketType, wrap: fn(Ack) -> Packet| {
        let fields = (
            packet_id(),
            only_v5(version, reason(packet).prop_map(|code| code.0)),
            only_v5(version, option::of(text())),
            only_v5(version, user_properties()),
        );
        fields.prop_map(move |(packet_id, reason, reason_string, user_properties)| {
            wrap(Ack { packet_id, reason: ReasonCode(reason), reason_string, user_properties })
        })
    };
    prop_oneof![
        one(PacketType::PubAck, Packet::PubAck),
        one(PacketType::PubRec, Packet::PubRec),
        one(PacketType::PubRel, Packet::PubRel),
        one(PacketType::PubComp, Packet::PubComp),
    ]
    .boxed()
}

fn subscriptions(version: ProtocolVersion) -> BoxedStrategy<Packet> {
    let v5 = version == ProtocolVersion::V5;
    let options = (qos(), any::<bool>(), any::<bool>(), 0..3_u8).prop_map(
        move |(qos, no_local, published, handling)| {
            if !v5 {
                return SubscriptionOptions::new(qos);
            }
            let retain_handling = match handling {
                0 => RetainHandling::SendAtSubscribe,
                1 => RetainHandling::SendIfNewSubscription,
                _ => RetainHandling::DoNotSend,
            };
            SubscriptionOptions { qos, no_local, retain_as_published: published, retain_handling }
        },
    );
    let filter = (topic_filter(), options).prop_map(|(filter, mut options)| {
        options.no_local &= filter.share_name().is_none();
        (filter, options)
    });
    let identifier = only_v5(version, option::of(non_zero_u32(268_435_455)));
    let fields = (packet_id(), vec(filter, 1..4), identifier, only_v5(version, user_properties()));
    let subscribe = fields.prop_map(|(packet_id, filters, subscription_identifier, user_properties)| {
        Packet::Subscribe(Subscribe { packet_id, filters, subscription_identifier, user_properties })
    });
    let fields = (packet_id(), vec(topic_filter(), 1..4), only_v5(version, user_properties()));
    let unsubscribe = fields.prop_map(|(packet_id, filters, user_properties)| {
        Packet::Unsubscribe(Unsubscribe { packet_id, filters, user_properties })
    });
    let granted = if v5 {
        reason(PacketType::SubAck).boxed()
    } else {
        prop::sample::select(vec![ReasonCode(0), ReasonCode(1), ReasonCode(2), ReasonCode(0x80)]).boxed()
    };
    let explained =
        move || (packet_id(), only_v5(version, option::of(text())), only_v5(version, user_properties()));
    let suback = (explained(), vec(granted, 1..5)).prop_map(
        |((packet_id, reason_string, user_properties), reasons)| {
            Packet::SubAck(SubAck { packet_id, reasons, reason_string, user_properties })
        },
    );
    let reasons = only_v5(version, vec(reason(PacketType::UnsubAck), 1..5));
    let unsuback =
        (explained(), reasons).prop_map(|((packet_id, reason_string, user_properties), reasons)| {
            Packet::UnsubAck(UnsubAck { packet_id, reasons, reason_string, user_properties })
        });
    prop_oneof![subscribe, unsubscribe, suback, unsuback].boxed()
}

fn ends(version: ProtocolVersion) -> BoxedStrategy<Packet> {
    if version != ProtocolVersion::V5 {
        return prop_oneof![
            Just(Packet::PingReq),
            Just(Packet::PingResp),
            Just(Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS)))
        ]
        .boxed();
    }
    let fields = (
        reason(PacketType::Disconnect),
        option::of(any::<u32>()),
        option::of(text()),
        option::of(text()),
        user_properties(),
    );
    let disconnect = fields.prop_map(|(reason, expiry, reason_string, server_reference, user_properties)| {
        Packet::Disconnect(Disconnect {
            reason,
            session_expiry_interval: expiry,
            reason_string,
            server_reference,
            user_properties,
        })
    });
    let fields =
        (reason(PacketType::Auth), text(), option::of(binary()), option::of(text()), user_properties());
    let auth = fields.prop_map(|(reason, method, data, reason_string, user_properties)| {
        Packet::Auth(Auth {
            reason,
            authentication_method: Some(method),
            authentication_data: data,
            reason_string,
            user_properties,
        })
    });
    prop_oneof![Just(Packet::PingReq), Just(Packet::PingResp), disconnect, auth].boxed()
}

fn packet(version: ProtocolVersion) -> BoxedStrategy<Packet> {
    prop_oneof![
        2 => connect(version),
        2 => connack(version),
        3 => publish(version),
        2 => acks(version),
        3 => subscriptions(version),
        2 => ends(version),
    ]
    .boxed()
}

/// A version and some packets of it.
fn stream(count: std::ops::Range<usize>) -> impl Strategy<Value = (ProtocolVersion, Vec<Packet>)> {
    versions().prop_flat_map(move |version| (Just(version), vec(packet(version), count.clone())))
}

fn encoded(packets: &[Packet], version: ProtocolVersion) -> BytesMut {
    let mut bytes = BytesMut::new();
    for packet in packets {
        let before = bytes.len();
        encode(packet, version, &mut bytes).unwrap();
        assert_eq!(encoded_len(packet, version), Ok(bytes.len() - before));
    }
    bytes
}

/// All packets of `bytes`, given to the decoder in pieces of these sizes, and what comes after them.
fn decoded(mut decoder: Decoder, bytes: &[u8], pieces: &[usize]) -> (Vec<Packet>, Option<DecodeError>) {
    let mut buffer = BytesMut::new();
    let mut rest = bytes;
    let mut pieces = pieces.iter().copied().cycle();
    let mut packets = Vec::new();
    loop {
        match decoder.decode(&mut buffer) {
            Ok(Some(packet)) => packets.push(packet),
            Ok(None) if rest.is_empty() => return (packets, None),
            Ok(None) => {
                let piece = pieces.next().unwrap_or(usize::MAX).clamp(1, rest.len());
                buffer.extend_from_slice(&rest[..piece]);
                rest.advance(piece);
            }
            Err(error) => return (packets, Some(error)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back((version, packets) in stream(1..2)) {
        let bytes = encoded(&packets, version);
        let decoder = Decoder::either(Some(version), DecodeLimits::UNLIMITED);
        prop_assert_eq!(decoded(decoder, &bytes, &[usize::MAX]), (packets, None));
    }

    #[test]
    fn any_split_of_the_bytes_decodes_alike((version, packets) in stream(1..6), pieces in vec(1..40_usize, 1..20)) {
        let bytes = encoded(&packets, version);
        let decoder = Decoder::either(Some(version), DecodeLimits::UNLIMITED);
        prop_assert_eq!(decoded(decoder, &bytes, &pieces), (packets, None));
    }

    /// One wrong byte: an error or another packet, the same at every split, and what is read can be written.
    #[test]
    fn a_changed_byte_causes_no_panic(
        (version, packets) in stream(1..3),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        pieces in vec(1..40_usize, 1..20),
    ) {
        let mut bytes = encoded(&packets, version);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        for decoder in [
            Decoder::either(Some(version), DecodeLimits::default()),
            Decoder::server(DecodeLimits::default()),
            Decoder::client(version, DecodeLimits::default()),
        ] {
            let whole = decoded(decoder.clone(), &bytes, &[usize::MAX]);
            prop_assert_eq!(&decoded(decoder.clone(), &bytes, &pieces), &whole);
            for packet in &whole.0 {
                let version = match packet {
                    Packet::Connect(connect) => connect.version,
                    _ => decoder.version().unwrap_or(version),
                };
                let mut buffer = BytesMut::new();
                // Another CONNECT may have come first and changed the version.
                if encode(packet, version, &mut buffer).is_ok() && decoder.version() == Some(version) {
                    let again = decoded(Decoder::either(Some(version), DecodeLimits::UNLIMITED), &buffer, &[usize::MAX]);
                    prop_assert_eq!(again, (vec![packet.clone()], None));
                }
            }
        }
    }

    #[test]
    fn random_bytes_cause_no_panic(version in option::of(versions()), bytes in vec(any::<u8>(), 0..200)) {
        let decoder = Decoder::either(version, DecodeLimits::default());
        decoded(decoder, &bytes, &[usize::MAX]);
    }

    #[test]
    fn a_shared_publish_is_the_packet((version, message) in versions().prop_flat_map(|version| (Just(version), publish(version)))) {
        let Packet::Publish(publish) = &message else { unreachable!("only PUBLISH is made") };
        let shared = EncodedPublish::new(publish, version).unwrap();
        let mut output = Output::new();
        output.push_publish(&shared, PublishPatch {
            packet_id: publish.packet_id,
            dup: publish.dup,
            retain: publish.retain,
            message_expiry_interval: publish.properties.message_expiry_interval,
        });
        let bytes = output.copy_to_bytes(output.remaining());
        prop_assert_eq!(bytes.len(), shared.packet_size());
        prop_assert_eq!(&bytes[..], &encoded(std::slice::from_ref(&message), version)[..]);
    }

    #[test]
    fn a_publish_by_its_parts_is_the_packet((version, message) in versions().prop_flat_map(|version| (Just(version), publish(version)))) {
        let Packet::Publish(publish) = &message else { unreachable!("only PUBLISH is made") };
        prop_assume!(publish.topic.is_some());
        let mut properties = publish.properties.clone();
        (properties.message_expiry_interval, properties.topic_alias) = (None, None);
        properties.subscription_identifiers = Vec::new();
        let parts = PublishParts {
            topic: publish.topic.as_ref().unwrap(),
            payload: &publish.payload,
            qos: publish.qos,
            properties: (properties != PublishProperties::default()).then_some(&properties),
            subscription_identifiers: &publish.properties.subscription_identifiers,
            patch: PublishPatch {
                packet_id: publish.packet_id,
                dup: publish.dup,
                retain: publish.retain,
                message_expiry_interval: publish.properties.message_expiry_interval,
            },
        };
        let length = parts.measure(version).unwrap();
        let mut bytes = BytesMut::from(&b"before"[..]);
        parts.write(version, length, &mut bytes);
        prop_assert_eq!(bytes.len(), 6 + length.packet_size());
        let mut whole = publish.clone();
        whole.properties.topic_alias = None;
        prop_assert_eq!(&bytes[6..], &encoded(&[Packet::Publish(whole)], version)[..]);
    }

    /// Within the maximum, or an error that says how large it is. [MQTT-3.1.2-24]
    #[test]
    fn a_fitted_packet_fits((version, packets) in stream(1..2), maximum in 0..200_u32) {
        for mut packet in packets {
            match packet.fit(version, maximum) {
                Ok(size) => {
                    prop_assert!(size <= maximum as usize);
                    prop_assert_eq!(encoded_len(&packet, version), Ok(size));
                }
                Err(error) => {
                    let size = encoded_len(&packet, version).unwrap();
                    prop_assert_eq!(error, EncodeError::PacketTooLarge { size, limit: maximum });
                    prop_assert!(size > maximum as usize);
                }
            }
        }
    }
}
