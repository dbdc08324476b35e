//! What can be configured, as types. The comments here are the documentation: `docs/configuration.md` is
//! generated from them. One file per subject; every name is found here. Knows nothing of files and environment;
//! those are `source`'s.

mod admin_tls;
mod audit;
mod bridge;
mod crl;
mod events;
mod extras;
mod limits;
mod listener;
mod mqtt;
mod ocsp;
mod operators;
mod plugins;
mod policy;
mod registry;
mod reload;
mod service;
mod tls;
mod transport;

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::Span;

pub use self::admin_tls::AdminTls;
pub use self::audit::{
    AuditChecks, AuditFormat, AuditLevel, AuditMatch, AuditMode, AuditOnFull, AuditOutcome, AuditRule,
    AuditSink, AuditSinkKind,
};
pub use self::bridge::{Bridge, BridgeTls, BridgeTopic, BridgeVersion, Direction, Retain};
pub use self::crl::{Crl, CrlScope, StaleLists};
pub use self::events::Events;
pub use self::extras::{
    AutoSubscribe, Bans, Delayed, Flapping, Rates, Rewrite, SlowSubscribers, Sys, Topics, Trace,
};
pub use self::limits::{DeniedPublish, Limits, WhenFull};
pub use self::listener::{AuthMode, Listener, Registration, Transport, UnixMode, Verify};
pub use self::mqtt::{Mqtt, ShareStrategy};
pub use self::ocsp::Ocsp;
pub use self::operators::AdminOperator;
pub use self::plugins::{
    Capability, Isolation, Native, Plugin, PluginCompile, PluginGrant, PluginHost, PluginHttp, PluginLimits,
    PluginProbation, TrustedKey,
};
pub use self::policy::{Acl, Action, Chain, ChainMode, ListenerChain, Policy, Reauthorize, TopicRule};
pub use self::registry::{
    BindClientId, Clock, OnClientIdMismatch, OnMaxActive, OnShared, Provisioning, Rotation, Sharing,
};
pub use self::reload::{OnExpiry, Reload};
pub use self::service::{Admin, Audit, Log, LogFormat, Metrics, Personal};
pub use self::tls::{FileCertificate, ManagedCertificate, Names, SessionResumption, TlsVersion, TlsVersions};
pub use self::transport::{ProxyIdentity, ProxyProtocol, Quic, WebSocket};

/// The whole configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The process itself.
    pub node: Node,
    /// Where clients connect. Each has a name, which is a label of metrics and audit records.
    pub listeners: BTreeMap<String, Listener>,
    /// Other brokers that topics are shared with. Each has a name, which is a label of metrics.
    pub bridges: BTreeMap<String, Bridge>,
    /// Certificate revocation lists, for listeners with `crl_check`.
    pub crl: Crl,
    /// The chain that judges connections: plugins (WebAssembly components) and native implementations, asked
    /// in the order in which they stand here. The first that does not abstain decides, unless `policy.chain` says otherwise.
    pub plugins: Vec<Plugin>,
    /// What holds for all components of the chain.
    pub plugin_host: PluginHost,
    /// How the chain comes to a decision, rule sets that grants refer to by name, and what happens to live sessions when the
    /// chain changes.
    pub policy: Policy,
    /// The admin API: HTTP with a bearer token.
    pub admin: Admin,
    /// Metrics for Prometheus.
    pub metrics: Metrics,
    /// The audit log: one JSON object per line.
    pub audit: Audit,
    /// What one client, or all of them together, may use.
    pub limits: Limits,
    /// How MQTT is spoken, where the specification leaves a choice.
    pub mqtt: Mqtt,
    pub provisioning: Provisioning,
    pub rotation: Rotation,
    pub sharing: Sharing,
    pub clock: Clock,
    /// Who is kept out, by `mqgate bans` or because it was flapping.
    pub bans: Bans,
    pub flapping: Flapping,
    pub slow_subscribers: SlowSubscribers,
    pub sys: Sys,
    pub events: Events,
    pub delayed: Delayed,
    pub topics: Topics,
    pub trace: Trace,
    /// The broker's own log, for its operator.
    pub log: Log,
    /// Change while the broker runs, and what it means for who is connected.
    pub reload: Reload,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AllowDeny {
    #[default]
    Allow,
    Deny,
}

impl Default for Node {
    fn default() -> Self {
        Self { data_dir: PathBuf::from("mqgate-data"), workers: 0, shutdown_timeout: Span::secs(10) }
    }
}
