//! `mqgate reload`, `mqgate listener` and `mqgate transition`: change while the broker runs.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::output::{self, say, table, text};
use super::remote::{Remote, RemoteArgs, segment};
use crate::exit::{Exit, Failure};
use crate::reload::Disconnect;

/// How a change is made.
#[derive(Debug, clap::Args)]
pub struct How {
    /// Say what would change and whom it would concern, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// How long a CA or certificate that is replaced stays valid beside the new one; 0s after a compromise
    #[arg(long, value_name = "TIME")]
    grace: Option<String>,
    /// What happens to live clients that could not connect again
    #[arg(long, value_enum, default_value = "none")]
    disconnect: Disconnect,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mqgate reload --dry-run
  mqgate reload --grace 1h
  mqgate reload --grace 0s --disconnect affected")]
pub struct Args {
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate listener list
  mqgate listener set main auth_mode=per-device --dry-run
  mqgate listener set main max_connections=5000 versions='[\"tlsv1.3\"]'
  mqgate listener set main auth_mode=            lets the value of the file hold again")]
pub enum Listener {
    /// All listeners: where they are, and how many are connected
    List {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Show a listener: its connections, its certificates, its settings
    Show {
        name: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Change settings of a listener; they hold over those of the file, also after a restart
    Set {
        name: String,
        /// Keys as in the configuration; without a value the file's holds again
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
        #[command(flatten)]
        how: How,
        #[command(flatten)]
        remote: RemoteArgs,
    },
}

#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate transition list
  mqgate transition extend 1f0c22aa 30m
  mqgate transition end 1f0c22aa")]
pub enum Transition {
    /// What was replaced and is still valid, until when, and how many live clients still use it
    List {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// End one now: what it kept valid is refused, whoever depends on it is sent away
    End {
        id: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Let one end later
    Extend {
        id: String,
        /// From now
        time: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
}

impl How {
    fn query(&self) -> String {
        let disconnect = match self.disconnect {
            Disconnect::None => "none",
            Disconnect::Affected => "affected",
        };
        let mut query = format!("?dry_run={}&disconnect={disconnect}", self.dry_run);
        if let Some(grace) = &self.grace {
            query.push_str(&format!("&grace={}", segment(grace)));
        }
        query
    }
}

pub fn reload(args: &Args, config: Option<&Path>) -> Result<()> {
    let path = format!("/config/reload{}", args.how.query());
    told(&args.remote, &Remote::new(&args.remote, config)?.post(&path, &json!({}))?)
}

pub fn listener(command: Listener, config: Option<&Path>) -> Result<()> {
    match command {
        Listener::List { remote } => {
            let items = Remote::new(&remote, config)?.all("/listeners")?;
            if remote.json {
                return output::json(&Value::Array(items));
            }
            let rows: Vec<Vec<String>> = items
                .iter()
                .map(|item| {
                    let names =
                        ["name", "type", "auth_mode", "address", "state", "connections", "max_connections"];
                    let more = ["accepted", "trusted_cas"];
                    names.into_iter().chain(more).map(|name| text(item, name)).collect()
                })
                .collect();
            let head = [
                "NAME",
                "TYPE",
                "AUTH",
                "ADDRESS",
                "STATE",
                "CONNECTIONS",
                "AT MOST",
                "ACCEPTED",
                "TRUSTED CAS",
            ];
            table(&head, &rows)
        }
        Listener::Show { name, remote } => {
            let path = format!("/listeners/{}", segment(&name));
            output::json(&Remote::new(&remote, config)?.get(&path)?)
        }
        Listener::Set { name, settings, how, remote } => {
            let path = format!("/listeners/{}{}", segment(&name), how.query());
            let patch = Value::Object(settings.iter().map(|one| setting(one)).collect::<Result<_>>()?);
            told(&remote, &Remote::new(&remote, config)?.patch(&path, &patch)?)
        }
    }
}

/// `KEY=VALUE`: a value is JSON if it can be read as such, else text; without one it is taken away.
fn setting(text: &str) -> Result<(String, Value)> {
    let Some((key, value)) = text.split_once('=') else {
        return Err(Failure::new(Exit::Usage, format!("`{text}` is not KEY=VALUE")).into());
    };
    let value = match value {
        "" => Value::Null,
        value => serde_json::from_str(value).unwrap_or_else(|_| Value::from(value)),
    };
    Ok((key.trim().to_owned(), value))
}

pub fn transition(command: Transition, config: Option<&Path>) -> Result<()> {
    match command {
        Transition::List { remote } => {
            let items = Remote::new(&remote, config)?.all("/transitions")?;
            if remote.json {
                return output::json(&Value::Array(items));
            }
            let rows: Vec<Vec<String>> = items
                .iter()
                .map(|item| {
                    let listeners = text(item, "listeners");
                    vec![
                        text(item, "id"),
                        text(item, "material"),
                        text(item, "name"),
                        moment(item, "ends_at"),
                        text(item, "clients"),
                        if listeners.is_empty() { String::from("all") } else { listeners },
                        text(item, "subject"),
                    ]
                })
                .collect();
            table(&["ID", "MATERIAL", "NAME", "ENDS", "CLIENTS", "LISTENERS", "SUBJECT"], &rows)
        }
        Transition::End { id, remote } => {
            let path = format!("/transitions/{}/end", segment(&id));
            let ended = Remote::new(&remote, config)?.post(&path, &json!({}))?;
            match remote.json {
                true => output::json(&ended),
                false => say(format!("ended: {}", text(&ended, "name"))),
            }
        }
        Transition::Extend { id, time, remote } => {
            let path = format!("/transitions/{}/extend", segment(&id));
            let extended = Remote::new(&remote, config)?.post(&path, &json!({ "grace": time }))?;
            match remote.json {
                true => output::json(&extended),
                false => say(format!("{} ends {}", text(&extended, "name"), moment(&extended, "ends_at"))),
            }
        }
    }
}

/// What a change came to, for people.
fn told(remote: &RemoteArgs, report: &Value) -> Result<()> {
    if remote.json {
        return output::json(report);
    }
    let list = |name: &str| report[name].as_array().cloned().unwrap_or_default();
    say(match report["result"].as_str() {
        Some("unchanged") => "nothing has changed",
        Some("dry-run") => "nothing was done; this would change:",
        _ => "taken over:",
    })?;
    let mut rows: Vec<Vec<String>> = list("changes")
        .iter()
        .map(|change| {
            let value = |name: &str| brief(&change[name]);
            vec![text(change, "key"), value("before"), value("after"), text(change, "effect")]
        })
        .collect();
    let files = list("files");
    let no = String::new;
    rows.extend(
        files.iter().filter_map(Value::as_str).map(|file| {
            vec![file.to_owned(), no(), String::from("changed"), String::from("new-connections")]
        }),
    );
    if !rows.is_empty() {
        table(&["KEY", "BEFORE", "AFTER", "EFFECT"], &rows)?;
    }
    for begun in list("transitions") {
        let (name, id, ends) = (text(&begun, "name"), text(&begun, "id"), moment(&begun, "ends_at"));
        say(format!("{name} stays valid until {ends} (transition {id})"))?;
    }
    let affected = &report["affected"];
    let clients = affected["clients"].as_u64().unwrap_or_default();
    if clients > 0 {
        let none = Map::new();
        let reasons: Vec<String> = affected["by_reason"]
            .as_object()
            .unwrap_or(&none)
            .iter()
            .map(|(reason, count)| format!("{reason}: {count}"))
            .collect();
        say(format!("live clients that could not connect again: {clients} ({})", reasons.join(", ")))?;
        let first = affected["first"].as_array().cloned().unwrap_or_default();
        let rows: Vec<Vec<String>> = first
            .iter()
            .map(|client| {
                ["client_id", "device_id", "listener", "peer_address", "reason", "detail"]
                    .map(|name| text(client, name))
                    .to_vec()
            })
            .collect();
        table(&["CLIENT", "DEVICE", "LISTENER", "ADDRESS", "REASON", "DETAIL"], &rows)?;
    }
    let disconnected = report["disconnected"].as_u64().unwrap_or_default();
    if disconnected > 0 {
        say(format!("sent away: {disconnected}"))?;
    }
    Ok(())
}

/// What keeps valid what a change by API replaced.
pub(super) fn say_transition(answer: &Value) -> Result<()> {
    match &answer["transition"] {
        Value::Null => Ok(()),
        transition => say(format!(
            "what was there before stays valid until {} (transition {})",
            moment(transition, "ends_at"),
            text(transition, "id")
        )),
    }
}

fn brief(value: &Value) -> String {
    let text = match value {
        Value::Null => String::from("-"),
        Value::Object(_) => String::from("{…}"),
        value => value.to_string(),
    };
    if text.chars().count() > 40 { text.chars().take(39).chain(['…']).collect() } else { text }
}

fn moment(value: &Value, name: &str) -> String {
    let milliseconds = value[name].as_i64().unwrap_or_default();
    jiff::Timestamp::from_millisecond(milliseconds)
        .map_or_else(|_| milliseconds.to_string(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_values_or_text_or_nothing() {
        let read = |text: &str| setting(text).expect("a setting").1;
        assert_eq!(read("auth_mode=per-device"), json!("per-device"));
        assert_eq!(read("max_connections=5"), json!(5));
        assert_eq!(read("versions=[\"tlsv1.3\"]"), json!(["tlsv1.3"]));
        assert_eq!(read("depth="), Value::Null);
        assert!(setting("depth").is_err());
    }
}
