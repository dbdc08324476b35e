//! `mqgate plugin shadow`: a new version is tried with real questions before it decides anything.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value};

use super::{ComponentArgs, ConfigArgs, done, put, words};
use crate::cli::output::{self, printable, say, table, text, time};
use crate::cli::remote::{Remote, RemoteArgs, segment, with_query};

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate plugin shadow begin cert-acl cert-acl-2.wasm
  mqgate plugin shadow show cert-acl
  mqgate plugin shadow promote cert-acl

What the shadow writes into its key-value space is not kept. It ends when the version beside it is swapped, configured or
rolled back, and with the broker.")]
pub enum Command {
    /// Ask a version what the live one is asked, and compare the answers
    Begin {
        /// Name of the plugin
        name: String,
        /// The component (.wasm)
        file: PathBuf,
        #[command(flatten)]
        component: ComponentArgs,
        #[command(flatten)]
        config: ConfigArgs,
        /// What it may import: kv, registry.read, metrics, credentials, http, clock, random; without it, what the live
        /// version may
        #[arg(long, value_delimiter = ',')]
        grant: Vec<String>,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// What the comparison has shown so far
    Show {
        /// Name of the plugin
        name: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Have the shadow take over
    Promote {
        /// Name of the plugin
        name: String,
        /// What happens to live sessions: none, lazy, eager; without it, as configured
        #[arg(long)]
        reauthorize: Option<String>,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Forget the shadow
    Drop {
        /// Name of the plugin
        name: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::Begin { name, file, component, config: settings, grant, remote } => {
            let api = Remote::new(&remote, config)?;
            let mut body: Map<String, Value> = component.send(&api, &file)?;
            put(&mut body, "config", settings.read()?);
            put(&mut body, "grant", words(grant));
            let report = api.post(&path(&name), &Value::Object(body))?;
            if remote.json {
                return output::json(&report);
            }
            say(format!("{name} has a shadow: {}", text(&report, "digest")))
        }
        Command::Show { name, remote } => shown(&remote, &Remote::new(&remote, config)?.get(&path(&name))?),
        Command::Promote { name, reauthorize, remote } => {
            let path = format!("/plugins/{}/promote", segment(&name));
            let path = with_query(&path, &[("reauthorize", reauthorize.as_deref())]);
            let info = Remote::new(&remote, config)?.post(&path, &Value::Null)?;
            done(&remote, "promoted", &info)
        }
        Command::Drop { name, remote } => {
            shown(&remote, &Remote::new(&remote, config)?.delete(&path(&name))?)
        }
    }
}

fn path(name: &str) -> String {
    format!("/plugins/{}/shadow", segment(name))
}

fn shown(args: &RemoteArgs, report: &Value) -> Result<()> {
    if args.json {
        return output::json(report);
    }
    for name in ["digest", "version", "same", "different", "skipped"] {
        say(format!("{name:14} {}", printable(&text(report, name))))?;
    }
    for (kind, count) in report["kinds"].as_object().into_iter().flatten() {
        if count.as_u64() != Some(0) {
            say(format!("  {kind:14} {count}"))?;
        }
    }
    let samples = report["samples"].as_array().cloned().unwrap_or_default();
    if samples.is_empty() {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = samples
        .iter()
        .map(|sample| {
            vec![
                time(sample["at"].as_i64().unwrap_or_default()),
                text(sample, "hook"),
                text(sample, "kind"),
                text(sample, "client_id"),
                text(sample, "peer"),
                text(sample, "live"),
                text(sample, "shadow"),
            ]
        })
        .collect();
    say("")?;
    table(&["AT", "HOOK", "KIND", "CLIENT", "PEER", "LIVE", "SHADOW"], &rows)
}
