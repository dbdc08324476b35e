//! Writes packets.
//!
//! Each packet's form stands once, over a [`sink::Sink`]: run on a [`Counter`] it tells the length, run on a
//! buffer it writes. What cannot be written is refused while counting, so that nothing half is sent.
//! MQTT 5.0 properties are left out for older versions.

mod body;
mod fit;
mod output;
mod publish;
mod sink;
#[cfg(test)]
mod tests;

use bytes::{BufMut, BytesMut};

use crate::{EncodeError, Packet, PacketType, ProtocolVersion};
use sink::Counter;

pub use output::Output;
pub use publish::{EncodedPublish, PublishLength, PublishParts, PublishPatch};

/// What four bytes of length can tell. [MQTT 5.0, 1.5.5]
pub const MAXIMUM_REMAINING_LENGTH: usize = 268_435_455;

/// Appends `packet` to `buffer`. On an error `buffer` is as it was.
pub fn encode(packet: &Packet, version: ProtocolVersion, buffer: &mut BytesMut) -> Result<(), EncodeError> {
    let remaining = remaining_length(packet, version)?;
    buffer.reserve(packet_size(remaining));
    buffer.put_u8(first_byte(packet));
    sink::put_var_int(buffer, remaining);
    body::write(packet, version, buffer);
    Ok(())
}

/// The size of the whole packet, as a Maximum Packet Size counts it. [MQTT 5.0, 3.1.2.11.4]
pub fn encoded_len(packet: &Packet, version: ProtocolVersion) -> Result<usize, EncodeError> {
    Ok(packet_size(remaining_length(packet, version)?))
}

fn remaining_length(packet: &Packet, version: ProtocolVersion) -> Result<usize, EncodeError> {
    body::check(packet, version)?;
    let mut counter = Counter::default();
    body::write(packet, version, &mut counter);
    counter.finish()
}

/// Fixed header and body.
fn packet_size(remaining: usize) -> usize {
    1 + sink::var_int_len(remaining) + remaining
}

/// Type and flags. [MQTT 5.0, 2.1.2, 2.1.3]
fn first_byte(packet: &Packet) -> u8 {
    let flags = match packet {
        Packet::Publish(publish) => publish::flags(publish.dup, publish.qos, publish.retain),
        Packet::PubRel(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_) => 0b0010,
        Packet::Connect(_)
        | Packet::ConnAck(_)
        | Packet::PubAck(_)
        | Packet::PubRec(_)
        | Packet::PubComp(_)
        | Packet::SubAck(_)
        | Packet::UnsubAck(_)
        | Packet::PingReq
        | Packet::PingResp
        | Packet::Disconnect(_)
        | Packet::Auth(_) => 0,
    };
    type_bits(packet.packet_type()) | flags
}

fn type_bits(packet: PacketType) -> u8 {
    (packet as u8) << 4
}
