//! Compiled components on disk, so that a restart does not compile them again.
//!
//! Loading one means running machine code from a file. So the folder and its files must be this user's and
//! writable by nobody else, every file carries a checksum of its content, and what fails a check is compiled anew.

use std::fs::{self, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use wasmtime::component::Component;
use wasmtime::{Engine, Precompiled};

use crate::artifact::Artifact;
use crate::error::HostError;

/// Files kept; the oldest go first.
const MAX_ENTRIES: usize = 64;
const HEADER: &[u8; 8] = b"mqgate\0\x01";
const DIGEST_BYTES: usize = 32;

pub(crate) struct CompileCache {
    folder: PathBuf,
    /// Who we are, as the file system sees it.
    owner: u32,
    /// Of engine, its settings and this machine's processor.
    compatibility: u64,
}

impl CompileCache {
    pub(crate) fn open(folder: &Path, engine: &Engine) -> Result<Self, HostError> {
        let failed = |why: String| HostError::Cache { path: folder.display().to_string(), why };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| failed(error.to_string()))?;
        let owner = own_user(folder).map_err(|error| failed(error.to_string()))?;
        let metadata = fs::symlink_metadata(folder).map_err(|error| failed(error.to_string()))?;
        if !metadata.is_dir() || metadata.uid() != owner || metadata.mode() & 0o077 != 0 {
            return Err(failed(String::from(
                "it holds machine code that the broker runs, so it must be a folder of the broker's own user with \
                 mode 0700",
            )));
        }
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self { folder: folder.to_owned(), owner, compatibility: hasher.finish() })
    }

    /// The compiled component, if it is there and beyond doubt.
    pub(crate) fn load(&self, engine: &Engine, artifact: &Artifact) -> Option<Component> {
        let path = self.path(artifact);
        let code = match self.read_checked(&path) {
            Ok(code) => code?,
            Err(why) => {
                tracing::warn!(path = %path.display(), why, "a compiled component is not trusted and made again");
                return None;
            }
        };
        deserialize(engine, &code).ok()
    }

    /// Keeps a compiled component. Failing to do so costs time at the next start, nothing else.
    pub(crate) fn store(&self, artifact: &Artifact, code: &[u8]) {
        match self.write(&self.path(artifact), code) {
            Ok(()) => self.prune(),
            Err(error) => tracing::warn!(%error, "a compiled component could not be kept"),
        }
    }

    fn path(&self, artifact: &Artifact) -> PathBuf {
        self.folder.join(format!("{}-{:016x}.cwasm", hex::encode(artifact.sha256), self.compatibility))
    }

    fn read_checked(&self, path: &Path) -> Result<Option<Vec<u8>>, &'static str> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(_) => return Err("it cannot be read"),
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => return Err("it is no plain file"),
        }
        let mut file = File::open(path).map_err(|_| "it cannot be read")?;
        let metadata = file.metadata().map_err(|_| "it cannot be read")?;
        if metadata.uid() != self.owner {
            return Err("it belongs to another user");
        }
        if metadata.mode() & 0o077 != 0 {
            return Err("others may read or write it");
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
        file.read_to_end(&mut bytes).map_err(|_| "it cannot be read")?;
        let body = bytes.strip_prefix(HEADER).ok_or("it does not begin as it should")?;
        let (digest, code) = body.split_at_checked(DIGEST_BYTES).ok_or("it is cut short")?;
        if Sha256::digest(code).as_slice() != digest {
            return Err("its checksum is wrong");
        }
        Ok(Some(code.to_vec()))
    }

    fn write(&self, path: &Path, code: &[u8]) -> std::io::Result<()> {
        let temporary = path.with_extension(format!("{}.new", std::process::id()));
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(HEADER)?;
        file.write_all(&Sha256::digest(code))?;
        file.write_all(code)?;
        drop(file);
        fs::rename(&temporary, path)
    }

    fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let mut files: Vec<(SystemTime, PathBuf)> = entries
            .flatten()
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        if files.len() > MAX_ENTRIES {
            files.sort();
            for (_, path) in &files[..files.len() - MAX_ENTRIES] {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// The user new files belong to, asked from the file system.
fn own_user(folder: &Path) -> std::io::Result<u32> {
    let probe = folder.join(format!("probe.{}.new", std::process::id()));
    let _ = fs::remove_file(&probe);
    let owner = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&probe)?.metadata()?.uid();
    fs::remove_file(&probe)?;
    Ok(owner)
}

/// Machine code for this engine: from the cache, or from whoever compiled it just now.
#[allow(unsafe_code, reason = "wasmtime has no other way to load a compiled component")]
pub(crate) fn deserialize(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    if !matches!(Engine::detect_precompiled(code), Some(Precompiled::Component)) {
        return Err(wasmtime::Error::msg("this is no machine code of a component"));
    }
    // SAFETY: the bytes must come from wasmtime's compiler. They are from this process or a child that runs the same
    // program (`compile`), over a pipe; or from a file in a folder that only this user can enter, owned by this user,
    // written by `CompileCache::write` alone, with a checksum over its content. Wasmtime checks its own version and the
    // engine's settings.
    unsafe { Component::deserialize(engine, code) }
}

/// FNV-1a. The key goes into file names, so it must not change with the standard library, as its hasher may.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::settings::Source;

    fn component() -> Artifact {
        let bytes = wat::parse_str("(component)").expect("text");
        Artifact::read(&Source::Bytes(bytes.into())).expect("a component")
    }

    #[test]
    fn what_was_stored_is_loaded_and_what_was_changed_is_not() {
        let engine = Engine::default();
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("compiled");
        let cache = CompileCache::open(&folder, &engine).expect("a cache");
        let artifact = component();
        assert!(cache.load(&engine, &artifact).is_none(), "nothing is there yet");
        cache.store(&artifact, &engine.precompile_component(&artifact.bytes).expect("compiles"));
        assert!(cache.load(&engine, &artifact).is_some());

        let path = cache.path(&artifact);
        let good = fs::read(&path).expect("the file");
        for index in [0, HEADER.len(), HEADER.len() + DIGEST_BYTES, good.len() - 1] {
            let mut bad = good.clone();
            bad[index] ^= 1;
            fs::write(&path, bad).expect("writes");
            assert!(cache.load(&engine, &artifact).is_none(), "byte {index} changed");
        }
        fs::write(&path, &good[..HEADER.len() + 5]).expect("writes");
        assert!(cache.load(&engine, &artifact).is_none(), "cut short");

        fs::write(&path, &good).expect("writes");
        assert!(cache.load(&engine, &artifact).is_some());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).expect("sets");
        assert!(cache.load(&engine, &artifact).is_none(), "others may write it");
        fs::remove_file(&path).expect("removes");
        std::os::unix::fs::symlink("/dev/null", &path).expect("links");
        assert!(cache.load(&engine, &artifact).is_none(), "a link");
    }

    #[test]
    fn a_folder_open_to_others_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("sets");
        let error = CompileCache::open(folder.path(), &Engine::default()).err().expect("refused");
        assert!(error.to_string().contains("0700"), "{error}");
    }
}
