//! What posture checks know of the configuration: listeners, rules, registrars, components, the admin API.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mqgate_identity::posture::{
    AdminFacts, AuditFacts, Check, Facts, ListenerFacts, PluginFacts, RegistrarFacts, RuleFacts, SinkFacts,
    Thresholds,
};
use mqgate_plugin_host::PluginHost;
use mqgate_server::audit::AuditLog;
use mqgate_server::posture::PostureSettings;
use serde_json::Value;

use crate::audit::Sinks;
use crate::config::check::is_local;
use crate::config::model::{Action, AllowDeny, AuthMode, Native, Plugin, Registration};
use crate::config::{Config, model};

/// The configuration in force, and what runs by it.
pub struct Known {
    config: Mutex<Arc<Config>>,
    host: Arc<PluginHost>,
    audit: Arc<AuditLog>,
    sinks: Arc<Sinks>,
}

pub fn settings(config: &Config) -> PostureSettings {
    let checks = &config.audit.checks;
    PostureSettings {
        thresholds: Thresholds {
            ca_expiring: checks.ca_expiring.0,
            device_expiring: checks.device_expiring.0,
            device_lifetime: checks.device_lifetime.0,
            device_age: checks.device_age.0,
            pending: checks.pending.0,
            never_seen: checks.never_seen.0,
            dormant: checks.dormant.0,
        },
        interval: checks.interval.0.max(Duration::from_secs(1)),
        findings: checks.max_findings as usize,
        disabled: checks.disable.iter().filter_map(|name| Check::from_name(name)).collect(),
    }
}

impl Known {
    pub fn new(
        config: &Config,
        host: &Arc<PluginHost>,
        audit: &Arc<AuditLog>,
        sinks: &Arc<Sinks>,
    ) -> Arc<Self> {
        Arc::new(Self {
            config: Mutex::new(Arc::new(config.clone())),
            host: Arc::clone(host),
            audit: Arc::clone(audit),
            sinks: Arc::clone(sinks),
        })
    }

    pub fn configure(&self, config: &Config) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config.clone());
    }

    pub fn facts(&self) -> Facts {
        let config = Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner));
        Facts {
            listeners: config.listeners.iter().map(|(name, one)| listener(&config, name, one)).collect(),
            registrars: config.plugins.iter().filter_map(registrar).collect(),
            rules: rules(&config),
            plugins: self.plugins(&config),
            audit: self.audit(&config),
            admin: config.admin.enable.then(|| admin(&config)),
            ..Facts::default()
        }
    }

    fn audit(&self, config: &Config) -> AuditFacts {
        let sinks = self.audit.sinks().into_iter().map(|sink| SinkFacts {
            problem: (!sink.up).then(|| sink.problem.unwrap_or_default()),
            lag: sink.lag,
            name: sink.name,
        });
        let is_published = config.audit.publish_folder.is_some() || self.sinks.publishes();
        // Before the first checkpoint nothing is missed.
        let publishes = is_published.then(|| self.audit.published().unwrap_or(Ok(0)).map(drop));
        AuditFacts { sinks: sinks.collect(), publishes }
    }

    fn plugins(&self, config: &Config) -> Vec<PluginFacts> {
        let components = self.host.list().into_iter().filter(|info| !info.digest.is_empty());
        components
            .map(|info| {
                let mut capabilities: BTreeSet<String> = info.imports.into_iter().collect();
                let configured = config.plugins.iter().find(|plugin| plugin.name == info.name);
                let granted =
                    configured.map(|plugin| plugin.grant.capabilities.as_slice()).unwrap_or_default();
                // No import, and the most telling right there is.
                if granted.contains(&model::Capability::Credentials) {
                    capabilities.insert(String::from("credentials"));
                }
                PluginFacts { name: info.name, is_signed: None, capabilities, accepted: BTreeSet::new() }
            })
            .collect()
    }
}

fn listener(config: &Config, name: &str, listener: &model::Listener) -> ListenerFacts {
    let asks = listener.has_certificates() && listener.mode() != AuthMode::OneWay;
    let registers =
        asks && listener.mode() == AuthMode::PerDevice && listener.registration == Registration::Auto;
    ListenerFacts {
        name: name.to_owned(),
        has_tls: listener.kind.has_tls(),
        is_local: is_local(&listener.bind),
        asks_for_certificate: asks,
        requires_certificate: listener.certificate_required(),
        checks_revocation: listener.crl_check,
        shows_builtin: listener.has_builtin(),
        registers: registers && !config.plugins.is_empty(),
    }
}

fn admin(config: &Config) -> AdminFacts {
    let tls = config.admin.tls.as_ref();
    AdminFacts {
        bind: config.admin.bind.clone(),
        is_local: is_local(&config.admin.bind),
        has_tls: tls.is_some(),
        asks_for_certificate: tls.is_some_and(|tls| tls.cacertfile.is_some() || !tls.cacertfiles.is_empty()),
    }
}

/// Of other components nobody here knows what their settings mean: they are not judged.
fn registrar(plugin: &Plugin) -> Option<RegistrarFacts> {
    if plugin.source.as_deref() != Some("bundled:auto-register") {
        return None;
    }
    let cas = plugin.config.get("cas").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let every = |is_so: &dyn Fn(&Value) -> bool| !cas.is_empty() && cas.iter().all(is_so);
    let narrows = |ca: &Value| ca["match"].as_object().is_some_and(|criteria| !criteria.is_empty());
    Some(RegistrarFacts {
        name: plugin.name.clone(),
        has_pattern: every(&narrows),
        holds: every(&|ca| ca["mode"] == "pending"),
    })
}

