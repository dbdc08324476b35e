//! `mqgate sub`.

use std::io::Write;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::Result;
use mqgate_client::Message;
use mqgate_client::cli::{SubscribeOptions, subscribe};
use mqgate_codec::QoS;

use super::transport::{TransportArgs, block_on, qos};
use crate::exit::Failure;

#[derive(clap::Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Examples:
  mqgate sub -t 'hello/#' -v
  mqgate sub -h broker.example --cafile ca.pem --cert device-1.pem --key device-1.key -t 'devices/device-1/#'
  mqgate sub -t answer -C 1 -W 5

The flags are those of mosquitto_sub, as far as they are here."
)]
pub struct Args {
    /// Topic Filter; may be repeated
    #[arg(short = 't', long, required = true)]
    topic: Vec<String>,
    /// QoS: 0, 1 or 2
    #[arg(short = 'q', long, value_parser = qos, default_value = "0")]
    qos: QoS,
    /// End after this many messages
    #[arg(short = 'C', long, value_name = "COUNT")]
    count: Option<u64>,
    /// End after this many seconds; with -C it is an error if messages are missing then
    #[arg(short = 'W', long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Print the topic before the message
    #[arg(short = 'v', long)]
    verbose: bool,
    /// Do not print messages that were retained
    #[arg(short = 'R', long)]
    no_retained: bool,
    /// Print no end of line after a message
    #[arg(short = 'N', long)]
    no_newline: bool,
    #[command(flatten)]
    transport: TransportArgs,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

pub fn run(args: Args) -> Result<()> {
    let options = SubscribeOptions { connect: args.transport.options(), filters: args.topic, qos: args.qos };
    let mut left = args.count;
    let mut broken = None;
    let stop = async move {
        let timeout = async {
            match args.timeout {
                Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = timeout => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    let on_message = |message: &Message| {
        if args.no_retained && message.retain {
            return ControlFlow::Continue(());
        }
        let mut out = std::io::stdout().lock();
        let mut print = || {
            if args.verbose {
                write!(out, "{} ", super::output::printable(message.topic.as_str()))?;
            }
            out.write_all(&message.payload)?;
            if !args.no_newline {
                out.write_all(b"\n")?;
            }
            out.flush()
        };
        if let Err(error) = print() {
            broken = Some(error);
            return ControlFlow::Break(());
        }
        if let Some(left) = &mut left {
            *left = left.saturating_sub(1);
        }
        if left == Some(0) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    block_on(subscribe(options, stop, || {}, on_message))?;
    match (broken, left) {
        (Some(error), _) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        (None, Some(missing)) if missing > 0 && args.timeout.is_some() => {
            Err(Failure::refused(format!("{missing} messages did not arrive in time")).into())
        }
        _ => Ok(()),
    }
}
