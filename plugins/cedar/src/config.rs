//! The configuration, read and checked once: policies, entities, and the topics that they are asked about.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use cedar_policy::{Entities, Entity, EntityUid, PolicySet, RestrictedExpression};
use mqgate_plugin_sdk::access::{BROKER_VARIABLES, LimitsTable, filter_template};
use mqgate_plugin_sdk::config::{parse, problem};
use mqgate_plugin_sdk::types::{InitError, Limits, PluginContext};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::policies;
use crate::request::Names;
use crate::schema::Types;

/// Each costs two evaluations of all policies for every client.
const MOST_TOPICS: usize = 64;
const LONGEST_POLICIES: usize = 64 << 10;
/// All of them are looked through for every client.
const MOST_ENTITIES: usize = 1000;
/// What connecting is about, as resource.
pub const BROKER: &str = "mqgate";

pub struct Config {
    pub policies: PolicySet,
    pub entities: Entities,
    /// By their ids: what is known of one when it comes is added.
    pub devices: BTreeMap<String, Known>,
    pub topics: Vec<Topic>,
    pub limits: Limits,
    pub names: Names,
}

/// What the operator wrote of a device.
#[derive(Clone, Default)]
pub struct Known {
    pub attributes: HashMap<String, RestrictedExpression>,
    pub parents: HashSet<EntityUid>,
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
    entities: Vec<RawEntity>,
    topics: Vec<RawTopic>,
    #[serde(default)]
    limits: LimitsTable,
}

/// As in Cedar's JSON format.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntity {
    uid: RawUid,
    #[serde(default)]
    attrs: serde_json::Map<String, Value>,
    #[serde(default)]
    parents: Vec<RawUid>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUid {
    #[serde(rename = "type")]
    kind: String,
    id: String,
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
        let wrong_policies = |why: String| problem("/policies", why);
        let policies = policies::read(&raw.policies).map_err(wrong_policies)?;
        let mut all = All::new();
        let topics = all.topics(raw.topics)?;
        all.entities(raw.entities)?;
        let schema = all.types.schema().map_err(|why| problem("/entities", why))?;
        policies::check(&policies, &raw.policies, schema, |literal| all.has(literal))
            .map_err(wrong_policies)?;
        let entities = Entities::from_entities(all.entities, None)
            .map_err(|error| problem("/entities", chain(error)))?;
        let names = Names::new().map_err(InitError::Failed)?;
        let limits = raw.limits.check("/limits")?;
        Ok(Self { policies, entities, devices: all.devices, topics, limits, names })
    }
}

/// Everything that policies can be about, while it is read.
struct All {
    types: Types,
    entities: Vec<Entity>,
    devices: BTreeMap<String, Known>,
    topics: BTreeSet<String>,
    groups: BTreeSet<String>,
}

impl All {
    fn new() -> Self {
        Self {
            types: Types::built_in(),
            entities: Vec::new(),
            devices: BTreeMap::new(),
            topics: BTreeSet::new(),
            groups: BTreeSet::new(),
        }
    }

    fn topics(&mut self, raw: Vec<RawTopic>) -> Result<Vec<Topic>, InitError> {
        if raw.len() > MOST_TOPICS {
            return Err(problem("/topics", format!("more than {MOST_TOPICS}")));
        }
        let mut topics = Vec::new();
        for (index, RawTopic { filter, groups }) in raw.into_iter().enumerate() {
            let at = format!("/topics/{index}/filter");
            filter_template(&filter, |_| false, |name| BROKER_VARIABLES.contains(&name))
                .map_err(|why| problem(&at, why))?;
            if !self.topics.insert(filter.clone()) {
                return Err(problem(at, "stands here twice"));
            }
            let parents: Vec<Value> =
                groups.iter().map(|group| json!({"type": "TopicGroup", "id": group})).collect();
            let written = json!({"uid": {"type": "Topic", "id": filter}, "attrs": {"filter": filter}, "parents": parents});
            let entity = entity(written).map_err(|why| problem(format!("/topics/{index}"), why))?;
            self.groups.extend(groups);
            topics.push(Topic { filter, uid: entity.uid() });
            self.entities.push(entity);
        }
        Ok(topics)
    }

    fn entities(&mut self, raw: Vec<RawEntity>) -> Result<(), InitError> {
        if raw.len() > MOST_ENTITIES {
            return Err(problem("/entities", format!("more than {MOST_ENTITIES}")));
        }
        for (index, RawEntity { uid, attrs, parents }) in raw.into_iter().enumerate() {
            let at = format!("/entities/{index}");
            for RawUid { kind, id } in parents.iter().chain([&uid]) {
                match kind.as_str() {
                    "Topic" => return Err(problem(at, "topics stand in `topics`")),
                    "Action" | "Broker" => return Err(problem(at, format!("{kind} is mqgate's own"))),
                    // Types of the same name in two namespaces look alike.
                    kind if kind.contains("::") => return Err(problem(at, "types have no namespace here")),
                    "TopicGroup" => {
                        self.groups.insert(id.clone());
                    }
                    _ => {}
                }
            }
            let as_json = |uid: &RawUid| json!({"type": uid.kind, "id": uid.id});
            let above: Vec<Value> = parents.iter().map(as_json).collect();
            let attributes = Value::Object(attrs);
            let written = json!({"uid": as_json(&uid), "attrs": attributes, "parents": above});
            let entity = entity(written).map_err(|why| problem(&at, why))?;
            let (known_as, attributes_of, parents_of) = entity.clone().into_inner();
            let parents: Vec<EntityUid> = parents_of.iter().cloned().collect();
            self.types.add(&known_as, &parents, &attributes).map_err(|why| problem(&at, why))?;
            if uid.kind == "Device" {
                let known = Known { attributes: attributes_of, parents: parents_of };
                if self.devices.insert(uid.id, known).is_some() {
                    return Err(problem(at, "stands here twice"));
                }
            }
            self.entities.push(entity);
        }
        Ok(())
    }

    /// Of the types whose entities are all written down; others come with the clients.
    fn has(&self, literal: &EntityUid) -> bool {
        let id = literal.id().unescaped();
        match literal.type_name().to_string().as_str() {
            "Topic" => self.topics.contains(id),
            "TopicGroup" => self.groups.contains(id),
            "Broker" => id == BROKER,
            _ => true,
        }
    }
}

fn entity(written: Value) -> Result<Entity, String> {
    Entity::from_json_value(written, None).map_err(chain)
}

/// An error with its causes: the outermost alone says little.
pub fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some say what their cause says.
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
