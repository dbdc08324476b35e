//! From a message to the mailboxes of those who want it: subscriptions, retained messages, and a small
//! memory of recent lookups.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use mqgate_codec::{QoS, TopicFilter, TopicName};
use mqgate_protocol::connection::{NewSubscription, Routed};
use mqgate_protocol::limits::{Limits, RetainedLimits, Room};
use mqgate_protocol::message::Message;
use mqgate_protocol::outbox::{DropReason, Outgoing, Pushed};
use mqgate_protocol::persistent::Seed;
use mqgate_protocol::retained::Retained;
use mqgate_protocol::session::SessionKey;
use mqgate_protocol::subscriptions::{Choice, Group, Matches, ShareStrategy, Subscriptions};
use mqgate_protocol::time::Instant;
use mqgate_protocol::topics::is_reserved;

use crate::delivery::{Mailbox, Post, PushOutcome, Wakes};
use crate::directory::lock;
use crate::metrics::mqtt::{MqttMetrics, SubscriptionKind, Tally};
use crate::searching::Searching;

/// Lookups that one worker thread remembers.
const REMEMBERED: usize = 1024;
/// Receivers in all those lookups together; one lookup may have more, and is remembered alone then.
const REMEMBERED_RECEIVERS: usize = 64 * 1024;
/// What one task may have put into queues before it tells.
const QUEUED_UNSEEN: i64 = 256 * 1024;

pub(crate) struct Router {
    /// Tells routers apart in the memory of a thread.
    id: u64,
    snapshot: ArcSwap<Subscriptions<Arc<Mailbox>>>,
    /// The one writer at a time.
    writer: Mutex<()>,
    retained: Mutex<Retained>,
    /// What the broker says about itself: it does not count against anybody's limits.
    sys: Mutex<Retained>,
    /// Who has which exclusive subscription, by the filter inside.
    exclusive: Mutex<HashMap<Box<str>, SessionKey>>,
    /// Somebody looks at every message: none is written for its receiver before it is taken.
    pub(crate) traced: Arc<AtomicBool>,
    retained_per_subscription: usize,
    retained_visits: usize,
    /// Bytes that may wait in all queues together.
    queued_bytes_maximum: usize,
    share_strategy: ShareStrategy,
    /// When the broker began to count time.
    started: tokio::time::Instant,
    /// Lots for those strategies that draw them.
    lots: AtomicU64,
    metrics: Arc<MqttMetrics>,
}

/// Someone a message goes to.
pub(crate) struct ReceiverFacts {
    pub(crate) key: SessionKey,
    pub(crate) qos: QoS,
    pub(crate) group: Option<Arc<str>>,
}

/// What became of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) routed: Routed,
    /// Some outbox is filling up: the publisher does well to let others run.
    pub(crate) pressing: bool,
    /// Receivers that were tried.
    pub(crate) deliveries: usize,
}

/// Lookups of one thread, all of one generation of one router.
#[derive(Default)]
struct Memory {
    of: (u64, u64),
    /// The one before this: messages of one topic come one after the other.
    last: Option<(TopicName, Rc<Matches<Arc<Mailbox>>>)>,
    known: HashMap<TopicName, Rc<Matches<Arc<Mailbox>>>>,
    receivers: usize,
}

