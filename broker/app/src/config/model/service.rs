//! Keys of what an operator sees: admin API, metrics, audit log, own log.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AdminOperator, AdminTls, AuditChecks, AuditRule, AuditSink};
use crate::config::units::{Size, Span};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Whether there is an admin API.
    pub enable: bool,
    /// Address and port. Without `[admin.tls]` it is plain HTTP: anything but a loopback address is refused then, unless
    /// `allow_remote` is set.
    pub bind: String,
    /// Permit `bind` to name an address that others can reach although there is no TLS, because a proxy in front adds it.
    pub allow_remote: bool,
    /// HTTPS, with certificates of the operators if that is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<AdminTls>,
    /// `Host` names that requests may carry besides loopback names, addresses, and the names of the certificates of
    /// `[admin.tls]`: a defence against DNS rebinding.
    pub hosts: Vec<String>,
    /// File with the bearer token; created with mode 0600 at first start. The default is `admin.token` in `data_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Folders whose files the API may name in settings (`certfile`, `keyfile`, `cacertfile`, …), as absolute paths.
    /// Without any, only the configuration names files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_paths: Vec<PathBuf>,
    /// Largest component that can be uploaded.
    pub max_upload: Size,
    /// Operators who are known by their certificate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub operators: Vec<AdminOperator>,
    /// API tokens (`mqgate admin token`) that there may be.
    pub max_tokens: u32,
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
    /// Speak HTTPS at `bind`, by `[admin.tls]`: scrapers need a certificate where operators do.
    pub tls: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// The file: a link to the current segment of the log, which is in the folder that has this name and `.d`. The
    /// default is `audit/audit.jsonl` in `data_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// A segment that reaches this size is sealed and a new one begun.
    pub rotate_size: Size,
    /// Sealed segments kept; 0 keeps all.
    pub rotate_keep: u32,
    /// The Ed25519 key that signs checkpoints (PKCS#8, PEM); made with mode 0600 if it is not there. The default is
    /// `audit.key` in `data_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// A checkpoint is signed after so many records, …
    pub checkpoint_records: u32,
    /// … or so long after the first of them.
    pub checkpoint_interval: Span,
    /// A folder that checkpoints are published in; it must be there. Only what the broker cannot rewrite shows that the end
    /// of the log was cut off or written anew: a share of another machine, or a file with `chattr +a`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish_folder: Option<PathBuf>,
    /// Personal data in records.
    pub personal: Personal,
    /// Events waiting for the disk. When three quarters of it are used, new connections are refused: nobody comes in
    /// without a record of it.
    pub queue: u32,
    /// Written events are forced to the disk after at most this long.
    pub sync_interval: Span,
    /// What is written down, how much of it, and who gets it: the first rule that matches counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<AuditRule>,
    /// Places to which the records go besides the log itself. Each has a name, which is a label of metrics.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sinks: BTreeMap<String, AuditSink>,
    pub checks: AuditChecks,
}

/// What of records is encrypted with keys of whoever they are about, so that it can be erased: `mqgate audit erase`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Personal {
    /// Members of records (`client_id`, `device_id`, `fingerprint`, `peer`, `sni`, `subject`) and names of fields
    /// (`user_name`, …).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
    /// Where the keys are. The default is `audit-subjects` in `data_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_folder: Option<PathBuf>,
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

impl Default for Admin {
    fn default() -> Self {
        Self {
            enable: true,
            bind: String::from("127.0.0.1:18083"),
            allow_remote: false,
            tls: None,
            hosts: Vec::new(),
            token_file: None,
            allow_paths: Vec::new(),
            max_upload: Size(32 << 20),
            operators: Vec::new(),
            max_tokens: 1_000,
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { enable: true, bind: None, require_token: false, tls: false }
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            path: None,
            rotate_size: Size(64 << 20),
            rotate_keep: 10,
            key_file: None,
            checkpoint_records: 1000,
            checkpoint_interval: Span::secs(10),
            publish_folder: None,
            personal: Personal::default(),
            queue: 65_536,
            sync_interval: Span::millis(100),
            rules: Vec::new(),
            sinks: BTreeMap::new(),
            checks: AuditChecks::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: String::from("info,fjall=warn,lsm_tree=warn"), format: LogFormat::Text }
    }
}
