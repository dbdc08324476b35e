//! The audit log: numbers and stamps events, keeps the order, and hands them to the log on disk and the auditors.
//!
//! `record` never waits. The queue to the disk has a bound; when it is nearly full, or the log cannot be
//! written, [`AuditLog::try_record`] refuses, and whoever asked must refuse in turn: what cannot be written
//! down does not happen. Nothing is lost silently: a loss is counted and announced with `audit.dropped`.
//!
//! Does not know what an event means, nor how a record is written: that is mqgate-audit's.

mod bounds;
pub mod coalesce;
mod deliver;
mod difference;
mod publish;
mod queue;
pub mod request;
pub mod sinks;
mod writer;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mqgate_audit::keys::KeyError;
use mqgate_audit::log::{Log, LogError, PersonalSettings};
use mqgate_audit::publish::Folder;
use mqgate_audit::subjects::{Personal, Subject};
use mqgate_audit::{Checkpoint, View};
use mqgate_identity::audit::policy::{Mode, Policy};
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::reason::Reason;
use mqgate_identity::source::source_of;
use tokio::sync::{broadcast, oneshot, watch};

use self::coalesce::Coalescer;
pub(crate) use self::difference::{before_and_after, differing};
use self::publish::Publisher;
use self::queue::{Entry, Room, Shared, Waiter};
use self::sinks::board::Board;
use self::writer::Command;
use crate::clock;
use crate::metrics::GateMetrics;

/// How the log is kept.
#[derive(Debug, Clone)]
pub struct AuditSettings {
    /// The log on disk; without one, events are numbered and go nowhere.
    pub path: Option<PathBuf>,
    /// The private key that signs it; without one, `audit.key` beside it.
    pub key_file: Option<PathBuf>,
    /// A segment of this size is sealed, and the next begun.
    pub max_bytes: u64,
    /// Sealed segments kept; 0 keeps all.
    pub keep: usize,
    /// A checkpoint is signed after so many records, or so long after the first of them.
    pub checkpoint_records: u64,
    pub checkpoint_interval: Duration,
    /// Where checkpoints are published.
    pub publish_folder: Option<PathBuf>,
    /// What is encrypted with keys of its subjects.
    pub personal: Option<PersonalSettings>,
    /// Events waiting for the file; new admissions are refused when three quarters of it are used.
    pub queue: usize,
    /// Bytes of events waiting for the file; three quarters of it for new admissions.
    pub queue_bytes: usize,
    /// Written events are forced to the disk after at most this long.
    pub sync_interval: Duration,
    /// How long a durable record may take.
    pub durable_timeout: Duration,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self {
            path: None,
            key_file: None,
            max_bytes: 64 << 20,
            keep: 10,
            checkpoint_records: 1000,
            checkpoint_interval: Duration::from_secs(10),
            publish_folder: None,
            personal: None,
            queue: 65_536,
            queue_bytes: 64 << 20,
            sync_interval: Duration::from_millis(100),
            durable_timeout: Duration::from_secs(5),
        }
    }
}

/// The log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("audit log {path}: {problem}")]
    Log { path: String, problem: LogError },
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
    #[error("a sink of the audit log that must not lose anything is too far behind")]
    SinkBehind,
}

/// The key of a subject was not destroyed.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    #[error("{0}: what cannot be written down is not done")]
    Refused(AuditRefused),
    #[error("{0}")]
    File(std::io::Error),
}

impl AuditSettings {
    fn of_log(&self, path: &Path) -> mqgate_audit::Settings {
        let beside = || path.parent().unwrap_or(Path::new("")).join("audit.key");
        mqgate_audit::Settings {
            path: path.to_owned(),
            key_file: self.key_file.clone().unwrap_or_else(beside),
            segment_bytes: self.max_bytes,
            keep: self.keep,
            checkpoint_records: self.checkpoint_records,
            checkpoint_interval: self.checkpoint_interval,
            personal: self.personal.clone(),
        }
    }
}

