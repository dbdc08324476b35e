//! The files that a configuration is made of and names, and whether they have changed. Asked again and again
//! rather than told by the system: that works on every file system, and with every way of replacing a file (a
//! renamed one, a link that moves, a volume of a container).

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::config::Config;
use crate::config::model::{AdminTls, Listener};

/// What files hold, as far as it matters whether it is the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents(BTreeMap<PathBuf, Option<[u8; 32]>>);

/// What can be had of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
    inode: (u64, u64),
}

/// Files as they were when they were last looked at.
#[derive(Debug, Default)]
pub struct Watch {
    looks: BTreeMap<PathBuf, Option<Look>>,
    contents: Contents,
}

impl Contents {
    /// Reads them.
    pub fn read<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        Self(files.into_iter().map(|file| (file.clone(), hash(file))).collect())
    }

    /// Files that are in both and hold something else now.
    pub fn changed<'a>(&'a self, now: &'a Self) -> impl Iterator<Item = &'a PathBuf> {
        self.0
            .iter()
            .filter_map(|(file, before)| now.0.get(file).filter(|after| *after != before).map(|_| file))
    }
}

impl Watch {
    /// Whether something differs from what was seen before; the first look finds nothing. Reads only what does
    /// not look the same.
    pub fn look<'a>(&mut self, files: impl IntoIterator<Item = &'a PathBuf>) -> bool {
        let mut looks = BTreeMap::new();
        let mut contents = Contents::default();
        for file in files {
            let look = look(file);
            let known = self.looks.get(file).filter(|known| **known == look && look.is_some());
            let hash = match (known, self.contents.0.get(file)) {
                (Some(_), Some(hash)) => *hash,
                _ => hash(file),
            };
            looks.insert(file.clone(), look);
            contents.0.insert(file.clone(), hash);
        }
        let changed = self.contents.changed(&contents).next().is_some();
        (self.looks, self.contents) = (looks, contents);
        changed
    }
}

/// `None`: it cannot be read.
fn hash(file: &Path) -> Option<[u8; 32]> {
    Some(Sha256::digest(std::fs::read(file).ok()?).into())
}

fn look(file: &Path) -> Option<Look> {
    let data = std::fs::metadata(file).ok()?;
    Some(Look {
        modified: (data.mtime(), data.mtime_nsec()),
        changed: (data.ctime(), data.ctime_nsec()),
        size: data.size(),
        inode: (data.dev(), data.ino()),
    })
}

/// What the TLS of the admin API names.
pub fn of_admin(config: &Config) -> Vec<PathBuf> {
    let tls = config.admin.tls.as_ref().map(AdminTls::as_listener);
    tls.iter().flat_map(Listener::every_file).collect()
}

/// What the listeners of a configuration name, and the admin API's TLS.
pub fn of_listeners(config: &Config) -> Vec<PathBuf> {
    let listeners = config.listeners.values();
    let mut files: Vec<PathBuf> = listeners.flat_map(Listener::every_file).collect();
    files.extend(of_admin(config));
    files.sort();
    files.dedup();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_changed_when_it_holds_something_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, other) = (folder.path().join("a.pem"), folder.path().join("b.pem"));
        let write = |path: &Path, text: &str| std::fs::write(path, text).expect("written");
        let mut watch = Watch::default();
        let files = [file.clone(), other.clone()];
        write(&file, "one");
        assert!(!watch.look(&files), "the first look is what is compared with");
        assert!(!watch.look(&files));
        // The same length within the same moment: the kernel's times tell, and if not them, the inode.
        write(&folder.path().join("new"), "two");
        std::fs::rename(folder.path().join("new"), &file).expect("renamed");
        assert!(watch.look(&files));
        assert!(!watch.look(&files));
        // Written again with the same content: nothing has changed.
        write(&file, "two");
        assert!(!watch.look(&files));
        write(&other, "it is there now");
        assert!(watch.look(&files));
        std::fs::remove_file(&file).expect("removed");
        assert!(watch.look(&files));
        // A file that is watched from now on is no change.
        let third = folder.path().join("c.pem");
        assert!(!watch.look(&[other, third]));
    }

    #[test]
    fn contents_are_compared_where_both_know_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.pem");
        std::fs::write(&file, "one").expect("written");
        let before = Contents::read([&file]);
        assert_eq!(before.changed(&Contents::read([&file])).count(), 0);
        std::fs::write(&file, "two").expect("written");
        assert_eq!(before.changed(&Contents::read([&file])).collect::<Vec<_>>(), [&file]);
        assert_eq!(before.changed(&Contents::default()).count(), 0);
    }
}
