//! Members of the chain that need no component: the same hooks, implemented natively.

pub mod anonymous;
pub mod password_file;
pub mod scram;
pub mod static_policy;

use mqgate_identity::hooks::{
    Acl, AclRule, Attribute, ConnackReason, Connection, Denial, Effect, Grant, GrantLimits, HookFuture,
    Identity, RetainMatch, Value,
};

use crate::config::model::{Action, AllowDeny, TopicRule};

/// Attribute with the user name that a password proved. Only an authenticator sets it, so an authorizer may
/// believe it; the user name of CONNECT is only a claim.
pub const USER_NAME: &str = "user.name";
/// Attribute with how the identity came about.
pub const METHOD: &str = "auth.method";

/// An answer that needed no waiting.
fn ready<'a, T: Send + 'a>(answer: T) -> HookFuture<'a, T> {
    Box::pin(std::future::ready(Ok(answer)))
}

fn denial(reason: ConnackReason, audit_detail: impl Into<String>) -> Denial {
    Denial {
        reason,
        client_message: None,
        audit_detail: Some(audit_detail.into()),
        server_reference: None,
        cache: None,
        attributes: Vec::new(),
    }
}

fn grant(acl: Acl, otherwise: Effect) -> Grant {
    Grant {
        acl,
        otherwise,
        limits: GrantLimits::default(),
        assigned_client_id: None,
        valid_for: None,
        cache: None,
        attributes: Vec::new(),
    }
}

fn text(name: &str, value: &str) -> Attribute {
    Attribute { name: name.to_owned(), value: Value::Text(value.to_owned()) }
}

fn attribute<'a>(who: &'a Identity, name: &str) -> Option<&'a str> {
    who.attributes.iter().find(|attribute| attribute.name == name).and_then(|attribute| {
        match &attribute.value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        }
    })
}

/// Whether `name` may be a device id: 1 to 256 bytes, no `/ + #`, no control character.
fn is_device_id(name: &str) -> bool {
    (1..=256).contains(&name.len())
        && !name.contains(|c: char| c.is_control() || matches!(c, '/' | '+' | '#'))
}

/// A rule of the configuration as the hooks speak it.
pub fn acl_rule(rule: &TopicRule) -> AclRule {
    AclRule {
        effect: match rule.effect {
            AllowDeny::Allow => Effect::Allow,
            AllowDeny::Deny => Effect::Deny,
        },
        publish: matches!(rule.action, Action::Publish | Action::All),
        subscribe: matches!(rule.action, Action::Subscribe | Action::All),
        filter: rule.topic.clone(),
        qos: rule.qos.iter().filter(|qos| **qos <= 2).fold(0, |bits, qos| bits | 1 << qos),
        retain: RetainMatch::Any,
    }
}

fn from_loopback(on: &Connection) -> bool {
    on.peer.address.is_loopback() && on.peer.via_proxy.is_none()
}

#[cfg(test)]
pub(crate) mod samples;
