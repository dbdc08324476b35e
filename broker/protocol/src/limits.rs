//! Every bound of the data path, by name, with its default.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use mqgate_codec::QoS;

use crate::subscriptions::ShareStrategy;
use crate::topics::TopicRules;

/// What one listener allows. A grant may lower a value, never raise it.
#[derive(Debug, Clone)]
pub struct Limits {
    /// From accepting the transport to a complete CONNECT.
    pub connect_timeout: Duration,
    /// Bytes of one packet, either way; told to MQTT 5.0 clients.
    pub maximum_packet_size: u32,
    /// Bytes of one packet from a client that is not let in yet.
    pub connect_packet_size: u32,
    /// Bytes of a Client Identifier.
    pub client_id_length: usize,
    /// Levels of a Topic Name or Topic Filter.
    pub topic_levels: usize,
    /// Highest QoS a client may publish with.
    pub maximum_qos: QoS,
    pub retain_available: bool,
    pub subscriptions_per_session: usize,
    pub filters_per_subscribe: usize,
    /// Bytes of all Topic Filters of a session.
    pub filter_bytes_per_session: usize,
    /// Unacknowledged QoS 1 and 2 messages the client may have under way to us.
    pub receive_maximum: NonZeroU16,
    /// Unacknowledged QoS 1 and 2 messages we have under way to a client, whatever it would take.
    pub inflight_maximum: NonZeroU16,
    /// Aliases a client may set for the topics it publishes to.
    pub topic_alias_maximum: u16,
    /// Longest keep-alive, and what a client gets that turned it off; 0 means any.
    pub keep_alive_maximum: u16,
    pub session_expiry_maximum: Duration,
    pub will_delay_maximum: Duration,
    /// Sessions of a broker, connected or not.
    pub sessions: usize,
    /// Sessions of one device, connected or not: how many client ids it may use at a time.
    pub sessions_per_device: usize,
    /// Retained messages that one new subscription gets.
    pub retained_per_subscription: usize,
    /// Retained messages that wait for one session.
    pub retained_backlog: usize,
    /// Topic levels that are looked at for the retained messages of one SUBSCRIBE.
    pub retained_visits_per_subscribe: usize,
    /// How long a client may take none of what is waiting for it.
    pub write_stall_timeout: Duration,
    pub outbox: OutboxLimits,
    /// Bytes of what waits for all sessions of a broker together, or is not acknowledged, with [`MESSAGE_OVERHEAD`] for
    /// each message. How much of it one of them may hold, [`Room`] says.
    pub queued_bytes: usize,
    pub retained: RetainedLimits,
    pub denied_publish: DeniedPublish,
    /// Aliases we set for the topics of messages to a client, if it takes any.
    pub topic_aliases_to_client: u16,
    /// Who of a shared subscription gets a message.
    pub share_strategy: ShareStrategy,
    /// Whether a payload that is said to be UTF-8 is looked at [MQTT 5.0, 3.3.2.3.2].
    pub payload_format_check: bool,
    /// Whether MQTT 3.1 is spoken.
    pub mqtt_3_1: bool,
    /// Whether an MQTT 5.0 client is told in words what it did wrong.
    pub reason_strings: bool,
    /// What a client that asks for it is told to build its response topics from; `${client-id}` and
    /// `${device-id}` are replaced [MQTT 5.0, 3.2.2.3.14].
    pub response_information: Option<Arc<str>>,
    /// Where clients find another server when this one shuts down [MQTT 5.0, 3.14.2.2.5].
    pub server_reference: Option<Arc<str>>,
    pub topics: Arc<TopicRules>,
    /// Who this broker is to bridges.
    pub bridge_id: Option<Arc<str>>,
}

/// What a message that waits takes besides its topic, payload and properties, in bytes.
pub const MESSAGE_OVERHEAD: usize = 256;

/// What the queues of a broker may yet hold together.
///
/// One queue may hold as much as is free but for an eighth of everything: as many fill up, each has less, and there is
/// room for one more. That eighth is for queues with next to nothing in them, so that whoever takes its messages gets
/// them while the queues of those who do not are full.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    free: usize,
    shared: usize,
}

/// A queue that holds no more than this finds room in the last eighth.
pub const SMALL_QUEUE: usize = 16 * 1024;

impl Room {
    /// Of `all` bytes, `held` are taken.
    pub const fn new(all: usize, held: usize) -> Self {
        let free = all.saturating_sub(held);
        Self { free, shared: free.saturating_sub(all / 8) }
    }

    /// Bytes that all queues together may take.
    pub const fn free(self) -> usize {
        self.free
    }

