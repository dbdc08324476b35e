//! `mqgate clients`: who is connected.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::output::{self, say, table, text, time};
use super::remote::{Remote, RemoteArgs, segment, with_query};

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate clients list --address 192.0.2.0/24
  mqgate clients show meter-7
  mqgate clients disconnect meter-7 --device device-7")]
pub enum Command {
    /// List connections
    List {
        /// Only this client id
        #[arg(long, value_name = "ID")]
        client: Option<String>,
        /// Only this device
        #[arg(long, value_name = "NAME")]
        device: Option<String>,
        /// Only this listener
        #[arg(long, value_name = "NAME")]
        listener: Option<String>,
        /// Only this address, or addresses of this network
        #[arg(long, value_name = "ADDRESS[/BITS]")]
        address: Option<String>,
        /// Only this certificate: its SHA-256
        #[arg(long, value_name = "SHA-256")]
        fingerprint: Option<String>,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// List clients that take messages slower than they come, the slowest first
    Slow {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Show a client with its session
    Show(One),
    /// Disconnect a client; its session stays as long as was agreed
    #[command(alias = "kick")]
    Disconnect(One),
}

/// A client, by its id.
#[derive(clap::Args)]
pub struct One {
    /// Client id
    pub id: String,
    /// Device, where several use the same client id
    #[arg(long, value_name = "NAME")]
    pub device: Option<String>,
    #[command(flatten)]
    pub remote: RemoteArgs,
}

impl One {
    pub fn path(&self, before: &str, after: &str) -> String {
        let path = format!("{before}/{}{after}", segment(&self.id));
        with_query(&path, &[("device_id", self.device.as_deref())])
    }
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::List { client, device, listener, address, fingerprint, remote } => {
            let path = with_query(
                "/clients",
                &[
                    ("limit", Some("1000")),
                    ("client_id", client.as_deref()),
                    ("device_id", device.as_deref()),
                    ("listener", listener.as_deref()),
                    ("address", address.as_deref()),
                    ("fingerprint", fingerprint.as_deref()),
                ],
            );
            list(&remote, Remote::new(&remote, config)?.all(&path)?)
        }
        Command::Slow { remote } => {
            slow(&remote, Remote::new(&remote, config)?.all("/slow-subscribers?limit=1000")?)
        }
        Command::Show(one) => {
            let client = Remote::new(&one.remote, config)?.get(&one.path("/clients", ""))?;
            if one.remote.json { output::json(&client) } else { output::details(&client) }
        }
        Command::Disconnect(one) => {
            let done = Remote::new(&one.remote, config)?.post(&one.path("/clients", "/kick"), &json!({}))?;
            match one.remote.json {
                true => output::json(&done),
                false => say(format!("disconnected: {}", text(&done, "disconnected"))),
            }
        }
    }
}

fn list(args: &RemoteArgs, items: Vec<Value>) -> Result<()> {
    if args.json {
        return output::json(&Value::Array(items));
    }
    if items.is_empty() {
        return say("no clients");
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            vec![
                text(item, "client_id"),
                text(item, "device_id"),
                text(item, "listener"),
                text(item, "peer_address"),
                time(item["connected_at"].as_i64().unwrap_or_default()),
                text(item, "queued_messages"),
                text(item, "fingerprint").chars().take(16).collect(),
            ]
        })
        .collect();
    table(&["CLIENT ID", "DEVICE", "LISTENER", "ADDRESS", "SINCE", "QUEUED", "CERTIFICATE"], &rows)
}

fn slow(args: &RemoteArgs, items: Vec<Value>) -> Result<()> {
    if args.json {
        return output::json(&Value::Array(items));
    }
    if items.is_empty() {
        return say("no slow clients");
    }
    let names = ["client_id", "device_id", "slow_for_seconds", "queued_messages", "queued_bytes"];
    let rows: Vec<Vec<String>> =
        items.iter().map(|item| names.iter().map(|name| text(item, name)).collect()).collect();
    table(&["CLIENT ID", "DEVICE", "SLOW FOR S", "QUEUED", "BYTES"], &rows)
}
