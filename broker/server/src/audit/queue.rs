//! The queue to the thread that writes: what is accepted gets its number and time here, and in this order.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use mqgate_audit::Checkpoint;
use mqgate_identity::audit::policy::{self, Level, Mode, Policy};
use mqgate_identity::audit::{AuditEvent, Category, Outcome, names};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixMillis;
use prometheus::{Histogram, IntCounter, IntGauge};
use tokio::sync::{broadcast, oneshot, watch};

use super::writer::Command;
use super::{AuditRefused, AuditSettings, bounds, request};
use crate::clock;
use crate::metrics::GateMetrics;

/// See [`super::AuditLog::observe`].
pub(super) type Observer = dyn Fn(&Arc<AuditEvent>) -> bool + Send + Sync;

/// Records that who follows may be behind.
const FOLLOWED: usize = 4096;

pub(crate) struct Shared {
    pub(super) settings: AuditSettings,
    pub(super) metrics: Option<Arc<GateMetrics>>,
    /// What every record changes of them, looked up once.
    counters: Option<Counters>,
    pub(super) state: Mutex<State>,
    /// Wakes the writer thread.
    pub(super) work: Condvar,
    /// The last attempt to write the log failed.
    pub(super) failing: AtomicBool,
    /// What is written down, and how.
    pub(super) policy: Arc<ArcSwap<Policy>>,
    /// Asked before the followers.
    pub(super) observer: OnceLock<Box<Observer>>,
    /// For who follows what happens, and is told when it was too slow.
    pub(super) followers: broadcast::Sender<Arc<AuditEvent>>,
    /// The last record written, and the last that is safe on the disk.
    pub(super) written: watch::Sender<u64>,
    pub(super) durable: watch::Sender<u64>,
    pub(super) checkpoint: watch::Sender<Option<Arc<Checkpoint>>>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) last_sequence: u64,
    pub(super) last_at: UnixMillis,
    pub(super) queue: VecDeque<Entry>,
    pub(super) queue_bytes: usize,
    pub(super) commands: Vec<Command>,
    /// Not accepted since the last `audit.dropped`.
    pub(super) unannounced: u64,
    pub(super) closed: bool,
}

pub(super) struct Entry {
    pub(super) event: Arc<AuditEvent>,
    /// See [`bounds::weight`].
    pub(super) weight: usize,
    /// Told when the event is safe on the disk.
    pub(super) durable: Option<Waiter>,
    /// What is deleted then: everything up to this record.
    pub(super) retire: Option<u64>,
}

/// Somebody who waits until an event is safe on the disk.
pub(super) struct Waiter {
    pub(super) done: oneshot::Sender<()>,
    /// What the event is about happens only if somebody still waits then.
    pub(super) is_before: bool,
}

/// How full the queue may be for whom.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Evidence of what happened already.
    All,
    /// Permission for what is to happen: leaves the last quarter to the others.
    MostOfIt,
}

/// What is counted of every record.
struct Counters {
    /// By category and outcome.
    records: Vec<IntCounter>,
    /// Only with a log on disk.
    file: Option<FileMetrics>,
}

/// How the log on disk does.
pub(super) struct FileMetrics {
    pub(super) up: IntGauge,
    pub(super) lag: IntGauge,
    pub(super) duration: Histogram,
}

const OUTCOMES: [Outcome; 3] = [Outcome::Success, Outcome::Failure, Outcome::Error];

impl Counters {
    fn new(metrics: &GateMetrics, is_kept: bool) -> Self {
        let counter = |category: Category, outcome: Outcome| {
            metrics.audit_records.with_label_values(&[category.as_str(), outcome.as_str()])
        };
        let categories = Category::ALL.iter();
        Self {
            records: categories
                .flat_map(|category| OUTCOMES.map(|outcome| counter(*category, outcome)))
                .collect(),
            file: is_kept.then(|| FileMetrics {
                up: metrics.audit_sink_up.with_label_values(&["file"]),
                lag: metrics.audit_sink_lag.with_label_values(&["file"]),
                duration: metrics.audit_write_duration.with_label_values(&["file"]),
            }),
        }
    }

    fn record(&self, event: &AuditEvent) -> &IntCounter {
        &self.records[Category::of(event.name) as usize * OUTCOMES.len() + event.outcome as usize]
    }
}

impl Shared {
    pub(super) fn new(settings: AuditSettings, metrics: Option<Arc<GateMetrics>>) -> Self {
        let is_kept = settings.path.is_some();
        Self {
            settings,
            counters: metrics.as_deref().map(|metrics| Counters::new(metrics, is_kept)),
            metrics,
            state: Mutex::default(),
            work: Condvar::new(),
            failing: AtomicBool::new(false),
            policy: Arc::default(),
            observer: OnceLock::new(),
            followers: broadcast::Sender::new(FOLLOWED),
            written: watch::Sender::new(0),
            durable: watch::Sender::new(0),
            checkpoint: watch::Sender::new(None),
        }
    }

