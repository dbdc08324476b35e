//! Where encoded bytes go: into a buffer, or into a count of them.

use bytes::{BufMut, BytesMut};

use super::MAXIMUM_REMAINING_LENGTH;
use crate::EncodeError;

/// Takes the data types of the specification. [MQTT 5.0, 1.5]
pub(super) trait Sink {
    fn bytes(&mut self, bytes: &[u8]);

    fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    /// At most [`MAXIMUM_REMAINING_LENGTH`], which [`Counter`] checks.
    fn var_int(&mut self, value: usize);

    /// A string or binary field of at most 65,535 bytes, which [`Counter`] checks.
    fn field(&mut self, bytes: &[u8]);
}

impl Sink for BytesMut {
    fn bytes(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }

    fn var_int(&mut self, value: usize) {
        put_var_int(self, value);
    }

    fn field(&mut self, bytes: &[u8]) {
        // Counted before it is written, so the cast cannot cut anything off.
        self.put_u16(bytes.len() as u16);
        self.put_slice(bytes);
    }
}

/// Counts, and notices what cannot be written.
#[derive(Default)]
pub(super) struct Counter {
    length: usize,
    error: Option<EncodeError>,
}

impl Counter {
    /// The length, if it can be the Remaining Length of a packet.
    pub(super) fn finish(self) -> Result<usize, EncodeError> {
        match self.error {
            Some(error) => Err(error),
            None if self.length > MAXIMUM_REMAINING_LENGTH => {
                let limit = MAXIMUM_REMAINING_LENGTH as u32;
                Err(EncodeError::PacketTooLarge { size: self.length, limit })
            }
            None => Ok(self.length),
        }
    }

    /// The bare length, for a part of a packet that is counted once more as a whole.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    pub(super) fn fail(&mut self, error: EncodeError) {
        self.error.get_or_insert(error);
    }
}

impl Sink for Counter {
    fn bytes(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
    }

    fn var_int(&mut self, value: usize) {
        if value > MAXIMUM_REMAINING_LENGTH {
            let limit = MAXIMUM_REMAINING_LENGTH as u32;
            self.fail(EncodeError::PacketTooLarge { size: value, limit });
        }
        self.length += var_int_len(value);
    }

    fn field(&mut self, bytes: &[u8]) {
        if bytes.len() > usize::from(u16::MAX) {
            self.fail(EncodeError::FieldTooLong);
        }
        self.length += 2 + bytes.len();
    }
}

pub(super) fn put_var_int(buffer: &mut BytesMut, mut value: usize) {
    while value > 0x7F {
        buffer.put_u8((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    buffer.put_u8(value as u8);
}

/// How many bytes a Variable Byte Integer takes.
pub(super) const fn var_int_len(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}
