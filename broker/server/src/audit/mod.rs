//! The audit log: numbers and stamps events, keeps the order, and hands them to the file and the auditors.
//!
//! `record` never waits. The queue to the file has a bound; when it is nearly full, or the file cannot be
//! written, [`AuditLog::try_record`] refuses, and whoever asked must refuse in turn: what cannot be written
//! down does not happen. Nothing is lost silently: a loss is counted and announced with `audit.dropped`.
//!
//! Does not know what an event means.

mod bounds;
pub mod coalesce;
mod deliver;
mod file;
pub mod record;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixMillis;
use tokio::sync::{Notify, oneshot};

use self::coalesce::Coalescer;
use crate::clock;
use crate::listener::source_of;
use crate::metrics::GateMetrics;

/// How the log is kept.
#[derive(Debug, Clone)]
pub struct AuditSettings {
    /// JSON lines; without one, events go to the auditors only.
    pub path: Option<PathBuf>,
    /// The file is rotated when it is larger than this.
    pub max_bytes: u64,
    /// Rotated files kept: `audit.jsonl.1` is the youngest.
    pub keep: usize,
    /// Events waiting for the file; new admissions are refused when three quarters of it are used.
    pub queue: usize,
    /// Bytes of events waiting for the file; three quarters of it for new admissions.
    pub queue_bytes: usize,
    /// Events kept in memory for auditors that lag behind.
    pub window: usize,
    /// Bytes of events kept for them; the last event is kept in any case.
    pub window_bytes: usize,
    /// Written events are forced to the disk after at most this long.
    pub sync_interval: Duration,
    /// How long a durable record may take.
    pub durable_timeout: Duration,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self {
            path: None,
            max_bytes: 50 << 20,
            keep: 10,
            queue: 65_536,
            queue_bytes: 64 << 20,
            window: 16_384,
            window_bytes: 32 << 20,
            sync_interval: Duration::from_millis(100),
            durable_timeout: Duration::from_secs(5),
        }
    }
}

/// The log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("audit file {path}: {problem}")]
    File { path: String, problem: std::io::Error },
    #[error("the audit thread does not start: {0}")]
    Thread(std::io::Error),
}

/// An event was not accepted: what it would have been evidence of must not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuditRefused {
    #[error("the audit queue is full")]
    QueueFull,
    #[error("the audit file cannot be written")]
    WriteFailed,
    #[error("the audit log is closed")]
    Closed,
}

/// The log. Shared behind an `Arc`; closed by [`AuditLog::close`] or by being dropped.
pub struct AuditLog {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    repeated: Mutex<Coalescer<Repeat>>,
}

/// Refusals that are alike: by source, reason and certificate. What else differs was the client's choice.
type Repeat = (IpAddr, Reason, Option<CertificateFingerprint>);

/// Refusals that are alike, within this, are one record with a count.
const REPEAT: Duration = Duration::from_secs(10);
const REPEATS: usize = 4096;

pub(crate) struct Shared {
    settings: AuditSettings,
    metrics: Option<Arc<GateMetrics>>,
    state: Mutex<State>,
    /// Wakes the writer thread.
    work: Condvar,
    /// Wakes the tasks that deliver to auditors.
    arrived: Notify,
    /// The last attempt to write the file failed.
    failing: AtomicBool,
}

#[derive(Default)]
struct State {
    last_sequence: u64,
    last_at: UnixMillis,
    queue: VecDeque<Entry>,
    queue_bytes: usize,
    window: VecDeque<Arc<AuditEvent>>,
    window_bytes: usize,
    /// Not accepted since the last `audit.dropped`.
    unannounced: u64,
    closed: bool,
}

struct Entry {
    event: Arc<AuditEvent>,
    /// Told when the event is safe on the disk.
    durable: Option<oneshot::Sender<()>>,
}

/// How full the queue may be for whom.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    /// Evidence of what happened already.
    All,
    /// Permission for what is to happen: leaves the last quarter to the others.
    MostOfIt,
}

impl Default for AuditLog {
    /// A log without a file: numbers events and keeps them for auditors.
    fn default() -> Self {
        Self::over(Shared::new(AuditSettings::default(), None).into(), None)
    }
}

impl AuditLog {
    fn over(shared: Arc<Shared>, writer: Option<JoinHandle<()>>) -> Self {
        Self { shared, writer: Mutex::new(writer), repeated: Mutex::new(Coalescer::new(REPEAT, REPEATS)) }
    }

    /// Opens the file, if one is set, and starts the thread that writes it.
    pub fn open(settings: AuditSettings, metrics: Arc<GateMetrics>) -> Result<Self, AuditError> {
        let shared = Arc::new(Shared::new(settings, Some(Arc::clone(&metrics))));
        let mut writer = None;
        if let Some(path) = &shared.settings.path {
            let (file, torn) =
                file::RotatingFile::open(path, shared.settings.max_bytes, shared.settings.keep)
                    .map_err(|problem| AuditError::File { path: path.display().to_string(), problem })?;
            if torn > 0 {
                tracing::warn!(path = %path.display(), bytes = torn, "the last audit record was torn by a crash");
                let event = AuditEvent::new(names::AUDIT_DROPPED, Outcome::Error, Reason::Other)
                    .field("sink", "file")
                    .field("cause", "torn_tail")
                    .field("bytes", torn.to_string());
                // The queue is empty: this cannot be refused.
                let _ = shared.accept(event, Room::All, None);
            }
            metrics.audit_sink_up.with_label_values(&["file"]).set(1);
            let for_thread = Arc::clone(&shared);
            let thread = std::thread::Builder::new()
                .name("audit".into())
                .spawn(move || file::write_loop(&for_thread, file))
                .map_err(AuditError::Thread)?;
            writer = Some(thread);
        }
        Ok(Self::over(shared, writer))
    }

