//! What happens, for who watches: a stream over HTTP and `$events/…` topics, CloudEvents 1.0 both.
//!
//! Two sources: the registry's outbox, which is on the disk and whose events come at least once, also over a restart;
//! and the audit log for everything else, from the moment the broker runs. What was seen lately is kept in a ring with
//! a bound; who is slower than the ring is told that something was missed. Does not know HTTP.

mod cloud;
mod follow;
mod kinds;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mqgate_identity::audit::AuditEvent;
use tokio::sync::watch;

pub use self::cloud::CloudEvent;
pub use self::follow::{Sources, follow, observe};
use crate::clock;

/// How events are made and kept.
#[derive(Debug, Clone)]
pub struct EventSettings {
    /// CloudEvents' `source`.
    pub source: String,
    /// Events kept for who watches.
    pub buffer: usize,
    /// Streams at once.
    pub streams: usize,
    /// Whether they are published below `$events/`.
    pub mqtt: bool,
}

impl Default for EventSettings {
    fn default() -> Self {
        Self { source: String::from("/mqgate"), buffer: 4_096, streams: 32, mqtt: true }
    }
}

/// Where in the stream somebody is: what a `Last-Event-ID` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Of this run of the broker.
    pub run: u64,
    /// The last event seen in this run.
    pub number: u64,
    /// The last event of the registry's outbox seen.
    pub registry: u64,
}

impl Position {
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-').map(|part| u64::from_str_radix(part, 16).ok());
        let position = Self { run: parts.next()??, number: parts.next()??, registry: parts.next()?? };
        parts.next().is_none().then_some(position)
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.run, self.number, self.registry)
    }
}

/// One event in the ring.
#[derive(Debug, Clone)]
pub struct Seen {
    pub at: Position,
    pub what: What,
}

#[derive(Debug, Clone)]
pub enum What {
    Event(Arc<CloudEvent>),
    /// So many were lost before they came here.
    Missed(u64),
}

/// The same in the ring, where most of it is never read.
#[derive(Debug, Clone)]
enum Kept {
    Event(Arc<CloudEvent>),
    /// A record that is an event: made into one for who reads it.
    Record(Arc<AuditEvent>),
    Missed(u64),
}

/// The ring.
pub struct Events {
    pub settings: EventSettings,
    run: u64,
    ring: Mutex<Ring>,
    /// Sequence number of the last audit record that was taken in.
    told: AtomicU64,
    /// The number of the last one.
    arrived: watch::Sender<u64>,
}

#[derive(Default)]
struct Ring {
    kept: VecDeque<(Position, Kept)>,
    number: u64,
    registry: u64,
}

/// The next events of somebody who watches.
#[derive(Debug, Default)]
pub struct Batch {
    pub seen: Vec<Seen>,
    /// Events that are in the ring no longer.
    pub missed: u64,
}

impl Events {
    pub fn new(settings: EventSettings) -> Arc<Self> {
        let (arrived, _) = watch::channel(0);
        Arc::new(Self {
            settings,
            run: clock::now().0,
            ring: Mutex::default(),
            told: AtomicU64::new(0),
            arrived,
        })
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of the stream: what comes next is what happens next.
    pub fn end(&self) -> Position {
        let ring = self.ring();
        Position { run: self.run, number: ring.number, registry: ring.registry }
    }

    /// Changes with every event.
    pub fn arrived(&self) -> watch::Receiver<u64> {
        self.arrived.subscribe()
    }

    /// Whether a position is one of this run of the broker.
    pub fn is_own(&self, position: &Position) -> bool {
        position.run == self.run && position.number <= self.ring().number
    }

    /// What comes after a position of this run, so many at most.
    pub fn after(&self, number: u64, most: usize) -> Batch {
        let ring = self.ring();
        let oldest = ring.kept.front().map_or(ring.number + 1, |(at, _)| at.number);
        let missed = oldest.saturating_sub(number.saturating_add(1));
        // The ring has no gaps: numbers are places.
        let skip =
            usize::try_from(number.saturating_add(missed + 1).saturating_sub(oldest)).unwrap_or(usize::MAX);
        let kept: Vec<(Position, Kept)> = ring.kept.iter().skip(skip).take(most).cloned().collect();
        drop(ring);
        Batch { seen: kept.into_iter().map(|(at, kept)| self.seen(at, kept)).collect(), missed }
    }

    fn seen(&self, at: Position, kept: Kept) -> Seen {
        let what = match kept {
            Kept::Event(event) => What::Event(event),
            // Only records that are events come into the ring.
            Kept::Record(record) => CloudEvent::of_audit(&record, self.run)
                .map_or(What::Missed(1), |event| What::Event(event.into())),
            Kept::Missed(count) => What::Missed(count),
        };
        Seen { at, what }
    }

    /// Takes in an event; `registry`: its number in the outbox.
    fn push(&self, kept: Kept, registry: Option<u64>) {
        let mut ring = self.ring();
        ring.number += 1;
        ring.registry = ring.registry.max(registry.unwrap_or(0));
        let at = Position { run: self.run, number: ring.number, registry: ring.registry };
        ring.kept.push_back((at, kept));
        while ring.kept.len() > self.settings.buffer.max(1) {
            ring.kept.pop_front();
        }
        let number = ring.number;
        drop(ring);
        // Who comes later looks into the ring first.
        if self.arrived.receiver_count() > 0 {
            self.arrived.send_replace(number);
        }
    }

    /// Takes in an audit record at once, if nobody watches, nobody `subscribes` and it follows the last one: then the task that
    /// tells others need not be woken, which would cost more than all the rest. False: it is to be told.
    fn take(&self, record: &Arc<AuditEvent>, subscribes: impl FnOnce() -> bool) -> bool {
        let is_next = self.told.load(Ordering::Acquire) + 1 == record.sequence;
        if !is_next || self.arrived.receiver_count() > 0 || (self.settings.mqtt && subscribes()) {
            return false;
        }
        if kinds::of(record).is_some() {
            self.push(Kept::Record(Arc::clone(record)), None);
        }
        self.told.store(record.sequence, Ordering::Release);
        true
    }

    /// Where the outbox was when the broker started.
    fn begin(&self, registry: u64) {
        self.ring().registry = registry;
    }
}

/// Which events somebody wants: types and subjects, each exactly, or up to a dot with everything below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// `certs.revoked`, or `certs` for all that begin so; none: all.
    pub types: Vec<String>,
    pub subjects: Vec<String>,
}

