//! A client that is connected: which packet goes where, its time limits, and how it ends.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use mqgate_codec::{
    Ack, Connect, Disconnect, Packet, PacketId, ProtocolVersion, ReasonCode, TopicFilter, TopicName,
};
use mqgate_identity::reason::Reason;

use super::aliases::Aliases;
use super::authentication::Exchange;
use super::rate::Rate;
use super::terms::Terms;
use super::{Connection, Denied, DeniedAction, Effect, Fault, Initiator, Input, State, bars};
use crate::message::Message;
use crate::permit::Permit;
use crate::session::{PendingWill, Session, SessionExpiry};
use crate::time::Instant;

/// After a try at which nobody could be asked about a permit, the next comes after this long or sooner.
const ASK_AGAIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Online {
    pub(super) connect: Arc<Connect>,
    pub(super) terms: Terms,
    pub(super) permit: Box<Permit>,
    pub(super) session: Session,
    /// By alias, from 1 on.
    pub(super) aliases: Vec<Option<TopicName>>,
    /// Those that this side set; none before the first message.
    pub(super) our_aliases: Option<Box<Aliases>>,
    pub(super) exchange: Exchange,
    /// Messages of QoS 1 that are being routed.
    pub(super) unacknowledged: usize,
    pub(super) rate: Option<Box<Rate>>,
    /// The client published too fast and is not read until then.
    pub(super) paused_until: Option<Instant>,
    /// When the gate is to be asked about the permit; `None` also while it is asked.
    permit_ends: Option<Instant>,
    /// Whether the will may still be published.
    will: bool,
    /// The driver has no room for what the client says.
    unread: bool,
    /// Ids in [`Session::received`] that came on an earlier connection, and not yet again on this one.
    pub(super) received_before: BTreeSet<PacketId>,
    /// Exclusive filters of the SUBSCRIBE at hand that other sessions have.
    pub(super) taken: Vec<TopicFilter>,
    last_packet: Instant,
}

/// How a client's DISCONNECT ends the connection.
struct Goodbye {
    code: ReasonCode,
    with_will: bool,
}

impl Connection {
    /// What comes for every message does not end the connection by itself, so the state stays where it is.
    pub(super) fn is_everyday(&self, input: &Input) -> bool {
        let everyday = matches!(
            input,
            Input::Packet(
                Packet::Publish(_)
                    | Packet::PubAck(_)
                    | Packet::PubRec(_)
                    | Packet::PubRel(_)
                    | Packet::PubComp(_)
                    | Packet::PingReq
            ) | Input::Deliver(_)
                | Input::Published { .. }
        );
        everyday && matches!(self.state, State::Online(_))
    }

    pub(super) fn everyday(&mut self, now: Instant, input: Input) {
        let Self { state: State::Online(online), limits, effects } = self else { return };
        let done = match input {
            Input::Packet(packet) => {
                online.last_packet = now;
                online.packet(now, packet, limits, effects)
            }
            Input::Deliver(outgoing) => {
                online.deliver(now, outgoing, effects);
                Ok(())
            }
            Input::Published { acknowledgement, routed } => {
                online.published(acknowledgement, routed, effects);
                Ok(())
            }
            _ => Ok(()), // Not of every day.
        };
        match done {
            Ok(()) => online.ask_when_over(now, effects),
            Err(fault) => self.fail(now, fault),
        }
    }

