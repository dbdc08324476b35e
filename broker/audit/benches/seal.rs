//! How many records one core seals: encoded, hashed, chained, put under the tree, written and signed.
//!
//! `cargo bench -p mqgate-audit` prints records per second of wall time and of processor time. The records are those of
//! admissions over mutual TLS, with two plugins, as a broker writes them.

use std::time::{Duration, Instant};

use mqgate_audit::{Log, Settings};
use mqgate_identity::audit::{AuditEvent, Outcome, PluginVerdict, names};
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixMillis;

const RECORDS: u64 = 400_000;
/// As many as the broker's writer takes at once under load.
const BATCH: usize = 1024;

fn event(number: u64) -> AuditEvent {
    let mut event = AuditEvent::new(names::CONNECTION_ACCEPTED, Outcome::Success, Reason::Ok).actor("client");
    event.at = UnixMillis(1_763_800_000_000 + number / 50);
    event.connection_id = Some(number);
    event.client_id = Some(format!("meter-{number}"));
    event.device_id = Some(format!("meter-{number}"));
    event.peer_address = Some(format!("192.0.2.7:{}", number % 65_536));
    event.listener = Some("devices".into());
    event.certificate_fingerprint = Some(CertificateFingerprint([number as u8; 32]));
    event.subject = Some(format!("CN=meter-{number},O=Example"));
    event.server_name = Some("mqtt.example.com".into());
    event.plugins = ["auto-register", "cert-acl"]
        .map(|name| PluginVerdict {
            name: name.into(),
            digest: Some("sha256:7962a04c9b1d5e8f7962a04c9b1d5e8f7962a04c9b1d5e8f7962a04c9b1d5e8f".into()),
            hook: "authorizer",
            result: "allow",
            microseconds: 85,
        })
        .into();
    event.field("ca", "factory").field("tls.version", "1.3").field("tls.cipher", "TLS_AES_128_GCM_SHA256")
}

/// Processor time of this thread.
fn processor() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default())
}

#[expect(clippy::print_stdout, reason = "the result of a benchmark is what it prints")]
fn main() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let settings = Settings {
        path: folder.path().join("audit.jsonl"),
        key_file: folder.path().join("audit.key"),
        segment_bytes: 64 << 20,
        keep: 0,
        checkpoint_records: 1000,
        checkpoint_interval: Duration::from_secs(10),
        personal: None,
    };
    let mut log = Log::open(settings).expect("a new log opens").0;
    let events: Vec<AuditEvent> = (0..RECORDS).map(event).collect();
    let (started, processor_before) = (Instant::now(), processor());
    let mut checkpoints = 0;
    for batch in events.chunks(BATCH) {
        log.append(batch[0].at, batch).expect("the disk takes it");
        checkpoints += u32::from(log.checkpoint_if_due(batch[0].at).expect("it can be signed").is_some());
    }
    let (wall, cpu) = (started.elapsed(), processor().saturating_sub(processor_before));
    let bytes: u64 = std::fs::read_dir(log.view().folder())
        .expect("the log has a folder")
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .map(|file| file.len())
        .sum();
    let rate = |time: Duration| RECORDS as f64 / time.as_secs_f64();
    println!(
        "{RECORDS} records, {checkpoints} checkpoints, {} bytes a record: {:.0} records/s, {:.0} per second of processor time",
        bytes / RECORDS,
        rate(wall),
        rate(cpu),
    );
}
