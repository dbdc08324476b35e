//! `cargo xtask bench`: mqgate beside other brokers, the same load, in turn; medians and ratios in one table.
//!
//! The broker gets one core and the load generator another. What is compared is the broker's CPU time for one
//! delivery or connection: it holds within some per cent while rates swing with whatever else the machine does.

mod brokers;
mod loads;
pub mod pinned;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

pub use self::brokers::free_ports;
use self::brokers::{Broker, Kind};
use self::loads::{Load, Transport};
pub use self::table::write_between;
use crate::process::{cargo, run as run_to_end, say, step};

#[derive(clap::Args)]
pub struct Options {
    /// Brokers to compare with, by name (mosquitto, rumqttd) or with a binary of one's own (flashmq=/path/to/it).
    #[arg(long, value_delimiter = ',', default_value = "mosquitto,rumqttd", value_name = "NAME[=PATH]")]
    against: Vec<String>,
    /// How often each load is measured with each broker; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only loads whose name contains one of these.
    #[arg(long, value_delimiter = ',')]
    loads: Vec<String>,
    /// Short measurements and few connections: to try things, not to publish.
    #[arg(long)]
    quick: bool,
    /// Put the table into docs/performance.md.
    #[arg(long)]
    write: bool,
    /// A built mqgate, instead of building it for release.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let loads: Vec<&Load> = loads::ALL
        .iter()
        .filter(|load| options.loads.is_empty() || options.loads.iter().any(|part| load.name.contains(part)))
        .collect();
    if loads.is_empty() {
        let names: Vec<&str> = loads::ALL.iter().map(|load| load.name).collect();
        bail!("no load has such a name; there are: {}", names.join(", "));
    }
    let mqgate = built(options.binary.as_deref())?;
    let folder = crate::target_directory().join("bench");
    fs::create_dir_all(&folder)?;
    let pki = folder.join("pki");
    run_to_end(Command::new(&mqgate).args(["pki", "demo", "--dir"]).arg(&pki))?;
    let mut kinds = vec![Kind::mqgate(mqgate.clone())];
    for name in &options.against {
        step(&format!("the peer {name}"));
        kinds.push(Kind::peer(name)?);
    }
    let mut results = table::Results::default();
    for round in 1..=options.rounds.max(1) {
        step(&format!("round {round} of {}", options.rounds));
        for load in &loads {
            for kind in &kinds {
                if !load.with_peers && kind.name != kinds[0].name {
                    continue;
                }
                if kind.wants_certificate && load.transport == Transport::Tls && load.is_about_handshakes() {
                    continue;
                }
                let measured = Broker::start(kind, load.transport, &folder, &pki).and_then(|broker| {
                    measure(&mqgate, load, &broker, &pki, kind.wants_certificate, options.quick)
                });
                match measured {
                    Ok(report) => {
                        let value = load.figure(&report);
                        say(&format!("{:24} {:12} {}", load.name, kind.name, table::number(value)));
                        results.add(load.name, kind.name, value, report);
                    }
                    Err(error) => say(&format!("{:24} {:12} -  {error:#}", load.name, kind.name)),
                }
            }
        }
    }
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name).collect();
    let text = table::markdown(&results, &loads, &names);
    fs::write(folder.join("results.json"), serde_json::to_string_pretty(&results.raw())?)?;
    say(&format!("\n{text}"));
    if options.write {
        let command = format!(
            "cargo xtask bench --against {} --rounds {} --write",
            options.against.iter().map(|name| shown(name)).collect::<Vec<_>>().join(","),
            options.rounds
        );
        let text = format!("Made by `{command}`.\n\n{text}");
        write_between(&crate::root().join("docs/performance.md"), "bench", &text)?;
    }
    Ok(())
}

/// Without the path, which is this machine's.
fn shown(peer: &str) -> String {
    peer.split_once('=').map_or_else(|| peer.to_owned(), |(name, _)| format!("{name}=PATH"))
}

/// The broker that is measured: the one that is given, or one that is built for it.
pub fn built(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    match given {
        Some(binary) => fs::canonicalize(binary).with_context(|| binary.display().to_string()),
        None => build(),
    }
}

fn build() -> anyhow::Result<PathBuf> {
    step("the broker, optimised, and the bundled components");
    xtask::components::build(xtask::components::Which::Bundled, &say)?;
    run_to_end(cargo().args(["build", "--release", "--locked", "--workspace", "--bin", "mqgate"]))?;
    Ok(crate::target_directory().join("release/mqgate"))
}

/// One run of the load generator.
fn measure(
    mqgate: &PathBuf,
    load: &Load,
    broker: &Broker,
    pki: &Path,
    wants_certificate: bool,
    quick: bool,
) -> anyhow::Result<Value> {
    let mut command = Command::new(mqgate);
    command.arg("bench").args(load.arguments(quick)).arg("--json").args(["-V", "311"]);
    command.args(["-h", load.transport.host(), "-p", &broker.port(load.transport).to_string()]);
    command.args(["--pid", &broker.pid().to_string()]);
    if load.transport.is_tls() {
        command.arg("--cafile").arg(pki.join("ca.pem"));
    }
    if load.transport.shows_certificate() || load.transport.is_tls() && wants_certificate {
        command.arg("--cert").arg(pki.join("device-1.pem")).arg("--key").arg(pki.join("device-1.key"));
    }
    let output = pinned::on_generators_core(|| command.output())?.context("cannot start mqgate bench")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("what mqgate bench printed is no JSON")
}
