//! Files of secrets: made for their owner alone, in one step.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::exit::{Exit, Failure};

/// Creates a folder for secrets, with mode 0700.
pub fn create_folder(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("{} cannot be created", dir.display()))
}

/// Refuses a folder in which others could put their files in the place of the broker's.
pub fn check_folder(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let found = std::fs::metadata(dir).with_context(|| format!("{} cannot be looked at", dir.display()))?;
    let mode = found.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(Failure::new(
            Exit::Config,
            format!(
                "others can write into {dir} (mode {mode:03o}): they could replace registry, token and compiled \
                 components\n  help: chmod go-w {dir}, or set `node.data_dir` to a folder of the broker's own",
                dir = dir.display()
            ),
        )
        .into());
    }
    Ok(())
}

/// Reads a file that somebody named.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path)
        .map_err(|error| Failure::refused(format!("{} cannot be read: {error}", path.display())).into())
}

/// Writes a file that only its owner can read, in one step: no reader sees half of it, no old mode stays.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes, Secrecy::Private, Existing::Replaced)
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrecy {
    /// Its owner.
    Private,
    /// Everybody, if the process's umask has nothing against it.
    Public,
}

/// What happens to a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and writing fails.
    Kept,
    Replaced,
}

/// Writes a file in one step. Its name until then cannot be guessed, and whatever has it already is not
/// written to.
pub fn write(path: &Path, bytes: &[u8], secrecy: Secrecy, existing: Existing) -> Result<()> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", hex::encode(random)));
    match place(path, &PathBuf::from(name), bytes, secrecy, existing) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && existing == Existing::Kept => {
            Err(is_there(path).into())
        }
        result => result.with_context(|| format!("{} cannot be written", path.display())),
    }
}

/// What is said of a file that would be overwritten.
pub fn is_there(path: &Path) -> Failure {
    Failure::refused(format!(
        "{} is there already and is not overwritten\n  help: choose another --name or --dir, or give --force",
        path.display()
    ))
}

/// Writes `bytes` into `fresh`, which must not be there, not even as a link, and makes it `path`.
fn place(
    path: &Path,
    fresh: &Path,
    bytes: &[u8],
    secrecy: Secrecy,
    existing: Existing,
) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mode = match secrecy {
        Secrecy::Private => 0o600,
        Secrecy::Public => 0o644,
    };
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(fresh)?;
    let mut write = || {
        file.write_all(bytes)?;
        file.sync_all()?;
        match existing {
            Existing::Replaced => std::fs::rename(fresh, path),
            // Unlike a rename, a link fails if the name is taken.
            Existing::Kept => std::fs::hard_link(fresh, path).and_then(|()| std::fs::remove_file(fresh)),
        }
    };
    write().inspect_err(|_| drop(std::fs::remove_file(fresh)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_folder_that_others_can_write_into_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        for (mode, good) in [(0o700, true), (0o755, true), (0o775, false), (0o757, false), (0o1777, false)] {
            std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).expect("a mode");
            assert_eq!(check_folder(folder.path()).is_ok(), good, "{mode:o}");
        }
    }

    #[test]
    fn a_file_that_waits_under_the_new_name_is_not_written_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, fresh) = (folder.path().join("token"), folder.path().join("token.new"));
        let victim = folder.path().join("victim");
        std::fs::write(&victim, "kept").expect("written");
        std::os::unix::fs::symlink(&victim, &fresh).expect("a link");
        let error =
            place(&file, &fresh, b"secret", Secrecy::Private, Existing::Replaced).expect_err("refused");
        assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&victim).expect("there"), "kept");
        assert!(fresh.is_symlink() && !file.exists(), "nothing was removed or made");

        write_private(&file, b"one").expect("written");
        write_private(&file, b"two").expect("written");
        assert_eq!(std::fs::read_to_string(&file).expect("there"), "two");
        assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 3, "nothing is left over");
    }

    #[test]
    fn a_file_that_is_there_is_kept_unless_asked_otherwise() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ca.key");
        write(&file, b"one", Secrecy::Private, Existing::Kept).expect("written");
        let error = write(&file, b"two", Secrecy::Private, Existing::Kept).expect_err("refused");
        assert!(error.to_string().contains("ca.key is there already"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).expect("there"), "one");
        write(&file, b"two", Secrecy::Public, Existing::Replaced).expect("written");
        assert_eq!(std::fs::read_to_string(&file).expect("there"), "two");
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing is left over");
    }
}
