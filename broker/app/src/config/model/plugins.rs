//! Keys of the chain's members: components and native implementations, what they may import and use.

use std::path::PathBuf;

use mqgate_plugin_host::AllowedDestination;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::units::{Size, Span};

/// One member of the chain: either `source` or `native`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plugin {
    /// Its name: what `mqgate plugin list`, metrics and audit records call it. Lower-case letters, digits, `-`.
    pub name: String,
    /// The component: `"bundled:"` and the name of one that comes with the broker, as in `"bundled:cert-acl"`, or the path of
    /// a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// `"sha256:…"` that the component must have; without it, any that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
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
    /// What one call shares with the next. `per-call`: nothing, every call has a fresh instance. `pooled`: memory,
    /// instances take one call after the other, for thousands of calls or a few minutes. `single`: likewise, one instance
    /// for all. `auto`: `pooled` for a plugin that comes with the broker (`bundled:`), and where a fresh instance costs more
    /// than 100 µs; otherwise `per-call`.
    #[serde(default)]
    pub isolation: Isolation,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    #[default]
    Auto,
    PerCall,
    Pooled,
    Single,
}

/// What a component may use beside its own code and `log`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PluginGrant {
    /// `kv`, `registry.read` and `metrics` are the imports of these names; `credentials` hands the password of CONNECT
    /// to the plugin. `http` is `wasi:http/outgoing-handler`, `clock` is `wasi:clocks`, `random` is `wasi:random`. A
    /// component that imports what is not granted is refused.
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
    /// Requests over HTTP.
    pub http: PluginHttp,
}

/// Where a component that is granted `http` may send requests, and how large they may be. What it is not told in time,
/// within `limits.wall`, it is not told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PluginHttp {
    /// Destinations: `"https://pki.example.com:443"`. The scheme is `http` or `https`; the host a name, `*.example.com` for
    /// every name below that one, an address, or `*`; the port 80 or 443 where it is left out, `*` is any. Redirects are
    /// not followed. Needed with `http`.
    #[schemars(with = "Vec<String>")]
    pub allow: Vec<AllowedDestination>,
    /// Names may lead to addresses of this machine and of networks that are not public. Link-local addresses, those of the
    /// metadata services of clouds, and what is no single host, are refused in any case.
    pub private_networks: bool,
    /// Connections at once, 1 to 256. An answer that the component still holds is one; when there is none, the request is
    /// refused.
    pub connections: u32,
    /// Largest body of a request; 16 MiB at most.
    pub request: Size,
    /// Largest body of an answer; 16 MiB at most.
    pub response: Size,
    /// Fields of a request, of an answer, or of its trailers; 32 bytes are added for each field.
    pub headers: Size,
    /// Certificate authorities (PEM) that servers must be certified by; the system's without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
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
    #[serde(rename = "http")]
    Http,
    #[serde(rename = "clock")]
    Clock,
    #[serde(rename = "random")]
    Random,
}

/// What one call of a component may use up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PluginLimits {
    /// Linear memory of one instance; 64 KiB to 64 MiB.
    pub memory: Size,
    /// Computing time of one call.
    pub cpu: Span,
    /// Time of one call, waiting for host functions included: 100ms, and 2s for a component that is granted `http`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall: Option<Span>,
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
    /// A hook is not called for a while when calls failed for this many clients, counted by certificate or address.
    /// 0 calls it always.
    pub breaker_clients: u32,
    /// The share of failed calls, in percent, that this also takes.
    pub breaker_percent: u8,
    /// The time in which both are counted.
    pub breaker_window: Span,
    /// How long the hook is not called then: doubled with each trial call that fails, up to a minute.
    pub breaker_wait: Span,
    /// Bytes that a step of enhanced authentication may have remembered for the next one.
    pub auth_state: Size,
    /// Steps of one enhanced authentication, 1 to 16; when the plugin would go on after that, the client is refused.
    pub auth_steps: u32,
}

