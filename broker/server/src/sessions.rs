//! Where each client's session is: with the task of its connection, or parked here. Hands it over when the
//! client connects again, publishes wills when they are due, and ends what has expired.
//!
//! A client id is a name within a device, not within the broker: it is chosen by whoever connects, so it must
//! not be a way to another device's messages, nor to its connection. Two devices with the same client id have
//! two sessions; the same device with the same client id takes over [MQTT-3.1.4-3].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytestring::ByteString;
use mqgate_codec::ReasonCode;
use mqgate_identity::reason::Reason;
use mqgate_protocol::connection::Refused;
use mqgate_protocol::limits::Limits;
use mqgate_protocol::message::Message;
use mqgate_protocol::outbox::{DropReason, Outgoing};
use mqgate_protocol::session::{Session, SessionKey};
use mqgate_protocol::time::Instant;
use tokio::sync::oneshot;

use crate::delivery::Mailbox;
use crate::directory::{ConnectionHandle, lock};
use crate::gate::Accepted;
use crate::inspect::SessionLine;
use crate::metrics::mqtt::{MqttMetrics, Tally, Transport};
use crate::routing::{Router, note_queued};

const SHARDS: usize = 64;

pub(crate) struct Sessions {
    /// By device, so that one lock covers what a device has.
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    count: AtomicUsize,
    /// Parked sessions with something to be done about them, the next first.
    due: Mutex<BTreeSet<(Instant, Name)>>,
    keys: AtomicU64,
    limits: Arc<Limits>,
    router: Arc<Router>,
    metrics: Arc<MqttMetrics>,
}

/// What a session is known by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name {
    pub(crate) device_id: Arc<str>,
    pub(crate) client_id: ByteString,
}

#[derive(Default)]
struct Shard {
    places: HashMap<Name, Place>,
    /// How many of `places` each device has.
    devices: HashMap<Arc<str>, usize>,
}

/// A session changes hands.
#[derive(Debug)]
pub(crate) struct Handover {
    pub(crate) session: Box<Session>,
    pub(crate) mailbox: Arc<Mailbox>,
    /// What is known of the connection that it was left by, if there is a will to be published for it.
    pub(crate) accepted: Option<Arc<Accepted>>,
}

/// A will whose time came while its client was away. Whoever publishes it asks first whether its client is
/// still let in.
pub(crate) struct LateWill {
    pub(crate) name: Name,
    pub(crate) message: Arc<Message>,
    pub(crate) accepted: Option<Arc<Accepted>>,
}

/// A session for a connection.
pub(crate) struct Opened {
    pub(crate) session: Box<Session>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) present: bool,
}

enum Place {
    With(Arc<ConnectionHandle>),
    Parked(Handover),
}

impl Name {
    fn of(session: &Session) -> Self {
        Self { device_id: Arc::clone(&session.device_id), client_id: session.client_id.clone() }
    }
}

impl Shard {
    fn add(&mut self, name: &Name, place: Place) {
        if self.places.insert(name.clone(), place).is_none() {
            *self.devices.entry(Arc::clone(&name.device_id)).or_default() += 1;
        }
    }

    fn remove(&mut self, name: &Name) -> Option<Place> {
        let place = self.places.remove(name)?;
        if let Some(count) = self.devices.get_mut(&name.device_id) {
            *count -= 1;
            if *count == 0 {
                self.devices.remove(&name.device_id);
            }
        }
        Some(place)
    }
}

