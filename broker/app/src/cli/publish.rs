//! `mqgate pub`.

use std::io::Read;
use std::path::PathBuf;

use anyhow::Result;
use mqgate_client::cli::{PublishOptions, publish, publish_lines};
use mqgate_codec::QoS;

use super::remote::read_file;
use super::transport::{TransportArgs, block_on, qos};

#[derive(clap::Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Examples:
  mqgate pub -t hello -m world
  mqgate pub -h broker.example --cafile ca.pem --cert device-1.pem --key device-1.key \\
      -t devices/device-1/temperature -m 21.5 -q 1
  tail -f log | mqgate pub -t log -l

The flags are those of mosquitto_pub, as far as they are here."
)]
pub struct Args {
    /// Topic
    #[arg(short = 't', long)]
    topic: String,
    #[command(flatten)]
    payload: Payload,
    /// QoS: 0, 1 or 2
    #[arg(short = 'q', long, value_parser = qos, default_value = "0")]
    qos: QoS,
    /// Retain the message
    #[arg(short = 'r', long)]
    retain: bool,
    #[command(flatten)]
    transport: TransportArgs,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Payload {
    /// The message
    #[arg(short = 'm', long)]
    message: Option<String>,
    /// Send a file
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Send each line of standard input as a message
    #[arg(short = 'l', long = "stdin-line")]
    lines: bool,
    /// Send all of standard input as one message
    #[arg(short = 's', long = "stdin-file")]
    stdin: bool,
    /// Send a message of no bytes
    #[arg(short = 'n', long = "null-message")]
    null: bool,
}

pub fn run(args: Args) -> Result<()> {
    let options = PublishOptions {
        connect: args.transport.options(),
        topic: args.topic,
        qos: args.qos,
        retain: args.retain,
    };
    let payload = args.payload;
    if payload.lines {
        let input = tokio::io::BufReader::new(tokio::io::stdin());
        return block_on(async { publish_lines(options, input).await.map(drop) });
    }
    let message = match (payload.message, payload.file) {
        (Some(message), _) => message.into_bytes(),
        (None, Some(file)) => read_file(&file)?,
        (None, None) if payload.stdin => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes)?;
            bytes
        }
        (None, None) => Vec::new(),
    };
    block_on(publish(options, message))
}
