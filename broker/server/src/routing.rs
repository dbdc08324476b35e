//! From a message to the mailboxes of those who want it: subscriptions, retained messages, and a small
//! memory of recent lookups.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use mqgate_codec::{QoS, TopicFilter, TopicName};
use mqgate_protocol::connection::{NewSubscription, Routed};
use mqgate_protocol::limits::Limits;
use mqgate_protocol::message::Message;
use mqgate_protocol::outbox::{DropReason, Outgoing, Pushed, SubscriptionIdentifiers};
use mqgate_protocol::persistent::Seed;
use mqgate_protocol::retained::Retained;
use mqgate_protocol::session::SessionKey;
use mqgate_protocol::subscriptions::{Group, Matches, Subscriptions};
use mqgate_protocol::time::Instant;

use crate::delivery::{Mailbox, Post};
use crate::directory::lock;
use crate::metrics::mqtt::{MqttMetrics, SubscriptionKind, Tally};

/// Lookups that one worker thread remembers.
const REMEMBERED: usize = 1024;
/// Receivers in all those lookups together; one lookup may have more, and is remembered alone then.
const REMEMBERED_RECEIVERS: usize = 64 * 1024;

pub(crate) struct Router {
    /// Tells routers apart in the memory of a thread.
    id: u64,
    snapshot: ArcSwap<Subscriptions<Arc<Mailbox>>>,
    /// The one writer at a time.
    writer: Mutex<()>,
    retained: Mutex<Retained>,
    retained_per_subscription: usize,
    retained_visits: usize,
    metrics: Arc<MqttMetrics>,
}

/// What became of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) routed: Routed,
    /// Some outbox is filling up: the publisher does well to let others run.
    pub(crate) pressing: bool,
}

/// Lookups of one thread, all of one generation of one router.
#[derive(Default)]
struct Memory {
    of: (u64, u64),
    known: HashMap<TopicName, Rc<Matches<Arc<Mailbox>>>>,
    receivers: usize,
}

impl Memory {
    fn forget(&mut self) {
        self.known.clear();
        self.receivers = 0;
    }
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

impl Router {
    pub(crate) fn new(limits: &Limits, metrics: Arc<MqttMetrics>, seed: Seed) -> Self {
        static ROUTERS: AtomicU64 = AtomicU64::new(1);
        metrics.messages_retained_limit.set(i64::try_from(limits.retained.messages).unwrap_or(i64::MAX));
        metrics.retained_bytes_limit.set(i64::try_from(limits.retained.bytes).unwrap_or(i64::MAX));
        Self {
            id: ROUTERS.fetch_add(1, Ordering::Relaxed),
            snapshot: ArcSwap::from_pointee(Subscriptions::new(seed)),
            writer: Mutex::default(),
            retained: Mutex::new(Retained::new(limits.retained, seed)),
            retained_per_subscription: limits.retained_per_subscription,
            retained_visits: limits.retained_visits_per_subscribe,
            metrics,
        }
    }

    /// Keeps a message if it is to be retained, and puts it into every mailbox it belongs in.
    pub(crate) fn publish(&self, message: &Arc<Message>, tally: &mut Tally) -> Outcome {
        if message.retain {
            // Before the lookup: whoever subscribes meanwhile finds it here or is found by the lookup.
            self.retain(message);
        }
        let matches = self.matches(&message.topic);
        let mut outcome = Outcome { routed: Routed::NoSubscribers, pressing: false };
        let mut post = Post::new(message, matches.receivers.len() + matches.groups.len());
        let mut put = |mailbox: &Mailbox, qos: QoS, retain, identifiers: &SubscriptionIdentifiers| {
            let pushed = mailbox.push(&mut post, qos.min(message.qos), message.retain && retain, identifiers);
            outcome.routed = Routed::Delivered;
            tally.queued(pushed.messages, pushed.bytes);
            match pushed.pushed {
                Pushed::Queued => {}
                Pushed::Pressing => outcome.pressing = true,
                Pushed::Displaced => tally.dropped(DropReason::QueueFull),
                Pushed::Dropped(reason) => {
                    outcome.pressing = true;
                    tally.dropped(reason);
                }
            }
        };
        for receiver in matches.receivers_for(message.publisher) {
            put(&receiver.handle, receiver.qos, receiver.retain_as_published, &receiver.identifiers);
        }
        for group in &matches.groups {
            let Some((_, member)) = one_of(group) else { continue };
            let identifiers = member.identifier.map(|identifier| Arc::from([identifier]));
            put(&member.handle, member.qos, member.retain_as_published, &identifiers);
        }
        if outcome.routed == Routed::NoSubscribers {
            let own = !matches.receivers.is_empty();
            tally.dropped(if own { DropReason::NoLocal } else { DropReason::NoSubscribers });
        }
        outcome
    }

