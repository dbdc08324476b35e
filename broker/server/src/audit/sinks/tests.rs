//! Sinks over a log that is a number: its records are made when they are read, so that millions of them cost nothing.

use std::sync::Mutex;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::directory::lock;

#[derive(Default)]
struct FakeLog {
    state: Mutex<LogState>,
    wants_odd_only: bool,
}

#[derive(Default)]
struct LogState {
    end: u64,
    oldest: u64,
    held_after: Option<u64>,
    cursor: Option<u64>,
    kept: u64,
    held_bytes: u64,
    largest_read: usize,
}

fn line(sequence: u64) -> Box<[u8]> {
    format!("{{\"seq\":{sequence}}}").into_bytes().into()
}

impl Source for FakeLog {
    fn end(&self) -> u64 {
        lock(&self.state).end
    }

    fn read(&self, after: u64, records: usize, _bytes: usize) -> Result<Slice, String> {
        let mut state = lock(&self.state);
        let missed = (state.oldest.max(1) - 1).saturating_sub(after);
        let from = after + missed + 1;
        let items: Vec<Item> = (from..=state.end)
            .take(records)
            .map(|sequence| Item { sequence, line: line(sequence) })
            .collect();
        state.largest_read = state.largest_read.max(items.len());
        Ok(Slice { missed, items })
    }

    fn hold(&self, after: u64) {
        lock(&self.state).held_after = Some(after);
    }

    fn release(&self) {
        lock(&self.state).held_after = None;
    }

    fn held_bytes(&self, _after: u64) -> u64 {
        lock(&self.state).held_bytes
    }

    fn cursor(&self) -> Result<Option<u64>, String> {
        Ok(lock(&self.state).cursor)
    }

    fn keep(&self, after: u64) -> Result<(), String> {
        let mut state = lock(&self.state);
        state.cursor = Some(after);
        state.kept += 1;
        Ok(())
    }

    fn wants(&self, item: &Item) -> bool {
        !self.wants_odd_only || item.sequence % 2 == 1
    }
}

#[derive(Default)]
struct FakePlace {
    state: Mutex<PlaceState>,
}

#[derive(Default)]
struct PlaceState {
    down: Option<OutletError>,
    most: Option<usize>,
    /// Only this many of each batch are safe.
    safe: Option<usize>,
    attempts: u64,
    calls: u64,
    taken: u64,
    last: u64,
    repeated: u64,
    gaps: u64,
}

impl Outlet for FakePlace {
    fn take<'a>(&'a self, items: &'a [Item]) -> OutletFuture<'a> {
        let mut state = lock(&self.state);
        state.attempts += 1;
        let answer = match (&state.down, state.most) {
            (Some(error), _) => Err(error.clone()),
            (None, Some(most)) if items.len() > most => {
                Err(OutletError { is_too_much: true, ..OutletError::new("413") })
            }
            (None, _) => {
                state.calls += 1;
                let safe = state.safe.unwrap_or(items.len()).min(items.len());
                for item in &items[..safe] {
                    if item.sequence <= state.last {
                        state.repeated += 1;
                    } else {
                        state.gaps += item.sequence - state.last - 1;
                        state.last = item.sequence;
                        state.taken += 1;
                    }
                }
                Ok(items[..safe].last().map_or(0, |item| item.sequence))
            }
        };
        Box::pin(std::future::ready(answer))
    }
}

#[derive(Default)]
struct Seen {
    lost: Mutex<u64>,
    refusing: Mutex<Vec<bool>>,
    most_lag: Mutex<u64>,
}

impl Watcher for Seen {
    fn lost(&self, _sink: &str, records: u64) {
        *lock(&self.lost) += records;
    }

    fn refuse(&self, _sink: &str, yes: bool) {
        lock(&self.refusing).push(yes);
    }

    fn changed(&self, status: &SinkStatus) {
        let mut most = lock(&self.most_lag);
        *most = (*most).max(status.lag);
    }
}

struct World {
    log: Arc<FakeLog>,
    place: Arc<FakePlace>,
    seen: Arc<Seen>,
    written: watch::Sender<u64>,
    settings: SinkSettings,
}

impl World {
    fn new() -> Self {
        Self {
            log: Arc::default(),
            place: Arc::default(),
            seen: Arc::default(),
            written: watch::Sender::new(0),
            settings: SinkSettings::default(),
        }
    }

    fn start(&self) -> (Running, tokio::task::JoinHandle<()>) {
        let sink = Sink {
            name: String::from("siem"),
            kind: "webhook",
            target: String::from("test"),
            settings: self.settings.clone(),
            outlet: Arc::clone(&self.place) as _,
            source: Arc::clone(&self.log) as _,
            watcher: Arc::clone(&self.seen) as _,
            begin: 0,
        };
        let running = Running::new(&sink, CancellationToken::new());
        let task = tokio::spawn(run(sink, running.clone(), self.written.subscribe()));
        (running, task)
    }

    fn write(&self, records: u64) {
        let end = {
            let mut state = lock(&self.log.state);
            state.end += records;
            state.end
        };
        self.written.send_replace(end);
    }

