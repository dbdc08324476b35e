//! The client's half of the protocol after CONNACK: packet identifiers, QoS flows, subscriptions.
//!
//! Knows no socket and no time. Packets and commands go in; bytes to send gather in `output`.

use std::collections::{HashMap, HashSet};

use mqgate_codec::{
    Ack, ConnAck, DecodeError, Disconnect, EncodeError, Output, Packet, PacketId, PacketType,
    ProtocolVersion, Publish, QoS, ReasonCode, SubAck, Subscribe, TopicName, UnsubAck, Unsubscribe,
    encoded_len,
};
use tokio::sync::oneshot;

use crate::{ClientError, Message};

/// Where the result of a command goes. Whoever asked may have gone away, which is no error.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, ClientError>>;

/// What a user asks for. Packet identifiers are given here, not by the user.
pub(crate) enum Command {
    Publish { publish: Publish, reply: Reply<ReasonCode> },
    Subscribe { subscribe: Subscribe, reply: Reply<Vec<ReasonCode>> },
    Unsubscribe { unsubscribe: Unsubscribe, reply: Reply<Vec<ReasonCode>> },
    Disconnect(Disconnect),
}

/// Stands in packets of commands until one is assigned.
pub(crate) const UNASSIGNED: PacketId = PacketId(std::num::NonZeroU16::MIN);

/// Sent, and not yet answered to the end.
enum Pending {
    /// QoS 1 waits for PUBACK.
    PubAck(Reply<ReasonCode>),
    /// QoS 2 waits for PUBREC …
    PubRec(Reply<ReasonCode>),
    /// … and then for PUBCOMP; the reason is PUBREC's.
    PubComp(Reply<ReasonCode>, ReasonCode),
    SubAck(Reply<Vec<ReasonCode>>, usize),
    UnsubAck(Reply<Vec<ReasonCode>>, usize),
}

/// Why the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("the server sent something wrong: {0}")]
    Decode(#[from] DecodeError),
    #[error("the server sent a {0} that does not fit")]
    Unexpected(PacketType),
    #[error("the server used topic alias {0}, which stands for nothing")]
    TopicAlias(u16),
    #[error("the server sent more unacknowledged messages than we allow")]
    ReceiveMaximum,
}

impl Fault {
    /// What the server hears.
    pub(crate) fn reason(self) -> ReasonCode {
        match self {
            Self::Decode(error) => error.reason(),
            Self::Unexpected(_) => ReasonCode::PROTOCOL_ERROR,
            Self::TopicAlias(_) => ReasonCode::TOPIC_ALIAS_INVALID,
            Self::ReceiveMaximum => ReasonCode::RECEIVE_MAXIMUM_EXCEEDED,
        }
    }
}

/// What a packet meant for those outside.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Nothing,
    Message(Message),
    PingResp,
    Disconnect(Disconnect),
}

pub(crate) struct Session {
    version: ProtocolVersion,
    /// Waiting to be written.
    pub(crate) output: Output,
    pending: HashMap<PacketId, Pending>,
    /// How many of `pending` are messages. Never above `send_maximum`. [MQTT-3.3.4-7]
    messages_pending: usize,
    send_maximum: usize,
    next_packet_id: PacketId,
    /// QoS 2 messages that were handed on and wait for PUBREL. [MQTT-4.3.3-10]
    unreleased: HashSet<PacketId>,
    receive_maximum: usize,
    topic_aliases: HashMap<u16, TopicName>,
    topic_alias_maximum: u16,
    maximum_packet_size: u32,
    maximum_qos: QoS,
    retain_available: bool,
}

impl Session {
    /// After `connack` answered a CONNECT of `version` with these two maximums (`None`: not sent).
    pub(crate) fn new(
        version: ProtocolVersion,
        receive_maximum: Option<u16>,
        topic_alias_maximum: Option<u16>,
        connack: &ConnAck,
    ) -> Self {
        let server = &connack.properties;
        Self {
            version,
            output: Output::new(),
            pending: HashMap::new(),
            messages_pending: 0,
            send_maximum: server
                .receive_maximum
                .map_or(usize::from(u16::MAX), |maximum| maximum.get().into()),
            next_packet_id: UNASSIGNED,
            unreleased: HashSet::new(),
            receive_maximum: receive_maximum.unwrap_or(u16::MAX).into(),
            topic_aliases: HashMap::new(),
            topic_alias_maximum: topic_alias_maximum.unwrap_or(0),
            maximum_packet_size: server.maximum_packet_size.map_or(u32::MAX, Into::into),
            maximum_qos: server.maximum_qos.unwrap_or(QoS::ExactlyOnce),
            retain_available: server.retain_available.unwrap_or(true),
        }
    }

    /// Whether one more command can be taken. When not, an acknowledgement has to come first.
    pub(crate) fn has_room(&self) -> bool {
        self.messages_pending < self.send_maximum && self.pending.len() < usize::from(u16::MAX)
    }

