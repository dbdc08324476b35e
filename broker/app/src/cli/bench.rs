//! `mqgate bench`: load for a broker, and what it costs.

mod process;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use mqgate_client::ConnectError;
use mqgate_client::bench::{self, BenchError, Length, Load, Plan, Report, Unit};
use mqgate_codec::QoS;
use serde_json::{Value, json};

use self::process::Process;
use super::output;
use super::transport::{TransportArgs, qos};
use crate::exit::{Exit, Failure};

#[derive(clap::Args)]
pub struct Common {
    /// QoS of messages and subscriptions: 0, 1 or 2
    #[arg(short = 'q', long, value_parser = qos, default_value = "0")]
    qos: QoS,
    /// Bytes of a message
    #[arg(short = 's', long, default_value_t = 64, value_name = "BYTES")]
    payload: usize,
    /// Topics begin with this
    #[arg(short = 't', long, default_value = "bench")]
    topic: String,
    /// Messages of one publisher that are not delivered yet, at most
    #[arg(long, default_value_t = 100, value_name = "MESSAGES")]
    window: u32,
    /// Messages a second of all publishers together [default: as many as the window allows]
    #[arg(long, value_name = "MESSAGES")]
    rate: Option<u32>,
    /// Seconds before the measurement begins
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    warm_up: f64,
    /// Seconds of the measurement
    #[arg(short = 'd', long, default_value_t = 5.0, value_name = "SECONDS", allow_negative_numbers = true)]
    duration: f64,
    /// End the measurement after so many deliveries or connections instead
    #[arg(short = 'n', long)]
    count: Option<u64>,
    /// Connect from so many addresses of this machine, 127.0.0.1 and those that follow
    #[arg(long, default_value_t = 1, value_name = "ADDRESSES")]
    sources: u8,
    /// Process id of the broker, on this machine: its CPU time and memory are reported
    #[arg(long, allow_negative_numbers = true)]
    pid: Option<i32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    transport: TransportArgs,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

const EXAMPLES: &str = "\
Examples:
  mqgate bench pairs -q 1 --pid $(pidof mqgate)
  mqgate bench fan-out --subscribers 1000 --payload 1024
  mqgate bench connect -h broker.example --cafile ca.pem --cert device-1.pem --key device-1.key
  mqgate bench connect --identities devices/ -h broker.example --cafile ca.pem   # first connections: each registers
  mqgate bench idle --connections 10000 --sources 4 --pid $(pidof mqgate)

Figures are comparable between brokers on one machine when the broker has a core of its own
(taskset -c 0 for the broker, taskset -c 1 for this). Compare the CPU time of the broker (--pid): it does
not depend on what else the machine does. TLS sessions are never resumed.";

#[derive(clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// Publishers with a subscriber each
    #[command(disable_help_flag = true, after_help = EXAMPLES)]
    Pairs {
        #[arg(long, default_value_t = 10)]
        pairs: u32,
        #[command(flatten)]
        common: Box<Common>,
    },
    /// Many publishers, few subscribers to everything
    #[command(disable_help_flag = true, after_help = EXAMPLES)]
    FanIn {
        #[arg(long, default_value_t = 100)]
        publishers: u32,
        #[arg(long, default_value_t = 1)]
        subscribers: u32,
        #[command(flatten)]
        common: Box<Common>,
    },
    /// Few publishers, many subscribers to everything
    #[command(disable_help_flag = true, after_help = EXAMPLES)]
    FanOut {
        #[arg(long, default_value_t = 1)]
        publishers: u32,
        #[arg(long, default_value_t = 100)]
        subscribers: u32,
        #[command(flatten)]
        common: Box<Common>,
    },
    /// Shared subscriptions
    #[command(disable_help_flag = true, after_help = EXAMPLES)]
    Shared {
        #[arg(long, default_value_t = 10)]
        publishers: u32,
        /// Each gets everything once
        #[arg(long, default_value_t = 1)]
        groups: u32,
        /// Of each group
        #[arg(long, default_value_t = 10)]
        members: u32,
        #[command(flatten)]
        common: Box<Common>,
    },
    /// Subscribers that get all retained messages, again and again
    #[command(disable_help_flag = true, after_help = EXAMPLES)]
    Retained {
        /// Retained messages
        #[arg(long, default_value_t = 1000)]
        topics: u32,
        #[arg(long, default_value_t = 10)]
        subscribers: u32,
        #[command(flatten)]
        common: Box<Common>,
    },
    /// Clients that are away while messages for them arrive, and fetch them (QoS 1 or 2)
    #[command(disable_help_flag = true, after_help = EXAMPLES)]
    Sessions {
        #[arg(long, default_value_t = 100)]
        clients: u32,
        /// For each client and round
        #[arg(long, default_value_t = 100)]
        messages: u32,
        #[command(flatten)]
        common: Box<Common>,
    },
    /// Connections that end as soon as they are accepted
    #[command(disable_help_flag = true, after_help = EXAMPLES)]
    Connect {
        /// At the same time
        #[arg(long, default_value_t = 16)]
        at_once: u32,
        /// Folder of certificates (NAME.pem) and their keys (NAME.key), as `mqgate pki bulk` makes them: each connects
        /// once
        #[arg(long, value_name = "FOLDER")]
        identities: Option<PathBuf>,
        #[command(flatten)]
        common: Box<Common>,
    },
    /// Connections that do nothing: what memory they take
    #[command(disable_help_flag = true, after_help = EXAMPLES)]
    Idle {
        #[arg(long, default_value_t = 1000)]
        connections: u32,
        /// Subscriptions of each
        #[arg(long, default_value_t = 0)]
        filters: u32,
        /// Seconds until memory is measured
        #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
        hold: f64,
        #[command(flatten)]
        common: Box<Common>,
    },
}

