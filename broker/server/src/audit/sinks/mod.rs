//! Sinks: places outside to which the records of the log go, each at its own pace, in order, at least once.
//!
//! A sink has a cursor into the log, kept on the disk, and no queue of its own: what it has not taken yet stays in the
//! log. So one that is down costs no memory, and catches up when it is back. How far behind a sink may be is bounded by
//! `max_backlog`; beyond that, new connections are refused, or its oldest records are lost and counted.
//!
//! Knows the log only as [`Source`], and a place only as [`Outlet`]: neither network nor files.

pub(in crate::audit) mod auditor;
pub(in crate::audit) mod board;
pub mod format;
mod log;
#[cfg(test)]
mod outage;
mod runner;
#[cfg(test)]
mod tests;
mod turns;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mqgate_identity::time::UnixMillis;
use serde::Serialize;

pub use self::format::Format;
pub use self::runner::{Running, run};
pub use self::turns::Turns;

/// One record on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub sequence: u64,
    /// As it stands in the log, without a line feed.
    pub line: Box<[u8]>,
}

/// Why a sink did not take records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutletError {
    pub problem: String,
    /// It asked to be left alone for this long.
    pub retry_after: Option<Duration>,
    /// Fewer at once may do.
    pub is_too_much: bool,
}

impl OutletError {
    pub fn new(problem: impl std::fmt::Display) -> Self {
        Self { problem: problem.to_string(), retry_after: None, is_too_much: false }
    }
}

pub type OutletFuture<'a> = Pin<Box<dyn Future<Output = Result<u64, OutletError>> + Send + 'a>>;

/// A place outside.
pub trait Outlet: Send + Sync {
    /// Hands records over, in order; answers up to which sequence number they are safe there. Later ones are handed over
    /// again, and whoever is dropped while it waits gets all of them again.
    fn take<'a>(&'a self, items: &'a [Item]) -> OutletFuture<'a>;

    /// Whether it is there at all; one that is gone ends its sink.
    fn is_there(&self) -> bool {
        true
    }
}

/// The log, as a sink reads it.
pub trait Source: Send + Sync {
    /// The newest record that may be handed out.
    fn end(&self) -> u64;
    /// The next records after `after`, with how many were deleted before they were read. Blocks for a moment.
    fn read(&self, after: u64, records: usize, bytes: usize) -> Result<Slice, String>;
    /// What is behind `after` is still needed.
    fn hold(&self, after: u64);
    fn release(&self);
    /// Bytes that are kept only for who has not taken what is behind `after`.
    fn held_bytes(&self, after: u64) -> u64;
    fn cursor(&self) -> Result<Option<u64>, String>;
    /// Keeps the cursor: on the disk when it returns.
    fn keep(&self, after: u64) -> Result<(), String>;
    /// Whether this sink is to get it.
    fn wants(&self, item: &Item) -> bool;
}

#[derive(Debug, Default)]
pub struct Slice {
    pub missed: u64,
    pub items: Vec<Item>,
}

/// What happens when a sink is too far behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFull {
    /// New connections are refused until it has caught up.
    Refuse,
    /// Its oldest records are lost, counted and told.
    #[default]
    DropOldestCounted,
}

#[derive(Debug, Clone)]
pub struct SinkSettings {
    /// Records and bytes of one batch.
    pub records: usize,
    pub bytes: usize,
    /// For one batch.
    pub timeout: Duration,
    pub min_backoff: Duration,
    pub max_backoff: Duration,
    /// Bytes of the log that are kept for sinks beyond what retention keeps.
    pub max_backlog: u64,
    pub on_full: OnFull,
}

impl Default for SinkSettings {
    fn default() -> Self {
        Self {
            records: 500,
            bytes: 1 << 20,
            timeout: Duration::from_secs(10),
            min_backoff: Duration::from_millis(500),
            max_backoff: Duration::from_secs(30),
            max_backlog: 4 << 30,
            on_full: OnFull::DropOldestCounted,
        }
    }
}

/// How a sink is, for people.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
#[schemars(rename = "AuditSink")]
pub struct SinkStatus {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Where the records go.
    pub target: String,
    /// `up`, or `down` since the last attempt failed.
    pub up: bool,
    pub problem: Option<String>,
    /// Since when it is up or down.
    pub since: UnixMillis,
    /// The last record that is safe there.
    pub cursor: u64,
    /// Records of the log behind that.
    pub lag: u64,
    /// Handed over since the broker started; again after a failure counts again.
    pub delivered: u64,
    /// Lost for it, since the broker started.
    pub dropped: u64,
    pub on_full: &'static str,
    /// Because of it, new connections are refused.
    pub refusing: bool,
}

impl OnFull {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::DropOldestCounted => "drop_oldest_counted",
        }
    }
}

/// Told when something about a sink changes that others have to know.
pub trait Watcher: Send + Sync {
    /// Records were lost for a sink.
    fn lost(&self, sink: &str, records: u64);
    /// New connections must not come in, or may again, as far as this sink goes.
    fn refuse(&self, sink: &str, yes: bool);
    /// Its numbers have changed.
    fn changed(&self, status: &SinkStatus);
}

/// Everything that a sink is made of.
pub struct Sink {
    pub name: String,
    pub kind: &'static str,
    pub target: String,
    pub settings: SinkSettings,
    pub outlet: Arc<dyn Outlet>,
    pub source: Arc<dyn Source>,
    pub watcher: Arc<dyn Watcher>,
    /// Where one begins that has no cursor yet.
    pub begin: u64,
}