/// The log. Shared behind an `Arc`; closed by [`AuditLog::close`] or by being dropped.
pub struct AuditLog {
    shared: Arc<Shared>,
    writer: Mutex<Vec<JoinHandle<()>>>,
    view: Option<View>,
    personal: Option<Arc<Mutex<Personal>>>,
    publisher: Option<Arc<Publisher>>,
    board: Arc<Board>,
    /// Where a sink begins that is new.
    begin: u64,
    repeated: Mutex<Coalescer<Repeat>>,
}

/// Refusals that are alike: by source, reason and certificate. What else differs was the client's choice.
type Repeat = (IpAddr, Reason, Option<CertificateFingerprint>);

/// Refusals that are alike, within this, are one record with a count.
const REPEAT: Duration = Duration::from_secs(10);
const REPEATS: usize = 4096;
/// A record on its way to the disk.
#[must_use]
#[derive(Debug)]
pub struct Underway {
    sequence: u64,
    /// `None`: nobody has to wait for it.
    written: Option<oneshot::Receiver<()>>,
}

impl Underway {
    /// Of no record.
    pub(crate) const fn over() -> Self {
        Self { sequence: 0, written: None }
    }
}

impl Default for AuditLog {
    /// A log without a file: numbers events, and they go nowhere.
    fn default() -> Self {
        Self::over(Shared::new(AuditSettings::default(), None).into())
    }
}

