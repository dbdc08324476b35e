//! `mqgate plugin run`: one call in the real host, and everything about it.

use std::path::PathBuf;

use anyhow::Result;
use mqgate_plugin_host::offline::Instance;
use serde_json::{Value, json};

use super::ConfigArgs;
use super::offline::{self, LimitArgs};
use crate::cli::output::{self, printable, say};
use crate::exit::Failure;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate plugin run my-policy.wasm --case cases/meters.json
  mqgate plugin run my-policy.wasm --case 'cases/meters.json#a meter has its topics' --limit cpu=50ms
  mqgate plugin run bundled:cert-acl --capture yesterday.ndjson#'cert-acl 7' --config-file cert-acl.json

It exits with 1 when the case says what is expected, and the answer is another.")]
pub struct Args {
    /// The component (.wasm), or bundled:NAME
    file: PathBuf,
    /// The case: FILE, or FILE#NAME where it holds several
    #[arg(long, visible_alias = "capture", value_name = "FILE[#NAME]")]
    case: String,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let mut case = offline::one_case(&args.case)?;
    offline::with_config(&mut case, &args.config)?;
    let mut plugin = offline::open(&args.file, &args.limits)?;
    let ran = plugin.judge(&case, Instance::Fresh).map_err(|error| offline::told(&case.name, &error))?;
    let differences = case.differences(&ran.answer);
    let hidden = plugin.hidden(&case);
    if args.json {
        output::json(&json!({
            "case": case.name,
            "hook": case.hook(),
            "answer": ran.answer,
            "took_us": micros(ran.took),
            "cpu_us": micros(ran.cpu),
            "memory_bytes": ran.memory,
            "host_calls": ran.calls,
            "unknown": ran.unknown,
            "redacted": hidden,
            "differences": differences,
        }))?;
    } else {
        say(format!("{} ({})", printable(&case.name), case.hook()))?;
        for (field, value) in ran.answer.fields() {
            say(format!("  {field:20} {}", shown(&value)))?;
        }
        say(format!("took    {} µs, {} µs of it computing", micros(ran.took), micros(ran.cpu)))?;
        say(format!("memory  {} KiB", ran.memory / 1024))?;
        say(match ran.calls.len() {
            0 => String::from("asked   nothing of the host"),
            count => format!("asked   the host {count} times:"),
        })?;
        for call in &ran.calls {
            say(format!("  {}", printable(call)))?;
        }
        for what in ran.unknown.iter().map(String::as_str).chain(hidden) {
            say(format!("unknown {}: the recording does not tell it", printable(what)))?;
        }
        for difference in &differences {
            let (expected, got) = (shown(&difference.expected), shown(&difference.got));
            say(format!("differs {}: expected {expected}, got {got}", printable(&difference.field)))?;
        }
    }
    match differences.len() {
        0 => Ok(()),
        count => Err(Failure::refused(format!("the answer differs in {count} fields")).into()),
    }
}

pub fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A field of an answer in one line.
pub fn shown(value: &Value) -> String {
    let rule = |rule: &Value| {
        let rule: mqgate_plugin_host::case::Rule = serde_json::from_value(rule.clone()).ok()?;
        Some(rule.to_string())
    };
    match value {
        Value::Null => String::from("none"),
        Value::String(text) => printable(text),
        Value::Array(items) if !items.is_empty() => {
            let texts: Option<Vec<String>> = items.iter().map(rule).collect();
            printable(&texts.map_or_else(|| value.to_string(), |rules| rules.join("; ")))
        }
        other => printable(&other.to_string()),
    }
}
