//! How far each reader of a log is, kept over restarts.

use std::io;
use std::path::{Path, PathBuf};

use crate::files;

/// The cursors of a log's sinks, one small file each.
pub struct Cursors {
    folder: PathBuf,
}

impl Cursors {
    /// `folder` is the log's; the cursors are in a folder below it.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let folder = folder.join(files::CURSORS);
        files::create_folder(&folder)?;
        Ok(Self { folder })
    }

    /// The last record that `sink` has done with; `None` for one that never was here.
    pub fn read(&self, sink: &str) -> io::Result<Option<u64>> {
        let path = self.path(sink)?;
        match std::fs::read_to_string(&path) {
            Ok(text) => match text.trim_end().parse() {
                Ok(after) => Ok(Some(after)),
                Err(_) => Err(io::Error::other(format!(
                    "{}: holds no number; delete it to begin anew",
                    path.display()
                ))),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(files::at(&path)(error)),
        }
    }

    /// Keeps that `sink` has done with everything up to `after`.
    pub fn write(&self, sink: &str, after: u64) -> io::Result<()> {
        files::replace(&self.path(sink)?, format!("{after}\n").as_bytes())
    }

    /// Every cursor there is, by sink. What is no cursor is left out.
    pub fn all(&self) -> io::Result<Vec<(String, u64)>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(files::at(&self.folder))? {
            let name = entry?.file_name();
            if let Some(sink) = name.to_str()
                && let Ok(Some(after)) = self.read(sink)
            {
                all.push((sink.to_owned(), after));
            }
        }
        Ok(all)
    }

    pub fn remove(&self, sink: &str) -> io::Result<()> {
        match std::fs::remove_file(self.path(sink)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Names of sinks become names of files: nothing else may come of them.
    fn path(&self, sink: &str) -> io::Result<PathBuf> {
        let fits = (1..=128).contains(&sink.len())
            && sink.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if !fits {
            let what = format!("{sink:?} is no name for a sink: letters, digits, `-`, `_`, at most 128");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok(self.folder.join(sink))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_kept_and_its_name_stays_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let cursors = Cursors::open(folder.path()).unwrap();
        assert_eq!(cursors.read("syslog").unwrap(), None);
        cursors.write("syslog", 7).unwrap();
        cursors.write("syslog", 1_000_000).unwrap();
        assert_eq!(Cursors::open(folder.path()).unwrap().read("syslog").unwrap(), Some(1_000_000));
        std::fs::write(folder.path().join("cursors/syslog.next"), "3").unwrap();
        assert_eq!(cursors.all().unwrap(), [(String::from("syslog"), 1_000_000)]);
        cursors.remove("syslog").unwrap();
        cursors.remove("syslog").unwrap();
        assert_eq!(cursors.read("syslog").unwrap(), None);
        for name in ["", "..", "a/b", "a.next", &"x".repeat(129)] {
            assert!(cursors.write(name, 1).is_err(), "{name}");
        }
        std::fs::write(folder.path().join("cursors/broken"), "x").unwrap();
        assert!(cursors.read("broken").unwrap_err().to_string().contains("delete it"));
    }
}
