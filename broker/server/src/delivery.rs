//! Messages on their way to one client: the mailbox that publishers fill, and the bytes that go out.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

use bytes::BytesMut;
use mqgate_codec::{
    DecodeLimits, Decoder, EncodedPublish, Output, Packet, ProtocolVersion, Publish, PublishParts,
    PublishPatch, PublishProperties, QoS, TopicName,
};
use mqgate_protocol::limits::{MESSAGE_OVERHEAD, OutboxLimits, Room};
use mqgate_protocol::message::Message;
use mqgate_protocol::outbox::{Origin, Outbox, Outgoing, Presence, Pushed};
use mqgate_protocol::session::{Delivery, SessionKey};
use mqgate_protocol::time::Instant;

use crate::directory::lock;
use crate::turns::cost;

/// From how many waiting messages on each gets memory of its own: a client that does not read must not keep
/// the receive buffers of others alive.
const DETACH_FROM: usize = 64;

/// A payload that is larger is not copied for each receiver.
const SHARED_FROM: usize = 1024;

/// The outbox of one session, filled from many tasks and emptied by one. Lives as long as the session.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) key: SessionKey,
    /// Sent and not acknowledged, as far as the owner has told.
    unacknowledged: AtomicUsize,
    /// Bytes of what was taken and is not yet on its way, or not acknowledged, as far as the owner has told.
    taken: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    outbox: Outbox,
    presence: Presence,
    /// How QoS 0 messages are written at once; `None` while the client is away, or needs each by itself.
    lane: Option<Lane>,
    waker: Option<Waker>,
    /// The owner knows that there is something: it is not woken again before it took everything.
    told: bool,
    /// Something came that the owner has not seen.
    news: bool,
    /// Who brought it wants to bring more before the owner looks.
    held: Option<Hold>,
    closed: bool,
}

/// What has to be known of a client to write a QoS 0 message for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lane {
    pub(crate) version: ProtocolVersion,
    pub(crate) maximum_packet_size: u32,
}

/// Held back until its publisher says otherwise.
#[derive(Debug, Clone, Default)]
struct Hold(Arc<AtomicBool>);

impl Hold {
    fn is_over(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Receivers that have to be woken, and are not yet: what else comes for them meanwhile goes out with one write. Those
/// that are awake for another reason do not see it before, either. Woken when this is dropped, at the latest.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    wakers: Vec<Waker>,
    hold: Hold,
    /// Its publisher does much. What somebody brings who does little is not held back behind that.
    pub(crate) is_busy: bool,
    /// What was done since the first of them had to wait, as [`cost`] estimates it.
    done: u32,
    /// When it was first seen that they wait.
    since: Option<Instant>,
}

impl Wakes {
    /// So much is done for several of them before they are woken.
    const MOST: u32 = 10_000_000;
    /// So long they wait, whoever else has a turn meanwhile, if as much was done for them as it costs that each writes.
    /// Otherwise those who were woken before would be what takes so long, and be woken for it again.
    const LONGEST: Duration = Duration::from_nanos(3 * Self::MOST as u64);

    /// Its publisher has done something.
    pub(crate) fn spend_on(&mut self, count: usize, cost: u32) {
        let spent = u32::try_from(count).unwrap_or(u32::MAX).saturating_mul(cost);
        self.done = self.done.saturating_add(spent);
    }

    pub(crate) fn are_due(&mut self, now: Instant) -> bool {
        if self.wakers.is_empty() {
            return false;
        }
        let since = *self.since.get_or_insert(now);
        let writing = u32::try_from(self.wakers.len()).unwrap_or(u32::MAX).saturating_mul(cost::WRITE);
        let enough = if now >= since.after(Self::LONGEST) { Self::MOST.min(writing) } else { Self::MOST };
        self.done >= enough
    }

    pub(crate) fn wake(&mut self) {
        (self.done, self.since) = (0, None);
        if self.wakers.is_empty() {
            return;
        }
        // Before they look.
        std::mem::take(&mut self.hold).0.store(true, Ordering::Release);
        // The room is given back: who publishes much may be idle for long.
        std::mem::take(&mut self.wakers).into_iter().for_each(Waker::wake);
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        self.wake();
    }
}

/// One message for many receivers.
pub(crate) struct Post<'a> {
    pub(crate) message: &'a Arc<Message>,
    /// What [`Instant`] counts from.
    started: tokio::time::Instant,
    /// A copy with memory of its own, made for the first receiver that has to keep it.
    detached: Option<Arc<Message>>,
    /// Whether nobody else gets it.
    alone: bool,
    room: Room,
    /// Somebody looks at every message: it is not written before its receiver takes it.
    pub(crate) watched: bool,
    /// Where receivers wait to be woken; `None`: each is woken at once.
    pub(crate) wakes: Option<&'a mut Wakes>,
    /// As QoS 0, for 3.x and for 5.0, with RETAIN and without; made for the first receiver that needs it.
    written: [[BytesMut; 2]; 2],
}

