//! The form of each packet after its fixed header. [MQTT 5.0, chapter 3; MQTT 3.1.1, chapter 3]

use std::num::NonZeroU32;

use bytestring::ByteString;

use super::MAXIMUM_REMAINING_LENGTH;
use super::publish;
use super::sink::{Counter, Sink};
use crate::{
    Ack, Auth, ConnAck, ConnAckCode, ConnAckProperties, Connect, ConnectProperties, Disconnect, EncodeError,
    Packet, PropertyId, ProtocolVersion, PublishProperties, QoS, ReasonCode, SubAck, Subscribe,
    SubscriptionOptions, TopicName, UnsubAck, Unsubscribe, UserProperty, Will,
};

/// What a count of bytes would not notice.
pub(super) fn check(packet: &Packet, version: ProtocolVersion) -> Result<(), EncodeError> {
    let wrong_version = EncodeError::WrongVersion { packet: packet.packet_type(), version };
    let v5 = version == ProtocolVersion::V5;
    match packet {
        Packet::Connect(connect) if connect.version != version => Err(wrong_version),
        Packet::ConnAck(connack) if v5 != matches!(connack.code, ConnAckCode::V5(_)) => Err(wrong_version),
        Packet::Auth(_) if !v5 => Err(wrong_version),
        Packet::Publish(message) => publish::check(message, version),
        Packet::Subscribe(subscribe) if subscribe.filters.is_empty() => {
            Err(EncodeError::NoFilters(packet.packet_type()))
        }
        Packet::Subscribe(subscribe) if v5 && subscribe.subscription_identifier.is_some_and(is_too_large) => {
            Err(EncodeError::SubscriptionIdentifierTooLarge)
        }
        Packet::Unsubscribe(unsubscribe) if unsubscribe.filters.is_empty() => {
            Err(EncodeError::NoFilters(packet.packet_type()))
        }
        Packet::Connect(_)
        | Packet::ConnAck(_)
        | Packet::PubAck(_)
        | Packet::PubRec(_)
        | Packet::PubRel(_)
        | Packet::PubComp(_)
        | Packet::Subscribe(_)
        | Packet::SubAck(_)
        | Packet::Unsubscribe(_)
        | Packet::UnsubAck(_)
        | Packet::PingReq
        | Packet::PingResp
        | Packet::Disconnect(_)
        | Packet::Auth(_) => Ok(()),
    }
}

/// [MQTT 5.0, 3.8.2.1.2]
pub(super) fn is_too_large(identifier: NonZeroU32) -> bool {
    identifier.get() as usize > MAXIMUM_REMAINING_LENGTH
}

pub(super) fn write<S: Sink>(packet: &Packet, version: ProtocolVersion, sink: &mut S) {
    match packet {
        Packet::Connect(packet) => connect(packet, sink),
        Packet::ConnAck(packet) => connack(packet, version, sink),
        Packet::Publish(packet) => {
            publish::head(packet, version, sink);
            sink.bytes(&packet.payload);
        }
        Packet::PubAck(packet)
        | Packet::PubRec(packet)
        | Packet::PubRel(packet)
        | Packet::PubComp(packet) => ack(packet, version, sink),
        Packet::Subscribe(packet) => subscribe(packet, version, sink),
        Packet::SubAck(packet) => suback(packet, version, sink),
        Packet::Unsubscribe(packet) => unsubscribe(packet, version, sink),
        Packet::UnsubAck(packet) => unsuback(packet, version, sink),
        Packet::PingReq | Packet::PingResp => {}
        Packet::Disconnect(packet) => disconnect(packet, version, sink),
        Packet::Auth(packet) => auth(packet, sink),
    }
}

