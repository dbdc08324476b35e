//! `mqgate crl`: revocation lists of the running broker.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::output::{self, date, say, table, text};
use super::remote::{Remote, RemoteArgs};

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate crl list
  mqgate crl refresh")]
pub enum Command {
    /// List revocation lists: whose they are, how old, and what is wrong with those that are not taken
    List {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Read the files and ask the URLs again, now
    Refresh {
        #[command(flatten)]
        remote: RemoteArgs,
    },
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::List { remote } => list(&remote, config),
        Command::Refresh { remote } => {
            let answer = Remote::new(&remote, config)?.post("/crls/refresh", &json!({}))?;
            if remote.json { output::json(&answer) } else { say("asked for: see `mqgate crl list`") }
        }
    }
}

fn list(args: &RemoteArgs, config: Option<&Path>) -> Result<()> {
    let items = Remote::new(args, config)?.all("/crls")?;
    if args.json {
        return output::json(&Value::Array(items));
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|list| {
            let day = |key: &str| list[key].as_i64().map_or_else(String::new, date);
            let state = match (list["this_update"].is_null(), list["stale"].as_bool()) {
                (true, _) => "none",
                (false, Some(true)) => "stale",
                (false, _) => "ok",
            };
            vec![
                state.to_owned(),
                text(list, "ca"),
                list["entries"].as_u64().map_or_else(String::new, |entries| entries.to_string()),
                day("this_update"),
                day("next_update"),
                text(list, "source"),
                text(list, "problem"),
            ]
        })
        .collect();
    table(&["STATE", "CA", "ENTRIES", "ISSUED", "NEXT", "SOURCE", "PROBLEM"], &rows)
}