    /// Takes evidence of something that happened already. Never waits. If there is no room the loss is counted
    /// and announced.
    pub fn record(&self, event: AuditEvent) {
        // Counted by `accept`; the caller cannot undo what happened.
        let _ = self.shared.accept(event, Room::All, None);
    }

    /// Like [`AuditLog::record`], for refusals, which whoever is refused can have as many of as it likes: the
    /// first is taken at once, those like it of the next seconds as one with a count.
    pub fn record_refusal(&self, from: IpAddr, event: AuditEvent) {
        let key = (source_of(from), event.reason, event.certificate_fingerprint);
        let due = self.repeated().offer(clock::now(), key, event);
        due.into_iter().for_each(|event| self.record(event));
    }

    /// Takes the counts whose time is over. To be called now and then.
    pub fn flush_refusals(&self) {
        let due = self.repeated().flush(clock::now());
        due.into_iter().for_each(|event| self.record(event));
    }

    fn repeated(&self) -> MutexGuard<'_, Coalescer<Repeat>> {
        self.repeated.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes evidence of something that is to happen only if this succeeds. Never waits.
    pub fn try_record(&self, event: AuditEvent) -> Result<u64, AuditRefused> {
        if self.shared.failing.load(Ordering::Acquire) {
            self.shared.count_drop("write_failed");
            return Err(AuditRefused::WriteFailed);
        }
        self.shared.accept(event, Room::MostOfIt, None)
    }

    /// Like [`AuditLog::try_record`], and returns when the event is safe on the disk.
    pub async fn record_durable(&self, event: AuditEvent) -> Result<u64, AuditRefused> {
        if self.shared.settings.path.is_none() {
            return self.shared.accept(event, Room::All, None);
        }
        let (done, written) = oneshot::channel();
        let sequence = self.shared.accept(event, Room::All, Some(done))?;
        match tokio::time::timeout(self.shared.settings.durable_timeout, written).await {
            Ok(Ok(())) => Ok(sequence),
            Ok(Err(_)) => Err(AuditRefused::Closed),
            Err(_) => Err(AuditRefused::WriteFailed),
        }
    }

    /// Whether new admissions can be written down; why not otherwise.
    pub fn check(&self) -> Result<(), AuditRefused> {
        if self.shared.failing.load(Ordering::Acquire) {
            return Err(AuditRefused::WriteFailed);
        }
        let state = self.shared.lock();
        if state.closed {
            return Err(AuditRefused::Closed);
        }
        if !self.shared.has_room(&state, Room::MostOfIt, 0) {
            return Err(AuditRefused::QueueFull);
        }
        Ok(())
    }

    /// Takes no more events, writes and syncs what is queued. Blocks until then.
    pub fn close(&self) {
        let counted = self.repeated().finish();
        counted.into_iter().for_each(|event| self.record(event));
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
        self.shared.arrived.notify_waiters();
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the audit thread panicked");
        }
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn new(settings: AuditSettings, metrics: Option<Arc<GateMetrics>>) -> Self {
        Self {
            settings,
            metrics,
            state: Mutex::default(),
            work: Condvar::new(),
            arrived: Notify::new(),
            failing: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under this lock; a poisoned one still holds consistent data.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For one more event after `others`.
    fn has_room(&self, state: &State, room: Room, others: usize) -> bool {
        let part = |of: usize| match room {
            Room::All => of,
            Room::MostOfIt => of - of / 4,
        };
        state.queue.len() + others < part(self.settings.queue)
            && state.queue_bytes < part(self.settings.queue_bytes)
    }

    fn count_drop(&self, reason: &str) {
        if let Some(metrics) = &self.metrics {
            metrics.audit_dropped.with_label_values(&["file", reason]).inc();
        }
    }

    fn accept(
        &self,
        mut event: AuditEvent,
        room: Room,
        durable: Option<oneshot::Sender<()>>,
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
                self.append(&mut state, event, None);
            }
            self.append(&mut state, event, durable)
        };
        self.work.notify_one();
        self.arrived.notify_waiters();
        Ok(sequence)
    }

    fn append(&self, state: &mut State, mut event: AuditEvent, durable: Option<oneshot::Sender<()>>) -> u64 {
        state.last_sequence += 1;
        // A clock that is set back must not make the record go back.
        state.last_at = state.last_at.max(clock::now());
        event.sequence = state.last_sequence;
        event.at = state.last_at;
        if let Some(metrics) = &self.metrics {
            let labels = [record::category(event.name), event.outcome.as_str()];
            metrics.audit_records.with_label_values(&labels).inc();
        }
        let event = Arc::new(event);
        let weight = bounds::weight(&event);
        state.window_bytes += weight;
        state.window.push_back(Arc::clone(&event));
        while state.window.len() > self.settings.window.max(1)
            || (state.window_bytes > self.settings.window_bytes && state.window.len() > 1)
        {
            let Some(oldest) = state.window.pop_front() else { break };
            state.window_bytes -= bounds::weight(&oldest);
        }
        if self.settings.path.is_some() {
            state.queue_bytes += weight;
            state.queue.push_back(Entry { event, durable });
        }
        state.last_sequence
    }
}

#[cfg(test)]
mod tests;