fn connect<S: Sink>(connect: &Connect, sink: &mut S) {
    let (name, level) = match connect.version {
        ProtocolVersion::V3_1 => ("MQIsdp", 3),
        ProtocolVersion::V3_1_1 => ("MQTT", 4),
        ProtocolVersion::V5 => ("MQTT", 5),
    };
    sink.field(name.as_bytes());
    sink.u8(level | u8::from(connect.bridge && connect.version != ProtocolVersion::V5) << 7);
    let mut flags = u8::from(connect.clean_start) << 1;
    if let Some(will) = &connect.will {
        flags |= 0b100 | (will.qos as u8) << 3 | u8::from(will.retain) << 5;
    }
    flags |= u8::from(connect.password.is_some()) << 6 | u8::from(connect.user_name.is_some()) << 7;
    sink.u8(flags);
    sink.u16(connect.keep_alive);
    let v5 = connect.version == ProtocolVersion::V5;
    if v5 {
        block(sink, &connect.properties);
    }
    sink.field(connect.client_id.as_bytes());
    if let Some(will) = &connect.will {
        if v5 {
            block(sink, will);
        }
        sink.field(will.topic.as_str().as_bytes());
        sink.field(&will.payload);
    }
    if let Some(user_name) = &connect.user_name {
        sink.field(user_name.as_bytes());
    }
    if let Some(password) = &connect.password {
        sink.field(password);
    }
}

fn connack<S: Sink>(connack: &ConnAck, version: ProtocolVersion, sink: &mut S) {
    // A reserved byte in MQTT 3.1.
    sink.u8(u8::from(connack.session_present && version != ProtocolVersion::V3_1));
    match connack.code {
        ConnAckCode::V3(code) => sink.u8(code as u8),
        ConnAckCode::V5(reason) => {
            sink.u8(reason.0);
            block(sink, &connack.properties);
        }
    }
}

fn ack<S: Sink>(ack: &Ack, version: ProtocolVersion, sink: &mut S) {
    sink.u16(ack.packet_id.get());
    if version != ProtocolVersion::V5 {
        return;
    }
    let properties = ReasonProperties(ack.reason_string.as_ref(), &ack.user_properties);
    // Success and nothing more to say takes two bytes, a bare reason three. [MQTT 5.0, 3.4.2.1]
    if !properties.is_empty() {
        sink.u8(ack.reason.0);
        block(sink, &properties);
    } else if ack.reason != ReasonCode::SUCCESS {
        sink.u8(ack.reason.0);
    }
}

fn subscribe<S: Sink>(subscribe: &Subscribe, version: ProtocolVersion, sink: &mut S) {
    sink.u16(subscribe.packet_id.get());
    if version == ProtocolVersion::V5 {
        block(sink, subscribe);
    }
    for (filter, options) in &subscribe.filters {
        sink.field(filter.as_str().as_bytes());
        sink.u8(options_byte(*options, version));
    }
}

fn options_byte(options: SubscriptionOptions, version: ProtocolVersion) -> u8 {
    let qos = options.qos as u8;
    if version != ProtocolVersion::V5 {
        return qos;
    }
    let no_local = u8::from(options.no_local) << 2;
    let retain_as_published = u8::from(options.retain_as_published) << 3;
    qos | no_local | retain_as_published | (options.retain_handling as u8) << 4
}

fn suback<S: Sink>(suback: &SubAck, version: ProtocolVersion, sink: &mut S) {
    sink.u16(suback.packet_id.get());
    let v5 = version == ProtocolVersion::V5;
    if v5 {
        block(sink, &ReasonProperties(suback.reason_string.as_ref(), &suback.user_properties));
    }
    for reason in &suback.reasons {
        // MQTT 3.1.1 has one word for all failures. [MQTT-3.9.3-2]
        let failure = !v5 && reason.is_error();
        sink.u8(if failure { ReasonCode::UNSPECIFIED_ERROR.0 } else { reason.0 });
    }
}

fn unsubscribe<S: Sink>(unsubscribe: &Unsubscribe, version: ProtocolVersion, sink: &mut S) {
    sink.u16(unsubscribe.packet_id.get());
    if version == ProtocolVersion::V5 {
        block(sink, &ReasonProperties(None, &unsubscribe.user_properties));
    }
    for filter in &unsubscribe.filters {
        sink.field(filter.as_str().as_bytes());
    }
}

fn unsuback<S: Sink>(unsuback: &UnsubAck, version: ProtocolVersion, sink: &mut S) {
    sink.u16(unsuback.packet_id.get());
    if version == ProtocolVersion::V5 {
        block(sink, &ReasonProperties(unsuback.reason_string.as_ref(), &unsuback.user_properties));
        for reason in &unsuback.reasons {
            sink.u8(reason.0);
        }
    }
}

