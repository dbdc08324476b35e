//! Messages that wait for the other broker: bounded in count and bytes, with a rule for what goes when they are too
//! many. In memory, as the sessions of this broker are.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use mqgate_client::Message;
use mqgate_protocol::limits::WhenFull;
use tokio::sync::Notify;
use tokio::time::Instant;

/// One message on its way out.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub message: Message,
    pub expires_at: Option<Instant>,
}

#[derive(Debug)]
pub struct Queue {
    messages: usize,
    bytes: usize,
    when_full: WhenFull,
    inner: Mutex<Inner>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

impl Queue {
    pub fn new(messages: usize, bytes: usize, when_full: WhenFull) -> Self {
        Self { messages, bytes, when_full, inner: Mutex::default(), news: Notify::new() }
    }

    /// Says how many messages were lost by it.
    pub fn push(&self, waiting: Waiting) -> u64 {
        let size = size(&waiting.message);
        let mut inner = self.lock();
        let mut lost = 0;
        while inner.waiting.len() >= self.messages || inner.bytes + size > self.bytes {
            if self.when_full == WhenFull::DropNewest || size > self.bytes || inner.take().is_none() {
                return lost + 1;
            }
            lost += 1;
        }
        inner.bytes += size;
        inner.waiting.push_back(waiting);
        drop(inner);
        self.news.notify_one();
        lost
    }

    /// The oldest. One task takes them; it may stop waiting at any time.
    pub async fn pop(&self) -> Waiting {
        loop {
            let next = self.lock().take();
            if let Some(next) = next {
                return next;
            }
            self.news.notified().await;
        }
    }

    /// How many messages and bytes wait.
    pub fn size(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.waiting.len(), inner.bytes)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take(&mut self) -> Option<Waiting> {
        let next = self.waiting.pop_front()?;
        self.bytes -= size(&next.message);
        Some(next)
    }
}

/// What a message counts: its texts, and a little for each user property.
fn size(message: &Message) -> usize {
    let properties = &message.properties;
    let user: usize =
        properties.user_properties.iter().map(|(name, value)| name.len() + value.len() + 64).sum();
    message.topic.as_str().len()
        + message.payload.len()
        + user
        + properties.correlation_data.as_deref().map_or(0, <[u8]>::len)
        + properties.response_topic.as_ref().map_or(0, |topic| topic.as_str().len())
        + properties.content_type.as_ref().map_or(0, |text| text.len())
}

#[cfg(test)]
mod tests {
    use mqgate_codec::{PublishProperties, QoS, TopicName};

    use super::*;

    fn waiting(payload: &'static str) -> Waiting {
        let message = Message {
            topic: TopicName::parse("t".into()).unwrap(),
            payload: payload.into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            dup: false,
            properties: PublishProperties::default(),
        };
        Waiting { message, expires_at: None }
    }

    async fn left(queue: &Queue) -> Vec<String> {
        let mut left = Vec::new();
        while queue.size().0 > 0 {
            left.push(String::from_utf8(queue.pop().await.message.payload.to_vec()).unwrap());
        }
        left
    }

    #[tokio::test]
    async fn the_newest_or_the_oldest_goes_when_it_is_full() {
        let queue = Queue::new(2, 10, WhenFull::DropNewest);
        assert_eq!(["1", "2", "3"].map(|text| queue.push(waiting(text))), [0, 0, 1]);
        assert_eq!(queue.size(), (2, 4));
        assert_eq!(left(&queue).await, ["1", "2"]);
        let queue = Queue::new(2, 10, WhenFull::DropOldest);
        assert_eq!(["1", "2", "3"].map(|text| queue.push(waiting(text))), [0, 0, 1]);
        assert_eq!(queue.push(waiting("12345678")), 2, "by bytes");
        assert_eq!(queue.push(waiting("too large to fit")), 1, "for which nothing else goes");
        assert_eq!(left(&queue).await, ["12345678"]);
        assert_eq!(queue.size(), (0, 0));
    }
}