    pub(super) fn online(&mut self, now: Instant, mut online: Box<Online>, input: Input) -> State {
        let done = match input {
            Input::Packet(Packet::Disconnect(disconnect)) => {
                match online.goodbye(&disconnect, &self.limits) {
                    Ok(goodbye) => return self.leave(now, online, &goodbye),
                    Err(fault) => Err(fault),
                }
            }
            Input::Packet(packet) => {
                online.last_packet = now;
                online.packet(now, packet, &self.limits, &mut self.effects)
            }
            Input::Malformed { error, .. } => Err(Fault::Malformed(error)),
            Input::Published { acknowledgement, routed } => {
                online.published(acknowledgement, routed, &mut self.effects);
                Ok(())
            }
            Input::Deliver(outgoing) => {
                online.deliver(now, outgoing, &mut self.effects);
                Ok(())
            }
            Input::Retained(messages) => {
                online.retained(messages, self.limits.retained_backlog, &mut self.effects);
                Ok(())
            }
            Input::TooLarge(packet_id) => {
                online.too_large(packet_id, &mut self.effects);
                Ok(())
            }
            Input::Challenge(data) => online.challenge_again(now, data, &self.limits, &mut self.effects),
            Input::Reauthenticated(permit) => {
                online.reauthenticated(now, permit, &self.limits, &mut self.effects)
            }
            Input::Reauthorized(permit) => {
                online.replace_permit(now, permit, &self.limits, &mut self.effects);
                Ok(())
            }
            Input::PermitKept => {
                online.keep_permit(now);
                Ok(())
            }
            Input::Close { code, reason } => {
                online.will &= !bars(reason);
                return self.dismiss(now, online, code, reason);
            }
            Input::TransportClosed => {
                let session = online.finish(now, true);
                return self.closed(
                    Some(session),
                    Initiator::Network,
                    ReasonCode::UNSPECIFIED_ERROR,
                    Reason::Other,
                );
            }
            Input::Admitted(_)
            | Input::Refused(_)
            | Input::SessionOpened { .. }
            | Input::SessionRefused(_) => Ok(()), // Answers to what was not asked.
        };
        match done {
            Ok(()) => {
                // A client that keeps the driver busy does not put this off: its timer comes last.
                online.ask_when_over(now, &mut self.effects);
                State::Online(online)
            }
            Err(fault) => self.dismiss_for(now, online, fault),
        }
    }

    /// The client said DISCONNECT.
    fn leave(&mut self, now: Instant, mut online: Box<Online>, goodbye: &Goodbye) -> State {
        let session = online.finish(now, goodbye.with_will);
        self.closed(Some(session), Initiator::Client, goodbye.code, Reason::Ok)
    }

    pub(super) fn fail(&mut self, now: Instant, fault: Fault) {
        let state = std::mem::replace(&mut self.state, State::Closed { session: None });
        self.state = match state {
            State::Online(online) => self.dismiss_for(now, online, fault),
            state @ (State::AwaitingConnect { .. }
            | State::AwaitingVerdict { .. }
            | State::AwaitingProof { .. }
            | State::AwaitingSession { .. }
            | State::Closed { .. }) => state,
        };
    }

    /// The client did something wrong.
    fn dismiss_for(&mut self, now: Instant, online: Box<Online>, fault: Fault) -> State {
        let reason_string = self.limits.reason_strings.then(|| fault.to_string().into());
        self.farewell(&online, fault.code(), reason_string);
        self.vanish(now, *online, fault)
    }

    /// This side ends it.
    fn dismiss(&mut self, now: Instant, mut online: Box<Online>, code: ReasonCode, reason: Reason) -> State {
        self.farewell(&online, code, None);
        let session = online.finish(now, true);
        self.closed(Some(session), Initiator::Server, code, reason)
    }

    /// Only an MQTT 5.0 client can be told why.
    fn farewell(&mut self, online: &Online, code: ReasonCode, reason_string: Option<ByteString>) {
        if online.terms.version != ProtocolVersion::V5 {
            return;
        }
        let elsewhere = matches!(code, ReasonCode::USE_ANOTHER_SERVER | ReasonCode::SERVER_MOVED);
        let server_reference =
            self.limits.server_reference.as_deref().filter(|_| elsewhere).map(ByteString::from);
        let disconnect =
            Disconnect { reason_string, server_reference, ..Disconnect::new(disconnect_code(code)) };
        online.send(Packet::Disconnect(disconnect), &mut self.effects);
    }

    /// Ends without a word.
    pub(super) fn vanish(&mut self, now: Instant, mut online: Online, fault: Fault) -> State {
        let session = online.finish(now, true);
        self.closed(Some(session), Initiator::Server, fault.code(), fault.reason())
    }
}

