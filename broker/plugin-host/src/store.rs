//! What is kept of plugins beyond the process: components by digest, and one manifest of what was decided at runtime.
//!
//! The manifest is replaced in one step and is on the disk before a change is acknowledged: whenever the process ends,
//! what is found is the state before a change or the one after it. A component that does not have the digest it is
//! kept under is no component.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::artifact::Artifact;
use crate::error::HostError;
use crate::record::{Had, Record};

const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const COMPONENTS: &str = "components";
/// Ends the names of files that are being written.
const UNFINISHED: &str = "new";

/// What was decided at runtime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u32,
    /// Every member of the chains, built-in ones included, in the order in which they are asked.
    pub(crate) order: Vec<String>,
    pub(crate) plugins: Vec<Record>,
    /// What no record names any more.
    #[serde(default, skip_serializing_if = "Had::is_empty")]
    pub(crate) had: Had,
}

impl Manifest {
    pub(crate) fn new(order: Vec<String>, plugins: Vec<Record>, had: Had) -> Self {
        Self { format: FORMAT, order, plugins, had }
    }
}

impl Default for Manifest {
    fn default() -> Self {
        Self::new(Vec::new(), Vec::new(), Had::default())
    }
}

pub(crate) struct Store {
    folder: PathBuf,
    /// Digests of components that were uploaded and are used by no plugin, the oldest first.
    staged: Mutex<VecDeque<String>>,
    most_staged: usize,
}

impl Store {
    /// What cannot be read is an error: what was decided must not be forgotten silently.
    pub(crate) fn open(folder: &Path, most_staged: usize) -> Result<(Self, Manifest), HostError> {
        let failed = |why: String| HostError::Store { path: folder.display().to_string(), why };
        let components = folder.join(COMPONENTS);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&components)
            .map_err(|error| failed(error.to_string()))?;
        for folder in [folder, &components] {
            let metadata = fs::symlink_metadata(folder).map_err(|error| failed(error.to_string()))?;
            if !metadata.is_dir() || metadata.mode() & 0o077 != 0 {
                return Err(failed(format!(
                    "{} decides what the broker runs, so it must be a folder of mode 0700",
                    folder.display()
                )));
            }
        }
        let file = folder.join(MANIFEST);
        let manifest = match fs::read(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => Manifest::default(),
            Err(error) => return Err(failed(format!("{} cannot be read: {error}", file.display()))),
            Ok(bytes) => parse(&bytes).map_err(|why| {
                failed(format!(
                    "{} {why}\n  help: put a copy of it back, or remove it to have the plugins of the configuration \
                     and no others",
                    file.display()
                ))
            })?,
        };
        Ok((Self { folder: folder.to_owned(), staged: Mutex::default(), most_staged }, manifest))
    }

    /// The component that has this digest.
    pub(crate) fn read(&self, digest: &str) -> Result<Arc<[u8]>, String> {
        let path = self.component(digest).ok_or_else(|| format!("{digest:?} is no digest of a component"))?;
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => format!("no component {digest} is kept here"),
            _ => format!("{}: {error}", path.display()),
        })?;
        let found = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
        if found != digest {
            return Err(format!("{} is damaged: its digest is {found}", path.display()));
        }
        Ok(bytes.into())
    }

    /// Keeps a component, on the disk when this returns.
    pub(crate) fn put(&self, artifact: &Artifact) -> std::io::Result<()> {
        let digest = artifact.digest();
        let path = self.component(&digest).ok_or_else(|| std::io::Error::other("a digest without digits"))?;
        if self.read(&digest).is_ok() {
            return Ok(());
        }
        durable(&path, &artifact.bytes)
    }

    /// Replaces the manifest, on the disk when this returns.
    pub(crate) fn write(&self, manifest: &Manifest) -> std::io::Result<()> {
        durable(&self.folder.join(MANIFEST), &serde_json::to_vec_pretty(manifest)?)
    }

    /// Remembers a component that no plugin uses yet, and forgets the oldest beyond the limit.
    pub(crate) fn stage(&self, digest: &str) {
        let mut staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        staged.retain(|known| known != digest);
        staged.push_back(digest.to_owned());
        let gone = staged.len().saturating_sub(self.most_staged.max(1));
        staged.drain(..gone);
    }

    /// Removes every component that neither a record nor an upload names, and what was left half written.
    pub(crate) fn prune<'a>(&self, records: impl IntoIterator<Item = &'a Record>) {
        let staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        let versions = records.into_iter().flat_map(|record| &record.versions);
        let used = versions.map(|version| version.digest.as_str()).chain(staged.iter().map(String::as_str));
        let used: BTreeSet<PathBuf> = used.filter_map(|digest| self.component(digest)).collect();
        let unfinished = |path: &Path| path.extension().is_some_and(|extension| extension == UNFINISHED);
        let files =
            |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in files(self.folder.join(COMPONENTS)).filter(|path| !used.contains(path)) {
            let _ = fs::remove_file(path);
        }
        for path in files(self.folder.clone()).filter(|path| unfinished(path)) {
            let _ = fs::remove_file(path);
        }
    }

    /// Where the component of this digest is. `None`: it is no digest, and must not become a path.
    fn component(&self, digest: &str) -> Option<PathBuf> {
        let digits = digest.strip_prefix("sha256:")?;
        let fine =
            digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'));
        fine.then(|| self.folder.join(COMPONENTS).join(format!("{digits}.wasm")))
    }
}