impl Sessions {
    pub(crate) fn new(limits: Arc<Limits>, router: Arc<Router>, metrics: Arc<MqttMetrics>) -> Self {
        metrics.sessions_limit.set(i64::try_from(limits.sessions).unwrap_or(i64::MAX));
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            count: AtomicUsize::new(0),
            due: Mutex::default(),
            keys: AtomicU64::new(1),
            limits,
            router,
            metrics,
        }
    }

    fn shard(&self, name: &Name) -> &Mutex<Shard> {
        &self.shards[(self.hasher.hash_one(&name.device_id) % SHARDS as u64) as usize]
    }

    /// The session of a client, from an older connection or from where it was parked; a new one if there is
    /// none.
    pub(crate) async fn open(
        &self,
        handle: &Arc<ConnectionHandle>,
        name: Name,
        clean_start: bool,
        now: impl Fn() -> Instant,
    ) -> Result<Opened, Refused> {
        let older = self.enter(handle, &name)?;
        let older = match older {
            Some(Older::Here(older)) => Some(older),
            // It comes as soon as that task has seen the order. Without an answer there is no session.
            Some(Older::Elsewhere(coming)) => coming.await.ok(),
            None => None,
        };
        let now = now();
        if let Some(Handover { mut session, mailbox, .. }) = older {
            let over = session.ends_at.is_some_and(|at| at <= now);
            if !clean_start && !over {
                session.will.take_if(|will| will.due > now); // [MQTT-3.1.3-9]
                self.publish_will(&mut session);
                mailbox.open();
                return Ok(Opened { session, mailbox, present: true });
            }
            self.end(session, &mailbox);
        }
        let number = self.keys.fetch_add(1, Ordering::Relaxed);
        let key = SessionKey::new(number, self.hasher.hash_one(&name));
        let mailbox = Arc::new(Mailbox::new(key, self.limits.outbox));
        let session = Box::new(Session::new(key, name.client_id, name.device_id));
        Ok(Opened { session, mailbox, present: false })
    }

    /// Puts a connection in the place of a client's session; gives what was there.
    fn enter(&self, handle: &Arc<ConnectionHandle>, name: &Name) -> Result<Option<Older>, Refused> {
        let mut shard = lock(self.shard(name));
        let Some(place) = shard.places.get_mut(name) else {
            let of_device = shard.devices.get(&name.device_id).copied().unwrap_or(0);
            if of_device >= self.limits.sessions_per_device {
                return Err(Refused::new(ReasonCode::QUOTA_EXCEEDED, Reason::QuotaExceeded));
            }
            if self.count.fetch_add(1, Ordering::Relaxed) >= self.limits.sessions {
                self.count.fetch_sub(1, Ordering::Relaxed);
                return Err(Refused::new(ReasonCode::QUOTA_EXCEEDED, Reason::QuotaExceeded));
            }
            shard.add(name, Place::With(Arc::clone(handle)));
            self.metrics.sessions_online.inc();
            return Ok(None);
        };
        Ok(Some(match std::mem::replace(place, Place::With(Arc::clone(handle))) {
            Place::Parked(older) => {
                if let Some(at) = older.session.due() {
                    lock(&self.due).remove(&(at, name.clone()));
                }
                self.metrics.sessions_offline.dec();
                self.metrics.sessions_online.inc();
                Older::Here(older)
            }
            Place::With(older) => {
                let (heir, coming) = oneshot::channel();
                // Under the lock of the shard, so that the older task finds either its place or its heir.
                older.hand_over(heir);
                self.metrics.session_takeovers.inc();
                Older::Elsewhere(coming)
            }
        }))
    }

    /// A connection is at its end: its session goes to its heir, is parked, or ends.
    pub(crate) fn leave(&self, handle: &Arc<ConnectionHandle>, handover: Handover, now: Instant) {
        let name = Name::of(&handover.session);
        let (messages, bytes) = handover.mailbox.park();
        self.metrics.forget_queued(messages, bytes);
        let mut shard = lock(self.shard(&name));
        let ours = shard.places.get(&name).is_some_and(|place| match place {
            Place::With(holder) => Arc::ptr_eq(holder, handle),
            Place::Parked(_) => false,
        });
        if !ours {
            drop(shard);
            // Without an heir, or with one that is gone, nobody can ever ask for the session again.
            let orphan = match handle.take_heir() {
                Some(heir) => heir.send(handover).err(),
                None => Some(handover),
            };
            if let Some(Handover { session, mailbox, .. }) = orphan {
                self.end(session, &mailbox);
            }
            return;
        }
        self.metrics.sessions_online.dec();
        if handover.session.ends_at.is_some_and(|at| at <= now) {
            shard.remove(&name);
            drop(shard);
            self.count.fetch_sub(1, Ordering::Relaxed);
            self.end(handover.session, &handover.mailbox);
            return;
        }
        self.metrics.sessions_offline.inc();
        let Handover { mut session, mailbox, accepted } = handover;
        let (key, waiting) = (session.key, Arc::clone(&mailbox));
        session.inflight.detach();
        let will = session.take_due_will(now);
        if let Some(at) = session.due() {
            lock(&self.due).insert((at, name.clone()));
        }
        shard.add(&name, Place::Parked(Handover { session, mailbox, accepted }));
        drop(shard);
        self.share_out(key, &waiting);
        self.publish(will);
    }

    /// A connection that got no session after all gives its place back.
    pub(crate) fn abandon(&self, handle: &Arc<ConnectionHandle>, name: &Name) {
        let mut shard = lock(self.shard(name));
        let place = shard.places.get(name);
        if matches!(place, Some(Place::With(holder)) if Arc::ptr_eq(holder, handle)) {
            shard.remove(name);
            drop(shard);
            self.count.fetch_sub(1, Ordering::Relaxed);
            self.metrics.sessions_online.dec();
        }
    }

    /// Ends sessions whose time has come; gives the wills whose time has come.
    pub(crate) fn sweep(&self, now: Instant) -> Vec<LateWill> {
        let mut wills = Vec::new();
        while let Some(name) = self.next_due(now) {
            let mut shard = lock(self.shard(&name));
            let Some(Place::Parked(Handover { session, accepted, .. })) = shard.places.get_mut(&name) else {
                continue;
            };
            if let Some(message) = session.take_due_will(now) {
                wills.push(LateWill { name: name.clone(), message, accepted: accepted.take() });
            }
            let over = session.ends_at.is_some_and(|at| at <= now);
            let next = session.due().filter(|_| !over);
            let ended = if over { shard.remove(&name) } else { None };
            if let Some(at) = next {
                lock(&self.due).insert((at, name));
            }
            drop(shard);
            if let Some(Place::Parked(Handover { session, mailbox, .. })) = ended {
                self.count.fetch_sub(1, Ordering::Relaxed);
                self.metrics.sessions_offline.dec();
                self.end(session, &mailbox);
            }
        }
        wills
    }

    fn next_due(&self, now: Instant) -> Option<Name> {
        let mut due = lock(&self.due);
        let is_due = due.first().is_some_and(|(at, _)| *at <= now);
        if is_due { due.pop_first().map(|(_, name)| name) } else { None }
    }

    /// Everything of a session goes, except that its will is heard.
    fn end(&self, mut session: Box<Session>, mailbox: &Mailbox) {
        if !session.subscriptions.is_empty() {
            let filters = session.subscriptions.values().map(|subscribed| &subscribed.filter);
            self.router.unsubscribe(session.key, filters);
        }
        let (inflight, inflight_bytes) = (session.inflight.len(), session.inflight.bytes());
        let mut shared = session.inflight.take_shared();
        let (waiting, waiting_bytes) = mailbox.take_shared();
        self.metrics.forget_queued(waiting.len(), waiting_bytes);
        shared.extend(waiting);
        let (messages, bytes) = mailbox.close();
        self.metrics.forget_queued(messages, bytes);
        self.metrics.forget_inflight(inflight, inflight_bytes);
        if !shared.is_empty() {
            let mut tally = Tally::new(Transport::Tcp);
            let lost = self.router.hand_on(shared, session.key, false, &mut tally).len();
            self.metrics.dropped(DropReason::NoSubscribers, lost as u64);
            tally.add_to(&self.metrics);
        }
        self.publish_will(&mut session);
    }

    /// What a client that is away has not been sent of its shared subscriptions goes to members that are there.
    fn share_out(&self, key: SessionKey, mailbox: &Mailbox) {
        let (shared, bytes) = mailbox.take_shared();
        if shared.is_empty() {
            return;
        }
        self.metrics.forget_queued(shared.len(), bytes);
        let mut tally = Tally::new(Transport::Tcp);
        for Outgoing { message, qos, retain, origin } in self.router.hand_on(shared, key, true, &mut tally) {
            let pushed =
                mailbox.push(&mut self.router.post(&message, 1, &tally), qos, retain, origin.as_ref());
            note_queued(&pushed, &mut tally);
        }
        tally.add_to(&self.metrics);
    }

    fn publish_will(&self, session: &mut Session) {
        self.publish(session.will.take().map(|will| will.message));
    }

    pub(crate) fn publish(&self, will: Option<Arc<Message>>) {
        if let Some(will) = will {
            let mut tally = Tally::new(Transport::Tcp);
            self.router.publish(&will, &mut tally);
            tally.add_to(&self.metrics);
            self.metrics.will_published.inc();
        }
    }
}

