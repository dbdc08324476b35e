//! Files as builds need them: locked, written whole, named by digest, and kept in the user's cache.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::progress::Progress;

/// `sha256:…`, as the broker writes digests.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// An exclusive lock that lasts as long as the returned file; says so when it has to wait.
pub fn lock(path: &Path, progress: &Progress<'_>) -> Result<fs::File> {
    let file = fs::File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    if file.try_lock().is_err() {
        progress.step("waiting for another build of the components");
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// Readers see the old file or the new one, never half of one.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Where tool chains are kept: a folder of the user's cache.
pub fn cache(what: &str) -> Result<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("mqgate").join(what))
}

/// A folder that goes away unless it was renamed: what is half fetched never counts as there.
pub struct Partial(pub PathBuf);

impl Partial {
    pub fn create(cache: &Path) -> Result<Self> {
        let folder = cache.join(format!(".partial-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abandoned_download_leaves_nothing() {
        let cache = tempfile::tempdir().unwrap();
        let partial = Partial::create(cache.path()).unwrap();
        fs::write(partial.0.join("half.deb"), "x").unwrap();
        drop(partial);
        assert_eq!(cache.path().read_dir().unwrap().count(), 0);
    }
}
