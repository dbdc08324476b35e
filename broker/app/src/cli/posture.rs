//! `mqgate audit checks|findings|suppress|unsuppress|accept|check`: what is wrong with the running broker.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::output::{self, details, printable, say, table, text, time};
use super::remote::{Remote, RemoteArgs, segment, with_query};
use crate::config::units::Span;
use crate::exit::{Exit, Failure};

#[derive(clap::Subcommand)]
pub enum Command {
    /// The posture checks, and how many findings each has
    Checks {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// What the checks have found, the worst first
    #[command(after_help = "Example: mqgate audit findings --severity critical")]
    Findings {
        /// Id of one finding, or a beginning of it that is unique: all about it
        id: Option<String>,
        /// Only those of this check
        #[arg(long, value_name = "NAME")]
        check: Option<String>,
        /// Only those: low, medium, high, critical
        #[arg(long)]
        severity: Option<String>,
        /// Those that are suppressed, and why
        #[arg(long)]
        suppressed: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Make the checks that are otherwise made every hour
    #[command(after_help = "Example: mqgate audit check --now")]
    Check {
        /// Now; the command waits for the end
        #[arg(long, required = true)]
        now: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Live with a finding: it is counted no longer
    #[command(after_help = "Example: mqgate audit suppress 3f9ac0 --reason 'VPN only' --for 90d")]
    Suppress {
        /// Id of the finding, or a beginning of it that is unique
        id: String,
        /// Why; for whoever reads the list later
        #[arg(long)]
        reason: String,
        /// How long; without it, until `mqgate audit unsuppress`
        #[arg(long = "for", value_name = "TIME")]
        span: Option<String>,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Count a finding again
    Unsuppress {
        id: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Agree to what a component may use now (PLUGIN_CAPABILITY_GREW)
    Accept {
        /// Name of the component
        plugin: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::Checks { remote } => {
            let answer = Remote::new(&remote, config)?.get("/audit/checks")?;
            if remote.json {
                return output::json(&answer);
            }
            checks(&answer)
        }
        Command::Findings { id, check, severity, suppressed, remote } => {
            let api = Remote::new(&remote, config)?;
            if let Some(id) = id {
                let found = api.get(&format!("/audit/findings/{}", segment(&resolve(&api, &id)?)))?;
                return if remote.json { output::json(&found) } else { details(&found) };
            }
            let check = check.map(|name| name.to_ascii_uppercase());
            let path = with_query(
                "/audit/findings",
                &[
                    ("limit", Some("1000")),
                    ("check", check.as_deref()),
                    ("severity", severity.as_deref()),
                    ("suppressed", Some(if suppressed { "true" } else { "false" })),
                ],
            );
            findings(&remote, api.all(&path)?)
        }
        Command::Check { now: _, remote } => {
            let round = Remote::new(&remote, config)?.post("/audit/checks/run", &json!({}))?;
            if remote.json {
                return output::json(&round);
            }
            let word = |name: &str| text(&round, name);
            say(format!(
                "checked in {} ms, {} certificates: {} findings appeared, {} disappeared{}",
                word("milliseconds"),
                word("records"),
                word("appeared"),
                word("disappeared"),
                if round["complete"] == true { "" } else { "; the registry could not be read to its end" },
            ))
        }
        Command::Suppress { id, reason, span, remote } => {
            let seconds = match span.as_deref().map(str::parse::<Span>) {
                None => None,
                Some(Ok(span)) => Some(span.0.as_secs()),
                Some(Err(error)) => return Err(Failure::new(Exit::Usage, format!("--for: {error}")).into()),
            };
            let api = Remote::new(&remote, config)?;
            let path = format!("/audit/findings/{}/suppress", segment(&resolve(&api, &id)?));
            let found = api.post(&path, &json!({ "reason": reason, "seconds": seconds }))?;
            told(&remote, &found, "suppressed")
        }
        Command::Unsuppress { id, remote } => {
            let api = Remote::new(&remote, config)?;
            let path = format!("/audit/findings/{}/suppress", segment(&resolve(&api, &id)?));
            told(&remote, &api.delete(&path)?, "counted again")
        }
        Command::Accept { plugin, remote } => {
            let api = Remote::new(&remote, config)?;
            api.post(&format!("/audit/accepted/{}", segment(&plugin)), &json!({}))?;
            say(format!("accepted: what {} may use now", printable(&plugin)))
        }
    }
}

fn told(remote: &RemoteArgs, found: &Value, what: &str) -> Result<()> {
    if remote.json {
        return output::json(found);
    }
    say(format!("{what}: {} {}", text(found, "check"), printable(&text(&found["resource"], "id"))))
}

/// The full id of what the user named.
fn resolve(api: &Remote, start: &str) -> Result<String> {
    if start.len() >= 16 {
        return Ok(start.to_owned());
    }
    let items = api.all("/audit/findings?limit=1000")?;
    let mut found = items.iter().filter_map(|item| item["id"].as_str()).filter(|id| id.starts_with(start));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id.to_owned()),
        (None, _) => Err(Failure::refused(format!("no finding begins with {start}")).into()),
        (Some(_), Some(_)) => Err(Failure::refused(format!("several findings begin with {start}")).into()),
    }
}

fn checks(answer: &Value) -> Result<()> {
    let items = answer["items"].as_array().cloned().unwrap_or_default();
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            let open = match item["enabled"] == true {
                true => text(item, "open"),
                false => String::from("off"),
            };
            vec![
                text(item, "name"),
                text(item, "severity"),
                open,
                text(item, "suppressed"),
                text(item, "about"),
            ]
        })
        .collect();
    table(&["CHECK", "SEVERITY", "OPEN", "SUPPRESSED", "LOOKS FOR"], &rows)?;
    match answer["last"]["at"].as_i64() {
        Some(at) => say(format!("last round: {}", time(at))),
        None => say("no round yet: `mqgate audit check --now`"),
    }
}

fn findings(args: &RemoteArgs, mut items: Vec<Value>) -> Result<()> {
    let rank = |item: &Value| {
        let severities = ["critical", "high", "medium", "low"];
        severities.iter().position(|severity| item["severity"] == *severity)
    };
    items.sort_by(|a, b| (rank(a), a["check"].as_str()).cmp(&(rank(b), b["check"].as_str())));
    if args.json {
        return output::json(&Value::Array(items));
    }
    if items.is_empty() {
        return say("no findings");
    }
    for item in &items {
        say(format!(
            "{:8}  {}  {}  {} {}",
            text(item, "severity"),
            text(item, "id"),
            text(item, "check"),
            text(&item["resource"], "kind"),
            printable(&text(&item["resource"], "id")),
        ))?;
        let since = item["first_seen"].as_i64().map_or_else(String::new, time);
        say(format!("          {} (since {since})", printable(&text(item, "reason"))))?;
        if let Some(command) = item["mitigation"].as_str() {
            say(format!("          help: {}", printable(command)))?;
        }
        if let Some(reason) = item["suppressed"]["reason"].as_str() {
            let by = text(&item["suppressed"], "by");
            let until =
                item["suppressed"]["until"].as_i64().map_or_else(|| String::from("it is taken back"), time);
            say(format!("          suppressed by {by} until {until}: {}", printable(reason)))?;
        }
    }
    Ok(())
}
