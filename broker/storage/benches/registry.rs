//! What a registry of a million certificates costs: filling, opening, looking up, listing, and many writers at once.
//! Prints a line of JSON for each figure: what passed on the clock, and for reading also the CPU time of the thread,
//! which holds where the machine does other things.
//!
//! `cargo bench -p mqgate-storage --bench registry -- [--count=1000000] [--path=FOLDER]`; a folder that is there
//! is used as it is, so that only reading is measured.

#![allow(clippy::print_stdout, reason = "it is what it is for")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::{
    DeviceCertificate, DeviceQuery, DeviceState, EventKind, NewEvent, RecordWrite, RegistrationSource,
    RegistryChanges, Span, Storage,
};
use mqgate_identity::time::{UnixMillis, UnixSeconds};
use mqgate_storage::{FjallStorage, StorageOptions};

/// Records of one step while filling.
const STEP: u64 = 500;
const LOOKUPS: u64 = 100_000;
const CAS: u64 = 8;
const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const DAY: i64 = 24 * 60 * 60;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let part = |name: &str| arguments.iter().find_map(|argument| argument.strip_prefix(name));
    let count = part("--count=").and_then(|count| count.parse().ok()).unwrap_or(1_000_000);
    let folder = tempfile::tempdir().expect("a folder for the database");
    let given = part("--path=").map(PathBuf::from);
    let path = given.clone().unwrap_or_else(|| folder.path().join("registry"));
    if !path.exists() {
        fill(&path, count);
    }
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    let storage = FjallStorage::open(&path, StorageOptions::default()).expect("it opens");
    let cas = storage.ca_certificates().expect("CAs");
    let counts = storage.device_certificate_counts().expect("counts");
    point("open", "s", begun.elapsed().as_secs_f64());
    point("open-cpu", "s", cpu_seconds() - cpu);
    assert!(cas.is_empty() && counts.values().sum::<u64>() >= count, "it is another registry");
    point("memory-after-open", "MiB", resident());
    lookups(&storage, count);
    point("memory-after-lookups", "MiB", resident());
    pages(&storage, count);
    point("memory-after-pages", "MiB", resident());
    seen(&storage, count);
    if given.is_none() {
        for writers in [1, 8, 64] {
            register(&storage, count, writers);
        }
    }
    point("disk", "bytes each", bytes_in(&path) as f64 / count as f64);
}

fn point(name: &str, unit: &str, value: f64) {
    println!("{{\"name\":\"{name}\",\"unit\":\"{unit}\",\"value\":{value:.3}}}");
}

/// Spread over the whole space of ids, as digests are.
fn id(number: u64) -> CertificateFingerprint {
    let mut state = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = [0; 32];
    for part in bytes.as_chunks_mut::<8>().0 {
        state ^= state >> 30;
        state = state.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state ^= state >> 27;
        *part = state.to_be_bytes();
    }
    CertificateFingerprint(bytes)
}

/// About as large as one with a certificate for an elliptic curve; its text does not compress, as a key does not.
fn record(number: u64) -> DeviceCertificate {
    let state = match number % 50 {
        0 => DeviceState::PendingActivation,
        1 => DeviceState::Inactive,
        2 => DeviceState::Revoked,
        _ => DeviceState::Active,
    };
    let certificate: String = (0..24).map(|part| hex::encode(id(number * 31 + part).0)).collect();
    DeviceCertificate {
        id: id(number),
        state,
        namespace: "default".to_owned(),
        trust_domain: "default".to_owned(),
        device_id: format!("meter-{number:07}"),
        tenant: None,
        tags: vec![format!("site-{}", number % 1000)],
        client_id: None,
        ca_id: id(u64::MAX / 2 + number % CAS),
        issuer_key_id: hex::encode(id(u64::MAX / 3 + number % CAS).0),
        subject: format!("CN=meter-{number:07},OU=plant-{},O=Example", number % 100),
        issuer: format!("CN=Factory CA {}", number % CAS),
        serial: format!("{number:016x}"),
        spki_sha256: hex::encode(id(number.wrapping_mul(7)).0),
        common_name: Some(format!("meter-{number:07}")),
        organizational_units: vec![format!("plant-{}", number % 100)],
        subject_alt_names: vec![format!("dns:meter-{number:07}.example")],
        not_before: UnixSeconds(1_600_000_000),
        not_after: UnixSeconds(1_700_000_000 + (number % 3650) as i64 * DAY),
        source: RegistrationSource::Import,
        registered_at: NOW,
        updated_at: NOW,
        last_seen: None,
        pending_until: None,
        superseded: None,
        quarantined: None,
        revocation_reason: (state == DeviceState::Revoked).then(|| "superseded".to_owned()),
        revoked_at: None,
        deleted_at: None,
        attributes: BTreeMap::new(),
        revision: 1,
        pem: format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", &certificate[..900]),
    }
}

fn put(number: u64, changes: &mut RegistryChanges) {
    let record = record(number);
    changes.events.push(NewEvent::device(EventKind::CertRegistered, None, &record, "bench", NOW));
    changes.writes.push(RecordWrite::Device { record: Box::new(record), expected: None });
}

fn fill(path: &Path, count: u64) {
    let storage = FjallStorage::open(path, StorageOptions::default()).expect("a new database");
    let begun = Instant::now();
    for first in (0..count).step_by(STEP as usize) {
        let mut changes = RegistryChanges::default();
        (first..count.min(first + STEP)).for_each(|number| put(number, &mut changes));
        storage.commit(&changes).expect("it is written");
    }
    point("import", "certificates a second", count as f64 / begun.elapsed().as_secs_f64());
    point("memory-after-import", "MiB", resident());
}

