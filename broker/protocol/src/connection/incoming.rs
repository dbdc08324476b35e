//! Messages from the client: aliases, permits, QoS 1 and 2, flow control.

use std::collections::VecDeque;

use mqgate_codec::{
    Packet, PacketId, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, TopicName,
};

use super::online::Online;
use super::{Acknowledgement, Denied, DeniedAction, Effect, Fault, Routed};
use crate::bridge;
use crate::limits::{DeniedPublish, Limits};
use crate::message::{Message, detached_topic};
use crate::time::Instant;
use crate::topics::When;

impl Online {
    pub(super) fn publish(
        &mut self,
        now: Instant,
        mut publish: Publish,
        limits: &Limits,
        effects: &mut VecDeque<Effect>,
    ) -> Result<(), Fault> {
        if publish.qos > self.terms.maximum_qos {
            return Err(Fault::QosNotSupported); // [MQTT-3.2.2-11]
        }
        if publish.retain && !self.terms.retain_available {
            return Err(Fault::RetainNotSupported); // [MQTT-3.2.2-14]
        }
        let topic = self.resolve(&mut publish)?;
        if limits.payload_format_check && !is_as_said(&publish.properties, &publish.payload) {
            return self.misformatted(&publish, effects);
        }
        let (topic, when) = self.terms.topics.delay(topic);
        let topic = self.terms.topics.published(topic);
        self.count(now, topic.as_str().len() + publish.payload.len(), effects);
        if self.connect.bridge {
            publish.properties.user_properties.push(bridge::hop(bridge::UNKNOWN));
        }
        let acknowledgement =
            publish.packet_id.map(|packet_id| Acknowledgement { packet_id, qos: publish.qos });

        if let Some(Acknowledgement { packet_id, qos }) = acknowledgement {
            if qos == QoS::ExactlyOnce && self.session.received.contains(&packet_id) {
                // Sent again because our PUBREC was lost: not to be routed again [MQTT-4.3.3-10].
                self.received_before.remove(&packet_id);
                let again = self.ack(packet_id, ReasonCode::SUCCESS);
                self.send(Packet::PubRec(again), effects);
                return Ok(());
            }
            // What an earlier connection left is not counted before it comes again; 3.1.1 knows no maximum but
            // the number of packet ids.
            let received = self.session.received.len() - self.received_before.len();
            let under_way = received + self.unacknowledged;
            let counts = self.terms.version == ProtocolVersion::V5;
            if counts && under_way >= usize::from(self.terms.receive_maximum_from_client.get()) {
                return Err(Fault::ReceiveMaximumExceeded); // [MQTT-3.3.4-7]
            }
        }
        if when == When::Never || !self.permit.may_publish(&topic, publish.qos, publish.retain) {
            return self.deny(&topic, publish.qos, acknowledgement, limits.denied_publish, effects);
        }
        match acknowledgement {
            Some(Acknowledgement { packet_id, qos: QoS::ExactlyOnce }) => {
                self.session.received.insert(packet_id);
            }
            Some(_) => self.unacknowledged += 1,
            None => {}
        }
        let message = Message::published(topic, publish, self.session.key, now);
        effects.push_back(match when {
            When::Now | When::Never => Effect::Publish { message, acknowledgement },
            When::After(seconds) => Effect::PublishLater { message, seconds, acknowledgement },
        });
        Ok(())
    }

    /// The topic of a PUBLISH, by its name or by an alias [MQTT 5.0, 3.3.2.3.4].
    fn resolve(&mut self, publish: &mut Publish) -> Result<TopicName, Fault> {
        let Some(alias) = publish.properties.topic_alias else {
            // The codec lets no PUBLISH without both through.
            return publish.topic.take().ok_or(Fault::TopicAliasUnknown);
        };
        if alias.get() > self.terms.topic_alias_maximum {
            return Err(Fault::TopicAliasInvalid); // [MQTT-3.3.2-9]
        }
        let at = usize::from(alias.get()) - 1;
        match publish.topic.take() {
            Some(topic) => {
                if self.aliases.len() <= at {
                    self.aliases.resize(at + 1, None);
                }
                self.aliases[at] = Some(detached_topic(&topic));
                Ok(topic)
            }
            None => self.aliases.get(at).cloned().flatten().ok_or(Fault::TopicAliasUnknown),
        }
    }

