//! Clients that come and go all the time: counted, and kept out for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytestring::ByteString;
use mqgate_protocol::time::Instant;

use crate::directory::lock;

/// When a client is flapping. EMQX's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlappingRules {
    /// So many ends of connections …
    pub disconnects: u32,
    /// … within this …
    pub window: Duration,
    /// … and the client is kept out for this long.
    pub ban: Duration,
    /// Clients that are watched at the same time; the others are not counted.
    pub watched: usize,
}

impl Default for FlappingRules {
    fn default() -> Self {
        Self {
            disconnects: 15,
            window: Duration::from_secs(60),
            ban: Duration::from_secs(300),
            watched: 100_000,
        }
    }
}

pub(crate) struct Flapping {
    pub(crate) rules: FlappingRules,
    /// By device and client id.
    seen: Mutex<HashMap<(Arc<str>, ByteString), Seen>>,
}

#[derive(Clone, Copy)]
struct Seen {
    since: Instant,
    count: u32,
}

impl Flapping {
    pub(crate) fn new(rules: FlappingRules) -> Self {
        Self { rules, seen: Mutex::default() }
    }

    /// Counts the end of a connection; says whether that was one too many. Then the count begins again.
    pub(crate) fn disconnected(&self, device_id: &Arc<str>, client_id: &ByteString, now: Instant) -> bool {
        let mut all = lock(&self.seen);
        let name = (Arc::clone(device_id), client_id.clone());
        if all.len() >= self.rules.watched && !all.contains_key(&name) {
            return false;
        }
        let seen = all.entry(name).or_insert(Seen { since: now, count: 0 });
        if now.since(seen.since) >= self.rules.window {
            *seen = Seen { since: now, count: 0 };
        }
        seen.count += 1;
        if seen.count < self.rules.disconnects {
            return false;
        }
        all.remove(&(Arc::clone(device_id), client_id.clone()));
        true
    }

    /// Forgets those whose window is over.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut all = lock(&self.seen);
        all.retain(|_, seen| now.since(seen.since) < self.rules.window);
        if all.is_empty() && all.capacity() > 64 {
            *all = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_so_many_within_the_window_is_one_too_many() {
        let rules = FlappingRules { disconnects: 3, watched: 2, ..FlappingRules::default() };
        let flapping = Flapping::new(rules);
        let at = |second| Instant::ZERO.after_seconds(second);
        let count = |device: &str, second| flapping.disconnected(&device.into(), &"c".into(), at(second));
        assert!(!count("a", 0) && !count("a", 1));
        assert!(!count("b", 1), "another device's client of this name");
        assert!(count("a", 59));
        assert!(!count("a", 59), "it begins again");
        assert!(!count("b", 60) && !count("b", 61), "the window of the first was over");
        assert!(!count("z", 61), "no more than two are watched");
        assert_eq!(lock(&flapping.seen).len(), 2);
        flapping.sweep(at(500));
        assert!(lock(&flapping.seen).is_empty());
    }
}