fn disconnect<S: Sink>(disconnect: &Disconnect, version: ProtocolVersion, sink: &mut S) {
    if version != ProtocolVersion::V5 {
        return;
    }
    let mut counter = Counter::default();
    disconnect.write(&mut counter);
    // A length of 0 is Normal disconnection, of 1 a bare reason. [MQTT 5.0, 3.14.2.1, 3.14.2.2.1]
    if counter.length() > 0 {
        sink.u8(disconnect.reason.0);
        block(sink, disconnect);
    } else if disconnect.reason != ReasonCode::SUCCESS {
        sink.u8(disconnect.reason.0);
    }
}

fn auth<S: Sink>(auth: &Auth, sink: &mut S) {
    let mut counter = Counter::default();
    auth.write(&mut counter);
    // [MQTT 5.0, 3.15.2.1]
    if counter.length() > 0 || auth.reason != ReasonCode::SUCCESS {
        sink.u8(auth.reason.0);
        block(sink, auth);
    }
}

/// The properties of one packet, without their length.
pub(super) trait Properties {
    fn write<S: Sink>(&self, sink: &mut S);
}

/// Property Length and properties. [MQTT 5.0, 2.2.2]
pub(super) fn block<S: Sink>(sink: &mut S, properties: &impl Properties) {
    let mut counter = Counter::default();
    properties.write(&mut counter);
    sink.var_int(counter.length());
    properties.write(sink);
}

/// Reason String and User Properties.
struct ReasonProperties<'p>(Option<&'p ByteString>, &'p [UserProperty]);

impl ReasonProperties<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_none() && self.1.is_empty()
    }
}

impl Properties for ReasonProperties<'_> {
    fn write<S: Sink>(&self, sink: &mut S) {
        text(sink, PropertyId::ReasonString, self.0);
        user(sink, self.1);
    }
}

impl Properties for ConnectProperties {
    fn write<S: Sink>(&self, sink: &mut S) {
        int(sink, PropertyId::SessionExpiryInterval, self.session_expiry_interval);
        short(sink, PropertyId::ReceiveMaximum, self.receive_maximum.map(Into::into));
        int(sink, PropertyId::MaximumPacketSize, self.maximum_packet_size.map(Into::into));
        short(sink, PropertyId::TopicAliasMaximum, self.topic_alias_maximum);
        flag(sink, PropertyId::RequestResponseInformation, self.request_response_information);
        flag(sink, PropertyId::RequestProblemInformation, self.request_problem_information);
        text(sink, PropertyId::AuthenticationMethod, self.authentication_method.as_ref());
        binary(sink, PropertyId::AuthenticationData, self.authentication_data.as_deref());
        user(sink, &self.user_properties);
    }
}

impl Properties for Will {
    fn write<S: Sink>(&self, sink: &mut S) {
        int(sink, PropertyId::WillDelayInterval, Some(self.delay_interval).filter(|&delay| delay > 0));
        message(&self.properties, sink);
    }
}

impl Properties for PublishProperties {
    fn write<S: Sink>(&self, sink: &mut S) {
        message(self, sink);
        short(sink, PropertyId::TopicAlias, self.topic_alias.map(Into::into));
        for identifier in &self.subscription_identifiers {
            sink.u8(PropertyId::SubscriptionIdentifier as u8);
            sink.var_int(identifier.get() as usize);
        }
    }
}

/// What a will may have too. The expiry comes first, where [`publish`] finds it again.
fn message<S: Sink>(properties: &PublishProperties, sink: &mut S) {
    int(sink, PropertyId::MessageExpiryInterval, properties.message_expiry_interval);
    flag(sink, PropertyId::PayloadFormatIndicator, properties.payload_format_indicator);
    text(sink, PropertyId::ContentType, properties.content_type.as_ref());
    text(sink, PropertyId::ResponseTopic, properties.response_topic.as_ref().map(TopicName::as_text));
    binary(sink, PropertyId::CorrelationData, properties.correlation_data.as_deref());
    user(sink, &properties.user_properties);
}

