//! PUBLISH. [MQTT 5.0, 3.3; MQTT 3.1.1, 3.3]

use super::Side;
use super::properties::{Properties, Property, once};
use super::reader::Reader;
use crate::{DecodeError, PacketType, PropertyId, ProtocolVersion, Publish, PublishProperties, QoS};

pub(super) fn publish(
    reader: &mut Reader<'_>,
    flags: u8,
    version: ProtocolVersion,
    side: Side,
) -> Result<Publish, DecodeError> {
    let qos = QoS::from_bits((flags >> 1) & 0b11).ok_or(DecodeError::QoSReserved)?; // [MQTT-3.3.1-4]
    let dup = flags & 0b1000 != 0;
    let retain = flags & 1 != 0;
    if dup && qos == QoS::AtMostOnce {
        return Err(DecodeError::DupWithoutQoS); // [MQTT-3.3.1-2]
    }
    let topic = reader.utf8()?;
    let topic = match version {
        ProtocolVersion::V5 if topic.is_empty() => None,
        _ => Some(reader.name_of(topic)?), // [MQTT-3.3.2-1, MQTT-3.3.2-2]
    };
    let packet_id = match qos {
        QoS::AtMostOnce => None, // [MQTT-2.2.1-2]
        QoS::AtLeastOnce | QoS::ExactlyOnce => Some(reader.packet_id()?),
    };
    let mut properties = PublishProperties::default();
    if version == ProtocolVersion::V5 {
        let mut found = Properties::open(reader, PacketType::Publish)?;
        while let Some((id, property)) = found.next()? {
            message_property(&mut properties, &found, id, property)?;
        }
    }
    if topic.is_none() && properties.topic_alias.is_none() {
        return Err(DecodeError::TopicMissing); // [MQTT 5.0, 3.3.2.1]
    }
    if side == Side::Server && !properties.subscription_identifiers.is_empty() {
        let property = PropertyId::SubscriptionIdentifier;
        return Err(DecodeError::PropertyValue(property)); // [MQTT-3.3.4-6]
    }
    Ok(Publish { dup, qos, retain, topic, packet_id, payload: reader.rest(), properties })
}

/// The properties that PUBLISH and a will share.
pub(super) fn message_property(
    into: &mut PublishProperties,
    properties: &Properties<'_>,
    id: PropertyId,
    property: Property,
) -> Result<(), DecodeError> {
    match property {
        Property::PayloadFormatIndicator(value) => once(&mut into.payload_format_indicator, id, value),
        Property::MessageExpiryInterval(value) => once(&mut into.message_expiry_interval, id, value),
        Property::TopicAlias(value) => once(&mut into.topic_alias, id, value),
        Property::ResponseTopic(value) => once(&mut into.response_topic, id, value),
        Property::CorrelationData(value) => once(&mut into.correlation_data, id, value),
        Property::ContentType(value) => once(&mut into.content_type, id, value),
        Property::SubscriptionIdentifier(value) => {
            into.subscription_identifiers.push(value);
            Ok(())
        }
        Property::UserProperty(pair) => {
            into.user_properties.push(pair);
            Ok(())
        }
        _ => Err(properties.not_allowed(id)),
    }
}
