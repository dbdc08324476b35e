//! What somebody else than the client does to a session that is online: the configuration, an operator.
//!
//! All of it stays within the client's permit.

use mqgate_codec::{QoS, ReasonCode, Subscribe, SubscriptionOptions, TopicFilter};

use super::{Connection, Effect, State};
use crate::session::SessionExpiry;

impl Connection {
    /// Subscribes a client that is online as if it had asked; says with which QoS, or why not. The client is
    /// not told: MQTT has no packet for it.
    pub fn subscribe_for(
        &mut self,
        filter: &TopicFilter,
        options: SubscriptionOptions,
    ) -> Result<QoS, ReasonCode> {
        let State::Online(online) = &mut self.state else { return Err(ReasonCode::UNSPECIFIED_ERROR) };
        let new = online.subscribe_for(filter, options, &self.limits, &mut self.effects)?;
        let qos = new.subscribed.options.qos;
        self.effects.push_back(Effect::Subscribe(vec![new]));
        Ok(qos)
    }

    /// The exclusive filters that a SUBSCRIBE comes to. Whoever knows all sessions says with
    /// [`Self::set_taken`] which of them others have, before the packet is handled.
    pub fn exclusive_filters(&self, subscribe: &Subscribe) -> Vec<TopicFilter> {
        let State::Online(online) = &self.state else { return Vec::new() };
        let all = subscribe.filters.iter().map(|(filter, _)| filter).filter(|filter| filter.is_exclusive());
        all.map(|filter| online.terms.topics.subscribed(filter).unwrap_or_else(|| filter.clone())).collect()
    }

    pub fn set_taken(&mut self, filters: Vec<TopicFilter>) {
        if let State::Online(online) = &mut self.state {
            online.taken = filters;
        }
    }

    /// Takes a subscription away, named by the text it was made with; says whether there was one.
    pub fn unsubscribe_for(&mut self, filter: &str) -> bool {
        let State::Online(online) = &mut self.state else { return false };
        let Some(subscribed) = online.session.subscriptions.remove(filter) else { return false };
        self.effects.push_back(Effect::Unsubscribe(vec![subscribed.filter]));
        true
    }

    /// The session will end with this connection, whatever was agreed on.
    pub fn end_session_with_connection(&mut self) {
        if let State::Online(online) = &mut self.state {
            online.session.expiry = SessionExpiry::After(0);
        }
    }

    /// Seconds, as agreed on with a client that is online; 0 when there is none.
    pub fn keep_alive(&self) -> Option<u16> {
        Some(self.terms()?.keep_alive)
    }
}
