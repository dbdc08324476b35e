//! The README's second command: every test of the fast tier, or of both.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::process::{cargo, run as run_to_end, say, shown, step};
use crate::tools;
use xtask::components::Which;

#[derive(clap::Args, Default)]
pub struct Options {
    /// Tests marked `#[ignore]` for being slow, too.
    #[arg(long)]
    full: bool,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// What the test runners said, added up.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Runners that ended in an error, whatever they counted.
    broken: Vec<String>,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    step("real clients and tools for the end-to-end tests");
    let tools = tools::prepare(&say)?;

    step("components");
    xtask::components::build(if options.full { Which::All } else { Which::Fast }, &say)?;

    step("the workspace and its tests are built");
    run_to_end(cargo().args(["test", "--locked", "--workspace", "--no-run"]))?;
    run_to_end(cargo().args(["build", "--locked", "--workspace", "--bin", "mqgate"]))?;

    let mut tally = Tally::default();
    step("tests of the workspace");
    let mut workspace = cargo();
    workspace.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
    let skips = crate::target_directory().join("skipped-tests");
    let _ = std::fs::remove_file(&skips);
    workspace.env("MQGATE_TEST_SKIPS", &skips);
    workspace.env("MQGATE_TEST_BINARY", crate::target_directory().join("debug/mqgate"));
    tools.announce_to(&mut workspace);
    tally.add(&mut workspace, options)?;
    step("tests of the plugins and their SDK, on this machine without WebAssembly");
    let mut native = cargo();
    native.current_dir(crate::root().join("plugins"));
    native.env("CARGO_TARGET_DIR", crate::root().join("target/native-plugins"));
    native.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
    tally.add(&mut native, options)?;
    if options.full && options.filter.is_none() {
        crate::planted::run()?;
    }
    tools.report_missing(&say);
    tally.move_skipped(&skips);
    say("");
    say(&format!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped));
    if !tally.broken.is_empty() {
        bail!("these ended in an error:\n  {}", tally.broken.join("\n  "));
    }
    if tally.passed == 0 {
        bail!("no test ran; is the filter right?");
    }
    Ok(())
}

impl Tally {
    /// Runs one `cargo test`, shows its output as it comes, and counts.
    fn add(&mut self, command: &mut Command, options: &Options) -> anyhow::Result<()> {
        command.arg("--");
        if options.full {
            command.arg("--include-ignored");
        }
        command.args(&options.filter);
        let line = shown(command);
        let mut child =
            command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start `{line}`"))?;
        let output = child.stdout.take().expect("it was piped");
        for text in BufReader::new(output).lines() {
            let text = text?;
            self.read(&text);
            // The closing lines of each binary are for our count, not for the reader's.
            if !text.is_empty() {
                say(&text);
            }
        }
        if !child.wait()?.success() {
            self.broken.push(line);
        }
        Ok(())
    }

    /// A test that found its tool missing has passed in the runner's eyes; it has not in ours.
    fn move_skipped(&mut self, list: &Path) {
        let text = std::fs::read_to_string(list).unwrap_or_default();
        // A test that misses two tools stands there twice.
        let names: BTreeSet<_> =
            text.lines().filter_map(|line| line.split_once(": ")).map(|(name, _)| name).collect();
        let count = (names.len() as u64).min(self.passed);
        self.passed -= count;
        self.skipped += count;
    }

    /// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn read(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        for part in rest.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_the_runner() {
        let mut tally = Tally::default();
        tally.read(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.10s",
        );
        tally.read("test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out");
        tally.read("test something ... ok");
        assert_eq!((tally.passed, tally.failed, tally.skipped), (14, 1, 1));
    }
}
