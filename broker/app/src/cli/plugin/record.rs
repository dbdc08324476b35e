//! `mqgate plugin record`: calls of a plugin of the running broker, into a file of cases.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::cli::output::{self, printable, say};
use crate::cli::remote::{Remote, RemoteArgs, segment, with_query};
use crate::config::units::{Size, Span};
use crate::exit::Failure;

/// Between two questions while there is nothing new.
const PAUSE: Duration = Duration::from_millis(250);

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate plugin record cert-acl --out captures.ndjson --count 10000 --for 1h
  mqgate plugin record cert-acl --out captures.ndjson --listener fleet --every 100
  mqgate plugin replay captures.ndjson --against cert-acl-2.wasm --config-file cert-acl.json

Passwords and authentication data are left out, and so is the plugin's configuration. Certificates, names, addresses, URLs
and what the plugin read are in it: the file is as secret as those. Answers that the broker gives again without a call
(`cache_ttl`) are not recorded. It ends with the version that runs.")]
pub struct Args {
    /// Name of the plugin
    name: String,
    /// Where the cases are written; the file must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Calls at most
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// Time at most, for example 30s or 1h
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = str::parse::<Span>)]
    span: Span,
    /// Largest file
    #[arg(long, value_name = "SIZE", default_value = "256 MiB", value_parser = str::parse::<Size>)]
    max_size: Size,
    /// Of so many calls one
    #[arg(long, value_name = "N", default_value_t = 1)]
    every: u64,
    /// Only calls for clients on this listener
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    #[command(flatten)]
    remote: RemoteArgs,
}

pub fn run(args: &Args, config: Option<&Path>) -> Result<()> {
    let api = Remote::new(&args.remote, config)?;
    let path = format!("/plugins/{}/recording", segment(&args.name));
    // Only its owner reads it, from the beginning.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.out);
    let file =
        file.map_err(|error| Failure::refused(format!("{} cannot be made: {error}", args.out.display())))?;
    let mut out = Recording { out: BufWriter::new(file), room: args.max_size.0, calls: 0, is_full: false };
    let body = json!({
        "count": args.count,
        "seconds": args.span.0.as_secs().max(1),
        "every": args.every,
        "listener": args.listener,
    });
    if let Err(error) = api.post(&path, &body) {
        // Nothing is in it.
        let _ = std::fs::remove_file(&args.out);
        return Err(error);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    // A second signal ends the program as ever.
    let _ = std::thread::Builder::new().name(String::from("signals")).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if runtime.is_ok_and(|runtime| runtime.block_on(tokio::signal::ctrl_c()).is_ok()) {
            stopped.store(true, Ordering::SeqCst);
        }
    });
    if !args.remote.json {
        say(format!("recording {}; Ctrl-C ends it", printable(&args.name)))?;
    }
    let outcome = fetch(&api, &path, &mut out, &stop);
    // Also when it was broken off: nobody comes for the rest.
    let report = api.delete(&path);
    outcome?;
    let Recording { mut out, calls: written, is_full, .. } = out;
    out.flush().with_context(|| format!("{} cannot be written", args.out.display()))?;
    let report = report?;
    if args.remote.json {
        return output::json(&json!({
            "file": args.out.display().to_string(),
            "written": written,
            "full": is_full,
            "taken": report["taken"],
            "dropped": report["dropped"],
            "digest": report["digest"],
        }));
    }
    let dropped = report["dropped"].as_u64().unwrap_or(0);
    let lost = if dropped == 0 { String::new() } else { format!(", {dropped} lost") };
    let lost = if is_full { format!("{lost}; it is as large as --max-size lets it be") } else { lost };
    say(format!("{written} calls in {}{lost}", args.out.display()))
}

/// What is written. Clients say how long a line is, so the file has an end.
struct Recording<W> {
    out: W,
    room: u64,
    calls: u64,
    is_full: bool,
}

impl<W: std::io::Write> Recording<W> {
    /// Writes one line, unless there is no room for it.
    fn take(&mut self, line: &str) -> std::io::Result<()> {
        // What clients sent is in it, and somebody may look at it with `cat`.
        let text = output::plain_json(line);
        match self.room.checked_sub(text.len() as u64 + 1).filter(|_| !self.is_full) {
            None => self.is_full = true,
            Some(left) => {
                writeln!(self.out, "{text}")?;
                self.room = left;
                self.calls += u64::from(!line.starts_with("{\"common\":"));
            }
        }
        Ok(())
    }
}

/// Writes what comes until it is over.
fn fetch(
    api: &Remote,
    path: &str,
    out: &mut Recording<impl std::io::Write>,
    stop: &AtomicBool,
) -> Result<()> {
    let mut after = 0;
    loop {
        // Asked once more after the signal: what was recorded until then is taken along.
        let is_last = stop.load(Ordering::SeqCst);
        let page = api.get(&with_query(path, &[("after", Some(&format!("{after}")))]))?;
        let lines: Vec<&str> =
            page["lines"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for line in &lines {
            out.take(line).context("the recording cannot be written")?;
        }
        after = page["next"].as_u64().unwrap_or(after);
        if out.is_full || page["finished"] == true || (is_last && lines.is_empty()) {
            return Ok(());
        }
        if lines.is_empty() {
            std::thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_is_as_large_as_it_may_be_and_no_larger() {
        let mut recording = Recording { out: Vec::new(), room: 80, calls: 0, is_full: false };
        recording.take(r#"{"common":{}}"#).expect("written");
        for client in ["one", "a\u{9b}2J", "three, which has no room", "x"] {
            recording.take(&json!({ "name": client }).to_string()).expect("written");
        }
        let written = String::from_utf8(recording.out).expect("text");
        assert_eq!(written, "{\"common\":{}}\n{\"name\":\"one\"}\n{\"name\":\"a\\u009b2J\"}\n");
        assert_eq!((recording.calls, recording.is_full), (2, true));
    }
}
