//! Keys of the stream of events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happens, for who watches: `GET /api/v1/events`, `mqgate events`, and `$events/…` topics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Events {
    /// Whether events are published below `$events/`, as CloudEvents with QoS 1. A client reads them only where a rule
    /// names `$events/`; nobody but the broker publishes there.
    pub mqtt: bool,
    /// CloudEvents' `source`: a URI reference that tells this broker from others.
    pub source: String,
    /// Events kept in memory for who watches: who is further behind is told that some were missed; 1 to 1,000,000.
    pub buffer: u32,
    /// Streams of the admin API at once; at most 256, which is how many connections it takes. 0 has none.
    pub max_streams: u32,
}

impl Default for Events {
    fn default() -> Self {
        Self { mqtt: true, source: String::from("/mqgate"), buffer: 4_096, max_streams: 32 }
    }
}
