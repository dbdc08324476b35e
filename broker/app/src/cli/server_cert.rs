//! `mqgate server-cert`: certificates of the server that the running broker keeps.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use super::output::{self, date, say, table, text};
use super::reload::say_transition;
use super::remote::{Remote, RemoteArgs, read_file, segment};
use crate::exit::Failure;
use crate::secret;

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate server-cert add shop --chain shop.pem --key shop.key
  mqgate server-cert replace shop --chain new.pem --key new.key --password env:KEY_PASSWORD
  mqgate server-cert disable builtin

A listener serves it after `managed_certs = [{ bundle_name = \"shop\" }]`.")]
pub enum Command {
    /// List them, the built-in one included
    List {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Show one
    Show {
        #[command(flatten)]
        which: Which,
    },
    /// Keep another one
    Add {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        files: Files,
    },
    /// Put another chain and key under a name; listeners serve them at once
    Replace {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        files: Files,
        /// How long the old one is shown to who asks for a name that only it has, or cannot use the new one's key;
        /// 0s after a compromise. The default is `reload.grace`
        #[arg(long, value_name = "TIME")]
        grace: Option<String>,
    },
    /// Forget one; refused while a listener has it
    Remove {
        #[command(flatten)]
        which: Which,
    },
    /// Serve it again
    Enable {
        #[command(flatten)]
        which: Which,
    },
    /// Serve it no longer; it keeps its places in listeners
    Disable {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(clap::Args)]
pub struct Which {
    /// Its name; `builtin` is the built-in one
    name: String,
    /// Its namespace
    #[arg(long, default_value = "global")]
    namespace: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(clap::Args)]
pub struct Files {
    /// PEM: the server's own certificate, then those of the CAs that signed it
    #[arg(long, value_name = "FILE")]
    chain: PathBuf,
    /// PEM: its private key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Password of the key: `env:NAME`, `file://PATH`, or the text
    #[arg(long)]
    password: Option<String>,
}

const BUILTIN: &str = "builtin";

impl Which {
    fn is_builtin(&self) -> bool {
        self.name == BUILTIN && self.namespace == "global"
    }

    fn path(&self) -> String {
        match self.is_builtin() {
            true => String::from("/certs/default"),
            false => format!("/certs/bundles/{}/{}", segment(&self.namespace), segment(&self.name)),
        }
    }

    fn must_not_be_builtin(&self) -> Result<()> {
        match self.is_builtin() {
            true => Err(Failure::refused(
                "`builtin` is the broker's own certificate: it can be shown, enabled and disabled",
            )
            .into()),
            false => Ok(()),
        }
    }
}

impl Files {
    fn read(&self) -> Result<Value> {
        let text = |path: &Path| -> Result<String> {
            let bytes = read_file(path)?;
            Ok(String::from_utf8(bytes)
                .map_err(|_| Failure::refused(format!("{} is no PEM file", path.display())))?)
        };
        let password = self.password.as_deref().map(secret::resolve).transpose()?;
        Ok(json!({ "chain": text(&self.chain)?, "key": text(&self.key)?, "password": password }))
    }
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::List { remote } => list(&remote, config),
        Command::Show { which } => {
            let info = Remote::new(&which.remote, config)?.get(&which.path())?;
            if which.remote.json { output::json(&info) } else { show(&info) }
        }
        Command::Add { which, files } => {
            which.must_not_be_builtin()?;
            let mut body = files.read()?;
            body["name"] = Value::from(which.name.as_str());
            body["namespace"] = Value::from(which.namespace.as_str());
            done(&which, "added", &Remote::new(&which.remote, config)?.post("/certs/bundles", &body)?)
        }
        Command::Replace { which, files, grace } => {
            which.must_not_be_builtin()?;
            let remote = Remote::new(&which.remote, config)?;
            let grace = grace.map(|grace| format!("?grace={}", segment(&grace))).unwrap_or_default();
            let info = remote.put(&format!("{}{grace}", which.path()), &files.read()?)?;
            done(&which, "replaced", &info)?;
            if which.remote.json { Ok(()) } else { say_transition(&info) }
        }
        Command::Remove { which } => {
            which.must_not_be_builtin()?;
            done(&which, "removed", &Remote::new(&which.remote, config)?.delete(&which.path())?)
        }
        Command::Enable { which } => switch(&which, "enable", config),
        Command::Disable { which } => switch(&which, "disable", config),
    }
}

fn switch(which: &Which, verb: &str, config: Option<&Path>) -> Result<()> {
    let remote = Remote::new(&which.remote, config)?;
    let info = remote.post(&format!("{}/{verb}", which.path()), &Value::Null)?;
    done(which, &format!("{verb}d"), &info)
}

fn list(args: &RemoteArgs, config: Option<&Path>) -> Result<()> {
    let items = Remote::new(args, config)?.all("/certs/bundles")?;
    if args.json {
        return output::json(&Value::Array(items));
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            vec![
                text(item, "namespace"),
                text(item, "name"),
                String::from(if item["enabled"] == true { "enabled" } else { "disabled" }),
                date(item["not_after"].as_i64().unwrap_or_default()),
                text(item, "used_by"),
                text(item, "server_names"),
            ]
        })
        .collect();
    table(&["NAMESPACE", "NAME", "STATE", "EXPIRES", "LISTENERS", "SERVER NAMES"], &rows)
}

fn show(info: &Value) -> Result<()> {
    for name in ["namespace", "name", "enabled", "subject", "issuer", "serial", "fingerprint", "server_names"]
    {
        say(format!("{name:14} {}", output::printable(&text(info, name))))?;
    }
    for name in ["not_before", "not_after"] {
        say(format!("{name:14} {}", date(info[name].as_i64().unwrap_or_default())))?;
    }
    for name in ["chain_length", "stapled", "used_by", "warnings"] {
        say(format!("{name:14} {}", output::printable(&text(info, name))))?;
    }
    Ok(())
}

fn done(which: &Which, past: &str, info: &Value) -> Result<()> {
    if which.remote.json {
        return output::json(info);
    }
    say(format!("{past}: {}/{} ({})", which.namespace, which.name, text(info, "fingerprint")))?;
    if past == "removed" {
        return Ok(());
    }
    for warning in info["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        say(format!("  warning: {}", output::printable(warning)))?;
    }
    Ok(())
}
