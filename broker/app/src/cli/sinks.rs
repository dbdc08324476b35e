//! `mqgate audit sinks|policy`: where records go, and which of them.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mqgate_identity::audit::Outcome;
use mqgate_identity::audit::policy::{Level, Mode, Policy, PolicyWarning, Rule, Subject};
use mqgate_server::audit::sinks::format::Parsed;
use serde_json::{Value, json};

use super::output::{self, printable, say, table, text};
use super::remote::{Remote, RemoteArgs, read_file};
use crate::audit::policy;
use crate::config::{ConfigError, Inputs};
use crate::exit::{Exit, Failure};

#[derive(clap::Subcommand)]
pub enum Command {
    /// The sinks of the running broker: whether they take records, and how far behind they are
    Sinks {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Which events are written down, how much of them, and who gets them
    #[command(subcommand)]
    Policy(PolicyCommand),
}

#[derive(clap::Subcommand)]
pub enum PolicyCommand {
    /// Check the rules of the configuration; show which of them is about a given record
    #[command(after_help = "\
Examples:
  mqgate audit policy check
  mqgate audit query --limit 1 --json | mqgate audit policy check --record -")]
    Check {
        /// A record as it stands in the log, one line of JSON; `-` reads it from standard input
        #[arg(long, value_name = "FILE")]
        record: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::Sinks { remote } => sinks(&remote, config),
        Command::Policy(PolicyCommand::Check { record, json }) => check(record.as_deref(), json, config),
    }
}

fn sinks(args: &RemoteArgs, config: Option<&Path>) -> Result<()> {
    let items = Remote::new(args, config)?.all("/audit/sinks")?;
    if args.json {
        return output::json(&Value::Array(items));
    }
    if items.is_empty() {
        return say("no sinks: add a table [audit.sinks.NAME]");
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|sink| {
            let state = match (sink["refusing"] == true, sink["up"] == true) {
                (true, _) => "refusing",
                (false, true) => "up",
                (false, false) => "down",
            };
            vec![
                text(sink, "name"),
                text(sink, "type"),
                String::from(state),
                text(sink, "lag"),
                text(sink, "cursor"),
                text(sink, "delivered"),
                text(sink, "dropped"),
                text(sink, "target"),
                text(sink, "problem"),
            ]
        })
        .collect();
    table(&["NAME", "TYPE", "STATE", "LAG", "CURSOR", "DELIVERED", "DROPPED", "TARGET", "PROBLEM"], &rows)
}

fn check(record: Option<&Path>, json: bool, config: Option<&Path>) -> Result<()> {
    let loaded = Inputs::gather(config)?.load().map_err(ConfigError::from)?;
    let wrong = |error: &dyn std::fmt::Display| Failure::new(Exit::Config, error.to_string());
    let policy = policy::policy(&loaded.config).map_err(|error| wrong(&error))?;
    let line = match record {
        None => None,
        Some(path) if path == Path::new("-") => {
            let mut line = Vec::new();
            std::io::stdin().read_to_end(&mut line).context("standard input cannot be read")?;
            Some(line)
        }
        Some(path) => Some(read_file(path)?),
    };
    let answer = line.as_deref().map(|line| hit(&policy, line)).transpose()?;
    if json {
        let rules: Vec<Value> = policy.rules().iter().map(shown).collect();
        let warnings: Vec<String> = policy.warnings().iter().map(words).collect();
        return output::json(&json!({ "rules": rules, "warnings": warnings, "hit": answer }));
    }
    if policy.rules().is_empty() {
        say("no rules: every event is written down in full, and every sink gets it")?;
    }
    for (at, rule) in policy.rules().iter().enumerate() {
        say(format!("{at:>3}  {}  {}", rule.level.as_str(), words_of(rule)))?;
    }
    for warning in policy.warnings() {
        output::warn(&words(&warning));
    }
    if let Some(answer) = answer {
        let rule = answer["rule"].as_u64().map_or_else(|| String::from("no rule"), |at| format!("rule {at}"));
        let sinks = match &answer["sinks"] {
            Value::Null => String::from("all"),
            _ => text(&answer, "sinks"),
        };
        let mode = match &answer["mode"] {
            Value::Null => String::from("as it asks for"),
            _ => text(&answer, "mode"),
        };
        let name = printable(&text(&answer, "name"));
        say(format!("{name}: {rule}; level {}, mode {mode}, sinks {sinks}", text(&answer, "level")))?;
    }
    Ok(())
}

fn hit(policy: &Policy, line: &[u8]) -> Result<Value> {
    let first =
        line.split(|byte| *byte == b'\n').find(|line| !line.trim_ascii().is_empty()).unwrap_or_default();
    let record = Parsed::new(first);
    let outcome = match record.text("outcome") {
        "success" => Outcome::Success,
        "failure" => Outcome::Failure,
        "error" => Outcome::Error,
        _ => {
            let what =
                "this is no record of the audit log: one line of JSON with `name`, `category` and `outcome`";
            return Err(Failure::refused(String::from(what)).into());
        }
    };
    let listener = Some(record.text("listener")).filter(|name| !name.is_empty());
    let subject = Subject {
        category: record.text("category"),
        action: record.text("name"),
        outcome,
        listener,
        ca: record.field("ca"),
    };
    let rule = policy.hit(&subject);
    let decided = policy.decide(&subject);
    let named = rule.and_then(|at| policy.rules().get(at)).and_then(|rule| rule.sinks.clone());
    Ok(json!({
        "name": record.text("name"),
        "rule": rule,
        "level": decided.level.as_str(),
        "sample": decided.sample,
        "mode": decided.mode.map(Mode::as_str),
        "sinks": named,
    }))
}

fn shown(rule: &Rule) -> Value {
    json!({
        "match": {
            "category": rule.when.category,
            "action": rule.when.action,
            "outcome": rule.when.outcome.iter().map(|outcome| outcome.as_str()).collect::<Vec<_>>(),
            "listener": rule.when.listener,
            "ca": rule.when.ca,
        },
        "level": rule.level.as_str(),
        "sample": rule.sample,
        "sinks": rule.sinks,
        "mode": rule.mode.map(Mode::as_str),
    })
}

fn words_of(rule: &Rule) -> String {
    let when = &rule.when;
    let outcomes: Vec<String> = when.outcome.iter().map(|outcome| outcome.as_str().to_owned()).collect();
    let named = [
        ("category", &when.category),
        ("action", &when.action),
        ("outcome", &outcomes),
        ("listener", &when.listener),
        ("ca", &when.ca),
    ];
    let named = named.into_iter().filter(|(_, list)| !list.is_empty());
    let mut words: Vec<String> = named.map(|(name, list)| format!("{name} {}", list.join(" or "))).collect();
    if words.is_empty() {
        words.push(String::from("everything"));
    }
    let mut text = words.join(", ");
    if rule.sample > 1 && rule.level != Level::None {
        text.push_str(&format!("; one of {}", rule.sample));
    }
    if let Some(mode) = rule.mode {
        text.push_str(&format!("; {}", mode.as_str()));
    }
    if let Some(sinks) = &rule.sinks {
        text.push_str(&format!(
            "; to {}",
            if sinks.is_empty() { String::from("no sink") } else { sinks.join(", ") }
        ));
    }
    printable(&text)
}

fn words(warning: &PolicyWarning) -> String {
    match warning {
        PolicyWarning::Unreachable { rule, by } => {
            format!("rule {rule} never counts: rule {by} matches everything that it does")
        }
        PolicyWarning::WithoutEffect { rule } => {
            format!("rule {rule} has no effect: these records are always written down in full")
        }
    }
}
