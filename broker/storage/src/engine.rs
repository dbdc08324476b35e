//! The database: two spaces, atomic numbered writes, shared synchronisation. Knows bytes, not records.

use std::collections::BTreeMap;
use std::ops::{Bound, Deref};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fjall::config::{PartitioningPolicy, PinningPolicy};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, Slice};
use mqgate_identity::registry::StorageError;

use crate::StorageOptions;
use crate::directory::{self, DirectoryLock};
use crate::envelope;
use crate::journal::Journal;
use crate::keys::after_prefix;
use crate::manifest::{Manifest, ManifestError, Numbers};

/// Where the number of a space's last write is kept. It is in the space itself, so that the database cannot
/// keep the number and lose the write. Keys of records begin with a letter.
const NUMBER_KEY: &[u8] = b"#";
/// The database's own folder.
const DATABASE: &str = "db";
/// Of all journals together; the least that the database takes.
const JOURNAL_BYTES: u64 = 64 * 1024 * 1024;
/// New tables of a space in which everything is looked for before they are merged. With twice as many the database slows
/// writers down.
const MOST_UNMERGED: usize = 10;
/// Within which a write that does not wait for the disk is on it.
const WRITE_BEHIND: Duration = Duration::from_secs(1);

pub(crate) struct Engine {
    pub(crate) registry: Space,
    pub(crate) kv: Space,
    database: Database,
    journal: Journal,
    manifest: Mutex<Manifest>,
    synchronised: Mutex<Synchronised>,
    /// The disk was synchronised, or could not be.
    settled: Condvar,
    behind: Mutex<Behind>,
    /// A write is behind, or the storage closes.
    stirred: Condvar,
    /// A write failed half-way: nothing can be said of what is on disk until it is opened again.
    failed: AtomicBool,
    _lock: DirectoryLock,
}

/// Up to where the disk is synchronised. One writer does it for all that wait: those who come meanwhile are the next
/// group, and nobody waits longer than for its own.
struct Synchronised {
    numbers: Numbers,
    /// Somebody is at it.
    running: bool,
}

/// Writes that did not wait for the disk.
#[derive(Default)]
struct Behind {
    /// There are some.
    waiting: bool,
    closed: bool,
}

/// One tree of the database.
pub(crate) struct Space {
    pub(crate) keyspace: Keyspace,
    index: usize,
    /// Held by the one who reads in order to write.
    writer: Mutex<()>,
    /// Number of the last write applied, perhaps not synchronised yet.
    number: AtomicU64,
}

/// What is stored under a key, as the database holds it.
pub(crate) struct Payload {
    sealed: Slice,
    start: usize,
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.sealed[self.start..]
    }
}

/// What a write will do, all of it or nothing. The last word on a key counts: the database itself must not
/// see a key twice in one batch.
#[derive(Default)]
pub(crate) struct Batch {
    /// `None`: removed.
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Batch {
    pub(crate) fn put(&mut self, key: &[u8], payload: &[u8]) {
        self.changes.insert(key.to_vec(), Some(payload.to_vec()));
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        self.changes.insert(key.to_vec(), None);
    }

    /// What this batch makes of a key, if it changes it.
    pub(crate) fn change(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        self.changes.get(key).map(Option::as_deref)
    }

    /// Keys with this prefix that the batch puts.
    pub(crate) fn puts<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.changes
            .range(prefix.to_vec()..)
            .take_while(move |(key, _)| key.starts_with(prefix))
            .filter(|(_, payload)| payload.is_some())
            .map(|(key, _)| &**key)
    }
}

impl Engine {
    pub(crate) fn open(path: &Path, options: StorageOptions) -> Result<Self, StorageError> {
        let lock = directory::claim(path)?;
        // The engine asserts its invariants while it recovers; on a damaged disk they may not hold.
        let opened = std::panic::catch_unwind(AssertUnwindSafe(|| open_database(path, options)));
        let (database, registry, kv) = opened.unwrap_or_else(|_| {
            Err(StorageError::Corrupt(format!("{}: the database cannot be read", path.display())))
        })?;
        let numbers = [registry.number.load(Ordering::Relaxed), kv.number.load(Ordering::Relaxed)];
        let manifest = open_manifest(path, numbers)?;
        Ok(Self {
            registry,
            kv,
            database,
            journal: Journal::of(path.join(DATABASE)),
            synchronised: Mutex::new(Synchronised { numbers: manifest.numbers(), running: false }),
            settled: Condvar::new(),
            behind: Mutex::default(),
            stirred: Condvar::new(),
            manifest: Mutex::new(manifest),
            failed: AtomicBool::new(false),
            _lock: lock,
        })
    }

