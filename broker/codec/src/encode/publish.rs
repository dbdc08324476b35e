//! PUBLISH, encoded once for all who get the same bytes.

use std::num::NonZeroU32;

use bytes::{BufMut, Bytes, BytesMut};

use super::body;
use super::sink::{self, Counter, Sink};
use super::{MAXIMUM_REMAINING_LENGTH, packet_size, type_bits};
use crate::{
    EncodeError, PacketId, PacketType, PropertyId, ProtocolVersion, Publish, PublishProperties, QoS,
    TopicName,
};

/// A payload up to this size is copied with the header in one go, which is cheaper than a piece of its own
/// in a vectored write.
const INLINE_PAYLOAD: usize = 2048;

/// A PUBLISH in its wire form, without what differs from receiver to receiver: packet identifier, DUP,
/// RETAIN and the seconds left to live. Made once per (version, QoS, and set of subscription identifiers or
/// topic alias, where there are any) and cheap to clone.
#[derive(Debug, Clone)]
pub struct EncodedPublish {
    /// Everything up to the payload; and the payload too where it is small.
    head: Bytes,
    /// Empty where it is small.
    payload: Bytes,
    qos: QoS,
    /// Offset in `head`; meaningless for QoS 0.
    packet_id_at: usize,
    /// Offset in `head` of the Message Expiry Interval, if there is one.
    expiry_at: Option<usize>,
}

/// What one receiver gets of an [`EncodedPublish`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PublishPatch {
    /// To be given exactly when the QoS is above 0. [MQTT-2.2.1-2]
    pub packet_id: Option<PacketId>,
    /// This is not the first attempt. [MQTT-3.3.1-1]
    pub dup: bool,
    pub retain: bool,
    /// Seconds left, if the message expires. Ignored where it was encoded without. [MQTT-3.3.2-6]
    pub message_expiry_interval: Option<u32>,
}

impl EncodedPublish {
    /// Encodes `publish`, whose packet identifier, DUP and RETAIN do not matter: each receiver has its own.
    pub fn new(publish: &Publish, version: ProtocolVersion) -> Result<Self, EncodeError> {
        check_topic(publish, version)?;
        let mut counter = Counter::default();
        head(publish, version, &mut counter);
        let head_length = counter.finish()?;
        let remaining = head_length + publish.payload.len();
        if remaining > MAXIMUM_REMAINING_LENGTH {
            let limit = MAXIMUM_REMAINING_LENGTH as u32;
            return Err(EncodeError::PacketTooLarge { size: remaining, limit });
        }
        let inline = publish.payload.len() <= INLINE_PAYLOAD;
        let header_size = 1 + sink::var_int_len(remaining);
        let mut buffer =
            BytesMut::with_capacity(if inline { packet_size(remaining) } else { header_size + head_length });
        buffer.put_u8(type_bits(PacketType::Publish) | flags(false, publish.qos, false));
        sink::put_var_int(&mut buffer, remaining);
        head(publish, version, &mut buffer);
        let topic_length = publish.topic.as_ref().map_or(0, |topic| topic.as_str().len());
        let packet_id_at = header_size + 2 + topic_length;
        let expiry_at = (version == ProtocolVersion::V5
            && publish.properties.message_expiry_interval.is_some())
        .then(|| expiry_offset(&buffer, packet_id_at, publish.qos));
        let payload = if inline {
            buffer.put_slice(&publish.payload);
            Bytes::new()
        } else {
            publish.payload.clone()
        };
        Ok(Self { head: buffer.freeze(), payload, qos: publish.qos, packet_id_at, expiry_at })
    }

    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// The size of the whole packet, to be held against the receiver's Maximum Packet Size.
    /// [MQTT-3.1.2-24, MQTT-3.1.2-25]
    pub fn packet_size(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    /// Copies all but a large payload to the end of `buffer`, as `patch` wants it. The bytes returned are
    /// to be sent next: empty, or the large payload.
    #[must_use = "the payload is part of the packet"]
    pub fn write_head(&self, patch: PublishPatch, buffer: &mut BytesMut) -> &Bytes {
        let start = buffer.len();
        buffer.extend_from_slice(&self.head);
        let head = &mut buffer[start..];
        head[0] |= flags(patch.dup && self.qos != QoS::AtMostOnce, QoS::AtMostOnce, patch.retain);
        debug_assert_eq!(patch.packet_id.is_some(), self.qos != QoS::AtMostOnce, "packet_id goes with QoS");
        if let (Some(packet_id), true) = (patch.packet_id, self.qos != QoS::AtMostOnce) {
            head[self.packet_id_at..self.packet_id_at + 2].copy_from_slice(&packet_id.get().to_be_bytes());
        }
        if let (Some(at), Some(seconds)) = (self.expiry_at, patch.message_expiry_interval) {
            head[at..at + 4].copy_from_slice(&seconds.to_be_bytes());
        }
        &self.payload
    }
}

/// A PUBLISH by its parts, for one receiver: written straight into its buffer, without anything in between.
#[derive(Debug, Clone, Copy)]
pub struct PublishParts<'a> {
    pub topic: &'a TopicName,
    pub payload: &'a [u8],
    pub qos: QoS,
    /// `None` when there are none. Holds neither expiry nor alias nor subscription identifiers.
    pub properties: Option<&'a PublishProperties>,
    pub subscription_identifiers: &'a [NonZeroU32],
    pub patch: PublishPatch,
}

