//! How fast the clients of one listener may be, all together: token buckets that hold one second's worth.
//! Who is too fast is not read for a while; nothing is dropped.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use mqgate_identity::hooks::GrantLimits;
use mqgate_identity::source::source_of;
use mqgate_protocol::time::Instant;

use crate::directory::lock;

/// Per second; `None` is without limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimits {
    pub connections: Option<u32>,
    /// From one address.
    pub source_connections: Option<u32>,
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
    limits: Mutex<RateLimits>,
    connections: Mutex<Option<Bucket>>,
    messages: Mutex<Option<Bucket>>,
    bytes: Mutex<Option<Bucket>>,
    sources: Mutex<Option<Sources>>,
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
        let rates = Self {
            limits: Mutex::default(),
            connections: Mutex::default(),
            sources: Mutex::default(),
            messages: Mutex::default(),
            bytes: Mutex::default(),
        };
        rates.configure(limits);
        rates
    }

    /// Holds for everybody from now on who has these rates. What was used is not forgotten.
    pub(crate) fn configure(&self, limits: RateLimits) {
        let before = std::mem::replace(&mut *lock(&self.limits), limits);
        if before.source_connections != limits.source_connections {
            *lock(&self.sources) = limits.source_connections.map(Sources::new);
        }
        for (bucket, limit) in [
            (&self.connections, limits.connections),
            (&self.messages, limits.messages),
            (&self.bytes, limits.bytes),
        ] {
            let mut bucket = lock(bucket);
            *bucket = limit.map(|limit| {
                let per_second = u64::from(limit.max(1));
                let full = (per_second * 1000) as i64;
                let (left, at) =
                    bucket.as_ref().map_or((full, Instant::ZERO), |known| (known.left, known.at));
                Bucket { per_second, left: left.min(full), at }
            });
        }
    }

    /// Whether what clients send is counted at all.
    pub(crate) fn counts_traffic(&self) -> bool {
        lock(&self.messages).is_some() || lock(&self.bytes).is_some()
    }

    /// Counts one connection; says how long the next has to wait.
    pub(crate) fn connection(&self, now: Instant) -> Option<Duration> {
        lock(&self.connections).as_mut()?.take(now, 1)
    }

    /// Counts one connection from an address; says whether it may have it.
    pub(crate) fn source_connection(&self, now: Instant, address: IpAddr) -> bool {
        lock(&self.sources).as_mut().is_none_or(|sources| sources.connection(now, source_of(address)))
    }

    /// Counts what a client sent; says how long it has to wait if that was more than is left.
    pub(crate) fn traffic(&self, now: Instant, messages: usize, bytes: usize) -> Option<(Duration, Held)> {
        let take = |bucket: &Mutex<Option<Bucket>>, count: usize| {
            if count == 0 {
                return None;
            }
            lock(bucket).as_mut()?.take(now, count as u64)
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
        let limits = *lock(&self.limits);
        lower(&mut grant.publishes_per_second, limits.client_messages);
        lower(&mut grant.publish_bytes_per_second, limits.client_bytes);
    }
}

/// How many addresses are told apart. More that connect within the same second share one allowance.
const SOURCES: usize = 65_536;

/// What each address has left. One that has all of it is not in here.
#[derive(Debug)]
struct Sources {
    per_second: u64,
    known: HashMap<IpAddr, Bucket>,
    /// Of all that there was no room for.
    others: Bucket,
    /// When those that had everything back were last forgotten.
    tidied: Instant,
}

impl Sources {
    fn new(limit: u32) -> Self {
        let per_second = u64::from(limit.max(1));
        let others = Bucket::full(per_second, Instant::ZERO);
        Self { per_second, known: HashMap::new(), others, tidied: Instant::ZERO }
    }

    fn connection(&mut self, now: Instant, source: IpAddr) -> bool {
        // A bucket is full again after a second without connections.
        if now.since(self.tidied) >= Duration::from_secs(1) {
            self.tidied = now;
            self.known.retain(|_, bucket| !bucket.is_full(now));
            if self.known.is_empty() {
                self.known = HashMap::new();
            }
        }
        let room = self.known.len() < SOURCES;
        let bucket = match self.known.entry(source) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) if room => new.insert(Bucket::full(self.per_second, now)),
            Entry::Vacant(_) => &mut self.others,
        };
        bucket.take_if_there(now)
    }
}

impl Bucket {
    fn full(per_second: u64, at: Instant) -> Self {
        Self { per_second, left: (per_second * 1000) as i64, at }
    }

    /// Fills it up to `now`.
    fn fill(&mut self, now: Instant) {
        self.take(now, 0);
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.left >= (self.per_second * 1000) as i64
    }

    /// Takes one if there is one: who asks in vain does not have to wait longer for it.
    fn take_if_there(&mut self, now: Instant) -> bool {
        self.fill(now);
        let there = self.left >= 1000;
        if there {
            self.left -= 1000;
        }
        there
    }

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
    fn each_address_has_its_own_rate_and_the_table_is_bounded() {
        let limits = RateLimits { source_connections: Some(2), ..RateLimits::default() };
        let rates = Rates::new(limits);
        let at = |millis| Instant::ZERO.after(Duration::from_millis(millis));
        let v4 = |number: u32| IpAddr::from(std::net::Ipv4Addr::from(number));
        let taken = |millis, address| rates.source_connection(at(millis), address);
        assert_eq!([0; 3].map(|millis| taken(millis, v4(1))), [true, true, false]);
        assert!(taken(0, v4(2)), "another address has its own");
        assert!(
            !taken(499, v4(1)) && taken(500, v4(1)) && !taken(500, v4(1)),
            "half a second gives one back"
        );
        let network = ["2001:db8::1", "2001:db8::2", "2001:db8::3"].map(|text| text.parse().unwrap());
        assert_eq!(network.map(|address| taken(600, address)), [true, true, false], "one host has a network");

        let many = SOURCES as u32 + 10;
        let let_in = (0..many).filter(|number| taken(5_000, v4(1_000_000 + number))).count();
        assert_eq!(let_in, SOURCES + 2, "those that there is no room for share one rate");
        let known = || lock(&rates.sources).as_ref().unwrap().known.len();
        assert_eq!(known(), SOURCES);
        assert!(taken(6_000, v4(1)));
        assert_eq!(known(), 1, "who has everything back is forgotten");
    }

    #[test]
    fn other_limits_hold_at_once_and_forget_nothing() {
        let at = |millis| Instant::ZERO.after(Duration::from_millis(millis));
        let rates = Rates::new(RateLimits { messages: Some(10), ..RateLimits::default() });
        assert_eq!(rates.traffic(at(0), 10, 0), None);
        // Nothing is left, and a change fills nothing up.
        rates.configure(RateLimits { messages: Some(2), ..RateLimits::default() });
        assert_eq!(rates.traffic(at(0), 1, 0), Some((Duration::from_millis(500), Held::Messages)));
        rates.configure(RateLimits::default());
        assert_eq!(rates.traffic(at(0), 1_000, 1_000), None);
        assert!(!rates.counts_traffic());
        rates.configure(RateLimits { bytes: Some(5), ..RateLimits::default() });
        assert!(rates.counts_traffic());
        assert_eq!(rates.traffic(at(0), 0, 5), None);
        assert!(rates.traffic(at(0), 0, 5).is_some());
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
