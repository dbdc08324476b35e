//! What handing an event to the audit log costs whoever has it: the time of `try_record`, in batches. Prints a line of JSON.
//!
//! Writing, hashing and signing are the log's thread's; its time is not in here. The least of several runs: other programs
//! only ever add to it.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::reason::Reason;
use mqgate_server::audit::{AuditLog, AuditSettings};
use mqgate_server::metrics::{BuildInfo, Metrics};

const BATCH: usize = 1_000;
const RUNS: usize = 50;

fn event(number: usize) -> AuditEvent {
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

fn main() {
    let build = BuildInfo {
        version: String::new(),
        revision: String::new(),
        rustc: String::new(),
        features: String::new(),
    };
    let metrics = Metrics::new(&build).expect("no family has the name of another");
    let folder = std::env::temp_dir().join(format!("mqgate-bench-audit-{}", std::process::id()));
    let settings = AuditSettings { path: Some(folder.join("audit.jsonl")), ..AuditSettings::default() };
    std::fs::create_dir_all(&folder).expect("a folder for the log");
    let log = AuditLog::open(settings, Arc::clone(&metrics.gate)).expect("the log opens");
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        let events: Vec<AuditEvent> = (0..BATCH).map(event).collect();
        let started = Instant::now();
        for event in events {
            log.try_record(event).expect("there is room");
        }
        best = best.min(started.elapsed());
        // The queue is emptied meanwhile.
        std::thread::sleep(Duration::from_millis(20));
    }
    log.close();
    std::fs::remove_dir_all(&folder).expect("the folder was ours");
    let each = best.as_nanos() as f64 / BATCH as f64;
    writeln!(
        std::io::stdout().lock(),
        "{{\"what\":\"audit-hand-over\",\"unit\":\"ns for one event\",\"y\":{each:.0}}}"
    )
    .expect("whoever reads this waits for the end");
}
