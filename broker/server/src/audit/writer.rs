//! The thread that writes the log: takes what is queued, appends it, forces it to the disk in groups, signs it, and
//! deletes what is too old.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use mqgate_audit::log::{Log, LogError};
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::reason::Reason;
use tokio::sync::oneshot;

use super::publish::{self, Publisher};
use super::request::{self, RequestId};
use super::{Entry, Room, Shared, Waiter};
use crate::clock;

/// Events written in one go at most.
const BATCH: usize = 1024;
/// After a failed write, the next attempt.
const RETRY: Duration = Duration::from_millis(500);

/// What the thread is asked to do besides writing.
pub(super) enum Command {
    /// Hand over to a new key; who wanted it, and who is told.
    RotateKey { actor: String, request: Option<RequestId>, done: oneshot::Sender<Result<(), LogError>> },
}

/// Writes until the log is closed and empty.
pub(super) fn write_loop(shared: &Shared, mut log: Log, publisher: Option<&Arc<Publisher>>) {
    let mut unsynced_since: Option<Instant> = None;
    let mut is_signed = true;
    loop {
        let wake = wake_in(shared, &log, unsynced_since, is_signed);
        let Work { batch, commands, closed } = next_work(shared, wake);
        if !batch.is_empty() {
            let now = clock::now();
            if !until_it_works(shared, || log.append(now, batch.iter().map(|entry| &*entry.event))) {
                tracing::error!(
                    records = batch.len(),
                    "audit records are lost: the log closes and its file fails"
                );
                lose(shared, batch.len());
                return;
            }
            unsynced_since.get_or_insert_with(Instant::now);
        }
        let durable = batch.iter().any(|entry| entry.durable.is_some() || entry.retire.is_some());
        let due = unsynced_since.is_some_and(|since| since.elapsed() >= shared.settings.sync_interval);
        if (durable || due || closed) && unsynced_since.is_some() && until_it_works(shared, || log.sync()) {
            unsynced_since = None;
            settle(shared, &mut log, batch);
        }
        commands.into_iter().for_each(|command| obey(shared, &mut log, command));
        is_signed = sign(shared, &mut log, closed, is_signed, publisher);
        if let Some(outdated) = log.outdated() {
            announce_retirement(shared, outdated.through);
        }
        let end = log.view().end();
        shared.written.send_if_modified(|seen| std::mem::replace(seen, end.written) != end.written);
        shared.durable.send_if_modified(|seen| std::mem::replace(seen, end.durable) != end.durable);
        if closed && shared.lock().queue.is_empty() {
            return;
        }
    }
}

/// Tells those who waited, and deletes what the records that are safe now say is deleted.
fn settle(shared: &Shared, log: &mut Log, batch: Vec<Entry>) {
    for entry in batch {
        if let Some(Waiter { done, is_before }) = entry.durable
            && done.send(()).is_err()
            && is_before
        {
            // Whoever waited has given up, and has not done what the record says.
            let event = AuditEvent::new(names::AUDIT_WITHDRAWN, Outcome::Error, Reason::AuditUnavailable)
                .field("withdrawn_seq", entry.event.sequence.to_string())
                .field("withdrawn_name", entry.event.name);
            shared.add(event);
        }
        if let Some(through) = entry.retire
            && let Err(error) = log.retire(through)
        {
            tracing::error!(%error, through, "old audit records cannot be deleted");
        }
    }
}

fn announce_retirement(shared: &Shared, through: u64) {
    let event = AuditEvent::new(names::AUDIT_RETENTION, Outcome::Success, Reason::Ok)
        .field("through_seq", through.to_string());
    // Without room for it nothing is deleted, until the broker starts again.
    if shared.accept_with(event, Room::All, None, Some(through)).is_err() {
        tracing::warn!(through, "old audit records are not deleted: there is no room to write that down");
    }
}

fn obey(shared: &Shared, log: &mut Log, command: Command) {
    match command {
        Command::RotateKey { actor, request, done } => {
            let before = log.key().to_string();
            let rotated = log.rotate_key(clock::now()).map(|statement| {
                let mut event =
                    AuditEvent::new(names::AUDIT_KEY_ROTATED, Outcome::Success, Reason::Ok).actor(actor);
                if let Some(id) = request {
                    event = event.field(request::FIELD, id.as_str());
                }
                event = event
                    .field("before", before)
                    .field("after", log.key().to_string())
                    .field("statement", statement);
                // The statement is in the list of keys in any case.
                shared.add(event);
            });
            let _ = done.send(rotated);
        }
    }
}

