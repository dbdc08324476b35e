//! Which sinks run, how they are, and what that means for the log: metrics, records of losses, and whether new
//! connections may come in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use mqgate_audit::View;
use mqgate_audit::cursor::Cursors;
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::reason::Reason;
use tokio_util::sync::CancellationToken;

use super::log::LogSource;
use super::{Outlet, OutletError, Running, Sink, SinkSettings, SinkStatus, Source as _, Watcher};
use crate::audit::{AuditLog, Room, Shared};
use crate::directory::lock;

/// All sinks of a log.
#[derive(Default)]
pub(in crate::audit) struct Board {
    running: Mutex<BTreeMap<String, Running>>,
    /// Those because of which new connections are refused.
    refusing: Mutex<BTreeSet<String>>,
    refuses: AtomicBool,
    /// By place: how the last attempt to publish a checkpoint ended, with its size.
    published: Mutex<BTreeMap<String, (u64, Option<String>)>>,
}

impl Board {
    /// Notes how the publication of a checkpoint about `size` records ended.
    pub(in crate::audit) fn note_publication(&self, place: &str, size: u64, problem: Option<String>) {
        lock(&self.published).insert(place.to_owned(), (size, problem));
    }

    #[cfg(test)]
    pub(in crate::audit) fn refuse_for_test(&self) {
        self.refuses.store(true, Ordering::Release);
    }

    /// Whether a sink that must not lose anything is too far behind.
    pub(in crate::audit) fn refuses(&self) -> bool {
        self.refuses.load(Ordering::Acquire)
    }
}

/// Keeps what sinks had not taken when the broker ended, until they run again or nobody knows them any more.
pub(in crate::audit) fn hold_all(view: &View) {
    match Cursors::open(view.folder()).and_then(|cursors| cursors.all()) {
        Ok(all) => all.iter().for_each(|(sink, after)| view.hold(sink, *after)),
        Err(error) => tracing::error!(%error, "the cursors of the audit log's sinks cannot be read"),
    }
}

/// What a sink's task tells.
struct Watching {
    shared: Arc<Shared>,
    board: Arc<Board>,
}

impl Watcher for Watching {
    fn lost(&self, sink: &str, records: u64) {
        if let Some(metrics) = &self.shared.metrics {
            metrics.audit_dropped.with_label_values(&[sink, "backlog"]).inc_by(records);
        }
        let event = AuditEvent::new(names::AUDIT_DROPPED, Outcome::Error, Reason::ServerBusy)
            .field("sink", sink)
            .field("cause", "backlog")
            .field("count", records.to_string());
        // Counted if there is no room.
        let _ = self.shared.accept(event, Room::All, None);
    }

    fn refuse(&self, sink: &str, yes: bool) {
        let mut refusing = lock(&self.board.refusing);
        let changed = if yes { refusing.insert(sink.to_owned()) } else { refusing.remove(sink) };
        self.board.refuses.store(!refusing.is_empty(), Ordering::Release);
        if changed {
            tracing::warn!(sink, refused = yes, "new connections, because of a sink of the audit log");
        }
    }

    fn changed(&self, status: &SinkStatus) {
        let Some(metrics) = &self.shared.metrics else { return };
        let labels = [status.name.as_str()];
        metrics.audit_sink_up.with_label_values(&labels).set(i64::from(status.up));
        let lag = i64::try_from(status.lag).unwrap_or(i64::MAX);
        metrics.audit_sink_lag.with_label_values(&labels).set(lag);
    }
}

impl AuditLog {
    /// Makes a sink of this log, which runs as long as the future. One that is new begins with what comes; `None` without a
    /// log on disk.
    pub fn sink(
        &self,
        name: &str,
        kind: &'static str,
        target: &str,
        settings: SinkSettings,
        outlet: Arc<dyn Outlet>,
        stop: CancellationToken,
    ) -> Option<(Running, impl Future<Output = ()> + Send + use<>)> {
        let view = self.view.as_ref()?;
        let source = match LogSource::new(name, view, &self.shared.policy) {
            Ok(source) => source,
            Err(error) => {
                tracing::error!(sink = name, %error, "the sink's cursor has no place");
                return None;
            }
        };
        // From its first moment: a crash before its task has begun must not skip anything. What is wrong with a cursor
        // that is there, the task says.
        if source.cursor() == Ok(None)
            && let Err(problem) = source.keep(self.begin)
        {
            tracing::error!(sink = name, problem, "the sink's cursor is not kept");
        }
        let board = Arc::clone(&self.board);
        let sink = Sink {
            name: name.to_owned(),
            kind,
            target: target.to_owned(),
            settings,
            outlet,
            source: Arc::new(source),
            watcher: Arc::new(Watching { shared: Arc::clone(&self.shared), board: Arc::clone(&board) }),
            begin: self.begin,
        };
        let running = Running::new(&sink, stop);
        lock(&board.running).insert(name.to_owned(), running.clone());
        let (durable, name, this) = (self.durable(), name.to_owned(), running.clone());
        let work = async move {
            super::run(sink, this.clone(), durable).await;
            // Another one of its name may have taken its place.
            let mut running = lock(&board.running);
            if running.get(&name).is_some_and(|known| known.is(&this)) {
                running.remove(&name);
            }
        };
        Some((running, work))
    }

    /// Keeps nothing any more for a sink that is configured no longer. Its cursor stays: if it comes back, what was deleted
    /// meanwhile is counted as lost.
    pub fn forget_sink(&self, name: &str) {
        if let Some(view) = &self.view {
            view.release(name);
        }
        lock(&self.board.published).remove(name);
    }

    /// Keeps nothing any more for sinks that ran in an earlier life of the broker, other than these.
    pub fn keep_for(&self, is_known: impl Fn(&str) -> bool) {
        let Some(view) = &self.view else { return };
        let all = Cursors::open(view.folder()).and_then(|cursors| cursors.all()).unwrap_or_default();
        let unknown = all.iter().filter(|(sink, _)| !is_known(sink));
        unknown.for_each(|(sink, _)| view.release(sink));
    }

    /// How the sinks are, by name.
    pub fn sinks(&self) -> Vec<SinkStatus> {
        let running: Vec<Running> = lock(&self.board.running).values().cloned().collect();
        let end = self.view.as_ref().map_or(0, |view| view.end().durable);
        let fresh = |running: Running| {
            let status = running.status();
            SinkStatus { lag: end.saturating_sub(status.cursor), ..status }
        };
        running.into_iter().map(fresh).collect()
    }

    /// The name of the log; empty without one on disk.
    pub fn log_id(&self) -> String {
        self.view.as_ref().map(|view| view.id().to_owned()).unwrap_or_default()
    }

    /// Notes how the publication of a checkpoint ended.
    pub fn checkpoint_published(&self, place: &str, size: u64, problem: Option<OutletError>) {
        let problem = problem.map(|error| error.problem);
        if let Some(problem) = &problem {
            tracing::warn!(place, problem, "the checkpoint of the audit log is not published there");
        }
        self.board.note_publication(place, size, problem);
    }

    /// Whether the last checkpoint reached a place outside; `None`: there is no such place, or no checkpoint was signed yet.
    pub fn published(&self) -> Option<Result<u64, String>> {
        let published = lock(&self.board.published);
        let best = published.values().filter(|(_, problem)| problem.is_none()).map(|(size, _)| *size).max();
        match best {
            Some(size) => Some(Ok(size)),
            None => published.values().find_map(|(_, problem)| problem.clone()).map(Err),
        }
    }
}