impl AuditLog {
    fn over(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            writer: Mutex::default(),
            view: None,
            personal: None,
            publisher: None,
            board: Arc::default(),
            begin: 0,
            repeated: Mutex::new(Coalescer::new(REPEAT, REPEATS)),
        }
    }

    /// Opens the log on disk, if one is set, and starts the thread that writes it.
    pub fn open(settings: AuditSettings, metrics: Arc<GateMetrics>) -> Result<Self, AuditError> {
        let Some(path) = settings.path.clone() else {
            return Ok(Self::over(Arc::new(Shared::new(settings, Some(metrics)))));
        };
        let problem = |problem| AuditError::Log { path: path.display().to_string(), problem };
        let (log, opened) = Log::open(settings.of_log(&path)).map_err(problem)?;
        let shared = Arc::new(Shared::new(settings, Some(Arc::clone(&metrics))));
        shared.lock().last_sequence = log.written();
        if let Some(moved) = opened.moved {
            tracing::warn!(to = %moved.display(), "an audit file of an earlier version was moved aside");
        }
        if let Some(torn) = opened.torn {
            tracing::warn!(path = %path.display(), bytes = torn.bytes, "the end of the audit log was torn by a crash");
            let event = AuditEvent::new(names::AUDIT_RECOVERED, Outcome::Error, Reason::Other)
                .field("after_seq", torn.after.to_string())
                .field("bytes", torn.bytes.to_string())
                .field("kept", torn.kept.display().to_string());
            // The queue is empty: this cannot be refused.
            let _ = shared.accept(event, Room::All, None);
        }
        shared.file().inspect(|metrics| metrics.up.set(1));
        let mut this = Self::over(Arc::clone(&shared));
        this.begin = log.written();
        sinks::board::hold_all(log.view());
        this.view = Some(log.view().clone());
        this.personal = log.personal();
        shared.checkpoint.send_replace(log.view().checkpoint());
        if let Some(folder) = &shared.settings.publish_folder {
            let (folder, publisher) = (Folder::new(folder), Arc::new(Publisher::default()));
            if let Some(checkpoint) = log.view().checkpoint() {
                publisher.offer(&checkpoint);
            }
            this.publisher = Some(Arc::clone(&publisher));
            let board = Arc::clone(&this.board);
            this.start("audit-publish", move || publisher.run(&folder, &metrics, &board))?;
        }
        let publisher = this.publisher.clone();
        this.start("audit", move || writer::write_loop(&shared, log, publisher.as_ref()))?;
        Ok(this)
    }

    fn start(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), AuditError> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(run).map_err(AuditError::Thread)?;
        self.threads().push(thread);
        Ok(())
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log on disk, for readers.
    pub fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    /// Changes when records were written: the last of them. A crash of the broker does not take them back.
    pub fn written(&self) -> watch::Receiver<u64> {
        self.shared.written.subscribe()
    }

    /// Changes when records are safe on the disk: the last of them.
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.shared.durable.subscribe()
    }

    /// Changes when a checkpoint was signed.
    pub fn checkpoints(&self) -> watch::Receiver<Option<Arc<Checkpoint>>> {
        self.shared.checkpoint.subscribe()
    }

    /// Writes down by these rules from now on.
    pub fn set_policy(&self, policy: Policy) {
        self.shared.policy.store(Arc::new(policy));
    }

    /// The text of an encrypted member; `None` for one that is not, or whose key is gone.
    pub fn reveal(&self, member: &str, value: &str) -> Option<String> {
        let personal = self.personal.as_ref()?;
        personal.lock().unwrap_or_else(PoisonError::into_inner).reveal(member, value)
    }

    /// Hands over to a new signing key, in the name of `actor`.
    pub async fn rotate_key(&self, actor: &str) -> Result<(), LogError> {
        let closed = || LogError::Key(KeyError::File(std::io::Error::other("the audit log is closed")));
        if self.view.is_none() {
            return Err(closed());
        }
        let (done, told) = oneshot::channel();
        self.shared.lock().commands.push(Command::RotateKey {
            actor: actor.to_owned(),
            request: request::current(),
            done,
        });
        self.shared.work.notify_one();
        told.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Destroys the key of `subject`, after that was written down in the name of `actor`. False if it has none; `None` if
    /// nothing is encrypted in this log.
    pub async fn erase(&self, subject: Subject, actor: &str) -> Result<Option<bool>, EraseError> {
        let Some(personal) = self.personal.clone() else { return Ok(None) };
        // Never on the runtime: the thread that writes holds the keys while it puts a new one on the disk.
        let (keys, whose) = (Arc::clone(&personal), subject.clone());
        let known = blocking(move || {
            let keys = keys.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(keys.has_key(&whose)?.then(|| keys.pseudonym(&whose)))
        });
        let Some(pseudonym) = known.await? else { return Ok(Some(false)) };
        let event = AuditEvent::new(names::AUDIT_SUBJECT_ERASED, Outcome::Success, Reason::AdminAction)
            .actor(actor)
            .field("pseudonym", pseudonym);
        self.admit_durable(event).await.map_err(EraseError::Refused)?;
        let erased =
            blocking(move || personal.lock().unwrap_or_else(PoisonError::into_inner).erase(&subject)).await;
        erased.map(Some)
    }

    /// Takes evidence of something that happened already. Never waits. If there is no room the loss is counted
    /// and announced.
    pub fn record(&self, event: AuditEvent) {
        if let Some((event, _)) = self.shared.ruled(event) {
            // Counted by `accept`; the caller cannot undo what happened.
            let _ = self.shared.accept(event, Room::All, None);
        }
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
        match self.shared.ruled(event) {
            None => Ok(0),
            Some((event, Some(Mode::BestEffort))) => Ok(self.best_effort(event)),
            Some((event, _)) => self.batched(event),
        }
    }

    /// Like [`AuditLog::try_record`], and as safe as the rules want it: where they say so, it is on the disk when this
    /// returns.
    pub async fn admit(&self, event: AuditEvent) -> Result<u64, AuditRefused> {
        self.admit_as(event, Mode::Batched).await
    }

    /// Like [`AuditLog::admit`], and on the disk when this returns, unless the rules say otherwise. If it is too late for
    /// that, what it says must not happen, and `audit.withdrawn` takes it back.
    pub async fn admit_durable(&self, event: AuditEvent) -> Result<u64, AuditRefused> {
        self.admit_as(event, Mode::Durable).await
    }

    async fn admit_as(&self, event: AuditEvent, otherwise: Mode) -> Result<u64, AuditRefused> {
        let Some((event, mode)) = self.shared.ruled(event) else { return Ok(0) };
        match mode.unwrap_or(otherwise) {
            Mode::Durable => {
                self.check()?;
                self.safe(self.begin(event, true)?).await
            }
            Mode::Batched => self.batched(event),
            Mode::BestEffort => Ok(self.best_effort(event)),
        }
    }

    /// What is refused because of a sink is what waits for a record; this does not. What is lost is counted.
    fn best_effort(&self, event: AuditEvent) -> u64 {
        if self.shared.failing.load(Ordering::Acquire) {
            self.shared.count_drop("write_failed");
            return 0;
        }
        self.shared.accept(event, Room::MostOfIt, None).unwrap_or(0)
    }

    fn batched(&self, event: AuditEvent) -> Result<u64, AuditRefused> {
        if self.board.refuses() {
            return Err(AuditRefused::SinkBehind);
        }
        if self.shared.failing.load(Ordering::Acquire) {
            self.shared.count_drop("write_failed");
            return Err(AuditRefused::WriteFailed);
        }
        self.shared.accept(event, Room::MostOfIt, None)
    }

    /// Takes evidence of something that happened already, and returns when it is safe on the disk: before the answer.
    pub async fn record_durable(&self, event: AuditEvent) -> Result<u64, AuditRefused> {
        self.safe(self.begin_durable(event)?).await
    }

    /// The first half of [`AuditLog::record_durable`], which never waits; [`AuditLog::safe`] is the other.
    pub fn begin_durable(&self, event: AuditEvent) -> Result<Underway, AuditRefused> {
        let (sequence, written) = match self.shared.ruled(event) {
            None => (0, None),
            Some((event, None | Some(Mode::Durable))) => return self.begin(event, false),
            Some((event, Some(Mode::Batched))) => (self.shared.accept(event, Room::All, None)?, None),
            Some((event, Some(Mode::BestEffort))) => {
                (self.shared.accept(event, Room::All, None).unwrap_or(0), None)
            }
        };
        Ok(Underway { sequence, written })
    }

    /// Returns when the record is safe on the disk.
    pub async fn safe(&self, underway: Underway) -> Result<u64, AuditRefused> {
        let Some(written) = underway.written else { return Ok(underway.sequence) };
        match tokio::time::timeout(self.shared.settings.durable_timeout, written).await {
            Ok(Ok(())) => Ok(underway.sequence),
            Ok(Err(_)) => Err(AuditRefused::Closed),
            Err(_) => Err(AuditRefused::WriteFailed),
        }
    }

    /// Every record from now on. Who is slow loses the oldest and is told how many.
    pub fn follow(&self) -> broadcast::Receiver<Arc<AuditEvent>> {
        self.shared.followers.subscribe()
    }

    /// Asks `observer` about every record, in order, before who follows is woken: one that it takes goes to nobody else. It
    /// is asked under the log's lock, and must neither wait nor record anything. The first one stays.
    pub fn observe(&self, observer: impl Fn(&Arc<AuditEvent>) -> bool + Send + Sync + 'static) {
        let _ = self.shared.observer.set(Box::new(observer));
    }

    fn begin(&self, event: AuditEvent, is_before: bool) -> Result<Underway, AuditRefused> {
        let is_kept = self.shared.settings.path.is_some();
        let (done, written) = if is_kept { Some(oneshot::channel()).unzip() } else { (None, None) };
        let waiter = done.map(|done| Waiter { done, is_before });
        Ok(Underway { sequence: self.shared.accept(event, Room::All, waiter)?, written })
    }

    /// Whether new admissions can be written down; why not otherwise.
    pub fn check(&self) -> Result<(), AuditRefused> {
        if self.board.refuses() {
            return Err(AuditRefused::SinkBehind);
        }
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
        let threads = std::mem::take(&mut *self.threads());
        // The one that writes ends first: it signs once more, and that is published.
        for thread in threads.into_iter().rev() {
            if thread.join().is_err() {
                tracing::error!("an audit thread panicked");
            }
            if let Some(publisher) = &self.publisher {
                publisher.close();
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, EraseError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(EraseError::File)
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
