//! Delivery to the auditors of the current hook set: in batches, in order, at least once.
//!
//! Each auditor has a cursor into the window of events kept in memory. One that fails is asked again, with half
//! as many events, down to one, and then later and later; what leaves the window meanwhile is lost for it,
//! counted, and announced with `audit.dropped`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::hooks::{AuditSink, HookSet};
use mqgate_identity::reason::Reason;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::AuditLog;

/// Events in one call at most.
const BATCH: usize = 256;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(30);
/// How often the hook set is looked at for auditors that came or went.
const WATCH: Duration = Duration::from_millis(250);
/// At the end, an auditor gets this long for what is left.
const FAREWELL: Duration = Duration::from_secs(2);

impl AuditLog {
    /// Delivers to the auditors of `hooks` until `shutdown`; auditors that are swapped keep their place.
    pub async fn deliver(self: Arc<Self>, hooks: Arc<ArcSwap<HookSet>>, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        let mut running: HashMap<Arc<str>, tokio::task::AbortHandle> = HashMap::new();
        // The auditors of the first set get everything; one that comes later begins with what comes later.
        let mut cursor = 0;
        let mut watch = tokio::time::interval(WATCH);
        loop {
            running.retain(|_, task| !task.is_finished());
            for member in &hooks.load().members {
                if member.auditor.is_some() && !running.contains_key(&member.name) {
                    let log = Arc::clone(&self);
                    let task = log.deliver_to(
                        Arc::clone(&member.name),
                        cursor,
                        Arc::clone(&hooks),
                        shutdown.clone(),
                    );
                    running.insert(Arc::clone(&member.name), tasks.spawn(task).abort_handle());
                }
            }
            cursor = self.shared.lock().last_sequence;
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = watch.tick() => {}
            }
        }
        tasks.close();
        if tokio::time::timeout(FAREWELL, tasks.wait()).await.is_err() {
            for task in running.values() {
                task.abort();
            }
        }
    }

    async fn deliver_to(
        self: Arc<Self>,
        name: Arc<str>,
        mut cursor: u64,
        hooks: Arc<ArcSwap<HookSet>>,
        shutdown: CancellationToken,
    ) {
        let mut backoff = FIRST_BACKOFF;
        let mut most = BATCH;
        loop {
            let Some(auditor) = auditor(&hooks, &name) else { return };
            let arrived = self.shared.arrived.notified();
            tokio::pin!(arrived);
            // Registered before the look at the window: nothing that arrives in between is missed.
            arrived.as_mut().enable();
            let batch = self.after(&name, &mut cursor, most);
            if batch.is_empty() {
                if shutdown.is_cancelled() {
                    return;
                }
                tokio::select! {
                    () = arrived => {}
                    () = shutdown.cancelled() => {}
                    // The auditor may be gone.
                    () = tokio::time::sleep(WATCH) => {}
                }
                continue;
            }
            let last = batch.last().map_or(cursor, |event| event.sequence);
            let failure = match auditor.record_events(&batch).await {
                Ok(safe) if safe > cursor => {
                    // An auditor cannot vouch for what it was not given.
                    cursor = safe.min(last);
                    backoff = FIRST_BACKOFF;
                    most = (most + most / 4 + 1).min(BATCH);
                    self.lag(&name, cursor);
                    continue;
                }
                Ok(_) => "it took nothing".to_owned(),
                Err(failure) => format!("{}: {}", failure.kind.as_str(), failure.detail),
            };
            tracing::warn!(auditor = %name, failure, ?backoff, "the auditor does not take events");
            self.lag(&name, cursor);
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                () = shutdown.cancelled() => return,
            }
            // Perhaps it was too much at once: first less, then later.
            if batch.len() > 1 {
                most = batch.len() / 2;
            } else {
                backoff = (backoff * 2).min(LAST_BACKOFF);
            }
        }
    }

    /// The next events after `cursor`, at most `most`; moves it over what the window has lost.
    fn after(&self, name: &str, cursor: &mut u64, most: usize) -> Vec<Arc<AuditEvent>> {
        let (batch, lost) = {
            let state = self.shared.lock();
            let oldest = state.window.front().map_or(state.last_sequence + 1, |event| event.sequence);
            let lost = oldest.saturating_sub(*cursor + 1);
            *cursor += lost;
            // The window has no gaps: sequence numbers are positions.
            let skip = usize::try_from(*cursor + 1 - oldest).unwrap_or(usize::MAX);
            let batch: Vec<_> = state.window.iter().skip(skip).take(most).cloned().collect();
            (batch, lost)
        };
        if lost > 0 {
            if let Some(metrics) = &self.shared.metrics {
                metrics.audit_dropped.with_label_values(&[name, "window"]).inc_by(lost);
            }
            self.record(
                AuditEvent::new(names::AUDIT_DROPPED, Outcome::Error, Reason::ServerBusy)
                    .field("sink", name)
                    .field("cause", "window")
                    .field("count", lost.to_string()),
            );
        }
        batch
    }

    fn lag(&self, name: &str, cursor: u64) {
        if let Some(metrics) = &self.shared.metrics {
            let lag = self.shared.lock().last_sequence.saturating_sub(cursor);
            let lag = i64::try_from(lag).unwrap_or(i64::MAX);
            metrics.audit_sink_lag.with_label_values(&[name]).set(lag);
        }
    }
}

fn auditor(hooks: &ArcSwap<HookSet>, name: &str) -> Option<Arc<dyn AuditSink>> {
    let hooks = hooks.load();
    let member = hooks.members.iter().find(|member| &*member.name == name)?;
    member.auditor.clone()
}
