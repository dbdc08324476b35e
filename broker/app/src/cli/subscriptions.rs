//! `mqgate subscriptions`: whose they are, and changing them for a client.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::output::{self, printable, say, table, text};
use super::remote::{Remote, RemoteArgs, with_query};

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate subscriptions list --client meter-7
  mqgate subscriptions list --topic devices/device-7/temperature
  mqgate subscriptions add meter-7 'devices/device-7/commands/#' --qos 1")]
pub enum Command {
    /// List the subscriptions of a client, or the clients that messages for a topic go to
    List {
        /// Subscriptions of this client id
        #[arg(long, value_name = "ID", required_unless_present = "topic", conflicts_with = "topic")]
        client: Option<String>,
        /// Device, where several use the same client id
        #[arg(long, value_name = "NAME", requires = "client")]
        device: Option<String>,
        /// Clients that get what is published to this topic
        #[arg(long, value_name = "TOPIC")]
        topic: Option<String>,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Subscribe a client that is connected, within its permit
    Add {
        #[command(flatten)]
        one: Of,
        /// Highest QoS: 0, 1 or 2
        #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
        qos: u8,
    },
    /// Take a subscription away from a client
    Remove(Of),
}

/// One subscription.
#[derive(clap::Args)]
pub struct Of {
    /// Client id
    client: String,
    /// Topic Filter
    filter: String,
    /// Device, where several use the same client id
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    #[command(flatten)]
    remote: RemoteArgs,
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::List { client, device, topic, remote } => {
            let path = with_query(
                "/subscriptions",
                &[
                    ("limit", Some("1000")),
                    ("client_id", client.as_deref()),
                    ("device_id", device.as_deref()),
                    ("topic", topic.as_deref()),
                ],
            );
            list(&remote, Remote::new(&remote, config)?.all(&path)?)
        }
        Command::Add { one, qos } => {
            let body = json!({
                "client_id": one.client, "device_id": one.device, "filter": one.filter, "qos": qos,
            });
            let done = Remote::new(&one.remote, config)?.post("/subscriptions", &body)?;
            if one.remote.json {
                return output::json(&done);
            }
            say(format!("added: {} (QoS {})", printable(&one.filter), text(&done, "qos")))
        }
        Command::Remove(one) => {
            let path = with_query(
                "/subscriptions",
                &[
                    ("client_id", Some(one.client.as_str())),
                    ("device_id", one.device.as_deref()),
                    ("filter", Some(one.filter.as_str())),
                ],
            );
            let done = Remote::new(&one.remote, config)?.delete(&path)?;
            if one.remote.json {
                output::json(&done)
            } else {
                say(format!("removed: {}", printable(&one.filter)))
            }
        }
    }
}

fn list(args: &RemoteArgs, items: Vec<Value>) -> Result<()> {
    if args.json {
        return output::json(&Value::Array(items));
    }
    if items.is_empty() {
        return say("no subscriptions");
    }
    let names = ["client_id", "device_id", "filter", "group", "qos"];
    let rows: Vec<Vec<String>> =
        items.iter().map(|item| names.iter().map(|name| text(item, name)).collect()).collect();
    table(&["CLIENT ID", "DEVICE", "FILTER", "GROUP", "QOS"], &rows)
}