    /// Runs `change`, which reads and fills the batch, alone on `space`; then makes the batch durable. An error
    /// of `change`, or an empty batch, writes nothing.
    pub(crate) fn write<T, E: From<StorageError>>(
        &self,
        space: &Space,
        change: impl FnOnce(&mut Batch) -> Result<T, E>,
    ) -> Result<T, E> {
        self.write_beside(space, change, &mut || ())
    }

    /// The same; calls `applied` when the batch is written and the disk is yet to be synchronised.
    pub(crate) fn write_beside<T, E: From<StorageError>>(
        &self,
        space: &Space,
        change: impl FnOnce(&mut Batch) -> Result<T, E>,
        applied: &mut dyn FnMut(),
    ) -> Result<T, E> {
        let (answer, number) = self.apply(space, change)?;
        if let Some(number) = number {
            applied();
            self.synchronise(space, number)?;
        }
        Ok(answer)
    }

    /// As [`Engine::write`], but does not wait for the disk: it is synchronised with the next write that does, or by
    /// [`Engine::synchronise_soon`]. The operating system has the batch: the end of this process does not lose it.
    pub(crate) fn write_behind<T, E: From<StorageError>>(
        &self,
        space: &Space,
        change: impl FnOnce(&mut Batch) -> Result<T, E>,
    ) -> Result<T, E> {
        let (answer, number) = self.apply(space, change)?;
        if number.is_some() {
            let mut behind = guard(&self.behind);
            if !behind.waiting {
                behind.waiting = true;
                self.stirred.notify_all();
            }
        }
        Ok(answer)
    }

