//! How fast the clients of one listener may be, all together: token buckets that hold one second's worth.
//! Who is too fast is not read for a while; nothing is dropped.

use std::sync::Mutex;
use std::time::Duration;

use mqgate_identity::hooks::GrantLimits;
use mqgate_protocol::time::Instant;

use crate::directory::lock;

/// Per second; `None` is without limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimits {
    pub connections: Option<u32>,
    /// PUBLISH packets of all clients together.
    pub messages: Option<u32>,
    /// Bytes from all clients together.
    pub bytes: Option<u32>,
    /// PUBLISH packets of one client. A grant may lower it.
    pub client_messages: Option<u32>,
    /// Bytes of topics and payloads of one client. A grant may lower it.
    pub client_bytes: Option<u32>,
}

/// What one listener has left.
#[derive(Debug)]
pub(crate) struct Rates {
    limits: RateLimits,
    connections: Option<Mutex<Bucket>>,
    messages: Option<Mutex<Bucket>>,
    bytes: Option<Mutex<Bucket>>,
}

/// Which limit held somebody back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Messages,
    Bytes,
}

#[derive(Debug)]
struct Bucket {
    per_second: u64,
    /// Thousandths of what is left; below zero when more was taken.
    left: i64,
    at: Instant,
}

impl Rates {
    pub(crate) fn new(limits: RateLimits) -> Self {
        let bucket = |limit: Option<u32>| {
            let per_second = u64::from(limit?.max(1));
            Some(Mutex::new(Bucket { per_second, left: (per_second * 1000) as i64, at: Instant::ZERO }))
        };
        Self {
            limits,
            connections: bucket(limits.connections),
            messages: bucket(limits.messages),
            bytes: bucket(limits.bytes),
        }
    }

    /// Whether what clients send is counted at all.
    pub(crate) fn counts_traffic(&self) -> bool {
        self.messages.is_some() || self.bytes.is_some()
    }

    /// Counts one connection; says how long the next has to wait.
    pub(crate) fn connection(&self, now: Instant) -> Option<Duration> {
        lock(self.connections.as_ref()?).take(now, 1)
    }

    /// Counts what a client sent; says how long it has to wait if that was more than is left.
    pub(crate) fn traffic(&self, now: Instant, messages: usize, bytes: usize) -> Option<(Duration, Held)> {
        let take = |bucket: &Option<Mutex<Bucket>>, count: usize| {
            let bucket = bucket.as_ref().filter(|_| count > 0)?;
            lock(bucket).take(now, count as u64)
        };
        let by_messages = take(&self.messages, messages).map(|wait| (wait, Held::Messages));
        let by_bytes = take(&self.bytes, bytes).map(|wait| (wait, Held::Bytes));
        by_messages.into_iter().chain(by_bytes).max_by_key(|(wait, _)| *wait)
    }

    /// Lowers a grant to what a client of this listener may do.
    pub(crate) fn lower(&self, grant: &mut GrantLimits) {
        let lower = |granted: &mut Option<u32>, limit: Option<u32>| {
            *granted = match (*granted, limit) {
                (Some(granted), Some(limit)) => Some(granted.min(limit)),
                (one, other) => one.or(other),
            };
        };
        lower(&mut grant.publishes_per_second, self.limits.client_messages);
        lower(&mut grant.publish_bytes_per_second, self.limits.client_bytes);
    }
}

impl Bucket {
    fn take(&mut self, now: Instant, count: u64) -> Option<Duration> {
        let full = (self.per_second * 1000) as i64;
        let passed = now.since(self.at).as_millis().min(u128::from(u32::MAX)) as i64;
        self.left = self.left.saturating_add(passed.saturating_mul(self.per_second as i64)).min(full);
        // Of two that look at the clock at once the later must not count the time again.
        self.at = self.at.max(now);
        self.left = self.left.saturating_sub(i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(1000));
        let missing = u64::try_from(-self.left).ok().filter(|missing| *missing > 0)?;
        Some(Duration::from_millis(missing.div_ceil(self.per_second)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_burst_then_the_rate() {
        let limits = RateLimits { messages: Some(2), bytes: Some(100), ..RateLimits::default() };
        let rates = Rates::new(limits);
        let at = |millis| Instant::ZERO.after(Duration::from_millis(millis));
        assert_eq!(rates.traffic(at(0), 2, 10), None);
        assert_eq!(rates.traffic(at(0), 1, 10), Some((Duration::from_millis(500), Held::Messages)));
        assert_eq!(rates.traffic(at(500), 0, 80), None, "what is not sent is not counted");
        assert_eq!(rates.traffic(at(500), 0, 100), Some((Duration::from_millis(800), Held::Bytes)));
        assert_eq!(rates.traffic(at(3_600_000), 2, 0), None, "no more than a second is saved up");
        assert!(rates.traffic(at(3_600_000), 1, 0).is_some());
        assert_eq!(rates.connection(at(0)), None, "no limit");
    }

    #[test]
    fn a_grant_is_lowered_and_never_raised() {
        let limits = RateLimits { client_messages: Some(10), ..RateLimits::default() };
        let rates = Rates::new(limits);
        for (granted, lowered) in [(None, 10), (Some(20), 10), (Some(5), 5)] {
            let mut grant = GrantLimits { publishes_per_second: granted, ..GrantLimits::default() };
            rates.lower(&mut grant);
            assert_eq!(grant.publishes_per_second, Some(lowered));
            assert_eq!(grant.publish_bytes_per_second, None);
        }
    }
}
