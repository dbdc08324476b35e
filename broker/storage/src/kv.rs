//! The key-value spaces of plugins: versions, quotas, expiry. A write does not wait for the disk: see
//! [`Engine::write_behind`].
//!
//! Keys: `e`+plugin+NUL+key (entry), `u`+plugin (usage), `x`+expiry+plugin+NUL+key (index by expiry).

use mqgate_identity::registry::{KvAnswer, KvEntry, KvError, KvOperation, KvQuota, KvRequest, StorageError};
use mqgate_identity::time::UnixMillis;

use crate::engine::{Batch, Engine, Space};

/// Bytes of a key.
const MAX_KEY_BYTES: usize = 512;
/// Keys on one page of a listing.
const MAX_PAGE: u32 = 1000;
/// Digits of a counter, and its sign.
const LONGEST_NUMBER: usize = 20;
/// Expired entries that a write clears away when the quota is used up.
const SWEEP_ON_WRITE: usize = 1024;

struct Entry {
    version: u64,
    expires: Option<UnixMillis>,
    value: Vec<u8>,
}

/// What a plugin has stored. `last_version` only rises, so that a version never comes back.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    bytes: u64,
    entries: u64,
    last_version: u64,
}

/// [`KvError`] has no case of its own for damage; what it says must not be lost.
struct Failure(KvError);

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self(KvError::Unavailable(error.to_string()))
    }
}

impl From<KvError> for Failure {
    fn from(error: KvError) -> Self {
        Self(error)
    }
}

pub(crate) fn run(engine: &Engine, plugin: &str, operation: KvOperation<'_>) -> Result<KvAnswer, KvError> {
    let KvOperation { now, quota, what } = operation;
    let place = Place { space: &engine.kv, plugin, now, quota };
    place.run(engine, what).map_err(|failure| failure.0)
}

/// The same, if it looks at a few keys and waits for nobody.
pub(crate) fn run_at_once(
    engine: &Engine,
    plugin: &str,
    operation: KvOperation<'_>,
) -> Option<Result<KvAnswer, KvError>> {
    let (key, value_bytes) = match operation.what {
        KvRequest::Get { .. } => return Some(run(engine, plugin, operation)),
        KvRequest::Set { key, value, .. } | KvRequest::Swap { key, value, .. } => (key, value.len()),
        KvRequest::Add { key, .. } => (key, LONGEST_NUMBER),
        KvRequest::Delete { key } => (key, 0),
        KvRequest::List { .. } => return None,
    };
    // Where the quota may be used up, a write first looks for what has expired, among the entries of everybody.
    let Usage { bytes, entries, .. } = usage(&engine.kv, plugin).ok()?;
    let KvQuota { bytes: most, entries: most_entries, .. } = operation.quota;
    let fits = entries < most_entries && bytes.saturating_add(size_of(key, value_bytes)) <= most;
    (fits && engine.kv.is_at_rest()).then(|| run(engine, plugin, operation))
}

struct Place<'a> {
    space: &'a Space,
    plugin: &'a str,
    now: UnixMillis,
    quota: KvQuota,
}

