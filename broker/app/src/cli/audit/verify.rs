//! `mqgate audit verify`: what it is told, and how it says what it found.

use std::path::PathBuf;

use anyhow::Result;
use mqgate_audit::VerifyingKey;
use mqgate_audit::verify::{Report, Request, verify};

use super::super::output::{self, say};
use super::folder_of;
use crate::exit::{Exit, Failure};

#[derive(clap::Args)]
pub struct Args {
    /// The log: its folder (audit.jsonl.d), the link beside it, or a copy of the folder
    path: PathBuf,
    /// A public key of the log, or a file that has it; from elsewhere than the log
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// A file of published checkpoints
    #[arg(long, value_name = "FILE")]
    published: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let folder = folder_of(&args.path)?;
    let mut trusted = Vec::new();
    for key in &args.key {
        trusted.extend(keys(key)?);
    }
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::new(Exit::Usage, format!("{}: {error}", path.display())))?;
        Ok((path.display().to_string(), text))
    };
    let published = args.published.iter().map(read).collect::<Result<Vec<_>>>()?;
    let report = verify(&folder, &Request { trusted: &trusted, published: &published })
        .map_err(|error| Failure::refused(error.to_string()))?;
    if args.json {
        output::json(&serde_json::to_value(&report)?)?;
    } else {
        show(&report)?;
    }
    match report.holds() {
        true => Ok(()),
        false => Err(Failure::refused("the log is not what was written").into()),
    }
}

/// A key, or those of a file: one a line.
fn keys(given: &str) -> Result<Vec<VerifyingKey>> {
    let text = std::fs::read_to_string(given).unwrap_or_else(|_| given.to_owned());
    let parse = |line: &str| {
        VerifyingKey::parse(line)
            .map_err(|error| Failure::new(Exit::Usage, format!("--key {given}: {error}")).into())
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let keys = lines.map(parse).collect::<Result<Vec<_>>>()?;
    match keys.is_empty() {
        true => Err(Failure::new(Exit::Usage, format!("--key {given}: there is no key in it")).into()),
        false => Ok(keys),
    }
}

fn show(report: &Report) -> Result<()> {
    for finding in &report.findings {
        say(format!("WRONG  {finding}"))?;
    }
    if report.more_findings > 0 {
        say(format!("WRONG  and {} findings more", report.more_findings))?;
    }
    for note in &report.notes {
        say(format!("note   {note}"))?;
    }
    for limit in &report.limits {
        say(format!("limit  {limit}"))?;
    }
    let published = match report.published {
        0 => String::from("none of them published"),
        size => format!("the newest published one about {size} records"),
    };
    let range = match report.records {
        0 => String::from("no records"),
        _ => format!("records {} to {}", report.first, report.last),
    };
    let verdict = if report.holds() { "holds" } else { "DOES NOT HOLD" };
    say(format!(
        "log {}: {range}, {} checkpoints up to {}, {published}: {verdict}",
        report.log, report.checkpoints, report.signed
    ))
}
