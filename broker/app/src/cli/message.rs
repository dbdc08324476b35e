//! `mqgate message`: publishing through the admin API.

use std::path::{Path, PathBuf};

use anyhow::Result;
use base64::Engine as _;
use serde_json::{Value, json};

use super::output::{self, printable, say, table, text};
use super::remote::{Remote, RemoteArgs, read_file};

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate message send devices/device-7/commands/reboot --message now --qos 1
  mqgate message send status --file status.bin --retain")]
pub enum Command {
    /// Publish a message. No permit is asked: whoever has the admin token may publish anywhere
    Send {
        topic: String,
        /// The payload
        #[arg(short, long, value_name = "TEXT", conflicts_with = "file")]
        message: Option<String>,
        /// The payload, from a file
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// 0, 1 or 2
        #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
        qos: u8,
        /// Keep it for later subscribers
        #[arg(short, long)]
        retain: bool,
        /// Seconds after which nobody gets it any more
        #[arg(long, value_name = "SECONDS")]
        expiry: Option<u32>,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// List messages that wait to be published (`$delayed/SECONDS/TOPIC`)
    Delayed {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Take a message back that waits to be published
    Cancel {
        /// Its id, as `mqgate message delayed` shows it
        id: u64,
        #[command(flatten)]
        remote: RemoteArgs,
    },
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::Delayed { remote } => {
            delayed(&remote, Remote::new(&remote, config)?.all("/delayed?limit=1000")?)
        }
        Command::Cancel { id, remote } => {
            let done = Remote::new(&remote, config)?.delete(&format!("/delayed/{id}"))?;
            match remote.json {
                true => output::json(&done),
                false => say(format!("cancelled: {id} ({})", printable(&text(&done, "topic")))),
            }
        }
        Command::Send { topic, message, file, qos, retain, expiry, remote } => {
            let payload = match (message, file) {
                (Some(text), _) => text.into_bytes(),
                (None, Some(file)) => read_file(&file)?,
                (None, None) => Vec::new(),
            };
            let body = json!({
                "topic": topic,
                "payload_base64": base64::engine::general_purpose::STANDARD.encode(payload),
                "qos": qos,
                "retain": retain,
                "expiry_seconds": expiry,
            });
            let done = Remote::new(&remote, config)?.post("/publish", &body)?;
            if remote.json {
                return output::json(&done);
            }
            match done["delivered"].as_bool() {
                Some(true) => say(format!("published: {}", printable(&topic))),
                _ => say(format!("published: {} (nobody has subscribed to it)", printable(&topic))),
            }
        }
    }
}

fn delayed(args: &RemoteArgs, items: Vec<Value>) -> Result<()> {
    if args.json {
        return output::json(&Value::Array(items));
    }
    if items.is_empty() {
        return say("no messages wait");
    }
    let names = ["id", "topic", "qos", "payload_bytes", "due_in_seconds"];
    let rows: Vec<Vec<String>> =
        items.iter().map(|item| names.iter().map(|name| text(item, name)).collect()).collect();
    table(&["ID", "TOPIC", "QOS", "BYTES", "DUE IN S"], &rows)
}
