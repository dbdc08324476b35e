//! Keys of the chain's members: components and native implementations, what they may import and use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::units::{Size, Span};

/// One member of the chain: either `source` or `native`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plugin {
    /// Its name: what `mqgate plugin list`, metrics and audit records call it. Lower-case letters, digits, `-`.
    pub name: String,
    /// The component: `"bundled:cert-acl"`, `"bundled:auto-register"`, `"bundled:audit-log"`, or the path of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A built-in implementation instead of a component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub native: Option<Native>,
    /// While it is not live, no listener opens and `/ready` says why.
    #[serde(default = "yes")]
    pub required: bool,
    /// What the component may import; `grant = ["kv"]` is short for `grant = { capabilities = ["kv"] }`.
    #[serde(default, deserialize_with = "grant")]
    pub grant: PluginGrant,
    /// What it may use.
    #[serde(default)]
    pub limits: PluginLimits,
    /// Its own settings, handed to it as JSON. For native implementations see below.
    #[serde(default)]
    pub config: serde_json::Map<String, serde_json::Value>,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Native {
    StaticPolicy,
    PasswordFile,
    Scram,
    Anonymous,
}

/// What a component may use beside its own code and `log`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PluginGrant {
    /// `kv`, `registry.read` and `metrics` are the imports of these names; `credentials` hands the password of CONNECT
    /// to the plugin. A component that imports what is not granted is refused.
    pub capabilities: Vec<Capability>,
    /// Key-value space: bytes.
    pub kv_bytes: Size,
    /// Key-value space: entries.
    pub kv_entries: u64,
    /// Key-value space: largest value.
    pub kv_value: Size,
    /// Metrics it may define.
    pub metrics: u32,
    /// Time series of those metrics.
    pub metric_series: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Capability {
    #[serde(rename = "kv", alias = "key-value")]
    KeyValue,
    #[serde(rename = "registry.read", alias = "registry")]
    RegistryRead,
    #[serde(rename = "metrics")]
    Metrics,
    #[serde(rename = "credentials")]
    Credentials,
}

/// What one call of a component may use up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PluginLimits {
    /// Linear memory of one instance; 64 KiB to 64 MiB.
    pub memory: Size,
    /// Computing time of one call.
    pub cpu: Span,
    /// Time of one call, waiting for host functions included.
    pub wall: Span,
    /// Time for `init` and the self-test.
    pub init: Span,
    /// Calls at the same time.
    pub concurrency: u32,
    /// Time a call may wait for its turn.
    pub queue_wait: Span,
    /// Bytes it may hand to the broker in one call.
    pub answer: Size,
    /// A client on which a call ran out of time or memory, or trapped, is refused without a call for this long;
    /// twice as long after each further failure, up to ten minutes. `"0s"` asks the plugin every time.
    pub backoff: Span,
    /// The longest that an answer is given again without a call, where the plugin says for whom and how long it
    /// holds. `"0s"` asks the plugin every time.
    pub cache_ttl: Span,
    /// Answers that are kept for that; the oldest go first.
    pub cache_entries: u32,
}

/// `grant = ["kv"]` is short for `grant = { capabilities = ["kv"] }`.
fn grant<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<PluginGrant, D::Error> {
    struct Visitor;
    impl<'de> serde::de::Visitor<'de> for Visitor {
        type Value = PluginGrant;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list of capabilities or a table")
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, list: A) -> Result<PluginGrant, A::Error> {
            let list = serde::de::value::SeqAccessDeserializer::new(list);
            Ok(PluginGrant { capabilities: Vec::deserialize(list)?, ..PluginGrant::default() })
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<PluginGrant, A::Error> {
            PluginGrant::deserialize(serde::de::value::MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_any(Visitor)
}

impl Default for PluginGrant {
    fn default() -> Self {
        Self {
            capabilities: Vec::new(),
            kv_bytes: Size(4 << 20),
            kv_entries: 100_000,
            kv_value: Size(64 << 10),
            metrics: 32,
            metric_series: 500,
        }
    }
}

impl Default for PluginLimits {
    fn default() -> Self {
        Self {
            memory: Size(32 << 20),
            cpu: Span::millis(20),
            wall: Span::millis(100),
            init: Span::secs(5),
            concurrency: 16,
            queue_wait: Span::millis(100),
            answer: Size(1 << 20),
            backoff: Span::secs(1),
            cache_ttl: Span::secs(300),
            cache_entries: 10_000,
        }
    }
}
