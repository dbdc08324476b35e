//! What plugins may ask of their key-value spaces.

use crate::time::UnixMillis;

/// `mqgate:plugin/key-value`, one plugin's space. Times are for expiry; the caller owns the clock.
#[derive(Debug, Clone, Copy)]
pub struct KvOperation<'a> {
    pub now: UnixMillis,
    pub quota: KvQuota,
    pub what: KvRequest<'a>,
}

#[derive(Debug, Clone, Copy)]
pub struct KvQuota {
    pub bytes: u64,
    pub entries: u64,
    pub value_bytes: u32,
}

#[derive(Debug, Clone, Copy)]
pub enum KvRequest<'a> {
    Get { key: &'a str },
    Set { key: &'a str, value: &'a [u8], expires: Option<UnixMillis> },
    Swap { key: &'a str, expected: Option<u64>, value: &'a [u8], expires: Option<UnixMillis> },
    Add { key: &'a str, delta: i64, expires: Option<UnixMillis> },
    Delete { key: &'a str },
    List { prefix: &'a str, cursor: Option<&'a str>, limit: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvAnswer {
    Entry(Option<KvEntry>),
    Done,
    Version(u64),
    Number(i64),
    Page { keys: Vec<String>, cursor: Option<String> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvEntry {
    pub value: Vec<u8>,
    pub version: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    #[error("the bytes or entries granted are used up")]
    QuotaExceeded,
    #[error("a key over 512 bytes or a value over the granted size")]
    TooLarge,
    #[error("the entry changed since it was read")]
    Conflict,
    #[error("{0}")]
    Unavailable(String),
}
