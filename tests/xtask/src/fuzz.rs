//! Builds the fuzzer of `tests/fuzz` with coverage counters, and runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::process::{cargo, output, run as run_to_end, say, step};

#[derive(clap::Args)]
pub struct Options {
    /// What to fuzz; everything, one after the other, if nothing is named.
    targets: Vec<String>,
    /// How many inputs each target is given.
    #[arg(long, default_value_t = 10_000_000)]
    runs: u64,
    /// What the order of things depends on.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep the inputs that reach everything that was reached, as few as can be: tests/fuzz/corpus.
    #[arg(long)]
    keep: bool,
    /// Run one input again that failed.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["keep", "runs", "seed"])]
    replay: Option<PathBuf>,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    step("the fuzzer is built with coverage counters");
    let drive = build()?;
    if let Some(file) = &options.replay {
        let [target] = options.targets.as_slice() else {
            bail!("--replay wants one target: whose input is it?")
        };
        return run_to_end(Command::new(&drive).args(["replay", target]).arg(file));
    }
    let folder = crate::target_directory().join("fuzz");
    std::fs::create_dir_all(&folder)?;
    let listed =
        output(Command::new(&drive).arg("list")).context("the fuzzer does not say what it can fuzz")?;
    let all: Vec<_> = listed.lines().map(str::to_owned).collect();
    let chosen = if options.targets.is_empty() { &all } else { &options.targets };
    for target in chosen {
        ensure!(all.contains(target), "there is no target {target}; there are {}", all.join(", "));
    }
    for target in chosen {
        step(target);
        fuzz(&drive, target, options, &folder)?;
    }
    say(&format!("{} inputs each, no failure: {}", options.runs, chosen.join(", ")));
    Ok(())
}

/// Only the crates of this repository get counters: dependencies are those that the tests were built with.
fn build() -> anyhow::Result<PathBuf> {
    let wrapper = crate::root().join("tests/fuzz/rustc-with-counters");
    let mut build = cargo();
    build.args([
        "test",
        "--locked",
        "--workspace",
        "--test",
        "drive",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    build.env("RUSTC_WORKSPACE_WRAPPER", wrapper).stderr(Stdio::inherit());
    let built = build.output()?;
    ensure!(built.status.success(), "the fuzzer does not compile");
    let text = String::from_utf8(built.stdout)?;
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs = messages.filter_map(|message| Some(message["executable"].as_str()?.to_owned()));
    programs.next().map(PathBuf::from).context("cargo does not say where the fuzzer lies")
}

fn fuzz(drive: &Path, target: &str, options: &Options, folder: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(drive);
    command.args(["fuzz", target, &options.runs.to_string(), &options.seed.to_string()]).arg(folder);
    if options.keep {
        command.arg("keep");
    }
    let current = folder.join(format!("{target}.current"));
    let status = command.status()?;
    if status.success() {
        return Ok(());
    }
    // A failure that the process did not outlive: a stack or memory that ran out, or a run without end.
    if let Ok(noted) = std::fs::read(&current)
        && let Some((length, rest)) = noted.split_first_chunk()
    {
        let length = u32::from_le_bytes(*length) as usize;
        let path = folder.join(format!("{target}-ended-the-process"));
        std::fs::write(&path, &rest[..length.min(rest.len())])?;
        let path = path.display();
        bail!(
            "{target}: the process ended ({status})\n  the input lies in {path}\n  again: cargo xtask fuzz {target} --replay {path}"
        );
    }
    bail!("{target} failed");
}
