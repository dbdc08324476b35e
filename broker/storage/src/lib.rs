//! The registry on disk. Owns the directory, the database in it and the form of records; the only crate that
//! names the database. What a record means, and which change is allowed, is `identity`'s subject.
//!
//! The database engine (fjall) cuts its journal at the first entry that it cannot read, and opens as if
//! nothing had happened. So that damage is never taken for absence, every record carries a checksum
//! ([`envelope`]), and a file beside the database says up to which write it must be complete ([`manifest`]).

mod directory;
mod engine;
mod envelope;
mod kv;
mod manifest;
mod records;

use std::path::Path;

use mqgate_identity::registry::StorageError;
use mqgate_identity::time::UnixMillis;

use self::engine::Engine;

/// Sizes of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageOptions {
    /// Bytes of memory for reading.
    pub cache_bytes: u64,
    /// Bytes collected in memory before they are sorted into a file.
    pub write_buffer_bytes: u64,
    /// Background threads.
    pub threads: usize,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self { cache_bytes: 32 * 1024 * 1024, write_buffer_bytes: 16 * 1024 * 1024, threads: 1 }
    }
}

/// `mqgate_identity::registry::Storage` in a directory of its own. Every call may block; a write is durable
/// when it returns, and writers that wait at the same time share one synchronisation of the disk.
pub struct FjallStorage {
    engine: Engine,
}

impl FjallStorage {
    /// Opens the storage at `path`, creating it if there is none, with access for its owner only. Fails if
    /// another process has it open, or if something that was written is missing or damaged.
    pub fn open(path: &Path, options: StorageOptions) -> Result<Self, StorageError> {
        Ok(Self { engine: Engine::open(path, options)? })
    }

    /// Removes entries of plugins that expired before `now`, at most `limit`, and says how many. Expired
    /// entries are not visible in any case; this gives their space back.
    pub fn sweep_expired(&self, now: UnixMillis, limit: usize) -> Result<usize, StorageError> {
        kv::sweep(&self.engine, now, limit)
    }
}