/// What a push changed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PushOutcome {
    pub(crate) pushed: Pushed,
    /// Older messages that went because their time had passed.
    pub(crate) expired: usize,
    pub(crate) messages: i64,
    pub(crate) bytes: i64,
}

/// What [`Mailbox::take`] moved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    /// Messages that are written already.
    pub(crate) written: usize,
    /// All messages.
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// What [`Mailbox::review`] took out.
#[derive(Debug)]
pub(crate) struct Reviewed {
    /// All but those that were written already.
    pub(crate) gone: Vec<Outgoing>,
    pub(crate) written: usize,
    /// Of both.
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// Those of our own packets that are `allowed`, and how many they are. What cannot be read goes.
fn keep(
    written: &BytesMut,
    version: ProtocolVersion,
    allowed: &impl Fn(&TopicName) -> bool,
) -> (BytesMut, usize) {
    let limits = DecodeLimits {
        maximum_packet_size: u32::MAX,
        maximum_topic_levels: u16::MAX,
        ..DecodeLimits::default()
    };
    let mut decoder = Decoder::client(version, limits);
    let (mut rest, mut kept, mut count) = (written.clone(), BytesMut::new(), 0);
    loop {
        let start = written.len() - rest.len();
        let Ok(Some(Packet::Publish(publish))) = decoder.decode(&mut rest) else { return (kept, count) };
        if publish.topic.as_ref().is_some_and(allowed) {
            kept.extend_from_slice(&written[start..written.len() - rest.len()]);
            count += 1;
        }
    }
}

impl<'a> Post<'a> {
    pub(crate) fn new(
        message: &'a Arc<Message>,
        receivers: usize,
        started: tokio::time::Instant,
        room: Room,
    ) -> Self {
        let alone = receivers == 1;
        Self {
            message,
            started,
            detached: None,
            alone,
            room,
            watched: false,
            wakes: None,
            written: Default::default(),
        }
    }

    fn now(&self) -> Instant {
        Instant::since_start(self.started.elapsed())
    }

    /// Writes it as QoS 0 at once, if nothing has to be done about it later and it is not large.
    fn write(&mut self, outbox: &mut Outbox, lane: Lane, retain: bool) -> Option<Pushed> {
        let message = self.message;
        if message.expires_at.is_some() || message.payload.len() > SHARED_FROM || self.watched {
            return None;
        }
        let fits = |size: usize| u32::try_from(size).is_ok_and(|size| size <= lane.maximum_packet_size);
        let written =
            &mut self.written[usize::from(lane.version == ProtocolVersion::V5)][usize::from(retain)];
        if !written.is_empty() {
            let size = written.len();
            return fits(size).then(|| outbox.push_written(size, |buffer| buffer.extend_from_slice(written)));
        }
        let parts = PublishParts {
            topic: &message.topic,
            payload: &message.payload,
            qos: QoS::AtMostOnce,
            properties: message.properties.as_deref(),
            subscription_identifiers: &[],
            patch: PublishPatch { retain, ..PublishPatch::default() },
        };
        let length = parts.measure(lane.version).ok()?;
        let size = length.packet_size();
        if !fits(size) {
            return None; // Which is counted where it is sent.
        }
        if self.alone {
            return Some(outbox.push_written(size, |buffer| parts.write(lane.version, length, buffer)));
        }
        parts.write(lane.version, length, written);
        Some(outbox.push_written(size, |buffer| buffer.extend_from_slice(written)))
    }

    fn kept(&mut self) -> Arc<Message> {
        Arc::clone(self.detached.get_or_insert_with(|| Arc::new(self.message.detached())))
    }
}

impl Mailbox {
    pub(crate) fn new(key: SessionKey, limits: OutboxLimits) -> Self {
        let outbox = Outbox::new(limits);
        let inner = Inner {
            outbox,
            presence: Presence::Online,
            lane: None,
            waker: None,
            told: false,
            news: false,
            held: None,
            closed: false,
        };
        Self {
            key,
            unacknowledged: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            inner: Mutex::new(inner),
        }
    }