pub fn run(command: Command) -> Result<()> {
    crate::run::raise_file_limit();
    let identities = identities(&command)?;
    let (load, common) = command.apart()?;
    let Common { qos, payload, topic, window, rate, sources, json, .. } = common;
    let process = common.pid.map_or(Ok(Process::NONE), Process::of)?;
    let mut connect = common.transport.options();
    if connect.client_id.is_empty() {
        connect.client_id = "bench-".into();
    }
    let each_once = u64::try_from(identities.len()).ok().filter(|each| *each > 0);
    if each_once.is_some() && connect.tls.is_none() {
        let what = "--identities needs TLS\n  help: name the CA of the broker's certificate with --cafile";
        return Err(Failure::new(Exit::Usage, what).into());
    }
    let length = match common.count.or(each_once) {
        Some(count) => Length::Count(each_once.map_or(count, |each| each.min(count))),
        None => Length::For(seconds("--duration", common.duration)?),
    };
    // The first connection of each is what is measured.
    let warm_up = if each_once.is_some() { Duration::ZERO } else { seconds("--warm-up", common.warm_up)? };
    let identities = identities.into();
    let plan =
        Plan { connect, load, qos, payload, topic, window, rate, warm_up, length, sources, identities };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(bench::run(&plan, &process)).map_err(failure)?;
    if json { output::json(&as_json(&plan, &report)) } else { show(&plan, &report) }
}

impl Command {
    fn apart(self) -> Result<(Load, Common)> {
        Ok(match self {
            Self::Pairs { pairs, common } => (Load::Pairs { pairs }, *common),
            Self::FanIn { publishers, subscribers, common } => {
                (Load::FanIn { publishers, subscribers }, *common)
            }
            Self::FanOut { publishers, subscribers, common } => {
                (Load::FanOut { publishers, subscribers }, *common)
            }
            Self::Shared { publishers, groups, members, common } => {
                (Load::Shared { publishers, groups, members }, *common)
            }
            Self::Retained { topics, subscribers, common } => {
                (Load::Retained { topics, subscribers }, *common)
            }
            Self::Sessions { clients, messages, common } => (Load::Sessions { clients, messages }, *common),
            Self::Connect { at_once, common, .. } => (Load::Connect { at_once }, *common),
            Self::Idle { connections, filters, hold, common } => {
                (Load::Idle { connections, filters, hold: seconds("--hold", hold)? }, *common)
            }
        })
    }
}

