//! The thread that publishes checkpoints in a folder. A share that hangs holds up nobody else; what it misses meanwhile
//! is covered by the checkpoint that comes next.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mqgate_audit::Checkpoint;
use mqgate_audit::publish::Folder;

use super::sinks::board::Board;
use crate::clock;
use crate::metrics::GateMetrics;

/// After a failure, the next attempt.
const RETRY: Duration = Duration::from_secs(5);
/// How it is called in metrics.
const SINK: &str = "publish_folder";

/// Says in the metrics that a checkpoint is at `place`.
pub(super) fn count(metrics: &GateMetrics, place: &str, checkpoint: &Checkpoint) {
    let size = i64::try_from(checkpoint.size).unwrap_or(i64::MAX);
    metrics.audit_tree_size.with_label_values(&[place]).set(size);
    let now = i64::try_from(clock::now().0 / 1000).unwrap_or(i64::MAX);
    metrics.audit_last_checkpoint.with_label_values(&[place]).set(now);
}

/// Hands the newest checkpoint to the thread.
#[derive(Default)]
pub(super) struct Publisher {
    slot: Mutex<Slot>,
    changed: Condvar,
}

#[derive(Default)]
struct Slot {
    newest: Option<Arc<Checkpoint>>,
    closed: bool,
}

impl Publisher {
    pub fn offer(&self, checkpoint: &Arc<Checkpoint>) {
        self.lock().newest = Some(Arc::clone(checkpoint));
        self.changed.notify_one();
    }

    /// Lets the thread end when it has published what it was given, or failed to once more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// The thread.
    pub fn run(&self, folder: &Folder, metrics: &GateMetrics, board: &Board) {
        let up = metrics.audit_sink_up.with_label_values(&[SINK]);
        let mut failing = false;
        loop {
            let (checkpoint, closed) = self.next();
            let Some(checkpoint) = checkpoint else { return };
            match folder.publish(&checkpoint) {
                Ok(()) => {
                    if std::mem::take(&mut failing) {
                        tracing::warn!("checkpoints of the audit log are published again");
                    }
                    up.set(1);
                    count(metrics, SINK, &checkpoint);
                    board.note_publication(SINK, checkpoint.size, None);
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(%error, "the checkpoint of the audit log cannot be published");
                    }
                    up.set(0);
                    board.note_publication(SINK, checkpoint.size, Some(error.to_string()));
                    if closed {
                        return;
                    }
                    self.put_back(checkpoint);
                }
            }
        }
    }

    fn next(&self) -> (Option<Arc<Checkpoint>>, bool) {
        let mut slot = self.lock();
        while slot.newest.is_none() && !slot.closed {
            slot = self.changed.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
        (slot.newest.take(), slot.closed)
    }

    /// For the next attempt, if there is nothing newer; waits until then.
    fn put_back(&self, checkpoint: Arc<Checkpoint>) {
        let mut slot = self.lock();
        slot.newest.get_or_insert(checkpoint);
        drop(self.changed.wait_timeout_while(slot, RETRY, |slot| !slot.closed));
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
