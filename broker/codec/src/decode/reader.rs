//! Reads the data types of the specification off one packet's body. [MQTT 5.0, 1.5]

use bytes::{Buf, Bytes};
use bytestring::ByteString;

use crate::{DecodeError, DecodeLimits, PacketId, TopicFilter, TopicName};

/// The part of a body that is not read yet.
pub(super) struct Reader<'l> {
    bytes: Bytes,
    pub(super) limits: &'l DecodeLimits,
}

impl<'l> Reader<'l> {
    pub(super) fn new(bytes: Bytes, limits: &'l DecodeLimits) -> Self {
        Self { bytes, limits }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes are left.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Nothing may be left.
    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }

    /// Everything that is left.
    pub(super) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.bytes.try_get_u8().map_err(|_| DecodeError::Truncated)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.bytes.try_get_u16().map_err(|_| DecodeError::Truncated)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.bytes.try_get_u32().map_err(|_| DecodeError::Truncated)
    }

    /// Variable Byte Integer. [MQTT 5.0, 1.5.5]
    pub(super) fn var_int(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0;
        for index in 0..4 {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 == 0 {
                let minimal = byte != 0 || index == 0;
                return if minimal { Ok(value) } else { Err(DecodeError::LengthNotMinimal) }; // [MQTT-1.5.5-1]
            }
        }
        Err(DecodeError::LengthTooLong)
    }

    /// The next `length` bytes, still shared with the receive buffer.
    pub(super) fn take(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        if length > self.bytes.len() {
            return Err(DecodeError::Truncated);
        }
        Ok(self.bytes.split_to(length))
    }

    /// The next `length` bytes as a reader of their own.
    pub(super) fn section(&mut self, length: usize) -> Result<Self, DecodeError> {
        Ok(Self { bytes: self.take(length)?, limits: self.limits })
    }

    pub(super) fn binary(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// UTF-8 Encoded String. [MQTT-1.5.4-1, MQTT-1.5.4-2; MQTT 3.1.1: MQTT-1.5.3-1, MQTT-1.5.3-2]
    pub(super) fn text(&mut self) -> Result<ByteString, DecodeError> {
        let text = self.utf8()?;
        if memchr::memchr(0, text.as_bytes()).is_some() {
            return Err(DecodeError::Nul);
        }
        Ok(text)
    }

    /// A string that whoever parses it searches for U+0000.
    pub(super) fn utf8(&mut self) -> Result<ByteString, DecodeError> {
        ByteString::try_from(self.binary()?).map_err(|_| DecodeError::NotUtf8)
    }

    /// [MQTT-2.2.1-3]
    pub(super) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        PacketId::new(self.u16()?).ok_or(DecodeError::PacketIdZero)
    }

    pub(super) fn topic_name(&mut self) -> Result<TopicName, DecodeError> {
        let text = self.utf8()?;
        self.name_of(text)
    }

    pub(super) fn name_of(&self, text: ByteString) -> Result<TopicName, DecodeError> {
        let name = TopicName::parse(text).map_err(DecodeError::TopicName)?;
        if self.too_deep(name.as_str()) {
            return Err(DecodeError::TopicNameTooDeep { limit: self.limits.maximum_topic_levels });
        }
        Ok(name)
    }

    pub(super) fn topic_filter(&mut self) -> Result<TopicFilter, DecodeError> {
        let filter = TopicFilter::parse(self.utf8()?).map_err(DecodeError::TopicFilter)?;
        if self.too_deep(filter.filter()) {
            return Err(DecodeError::TopicFilterTooDeep { limit: self.limits.maximum_topic_levels });
        }
        Ok(filter)
    }

    fn too_deep(&self, text: &str) -> bool {
        let limit = usize::from(self.limits.maximum_topic_levels);
        // A text of n bytes has at most n + 1 levels, so most are not searched.
        text.len() >= limit && memchr::memchr_iter(b'/', text.as_bytes()).count() >= limit
    }
}
