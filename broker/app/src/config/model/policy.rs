//! Keys of rule sets and of what happens to live sessions when the chain changes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::AllowDeny;
use crate::config::units::Span;

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

impl Default for Policy {
    fn default() -> Self {
        Self { reauthorize: Reauthorize::None, acls: BTreeMap::new(), pending_retry_after: Span::secs(10) }
    }
}