/// DISCONNECT has no word for a few refusals [MQTT-3.14.2-1].
fn disconnect_code(code: ReasonCode) -> ReasonCode {
    if code.is_allowed_in(mqgate_codec::PacketType::Disconnect) && code.is_error() {
        return code;
    }
    match code {
        ReasonCode::BANNED
        | ReasonCode::BAD_USER_NAME_OR_PASSWORD
        | ReasonCode::BAD_AUTHENTICATION_METHOD => ReasonCode::NOT_AUTHORIZED,
        ReasonCode::SERVER_UNAVAILABLE => ReasonCode::SERVER_BUSY,
        ReasonCode::CLIENT_IDENTIFIER_NOT_VALID => ReasonCode::PROTOCOL_ERROR,
        _ => ReasonCode::UNSPECIFIED_ERROR,
    }
}

impl Online {
    pub(super) fn new(
        now: Instant,
        connect: Arc<Connect>,
        terms: Terms,
        permit: Box<Permit>,
        session: Session,
    ) -> Self {
        let rate = Rate::new(&permit.limits, now);
        let received_before = session.received.clone();
        let mut online = Self {
            connect,
            terms,
            permit,
            session,
            aliases: Vec::new(),
            our_aliases: None,
            exchange: Exchange::None,
            unacknowledged: 0,
            rate,
            paused_until: None,
            permit_ends: None,
            will: true,
            unread: false,
            received_before,
            taken: Vec::new(),
            last_packet: now,
        };
        online.renew_permit(now);
        online
    }

    fn packet(
        &mut self,
        now: Instant,
        packet: Packet,
        limits: &crate::limits::Limits,
        effects: &mut VecDeque<Effect>,
    ) -> Result<(), Fault> {
        match packet {
            Packet::Publish(publish) => {
                return self.publish(now, publish, limits, effects);
            }
            Packet::PubAck(ack) => self.puback(ack.packet_id, effects),
            Packet::PubRec(ack) => self.pubrec(&ack, effects),
            Packet::PubRel(ack) => self.pubrel(ack.packet_id, effects),
            Packet::PubComp(ack) => self.pubcomp(ack.packet_id, effects),
            Packet::Subscribe(subscribe) => {
                self.subscribe(&subscribe, limits.filter_bytes_per_session, effects);
            }
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe, effects),
            Packet::PingReq => effects.push_back(Effect::Send(Packet::PingResp)), // [MQTT-3.12.4-1]
            Packet::Connect(_) => return Err(Fault::SecondConnect),               // [MQTT-3.1.0-2]
            Packet::Auth(auth) => return self.auth(auth, effects),
            // DISCONNECT was taken before.
            Packet::Disconnect(_)
            | Packet::ConnAck(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => return Err(Fault::ServerPacket),
        }
        Ok(())
    }

    /// What a new permit does not cover any more ends here, also what was promised for later.
    pub(super) fn replace_permit(
        &mut self,
        now: Instant,
        permit: Box<Permit>,
        limits: &crate::limits::Limits,
        effects: &mut VecDeque<Effect>,
    ) {
        let older = std::mem::replace(&mut self.permit, permit);
        self.renew_permit(now);
        self.terms.renew(limits, &self.permit);
        let rates =
            |permit: &Permit| (permit.limits.publishes_per_second, permit.limits.publish_bytes_per_second);
        if rates(&older) != rates(&self.permit) {
            self.rate = Rate::new(&self.permit.limits, now);
        }
        if let Some(will) = self.connect.will.as_ref().filter(|_| self.will) {
            self.will = will.qos <= self.terms.maximum_qos
                && (!will.retain || self.terms.retain_available)
                && self.permit.may_publish(&will.topic, will.qos, will.retain);
            if !self.will {
                effects.push_back(Effect::Denied(Denied {
                    action: DeniedAction::Will,
                    topic: will.topic.as_text().clone(),
                    qos: will.qos,
                }));
            }
        }
        self.review_subscriptions(effects);
        if !self.permit.has_rules_of(&older) {
            self.review_messages(effects);
        }
    }

    pub(super) fn set_reading(&mut self, now: Instant, reading: bool) {
        if reading && self.unread {
            self.last_packet = now; // It was this side that did not read.
        }
        self.unread = !reading;
    }

    fn silence_ends(&self) -> Option<Instant> {
        let allowed = self.terms.silence_allowed().filter(|_| !self.unread)?;
        Some(self.last_packet.after(allowed))
    }

