//! `mqgate registry`: the registry's files, while no broker has them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::reason::Reason;
use mqgate_server::audit::AuditLog;
use mqgate_server::clock;
use mqgate_server::metrics::{BuildInfo, Metrics};
use mqgate_storage::{FjallStorage, RestoreReport, StorageOptions, restore};
use serde_json::json;

use super::output::{self, say};
use crate::config::{Config, Inputs};
use crate::exit::Failure;
use crate::run::build;

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  cp -a /var/lib/mqgate/registry /backup/registry        while the broker is stopped
  mqgate registry restore /backup/registry               while the broker is stopped")]
pub enum Command {
    /// Put a backup back into the registry: what is revoked or deleted here stays so
    ///
    /// The broker must be stopped. Each CA and device certificate of the backup is merged with what is here: the
    /// newer record counts, and whatever is revoked in one of the two is revoked afterwards.
    Restore {
        /// A copy of the folder `registry` in `data_dir`
        backup: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub fn run(command: Command, config: Option<&Path>) -> Result<()> {
    match command {
        Command::Restore { backup, json: as_json } => {
            let report = put_back(&backup, &Inputs::gather(config)?.load()?.config)?;
            let RestoreReport { added, changed, kept, refused } = report;
            if as_json {
                return output::json(
                    &json!({ "added": added, "changed": changed, "kept": kept, "refused": refused }),
                );
            }
            say(format!("{added} records put back, {changed} changed, {kept} kept as they are here"))?;
            match refused {
                0 => Ok(()),
                refused => say(format!(
                    "{refused} left out: another certificate here has their issuer and serial number, or their key \
                     is compromised"
                )),
            }
        }
    }
}

fn put_back(backup: &Path, config: &Config) -> Result<RestoreReport> {
    if !backup.join("db").is_dir() {
        let text = format!("{} is no copy of a registry: there is no database in it", backup.display());
        return Err(Failure::refused(text).into());
    }
    let folder = config.node.data_dir.join("registry");
    if is_same(backup, &folder) {
        return Err(Failure::refused("the backup is the registry in use itself: give a copy").into());
    }
    let open = |path: &Path| {
        let options = StorageOptions {
            outbox_events: config.limits.registry_events.into(),
            ..StorageOptions::default()
        };
        FjallStorage::open(path, options)
            .map_err(|error| Failure::unavailable(format!("the storage in {}: {error}", path.display())))
    };
    let (current, from) = (open(&folder)?, open(backup)?);
    let metrics = Metrics::new(&BuildInfo::default())?;
    // What cannot be written down is not begun.
    let audit = AuditLog::open(build::audit_settings(config), Arc::clone(&metrics.gate))
        .map_err(|error| Failure::unavailable(error.to_string()))?;
    let report = restore(&current, &from, "command line", clock::now())
        .map_err(|error| Failure::unavailable(error.to_string()))?;
    let event = AuditEvent::new(names::REGISTRY_RESTORED, Outcome::Success, Reason::Ok)
        .actor("command line")
        .field("backup", backup.display().to_string())
        .field("added", report.added.to_string())
        .field("changed", report.changed.to_string())
        .field("refused", report.refused.to_string());
    audit.record(event);
    audit.close();
    Ok(report)
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}
