//! The registry on disk. Owns the directory, the database in it and the form of records; the only crate that
//! names the database. What a record means, and which change is allowed, is `identity`'s subject.
//!
//! The database engine (fjall) cuts its journal at the first entry that it cannot read, and opens as if
//! nothing had happened. So that damage is never taken for absence, every record carries a checksum
//! ([`envelope`]), and a file beside the database says up to which write it must be complete ([`manifest`]).

mod counts;
mod directory;
mod engine;
mod envelope;
mod index;
mod journal;
mod keys;
mod kv;
mod manifest;
mod migrate;
mod outbox;
mod query;
mod records;
mod restore;
mod seen;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use mqgate_identity::registry::{DEFAULT_OUTBOX_EVENTS, StorageError};
use mqgate_identity::time::UnixMillis;

use self::counts::Counts;
use self::engine::Engine;
pub use self::restore::{RestoreReport, restore};

/// Sizes of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageOptions {
    /// Bytes of memory for reading.
    pub cache_bytes: u64,
    /// Bytes collected in memory before they are sorted into a file.
    pub write_buffer_bytes: u64,
    /// Background threads.
    pub threads: usize,
    /// Events of the registry that are kept for who watches.
    pub outbox_events: u64,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 32 * 1024 * 1024,
            write_buffer_bytes: 16 * 1024 * 1024,
            threads: 1,
            outbox_events: DEFAULT_OUTBOX_EVENTS,
        }
    }
}

/// `mqgate_identity::registry::Storage` in a directory of its own. Every call may block; a write is durable
/// when it returns, and writers that wait at the same time share one synchronisation of the disk. A plugin's write
/// ([`Storage::kv`](mqgate_identity::registry::Storage::kv)) waits for none: the end of the process does not lose it,
/// and it is on the disk within a second or with the next write of the registry.
pub struct FjallStorage {
    engine: Arc<Engine>,
    synchroniser: Option<JoinHandle<()>>,
    counts: Counts,
    /// Some record is, or once was, bound to a client id.
    binds_client_ids: AtomicBool,
    outbox_events: u64,
    migrated: u64,
}

impl FjallStorage {
    /// Opens the storage at `path`, creating it if there is none, with access for its owner only. Fails if
    /// another process has it open, or if something that was written is missing or damaged.
    pub fn open(path: &Path, options: StorageOptions) -> Result<Self, StorageError> {
        let engine = Arc::new(Engine::open(path, options)?);
        let migrated = migrate::run(&engine)?;
        let counts = Counts::load(&engine.registry)?;
        let binds_client_ids = AtomicBool::new(index::has_client_ids(&engine.registry)?);
        let synchronised = Arc::clone(&engine);
        let synchroniser = std::thread::Builder::new()
            .name("storage-sync".to_owned())
            .spawn(move || synchronised.synchronise_soon())
            .map_err(|error| StorageError::Unavailable(format!("no thread for the storage: {error}")))?;
        let synchroniser = Some(synchroniser);
        let outbox_events = options.outbox_events;
        Ok(Self { engine, synchroniser, counts, binds_client_ids, outbox_events, migrated })
    }

    /// Device certificates that an older version wrote, and that were brought up to date when it was opened.
    pub fn migrated(&self) -> u64 {
        self.migrated
    }

    /// Removes entries of plugins that expired before `now`, at most `limit`, and says how many. Expired
    /// entries are not visible in any case; this gives their space back.
    pub fn sweep_expired(&self, now: UnixMillis, limit: usize) -> Result<usize, StorageError> {
        kv::sweep(&self.engine, now, limit)
    }
}

impl Drop for FjallStorage {
    fn drop(&mut self) {
        self.engine.close();
        if let Some(synchroniser) = self.synchroniser.take() {
            let _ = synchroniser.join();
        }
    }
}
