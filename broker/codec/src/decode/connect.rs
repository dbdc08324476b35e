//! CONNECT. [MQTT 5.0, 3.1; MQTT 3.1.1, 3.1]

use super::properties::{Properties, Property, once};
use super::publish;
use super::reader::Reader;
use crate::{
    Connect, ConnectProperties, DecodeError, PacketType, ProtocolVersion, PublishProperties, QoS, Will,
};

const CLEAN_START: u8 = 0b0000_0010;
const WILL: u8 = 0b0000_0100;
const WILL_QOS: u8 = 0b0001_1000;
const WILL_RETAIN: u8 = 0b0010_0000;
const PASSWORD: u8 = 0b0100_0000;
const USER_NAME: u8 = 0b1000_0000;

/// `answer_in` is told the version as soon as it is known, so that a refused client can be answered.
pub(super) fn connect(
    reader: &mut Reader<'_>,
    minimal_length: bool,
    answer_in: &mut Option<ProtocolVersion>,
) -> Result<Connect, DecodeError> {
    let (version, bridge) = protocol_version(reader, answer_in)?;
    *answer_in = Some(version);
    if version == ProtocolVersion::V5 && !minimal_length {
        return Err(DecodeError::LengthNotMinimal);
    }
    let flags = connect_flags(reader.u8()?, version)?;
    let keep_alive = reader.u16()?;
    let properties = match version {
        ProtocolVersion::V5 => connect_properties(reader)?,
        ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => ConnectProperties::default(),
    };
    let client_id = reader.text()?;
    let clean_start = flags & CLEAN_START != 0;
    match version {
        // [MQTT 3.1.1: MQTT-3.1.3-7, MQTT-3.1.3-8]
        ProtocolVersion::V3_1_1 if client_id.is_empty() && !clean_start => {
            return Err(DecodeError::ClientIdEmpty);
        }
        // MQTT 3.1 has no empty identifier. Its upper limit of 23 characters no client keeps to.
        ProtocolVersion::V3_1 if client_id.is_empty() => return Err(DecodeError::ClientIdEmpty),
        ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 | ProtocolVersion::V5 => {}
    }
    let will = if flags & WILL == 0 { None } else { Some(will(reader, flags, version)?) };
    // In MQTT 3.1 the length decides, whatever the flags say.
    let may_end = version == ProtocolVersion::V3_1;
    let present = |reader: &Reader<'_>, flag| flags & flag != 0 && !(may_end && reader.is_empty());
    let user_name = if present(reader, USER_NAME) { Some(reader.text()?) } else { None };
    let password = if present(reader, PASSWORD) { Some(reader.binary()?) } else { None };
    Ok(Connect { version, bridge, clean_start, keep_alive, client_id, will, user_name, password, properties })
}

/// And whether the client says that it is a bridge. [MQTT-3.1.2-1, MQTT-3.1.2-2]
fn protocol_version(
    reader: &mut Reader<'_>,
    answer_in: &mut Option<ProtocolVersion>,
) -> Result<(ProtocolVersion, bool), DecodeError> {
    let name = reader.binary()?;
    let known_name = matches!(&name[..], b"MQTT" | b"MQIsdp");
    if !known_name {
        return Err(DecodeError::UnknownProtocolName);
    }
    let level = reader.u8()?;
    match (&name[..], level) {
        // The topmost bit is no part of any specification; bridges of Mosquitto set it.
        (b"MQIsdp", 0x03 | 0x83) => Ok((ProtocolVersion::V3_1, level == 0x83)),
        (b"MQTT", 0x04 | 0x84) => Ok((ProtocolVersion::V3_1_1, level == 0x84)),
        (b"MQTT", 5) => Ok((ProtocolVersion::V5, false)),
        _ => {
            // Above 5 is a later version.
            let later = level > 5 && level & 0x80 == 0;
            *answer_in = Some(if later { ProtocolVersion::V5 } else { ProtocolVersion::V3_1_1 });
            Err(DecodeError::UnsupportedProtocolLevel(level))
        }
    }
}

fn connect_flags(flags: u8, version: ProtocolVersion) -> Result<u8, DecodeError> {
    let reserved = flags & 1 != 0 && version != ProtocolVersion::V3_1; // [MQTT-3.1.2-3]
    let will_parts = flags & WILL == 0 && flags & (WILL_QOS | WILL_RETAIN) != 0; // [MQTT-3.1.2-11, MQTT-3.1.2-13]
    if reserved || will_parts {
        return Err(DecodeError::ConnectFlags(flags));
    }
    if flags & WILL_QOS == WILL_QOS {
        return Err(DecodeError::QoSReserved); // [MQTT-3.1.2-12]
    }
    // MQTT 5.0 allows a password alone. [MQTT 3.1.1: MQTT-3.1.2-22]
    if version != ProtocolVersion::V5 && flags & PASSWORD != 0 && flags & USER_NAME == 0 {
        return Err(DecodeError::PasswordWithoutUserName);
    }
    Ok(flags)
}

fn connect_properties(reader: &mut Reader<'_>) -> Result<ConnectProperties, DecodeError> {
    let mut found = ConnectProperties::default();
    let mut properties = Properties::open(reader, PacketType::Connect)?;
    while let Some((id, property)) = properties.next()? {
        match property {
            Property::SessionExpiryInterval(value) => once(&mut found.session_expiry_interval, id, value)?,
            Property::ReceiveMaximum(value) => once(&mut found.receive_maximum, id, value)?,
            Property::MaximumPacketSize(value) => once(&mut found.maximum_packet_size, id, value)?,
            Property::TopicAliasMaximum(value) => once(&mut found.topic_alias_maximum, id, value)?,
            Property::RequestResponseInformation(value) => {
                once(&mut found.request_response_information, id, value)?;
            }
            Property::RequestProblemInformation(value) => {
                once(&mut found.request_problem_information, id, value)?;
            }
            Property::AuthenticationMethod(value) => once(&mut found.authentication_method, id, value)?,
            Property::AuthenticationData(value) => once(&mut found.authentication_data, id, value)?,
            Property::UserProperty(pair) => found.user_properties.push(pair),
            _ => return Err(properties.not_allowed(id)),
        }
    }
    if found.authentication_data.is_some() && found.authentication_method.is_none() {
        return Err(DecodeError::AuthenticationMethodMissing); // [MQTT 5.0, 3.1.2.11.10]
    }
    Ok(found)
}

fn will(reader: &mut Reader<'_>, flags: u8, version: ProtocolVersion) -> Result<Will, DecodeError> {
    let qos = QoS::from_bits((flags & WILL_QOS) >> 3).ok_or(DecodeError::QoSReserved)?;
    let mut delay = None;
    let mut found = PublishProperties::default();
    if version == ProtocolVersion::V5 {
        let mut properties = Properties::open(reader, PacketType::Connect)?;
        while let Some((id, property)) = properties.next()? {
            match property {
                Property::WillDelayInterval(value) => once(&mut delay, id, value)?,
                // A will has no alias and no subscription. [MQTT 5.0, 3.1.3.2]
                Property::TopicAlias(_) | Property::SubscriptionIdentifier(_) => {
                    return Err(properties.not_allowed(id));
                }
                property => publish::message_property(&mut found, &properties, id, property)?,
            }
        }
    }
    let topic = reader.topic_name()?; // [MQTT-3.1.3-11]
    let payload = reader.binary()?;
    let retain = flags & WILL_RETAIN != 0;
    Ok(Will { topic, payload, qos, retain, delay_interval: delay.unwrap_or(0), properties: found })
}
