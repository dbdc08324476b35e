//! The log as its users have it: written, read, cut, tampered with, proved.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

mod crash;
mod forged;
mod python;
mod reading;
mod tampering;
mod writing;

use std::path::{Path, PathBuf};
use std::time::Duration;

use mqgate_audit::verify::{Report, Request, verify};
use mqgate_audit::{Log, Settings, VerifyingKey};
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixMillis;

/// A log in a folder of its own.
pub struct World {
    pub folder: tempfile::TempDir,
    pub settings: Settings,
}

impl Default for World {
    fn default() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            path: folder.path().join("audit.jsonl"),
            key_file: folder.path().join("audit.key"),
            segment_bytes: 4000,
            keep: 0,
            checkpoint_records: 5,
            checkpoint_interval: Duration::from_secs(10),
            personal: None,
        };
        Self { folder, settings }
    }
}

impl World {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn open(&self) -> Log {
        Log::open(self.settings.clone()).unwrap().0
    }

    /// Why the log does not open.
    pub fn refused(&self) -> String {
        Log::open(self.settings.clone()).err().expect("it is not to open").to_string()
    }

    /// The folder of the log.
    pub fn log(&self) -> PathBuf {
        mqgate_audit::files::folder_of(&self.settings.path)
    }

    pub fn key(&self) -> VerifyingKey {
        mqgate_audit::keys::KeyRing::read(&self.log()).unwrap().current().clone()
    }

    pub fn verify(&self) -> Report {
        verify(&self.log(), &Request::default()).unwrap()
    }

    pub fn verify_with(&self, published: &str) -> Report {
        let published = [("witness".to_owned(), published.to_owned())];
        verify(&self.log(), &Request { trusted: &[], published: &published }).unwrap()
    }
}

pub fn event(number: u64) -> AuditEvent {
    let mut event = AuditEvent::new(names::CONNECTION_ACCEPTED, Outcome::Success, Reason::Ok);
    event.at = at(number);
    event.client_id = Some(format!("client-{number:06}"));
    event.peer_address = Some("192.0.2.7:51712".into());
    event.field("tls.version", "1.3")
}

pub fn at(number: u64) -> UnixMillis {
    UnixMillis(1_763_800_000_000 + number * 100)
}

/// Appends records up to number `last`, one at a time, signed as the settings say.
pub fn fill(log: &mut Log, last: u64) {
    while log.written() < last {
        let number = log.written() + 1;
        log.append(at(number), [&event(number)]).unwrap();
        log.checkpoint_if_due(at(number)).unwrap();
    }
}

/// Everything that readers get.
pub fn sequences(log: &Log) -> Vec<u64> {
    let mut reader = log.view().reader(0);
    let mut all = Vec::new();
    loop {
        let batch = reader.batch(7, 2000).unwrap();
        if batch.records.is_empty() {
            return all;
        }
        all.extend(batch.records.iter().map(|record| record.sequence));
    }
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}
