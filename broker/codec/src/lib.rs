//! MQTT 3.1.1 and 5.0 packets: bytes to types and back.
//!
//! Owns the wire format and nothing else: no socket, no clock, no session. A decoded packet shares the
//! receive buffer ([`bytes::Bytes`]); nothing is copied. Everything decoded is valid: a [`TopicName`] has
//! no wildcard, a [`PacketId`] is not zero, a property appears at most once where the specification says so.

mod packet;
mod reason;
mod topic;

pub use packet::*;
pub use reason::*;
pub use topic::*;
