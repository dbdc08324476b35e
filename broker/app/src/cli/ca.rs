//! `mqgate ca`: CAs that are trusted.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use super::output::{self, date, printable, say, table, text};
use super::reload::say_transition;
use super::remote::{Remote, RemoteArgs, read_file, segment};
use crate::exit::Failure;

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate ca add --name factory-2 factory-2.pem
  mqgate ca replace factory-2 factory-3.pem --grace 30d
  mqgate ca remove factory-2
  mqgate ca remove factory-2 --grace 0s      at once: its key is in the wrong hands")]
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
    /// Trust another CA in the place of one, which stays valid beside it for a while
    Replace {
        /// Name or SHA-256 of the old one
        id: String,
        /// PEM file with the new one
        file: PathBuf,
        /// Name of the new one; without it, that of the old one
        #[arg(long)]
        name: Option<String>,
        /// How long the old one stays valid; 0s after a compromise. The default is `reload.grace`
        #[arg(long, value_name = "TIME")]
        grace: Option<String>,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Trust a CA no longer: after its grace connections under it are refused, and closed
    Remove {
        /// Its name or SHA-256
        id: String,
        /// Also if certificates are registered under it
        #[arg(long)]
        force: bool,
        /// How long it stays valid; 0s after a compromise. The default is `reload.grace`
        #[arg(long, value_name = "TIME")]
        grace: Option<String>,
        #[command(flatten)]
        remote: RemoteArgs,
    },
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::List { remote } => list(&remote, config),
        Command::Add { file, name, remote } => {
            let pem = pem(&file)?;
            let ca = Remote::new(&remote, config)?.post("/cas", &json!({ "name": name, "pem": pem }))?;
            done(&remote, "added", &ca)
        }
        Command::Replace { id, file, name, grace, remote } => {
            let path = format!("/cas/{}/replace{}", segment(&id), query('?', grace.as_deref()));
            let body = json!({ "pem": pem(&file)?, "name": name });
            let new = Remote::new(&remote, config)?.post(&path, &body)?;
            done(&remote, "trusted from now on", &new)
        }
        Command::Remove { id, force, grace, remote } => {
            let path = format!("/cas/{}?force={force}{}", segment(&id), query('&', grace.as_deref()));
            done(&remote, "removed", &Remote::new(&remote, config)?.delete(&path)?)
        }
    }
}

fn pem(file: &Path) -> Result<String> {
    Ok(String::from_utf8(read_file(file)?)
        .map_err(|_| Failure::refused(format!("{} is no PEM file", file.display())))?)
}

fn query(separator: char, grace: Option<&str>) -> String {
    grace.map(|grace| format!("{separator}grace={}", segment(grace))).unwrap_or_default()
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
    say_transition(ca)?;
    lints(ca).try_for_each(|(lint, detail)| say(format!("  warning: {lint}: {}", printable(&detail))))
}

/// What is odd about a CA: a word and a sentence.
fn lints(ca: &Value) -> impl Iterator<Item = (String, String)> + '_ {
    let warnings = ca["warnings"].as_array().into_iter().flatten();
    warnings.map(|warning| (text(warning, "lint"), text(warning, "detail")))
}
