//! What a session has accepted and not yet sent: bounded in count and bytes.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::BytesMut;
use mqgate_codec::{QoS, TopicFilter};

use crate::limits::{OutboxLimits, WhenFull};
use crate::message::Message;
use crate::time::Instant;

/// One message on its way to one session.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub message: Arc<Message>,
    /// The lower of what was published and what the subscription asked for.
    pub qos: QoS,
    /// The RETAIN flag to send.
    pub retain: bool,
    /// What is to be known of the subscriptions that matched. Mostly nothing.
    pub origin: Option<Arc<Origin>>,
}

/// What a delivery keeps of the subscriptions it is made for. Made once per subscription, not per message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// Of every subscription that matched and has one [MQTT-3.3.4-3].
    pub identifiers: Box<[NonZeroU32]>,
    /// The shared subscription whose message this is: another member gets it if this one goes.
    pub shared: Option<TopicFilter>,
}

impl Origin {
    /// `None` if there is nothing to be known.
    pub fn new(identifiers: Vec<NonZeroU32>, shared: Option<TopicFilter>) -> Option<Arc<Self>> {
        let any = !identifiers.is_empty() || shared.is_some();
        any.then(|| Arc::new(Self { identifiers: identifiers.into(), shared }))
    }

    /// Subscription Identifiers to be sent.
    pub fn identifiers(origin: Option<&Arc<Self>>) -> &[NonZeroU32] {
        origin.map_or(&[], |origin| &origin.identifiers)
    }

    /// Whether a message came by a shared subscription.
    pub fn is_shared(origin: Option<&Arc<Self>>) -> bool {
        origin.is_some_and(|origin| origin.shared.is_some())
    }
}

/// Whether a message can be kept for a client that is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Online,
    Offline,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    Queued,
    /// Queued, and the outbox is more than half full: a publisher does well to let others run.
    Pressing,
    Dropped(DropReason),
    /// Queued; so many older messages went for it.
    Displaced(usize),
}

/// Why a message was not delivered; a label of `mqgate_messages_dropped_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    NoSubscribers,
    QueueFull,
    /// All sessions together have as much waiting as may be.
    AllQueuesFull,
    Expired,
    TooLarge,
    Quota,
    /// QoS 0 for a client that is away.
    Qos0,
    /// QoS 0 for a client that does not read fast enough.
    Slow,
    /// The only subscription is the publisher's own, with No Local.
    NoLocal,
    /// It was waiting when the client's permit became narrower.
    NotPermitted,
}

impl DropReason {
    pub const ALL: [Self; 10] = [
        Self::NoSubscribers,
        Self::QueueFull,
        Self::AllQueuesFull,
        Self::Expired,
        Self::TooLarge,
        Self::Quota,
        Self::Qos0,
        Self::Slow,
        Self::NoLocal,
        Self::NotPermitted,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSubscribers => "no_subscribers",
            Self::QueueFull => "queue_full",
            Self::AllQueuesFull => "all_queues_full",
            Self::Expired => "expired",
            Self::TooLarge => "too_large",
            Self::Quota => "quota",
            Self::Qos0 => "qos0",
            Self::Slow => "slow",
            Self::NoLocal => "no_local",
            Self::NotPermitted => "not_permitted",
        }
    }
}

#[derive(Debug)]
pub struct Outbox {
    /// QoS 0 messages as the client gets them, all older than those in `queue`.
    written: BytesMut,
    written_messages: usize,
    queue: VecDeque<Outgoing>,
    /// So many at the front of `queue` have memory of their own, or are large.
    detached: usize,
    limits: OutboxLimits,
    /// Bytes it may hold now, because others hold so much.
    allowed: usize,
    /// Of both.
    bytes: usize,
    /// How many of `queue` are QoS 0.
    qos0: usize,
    /// No message of `queue` expires before this.
    expires: Instant,
}

/// Written messages are moved together up to this size: an outbox that fills does not grow in small steps.
const FIRST_WRITTEN: usize = 1024;

impl Outbox {
    pub fn new(limits: OutboxLimits) -> Self {
        Self {
            written: BytesMut::new(),
            written_messages: 0,
            queue: VecDeque::new(),
            detached: 0,
            limits,
            allowed: usize::MAX,
            bytes: 0,
            qos0: 0,
            expires: Instant::NEVER,
        }
    }

