//! CONNACK. [MQTT 5.0, 3.2; MQTT 3.1.1, 3.2]

use super::properties::{Properties, Property, once};
use super::reader::Reader;
use super::simple::reason;
use crate::{
    ConnAck, ConnAckCode, ConnAckProperties, ConnectReturnCode, DecodeError, PacketType, ProtocolVersion,
    ReasonCode,
};

pub(super) fn connack(reader: &mut Reader<'_>, version: ProtocolVersion) -> Result<ConnAck, DecodeError> {
    let flags = reader.u8()?;
    let session_present = match (version, flags) {
        (ProtocolVersion::V3_1, _) => false, // A reserved byte.
        (ProtocolVersion::V3_1_1 | ProtocolVersion::V5, 0) => false,
        (ProtocolVersion::V3_1_1 | ProtocolVersion::V5, 1) => true,
        (ProtocolVersion::V3_1_1 | ProtocolVersion::V5, _) => return Err(DecodeError::ConnAckFlags(flags)),
    };
    let (code, accepted) = match version {
        ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => {
            let byte = reader.u8()?;
            let code = ConnectReturnCode::from_byte(byte).ok_or(DecodeError::ReasonCodeNotAllowed {
                packet: PacketType::ConnAck,
                reason: ReasonCode(byte),
            })?;
            (ConnAckCode::V3(code), code == ConnectReturnCode::Accepted)
        }
        ProtocolVersion::V5 => {
            let code = reason(reader, PacketType::ConnAck)?;
            (ConnAckCode::V5(code), !code.is_error())
        }
    };
    if session_present && !accepted {
        return Err(DecodeError::SessionPresentOnRefusal); // [MQTT-3.2.2-6; MQTT 3.1.1: MQTT-3.2.2-4]
    }
    let properties = match version {
        ProtocolVersion::V5 => connack_properties(reader)?,
        ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => ConnAckProperties::default(),
    };
    Ok(ConnAck { session_present, code, properties })
}

fn connack_properties(reader: &mut Reader<'_>) -> Result<ConnAckProperties, DecodeError> {
    let mut found = ConnAckProperties::default();
    let mut properties = Properties::open(reader, PacketType::ConnAck)?;
    while let Some((id, property)) = properties.next()? {
        match property {
            Property::SessionExpiryInterval(value) => once(&mut found.session_expiry_interval, id, value)?,
            Property::ReceiveMaximum(value) => once(&mut found.receive_maximum, id, value)?,
            Property::MaximumQoS(value) => once(&mut found.maximum_qos, id, value)?,
            Property::RetainAvailable(value) => once(&mut found.retain_available, id, value)?,
            Property::MaximumPacketSize(value) => once(&mut found.maximum_packet_size, id, value)?,
            Property::AssignedClientIdentifier(value) => once(&mut found.assigned_client_id, id, value)?,
            Property::TopicAliasMaximum(value) => once(&mut found.topic_alias_maximum, id, value)?,
            Property::ReasonString(value) => once(&mut found.reason_string, id, value)?,
            Property::UserProperty(pair) => found.user_properties.push(pair),
            Property::WildcardSubscriptionAvailable(value) => {
                once(&mut found.wildcard_subscription_available, id, value)?;
            }
            Property::SubscriptionIdentifierAvailable(value) => {
                once(&mut found.subscription_identifiers_available, id, value)?;
            }
            Property::SharedSubscriptionAvailable(value) => {
                once(&mut found.shared_subscription_available, id, value)?;
            }
            Property::ServerKeepAlive(value) => once(&mut found.server_keep_alive, id, value)?,
            Property::ResponseInformation(value) => once(&mut found.response_information, id, value)?,
            Property::ServerReference(value) => once(&mut found.server_reference, id, value)?,
            Property::AuthenticationMethod(value) => once(&mut found.authentication_method, id, value)?,
            Property::AuthenticationData(value) => once(&mut found.authentication_data, id, value)?,
            _ => return Err(properties.not_allowed(id)),
        }
    }
    Ok(found)
}