    pub(crate) fn command(&mut self, command: Command) {
        match command {
            Command::Publish { publish, reply } => self.publish(publish, reply),
            Command::Subscribe { mut subscribe, reply } => {
                let id = self.packet_id();
                subscribe.packet_id = id;
                let count = subscribe.filters.len();
                match self.push(&Packet::Subscribe(subscribe)) {
                    Ok(()) => self.expect(id, Pending::SubAck(reply, count)),
                    Err(error) => answer(reply, Err(error)),
                }
            }
            Command::Unsubscribe { mut unsubscribe, reply } => {
                let id = self.packet_id();
                unsubscribe.packet_id = id;
                let count = unsubscribe.filters.len();
                match self.push(&Packet::Unsubscribe(unsubscribe)) {
                    Ok(()) => self.expect(id, Pending::UnsubAck(reply, count)),
                    Err(error) => answer(reply, Err(error)),
                }
            }
            Command::Disconnect(disconnect) => {
                // What does not fit is left out: the connection ends either way.
                let _ = self.push(&Packet::Disconnect(disconnect));
            }
        }
    }

    fn publish(&mut self, mut publish: Publish, reply: Reply<ReasonCode>) {
        let refused = if publish.qos > self.maximum_qos {
            Some(ReasonCode::QOS_NOT_SUPPORTED) // [MQTT-3.2.2-11]
        } else if publish.retain && !self.retain_available {
            Some(ReasonCode::RETAIN_NOT_SUPPORTED) // [MQTT-3.2.2-14]
        } else {
            None
        };
        if let Some(reason) = refused {
            return answer(reply, Err(ClientError::NotSupported(reason)));
        }
        let qos = publish.qos;
        let id = (qos != QoS::AtMostOnce).then(|| self.packet_id());
        publish.packet_id = id;
        match (self.push(&Packet::Publish(publish)), id, qos) {
            (Err(error), _, _) => answer(reply, Err(error)),
            (Ok(()), None, _) => answer(reply, Ok(ReasonCode::SUCCESS)),
            (Ok(()), Some(id), QoS::ExactlyOnce) => self.expect(id, Pending::PubRec(reply)),
            (Ok(()), Some(id), QoS::AtMostOnce | QoS::AtLeastOnce) => self.expect(id, Pending::PubAck(reply)),
        }
    }

    pub(crate) fn ping(&mut self) {
        self.send(&Packet::PingReq);
    }

    /// Takes a packet of the server.
    pub(crate) fn packet(&mut self, packet: Packet) -> Result<Received, Fault> {
        let packet_type = packet.packet_type();
        match packet {
            Packet::Publish(publish) => return self.message(publish),
            Packet::PubAck(ack) => match self.pending.remove(&ack.packet_id) {
                Some(Pending::PubAck(reply)) => self.finish_message(reply, ack.reason),
                _ => return Err(Fault::Unexpected(packet_type)),
            },
            Packet::PubRec(ack) => self.pubrec(&ack)?,
            Packet::PubComp(ack) => match self.pending.remove(&ack.packet_id) {
                Some(Pending::PubComp(reply, reason)) => self.finish_message(reply, reason),
                _ => return Err(Fault::Unexpected(packet_type)),
            },
            Packet::PubRel(ack) => {
                let known = self.unreleased.remove(&ack.packet_id);
                let reason =
                    if known { ReasonCode::SUCCESS } else { ReasonCode::PACKET_IDENTIFIER_NOT_FOUND };
                self.send(&Packet::PubComp(Ack::new(ack.packet_id, reason))); // [MQTT-4.3.3-11]
            }
            Packet::SubAck(suback) => self.suback(suback)?,
            Packet::UnsubAck(unsuback) => self.unsuback(unsuback)?,
            Packet::PingResp => return Ok(Received::PingResp),
            Packet::Disconnect(disconnect) => return Ok(Received::Disconnect(disconnect)),
            Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::PingReq
            | Packet::Auth(_) => return Err(Fault::Unexpected(packet_type)),
        }
        Ok(Received::Nothing)
    }

    /// A message is handed on once: at QoS 2 when its identifier is seen first. [MQTT-4.3.3-10]
    fn message(&mut self, publish: Publish) -> Result<Received, Fault> {
        let topic = self.topic(&publish)?;
        let first = match (publish.qos, publish.packet_id) {
            (QoS::AtLeastOnce, Some(id)) => {
                self.send(&Packet::PubAck(Ack::success(id))); // [MQTT-4.3.2-4]
                true
            }
            (QoS::ExactlyOnce, Some(id)) => {
                let first = self.unreleased.insert(id);
                if self.unreleased.len() > self.receive_maximum {
                    return Err(Fault::ReceiveMaximum); // [MQTT-3.3.4-9]
                }
                self.send(&Packet::PubRec(Ack::success(id))); // [MQTT-4.3.3-8]
                first
            }
            (QoS::AtMostOnce, _) | (_, None) => true,
        };
        if !first {
            return Ok(Received::Nothing);
        }
        let Publish { dup, qos, retain, payload, properties, .. } = publish;
        Ok(Received::Message(Message { topic, payload, qos, retain, dup, properties }))
    }

