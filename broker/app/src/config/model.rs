//! What can be configured, as types. The comments here are the documentation: `docs/configuration.md` is
//! generated from them. Knows nothing of files and environment; those are `source`'s.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::{Size, Span};

/// The whole configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The process itself.
    pub node: Node,
    /// Where clients connect. Each has a name, which is a label of metrics and audit records.
    pub listeners: BTreeMap<String, Listener>,
    /// The chain that judges connections: plugins (WebAssembly components) and native implementations, asked
    /// in the order in which they stand here. The first that does not abstain decides.
    pub plugins: Vec<Plugin>,
    /// Rule sets that grants refer to by name, and what happens to live sessions when the chain changes.
    pub policy: Policy,
    /// The admin API: HTTP with a bearer token.
    pub admin: Admin,
    /// Metrics for Prometheus.
    pub metrics: Metrics,
    /// The audit log: one JSON object per line.
    pub audit: Audit,
    /// What one client, or all of them together, may use.
    pub limits: Limits,
    /// The broker's own log, for its operator.
    pub log: Log,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Directory for the registry, the plugin cache, the audit log, the admin token. Created with mode 0700.
    /// A relative path, here and everywhere, is relative to the configuration file.
    pub data_dir: PathBuf,
    /// Threads that serve connections; 0 means one for each core.
    pub workers: u16,
    /// How long a stopping broker waits for its connections to end.
    pub shutdown_timeout: Span,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Listener {
    /// Transport: `tls` or, without any protection of what is sent, `tcp`.
    #[serde(rename = "type")]
    pub kind: Transport,
    /// Address and port, for example `"0.0.0.0:8883"` or `"[::]:8883"`. Port 0 takes a free one.
    pub bind: String,
    /// Whether clients need a certificate: `one-way` (none is asked for), `mutual` (one of a trusted CA), or
    /// `per-device` (and each certificate must be in the registry). Only for `tls`. The default is `mutual`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_mode: Option<AuthMode>,
    /// What happens in mode `per-device` with a valid certificate that the registry does not know: `auto` asks
    /// the chain's registrars, and refuses if there is none; `manual` refuses until `mqgate cert register`.
    pub registration: Registration,
    /// EMQX's name for the same thing: `verify_peer` asks for a client certificate, `verify_none` does not.
    /// Must not contradict `auth_mode`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// In mode `mutual`: refuse a client without a certificate. With `false` it may connect, and the chain judges it by
    /// other means; a bad certificate is refused in any case. The default is `true`, and `false` in mode `one-way`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_if_no_peer_cert: Option<bool>,
    /// Certificate of the server, PEM; intermediates after it. Required for `tls`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certfile: Option<PathBuf>,
    /// Private key of the server, PEM (PKCS #8, PKCS #1 or SEC 1), not encrypted. Required for `tls`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyfile: Option<PathBuf>,
    /// CA certificates that clients' certificates may lead to, PEM, one or many. CAs added with
    /// `mqgate ca add` are trusted too, in every mode that asks for a certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cacertfile: Option<PathBuf>,
    /// More files like `cacertfile`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cacertfiles: Vec<PathBuf>,
    /// TLS versions.
    pub versions: Vec<TlsVersion>,
    /// How many intermediates may stand between a client's certificate and a trusted CA: 0 to 6.
    pub depth: u8,
    /// X.509 version 1 certificates of clients, as `openssl x509 -req` makes without `-extfile`: `allow` takes them
    /// as plain end-entity certificates, `deny` refuses them.
    pub x509_v1_leaf: AllowDeny,
    /// Take a certificate that becomes valid within this time: devices' factories have clocks too.
    pub clock_skew: Span,
    /// Time for the TLS handshake.
    pub handshake_timeout: Span,
    /// Whether TLS sessions may be resumed. Certificates are judged again in any case.
    pub session_resumption: bool,
    /// Connections at the same time; more wait in the kernel's queue.
    pub max_connections: u32,
    /// TLS handshakes at the same time; more wait.
    pub max_handshakes: u32,
    /// Whether refused MQTT 5.0 clients are sent a reason in words.
    pub send_reason_string: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    #[default]
    #[serde(alias = "ssl")]
    Tls,
    Tcp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuthMode {
    #[serde(alias = "one_way")]
    OneWay,
    #[default]
    Mutual,
    #[serde(alias = "per_device")]
    PerDevice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Registration {
    #[default]
    Auto,
    Manual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    VerifyNone,
    VerifyPeer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    #[serde(rename = "tlsv1.2", alias = "1.2")]
    Tls12,
    #[serde(rename = "tlsv1.3", alias = "1.3")]
    Tls13,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AllowDeny {
    #[default]
    Allow,
    Deny,
}

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

/// What grants refer to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// What happens to live sessions when a member of the chain is loaded, replaced or unloaded: `none` keeps their
    /// grant, `lazy` asks again at their next PUBLISH or SUBSCRIBE, `eager` asks at once.
    pub reauthorize: Reauthorize,
    /// Rule sets by name, for grants that say `named` and for native implementations.
    pub acls: BTreeMap<String, Acl>,
    /// When a client whose certificate waits for its activation should ask again; MQTT 5.0 clients are told.
    pub pending_retry_after: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reauthorize {
    #[default]
    None,
    Lazy,
    Eager,
}

/// A rule set. The first rule that matches wins; what no rule matches is denied.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Acl {
    /// In order.
    pub rules: Vec<TopicRule>,
}

/// One line of a rule set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TopicRule {
    /// `allow` or `deny`.
    #[serde(default)]
    pub effect: AllowDeny,
    /// `publish`, `subscribe` or `all`.
    #[serde(default)]
    pub action: Action,
    /// A Topic Filter, with `${client-id}`, `${device-id}` and `${tenant}`. A value with `/`, `+` or `#` in it never
    /// matches. A subscription must be covered by it.
    pub topic: String,
    /// The QoS levels it is about.
    #[serde(default = "every_qos")]
    pub qos: Vec<u8>,
}

fn every_qos() -> Vec<u8> {
    vec![0, 1, 2]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Publish,
    Subscribe,
    #[default]
    All,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Whether there is an admin API.
    pub enable: bool,
    /// Address and port. It is plain HTTP: anything but a loopback address is refused unless `allow_remote` is set.
    pub bind: String,
    /// Permit `bind` to name an address that others can reach, because a proxy in front adds TLS.
    pub allow_remote: bool,
    /// `Host` names that requests may carry besides loopback names and the bound address: a defence against
    /// DNS rebinding.
    pub hosts: Vec<String>,
    /// File with the bearer token; created with mode 0600 at first start. The default is `admin.token` in `data_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Largest component that can be uploaded.
    pub max_upload: Size,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Whether `/metrics` is served.
    pub enable: bool,
    /// An address of its own, for example `"0.0.0.0:9883"`; serves only `/metrics`, `/health` and `/ready`, without a
    /// token. By default the admin listener serves them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind: Option<String>,
    /// Ask for the admin token on `/metrics`.
    pub require_token: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// The file. The default is `audit/audit.jsonl` in `data_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// A file that reaches this size is renamed and a new one begun.
    pub rotate_size: Size,
    /// Renamed files kept; 0 keeps all.
    pub rotate_keep: u32,
    /// Events waiting for the disk. When three quarters of it are used, new connections are refused: nobody comes in
    /// without a record of it.
    pub queue: u32,
    /// Events kept for auditor plugins that lag behind.
    pub window: u32,
    /// Written events are forced to the disk after at most this long.
    pub sync_interval: Span,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// CAs that may be trusted at the same time, those of `cacertfile` included.
    pub ca_certs: u32,
    /// Time from the end of the TLS handshake to a complete CONNECT packet.
    pub connect_timeout: Span,
    /// Largest packet, either way; Maximum Packet Size of CONNACK.
    pub max_packet_size: Size,
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
    /// Which message is lost when they are too many: `drop-newest` or `drop-oldest`.
    pub when_full: WhenFull,
    /// Retained messages.
    pub max_retained_messages: u32,
    /// Bytes of retained messages.
    pub max_retained_bytes: Size,
    /// Retained messages that one new subscription gets.
    pub max_retained_per_subscription: u32,
    /// Retained messages that wait for one session.
    pub max_retained_backlog: u32,
    /// What an MQTT 3.1.1 client gets that publishes where it may not: `drop` (acknowledged and dropped) or
    /// `disconnect`. MQTT 5.0 has a reason code for it.
    pub denied_publish: DeniedPublish,
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

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// What to write: `error`, `warn`, `info`, `debug`, `trace`, or directives such as `"info,mqgate_server=debug"`.
    /// The environment variable `RUST_LOG` overrides it.
    pub filter: String,
    /// `text` or `json`; to standard error.
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Default for Node {
    fn default() -> Self {
        Self { data_dir: PathBuf::from("mqgate-data"), workers: 0, shutdown_timeout: Span::secs(10) }
    }
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            kind: Transport::Tls,
            bind: String::from("127.0.0.1:8883"),
            auth_mode: None,
            registration: Registration::Auto,
            verify: None,
            fail_if_no_peer_cert: None,
            certfile: None,
            keyfile: None,
            cacertfile: None,
            cacertfiles: Vec::new(),
            versions: vec![TlsVersion::Tls13, TlsVersion::Tls12],
            depth: 6,
            x509_v1_leaf: AllowDeny::Allow,
            clock_skew: Span::secs(300),
            handshake_timeout: Span::secs(15),
            session_resumption: true,
            max_connections: 100_000,
            max_handshakes: 256,
            send_reason_string: true,
        }
    }
}

