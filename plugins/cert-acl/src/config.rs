//! The configuration, read and checked once. Past this module a rule cannot be wrong.

use mqgate_plugin_sdk::certificate::Field;
use mqgate_plugin_sdk::config::{parse, problem};
use mqgate_plugin_sdk::select::{Criteria, Source};
use mqgate_plugin_sdk::template::Template;
use mqgate_plugin_sdk::types::{CacheHint, CacheScope, InitError, Limits, PluginContext};
use serde::Deserialize;

use crate::identity::ClientId;
use crate::rules::{Line, Rule};

/// What the broker replaces in an access list. Left alone here: the broker knows the final values.
const BROKER_VARIABLES: [&str; 3] = ["client-id", "device-id", "tenant"];
/// The broker takes no longer access list.
const MOST_LINES: usize = 1000;

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
    limits: RawLimits,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct RawLimits {
    maximum_qos: Option<u8>,
    retain_available: Option<bool>,
    maximum_packet_size: Option<u32>,
    receive_maximum: Option<u16>,
    topic_alias_maximum: Option<u16>,
    session_expiry: Option<u32>,
    keep_alive: Option<u16>,
    subscriptions: Option<u32>,
    publishes_per_second: Option<u32>,
    publish_bytes_per_second: Option<u32>,
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
        limits: RawLimits::default(),
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
        let at = format!("/rules/{index}");
        // Refusals first: the first line that matches decides.
        let lists = [
            (Line::DENY_PUBLISH, "deny-publish", self.deny_publish),
            (Line::DENY_SUBSCRIBE, "deny-subscribe", self.deny_subscribe),
            (Line::ALLOW_PUBLISH, "allow-publish", self.allow_publish),
            (Line::ALLOW_SUBSCRIBE, "allow-subscribe", self.allow_subscribe),
        ];
        let mut lines = Vec::new();
        for (kind, key, filters) in lists {
            for (position, text) in filters.iter().enumerate() {
                let at = format!("{at}/{key}/{position}");
                let filter = filter(&at, text)?;
                if filter.uses("username")
                    && let Err(why) = proven
                {
                    return Err(problem(at, format!("a client can choose its ${{username}}: {why}")));
                }
                lines.push(Line { kind, filter });
            }
        }
        if self.refuse && !lines.is_empty() {
            return Err(problem(at, "a rule that refuses has no topics"));
        }
        if lines.len() > MOST_LINES {
            return Err(problem(at, format!("more than {MOST_LINES} topics")));
        }
        if self.limits.maximum_qos.is_some_and(|qos| qos > 2) {
            return Err(problem(format!("{at}/limits/maximum-qos"), "is 0, 1 or 2"));
        }
        Ok(Rule {
            name: self.name.unwrap_or_else(|| format!("rule {index}")),
            criteria: self.criteria,
            refuse: self.refuse,
            lines,
            limits: self.limits.into(),
        })
    }
}

impl From<RawLimits> for Limits {
    fn from(raw: RawLimits) -> Self {
        Self {
            maximum_qos: raw.maximum_qos,
            retain_available: raw.retain_available,
            maximum_packet_size: raw.maximum_packet_size,
            receive_maximum: raw.receive_maximum,
            topic_alias_maximum: raw.topic_alias_maximum,
            session_expiry: raw.session_expiry,
            keep_alive: raw.keep_alive,
            subscriptions: raw.subscriptions,
            publishes_per_second: raw.publishes_per_second,
            publish_bytes_per_second: raw.publish_bytes_per_second,
        }
    }
}

/// A topic filter with variables.
fn filter(at: &str, text: &str) -> Result<Template, InitError> {
    let known = |name: &str| name == "username" || Field::parse(name).is_some();
    let template = Template::parse(text, known, |name| BROKER_VARIABLES.contains(&name))
        .map_err(|error| problem(at, error.to_string()))?;
    // Every value is one plain level, so any stands for all.
    let sample = text.split("${").enumerate().fold(String::new(), |sample, (index, part)| match index {
        0 => part.to_owned(),
        _ => sample + "x" + part.split_once('}').map_or("", |(_, after)| after),
    });
    if is_topic_filter(&sample) {
        Ok(template)
    } else {
        Err(problem(at, format!("{text:?} is no topic filter")))
    }
}

/// [MQTT-4.7.1-1] to [MQTT-4.7.1-3], [MQTT-4.7.3-1], [MQTT-4.7.3-2].
fn is_topic_filter(text: &str) -> bool {
    let levels: Vec<&str> = text.split('/').collect();
    !text.is_empty()
        && !text.contains('\0')
        && levels.iter().enumerate().all(|(index, level)| match *level {
            "+" => true,
            "#" => index == levels.len() - 1,
            level => !level.contains(['+', '#']),
        })
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
