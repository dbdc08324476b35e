//! Keys of what people expect of a broker besides the protocol.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Action;
use crate::config::units::{Size, Span};

/// How fast the clients of a listener may be; 0 is without limit. Who is too fast is not read, or not
/// accepted, for a while; nothing is dropped.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    /// Connections accepted in a second; more wait in the kernel's queue.
    pub connections: u32,
    /// Connections in a second from one address (of IPv6: one network of 64 bits); more are closed at once. What
    /// counts is the address that a trusted PROXY header names.
    pub source_connections: u32,
    /// PUBLISH packets in a second from all clients together.
    pub messages: u32,
    /// Bytes in a second from all clients together.
    pub bytes: u32,
    /// PUBLISH packets in a second from one client. The grant of an authorizer may lower it.
    pub client_messages: u32,
    /// Bytes of topics and payloads in a second from one client. The grant of an authorizer may lower it.
    pub client_bytes: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Bans {
    /// Bans that may be in force at the same time.
    pub max_entries: u32,
}

/// Clients that connect and disconnect all the time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Flapping {
    /// Whether they are banned for a while.
    pub enable: bool,
    /// So many ends of connections of one client …
    pub max_disconnects: u32,
    /// … within this time …
    pub window: Span,
    /// … and it is banned for this long.
    pub ban_time: Span,
}

/// Clients that take their messages slower than they come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SlowSubscribers {
    /// Whether they are looked for.
    pub enable: bool,
    /// More messages than this wait for the client …
    pub messages: u32,
    /// … or more bytes …
    pub bytes: Size,
    /// … for this long: it is slow.
    pub age: Span,
    /// Whether slow clients are disconnected.
    pub disconnect: bool,
}

/// What the broker says about itself under `$SYS/broker/`. Clients need a rule for these topics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sys {
    /// How often it is renewed; `"0s"` turns it off.
    pub interval: Span,
}

/// Messages that are published later: clients publish to `$delayed/SECONDS/TOPIC`, and need a rule for TOPIC.
/// They are kept in memory: those that wait when the broker stops are lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Delayed {
    /// Whether there is such a thing. Without it, publishing there is denied.
    pub enable: bool,
    /// Longest delay.
    pub max_delay: Span,
    /// Messages that wait.
    pub max_messages: u32,
    /// Bytes of those messages.
    pub max_bytes: Size,
}

/// Topics as clients see them. Permits are judged by what topics became.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Topics {
    /// Whether clients may subscribe to `$exclusive/FILTER`, which one session at a time gets.
    pub exclusive: bool,
    /// What topics become; the first rule that matches counts. Wills are published like messages.
    pub rewrite: Vec<Rewrite>,
    /// What every client is subscribed to when it connects, as far as its permit goes.
    pub subscribe: Vec<AutoSubscribe>,
}

/// What matches `from` becomes `to`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// `publish`, `subscribe` or `all`.
    #[serde(default)]
    pub action: Action,
    /// A Topic Filter.
    pub from: String,
    /// A topic, in which `$1`, `$2`, … stand for what the wildcards of `from` matched, in their order.
    pub to: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AutoSubscribe {
    /// A Topic Filter, with `${client-id}` and `${device-id}`. A value with `/`, `+` or `#` in it leaves it out.
    pub filter: String,
    /// Highest QoS.
    #[serde(default)]
    pub qos: u8,
    /// Not what the client published itself.
    #[serde(default)]
    pub no_local: bool,
}

/// Bounds of `mqgate trace`. Files are in `traces` in `data_dir`; whoever reads them sees client ids and topics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Trace {
    /// Traces that run at the same time.
    pub max_running: u32,
    /// Longest time one may run.
    pub max_time: Span,
    /// Largest file.
    pub max_size: Size,
}

impl Default for Trace {
    fn default() -> Self {
        Self { max_running: 10, max_time: Span::secs(24 * 3_600), max_size: Size(256 << 20) }
    }
}

impl Default for Delayed {
    fn default() -> Self {
        Self {
            enable: true,
            max_delay: Span::secs(50 * 24 * 3_600),
            max_messages: 10_000,
            max_bytes: Size(64 << 20),
        }
    }
}

impl Default for Topics {
    fn default() -> Self {
        Self { exclusive: true, rewrite: Vec::new(), subscribe: Vec::new() }
    }
}

impl Default for Bans {
    fn default() -> Self {
        Self { max_entries: 100_000 }
    }
}

impl Default for Flapping {
    fn default() -> Self {
        Self { enable: false, max_disconnects: 15, window: Span::secs(60), ban_time: Span::secs(300) }
    }
}

impl Default for SlowSubscribers {
    fn default() -> Self {
        Self { enable: true, messages: 500, bytes: Size(8 << 20), age: Span::secs(10), disconnect: false }
    }
}

impl Default for Sys {
    fn default() -> Self {
        Self { interval: Span::secs(10) }
    }
}
