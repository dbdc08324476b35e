//! Clients that take their messages slower than they come: found now and then, listed, counted, and closed
//! where that is the rule.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mqgate_codec::ReasonCode;
use mqgate_identity::reason::Reason;
use mqgate_protocol::time::Instant;

use crate::directory::{ConnectionHandle, Connections, Farewell, lock};

/// When a client is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowRules {
    /// More messages than this wait for it …
    pub messages: usize,
    /// … or more bytes …
    pub bytes: usize,
    /// … for this long.
    pub age: Duration,
    pub disconnect: bool,
}

impl Default for SlowRules {
    fn default() -> Self {
        Self { messages: 500, bytes: 8 << 20, age: Duration::from_secs(10), disconnect: false }
    }
}

/// How often the queues are looked at.
pub(crate) const EVERY: Duration = Duration::from_secs(2);

pub(crate) struct Slow {
    pub(crate) rules: SlowRules,
    /// By connection: since when its queue is too long.
    seen: Mutex<HashMap<u64, Instant>>,
}

/// A client that is slow now.
pub(crate) struct SlowClient {
    pub(crate) handle: Arc<ConnectionHandle>,
    pub(crate) since: Instant,
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

impl Slow {
    pub(crate) fn new(rules: SlowRules) -> Self {
        Self { rules, seen: Mutex::default() }
    }

    /// Looks at every queue; says how many clients are slow, and how many of them were closed for it.
    pub(crate) fn look(&self, connections: &Connections, now: Instant) -> (usize, usize) {
        let mut before = lock(&self.seen);
        let mut seen = HashMap::new();
        let (mut slow, mut closed) = (0, 0);
        for handle in connections.list() {
            let Some((messages, bytes)) = handle.mailbox().map(|mailbox| mailbox.waiting()) else { continue };
            if messages <= self.rules.messages && bytes <= self.rules.bytes {
                continue;
            }
            let since = before.get(&handle.connection_id).copied().unwrap_or(now);
            seen.insert(handle.connection_id, since);
            if now.since(since) < self.rules.age {
                continue;
            }
            slow += 1;
            if self.rules.disconnect && handle.farewell().is_none() {
                // Not barred: its session, and what waits in it, stays.
                handle.close(Farewell { code: ReasonCode::QUOTA_EXCEEDED, reason: Reason::AdminAction });
                closed += 1;
            }
        }
        *before = seen;
        (slow, closed)
    }

    /// Who is slow now, the slowest first.
    pub(crate) fn list(&self, connections: &Connections, now: Instant) -> Vec<SlowClient> {
        let seen = lock(&self.seen).clone();
        let mut slow: Vec<SlowClient> = connections
            .list()
            .into_iter()
            .filter_map(|handle| {
                let since = *seen.get(&handle.connection_id)?;
                let (messages, bytes) = handle.mailbox()?.waiting();
                let is_slow = now.since(since) >= self.rules.age;
                is_slow.then_some(SlowClient { handle, since, messages, bytes })
            })
            .collect();
        slow.sort_by_key(|client| client.since);
        slow
    }
}
