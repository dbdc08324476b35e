//! What changes the chains without being asked: versions that do worse than the one before are taken back, and a folder
//! is watched whose components are loaded when they appear or change.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mqgate_identity::audit::names;
use mqgate_plugin_host::{
    Change, LoadError, PluginInfo, PluginSettings, PluginState, Position, Provenance, Signature, Source,
    Stage, TakenBack,
};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::{PluginAdmin, ask_again, note_change, note_refusal, note_taken_back};
use crate::config::model;
use crate::run::chain::signature_file;

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
        let noted = |taken: TakenBack| {
            let watcher = watcher.clone();
            async move {
                note_taken_back(&watcher.audit, &taken).await;
                // One that goes on changes nothing for anybody.
                if taken.outcome.is_ok() {
                    ask_again(&watcher, watcher.reauthorize);
                }
            }
        };
        tokio::select! {
            () = ended.cancelled() => {}
            () = watcher.host.watch_versions(watcher.reauthorize, noted) => {}
        }
    });
    let Some(path) = config.watch.clone() else { return };
    let (interval, end) = (config.watch_interval.0, end.clone());
    tasks.spawn(async move {
        let mut folder =
            Folder { path, admin, files: HashMap::new(), is_refused: false, is_unaudited: false };
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
    /// It was said that nothing can be written down.
    is_unaudited: bool,
}

/// How a component and what lies beside it were when they were looked at last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    component: Mark,
    settings: Option<Mark>,
    signature: Option<Mark>,
}

/// Another one for whatever is done to a file: to its content, its owner, or its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

struct Seen {
    stamp: Stamp,
    /// It was taken over, or refused, as it is.
    is_done: bool,
    /// As it was when it was read last.
    read: Option<Brought>,
}

/// What was read of a component, as far as the next look needs it.
#[derive(Debug, Clone, PartialEq)]
struct Brought {
    digest: String,
    config: Option<Value>,
}

/// What became of a file.
enum Taken {
    /// Nothing yet: the next look tries again.
    Later,
    /// Taken over, refused, or known already; what was read.
    Done(Option<Brought>),
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
            let seen = self.files.remove(&file);
            let seen = match seen {
                // As it was the last time: whoever wrote it has ended.
                Some(seen) if seen.stamp == stamp && !seen.is_done => {
                    match self.take(&file, seen.read.as_ref()).await {
                        Taken::Later => seen,
                        Taken::Done(read) => Seen { stamp, is_done: true, read: read.or(seen.read) },
                    }
                }
                Some(seen) if seen.stamp == stamp => seen,
                seen => Seen { stamp, is_done: false, read: seen.and_then(|seen| seen.read) },
            };
            self.files.insert(file, seen);
        }
    }

    /// `last`: what was read of it before, while this broker ran.
    async fn take(&mut self, file: &Path, last: Option<&Brought>) -> Taken {
        let Some(name) = file.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned) else {
            return Taken::Done(None);
        };
        if let Err(refused) = self.admin.audit.check() {
            if !std::mem::replace(&mut self.is_unaudited, true) {
                tracing::error!(file = %file.display(), %refused, "it waits: loading it could not be written down");
            }
            return Taken::Later;
        }
        self.is_unaudited = false;
        let read_from = file.to_owned();
        let Ok(read) = tokio::task::spawn_blocking(move || Delivery::read(&read_from)).await else {
            return Taken::Later;
        };
        let delivery = match read {
            Ok(delivery) => delivery,
            Err(message) => {
                let error = LoadError { stage: Stage::Verify, message };
                self.refused(file, &name, None, &error);
                return Taken::Done(None);
            }
        };
        let brought = Brought { digest: delivery.digest.clone(), config: delivery.config.clone() };
        let before = self.admin.host.find(&name);
        // Also what was rolled back, or unloaded: that was decided.
        if !self.admin.host.knows(&name, &brought.digest) {
            self.load(file, &name, delivery, before.as_ref()).await;
        } else if let Some(config) = other_settings(&brought, last)
            && let Some(before) = before.filter(|info| runs(info, &brought.digest))
        {
            self.configure(file, &name, config, &before).await;
        }
        Taken::Done(Some(brought))
    }

    async fn load(&self, file: &Path, name: &str, delivery: Delivery, before: Option<&PluginInfo>) {
        let digest = delivery.digest.clone();
        match self.deliver(name, delivery, before).await {
            Ok(info) => {
                tracing::info!(plugin = name, %digest, file = %file.display(), "taken over from the watched folder");
                let what = if before.is_some() { names::PLUGIN_SWAPPED } else { names::PLUGIN_LOADED };
                self.done(what, &info, before).await;
            }
            Err(error) => self.refused(file, name, Some(&digest), &error),
        }
    }

    /// Its component is the one that runs; only its settings are others.
    async fn configure(&self, file: &Path, name: &str, config: Value, before: &PluginInfo) {
        let change =
            Change { config: Some(config), reauthorize: self.admin.reauthorize, ..Change::by(ACTOR) };
        match self.admin.host.swap(name, change).await {
            Ok(info) => {
                tracing::info!(plugin = name, file = %file.display(), "its settings are those of the watched folder");
                self.done(names::PLUGIN_CONFIGURED, &info, Some(before)).await;
            }
            Err(error) => self.refused(file, name, Some(&before.digest), &error),
        }
    }

    async fn done(&self, what: &'static str, info: &PluginInfo, before: Option<&PluginInfo>) {
        let before = before.map(|info| &*info.digest);
        note_change(&self.admin.audit, what, ACTOR, info, before, None).await;
        ask_again(&self.admin, self.admin.reauthorize);
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
        let component = read(file)?.ok_or_else(|| format!("{} is gone", file.display()))?;
        let settings = file.with_extension("json");
        let config = read(&settings)?.map(|text| {
            serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", settings.display()))
        });
        let signature = signature_file(file);
        let signed = read(&signature)?.map(|text| {
            let parsed = String::from_utf8_lossy(&text).parse::<Signature>();
            parsed.map_err(|error| format!("{}: {error}", signature.display()))
        });
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&component)));
        let provenance = Provenance::New(signed.transpose()?);
        Ok(Self { component, digest, provenance, config: config.transpose()? })
    }
}

