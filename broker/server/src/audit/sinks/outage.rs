//! A sink that is down while the real log is written at a steady rate: nothing is lost, memory stays flat, the lag shows,
//! and afterwards it catches up. In real time: `MQGATE_OUTAGE_SECONDS` says how long, 600 being what was promised.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::reason::Reason;
use tokio_util::sync::CancellationToken;

use super::{Item, OnFull, Outlet, OutletError, OutletFuture, SinkSettings};
use crate::audit::{AuditLog, AuditRefused, AuditSettings};
use crate::testing::metrics;

const RATE: u64 = 5_000;
/// Records are written this often.
const STEP: Duration = Duration::from_millis(20);

/// Counts what it takes, and sees that nothing is left out.
#[derive(Default)]
struct Place {
    down: AtomicBool,
    taken: AtomicU64,
    last: AtomicU64,
    gaps: AtomicU64,
}

impl Outlet for Place {
    fn take<'a>(&'a self, items: &'a [Item]) -> OutletFuture<'a> {
        Box::pin(async move {
            if self.down.load(Ordering::SeqCst) {
                return Err(OutletError::new("down"));
            }
            for item in items {
                let last = self.last.swap(item.sequence, Ordering::SeqCst);
                self.gaps.fetch_add(item.sequence.saturating_sub(last + 1), Ordering::SeqCst);
                self.taken.fetch_add(1, Ordering::SeqCst);
            }
            Ok(items.last().map_or(0, |item| item.sequence))
        })
    }
}

/// Resident memory of this process.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn event(number: u64) -> AuditEvent {
    let mut event = AuditEvent::new(names::CONNECTION_ACCEPTED, Outcome::Success, Reason::Ok)
        .actor("client")
        .field("tls.version", "1.3")
        .field("ca", "factory");
    event.client_id = Some(format!("meter-{number}"));
    event.device_id = Some(format!("meter-{number}"));
    event.subject = Some(format!("CN=meter-{number}"));
    event.listener = Some("devices".into());
    event
}

/// Writes at the rate for so long; answers how many, and how much memory it was at most.
async fn write_for(log: &AuditLog, seconds: u64, from: u64) -> (u64, u64) {
    let (started, mut written, mut most) = (Instant::now(), 0, 0);
    let mut tick = tokio::time::interval(STEP);
    while started.elapsed() < Duration::from_secs(seconds) {
        tick.tick().await;
        let due = started.elapsed().as_millis() as u64 * RATE / 1000;
        while written < due {
            match log.try_record(event(from + written)) {
                Ok(_) => written += 1,
                // The machine is slower than that: the rest is due at the next step.
                Err(AuditRefused::QueueFull) => {
                    tokio::time::sleep(STEP).await;
                    break;
                }
                Err(refused) => panic!("{refused}"),
            }
        }
        if written % RATE < RATE / 50 {
            most = most.max(memory());
        }
    }
    (written, most)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "full: writes 5,000 records a second for minutes"]
async fn a_sink_is_down_while_the_log_is_written_at_a_steady_rate() {
    let seconds =
        std::env::var("MQGATE_OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let folder = tempfile::tempdir().unwrap();
    let settings = AuditSettings {
        path: Some(folder.path().join("audit.jsonl")),
        // Retention would have deleted most of it by the end.
        max_bytes: 16 << 20,
        keep: 2,
        // On a machine that is slower than the rate, what waits for the disk is memory, too: two seconds of it.
        queue_bytes: 8 << 20,
        ..AuditSettings::default()
    };
    let log = Arc::new(AuditLog::open(settings, Arc::clone(&metrics().gate)).unwrap());
    let place = Arc::new(Place::default());
    let sink = SinkSettings { on_full: OnFull::Refuse, ..SinkSettings::default() };
    let stop = CancellationToken::new();
    let (running, work) = log.sink("siem", "test", "test", sink, Arc::clone(&place) as _, stop).unwrap();
    let task = tokio::spawn(work);
    // Everything is warm.
    let (warm, _) = write_for(&log, 5, 0).await;
    let before = memory();
    place.down.store(true, Ordering::SeqCst);
    let (written, most) = write_for(&log, seconds, warm).await;
    let status = running.status();
    let lag = log.sinks()[0].lag;
    assert!(!status.up && lag > written * 9 / 10, "{status:?}");
    let grown = most.saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more");
    place.down.store(false, Ordering::SeqCst);
    let back = Instant::now();
    let end = warm + written;
    while place.last.load(Ordering::SeqCst) < end {
        assert!(back.elapsed() < Duration::from_secs(60 + seconds), "{}", place.last.load(Ordering::SeqCst));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (taken, gaps) = (place.taken.load(Ordering::SeqCst), place.gaps.load(Ordering::SeqCst));
    eprintln!(
        "down for {seconds} s: {written} records ({} a second), lag {lag}, memory {} KiB more at most, \
         caught up in {:.1} s",
        written / seconds.max(1),
        grown >> 10,
        back.elapsed().as_secs_f64()
    );
    assert_eq!((gaps, running.status().dropped), (0, 0));
    assert!(taken >= end, "{taken}");
    running.stop();
    task.await.unwrap();
}
