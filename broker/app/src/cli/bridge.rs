//! `mqgate bridge`: connections of the running broker to other brokers.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::output::{self, printable, say, table, text, time};
use super::remote::{Remote, RemoteArgs, segment};

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate bridge list
  mqgate bridge show headquarters
  mqgate bridge stop headquarters")]
pub enum Command {
    /// List bridges: whether they are connected, and what went over them
    List {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Show a bridge with all its counts
    Show(One),
    /// Start a bridge that was stopped, or is not enabled
    Start(One),
    /// Stop a bridge until it is started, or the broker is
    Stop(One),
    /// End the connection, or the pause before the next one, and connect anew
    Reconnect(One),
}

/// A bridge, by its name in the configuration.
#[derive(clap::Args)]
pub struct One {
    /// Name of the bridge
    pub name: String,
    #[command(flatten)]
    pub remote: RemoteArgs,
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::List { remote } => list(&remote, config),
        Command::Show(one) => {
            let path = format!("/bridges/{}", segment(&one.name));
            output::json(&Remote::new(&one.remote, config)?.get(&path)?)
        }
        Command::Start(one) => order(&one, config, "start", "started", ["started", "it runs already"]),
        Command::Stop(one) => order(&one, config, "stop", "stopped", ["stopped", "it did not run"]),
        Command::Reconnect(one) => {
            order(&one, config, "reconnect", "reconnecting", ["connecting anew", "it does not run: start it"])
        }
    }
}

fn order(one: &One, config: Option<&Path>, action: &str, field: &str, says: [&str; 2]) -> Result<()> {
    let path = format!("/bridges/{}/{action}", segment(&one.name));
    let answer = Remote::new(&one.remote, config)?.post(&path, &json!({}))?;
    if one.remote.json {
        return output::json(&answer);
    }
    let done = answer[field].as_bool() == Some(true);
    say(format!("{}: {}", printable(&one.name), says[usize::from(!done)]))
}

fn list(args: &RemoteArgs, config: Option<&Path>) -> Result<()> {
    let items = Remote::new(args, config)?.all("/bridges")?;
    if args.json {
        return output::json(&Value::Array(items));
    }
    if items.is_empty() {
        return say("no bridges");
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|bridge| {
            vec![
                text(bridge, "name"),
                text(bridge, "status"),
                bridge["since"].as_i64().map_or_else(String::new, time),
                text(bridge, "address"),
                text(&bridge["out"], "forwarded"),
                text(&bridge["in"], "forwarded"),
                text(bridge, "queued_messages"),
                text(bridge, "problem"),
            ]
        })
        .collect();
    table(&["NAME", "STATUS", "SINCE", "ADDRESS", "OUT", "IN", "WAITING", "PROBLEM"], &rows)
}