fn lookups(storage: &FjallStorage, count: u64) {
    let at = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % count;
    let known: Vec<_> = (0..LOOKUPS).map(|number| id(at(number))).collect();
    let unknown: Vec<_> = (0..LOOKUPS).map(|number| id(u64::MAX / 5 + number)).collect();
    for (name, ids, there) in [("lookup", known, true), ("lookup-absent", unknown, false)] {
        let mut times = Vec::new();
        let cpu = cpu_seconds();
        for id in &ids {
            let begun = Instant::now();
            let found = storage.device_certificate(black_box(id)).expect("it can be read");
            times.push(begun.elapsed());
            assert_eq!(found.is_some(), there, "{id}");
        }
        point(&format!("{name}-cpu-mean"), "us", (cpu_seconds() - cpu) * 1e6 / LOOKUPS as f64);
        quantiles(name, times);
    }
}

fn quantiles(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    point(&format!("{name}-median"), "us", at(0.5));
    point(&format!("{name}-p99"), "us", at(0.99));
    point(&format!("{name}-worst"), "us", at(1.0));
}

fn pages(storage: &FjallStorage, count: u64) {
    let plain = DeviceQuery::default;
    let middle = count / 2;
    let queries = [
        ("all", plain()),
        ("pending", DeviceQuery { states: vec![DeviceState::PendingActivation], ..plain() }),
        ("ca", DeviceQuery { ca: Some(record(3).ca_id), ..plain() }),
        (
            "ca-and-state",
            DeviceQuery { ca: Some(record(2).ca_id), states: vec![DeviceState::Revoked], ..plain() },
        ),
        ("cn", DeviceQuery { common_name: Some(format!("meter-{middle:07}")), ..plain() }),
        ("san", DeviceQuery { san: Some(format!("meter-{middle:07}.example")), ..plain() }),
        ("ou", DeviceQuery { organizational_unit: Some("plant-42".into()), ..plain() }),
        ("device", DeviceQuery { device_id: Some(format!("meter-{middle:07}")), ..plain() }),
        ("serial", DeviceQuery { serial: Some(format!("{middle:016x}")), ..plain() }),
        ("spki", DeviceQuery { spki_sha256: Some(record(middle).spki_sha256), ..plain() }),
        ("tag", DeviceQuery { tag: Some("site-7".into()), ..plain() }),
        (
            "expires-in-30-days",
            DeviceQuery {
                not_after: Span { from: None, until: Some(UnixSeconds(1_700_000_000 + 30 * DAY)) },
                ..plain()
            },
        ),
        // No index is for it: a page reads so many records and goes on from there.
        ("source-without-index", DeviceQuery { source: Some(RegistrationSource::Jit), ..plain() }),
    ];
    for (name, query) in queries {
        for limit in [100, 1000] {
            let mut times = Vec::new();
            let mut query = DeviceQuery { limit, ..query.clone() };
            let mut found = 0;
            let cpu = cpu_seconds();
            for _ in 0..20 {
                let begun = Instant::now();
                let page = storage.query_device_certificates(&query).expect("it can be read");
                times.push(begun.elapsed());
                found = found.max(page.records.len());
                query.cursor = page.next;
            }
            let cpu = (cpu_seconds() - cpu) * 1e3 / times.len() as f64;
            point(&format!("page-{name}-{limit}-of-{found}-cpu-mean"), "ms", cpu);
            times.sort_unstable();
            let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
            point(&format!("page-{name}-{limit}-of-{found}-median"), "ms", median.as_secs_f64() * 1e3);
            point(&format!("page-{name}-{limit}-of-{found}-worst"), "ms", worst.as_secs_f64() * 1e3);
        }
    }
}

fn seen(storage: &FjallStorage, count: u64) {
    const BATCH: u64 = 2_000;
    let begun = Instant::now();
    for batch in 0..5 {
        let seen: Vec<_> = (0..BATCH)
            .map(|at| (id((batch * BATCH + at) * 37 % count), UnixMillis(NOW.0 + batch + 1)))
            .collect();
        storage.touch_device_certificates(&seen).expect("it is written");
    }
    point("seen", "us each", begun.elapsed().as_secs_f64() * 1e6 / (5 * BATCH) as f64);
}

/// As first connections do it: each in a step of its own, which is durable when it returns.
fn register(storage: &FjallStorage, count: u64, writers: u64) {
    const EACH: u64 = 200;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for writer in 0..writers {
            scope.spawn(move || {
                for at in 0..EACH {
                    let mut changes = RegistryChanges::default();
                    put(count + writers * 1_000_000 + writer * EACH + at, &mut changes);
                    storage.commit(&changes).expect("it is written");
                }
            });
        }
    });
    let each = begun.elapsed().as_secs_f64() / (writers * EACH) as f64;
    point(&format!("register-{writers}-at-once"), "a second", 1.0 / each);
}

/// Of this thread.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds: f64 = text.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    nanoseconds / 1e9
}

fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    let kilobytes: f64 = line.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    kilobytes / 1024.0
}

fn bytes_in(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        // Journals are made at their full length; what counts is what is there.
        Ok(metadata) => std::os::unix::fs::MetadataExt::blocks(&metadata) * 512,
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
