//! `mqgate bans`: who is kept out.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::output::{self, printable, say, table, text, time};
use super::remote::{Remote, RemoteArgs, segment, with_query};
use crate::config::units::Span;
use crate::exit::{Exit, Failure};

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate bans add --address 192.0.2.0/24 --for 1h --reason 'port scan'
  mqgate bans add --client meter-7 --of-device device-7
  mqgate bans remove 3f9a…")]
pub enum Command {
    /// List bans
    List {
        /// Only those of this kind: client, device, certificate, address
        #[arg(long)]
        kind: Option<String>,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Keep somebody out; who is connected is disconnected
    Add {
        #[command(flatten)]
        whom: Whom,
        /// Only this device's client of that id
        #[arg(long = "of-device", value_name = "NAME", requires = "client")]
        of_device: Option<String>,
        /// How long, for example 5m or 24h; without it, until it is removed
        #[arg(long = "for", value_name = "TIME")]
        span: Option<String>,
        /// Why; for whoever reads the list later
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Let them in again
    Remove {
        /// Id of the ban, or a beginning of it that is unique
        id: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub struct Whom {
    /// A client id
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// A device
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// A certificate: its SHA-256
    #[arg(long, value_name = "SHA-256")]
    fingerprint: Option<String>,
    /// An address or a network
    #[arg(long, value_name = "ADDRESS[/BITS]")]
    address: Option<String>,
}

impl Whom {
    fn kind_and_value(&self) -> (&'static str, &str) {
        let all = [
            ("client", &self.client),
            ("device", &self.device),
            ("certificate", &self.fingerprint),
            ("address", &self.address),
        ];
        let given = all.into_iter().find_map(|(kind, value)| Some((kind, value.as_deref()?)));
        given.unwrap_or(("client", ""))
    }
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::List { kind, remote } => {
            let path = with_query("/bans", &[("limit", Some("1000")), ("kind", kind.as_deref())]);
            list(&remote, Remote::new(&remote, config)?.all(&path)?)
        }
        Command::Add { whom, of_device, span, reason, remote } => {
            let seconds = match span.as_deref().map(str::parse::<Span>) {
                None => None,
                Some(Ok(span)) => Some(span.0.as_secs()),
                Some(Err(error)) => return Err(Failure::new(Exit::Usage, format!("--for: {error}")).into()),
            };
            let (kind, value) = whom.kind_and_value();
            let body = json!({
                "kind": kind, "value": value, "device_id": of_device, "reason": reason, "seconds": seconds,
            });
            let ban = Remote::new(&remote, config)?.post("/bans", &body)?;
            if remote.json {
                return output::json(&ban);
            }
            let (id, gone) = (text(&ban, "id"), text(&ban, "disconnected"));
            say(format!("banned: {kind} {} ({id}); disconnected: {gone}", printable(value)))
        }
        Command::Remove { id, remote } => {
            let api = Remote::new(&remote, config)?;
            let id = resolve(&api, &id)?;
            let ban = api.delete(&format!("/bans/{}", segment(&id)))?;
            if remote.json {
                return output::json(&ban);
            }
            say(format!("removed: {} {}", text(&ban, "kind"), printable(&text(&ban, "value"))))
        }
    }
}

/// The full id of what the user named.
fn resolve(api: &Remote, start: &str) -> Result<String> {
    if start.len() >= 32 {
        return Ok(start.to_owned());
    }
    let items = api.all("/bans?limit=1000")?;
    let mut found = items.iter().filter_map(|item| item["id"].as_str()).filter(|id| id.starts_with(start));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id.to_owned()),
        (None, _) => Err(Failure::refused(format!("no ban begins with {start}")).into()),
        (Some(_), Some(_)) => Err(Failure::refused(format!("several bans begin with {start}")).into()),
    }
}

fn list(args: &RemoteArgs, items: Vec<Value>) -> Result<()> {
    if args.json {
        return output::json(&Value::Array(items));
    }
    if items.is_empty() {
        return say("no bans");
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            vec![
                text(item, "id").chars().take(12).collect(),
                text(item, "kind"),
                text(item, "value"),
                text(item, "device_id"),
                item["until"].as_i64().map_or_else(|| String::from("removed"), time),
                text(item, "by"),
                text(item, "reason"),
            ]
        })
        .collect();
    table(&["ID", "KIND", "VALUE", "DEVICE", "UNTIL", "BY", "REASON"], &rows)
}