/// Every line of an access list that lets somebody do something.
fn rules(config: &Config) -> Vec<RuleFacts> {
    let mut all = Vec::new();
    for (name, acl) in &config.policy.acls {
        for (index, rule) in acl.rules.iter().enumerate().filter(|(_, rule)| rule.effect == AllowDeny::Allow)
        {
            all.push(RuleFacts {
                origin: format!("policy.acls.{name}.rules[{index}]"),
                filter: rule.topic.clone(),
                publish: rule.action != Action::Subscribe,
                subscribe: rule.action != Action::Publish,
            });
        }
    }
    for plugin in &config.plugins {
        let words = match (plugin.native, plugin.source.as_deref()) {
            (Some(Native::StaticPolicy), _) => ["publish", "subscribe"],
            (_, Some("bundled:cert-acl")) => ["allow-publish", "allow-subscribe"],
            _ => continue,
        };
        let rules = plugin.config.get("rules").and_then(Value::as_array);
        for (index, rule) in rules.into_iter().flatten().enumerate() {
            for (number, word) in words.into_iter().enumerate() {
                let filters = rule[word].as_array().into_iter().flatten().filter_map(Value::as_str);
                all.extend(filters.map(|filter| RuleFacts {
                    origin: format!("plugins.{}.config.rules[{index}].{word}", plugin.name),
                    filter: filter.to_owned(),
                    publish: number == 0,
                    subscribe: number == 1,
                }));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        toml::from_str(text).expect("a configuration")
    }

    #[test]
    fn the_documented_defaults_are_those_of_the_checks() {
        let (ours, own) = (settings(&Config::default()), PostureSettings::default());
        assert_eq!(
            (ours.thresholds, ours.interval, ours.findings),
            (own.thresholds, own.interval, own.findings)
        );
        assert_eq!(ours.disabled, own.disabled);
    }

    #[test]
    fn rules_are_found_wherever_they_stand() {
        let config = config(
            r##"
            [policy.acls.all]
            rules = [{ topic = "#" }, { topic = "x", effect = "deny" }, { topic = "y", action = "subscribe" }]
            [[plugins]]
            name = "policy"
            native = "static-policy"
            config = { rules = [{ match = { cn = "*" }, publish = ["a"], subscribe = ["b", "#"] }] }
            [[plugins]]
            name = "acl"
            source = "bundled:cert-acl"
            config = { rules = [{ allow-publish = ["#"] }] }
            "##,
        );
        let found: Vec<_> = rules(&config)
            .into_iter()
            .map(|rule| (rule.origin, rule.filter, rule.publish, rule.subscribe))
            .collect();
        let rule = |origin: &str, filter: &str, publish, subscribe| {
            (origin.to_owned(), filter.to_owned(), publish, subscribe)
        };
        assert_eq!(
            found,
            [
                rule("policy.acls.all.rules[0]", "#", true, true),
                rule("policy.acls.all.rules[2]", "y", false, true),
                rule("plugins.policy.config.rules[0].publish", "a", true, false),
                rule("plugins.policy.config.rules[0].subscribe", "b", false, true),
                rule("plugins.policy.config.rules[0].subscribe", "#", false, true),
                rule("plugins.acl.config.rules[0].allow-publish", "#", true, false),
            ]
        );
    }

    #[test]
    fn a_registrar_is_narrow_when_each_of_its_cas_is() {
        let of = |settings: &str| {
            let text = format!("[[plugins]]\nname = \"r\"\nsource = \"bundled:auto-register\"\n{settings}");
            let facts = registrar(&config(&text).plugins[0]).expect("it is one");
            (facts.has_pattern, facts.holds)
        };
        assert_eq!(of(""), (false, false));
        assert_eq!(of("config = { cas = [{ match = { ou = \"Meters\" } }] }"), (true, false));
        assert_eq!(
            of("config = { cas = [{ match = { ou = \"Meters\" } }, { anchor = \"x\" }] }"),
            (false, false)
        );
        assert_eq!(of("config = { cas = [{ mode = \"pending\" }] }"), (false, true));
    }

    #[test]
    fn listeners_are_what_they_are_configured_to_be() {
        let config = config(
            r#"
            [listeners.open]
            type = "tcp"
            bind = "0.0.0.0:1883"
            [listeners.near]
            bind = "127.0.0.1:8883"
            fail_if_no_peer_cert = false
            [admin]
            bind = "0.0.0.0:18083"
            [admin.tls]
            cacertfile = "operators.pem"
            "#,
        );
        let facts = |name: &str| listener(&config, name, &config.listeners[name]);
        let open = facts("open");
        assert!(!open.has_tls && !open.is_local && !open.asks_for_certificate && !open.shows_builtin);
        let near = facts("near");
        assert!(near.has_tls && near.is_local && near.asks_for_certificate && near.shows_builtin);
        assert!(!near.requires_certificate);
        let admin = admin(&config);
        assert!(!admin.is_local && admin.has_tls && admin.asks_for_certificate);
    }
}
