//! Takes packets off the front of a receive buffer.
//!
//! The fixed header is judged as soon as it is there: a packet that is too large, of a reserved type, or
//! from the wrong side is refused before its body is buffered. A body is parsed only when it is complete.

mod connack;
mod connect;
mod properties;
mod publish;
mod reader;
mod simple;
#[cfg(test)]
mod tests;

use bytes::{Buf, BytesMut};

use crate::{DecodeError, Packet, PacketType, ProtocolVersion};
use reader::Reader;

/// Who reads: some packets and properties may come from one side only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Reads what clients send.
    Server,
    /// Reads what servers send.
    Client,
    /// Reads everything: a proxy, a trace, a test.
    Either,
}

/// What a peer may make us hold at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Whole packets, fixed header included. A server tells this in CONNACK. [MQTT 5.0, 3.2.2.3.6]
    pub maximum_packet_size: u32,
    /// The same for CONNECT, whose sender is not known yet.
    pub maximum_connect_size: u32,
    pub maximum_topic_levels: u16,
    /// In one SUBSCRIBE or UNSUBSCRIBE.
    pub maximum_filters: u16,
    /// In one packet. (A will and its CONNECT count apart.)
    pub maximum_user_properties: u16,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self {
            maximum_packet_size: 1024 * 1024,
            // Room for a will of the largest size and a token of the largest size.
            maximum_connect_size: 160 * 1024,
            maximum_topic_levels: 128,
            maximum_filters: 1024,
            maximum_user_properties: 128,
        }
    }
}

impl DecodeLimits {
    /// As much as the protocol allows.
    pub const UNLIMITED: Self = Self {
        maximum_packet_size: u32::MAX,
        maximum_connect_size: u32::MAX,
        maximum_topic_levels: u16::MAX,
        maximum_filters: u16::MAX,
        maximum_user_properties: u16::MAX,
    };
}

/// One per connection. It learns the version from CONNECT.
#[derive(Debug, Clone)]
pub struct Decoder {
    side: Side,
    version: Option<ProtocolVersion>,
    limits: DecodeLimits,
    missing: usize,
}

impl Decoder {
    /// For a new connection of a client: only CONNECT is accepted, and it tells the version.
    pub fn server(limits: DecodeLimits) -> Self {
        Self { side: Side::Server, version: None, limits, missing: 2 }
    }

    /// For what the server answers to a CONNECT of `version`.
    pub fn client(version: ProtocolVersion, limits: DecodeLimits) -> Self {
        Self { side: Side::Client, version: Some(version), limits, missing: 2 }
    }

    /// For bytes of either direction.
    pub fn either(version: Option<ProtocolVersion>, limits: DecodeLimits) -> Self {
        Self { side: Side::Either, version, limits, missing: 2 }
    }

    /// The version of the connection. After a CONNECT that was refused: the version to answer it in,
    /// `None` when the peer did not come far enough to understand an answer.
    pub fn version(&self) -> Option<ProtocolVersion> {
        self.version
    }

    pub fn limits(&self) -> &DecodeLimits {
        &self.limits
    }

    /// From now on. A server that grants a client less than the listener's default sets it here.
    pub fn set_limits(&mut self, limits: DecodeLimits) {
        self.limits = limits;
    }