    /// What a thread of its own does until [`Engine::close`]: synchronises the disk [`WRITE_BEHIND`] after the first
    /// write that did not wait for it.
    pub(crate) fn synchronise_soon(&self) {
        let mut behind = guard(&self.behind);
        while !behind.closed || behind.waiting {
            if !behind.waiting {
                behind = self.stirred.wait(behind).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let pause = self.stirred.wait_timeout_while(behind, WRITE_BEHIND, |behind| !behind.closed);
            (behind, _) = pause.unwrap_or_else(PoisonError::into_inner);
            behind.waiting = false;
            drop(behind);
            // What could not be written is said to every write from now on.
            let _ = self.synchronise(&self.kv, self.kv.number.load(Ordering::Acquire));
            behind = guard(&self.behind);
        }
    }

    /// Ends [`Engine::synchronise_soon`], once what waits for it is on the disk.
    pub(crate) fn close(&self) {
        guard(&self.behind).closed = true;
        self.stirred.notify_all();
    }

    /// Applies what `change` makes; answers its number, unless there is nothing to write.
    fn apply<T, E: From<StorageError>>(
        &self,
        space: &Space,
        change: impl FnOnce(&mut Batch) -> Result<T, E>,
    ) -> Result<(T, Option<u64>), E> {
        let _writer = guard(&space.writer);
        self.check_usable()?;
        let mut batch = Batch::default();
        let answer = change(&mut batch)?;
        if batch.changes.is_empty() {
            return Ok((answer, None));
        }
        let number = space.number.load(Ordering::Acquire) + 1;
        batch.put(NUMBER_KEY, &number.to_be_bytes());
        let mut commit = self.database.batch();
        for (key, value) in batch.changes {
            match value {
                Some(payload) => {
                    let sealed = envelope::seal(&key, &payload);
                    commit.insert(&space.keyspace, key, sealed);
                }
                None => commit.remove(&space.keyspace, key),
            }
        }
        commit.commit().map_err(|error| self.fail(&format!("a write failed: {error}")))?;
        space.number.store(number, Ordering::Release);
        Ok((answer, Some(number)))
    }

    pub(crate) fn check_usable(&self) -> Result<(), StorageError> {
        if self.failed.load(Ordering::Acquire) {
            return Err(StorageError::Unavailable(
                "an earlier write failed; check the disk and restart mqgate".to_owned(),
            ));
        }
        Ok(())
    }

    fn synchronise(&self, space: &Space, number: u64) -> Result<(), StorageError> {
        let mut state = guard(&self.synchronised);
        loop {
            if state.numbers[space.index] >= number {
                return Ok(());
            }
            self.check_usable()?;
            if !state.running {
                break;
            }
            state = self.settled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.running = true;
        drop(state);
        let done = self.synchronise_all();
        let mut state = guard(&self.synchronised);
        state.running = false;
        if let Ok(numbers) = &done {
            state.numbers = *numbers;
        }
        drop(state);
        self.settled.notify_all();
        done.map(drop)
    }

    /// Answers up to which writes.
    fn synchronise_all(&self) -> Result<Numbers, StorageError> {
        // Read before the disk is synchronised: what is applied later may not be included.
        let numbers = [self.registry.number.load(Ordering::Acquire), self.kv.number.load(Ordering::Acquire)];
        self.journal
            .synchronise()
            .map_err(|error| self.fail(&format!("the disk could not be synchronised: {error}")))?;
        guard(&self.manifest)
            .write(numbers)
            .map_err(|error| self.fail(&format!("the manifest could not be written: {error}")))?;
        Ok(numbers)
    }

    fn fail(&self, why: &str) -> StorageError {
        self.failed.store(true, Ordering::Release);
        StorageError::Unavailable(why.to_owned())
    }
}

impl Space {
    /// Nobody writes, and no write has to wait until tables are merged.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.writer.try_lock().is_ok()
            && self.keyspace.sealed_memtable_count() == 0
            && self.keyspace.l0_table_count() <= MOST_UNMERGED
    }

    /// The payload stored under `key`; `what` names the record in errors.
    pub(crate) fn get(&self, key: &[u8], what: impl Fn() -> String) -> Result<Option<Payload>, StorageError> {
        let Some(sealed) = self.keyspace.get(key).map_err(|error| read_error(&error, what()))? else {
            return Ok(None);
        };
        let start = sealed.len() - envelope::open(key, &sealed, what)?.len();
        Ok(Some(Payload { sealed, start }))
    }

    pub(crate) fn has(&self, key: &[u8]) -> Result<bool, StorageError> {
        self.keyspace
            .contains_key(key)
            .map_err(|error| read_error(&error, format!("key \"{}\"", key.escape_ascii())))
    }

    /// Keys from `from` up to and without `until`, in order; nothing of their values is read.
    pub(crate) fn keys(
        &self,
        from: &[u8],
        until: &[u8],
        what: fn(&[u8]) -> String,
    ) -> impl Iterator<Item = Result<Vec<u8>, StorageError>> + use<> {
        let name = what(from);
        self.keyspace.range(from.to_vec()..until.to_vec()).map(move |entry| {
            let key = entry.key().map_err(|error| read_error(&error, format!("keys after {name}")))?;
            Ok(key.to_vec())
        })
    }

    /// As [`Space::keys`], with their payloads.
    pub(crate) fn entries(
        &self,
        from: &[u8],
        until: &[u8],
        what: fn(&[u8]) -> String,
    ) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StorageError>> + use<> {
        let name = what(from);
        self.keyspace.range(from.to_vec()..until.to_vec()).map(move |entry| {
            let (key, sealed) =
                entry.into_inner().map_err(|error| read_error(&error, format!("keys after {name}")))?;
            let payload = envelope::open(&key, &sealed, || what(&key))?.to_vec();
            Ok((key.to_vec(), payload))
        })
    }

    /// Keys above `after` that begin with `prefix`, with their payloads, in order.
    pub(crate) fn scan<'a>(
        &self,
        prefix: &'a [u8],
        after: Option<&[u8]>,
        what: fn(&[u8]) -> String,
    ) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StorageError>> + use<'a> {
        // Where nothing is found, the database reads nothing of what comes behind.
        let end = after_prefix(prefix);
        let start = match after {
            Some(after) if *after < *end => Bound::Excluded(after.to_vec()),
            // Behind everything that begins so.
            Some(_) => Bound::Included(end.clone()),
            None => Bound::Included(prefix.to_vec()),
        };
        self.keyspace.range((start, Bound::Excluded(end))).map(move |entry| {
            let (key, sealed) = entry
                .into_inner()
                .map_err(|error| read_error(&error, format!("keys after {}", what(prefix))))?;
            let payload = envelope::open(&key, &sealed, || what(&key))?.to_vec();
            Ok((key.to_vec(), payload))
        })
    }
}

