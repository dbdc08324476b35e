//! Keys of rule sets, of how the chain comes to a decision, and of what happens to live sessions when it changes.

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
    /// How the members of the chain come to a decision.
    pub chain: Chain,
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

/// How the members of the chain come to a decision, by hook. `first`: the first that does not abstain decides. `all`: all
/// are asked, one no is a no, and what every one allows holds that does not abstain. When all abstain, nobody gets in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Chain {
    /// Who a client is. With `all` those who say so must name the same device and tenant; tags hold that all give.
    pub authenticator: ChainMode,
    /// Enhanced authentication: only `first`, one member serves a method.
    pub enhanced_authenticator: ChainMode,
    /// Whether an unknown certificate is registered. With `all` they must name the same device; one that holds it has it
    /// wait for an operator. Where a CA names its registrar, that one is asked alone.
    pub registrar: ChainMode,
    /// What a client may do. With `all` a topic is allowed that every grant allows, and the lowest of each limit counts.
    pub authorizer: ChainMode,
}

/// What of `policy.chain` is otherwise for clients of one listener, and who is not asked about them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerChain {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authenticator: Option<ChainMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enhanced_authenticator: Option<ChainMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registrar: Option<ChainMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorizer: Option<ChainMode>,
    /// Names of members that are not asked about its clients; auditors are told of them all the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ChainMode {
    #[default]
    First,
    All,
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
    /// matches. About a subscription decides the first rule that allows all of its topics, or denies one of them.
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
        Self {
            reauthorize: Reauthorize::None,
            chain: Chain::default(),
            acls: BTreeMap::new(),
            pending_retry_after: Span::secs(10),
        }
    }
}