impl PublishParts<'_> {
    /// The size of the whole packet, to be held against the receiver's Maximum Packet Size; what
    /// [`PublishParts::write`] wants to be told.
    pub fn measure(&self, version: ProtocolVersion) -> Result<PublishLength, EncodeError> {
        if version == ProtocolVersion::V5
            && self.subscription_identifiers.iter().any(|&identifier| body::is_too_large(identifier))
        {
            return Err(EncodeError::SubscriptionIdentifierTooLarge);
        }
        if self.patch.packet_id.is_some() != (self.qos != QoS::AtMostOnce) {
            return Err(EncodeError::PacketId);
        }
        let packet_id = if self.qos == QoS::AtMostOnce { 0 } else { 2 };
        let mut remaining = 2 + self.topic.as_str().len() + packet_id + self.payload.len();
        let mut properties = 0;
        if version == ProtocolVersion::V5 {
            if self.has_properties() {
                let mut counter = Counter::default();
                self.properties(&mut counter);
                properties = counter.finish()?;
            }
            remaining += sink::var_int_len(properties) + properties;
        }
        if remaining > MAXIMUM_REMAINING_LENGTH {
            let limit = MAXIMUM_REMAINING_LENGTH as u32;
            return Err(EncodeError::PacketTooLarge { size: remaining, limit });
        }
        Ok(PublishLength { remaining, properties })
    }

    /// Appends the packet that was measured for the same version.
    pub fn write(&self, version: ProtocolVersion, length: PublishLength, buffer: &mut BytesMut) {
        buffer.reserve(length.packet_size());
        buffer.put_u8(type_bits(PacketType::Publish) | flags(self.patch.dup, self.qos, self.patch.retain));
        sink::put_var_int(buffer, length.remaining);
        buffer.field(self.topic.as_str().as_bytes());
        if let Some(packet_id) = self.patch.packet_id {
            buffer.put_u16(packet_id.get());
        }
        if version == ProtocolVersion::V5 {
            sink::put_var_int(buffer, length.properties);
            if length.properties > 0 {
                self.properties(buffer);
            }
        }
        buffer.put_slice(self.payload);
    }

    fn has_properties(&self) -> bool {
        self.properties.is_some()
            || self.patch.message_expiry_interval.is_some()
            || !self.subscription_identifiers.is_empty()
    }

    fn properties<S: Sink>(&self, sink: &mut S) {
        body::int(sink, PropertyId::MessageExpiryInterval, self.patch.message_expiry_interval);
        if let Some(properties) = self.properties {
            body::Properties::write(properties, sink);
        }
        for identifier in self.subscription_identifiers {
            sink.u8(PropertyId::SubscriptionIdentifier as u8);
            sink.var_int(identifier.get() as usize);
        }
    }
}

/// How long a PUBLISH is, and a part of it.
#[derive(Debug, Clone, Copy)]
pub struct PublishLength {
    remaining: usize,
    properties: usize,
}

impl PublishLength {
    /// [MQTT-3.1.2-24, MQTT-3.1.2-25]
    pub fn packet_size(self) -> usize {
        packet_size(self.remaining)
    }
}

/// The expiry is the first property: it stands after the Property Length and its own identifier.
fn expiry_offset(head: &[u8], packet_id_at: usize, qos: QoS) -> usize {
    let length_at = packet_id_at + if qos == QoS::AtMostOnce { 0 } else { 2 };
    let length_size = 1 + head[length_at..].iter().take_while(|&&byte| byte & 0x80 != 0).count();
    length_at + length_size + 1
}

pub(super) fn check(publish: &Publish, version: ProtocolVersion) -> Result<(), EncodeError> {
    check_topic(publish, version)?;
    if publish.packet_id.is_some() != (publish.qos != QoS::AtMostOnce) {
        return Err(EncodeError::PacketId);
    }
    Ok(())
}

fn check_topic(publish: &Publish, version: ProtocolVersion) -> Result<(), EncodeError> {
    let alias = version == ProtocolVersion::V5 && publish.properties.topic_alias.is_some();
    if publish.topic.is_none() && !alias {
        return Err(EncodeError::TopicMissing);
    }
    let mut identifiers = publish.properties.subscription_identifiers.iter();
    if version == ProtocolVersion::V5 && identifiers.any(|&identifier| body::is_too_large(identifier)) {
        return Err(EncodeError::SubscriptionIdentifierTooLarge);
    }
    Ok(())
}

/// The variable header: topic, packet identifier, properties.
pub(super) fn head<S: Sink>(publish: &Publish, version: ProtocolVersion, sink: &mut S) {
    sink.field(publish.topic.as_ref().map_or(&[], |topic| topic.as_str().as_bytes()));
    if publish.qos != QoS::AtMostOnce {
        // [`check`] sees to it that there is one; an [`EncodedPublish`] leaves its place free.
        sink.u16(publish.packet_id.map_or(0, PacketId::get));
    }
    if version == ProtocolVersion::V5 {
        body::block(sink, &publish.properties);
    }
}

/// [MQTT 5.0, 3.3.1]
pub(super) fn flags(dup: bool, qos: QoS, retain: bool) -> u8 {
    u8::from(dup) << 3 | (qos as u8) << 1 | u8::from(retain)
}