    pub(crate) fn is_online(&self) -> bool {
        lock(&self.inner).presence == Presence::Online
    }

    /// Messages that wait or are not acknowledged.
    pub(crate) fn outstanding(&self) -> usize {
        lock(&self.inner).outbox.len() + self.unacknowledged.load(Ordering::Relaxed)
    }

    pub(crate) fn set_unacknowledged(&self, count: usize) {
        self.unacknowledged.store(count, Ordering::Relaxed);
    }

    pub(crate) fn set_taken(&self, bytes: usize) {
        self.taken.store(bytes, Ordering::Relaxed);
    }

    /// Takes out what came by shared subscriptions; says what that changed.
    pub(crate) fn take_shared(&self) -> (Vec<Outgoing>, usize) {
        let mut inner = lock(&self.inner);
        let bytes = inner.outbox.bytes();
        let shared = inner.outbox.take_shared();
        (shared, bytes - inner.outbox.bytes())
    }

    /// Takes out what waits and is not `allowed`. Written messages are read again to see what they are; of those
    /// that go only the number is told.
    pub(crate) fn review(&self, allowed: impl Fn(&TopicName) -> bool) -> Reviewed {
        let mut inner = lock(&self.inner);
        let before = (inner.outbox.len(), inner.outbox.bytes());
        let gone = inner.outbox.take_where(|outgoing| !allowed(&outgoing.message.topic));
        let (written, messages) = inner.outbox.take_written();
        if messages > 0 {
            let version = inner.lane.map(|lane| lane.version);
            let (kept, count) =
                version.map_or_else(Default::default, |version| keep(&written, version, &allowed));
            inner.outbox.put_written(kept, count);
        }
        let after = (inner.outbox.len(), inner.outbox.bytes());
        Reviewed {
            written: before.0 - after.0 - gone.len(),
            messages: before.0 - after.0,
            bytes: before.1 - after.1,
            gone,
        }
    }

    /// How many messages and bytes wait.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let inner = lock(&self.inner);
        (inner.outbox.len(), inner.outbox.bytes())
    }

    /// Takes one message; wakes the owner if it does not know yet that there is something, or has it woken later.
    pub(crate) fn push(
        &self,
        post: &mut Post<'_>,
        qos: QoS,
        retain: bool,
        origin: Option<&Arc<Origin>>,
    ) -> PushOutcome {
        let mut guard = lock(&self.inner);
        let inner = &mut *guard;
        let (messages, bytes) = (inner.outbox.len(), inner.outbox.bytes());
        // What the client has not taken counts, wherever it is.
        let besides = messages * MESSAGE_OVERHEAD + self.taken.load(Ordering::Relaxed);
        let allowed = post.room.of_queue(bytes + besides);
        inner.outbox.allow(allowed.saturating_sub(besides + MESSAGE_OVERHEAD));
        let lane = inner.lane.filter(|_| {
            let plain = Origin::identifiers(origin).is_empty();
            qos == QoS::AtMostOnce && plain && inner.outbox.may_write()
        });
        let mut expired = 0;
        if inner.outbox.may_hold_expired(post.message, qos) {
            expired = inner.outbox.drop_expired(post.now());
        }
        let written = lane.and_then(|lane| post.write(&mut inner.outbox, lane, retain));
        let pushed = written.unwrap_or_else(|| {
            let keeps =
                inner.presence == Presence::Offline && qos != QoS::AtMostOnce || messages >= DETACH_FROM;
            let message = if keeps { post.kept() } else { Arc::clone(post.message) };
            let outgoing = Outgoing { message, qos, retain, origin: origin.cloned() };
            let presence = if inner.closed { Presence::Offline } else { inner.presence };
            inner.outbox.push(outgoing, presence)
        });
        let outcome = PushOutcome {
            pushed,
            expired,
            messages: inner.outbox.len() as i64 - messages as i64,
            bytes: inner.outbox.bytes() as i64 - bytes as i64,
        };
        let grown = inner.outbox.bytes().saturating_sub(bytes);
        let more = inner.outbox.len().saturating_sub(messages);
        post.room.take(grown + more * MESSAGE_OVERHEAD);
        if inner.presence == Presence::Offline || matches!(pushed, Pushed::Dropped(_)) {
            return outcome; // Who gets nothing has nothing to wake up for.
        }
        let is_patient = post.wakes.as_ref().is_some_and(|wakes| wakes.is_busy);
        if inner.told && (is_patient || inner.held.take().is_none()) {
            return outcome;
        }
        inner.told = true;
        inner.news = true;
        let waker = inner.waker.clone();
        match (waker, &mut post.wakes) {
            (Some(waker), Some(wakes)) => {
                inner.held = is_patient.then(|| wakes.hold.clone());
                wakes.wakers.push(waker);
            }
            (Some(waker), None) => {
                drop(guard);
                waker.wake();
            }
            (None, _) => {}
        }
        outcome
    }