impl Place<'_> {
    fn run(&self, engine: &Engine, request: KvRequest<'_>) -> Result<KvAnswer, Failure> {
        if self.plugin.is_empty() || self.plugin.contains('\0') {
            return Err(KvError::Unavailable("a plugin's name is not empty and has no NUL".to_owned()).into());
        }
        engine.check_usable()?;
        match request {
            KvRequest::Get { key } => {
                check_key(key)?;
                let entry = self.live(key)?;
                Ok(KvAnswer::Entry(entry.map(|Entry { version, value, .. }| KvEntry { value, version })))
            }
            KvRequest::Set { key, value, expires } => {
                self.check_sizes(key, value)?;
                engine.write_behind(self.space, |batch| self.store(batch, key, value, expires))?;
                Ok(KvAnswer::Done)
            }
            KvRequest::Swap { key, expected, value, expires } => {
                self.check_sizes(key, value)?;
                let version = engine.write_behind(self.space, |batch| {
                    if self.live(key)?.map(|entry| entry.version) != expected {
                        return Err(Failure(KvError::Conflict));
                    }
                    self.store(batch, key, value, expires)
                })?;
                Ok(KvAnswer::Version(version))
            }
            KvRequest::Add { key, delta, expires } => {
                check_key(key)?;
                let sum = engine.write_behind(self.space, |batch| {
                    // A counter keeps the end it was born with: that is what a rate limit needs.
                    let (number, expires) = match self.live(key)? {
                        Some(entry) => (parse_number(&entry.value)?, entry.expires),
                        None => (0, expires),
                    };
                    let sum = number.saturating_add(delta);
                    let text = sum.to_string();
                    self.check_sizes(key, text.as_bytes())?;
                    self.store(batch, key, text.as_bytes(), expires)?;
                    Ok::<_, Failure>(sum)
                })?;
                Ok(KvAnswer::Number(sum))
            }
            KvRequest::Delete { key } => {
                check_key(key)?;
                engine.write_behind(self.space, |batch| {
                    let Some(entry) = self.stored(key)? else { return Ok(()) };
                    let mut usage = usage(self.space, self.plugin)?;
                    remove(batch, self.plugin, key, &entry, &mut usage)?;
                    put_usage(batch, self.plugin, usage);
                    Ok::<_, Failure>(())
                })?;
                Ok(KvAnswer::Done)
            }
            KvRequest::List { prefix, cursor, limit } => self.list(prefix, cursor, limit.clamp(1, MAX_PAGE)),
        }
    }

    fn check_sizes(&self, key: &str, value: &[u8]) -> Result<(), KvError> {
        check_key(key)?;
        match value.len() as u64 > u64::from(self.quota.value_bytes) {
            true => Err(KvError::TooLarge),
            false => Ok(()),
        }
    }

    fn stored(&self, key: &str) -> Result<Option<Entry>, StorageError> {
        let key = entry_key(self.plugin, key);
        let payload = self.space.get(&key, || name_of_key(&key))?;
        payload.map(|payload| parse_entry(&key, payload.to_vec())).transpose()
    }

    fn live(&self, key: &str) -> Result<Option<Entry>, StorageError> {
        Ok(self.stored(key)?.filter(|entry| !is_expired(entry.expires, self.now)))
    }

    /// Puts the entry, within the quota; answers its version.
    fn store(
        &self,
        batch: &mut Batch,
        key: &str,
        value: &[u8],
        expires: Option<UnixMillis>,
    ) -> Result<u64, Failure> {
        let mut usage = usage(self.space, self.plugin)?;
        if let Some(entry) = self.stored(key)? {
            remove(batch, self.plugin, key, &entry, &mut usage)?;
        }
        let size = size_of(key, value.len());
        let fits = |usage: &Usage| {
            usage.entries < self.quota.entries && usage.bytes.saturating_add(size) <= self.quota.bytes
        };
        if !fits(&usage) {
            self.clear_expired(batch, key, &mut usage)?;
        }
        if !fits(&usage) {
            return Err(KvError::QuotaExceeded.into());
        }
        let version = usage.last_version + 1;
        usage = Usage { bytes: usage.bytes + size, entries: usage.entries + 1, last_version: version };
        put_usage(batch, self.plugin, usage);
        let mut payload = Vec::with_capacity(16 + value.len());
        payload.extend_from_slice(&version.to_be_bytes());
        payload.extend_from_slice(&expires.map_or(0, |at| at.0.max(1)).to_be_bytes());
        payload.extend_from_slice(value);
        batch.put(&entry_key(self.plugin, key), &payload);
        if let Some(expires) = expires {
            batch.put(&expiry_key(expires, self.plugin, key), b"");
        }
        Ok(version)
    }

    /// Clears away this plugin's expired entries, except the one being written.
    fn clear_expired(&self, batch: &mut Batch, written: &str, usage: &mut Usage) -> Result<(), StorageError> {
        let mut cleared = 0;
        for entry in self.space.scan(b"x", None, name_of_key) {
            let (expiry, _) = entry?;
            let (expires, plugin, key) = parse_expiry_key(&expiry)?;
            if !is_expired(Some(expires), self.now) || cleared == SWEEP_ON_WRITE {
                break;
            }
            if plugin != self.plugin || key == written {
                continue;
            }
            if let Some(entry) = self.stored(&key)? {
                remove(batch, self.plugin, &key, &entry, usage)?;
                cleared += 1;
            }
        }
        Ok(())
    }

    fn list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<KvAnswer, Failure> {
        let scanned = entry_key(self.plugin, prefix);
        let skip = scanned.len() - prefix.len();
        // A cursor before the prefix would begin outside of it.
        let after = cursor.filter(|cursor| *cursor >= prefix).map(|cursor| entry_key(self.plugin, cursor));
        let mut keys: Vec<String> = Vec::new();
        for entry in self.space.scan(&scanned, after.as_deref(), name_of_key) {
            let (key, payload) = entry?;
            if is_expired(parse_entry(&key, payload)?.expires, self.now) {
                continue;
            }
            if keys.len() == limit as usize {
                let cursor = keys.last().cloned();
                return Ok(KvAnswer::Page { keys, cursor });
            }
            let name = key.get(skip..).and_then(|name| String::from_utf8(name.to_vec()).ok());
            keys.push(name.ok_or_else(|| StorageError::Corrupt(name_of_key(&key)))?);
        }
        Ok(KvAnswer::Page { keys, cursor: None })
    }
}

