//! What the operator decides about the host and about one plugin. Values only; who reads them from a file
//! is elsewhere.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use mqgate_identity::registry::KvQuota;

/// Settings of the whole host.
#[derive(Debug, Clone)]
pub struct HostSettings {
    /// Where compiled components are kept. The folder must be the broker's alone (mode 0700); `None`
    /// compiles at every start.
    pub cache_dir: Option<PathBuf>,
    /// Threads that run plugins, apart from those that move messages.
    pub worker_threads: usize,
    /// Instances that may be alive at once, over all plugins.
    pub instances: u32,
    /// The most a plugin's `limits.memory` may be. Address space is reserved for it per instance.
    pub memory_ceiling: usize,
    /// Names of plugins and native members in the order in which they are asked; used by
    /// [`Position::Configured`].
    pub order: Vec<String>,
    /// What plugins are told as `broker-version`.
    pub broker_version: String,
}

impl Default for HostSettings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            cache_dir: None,
            worker_threads: (cores / 2).max(2),
            instances: 256,
            memory_ceiling: 64 << 20,
            order: Vec::new(),
            broker_version: String::from(env!("CARGO_PKG_VERSION")),
        }
    }
}

/// Where a component comes from.
#[derive(Debug, Clone)]
pub enum Source {
    File(PathBuf),
    Bytes(Arc<[u8]>),
}

/// Settings of one plugin.
#[derive(Clone)]
pub struct PluginSettings {
    /// Unique among plugins and native members: 1 to 64 of `a-z 0-9 - _`.
    pub name: String,
    pub source: Source,
    /// Handed to the plugin's `init` as JSON text.
    pub config: serde_json::Value,
    pub grants: Grants,
    pub limits: Limits,
    /// While a required plugin is not live, listeners stay shut.
    pub required: bool,
}

impl PluginSettings {
    /// A plugin with default limits, an empty configuration and no grants.
    pub fn new(name: impl Into<String>, source: Source) -> Self {
        Self {
            name: name.into(),
            source,
            config: serde_json::Value::Object(serde_json::Map::new()),
            grants: Grants::default(),
            limits: Limits::default(),
            required: true,
        }
    }
}

impl std::fmt::Debug for PluginSettings {
    /// Without `config`, which may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginSettings").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a plugin may use beside its own code and `log`.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    pub capabilities: BTreeSet<Capability>,
    pub kv: KvSettings,
    pub metrics: MetricsSettings,
}

impl Grants {
    pub fn of(capabilities: impl IntoIterator<Item = Capability>) -> Self {
        Self { capabilities: capabilities.into_iter().collect(), ..Self::default() }
    }

    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }
}

/// One capability an operator can grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// `kv`: the interface `key-value`.
    KeyValue,
    /// `registry.read`: the interface `registry`.
    RegistryRead,
    /// `metrics`: the interface `metrics`.
    Metrics,
    /// `credentials`: the password of the CONNECT packet.
    Credentials,
}

impl Capability {
    pub const ALL: [Self; 4] = [Self::KeyValue, Self::RegistryRead, Self::Metrics, Self::Credentials];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KeyValue => "kv",
            Self::RegistryRead => "registry.read",
            Self::Metrics => "metrics",
            Self::Credentials => "credentials",
        }
    }
}

/// The text names no capability; the message lists those there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no capability is called {0:?}; there are kv, registry.read, metrics, credentials")]
pub struct UnknownCapability(pub String);

impl FromStr for Capability {
    type Err = UnknownCapability;

    fn from_str(text: &str) -> Result<Self, UnknownCapability> {
        Self::ALL
            .into_iter()
            .find(|capability| capability.as_str() == text)
            .ok_or_else(|| UnknownCapability(text.to_owned()))
    }
}

/// Quota of a plugin's key-value space.
#[derive(Debug, Clone, Copy)]
pub struct KvSettings {
    pub bytes: u64,
    pub entries: u64,
    pub value_bytes: u32,
}

impl Default for KvSettings {
    fn default() -> Self {
        Self { bytes: 4 << 20, entries: 100_000, value_bytes: 64 << 10 }
    }
}

impl From<KvSettings> for KvQuota {
    fn from(settings: KvSettings) -> Self {
        Self { bytes: settings.bytes, entries: settings.entries, value_bytes: settings.value_bytes }
    }
}

/// How many series of its own a plugin may have.
#[derive(Debug, Clone, Copy)]
pub struct MetricsSettings {
    pub metrics: usize,
    pub series: usize,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { metrics: 32, series: 500 }
    }
}

/// What one plugin may use up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of each linear memory of an instance.
    pub memory: usize,
    /// Time a call may compute, `init` of its instance included. Counted in steps of a millisecond.
    pub cpu: Duration,
    /// Time a call may take from its start, waiting for host functions included.
    pub wall: Duration,
    /// Time `init` and the self-test may take before the plugin goes live.
    pub init: Duration,
    /// Calls at once.
    pub concurrency: usize,
    /// Time a call may wait for a free place.
    pub queue_wait: Duration,
    /// Bytes a plugin may hand to the host in one call.
    pub answer_bytes: usize,
    /// How long a client on which a call broke is refused without another call: the first time, doubled with
    /// each further failure up to ten minutes. Zero asks the plugin every time.
    pub backoff: Duration,
    /// The longest that an answer is given again where the plugin lets us. Zero asks it every time.
    pub longest_cached: Duration,
    /// Answers that are kept for it.
    pub cached_decisions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 32 << 20,
            cpu: Duration::from_millis(20),
            wall: Duration::from_millis(100),
            init: Duration::from_secs(5),
            concurrency: 16,
            queue_wait: Duration::from_millis(100),
            answer_bytes: 1 << 20,
            backoff: Duration::from_secs(1),
            longest_cached: Duration::from_secs(300),
            cached_decisions: 10_000,
        }
    }
}

/// Where a new member stands in the chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// Where [`HostSettings::order`] says; last, when it does not name the plugin.
    Configured,
    First,
    Last,
    Before(String),
    After(String),
}