    pub fn len(&self) -> usize {
        self.written_messages + self.queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.written_messages == 0 && self.queue.is_empty()
    }

    /// Says how many bytes it may hold, its own limit aside. What it holds already stays.
    pub fn allow(&mut self, bytes: usize) {
        self.allowed = bytes;
    }

    /// Why there is no room for `size` bytes more, if not because of `own`.
    fn full(&self, size: usize, own: DropReason) -> Pushed {
        let crowded = self.bytes + size > self.allowed;
        Pushed::Dropped(if crowded { DropReason::AllQueuesFull } else { own })
    }

    /// Whether a message may be written at once: none waits that would be overtaken.
    pub fn may_write(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes one QoS 0 message of `size` bytes, which `write` appends as the client gets it. The caller has
    /// looked at [`Outbox::may_write`], and the client is online.
    pub fn push_written(&mut self, size: usize, write: impl FnOnce(&mut BytesMut)) -> Pushed {
        let bytes = self.limits.bytes.min(self.allowed);
        if self.written_messages >= self.limits.qos0_messages || self.bytes + size > bytes {
            return self.full(size, DropReason::Slow);
        }
        if self.written.capacity() < size {
            self.written.reserve(size.max(FIRST_WRITTEN));
        }
        write(&mut self.written);
        self.written_messages += 1;
        self.bytes += size;
        self.queued()
    }

    /// What was written, and how many messages that are. To be taken before the others.
    pub fn take_written(&mut self) -> (BytesMut, usize) {
        self.bytes -= self.written.len();
        (std::mem::take(&mut self.written), std::mem::take(&mut self.written_messages))
    }

    /// Puts back what was taken with [`Outbox::take_written`], or a part of it.
    pub fn put_written(&mut self, written: BytesMut, messages: usize) {
        self.bytes += written.len();
        self.written = written;
        self.written_messages = messages;
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is no room for a message, and some of those that wait may have expired: it is worth
    /// while to look at the clock and to call [`Outbox::drop_expired`].
    pub fn may_hold_expired(&self, message: &Message, qos: QoS) -> bool {
        self.expires != Instant::NEVER && !self.has_room(message.size(), qos)
    }

    /// Forgets what is delivered to nobody any more [MQTT-3.3.2-5]; says how many.
    pub fn drop_expired(&mut self, now: Instant) -> usize {
        if now < self.expires {
            return 0;
        }
        let before = self.queue.len();
        self.queue.retain(|outgoing| !outgoing.message.is_expired(now));
        self.recount();
        before - self.queue.len()
    }

    /// After messages were taken out of the midst of the queue.
    fn recount(&mut self) {
        self.detached = 0;
        self.bytes =
            self.written.len() + self.queue.iter().map(|outgoing| outgoing.message.size()).sum::<usize>();
        self.qos0 = self.queue.iter().filter(|outgoing| outgoing.qos == QoS::AtMostOnce).count();
        let expiries = self.queue.iter().filter_map(|outgoing| outgoing.message.expires_at);
        self.expires = expiries.min().unwrap_or(Instant::NEVER);
    }

    fn has_room(&self, size: usize, qos: QoS) -> bool {
        let (waiting, most) = match qos {
            QoS::AtMostOnce => (self.qos0 + self.written_messages, self.limits.qos0_messages),
            QoS::AtLeastOnce | QoS::ExactlyOnce => (self.queue.len() - self.qos0, self.limits.messages),
        };
        waiting < most && self.bytes + size <= self.limits.bytes.min(self.allowed)
    }

    /// Takes one message, or says why not.
    pub fn push(&mut self, outgoing: Outgoing, presence: Presence) -> Pushed {
        let size = outgoing.message.size();
        if outgoing.qos == QoS::AtMostOnce {
            if presence == Presence::Offline {
                return Pushed::Dropped(DropReason::Qos0);
            }
            if !self.has_room(size, outgoing.qos) {
                return self.full(size, DropReason::Slow);
            }
            self.qos0 += 1;
            return self.append(outgoing, size);
        }
        if size > self.limits.bytes.min(self.allowed) {
            return self.full(size, DropReason::QueueFull);
        }
        let mut displaced = 0;
        while !self.has_room(size, outgoing.qos) {
            if self.limits.when_full == WhenFull::DropNewest || !self.drop_oldest() {
                return self.full(size, DropReason::QueueFull);
            }
            displaced += 1;
        }
        let pushed = self.append(outgoing, size);
        if displaced > 0 { Pushed::Displaced(displaced) } else { pushed }
    }

    fn append(&mut self, outgoing: Outgoing, size: usize) -> Pushed {
        self.bytes += size;
        self.expires = self.expires.min(outgoing.message.expires_at.unwrap_or(Instant::NEVER));
        self.queue.push_back(outgoing);
        self.queued()
    }

    fn queued(&self) -> Pushed {
        let pressing = self.bytes > self.limits.bytes / 2
            || self.qos0 + self.written_messages > self.limits.qos0_messages / 2
            || self.queue.len() - self.qos0 > self.limits.messages / 2;
        if pressing { Pushed::Pressing } else { Pushed::Queued }
    }

    fn drop_oldest(&mut self) -> bool {
        self.take_front().is_some()
    }

    fn take_front(&mut self) -> Option<Outgoing> {
        let outgoing = self.queue.pop_front()?;
        self.detached = self.detached.saturating_sub(1);
        self.bytes -= outgoing.message.size();
        if outgoing.qos == QoS::AtMostOnce {
            self.qos0 -= 1;
        }
        Some(outgoing)
    }

    /// Moves messages into `batch`, in order: at most `bytes` of them (one more than fits, so that a large one
    /// goes at all), and at most `quota` above QoS 0. What follows a message without quota waits with it, so
    /// that order is kept.
    pub fn take(&mut self, batch: &mut Vec<Outgoing>, mut quota: usize, bytes: usize) {
        let mut taken = 0;
        while let Some(next) = self.queue.front() {
            if taken >= bytes {
                break;
            }
            if next.qos != QoS::AtMostOnce {
                if quota == 0 {
                    break;
                }
                quota -= 1;
            }
            let Some(outgoing) = self.take_front() else { break };
            taken += outgoing.message.size();
            batch.push(outgoing);
        }
        if self.queue.is_empty() && self.queue.capacity() > 64 {
            self.queue = VecDeque::new(); // An idle session keeps no room for its last burst.
        }
    }

    /// Takes out what came by shared subscriptions, in order, for another member of each.
    pub fn take_shared(&mut self) -> Vec<Outgoing> {
        self.take_where(|outgoing| Origin::is_shared(outgoing.origin.as_ref()))
    }

    /// Takes out what `wanted` picks, in order; what is written already is not among it.
    pub fn take_where(&mut self, wanted: impl Fn(&Outgoing) -> bool) -> Vec<Outgoing> {
        if !self.queue.iter().any(&wanted) {
            return Vec::new();
        }
        let (taken, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.queue).into_iter().partition(&wanted);
        self.queue = kept.into();
        self.recount();
        taken
    }

    /// Gives every message memory of its own; see [`Message::detached`].
    pub fn detach(&mut self) {
        for outgoing in &mut self.queue {
            outgoing.message = Arc::new(outgoing.message.detached());
        }
    }

    /// Gives small messages memory of their own, because they may wait for long.
    pub fn detach_small(&mut self) {
        let fresh = self.queue.iter_mut().skip(self.detached);
        fresh.for_each(|outgoing| Message::detach_small(&mut outgoing.message));
        self.detached = self.queue.len();
    }

    /// Forgets what is not kept for a client that is away; says how many.
    pub fn drop_qos0(&mut self) -> usize {
        let before = self.len();
        self.take_written();
        self.queue.retain(|outgoing| outgoing.qos != QoS::AtMostOnce);
        self.recount();
        before - self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mqgate_codec::{Publish, PublishProperties, TopicName};

    use super::*;
    use crate::session::SessionKey;
    use crate::time::Instant;

    fn outgoing(payload: &'static str, qos: QoS) -> Outgoing {
        let publish = Publish {
            dup: false,
            qos,
            retain: false,
            topic: None,
            packet_id: None,
            payload: Bytes::from_static(payload.as_bytes()),
            properties: PublishProperties::default(),
        };
        let topic = TopicName::parse("t".into()).unwrap();
        let message = Message::published(topic, publish, SessionKey(1), Instant::ZERO);
        Outgoing { message, qos, retain: false, origin: None }
    }

    fn outbox(when_full: WhenFull) -> Outbox {
        Outbox::new(OutboxLimits { messages: 2, qos0_messages: 2, bytes: 20, when_full })
    }

    fn taken(outbox: &mut Outbox, quota: usize, bytes: usize) -> Vec<String> {
        let mut batch = Vec::new();
        outbox.take(&mut batch, quota, bytes);
        batch.iter().map(|outgoing| String::from_utf8_lossy(&outgoing.message.payload).into_owned()).collect()
    }

    #[test]
    fn each_kind_has_its_bound() {
        let mut outbox = outbox(WhenFull::DropNewest);
        let mut push = |payload, qos, presence| outbox.push(outgoing(payload, qos), presence);
        assert_eq!(push("1", QoS::AtLeastOnce, Presence::Online), Pushed::Queued);
        assert_eq!(push("2", QoS::AtLeastOnce, Presence::Online), Pushed::Pressing);
        assert_eq!(push("3", QoS::ExactlyOnce, Presence::Online), Pushed::Dropped(DropReason::QueueFull));
        assert_eq!(push("a", QoS::AtMostOnce, Presence::Online), Pushed::Pressing);
        assert_eq!(push("b", QoS::AtMostOnce, Presence::Online), Pushed::Pressing);
        assert_eq!(push("c", QoS::AtMostOnce, Presence::Online), Pushed::Dropped(DropReason::Slow));
        assert_eq!(push("d", QoS::AtMostOnce, Presence::Offline), Pushed::Dropped(DropReason::Qos0));
        assert_eq!((outbox.len(), outbox.bytes()), (4, 8));
        assert_eq!(outbox.drop_qos0(), 2);
        assert_eq!((outbox.len(), outbox.bytes()), (2, 4));
        assert_eq!(taken(&mut outbox, 9, 99), ["1", "2"]);
        assert_eq!((outbox.len(), outbox.bytes()), (0, 0));
    }

    #[test]
    fn the_oldest_goes_where_that_is_the_rule() {
        let mut outbox = outbox(WhenFull::DropOldest);
        for payload in ["1", "2"] {
            outbox.push(outgoing(payload, QoS::AtLeastOnce), Presence::Offline);
        }
        assert_eq!(outbox.push(outgoing("3", QoS::AtLeastOnce), Presence::Offline), Pushed::Displaced(1));
        let huge = outgoing("larger than everything", QoS::AtLeastOnce);
        assert_eq!(outbox.push(huge, Presence::Offline), Pushed::Dropped(DropReason::QueueFull));
        assert_eq!(taken(&mut outbox, 9, 99), ["2", "3"], "no room is made for what never fits");
    }

    #[test]
    fn where_others_hold_much_it_may_hold_less() {
        for when_full in [WhenFull::DropNewest, WhenFull::DropOldest] {
            let mut outbox = outbox(when_full);
            outbox.push(outgoing("12345", QoS::AtLeastOnce), Presence::Online);
            outbox.allow(11);
            let crowded = Pushed::Dropped(DropReason::AllQueuesFull);
            assert_eq!(outbox.push(outgoing("12345", QoS::AtMostOnce), Presence::Online), crowded);
            let pushed = outbox.push(outgoing("12345", QoS::AtLeastOnce), Presence::Online);
            assert_eq!(
                pushed,
                if when_full == WhenFull::DropOldest { Pushed::Displaced(1) } else { crowded }
            );
            assert_eq!(outbox.bytes(), 6);
            outbox.allow(5);
            assert_eq!(outbox.push(outgoing("12345", QoS::AtLeastOnce), Presence::Online), crowded);
            assert_eq!(outbox.bytes(), 6, "no room is made for what does not fit");
            outbox.allow(usize::MAX);
            assert!(!matches!(
                outbox.push(outgoing("12345", QoS::AtMostOnce), Presence::Online),
                Pushed::Dropped(_)
            ));
        }
        let mut written = outbox(WhenFull::DropNewest);
        written.allow(5);
        let wrote = written.push_written(6, |_| panic!("it is not written"));
        assert_eq!(wrote, Pushed::Dropped(DropReason::AllQueuesFull));
    }

    /// [MQTT-3.3.2-5]
    #[test]
    fn what_has_expired_makes_room() {
        let expiring = |payload, seconds| {
            let mut outgoing = outgoing(payload, QoS::AtLeastOnce);
            let message = Arc::get_mut(&mut outgoing.message).unwrap();
            message.expires_at = Some(Instant::ZERO.after_seconds(seconds));
            outgoing
        };
        let mut outbox = outbox(WhenFull::DropNewest);
        outbox.push(expiring("1", 10), Presence::Offline);
        let next = outgoing("new", QoS::AtLeastOnce);
        assert!(!outbox.may_hold_expired(&next.message, next.qos), "there is room");
        outbox.push(expiring("2", 20), Presence::Offline);
        assert!(outbox.may_hold_expired(&next.message, next.qos));
        assert_eq!(outbox.drop_expired(Instant::ZERO.after_seconds(9)), 0);
        assert_eq!(outbox.drop_expired(Instant::ZERO.after_seconds(10)), 1);
        assert_eq!((outbox.len(), outbox.bytes()), (1, 2));
        assert!(!matches!(outbox.push(next.clone(), Presence::Offline), Pushed::Dropped(_)));
        assert!(outbox.may_hold_expired(&next.message, next.qos));
        assert_eq!(outbox.drop_expired(Instant::ZERO.after_seconds(20)), 1);
        assert!(!outbox.may_hold_expired(&next.message, next.qos), "nothing that is left expires");
        assert_eq!(taken(&mut outbox, 9, 99), ["new"]);
    }

    #[test]
    fn what_is_written_at_once_counts_and_comes_first() {
        let mut outbox = outbox(WhenFull::DropNewest);
        let write = |outbox: &mut Outbox, text: &'static [u8]| {
            outbox.push_written(text.len(), |buffer| buffer.extend_from_slice(text))
        };
        assert_eq!(
            write(&mut outbox, b"a packet that is too long for 20"),
            Pushed::Dropped(DropReason::Slow)
        );
        assert_eq!(write(&mut outbox, b"a"), Pushed::Queued);
        assert_eq!(write(&mut outbox, b"b"), Pushed::Pressing);
        assert_eq!(write(&mut outbox, b"c"), Pushed::Dropped(DropReason::Slow), "two of QoS 0 are allowed");
        let queued = outbox.push(outgoing("d", QoS::AtMostOnce), Presence::Online);
        assert_eq!(queued, Pushed::Dropped(DropReason::Slow), "however they wait");
        assert!(outbox.may_write());
        outbox.push(outgoing("1", QoS::AtLeastOnce), Presence::Online);
        assert!(!outbox.may_write(), "it would overtake 1");
        assert_eq!((outbox.len(), outbox.bytes()), (3, 4));
        assert_eq!(outbox.take_written(), (BytesMut::from(&b"ab"[..]), 2));
        assert_eq!((outbox.len(), outbox.bytes()), (1, 2));
        assert_eq!(taken(&mut outbox, 9, 99), ["1"]);
        write(&mut outbox, b"e");
        assert_eq!((outbox.drop_qos0(), outbox.len(), outbox.bytes()), (1, 0, 0));
    }

    #[test]
    fn order_is_kept_when_the_quota_runs_out() {
        let mut outbox = outbox(WhenFull::DropNewest);
        for (payload, qos) in
            [("a", QoS::AtMostOnce), ("1", QoS::AtLeastOnce), ("2", QoS::ExactlyOnce), ("b", QoS::AtMostOnce)]
        {
            outbox.push(outgoing(payload, qos), Presence::Online);
        }
        assert_eq!(taken(&mut outbox, 1, 99), ["a", "1"]);
        assert!(taken(&mut outbox, 0, 99).is_empty(), "b waits behind 2");
        assert_eq!(taken(&mut outbox, 1, 1), ["2"], "one more than fits");
        assert_eq!(taken(&mut outbox, 0, 99), ["b"]);
    }
}
