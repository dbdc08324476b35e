//! What changes the chains without being asked: versions that do worse than the one before are taken back, and a folder
//! is watched whose components are loaded when they appear or change.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mqgate_identity::audit::names;
use mqgate_plugin_host::{
    Change, LoadError, PluginInfo, PluginSettings, Position, Provenance, Source, Stage,
};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::{PluginAdmin, ask_again, note_change, note_refusal, note_taken_back};
use crate::config::model;
use crate::pki::check_folder;
use crate::run::chain::signature_of;

/// Who wants what the folder brings.
const ACTOR: &str = "system";
/// No component is larger: the host says so, too, but a file is read whole before.
const MOST_BYTES: u64 = 32 << 20;

/// Begins both.
pub fn spawn(
    admin: PluginAdmin,
    config: &model::PluginHost,
    tasks: &mut JoinSet<()>,
    end: &CancellationToken,
) {
    let (watcher, ended) = (admin.clone(), end.clone());
    tasks.spawn(async move {
        let noted = |taken| {
            note_taken_back(&watcher.audit, &taken);
            ask_again(&watcher, watcher.reauthorize);
        };
        tokio::select! {
            () = ended.cancelled() => {}
            () = watcher.host.watch_versions(watcher.reauthorize, noted) => {}
        }
    });
    let Some(path) = config.watch.clone() else { return };
    let (interval, end) = (config.watch_interval.0, end.clone());
    tasks.spawn(async move {
        let mut folder = Folder { path, admin, files: HashMap::new(), is_refused: false };
        let mut tick = tokio::time::interval(interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                _ = tick.tick() => folder.look().await,
            }
        }
    });
}

struct Folder {
    path: PathBuf,
    admin: PluginAdmin,
    files: HashMap<PathBuf, Seen>,
    /// It was said that it cannot be used.
    is_refused: bool,
}

/// How a file was when it was looked at last.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
}

struct Seen {
    stamp: Stamp,
    /// It was taken over, or refused, as it is.
    is_done: bool,
}

impl Folder {
    async fn look(&mut self) {
        let path = self.path.clone();
        let listed = tokio::task::spawn_blocking(move || components(&path)).await;
        let found = match listed.map_err(|error| error.to_string()).and_then(|listed| listed) {
            Ok(found) => found,
            Err(error) => {
                if !self.is_refused {
                    tracing::error!(folder = %self.path.display(), error, "plugin_host.watch cannot be used");
                }
                self.is_refused = true;
                return;
            }
        };
        self.is_refused = false;
        self.files.retain(|file, _| found.iter().any(|(known, _)| known == file));
        for (file, stamp) in found {
            match self.files.get_mut(&file) {
                // As it was the last time: whoever wrote it has ended.
                Some(seen) if seen.stamp == stamp => {
                    if !std::mem::replace(&mut seen.is_done, true) {
                        self.take(&file).await;
                    }
                }
                _ => drop(self.files.insert(file, Seen { stamp, is_done: false })),
            }
        }
    }

    async fn take(&self, file: &Path) {
        let Some(name) = file.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned) else { return };
        let (host, audit) = (&self.admin.host, &self.admin.audit);
        if let Err(refused) = audit.check() {
            tracing::error!(file = %file.display(), %refused, "it is not loaded: that could not be written down");
            return;
        }
        let read_from = file.to_owned();
        let read = tokio::task::spawn_blocking(move || Delivery::read(&read_from)).await;
        let delivery = match read.map_err(|error| error.to_string()).and_then(|read| read) {
            Ok(delivery) => delivery,
            Err(message) => {
                let error = LoadError { stage: Stage::Verify, message };
                return self.refused(file, &name, None, &error);
            }
        };
        let digest = delivery.digest.clone();
        // Also what was rolled back, or unloaded: that was decided.
        if host.knows(&name, &digest) {
            return;
        }
        let before = host.find(&name);
        let outcome = self.deliver(&name, delivery, before.as_ref()).await;
        match outcome {
            Ok(info) => {
                tracing::info!(plugin = name, %digest, file = %file.display(), "taken over from the watched folder");
                let what = if before.is_some() { names::PLUGIN_SWAPPED } else { names::PLUGIN_LOADED };
                note_change(audit, what, ACTOR, &info, before.as_ref().map(|info| &*info.digest)).await;
                ask_again(&self.admin, self.admin.reauthorize);
            }
            Err(error) => self.refused(file, &name, Some(&digest), &error),
        }
    }

    async fn deliver(
        &self,
        name: &str,
        delivery: Delivery,
        before: Option<&PluginInfo>,
    ) -> Result<PluginInfo, LoadError> {
        let Delivery { component, provenance, config, .. } = delivery;
        let host = &self.admin.host;
        if before.is_some() {
            let signature = match provenance {
                Provenance::New(signature) => signature,
                Provenance::Bundled | Provenance::Accepted(_) => None,
            };
            let change =
                Change { signature, config, reauthorize: self.admin.reauthorize, ..Change::by(ACTOR) };
            return host.swap(name, change.to(component)).await;
        }
        let mut settings = PluginSettings::new(name, Source::Bytes(component.into()));
        settings.provenance = provenance;
        settings.required = false;
        if let Some(config) = config {
            settings.config = config;
        }
        host.load(settings, Position::Configured, ACTOR).await
    }

    fn refused(&self, file: &Path, name: &str, digest: Option<&str>, error: &LoadError) {
        tracing::error!(file = %file.display(), %error, "a component of the watched folder is refused");
        note_refusal(&self.admin.audit, ACTOR, name, digest, error);
    }
}

/// A component with what lies beside it.
struct Delivery {
    component: Vec<u8>,
    digest: String,
    provenance: Provenance,
    config: Option<Value>,
}

impl Delivery {
    fn read(file: &Path) -> Result<Self, String> {
        let failed = |file: &Path, error: std::io::Error| format!("{}: {error}", file.display());
        let bytes = std::fs::metadata(file).map_err(|error| failed(file, error))?.len();
        if bytes > MOST_BYTES {
            return Err(format!(
                "{} has {bytes} bytes; a component has at most {MOST_BYTES}",
                file.display()
            ));
        }
        let component = std::fs::read(file).map_err(|error| failed(file, error))?;
        let settings = file.with_extension("json");
        let config = match std::fs::read(&settings) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(&settings, error)),
            Ok(text) => Some(
                serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", settings.display()))?,
            ),
        };
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&component)));
        Ok(Self { component, digest, provenance: Provenance::New(signature_of(file)?), config })
    }
}

/// The components of a folder, by name. One that others can write into is refused: they would decide who may connect.
fn components(folder: &Path) -> Result<Vec<(PathBuf, Stamp)>, String> {
    check_folder(folder).map_err(|error| format!("{error:#}"))?;
    let entries = std::fs::read_dir(folder).map_err(|error| error.to_string())?;
    let mut found: Vec<(PathBuf, Stamp)> = entries
        .flatten()
        .filter_map(|entry| {
            let file = entry.path();
            let is_component = file.extension().is_some_and(|extension| extension == "wasm");
            let metadata =
                std::fs::metadata(&file).ok().filter(|metadata| is_component && metadata.is_file())?;
            Some((file, Stamp { modified: metadata.modified().ok(), bytes: metadata.len() }))
        })
        .collect();
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}