/// Every certificate with a key in the folder that was named, in order of their names.
fn identities(command: &Command) -> Result<Vec<(PathBuf, PathBuf)>> {
    let Command::Connect { identities: Some(folder), .. } = command else { return Ok(Vec::new()) };
    let unreadable =
        |error: std::io::Error| Failure::refused(format!("--identities {}: {error}", folder.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let certificate = entry.map_err(unreadable)?.path();
        let key = certificate.with_extension("key");
        if certificate.extension().is_some_and(|extension| extension == "pem") && key.is_file() {
            found.push((certificate, key));
        }
    }
    if found.is_empty() {
        let what = format!(
            "--identities {}: no NAME.pem with a NAME.key beside it\n  help: make some with `mqgate pki bulk`",
            folder.display()
        );
        return Err(Failure::refused(what).into());
    }
    found.sort();
    Ok(found)
}

fn seconds(flag: &str, value: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|_| Failure::new(Exit::Usage, format!("{flag} {value} is no number of seconds")).into())
}

fn failure(error: BenchError) -> Failure {
    let unanswered = |source: &ConnectError| source.reason_code().is_none() && source.return_code().is_none();
    let exit = match &error {
        BenchError::Payload(_) | BenchError::Number { .. } | BenchError::Topic(_) => Exit::Usage,
        BenchError::Connect { source, .. } if unanswered(source) => Exit::Unavailable,
        BenchError::Encode(_)
        | BenchError::Connect { .. }
        | BenchError::Lost { .. }
        | BenchError::NotSubscribed { .. }
        | BenchError::NotPublished { .. }
        | BenchError::Silence(..) => Exit::Refused,
    };
    Failure::new(exit, error.to_string())
}

const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)];

fn as_json(plan: &Plan, report: &Report) -> Value {
    let mut latency: serde_json::Map<String, Value> = QUANTILES
        .iter()
        .map(|(name, at)| ((*name).into(), report.latency.value_at_quantile(*at).into()))
        .collect();
    latency.insert("max".into(), report.latency.max().into());
    latency.insert("count".into(), report.latency.len().into());
    let broker = report.usage.map(|(before, after)| {
        json!({
            "cpu_seconds": after.cpu.saturating_sub(before.cpu).as_secs_f64(),
            "cpu_microseconds_each": report.cpu_microseconds(),
            "resident_bytes_before": before.resident_bytes,
            "resident_bytes": after.resident_bytes,
            "resident_bytes_each": report.bytes_each(),
        })
    });
    json!({
        "load": plan.load.name(),
        "unit": plan.load.unit().name(),
        "qos": plan.qos as u8,
        "payload": plan.payload,
        "tls": plan.connect.tls.is_some(),
        "seconds": report.elapsed.as_secs_f64(),
        "count": report.count,
        "per_second": report.per_second(),
        "published": report.published,
        "lost": report.lost,
        "out_of_order": report.out_of_order,
        "latency_microseconds": latency,
        "broker": broker,
    })
}

fn show(plan: &Plan, report: &Report) -> Result<()> {
    let unit = plan.load.unit();
    let name = unit.name();
    let plural = match unit {
        Unit::Delivery => "deliveries",
        Unit::Connection => "connections",
    };
    let (count, elapsed) = (report.count, report.elapsed.as_secs_f64());
    output::say(format!(
        "{}: {count} {plural} in {elapsed:.2} s, {:.0} a second",
        plan.load.name(),
        report.per_second()
    ))?;
    if report.lost + report.out_of_order > 0 {
        output::say(format!("{} lost, {} out of order or doubled", report.lost, report.out_of_order))?;
    }
    let quantiles: Vec<String> = QUANTILES
        .iter()
        .map(|(name, at)| format!("{name} {}", report.latency.value_at_quantile(*at)))
        .collect();
    output::say(format!("latency in µs: {}, max {}", quantiles.join(", "), report.latency.max()))?;
    let Some((_, after)) = report.usage else { return Ok(()) };
    if let (Some(cpu), false) = (report.cpu_microseconds(), matches!(plan.load, Load::Idle { .. })) {
        output::say(format!("broker: {cpu:.3} µs of CPU per {name}"))?;
    }
    let resident = after.resident_bytes / 1024;
    match (report.bytes_each(), unit) {
        (Some(each), Unit::Connection) if matches!(plan.load, Load::Idle { .. }) => {
            output::say(format!("broker: {resident} KiB resident, {each:.0} bytes per connection"))
        }
        _ => output::say(format!("broker: {resident} KiB resident")),
    }
}
