//! The wall clock, read in one place, and whether it can be right.

pub mod sanity;

use std::time::{SystemTime, UNIX_EPOCH};

use mqgate_identity::time::UnixMillis;

/// Now, UTC.
pub fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