impl Memory {
    fn forget(&mut self) {
        self.last = None;
        self.known.clear();
        self.receivers = 0;
    }
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

impl Router {
    pub(crate) fn new(
        limits: &Limits,
        metrics: Arc<MqttMetrics>,
        seed: Seed,
        started: tokio::time::Instant,
    ) -> Self {
        static ROUTERS: AtomicU64 = AtomicU64::new(1);
        metrics.messages_retained_limit.set(i64::try_from(limits.retained.messages).unwrap_or(i64::MAX));
        metrics.retained_bytes_limit.set(i64::try_from(limits.retained.bytes).unwrap_or(i64::MAX));
        metrics.queued_bytes_limit.set(i64::try_from(limits.queued_bytes).unwrap_or(i64::MAX));
        Self {
            id: ROUTERS.fetch_add(1, Ordering::Relaxed),
            snapshot: ArcSwap::from_pointee(Subscriptions::new(seed)),
            writer: Mutex::default(),
            retained: Mutex::new(Retained::new(limits.retained, seed)),
            sys: Mutex::new(Retained::new(RetainedLimits { expiry: None, ..limits.retained }, seed)),
            exclusive: Mutex::default(),
            traced: Arc::default(),
            retained_per_subscription: limits.retained_per_subscription,
            retained_visits: limits.retained_visits_per_subscribe,
            queued_bytes_maximum: limits.queued_bytes,
            share_strategy: limits.share_strategy,
            started,
            lots: AtomicU64::new(seed.0),
            metrics,
        }
    }

    /// Keeps a message if it is to be retained, and puts it into every mailbox it belongs in.
    pub(crate) fn publish(&self, message: &Arc<Message>, tally: &mut Tally) -> Outcome {
        self.publish_with(message, tally, None)
    }

    /// The same, of a publisher with more to come: its receivers are woken together.
    pub(crate) fn publish_with(
        &self,
        message: &Arc<Message>,
        tally: &mut Tally,
        wakes: Option<&mut Wakes>,
    ) -> Outcome {
        if message.retain {
            // Before the lookup: whoever subscribes meanwhile finds it here or is found by the lookup.
            self.retain(message);
        }
        let matches = self.matches(&message.topic);
        let deliveries = matches.receivers.len() + matches.groups.len();
        let mut outcome = Outcome { routed: Routed::NoSubscribers, pressing: false, deliveries };
        let mut post = self.post(message, deliveries, tally);
        post.watched = self.traced.load(Ordering::Relaxed);
        post.wakes = wakes;
        let mut note = |pushed: PushOutcome| {
            outcome.routed = Routed::Delivered;
            note_queued(&pushed, tally);
            match pushed.pushed {
                Pushed::Queued => {}
                Pushed::Pressing => outcome.pressing = true,
                Pushed::Displaced(count) => (0..count).for_each(|_| tally.dropped(DropReason::QueueFull)),
                Pushed::Dropped(reason) => {
                    outcome.pressing = true;
                    tally.dropped(reason);
                }
            }
        };
        for receiver in matches.receivers_for(message.publisher) {
            let retain = message.retain && receiver.retain_as_published;
            let qos = receiver.qos.min(message.qos);
            note(receiver.handle.push(&mut post, qos, retain, receiver.origin.as_ref()));
        }
        for group in &matches.groups {
            if let Some(pushed) = self.to_one_of(group, &mut post, None) {
                note(pushed);
            }
        }
        if outcome.routed == Routed::NoSubscribers {
            // The publisher's own subscription is one, though it does not want the message [MQTT-3.8.3-3].
            let own = !matches.receivers.is_empty();
            tally.dropped(if own { DropReason::NoLocal } else { DropReason::NoSubscribers });
            if own {
                outcome.routed = Routed::Delivered;
            }
        }
        if tally.queued_memory() > QUEUED_UNSEEN {
            tally.add_to(&self.metrics); // What waits in all is no secret for long.
        }
        outcome
    }

