//! The properties of MQTT 5.0, one by one. Which may stand where is the caller's knowledge. [MQTT 5.0, 2.2.2]

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;

use super::reader::Reader;
use crate::{DecodeError, PacketType, PropertyId, QoS, TopicName, UserProperty};

/// A property with its value.
pub(super) enum Property {
    PayloadFormatIndicator(bool),
    MessageExpiryInterval(u32),
    ContentType(ByteString),
    ResponseTopic(TopicName),
    CorrelationData(Bytes),
    SubscriptionIdentifier(NonZeroU32),
    SessionExpiryInterval(u32),
    AssignedClientIdentifier(ByteString),
    ServerKeepAlive(u16),
    AuthenticationMethod(ByteString),
    AuthenticationData(Bytes),
    RequestProblemInformation(bool),
    WillDelayInterval(u32),
    RequestResponseInformation(bool),
    ResponseInformation(ByteString),
    ServerReference(ByteString),
    ReasonString(ByteString),
    ReceiveMaximum(NonZeroU16),
    TopicAliasMaximum(u16),
    TopicAlias(NonZeroU16),
    MaximumQoS(QoS),
    RetainAvailable(bool),
    UserProperty(UserProperty),
    MaximumPacketSize(NonZeroU32),
    WildcardSubscriptionAvailable(bool),
    SubscriptionIdentifierAvailable(bool),
    SharedSubscriptionAvailable(bool),
}

/// The properties of one packet (or of its will), in the order in which they stand.
pub(super) struct Properties<'l> {
    reader: Reader<'l>,
    packet: PacketType,
    user_properties: u16,
}

impl<'l> Properties<'l> {
    /// Reads the Property Length. [MQTT 5.0, 2.2.2.1]
    pub(super) fn open(reader: &mut Reader<'l>, packet: PacketType) -> Result<Self, DecodeError> {
        let length = reader.var_int()?;
        let length = usize::try_from(length).map_err(|_| DecodeError::Truncated)?;
        Ok(Self { reader: reader.section(length)?, packet, user_properties: 0 })
    }

    pub(super) fn next(&mut self) -> Result<Option<(PropertyId, Property)>, DecodeError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        // The identifier is a Variable Byte Integer; all that exist fit in one byte.
        let id = self.reader.u8()?;
        let id = PropertyId::from_byte(id).ok_or(DecodeError::UnknownProperty(id))?;
        Ok(Some((id, self.value(id)?)))
    }

    /// What to say of a property that has no place in this packet. [MQTT 5.0, 2.2.2.2]
    pub(super) fn not_allowed(&self, property: PropertyId) -> DecodeError {
        DecodeError::PropertyNotAllowed { packet: self.packet, property }
    }

    fn value(&mut self, id: PropertyId) -> Result<Property, DecodeError> {
        Ok(match id {
            PropertyId::PayloadFormatIndicator => Property::PayloadFormatIndicator(self.flag(id)?),
            PropertyId::MessageExpiryInterval => Property::MessageExpiryInterval(self.reader.u32()?),
            PropertyId::ContentType => Property::ContentType(self.reader.text()?),
            PropertyId::ResponseTopic => Property::ResponseTopic(self.response_topic()?),
            PropertyId::CorrelationData => Property::CorrelationData(self.reader.binary()?),
            PropertyId::SubscriptionIdentifier => {
                let value = self.reader.var_int()?;
                let value = NonZeroU32::new(value).ok_or(DecodeError::PropertyValue(id))?; // [MQTT 5.0, 3.8.2.1.2]
                Property::SubscriptionIdentifier(value)
            }
            PropertyId::SessionExpiryInterval => Property::SessionExpiryInterval(self.reader.u32()?),
            PropertyId::AssignedClientIdentifier => Property::AssignedClientIdentifier(self.reader.text()?),
            PropertyId::ServerKeepAlive => Property::ServerKeepAlive(self.reader.u16()?),
            PropertyId::AuthenticationMethod => Property::AuthenticationMethod(self.reader.text()?),
            PropertyId::AuthenticationData => Property::AuthenticationData(self.reader.binary()?),
            PropertyId::RequestProblemInformation => Property::RequestProblemInformation(self.flag(id)?),
            PropertyId::WillDelayInterval => Property::WillDelayInterval(self.reader.u32()?),
            PropertyId::RequestResponseInformation => Property::RequestResponseInformation(self.flag(id)?),
            PropertyId::ResponseInformation => Property::ResponseInformation(self.reader.text()?),
            PropertyId::ServerReference => Property::ServerReference(self.reader.text()?),
            PropertyId::ReasonString => Property::ReasonString(self.reader.text()?),
            PropertyId::ReceiveMaximum => {
                // [MQTT 5.0, 3.1.2.11.3]
                Property::ReceiveMaximum(self.non_zero_u16()?.ok_or(DecodeError::PropertyValue(id))?)
            }
            PropertyId::TopicAliasMaximum => Property::TopicAliasMaximum(self.reader.u16()?),
            PropertyId::TopicAlias => {
                Property::TopicAlias(self.non_zero_u16()?.ok_or(DecodeError::TopicAliasZero)?) // [MQTT-3.3.2-8]
            }
            PropertyId::MaximumQoS => Property::MaximumQoS(match self.reader.u8()? {
                0 => QoS::AtMostOnce,
                1 => QoS::AtLeastOnce,
                _ => return Err(DecodeError::PropertyValue(id)),
            }),
            PropertyId::RetainAvailable => Property::RetainAvailable(self.flag(id)?),
            PropertyId::UserProperty => Property::UserProperty(self.user_property()?),
            PropertyId::MaximumPacketSize => {
                let value = NonZeroU32::new(self.reader.u32()?).ok_or(DecodeError::PropertyValue(id))?;
                Property::MaximumPacketSize(value)
            }
            PropertyId::WildcardSubscriptionAvailable => {
                Property::WildcardSubscriptionAvailable(self.flag(id)?)
            }
            PropertyId::SubscriptionIdentifierAvailable => {
                Property::SubscriptionIdentifierAvailable(self.flag(id)?)
            }
            PropertyId::SharedSubscriptionAvailable => Property::SharedSubscriptionAvailable(self.flag(id)?),
        })
    }

    fn flag(&mut self, id: PropertyId) -> Result<bool, DecodeError> {
        match self.reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::PropertyValue(id)),
        }
    }

    fn non_zero_u16(&mut self) -> Result<Option<NonZeroU16>, DecodeError> {
        Ok(NonZeroU16::new(self.reader.u16()?))
    }

    /// [MQTT-3.3.2-13, MQTT-3.3.2-14]
    fn response_topic(&mut self) -> Result<TopicName, DecodeError> {
        let text = self.reader.text()?;
        match self.reader.name_of(text) {
            Err(DecodeError::TopicName(error)) => Err(DecodeError::ResponseTopic(error)),
            parsed => parsed,
        }
    }

    fn user_property(&mut self) -> Result<UserProperty, DecodeError> {
        let limit = self.reader.limits.maximum_user_properties;
        if self.user_properties >= limit {
            return Err(DecodeError::TooManyUserProperties { limit });
        }
        self.user_properties += 1;
        Ok((self.reader.text()?, self.reader.text()?))
    }
}

/// Keeps `value`, unless there is one already. [MQTT 5.0, 2.2.2.2 and each property's own section]
pub(super) fn once<T>(place: &mut Option<T>, id: PropertyId, value: T) -> Result<(), DecodeError> {
    if place.is_some() {
        return Err(DecodeError::DuplicateProperty(id));
    }
    *place = Some(value);
    Ok(())
}
