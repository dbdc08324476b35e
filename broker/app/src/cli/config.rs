//! `mqgate config`: check, show, init, docs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mqgate_plugin_host::offline::{Offline, OfflineError};
use mqgate_plugin_host::{Configured, HostSettings};

use super::output::{self, json, printable, say};
use super::plugin::offline;
use crate::config::{Config, Inputs, docs, init, show};
use crate::exit::{Exit, Failure};
use crate::run::{self, chain};

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  mqgate config init                     writes a commented ./mqgate.toml
  mqgate config check --config my.toml
  mqgate config check --plugins --config my.toml
  mqgate config show --json")]
pub enum Command {
    /// Say everything that is wrong, with line, key and remedy
    Check {
        /// Load the components, too, as a broker would: each compiles, and takes its settings
        #[arg(long)]
        plugins: bool,
    },
    /// Print what holds, and where each value came from; secrets are left out
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write a commented configuration to start from
    Init {
        /// The file; `-` prints it
        #[arg(default_value = "mqgate.toml")]
        file: PathBuf,
        /// Replace a file that is there
        #[arg(long)]
        force: bool,
    },
    /// Print the reference of every key, as Markdown
    Docs,
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::Check { plugins } => {
            let inputs = Inputs::gather(config)?;
            let loaded = inputs.load_with_files()?;
            for warning in loaded.warnings.lines() {
                output::warn(&warning);
            }
            if plugins {
                try_plugins(&run::effective(&inputs)?)?;
            }
            match loaded.file {
                Some(file) => say(format!("{}: good", file.display())),
                None => say("there is no configuration file: the built-in default holds, and is good"),
            }
        }
        Command::Show { json: as_json } => {
            let inputs = Inputs::gather(config)?;
            let entries = show::entries(&inputs.load()?.config, &inputs);
            match as_json {
                true => json(&serde_json::to_value(&entries)?),
                false => say(show::render(&entries).trim_end()),
            }
        }
        Command::Init { file, force } => {
            if file == Path::new("-") {
                return say(init::TEMPLATE.trim_end());
            }
            if file.exists() && !force {
                return Err(Failure::refused(format!(
                    "{} is there already: give another name, or --force",
                    file.display()
                ))
                .into());
            }
            std::fs::write(&file, init::TEMPLATE)
                .with_context(|| format!("{} cannot be written", file.display()))?;
            say(format!(
                "wrote {0}; next: `mqgate pki demo --dir pki`, then `mqgate run --config {0}`",
                file.display()
            ))
        }
        Command::Docs => say(docs::markdown().trim_end()),
    }
}

/// Everything up to the moment at which a component would go live. All that would not are named.
fn try_plugins(config: &Config) -> Result<()> {
    let mut wrong = Vec::new();
    for Configured { settings, missing } in chain::configured(config) {
        // The broker's own folder is the broker's.
        let host = HostSettings { cache_dir: offline::cache(), ..chain::host_settings(config) };
        let tried = match missing {
            Some(error) => Err(OfflineError::Load(error)),
            None => Offline::new(&settings.name, settings.source.clone(), host)
                .and_then(|plugin| Ok(plugin.check(&settings)?)),
        };
        if let Err(error) = tried {
            let lines: Vec<String> = error.to_string().lines().map(printable).collect();
            wrong.push(format!("plugin `{}`: {}", settings.name, lines.join("\n  ")));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Config, wrong.join("\n")).into()) }
}
