//! What the operator decides about the host and about one plugin. Values only; who reads them from a file
//! is elsewhere.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use mqgate_identity::registry::KvQuota;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::capability::http::{AllowedDestination, Resolver, SystemResolver};
use crate::compile::{CompileLimits, CompilerProgram};
use crate::trust::{Signature, Signer, Trust};

/// Settings of the whole host.
#[derive(Debug, Clone)]
pub struct HostSettings {
    /// Where compiled components are kept. The folder must be the broker's alone (mode 0700); `None`
    /// compiles at every start.
    pub cache_dir: Option<PathBuf>,
    /// The program that is run to compile a component. `None`: this process compiles, without limits.
    pub compiler: Option<CompilerProgram>,
    /// What that program may use up for one component.
    pub compile: CompileLimits,
    /// Where components and what was decided about them at runtime are kept, beyond the process. The folder must be
    /// the broker's alone (mode 0700); `None` forgets everything with the process.
    pub store_dir: Option<PathBuf>,
    /// Versions of one plugin that are kept, the one that runs included.
    pub versions: usize,
    /// Components that were uploaded and are used by no plugin; the oldest go first.
    pub staged: usize,
    /// Whose signatures count, and whether there must be one.
    pub trust: Trust,
    /// How a new version proves itself.
    pub probation: Probation,
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
    /// Finds the addresses of the hosts that plugins send requests to.
    pub resolver: Arc<dyn Resolver>,
}

impl Default for HostSettings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            cache_dir: None,
            compiler: None,
            compile: CompileLimits::default(),
            store_dir: None,
            versions: 8,
            staged: 8,
            trust: Trust::default(),
            probation: Probation::default(),
            worker_threads: (cores / 2).max(2),
            instances: 256,
            memory_ceiling: 64 << 20,
            order: Vec::new(),
            broker_version: String::from(env!("CARGO_PKG_VERSION")),
            resolver: Arc::new(SystemResolver),
        }
    }
}

/// Where a component comes from.
#[derive(Debug, Clone)]
pub enum Source {
    File(PathBuf),
    Bytes(Arc<[u8]>),
    /// By digest, from the store of [`HostSettings::store_dir`].
    Stored(String),
}

/// What one call shares with the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// Nothing, unless a fresh instance costs more than a tenth of a millisecond, or the plugin is trusted as the broker itself, which
    /// it came with: then as `Pooled`.
    #[default]
    Auto,
    /// Nothing: every call has an instance of its own.
    PerCall,
    /// Memory: instances take one call after the other, for a while.
    Pooled,
    /// Likewise, with one instance for all calls, one after the other.
    Single,
}

impl Isolation {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::PerCall => "per-call",
            Self::Pooled => "pooled",
            Self::Single => "single",
        }
    }

    /// What `Auto` means for a plugin that came so and whose fresh instances cost this.
    pub(crate) fn decided(self, provenance: &Provenance, cold_start: Duration) -> Self {
        match self {
            Self::Auto if *provenance == Provenance::Bundled || cold_start > DEAR => Self::Pooled,
            Self::Auto => Self::PerCall,
            other => other,
        }
    }
}

/// A fresh instance that costs more is used again.
const DEAR: Duration = Duration::from_micros(100);

/// Why the bytes of a component are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provenance {
    /// They came just now, with this signature or without.
    New(Option<Signature>),
    /// Shipped with the broker's own program: as much trusted as that.
    Bundled,
    /// They were accepted here earlier, by this key or without any.
    Accepted(Option<Signer>),
}

/// Settings of one plugin.
#[derive(Clone)]
pub struct PluginSettings {
    /// Unique among plugins and native members: 1 to 64 of `a-z 0-9 - _`.
    pub name: String,
    pub source: Source,
    /// `sha256:…` that the component must have.
    pub digest: Option<String>,
    pub provenance: Provenance,
    /// Handed to the plugin's `init` as JSON text.
    pub config: serde_json::Value,
    pub grants: Grants,
    pub limits: Limits,
    pub isolation: Isolation,
    /// While a required plugin is not live, listeners stay shut.
    pub required: bool,
}

