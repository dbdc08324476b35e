//! `mqgate pki explain`: a certificate on its way through a listener, step by step, by the broker's own rules.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use mqgate_identity::certificate::{CertificateFacts, to_pem};
use mqgate_identity::evaluation::{PathPolicy, Step, TrustAnchors, evaluate};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixSeconds;
use serde_json::{Value, json};

use super::super::output::{self, printable, say};
use super::super::remote::{Remote, RemoteArgs};
use super::inspect::{certificates, now};
use crate::config::{Config, Inputs, model};
use crate::exit::{Exit, Failure};
use crate::run::build;
use crate::run::paths::path_policy;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate pki explain device-7.pem --listener devices
  mqgate pki explain chain.pem --listener devices --config my.toml --offline --json

If the broker runs, it judges: its CAs, its rules, its revocation lists and its device certificates count. Otherwise
the configuration's rules and CAs do. What the chain (plugins) decides after that is not foretold.
Exit code 1: it would not get in.")]
pub struct ExplainArgs {
    /// What the client sends: its certificate, PEM or DER; intermediates after it
    file: PathBuf,
    /// Name of the listener; without it, the only one
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Do not ask the running broker
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Good,
    Failed,
    /// Nothing can be said, or nothing is asked.
    Open,
}

/// What happens to the certificate, in the order in which it happens.
#[derive(Default)]
struct Story {
    steps: Vec<(&'static str, Outcome, String)>,
    reason: Option<String>,
}

impl Story {
    fn good(&mut self, step: &'static str, detail: impl Into<String>) {
        self.steps.push((step, Outcome::Good, detail.into()));
    }

    fn open(&mut self, step: &'static str, detail: impl Into<String>) {
        self.steps.push((step, Outcome::Open, detail.into()));
    }

    fn failed(&mut self, step: &'static str, reason: &str, detail: impl Into<String>) {
        self.steps.push((step, Outcome::Failed, detail.into()));
        self.reason.get_or_insert_with(|| reason.to_owned());
    }
}

/// What the running broker knows.
struct Live {
    remote: Remote,
    /// Of the handshake.
    judgement: Value,
}

pub fn explain(args: &ExplainArgs, config: Option<&Path>) -> Result<()> {
    let loaded = crate::run::effective(&Inputs::gather(config)?)?;
    let (name, listener) = choose(&loaded, args.listener.as_deref())?;
    let chain = certificates(&args.file)?;
    let mut story = Story::default();
    tell(&mut story, args, config, &loaded, (name, listener), &chain)?;
    show(args, name, &story)?;
    match &story.reason {
        None => Ok(()),
        Some(reason) => Err(Failure::refused(format!(
            "{} would not get in at listener \"{name}\" ({reason})",
            args.file.display()
        ))
        .into()),
    }
}

fn choose<'a>(config: &'a Config, name: Option<&str>) -> Result<(&'a str, &'a model::Listener)> {
    let known = || config.listeners.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let usage = |message: String| Failure::new(Exit::Usage, message).into();
    match (name, config.listeners.len()) {
        (Some(name), _) => config
            .listeners
            .get_key_value(name)
            .map(|(name, listener)| (name.as_str(), listener))
            .ok_or_else(|| usage(format!("there is no listener \"{name}\": there are {}", known()))),
        (None, 1) => {
            let mut all = config.listeners.iter().map(|(name, listener)| (name.as_str(), listener));
            all.next().ok_or_else(|| usage(String::from("there is no listener")))
        }
        (None, 0) => Err(usage(String::from("the configuration has no listener"))),
        (None, _) => Err(usage(format!("say which with --listener: {}", known()))),
    }
}

fn tell(
    story: &mut Story,
    args: &ExplainArgs,
    config_file: Option<&Path>,
    config: &Config,
    (name, listener): (&str, &model::Listener),
    chain: &[Vec<u8>],
) -> Result<()> {
    let mode = build::auth_mode_name(listener);
    match (listener.kind.has_tls(), listener.mode()) {
        (true, model::AuthMode::OneWay) => {
            story.open("asked", "mode one-way: no certificate is asked for, and none is looked at");
            return Ok(());
        }
        (true, _) => {
            let need = match listener.certificate_required() {
                true => "required",
                false => "asked for, and not required; one that is sent must be good",
            };
            story.good("asked", format!("mode {mode}: a certificate is {need}"));
        }
        (false, _) => {
            story.open("asked", "the listener has no TLS: no certificate is asked for");
            return Ok(());
        }
    }
    let Some((leaf, intermediates)) = chain.split_first() else { return Ok(()) };
    let facts = match CertificateFacts::parse(leaf) {
        Ok(facts) => facts,
        Err(error) => {
            story.failed("readable", error.reason().as_str(), error.to_string());
            return Ok(());
        }
    };
    let what = format!(
        "\"{}\", X.509 version {}, from {} to {}",
        facts.subject.display, facts.version, facts.not_before, facts.not_after
    );
    story.good("readable", what);

    let live = if args.offline { None } else { ask(args, config_file, name, chain) };
    match &live {
        Some(live) => {
            story.good("trusted", "judged by the running broker: its CAs, its rules, its revocation lists");
            judged(story, &live.judgement);
        }
        None => judge_offline(story, config, listener, leaf, intermediates)?,
    }
    if story.reason.is_some() {
        return Ok(());
    }
    story.open("key", "the client must hold the private key: the handshake proves it, a file cannot");
    if listener.mode() == model::AuthMode::PerDevice {
        registry(story, live.as_ref(), listener, &facts)?;
    }
    if story.reason.is_none() {
        let members: Vec<&str> = config.plugins.iter().map(|member| member.name.as_str()).collect();
        story.open("chain", format!("decides next: {}", members.join(", ")));
    }
    Ok(())
}

