//! Brings the database's journal to the disk beside the database. Its own way to do so holds the lock that every write takes
//! for as long as the disk needs: who only wants to write, and waits for no disk, would wait all the same, and those who wait for
//! the disk could not gather meanwhile.
//!
//! What has been committed is in the file, since a commit leaves nothing in this process's memory. All of it that is not safe yet
//! is in the newest file: the database brings a journal to the disk before it begins the next.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::engine::guard;

/// The database names its journals by number.
const SUFFIX: &str = ".jnl";
/// A journal that is the newest one may be gone when it is opened, if the next one has begun meanwhile.
const ATTEMPTS: usize = 8;

pub(crate) struct Journal {
    folder: PathBuf,
    /// Kept open, so that a write that failed in the background is told here.
    newest: Mutex<Option<(u64, File)>>,
}

impl Journal {
    /// Of the database in this folder.
    pub(crate) fn of(folder: PathBuf) -> Self {
        Self { folder, newest: Mutex::default() }
    }

    /// Whatever was committed before this call is on the disk when it returns.
    pub(crate) fn synchronise(&self) -> io::Result<()> {
        let mut newest = guard(&self.newest);
        let mut gone = None;
        for _ in 0..ATTEMPTS {
            let number = newest_number(&self.folder)?;
            if let Some((_, file)) = newest.as_ref().filter(|(open, _)| *open == number) {
                return file.sync_data();
            }
            match File::open(self.folder.join(format!("{number}{SUFFIX}"))) {
                Ok(file) => *newest = Some((number, file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => gone = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(gone.unwrap_or_else(|| io::Error::other("the database begins one journal after the other")))
    }
}

fn newest_number(folder: &Path) -> io::Result<u64> {
    let mut newest = None;
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)?.parse().ok());
        newest = newest.max(number);
    }
    newest
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no journal in {}", folder.display())))
}

#[cfg(test)]
mod tests {
    use fjall::{Database, KeyspaceCreateOptions};

    use super::*;

    /// What the module says of the database, of the one that is built in.
    #[test]
    fn what_is_committed_is_in_the_newest_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::builder(folder.path()).open().expect("a database");
        let space = database.keyspace("space", KeyspaceCreateOptions::default).expect("a space");
        for word in ["quince", "medlar"] {
            let mut batch = database.batch();
            batch.insert(&space, word, "fruit");
            batch.commit().expect("committed");
            let newest = newest_number(folder.path()).expect("a journal");
            let journal = std::fs::read(folder.path().join(format!("{newest}{SUFFIX}"))).expect("it is read");
            assert!(journal.windows(word.len()).any(|part| part == word.as_bytes()), "{word}");
        }
        let journal = Journal::of(folder.path().to_owned());
        journal.synchronise().expect("it can be done");
        assert_eq!(journal.newest.lock().expect("free").as_ref().map(|(number, _)| *number), Some(0));
    }

    #[test]
    fn the_next_journal_is_noticed_and_none_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = Journal::of(folder.path().to_owned());
        assert_eq!(journal.synchronise().expect_err("there is none").kind(), io::ErrorKind::NotFound);
        for (name, newest) in [("9.jnl", 9), ("10.jnl", 10), ("2.jnl", 10), ("other.jnl", 10)] {
            std::fs::write(folder.path().join(name), "").expect("writes");
            journal.synchronise().expect("it can be done");
            let open = journal.newest.lock().expect("free").as_ref().map(|(number, _)| *number);
            assert_eq!(open, Some(newest), "{name}");
        }
        std::fs::remove_file(folder.path().join("10.jnl")).expect("removes");
        journal.synchronise().expect("it can be done");
    }
}