    /// The metrics of the log on disk.
    pub(super) fn file(&self) -> Option<&FileMetrics> {
        self.counters.as_ref()?.file.as_ref()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under this lock; a poisoned one still holds consistent data.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the rules leave of an event, and how safe it is to be; `None`: it is not written down.
    pub(super) fn ruled(&self, mut event: AuditEvent) -> Option<(AuditEvent, Option<Mode>)> {
        if let Some(id) = request::current() {
            event = event.field(request::FIELD, id.as_str());
        }
        let rules = self.policy.load();
        if rules.rules().is_empty() {
            // The record of its beginning was written for certain. Rules look at what is left out here.
            event.is_sequel = event.name == names::CONNECTION_CLOSED && event.reason == Reason::Ok;
            return Some((event, None));
        }
        let category = Category::of(event.name).as_str();
        let decision = rules.decide(&policy::Subject::of(&event, category));
        if decision.level == Level::None {
            return None;
        }
        decision.level.apply(&mut event);
        if decision.sample > 1 {
            event = event.field("sample", decision.sample.to_string());
        }
        Some((event, decision.mode))
    }

    /// For one more event after `others`.
    pub(super) fn has_room(&self, state: &State, room: Room, others: usize) -> bool {
        let part = |of: usize| match room {
            Room::All => of,
            Room::MostOfIt => of - of / 4,
        };
        state.queue.len() + others < part(self.settings.queue)
            && state.queue_bytes < part(self.settings.queue_bytes)
    }

    pub(super) fn count_drop(&self, reason: &str) {
        if let Some(metrics) = &self.metrics {
            metrics.audit_dropped.with_label_values(&["file", reason]).inc();
        }
    }

    pub(super) fn accept(
        &self,
        event: AuditEvent,
        room: Room,
        durable: Option<Waiter>,
    ) -> Result<u64, AuditRefused> {
        self.accept_with(event, room, durable, None)
    }

    pub(super) fn accept_with(
        &self,
        mut event: AuditEvent,
        room: Room,
        durable: Option<Waiter>,
        retire: Option<u64>,
    ) -> Result<u64, AuditRefused> {
        bounds::clip(&mut event);
        let sequence = {
            let mut state = self.lock();
            if state.closed {
                return Err(AuditRefused::Closed);
            }
            if !self.has_room(&state, room, 0) {
                state.unannounced += 1;
                drop(state);
                self.count_drop("queue_full");
                return Err(AuditRefused::QueueFull);
            }
            // The loss comes before what follows it, as soon as both fit.
            if state.unannounced > 0 && self.has_room(&state, room, 1) {
                let lost = std::mem::take(&mut state.unannounced);
                let event = AuditEvent::new(names::AUDIT_DROPPED, Outcome::Error, Reason::ServerBusy)
                    .field("sink", "file")
                    .field("cause", "queue_full")
                    .field("count", lost.to_string());
                self.append(&mut state, event, None, None);
            }
            self.append(&mut state, event, durable, retire)
        };
        self.work.notify_one();
        Ok(sequence)
    }

    /// What the thread that writes has to say itself: it is written also when nobody else may say anything any more.
    pub(super) fn add(&self, event: AuditEvent) {
        let mut state = self.lock();
        if self.has_room(&state, Room::All, 0) {
            self.append(&mut state, event, None, None);
        } else {
            state.unannounced += 1;
            drop(state);
            self.count_drop("queue_full");
        }
    }

    pub(super) fn append(
        &self,
        state: &mut State,
        mut event: AuditEvent,
        durable: Option<Waiter>,
        retire: Option<u64>,
    ) -> u64 {
        state.last_sequence += 1;
        // A clock that is set back must not make the record go back.
        state.last_at = state.last_at.max(clock::now());
        event.sequence = state.last_sequence;
        event.at = state.last_at;
        if let Some(counters) = &self.counters {
            counters.record(&event).inc();
        }
        let event = Arc::new(event);
        if !self.observer.get().is_some_and(|observer| observer(&event)) {
            // Without a follower it goes nowhere.
            let _ = self.followers.send(Arc::clone(&event));
        }
        if self.settings.path.is_some() {
            let weight = bounds::weight(&event);
            state.queue_bytes += weight;
            state.queue.push_back(Entry { event, weight, durable, retire });
        }
        state.last_sequence
    }
}
