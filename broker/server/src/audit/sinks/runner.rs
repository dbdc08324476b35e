//! One sink at work: reads what it has not taken yet, hands it over, moves the cursor; waits longer after each failure.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Item, OnFull, OutletError, Sink, SinkStatus};
use crate::clock;
use crate::directory::lock;

/// The cursor is kept this often while records flow: after a crash, what was handed over since goes out again.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// At the end, a sink gets this long for what is left.
const FAREWELL: Duration = Duration::from_secs(2);
/// How often one that waits looks whether its place is still there.
const LOOK: Duration = Duration::from_millis(250);

/// A sink that runs, seen from outside.
#[derive(Clone)]
pub struct Running {
    status: Arc<Mutex<SinkStatus>>,
    stop: CancellationToken,
}

impl Running {
    pub fn new(sink: &Sink, stop: CancellationToken) -> Self {
        let status = SinkStatus {
            name: sink.name.clone(),
            kind: sink.kind,
            target: sink.target.clone(),
            up: true,
            problem: None,
            since: clock::now(),
            cursor: 0,
            lag: 0,
            delivered: 0,
            dropped: 0,
            on_full: sink.settings.on_full.as_str(),
            refusing: false,
        };
        Self { status: Arc::new(Mutex::new(status)), stop }
    }

    pub fn status(&self) -> SinkStatus {
        lock(&self.status).clone()
    }

    /// Whether it is the same one.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.status, &other.status)
    }

    pub fn stop(&self) {
        self.stop.cancel();
    }
}

/// Where a sink is.
struct Place {
    after: u64,
    /// On the disk; `None`: nothing is.
    kept: Option<u64>,
    kept_at: Instant,
}

