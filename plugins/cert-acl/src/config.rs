//! The configuration, read and checked once. Past this module a rule cannot be wrong.

use mqgate_plugin_sdk::access::{LimitsTable, TopicLists};
use mqgate_plugin_sdk::certificate::Field;
use mqgate_plugin_sdk::config::{parse, problem};
use mqgate_plugin_sdk::select::{Criteria, Source};
use mqgate_plugin_sdk::template::Template;
use mqgate_plugin_sdk::types::{CacheHint, CacheScope, InitError, PluginContext};
use serde::Deserialize;

use crate::identity::ClientId;
use crate::rules::Rule;

pub struct Config {
    pub device_id: Vec<Source>,
    pub tenant: Option<Source>,
    pub client_id: ClientId,
    pub user_name: Option<Template>,
    pub rules: Vec<Rule>,
    /// Seconds for which an answer holds for everybody with the same certificate.
    cache: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawConfig {
    #[serde(default = "common_name")]
    device_id: Vec<Source>,
    tenant: Option<Source>,
    #[serde(default)]
    client_id: RawClientId,
    client_id_separator: Option<String>,
    require_username_matches: Option<String>,
    rules: Option<Vec<RawRule>>,
    #[serde(default = "five_minutes")]
    cache: u32,
}

fn five_minutes() -> u32 {
    300
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
enum RawClientId {
    #[default]
    Any,
    EqualsDeviceId,
    StartsWithDeviceId,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawRule {
    name: Option<String>,
    #[serde(default, rename = "match")]
    criteria: Criteria,
    #[serde(default)]
    refuse: bool,
    #[serde(default)]
    deny_publish: Vec<String>,
    #[serde(default)]
    deny_subscribe: Vec<String>,
    #[serde(default)]
    allow_publish: Vec<String>,
    #[serde(default)]
    allow_subscribe: Vec<String>,
    #[serde(default)]
    limits: LimitsTable,
}

fn common_name() -> Vec<Source> {
    vec![Source::field(Field::Cn)]
}

/// What holds when no rules are configured: each device has a tree of topics of its own.
fn own_topics() -> Vec<RawRule> {
    let own = || vec!["devices/${device-id}/#".to_owned()];
    vec![RawRule {
        name: Some("own-topics".into()),
        criteria: Criteria::default(),
        refuse: false,
        deny_publish: Vec::new(),
        deny_subscribe: Vec::new(),
        allow_publish: own(),
        allow_subscribe: own(),
        limits: LimitsTable::default(),
    }]
}

impl Config {
    pub fn read(context: &PluginContext) -> Result<Self, InitError> {
        let raw: RawConfig = parse(context)?;
        if raw.device_id.is_empty() {
            return Err(problem("/device-id", "needs at least one field"));
        }
        let separator = match raw.client_id_separator {
            None => ":".to_owned(),
            Some(separator) if separator.is_empty() => {
                return Err(problem("/client-id-separator", "is empty"));
            }
            Some(separator) => separator,
        };
        let user_name = raw.require_username_matches.map(|text| {
            let known =
                |name: &str| name == "device-id" || name == "client-id" || Field::parse(name).is_some();
            Template::parse(&text, known, |_| false)
                .map_err(|error| problem("/require-username-matches", error.to_string()))
        });
        let is_client_id_proven = !matches!(raw.client_id, RawClientId::Any);
        let user_name = user_name.transpose()?;
        let proven = match &user_name {
            None => Err("require-username-matches is not set"),
            Some(template) if template.uses("client-id") && !is_client_id_proven => {
                Err("require-username-matches compares it with the client id, and client-id is \"any\"")
            }
            Some(_) => Ok(()),
        };
        let rules = raw.rules.unwrap_or_else(own_topics).into_iter().enumerate();
        Ok(Self {
            device_id: raw.device_id,
            tenant: raw.tenant,
            client_id: match raw.client_id {
                RawClientId::Any => ClientId::Any,
                RawClientId::EqualsDeviceId => ClientId::EqualsDeviceId,
                RawClientId::StartsWithDeviceId => ClientId::StartsWithDeviceId { separator },
            },
            user_name,
            rules: rules.map(|(index, rule)| rule.check(index, proven)).collect::<Result<_, _>>()?,
            cache: raw.cache,
        })
    }

    /// For whom and how long an answer holds: where client ids and user names count, for this connection only.
    pub fn cache(&self) -> Option<CacheHint> {
        let certificate_decides = matches!(self.client_id, ClientId::Any) && self.user_name.is_none();
        (certificate_decides && self.cache > 0)
            .then_some(CacheHint { scope: CacheScope::Certificate, ttl: self.cache })
    }
}

impl RawRule {
    /// `proven`: whether the user name of a client is more than its claim.
    fn check(self, index: usize, proven: Result<(), &str>) -> Result<Rule, InitError> {
        let lists = TopicLists {
            deny_publish: self.deny_publish,
            deny_subscribe: self.deny_subscribe,
            allow_publish: self.allow_publish,
            allow_subscribe: self.allow_subscribe,
        };
        let known = |name: &str| name == "username" || Field::parse(name).is_some();
        let lines = lists.check(format_args!("/rules/{index}"), known, |filter| match proven {
            Err(why) if filter.uses("username") => {
                Err(format!("a client can choose its ${{username}}: {why}"))
            }
            _ => Ok(()),
        })?;
        if self.refuse && !lines.is_empty() {
            return Err(problem(format!("/rules/{index}"), "a rule that refuses has no topics"));
        }
        Ok(Rule {
            name: self.name.unwrap_or_else(|| format!("rule {index}")),
            criteria: self.criteria,
            refuse: self.refuse,
            lines,
            limits: self.limits.check(format_args!("/rules/{index}/limits"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use mqgate_plugin_sdk::testing;

    use super::*;

    fn read(json: &str) -> Result<Config, (String, String)> {
        Config::read(&testing::context(json)).map_err(|error| match error {
            InitError::InvalidConfig(problems) => (problems[0].at.clone(), problems[0].message.clone()),
            InitError::Failed(message) => (String::new(), message),
        })
    }

    #[test]
    fn every_key_is_understood() {
        let config = read(
            r##"{
                "device-id": [{"from": "san.uri", "pattern": "urn:device:(.+)"}, "cn"],
                "tenant": "o",
                "client-id": "starts-with-device-id",
                "client-id-separator": "--",
                "require-username-matches": "${device-id}@${o}",
                "rules": [
                    {"name": "banned", "match": {"serial": ["0a", "0b"]}, "refuse": true},
                    {"match": {"ou": "meters", "cn": {"pattern": "m-.*"}},
                     "deny-publish": ["a/b"], "deny-subscribe": ["a/+"],
                     "allow-publish": ["devices/${device-id}/${ou}/#"], "allow-subscribe": ["#"],
                     "limits": {"maximum-qos": 1, "subscriptions": 10}}
                ]
            }"##,
        )
        .ok()
        .unwrap();
        assert_eq!((config.device_id.len(), config.rules.len()), (2, 2));
        assert_eq!(config.rules[1].name, "rule 1");
        assert_eq!(config.rules[1].lines.len(), 4);
        assert_eq!(config.rules[1].limits.subscriptions, Some(10));
    }

    #[test]
    fn a_user_name_that_is_only_claimed_is_in_no_topic() {
        for list in ["deny-publish", "deny-subscribe", "allow-publish", "allow-subscribe"] {
            let with = |more: &str| {
                read(&format!(r#"{{{more} "rules": [{{}}, {{"{list}": ["a", "users/${{username}}/#"]}}]}}"#))
            };
            let refused = |more: &str| {
                let (at, why) = with(more).err().unwrap_or_else(|| panic!("{list} was taken with {more}"));
                assert_eq!(at, format!("/rules/1/{list}/1"), "{why}");
                why
            };
            assert!(refused("").contains("require-username-matches is not set"));
            assert!(refused(r#""require-username-matches": "${client-id}","#).contains("client-id is"));
            for proof in [
                r#""require-username-matches": "${device-id}@${o}","#,
                r#""require-username-matches": "${client-id}", "client-id": "equals-device-id","#,
            ] {
                assert!(with(proof).is_ok(), "{proof}");
            }
        }
    }

    #[test]
    fn mistakes_are_pointed_at() {
        let at = |json: &str| read(json).err().unwrap_or_else(|| panic!("{json} was taken")).0;
        assert_eq!(at(r#"{"device-ids": []}"#), "/device-ids");
        assert_eq!(at(r#"{"device-id": []}"#), "/device-id");
        assert_eq!(at(r#"{"device-id": ["cn", "san.url"]}"#), "/device-id/1");
        assert_eq!(at(r#"{"device-id": [{"from": "cn", "pattern": "("}]}"#), "/device-id/0/pattern");
        assert_eq!(at(r#"{"client-id": "whatever"}"#), "/client-id");
        assert_eq!(at(r#"{"client-id-separator": ""}"#), "/client-id-separator");
        assert_eq!(at(r#"{"require-username-matches": "${who}"}"#), "/require-username-matches");
        assert_eq!(at(r#"{"rules": [{"match": {"org": "x"}}]}"#), "/rules/0/match/org");
        assert_eq!(at(r#"{"rules": [{}, {"allow-publish": ["a", "a/${x}"]}]}"#), "/rules/1/allow-publish/1");
        assert_eq!(at(r#"{"rules": [{"refuse": true, "allow-publish": ["a"]}]}"#), "/rules/0");
        assert_eq!(at(r#"{"rules": [{"limits": {"maximum-qos": 3}}]}"#), "/rules/0/limits/maximum-qos");
        for wrong in ["", "a/#/b", "a#", "a/b+", "#/", "${cn}#"] {
            assert_eq!(
                at(&format!(r#"{{"rules": [{{"deny-subscribe": ["{wrong}"]}}]}}"#)),
                "/rules/0/deny-subscribe/0"
            );
        }
    }
}