    /// [MQTT 5.0, 3.3.2.3.4]
    fn topic(&mut self, publish: &Publish) -> Result<TopicName, Fault> {
        let Some(alias) = publish.properties.topic_alias else {
            // The decoder lets no message through that has neither.
            return publish.topic.clone().ok_or(Fault::Unexpected(PacketType::Publish));
        };
        let alias = alias.get();
        if alias > self.topic_alias_maximum {
            return Err(Fault::TopicAlias(alias)); // [MQTT-3.1.2-26]
        }
        match &publish.topic {
            Some(topic) => {
                self.topic_aliases.insert(alias, topic.clone());
                Ok(topic.clone())
            }
            None => self.topic_aliases.get(&alias).cloned().ok_or(Fault::TopicAlias(alias)),
        }
    }

    fn pubrec(&mut self, ack: &Ack) -> Result<(), Fault> {
        match self.pending.remove(&ack.packet_id) {
            Some(Pending::PubRec(reply)) if ack.reason.is_error() => {
                self.finish_message(reply, ack.reason); // No PUBREL follows. [MQTT 5.0, 4.3.3]
            }
            Some(Pending::PubRec(reply)) => {
                self.send(&Packet::PubRel(Ack::success(ack.packet_id))); // [MQTT-4.3.3-4]
                self.pending.insert(ack.packet_id, Pending::PubComp(reply, ack.reason));
            }
            // The server says it again: so do we.
            Some(again @ Pending::PubComp(..)) => {
                self.pending.insert(ack.packet_id, again);
                self.send(&Packet::PubRel(Ack::success(ack.packet_id)));
            }
            Some(Pending::PubAck(_) | Pending::SubAck(..) | Pending::UnsubAck(..)) => {
                return Err(Fault::Unexpected(PacketType::PubRec));
            }
            None => {
                let reason = ReasonCode::PACKET_IDENTIFIER_NOT_FOUND;
                self.send(&Packet::PubRel(Ack::new(ack.packet_id, reason)));
            }
        }
        Ok(())
    }

    fn suback(&mut self, suback: SubAck) -> Result<(), Fault> {
        match self.pending.remove(&suback.packet_id) {
            Some(Pending::SubAck(reply, count)) if suback.reasons.len() == count => {
                answer(reply, Ok(suback.reasons));
                Ok(())
            }
            _ => Err(Fault::Unexpected(PacketType::SubAck)), // [MQTT-3.8.4-5]
        }
    }

    fn unsuback(&mut self, unsuback: UnsubAck) -> Result<(), Fault> {
        let reasons = |count| match self.version {
            ProtocolVersion::V5 => unsuback.reasons,
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => vec![ReasonCode::SUCCESS; count],
        };
        match self.pending.remove(&unsuback.packet_id) {
            Some(Pending::UnsubAck(reply, count)) => {
                let reasons = reasons(count);
                if reasons.len() != count {
                    return Err(Fault::Unexpected(PacketType::UnsubAck)); // [MQTT-3.11.3-1]
                }
                answer(reply, Ok(reasons));
                Ok(())
            }
            _ => Err(Fault::Unexpected(PacketType::UnsubAck)),
        }
    }

    fn finish_message(&mut self, reply: Reply<ReasonCode>, reason: ReasonCode) {
        self.messages_pending -= 1;
        answer(reply, Ok(reason));
    }

    fn expect(&mut self, id: PacketId, pending: Pending) {
        if matches!(pending, Pending::PubAck(_) | Pending::PubRec(_)) {
            self.messages_pending += 1;
        }
        self.pending.insert(id, pending);
    }

    /// An identifier that is not in use, which [`Session::has_room`] promises. [MQTT-2.2.1-3]
    fn packet_id(&mut self) -> PacketId {
        loop {
            let id = self.next_packet_id;
            self.next_packet_id = PacketId::new(id.get().wrapping_add(1)).unwrap_or(UNASSIGNED);
            if !self.pending.contains_key(&id) {
                return id;
            }
        }
    }

    /// For what the user wrote, which may be too large. [MQTT-3.2.2-15]
    fn push(&mut self, packet: &Packet) -> Result<(), ClientError> {
        let size = encoded_len(packet, self.version)?;
        let limit = self.maximum_packet_size;
        if u32::try_from(size).is_ok_and(|size| size <= limit) {
            Ok(self.output.push(packet, self.version)?)
        } else {
            Err(EncodeError::PacketTooLarge { size, limit }.into())
        }
    }

    /// For small packets of our own.
    fn send(&mut self, packet: &Packet) {
        self.output.push(packet, self.version).expect("an acknowledgement or a ping can always be written");
    }
}

fn answer<T>(reply: Reply<T>, result: Result<T, ClientError>) {
    // The receiver may have been dropped: nobody waits for the result any more.
    let _ = reply.send(result);
}
