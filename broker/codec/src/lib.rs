//! MQTT 3.1, 3.1.1 and 5.0 packets: bytes to types and back.
//!
//! Owns the wire format and nothing else: no socket, no clock, no session. A decoded packet shares the
//! receive buffer ([`bytes::Bytes`]); nothing is copied. Everything decoded is valid: a [`TopicName`] has
//! no wildcard, a [`PacketId`] is not zero, a property appears at most once where the specification says so.
//!
//! In: a [`Decoder`] per connection takes packets off the front of a receive buffer.
//! Out: [`encode`] writes one packet; [`EncodedPublish`] holds a PUBLISH encoded once for many receivers;
//! [`Output`] gathers what one write sends, without copying large payloads.

mod decode;
mod encode;
mod error;
mod packet;
mod packet_type;
mod property;
mod reason;
mod topic;

pub use decode::{DecodeLimits, Decoder, Side};
pub use encode::{
    EncodedPublish, MAXIMUM_REMAINING_LENGTH, Output, PublishLength, PublishParts, PublishPatch, encode,
    encoded_len,
};
pub use error::{DecodeError, EncodeError};
pub use packet::*;
pub use packet_type::PacketType;
pub use property::PropertyId;
pub use reason::*;
pub use topic::*;