impl PluginSettings {
    /// A plugin with default limits, an empty configuration and no grants.
    pub fn new(name: impl Into<String>, source: Source) -> Self {
        Self {
            name: name.into(),
            source,
            digest: None,
            provenance: Provenance::New(None),
            config: serde_json::Value::Object(serde_json::Map::new()),
            grants: Grants::default(),
            limits: Limits::default(),
            isolation: Isolation::Auto,
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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grants {
    pub capabilities: BTreeSet<Capability>,
    pub kv: KvSettings,
    pub metrics: MetricsSettings,
    pub http: HttpSettings,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Capability {
    /// `kv`: the interface `key-value`.
    #[serde(rename = "kv")]
    KeyValue,
    /// `registry.read`: the interface `registry`.
    #[serde(rename = "registry.read")]
    RegistryRead,
    /// `metrics`: the interface `metrics`.
    #[serde(rename = "metrics")]
    Metrics,
    /// `credentials`: the password of the CONNECT packet.
    #[serde(rename = "credentials")]
    Credentials,
    /// `http`: `wasi:http/outgoing-handler`, to the destinations of [`HttpSettings::allow`].
    #[serde(rename = "http")]
    Http,
    /// `clock`: `wasi:clocks`.
    #[serde(rename = "clock")]
    Clock,
    /// `random`: `wasi:random`.
    #[serde(rename = "random")]
    Random,
}

impl Capability {
    pub const ALL: [Self; 7] = [
        Self::KeyValue,
        Self::RegistryRead,
        Self::Metrics,
        Self::Credentials,
        Self::Http,
        Self::Clock,
        Self::Random,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KeyValue => "kv",
            Self::RegistryRead => "registry.read",
            Self::Metrics => "metrics",
            Self::Credentials => "credentials",
            Self::Http => "http",
            Self::Clock => "clock",
            Self::Random => "random",
        }
    }
}

/// The text names no capability; the message lists those there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no capability is called {0:?}; there are kv, registry.read, metrics, credentials, http, clock, random"
)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MetricsSettings {
    pub metrics: usize,
    pub series: usize,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { metrics: 32, series: 500 }
    }
}

/// Where a plugin's requests may go, and how large they may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpSettings {
    pub allow: Vec<AllowedDestination>,
    /// Addresses of this machine and of networks that are not public may be reached.
    pub private_networks: bool,
    /// Connections at once, answers that an instance still holds included.
    pub connections: usize,
    pub request_bytes: usize,
    pub response_bytes: usize,
    /// Of the fields of a request, of an answer, and of its trailers; each counts 32 bytes more than its text.
    pub header_bytes: usize,
    /// Certificate authorities that are trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            private_networks: false,
            connections: 8,
            request_bytes: 64 << 10,
            response_bytes: 256 << 10,
            header_bytes: 16 << 10,
            ca_file: None,
        }
    }
}

/// The most that [`HttpSettings::connections`] may be.
pub const MOST_HTTP_CONNECTIONS: usize = 256;
/// The most that any size of [`HttpSettings`] may be.
pub const MOST_HTTP_BYTES: usize = 16 << 20;

/// What one plugin may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of the linear memories of an instance, all of them together.
    pub memory: usize,
    /// Time a call may compute, `init` of its instance included. Counted in steps of half a millisecond.
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
    /// Clients on which calls of a hook must have failed before none is made for a while; zero calls it always.
    pub breaker_subjects: usize,
    /// The share of failed calls, in percent, that this also takes.
    pub breaker_percent: u8,
    /// The time in which both are counted.
    pub breaker_window: Duration,
    /// How long the hook is not called: the first time, doubled with each trial call that fails up to a minute.
    pub breaker_wait: Duration,
    /// Bytes that a step of enhanced authentication may have remembered for the next one.
    pub auth_state: usize,
    /// Steps of one enhanced authentication, up to [`MOST_AUTH_STEPS`].
    pub auth_steps: u32,
}

/// [`Limits::wall`] of plugins that wait for others, where nobody says otherwise.
pub const WALL_WITH_HTTP: Duration = Duration::from_secs(2);

/// The most that [`Limits::auth_steps`] may be.
pub const MOST_AUTH_STEPS: u32 = 16;

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
            breaker_subjects: 5,
            breaker_percent: 20,
            breaker_window: Duration::from_secs(10),
            breaker_wait: Duration::from_secs(1),
            auth_state: 16 << 10,
            auth_steps: 8,
        }
    }
}

/// When a version that took over is taken back by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probation {
    /// How long it is watched after it took over; zero watches nothing.
    pub time: Duration,
    /// Clients on which calls must have failed.
    pub failed_clients: usize,
    /// The share of failed calls, in percent, that this also takes.
    pub failed_percent: u8,
    /// By how many percent points more clients it may refuse than the version before; 100 or more: any number.
    pub denied_points: u8,
    /// Clients that must have been judged before shares of refusals are compared.
    pub judged_clients: usize,
}

impl Default for Probation {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(300),
            failed_clients: 5,
            failed_percent: 20,
            denied_points: 30,
            judged_clients: 50,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_shares_nothing_unless_that_is_dear_or_the_plugin_came_with_the_broker() {
        let (stranger, cheap) = (Provenance::New(None), Duration::from_micros(100));
        assert_eq!(Isolation::Auto.decided(&stranger, cheap), Isolation::PerCall);
        assert_eq!(Isolation::Auto.decided(&Provenance::Accepted(None), cheap), Isolation::PerCall);
        assert_eq!(Isolation::Auto.decided(&stranger, cheap + Duration::from_nanos(1)), Isolation::Pooled);
        assert_eq!(Isolation::Auto.decided(&Provenance::Bundled, Duration::ZERO), Isolation::Pooled);
        assert_eq!(Isolation::PerCall.decided(&Provenance::Bundled, Duration::MAX), Isolation::PerCall);
    }
}
