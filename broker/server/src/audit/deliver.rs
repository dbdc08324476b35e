//! The auditors of the current hook set, each as a sink of the log: in batches, in order, at least once, with a cursor that
//! outlives the broker.
//!
//! One that fails, or is swapped, goes on where it was; one that is gone is forgotten.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mqgate_identity::hooks::HookSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::AuditLog;
use super::sinks::auditor::{Auditor, PREFIX};
use super::sinks::{OnFull, SinkSettings};

/// How often the hook set is looked at for auditors that came or went.
const WATCH: Duration = Duration::from_millis(250);
/// At the end, auditors get this long for what is left.
const FAREWELL: Duration = Duration::from_secs(2);

/// A component has limits of its own for the time of a call.
fn settings() -> SinkSettings {
    SinkSettings {
        records: 256,
        bytes: 256 << 10,
        timeout: Duration::from_secs(30),
        min_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(30),
        on_full: OnFull::DropOldestCounted,
        ..SinkSettings::default()
    }
}

impl AuditLog {
    /// Delivers to the auditors of `hooks` until `shutdown`; auditors that are swapped keep their place.
    pub async fn deliver(self: Arc<Self>, hooks: Arc<ArcSwap<HookSet>>, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        let mut running: HashMap<Arc<str>, tokio::task::AbortHandle> = HashMap::new();
        let mut watch = tokio::time::interval(WATCH);
        loop {
            running.retain(|_, task| !task.is_finished());
            for member in &hooks.load().members {
                if member.auditor.is_none() || running.contains_key(&member.name) {
                    continue;
                }
                let auditor = Auditor { name: Arc::clone(&member.name), hooks: Arc::clone(&hooks) };
                let name = format!("{PREFIX}{}", member.name);
                let (target, stop) = (format!("plugin {}", member.name), shutdown.child_token());
                let started = self.sink(&name, "auditor", &target, settings(), Arc::new(auditor), stop);
                if let Some((_, work)) = started {
                    running.insert(Arc::clone(&member.name), tasks.spawn(work).abort_handle());
                }
            }
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
}