    /// `tally` holds what the caller has put into queues, and has not told yet.
    pub(crate) fn post<'a>(&self, message: &'a Arc<Message>, receivers: usize, tally: &Tally) -> Post<'a> {
        Post::new(message, receivers, self.started, self.room(tally))
    }

    /// What may yet wait in all queues together.
    pub(crate) fn room(&self, tally: &Tally) -> Room {
        let waiting = self.metrics.queued_memory().saturating_add(tally.queued_memory());
        Room::new(self.queued_bytes_maximum, usize::try_from(waiting).unwrap_or(0))
    }

    /// Gives a message to the member whose turn it is; to the next one if that is away or cannot take it.
    /// `None` if there is nobody but `except`.
    fn to_one_of(
        &self,
        group: &Group<Arc<Mailbox>>,
        post: &mut Post<'_>,
        except: Option<SessionKey>,
    ) -> Option<PushOutcome> {
        let message = post.message;
        let choice = Choice {
            strategy: self.share_strategy,
            publisher: message.publisher,
            topic: &message.topic,
            random: self.draw(),
        };
        let members =
            group.order(&choice, |mailbox| mailbox.outstanding()).filter(|(key, _)| Some(*key) != except);
        // Nobody is looked at behind the one who takes it: a group may be large.
        let online = members.clone().filter(|(_, member)| member.handle.is_online());
        let mut last = None;
        for (key, member) in online.chain(members) {
            let (qos, retain) = (member.qos.min(message.qos), message.retain && member.retain_as_published);
            let pushed = member.handle.push(post, qos, retain, member.origin.as_ref());
            last = Some(pushed);
            if !matches!(pushed.pushed, Pushed::Dropped(_)) {
                group.served_by(*key);
                break;
            }
        }
        last
    }

    /// Another number each time, for those who do not know the seed.
    fn draw(&self) -> u64 {
        if self.share_strategy != ShareStrategy::Random && self.share_strategy != ShareStrategy::Sticky {
            return 0;
        }
        // The finisher of SplitMix64.
        let mut lot = self.lots.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        lot = (lot ^ (lot >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        lot = (lot ^ (lot >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        lot ^ (lot >> 31)
    }

    /// Gives messages of shared subscriptions to other members, because `gone` cannot have them; gives back
    /// those for which there is nobody else. With `online_only` a member that is away is nobody.
    pub(crate) fn hand_on(
        &self,
        shared: Vec<Outgoing>,
        gone: SessionKey,
        online_only: bool,
        tally: &mut Tally,
    ) -> Vec<Outgoing> {
        let snapshot = self.snapshot.load();
        let mut left = Vec::new();
        for outgoing in shared {
            let filter = outgoing.origin.as_ref().and_then(|origin| origin.shared.as_ref());
            let group = filter.and_then(|filter| snapshot.group(filter)).filter(|group| {
                let mut others = group.members.iter().filter(|(key, _)| *key != gone);
                others.any(|(_, member)| !online_only || member.handle.is_online())
            });
            let pushed = group.and_then(|group| {
                self.to_one_of(&group, &mut self.post(&outgoing.message, 1, tally), Some(gone))
            });
            match pushed {
                None => left.push(outgoing),
                Some(pushed) => {
                    note_queued(&pushed, tally);
                    if let Pushed::Dropped(reason) = pushed.pushed {
                        tally.dropped(reason);
                    }
                }
            }
        }
        left
    }

    fn matches(&self, topic: &TopicName) -> Rc<Matches<Arc<Mailbox>>> {
        let snapshot = self.snapshot.load();
        let of = (self.id, snapshot.generation());
        MEMORY.with_borrow_mut(|memory| {
            if memory.of != of || memory.known.len() >= REMEMBERED {
                memory.forget();
                memory.of = of;
            }
            if let Some((last, known)) = &memory.last
                && last == topic
            {
                return Rc::clone(known);
            }
            if let Some((topic, known)) = memory.known.get_key_value(topic) {
                memory.last = Some((topic.clone(), Rc::clone(known)));
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

    /// Enters subscriptions; what they are to get of the retained messages, at most `room`, is still to be looked for.
    pub(crate) fn subscribe(
        &self,
        mailbox: &Arc<Mailbox>,
        subscriptions: &[NewSubscription],
        room: usize,
    ) -> Searching {
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
        let mut searching = Searching::new(self.retained_visits, room);
        for new in subscriptions {
            let filter = &new.subscribed.filter;
            if new.is_new {
                self.metrics.subscriptions(kind(filter)).inc();
            }
            if new.send_retained {
                let snapshot = lock(self.retained_under(filter.filter())).snapshot();
                searching.add(mailbox.key, new, &snapshot, self.retained_per_subscription);
            }
        }
        searching
    }

    pub(crate) fn unsubscribe<'a>(&self, key: SessionKey, filters: impl Iterator<Item = &'a TopicFilter>) {
        self.change(|index| {
            for filter in filters {
                index.remove(key, filter);
                self.metrics.subscriptions(kind(filter)).dec();
                if filter.is_exclusive() {
                    self.release(key, filter);
                }
            }
        });
    }

    /// Everyone a message for a topic goes to, for operators; of a shared subscription every member.
    pub(crate) fn receivers(&self, topic: &TopicName) -> Vec<ReceiverFacts> {
        let matches = self.snapshot.load().matches(topic);
        let plain = matches.receivers.iter().map(|receiver| ReceiverFacts {
            key: receiver.key,
            qos: receiver.qos,
            group: None,
        });
        let shared = matches.groups.iter().flat_map(|group| {
            group.members.iter().map(|(key, member)| ReceiverFacts {
                key: *key,
                qos: member.qos,
                group: Some(group.name().into()),
            })
        });
        plain.chain(shared).collect()
    }

    /// Whether anybody subscribes to a topic.
    pub(crate) fn has_receivers(&self, topic: &TopicName) -> bool {
        let matches = self.snapshot.load().matches(topic);
        !matches.receivers.is_empty() || !matches.groups.is_empty()
    }

    /// Whether anybody subscribes to anything below a first level that begins with `$`. Cheap: no topic has to be made.
    pub(crate) fn has_receivers_below(&self, level: &str) -> bool {
        self.snapshot.load().reaches(level)
    }

    /// Every retained message that a filter matches.
    pub(crate) fn retained_matching(&self, filter: &TopicFilter, now: Instant) -> Vec<Arc<Message>> {
        let snapshot = lock(self.retained_under(filter.filter())).snapshot();
        snapshot.matching(filter, now, usize::MAX, &mut { usize::MAX })
    }

    /// Drops the retained messages of these topics; says how many there were.
    pub(crate) fn forget_retained<'a>(&self, topics: impl Iterator<Item = &'a TopicName>) -> usize {
        let mut retained = lock(&self.retained);
        let before = retained.len();
        topics.for_each(|topic| retained.remove(topic));
        self.count(&retained);
        before - retained.len()
    }

    /// Reserves an exclusive subscription for a session; says whether it has it now.
    pub(crate) fn claim(&self, key: SessionKey, filter: &TopicFilter) -> bool {
        *lock(&self.exclusive).entry(filter.filter().into()).or_insert(key) == key
    }

    /// Gives it back, if this session has it.
    pub(crate) fn release(&self, key: SessionKey, filter: &TopicFilter) {
        let mut exclusive = lock(&self.exclusive);
        if exclusive.get(filter.filter()) == Some(&key) {
            exclusive.remove(filter.filter());
        }
    }

    fn change(&self, change: impl FnOnce(&mut Subscriptions<Arc<Mailbox>>)) {
        let _one_writer = lock(&self.writer);
        let mut index = Subscriptions::clone(&self.snapshot.load());
        change(&mut index);
        self.snapshot.store(Arc::new(index));
    }

    /// Where the retained messages of a topic are, or those that a filter matches.
    fn retained_under(&self, topic: &str) -> &Mutex<Retained> {
        if is_reserved(topic) { &self.sys } else { &self.retained }
    }

    fn retain(&self, message: &Message) {
        if is_reserved(message.topic.as_str()) {
            lock(&self.sys).keep(message);
            return;
        }
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

/// Counts what a push changed about the queues.
pub(crate) fn note_queued(pushed: &PushOutcome, tally: &mut Tally) {
    tally.queued(pushed.messages, pushed.bytes);
    (0..pushed.expired).for_each(|_| tally.dropped(DropReason::Expired));
}

fn kind(filter: &TopicFilter) -> SubscriptionKind {
    match filter.share_name() {
        Some(_) => SubscriptionKind::Shared,
        None if filter.is_exclusive() => SubscriptionKind::Exclusive,
        None => SubscriptionKind::Normal,
    }
}
