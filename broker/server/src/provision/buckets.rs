//! How fast unknown certificates are registered: all together, under one CA, from one source. Token buckets whose
//! whole state is one moment each: when the bucket will be full again (the generic cell rate algorithm).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::source::source_of;

use crate::directory::lock;

/// So many at length, and so many at once after a quiet time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// What one costs; `None`: there is no limit.
    interval: Option<Duration>,
    /// What a quiet time saves up.
    room: Duration,
}

/// How fast is too fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProvisionRates {
    pub global: Rate,
    /// Of each CA whose record names none.
    pub ca: Rate,
    /// Of each address (of IPv6: each network of 64 bits). Does not hold for this machine itself.
    pub source: Rate,
}

/// Which of the buckets is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Empty {
    Global,
    Ca,
    Source,
}

impl Empty {
    pub const ALL: [Self; 3] = [Self::Global, Self::Ca, Self::Source];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Ca => "ca",
            Self::Source => "source",
        }
    }
}

/// Sources that are remembered. Each is forgotten when its bucket is full again, so what bounds the number in
/// practice is the rate of all together.
const MOST_SOURCES: usize = 65_536;

/// Time since some moment in the past, the same for every call.
type At = Duration;

#[derive(Debug, Default)]
pub(super) struct Buckets {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    global: FullAt,
    cas: HashMap<CertificateFingerprint, FullAt>,
    sources: HashMap<IpAddr, FullAt>,
}

/// When a bucket is full again.
#[derive(Debug, Clone, Copy, Default)]
struct FullAt(At);

impl Rate {
    /// 0 is without limit; a burst is 1 at the least.
    pub fn per_second(count: u32, burst: u32) -> Self {
        Self::within(Duration::from_secs(1), count, burst)
    }

    /// The same for a minute.
    pub fn per_minute(count: u32, burst: u32) -> Self {
        Self::within(Duration::from_secs(60), count, burst)
    }

    fn within(period: Duration, count: u32, burst: u32) -> Self {
        if count == 0 {
            return Self::default();
        }
        let interval = period / count;
        Self { interval: Some(interval), room: interval.saturating_mul(burst.max(1)) }
    }

    fn is_limited(self) -> bool {
        self.interval.is_some()
    }
}

impl FullAt {
    /// The bucket with one token less; or how long to wait for one.
    fn less_one(self, rate: Rate, now: At) -> Result<Self, Duration> {
        let Some(interval) = rate.interval else { return Ok(self) };
        let next = self.0.max(now) + interval;
        match next.checked_sub(now + rate.room) {
            None | Some(Duration::ZERO) => Ok(Self(next)),
            Some(wait) => Err(wait),
        }
    }
}

impl Buckets {
    /// Takes one token from each of the three buckets, or from none: an empty one and how long to wait for it.
    pub(super) fn take(
        &self,
        rates: &ProvisionRates,
        ca: CertificateFingerprint,
        source: IpAddr,
        now: At,
    ) -> Result<(), (Empty, Duration)> {
        let mut state = lock(&self.state);
        let global = state.global.less_one(rates.global, now).map_err(|wait| (Empty::Global, wait))?;
        let of_ca = state.cas.get(&ca).copied().unwrap_or_default();
        let of_ca = of_ca.less_one(rates.ca, now).map_err(|wait| (Empty::Ca, wait))?;
        if rates.source.is_limited() && !source.to_canonical().is_loopback() {
            let source = source_of(source);
            let known = state.sources.get(&source).copied();
            if known.is_none() && state.sources.len() >= MOST_SOURCES {
                state.sources.retain(|_, full_at| full_at.0 > now);
                if state.sources.len() >= MOST_SOURCES {
                    return Err((Empty::Source, Duration::from_secs(1)));
                }
            }
            let left = known.unwrap_or_default().less_one(rates.source, now);
            let left = left.map_err(|wait| (Empty::Source, wait))?;
            state.sources.insert(source, left);
        }
        state.global = global;
        // As many as there are CAs: those that are gone are few.
        if rates.ca.is_limited() {
            state.cas.insert(ca, of_ca);
        }
        Ok(())
    }

