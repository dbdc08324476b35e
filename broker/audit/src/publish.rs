//! Publishing checkpoints in a folder that is out of the broker's reach: another machine's, or append-only.
//!
//! Each log has one file there, which is only ever appended to: `chattr +a` or a share that cannot be rewritten makes
//! sure of that. Its format is that of a segment's own checkpoints.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::files;
use crate::keys::log_of;
use crate::note::Checkpoint;

/// A folder to publish in. It is not made: a share that is not mounted must not be mistaken for it.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The file that a log's checkpoints are in.
    pub fn file(&self, log: &str) -> PathBuf {
        self.0.join(format!("mqgate-audit-{log}.checkpoints"))
    }

    /// Adds a checkpoint, and has it on the disk when this returns.
    pub fn publish(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        let path = self.file(log_of(&checkpoint.origin).unwrap_or("unknown"));
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        let mut file = options.open(&path).map_err(files::at(&path))?;
        file.write_all(format!("{}\n", checkpoint.note).as_bytes()).map_err(files::at(&path))?;
        file.sync_data().map_err(files::at(&path))
    }
}
