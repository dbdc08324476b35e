//! How often something may happen: token buckets in the key-value space. The whole state of one is one moment, when
//! it will be full again (the generic cell rate algorithm).

use crate::host::KeyValue;
use crate::types::{HookError, KeyValueError, UnixMillis};

/// Instances that take at the same moment get in each other's way; each round one of them wins.
const MOST_ATTEMPTS: usize = 64;
/// The longest that a moment may be old when it is counted: between the first byte of a client and its CONNECT. What lies
/// further behind than that was never now, unless the clock went back.
const OLDEST: u64 = 300 * 1_000_000;

/// So many in each period, and at most `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub tokens: u32,
    /// In seconds.
    pub period: u32,
    pub burst: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    Yes,
    /// The bucket is empty.
    No,
    /// Too many want it at once.
    Contended,
}

impl Rate {
    pub const fn per_minute(tokens: u32, burst: u32) -> Self {
        Self { tokens, period: 60, burst }
    }

    /// Takes one token from the bucket `key`. The entry goes by itself once the bucket has been full for a minute.
    pub fn take(&self, host: &impl KeyValue, key: &str, now: UnixMillis) -> Result<Taken, KeyValueError> {
        // Microseconds, so that high rates do not round to nothing.
        let now = now.saturating_mul(1000);
        let period = u64::from(self.period.max(1)) * 1_000_000;
        let interval = (period / u64::from(self.tokens.max(1))).max(1);
        let room = interval.saturating_mul(u64::from(self.burst));
        let ttl = u32::try_from(room / 1_000_000).unwrap_or(u32::MAX).saturating_add(60);
        for _ in 0..MOST_ATTEMPTS {
            let entry = host.get(key)?;
            let stored = entry
                .as_ref()
                .and_then(|entry| Some(u64::from_le_bytes(entry.value.as_slice().try_into().ok()?)));
            // Never later than an empty bucket.
            let empty = now.saturating_add(room);
            let full_at = stored.unwrap_or(now).clamp(now, empty);
            let next = full_at.saturating_add(interval);
            let (next, taken) = match next - now > room {
                false => (next, Taken::Yes),
                // The clock went back. The bucket is empty as of now: what it says would stop everybody until then.
                true if stored.is_some_and(|stored| stored > empty.saturating_add(OLDEST)) => {
                    (empty, Taken::No)
                }
                true => return Ok(Taken::No),
            };
            match host.swap(key, entry.map(|entry| entry.version), &next.to_le_bytes(), Some(ttl)) {
                Ok(_) => return Ok(taken),
                Err(KeyValueError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Taken::Contended)
    }
}

/// No decision without a count: the broker refuses the client, who comes back.
pub fn unavailable(error: KeyValueError) -> HookError {
    HookError::Transient(format!("the key-value space: {error:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryHost;
    use crate::types::{Entry, Page, Seconds};

    const START: UnixMillis = 1_767_312_000_000;
    const RATE: Rate = Rate::per_minute(60, 5);

    fn taken(host: &MemoryHost, now: UnixMillis, wanted: usize) -> usize {
        (0..wanted).filter(|_| RATE.take(host, "k", now) == Ok(Taken::Yes)).count()
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let host = MemoryHost::default();
        assert_eq!(taken(&host, START, 10), 5);
        assert_eq!(taken(&host, START + 999, 10), 0);
        assert_eq!(taken(&host, START + 1000, 10), 1);
        assert_eq!(taken(&host, START + 4000, 10), 3);
        assert_eq!(taken(&host, START + 3_600_000, 10), 5);
        // Another key is another bucket.
        assert_eq!(RATE.take(&host, "other", START), Ok(Taken::Yes));
    }

    #[test]
    fn a_period_may_be_any() {
        let host = MemoryHost::default();
        let hourly = Rate { tokens: 2, period: 3600, burst: 1 };
        assert_eq!(hourly.take(&host, "k", START), Ok(Taken::Yes));
        assert_eq!(hourly.take(&host, "k", START + 1_799_999), Ok(Taken::No));
        assert_eq!(hourly.take(&host, "k", START + 1_800_000), Ok(Taken::Yes));
    }

    #[test]
    fn a_clock_that_goes_back_does_not_stop_it() {
        let host = MemoryHost::default();
        assert_eq!(taken(&host, START + 86_400_000, 1), 1);
        assert_eq!(taken(&host, START, 10), 0);
        assert_eq!(taken(&host, START + 1000, 10), 1);
        assert_eq!(taken(&host, START + 4000, 10), 3);
        host.entries.borrow_mut().clear();
        assert_eq!(taken(&host, START, 10), 5);
        assert_eq!(taken(&host, START - 500, 10), 0);
        assert_eq!(taken(&host, START + 1000, 10), 1);
    }

    #[test]
    fn whoever_took_its_time_fills_nothing_again() {
        let host = MemoryHost::default();
        assert_eq!(taken(&host, START + 200_000, 10), 5);
        // Accepted long ago, and counted now.
        assert_eq!(taken(&host, START, 10), 0);
        assert_eq!(taken(&host, START + 200_000, 10), 0);
    }

    #[test]
    fn extreme_settings_and_foreign_values_do_no_harm() {
        let host = MemoryHost::default();
        let extreme = Rate { tokens: u32::MAX, period: u32::MAX, burst: u32::MAX };
        assert_eq!(extreme.take(&host, "k", u64::MAX), Ok(Taken::Yes));
        host.set("k", b"not a number", None).unwrap();
        assert_eq!(taken(&host, START, 10), 5);
        *host.unavailable.borrow_mut() = true;
        assert!(matches!(RATE.take(&host, "k", START), Err(KeyValueError::Unavailable(_))));
    }

    /// Somebody else is always faster.
    struct Contended;

    impl KeyValue for Contended {
        fn get(&self, _: &str) -> Result<Option<Entry>, KeyValueError> {
            Ok(None)
        }

        fn set(&self, _: &str, _: &[u8], _: Option<Seconds>) -> Result<(), KeyValueError> {
            Err(KeyValueError::Denied)
        }

        fn swap(&self, _: &str, _: Option<u64>, _: &[u8], _: Option<Seconds>) -> Result<u64, KeyValueError> {
            Err(KeyValueError::Conflict)
        }

        fn add(&self, _: &str, _: i64, _: Option<Seconds>) -> Result<i64, KeyValueError> {
            Err(KeyValueError::Denied)
        }

        fn delete(&self, _: &str) -> Result<(), KeyValueError> {
            Err(KeyValueError::Denied)
        }

        fn list(&self, _: &str, _: Option<&str>, _: u32) -> Result<Page, KeyValueError> {
            Err(KeyValueError::Denied)
        }
    }

    #[test]
    fn it_does_not_try_for_ever() {
        assert_eq!(RATE.take(&Contended, "k", START), Ok(Taken::Contended));
    }
}
