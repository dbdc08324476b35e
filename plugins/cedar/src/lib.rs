//! Cedar policies decide whether a device may connect, and which of the configured topics it may publish and subscribe to.
//! README.md is the reference of its configuration.

mod config;
mod policies;
mod request;
mod schema;

use std::collections::BTreeSet;
use std::str::FromStr as _;

use cedar_policy::{Authorizer as Engine, Decision, EntityUid, Request};
use mqgate_plugin_sdk::access;
use mqgate_plugin_sdk::export_plugin;
use mqgate_plugin_sdk::host::Host;
use mqgate_plugin_sdk::plugin::{Authorizer, Plugin};
use mqgate_plugin_sdk::types::{
    Acl, Actions, Attribute, Authorization, ConnackReason, Connection, Denial, Effect, Grant, HookError,
    Identity, InitError, PluginContext, Value,
};

use config::{BROKER, Config, chain};
use request::Client;

/// Of the names in an audit record.
const MOST_NAMED: usize = 32;

pub struct Cedar {
    config: Config,
    connect: EntityUid,
    publish: EntityUid,
    subscribe: EntityUid,
    broker: EntityUid,
    engine: Engine,
}

/// What the policies say to one question, and which of them.
struct Said {
    permitted: bool,
    policies: Vec<String>,
}

impl Plugin for Cedar {
    fn init<H: Host>(context: &PluginContext, _: &H) -> Result<Self, InitError> {
        let uid = |text: &str| EntityUid::from_str(text).map_err(|error| InitError::Failed(chain(error)));
        Ok(Self {
            config: Config::read(context)?,
            connect: uid("Action::\"connect\"")?,
            publish: uid("Action::\"publish\"")?,
            subscribe: uid("Action::\"subscribe\"")?,
            broker: uid(&format!("Broker::\"{BROKER}\""))?,
            engine: Engine::new(),
        })
    }
}

impl Authorizer for Cedar {
    fn authorize<H: Host>(&self, on: &Connection, who: &Identity, _: &H) -> Result<Authorization, HookError> {
        Ok(match self.decide(on, who) {
            Ok(grant) => Authorization::Allow(grant),
            Err(why) => Authorization::Deny(Denial::new(ConnackReason::NotAuthorized, why)),
        })
    }
}

impl Cedar {
    fn decide(&self, on: &Connection, who: &Identity) -> Result<Grant, String> {
        let client = Client::new(&self.config, on, who)?;
        let connect = self.ask(&client, &self.connect, &self.broker)?;
        if !connect.permitted {
            return Err(match connect.policies.is_empty() {
                true => "no policy permits connect".into(),
                false => {
                    let named = &connect.policies[..connect.policies.len().min(MOST_NAMED)];
                    format!("connect is forbidden by {}", named.join(", "))
                }
            });
        }
        let mut determining: BTreeSet<String> = connect.policies.into_iter().collect();
        let (mut refusals, mut permissions) = (Vec::new(), Vec::new());
        for topic in &self.config.topics {
            for (action, actions) in
                [(&self.publish, Actions::PUBLISH), (&self.subscribe, Actions::SUBSCRIBE)]
            {
                let said = self.ask(&client, action, &topic.uid)?;
                if said.permitted {
                    permissions.push(access::rule(Effect::Allow, actions, &topic.filter));
                } else if !said.policies.is_empty() {
                    // Forbidden by name, and perhaps part of a wider topic that is permitted.
                    refusals.push(access::rule(Effect::Deny, actions, &topic.filter));
                }
                determining.extend(said.policies);
            }
        }
        let policies = determining.into_iter().take(MOST_NAMED).collect();
        Ok(Grant {
            acl: Acl::Inline([refusals, permissions].concat()),
            otherwise: Effect::Deny,
            limits: self.config.limits,
            assigned_client_id: None,
            valid_for: None,
            cache: None,
            attributes: vec![Attribute { name: "policy.rule".into(), value: Value::Texts(policies) }],
        })
    }

    /// A policy that cannot be evaluated counts as absent in Cedar. One that forbids would then no longer do so: here it is a
    /// refusal.
    fn ask(&self, client: &Client, action: &EntityUid, resource: &EntityUid) -> Result<Said, String> {
        let request = Request::new(
            client.principal.clone(),
            action.clone(),
            resource.clone(),
            client.context.clone(),
            None,
        );
        let request = request.map_err(chain)?;
        let answer = self.engine.is_authorized(&request, &self.config.policies, &client.entities);
        let diagnostics = answer.diagnostics();
        if let Some(error) = diagnostics.errors().next() {
            return Err(format!("{action} on {resource}: {}", chain(error)));
        }
        let mut policies: Vec<String> = diagnostics.reason().map(ToString::to_string).collect();
        policies.sort();
        Ok(Said { permitted: answer.decision() == Decision::Allow, policies })
    }
}

export_plugin!(Cedar: authorizer);

#[cfg(test)]
mod tests;