    fn place(&self) -> std::sync::MutexGuard<'_, PlaceState> {
        lock(&self.place.state)
    }

    /// Taken, left out, and taken again.
    fn counts(&self) -> (u64, u64, u64) {
        let place = self.place();
        (place.taken, place.gaps, place.repeated)
    }

    /// In virtual time.
    async fn until(&self, what: &str, is_true: impl Fn(&Self) -> bool) {
        for _ in 0..100_000 {
            if is_true(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("never: {what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_is_down_for_ten_minutes_misses_nothing_and_costs_nothing() {
    const RATE: u64 = 5_000;
    let world = World::new();
    let (running, task) = world.start();
    world.place().down = Some(OutletError::new("connection refused"));
    for _ in 0..6_000 {
        world.write(RATE / 10);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let status = running.status();
    assert!(!status.up && status.problem.as_deref() == Some("connection refused"), "{status:?}");
    assert_eq!((status.cursor, world.place().taken), (0, 0));
    // The last look was no longer ago than the longest pause.
    let pause = world.settings.max_backoff.as_secs() * 5 / 4 + 1;
    assert!(status.lag >= (600 - pause) * RATE, "{}", status.lag);
    // Asked again and again, and never in a storm.
    let attempts = world.place().attempts;
    assert!((16..60).contains(&attempts), "{attempts}");
    world.place().down = None;
    world.until("it has caught up", |world| world.place().last == 600 * RATE).await;
    assert_eq!(world.counts(), (600 * RATE, 0, 0));
    // What is in memory is one batch, however much waits.
    assert!(lock(&world.log.state).largest_read <= world.settings.records);
    world.until("it is up", |_| running.status().lag == 0).await;
    assert!(running.status().up && running.status().dropped == 0);
    assert_eq!(*lock(&world.seen.lost), 0);
    running.stop();
    task.await.unwrap();
    assert_eq!(lock(&world.log.state).cursor, Some(600 * RATE));
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_it_goes_on_where_the_cursor_was_kept() {
    let world = World::new();
    let (_, task) = world.start();
    for _ in 0..30 {
        world.write(500);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.until("all is taken", |world| world.place().last == 15_000).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    // As if the last seconds had not reached the disk.
    lock(&world.log.state).cursor = Some(9_000);
    world.write(1);
    let (_, _task) = world.start();
    world.until("the rest is taken", |world| world.place().last == 15_001).await;
    assert_eq!(world.counts(), (15_001, 0, 6_000));
    // While records flow the cursor is kept now and then, not with each batch.
    let kept = lock(&world.log.state).kept;
    assert!(kept < 15, "{kept}");
}

#[tokio::test(start_paused = true)]
async fn what_is_too_much_at_once_is_handed_over_in_parts() {
    let world = World::new();
    world.place().most = Some(10);
    world.write(2_000);
    let (running, _task) = world.start();
    world.until("all is taken", |world| world.place().last == 2_000).await;
    assert_eq!(world.place().gaps, 0);
    assert!(running.status().delivered >= 2_000);
    // A place that keeps a part only gets the rest again.
    world.place().safe = Some(3);
    world.write(20);
    world.until("the rest is taken", |world| world.place().last == 2_020).await;
    assert_eq!(world.counts(), (2_020, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_place_that_says_when_is_asked_then() {
    let world = World::new();
    let wait = Duration::from_secs(20);
    world.place().down = Some(OutletError { retry_after: Some(wait), ..OutletError::new("503") });
    world.write(1);
    let (_, _task) = world.start();
    world.until("it was asked", |world| world.place().attempts == 1).await;
    tokio::time::sleep(Duration::from_secs(19)).await;
    assert_eq!(world.place().attempts, 1);
    world.until("it was asked again", |world| world.place().attempts == 2).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_sink_need_not_get_does_not_hold_it_up() {
    let mut world = World::new();
    world.log = Arc::new(FakeLog { wants_odd_only: true, ..FakeLog::default() });
    let (running, _task) = world.start();
    world.write(1_000);
    world.until("it is through", |_| running.status().cursor == 1_000).await;
    assert_eq!(world.counts(), (500, 499, 0));
    assert_eq!(world.place().last, 999);
    assert_eq!(running.status().delivered, 500);
}

#[tokio::test(start_paused = true)]
async fn records_that_retention_deletes_are_counted() {
    let world = World::new();
    let (running, _task) = world.start();
    world.place().down = Some(OutletError::new("down"));
    world.write(1_000);
    world.until("it holds the log", |world| lock(&world.log.state).held_after == Some(0)).await;
    // More than is kept for it.
    lock(&world.log.state).held_bytes = world.settings.max_backlog + 1;
    world.until("it lets go", |world| lock(&world.log.state).held_after.is_none()).await;
    {
        let mut state = lock(&world.log.state);
        (state.oldest, state.held_bytes) = (601, 0);
    }
    world.place().down = None;
    world.until("it is through", |world| world.place().last == 1_000).await;
    assert_eq!((world.place().taken, *lock(&world.seen.lost), running.status().dropped), (400, 600, 600));
    assert!(lock(&world.seen.refusing).is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_that_must_not_lose_anything_has_connections_refused_instead() {
    let mut world = World::new();
    world.settings.on_full = OnFull::Refuse;
    let (running, _task) = world.start();
    world.place().down = Some(OutletError::new("down"));
    world.write(1_000);
    lock(&world.log.state).held_bytes = world.settings.max_backlog + 1;
    world.until("connections are refused", |_| running.status().refusing).await;
    assert_eq!(*lock(&world.seen.refusing), [true]);
    assert!(lock(&world.log.state).held_after.is_some());
    world.place().down = None;
    world.until("it is through", |world| world.place().last == 1_000).await;
    lock(&world.log.state).held_bytes = 0;
    world.until("connections come in", |_| !running.status().refusing).await;
    assert_eq!(*lock(&world.seen.refusing), [true, false]);
    assert_eq!(*lock(&world.seen.lost), 0);
}
