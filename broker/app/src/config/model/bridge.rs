//! The tables `[bridges.NAME]`: topics shared with other brokers.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::limits::WhenFull;
use super::tls::TlsVersion;
use crate::config::units::{Size, Span};

/// A connection to another broker, over which topics go in, out, or both ways.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Bridge {
    /// Whether it starts with the broker; `mqgate bridge start` starts it all the same.
    pub enable: bool,
    /// Where the other broker is: `"mqtt://HOST:PORT"`, or `"mqtts://HOST:PORT"` for TLS. Several are tried in turn.
    pub addresses: Vec<String>,
    /// MQTT version: `"5"` or `"3.1.1"`.
    pub version: BridgeVersion,
    /// Client id at the other broker; without it `mqgate-ID-NAME`, where ID is this broker's for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Whether the other broker is to forget, at each connection, what waits for us there.
    pub clean_start: bool,
    /// How long it keeps that while we are away (MQTT 5.0).
    pub session_expiry: Span,
    /// Keep-alive.
    pub keep_alive: Span,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The text, `"file://PATH"` or `"env:NAME"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// For `mqtts`.
    pub tls: BridgeTls,
    /// Which topics; the first rule that matches a message counts.
    pub topics: Vec<BridgeTopic>,
    /// From the first byte to the answer to CONNECT.
    pub connect_timeout: Span,
    /// Shortest pause between attempts to connect; it is doubled after each that fails, …
    pub min_backoff: Span,
    /// … up to this. Each pause is varied by chance, by up to half of it.
    pub max_backoff: Span,
    /// Messages above QoS 0 that are under way in each direction.
    pub max_inflight: u16,
    /// Messages that wait for the other broker.
    pub max_queued_messages: u32,
    /// Bytes of those messages.
    pub max_queued_bytes: Size,
    /// Which message is lost when they are too many: `drop-newest` or `drop-oldest`.
    pub when_full: WhenFull,
    /// Largest packet that is taken from the other broker.
    pub max_packet_size: Size,
    /// With 3.1.1: say that we are a bridge, by the topmost bit of the protocol level. A broker that does not know
    /// it refuses; then it is tried without.
    pub bridge_bit: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BridgeTls {
    /// PEM with the CAs that the other broker's certificate may come from. Needed for `mqtts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cacertfile: Option<PathBuf>,
    /// PEM with our certificate and, after it, intermediate ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certfile: Option<PathBuf>,
    /// PEM with its private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyfile: Option<PathBuf>,
    /// Password of the key: the text, `"file://PATH"` or `"env:NAME"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// The name to ask for and to find in the other broker's certificate, if not the host of the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Only this version: `"tlsv1.2"` or `"tlsv1.3"`; without it, both.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub version: Option<TlsVersion>,
}

/// What goes over a bridge. A topic here is `local_prefix` and something that `pattern` matches; there it is
/// `remote_prefix` and the same.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BridgeTopic {
    /// A Topic Filter. Empty, with both prefixes: one topic, which has another name there.
    pub pattern: String,
    /// `out`: to the other broker; `in`: from it; `both`.
    pub direction: Direction,
    /// Highest QoS.
    pub qos: u8,
    pub local_prefix: String,
    pub remote_prefix: String,
    /// Whether retained messages are retained on the other side.
    pub retain: Retain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    #[default]
    Out,
    In,
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Retain {
    #[default]
    Keep,
    Clear,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum BridgeVersion {
    #[default]
    #[serde(rename = "5")]
    V5,
    #[serde(rename = "3.1.1")]
    V311,
}

impl Default for Bridge {
    fn default() -> Self {
        Self {
            enable: true,
            addresses: Vec::new(),
            version: BridgeVersion::V5,
            client_id: None,
            clean_start: false,
            session_expiry: Span::secs(86_400),
            keep_alive: Span::secs(60),
            username: None,
            password: None,
            tls: BridgeTls::default(),
            topics: Vec::new(),
            connect_timeout: Span::secs(15),
            min_backoff: Span::secs(1),
            max_backoff: Span::secs(60),
            max_inflight: 100,
            max_queued_messages: 10_000,
            max_queued_bytes: Size(64 << 20),
            when_full: WhenFull::DropNewest,
            max_packet_size: Size(1 << 20),
            bridge_bit: true,
        }
    }
}