/// Runs a sink until it is stopped, or its place is gone. `written` changes with every record of the log.
pub async fn run(sink: Sink, running: Running, mut written: watch::Receiver<u64>) {
    let sink = Arc::new(sink);
    let Some((after, kept)) = first_place(&sink, &running).await else { return };
    let mut place = Place { after, kept, kept_at: Instant::now() };
    sink.source.hold(after);
    // Whatever happens now, it goes on from here: also if it never takes anything before a crash.
    keep(&sink, &mut place).await;
    note(&sink, &running, &place, |_| {});
    let (mut backoff, mut most) = (sink.settings.min_backoff, sink.settings.records);
    let mut farewell: Option<Instant> = None;
    while sink.outlet.is_there() {
        if running.stop.is_cancelled() && farewell.is_none() {
            farewell = Some(Instant::now() + FAREWELL);
        }
        if farewell.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        // Marked before the look: what is written in between wakes up.
        written.borrow_and_update();
        let outcome = step(&sink, &running, &mut place, most).await;
        watch_backlog(&sink, &running, place.after);
        if place.kept_at.elapsed() >= KEEP_EVERY {
            keep(&sink, &mut place).await;
        }
        match outcome {
            Ok(Step::Moved) => {
                backoff = sink.settings.min_backoff;
                most = (most + most / 4 + 1).min(sink.settings.records);
            }
            Ok(Step::Idle) => {
                if farewell.is_some() {
                    break;
                }
                tokio::select! {
                    changed = written.changed() => {
                        if changed.is_err() {
                            break;
                        }
                    }
                    () = running.stop.cancelled() => {}
                    // It may be gone.
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
            Err((error, count)) => {
                note(&sink, &running, &place, |status| {
                    if status.up {
                        status.since = clock::now();
                        tracing::warn!(sink = sink.name, error.problem, "the audit sink takes no records");
                    }
                    status.up = false;
                    status.problem = Some(error.problem.clone());
                });
                if farewell.is_some() {
                    break;
                }
                let pause = error
                    .retry_after
                    .map_or(backoff, |asked| asked.clamp(backoff, sink.settings.max_backoff));
                // Perhaps it was too much at once: first less, then later.
                if count > 1 {
                    most = (count / 2).max(1);
                }
                if !(error.is_too_much && count > 1) {
                    tokio::select! {
                        () = tokio::time::sleep(varied(pause)) => {}
                        () = running.stop.cancelled() => {}
                    }
                    backoff = (backoff * 2).min(sink.settings.max_backoff);
                }
            }
        }
    }
    keep(&sink, &mut place).await;
    if !running.stop.is_cancelled() {
        // Nobody waits for what a place that is gone has not taken. One that was stopped may run again.
        sink.source.release();
    }
    sink.watcher.refuse(&sink.name, false);
}

enum Step {
    Moved,
    /// There is nothing to take.
    Idle,
}

/// The cursor that was kept, or where the sink begins, and what is on the disk of that. Waits until the disk says.
async fn first_place(sink: &Arc<Sink>, running: &Running) -> Option<(u64, Option<u64>)> {
    loop {
        let reading = Arc::clone(sink);
        match tokio::task::spawn_blocking(move || reading.source.cursor()).await {
            Ok(Ok(cursor)) => {
                // A cursor beyond the end is of another log: nothing is skipped because of it.
                let end = sink.source.end();
                return Some((cursor.filter(|cursor| *cursor <= end).unwrap_or(sink.begin), cursor));
            }
            Ok(Err(problem)) => {
                tracing::error!(sink = sink.name, problem, "the sink's cursor cannot be read");
            }
            Err(error) => tracing::error!(sink = sink.name, %error, "reading the sink's cursor broke down"),
        }
        tokio::select! {
            () = running.stop.cancelled() => return None,
            () = tokio::time::sleep(sink.settings.max_backoff) => {}
        }
    }
}

/// One batch. An error says how many records were in it.
async fn step(
    sink: &Arc<Sink>,
    running: &Running,
    place: &mut Place,
    most: usize,
) -> Result<Step, (OutletError, usize)> {
    if place.after >= sink.source.end() {
        return Ok(Step::Idle);
    }
    let (reading, after) = (Arc::clone(sink), place.after);
    let slice = tokio::task::spawn_blocking(move || {
        let settings = &reading.settings;
        let mut slice = reading.source.read(after, most, settings.bytes)?;
        let last = slice.items.last().map(|item| item.sequence);
        slice.items.retain(|item| reading.source.wants(item));
        Ok::<_, String>((slice, last))
    });
    let (slice, last) = match slice.await {
        Ok(Ok(read)) => read,
        Ok(Err(problem)) => return Err((OutletError::new(format!("the log cannot be read: {problem}")), 1)),
        Err(error) => return Err((OutletError::new(format!("reading the log broke down: {error}")), 1)),
    };
    if slice.missed > 0 {
        place.after += slice.missed;
        sink.watcher.lost(&sink.name, slice.missed);
        note(sink, running, place, |status| status.dropped += slice.missed);
    }
    let Some(last) = last else { return Ok(if slice.missed > 0 { Step::Moved } else { Step::Idle }) };
    let count = slice.items.len();
    let safe = if count == 0 { last } else { hand_over(sink, &slice.items, last).await? };
    if safe <= place.after {
        return Err((OutletError::new("it took nothing"), count));
    }
    place.after = safe.min(last);
    sink.source.hold(place.after);
    let taken = slice.items.iter().filter(|item| item.sequence <= place.after).count();
    note(sink, running, place, |status| {
        if !status.up {
            status.since = clock::now();
            tracing::info!(sink = sink.name, "the audit sink takes records again");
        }
        status.up = true;
        status.problem = None;
        status.delivered += taken as u64;
    });
    Ok(Step::Moved)
}

/// A sink cannot vouch for what it was not given; what it need not get is safe with what is before it.
async fn hand_over(sink: &Sink, items: &[Item], last: u64) -> Result<u64, (OutletError, usize)> {
    let count = items.len();
    let last_item = items.last().map_or(last, |item| item.sequence);
    let taken = tokio::time::timeout(sink.settings.timeout, sink.outlet.take(items)).await;
    match taken {
        Ok(Ok(safe)) if safe >= last_item => Ok(last),
        Ok(Ok(safe)) => Ok(safe),
        Ok(Err(error)) => Err((error, count)),
        Err(_) => Err((OutletError::new(format!("no answer within {:?}", sink.settings.timeout)), count)),
    }
}

fn note(sink: &Sink, running: &Running, place: &Place, change: impl FnOnce(&mut SinkStatus)) {
    let status = {
        let mut status = lock(&running.status);
        change(&mut status);
        status.cursor = place.after;
        status.lag = sink.source.end().saturating_sub(place.after);
        status.clone()
    };
    sink.watcher.changed(&status);
}

/// What is too much to be kept for it.
fn watch_backlog(sink: &Sink, running: &Running, after: u64) {
    let is_over = sink.source.held_bytes(after) > sink.settings.max_backlog;
    match sink.settings.on_full {
        OnFull::DropOldestCounted => match is_over {
            // Retention does what it would have done without it; what is missing is counted by the next look.
            true => sink.source.release(),
            false => sink.source.hold(after),
        },
        OnFull::Refuse => {
            let lag = sink.source.end().saturating_sub(after);
            let refuse = is_over && lag > 0;
            let before = std::mem::replace(&mut lock(&running.status).refusing, refuse);
            if before != refuse {
                sink.watcher.refuse(&sink.name, refuse);
            }
        }
    }
}

async fn keep(sink: &Arc<Sink>, place: &mut Place) {
    if place.kept == Some(place.after) {
        return;
    }
    let (keeping, after) = (Arc::clone(sink), place.after);
    match tokio::task::spawn_blocking(move || keeping.source.keep(after)).await {
        Ok(Ok(())) => place.kept = Some(after),
        Ok(Err(problem)) => tracing::error!(sink = sink.name, problem, "the sink's cursor is not kept"),
        Err(error) => tracing::error!(sink = sink.name, %error, "keeping the sink's cursor broke down"),
    }
    place.kept_at = Instant::now();
}

/// Between one and one and a quarter times as long: sinks that were down together do not come back together.
fn varied(pause: Duration) -> Duration {
    let part = getrandom::u32().unwrap_or(0);
    pause + pause.mul_f64(f64::from(part) / f64::from(u32::MAX) / 4.0)
}
