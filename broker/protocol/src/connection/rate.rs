//! How fast a client may publish: two token buckets that hold one second's worth.

use mqgate_identity::hooks::GrantLimits;

use super::Limited;
use crate::time::Instant;

/// No limit takes no memory.
#[derive(Debug)]
pub(super) struct Rate {
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    per_second: u64,
    /// Thousandths of what is left; below zero when more was taken.
    left: i64,
    at: Instant,
}

impl Rate {
    pub(super) fn new(limits: &GrantLimits, now: Instant) -> Option<Box<Self>> {
        let bucket = |limit: Option<u32>| {
            let per_second = u64::from(limit?.max(1));
            Some(Bucket { per_second, left: (per_second * 1000) as i64, at: now })
        };
        let (messages, bytes) =
            (bucket(limits.publishes_per_second), bucket(limits.publish_bytes_per_second));
        (messages.is_some() || bytes.is_some()).then(|| Box::new(Self { messages, bytes }))
    }

    /// Counts one message; says until when the client has to wait if that was more than is left.
    pub(super) fn take(&mut self, now: Instant, size: usize) -> Option<(Instant, Limited)> {
        let messages = self.messages.as_mut().and_then(|bucket| bucket.take(now, 1));
        let bytes = self.bytes.as_mut().and_then(|bucket| bucket.take(now, size as u64));
        match (messages, bytes) {
            (Some(at), Some(later)) if later > at => Some((later, Limited::Bytes)),
            (Some(at), _) => Some((at, Limited::Messages)),
            (None, Some(at)) => Some((at, Limited::Bytes)),
            (None, None) => None,
        }
    }
}

impl Bucket {
    fn take(&mut self, now: Instant, count: u64) -> Option<Instant> {
        let full = (self.per_second * 1000) as i64;
        let passed = now.since(self.at).as_millis().min(u128::from(u32::MAX)) as i64;
        self.left = self.left.saturating_add(passed.saturating_mul(self.per_second as i64)).min(full);
        self.at = now;
        self.left = self.left.saturating_sub(i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(1000));
        let missing = u64::try_from(-self.left).ok().filter(|missing| *missing > 0)?;
        Some(now.after(std::time::Duration::from_millis(missing.div_ceil(self.per_second))))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_second_of_burst_then_the_rate() {
        let limits = GrantLimits { publishes_per_second: Some(2), ..GrantLimits::default() };
        let mut rate = Rate::new(&limits, Instant::ZERO).unwrap();
        assert_eq!(rate.take(Instant::ZERO, 10), None);
        assert_eq!(rate.take(Instant::ZERO, 10), None);
        let half_a_second = Instant::ZERO.after(Duration::from_millis(500));
        assert_eq!(rate.take(Instant::ZERO, 10), Some((half_a_second, Limited::Messages)));
        let later = Instant::ZERO.after_seconds(3600);
        assert_eq!(rate.take(later, 10), None, "what is saved up is one second's worth");
        assert_eq!(rate.take(later, 10), None);
        assert!(rate.take(later, 10).is_some());
        assert!(Rate::new(&GrantLimits::default(), Instant::ZERO).is_none());
    }
}
