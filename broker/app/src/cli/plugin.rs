//! `mqgate plugin`: components in the running broker, and the projects that they are built from.

mod bench;
mod build;
mod check;
mod dev;
mod new;
pub(super) mod offline;
mod project;
mod record;
mod replay;
mod run;
mod shadow;
mod signing;
mod test;

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use super::output::{self, printable, say, table, text, time};
use super::remote::{Remote, RemoteArgs, read_file, segment, with_query};
use crate::exit::{Exit, Failure};

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate plugin new --lang python --hook authenticator my-policy
  mqgate plugin build my-policy
  mqgate plugin test my-policy.wasm --cases cases
  mqgate plugin dev my-policy
  mqgate plugin list
  mqgate plugin inspect my-policy.wasm
  mqgate plugin load my-policy.wasm --name my-policy --first --grant kv
  mqgate plugin load slow.wasm --limit wall=2s --limit concurrency=4
  mqgate plugin load asking.wasm --grant http --http-allow https://policy.example.com:443
  mqgate plugin swap cert-acl cert-acl-2.wasm --config-file cert-acl.json
  mqgate plugin rollback cert-acl --why 'it refuses meters'
  mqgate plugin unload my-policy
  mqgate plugin keygen release.key && mqgate plugin sign my-policy.wasm --key release.key

