//! Messages that are published later: bounded in count and bytes, listed and taken back by operators. In
//! memory only: they end with the broker.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use mqgate_protocol::message::Message;
use mqgate_protocol::time::Instant;

use crate::directory::lock;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DelayedLimits {
    pub messages: usize,
    /// Of topics and payloads together.
    pub bytes: usize,
}

impl Default for DelayedLimits {
    fn default() -> Self {
        Self { messages: 10_000, bytes: 64 << 20 }
    }
}

pub(crate) struct Delayed {
    limits: DelayedLimits,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By id; ids rise.
    waiting: BTreeMap<u64, Waiting>,
    /// The next first.
    due: BTreeMap<(Instant, u64), ()>,
    bytes: usize,
    last_id: u64,
}

/// One of them.
#[derive(Clone)]
pub(crate) struct Waiting {
    pub(crate) id: u64,
    pub(crate) due: Instant,
    pub(crate) message: Arc<Message>,
}

/// There is no room for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl Delayed {
    pub(crate) fn new(limits: DelayedLimits) -> Self {
        Self { limits, inner: Mutex::default() }
    }

    /// Keeps a message, in memory of its own, until it is due.
    pub(crate) fn hold(&self, message: &Message, due: Instant) -> Result<(), Full> {
        let mut inner = lock(&self.inner);
        let size = message.size();
        if inner.waiting.len() >= self.limits.messages || inner.bytes + size > self.limits.bytes {
            return Err(Full);
        }
        inner.last_id += 1;
        let id = inner.last_id;
        inner.bytes += size;
        inner.due.insert((due, id), ());
        inner.waiting.insert(id, Waiting { id, due, message: Arc::new(message.detached()) });
        Ok(())
    }

    /// Takes what is due, the earliest first.
    pub(crate) fn take_due(&self, now: Instant) -> Vec<Arc<Message>> {
        let mut inner = lock(&self.inner);
        let mut taken = Vec::new();
        while let Some((&(due, id), ())) = inner.due.first_key_value()
            && due <= now
        {
            if let Some(waiting) = inner.remove(id) {
                taken.push(waiting.message);
            }
        }
        taken
    }

    pub(crate) fn cancel(&self, id: u64) -> Option<Waiting> {
        lock(&self.inner).remove(id)
    }

    /// The first `limit` after the one with the id `after`.
    pub(crate) fn list(&self, after: u64, limit: usize) -> Vec<Waiting> {
        lock(&self.inner)
            .waiting
            .range(after.saturating_add(1)..)
            .take(limit)
            .map(|(_, one)| one.clone())
            .collect()
    }

    /// How many messages and bytes wait.
    pub(crate) fn size(&self) -> (usize, usize) {
        let inner = lock(&self.inner);
        (inner.waiting.len(), inner.bytes)
    }
}

impl Inner {
    fn remove(&mut self, id: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&id)?;
        self.due.remove(&(waiting.due, id));
        self.bytes -= waiting.message.size();
        Some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mqgate_codec::{Publish, PublishProperties, QoS, TopicName};
    use mqgate_protocol::session::SessionKey;

    use super::*;

    fn message(payload: &'static str) -> Arc<Message> {
        let publish = Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: None,
            packet_id: None,
            payload: Bytes::from_static(payload.as_bytes()),
            properties: PublishProperties::default(),
        };
        Message::published(TopicName::parse("t".into()).unwrap(), publish, SessionKey(1), Instant::ZERO)
    }

    fn texts(messages: &[Arc<Message>]) -> Vec<&str> {
        messages.iter().map(|message| std::str::from_utf8(&message.payload).unwrap()).collect()
    }

    #[test]
    fn they_come_in_the_order_in_which_they_are_due() {
        let delayed = Delayed::new(DelayedLimits::default());
        let at = Instant::ZERO;
        for (payload, second) in [("c", 3), ("a", 1), ("b", 2), ("b2", 2)] {
            delayed.hold(&message(payload), at.after_seconds(second)).unwrap();
        }
        assert_eq!(texts(&delayed.take_due(at)), Vec::<&str>::new());
        assert_eq!(texts(&delayed.take_due(at.after_seconds(2))), ["a", "b", "b2"]);
        assert_eq!(delayed.size(), (1, 2));
        let left = delayed.list(0, 10);
        assert_eq!(left.len(), 1);
        assert!(delayed.list(left[0].id, 10).is_empty());
        assert!(delayed.cancel(left[0].id).is_some() && delayed.cancel(left[0].id).is_none());
        assert!(delayed.take_due(at.after_seconds(9)).is_empty());
        assert_eq!(delayed.size(), (0, 0));
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let delayed = Delayed::new(DelayedLimits { messages: 2, bytes: 8 });
        let at = Instant::ZERO;
        delayed.hold(&message("1234"), at).unwrap();
        assert_eq!(delayed.hold(&message("123"), at), Err(Full), "bytes");
        delayed.hold(&message("12"), at).unwrap();
        assert_eq!(delayed.hold(&message(""), at), Err(Full), "count");
        assert_eq!(delayed.take_due(at).len(), 2);
        delayed.hold(&message("123"), at).unwrap();
    }
}
