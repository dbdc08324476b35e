//! Storms of equal events: the first is recorded at once, the following of a period as one with a count.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use mqgate_audit::record::time;
use mqgate_identity::audit::AuditEvent;
use mqgate_identity::time::UnixMillis;

use super::bounds;

/// Remembers what was recorded lately. Bounded: when it is full the oldest is let go, with its count.
pub struct Coalescer<K> {
    period: Duration,
    capacity: usize,
    recent: HashMap<K, Repeated>,
    /// Keys in the order in which their period began.
    order: VecDeque<K>,
}

struct Repeated {
    since: UnixMillis,
    /// Not recorded: how many, the last of them, and when that was.
    count: u64,
    last: Option<AuditEvent>,
    until: UnixMillis,
}

impl<K: Hash + Eq + Clone> Coalescer<K> {
    pub fn new(period: Duration, capacity: usize) -> Self {
        Self { period, capacity: capacity.max(1), recent: HashMap::new(), order: VecDeque::new() }
    }

    /// Takes an event; returns what is to be recorded now.
    pub fn offer(&mut self, now: UnixMillis, key: K, mut event: AuditEvent) -> Vec<AuditEvent> {
        // It may be kept for a while.
        bounds::clip(&mut event);
        let mut due = self.flush(now);
        if let Some(repeated) = self.recent.get_mut(&key) {
            repeated.count += 1;
            repeated.last = Some(event);
            repeated.until = now;
            return due;
        }
        if self.recent.len() >= self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            due.extend(self.recent.remove(&oldest).and_then(Repeated::summary));
        }
        self.order.push_back(key.clone());
        self.recent.insert(key, Repeated { since: now, count: 0, last: None, until: now });
        due.push(event);
        due
    }

    /// What periods that are over have counted.
    pub fn flush(&mut self, now: UnixMillis) -> Vec<AuditEvent> {
        let mut due = Vec::new();
        while let Some(key) = self.order.front() {
            let over = self.recent.get(key).is_none_or(|repeated| {
                // A clock that was set back ends it, too.
                now < repeated.since || u128::from(now.0 - repeated.since.0) >= self.period.as_millis()
            });
            if !over {
                break;
            }
            if let Some(key) = self.order.pop_front() {
                due.extend(self.recent.remove(&key).and_then(Repeated::summary));
            }
        }
        due
    }

    /// Everything counted so far, for the end.
    pub fn finish(&mut self) -> Vec<AuditEvent> {
        self.order.clear();
        self.recent.drain().filter_map(|(_, repeated)| repeated.summary()).collect()
    }
}

impl Repeated {
    fn summary(self) -> Option<AuditEvent> {
        let event = self.last?;
        Some(
            event
                .field("count", self.count.to_string())
                .field("first", time(self.since))
                .field("last", time(self.until)),
        )
    }
}