    fn matches(&self, topic: &TopicName) -> Rc<Matches<Arc<Mailbox>>> {
        let snapshot = self.snapshot.load();
        let of = (self.id, snapshot.generation());
        MEMORY.with_borrow_mut(|memory| {
            if memory.of != of || memory.known.len() >= REMEMBERED {
                memory.forget();
                memory.of = of;
            }
            if let Some(known) = memory.known.get(topic) {
                return Rc::clone(known);
            }
            let found = Rc::new(snapshot.matches(topic));
            if memory.receivers + found.receivers.len() > REMEMBERED_RECEIVERS {
                memory.forget();
            }
            memory.receivers += found.receivers.len();
            // The key must not keep a receive buffer alive.
            if let Ok(topic) = TopicName::parse(topic.as_str().into()) {
                memory.known.insert(topic, Rc::clone(&found));
            }
            found
        })
    }

    /// Enters subscriptions; gives the retained messages they are to get, at most `room`.
    pub(crate) fn subscribe(
        &self,
        mailbox: &Arc<Mailbox>,
        subscriptions: &[NewSubscription],
        now: Instant,
        room: usize,
    ) -> Vec<Outgoing> {
        self.change(|index| {
            for new in subscriptions {
                let subscribed = &new.subscribed;
                index.insert(
                    mailbox.key,
                    Arc::clone(mailbox),
                    &subscribed.filter,
                    subscribed.options,
                    subscribed.identifier,
                );
            }
        });
        let (mut messages, mut visits) = (Vec::new(), self.retained_visits);
        for new in subscriptions {
            if new.is_new {
                self.metrics.subscriptions(kind(&new.subscribed.filter)).inc();
            }
            if new.send_retained {
                self.retained_for(new, now, room, &mut visits, &mut messages);
            }
        }
        if visits == 0 || messages.len() == room {
            tracing::debug!(room, visits, "not every retained message was looked for");
        }
        messages
    }

    fn retained_for(
        &self,
        new: &NewSubscription,
        now: Instant,
        room: usize,
        visits: &mut usize,
        messages: &mut Vec<Outgoing>,
    ) {
        let limit = self.retained_per_subscription.min(room.saturating_sub(messages.len()));
        let snapshot = lock(&self.retained).snapshot();
        let subscribed = &new.subscribed;
        let found = snapshot.matching(&subscribed.filter, now, limit, visits);
        messages.extend(found.into_iter().map(|message| Outgoing {
            qos: message.qos.min(subscribed.options.qos),
            retain: true, // [MQTT-3.3.1-8]
            subscription_identifiers: subscribed.identifier.map(|identifier| Arc::from([identifier])),
            message,
        }));
    }

    pub(crate) fn unsubscribe<'a>(&self, key: SessionKey, filters: impl Iterator<Item = &'a TopicFilter>) {
        self.change(|index| {
            for filter in filters {
                index.remove(key, filter);
                self.metrics.subscriptions(kind(filter)).dec();
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Subscriptions<Arc<Mailbox>>)) {
        let _one_writer = lock(&self.writer);
        let mut index = Subscriptions::clone(&self.snapshot.load());
        change(&mut index);
        self.snapshot.store(Arc::new(index));
    }

    fn retain(&self, message: &Message) {
        let mut retained = lock(&self.retained);
        let kept = retained.keep(message);
        self.count(&retained);
        drop(retained);
        if kept == mqgate_protocol::retained::Kept::Full {
            self.metrics.dropped(DropReason::Quota, 1);
        }
    }

    /// Drops retained messages whose time has passed.
    pub(crate) fn expire(&self, now: Instant) {
        const AT_ONCE: usize = 1024;
        loop {
            let mut retained = lock(&self.retained);
            let dropped = retained.expire(now, AT_ONCE);
            self.count(&retained);
            if dropped < AT_ONCE {
                return;
            }
        }
    }

    fn count(&self, retained: &Retained) {
        self.metrics.messages_retained.set(retained.len() as i64);
        self.metrics.retained_bytes.set(retained.bytes() as i64);
    }
}

/// Whose turn it is, a member that is connected if there is one.
fn one_of(
    group: &Group<Arc<Mailbox>>,
) -> Option<&(SessionKey, mqgate_protocol::subscriptions::Subscriber<Arc<Mailbox>>)> {
    let mut in_turn = group.in_turn();
    let first = in_turn.next()?;
    if first.1.handle.is_online() {
        return Some(first);
    }
    in_turn.find(|(_, member)| member.handle.is_online()).or(Some(first))
}

fn kind(filter: &TopicFilter) -> SubscriptionKind {
    match filter.share_name() {
        Some(_) => SubscriptionKind::Shared,
        None => SubscriptionKind::Normal,
    }
}
