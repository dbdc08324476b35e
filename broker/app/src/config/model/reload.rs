//! Keys about change while the broker runs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::units::Span;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Reload {
    /// How often the configuration file, and the certificates, keys and CAs that it names, are looked at; what
    /// changed is taken over. `"0s"` waits for `SIGHUP` or `mqgate reload`.
    pub watch: Span,
    /// How long a CA or a server certificate that was replaced stays valid beside the new one, unless a change says
    /// otherwise (`mqgate reload --grace`). `"0s"` ends it at once.
    pub grace: Span,
    /// What happens to a connection whose certificate expires, or that of a CA above it: `disconnect`, `warn` (it
    /// stays, and the audit log says so) or `ignore`.
    pub on_expiry: OnExpiry,
    /// When a change bars many connections, close at most so many in a second; 0 closes them at once.
    pub drain_rate: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnExpiry {
    #[default]
    Disconnect,
    Warn,
    Ignore,
}

impl Default for Reload {
    fn default() -> Self {
        Self { watch: Span::secs(5), grace: Span::secs(600), on_expiry: OnExpiry::Disconnect, drain_rate: 0 }
    }
}
