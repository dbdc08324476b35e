//! `mqgate retained`: the messages that new subscribers get.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::output::{self, printable, say, table, text};
use super::remote::{Remote, RemoteArgs, with_query};

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate retained list --filter 'devices/+/status'
  mqgate retained show devices/device-7/status
  mqgate retained delete 'devices/device-7/#'")]
pub enum Command {
    /// List retained messages
    List {
        /// Only topics that this Topic Filter matches
        #[arg(long, value_name = "FILTER")]
        filter: Option<String>,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Show the retained message of a topic
    Show {
        topic: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Delete the retained messages of every topic that a Topic Filter matches
    Delete {
        filter: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::List { filter, remote } => {
            let path = with_query("/retained", &[("limit", Some("1000")), ("filter", filter.as_deref())]);
            list(&remote, Remote::new(&remote, config)?.all(&path)?)
        }
        Command::Show { topic, remote } => {
            let path = with_query("/retained/message", &[("topic", Some(topic.as_str()))]);
            let message = Remote::new(&remote, config)?.get(&path)?;
            if remote.json { output::json(&message) } else { output::details(&message) }
        }
        Command::Delete { filter, remote } => {
            let path = with_query("/retained", &[("filter", Some(filter.as_str()))]);
            let done = Remote::new(&remote, config)?.delete(&path)?;
            match remote.json {
                true => output::json(&done),
                false => say(format!("deleted: {} under {}", text(&done, "deleted"), printable(&filter))),
            }
        }
    }
}

fn list(args: &RemoteArgs, items: Vec<Value>) -> Result<()> {
    if args.json {
        return output::json(&Value::Array(items));
    }
    if items.is_empty() {
        return say("no retained messages");
    }
    let names = ["topic", "qos", "payload_bytes", "expires_in_seconds"];
    let rows: Vec<Vec<String>> =
        items.iter().map(|item| names.iter().map(|name| text(item, name)).collect()).collect();
    table(&["TOPIC", "QOS", "BYTES", "EXPIRES IN S"], &rows)
}