/// Removes entries that expired before `now`, of all plugins.
pub(crate) fn sweep(engine: &Engine, now: UnixMillis, limit: usize) -> Result<usize, StorageError> {
    let space = &engine.kv;
    engine.write(space, |batch| {
        let mut usages = std::collections::BTreeMap::new();
        let mut swept = 0;
        for entry in space.scan(b"x", None, name_of_key).take(limit) {
            let (expiry, _) = entry?;
            let (expires, plugin, key) = parse_expiry_key(&expiry)?;
            if !is_expired(Some(expires), now) {
                break;
            }
            let stored_key = entry_key(&plugin, &key);
            let payload = space.get(&stored_key, || name_of_key(&stored_key))?;
            let usage = match usages.get_mut(&plugin) {
                Some(usage) => usage,
                None => usages.entry(plugin.clone()).or_insert(usage(space, &plugin)?),
            };
            batch.remove(&expiry);
            if let Some(payload) = payload {
                let entry = parse_entry(&stored_key, payload.to_vec())?;
                if entry.expires == Some(expires) {
                    remove(batch, &plugin, &key, &entry, usage)?;
                }
            }
            swept += 1;
        }
        for (plugin, usage) in usages {
            put_usage(batch, &plugin, usage);
        }
        Ok(swept)
    })
}

fn remove(
    batch: &mut Batch,
    plugin: &str,
    key: &str,
    entry: &Entry,
    usage: &mut Usage,
) -> Result<(), StorageError> {
    let corrupt = || StorageError::Corrupt(format!("usage of plugin \"{plugin}\": it does not add up"));
    usage.bytes = usage.bytes.checked_sub(size_of(key, entry.value.len())).ok_or_else(corrupt)?;
    usage.entries = usage.entries.checked_sub(1).ok_or_else(corrupt)?;
    batch.remove(&entry_key(plugin, key));
    if let Some(expires) = entry.expires {
        batch.remove(&expiry_key(expires, plugin, key));
    }
    Ok(())
}

/// What an entry costs of the quota.
fn size_of(key: &str, value_bytes: usize) -> u64 {
    key.len() as u64 + value_bytes as u64
}

fn is_expired(expires: Option<UnixMillis>, now: UnixMillis) -> bool {
    expires.is_some_and(|expires| expires <= now)
}

fn check_key(key: &str) -> Result<(), KvError> {
    match key.len() > MAX_KEY_BYTES {
        true => Err(KvError::TooLarge),
        false => Ok(()),
    }
}

fn entry_key(plugin: &str, key: &str) -> Vec<u8> {
    [b"e", plugin.as_bytes(), &[0], key.as_bytes()].concat()
}

fn usage_key(plugin: &str) -> Vec<u8> {
    [b"u", plugin.as_bytes()].concat()
}

fn expiry_key(expires: UnixMillis, plugin: &str, key: &str) -> Vec<u8> {
    [b"x", &expires.0.max(1).to_be_bytes()[..], plugin.as_bytes(), &[0], key.as_bytes()].concat()
}

fn parse_expiry_key(raw: &[u8]) -> Result<(UnixMillis, String, String), StorageError> {
    let parts = || {
        let (expires, names) = raw.get(1..)?.split_at_checked(8)?;
        let (plugin, key) = std::str::from_utf8(names).ok()?.split_once('\0')?;
        let expires = UnixMillis(u64::from_be_bytes(expires.try_into().ok()?));
        Some((expires, plugin.to_owned(), key.to_owned()))
    };
    parts().ok_or_else(|| StorageError::Corrupt(name_of_key(raw)))
}

fn parse_entry(key: &[u8], mut payload: Vec<u8>) -> Result<Entry, StorageError> {
    let number = |at: usize| payload.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
    let (version, expires) = match (number(0), number(8)) {
        (Some(version), Some(expires)) => (version, expires),
        _ => return Err(StorageError::Corrupt(name_of_key(key))),
    };
    payload.drain(..16);
    Ok(Entry { version, expires: (expires > 0).then_some(UnixMillis(expires)), value: payload })
}

