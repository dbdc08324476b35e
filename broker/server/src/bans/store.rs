//! Bans on the disk, in a key-value space that no plugin can have: a plugin's name has no colon.

use std::sync::Arc;

use mqgate_identity::registry::{KvAnswer, KvError, KvOperation, KvQuota, KvRequest, Storage};
use mqgate_identity::time::UnixMillis;

use super::Ban;
use crate::clock;

const SPACE: &str = "broker:bans";
/// A client id has at most 65,535 bytes, which JSON may make six times as many.
const LARGEST: u32 = 512 * 1024;
const PAGE: u32 = 500;

pub(super) struct Store {
    storage: Arc<dyn Storage>,
    quota: KvQuota,
}

impl Store {
    pub(super) fn new(storage: Arc<dyn Storage>, entries: usize) -> Self {
        let quota = KvQuota { bytes: u64::MAX, entries: entries as u64, value_bytes: LARGEST };
        Self { storage, quota }
    }

    fn run(&self, now: UnixMillis, what: KvRequest<'_>) -> Result<KvAnswer, KvError> {
        self.storage.kv(SPACE, KvOperation { now, quota: self.quota, what })
    }

    pub(super) fn put(&self, ban: &Ban) -> Result<(), KvError> {
        let value = serde_json::to_vec(ban).map_err(|error| KvError::Unavailable(error.to_string()))?;
        self.run(clock::now(), KvRequest::Set { key: &ban.id, value: &value, expires: ban.until }).map(drop)
    }

    pub(super) fn delete(&self, id: &str) -> Result<(), KvError> {
        self.run(clock::now(), KvRequest::Delete { key: id }).map(drop)
    }

    /// Every ban that is not over. One that cannot be read is an error: nobody is let in by damage.
    pub(super) fn all(&self, now: UnixMillis) -> Result<Vec<Ban>, KvError> {
        let mut bans = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let list = KvRequest::List { prefix: "", cursor: after.as_deref(), limit: PAGE };
            let KvAnswer::Page { keys, cursor } = self.run(now, list)? else { return Ok(bans) };
            for key in &keys {
                let KvAnswer::Entry(Some(entry)) = self.run(now, KvRequest::Get { key })? else { continue };
                let ban = serde_json::from_slice(&entry.value);
                bans.push(ban.map_err(|error| KvError::Unavailable(format!("the ban {key}: {error}")))?);
            }
            match cursor {
                Some(next) => after = Some(next),
                None => return Ok(bans),
            }
        }
    }
}