impl Filter {
    pub fn takes(&self, event: &CloudEvent) -> bool {
        let of_type = |wanted: &String| {
            let rest = event.kind.strip_prefix(wanted.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        (self.types.is_empty() || self.types.iter().any(of_type))
            && (self.subjects.is_empty() || self.subjects.contains(&event.subject))
    }
}

#[cfg(test)]
mod tests {
    use mqgate_identity::audit::{AuditEvent, Outcome, names};
    use mqgate_identity::reason::Reason;

    use super::*;

    fn ring(buffer: usize) -> Arc<Events> {
        Events::new(EventSettings { buffer, ..EventSettings::default() })
    }

    fn event(client_id: &str) -> Kept {
        let mut event = AuditEvent::new(names::CONNECTION_ACCEPTED, Outcome::Success, Reason::Ok);
        event.client_id = Some(client_id.into());
        Kept::Record(Arc::new(event))
    }

    fn numbers(batch: &Batch) -> Vec<u64> {
        batch.seen.iter().map(|seen| seen.at.number).collect()
    }

    #[test]
    fn who_is_slower_than_the_ring_is_told_so() {
        let events = ring(3);
        let arrived = events.arrived();
        assert_eq!(events.after(0, 10).missed, 0);
        for client in ["a", "b", "c", "d", "e"] {
            events.push(event(client), None);
        }
        let batch = events.after(0, 10);
        assert_eq!((numbers(&batch), batch.missed), (vec![3, 4, 5], 2));
        let batch = events.after(3, 1);
        assert_eq!((numbers(&batch), batch.missed), (vec![4], 0));
        let batch = events.after(5, 10);
        assert_eq!((numbers(&batch), batch.missed), (vec![], 0));
        assert!(numbers(&events.after(u64::MAX, 10)).is_empty());
        assert_eq!(*arrived.borrow(), 5);
        // With nobody to tell, the ring goes on all the same.
        drop(arrived);
        events.push(event("f"), None);
        assert_eq!(numbers(&events.after(5, 10)), [6]);
    }

    #[test]
    fn a_record_is_taken_at_once_while_nobody_is_told_and_none_is_on_its_way() {
        let events = ring(9);
        let record = |sequence| {
            let mut event = AuditEvent::new(names::CONNECTION_ACCEPTED, Outcome::Success, Reason::Ok);
            event.sequence = sequence;
            Arc::new(event)
        };
        // The log is older than this run of the broker: the task takes the first one.
        assert!(!events.take(&record(100), || false));
        events.told.store(100, Ordering::Release);
        assert!(events.take(&record(101), || false));
        assert!(!events.take(&record(102), || true), "somebody subscribes");
        assert!(!events.take(&record(103), || false), "102 is on its way");
        events.told.store(103, Ordering::Release);
        let watcher = events.arrived();
        assert!(!events.take(&record(104), || false));
        drop(watcher);
        events.told.store(104, Ordering::Release);
        let mut other = AuditEvent::new(names::ADMIN_ACTION, Outcome::Success, Reason::AdminAction);
        other.sequence = 105;
        assert!(events.take(&Arc::new(other), || false), "no event, and done with");
        assert!(events.take(&record(106), || false));
        assert_eq!(numbers(&events.after(0, 10)), [1, 2]);
    }

    #[test]
    fn a_position_is_read_back_and_of_one_run() {
        let events = ring(3);
        events.push(event("a"), Some(77));
        let end = events.end();
        assert_eq!((end.number, end.registry, Position::parse(&end.to_string())), (1, 77, Some(end)));
        assert!(events.is_own(&end));
        assert!(!events.is_own(&Position { run: end.run + 1, ..end }));
        assert!(!events.is_own(&Position { number: 2, ..end }));
        for text in ["", "1", "1-2", "1-2-x", "1-2-3-4", "-1-2-3", "1-2-11111111111111111"] {
            assert_eq!(Position::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_filter_takes_whole_words() {
        let events = ring(3);
        events.push(event("meter-7"), None);
        let seen = events.after(0, 1).seen;
        let What::Event(event) = &seen[0].what else { panic!("an event") };
        let filter = |types: &[&str], subjects: &[&str]| Filter {
            types: types.iter().map(|one| (*one).to_owned()).collect(),
            subjects: subjects.iter().map(|one| (*one).to_owned()).collect(),
        };
        for (types, subjects, takes) in [
            (&[][..], &[][..], true),
            (&["clients"], &[], true),
            (&["clients.connected"], &[], true),
            (&["certs", "clients"], &["meter-7"], true),
            (&["client"], &[], false),
            (&["clients.connect"], &[], false),
            (&["clients"], &["meter-8"], false),
        ] {
            assert_eq!(filter(types, subjects).takes(event), takes, "{types:?} {subjects:?}");
        }
    }
}