    /// How many bytes, at least, have to follow before the next packet is complete. To be asked after
    /// [`Decoder::decode`] gave `None`. Never more than the size limit.
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// Takes the next packet off the front of `buffer`; `None` when it is not complete yet. After an error
    /// the place in the stream is lost and the connection has to end.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        let Some(header) = self.header(buffer)? else { return Ok(None) };
        if buffer.len() < header.packet_size() {
            self.missing = header.packet_size() - buffer.len();
            return Ok(None);
        }
        self.missing = 2;
        if let Some(packet) = simple::short_ack(&header, buffer)? {
            buffer.advance(header.packet_size());
            return Ok(Some(packet));
        }
        buffer.advance(header.header_size);
        let limits = self.limits;
        let mut reader = Reader::new(buffer.split_to(header.remaining_length).freeze(), &limits);
        let packet = self.body(&header, &mut reader)?;
        reader.finish()?;
        Ok(Some(packet))
    }

    /// Judges what can be judged by the first bytes. `None`: they are not all there.
    fn header(&mut self, buffer: &[u8]) -> Result<Option<Header>, DecodeError> {
        let Some((&first, rest)) = buffer.split_first() else {
            self.missing = 2;
            return Ok(None);
        };
        let packet = self.packet_type(first)?;
        let mut remaining_length = 0;
        for (index, &byte) in rest.iter().take(4).enumerate() {
            remaining_length |= usize::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 != 0 {
                continue;
            }
            let minimal = byte != 0 || index == 0;
            let header_size = index + 2;
            // Some 3.1.1 clients pad the length, which no normative statement forbids there.
            if !minimal && self.version == Some(ProtocolVersion::V5) {
                return Err(DecodeError::LengthNotMinimal); // [MQTT-1.5.5-1]
            }
            let header = Header { packet, flags: first & 0x0F, remaining_length, header_size, minimal };
            let limit = match packet {
                PacketType::Connect => self.limits.maximum_connect_size.min(self.limits.maximum_packet_size),
                _ => self.limits.maximum_packet_size,
            };
            if u32::try_from(header.packet_size()).is_ok_and(|size| size <= limit) {
                return Ok(Some(header));
            }
            return Err(DecodeError::PacketTooLarge { size: header.packet_size(), limit }); // [MQTT-3.1.2-24]
        }
        if rest.len() >= 4 {
            return Err(DecodeError::LengthTooLong); // [MQTT 5.0, 1.5.5]
        }
        self.missing = 1;
        Ok(None)
    }

    fn packet_type(&self, first: u8) -> Result<PacketType, DecodeError> {
        let packet = PacketType::from_bits(first >> 4).ok_or(DecodeError::ReservedPacketType(0))?;
        let flags = first & 0x0F;
        match (packet, self.version) {
            (PacketType::Connect, None) => {}
            // The first packet is CONNECT. [MQTT-3.1.0-1]
            (_, None) => return Err(DecodeError::UnexpectedPacket(packet)),
            (PacketType::Auth, Some(ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1)) => {
                return Err(DecodeError::ReservedPacketType(15));
            }
            (_, Some(_)) => {}
        }
        if !self.may_come(packet) {
            return Err(DecodeError::UnexpectedPacket(packet));
        }
        // [MQTT-2.1.3-1, MQTT-3.6.1-1, MQTT-3.8.1-1, MQTT-3.10.1-1, MQTT-3.14.1-1, MQTT-3.15.1-1]
        let right = match packet {
            PacketType::Publish => true,
            PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe => {
                // MQTT 3.1 sets DUP when it repeats these.
                flags == 0b0010 || (flags == 0b1010 && self.version == Some(ProtocolVersion::V3_1))
            }
            PacketType::Connect
            | PacketType::ConnAck
            | PacketType::PubAck
            | PacketType::PubRec
            | PacketType::PubComp
            | PacketType::SubAck
            | PacketType::UnsubAck
            | PacketType::PingReq
            | PacketType::PingResp
            | PacketType::Disconnect
            | PacketType::Auth => flags == 0,
        };
        if right { Ok(packet) } else { Err(DecodeError::ReservedFlags { packet, flags }) }
    }

    /// Whether the other side may send such a packet. [MQTT 5.0, table 2-1]
    fn may_come(&self, packet: PacketType) -> bool {
        match packet {
            PacketType::Connect | PacketType::Subscribe | PacketType::Unsubscribe | PacketType::PingReq => {
                self.side != Side::Client
            }
            PacketType::ConnAck | PacketType::SubAck | PacketType::UnsubAck | PacketType::PingResp => {
                self.side != Side::Server
            }
            // A server sends it in MQTT 5.0 only.
            PacketType::Disconnect => self.side != Side::Client || self.version == Some(ProtocolVersion::V5),
            PacketType::Publish
            | PacketType::PubAck
            | PacketType::PubRec
            | PacketType::PubRel
            | PacketType::PubComp
            | PacketType::Auth => true,
        }
    }

    fn body(&mut self, header: &Header, reader: &mut Reader<'_>) -> Result<Packet, DecodeError> {
        let version = match (header.packet, self.version) {
            (PacketType::Connect, known) => {
                let mut version = None;
                let connect = connect::connect(reader, header.minimal, &mut version);
                // A second CONNECT is decoded, and refused by whoever knows the state. [MQTT-3.1.0-2]
                self.version = known.or(version);
                return Ok(Packet::Connect(Box::new(connect?)));
            }
            (packet, None) => return Err(DecodeError::UnexpectedPacket(packet)),
            (_, Some(version)) => version,
        };
        Ok(match header.packet {
            PacketType::Connect => return Err(DecodeError::UnexpectedPacket(header.packet)),
            PacketType::ConnAck => Packet::ConnAck(Box::new(connack::connack(reader, version)?)),
            PacketType::Publish => {
                Packet::Publish(publish::publish(reader, header.flags, version, self.side)?)
            }
            PacketType::PubAck => Packet::PubAck(simple::ack(reader, header.packet, version)?),
            PacketType::PubRec => Packet::PubRec(simple::ack(reader, header.packet, version)?),
            PacketType::PubRel => Packet::PubRel(simple::ack(reader, header.packet, version)?),
            PacketType::PubComp => Packet::PubComp(simple::ack(reader, header.packet, version)?),
            PacketType::Subscribe => Packet::Subscribe(simple::subscribe(reader, version)?),
            PacketType::SubAck => Packet::SubAck(simple::suback(reader, version)?),
            PacketType::Unsubscribe => Packet::Unsubscribe(simple::unsubscribe(reader, version)?),
            PacketType::UnsubAck => Packet::UnsubAck(simple::unsuback(reader, version)?),
            PacketType::PingReq => Packet::PingReq,
            PacketType::PingResp => Packet::PingResp,
            PacketType::Disconnect => Packet::Disconnect(simple::disconnect(reader, version, self.side)?),
            PacketType::Auth => Packet::Auth(simple::auth(reader, self.side)?),
        })
    }
}

/// The fixed header. [MQTT 5.0, 2.1.1]
struct Header {
    packet: PacketType,
    flags: u8,
    remaining_length: usize,
    header_size: usize,
    /// The length took no more bytes than it needs.
    minimal: bool,
}

impl Header {
    fn packet_size(&self) -> usize {
        self.header_size + self.remaining_length
    }
}
