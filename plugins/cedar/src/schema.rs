//! What there is for policies to ask for, as a Cedar schema: what the plugin tells them of a client, and what the operator's
//! entities have. Policies are checked against it once; a question is not.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{EntityUid, Schema};
use mqgate_plugin_sdk::certificate::Field;
use serde_json::{Map, Value, json};

use crate::config::chain;
use crate::request::camel_case;

/// What a value is. Of a list that is empty nobody knows what it would hold.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Flag,
    Number,
    Text,
    /// One of Cedar's own, such as an address.
    Extension(&'static str),
    Entity(String),
    Set(Option<Box<Self>>),
    Record(BTreeMap<String, Self>),
}

/// Types of entities: what they can be in, and what they can have.
#[derive(Debug, Default)]
pub struct Types(BTreeMap<String, Type>);

#[derive(Debug, Default)]
struct Type {
    parents: BTreeSet<String>,
    attributes: BTreeMap<String, Kind>,
}

impl Types {
    /// Those that are there without any of the operator's.
    pub fn built_in() -> Self {
        let mut types = Self::default();
        for (name, parents) in [
            ("Broker", &[][..]),
            ("Device", &["Tenant", "Tag"]),
            ("Tag", &[]),
            ("Tenant", &[]),
            ("Topic", &["TopicGroup"]),
            ("TopicGroup", &[]),
        ] {
            types.of(name).parents.extend(parents.iter().map(|&parent| parent.to_owned()));
        }
        types.of("Topic").attributes.insert("filter".into(), Kind::Text);
        types
    }

    /// One of the operator's entities, as it is written.
    pub fn add(&mut self, uid: &EntityUid, parents: &[EntityUid], attributes: &Value) -> Result<(), String> {
        for parent in parents {
            self.of(&parent.type_name().to_string());
        }
        let parents = parents.iter().map(|parent| parent.type_name().to_string());
        self.of(&uid.type_name().to_string()).parents.extend(parents);
        for (name, value) in attributes.as_object().into_iter().flatten() {
            let kind = Kind::of(value).map_err(|why| format!("{name:?} {why}"))?;
            kind.each_entity(&mut |referred| {
                self.of(referred);
            });
            let known = &mut self.of(&uid.type_name().to_string()).attributes;
            let merged = match known.remove(name) {
                None => kind,
                Some(other) => other.with(kind).ok_or_else(|| {
                    format!("{name:?} is of another kind than in another entity of {}", uid.type_name())
                })?,
            };
            known.insert(name.clone(), merged);
        }
        Ok(())
    }

    fn of(&mut self, name: &str) -> &mut Type {
        self.0.entry(name.to_owned()).or_default()
    }

    pub fn schema(&self) -> Result<Schema, String> {
        let types = self.0.iter().map(|(name, of)| {
            // A tag that no entity describes is a tag, too: only topics are all written down.
            let attributes = record(&of.attributes, name == "Topic");
            (name.clone(), json!({"memberOfTypes": of.parents, "shape": attributes}))
        });
        let types: Map<String, Value> = types.collect();
        let action = |resource: &str| json!({"appliesTo": {"principalTypes": ["Device"], "resourceTypes": [resource], "context": context()}});
        let actions =
            json!({"connect": action("Broker"), "publish": action("Topic"), "subscribe": action("Topic")});
        Schema::from_json_value(json!({"": {"entityTypes": types, "actions": actions}})).map_err(chain)
    }
}

impl Kind {
    fn of(value: &Value) -> Result<Self, String> {
        Ok(match value {
            Value::Bool(_) => Self::Flag,
            Value::Number(_) => Self::Number,
            Value::String(_) => Self::Text,
            Value::Array(elements) => {
                let mut all: Option<Self> = None;
                for element in elements {
                    let kind = Self::of(element)?;
                    all = Some(match all {
                        None => kind,
                        Some(other) => other.with(kind).ok_or("holds values of different kinds")?,
                    });
                }
                Self::Set(all.map(Box::new))
            }
            Value::Object(members) => match (members.get("__entity"), members.get("__extn")) {
                (Some(of), _) => Self::Entity(of["type"].as_str().ok_or("names no entity")?.to_owned()),
                (None, Some(call)) => Self::Extension(match call["fn"].as_str() {
                    Some("ip") => "ipaddr",
                    Some("decimal") => "decimal",
                    Some("datetime") => "datetime",
                    Some("duration") => "duration",
                    _ => return Err("is no value that Cedar has".into()),
                }),
                (None, None) => Self::Record(
                    members
                        .iter()
                        .map(|(name, value)| Ok((name.clone(), Self::of(value)?)))
                        .collect::<Result<_, String>>()?,
                ),
            },
            Value::Null => return Err("is null".into()),
        })
    }

    /// What holds for both; `None` where nothing does.
    fn with(self, other: Self) -> Option<Self> {
        Some(match (self, other) {
            (Self::Set(None), set @ Self::Set(_)) | (set @ Self::Set(_), Self::Set(None)) => set,
            (Self::Set(Some(one)), Self::Set(Some(other))) => Self::Set(Some(Box::new(one.with(*other)?))),
            (Self::Record(mut one), Self::Record(other)) => {
                for (name, kind) in other {
                    let merged = match one.remove(&name) {
                        None => kind,
                        Some(known) => known.with(kind)?,
                    };
                    one.insert(name, merged);
                }
                Self::Record(one)
            }
            (one, other) if one == other => one,
            _ => return None,
        })
    }

    fn each_entity(&self, say: &mut impl FnMut(&str)) {
        match self {
            Self::Entity(name) => say(name),
            Self::Set(Some(element)) => element.each_entity(say),
            Self::Record(members) => members.values().for_each(|member| member.each_entity(say)),
            Self::Flag | Self::Number | Self::Text | Self::Extension(_) | Self::Set(None) => {}
        }
    }

    fn schema(&self) -> Option<Value> {
        Some(match self {
            Self::Flag => json!({"type": "Boolean"}),
            Self::Number => json!({"type": "Long"}),
            Self::Text => json!({"type": "String"}),
            Self::Extension(name) => json!({"type": "Extension", "name": name}),
            Self::Entity(name) => json!({"type": "Entity", "name": name}),
            Self::Set(element) => json!({"type": "Set", "element": element.as_ref()?.schema()?}),
            Self::Record(members) => record(members, false),
        })
    }
}

/// Lists that are always empty are left out: no policy can say anything of what is in them.
fn record(members: &BTreeMap<String, Kind>, required: bool) -> Value {
    let member = |(name, kind): (&String, &Kind)| {
        let mut schema = kind.schema()?;
        schema["required"] = required.into();
        Some((name.clone(), schema))
    };
    let members: Map<String, Value> = members.iter().filter_map(member).collect();
    json!({"type": "Record", "attributes": members})
}

/// What `request` says of a client.
fn context() -> Value {
    let text = || json!({"type": "String"});
    let number = || json!({"type": "Long"});
    let optional = |mut kind: Value| {
        kind["required"] = false.into();
        kind
    };
    let mut certificate = Map::new();
    for field in Field::ALL {
        certificate.insert(camel_case(field.name()), json!({"type": "Set", "element": text()}));
    }
    for name in ["notBefore", "notAfter", "keyBits"] {
        certificate.insert(name.into(), number());
    }
    json!({"type": "Record", "attributes": {
        "listener": text(),
        "clientId": text(),
        "protocolLevel": number(),
        "address": optional(json!({"type": "Extension", "name": "ipaddr"})),
        "userName": optional(text()),
        "tls": optional(text()),
        "certificate": optional(json!({"type": "Record", "attributes": certificate})),
    }})
}
