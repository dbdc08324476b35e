//! `mqgate ca`: CAs that are trusted.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use super::output::{self, date, printable, say, table, text};
use super::remote::{Remote, RemoteArgs, read_file, segment};
use crate::exit::Failure;

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate ca add --name factory-2 factory-2.pem
  mqgate ca remove factory-2")]
pub enum Command {
    /// List CAs, those of the configuration included
    List {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Trust another CA from now on
    Add {
        /// PEM file with one CA certificate
        file: PathBuf,
        /// Its name: letters, digits, `-`, `_`, `.`; a label of metrics
        #[arg(long)]
        name: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Trust a CA no longer; connections under it are closed
    Remove {
        /// Its name or SHA-256
        id: String,
        /// Also if certificates are registered under it
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::List { remote } => list(&remote, config),
        Command::Add { file, name, remote } => {
            let pem = String::from_utf8(read_file(&file)?)
                .map_err(|_| Failure::refused(format!("{} is no PEM file", file.display())))?;
            let ca = Remote::new(&remote, config)?.post("/cas", &json!({ "name": name, "pem": pem }))?;
            done(&remote, "added", &ca)
        }
        Command::Remove { id, force, remote } => {
            let path = format!("/cas/{}?force={force}", segment(&id));
            done(&remote, "removed", &Remote::new(&remote, config)?.delete(&path)?)
        }
    }
}

fn list(args: &RemoteArgs, config: Option<&Path>) -> Result<()> {
    let items = Remote::new(args, config)?.all("/cas")?;
    if args.json {
        return output::json(&Value::Array(items));
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|ca| {
            vec![
                text(ca, "name"),
                text(ca, "state"),
                text(ca, "source"),
                date(ca["not_after"].as_i64().unwrap_or_default()),
                text(ca, "id").chars().take(16).collect(),
                text(ca, "subject"),
                lints(ca).map(|(lint, _)| lint).collect::<Vec<_>>().join(","),
            ]
        })
        .collect();
    table(&["NAME", "STATE", "SOURCE", "EXPIRES", "ID", "SUBJECT", "WARNINGS"], &rows)
}

fn done(args: &RemoteArgs, past: &str, ca: &Value) -> Result<()> {
    if args.json {
        return output::json(ca);
    }
    say(format!("{past}: {} ({})", text(ca, "name"), text(ca, "id")))?;
    lints(ca).try_for_each(|(lint, detail)| say(format!("  warning: {lint}: {}", printable(&detail))))
}

/// What is odd about a CA: a word and a sentence.
fn lints(ca: &Value) -> impl Iterator<Item = (String, String)> + '_ {
    let warnings = ca["warnings"].as_array().into_iter().flatten();
    warnings.map(|warning| (text(warning, "lint"), text(warning, "detail")))
}
