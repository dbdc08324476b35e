//! `mqgate explain`: what the running broker would do with a client, step by step.

use std::path::{Path, PathBuf};

use anyhow::Result;
use mqgate_identity::certificate::to_pem;
use serde_json::{Value, json};

use super::output::{self, printable, say, table, text};
use super::pki::certificates;
use super::remote::{Remote, RemoteArgs, read_file};
use crate::exit::Failure;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate explain --cert device-7.pem
  mqgate explain --cert device-7.pem --client-id meter-7 --topic devices/meter-7/temperature
  mqgate explain --listener local --user-name alice --password-file alice.txt --topic 'rooms/#' --json

The running broker walks the whole path: handshake, CA, registry, plugins, permit. Nothing is changed by asking:
nothing is registered, counted or written down. `mqgate pki explain --offline` needs no broker, and ends at the chain.
Exit code 1: the client would not get in.")]
pub struct Args {
    /// What the client sends: its certificate, PEM or DER; intermediates after it
    #[arg(long, visible_alias = "certificate", value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Name of the listener; without it, the only one
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Its client id; without one the broker assigns one
    #[arg(long, value_name = "ID", default_value = "")]
    client_id: String,
    #[arg(long, value_name = "NAME")]
    user_name: Option<String>,
    /// File with its password; one line break at the end does not count
    #[arg(long, value_name = "FILE", requires = "user_name")]
    password_file: Option<PathBuf>,
    /// Where it comes from; without it, 127.0.0.1
    #[arg(long, value_name = "ADDRESS")]
    address: Option<std::net::IpAddr>,
    /// A topic or filter that it may want; may be repeated
    #[arg(long, value_name = "TOPIC")]
    topic: Vec<String>,
    #[command(flatten)]
    remote: RemoteArgs,
}

pub fn run(args: &Args, config: Option<&Path>) -> Result<()> {
    let pem = args.cert.as_deref().map(pem).transpose()?;
    let body = json!({
        "pem": pem,
        "listener": args.listener,
        "client_id": args.client_id,
        "user_name": args.user_name,
        "password": args.password_file.as_deref().map(password).transpose()?,
        "address": args.address,
        "topics": args.topic,
    });
    let answer = Remote::new(&args.remote, config)?.post("/authz/explain", &body)?;
    if args.remote.json {
        output::json(&answer)?;
    } else {
        show(&answer)?;
    }
    match answer["admitted"] == true {
        true => Ok(()),
        false => Err(Failure::refused(format!(
            "it would not get in at listener \"{}\" ({})",
            text(&answer, "listener"),
            text(&answer, "reason")
        ))
        .into()),
    }
}

fn pem(file: &Path) -> Result<String> {
    Ok(certificates(file)?.iter().map(|der| to_pem(der)).collect())
}

fn password(file: &Path) -> Result<String> {
    let bytes = read_file(file)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::refused(format!("{}: a password is text in UTF-8", file.display())))?;
    Ok(text.strip_suffix('\n').map_or(text.as_str(), |text| text.trim_end_matches('\r')).to_owned())
}

fn show(answer: &Value) -> Result<()> {
    for step in answer["steps"].as_array().into_iter().flatten() {
        let sign = match step["outcome"].as_str() {
            Some("passed") => "good  ",
            Some("failed") => "FAILED",
            Some("skipped") => "-     ",
            _ => "open  ",
        };
        let why = [text(step, "reason"), printable(&text(step, "detail"))];
        let why: Vec<String> = why.into_iter().filter(|part| !part.is_empty()).collect();
        say(format!("{sign}  {:14} {}", text(step, "step"), why.join(": ")).trim_end())?;
    }
    let plugins: Vec<Vec<String>> = answer["plugins"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|verdict| {
            vec![
                text(verdict, "name"),
                text(verdict, "hook"),
                text(verdict, "result"),
                format!("{} µs", text(verdict, "microseconds")),
                verdict["digest"].as_str().map_or_else(|| String::from("native"), str::to_owned),
            ]
        })
        .collect();
    if !plugins.is_empty() {
        say("")?;
        table(&["PLUGIN", "HOOK", "SAYS", "TIME", "DIGEST"], &plugins)?;
    }
    say("")?;
    if answer["admitted"] == true {
        let (device, client) = (text(&answer["device"], "device_id"), text(answer, "client_id"));
        say(format!("admitted: device {}, client id {}", printable(&device), printable(&client)))?;
    } else {
        say(format!("refused: {}{}", text(answer, "reason"), hears(&answer["answer"])))?;
    }
    topics(answer)
}

/// In the words of the protocol.
fn hears(answer: &Value) -> String {
    match (answer["v5"].as_u64(), answer["v3_1_1"].as_u64()) {
        (Some(v5), Some(v3)) => format!("; the client hears 0x{v5:02X} in MQTT 5.0, {v3} in 3.1.1"),
        (Some(v5), None) => format!("; the client hears 0x{v5:02X} in MQTT 5.0, nothing in 3.1.1"),
        _ => String::from("; the handshake fails"),
    }
}

fn topics(answer: &Value) -> Result<()> {
    let rows: Vec<Vec<String>> = answer["topics"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|topic| {
            let may = |what: &str| match topic[what].as_u64() {
                Some(qos) => format!("up to QoS {qos}"),
                None => String::from("no"),
            };
            vec![text(topic, "topic"), may("publish"), may("subscribe"), text(topic, "problem")]
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    say("")?;
    table(&["TOPIC", "PUBLISH", "SUBSCRIBE", ""], &rows)
}