fn open_database(path: &Path, options: StorageOptions) -> Result<(Database, Space, Space), StorageError> {
    let opening = |error: fjall::Error| open_error(&error, path);
    let database = Database::builder(path.join(DATABASE))
        .cache_size(options.cache_bytes)
        .worker_threads(options.threads.max(1))
        // What is in the journals is read anew at every start.
        .max_journaling_size(JOURNAL_BYTES)
        .open()
        .map_err(opening)?;
    let space = |name: &str, index| {
        // One certificate is looked up among a million: filters (1.3 bytes for each) stay in memory, and the index of a
        // file comes from the disk in pieces of 4 KiB. In one piece it would be as large as half of the cache.
        let settings = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(options.write_buffer_bytes)
                .filter_block_pinning_policy(PinningPolicy::all(true))
                .index_block_partitioning_policy(PartitioningPolicy::all(true))
        };
        let keyspace = database.keyspace(name, settings).map_err(opening)?;
        let space = Space { keyspace, index, writer: Mutex::new(()), number: AtomicU64::new(0) };
        let what = || format!("the write number of \"{name}\"");
        if let Some(number) = space.get(NUMBER_KEY, what)? {
            let digits = (*number).try_into().map_err(|_| StorageError::Corrupt(what()))?;
            space.number.store(u64::from_be_bytes(digits), Ordering::Relaxed);
        }
        Ok::<_, StorageError>(space)
    };
    let (registry, kv) = (space("registry", 0)?, space("kv", 1)?);
    Ok((database, registry, kv))
}

/// Compares what is there with what must be there.
fn open_manifest(path: &Path, numbers: [u64; 2]) -> Result<Manifest, StorageError> {
    let file = path.join("manifest");
    let failed = |error: ManifestError| match error {
        ManifestError::Io(error) => StorageError::Unavailable(format!("{}: {error}", file.display())),
        ManifestError::Damaged => StorageError::Corrupt(format!("{}: the checksum is wrong", file.display())),
    };
    let mut manifest = match Manifest::open(&file).map_err(failed)? {
        Some(manifest) => manifest,
        None if numbers == [0; 2] => Manifest::create(&file, path).map_err(failed)?,
        None => {
            return Err(StorageError::Corrupt(format!("{} is missing beside a database", file.display())));
        }
    };
    let expected = manifest.numbers();
    let missing: u64 =
        expected.iter().zip(numbers).map(|(expected, found)| expected.saturating_sub(found)).sum();
    if missing > 0 {
        return Err(StorageError::Corrupt(format!(
            "{}: the last {missing} writes are missing from the database (its journal is damaged); restore a \
             backup of the directory",
            path.display()
        )));
    }
    if expected != numbers {
        // Written, and cut short before the manifest was: complete all the same.
        manifest.write(numbers).map_err(|error| failed(error.into()))?;
    }
    Ok(manifest)
}

fn open_error(error: &fjall::Error, path: &Path) -> StorageError {
    match error {
        fjall::Error::Locked => StorageError::Unavailable(format!(
            "the database in {} is in use by another process: is another mqgate running?",
            path.display()
        )),
        error => read_error(error, path.display().to_string()),
    }
}

fn read_error(error: &fjall::Error, what: String) -> StorageError {
    use std::error::Error as _;
    // An operating system's error may pass; everything else is something unreadable.
    let mut is_io = false;
    let mut cause = error.source();
    while let Some(error) = cause {
        is_io |= error.downcast_ref::<std::io::Error>().is_some_and(|error| {
            !matches!(error.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidData)
        });
        cause = error.source();
    }
    match error {
        fjall::Error::Poisoned | fjall::Error::Locked => {
            StorageError::Unavailable(format!("{what}: {error}"))
        }
        _ if is_io => StorageError::Unavailable(format!("{what}: {error}")),
        _ => StorageError::Corrupt(format!("{what}: {error}")),
    }
}

/// A panic while one of these was held cannot have left half a change: changes are applied in one step.
pub(crate) fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
