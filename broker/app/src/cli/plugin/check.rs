//! `mqgate plugin check`: would a broker load this component, and with which grants.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use mqgate_plugin_host::offline::Offline;
use mqgate_plugin_host::{
    AllowedDestination, Capability, Grants, LoadError, PluginSettings, Provenance, Source, grant_line,
};
use serde_json::json;

use super::ConfigArgs;
use super::offline;
use crate::cli::output::{self, printable, say};
use crate::config::Inputs;
use crate::exit::{Exit, Failure};
use crate::run::chain;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mqgate plugin check my-policy.wasm
  mqgate plugin check my-policy.wasm --grant kv --config-file my-policy.json
  mqgate --config /etc/mqgate/mqgate.toml plugin check my-policy.wasm --name my-policy

With --name, everything is as the configuration has it for that plugin: grants, limits, settings, trusted keys. It exits
with 0 when the component would load.")]
pub struct Args {
    /// The component (.wasm), or bundled:NAME
    file: PathBuf,
    /// As which plugin of the configuration it would run
    #[arg(long)]
    name: Option<String>,
    /// What it may import: kv, registry.read, metrics, credentials, http, clock, random
    #[arg(long, value_delimiter = ',')]
    grant: Vec<Capability>,
    /// Where it may send requests, such as https://policy.example.com:443; several times for several
    #[arg(long, value_name = "DESTINATION")]
    http_allow: Vec<AllowedDestination>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, config: Option<&Path>) -> Result<()> {
    let file = offline::located(&args.file)?;
    let (settings, host) = settings(args, &file, config)?;
    let plugin = Offline::new(&settings.name, Source::File(file.clone()), host);
    let plugin = plugin.map_err(|error| offline::told(&file.display().to_string(), &error))?;
    let outcome = plugin.check(&settings);
    let found = plugin.description();
    let line = grant_line(&found.needs, &settings.grants.http.allow);
    let missing: Vec<&str> =
        found.needs.difference(&settings.grants.capabilities).map(|it| it.as_str()).collect();
    if args.json {
        output::json(&json!({
            "component": file.display().to_string(),
            "digest": found.digest,
            "size": found.size,
            "version": found.version,
            "hooks": found.hooks,
            "imports": found.imports,
            "needs": found.needs,
            "missing": missing,
            "unserved": found.unserved,
            "loads": outcome.is_ok(),
            "stage": outcome.as_ref().err().map(|error| error.stage.as_str()),
            "detail": outcome.as_ref().err().map(|error| &error.message),
            "cold_start_us": outcome.as_ref().ok().map(|time| super::run::micros(*time)),
        }))?;
    } else {
        say(format!("{} ({} bytes, {})", file.display(), found.size, found.digest))?;
        say(format!("hooks    {}", found.hooks.join(", ")))?;
        let imports =
            if found.imports.is_empty() { String::from("nothing") } else { found.imports.join(", ") };
        say(format!("imports  {}", printable(&imports)))?;
        say(format!("needs    {}", if found.needs.is_empty() { "no grant" } else { line.as_str() }))?;
        told(&outcome, &missing, &line)?;
    }
    match outcome {
        Ok(_) => Ok(()),
        Err(error) => {
            let what = format!("{} would not load (stage {})", file.display(), error.stage.as_str());
            Err(Failure::refused(what).into())
        }
    }
}

fn told(outcome: &Result<Duration, LoadError>, missing: &[&str], line: &str) -> Result<()> {
    match (outcome, missing) {
        (Ok(cold_start), _) => {
            say(format!("loads    yes; a fresh instance takes {} µs", super::run::micros(*cold_start)))
        }
        (Err(error), []) => {
            say("loads    no")?;
            error.message.lines().try_for_each(|line| say(format!("  {}", printable(line))))
        }
        (Err(_), missing) => {
            say(format!(
                "loads    not without {}; its [[plugins]] entry grants that with",
                missing.join(", ")
            ))?;
            say(format!("  {line}"))
        }
    }
}

/// With what it would run, and in which host.
fn settings(
    args: &Args,
    file: &Path,
    config: Option<&Path>,
) -> Result<(PluginSettings, mqgate_plugin_host::HostSettings)> {
    let given = args.config.read()?;
    let (mut settings, mut host) = match &args.name {
        None => {
            let mut settings = PluginSettings::new(offline::plugin_name(file), Source::File(file.to_owned()));
            settings.grants = Grants::of([]);
            (settings, mqgate_plugin_host::HostSettings::default())
        }
        Some(name) => {
            let config = crate::run::effective(&Inputs::gather(config)?)?;
            let Some(settings) = chain::settings_of(&config, name) else {
                let what = format!("the configuration has no component of the name {name}");
                return Err(Failure::new(Exit::Usage, what).into());
            };
            let settings = PluginSettings { source: Source::File(file.to_owned()), digest: None, ..settings };
            (settings, chain::host_settings(&config))
        }
    };
    // The broker's own folders are the broker's.
    host.cache_dir = offline::cache();
    host.compiler = Some(crate::cli::plugin_compile::program());
    settings.provenance = match args.file.to_str().is_some_and(|text| text.starts_with("bundled:")) {
        true => Provenance::Bundled,
        false => {
            let signature = chain::signature_of(file).map_err(|why| Failure::new(Exit::Usage, why))?;
            Provenance::New(signature)
        }
    };
    if let Some(given) = given {
        settings.config = given;
    }
    settings.grants.capabilities.extend(args.grant.iter().copied());
    settings.grants.http.allow.extend(args.http_allow.iter().cloned());
    Ok((settings, host))
}
