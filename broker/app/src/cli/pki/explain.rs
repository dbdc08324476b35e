//! `mqgate pki explain`: a certificate on its way through a listener, step by step, by the broker's own rules.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use mqgate_identity::certificate::{CertificateFacts, certificates_from_pem};
use mqgate_identity::evaluation::{Anchor, PathPolicy, TrustAnchors, evaluate};
use mqgate_identity::reason::Reason;
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

Judged by the configuration's rules and the broker's code. If the broker runs, the CAs and the device
certificates that it knows count, too. What the chain (plugins) decides after that is not foretold.
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
    anchors: Vec<Anchor>,
}

pub fn explain(args: &ExplainArgs, config: Option<&Path>) -> Result<()> {
    let loaded = crate::run::effective(&Inputs::gather(config)?)?;
    let (name, listener) = choose(&loaded, args.listener.as_deref())?;
    let chain = certificates(&args.file)?;
    let mut story = Story::default();
    tell(&mut story, args, config, &loaded, listener, &chain)?;
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
    listener: &model::Listener,
    chain: &[Vec<u8>],
) -> Result<()> {
    let mode = build::auth_mode_name(listener);
    match (listener.kind, listener.mode()) {
        (model::Transport::Tls, model::AuthMode::OneWay) => {
            story.open("asked", "mode one-way: no certificate is asked for, and none is looked at");
            return Ok(());
        }
        (model::Transport::Tls, _) => {
            let need = match listener.certificate_required() {
                true => "required",
                false => "asked for, and not required; one that is sent must be good",
            };
            story.good("asked", format!("mode {mode}: a certificate is {need}"));
        }
        _ => {
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

    let live = if args.offline { None } else { ask(args, config_file) };
    let configured = build::anchors(config)?;
    // A CA of the configuration lets clients in on the listeners that name it.
    let is_here =
        |name: &Arc<str>| config.listeners.get(&**name).is_some_and(|named| std::ptr::eq(named, listener));
    let mut anchors: Vec<_> = configured
        .iter()
        .filter(|bound| bound.listeners.as_ref().is_none_or(|names| names.iter().any(is_here)))
        .map(|bound| bound.anchor.clone())
        .collect();
    for anchor in live.iter().flat_map(|live| &live.anchors) {
        if !configured.iter().any(|known| known.anchor.der == anchor.der) {
            anchors.push(anchor.clone());
        }
    }
    let count = anchors.len();
    let anchors =
        TrustAnchors::new(anchors).map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    let known = match &live {
        Some(_) => "of the configuration and of the running broker",
        None => {
            "of the configuration; those of `mqgate ca add` are not known here, because no broker was asked"
        }
    };
    story.good("trusted", format!("{count} CAs {known}"));
    // Revocation lists are the running broker's.
    let policy = PathPolicy { revocation: None, ..path_policy(config, listener) };
    match evaluate(leaf, intermediates, &anchors, &policy, now()) {
        Ok(path) => {
            let remarks: Vec<_> = path.lints.iter().map(|lint| lint.as_str()).collect();
            let remarks = match remarks.is_empty() {
                true => String::new(),
                false => format!("; remarks: {}", remarks.join(", ")),
            };
            let detail = format!(
                "leads to CA \"{}\" over {} intermediates, good until {}{remarks}",
                path.anchor.name, path.depth, path.not_after
            );
            story.good("path", detail);
        }
        Err(rejection) => {
            story.failed(step_of(rejection.reason), rejection.reason.as_str(), rejection.detail);
            return Ok(());
        }
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

/// Which part of the evaluation says so.
fn step_of(reason: Reason) -> &'static str {
    match reason {
        Reason::CertTooLarge => "size",
        Reason::CertMalformed => "readable",
        Reason::CertV1 => "version",
        Reason::CertCaAsLeaf | Reason::CertPurpose => "purpose",
        Reason::CertExpired | Reason::CertNotYetValid => "validity",
        Reason::CertSigAlg | Reason::CertBadSignature => "signature",
        Reason::CertRevoked => "revocation",
        _ => "path",
    }
}

/// Answers nothing if there is no broker to ask.
fn ask(args: &ExplainArgs, config: Option<&Path>) -> Option<Live> {
    let remote = Remote::new(&args.remote, config).ok()?;
    let cas = remote.all("/cas").ok()?;
    let anchors = cas.iter().filter_map(|ca| {
        let der = certificates_from_pem(ca["pem"].as_str()?.as_bytes()).ok()?.into_iter().next()?;
        Some(Anchor { name: ca["name"].as_str()?.into(), der: der.into() })
    });
    let anchors = anchors.collect();
    Some(Live { remote, anchors })
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
