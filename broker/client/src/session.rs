//! The client's half of the protocol after CONNACK: packet identifiers, QoS flows, subscriptions.
//!
//! Knows no socket and no time. Packets and commands go in; bytes to send gather in `output`.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use mqgate_codec::{
    Ack, ConnAck, DecodeError, Disconnect, EncodeError, Output, Packet, PacketId, PacketType,
    ProtocolVersion, Publish, QoS, ReasonCode, SubAck, Subscribe, TopicName, UnsubAck, Unsubscribe,
    encoded_len,
};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::{ClientError, Delivery, Message, Token};

/// Where the result of a command goes. Whoever asked may have gone away, which is no error.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, ClientError>>;

/// What a user asks for. Packet identifiers are given here, not by the user.
pub(crate) enum Command {
    /// `expires_at` is what the Message Expiry Interval means, if there is one.
    Publish {
        publish: Publish,
        expires_at: Option<Instant>,
        reply: Reply<ReasonCode>,
    },
    Subscribe {
        subscribe: Subscribe,
        reply: Reply<Vec<ReasonCode>>,
    },
    Unsubscribe {
        unsubscribe: Unsubscribe,
        reply: Reply<Vec<ReasonCode>>,
    },
    Disconnect(Disconnect),
}

/// Stands in packets of commands until one is assigned.
pub(crate) const UNASSIGNED: PacketId = PacketId(std::num::NonZeroU16::MIN);

/// Sent, and not yet answered to the end.
enum Pending {
    /// QoS 1 waits for PUBACK.
    PubAck(Reply<ReasonCode>, Option<Box<Kept>>),
    /// QoS 2 waits for PUBREC …
    PubRec(Reply<ReasonCode>, Option<Box<Kept>>),
    /// … and then for PUBCOMP; the reason is PUBREC's.
    PubComp(Reply<ReasonCode>, ReasonCode, Option<Box<Kept>>),
    SubAck(Reply<Vec<ReasonCode>>, usize),
    UnsubAck(Reply<Vec<ReasonCode>>, usize),
}

/// A message that may have to be sent again, on another connection.
struct Kept {
    /// Of all that were sent: in this order they are sent again. [MQTT-4.6.0-1]
    number: u64,
    publish: Publish,
    expires_at: Option<Instant>,
}

/// A message that was handed on, of which whoever got it says when it is acknowledged.
struct InHand {
    qos: QoS,
    /// It came on this connection: there is somebody to be answered.
    asked: bool,
    done: bool,
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
    Message(Delivery),
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
    /// Only where the session outlives the connection.
    lasting: Option<Lasting>,
}