What is decided this way holds over restarts, and over the configuration: `mqgate plugin reset` goes back to it.")]
pub enum Command {
    /// Make a project to start from: rust, c, javascript, python or go
    New(new::Args),
    /// Build a project into a component, and check it against its manifest
    Build(build::Args),
    /// Build and swap into the running broker whenever a file is saved
    Dev(Box<dev::Args>),
    /// List the members of the chains
    List {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Load a component into the chains
    Load(Box<LoadArgs>),
    /// Replace a component; on any failure the old one goes on
    Swap {
        /// Name of the plugin
        name: String,
        /// The new component (.wasm)
        file: PathBuf,
        #[command(flatten)]
        component: ComponentArgs,
        #[command(flatten)]
        config: ConfigArgs,
        /// What it may import from now on: kv, registry.read, metrics, credentials, http, clock, random; without it, what it
        /// might before
        #[arg(long, value_delimiter = ',')]
        grant: Vec<String>,
        /// What happens to live sessions: none, lazy, eager; without it, as configured
        #[arg(long)]
        reauthorize: Option<String>,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Give a plugin other settings; its component stays
    Configure {
        /// Name of the plugin
        name: String,
        #[command(flatten)]
        config: ConfigArgs,
        /// What happens to live sessions: none, lazy, eager; without it, as configured
        #[arg(long)]
        reauthorize: Option<String>,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Have a plugin asked again that was disabled
    Enable {
        /// Name of the plugin
        name: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Leave a plugin in its place, and have it asked no more
    Disable {
        /// Name of the plugin
        name: String,
        /// Even if it is required
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// The versions of a plugin that are kept, the one that runs first
    Versions {
        /// Name of the plugin
        name: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Take the version that runs back
    Rollback {
        /// Name of the plugin
        name: String,
        /// Number or digest of a former version; without it, the one before
        #[arg(long, value_name = "VERSION")]
        to: Option<String>,
        /// Why; for the list of versions and the audit log
        #[arg(long)]
        why: Option<String>,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Forget what was decided about a plugin while the broker ran: what the configuration says of it holds again
    Reset {
        /// Name of the plugin
        name: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Take a component out of the chains
    Unload {
        /// Name of the plugin
        name: String,
        /// Even if it is required
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Say whether a broker would load a component, and with which grants; needs no broker
    Check(Box<check::Args>),
    /// Ask a component its cases, on fresh and on used instances; needs no broker
    Test(test::Args),
    /// Make one call, and say everything about it; needs no broker
    Run(run::Args),
    /// Measure what one call costs; needs no broker
    Bench(bench::Args),
    /// Record calls of a plugin of the running broker as cases
    Record(Box<record::Args>),
    /// Say what another component would have answered to recorded calls; needs no broker
    Replay(replay::Args),
    /// A version that is asked beside the live one and decides nothing
    #[command(subcommand)]
    Shadow(shadow::Command),
    /// Make a key that signs components
    Keygen(signing::KeygenArgs),
    /// Sign a component: writes FILE.sig
    Sign(signing::SignArgs),
    /// Check a component's signature; needs no broker
    Verify(signing::VerifyArgs),
    /// Say what a component is, without running it
    Inspect {
        /// The component (.wasm)
        file: PathBuf,
        /// Compare it with this plugin of the running broker
        #[arg(long, value_name = "PLUGIN")]
        name: Option<String>,
        #[command(flatten)]
        component: ComponentArgs,
        #[command(flatten)]
        remote: RemoteArgs,
    },
}

#[derive(clap::Args)]
pub struct LoadArgs {
    /// The component (.wasm)
    file: PathBuf,
    /// Its name; without it, the file's
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    component: ComponentArgs,
    #[command(flatten)]
    config: ConfigArgs,
    /// What it may import: kv, registry.read, metrics, credentials, http, clock, random
    #[arg(long, value_delimiter = ',')]
    grant: Vec<String>,
    /// Where it may send requests, such as https://policy.example.com:443; several times for several
    #[arg(long, value_name = "DESTINATION")]
    http_allow: Vec<String>,
    /// Ask it before all others
    #[arg(long, group = "position")]
    first: bool,
    /// Ask it after all others
    #[arg(long, group = "position")]
    last: bool,
    /// Ask it before this one
    #[arg(long, group = "position", value_name = "NAME")]
    before: Option<String>,
    /// Ask it after this one
    #[arg(long, group = "position", value_name = "NAME")]
    after: Option<String>,
    /// Shut the listeners when it is not live
    #[arg(long)]
    required: bool,
    /// What it may use, as `limits` of the configuration has it; several times for several
    #[arg(long = "limit", value_name = "NAME=VALUE", value_parser = limit)]
    limits: Vec<(String, Value)>,
    /// What one call shares with the next: auto, per-call, pooled, single
    #[arg(long)]
    isolation: Option<String>,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// `wall=2s`, `concurrency=8`.
fn limit(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("a limit is NAME=VALUE, such as wall=2s")?;
    let value = value.parse::<u64>().map_or_else(|_| Value::from(value), Value::from);
    Ok((name.trim().to_owned(), value))
}

#[derive(clap::Args)]
#[group(multiple = false)]
pub struct ConfigArgs {
    /// Its configuration, as JSON
    #[arg(long, value_name = "JSON")]
    config_json: Option<String>,
    /// File with its configuration, JSON or TOML
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,
}

impl ConfigArgs {
    fn read(&self) -> Result<Option<Value>> {
        let wrong = |error: String| Failure::new(Exit::Usage, format!("the plugin's configuration: {error}"));
        if let Some(text) = &self.config_json {
            return Ok(Some(serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?));
        }
        let Some(file) = &self.config_file else { return Ok(None) };
        let text = String::from_utf8(read_file(file)?).map_err(|error| wrong(error.to_string()))?;
        let value = match file.extension().is_some_and(|extension| extension == "toml") {
            true => toml::from_str(&text).map_err(|error| wrong(error.to_string()))?,
            false => serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?,
        };
        Ok(Some(value))
    }
}

#[derive(clap::Args)]
pub struct ComponentArgs {
    /// Its signature; without it, FILE.sig if there is one
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// Load it only if it has this digest (sha256:…)
    #[arg(long, value_name = "DIGEST")]
    digest: Option<String>,
}

impl ComponentArgs {
    fn signature(&self, component: &Path) -> Result<Option<String>> {
        let beside = PathBuf::from(format!("{}.sig", component.display()));
        let file = match &self.signature {
            Some(file) => file,
            None if beside.exists() => &beside,
            None => return Ok(None),
        };
        Ok(Some(String::from_utf8_lossy(&read_file(file)?).into_owned()))
    }

    /// Brings the component to the broker. What it is called there, and what is said of it.
    fn send(&self, remote: &Remote, component: &Path) -> Result<serde_json::Map<String, Value>> {
        let uploaded = remote.upload("POST", "/plugin-components", &read_file(component)?)?;
        let found = text(&uploaded, "digest");
        if let Some(wanted) = self.digest.as_ref().filter(|wanted| **wanted != found) {
            let what =
                format!("{} has the digest {found}, not {wanted}: nothing was loaded", component.display());
            return Err(Failure::refused(what).into());
        }
        let mut body = serde_json::Map::new();
        body.insert(String::from("digest"), found.into());
        put(&mut body, "signature", self.signature(component)?);
        Ok(body)
    }
}

fn put(body: &mut serde_json::Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        body.insert(name.to_owned(), value.into());
    }
}

fn words(grant: Vec<String>) -> Option<Vec<String>> {
    (!grant.is_empty()).then_some(grant)
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::New(args) => new::run(args),
        Command::Build(args) => build::run(args),
        Command::Dev(args) => dev::run(*args, config),
        Command::List { remote } => list(&remote, config),
        Command::Load(args) => load(*args, config),
        Command::Swap { name, file, component, config: settings, grant, reauthorize, remote } => {
            let api = Remote::new(&remote, config)?;
            let mut body = component.send(&api, &file)?;
            put(&mut body, "config", settings.read()?);
            put(&mut body, "grant", words(grant));
            put(&mut body, "reauthorize", reauthorize);
            let info = api.put(&format!("/plugins/{}", segment(&name)), &Value::Object(body))?;
            done(&remote, "swapped", &info)
        }
        Command::Configure { name, config: settings, reauthorize, remote } => {
            let settings = settings.read()?.ok_or_else(|| {
                Failure::new(Exit::Usage, "which settings? Give --config-json or --config-file")
            })?;
            let path = format!("/plugins/{}/config", segment(&name));
            let path = with_query(&path, &[("reauthorize", reauthorize.as_deref())]);
            let info = Remote::new(&remote, config)?.put(&path, &settings)?;
            done(&remote, "configured", &info)
        }
        Command::Enable { name, remote } => act(&remote, config, &name, "enable", &[]),
        Command::Disable { name, force, remote } => {
            act(&remote, config, &name, "disable", &[("force", force.then_some("true"))])
        }
        Command::Rollback { name, to, why, remote } => {
            act(&remote, config, &name, "rollback", &[("to", to.as_deref()), ("why", why.as_deref())])
        }
        Command::Reset { name, remote } => act(&remote, config, &name, "reset", &[]),
        Command::Versions { name, remote } => versions(&remote, config, &name),
        Command::Unload { name, force, remote } => {
            let path = format!("/plugins/{}", segment(&name));
            let path = with_query(&path, &[("force", force.then_some("true"))]);
            let info = Remote::new(&remote, config)?.delete(&path)?;
            if remote.json { output::json(&info) } else { say(format!("unloaded: {name}")) }
        }
        Command::Inspect { file, name, component, remote } => {
            inspect(&remote, config, &file, name.as_deref(), &component)
        }
        Command::Check(args) => check::run(&args, config),
        Command::Test(args) => test::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Record(args) => record::run(&args, config),
        Command::Replay(args) => replay::run(&args),
        Command::Shadow(command) => shadow::run(command, config),
        Command::Keygen(args) => signing::keygen(&args),
        Command::Sign(args) => signing::sign(&args),
        Command::Verify(args) => signing::verify(&args),
    }
}

fn load(args: LoadArgs, config: Option<&Path>) -> Result<()> {
    let LoadArgs {
        file,
        name,
        component,
        config: settings,
        grant,
        http_allow,
        first,
        last,
        before,
        after,
        required,
        limits,
        isolation,
        remote,
    } = args;
    let name = name
        .or_else(|| Some(file.file_stem()?.to_str()?.to_owned()))
        .ok_or_else(|| Failure::new(Exit::Usage, "give it a --name"))?;
    let position = match (first, last, before, after) {
        (true, ..) => Some(String::from("first")),
        (_, true, ..) => Some(String::from("last")),
        (_, _, Some(name), _) => Some(format!("before:{name}")),
        (_, _, _, Some(name)) => Some(format!("after:{name}")),
        _ => None,
    };
    let api = Remote::new(&remote, config)?;
    let mut body = component.send(&api, &file)?;
    put(&mut body, "name", Some(name));
    put(&mut body, "config", settings.read()?);
    put(&mut body, "grant", words(grant));
    put(&mut body, "http", words(http_allow).map(|allow| serde_json::json!({ "allow": allow })));
    put(&mut body, "position", position);
    put(&mut body, "required", required.then_some(true));
    put(&mut body, "limits", (!limits.is_empty()).then(|| Value::Object(limits.into_iter().collect())));
    put(&mut body, "isolation", isolation);
    let info = api.post("/plugins", &Value::Object(body))?;
    done(&remote, "loaded", &info)
}

fn act(
    args: &RemoteArgs,
    config: Option<&Path>,
    name: &str,
    verb: &str,
    query: &[(&str, Option<&str>)],
) -> Result<()> {
    let path = with_query(&format!("/plugins/{}/{verb}", segment(name)), query);
    let info = Remote::new(args, config)?.post(&path, &Value::Null)?;
    let past = match verb {
        "enable" => "enabled",
        "disable" => "disabled",
        "reset" => "as configured",
        _ => "rolled back",
    };
    done(args, past, &info)
}

fn versions(args: &RemoteArgs, config: Option<&Path>, name: &str) -> Result<()> {
    let items = Remote::new(args, config)?.all(&format!("/plugins/{}/versions", segment(name)))?;
    if args.json {
        return output::json(&Value::Array(items));
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            vec![
                text(item, "number"),
                if item["running"] == true { String::from("runs") } else { String::new() },
                text(item, "digest"),
                text(item, "version"),
                time(item["since"].as_i64().unwrap_or_default()),
                text(item, "how"),
                text(item, "by"),
                text(item, "signed_by"),
                text(item, "withdrawn"),
            ]
        })
        .collect();
    table(
        &["NUMBER", "", "DIGEST", "VERSION", "SINCE", "HOW", "BY", "SIGNED BY", "TAKEN BACK BECAUSE"],
        &rows,
    )
}

fn inspect(
    args: &RemoteArgs,
    config: Option<&Path>,
    file: &Path,
    name: Option<&str>,
    component: &ComponentArgs,
) -> Result<()> {
    let signature = component.signature(file)?;
    let path = with_query("/inspect-plugin", &[("name", name), ("signature", signature.as_deref())]);
    let info = Remote::new(args, config)?.upload("POST", &path, &read_file(file)?)?;
    if args.json {
        return output::json(&info);
    }
    for name in ["digest", "size", "version", "hooks", "imports", "other_exports", "needs", "not_provided"] {
        say(format!("{name:14} {}", printable(&text(&info, name))))?;
    }
    let signed = &info["signature"];
    let words = [text(signed, "state"), text(signed, "key"), text(signed, "why")];
    say(format!("{:14} {}", "signature", printable(words.join(" ").trim_end())))?;
    let against = &info["against"];
    if against.is_object() {
        say("")?;
        say(format!("{:14} {}", "against", printable(&text(against, "name"))))?;
        for name in ["digest", "version", "hooks_added", "hooks_removed", "imports_added", "imports_removed"]
        {
            say(format!("  {name:15} {}", printable(&text(against, name))))?;
        }
        if against["same"] == true {
            say("  it is the component that runs")?;
        }
    }
    let line =
        if against.is_object() { text(against, "configuration") } else { text(&info, "configuration") };
    if !line.is_empty() {
        say("")?;
        say("what it imports has to be granted, in its [[plugins]] entry or with --grant:")?;
        say(format!("  {line}"))?;
    }
    Ok(())
}

fn list(args: &RemoteArgs, config: Option<&Path>) -> Result<()> {
    let items = Remote::new(args, config)?.all("/plugins")?;
    if args.json {
        return output::json(&Value::Array(items));
    }
    if items.is_empty() {
        return say("the chains are empty: nobody can connect");
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            vec![
                text(item, "name"),
                text(item, "state"),
                text(item, "hooks"),
                text(item, "digest").chars().take(19).collect(),
                text(item, "isolation"),
                text(item, "number"),
                notes(item),
            ]
        })
        .collect();
    table(&["NAME", "STATE", "HOOKS", "DIGEST", "ISOLATION", "VERSION", ""], &rows)
}

/// What is particular about a member.
fn notes(item: &Value) -> String {
    let mut notes = vec![text(item, "why")];
    if item["decided_at_runtime"] == true && item["configured"] == true {
        notes.push(String::from("not as configured"));
    }
    if item["probation_seconds"].as_u64().is_some() {
        notes.push(format!("on probation for {} s", text(item, "probation_seconds")));
    }
    if !item["shadow"].is_null() {
        notes.push(String::from("has a shadow"));
    }
    if !item["signed_by"].is_null() {
        notes.push(format!("signed by {}", text(item, "signed_by")));
    }
    notes.retain(|note| !note.is_empty());
    notes.join("; ")
}

fn done(args: &RemoteArgs, past: &str, info: &Value) -> Result<()> {
    if args.json {
        return output::json(info);
    }
    say(format!("{past}: {} {} ({})", text(info, "name"), text(info, "digest"), text(info, "hooks")))
}
