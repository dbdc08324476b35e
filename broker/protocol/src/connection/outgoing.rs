//! Messages to the client: what may be sent now, what is sent again, what its acknowledgements mean.

use std::collections::VecDeque;

use mqgate_codec::{Ack, Packet, PacketId, QoS, ReasonCode};

use super::Effect;
use super::aliases::Aliases;
use super::online::Online;
use crate::bridge::came_blindly;
use crate::outbox::{DropReason, Origin, Outgoing};
use crate::session::{Acknowledged, Delivery, Redelivery};
use crate::time::Instant;

/// What a PUBLISH takes at most besides what [`Message::size`] counts and its Subscription Identifiers.
///
/// [`Message::size`]: crate::message::Message::size
const PUBLISH_FRAME: usize = 64;

impl Online {
    /// What may be taken from the outbox: nothing while retained messages wait, because they are older.
    pub(super) fn quota(&self) -> Option<usize> {
        let quota = self.session.inflight.quota(self.terms.receive_maximum);
        self.session.backlog.is_empty().then_some(quota)
    }

    /// Sends again what an earlier connection left, as far as the client takes it.
    pub(super) fn pump(&mut self, effects: &mut VecDeque<Effect>) {
        while let Some(redelivery) = self.session.inflight.redeliver(self.terms.receive_maximum) {
            match redelivery {
                Redelivery::Publish(delivery) => self.push_delivery(delivery, effects),
                Redelivery::Release(packet_id) => {
                    let ack = self.ack(packet_id, ReasonCode::SUCCESS);
                    self.send(Packet::PubRel(ack), effects);
                }
            }
        }
    }

    /// Retained messages, as far as the client takes them and `bytes` go.
    pub(super) fn send_backlog(
        &mut self,
        now: Instant,
        bytes: usize,
        effects: &mut VecDeque<Effect>,
    ) -> bool {
        let (mut taken, mut any) = (0, false);
        while taken < bytes
            && let Some(next) = self.session.backlog.front()
        {
            let blocked =
                next.qos != QoS::AtMostOnce && self.session.inflight.quota(self.terms.receive_maximum) == 0;
            if blocked {
                break;
            }
            let Some(next) = self.session.backlog.pop_front() else { break };
            taken = next.message.size().saturating_add(taken);
            any = true;
            self.deliver(now, next, effects);
        }
        if self.session.backlog.is_empty() && self.session.backlog.capacity() > 0 {
            self.session.backlog = VecDeque::new();
        }
        any
    }

    /// Takes retained messages as far as there is room.
    pub(super) fn retained(
        &mut self,
        mut messages: Vec<Outgoing>,
        limit: usize,
        effects: &mut VecDeque<Effect>,
    ) {
        let room = limit.saturating_sub(self.session.backlog.len());
        if messages.len() > room {
            effects
                .push_back(Effect::Dropped { reason: DropReason::QueueFull, count: messages.len() - room });
            messages.truncate(room);
        }
        self.session.backlog.extend(messages);
    }

    /// Messages that still wait, and that the permit does not let the client have, go.
    pub(super) fn review_messages(&mut self, effects: &mut VecDeque<Effect>) {
        let permit = &self.permit;
        let waiting = self.session.backlog.len();
        self.session.backlog.retain(|outgoing| permit.may_receive(&outgoing.message.topic));
        let unsent = self.session.inflight.forget_unsent(|message| permit.may_receive(&message.topic));
        let count = waiting - self.session.backlog.len() + unsent;
        if count > 0 {
            effects.push_back(Effect::Dropped { reason: DropReason::NotPermitted, count });
        }
        effects.push_back(Effect::ReviewMail);
    }

    pub(super) fn deliver(&mut self, now: Instant, outgoing: Outgoing, effects: &mut VecDeque<Effect>) {
        if outgoing.message.is_expired(now) {
            effects.push_back(Effect::Dropped { reason: DropReason::Expired, count: 1 }); // [MQTT-3.3.2-5]
            return;
        }
        if self.connect.bridge && came_blindly(outgoing.message.properties.as_deref()) {
            effects.push_back(Effect::Dropped { reason: DropReason::NoLocal, count: 1 });
            return;
        }
        let delivery = self.session.inflight.send(outgoing);
        self.push_delivery(delivery, effects);
    }

    /// Sends a message, by an alias where the client takes them.
    fn push_delivery(&mut self, mut delivery: Delivery, effects: &mut VecDeque<Effect>) {
        if let Some(maximum) = self.terms.topic_aliases_to_client {
            // One that may not fit must not set an alias: the client would not hear of it.
            let identifiers = Origin::identifiers(delivery.origin.as_ref()).len();
            let at_most = delivery.message.size() + PUBLISH_FRAME + 5 * identifiers;
            if u32::try_from(at_most).is_ok_and(|size| size <= self.terms.maximum_packet_size) {
                let aliases = self.our_aliases.get_or_insert_with(|| Box::new(Aliases::new(maximum)));
                delivery.alias = Some(aliases.alias(&delivery.message.topic));
            }
        }
        effects.push_back(Effect::Deliver(delivery));
    }

    /// A message the client cannot take counts as delivered [MQTT-3.1.2-25].
    pub(super) fn too_large(&mut self, packet_id: Option<PacketId>, effects: &mut VecDeque<Effect>) {
        effects.push_back(Effect::Dropped { reason: DropReason::TooLarge, count: 1 });
        if let Some(packet_id) = packet_id {
            self.session.inflight.abandon(packet_id);
            self.pump(effects);
        }
    }

    pub(super) fn puback(&mut self, packet_id: PacketId, effects: &mut VecDeque<Effect>) {
        if self.session.inflight.puback(packet_id) == Acknowledged::Finished {
            self.pump(effects);
        }
    }

    pub(super) fn pubrec(&mut self, ack: &Ack, effects: &mut VecDeque<Effect>) {
        match self.session.inflight.pubrec(ack.packet_id, !ack.reason.is_error()) {
            Acknowledged::Finished => self.pump(effects),
            Acknowledged::Release => {
                let release = self.ack(ack.packet_id, ReasonCode::SUCCESS);
                self.send(Packet::PubRel(release), effects); // [MQTT-4.3.3-6]
            }
            // An error for an unknown id asks for no answer.
            Acknowledged::Unknown if ack.reason.is_error() => {}
            Acknowledged::Unknown => {
                let release = self.ack(ack.packet_id, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND);
                self.send(Packet::PubRel(release), effects);
            }
        }
    }

    pub(super) fn pubcomp(&mut self, packet_id: PacketId, effects: &mut VecDeque<Effect>) {
        if self.session.inflight.pubcomp(packet_id) == Acknowledged::Finished {
            self.pump(effects);
        }
    }
}