/// Signs the log when it is time to, and at the end. False if that failed; it is tried again.
fn sign(
    shared: &Shared,
    log: &mut Log,
    closed: bool,
    was_signed: bool,
    publisher: Option<&Arc<Publisher>>,
) -> bool {
    let now = clock::now();
    let signed = if closed { log.checkpoint(now) } else { log.checkpoint_if_due(now) };
    match signed {
        Ok(None) => true,
        Ok(Some(checkpoint)) => {
            if let Some(metrics) = &shared.metrics {
                publish::count(metrics, "log", &checkpoint);
            }
            if let Some(publisher) = publisher {
                publisher.offer(&checkpoint);
            }
            shared.checkpoint.send_replace(Some(checkpoint));
            true
        }
        // The records are safe.
        Err(error) => {
            if was_signed {
                tracing::error!(%error, "the audit log cannot be signed");
            }
            false
        }
    }
}

/// How long there is nothing to do if nothing arrives.
fn wake_in(shared: &Shared, log: &Log, unsynced_since: Option<Instant>, is_signed: bool) -> Option<Duration> {
    let sync = unsynced_since.map(|since| shared.settings.sync_interval.saturating_sub(since.elapsed()));
    let least = if is_signed { Duration::ZERO } else { RETRY };
    let sign = log.checkpoint_due_in(clock::now()).map(|wait| wait.max(least));
    [sync, sign].into_iter().flatten().min()
}

pub(super) struct Work {
    pub batch: Vec<Entry>,
    pub commands: Vec<Command>,
    pub closed: bool,
}

/// Waits for events and commands, for `wake`, or for the end.
pub(super) fn next_work(shared: &Shared, wake: Option<Duration>) -> Work {
    let until = wake.map(|wake| Instant::now() + wake);
    let mut state = shared.lock();
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let is_due = left.is_some_and(|left| left.is_zero());
        if !state.queue.is_empty() || !state.commands.is_empty() || state.closed || is_due {
            let count = state.queue.len().min(BATCH);
            let batch: Vec<Entry> = state.queue.drain(..count).collect();
            let weight: usize = batch.iter().map(|entry| entry.weight).sum();
            state.queue_bytes = state.queue_bytes.saturating_sub(weight);
            if let Some(metrics) = shared.file() {
                metrics.lag.set(i64::try_from(state.queue.len()).unwrap_or(i64::MAX));
            }
            return Work { batch, commands: std::mem::take(&mut state.commands), closed: state.closed };
        }
        state = match left {
            Some(left) => shared.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            None => shared.work.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
    }
}

/// Repeats `write` while it fails, and gives up only when the log is being closed.
fn until_it_works(shared: &Shared, mut write: impl FnMut() -> io::Result<()>) -> bool {
    let started = Instant::now();
    loop {
        match write() {
            Ok(()) => {
                if shared.failing.swap(false, Ordering::AcqRel) {
                    tracing::warn!("the audit log can be written again");
                }
                if let Some(metrics) = shared.file() {
                    metrics.up.set(1);
                    metrics.duration.observe(started.elapsed().as_secs_f64());
                }
                return true;
            }
            Err(error) => {
                if !shared.failing.swap(true, Ordering::AcqRel) {
                    tracing::error!(%error, "the audit log cannot be written: new connections are refused");
                }
                if let Some(metrics) = shared.file() {
                    metrics.up.set(0);
                }
                let state = shared.lock();
                if state.closed {
                    return false;
                }
                // Woken early by new events and by the end; trying again then is harmless.
                drop(shared.work.wait_timeout(state, RETRY).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }
}

fn lose(shared: &Shared, records: usize) {
    let lost = records + shared.lock().queue.drain(..).count();
    if let Some(metrics) = &shared.metrics {
        metrics.audit_dropped.with_label_values(&["file", "write_failed"]).inc_by(lost as u64);
    }
}
