//! `mqgate sessions`: what is kept for clients, connected or not.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::clients::One;
use super::output::{self, printable, say, table, text};
use super::remote::{Remote, RemoteArgs, with_query};

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate sessions list --away
  mqgate sessions delete meter-7")]
pub enum Command {
    /// List sessions
    List {
        /// Only this client id
        #[arg(long, value_name = "ID")]
        client: Option<String>,
        /// Only this device
        #[arg(long, value_name = "NAME")]
        device: Option<String>,
        /// Only those whose client is not connected
        #[arg(long, conflicts_with = "connected")]
        away: bool,
        /// Only those whose client is connected
        #[arg(long)]
        connected: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Show a session with its subscriptions
    Show(One),
    /// End a session: what waits for its client is lost, a client that is connected is disconnected
    Delete(One),
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::List { client, device, away, connected, remote } => {
            let only = match (away, connected) {
                (true, _) => Some("false"),
                (_, true) => Some("true"),
                (false, false) => None,
            };
            let path = with_query(
                "/sessions",
                &[
                    ("limit", Some("1000")),
                    ("client_id", client.as_deref()),
                    ("device_id", device.as_deref()),
                    ("connected", only),
                ],
            );
            list(&remote, Remote::new(&remote, config)?.all(&path)?)
        }
        Command::Show(one) => {
            let session = Remote::new(&one.remote, config)?.get(&one.path("/sessions", ""))?;
            if one.remote.json { output::json(&session) } else { output::details(&session) }
        }
        Command::Delete(one) => {
            let done = Remote::new(&one.remote, config)?.delete(&one.path("/sessions", ""))?;
            if one.remote.json {
                return output::json(&done);
            }
            let device = text(&done, "device_id");
            say(format!("deleted: {} (device {})", printable(&one.id), printable(&device)))
        }
    }
}

fn list(args: &RemoteArgs, items: Vec<Value>) -> Result<()> {
    if args.json {
        return output::json(&Value::Array(items));
    }
    if items.is_empty() {
        return say("no sessions");
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            let connected = item["connected"].as_bool().unwrap_or_default();
            vec![
                text(item, "client_id"),
                text(item, "device_id"),
                String::from(if connected { "connected" } else { "away" }),
                text(item, "queued_messages"),
                text(item, "queued_bytes"),
                text(item, "ends_in_seconds"),
            ]
        })
        .collect();
    table(&["CLIENT ID", "DEVICE", "STATE", "QUEUED", "BYTES", "ENDS IN S"], &rows)
}
