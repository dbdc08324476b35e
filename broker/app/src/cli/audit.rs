//! `mqgate audit`: read the audit log, verify it, prove a record.

mod source;
mod stopped;
mod verify;

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use super::output::{self, say, table, text};
use super::{posture, sinks};
use crate::exit::Failure;

use self::source::{Source, SourceArgs, Wanted};

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate audit tail -n 20 --follow
  mqgate audit query --name connection.refused --device device-9 --since 2026-11-22T00:00:00Z
  mqgate audit export --since 2026-11-01T00:00:00Z > november.jsonl
  mqgate audit keys > audit.pub
  mqgate audit verify /backup/audit.jsonl.d --key audit.pub --published /mnt/witness/mqgate-audit-3f0c1d2a9b8e7766.checkpoints
  mqgate audit prove 4711 > proof.json
  mqgate audit erase device:meter-7")]
pub enum Command {
    /// The newest records, and with --follow those that come
    Tail {
        /// How many
        #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 10)]
        number: u64,
        /// Go on with what is recorded from now on
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        wanted: Wanted,
        #[command(flatten)]
        source: SourceArgs,
    },
    /// Records that are like this, the oldest first
    Query {
        #[command(flatten)]
        wanted: Wanted,
        /// Records at most
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u64,
        #[command(flatten)]
        source: SourceArgs,
    },
    /// All records that are like this, as lines of JSON
    Export {
        #[command(flatten)]
        wanted: Wanted,
        #[command(flatten)]
        source: SourceArgs,
    },
    /// Check a log or a copy of its files, without the broker: chain, tree, checkpoints
    Verify(verify::Args),
    /// Write a proof that a record is in the log; tools/mqgate_audit_proof.py checks it
    Prove {
        /// Its sequence number
        seq: u64,
        #[command(flatten)]
        source: SourceArgs,
    },
    /// The public keys that the log is signed with, the newest last
    Keys {
        #[command(flatten)]
        source: SourceArgs,
    },
    /// Sign checkpoints with a new key from now on; the broker must be stopped
    RotateKey,
    /// Destroy the key of a subject, so that its personal members in the log can be read no longer; the broker must be
    /// stopped
    Erase {
        /// device:NAME, certificate:FINGERPRINT, client:ID or address:IP
        subject: String,
    },
    #[command(flatten)]
    Posture(posture::Command),
    #[command(flatten)]
    Sinks(sinks::Command),
    /// Print docs/audit.md
    #[command(hide = true)]
    Docs,
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::Posture(command) => posture::run(command, config),
        Command::Sinks(command) => sinks::run(command, config),
        Command::Tail { number, follow, wanted, source } => tail(number, follow, &wanted, &source, config),
        Command::Query { wanted, limit, source } => {
            let filter = wanted.filter()?;
            let mut out = Out::new(source.json);
            let mut source = Source::open(&source, config)?;
            let after = wanted.after();
            source.each(&filter, after, Some(limit), &mut |record| out.record(record))?;
            out.end()
        }
        Command::Export { wanted, source } => {
            let filter = wanted.filter()?;
            let mut source = Source::open(&source, config)?;
            source.each(&filter, wanted.after(), None, &mut |record| say(record.to_string())).map(drop)
        }
        Command::Verify(args) => verify::run(&args),
        Command::Prove { seq, source } => {
            say(serde_json::to_string_pretty(&Source::open(&source, config)?.prove(seq)?)?)
        }
        Command::Keys { source } => Source::open(&source, config)?.keys()?.iter().try_for_each(say),
        Command::RotateKey => stopped::rotate_key(config),
        Command::Erase { subject } => stopped::erase(&subject, config),
        Command::Docs => say(mqgate_audit::page::page().trim_end()),
    }
}

fn tail(number: u64, follow: bool, wanted: &Wanted, args: &SourceArgs, config: Option<&Path>) -> Result<()> {
    let filter = wanted.filter()?;
    let mut source = Source::open(args, config)?;
    // Filters look at the newest records only: whoever looks for older ones asks `query`.
    let newest = source.newest();
    let mut out = Out::new(args.json);
    let first = newest.saturating_sub(number);
    let mut after = source.each(&filter, first, None, &mut |record| out.record(record))?;
    if !follow {
        return out.end();
    }
    loop {
        out.flush()?;
        std::thread::sleep(std::time::Duration::from_secs(1));
        source.refresh()?;
        after = source.each(&filter, after, None, &mut |record| out.record(record))?;
    }
}

/// Prints records: as lines of JSON, or as rows.
struct Out {
    json: bool,
    rows: Vec<Vec<String>>,
    head: bool,
}

/// Rows that are held back so that columns have one width.
const ROWS: usize = 200;

impl Out {
    fn new(json: bool) -> Self {
        Self { json, rows: Vec::new(), head: false }
    }

    fn record(&mut self, record: &Value) -> Result<()> {
        if self.json {
            return say(output::plain_json(&record.to_string()));
        }
        let who = ["device_id", "client_id", "peer", "actor"];
        let who = who.into_iter().map(|name| text(record, name)).find(|text| !text.is_empty());
        self.rows.push(vec![
            text(record, "seq"),
            text(record, "time"),
            text(record, "name"),
            text(record, "outcome"),
            text(record, "reason"),
            who.unwrap_or_default(),
            about(record),
        ]);
        if self.rows.len() >= ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return Ok(());
        }
        self.head = true;
        table(&["SEQ", "TIME", "NAME", "OUTCOME", "REASON", "WHO", "ABOUT"], &rows)
    }

    fn end(mut self) -> Result<()> {
        self.flush()?;
        if self.json || self.head { Ok(()) } else { say("no records") }
    }
}

/// The fields, short.
fn about(record: &Value) -> String {
    let fields = record["fields"].as_object().into_iter().flatten();
    let short = |value: &Value| match value {
        Value::String(text) => text.chars().take(40).collect(),
        other => other.to_string(),
    };
    fields.take(4).map(|(name, value)| format!("{name}={}", short(value))).collect::<Vec<_>>().join(" ")
}

/// The folder of the log that `path` names: itself, or that of the link.
fn folder_of(path: &Path) -> Result<PathBuf> {
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    let folder = mqgate_audit::files::folder_of(path);
    if folder.is_dir() {
        return Ok(folder);
    }
    let problem = "no audit log: name the folder that ends in `.d`, or the link beside it";
    Err(Failure::refused(format!("{}: {problem}", path.display())).into())
}