/// What a session needs that goes on with another connection.
#[derive(Default)]
struct Lasting {
    /// Counts messages that were sent.
    number: u64,
    /// Still to be sent again on this connection, in order.
    again: VecDeque<PacketId>,
    /// Messages that are acknowledged by hand; `None`: each is on receipt.
    in_hand: Option<BTreeMap<PacketId, InHand>>,
    /// The server has our session from before: it knows what is sent again.
    known: bool,
    /// Whether there was a connection before.
    began: bool,
    /// The server has a session of ours that we know nothing of: it may hold messages of QoS 2 under packet
    /// identifiers that we have not used yet, and would take new ones for the same.
    stale: bool,
    /// Counts sessions of the server: an acknowledgement is for the one that its message came from.
    era: u64,
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
            lasting: None,
        }
    }

    /// One that waits for its first connection.
    pub(crate) fn lasting(version: ProtocolVersion, by_hand: bool) -> Self {
        let nothing = ConnAck {
            session_present: false,
            code: mqgate_codec::ConnAckCode::V5(ReasonCode::SUCCESS),
            properties: mqgate_codec::ConnAckProperties::default(),
        };
        let in_hand = by_hand.then(BTreeMap::new);
        let lasting = Some(Lasting { in_hand, ..Lasting::default() });
        Self { lasting, ..Self::new(version, None, None, &nothing) }
    }

    /// Goes on with a new connection. What was not acknowledged is sent again, as what it was to a server that
    /// has our session, and as new to one that has lost it: better twice than never.
    pub(crate) fn resume(
        &mut self,
        receive_maximum: Option<u16>,
        topic_alias_maximum: Option<u16>,
        connack: &ConnAck,
        now: Instant,
    ) {
        let fresh = Self::new(self.version, receive_maximum, topic_alias_maximum, connack);
        let mut lasting = self.lasting.take().unwrap_or_default();
        let mut pending = std::mem::take(&mut self.pending);
        let (next_packet_id, mut unreleased) = (self.next_packet_id, std::mem::take(&mut self.unreleased));
        // Whoever waits for these learns that the connection is closed.
        pending.retain(|_, one| !matches!(one, Pending::SubAck(..) | Pending::UnsubAck(..)));
        lasting.known = connack.session_present;
        lasting.stale = connack.session_present && (lasting.stale || !lasting.began);
        lasting.began = true;
        if connack.session_present {
            for in_hand in lasting.in_hand.iter_mut().flat_map(BTreeMap::values_mut) {
                in_hand.asked = false;
            }
        } else {
            lasting.era += 1;
            lasting.in_hand.iter_mut().for_each(BTreeMap::clear);
            unreleased.clear();
        }
        let mut again: Vec<(u64, PacketId)> = Vec::with_capacity(pending.len());
        for (id, one) in &mut pending {
            let (Pending::PubAck(_, kept) | Pending::PubRec(_, kept) | Pending::PubComp(_, _, kept)) = one
            else {
                continue;
            };
            let Some(kept) = kept else { continue };
            if let Some(at) = kept.expires_at {
                let left = at.saturating_duration_since(now).as_secs().max(1);
                kept.publish.properties.message_expiry_interval = Some(left.try_into().unwrap_or(u32::MAX));
            }
            again.push((kept.number, *id));
        }
        again.sort_unstable();
        lasting.again = again.into_iter().map(|(_, id)| id).collect();
        let messages_pending = pending.len();
        *self =
            Self { pending, messages_pending, next_packet_id, unreleased, lasting: Some(lasting), ..fresh };
        self.send_again();
    }

    /// As many as the server takes at once. [MQTT-4.4.0-1]
    fn send_again(&mut self) {
        while let Some(lasting) = &mut self.lasting
            && self.messages_pending - lasting.again.len() < self.send_maximum
            && let Some(id) = lasting.again.pop_front()
        {
            let known = lasting.known;
            match self.pending.remove(&id) {
                Some(Pending::PubComp(reply, reason, kept)) if known => {
                    self.send(&Packet::PubRel(Ack::success(id)));
                    self.pending.insert(id, Pending::PubComp(reply, reason, kept));
                }
                Some(
                    Pending::PubAck(reply, Some(kept))
                    | Pending::PubRec(reply, Some(kept))
                    | Pending::PubComp(reply, _, Some(kept)),
                ) => {
                    let qos = kept.publish.qos;
                    // [MQTT-3.3.1-1]
                    let again = Publish { dup: known, packet_id: Some(id), ..kept.publish.clone() };
                    let pushed = match self.refused(&again) {
                        Some(reason) => Err(ClientError::NotSupported(reason)),
                        None => self.push(&Packet::Publish(again)),
                    };
                    match pushed {
                        Ok(()) if qos == QoS::ExactlyOnce => {
                            self.pending.insert(id, Pending::PubRec(reply, Some(kept)));
                        }
                        Ok(()) => {
                            self.pending.insert(id, Pending::PubAck(reply, Some(kept)));
                        }
                        Err(error) => {
                            self.messages_pending -= 1;
                            answer(reply, Err(error));
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Whoever got the message is done with it: it is acknowledged now, or when the server asks again.
    pub(crate) fn acknowledge(&mut self, token: Token) {
        let Some(lasting) = self.lasting.as_mut().filter(|lasting| lasting.era == token.era) else { return };
        let Some(in_hand) = &mut lasting.in_hand else { return };
        let Some(message) = in_hand.get_mut(&token.packet_id) else { return };
        message.done = true;
        if !message.asked {
            return;
        }
        match message.qos {
            QoS::ExactlyOnce => self.send(&Packet::PubRec(Ack::success(token.packet_id))),
            QoS::AtLeastOnce | QoS::AtMostOnce => {
                in_hand.remove(&token.packet_id);
                self.send(&Packet::PubAck(Ack::success(token.packet_id)));
            }
        }
    }

    /// Whether one more command can be taken. When not, an acknowledgement has to come first.
    pub(crate) fn has_room(&self) -> bool {
        let again = self.lasting.as_ref().is_some_and(|lasting| !lasting.again.is_empty());
        !again && self.messages_pending < self.send_maximum && self.pending.len() < usize::from(u16::MAX)
    }

    pub(crate) fn command(&mut self, command: Command) {
        match command {
            Command::Publish { publish, expires_at, reply } => self.publish(publish, expires_at, reply),
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

    /// What the server does not take.
    fn refused(&self, publish: &Publish) -> Option<ReasonCode> {
        if publish.qos > self.maximum_qos {
            Some(ReasonCode::QOS_NOT_SUPPORTED) // [MQTT-3.2.2-11]
        } else if publish.retain && !self.retain_available {
            Some(ReasonCode::RETAIN_NOT_SUPPORTED) // [MQTT-3.2.2-14]
        } else {
            None
        }
    }

    fn publish(&mut self, mut publish: Publish, expires_at: Option<Instant>, reply: Reply<ReasonCode>) {
        if let Some(reason) = self.refused(&publish) {
            return answer(reply, Err(ClientError::NotSupported(reason)));
        }
        let qos = publish.qos;
        let id = (qos != QoS::AtMostOnce).then(|| self.packet_id());
        publish.packet_id = id;
        if let Some(id) = id
            && qos == QoS::ExactlyOnce
            && self.lasting.as_ref().is_some_and(|lasting| lasting.stale)
        {
            // Whatever is held there is finished; of a server that holds nothing the answer is passed over.
            self.send(&Packet::PubRel(Ack::success(id)));
        }
        let kept = self.lasting.as_mut().filter(|_| id.is_some()).map(|lasting| {
            lasting.number += 1;
            Box::new(Kept { number: lasting.number, publish: publish.clone(), expires_at })
        });
        match (self.push(&Packet::Publish(publish)), id, qos) {
            (Err(error), _, _) => answer(reply, Err(error)),
            (Ok(()), None, _) => answer(reply, Ok(ReasonCode::SUCCESS)),
            (Ok(()), Some(id), QoS::ExactlyOnce) => self.expect(id, Pending::PubRec(reply, kept)),
            (Ok(()), Some(id), QoS::AtMostOnce | QoS::AtLeastOnce) => {
                self.expect(id, Pending::PubAck(reply, kept));
            }
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
                Some(Pending::PubAck(reply, _)) => self.finish_message(reply, ack.reason),
                other => self.unasked(ack.packet_id, other, packet_type)?,
            },
            Packet::PubRec(ack) => self.pubrec(&ack)?,
            Packet::PubComp(ack) => match self.pending.remove(&ack.packet_id) {
                Some(Pending::PubComp(reply, reason, _)) => self.finish_message(reply, reason),
                other => self.unasked(ack.packet_id, other, packet_type)?,
            },
            Packet::PubRel(ack) => {
                let known = match self.in_hand() {
                    Some(in_hand) => in_hand.remove(&ack.packet_id).is_some(),
                    None => self.unreleased.remove(&ack.packet_id),
                };
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
        if let (Some(id), Some(lasting)) = (publish.packet_id, &self.lasting)
            && lasting.in_hand.is_some()
        {
            let token = Token { packet_id: id, era: lasting.era };
            let first = self.take_in_hand(id, publish.qos, publish.dup)?;
            return Ok(if first { received(topic, publish, Some(token)) } else { Received::Nothing });
        }
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
        Ok(received(topic, publish, None))
    }

    fn in_hand(&mut self) -> Option<&mut BTreeMap<PacketId, InHand>> {
        self.lasting.as_mut()?.in_hand.as_mut()
    }

    /// Whether it is to be handed on. One that was before is answered as soon as whoever got it is done.
    fn take_in_hand(&mut self, id: PacketId, qos: QoS, dup: bool) -> Result<bool, Fault> {
        let receive_maximum = self.receive_maximum;
        let Some(in_hand) = self.in_hand() else { return Ok(true) };
        // At QoS 1 an identifier may be used anew as soon as our acknowledgement has arrived. [MQTT-4.3.2-5]
        let known = in_hand.get_mut(&id).filter(|known| known.qos == qos && (dup || qos == QoS::ExactlyOnce));
        let Some(known) = known else {
            in_hand.insert(id, InHand { qos, asked: true, done: false });
            if in_hand.values().filter(|message| message.asked).count() > receive_maximum {
                return Err(Fault::ReceiveMaximum); // [MQTT-3.3.4-9]
            }
            return Ok(true);
        };
        known.asked = true;
        if known.done {
            match qos {
                QoS::ExactlyOnce => self.send(&Packet::PubRec(Ack::success(id))),
                QoS::AtLeastOnce | QoS::AtMostOnce => {
                    in_hand.remove(&id);
                    self.send(&Packet::PubAck(Ack::success(id)));
                }
            }
        }
        Ok(false)
    }

    /// An acknowledgement that nothing waits for. On a session that goes on it may be late, which harms nobody.
    fn unasked(&mut self, id: PacketId, other: Option<Pending>, packet: PacketType) -> Result<(), Fault> {
        if self.lasting.is_none() {
            return Err(Fault::Unexpected(packet));
        }
        if let Some(other) = other {
            self.pending.insert(id, other);
        }
        Ok(())
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
            Some(Pending::PubRec(reply, _)) if ack.reason.is_error() => {
                self.finish_message(reply, ack.reason); // No PUBREL follows. [MQTT 5.0, 4.3.3]
            }
            Some(Pending::PubRec(reply, kept)) => {
                self.send(&Packet::PubRel(Ack::success(ack.packet_id))); // [MQTT-4.3.3-4]
                self.pending.insert(ack.packet_id, Pending::PubComp(reply, ack.reason, kept));
            }
            // The server says it again: so do we.
            Some(again @ Pending::PubComp(..)) => {
                self.pending.insert(ack.packet_id, again);
                self.send(&Packet::PubRel(Ack::success(ack.packet_id)));
            }
            Some(Pending::PubAck(..) | Pending::SubAck(..) | Pending::UnsubAck(..)) => {
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
        self.send_again();
    }

    fn expect(&mut self, id: PacketId, pending: Pending) {
        if matches!(pending, Pending::PubAck(..) | Pending::PubRec(..)) {
            self.messages_pending += 1;
        }
        self.pending.insert(id, pending);
    }

    /// An identifier that is not in use, which [`Session::has_room`] promises. [MQTT-2.2.1-3]
    fn packet_id(&mut self) -> PacketId {
        loop {
            let id = self.next_packet_id;
            self.next_packet_id = PacketId::new(id.get().wrapping_add(1)).unwrap_or(UNASSIGNED);
            if let Some(lasting) = self.lasting.as_mut().filter(|_| id.get() == u16::MAX) {
                lasting.stale = false; // Every identifier was used.
            }
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

fn received(topic: TopicName, publish: Publish, token: Option<Token>) -> Received {
    let Publish { dup, qos, retain, payload, properties, .. } = publish;
    let message = Message { topic, payload, qos, retain, dup, properties };
    Received::Message(Delivery { message, token })
}

fn answer<T>(reply: Reply<T>, result: Result<T, ClientError>) {
    // The receiver may have been dropped: nobody waits for the result any more.
    let _ = reply.send(result);
}
