//! How many registrations per minute. A token bucket whose whole state is one moment: when the bucket will be
//! full again (the generic cell rate algorithm).

use mqgate_plugin_sdk::host::KeyValue;
use mqgate_plugin_sdk::types::{HookError, KeyValueError, UnixMillis};

/// Instances that register at the same moment get in each other's way; each round one of them wins.
const MOST_ATTEMPTS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    Yes,
    /// The bucket is empty, or too many want it at once.
    No,
}

/// Takes one token from the bucket `key`.
pub fn take(
    host: &impl KeyValue,
    key: &str,
    per_minute: u32,
    burst: u32,
    now: UnixMillis,
) -> Result<Taken, HookError> {
    // Microseconds, so that high rates do not round to nothing.
    let now = now.saturating_mul(1000);
    let interval = (60_000_000 / u64::from(per_minute.max(1))).max(1);
    let room = interval.saturating_mul(u64::from(burst));
    let ttl = u32::try_from(room / 1_000_000).unwrap_or(u32::MAX).saturating_add(60);
    for _ in 0..MOST_ATTEMPTS {
        let entry = host.get(key).map_err(unavailable)?;
        let stored = entry
            .as_ref()
            .and_then(|entry| Some(u64::from_le_bytes(entry.value.as_slice().try_into().ok()?)));
        // Never later than an empty bucket: a clock that went back must not stop registration for long.
        let full_at = stored.unwrap_or(now).clamp(now, now.saturating_add(room));
        let next = full_at.saturating_add(interval);
        if next - now > room {
            return Ok(Taken::No);
        }
        match host.swap(key, entry.map(|entry| entry.version), &next.to_le_bytes(), Some(ttl)) {
            Ok(_) => return Ok(Taken::Yes),
            Err(KeyValueError::Conflict) => {}
            Err(error) => return Err(unavailable(error)),
        }
    }
    Ok(Taken::No)
}

/// No decision without a count: the broker refuses the client, who comes back.
pub fn unavailable(error: KeyValueError) -> HookError {
    HookError::Transient(format!("the key-value space: {error:?}"))
}

#[cfg(test)]
mod tests {
    use mqgate_plugin_sdk::testing::MemoryHost;

    use super::*;

    const START: UnixMillis = 1_767_312_000_000;

    fn taken(host: &MemoryHost, now: UnixMillis, wanted: usize) -> usize {
        (0..wanted).filter(|_| take(host, "k", 60, 5, now) == Ok(Taken::Yes)).count()
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let host = MemoryHost::default();
        assert_eq!(taken(&host, START, 10), 5);
        assert_eq!(taken(&host, START + 999, 10), 0);
        assert_eq!(taken(&host, START + 1000, 10), 1);
        assert_eq!(taken(&host, START + 4000, 10), 3);
        assert_eq!(taken(&host, START + 3_600_000, 10), 5);
        // Another authority has a bucket of its own.
        assert_eq!(take(&host, "other", 60, 5, START), Ok(Taken::Yes));
    }

    #[test]
    fn a_clock_that_goes_back_does_not_stop_it() {
        let host = MemoryHost::default();
        assert_eq!(taken(&host, START + 86_400_000, 1), 1);
        assert_eq!(taken(&host, START, 10), 0);
        assert_eq!(taken(&host, START + 1000, 10), 0);
        host.entries.borrow_mut().clear();
        assert_eq!(taken(&host, START, 10), 5);
        assert_eq!(taken(&host, START - 500, 10), 0);
        assert_eq!(taken(&host, START + 1000, 10), 1);
    }

    #[test]
    fn extreme_settings_and_foreign_values_do_no_harm() {
        let host = MemoryHost::default();
        assert_eq!(take(&host, "k", u32::MAX, u32::MAX, u64::MAX), Ok(Taken::Yes));
        host.set("k", b"not a number", None).unwrap();
        assert_eq!(taken(&host, START, 10), 5);
        *host.unavailable.borrow_mut() = true;
        assert!(matches!(take(&host, "k", 60, 5, START), Err(HookError::Transient(_))));
    }
}
