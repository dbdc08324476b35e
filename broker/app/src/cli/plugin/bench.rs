//! `mqgate plugin bench`: what one call costs, on a fresh instance and on one that is used again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use mqgate_plugin_host::case::Case;
use mqgate_plugin_host::offline::{Instance, Offline};
use serde_json::json;

use super::ConfigArgs;
use super::offline::{self, LimitArgs};
use crate::cli::output::{self, say, table};
use crate::config::units::Span;

/// Calls before those that count.
const WARM_UP: usize = 20;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate plugin bench my-policy.wasm --case 'cases/meters.json#a meter has its topics'
  mqgate plugin bench bundled:cert-acl --case case.json --for 10s --json

One call after the other, in the real host: what a broker adds around a call is not in it.")]
pub struct Args {
    /// The component (.wasm), or bundled:NAME
    file: PathBuf,
    /// The case: FILE, or FILE#NAME where it holds several
    #[arg(long, value_name = "FILE[#NAME]")]
    case: String,
    /// How long each kind of instance is measured
    #[arg(long = "for", value_name = "TIME", default_value = "3s", value_parser = str::parse::<Span>)]
    span: Span,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

struct Measured {
    instance: Instance,
    calls: usize,
    per_second: f64,
    median: Duration,
    p99: Duration,
    cpu: Duration,
    memory: usize,
    answer: String,
}

pub fn run(args: &Args) -> Result<()> {
    let mut case = offline::one_case(&args.case)?;
    offline::with_config(&mut case, &args.config)?;
    let mut plugin = offline::open(&args.file, &args.limits)?;
    let measured: Vec<Measured> = Instance::ALL
        .into_iter()
        .map(|instance| measure(&mut plugin, &case, instance, args.span.0))
        .collect::<Result<_>>()?;
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    if args.json {
        let one = |it: &Measured| {
            json!({
                "instance": it.instance.as_str(),
                "calls": it.calls,
                "calls_per_second": it.per_second,
                "median_us": micros(it.median),
                "p99_us": micros(it.p99),
                "cpu_us": micros(it.cpu),
                "memory_bytes": it.memory,
                "answer": it.answer,
            })
        };
        let instances: Vec<_> = measured.iter().map(one).collect();
        return output::json(&json!({
            "case": case.name,
            "digest": plugin.description().digest,
            "size": plugin.description().size,
            "instances": instances,
        }));
    }
    let rows: Vec<Vec<String>> = measured
        .iter()
        .map(|it| {
            vec![
                it.instance.as_str().to_owned(),
                it.calls.to_string(),
                format!("{:.0}", it.per_second),
                format!("{:.1}", micros(it.median)),
                format!("{:.1}", micros(it.p99)),
                format!("{:.1}", micros(it.cpu)),
                (it.memory / 1024).to_string(),
            ]
        })
        .collect();
    table(&["INSTANCE", "CALLS", "CALLS/S", "MEDIAN µs", "P99 µs", "CPU µs", "MEMORY KiB"], &rows)?;
    say(format!("answered: {}", output::printable(&measured[0].answer)))
}

fn measure(plugin: &mut Offline, case: &Case, instance: Instance, span: Duration) -> Result<Measured> {
    let mut ask = || plugin.run(case, instance).map_err(|error| offline::told(&case.name, &error));
    for _ in 0..WARM_UP {
        ask()?;
    }
    let (mut times, mut cpu) = (Vec::new(), Duration::ZERO);
    let begun = Instant::now();
    let last = loop {
        let ran = ask()?;
        times.push(ran.took);
        cpu += ran.cpu;
        if begun.elapsed() >= span {
            break ran;
        }
    };
    times.sort_unstable();
    let calls = times.len();
    let total: Duration = times.iter().sum();
    Ok(Measured {
        instance,
        calls,
        per_second: calls as f64 / total.as_secs_f64().max(f64::MIN_POSITIVE),
        median: times[calls / 2],
        p99: times[(calls * 99 / 100).min(calls - 1)],
        cpu: cpu / u32::try_from(calls).unwrap_or(u32::MAX),
        memory: last.memory,
        answer: last.answer.summary(),
    })
}