impl Listener {
    /// What `auth_mode` and `verify` say together; [`super::check`] has refused contradictions.
    pub fn mode(&self) -> AuthMode {
        match (self.auth_mode, self.verify) {
            (Some(mode), _) => mode,
            (None, Some(Verify::VerifyNone)) => AuthMode::OneWay,
            (None, Some(Verify::VerifyPeer) | None) => AuthMode::Mutual,
        }
    }

    /// Whether a client without a certificate is refused in the handshake.
    pub fn certificate_required(&self) -> bool {
        match self.mode() {
            AuthMode::OneWay => false,
            AuthMode::Mutual => self.fail_if_no_peer_cert.unwrap_or(true),
            AuthMode::PerDevice => true,
        }
    }

    /// Every file of CA certificates.
    pub fn ca_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.cacertfile.iter().chain(&self.cacertfiles)
    }
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
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self { reauthorize: Reauthorize::None, acls: BTreeMap::new(), pending_retry_after: Span::secs(10) }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            enable: true,
            bind: String::from("127.0.0.1:18083"),
            allow_remote: false,
            hosts: Vec::new(),
            token_file: None,
            max_upload: Size(32 << 20),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { enable: true, bind: None, require_token: false }
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            path: None,
            rotate_size: Size(64 << 20),
            rotate_keep: 10,
            queue: 65_536,
            window: 16_384,
            sync_interval: Span::millis(100),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ca_certs: 32,
            connect_timeout: Span::secs(15),
            max_packet_size: Size(1 << 20),
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
            max_filters_per_subscribe: 100,
            max_queued_messages: 1_000,
            max_queued_qos0_messages: 10_000,
            max_queued_bytes: Size(16 << 20),
            when_full: WhenFull::DropNewest,
            max_retained_messages: 100_000,
            max_retained_bytes: Size(256 << 20),
            max_retained_per_subscription: 10_000,
            max_retained_backlog: 20_000,
            denied_publish: DeniedPublish::Drop,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: String::from("info,fjall=warn,lsm_tree=warn"), format: LogFormat::Text }
    }
}