/// Settings that were not there when the same component was read last.
fn other_settings(brought: &Brought, last: Option<&Brought>) -> Option<Value> {
    let last = last.filter(|last| last.digest == brought.digest && last.config != brought.config);
    last.and_then(|_| brought.config.clone())
}

fn runs(info: &PluginInfo, digest: &str) -> bool {
    info.digest == digest && info.state == PluginState::Live
}

/// The components of a folder, by name.
fn components(folder: &Path) -> Result<Vec<(PathBuf, Stamp)>, String> {
    check(folder, &looked_at(folder)?)?;
    let entries = std::fs::read_dir(folder).map_err(|error| error.to_string())?;
    let mut found: Vec<(PathBuf, Stamp)> = entries
        .flatten()
        .filter_map(|entry| {
            let file = entry.path();
            let is_component = file.extension().is_some_and(|extension| extension == "wasm");
            let component = is_component.then(|| mark(&file)).flatten()?;
            let (settings, signature) = (mark(&file.with_extension("json")), mark(&signature_file(&file)));
            Some((file, Stamp { component, settings, signature }))
        })
        .collect();
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

fn mark(file: &Path) -> Option<Mark> {
    let found = std::fs::metadata(file).ok().filter(Metadata::is_file)?;
    let changed = (found.ctime(), found.ctime_nsec());
    Some(Mark { inode: found.ino(), bytes: found.len(), changed })
}

/// The content of a file that nobody else can have written. `None`: there is none.
fn read(file: &Path) -> Result<Option<Vec<u8>>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", file.display());
    let opened = match File::open(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    // What is checked is what is read, whatever stands under the name by now.
    let found = opened.metadata().map_err(failed)?;
    check(file, &found)?;
    // A link counts as what it leads to, and so does the folder that holds that.
    let real = file.canonicalize().map_err(failed)?;
    if let Some(folder) = real.parent() {
        check(folder, &looked_at(folder)?)?;
    }
    if found.len() > MOST_BYTES {
        let (file, bytes) = (file.display(), found.len());
        return Err(format!("{file} has {bytes} bytes; a component has at most {MOST_BYTES}"));
    }
    let mut content = Vec::new();
    opened.take(MOST_BYTES).read_to_end(&mut content).map_err(failed)?;
    Ok(Some(content))
}

fn looked_at(path: &Path) -> Result<Metadata, String> {
    std::fs::metadata(path).map_err(|error| format!("{} cannot be looked at: {error}", path.display()))
}

fn check(path: &Path, found: &Metadata) -> Result<(), String> {
    judge(path, found.uid(), found.mode() & 0o7777, nix::unistd::geteuid().as_raw())
}

/// Whoever can write there decides who may connect: that is for root and the broker's own user.
fn judge(path: &Path, owner: u32, mode: u32, own: u32) -> Result<(), String> {
    let path = path.display();
    if owner != 0 && owner != own {
        return Err(format!(
            "{path} belongs to the user {owner} (mode {mode:03o}), who could decide who may connect\n  help: chown {own} \
             {path}, after a look at what is in it"
        ));
    }
    if mode & 0o022 != 0 {
        return Err(format!(
            "others can write into {path} (mode {mode:03o}): they could decide who may connect\n  help: chmod go-w \
             {path}, after a look at what is in it"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn write(file: &Path, content: &str, mode: u32) {
        std::fs::write(file, content).unwrap();
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn root_and_the_broker_itself_are_believed_and_nobody_else() {
        for (owner, mode, said) in [
            (0, 0o755, None),
            (7, 0o644, None),
            (8, 0o644, Some("belongs to the user 8 (mode 644)")),
            (7, 0o664, Some("(mode 664)")),
            (7, 0o646, Some("(mode 646)")),
            (0, 0o1777, Some("(mode 1777)")),
        ] {
            let judged = judge(Path::new("/etc/mqgate/p.wasm"), owner, mode, 7);
            assert_eq!(judged.is_ok(), said.is_none(), "{owner} {mode:o}");
            let error = judged.err().unwrap_or_default();
            assert!(error.contains(said.unwrap_or_default()), "{error}");
            assert!(said.is_none() || (error.contains("/etc/mqgate/p.wasm") && error.contains("help: ch")));
        }
    }

    #[test]
    fn the_folder_the_component_its_settings_and_its_signature_are_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let file = |name: &str| folder.join(name);
        write(&file("p.wasm"), "component", 0o644);
        write(&file("p.json"), "{}", 0o600);
        assert!(Delivery::read(&file("p.wasm")).is_ok());
        for name in ["p.wasm", "p.json"] {
            std::fs::set_permissions(file(name), std::fs::Permissions::from_mode(0o664)).unwrap();
            let error = Delivery::read(&file("p.wasm")).err().expect("refused");
            assert!(error.contains(name) && error.contains("664") && error.contains("chmod go-w"), "{error}");
            std::fs::set_permissions(file(name), std::fs::Permissions::from_mode(0o644)).unwrap();
        }
        write(&file("p.wasm.sig"), "", 0o666);
        let error = Delivery::read(&file("p.wasm")).err().expect("refused");
        assert!(error.contains("p.wasm.sig") && error.contains("666"), "{error}");
        std::fs::remove_file(file("p.wasm.sig")).unwrap();
        // A link is no way around it.
        let open = tempfile::tempdir().unwrap();
        write(&open.path().join("q.wasm"), "component", 0o644);
        symlink(open.path().join("q.wasm"), file("q.wasm")).unwrap();
        assert!(Delivery::read(&file("q.wasm")).is_ok());
        std::fs::set_permissions(open.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Delivery::read(&file("q.wasm")).err().expect("refused").contains("777"));

        assert_eq!(components(folder).map(|found| found.len()), Ok(2));
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o775)).unwrap();
        let error = components(folder).expect_err("refused");
        assert!(error.contains("(mode 775)") && error.contains("help: chmod go-w"), "{error}");
    }

    #[test]
    fn whatever_is_done_to_a_file_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        write(&file("p.wasm"), "component", 0o644);
        let stamp = || components(folder.path()).unwrap()[0].1;
        let mut last = stamp();
        assert_eq!(stamp(), last);
        let mut changed = |what: &str| {
            let now = stamp();
            assert_ne!(std::mem::replace(&mut last, now), now, "{what}");
        };
        write(&file("p.json"), "{}", 0o600);
        changed("settings");
        write(&file("p.wasm.sig"), "x", 0o644);
        changed("a signature");
        write(&file("p.wasm.sig"), "xy", 0o644);
        changed("another signature");
        std::fs::remove_file(file("p.json")).unwrap();
        changed("no settings");
        write(&file("next"), "tnenopmoc", 0o644);
        std::fs::rename(file("next"), file("p.wasm")).unwrap();
        changed("another component of the same size");
    }

    #[test]
    fn settings_are_others_where_the_same_component_had_others() {
        let brought =
            |digest: &str, config: Value| Brought { digest: digest.to_owned(), config: Some(config) };
        let now = brought("a", 2.into());
        for (last, expected) in [
            (None, None),
            (Some(brought("a", 2.into())), None),
            (Some(brought("b", 1.into())), None),
            (Some(brought("a", 1.into())), Some(2.into())),
            (Some(Brought { digest: String::from("a"), config: None }), Some(2.into())),
        ] {
            assert_eq!(other_settings(&now, last.as_ref()), expected, "{last:?}");
        }
    }
}