    /// Moves what may be sent to `output` and into `batch`, in this order.
    pub(crate) fn take(
        &self,
        output: &mut Output,
        batch: &mut Vec<Outgoing>,
        quota: usize,
        bytes: usize,
    ) -> Taken {
        let mut inner = lock(&self.inner);
        let before = (inner.outbox.len(), inner.outbox.bytes());
        let (mut packets, written) = inner.outbox.take_written();
        if packets.len() < bytes {
            inner.outbox.take(batch, quota, bytes - packets.len());
        }
        // What is left waits for the client; the owner looks again when that has moved.
        inner.told = !inner.outbox.is_empty();
        inner.news = false;
        inner.held = None;
        let after = (inner.outbox.len(), inner.outbox.bytes());
        drop(inner);
        if written > 0 {
            output.take(&mut packets);
        }
        Taken { written, messages: before.0 - after.0, bytes: before.1 - after.1 }
    }

    /// What waits, waits for the client: it gets memory of its own, as far as it is small.
    pub(crate) fn detach_small(&self) {
        lock(&self.inner).outbox.detach_small();
    }

    /// From now on QoS 0 messages are written as they come, or not.
    pub(crate) fn set_lane(&self, lane: Option<Lane>) {
        lock(&self.inner).lane = lane;
    }

    /// Leaves the owner's waker, and says whether something came since it last asked.
    pub(crate) fn poll_news(&self, waker: &Waker) -> bool {
        let mut inner = lock(&self.inner);
        if !inner.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            inner.waker = Some(waker.clone());
        }
        if inner.held.as_ref().is_some_and(|held| !held.is_over()) {
            return false;
        }
        inner.held = None;
        std::mem::take(&mut inner.news)
    }

    /// The client is there again.
    pub(crate) fn open(&self) {
        let mut inner = lock(&self.inner);
        inner.presence = Presence::Online;
        inner.told = !inner.outbox.is_empty();
        inner.news = inner.told;
        inner.held = None;
    }

    /// The client is gone: what is kept for it gets memory of its own, the rest is dropped. Says how many
    /// messages and bytes went.
    pub(crate) fn park(&self) -> (usize, usize) {
        self.set_taken(0);
        let mut inner = lock(&self.inner);
        let bytes = inner.outbox.bytes();
        inner.presence = Presence::Offline;
        inner.lane = None;
        inner.waker = None;
        inner.held = None;
        let dropped = inner.outbox.drop_qos0();
        inner.outbox.detach();
        (dropped, bytes - inner.outbox.bytes())
    }

    /// The session is gone: nothing is taken any more. Says what was waiting.
    pub(crate) fn close(&self) -> (usize, usize) {
        let mut inner = lock(&self.inner);
        let waiting = (inner.outbox.len(), inner.outbox.bytes());
        let none = OutboxLimits { messages: 0, qos0_messages: 0, bytes: 0, ..OutboxLimits::default() };
        inner.outbox = Outbox::new(none);
        inner.presence = Presence::Offline;
        inner.closed = true;
        inner.lane = None;
        inner.waker = None;
        waiting
    }
}

