//! The configuration, read and checked once: policies, entities, and the topics that they are asked about.

use std::collections::BTreeMap;

use cedar_policy::{Entities, Entity, EntityUid, PolicySet};
use mqgate_plugin_sdk::access::{BROKER_VARIABLES, LimitsTable, filter_template};
use mqgate_plugin_sdk::config::{parse, problem};
use mqgate_plugin_sdk::types::{InitError, Limits, PluginContext};
use serde::Deserialize;
use serde_json::{Value, json};

/// Each costs two evaluations of all policies for every client.
const MOST_TOPICS: usize = 64;
const LONGEST_POLICIES: usize = 64 << 10;

pub struct Config {
    pub policies: PolicySet,
    /// All but devices.
    pub entities: Entities,
    /// As they are written, by their ids: what is known of one when it comes is added.
    pub devices: BTreeMap<String, Value>,
    pub topics: Vec<Topic>,
    pub limits: Limits,
}

/// A resource of the policies.
pub struct Topic {
    pub filter: String,
    pub uid: EntityUid,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawConfig {
    policies: String,
    #[serde(default)]
    entities: Vec<Value>,
    topics: Vec<RawTopic>,
    #[serde(default)]
    limits: LimitsTable,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawTopic {
    filter: String,
    #[serde(default, rename = "in")]
    groups: Vec<String>,
}

impl Config {
    pub fn read(context: &PluginContext) -> Result<Self, InitError> {
        let raw: RawConfig = parse(context)?;
        if raw.policies.len() > LONGEST_POLICIES {
            return Err(problem("/policies", format!("have more than {LONGEST_POLICIES} bytes")));
        }
        let policies: PolicySet = raw.policies.parse().map_err(|error: cedar_policy::ParseErrors| {
            let every: Vec<String> = error.iter().map(ToString::to_string).collect();
            problem("/policies", every.join("; "))
        })?;
        if policies.templates().next().is_some() {
            return Err(problem(
                "/policies",
                "have a template (?principal, ?resource), which nothing here fills in",
            ));
        }
        if raw.topics.len() > MOST_TOPICS {
            return Err(problem("/topics", format!("more than {MOST_TOPICS}")));
        }
        let mut entities = Vec::new();
        let mut topics: Vec<Topic> = Vec::new();
        for (index, RawTopic { filter, groups }) in raw.topics.into_iter().enumerate() {
            let at = format!("/topics/{index}/filter");
            filter_template(&filter, |_| false, |name| BROKER_VARIABLES.contains(&name))
                .map_err(|why| problem(&at, why))?;
            if topics.iter().any(|topic| topic.filter == filter) {
                return Err(problem(at, "stands here twice"));
            }
            let groups: Vec<Value> =
                groups.iter().map(|group| json!({"type": "TopicGroup", "id": group})).collect();
            let written = json!({"uid": {"type": "Topic", "id": filter}, "attrs": {"filter": filter}, "parents": groups});
            let entity = entity(written).map_err(|why| problem(format!("/topics/{index}"), why))?;
            topics.push(Topic { filter, uid: entity.uid() });
            entities.push(entity);
        }
        let mut devices = BTreeMap::new();
        for (index, written) in raw.entities.into_iter().enumerate() {
            let at = format!("/entities/{index}");
            let entity = entity(written.clone()).map_err(|why| problem(&at, why))?;
            let uid = entity.uid();
            let id = uid.id().unescaped().to_owned();
            match uid.type_name().to_string().as_str() {
                "Topic" => return Err(problem(at, "topics stand in `topics`")),
                "Device" if devices.contains_key(&id) => return Err(problem(at, "stands here twice")),
                "Device" => {
                    devices.insert(id, written);
                }
                _ => entities.push(entity),
            }
        }
        let entities = Entities::from_entities(entities, None)
            .map_err(|error| problem("/entities", error.to_string()))?;
        Ok(Self { policies, entities, devices, topics, limits: raw.limits.check("/limits")? })
    }
}

pub fn entity(written: Value) -> Result<Entity, String> {
    Entity::from_json_value(written, None).map_err(chain)
}

/// An error with its causes: the outermost alone says little.
pub fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use mqgate_plugin_sdk::testing;

    use super::*;

    fn read(changes: Value) -> Result<Config, (String, String)> {
        let mut config =
            json!({"policies": "permit(principal, action, resource);", "topics": [{"filter": "a"}]});
        for (name, value) in changes.as_object().unwrap() {
            config[name] = value.clone();
        }
        Config::read(&testing::context(&config.to_string())).map_err(|error| match error {
            InitError::InvalidConfig(problems) => (problems[0].at.clone(), problems[0].message.clone()),
            InitError::Failed(message) => (String::new(), message),
        })
    }

    #[test]
    fn mistakes_are_pointed_at() {
        let at = |changes: Value| {
            let shown = changes.to_string();
            read(changes).err().unwrap_or_else(|| panic!("{shown} was taken")).0
        };
        assert!(read(json!({})).is_ok());
        assert_eq!(at(json!({"policies": "permit(principal"})), "/policies");
        assert_eq!(
            at(json!({"policies": "permit(principal == ?principal, action, resource);"})),
            "/policies"
        );
        assert_eq!(at(json!({"policies": " ".repeat(65537)})), "/policies");
        assert_eq!(at(json!({"policy": ""})), "/policy");
        assert_eq!(at(json!({"topics": [{"filter": "a"}, {"filter": "a/#/b"}]})), "/topics/1/filter");
        assert_eq!(at(json!({"topics": [{"filter": "a"}, {"filter": "a"}]})), "/topics/1/filter");
        assert_eq!(at(json!({"topics": [{"filter": "${cn}"}]})), "/topics/0/filter");
        assert_eq!(at(json!({"limits": {"maximum-qos": 3}})), "/limits/maximum-qos");
        assert_eq!(at(json!({"entities": [{"uid": "x"}]})), "/entities/0");
        let entity =
            |kind: &str, id: &str| json!({"uid": {"type": kind, "id": id}, "attrs": {}, "parents": []});
        assert_eq!(at(json!({"entities": [entity("Topic", "a")]})), "/entities/0");
        assert_eq!(at(json!({"entities": [entity("Device", "a"), entity("Device", "a")]})), "/entities/1");
        let mut other = entity("Tag", "a");
        other["attrs"] = json!({"level": 1});
        assert_eq!(at(json!({"entities": [entity("Tag", "a"), other]})), "/entities");
        let many: Vec<Value> = (0..65).map(|n| json!({"filter": n.to_string()})).collect();
        assert_eq!(at(json!({"topics": many})), "/topics");
    }
}