/// Counters are decimal text, so that every language of plugins can read them with `get`.
fn parse_number(value: &[u8]) -> Result<i64, KvError> {
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| KvError::Unavailable("the entry does not hold a number".to_owned()))
}

fn usage(space: &Space, plugin: &str) -> Result<Usage, StorageError> {
    let key = usage_key(plugin);
    let Some(payload) = space.get(&key, || name_of_key(&key))? else { return Ok(Usage::default()) };
    let number = |at: usize| {
        let digits = payload.get(at..at + 8).and_then(|digits| digits.try_into().ok());
        digits.map(u64::from_be_bytes).ok_or_else(|| StorageError::Corrupt(name_of_key(&key)))
    };
    Ok(Usage { bytes: number(0)?, entries: number(8)?, last_version: number(16)? })
}

fn put_usage(batch: &mut Batch, plugin: &str, usage: Usage) {
    let numbers = [usage.bytes, usage.entries, usage.last_version].map(u64::to_be_bytes);
    batch.put(&usage_key(plugin), numbers.as_flattened());
}

/// For messages: what a key stands for.
fn name_of_key(key: &[u8]) -> String {
    let rest = key.get(1..).unwrap_or_default();
    match key.first() {
        Some(b'e') => format!("plugin entry \"{}\"", rest.escape_ascii()),
        Some(b'u') => format!("usage of plugin \"{}\"", rest.escape_ascii()),
        Some(b'x') => format!("expiry index at \"{}\"", rest.escape_ascii()),
        _ => format!("key \"{}\"", key.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::StorageOptions;

    const QUOTA: KvQuota = KvQuota { bytes: 40, entries: 2, value_bytes: 32 };

    fn at_once(engine: &Engine, what: KvRequest<'_>) -> Option<Result<KvAnswer, KvError>> {
        run_at_once(engine, "p", KvOperation { now: UnixMillis(10), quota: QUOTA, what })
    }

    #[test]
    fn what_may_wait_is_not_done_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let engine = Engine::open(folder.path(), StorageOptions::default()).expect("opens");
        let set = |value| KvRequest::Set { key: "k", value, expires: None };
        assert_eq!(at_once(&engine, set(b"1")), Some(Ok(KvAnswer::Done)));
        let found = Some(Ok(KvAnswer::Entry(Some(KvEntry { value: b"1".to_vec(), version: 1 }))));
        assert_eq!(at_once(&engine, KvRequest::Get { key: "k" }), found);
        assert_eq!(
            at_once(&engine, KvRequest::Swap { key: "k", expected: None, value: b"2", expires: None }),
            Some(Err(KvError::Conflict))
        );
        assert_eq!(
            at_once(&engine, KvRequest::Add { key: "n", delta: 3, expires: None }),
            Some(Ok(KvAnswer::Number(3)))
        );
        assert_eq!(at_once(&engine, KvRequest::List { prefix: "", cursor: None, limit: 1 }), None);
        // Two entries are what the quota allows: another write would look for some that have expired.
        assert_eq!(at_once(&engine, set(b"2")), None);
        let delete = KvRequest::Delete { key: "n" };
        assert_eq!(at_once(&engine, delete), None);
        let operation = KvOperation { now: UnixMillis(10), quota: QUOTA, what: delete };
        assert_eq!(run(&engine, "p", operation), Ok(KvAnswer::Done));
        assert_eq!(at_once(&engine, set(&[b'x'; 32])), Some(Ok(KvAnswer::Done)));
        assert_eq!(at_once(&engine, set(&[b'x'; 32])), None, "it is full to the last byte but six");
        // Somebody else writes.
        std::thread::scope(|scope| {
            let written = engine.write(&engine.kv, |_| {
                let (tell, told) = std::sync::mpsc::channel();
                let engine = &engine;
                scope.spawn(move || {
                    let found = at_once(engine, KvRequest::Get { key: "k" });
                    let _ = tell.send((at_once(engine, KvRequest::Delete { key: "other" }), found));
                });
                let (deleted, found) =
                    told.recv_timeout(Duration::from_secs(20)).expect("it waits for nobody");
                assert_eq!(deleted, None);
                assert!(found.is_some());
                Ok::<_, StorageError>(())
            });
            written.expect("written");
        });
    }
}