    /// The permit's time counts from here.
    fn renew_permit(&mut self, now: Instant) {
        self.permit_ends = self.permit.valid_for.map(|validity| now.after(validity));
    }

    /// The permit goes on because nobody could be asked: that is tried again soon.
    fn keep_permit(&mut self, now: Instant) {
        self.permit_ends = self.permit.valid_for.map(|validity| now.after(validity.min(ASK_AGAIN)));
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        // A client that is not read cannot be heard.
        let heard_from = self.paused_until.or_else(|| self.silence_ends());
        [heard_from, self.permit_ends, self.exchange_ends()].into_iter().flatten().min()
    }

    pub(super) fn timeout(&mut self, now: Instant, effects: &mut VecDeque<Effect>) -> Option<Fault> {
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
            self.last_packet = now; // It was this side that did not read.
        }
        let silent = self.silence_ends().is_some_and(|at| at <= now);
        if silent && self.paused_until.is_none() {
            return Some(Fault::KeepAlive);
        }
        if self.exchange_ends().is_some_and(|at| at <= now) {
            return Some(Fault::AuthenticationTimeout);
        }
        self.ask_when_over(now, effects);
        None
    }

    fn ask_when_over(&mut self, now: Instant, effects: &mut VecDeque<Effect>) {
        if self.permit_ends.take_if(|end| *end <= now).is_some() {
            effects.push_back(Effect::Reauthorize);
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused_until.is_some()
    }

    /// Queues a packet as far as the client takes it.
    pub(super) fn send(&self, mut packet: Packet, effects: &mut VecDeque<Effect>) {
        if !self.terms.problem_information {
            packet.strip_problem_information(); // [MQTT-3.1.2-29]
        }
        let limited = self.terms.maximum_packet_size != u32::MAX;
        // What does not fit is not sent [MQTT-3.1.2-25].
        if !limited || packet.fit(self.terms.version, self.terms.maximum_packet_size).is_ok() {
            effects.push_back(Effect::Send(packet));
        }
    }

    /// An acknowledgement; with its reason where the version has one.
    pub(super) fn ack(&self, packet_id: PacketId, reason: ReasonCode) -> Ack {
        match self.terms.version {
            ProtocolVersion::V5 => Ack::new(packet_id, reason),
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => Ack::success(packet_id),
        }
    }

    fn goodbye(&mut self, disconnect: &Disconnect, limits: &crate::limits::Limits) -> Result<Goodbye, Fault> {
        if let Some(seconds) = disconnect.session_expiry_interval {
            let asked_at_connect = self.connect.properties.session_expiry_interval.unwrap_or(0);
            if asked_at_connect == 0 && seconds != 0 {
                return Err(Fault::SessionExpiryRevived); // [MQTT-3.1.2-23] and 3.14.2.2.2
            }
            let granted =
                self.permit.limits.session_expiry.map_or(SessionExpiry::Never, SessionExpiry::from_seconds);
            self.session.expiry =
                SessionExpiry::from_seconds(seconds).min(granted).at_most(limits.session_expiry_maximum);
        }
        // Only a normal disconnection takes the will back [MQTT-3.14.4-3].
        Ok(Goodbye { code: disconnect.reason, with_will: disconnect.reason != ReasonCode::SUCCESS })
    }

    /// The session as it outlives this connection.
    fn finish(&mut self, now: Instant, with_will: bool) -> Box<Session> {
        let placeholder =
            Session::new(self.session.key, ByteString::new(), Arc::clone(&self.session.device_id));
        let mut session = std::mem::replace(&mut self.session, placeholder);
        session.ends_at = session.expiry.ends_at(now);
        session.inflight.restart();
        if let Some(will) = self.connect.will.as_ref().filter(|_| with_will && self.will) {
            let due = now.after_seconds(will.delay_interval);
            let due = session.ends_at.map_or(due, |end| due.min(end)); // [MQTT-3.1.3-9]
            let message = Message::from_will(will.clone(), session.key, due);
            session.will = Some(PendingWill { message, due });
        }
        Box::new(session)
    }
}
