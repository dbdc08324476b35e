//! `anonymous`: everybody on this machine may come in. For trying things out.

use std::collections::BTreeSet;
use std::sync::Arc;

use mqgate_identity::hooks::{
    Acl, AclRule, Authentication, Authenticator, Authorization, Authorizer, ChainMember, Connection, Effect,
    HookFuture, Identity, RetainMatch,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{METHOD, attribute, from_loopback, grant, ready, text};

const DEVICE: &str = "anonymous";

/// Settings of `anonymous`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AnonymousConfig {
    /// Rule set for these clients. Without one they may publish and subscribe everywhere except under `$`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acl: Option<String>,
}

/// Accepts peers on loopback at listeners on loopback, and abstains otherwise.
pub struct Anonymous {
    config: AnonymousConfig,
    /// Names of the listeners that are bound to a loopback address.
    listeners: BTreeSet<String>,
}

impl Anonymous {
    pub fn member(name: &str, config: AnonymousConfig, listeners: BTreeSet<String>) -> ChainMember {
        let this = Arc::new(Self { config, listeners });
        ChainMember {
            name: name.into(),
            digest: None,
            authenticator: Some(this.clone()),
            enhanced_authenticator: None,
            registrar: None,
            authorizer: Some(this),
            auditor: None,
        }
    }

    fn is_for(&self, on: &Connection) -> bool {
        // Somebody who shows a certificate or a user name wants to be that one, not anybody.
        let nameless = on.certificate.is_none() && on.connect.user_name.is_none();
        nameless && from_loopback(on) && self.listeners.contains(&*on.listener)
    }
}

impl Authenticator for Anonymous {
    fn authenticate<'a>(&'a self, on: &'a Arc<Connection>) -> HookFuture<'a, Authentication> {
        if !self.is_for(on) {
            return ready(Authentication::Abstain);
        }
        ready(Authentication::Accept {
            identity: Identity {
                device_id: String::from(DEVICE),
                tenant: None,
                tags: Vec::new(),
                attributes: vec![text(METHOD, DEVICE)],
            },
            cache: None,
        })
    }
}

impl Authorizer for Anonymous {
    fn authorize<'a>(&'a self, on: &'a Arc<Connection>, who: &'a Identity) -> HookFuture<'a, Authorization> {
        if !self.is_for(on) || attribute(who, METHOD) != Some(DEVICE) {
            return ready(Authorization::Abstain);
        }
        let acl = match &self.config.acl {
            Some(name) => Acl::Named(name.clone()),
            // `#` does not reach topics that begin with `$` [MQTT-4.7.2-1].
            None => Acl::Inline(vec![AclRule {
                effect: Effect::Allow,
                publish: true,
                subscribe: true,
                filter: String::from("#"),
                qos: 0b111,
                retain: RetainMatch::Any,
            }]),
        };
        ready(Authorization::Allow(grant(acl, Effect::Deny)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::samples::{Sample, now};

    #[test]
    fn only_this_machine_is_let_in() {
        let member =
            Anonymous::member("anon", AnonymousConfig::default(), BTreeSet::from([String::from("local")]));
        let asked = |sample: Sample| {
            let on = sample.connection();
            let answer = now(member.authenticator.as_ref().expect("an authenticator").authenticate(&on));
            matches!(answer, Ok(Authentication::Accept { .. }))
        };
        assert!(asked(Sample::on("local").from("127.0.0.1")));
        assert!(asked(Sample::on("local").from("::1")));
        assert!(!asked(Sample::on("local").from("192.0.2.1")), "a peer from elsewhere");
        assert!(!asked(Sample::on("open").from("127.0.0.1")), "a listener others can reach");
        assert!(!asked(Sample::on("local").from("127.0.0.1").user("ann", "x")), "somebody with a name");
        assert!(!asked(Sample::on("local").from("127.0.0.1").via_proxy()), "somebody behind a proxy");
    }

    #[test]
    fn another_identity_gets_no_grant_from_here() {
        let member =
            Anonymous::member("anon", AnonymousConfig::default(), BTreeSet::from([String::from("local")]));
        let on = Sample::on("local").from("127.0.0.1").connection();
        let who = Identity { device_id: "anonymous".into(), tenant: None, tags: vec![], attributes: vec![] };
        let answer = now(member.authorizer.as_ref().expect("an authorizer").authorize(&on, &who));
        assert_eq!(answer, Ok(Authorization::Abstain));
    }
}