/// Where a session is.
pub(crate) enum Found<T> {
    With(Arc<ConnectionHandle>),
    Parked(T),
    Nowhere,
}

/// For operators: nothing of this is on the way of a message.
impl Sessions {
    /// Looks a session up; `parked` sees it if its client is away.
    pub(crate) fn find<T>(&self, name: &Name, parked: impl FnOnce(&mut Handover) -> T) -> Found<T> {
        match lock(self.shard(name)).places.get_mut(name) {
            Some(Place::With(handle)) => Found::With(Arc::clone(handle)),
            Some(Place::Parked(handover)) => Found::Parked(parked(handover)),
            None => Found::Nowhere,
        }
    }

    /// Ends a session whose client is away; `None` if there is none. Gives the will that is due by that.
    pub(crate) fn end_parked(&self, name: &Name) -> Option<Option<LateWill>> {
        let mut shard = lock(self.shard(name));
        if !matches!(shard.places.get(name), Some(Place::Parked(_))) {
            return None;
        }
        let Some(Place::Parked(Handover { mut session, mailbox, accepted })) = shard.remove(name) else {
            return None;
        };
        if let Some(at) = session.due() {
            lock(&self.due).remove(&(at, name.clone()));
        }
        drop(shard);
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.metrics.sessions_offline.dec();
        let will = session.will.take();
        self.end(session, &mailbox);
        Some(will.map(|will| LateWill { name: name.clone(), message: will.message, accepted }))
    }

