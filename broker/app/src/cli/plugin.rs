//! `mqgate plugin`: components in the running broker.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use super::output::{self, say, table, text};
use super::remote::{Remote, RemoteArgs, read_file, segment};
use crate::exit::{Exit, Failure};

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate plugin list
  mqgate plugin inspect my-policy.wasm
  mqgate plugin load my-policy.wasm --name my-policy --first --grant kv
  mqgate plugin swap cert-acl cert-acl-2.wasm --config-file cert-acl.json
  mqgate plugin unload my-policy

What is loaded this way lasts until the broker stops: put it into the configuration to keep it.")]
pub enum Command {
    /// List the members of the chains
    List {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Load a component into the chains
    Load {
        /// The component (.wasm)
        file: PathBuf,
        /// Its name; without it, the file's
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        config: ConfigArgs,
        /// What it may import: kv, registry.read, metrics, credentials
        #[arg(long, value_delimiter = ',')]
        grant: Vec<String>,
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
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Replace a component; on any failure the old one goes on
    Swap {
        /// Name of the plugin
        name: String,
        /// The new component (.wasm)
        file: PathBuf,
        #[command(flatten)]
        config: ConfigArgs,
        /// What happens to live sessions: none, lazy, eager; without it, as configured
        #[arg(long)]
        reauthorize: Option<String>,
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
    /// Say what a component is, without running it
    Inspect {
        /// The component (.wasm)
        file: PathBuf,
        #[command(flatten)]
        remote: RemoteArgs,
    },
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

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::List { remote } => list(&remote, config),
        Command::Load {
            file,
            name,
            config: settings,
            grant,
            first,
            last,
            before,
            after,
            required,
            remote,
        } => {
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
            let mut query = Query::new();
            query.push("name", Some(name));
            query.push("grant", (!grant.is_empty()).then(|| grant.join(",")));
            query.push("position", position);
            query.push("required", required.then(|| String::from("true")));
            query.push("config", settings.read()?.map(|value| value.to_string()));
            let info =
                Remote::new(&remote, config)?.upload("POST", &query.path("/plugins"), &read_file(&file)?)?;
            done(&remote, "loaded", &info)
        }
        Command::Swap { name, file, config: settings, reauthorize, remote } => {
            let mut query = Query::new();
            query.push("reauthorize", reauthorize);
            query.push("config", settings.read()?.map(|value| value.to_string()));
            let path = query.path(&format!("/plugins/{}", segment(&name)));
            let info = Remote::new(&remote, config)?.upload("PUT", &path, &read_file(&file)?)?;
            done(&remote, "swapped", &info)
        }
        Command::Unload { name, force, remote } => {
            let mut query = Query::new();
            query.push("force", force.then(|| String::from("true")));
            let path = query.path(&format!("/plugins/{}", segment(&name)));
            let info = Remote::new(&remote, config)?.delete(&path)?;
            if remote.json { output::json(&info) } else { say(format!("unloaded: {name}")) }
        }
        Command::Inspect { file, remote } => {
            let info = Remote::new(&remote, config)?.upload("POST", "/inspect-plugin", &read_file(&file)?)?;
            if remote.json {
                return output::json(&info);
            }
            for name in ["digest", "size", "version", "hooks", "imports", "other_exports"] {
                say(format!("{name:14} {}", output::printable(&text(&info, name))))?;
            }
            Ok(())
        }
    }
}

/// The query of a request. Settings travel in it because the body is the component.
struct Query(String);

impl Query {
    fn new() -> Self {
        Self(String::new())
    }

    fn push(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value {
            self.0.push(if self.0.is_empty() { '?' } else { '&' });
            self.0.push_str(&format!("{name}={}", segment(&value)));
        }
    }

    fn path(&self, path: &str) -> String {
        format!("{path}{}", self.0)
    }
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
                text(item, "generation"),
                text(item, "why"),
            ]
        })
        .collect();
    table(&["NAME", "STATE", "HOOKS", "DIGEST", "ISOLATION", "GENERATION", ""], &rows)
}

fn done(args: &RemoteArgs, past: &str, info: &Value) -> Result<()> {
    if args.json {
        return output::json(info);
    }
    say(format!("{past}: {} {} ({})", text(info, "name"), text(info, "digest"), text(info, "hooks")))
}