    /// Forgets whose bucket is full.
    pub(super) fn sweep(&self, now: At) {
        let mut state = lock(&self.state);
        state.sources.retain(|_, full_at| full_at.0 > now);
        state.cas.retain(|_, full_at| full_at.0 > now);
        if state.sources.is_empty() && state.sources.capacity() > 1024 {
            state.sources = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates() -> ProvisionRates {
        ProvisionRates {
            global: Rate::per_second(100, 6),
            ca: Rate::per_minute(600, 4),
            source: Rate::per_second(1, 2),
        }
    }

    fn ca(number: u8) -> CertificateFingerprint {
        CertificateFingerprint([number; 32])
    }

    fn take(buckets: &Buckets, ca_number: u8, source: &str, millis: u64) -> Result<(), Empty> {
        let now = Duration::from_secs(1000) + Duration::from_millis(millis);
        let taken = buckets.take(&rates(), ca(ca_number), source.parse().unwrap(), now);
        taken.map_err(|(empty, wait)| {
            assert!(!wait.is_zero());
            empty
        })
    }

    #[test]
    fn each_bucket_has_its_burst_and_its_rate() {
        let buckets = Buckets::default();
        let a = "192.0.2.1";
        assert_eq!(take(&buckets, 1, a, 0), Ok(()));
        assert_eq!(take(&buckets, 1, a, 0), Ok(()), "at the limit");
        assert_eq!(take(&buckets, 1, a, 0), Err(Empty::Source), "one above it");
        assert_eq!(take(&buckets, 1, "192.0.2.2", 0), Ok(()));
        assert_eq!(take(&buckets, 1, "192.0.2.3", 0), Ok(()));
        assert_eq!(take(&buckets, 1, "192.0.2.4", 0), Err(Empty::Ca));
        assert_eq!(take(&buckets, 2, "192.0.2.4", 0), Ok(()), "another CA's bucket is its own");
        assert_eq!(take(&buckets, 2, "192.0.2.5", 0), Ok(()));
        assert_eq!(take(&buckets, 2, "192.0.2.6", 0), Err(Empty::Global));
        // A hundredth of a second later there is one more for all of them together.
        assert_eq!(take(&buckets, 2, "192.0.2.6", 10), Ok(()));
        assert_eq!(take(&buckets, 2, "192.0.2.7", 10), Err(Empty::Global));
        assert_eq!(take(&buckets, 1, a, 999), Err(Empty::Source));
        assert_eq!(take(&buckets, 1, a, 1000), Ok(()));
    }

    #[test]
    fn who_is_refused_takes_nothing_from_the_others() {
        let buckets = Buckets::default();
        for _ in 0..100 {
            let _ = take(&buckets, 1, "192.0.2.1", 0);
        }
        assert_eq!(take(&buckets, 1, "192.0.2.2", 0), Ok(()), "two of four are left of the CA's");
        assert_eq!(take(&buckets, 1, "192.0.2.2", 0), Ok(()));
    }

    #[test]
    fn a_host_cannot_pick_another_address_of_its_network() {
        let buckets = Buckets::default();
        assert_eq!(take(&buckets, 1, "2001:db8::1", 0), Ok(()));
        assert_eq!(take(&buckets, 1, "2001:db8::2", 0), Ok(()));
        assert_eq!(take(&buckets, 1, "2001:db8::3", 0), Err(Empty::Source));
        assert_eq!(take(&buckets, 1, "2001:db8:0:1::1", 0), Ok(()));
        // This machine itself has no limit of its own.
        for _ in 0..2 {
            assert_eq!(take(&buckets, 3, "::ffff:127.0.0.1", 0), Ok(()));
        }
    }

    #[test]
    fn no_rate_is_no_limit_and_full_buckets_are_forgotten() {
        let buckets = Buckets::default();
        let free = ProvisionRates::default();
        let now = Duration::from_secs(5);
        for _ in 0..10_000 {
            assert_eq!(buckets.take(&free, ca(1), "192.0.2.1".parse().unwrap(), now), Ok(()));
        }
        let remembered = || {
            let state = lock(&buckets.state);
            (state.cas.len(), state.sources.len())
        };
        assert_eq!(remembered(), (0, 0));
        take(&buckets, 1, "192.0.2.1", 0).unwrap();
        buckets.sweep(Duration::from_secs(1000));
        assert_eq!(remembered(), (1, 1));
        buckets.sweep(Duration::from_secs(1002));
        assert_eq!(remembered(), (0, 0));
    }
}
