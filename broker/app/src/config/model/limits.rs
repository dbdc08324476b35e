//! Keys that bound what one client, or all of them together, may use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::units::{Size, Span};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// CAs that may be trusted at the same time, those of `cacertfile` included.
    pub ca_certs: u32,
    /// Certificates of servers besides the built-in one: bundles, and pairs of files that listeners name.
    pub server_certs: u32,
    /// Names of CAs that clients are told are welcome; with more CAs they are told none, which means any.
    pub ca_hints: u32,
    /// Bytes of those names.
    pub ca_hint_bytes: Size,
    /// Time from the end of the TLS handshake to a complete CONNECT packet.
    pub connect_timeout: Span,
    /// Largest packet, either way; Maximum Packet Size of CONNACK.
    pub max_packet_size: Size,
    /// Largest packet of a client that is not let in yet: CONNECT with its will, and AUTH.
    pub max_connect_size: Size,
    /// Receive Maximum of CONNACK: QoS 1 and 2 messages from a client that are not yet acknowledged.
    pub receive_maximum: u16,
    /// QoS 1 and 2 messages sent to a client and not yet acknowledged.
    pub max_inflight: u16,
    /// Topic Alias Maximum of CONNACK.
    pub topic_alias_maximum: u16,
    /// Highest QoS a client may publish with.
    pub max_qos: u8,
    /// Whether clients may leave retained messages.
    pub retain_available: bool,
    /// Bytes of a client identifier.
    pub max_client_id_bytes: u32,
    /// Levels of a topic.
    pub max_topic_levels: u32,
    /// Longest keep-alive, and what a client gets that turned it off; `"0s"` means any.
    pub max_keep_alive: Span,
    /// Longest time a session outlives its connection.
    pub max_session_expiry: Span,
    /// Longest delay of a will.
    pub max_will_delay: Span,
    /// Sessions, connected or not.
    pub max_sessions: u32,
    /// Sessions of one device, connected or not: how many client ids it may use at a time.
    pub max_sessions_per_device: u32,
    /// Subscriptions of one client.
    pub max_subscriptions: u32,
    /// Bytes of the filters of those subscriptions.
    pub max_filter_bytes: Size,
    /// How long a client may take none of what is waiting for it before it is closed.
    pub write_stall_timeout: Span,
    /// Topic Filters in one SUBSCRIBE.
    pub max_filters_per_subscribe: u32,
    /// QoS 1 and 2 messages waiting for one client.
    pub max_queued_messages: u32,
    /// QoS 0 messages waiting for one connected client.
    pub max_queued_qos0_messages: u32,
    /// Bytes of all those messages.
    pub max_queued_bytes: Size,
    /// Bytes of messages that wait for all clients together, 256 for each message besides. One client may have as much
    /// as is left of it but for an eighth, which is for clients that have less than 16 KiB waiting: where many are
    /// slow, each may have less, and who is not slow loses nothing.
    pub max_total_queued_bytes: Size,
    /// Which message is lost when they are too many: `drop-newest` or `drop-oldest`.
    pub when_full: WhenFull,
    /// Retained messages.
    pub max_retained_messages: u32,
    /// Bytes of retained messages.
    pub max_retained_bytes: Size,
    /// How long a retained message is kept whose publisher gave it no Message Expiry Interval; `"0s"` means as long
    /// as the broker runs. Subscribers of MQTT 5.0 are told what is left of it.
    pub retained_expiry: Span,
    /// Retained messages that one new subscription gets.
    pub max_retained_per_subscription: u32,
    /// Retained messages that wait for one session.
    pub max_retained_backlog: u32,
    /// Levels of topics that are looked at for the retained messages of one SUBSCRIBE.
    pub max_retained_visits: u32,
    /// What an MQTT 3.1.1 client gets that publishes where it may not: `drop` (acknowledged and dropped) or
    /// `disconnect`. MQTT 5.0 has a reason code for it.
    pub denied_publish: DeniedPublish,
    /// Events of the registry that are kept for who watches; who comes later misses the older ones.
    pub registry_events: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    #[default]
    DropNewest,
    DropOldest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeniedPublish {
    #[default]
    Drop,
    Disconnect,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ca_certs: 32,
            server_certs: 3,
            ca_hints: 32,
            ca_hint_bytes: Size(8 << 10),
            connect_timeout: Span::secs(15),
            max_packet_size: Size(1 << 20),
            max_connect_size: Size(128 << 10),
            receive_maximum: 100,
            max_inflight: 32,
            topic_alias_maximum: 64,
            max_qos: 2,
            retain_available: true,
            max_client_id_bytes: 256,
            max_topic_levels: 128,
            max_keep_alive: Span::secs(0),
            max_session_expiry: Span::secs(2 * 3_600),
            max_will_delay: Span::secs(86_400),
            max_sessions: 1_000_000,
            max_sessions_per_device: 20_000,
            max_subscriptions: 1_000,
            max_filter_bytes: Size(256 << 10),
            write_stall_timeout: Span::secs(60),
            max_filters_per_subscribe: 1_000,
            max_queued_messages: 1_000,
            max_queued_qos0_messages: 10_000,
            max_queued_bytes: Size(16 << 20),
            max_total_queued_bytes: Size(1 << 30),
            when_full: WhenFull::DropNewest,
            max_retained_messages: 100_000,
            max_retained_bytes: Size(256 << 20),
            retained_expiry: Span::secs(0),
            max_retained_per_subscription: 10_000,
            max_retained_backlog: 20_000,
            max_retained_visits: 100_000,
            denied_publish: DeniedPublish::Drop,
            registry_events: 100_000,
        }
    }
}
