//! `mqgate trace`: what is said with chosen clients, into a file.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::output::{self, printable, say, table, text, time};
use super::remote::{Remote, RemoteArgs, segment};
use crate::config::units::{Size, Span};
use crate::exit::{Exit, Failure};

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate trace start lost-commands --client meter-7 --for 10m
  mqgate trace show lost-commands
  mqgate trace stop lost-commands")]
pub enum Command {
    /// Begin a trace: one line for each packet
    Start {
        /// Its name, and that of its file: lower-case letters, digits, `-`
        name: String,
        /// Only this client id
        #[arg(long, value_name = "ID")]
        client: Option<String>,
        /// Only this certificate: its SHA-256
        #[arg(long, value_name = "SHA-256")]
        fingerprint: Option<String>,
        /// Only this address, or addresses of this network
        #[arg(long, value_name = "ADDRESS[/BITS]")]
        address: Option<String>,
        /// Only topics that this Topic Filter matches
        #[arg(long, value_name = "FILTER")]
        topic: Option<String>,
        /// How long it runs, for example 30s or 1h
        #[arg(long = "for", value_name = "TIME", default_value = "10m")]
        span: String,
        /// Largest file
        #[arg(long, value_name = "SIZE", default_value = "10 MiB")]
        max_size: String,
        /// Write payloads too
        #[arg(long)]
        payloads: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// List the traces that run
    List {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// End a trace; its file stays
    Stop {
        name: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Print the file of a trace, running or not
    Show {
        name: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// End a trace and delete its file
    Delete {
        name: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::Start { name, client, fingerprint, address, topic, span, max_size, payloads, remote } => {
            let usage = |error: String| Failure::new(Exit::Usage, error);
            let span: Span = span.parse().map_err(|error| usage(format!("--for: {error}")))?;
            let size: Size = max_size.parse().map_err(|error| usage(format!("--max-size: {error}")))?;
            let body = json!({
                "name": name,
                "client_id": client,
                "fingerprint": fingerprint,
                "address": address,
                "topic": topic,
                "seconds": span.0.as_secs(),
                "max_bytes": size.0,
                "payloads": payloads,
            });
            let trace = Remote::new(&remote, config)?.post("/traces", &body)?;
            done(&remote, "started", &trace)
        }
        Command::List { remote } => list(&remote, Remote::new(&remote, config)?.all("/traces")?),
        Command::Stop { name, remote } => {
            let trace = Remote::new(&remote, config)?.delete(&format!("/traces/{}", segment(&name)))?;
            done(&remote, "stopped", &trace)
        }
        Command::Show { name, remote } => {
            let lines = Remote::new(&remote, config)?.text(&format!("/traces/{}/file", segment(&name)))?;
            match remote.json {
                true => output::json(&Value::from(lines.lines().collect::<Vec<_>>())),
                false => lines.lines().try_for_each(|line| say(printable(line))),
            }
        }
        Command::Delete { name, remote } => {
            let done = Remote::new(&remote, config)?.delete(&format!("/traces/{}/file", segment(&name)))?;
            if remote.json { output::json(&done) } else { say(format!("deleted: {}", printable(&name))) }
        }
    }
}

fn done(args: &RemoteArgs, past: &str, trace: &Value) -> Result<()> {
    if args.json {
        return output::json(trace);
    }
    say(format!("{past}: {} ({})", text(trace, "name"), printable(&text(trace, "file"))))
}

fn list(args: &RemoteArgs, items: Vec<Value>) -> Result<()> {
    if args.json {
        return output::json(&Value::Array(items));
    }
    if items.is_empty() {
        return say("no traces run");
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            let about = ["client_id", "fingerprint", "address", "topic"].map(|name| text(item, name));
            let about: Vec<String> = about.into_iter().filter(|value| !value.is_empty()).collect();
            vec![
                text(item, "name"),
                about.join(" "),
                time(item["until"].as_i64().unwrap_or_default()),
                text(item, "bytes"),
                text(item, "file"),
            ]
        })
        .collect();
    table(&["NAME", "ABOUT", "UNTIL", "BYTES", "FILE"], &rows)
}
