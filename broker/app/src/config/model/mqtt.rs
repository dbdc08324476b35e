//! The table `[mqtt]`: choices that the specification leaves to a server.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Mqtt {
    /// Which member of a shared subscription gets a message: `round-robin`, `random`, `sticky` (one until it goes),
    /// `hash-client` (the same for all messages of a client), `hash-topic` (the same for all messages of a topic) or
    /// `least-outstanding` (whoever has the fewest messages waiting and unacknowledged). A member that is away or full
    /// is passed over while another one is not.
    pub share_strategy: ShareStrategy,
    /// Topic aliases set for messages to a client that takes them; 0 sets none.
    pub topic_aliases_to_client: u16,
    /// Look at payloads that are said to be UTF-8 text, and refuse those that are not.
    pub payload_format_check: bool,
    /// What clients that ask for Response Information are told to build response topics from. `${client-id}` and
    /// `${device-id}` are replaced, for example `"answers/${client-id}"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_information: Option<String>,
    /// Another server, for example `"b.example.com:8883"`: MQTT 5.0 clients are told to use it when this one stops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_reference: Option<String>,
    /// Whether the delayed will of a client is published that was banned, or whose certificate was revoked, expired
    /// or lost its CA, after it had gone. Of a client that is connected at that moment it never is.
    pub publish_wills_of_barred: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ShareStrategy {
    #[default]
    RoundRobin,
    Random,
    Sticky,
    HashClient,
    HashTopic,
    LeastOutstanding,
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            share_strategy: ShareStrategy::RoundRobin,
            topic_aliases_to_client: 16,
            payload_format_check: false,
            response_information: None,
            server_reference: None,
            publish_wills_of_barred: false,
        }
    }
}
