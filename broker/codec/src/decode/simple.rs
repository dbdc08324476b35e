//! The packets around a message: acknowledgements, subscriptions, DISCONNECT, AUTH.
//! [MQTT 5.0, 3.4 to 3.15; MQTT 3.1.1, 3.4 to 3.14]

use bytestring::ByteString;

use super::properties::{Properties, Property, once};
use super::reader::Reader;
use super::{Header, Side};
use crate::{
    Ack, Auth, DecodeError, Disconnect, Packet, PacketId, PacketType, ProtocolVersion, QoS, ReasonCode,
    RetainHandling, SubAck, Subscribe, SubscriptionOptions, UnsubAck, Unsubscribe, UserProperty,
};

/// The usual acknowledgement has two bytes in every version: it is read where it lies, without a share of
/// the buffer.
pub(super) fn short_ack(header: &Header, buffer: &[u8]) -> Result<Option<Packet>, DecodeError> {
    let wrap = match header.packet {
        PacketType::PubAck => Packet::PubAck,
        PacketType::PubRec => Packet::PubRec,
        PacketType::PubRel => Packet::PubRel,
        PacketType::PubComp => Packet::PubComp,
        _ => return Ok(None),
    };
    let Some(&[high, low]) = buffer.get(header.header_size..header.packet_size()) else { return Ok(None) };
    let packet_id = PacketId::new(u16::from_be_bytes([high, low])).ok_or(DecodeError::PacketIdZero)?;
    Ok(Some(wrap(Ack::success(packet_id))))
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP.
pub(super) fn ack(
    reader: &mut Reader<'_>,
    packet: PacketType,
    version: ProtocolVersion,
) -> Result<Ack, DecodeError> {
    let mut ack = Ack::success(reader.packet_id()?);
    if version != ProtocolVersion::V5 || reader.is_empty() {
        return Ok(ack); // [MQTT 5.0, 3.4.2.1]: a length of 2 means Success.
    }
    ack.reason = reason(reader, packet)?;
    // A length below 4 has no Property Length. [MQTT 5.0, 3.4.2.2.1]
    if !reader.is_empty() {
        (ack.reason_string, ack.user_properties) = reason_properties(reader, packet)?;
    }
    Ok(ack)
}

pub(super) fn subscribe(reader: &mut Reader<'_>, version: ProtocolVersion) -> Result<Subscribe, DecodeError> {
    let packet_id = reader.packet_id()?;
    let mut subscription_identifier = None;
    let mut user_properties = Vec::new();
    if version == ProtocolVersion::V5 {
        let mut properties = Properties::open(reader, PacketType::Subscribe)?;
        while let Some((id, property)) = properties.next()? {
            match property {
                Property::SubscriptionIdentifier(value) => once(&mut subscription_identifier, id, value)?,
                Property::UserProperty(pair) => user_properties.push(pair),
                _ => return Err(properties.not_allowed(id)),
            }
        }
    }
    let mut filters = Vec::new();
    while !reader.is_empty() {
        check_filter_count(filters.len(), reader)?;
        let filter = reader.topic_filter()?;
        let options = subscription_options(reader.u8()?, version)?;
        if options.no_local && filter.share_name().is_some() {
            return Err(DecodeError::NoLocalOnShared); // [MQTT-3.8.3-4]
        }
        filters.push((filter, options));
    }
    if filters.is_empty() {
        return Err(DecodeError::NoFilters(PacketType::Subscribe)); // [MQTT-3.8.3-2]
    }
    Ok(Subscribe { packet_id, filters, subscription_identifier, user_properties })
}

/// [MQTT 5.0, 3.8.3.1; MQTT 3.1.1: MQTT-3-8.3-4]
fn subscription_options(byte: u8, version: ProtocolVersion) -> Result<SubscriptionOptions, DecodeError> {
    let reserved = match version {
        ProtocolVersion::V3_1 => 0, // "not used"
        ProtocolVersion::V3_1_1 => 0b1111_1100,
        ProtocolVersion::V5 => 0b1100_0000, // [MQTT-3.8.3-5]
    };
    if byte & reserved != 0 {
        return Err(DecodeError::SubscriptionOptionsReserved(byte));
    }
    let qos = QoS::from_bits(byte & 0b11).ok_or(DecodeError::SubscriptionOptionsValue)?;
    if version != ProtocolVersion::V5 {
        return Ok(SubscriptionOptions::new(qos));
    }
    let retain_handling = match (byte >> 4) & 0b11 {
        0 => RetainHandling::SendAtSubscribe,
        1 => RetainHandling::SendIfNewSubscription,
        2 => RetainHandling::DoNotSend,
        _ => return Err(DecodeError::SubscriptionOptionsValue),
    };
    let no_local = byte & 0b100 != 0;
    let retain_as_published = byte & 0b1000 != 0;
    Ok(SubscriptionOptions { qos, no_local, retain_as_published, retain_handling })
}

pub(super) fn suback(reader: &mut Reader<'_>, version: ProtocolVersion) -> Result<SubAck, DecodeError> {
    let packet_id = reader.packet_id()?;
    let (reason_string, user_properties) = match version {
        ProtocolVersion::V5 => reason_properties(reader, PacketType::SubAck)?,
        ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => (None, Vec::new()),
    };
    let reasons = reasons(reader, PacketType::SubAck, version)?;
    Ok(SubAck { packet_id, reasons, reason_string, user_properties })
}

pub(super) fn unsubscribe(
    reader: &mut Reader<'_>,
    version: ProtocolVersion,
) -> Result<Unsubscribe, DecodeError> {
    let packet_id = reader.packet_id()?;
    let mut user_properties = Vec::new();
    if version == ProtocolVersion::V5 {
        let mut properties = Properties::open(reader, PacketType::Unsubscribe)?;
        while let Some((id, property)) = properties.next()? {
            match property {
                Property::UserProperty(pair) => user_properties.push(pair),
                _ => return Err(properties.not_allowed(id)),
            }
        }
    }
    let mut filters = Vec::new();
    while !reader.is_empty() {
        check_filter_count(filters.len(), reader)?;
        filters.push(reader.topic_filter()?);
    }
    if filters.is_empty() {
        return Err(DecodeError::NoFilters(PacketType::Unsubscribe)); // [MQTT-3.10.3-2]
    }
    Ok(Unsubscribe { packet_id, filters, user_properties })
}

pub(super) fn unsuback(reader: &mut Reader<'_>, version: ProtocolVersion) -> Result<UnsubAck, DecodeError> {
    let packet_id = reader.packet_id()?;
    if version != ProtocolVersion::V5 {
        let (reasons, reason_string, user_properties) = (Vec::new(), None, Vec::new());
        return Ok(UnsubAck { packet_id, reasons, reason_string, user_properties });
    }
    let (reason_string, user_properties) = reason_properties(reader, PacketType::UnsubAck)?;
    let reasons = reasons(reader, PacketType::UnsubAck, version)?;
    Ok(UnsubAck { packet_id, reasons, reason_string, user_properties })
}

pub(super) fn disconnect(
    reader: &mut Reader<'_>,
    version: ProtocolVersion,
    side: Side,
) -> Result<Disconnect, DecodeError> {
    let mut disconnect = Disconnect::new(ReasonCode::SUCCESS);
    if version != ProtocolVersion::V5 || reader.is_empty() {
        return Ok(disconnect); // [MQTT 5.0, 3.14.2.1]
    }
    disconnect.reason = reason(reader, PacketType::Disconnect)?;
    if reader.is_empty() {
        return Ok(disconnect); // A length below 2 has no Property Length. [MQTT 5.0, 3.14.2.2.1]
    }
    let mut properties = Properties::open(reader, PacketType::Disconnect)?;
    while let Some((id, property)) = properties.next()? {
        match property {
            // A server may not send it. [MQTT-3.14.2-2]
            Property::SessionExpiryInterval(_) if side == Side::Client => {
                return Err(DecodeError::PropertyValue(id));
            }
            Property::SessionExpiryInterval(value) => {
                once(&mut disconnect.session_expiry_interval, id, value)?;
            }
            Property::ReasonString(value) => once(&mut disconnect.reason_string, id, value)?,
            Property::ServerReference(value) => once(&mut disconnect.server_reference, id, value)?,
            Property::UserProperty(pair) => disconnect.user_properties.push(pair),
            _ => return Err(properties.not_allowed(id)),
        }
    }
    Ok(disconnect)
}

pub(super) fn auth(reader: &mut Reader<'_>, side: Side) -> Result<Auth, DecodeError> {
    let mut auth = Auth {
        reason: ReasonCode::SUCCESS,
        authentication_method: None,
        authentication_data: None,
        reason_string: None,
        user_properties: Vec::new(),
    };
    if !reader.is_empty() {
        auth.reason = reason(reader, PacketType::Auth)?;
        auth_properties(reader, &mut auth)?;
    }
    // Only a server says Success, only a client asks for re-authentication. [MQTT 5.0, table 3-17]
    let wrong_side = match side {
        Side::Server => auth.reason == ReasonCode::SUCCESS,
        Side::Client => auth.reason == ReasonCode::RE_AUTHENTICATE,
        Side::Either => false,
    };
    if wrong_side {
        let (packet, reason) = (PacketType::Auth, auth.reason);
        return Err(DecodeError::ReasonCodeNotAllowed { packet, reason });
    }
    Ok(auth)
}

fn auth_properties(reader: &mut Reader<'_>, auth: &mut Auth) -> Result<(), DecodeError> {
    let mut properties = Properties::open(reader, PacketType::Auth)?;
    while let Some((id, property)) = properties.next()? {
        match property {
            Property::AuthenticationMethod(value) => once(&mut auth.authentication_method, id, value)?,
            Property::AuthenticationData(value) => once(&mut auth.authentication_data, id, value)?,
            Property::ReasonString(value) => once(&mut auth.reason_string, id, value)?,
            Property::UserProperty(pair) => auth.user_properties.push(pair),
            _ => return Err(properties.not_allowed(id)),
        }
    }
    if auth.authentication_method.is_none() {
        return Err(DecodeError::AuthenticationMethodMissing); // [MQTT 5.0, 3.15.2.2.2]
    }
    Ok(())
}

/// A Reason Code that `packet` may carry.
pub(super) fn reason(reader: &mut Reader<'_>, packet: PacketType) -> Result<ReasonCode, DecodeError> {
    let reason = ReasonCode(reader.u8()?);
    if reason.is_allowed_in(packet) {
        Ok(reason)
    } else {
        Err(DecodeError::ReasonCodeNotAllowed { packet, reason })
    }
}

/// One Reason Code for each filter: the whole payload of SUBACK and UNSUBACK.
fn reasons(
    reader: &mut Reader<'_>,
    packet: PacketType,
    version: ProtocolVersion,
) -> Result<Vec<ReasonCode>, DecodeError> {
    if reader.is_empty() {
        return Err(DecodeError::NoFilters(packet));
    }
    let mut reasons = Vec::with_capacity(reader.len());
    while !reader.is_empty() {
        let reason = reason(reader, packet)?;
        // [MQTT 3.1.1: MQTT-3.9.3-2]
        if version != ProtocolVersion::V5 && !matches!(reason.0, 0..=2 | 0x80) {
            return Err(DecodeError::ReasonCodeNotAllowed { packet, reason });
        }
        reasons.push(reason);
    }
    Ok(reasons)
}

/// Reason String and User Properties: all that most acknowledgements may have.
fn reason_properties(
    reader: &mut Reader<'_>,
    packet: PacketType,
) -> Result<(Option<ByteString>, Vec<UserProperty>), DecodeError> {
    let mut reason_string = None;
    let mut user_properties = Vec::new();
    let mut properties = Properties::open(reader, packet)?;
    while let Some((id, property)) = properties.next()? {
        match property {
            Property::ReasonString(value) => once(&mut reason_string, id, value)?,
            Property::UserProperty(pair) => user_properties.push(pair),
            _ => return Err(properties.not_allowed(id)),
        }
    }
    Ok((reason_string, user_properties))
}

fn check_filter_count(count: usize, reader: &Reader<'_>) -> Result<(), DecodeError> {
    let limit = reader.limits.maximum_filters;
    if count >= usize::from(limit) { Err(DecodeError::TooManyFilters { limit }) } else { Ok(()) }
}
