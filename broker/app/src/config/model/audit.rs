//! Keys of what is audited, where it goes, and what is looked at every hour: below `[audit]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::BridgeTls;
use crate::config::units::{Size, Span};

/// One rule; the first that matches an event counts. What no rule matches is written down in full. Records that say
/// whether the log is whole (`audit.*`, `broker.*`, `config.*`, `finding.*`) always are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditRule {
    /// What it is about; without it, everything.
    #[serde(default, rename = "match")]
    pub when: AuditMatch,
    /// `none`; `metadata`: who, what, from where, when, why; `request`: and the words of clients and plugins; `full`: and
    /// who was asked about it, and values before and after a change.
    #[serde(default)]
    pub level: AuditLevel,
    /// Write down one of so many. Only for successes: refusals and errors are counted together and never lost.
    #[serde(default = "one")]
    pub sample: u32,
    /// Names of the sinks that get it; without it, all. Auditor plugins are sinks, too: `auditor-NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sinks: Option<Vec<String>>,
    /// How safe the record is before what it is about takes effect: `durable` (on the disk), `batched` (on the disk within
    /// `sync_interval`), `best_effort` (lost, and counted, when there is no room). Without it: changes of the registry, of
    /// CAs and of server certificates are durable, everything else is batched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<AuditMode>,
}

fn one() -> u32 {
    1
}

/// What a rule is about. Everything that is named has to hold; of a list, one is enough.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuditMatch {
    /// `authn`, `authz`, `registry`, `ca`, `plugin`, `admin`, `tls`, `session`, `system`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub category: Vec<String>,
    /// Names of events, for example `"connection.accepted"`, or `"connection.*"`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub action: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outcome: Vec<AuditOutcome>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listener: Vec<String>,
    /// Names of CAs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ca: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    Success,
    Failure,
    Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditLevel {
    None,
    Metadata,
    Request,
    #[default]
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditMode {
    Durable,
    Batched,
    BestEffort,
}

/// A place to which the records go. What it has not taken yet stays in the log; it gets each record at least once, in
/// order, and tells repetitions by `log` and `seq`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuditSink {
    /// `file`, `stdout`, `journald`, `syslog`, `webhook`, `otlp` or `mqtt`.
    #[serde(rename = "type")]
    pub kind: AuditSinkKind,
    pub enable: bool,
    /// `json` (the record's own bytes), `cef` or `ecs`. `otlp` has a form of its own.
    pub format: AuditFormat,
    /// `file`: where it is. `journald`: its socket, if not `/run/systemd/journal/socket`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// `file`: one that reaches this size is renamed and a new one begun.
    pub rotate_size: Size,
    /// `file`: renamed files kept.
    pub rotate_keep: u32,
    /// `webhook`, `otlp`: `"http://…"` or `"https://…"`. For OTLP it ends in `/v1/logs`, mostly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// `webhook`, `otlp`: further headers. A value may be `"file://PATH"` or `"env:NAME"`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// `webhook`: key of the signature (HMAC-SHA-256) in `X-Mqgate-Signature`: the text, `"file://PATH"`, or `"env:NAME"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// `syslog`: `"tls://HOST:6514"` (RFC 5425) or `"tcp://HOST:PORT"`. `mqtt`: `"mqtts://HOST:8883"` or
    /// `"mqtt://HOST:1883"`; without it, this broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// `syslog`: who we say we are, if not the machine's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// `mqtt`: where records are published, with `${category}` and `${name}`.
    pub topic: String,
    /// `mqtt`: 0, 1 or 2. With 0 the other side confirms nothing, and records may be lost.
    pub qos: u8,
    /// `mqtt`, to another broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The text, `"file://PATH"`, or `"env:NAME"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// For `tls://`, `https://` and `mqtts://`.
    #[serde(skip_serializing_if = "is_default")]
    pub tls: BridgeTls,
    /// `webhook`, `mqtt`: publish the log's signed checkpoints there, too: what the broker cannot rewrite.
    pub checkpoints: bool,
    /// Records in one batch.
    pub batch: u32,
    /// Bytes in one batch.
    pub batch_bytes: Size,
    /// How long one batch may take.
    pub timeout: Span,
    /// Shortest pause after a batch that was not taken; it is doubled after each that follows, …
    pub min_backoff: Span,
    /// … up to this.
    pub max_backoff: Span,
    /// Bytes of the log that are kept because this sink has not taken them, beyond what `rotate_size` and `rotate_keep`
    /// keep.
    pub max_backlog: Size,
    /// What happens beyond that: `drop_oldest_counted` lets the sink's oldest records go, counts them and says so in a
    /// record; `refuse` refuses new connections until the sink has caught up.
    pub on_full: AuditOnFull,
}

fn is_default(tls: &BridgeTls) -> bool {
    *tls == BridgeTls::default()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuditSinkKind {
    #[default]
    File,
    Stdout,
    Journald,
    Syslog,
    Webhook,
    Otlp,
    Mqtt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuditFormat {
    #[default]
    Json,
    Cef,
    Ecs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditOnFull {
    Refuse,
    #[default]
    DropOldestCounted,
}

/// Posture checks: what is wrong, or will be, with the broker as it stands. `mqgate audit checks` lists them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuditChecks {
    /// How often.
    pub interval: Span,
    /// Names of checks that are not made, for example `"CA_NO_CRL"`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disable: Vec<String>,
    /// Findings of one check that are kept one by one; the others are counted.
    pub max_findings: u32,
    /// `CA_EXPIRING`: less than this is left.
    pub ca_expiring: Span,
    /// `DEVICE_CERT_EXPIRING`: less than this is left.
    pub device_expiring: Span,
    /// `DEVICE_CERT_LONG_LIVED`: valid for longer than this.
    pub device_lifetime: Span,
    /// `DEVICE_CERT_AGE`: valid since longer than this.
    pub device_age: Span,
    /// `PENDING_TOO_LONG`: waits since.
    pub pending: Span,
    /// `NEVER_SEEN`: registered this long ago.
    pub never_seen: Span,
    /// `DORMANT`: last used this long ago.
    pub dormant: Span,
}

impl AuditSinkKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Stdout => "stdout",
            Self::Journald => "journald",
            Self::Syslog => "syslog",
            Self::Webhook => "webhook",
            Self::Otlp => "otlp",
            Self::Mqtt => "mqtt",
        }
    }
}

impl Default for AuditSink {
    fn default() -> Self {
        Self {
            kind: AuditSinkKind::File,
            enable: true,
            format: AuditFormat::Json,
            path: None,
            rotate_size: Size(64 << 20),
            rotate_keep: 10,
            url: None,
            headers: BTreeMap::new(),
            secret: None,
            address: None,
            hostname: None,
            topic: String::from("audit/${category}/${name}"),
            qos: 1,
            client_id: None,
            username: None,
            password: None,
            tls: BridgeTls::default(),
            checkpoints: false,
            batch: 500,
            batch_bytes: Size(1 << 20),
            timeout: Span::secs(10),
            min_backoff: Span::millis(500),
            max_backoff: Span::secs(30),
            max_backlog: Size(4 << 30),
            on_full: AuditOnFull::DropOldestCounted,
        }
    }
}

impl Default for AuditChecks {
    fn default() -> Self {
        let days = |days: u64| Span::secs(days * 86_400);
        Self {
            interval: Span::secs(3600),
            disable: Vec::new(),
            max_findings: 500,
            ca_expiring: days(90),
            device_expiring: days(30),
            device_lifetime: days(3_653),
            device_age: days(1_096),
            pending: days(7),
            never_seen: days(90),
            dormant: days(180),
        }
    }
}