fn parse(bytes: &[u8]) -> Result<Manifest, String> {
    let manifest: Manifest =
        serde_json::from_slice(bytes).map_err(|error| format!("is no list of plugins: {error}"))?;
    if manifest.format != FORMAT {
        return Err(format!(
            "was written by another version of the broker (format {}, not {FORMAT})",
            manifest.format
        ));
    }
    Ok(manifest)
}

/// Replaces a file in one step: its new content and its name are on the disk when this returns.
fn durable(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let fresh = path.with_extension(UNFINISHED);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&fresh, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use mqgate_identity::time::UnixMillis;

    use super::*;
    use crate::record::{How, Next};
    use crate::settings::Source;

    fn component(text: &str) -> Artifact {
        let bytes = wat::parse_str(format!("(component (import \"{text}\" (func)))")).expect("text");
        Artifact::read(&Source::Bytes(bytes.into())).expect("a component")
    }

    fn record(name: &str, digest: String) -> Record {
        let mut record = Record::new(name, None);
        let (by, how) = (String::from("admin"), How::Loaded);
        let (label, config, capabilities, signer) = (None, None, None, None);
        let next =
            Next { digest, pinned: true, bundled: false, label, config, capabilities, by, how, signer };
        record.push(next, UnixMillis(7), 8);
        record
    }

    fn opened(folder: &Path) -> (Store, Manifest) {
        Store::open(folder, 2).expect("it can be used")
    }

    #[test]
    fn what_was_written_is_found_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("plugins");
        let (store, empty) = opened(&folder);
        assert_eq!(empty, Manifest::default());
        let artifact = component("a");
        let manifest =
            Manifest::new(vec![String::from("p")], vec![record("p", artifact.digest())], Had::default());
        store.put(&artifact).expect("kept");
        store.write(&manifest).expect("kept");
        let (store, found) = opened(&folder);
        assert_eq!(found, manifest);
        assert_eq!(store.read(&artifact.digest()).as_deref(), Ok(&*artifact.bytes));
    }

    #[test]
    fn a_changed_component_and_a_path_are_no_component() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("plugins");
        let (store, _) = opened(&folder);
        let artifact = component("a");
        store.put(&artifact).expect("kept");
        let path = store.component(&artifact.digest()).expect("a digest");
        let mut bytes = fs::read(&path).expect("there");
        bytes.push(0);
        fs::write(&path, bytes).expect("written");
        assert!(store.read(&artifact.digest()).expect_err("refused").contains("damaged"));
        store.put(&artifact).expect("kept anew");
        assert!(store.read(&artifact.digest()).is_ok());
        for wrong in ["", "sha256:", "sha256:../../../../etc/passwd", &artifact.digest().to_uppercase()] {
            assert!(store.read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_nobody_names_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("plugins");
        let (store, _) = opened(&folder);
        let all = ["a", "b", "c", "d"].map(component);
        for artifact in &all {
            store.put(artifact).expect("kept");
        }
        // Two uploads are remembered.
        all[1..].iter().for_each(|artifact| store.stage(&artifact.digest()));
        let half = folder.join(COMPONENTS).join("half.new");
        fs::write(&half, "x").expect("written");
        store.prune(&[record("p", all[0].digest())]);
        let there = all.iter().map(|artifact| store.read(&artifact.digest()).is_ok()).collect::<Vec<_>>();
        assert_eq!(there, [true, false, true, true]);
        assert!(!half.exists());
        // A broker that is started again knows of no uploads.
        let (store, _) = opened(&folder);
        store.prune([]);
        assert!(store.read(&all[3].digest()).is_err());
    }

    #[test]
    fn a_manifest_that_cannot_be_read_is_not_taken_for_an_empty_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("plugins");
        drop(opened(&folder));
        for (text, said) in
            [("{", "no list of plugins"), (r#"{"format":2,"order":[],"plugins":[]}"#, "format 2")]
        {
            fs::write(folder.join(MANIFEST), text).expect("written");
            let error = Store::open(&folder, 2).err().expect("refused").to_string();
            assert!(error.contains(said) && error.contains("help:"), "{error}");
        }
        fs::remove_file(folder.join(MANIFEST)).expect("removed");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).expect("a mode");
        assert!(Store::open(&folder, 2).err().expect("refused").to_string().contains("0700"));
    }

    #[test]
    fn what_was_left_half_written_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("plugins");
        let (store, _) = opened(&folder);
        let manifest = Manifest::new(vec![String::from("p")], Vec::new(), Had::default());
        store.write(&manifest).expect("kept");
        fs::write(folder.join("manifest.new"), "{").expect("written");
        let (store, found) = opened(&folder);
        assert_eq!(found, manifest);
        fs::write(folder.join("manifest.new"), "{").expect("written");
        store.write(&Manifest::default()).expect("the rest is no obstacle");
    }
}
