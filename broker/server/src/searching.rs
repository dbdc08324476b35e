//! Retained messages for new subscriptions, looked for in pieces: a large store is no reason to let everybody wait.

use std::collections::VecDeque;
use std::sync::Arc;

use mqgate_codec::SubscriptionOptions;
use mqgate_protocol::connection::NewSubscription;
use mqgate_protocol::outbox::{Origin, Outgoing};
use mqgate_protocol::retained::{Search, Snapshot};
use mqgate_protocol::session::SessionKey;
use mqgate_protocol::time::Instant;

/// What is still to be looked for on behalf of one session.
pub(crate) struct Searching {
    subscriptions: VecDeque<Wanted>,
    /// Topic levels that may yet be looked at.
    visits: usize,
    /// Messages that may yet be found.
    room: usize,
    /// Subscriptions that do not get all that there is, because of a limit.
    cut: u64,
    /// The subscriber's permit became narrower meanwhile.
    pub(crate) narrowed: bool,
}

struct Wanted {
    search: Search,
    subscriber: SessionKey,
    options: SubscriptionOptions,
    origin: Option<Arc<Origin>>,
}

impl Searching {
    pub(crate) fn new(visits: usize, room: usize) -> Self {
        Self { subscriptions: VecDeque::new(), visits, room, cut: 0, narrowed: false }
    }

    /// Looks for what a new subscription is to get, too: at most `limit` messages.
    pub(crate) fn add(
        &mut self,
        subscriber: SessionKey,
        new: &NewSubscription,
        snapshot: &Snapshot,
        limit: usize,
    ) {
        let subscribed = &new.subscribed;
        self.subscriptions.push_back(Wanted {
            search: snapshot.search(&subscribed.filter, limit),
            subscriber,
            options: subscribed.options,
            origin: Origin::new(subscribed.identifier.into_iter().collect(), None),
        });
    }

    /// Looks for what another was to look for as well.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.subscriptions.append(&mut other.subscriptions);
        self.visits = self.visits.saturating_add(other.visits);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.subscriptions.is_empty()
    }

    /// How many subscriptions do not get all that there is, since it was last asked.
    pub(crate) fn take_cut(&mut self) -> u64 {
        std::mem::take(&mut self.cut)
    }

    /// Looks at about so many topic levels; gives what was found, and how many there were.
    pub(crate) fn go_on(&mut self, now: Instant, visits: usize) -> (Vec<Outgoing>, usize) {
        let mut left = visits.min(self.visits);
        let (before, mut messages) = (left, Vec::new());
        while let Some(wanted) = self.subscriptions.front_mut()
            && left > 0
        {
            let mut found = Vec::new();
            wanted.search.look(now, &mut left, &mut found);
            messages.extend(wanted.deliveries(found));
            if wanted.search.is_over() {
                self.cut += u64::from(wanted.search.is_cut());
                self.subscriptions.pop_front();
                left = left.saturating_sub(1); // Many that find nothing take time, too.
            }
        }
        self.visits -= before - left;
        self.cut += u64::from(messages.len() > self.room);
        messages.truncate(self.room);
        self.room -= messages.len();
        if (self.visits == 0 || self.room == 0) && !self.is_over() {
            self.cut += self.subscriptions.len() as u64;
            self.subscriptions.clear();
        }
        (messages, before - left)
    }
}

impl Wanted {
    fn deliveries(
        &self,
        found: Vec<Arc<mqgate_protocol::message::Message>>,
    ) -> impl Iterator<Item = Outgoing> {
        let Self { subscriber, options, origin, .. } = self;
        let (no_local, qos, origin) = (options.no_local, options.qos, origin.clone());
        let wanted = found.into_iter().filter(move |message| !(no_local && message.publisher == *subscriber)); // [MQTT-3.8.3-3]
        wanted.map(move |message| Outgoing {
            qos: message.qos.min(qos),
            retain: true, // [MQTT-3.3.1-8]
            origin: origin.clone(),
            message,
        })
    }
}