    /// The first `limit` sessions after `after` that `wanted` takes, in order of device and client id.
    pub(crate) fn list(
        &self,
        after: Option<&Name>,
        limit: usize,
        now: Instant,
        wanted: impl Fn(&Name, bool) -> bool,
    ) -> Vec<SessionLine> {
        let mut found: BTreeMap<Name, SessionLine> = BTreeMap::new();
        for shard in &self.shards {
            for (name, place) in &lock(shard).places {
                let connected = matches!(place, Place::With(_));
                let too_late =
                    found.len() >= limit && found.last_key_value().is_some_and(|(last, _)| name > last);
                if too_late || after.is_some_and(|after| name <= after) || !wanted(name, connected) {
                    continue;
                }
                found.insert(name.clone(), place.line(name, now));
                if found.len() > limit {
                    found.pop_last();
                }
            }
        }
        found.into_values().collect()
    }

    /// Every session with this client id: one for each device that uses it.
    pub(crate) fn of_client(&self, client_id: &str) -> Vec<Name> {
        let mut names: Vec<Name> = Vec::new();
        for shard in &self.shards {
            names.extend(lock(shard).places.keys().filter(|name| &*name.client_id == client_id).cloned());
        }
        names.sort();
        names
    }

    /// Whose sessions these are.
    pub(crate) fn names_of(&self, keys: &HashSet<SessionKey>) -> HashMap<SessionKey, Name> {
        let mut names = HashMap::new();
        for shard in &self.shards {
            for (name, place) in &lock(shard).places {
                if let Some(key) = place.mailbox().map(|mailbox| mailbox.key).filter(|key| keys.contains(key))
                {
                    names.insert(key, name.clone());
                }
            }
        }
        names
    }
}

impl Place {
    fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            Self::With(handle) => handle.mailbox().map(|mailbox| &**mailbox),
            Self::Parked(handover) => Some(&handover.mailbox),
        }
    }

    fn line(&self, name: &Name, now: Instant) -> SessionLine {
        let (queued_messages, queued_bytes) = self.mailbox().map_or((0, 0), Mailbox::waiting);
        let ends_at = match self {
            Self::With(_) => None,
            Self::Parked(handover) => handover.session.ends_at,
        };
        SessionLine {
            client_id: name.client_id.to_string(),
            device_id: name.device_id.to_string(),
            connected: matches!(self, Self::With(_)),
            queued_messages,
            queued_bytes,
            ends_in_seconds: ends_at.map(|at| at.since(now).as_secs()),
        }
    }
}

/// Where an older session is.
enum Older {
    Here(Handover),
    Elsewhere(oneshot::Receiver<Handover>),
}