/// A message does not fit the client's maximum packet size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// Puts one delivery into the output. The bytes that receivers share are encoded by the first of them.
pub(crate) fn write(
    delivery: &Delivery,
    version: ProtocolVersion,
    maximum_packet_size: u32,
    now: Instant,
    output: &mut Output,
) -> Result<(), TooLarge> {
    let Delivery { message, qos, retain, dup, packet_id, origin, alias } = delivery;
    let identifiers = Origin::identifiers(origin.as_ref());
    let patch = PublishPatch {
        packet_id: *packet_id,
        dup: *dup,
        retain: *retain,
        message_expiry_interval: message.expiry_left(now),
    };
    if identifiers.is_empty() && alias.is_none() || version != ProtocolVersion::V5 {
        // Above QoS 0 the session keeps it as well.
        let others = Arc::strong_count(message) > if *qos == QoS::AtMostOnce { 1 } else { 2 };
        let slot = if others { message.frames.slot(version, *qos) } else { None };
        let encoded = match slot {
            // Nobody else has it: it goes straight into the output.
            None => None,
            Some(slot) => match slot.get() {
                Some(encoded) => Some(encoded),
                None => {
                    let publish = publish(delivery, now);
                    let encoded = EncodedPublish::new(&publish, version).map_err(|_| TooLarge)?;
                    Some(slot.get_or_init(|| encoded))
                }
            },
        };
        if let Some(encoded) = encoded {
            fits(encoded.packet_size(), maximum_packet_size)?;
            output.push_publish(encoded, patch);
            return Ok(());
        }
    }
    if alias.is_some() || message.payload.len() > SHARED_FROM {
        let encoded = EncodedPublish::new(&publish(delivery, now), version).map_err(|_| TooLarge)?;
        fits(encoded.packet_size(), maximum_packet_size)?;
        output.push_publish(&encoded, patch);
        return Ok(());
    }
    let parts = PublishParts {
        topic: &message.topic,
        payload: &message.payload,
        qos: *qos,
        properties: message.properties.as_deref(),
        subscription_identifiers: identifiers,
        patch,
    };
    let length = parts.measure(version).map_err(|_| TooLarge)?;
    fits(length.packet_size(), maximum_packet_size)?;
    parts.write(version, length, output.buffer());
    Ok(())
}

fn fits(size: usize, maximum_packet_size: u32) -> Result<(), TooLarge> {
    if u32::try_from(size).is_ok_and(|size| size <= maximum_packet_size) { Ok(()) } else { Err(TooLarge) }
}