    /// A payload that is not what it is said to be goes nowhere; who cannot be told is dismissed.
    fn misformatted(&self, publish: &Publish, effects: &mut VecDeque<Effect>) -> Result<(), Fault> {
        let packet_id = publish.packet_id.ok_or(Fault::PayloadFormat)?;
        self.acknowledge(packet_id, publish.qos, ReasonCode::PAYLOAD_FORMAT_INVALID, effects);
        Ok(())
    }

    fn count(&mut self, now: Instant, size: usize, effects: &mut VecDeque<Effect>) {
        let Some(rate) = &mut self.rate else { return };
        if let Some((until, limited)) = rate.take(now, size) {
            if self.paused_until.is_none() {
                effects.push_back(Effect::Limited(limited));
            }
            self.paused_until = Some(until);
        }
    }

    /// MQTT 5.0 says so; 3.1.1 can only acknowledge and drop, or close [MQTT-3.3.5-2].
    fn deny(
        &mut self,
        topic: &TopicName,
        qos: QoS,
        acknowledgement: Option<Acknowledgement>,
        denied_publish: DeniedPublish,
        effects: &mut VecDeque<Effect>,
    ) -> Result<(), Fault> {
        effects.push_back(Effect::Denied(Denied {
            action: DeniedAction::Publish,
            topic: topic.as_text().clone(),
            qos,
        }));
        if self.terms.version != ProtocolVersion::V5 && denied_publish == DeniedPublish::Disconnect {
            return Err(Fault::PublishDenied);
        }
        if let Some(Acknowledgement { packet_id, qos }) = acknowledgement {
            // In 3.1.1 the exchange goes on to its end; PUBREL for an id that is not held is answered too.
            self.acknowledge(packet_id, qos, ReasonCode::NOT_AUTHORIZED, effects);
        }
        Ok(())
    }

    /// Every outbox took it.
    pub(super) fn published(
        &mut self,
        acknowledgement: Acknowledgement,
        routed: Routed,
        effects: &mut VecDeque<Effect>,
    ) {
        let Acknowledgement { packet_id, qos } = acknowledgement;
        if qos == QoS::AtLeastOnce {
            self.unacknowledged = self.unacknowledged.saturating_sub(1);
        }
        let reason = match routed {
            Routed::Delivered => ReasonCode::SUCCESS,
            Routed::NoSubscribers => ReasonCode::NO_MATCHING_SUBSCRIBERS,
            Routed::NoRoom => {
                self.session.received.remove(&packet_id);
                ReasonCode::QUOTA_EXCEEDED
            }
        };
        self.acknowledge(packet_id, qos, reason, effects);
    }

    fn acknowledge(&self, packet_id: PacketId, qos: QoS, reason: ReasonCode, effects: &mut VecDeque<Effect>) {
        let ack = self.ack(packet_id, reason);
        let packet = if qos == QoS::ExactlyOnce { Packet::PubRec(ack) } else { Packet::PubAck(ack) };
        self.send(packet, effects);
    }

    pub(super) fn pubrel(&mut self, packet_id: PacketId, effects: &mut VecDeque<Effect>) {
        self.received_before.remove(&packet_id);
        let reason = if self.session.received.remove(&packet_id) {
            ReasonCode::SUCCESS
        } else {
            ReasonCode::PACKET_IDENTIFIER_NOT_FOUND
        };
        let ack = self.ack(packet_id, reason);
        self.send(Packet::PubComp(ack), effects); // [MQTT-4.3.3-11]
    }
}

/// Whether a payload is UTF-8 where its Payload Format Indicator says so.
pub(super) fn is_as_said(properties: &PublishProperties, payload: &[u8]) -> bool {
    properties.payload_format_indicator != Some(true) || std::str::from_utf8(payload).is_ok()
}
