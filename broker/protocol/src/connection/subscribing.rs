//! SUBSCRIBE and UNSUBSCRIBE, and what a new permit leaves of older subscriptions.

use std::collections::VecDeque;

use mqgate_codec::{
    Packet, PacketId, ProtocolVersion, QoS, ReasonCode, RetainHandling, SubAck, Subscribe,
    SubscriptionOptions, TopicFilter, UnsubAck, Unsubscribe,
};

use super::online::Online;
use super::{Denied, DeniedAction, Effect, NewSubscription};
use crate::limits::Limits;
use crate::message::detached_text;
use crate::session::Subscribed;

impl Online {
    pub(super) fn subscribe(
        &mut self,
        subscribe: &Subscribe,
        filter_bytes: usize,
        effects: &mut VecDeque<Effect>,
    ) {
        let mut taken: Vec<NewSubscription> = Vec::with_capacity(subscribe.filters.len());
        let known: usize = self.session.subscriptions.keys().map(|text| text.len()).sum();
        let mut room = filter_bytes.saturating_sub(known);
        let reasons = subscribe
            .filters
            .iter()
            .map(|(filter, options)| {
                match self.judge(subscribe, filter, *options, &mut room, effects) {
                    Ok(mut new) => {
                        // Named twice, it gets its retained messages once.
                        for older in &mut taken {
                            if older.subscribed.filter == new.subscribed.filter {
                                new.send_retained |= std::mem::take(&mut older.send_retained);
                            }
                        }
                        let granted = ReasonCode(new.subscribed.options.qos as u8);
                        taken.push(new);
                        granted
                    }
                    // 3.1.1 knows one failure only [MQTT-3.9.3-2].
                    Err(_) if self.terms.version != ProtocolVersion::V5 => ReasonCode::UNSPECIFIED_ERROR,
                    Err(code) => code,
                }
            })
            .collect();
        if !taken.is_empty() {
            effects.push_back(Effect::Subscribe(taken));
        }
        let packet_id = subscribe.packet_id; // [MQTT-3.8.4-2]
        let packet = SubAck { packet_id, reasons, reason_string: None, user_properties: Vec::new() };
        self.send(Packet::SubAck(packet), effects);
    }

    fn judge(
        &mut self,
        subscribe: &Subscribe,
        filter: &TopicFilter,
        options: SubscriptionOptions,
        room: &mut usize,
        effects: &mut VecDeque<Effect>,
    ) -> Result<NewSubscription, ReasonCode> {
        let rewritten = self.terms.topics.subscribed(filter);
        let filter = rewritten.as_ref().unwrap_or(filter);
        let Some(qos) = self.permit.granted_qos(filter, options.qos) else {
            effects.push_back(denied(filter, options.qos));
            return Err(ReasonCode::NOT_AUTHORIZED);
        };
        if filter.is_exclusive() {
            if !self.terms.topics.exclusive {
                return Err(ReasonCode::TOPIC_FILTER_INVALID);
            }
            if self.taken.contains(filter) {
                return Err(ReasonCode::QUOTA_EXCEEDED);
            }
        }
        let filter = detached(filter);
        let text = filter.as_text().clone();
        let known = self.session.subscriptions.contains_key(&text);
        if !known && self.session.subscriptions.len() >= self.terms.subscriptions {
            return Err(ReasonCode::QUOTA_EXCEEDED);
        }
        if !known {
            *room = room.checked_sub(text.len()).ok_or(ReasonCode::QUOTA_EXCEEDED)?;
        }
        // A bridge of 3.1.1 cannot ask for it.
        let bridge = self.connect.bridge && filter.share_name().is_none();
        let options = SubscriptionOptions {
            no_local: options.no_local || bridge,
            retain_as_published: options.retain_as_published || bridge,
            ..options
        };
        let subscribed = Subscribed {
            filter,
            options: SubscriptionOptions { qos, ..options },
            identifier: subscribe.subscription_identifier,
        };
        // A replaced subscription loses no message, and gets its retained ones again [MQTT-3.8.4-3].
        self.session.subscriptions.insert(text, subscribed.clone());
        let wanted = match options.retain_handling {
            RetainHandling::SendAtSubscribe => true,
            RetainHandling::SendIfNewSubscription => !known, // [MQTT-3.3.1-10]
            RetainHandling::DoNotSend => false,              // [MQTT-3.3.1-11]
        };
        let send_retained = wanted && subscribed.filter.share_name().is_none(); // 4.8.2
        Ok(NewSubscription { subscribed, send_retained, is_new: !known })
    }

