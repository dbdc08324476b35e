//! A packet of each kind with everything that it can carry, to begin with.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;
use mqgate_codec::*;

const ID: PacketId = PacketId::new(7).expect("not zero");

fn text(text: &'static str) -> ByteString {
    ByteString::from_static(text)
}

fn name(text: &'static str) -> TopicName {
    TopicName::parse(text.into()).expect("a topic name")
}

fn filter(text: &'static str) -> TopicFilter {
    TopicFilter::parse(text.into()).expect("a topic filter")
}

fn user() -> Vec<UserProperty> {
    vec![(text("k"), text("v"))]
}

/// What only MQTT 5.0 has is left out of older versions.
pub fn specimens(version: ProtocolVersion) -> Vec<Packet> {
    let v5 = version == ProtocolVersion::V5;
    let user = || if v5 { user() } else { Vec::new() };
    let only = |reason| if v5 { reason } else { ReasonCode::SUCCESS };
    let message = || PublishProperties {
        payload_format_indicator: v5.then_some(true),
        message_expiry_interval: v5.then_some(60),
        topic_alias: None,
        response_topic: v5.then(|| name("r")),
        correlation_data: v5.then(|| Bytes::from_static(b"c")),
        user_properties: user(),
        subscription_identifiers: Vec::new(),
        content_type: v5.then(|| text("t")),
    };
    let publish = |qos: QoS, properties| Publish {
        dup: false,
        qos,
        retain: true,
        topic: Some(name("a/b")),
        packet_id: (qos != QoS::AtMostOnce).then_some(ID),
        payload: Bytes::from_static(b"x"),
        properties,
    };
    let ack = |reason| Ack {
        packet_id: ID,
        reason,
        reason_string: (v5 && reason != ReasonCode::SUCCESS).then(|| text("why")),
        user_properties: Vec::new(),
    };
    let options = SubscriptionOptions {
        no_local: v5,
        retain_as_published: v5,
        ..SubscriptionOptions::new(QoS::ExactlyOnce)
    };
    let connect = Connect {
        version,
        bridge: false,
        clean_start: true,
        keep_alive: 10,
        client_id: text("c"),
        will: Some(Will {
            topic: name("w"),
            payload: Bytes::from_static(b"gone"),
            qos: QoS::AtLeastOnce,
            retain: false,
            delay_interval: if v5 { 5 } else { 0 },
            properties: message(),
        }),
        user_name: Some(text("u")),
        password: Some(Bytes::from_static(b"p")),
        properties: match v5 {
            false => ConnectProperties::default(),
            true => ConnectProperties {
                session_expiry_interval: Some(100),
                receive_maximum: NonZeroU16::new(10),
                maximum_packet_size: NonZeroU32::new(1000),
                topic_alias_maximum: Some(5),
                request_response_information: Some(true),
                request_problem_information: Some(true),
                authentication_method: Some(text("m")),
                authentication_data: Some(Bytes::from_static(b"d")),
                user_properties: user(),
            },
        },
    };
    let small = Connect {
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
        ..connect.clone()
    };
    let connack = ConnAck {
        session_present: false,
        code: ConnAckCode::for_version(ReasonCode::SUCCESS, version)
            .expect("success is known to every version"),
        properties: ConnAckProperties {
            session_expiry_interval: v5.then_some(100),
            maximum_qos: v5.then_some(QoS::AtLeastOnce),
            server_keep_alive: v5.then_some(10),
            assigned_client_id: v5.then(|| text("auto")),
            user_properties: user(),
            ..ConnAckProperties::default()
        },
    };
    let subscribe = Subscribe {
        packet_id: ID,
        filters: vec![(filter("a/+"), options), (filter("#"), options)],
        subscription_identifier: NonZeroU32::new(300).filter(|_| v5),
        user_properties: user(),
    };
    let unsubscribe =
        Unsubscribe { packet_id: ID, filters: vec![filter("$share/g/a/#")], user_properties: user() };
    let suback = SubAck {
        packet_id: ID,
        reasons: vec![ReasonCode::GRANTED_QOS_1, ReasonCode(0x80)],
        reason_string: v5.then(|| text("why")),
        user_properties: user(),
    };
    let unsuback = UnsubAck {
        packet_id: ID,
        reasons: if v5 { vec![ReasonCode::SUCCESS] } else { Vec::new() },
        reason_string: None,
        user_properties: user(),
    };
    let mut packets = vec![
        Packet::Connect(Box::new(connect)),
        Packet::Connect(Box::new(small)),
        Packet::ConnAck(Box::new(connack)),
        Packet::Publish(publish(QoS::AtMostOnce, message())),
        Packet::Publish(publish(QoS::ExactlyOnce, PublishProperties::default())),
        Packet::PubAck(ack(only(ReasonCode::NO_MATCHING_SUBSCRIBERS))),
        Packet::PubRec(ack(only(ReasonCode::QUOTA_EXCEEDED))),
        Packet::PubRel(ack(ReasonCode::SUCCESS)),
        Packet::PubComp(ack(ReasonCode::SUCCESS)),
        Packet::Subscribe(subscribe),
        Packet::SubAck(suback),
        Packet::Unsubscribe(unsubscribe),
        Packet::UnsubAck(unsuback),
        Packet::PingReq,
        Packet::PingResp,
        Packet::Disconnect(Disconnect::new(only(ReasonCode::DISCONNECT_WITH_WILL))),
    ];
    if v5 {
        let properties =
            PublishProperties { topic_alias: NonZeroU16::new(1), ..PublishProperties::default() };
        packets.push(Packet::Publish(publish(QoS::AtLeastOnce, properties.clone())));
        packets.push(Packet::Publish(Publish { topic: None, ..publish(QoS::AtLeastOnce, properties) }));
        packets.push(Packet::Auth(Auth {
            reason: ReasonCode::CONTINUE_AUTHENTICATION,
            authentication_method: Some(text("m")),
            authentication_data: Some(Bytes::from_static(b"d")),
            reason_string: None,
            user_properties: user(),
        }));
    }
    packets
}