fn publish(delivery: &Delivery, now: Instant) -> Publish {
    let Delivery { message, qos, retain, dup, packet_id, origin, alias } = delivery;
    let mut properties = message.properties.as_deref().cloned().unwrap_or_else(PublishProperties::default);
    properties.message_expiry_interval = message.expiry_left(now);
    properties.subscription_identifiers = Origin::identifiers(origin.as_ref()).to_vec();
    properties.topic_alias = alias.map(|alias| alias.number);
    let known = alias.is_some_and(|alias| alias.known);
    Publish {
        dup: *dup,
        qos: *qos,
        retain: *retain,
        topic: (!known).then(|| message.topic.clone()),
        packet_id: *packet_id,
        payload: message.payload.clone(),
        properties,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mqgate_protocol::limits::WhenFull;

    use super::*;

    fn message(payload: Bytes) -> Arc<Message> {
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: None,
            packet_id: None,
            payload,
            properties: PublishProperties::default(),
        };
        Message::published(TopicName::parse("t".into()).unwrap(), publish, SessionKey(1), Instant::ZERO)
    }

    /// With `free` bytes left of all.
    fn push(mailbox: &Mailbox, payload: Bytes, free: usize) -> Pushed {
        let message = message(payload);
        let mut post =
            Post::new(&message, 1, tokio::time::Instant::now(), Room::new(usize::MAX, usize::MAX - free));
        mailbox.push(&mut post, QoS::AtLeastOnce, false, None).pushed
    }

    /// Where a small message waits for the client and not only for its task, the buffer it was read into is free.
    #[test]
    fn what_waits_for_a_slow_client_keeps_no_receive_buffer() {
        let mailbox = Mailbox::new(SessionKey(1), OutboxLimits::default());
        let buffer = Bytes::from(vec![b'x'; 64 * 1024]);
        push(&mailbox, buffer.slice(..10), usize::MAX);
        assert!(!buffer.is_unique(), "its task may take it at any moment");
        mailbox.detach_small();
        assert!(buffer.is_unique());
        push(&mailbox, buffer.slice(20..30), usize::MAX);
        mailbox.detach_small();
        assert!(buffer.is_unique());
        let (mut output, mut batch) = (Output::new(), Vec::new());
        mailbox.take(&mut output, &mut batch, 1, usize::MAX);
        push(&mailbox, buffer.slice(..10), usize::MAX);
        mailbox.detach_small();
        assert!(buffer.is_unique());
        mailbox.take(&mut output, &mut batch, 10, usize::MAX);
        assert_eq!(batch.len(), 3);
        push(&mailbox, buffer.slice(..60_000), usize::MAX);
        mailbox.detach_small();
        assert!(!buffer.is_unique(), "a large one is shared by all who wait for it");
    }

    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_is_held_back_is_seen_when_its_publisher_says_so_or_a_light_one_brings_something() {
        let woken = Arc::new(Count(AtomicUsize::new(0)));
        let waker: Waker = Arc::clone(&woken).into();
        let mailbox = Mailbox::new(SessionKey(1), OutboxLimits::default());
        let push = |wakes: &mut Wakes| {
            let message = message(Bytes::from_static(b"x"));
            let mut post = Post::new(&message, 2, tokio::time::Instant::now(), Room::new(usize::MAX, 0));
            post.wakes = Some(wakes);
            mailbox.push(&mut post, QoS::AtLeastOnce, false, None);
        };
        let look = || (mailbox.poll_news(&waker), woken.0.load(Ordering::Relaxed));
        let (mut busy, mut other, mut light) = Default::default();
        for wakes in [&mut busy, &mut other] {
            let wakes: &mut Wakes = wakes;
            wakes.is_busy = true;
        }
        assert_eq!(look(), (false, 0));
        push(&mut busy);
        assert_eq!(look(), (false, 0), "awake for another reason");
        push(&mut other);
        other.wake();
        assert_eq!(look(), (false, 0), "it comes with what is held back");
        busy.wake();
        assert_eq!(look(), (true, 1));
        mailbox.take(&mut Output::new(), &mut Vec::new(), 10, usize::MAX);

        push(&mut busy);
        assert_eq!(look(), (false, 1));
        push(&mut light);
        light.wake();
        assert_eq!(look(), (true, 2), "who does little is not behind one that does much");
        mailbox.take(&mut Output::new(), &mut Vec::new(), 10, usize::MAX);

        // Whoever is gone holds nothing back.
        push(&mut busy);
        drop(busy);
        assert!(mailbox.poll_news(&waker));
    }

    #[test]
    fn receivers_wait_thirty_milliseconds_at_most() {
        let at = |millis| Instant::ZERO.after(Duration::from_millis(millis));
        let mut wakes = Wakes::default();
        assert!(!wakes.are_due(at(0)));
        wakes.wakers.push(Arc::new(Count(AtomicUsize::new(0))).into());
        assert!(!wakes.are_due(at(100)), "they wait from now on");
        wakes.spend_on(1, cost::WRITE);
        assert!(!wakes.are_due(at(129)));
        assert!(wakes.are_due(at(130)));
        wakes.wakers.push(Arc::new(Count(AtomicUsize::new(0))).into());
        assert!(!wakes.are_due(at(130)), "what was done is not worth two writes");
        wakes.spend_on(1, cost::WRITE);
        assert!(wakes.are_due(at(130)));
        wakes.wake();
        assert!(!wakes.are_due(at(200)));
    }

    #[test]
    fn who_gets_nothing_is_not_woken() {
        let woken = Arc::new(Count(AtomicUsize::new(0)));
        let mailbox = Mailbox::new(SessionKey(1), OutboxLimits::default());
        mailbox.poll_news(&Arc::clone(&woken).into());
        let pushed = push(&mailbox, Bytes::from_static(b"x"), 0);
        assert!(matches!(pushed, Pushed::Dropped(_)), "{pushed:?}");
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        push(&mailbox, Bytes::from_static(b"x"), usize::MAX);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_queue_holds_no_more_than_is_free() {
        let limits = OutboxLimits { when_full: WhenFull::DropNewest, ..OutboxLimits::default() };
        let mailbox = Mailbox::new(SessionKey(1), limits);
        let payload = Bytes::from_static(&[b'x'; 99]);
        // With its topic it has 100 bytes, and 256 for being one more.
        let pushed = [355, 356, 355, 356].map(|free| push(&mailbox, payload.clone(), free));
        let crowded = Pushed::Dropped(mqgate_protocol::outbox::DropReason::AllQueuesFull);
        assert_eq!(pushed, [crowded, Pushed::Queued, crowded, Pushed::Queued]);
        assert_eq!(mailbox.waiting(), (2, 200));
    }
}
