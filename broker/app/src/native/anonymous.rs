//! `anonymous`: everybody on this machine, or of the networks that are named, may come in. For trying things out.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
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
    /// Networks whose clients it is for, for example `["10.1.0.0/16"]`, at every listener. Without any: this machine,
    /// at listeners that nobody else can reach.
    pub from: Vec<String>,
    /// Let in those, too, who give a user name: the name counts for nothing, the password is not looked at.
    pub ignore_user_name: bool,
}

/// Accepts peers of the networks that are named, else those on loopback at listeners on loopback; abstains otherwise.
pub struct Anonymous {
    config: AnonymousConfig,
    from: Vec<IpNet>,
    /// Names of the listeners that are bound to a loopback address.
    listeners: BTreeSet<String>,
}

impl Anonymous {
    /// `from` is what `config.from` says.
    pub fn member(
        name: &str,
        config: AnonymousConfig,
        from: Vec<IpNet>,
        listeners: BTreeSet<String>,
    ) -> ChainMember {
        let this = Arc::new(Self { config, from, listeners });
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
        let is_nameless = on.connect.user_name.is_none() || self.config.ignore_user_name;
        if on.certificate.is_some() || !is_nameless {
            return false;
        }
        if self.from.is_empty() {
            return from_loopback(on) && self.listeners.contains(&*on.listener);
        }
        let address = on.peer.address.to_canonical();
        self.from.iter().any(|network| network.contains(&address))
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

    fn member(config: AnonymousConfig) -> ChainMember {
        let from = config.from.iter().map(|network| network.parse().unwrap()).collect();
        Anonymous::member("anon", config, from, BTreeSet::from([String::from("local")]))
    }

    fn lets_in(member: &ChainMember, sample: Sample) -> bool {
        let on = sample.connection();
        let answer = now(member.authenticator.as_ref().expect("an authenticator").authenticate(&on));
        matches!(answer, Ok(Authentication::Accept { .. }))
    }

    #[test]
    fn only_this_machine_is_let_in() {
        let member = member(AnonymousConfig::default());
        let asked = |sample| lets_in(&member, sample);
        assert!(asked(Sample::on("local").from("127.0.0.1")));
        assert!(asked(Sample::on("local").from("::1")));
        assert!(!asked(Sample::on("local").from("192.0.2.1")), "a peer from elsewhere");
        assert!(!asked(Sample::on("open").from("127.0.0.1")), "a listener others can reach");
        assert!(!asked(Sample::on("local").from("127.0.0.1").user("ann", "x")), "somebody with a name");
        assert!(!asked(Sample::on("local").from("127.0.0.1").via_proxy()), "somebody behind a proxy");
    }

    #[test]
    fn networks_that_are_named_are_let_in_at_every_listener_and_nobody_else() {
        let from = vec![String::from("192.0.2.0/24"), String::from("2001:db8::/32")];
        let member = member(AnonymousConfig { from, ..AnonymousConfig::default() });
        let asked = |sample| lets_in(&member, sample);
        assert!(asked(Sample::on("open").from("192.0.2.1")));
        assert!(asked(Sample::on("open").from("::ffff:192.0.2.1")));
        assert!(asked(Sample::on("local").from("2001:db8::1")));
        assert!(!asked(Sample::on("open").from("192.0.3.1")));
        assert!(!asked(Sample::on("local").from("127.0.0.1")), "this machine is not among them");
        assert!(!asked(Sample::on("open").from("192.0.2.1").user("ann", "x")), "somebody with a name");
        assert!(!asked(Sample::on("open").from("192.0.2.1").certificate(&[], &[])), "a certificate");
    }

    #[test]
    fn a_user_name_may_count_for_nothing() {
        let member = member(AnonymousConfig { ignore_user_name: true, ..AnonymousConfig::default() });
        let ann = |listener, address| Sample::on(listener).from(address).user("ann", "x");
        assert!(lets_in(&member, ann("local", "127.0.0.1")));
        assert!(!lets_in(&member, ann("local", "192.0.2.1")) && !lets_in(&member, ann("open", "127.0.0.1")));
        assert!(!lets_in(&member, ann("local", "127.0.0.1").certificate(&[], &[])), "a certificate");
        let on = ann("local", "127.0.0.1").connection();
        let Ok(Authentication::Accept { identity, .. }) =
            now(member.authenticator.as_ref().expect("an authenticator").authenticate(&on))
        else {
            panic!("refused");
        };
        assert_eq!(identity.device_id, DEVICE);
        assert_eq!(attribute(&identity, super::super::USER_NAME), None, "nobody proved the name");
    }

    #[test]
    fn another_identity_gets_no_grant_from_here() {
        let member = member(AnonymousConfig::default());
        let on = Sample::on("local").from("127.0.0.1").connection();
        let who = Identity { device_id: "anonymous".into(), tenant: None, tags: vec![], attributes: vec![] };
        let answer = now(member.authorizer.as_ref().expect("an authorizer").authorize(&on, &who));
        assert_eq!(answer, Ok(Authorization::Abstain));
    }
}