    /// A subscription that the client did not ask for, within its permit and limits all the same.
    pub(super) fn subscribe_for(
        &mut self,
        filter: &TopicFilter,
        options: SubscriptionOptions,
        limits: &Limits,
        effects: &mut VecDeque<Effect>,
    ) -> Result<NewSubscription, ReasonCode> {
        let known: usize = self.session.subscriptions.keys().map(|text| text.len()).sum();
        let mut room = limits.filter_bytes_per_session.saturating_sub(known);
        let request = Subscribe {
            packet_id: const { PacketId::new(1).expect("not zero") }, // Sent to nobody.
            filters: Vec::new(),
            subscription_identifier: None,
            user_properties: Vec::new(),
        };
        self.judge(&request, filter, options, &mut room, effects)
    }

    pub(super) fn unsubscribe(&mut self, unsubscribe: &Unsubscribe, effects: &mut VecDeque<Effect>) {
        let mut gone = Vec::new();
        let reasons = unsubscribe
            .filters
            .iter()
            .map(|filter| match self.remove(filter) {
                Some(subscribed) => {
                    gone.push(subscribed.filter);
                    ReasonCode::SUCCESS
                }
                None => ReasonCode::NO_SUBSCRIPTION_EXISTED,
            })
            .collect();
        if !gone.is_empty() {
            effects.push_back(Effect::Unsubscribe(gone));
        }
        let packet_id = unsubscribe.packet_id; // [MQTT-3.10.4-4]
        let packet = UnsubAck { packet_id, reasons, reason_string: None, user_properties: Vec::new() };
        self.send(Packet::UnsubAck(packet), effects);
    }

    fn remove(&mut self, filter: &TopicFilter) -> Option<Subscribed> {
        let rewritten = self.terms.topics.subscribed(filter);
        self.session.subscriptions.remove(rewritten.as_ref().unwrap_or(filter).as_str())
    }

    /// Drops or lowers subscriptions that the present permit does not cover: those of a resumed session, or
    /// from before the gate was asked again.
    pub(super) fn review_subscriptions(&mut self, effects: &mut VecDeque<Effect>) {
        let (mut gone, mut lowered) = (Vec::new(), Vec::new());
        let permit = &self.permit;
        self.session.subscriptions.retain(|_, subscribed| {
            let asked = subscribed.options.qos;
            match permit.granted_qos(&subscribed.filter, asked) {
                Some(qos) if qos == asked => true,
                Some(qos) => {
                    subscribed.options.qos = qos;
                    lowered.push(NewSubscription {
                        subscribed: subscribed.clone(),
                        send_retained: false,
                        is_new: false,
                    });
                    true
                }
                None => {
                    effects.push_back(denied(&subscribed.filter, asked));
                    gone.push(subscribed.filter.clone());
                    false
                }
            }
        });
        if !gone.is_empty() {
            effects.push_back(Effect::Unsubscribe(gone));
        }
        if !lowered.is_empty() {
            effects.push_back(Effect::Subscribe(lowered));
        }
    }
}

fn denied(filter: &TopicFilter, qos: QoS) -> Effect {
    Effect::Denied(Denied { action: DeniedAction::Subscribe, topic: filter.as_text().clone(), qos })
}

/// A copy with memory of its own: it is kept as long as the session.
fn detached(filter: &TopicFilter) -> TopicFilter {
    TopicFilter::parse(detached_text(filter.as_text())).expect("it was a filter before it was copied")
}
