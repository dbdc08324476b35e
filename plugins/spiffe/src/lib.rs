//! Decides on X.509-SVIDs: which device a SPIFFE ID belongs to, and what that device may publish and subscribe to.
//! README.md is the reference of its configuration.

mod config;
mod id;
mod path;
mod svid;

use std::borrow::Cow;

use mqgate_plugin_sdk::access;
use mqgate_plugin_sdk::export_plugin;
use mqgate_plugin_sdk::host::Host;
use mqgate_plugin_sdk::plugin::{Authenticator, Authorizer, Plugin};
use mqgate_plugin_sdk::template::{ExpandError, Template};
use mqgate_plugin_sdk::types::{
    Acl, Attribute, Authenticated, Authentication, Authorization, ConnackReason, Connection, Denial, Effect,
    Grant, HookError, Identity, InitError, PluginContext,
};

use config::{Config, Rule};
use svid::Svid;

pub struct Spiffe {
    config: Config,
}

impl Plugin for Spiffe {
    fn init<H: Host>(context: &PluginContext, _: &H) -> Result<Self, InitError> {
        Ok(Self { config: Config::read(context)? })
    }
}

impl Authenticator for Spiffe {
    fn authenticate<H: Host>(&self, on: &Connection, _: &H) -> Result<Authentication, HookError> {
        let cache = self.config.cache();
        let found = self.judge(on);
        Ok(match found.and_then(|found| found.map(|found| found.identity()).transpose()).transpose() {
            None => Authentication::Abstain,
            Some(Ok(identity)) => Authentication::Accept(Authenticated { identity, cache }),
            Some(Err(why)) => Authentication::Deny(Denial { cache, ..refuse(why) }),
        })
    }
}

impl Authorizer for Spiffe {
    fn authorize<H: Host>(&self, on: &Connection, _: &Identity, _: &H) -> Result<Authorization, HookError> {
        let cache = self.config.cache();
        let found = self.judge(on);
        Ok(match found.and_then(|found| found.map(|found| found.grant()).transpose()).transpose() {
            None => Authorization::Abstain,
            Some(Ok(grant)) => Authorization::Allow(Grant { cache, ..grant }),
            Some(Err(why)) => Authorization::Deny(Denial { cache, ..refuse(why) }),
        })
    }
}

impl Spiffe {
    /// The entry that applies; `None` where there is no SPIFFE ID to judge.
    fn judge<'a>(&'a self, on: &'a Connection) -> Result<Option<Found<'a>>, String> {
        match Svid::of(on)? {
            Some(svid) => self.find(&svid).map(Some),
            None if self.config.required => Err("the client has no certificate with a SPIFFE ID".into()),
            None => Ok(None),
        }
    }

    fn find<'a>(&'a self, svid: &Svid<'a>) -> Result<Found<'a>, String> {
        let id = svid.id;
        let known = self.config.trust_domains.iter().find(|known| known.name == id.trust_domain);
        let known = known.ok_or_else(|| format!("the trust domain {} is not configured", id.trust_domain))?;
        if !known.is_of(svid.anchor) {
            let (anchor, name) = (&svid.anchor.name, &known.name);
            return Err(format!("the trust anchor {anchor} does not vouch for the trust domain {name}"));
        }
        for rule in &self.config.ids {
            if rule.trust_domain.as_ref().is_some_and(|name| *name != known.name) {
                continue;
            }
            if let Some(captured) = rule.path.take(&id) {
                return match rule.refuse {
                    true => Err(format!("{} is refused by {:?}", svid.uri, rule.name)),
                    false => Ok(Found { rule, captured, uri: svid.uri, trust_domain: id.trust_domain }),
                };
            }
        }
        Err(format!("no entry is about {}", svid.uri))
    }
}

/// The entry that applies to a SPIFFE ID, and what it took from it.
struct Found<'a> {
    rule: &'a Rule,
    captured: path::Captured<'a, 'a>,
    uri: &'a str,
    trust_domain: &'a str,
}

impl Found<'_> {
    fn identity(&self) -> Result<Identity, String> {
        let mut identity = Identity::new(self.fill(&self.rule.device_id)?);
        identity.tenant = self.rule.tenant.as_ref().map(|tenant| self.fill(tenant)).transpose()?;
        identity.tags = self.rule.tags.iter().map(|tag| self.fill(tag)).collect::<Result<_, _>>()?;
        let names = [("device id", &identity.device_id, 256)].into_iter();
        let names = names.chain(identity.tenant.iter().map(|tenant| ("tenant", tenant, 256)));
        for (what, value, longest) in names.chain(identity.tags.iter().map(|tag| ("tag", tag, 128))) {
            if value.len() > longest {
                return Err(format!("the {what} of {} is longer than {longest} bytes", self.uri));
            }
        }
        identity.attributes = vec![Attribute::text("spiffe.id", self.uri)];
        Ok(identity)
    }

    fn grant(&self) -> Result<Grant, String> {
        // Who cannot be named has no topics either, whoever named it.
        self.identity()?;
        let mut lines = Vec::with_capacity(self.rule.lines.len());
        for line in &self.rule.lines {
            lines.push(access::rule(line.effect, line.actions, self.fill(&line.filter)?));
        }
        Ok(Grant {
            acl: Acl::Inline(lines),
            otherwise: Effect::Deny,
            limits: self.rule.limits,
            assigned_client_id: None,
            valid_for: None,
            cache: None,
            attributes: vec![
                Attribute::text("policy.rule", &self.rule.name),
                Attribute::text("spiffe.id", self.uri),
            ],
        })
    }

    fn fill(&self, template: &Template) -> Result<String, String> {
        let value = |name: &str| match name {
            "trust-domain" => Some(self.trust_domain),
            name => self.captured.iter().find(|(known, _)| *known == name).map(|(_, value)| *value),
        };
        let filled = template.expand(|name| Ok(value(name).map(Cow::Borrowed)));
        filled.map_err(|error: ExpandError| format!("{}: {error}", self.uri))
    }
}

fn refuse(why: String) -> Denial {
    Denial::new(ConnackReason::NotAuthorized, why)
}

export_plugin!(Spiffe: authenticator, authorizer);

#[cfg(test)]
mod tests;