    /// A queue has taken so many bytes.
    pub const fn take(&mut self, bytes: usize) {
        self.free = self.free.saturating_sub(bytes);
        self.shared = self.shared.saturating_sub(bytes);
    }

    /// Bytes that a queue that has `held` bytes may hold in all.
    pub fn of_queue(self, held: usize) -> usize {
        let little = match held {
            0 => self.free,
            held => SMALL_QUEUE.min(held.saturating_add(self.free)),
        };
        self.shared.max(little)
    }
}

/// Bounds of what one session has accepted and not yet sent.
#[derive(Debug, Clone, Copy)]
pub struct OutboxLimits {
    /// Messages of QoS 1 and 2.
    pub messages: usize,
    /// Messages of QoS 0, which are kept for connected clients only.
    pub qos0_messages: usize,
    /// Bytes of topics and payloads together.
    pub bytes: usize,
    pub when_full: WhenFull,
}

/// What goes when an outbox is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The message that just arrived.
    DropNewest,
    /// The oldest message; one of QoS 0 that just arrived is dropped all the same.
    DropOldest,
}

/// Bounds of the retained messages of a broker.
#[derive(Debug, Clone, Copy)]
pub struct RetainedLimits {
    pub messages: usize,
    /// Bytes of topics and payloads together.
    pub bytes: usize,
    /// How long a message is kept whose publisher gave it no expiry.
    pub expiry: Option<Duration>,
}

/// What a client hears that may not publish where it published, where MQTT 3.1.1 has no word for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeniedPublish {
    /// Acknowledged and dropped [MQTT-3.3.5-2].
    Drop,
    Disconnect,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(15),
            maximum_packet_size: 1024 * 1024,
            connect_packet_size: 128 * 1024,
            client_id_length: 65_535,
            topic_levels: 128,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            subscriptions_per_session: 1_000,
            filters_per_subscribe: 1_000,
            filter_bytes_per_session: 256 * 1024,
            receive_maximum: const { NonZeroU16::new(100).expect("not zero") },
            inflight_maximum: const { NonZeroU16::new(32).expect("not zero") },
            topic_alias_maximum: 64,
            keep_alive_maximum: 0,
            session_expiry_maximum: Duration::from_secs(2 * 60 * 60),
            will_delay_maximum: Duration::from_secs(24 * 60 * 60),
            sessions: 1_000_000,
            sessions_per_device: 20_000,
            retained_per_subscription: 10_000,
            retained_backlog: 20_000,
            retained_visits_per_subscribe: 100_000,
            write_stall_timeout: Duration::from_secs(60),
            outbox: OutboxLimits::default(),
            queued_bytes: 1024 * 1024 * 1024,
            retained: RetainedLimits::default(),
            denied_publish: DeniedPublish::Drop,
            topic_aliases_to_client: 16,
            share_strategy: ShareStrategy::RoundRobin,
            payload_format_check: false,
            mqtt_3_1: true,
            reason_strings: true,
            response_information: None,
            server_reference: None,
            topics: Arc::default(),
            bridge_id: None,
        }
    }
}

impl Default for OutboxLimits {
    fn default() -> Self {
        Self {
            messages: 1_000,
            qos0_messages: 10_000,
            bytes: 16 * 1024 * 1024,
            when_full: WhenFull::DropNewest,
        }
    }
}

impl Default for RetainedLimits {
    fn default() -> Self {
        Self { messages: 100_000, bytes: 256 * 1024 * 1024, expiry: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_may_hold_what_is_free_but_for_an_eighth() {
        let room = Room::new(800_000, 300_000);
        assert_eq!((room.free(), room.of_queue(0), room.of_queue(300_000)), (500_000, 500_000, 400_000));
        assert_eq!(Room::new(usize::MAX, 0).of_queue(1), usize::MAX - usize::MAX / 8);
    }

    #[test]
    fn the_last_eighth_is_for_small_queues() {
        let mut room = Room::new(800_000, 0);
        room.take(700_000);
        assert_eq!(
            (room.of_queue(1), room.of_queue(SMALL_QUEUE), room.of_queue(SMALL_QUEUE + 1)),
            (SMALL_QUEUE, SMALL_QUEUE, SMALL_QUEUE)
        );
        room.take(99_000);
        assert_eq!(
            (room.of_queue(0), room.of_queue(500), room.of_queue(SMALL_QUEUE)),
            (1000, 1500, SMALL_QUEUE)
        );
        room.take(99_000);
        assert_eq!((room.of_queue(0), room.of_queue(500)), (0, 500), "nothing more");
    }
}