/// What holds for all components.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PluginHost {
    /// Versions of a plugin that are kept to go back to, the one that runs included; 2 to 100.
    pub versions: u32,
    /// Uploaded components that no plugin uses yet; the oldest go first.
    pub uploads: u32,
    /// Load only components that one of `trusted_keys` signed. Those that come with the broker need no signature.
    pub require_signed: bool,
    /// Keys whose signatures count. Once there is one, a signature that is given must be by one of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted_keys: Vec<TrustedKey>,
    /// A folder whose `NAME.wasm` is loaded as the plugin NAME, or swapped in, when it appears or changes; its settings are
    /// in `NAME.json`, its signature in `NAME.wasm.sig`. Off by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watch: Option<PathBuf>,
    /// How often that folder is looked at.
    pub watch_interval: Span,
    /// When a version that took over is taken back by itself.
    pub probation: PluginProbation,
    /// What compiling a component may use up.
    pub compile: PluginCompile,
}

/// A key whose signatures count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustedKey {
    /// What lists and audit records call it.
    pub name: String,
    /// `"ed25519:…"`, as `mqgate plugin keygen` prints it.
    pub key: String,
    /// A moment (`"2027-06-30T00:00:00Z"`) from which nothing new is accepted by it; what was accepted before goes on.
    /// Without it there is no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// How a new version of a plugin proves itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PluginProbation {
    /// How long it is watched after it took over; `"0s"` watches nothing.
    pub time: Span,
    /// It is taken back when calls failed for this many clients, counted by certificate or address; 0: never for that.
    pub failed_clients: u32,
    /// The share of failed calls, in percent, that this also takes.
    pub failed_percent: u8,
    /// It is taken back when it refuses this many percent points more of its clients than the version before did; 100:
    /// never for that.
    pub denied_points: u8,
    /// Clients that both must have judged before that is compared.
    pub judged_clients: u32,
}

/// Bounds of the process in which a component is compiled, two at a time at most. What was compiled once comes from disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PluginCompile {
    /// Address space; at least 64 MiB. A component of 18 MiB, as Python makes them, needs more than one of 100 KiB.
    pub memory: Size,
    /// Computing time of all its threads together, in whole seconds. Less is taken for a second.
    pub cpu: Span,
    /// Time from its start.
    pub time: Span,
}

impl Default for PluginCompile {
    fn default() -> Self {
        Self { memory: Size(4 << 30), cpu: Span::secs(120), time: Span::secs(300) }
    }
}

impl Default for PluginHost {
    fn default() -> Self {
        Self {
            versions: 8,
            uploads: 8,
            require_signed: false,
            trusted_keys: Vec::new(),
            watch: None,
            watch_interval: Span::secs(2),
            probation: PluginProbation::default(),
            compile: PluginCompile::default(),
        }
    }
}

impl Default for PluginProbation {
    fn default() -> Self {
        Self {
            time: Span::secs(300),
            failed_clients: 5,
            failed_percent: 20,
            denied_points: 30,
            judged_clients: 50,
        }
    }
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
            http: PluginHttp::default(),
        }
    }
}

impl Default for PluginHttp {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            private_networks: false,
            connections: 8,
            request: Size(64 << 10),
            response: Size(256 << 10),
            headers: Size(16 << 10),
            ca_file: None,
        }
    }
}

impl Default for PluginLimits {
    fn default() -> Self {
        Self {
            memory: Size(32 << 20),
            cpu: Span::millis(20),
            wall: None,
            init: Span::secs(5),
            concurrency: 16,
            queue_wait: Span::millis(100),
            answer: Size(1 << 20),
            backoff: Span::secs(1),
            cache_ttl: Span::secs(300),
            cache_entries: 10_000,
            breaker_clients: 5,
            breaker_percent: 20,
            breaker_window: Span::secs(10),
            breaker_wait: Span::secs(1),
            auth_state: Size(16 << 10),
            auth_steps: 8,
        }
    }
}
