//! The storage's directory: for its owner only, and for one process at a time.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use mqgate_identity::registry::StorageError;

/// Held as long as the storage is open; the system gives it back when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

/// Creates the directory if it is not there, closes it to others, and takes its lock.
pub(crate) fn claim(path: &Path) -> Result<DirectoryLock, StorageError> {
    let unusable = |what: &str, error: std::io::Error| {
        StorageError::Unavailable(format!("cannot {what} {} (data_dir): {error}", path.display()))
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| unusable("create the directory", error))?;
    let mode = path.metadata().map_err(|error| unusable("read", error))?.permissions().mode();
    if mode & 0o077 != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(0o700))
            .map_err(|error| unusable("close to other users the directory", error))?;
    }
    let lock_path = path.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(lock_path)
        .map_err(|error| unusable("open the lock file in", error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Only for the message: an unreadable number is left out.
            let _ = (&file).take(20).read_to_string(&mut holder);
            let process = match holder.trim().parse::<u32>() {
                Ok(id) => format!("process {id}"),
                Err(_) => "another process".to_owned(),
            };
            return Err(StorageError::Unavailable(format!(
                "{} is in use by {process}: is another mqgate running? data_dir = {}",
                path.display(),
                path.parent().unwrap_or(path).display()
            )));
        }
        Err(TryLockError::Error(error)) => return Err(unusable("lock", error)),
    }
    file.set_len(0)
        .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()))
        .map_err(|error| unusable("write the lock file in", error))?;
    Ok(DirectoryLock { _file: file })
}
