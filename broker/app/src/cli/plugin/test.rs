//! `mqgate plugin test`: a project's own tests, and cases against the very component, each on a fresh instance and on one that
//! was used before.

use std::path::PathBuf;

use anyhow::Result;
use mqgate_plugin_build::manifest;
use mqgate_plugin_build::progress::Progress;
use mqgate_plugin_build::project::Project;
use mqgate_plugin_host::case::{self, Case, Difference};
use mqgate_plugin_host::offline::{Instance, Offline};
use serde_json::{Value, json};

use super::offline::{self, LimitArgs};
use super::project::progress_line;
use super::run::shown;
use crate::cli::output::{self, printable, say};
use crate::exit::{Exit, Failure};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate plugin test                          # the project in this folder
  mqgate plugin test my-policy.wasm --cases cases
  mqgate plugin test --only meter --seed 7
  mqgate plugin test --native                 # its own tests alone: there need be no component

In the folder of a project its own tests run first, on this machine and without WebAssembly: cargo test, test/*.c, node --test,
python3 -m unittest, go test. --cases and --only leave them out.

Each case is asked twice: on an instance of its own, and on one that has had calls before. Their order is drawn; the seed
that is printed draws the same again.")]
pub struct Args {
    /// The component (.wasm), bundled:NAME, or the folder of its project
    #[arg(default_value = ".")]
    file: PathBuf,
    /// The file or folder of its cases; without it, `cases` in the folder of the component or its project
    #[arg(long, value_name = "PATH")]
    cases: Option<PathBuf>,
    /// Print the JSON Schema of files of cases, and test nothing
    #[arg(long, exclusive = true)]
    schema: bool,
    /// Only the project's own tests
    #[arg(long, conflicts_with_all = ["cases", "only", "seed"])]
    native: bool,
    /// Only cases in whose name this stands
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Draws the order
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A case that did not go as it should.
struct Failed<'a> {
    case: &'a Case,
    instance: Instance,
    differences: Vec<Difference>,
    answer: String,
}

pub fn run(args: &Args) -> Result<()> {
    if args.schema {
        return output::json(&case::schema());
    }
    let native = native(args)?;
    if args.native || native.is_some() && !args.file.join(offline::CASES).is_dir() {
        return print_native(args, native);
    }
    let (component, folder) = offline::project(&args.file, args.cases.as_deref())?;
    let mut cases = case::read_all(&folder).map_err(offline::unreadable)?;
    if let Some(only) = &args.only {
        cases.retain(|case| case.name.contains(only.as_str()));
    }
    if let Some(silent) = cases.iter().find(|case| case.expected.is_none() && case.recorded.is_none()) {
        let what = format!("case {:?} expects nothing: write \"expect\"", silent.name);
        return Err(Failure::new(Exit::Usage, what).into());
    }
    if cases.is_empty() {
        return Err(Failure::new(Exit::Usage, "there is no such case").into());
    }
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(0..1 << 32));
    let mut plugin = offline::open(&component, &args.limits)?;
    let mut failed = Vec::new();
    for instance in Instance::ALL {
        for index in drawn(cases.len(), seed) {
            let case = &cases[index];
            failed.extend(ask(&mut plugin, case, instance)?);
        }
    }
    failed.sort_by(|one, other| (&one.case.name, one.instance).cmp(&(&other.case.name, other.instance)));
    let asked = Asked { component: &component, cases: cases.len(), seed, native };
    print(args, &asked, &failed)?;
    match failed.len() {
        0 => Ok(()),
        count => Err(Failure::refused(format!("{count} of {} answers differ", cases.len() * 2)).into()),
    }
}

/// What ran the project's own tests, all of which passed. Nothing where the argument is no project, or has none.
fn native(args: &Args) -> Result<Option<&'static str>> {
    if !args.file.join(manifest::FILE).is_file() {
        let what = format!(
            "{} is not the folder of a project, which alone has tests of its own",
            args.file.display()
        );
        return if args.native { Err(Failure::new(Exit::Usage, what).into()) } else { Ok(None) };
    }
    if args.cases.is_some() || args.only.is_some() {
        return Ok(None);
    }
    let ran = Project::open(&args.file)?.test(&Progress::new(&progress_line));
    ran.map_err(|error| Failure::refused(format!("{error:#}")).into())
}

fn print_native(args: &Args, native: Option<&str>) -> Result<()> {
    if args.json {
        return output::json(&json!({ "native": native }));
    }
    match native {
        Some(runner) => say(format!("its own tests ({runner}): passed")),
        None => say("the project has no tests of its own"),
    }
}

/// What was asked, for its summary.
struct Asked<'a> {
    component: &'a std::path::Path,
    cases: usize,
    seed: u64,
    native: Option<&'static str>,
}

fn ask<'a>(plugin: &mut Offline, case: &'a Case, instance: Instance) -> Result<Option<Failed<'a>>> {
    let ran = plugin.judge(case, instance).map_err(|error| offline::told(&case.name, &error))?;
    let differences = case.differences(&ran.answer);
    let failed = Failed { case, instance, differences, answer: ran.answer.summary() };
    Ok((!failed.differences.is_empty()).then_some(failed))
}

fn print(args: &Args, asked: &Asked<'_>, failed: &[Failed<'_>]) -> Result<()> {
    let Asked { component, cases: count, seed, native } = *asked;
    if args.json {
        let failed: Vec<Value> = failed
            .iter()
            .map(|failed| {
                json!({
                    "case": failed.case.name,
                    "instance": failed.instance.as_str(),
                    "answer": failed.answer,
                    "differences": failed.differences,
                })
            })
            .collect();
        return output::json(&json!({
            "component": component.display().to_string(),
            "cases": count,
            "seed": seed,
            "native": native,
            "failed": failed,
        }));
    }
    if native.is_some() {
        print_native(args, native)?;
    }
    for Failed { case, instance, differences, answer } in failed {
        say(format!("FAILED  {} ({}, {} instance)", printable(&case.name), case.hook(), instance.as_str()))?;
        say(format!("        answered: {}", printable(answer)))?;
        for Difference { field, expected, got } in differences {
            say(format!("        {}: expected {}, got {}", printable(field), shown(expected), shown(got)))?;
        }
    }
    let failures =
        if failed.is_empty() { String::from("as expected") } else { format!("{} failed", failed.len()) };
    say(format!("{count} cases, each on a fresh and on a reused instance: {failures} (--seed {seed})"))
}

/// All of so many, each once, in an order that the seed decides.
fn drawn(count: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut order);
    order
}

#[cfg(test)]
mod tests {
    use super::{case, drawn};

    #[test]
    fn the_committed_schema_of_cases_is_current() {
        let committed = include_str!("../../../../../docs/plugins/cases.schema.json");
        let current = serde_json::to_string_pretty(&case::schema()).unwrap();
        assert!(
            committed.trim_end() == current,
            "docs/plugins/cases.schema.json is stale: run `cargo run -p mqgate -- plugin test --schema > docs/plugins/cases.schema.json`"
        );
    }

    #[test]
    fn an_order_holds_each_once_and_is_the_seeds() {
        let mut order = drawn(50, 7);
        assert_eq!(order, drawn(50, 7));
        assert_ne!(order, drawn(50, 8));
        order.sort_unstable();
        assert_eq!(order, (0..50).collect::<Vec<_>>());
        assert!(drawn(0, 1).is_empty());
    }
}