impl Properties for ConnAckProperties {
    fn write<S: Sink>(&self, sink: &mut S) {
        int(sink, PropertyId::SessionExpiryInterval, self.session_expiry_interval);
        short(sink, PropertyId::ReceiveMaximum, self.receive_maximum.map(Into::into));
        if let Some(maximum @ (QoS::AtMostOnce | QoS::AtLeastOnce)) = self.maximum_qos {
            sink.u8(PropertyId::MaximumQoS as u8);
            sink.u8(maximum as u8);
        }
        flag(sink, PropertyId::RetainAvailable, self.retain_available);
        int(sink, PropertyId::MaximumPacketSize, self.maximum_packet_size.map(Into::into));
        text(sink, PropertyId::AssignedClientIdentifier, self.assigned_client_id.as_ref());
        short(sink, PropertyId::TopicAliasMaximum, self.topic_alias_maximum);
        text(sink, PropertyId::ReasonString, self.reason_string.as_ref());
        user(sink, &self.user_properties);
        flag(sink, PropertyId::WildcardSubscriptionAvailable, self.wildcard_subscription_available);
        flag(sink, PropertyId::SubscriptionIdentifierAvailable, self.subscription_identifiers_available);
        flag(sink, PropertyId::SharedSubscriptionAvailable, self.shared_subscription_available);
        short(sink, PropertyId::ServerKeepAlive, self.server_keep_alive);
        text(sink, PropertyId::ResponseInformation, self.response_information.as_ref());
        text(sink, PropertyId::ServerReference, self.server_reference.as_ref());
        text(sink, PropertyId::AuthenticationMethod, self.authentication_method.as_ref());
        binary(sink, PropertyId::AuthenticationData, self.authentication_data.as_deref());
    }
}

impl Properties for Subscribe {
    fn write<S: Sink>(&self, sink: &mut S) {
        if let Some(identifier) = self.subscription_identifier {
            sink.u8(PropertyId::SubscriptionIdentifier as u8);
            sink.var_int(identifier.get() as usize);
        }
        user(sink, &self.user_properties);
    }
}

impl Properties for Disconnect {
    fn write<S: Sink>(&self, sink: &mut S) {
        int(sink, PropertyId::SessionExpiryInterval, self.session_expiry_interval);
        text(sink, PropertyId::ReasonString, self.reason_string.as_ref());
        text(sink, PropertyId::ServerReference, self.server_reference.as_ref());
        user(sink, &self.user_properties);
    }
}

impl Properties for Auth {
    fn write<S: Sink>(&self, sink: &mut S) {
        text(sink, PropertyId::AuthenticationMethod, self.authentication_method.as_ref());
        binary(sink, PropertyId::AuthenticationData, self.authentication_data.as_deref());
        text(sink, PropertyId::ReasonString, self.reason_string.as_ref());
        user(sink, &self.user_properties);
    }
}

fn flag<S: Sink>(sink: &mut S, id: PropertyId, value: Option<bool>) {
    if let Some(value) = value {
        sink.u8(id as u8);
        sink.u8(u8::from(value));
    }
}

fn short<S: Sink>(sink: &mut S, id: PropertyId, value: Option<u16>) {
    if let Some(value) = value {
        sink.u8(id as u8);
        sink.u16(value);
    }
}

pub(super) fn int<S: Sink>(sink: &mut S, id: PropertyId, value: Option<u32>) {
    if let Some(value) = value {
        sink.u8(id as u8);
        sink.u32(value);
    }
}

fn text<S: Sink>(sink: &mut S, id: PropertyId, value: Option<&ByteString>) {
    binary(sink, id, value.map(|text| &text.as_bytes()[..]));
}

fn binary<S: Sink>(sink: &mut S, id: PropertyId, value: Option<&[u8]>) {
    if let Some(value) = value {
        sink.u8(id as u8);
        sink.field(value);
    }
}

fn user<S: Sink>(sink: &mut S, pairs: &[UserProperty]) {
    for (name, value) in pairs {
        sink.u8(PropertyId::UserProperty as u8);
        sink.field(name.as_bytes());
        sink.field(value.as_bytes());
    }
}
