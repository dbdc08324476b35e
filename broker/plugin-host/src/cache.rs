//! Compiled components on disk, so that a restart does not compile them again.
//!
//! Loading one means running machine code from a file. So the folder and its files must be this user's and
//! writable by nobody else, every file carries a checksum of its content, and what fails a check is compiled anew.
//! What runs is a copy in memory that was sealed before it was used: nothing that happens to the file later, be it cut
//! short or written over, reaches it.

use std::fs::{self, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use wasmtime::component::Component;
use wasmtime::{Engine, Precompiled};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

use crate::artifact::Artifact;
use crate::error::HostError;

/// Files kept; the oldest go first.
const MAX_ENTRIES: usize = 64;
const HEADER: &[u8; 8] = b"mqgate\0\x02";
/// XXH3, 128 bits, least significant first. It tells what a disk or an interrupted write did. It need not tell what a forger did:
/// who may write here could make any checksum, and is kept out by owner and mode.
const CHECKSUM_BYTES: usize = 16;
/// Bytes that are copied and summed up together.
const PIECE: usize = 64 << 10;

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
        deserialize_sealed(engine, code).ok()
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

    /// The code in the file, copied to where it cannot change.
    fn read_checked(&self, path: &Path) -> Result<Option<File>, &'static str> {
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
        let (mut header, mut checksum) = ([0; HEADER.len()], [0; CHECKSUM_BYTES]);
        file.read_exact(&mut header).map_err(|_| "it is cut short")?;
        if header != *HEADER {
            return Err("it does not begin as it should");
        }
        file.read_exact(&mut checksum).map_err(|_| "it is cut short")?;
        let (code, sum) = sealed_copy(file).map_err(|_| "it cannot be copied into memory")?;
        if sum != u128::from_le_bytes(checksum) {
            return Err("its checksum is wrong");
        }
        Ok(Some(code))
    }

    fn write(&self, path: &Path, code: &[u8]) -> std::io::Result<()> {
        let temporary = path.with_extension(format!("{}.new", std::process::id()));
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(HEADER)?;
        file.write_all(&xxh3_128(code).to_le_bytes())?;
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

/// What is left to read of `file`, in memory and unchangeable from now on, with its checksum.
fn sealed_copy(mut file: File) -> std::io::Result<(File, u128)> {
    let mut copy = File::from(memfd_create("plugin", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    let mut sum = Xxh3Default::new();
    let mut piece = vec![0; PIECE];
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            break;
        }
        sum.update(&piece[..read]);
        copy.write_all(&piece[..read])?;
    }
    let seals =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
    Ok((copy, sum.digest128()))
}

/// Machine code that [`sealed_copy`] made, used where it lies: a second copy would be half of what loading costs.
fn deserialize_sealed(engine: &Engine, code: File) -> wasmtime::Result<Component> {
    let path = format!("/proc/self/fd/{}", code.as_raw_fd());
    deserialize_from(engine, code, Path::new(&path))
}

/// The same, of which `path` is another name.
#[allow(unsafe_code, reason = "wasmtime has no other way to load a compiled component")]
fn deserialize_from(engine: &Engine, mut code: File, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the bytes are wasmtime's, as in `deserialize`; and nobody can change them while they are in use.
    unsafe { Component::deserialize_file(engine, path) }.or_else(|_| {
        // Where /proc is not mounted, or a policy lets nothing run that is a file.
        let mut bytes = Vec::new();
        code.rewind()?;
        code.read_to_end(&mut bytes)?;
        deserialize(engine, &bytes)
    })
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
        for index in [0, HEADER.len(), HEADER.len() + CHECKSUM_BYTES, good.len() - 1] {
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
    fn what_runs_is_a_copy_that_nobody_can_change() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&[7; PIECE + 1]).expect("writes");
        file.rewind().expect("goes back");
        let (mut copy, sum) = sealed_copy(file.try_clone().expect("the same file")).expect("copied");
        file.set_len(0).expect("cut short");
        assert_eq!(sum, xxh3_128(&[7; PIECE + 1]));
        copy.rewind().expect("goes back");
        copy.write_all(b"other").expect_err("sealed");
        copy.set_len(0).expect_err("sealed");
        let mut bytes = Vec::new();
        copy.read_to_end(&mut bytes).expect("it is read");
        assert_eq!(bytes, [7; PIECE + 1]);
    }

    #[test]
    fn without_a_name_for_the_copy_its_bytes_are_loaded() {
        let engine = Engine::default();
        let code = engine.precompile_component(&component().bytes).expect("compiles");
        // What a broker without /proc meets.
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("code");
        fs::write(&path, code).expect("writes");
        let (sealed, _) = sealed_copy(File::open(&path).expect("opens")).expect("copied");
        deserialize_from(&engine, sealed, Path::new("/nowhere")).expect("loads");
    }

    #[test]
    fn a_folder_open_to_others_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("sets");
        let error = CompileCache::open(folder.path(), &Engine::default()).err().expect("refused");
        assert!(error.to_string().contains("0700"), "{error}");
    }
}
