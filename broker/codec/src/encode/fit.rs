//! Leaves out what a packet can do without. [MQTT-3.2.2-19, MQTT-3.2.2-20 and their like in each packet]

use bytestring::ByteString;

use super::encoded_len;
use crate::{EncodeError, Packet, ProtocolVersion, UserProperty};

impl Packet {
    /// Makes the packet fit a Maximum Packet Size: without its User Properties, then without its Reason
    /// String. Gives its size. An error means that it must not be sent at all. [MQTT-3.1.2-24]
    pub fn fit(&mut self, version: ProtocolVersion, maximum_packet_size: u32) -> Result<usize, EncodeError> {
        let fits = |size: usize| u32::try_from(size).is_ok_and(|size| size <= maximum_packet_size);
        let mut size = encoded_len(self, version)?;
        if fits(size) {
            return Ok(size);
        }
        if let Some((_, user_properties)) = self.problem_information() {
            user_properties.clear();
            size = encoded_len(self, version)?;
        }
        if fits(size) {
            return Ok(size);
        }
        if let Some((reason_string, _)) = self.problem_information() {
            *reason_string = None;
            size = encoded_len(self, version)?;
        }
        if fits(size) {
            Ok(size)
        } else {
            Err(EncodeError::PacketTooLarge { size, limit: maximum_packet_size })
        }
    }

    /// For a client that set Request Problem Information to 0: no Reason String and no User Properties,
    /// except in CONNACK, DISCONNECT and PUBLISH. [MQTT-3.1.2-29]
    pub fn strip_problem_information(&mut self) {
        if matches!(self, Self::ConnAck(_) | Self::Disconnect(_)) {
            return;
        }
        if let Some((reason_string, user_properties)) = self.problem_information() {
            *reason_string = None;
            user_properties.clear();
        }
    }

    /// The parts that only explain. The properties of PUBLISH and SUBSCRIBE are not of this kind.
    fn problem_information(&mut self) -> Option<(&mut Option<ByteString>, &mut Vec<UserProperty>)> {
        match self {
            Self::ConnAck(packet) => {
                Some((&mut packet.properties.reason_string, &mut packet.properties.user_properties))
            }
            Self::PubAck(packet) | Self::PubRec(packet) | Self::PubRel(packet) | Self::PubComp(packet) => {
                Some((&mut packet.reason_string, &mut packet.user_properties))
            }
            Self::SubAck(packet) => Some((&mut packet.reason_string, &mut packet.user_properties)),
            Self::UnsubAck(packet) => Some((&mut packet.reason_string, &mut packet.user_properties)),
            Self::Disconnect(packet) => Some((&mut packet.reason_string, &mut packet.user_properties)),
            Self::Auth(packet) => Some((&mut packet.reason_string, &mut packet.user_properties)),
            Self::Connect(_)
            | Self::Publish(_)
            | Self::Subscribe(_)
            | Self::Unsubscribe(_)
            | Self::PingReq
            | Self::PingResp => None,
        }
    }
}
