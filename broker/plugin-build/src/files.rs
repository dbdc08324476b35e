//! Files as builds need them: locked, written whole, named by digest, and kept in the user's cache.

use std::env;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
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
    let base = base.context("neither XDG_CACHE_HOME nor HOME is set")?;
    let (ours, folder) = (base.join("mqgate"), base.join("mqgate").join(what));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    // Programs in it are run.
    for folder in [&ours, &folder] {
        own(folder)?;
    }
    Ok(folder)
}

/// Nobody but this user has a say about what is in the folder.
fn own(folder: &Path) -> Result<()> {
    let found = fs::symlink_metadata(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let user = nix::unistd::Uid::effective();
    ensure!(
        found.is_dir() && found.uid() == user.as_raw(),
        "{} is no folder of the user {user}, and tools are run from it: remove it, or set XDG_CACHE_HOME to a folder of \
         your own",
        folder.display()
    );
    ensure!(
        found.mode() & 0o022 == 0,
        "others may write to {0}, and tools are run from it: remove it, or say `chmod go-w {0}` if you know what is in it",
        folder.display()
    );
    Ok(())
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
    fn tools_are_kept_where_nobody_else_can_put_any() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("tools");
        fs::create_dir(&folder).unwrap();
        for (mode, good) in [(0o700, true), (0o755, true), (0o775, false), (0o757, false)] {
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(own(&folder).is_ok(), good, "{mode:o}");
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        let link = base.path().join("link");
        symlink(&folder, &link).unwrap();
        assert!(own(&link).unwrap_err().to_string().contains("no folder of the user"));
        // Of another user, where there is one that we are not.
        if !nix::unistd::Uid::effective().is_root() {
            assert!(own(Path::new("/")).is_err());
        } else {
            std::os::unix::fs::chown(&folder, Some(65534), None).unwrap();
            assert!(own(&folder).is_err());
        }
    }

    #[test]
    fn an_abandoned_download_leaves_nothing() {
        let cache = tempfile::tempdir().unwrap();
        let partial = Partial::create(cache.path()).unwrap();
        fs::write(partial.0.join("half.deb"), "x").unwrap();
        drop(partial);
        assert_eq!(cache.path().read_dir().unwrap().count(), 0);
    }
}
