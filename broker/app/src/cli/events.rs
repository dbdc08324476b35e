//! `mqgate events`: what happens in the running broker, as it happens.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::output::{self, printable, say, text};
use super::remote::{Remote, RemoteArgs, with_query};
use crate::exit::{Exit, Failure};

/// Before a stream that ended is taken up again.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate events
  mqgate events --type certs --type cas
  mqgate events --type clients.connected --subject meter-7 --json
  mqgate events --after 18c2f-3a-91      go on where an earlier run of the command ended (the last `mqgateid`)")]
pub struct Args {
    /// Only these types, such as certs.revoked, or certs for all that begin so; several times for several
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only about these: a certificate's or CA's SHA-256, a client id; several times for several
    #[arg(long = "subject", value_name = "SUBJECT")]
    subjects: Vec<String>,
    /// Begin after this place in the stream; without it, with what happens next
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// One block of the stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Block {
    kind: String,
    id: Option<String>,
    data: String,
}

pub fn run(args: Args, config: Option<&Path>) -> Result<()> {
    let remote = Remote::new(&args.remote, config)?;
    let joined = |words: &[String]| Some(words.join(",")).filter(|words| !words.is_empty());
    let (types, subjects) = (joined(&args.types), joined(&args.subjects));
    let path = with_query("/events", &[("type", types.as_deref()), ("subject", subjects.as_deref())]);
    let mut after = args.after.clone();
    let mut left = args.count.unwrap_or(u64::MAX);
    let (mut was_there, mut is_away) = (false, false);
    loop {
        let stream = match remote.stream(&path, after.as_deref()) {
            Ok(stream) => stream,
            // It was there: it is being started again, which may take a while.
            Err(error) if was_there && is_unavailable(&error) => {
                if !std::mem::replace(&mut is_away, true) {
                    output::warn("the broker does not answer: trying again until it does");
                }
                std::thread::sleep(PAUSE);
                continue;
            }
            Err(error) => return Err(error),
        };
        (was_there, is_away) = (true, false);
        let lines = BufReader::new(stream).lines();
        let mut block = Block::default();
        for line in lines {
            // A stream that breaks off is taken up again where it ended.
            let Ok(line) = line else { break };
            let Some(whole) = block.take(&line) else { continue };
            if whole.id.is_some() {
                after.clone_from(&whole.id);
            }
            if whole.data.is_empty() {
                continue;
            }
            if whole.kind == "gap" {
                let gap: Value = serde_json::from_str(&whole.data).unwrap_or_default();
                output::warn(&format!(
                    "events were missed: {} ({})",
                    text(&gap, "missed"),
                    text(&gap, "why")
                ));
                continue;
            }
            show(&whole, args.remote.json)?;
            left -= 1;
            if left == 0 {
                return Ok(());
            }
        }
        std::thread::sleep(PAUSE);
    }
}

fn is_unavailable(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|failure| failure.exit == Exit::Unavailable)
}

fn show(block: &Block, json: bool) -> Result<()> {
    let mut event: Value = serde_json::from_str(&block.data).unwrap_or_default();
    if json {
        // An extension of CloudEvents: where the stream goes on after this.
        event["mqgateid"] = block.id.clone().into();
        return say(output::plain_json(&event.to_string()));
    }
    let data = &event["data"];
    let shown = ["state", "reason", "device_id", "client_id", "peer_ip", "actor", "name"]
        .into_iter()
        .filter_map(|key| Some((key, data[key].as_str()?)))
        .filter(|(_, value)| event["subject"] != **value)
        .map(|(key, value)| format!("{key}={}", printable(value)));
    let shown: Vec<String> = shown.collect();
    let kind = text(&event, "type");
    let kind = kind.strip_prefix("mqgate.").unwrap_or(&kind);
    say(format!(
        "{}  {kind:24}  {}  {}",
        text(&event, "time"),
        printable(&text(&event, "subject")),
        shown.join(" ")
    ))
}

impl Block {
    /// Takes in a line; gives the block that it ends. One without data only says where the stream is.
    fn take(&mut self, line: &str) -> Option<Self> {
        if line.is_empty() {
            let whole = std::mem::take(self);
            return (!whole.data.is_empty() || whole.id.is_some()).then_some(whole);
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => value.clone_into(&mut self.kind),
            "id" => self.id = Some(value.to_owned()),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            // A comment, or what later versions say.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_as_the_standard_has_them() {
        let text = ": hello\nretry: 1000\n\nid: 1-2\ndata: {\"a\":1}\n\nevent: gap\nid:x\ndata: b\ndata: c\n\nid: 9\n\n";
        let mut block = Block::default();
        let found: Vec<Block> = text.lines().filter_map(|line| block.take(line)).collect();
        assert_eq!(
            found,
            [
                Block { kind: String::new(), id: Some("1-2".into()), data: "{\"a\":1}".into() },
                Block { kind: "gap".into(), id: Some("x".into()), data: "b\nc".into() },
                Block { kind: String::new(), id: Some("9".into()), data: String::new() },
            ]
        );
    }
}
