//! `cargo xtask plugin-cost`: what the hooks of a plugin add to a mutual-TLS connection, in instructions counted by
//! callgrind. A connection is counted with a broker that asks no component; a decision, who a device is and what it may do,
//! with the host alone (`broker/plugin-host/benches/decision.rs`): a component is compiled by a child process, which cannot
//! be had under callgrind.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::callgrind;
use crate::process::{cargo, say, step};

#[derive(clap::Args)]
pub struct Options {
    /// The broker; without it, the optimised one is built
    #[arg(long)]
    binary: Option<PathBuf>,
    /// The benchmark `decision`; without it, the optimised one is built
    #[arg(long)]
    bench: Option<PathBuf>,
    /// Connections: each a full mutual-TLS handshake, CONNECT, and a goodbye
    #[arg(long, default_value_t = 500)]
    connections: u64,
    /// Decisions of each kind
    #[arg(long, default_value_t = 1_000)]
    decisions: u64,
}

/// How a decision is come to, and the most that it may add to a connection, in percent.
const KINDS: [(&str, &str, f64); 3] = [
    ("fresh", "asked, an instance for each call", 10.0),
    ("reused", "asked, an instance that is used again", 10.0),
    ("cached", "known from earlier", 2.0),
];

pub fn run_it(options: &Options) -> anyhow::Result<()> {
    callgrind::is_there()?;
    let binary = callgrind::broker(options.binary.as_deref())?;
    let bench = match &options.bench {
        Some(bench) => std::fs::canonicalize(bench).with_context(|| format!("{}", bench.display()))?,
        None => built()?,
    };
    xtask::components::build(xtask::components::Which::Bundled, &say)?;
    let folder = callgrind::field(&binary, "plugin-cost")?;
    step("a connection, no component asked");
    let connection = callgrind::each_connection(&binary, &folder, "", options.connections)?;
    say(&format!("{connection} instructions"));
    let mut over = Vec::new();
    for (mode, what, most) in KINDS {
        step(&format!("a decision: {what}"));
        let each = decision(&bench, &folder, mode, options.decisions)?;
        let share = each as f64 / connection.max(1) as f64 * 100.0;
        say(&format!("{each} instructions, {share:.2} % of a connection"));
        if share > most {
            over.push(mode);
        }
    }
    ensure!(over.is_empty(), "over what is allowed: {}", over.join(", "));
    Ok(())
}

/// What one costs: of so many, less what begins and ends the program.
fn decision(bench: &Path, folder: &Path, mode: &str, count: u64) -> anyhow::Result<u64> {
    let mode = format!("--mode={mode}");
    let of = |count: u64| {
        let calls = format!("--calls={count}");
        callgrind::of_program(bench, &[&calls, &mode], folder)
    };
    Ok(of(count)?.saturating_sub(of(0)?) / count.max(1))
}

/// The benchmark, optimised; cargo says where it is.
fn built() -> anyhow::Result<PathBuf> {
    let mut command = cargo();
    command.args(["bench", "--workspace", "--bench", "decision", "--no-run", "--message-format", "json"]);
    let output = command.stderr(Stdio::inherit()).output().context("cargo does not run")?;
    ensure!(output.status.success(), "cargo could not build the benchmark");
    executable(&String::from_utf8_lossy(&output.stdout)).context("cargo names no program")
}

fn executable(messages: &str) -> Option<PathBuf> {
    messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == "decision";
        is_it.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_what_cargo_says() {
        let said = r#"{"reason":"compiler-artifact","target":{"name":"other"},"executable":"/a"}
not json
{"reason":"compiler-artifact","target":{"name":"decision"},"executable":"/b"}"#;
        assert_eq!(executable(said), Some(PathBuf::from("/b")));
        assert_eq!(executable(""), None);
    }
}
