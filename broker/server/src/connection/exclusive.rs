//! Subscriptions that need more than the session knows: those that only one session may have, and those that
//! the configuration makes.

use mqgate_codec::{Packet, QoS, ReasonCode, SubscriptionOptions, TopicFilter};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Driver;

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Driver<S> {
    /// Reserves the exclusive filters of a SUBSCRIBE, and tells the machine which of them others have.
    pub(super) fn claim_exclusive(&mut self, packet: &Packet) -> Vec<TopicFilter> {
        let Packet::Subscribe(subscribe) = packet else { return Vec::new() };
        let Some(key) = self.mailbox.as_ref().map(|mailbox| mailbox.key) else { return Vec::new() };
        let filters = self.machine.exclusive_filters(subscribe);
        if filters.is_empty() {
            return filters;
        }
        let router = &self.broker.router;
        let (ours, taken) = filters.into_iter().partition(|filter| router.claim(key, filter));
        self.machine.set_taken(taken);
        ours
    }

    /// Gives back what did not become a subscription.
    pub(super) fn settle_exclusive(&mut self, claimed: Vec<TopicFilter>) {
        if claimed.is_empty() {
            return;
        }
        if let (Some(session), Some(mailbox)) = (self.machine.session(), &self.mailbox) {
            let unused =
                claimed.iter().filter(|filter| !session.subscriptions.contains_key(filter.as_text()));
            unused.for_each(|filter| self.broker.router.release(mailbox.key, filter));
        }
        self.machine.set_taken(Vec::new());
    }

    /// Subscribes a client as if it had asked, within its permit.
    pub(super) fn subscribe_for(
        &mut self,
        filter: &TopicFilter,
        options: SubscriptionOptions,
    ) -> Result<QoS, ReasonCode> {
        let exclusive = filter.is_exclusive();
        if let Some(mailbox) = self.mailbox.as_ref().filter(|_| exclusive)
            && !self.broker.router.claim(mailbox.key, filter)
        {
            return Err(ReasonCode::QUOTA_EXCEEDED);
        }
        let done = self.machine.subscribe_for(filter, options);
        if exclusive {
            self.settle_exclusive(vec![filter.clone()]);
        }
        done
    }

    /// What the configuration subscribes every client to, as far as its permit goes.
    pub(super) fn subscribe_automatically(&mut self) {
        if self.broker.extras.subscriptions.is_empty() {
            return;
        }
        let Some(admitted) = self.handle.admitted() else { return };
        let wanted: Vec<_> = self
            .broker
            .extras
            .subscriptions
            .iter()
            .filter_map(|one| Some((one.filter_for(&admitted.client_id, &admitted.device_id)?, one.options)))
            .collect();
        for (filter, options) in wanted {
            if let Err(code) = self.subscribe_for(&filter, options) {
                tracing::debug!(filter = filter.as_str(), code = code.0, "not subscribed automatically");
            }
        }
    }
}
