//! Keys of certificate revocation lists: where they come from, and what they decide.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::AllowDeny;
use crate::config::units::{Size, Span};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Crl {
    /// Lists as files, DER or PEM; a PEM file may hold several. Read again when they change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PathBuf>,
    /// Folders of such files, all with the ending `.crl`, `.pem` or `.der`; not their subfolders.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub directories: Vec<PathBuf>,
    /// Lists to fetch over HTTP, for example `"http://pki.example.org/devices.crl"`. (A list is signed: `https` would add
    /// nothing, and is not spoken.)
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Fetch, too, what trusted CAs, and clients' certificates that lead to them, name as their distribution
    /// points, from the hosts of `allow_hosts`.
    pub follow_distribution_points: bool,
    /// Hosts that distribution points may name: `"pki.example.org"`, or `"*.example.org"` for every host below it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_hosts: Vec<String>,
    /// Networks that may be asked although they are private, of this machine, or link-local: `"10.1.0.0/16"`. Nothing
    /// else but public addresses is connected to, whatever a name resolves to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_networks: Vec<String>,
    /// How often files are looked at and URLs are asked. A list that says when its successor comes is asked for then,
    /// if that is sooner.
    pub refresh: Span,
    /// Time for one fetch, redirects included.
    pub fetch_timeout: Span,
    /// Largest list.
    pub max_size: Size,
    /// Lists kept at the same time.
    pub max_lists: u32,
    /// What a list past its `nextUpdate` is worth: `fail-closed` refuses the clients it is about, `fail-open` uses it
    /// however old it is, `grace` uses it for `grace` longer. Whoever it names is refused in any case.
    pub stale: StaleLists,
    /// How long with `stale = "grace"`.
    pub grace: Span,
    /// A certificate that no list is about: `deny` or `allow`.
    pub unknown: AllowDeny,
    /// Whether only the client's certificate is looked up (`leaf`), or the intermediates above it as well (`chain`).
    pub scope: CrlScope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StaleLists {
    #[default]
    #[serde(alias = "fail_closed")]
    FailClosed,
    #[serde(alias = "fail_open")]
    FailOpen,
    Grace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CrlScope {
    #[default]
    Leaf,
    Chain,
}

impl Default for Crl {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            directories: Vec::new(),
            urls: Vec::new(),
            follow_distribution_points: false,
            allow_hosts: Vec::new(),
            allow_networks: Vec::new(),
            refresh: Span::secs(900),
            fetch_timeout: Span::secs(15),
            max_size: Size(10 << 20),
            max_lists: 100,
            stale: StaleLists::FailClosed,
            grace: Span::secs(86_400),
            unknown: AllowDeny::Deny,
            scope: CrlScope::Leaf,
        }
    }
}
