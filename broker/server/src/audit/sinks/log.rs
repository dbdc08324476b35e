//! The log on disk as a sink reads it: whole records that no power cut takes back, and a cursor beside them.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use mqgate_audit::View;
use mqgate_audit::cursor::Cursors;
use mqgate_audit::read::Reader;
use mqgate_identity::audit::Outcome;
use mqgate_identity::audit::policy::{Policy, Subject};

use super::format::Parsed;
use super::{Item, Slice, Source};
use crate::directory::lock;

pub(super) struct LogSource {
    name: String,
    view: View,
    reader: Mutex<Reader>,
    cursors: Cursors,
    policy: Arc<ArcSwap<Policy>>,
}

impl LogSource {
    pub(super) fn new(name: &str, view: &View, policy: &Arc<ArcSwap<Policy>>) -> std::io::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            view: view.clone(),
            reader: Mutex::new(view.reader(0)),
            cursors: Cursors::open(view.folder())?,
            policy: Arc::clone(policy),
        })
    }
}

impl Source for LogSource {
    fn end(&self) -> u64 {
        self.view.end().durable
    }

    fn read(&self, after: u64, records: usize, bytes: usize) -> Result<Slice, String> {
        let mut reader = lock(&self.reader);
        reader.seek(after);
        let batch = reader.batch(records, bytes).map_err(|error| error.to_string())?;
        // What a power cut could take back is nobody's business yet.
        let durable = self.view.end().durable;
        let safe = batch.records.into_iter().take_while(|stored| stored.sequence <= durable);
        let items = safe.map(|stored| Item { sequence: stored.sequence, line: stored.line });
        Ok(Slice { missed: batch.missed, items: items.collect() })
    }

    fn hold(&self, after: u64) {
        self.view.hold(&self.name, after);
    }

    fn release(&self) {
        self.view.release(&self.name);
    }

    fn held_bytes(&self, after: u64) -> u64 {
        self.view.held_for(after)
    }

    fn cursor(&self) -> Result<Option<u64>, String> {
        self.cursors.read(&self.name).map_err(|error| error.to_string())
    }

    fn keep(&self, after: u64) -> Result<(), String> {
        self.cursors.write(&self.name, after).map_err(|error| error.to_string())
    }

    /// By the rules as they are now: a rule that is changed holds for what has not gone out yet, too.
    fn wants(&self, item: &Item) -> bool {
        let policy = self.policy.load();
        if !policy.names_sinks() {
            return true;
        }
        let record = Parsed::new(&item.line);
        let outcome = match record.text("outcome") {
            "success" => Outcome::Success,
            "failure" => Outcome::Failure,
            _ => Outcome::Error,
        };
        let listener = Some(record.text("listener")).filter(|name| !name.is_empty());
        let subject = Subject {
            category: record.text("category"),
            action: record.text("name"),
            outcome,
            listener,
            ca: record.field("ca"),
        };
        policy.goes_to(&subject, &self.name)
    }
}