/// What the running broker said about the path.
fn judged(story: &mut Story, judgement: &Value) {
    if judgement["admitted"] == true {
        let remarks: Vec<_> = judgement["remarks"].as_array().into_iter().flatten().collect();
        let remarks: Vec<&str> = remarks.into_iter().filter_map(Value::as_str).collect();
        let not_after = UnixSeconds(judgement["not_after"].as_i64().unwrap_or_default());
        let (ca, depth) = (output::text(judgement, "ca"), judgement["depth"].as_u64().unwrap_or_default());
        leads(story, &ca, depth, not_after, &remarks);
    } else {
        let step = Step::ALL.into_iter().find(|step| judgement["step"] == step.as_str());
        let detail = output::text(judgement, "detail");
        story.failed(step.map_or("path", Step::as_str), &output::text(judgement, "reason"), detail);
    }
}

fn leads(story: &mut Story, ca: &str, depth: u64, not_after: UnixSeconds, remarks: &[&str]) {
    let remarks = match remarks {
        [] => String::new(),
        remarks => format!("; remarks: {}", remarks.join(", ")),
    };
    let detail = format!("leads to CA \"{ca}\" over {depth} intermediates, good until {not_after}{remarks}");
    story.good("path", detail);
}

/// By the configuration alone.
fn judge_offline(
    story: &mut Story,
    config: &Config,
    listener: &model::Listener,
    leaf: &[u8],
    intermediates: &[Vec<u8>],
) -> Result<()> {
    // A CA of the configuration lets clients in on the listeners that name it.
    let is_here =
        |name: &Arc<str>| config.listeners.get(&**name).is_some_and(|named| std::ptr::eq(named, listener));
    let anchors: Vec<_> = build::anchors(config)?
        .iter()
        .filter(|bound| bound.listeners.as_ref().is_none_or(|names| names.iter().any(is_here)))
        .map(|bound| bound.anchor.clone())
        .collect();
    let count = anchors.len();
    let anchors =
        TrustAnchors::new(anchors).map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    let known =
        "of the configuration; those of `mqgate ca add` are not known here, because no broker was asked";
    story.good("trusted", format!("{count} CAs {known}"));
    // Revocation lists are the running broker's.
    let policy = PathPolicy { revocation: None, ..path_policy(config, listener) };
    match evaluate(leaf, intermediates, &anchors, &policy, now()) {
        Ok(path) => {
            let remarks: Vec<_> = path.lints.iter().map(|lint| lint.as_str()).collect();
            leads(story, &path.anchor.name, path.depth as u64, path.not_after, &remarks);
            if listener.crl_check {
                story.open("revocation", "the lists are the running broker's, and no broker was asked");
            }
        }
        Err(rejection) => {
            let step = Step::of(rejection.reason).as_str();
            story.failed(step, rejection.reason.as_str(), rejection.detail);
        }
    }
    Ok(())
}

/// Answers nothing if there is no broker to ask, or if it does not have this listener.
fn ask(args: &ExplainArgs, config: Option<&Path>, listener: &str, chain: &[Vec<u8>]) -> Option<Live> {
    let remote = Remote::new(&args.remote, config).ok()?;
    let pem: String = chain.iter().map(|der| to_pem(der)).collect();
    let judgement = remote.post(&format!("/listeners/{listener}/explain"), &json!({ "pem": pem })).ok()?;
    Some(Live { remote, judgement })
}

fn registry(
    story: &mut Story,
    live: Option<&Live>,
    listener: &model::Listener,
    facts: &CertificateFacts,
) -> Result<()> {
    let Some(live) = live else {
        story.open("registry", "must know the certificate; no broker was asked");
        return Ok(());
    };
    let id = facts.certificate_fingerprint.to_hex();
    let record = match live.remote.get(&format!("/device-certs/{id}")) {
        Ok(record) => record,
        Err(error) if error.to_string().contains("(not_found") => {
            match listener.registration {
                model::Registration::Auto => {
                    story.open("registry", "does not know it yet: the registrars of the chain are asked");
                }
                model::Registration::Manual => story.failed(
                    "registry",
                    Reason::CertNotRegistered.as_str(),
                    "does not know it, and registration is manual: `mqgate cert register` first",
                ),
            }
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let (state, effective) = (output::text(&record, "state"), output::text(&record, "effective"));
    let detail = format!("device \"{}\", {state}", output::text(&record, "device_id"));
    match effective.as_str() {
        "ok" => story.good("registry", detail),
        reason => story.failed("registry", reason, detail),
    }
    Ok(())
}

fn show(args: &ExplainArgs, listener: &str, story: &Story) -> Result<()> {
    if args.remote.json {
        let steps: Vec<Value> = story
            .steps
            .iter()
            .map(|(step, outcome, detail)| {
                let outcome = match outcome {
                    Outcome::Good => "good",
                    Outcome::Failed => "failed",
                    Outcome::Open => "open",
                };
                json!({ "step": step, "outcome": outcome, "detail": detail })
            })
            .collect();
        return output::json(&json!({
            "file": args.file,
            "listener": listener,
            "admitted": story.reason.is_none(),
            "reason": story.reason,
            "steps": steps,
        }));
    }
    story.steps.iter().try_for_each(|(step, outcome, detail)| {
        let sign = match outcome {
            Outcome::Good => "good  ",
            Outcome::Failed => "FAILED",
            Outcome::Open => "open  ",
        };
        say(format!("{sign}  {step:10} {}", printable(detail)))
    })
}
