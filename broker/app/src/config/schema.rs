//! The shape of the configuration as a JSON Schema made from the types: it names unknown keys before
//! anything is read, and the reference is generated from it.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::model::Config;
use super::problem::{Problem, did_you_mean};
use super::source::{Source, Step, dotted};
use toml::de::{DeTable, DeValue};

/// A schema with its definitions.
#[derive(Debug, Clone)]
pub struct Shape {
    root: Value,
}

impl Shape {
    pub fn of<T: schemars::JsonSchema>() -> Self {
        let generator = SchemaSettings::draft2020_12().for_deserialize().into_generator();
        Self { root: generator.into_root_schema_for::<T>().to_value() }
    }

    pub fn config() -> Self {
        Self::of::<Config>()
    }

    pub fn root(&self) -> &Value {
        &self.root
    }

    /// Follows references, and the one alternative of an option that is not null.
    pub fn resolve<'a>(&'a self, mut schema: &'a Value) -> &'a Value {
        for _ in 0..8 {
            if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
                let Some(target) = self.root.pointer(reference.trim_start_matches('#')) else {
                    return schema;
                };
                schema = target;
            } else if let Some([one, other]) =
                schema.get("anyOf").and_then(Value::as_array).map(Vec::as_slice)
            {
                let null = |value: &Value| value.get("type").and_then(Value::as_str) == Some("null");
                schema = match (null(one), null(other)) {
                    (false, true) => one,
                    (true, false) => other,
                    _ => return schema,
                };
            } else {
                return schema;
            }
        }
        schema
    }

    /// The schema of the value at a path.
    fn at(&self, path: &[Step]) -> Option<&Value> {
        let mut schema = self.resolve(&self.root);
        for step in path {
            schema = self.resolve(match step {
                Step::Key(key) => schema
                    .get("properties")
                    .and_then(|properties| properties.get(key))
                    .or_else(|| schema.get("additionalProperties").filter(|value| value.is_object()))?,
                Step::Index(_) => schema.get("items")?,
            });
        }
        Some(schema)
    }

    /// Whether the value at a path is a string, an enumeration included.
    pub fn is_text(&self, path: &[Step]) -> bool {
        let Some(schema) = self.at(path) else { return false };
        match schema.get("type") {
            Some(Value::String(kind)) => kind == "string",
            Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "string"),
            _ => schema.get("oneOf").or_else(|| schema.get("enum")).is_some(),
        }
    }

    /// Every key of `table`, which stands at `path`, that this shape does not have.
    pub fn unknown_keys(&self, source: &Source<'_>, table: &DeTable<'_>, path: &[Step]) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.walk(source, table, self.resolve(&self.root), &mut path.to_vec(), &mut problems);
        problems
    }

    fn walk(
        &self,
        source: &Source<'_>,
        table: &DeTable<'_>,
        schema: &Value,
        path: &mut Vec<Step>,
        problems: &mut Vec<Problem>,
    ) {
        let properties = schema.get("properties").and_then(Value::as_object);
        let others = schema.get("additionalProperties");
        for (key, value) in table {
            let name: &str = key.get_ref();
            path.push(Step::Key(name.to_owned()));
            match properties.and_then(|properties| properties.get(name)) {
                Some(schema) => self.walk_value(source, value.get_ref(), schema, path, problems),
                None => match others {
                    Some(schema) if schema.is_object() => {
                        self.walk_value(source, value.get_ref(), schema, path, problems);
                    }
                    Some(Value::Bool(false)) => problems.push(Problem {
                        place: source.place_of(&key.span()),
                        key: dotted(path),
                        what: String::from("there is no such key"),
                        remedy: Some(self.remedy(name, properties, path.len() > 1)),
                    }),
                    _ => {}
                },
            }
            path.pop();
        }
    }

    fn walk_value(
        &self,
        source: &Source<'_>,
        value: &DeValue<'_>,
        schema: &Value,
        path: &mut Vec<Step>,
        problems: &mut Vec<Problem>,
    ) {
        let schema = self.resolve(schema);
        match value {
            DeValue::Table(table) => self.walk(source, table, schema, path, problems),
            DeValue::Array(items) => {
                let Some(schema) = schema.get("items") else { return };
                for (index, item) in items.iter().enumerate() {
                    path.push(Step::Index(index));
                    self.walk_value(source, item.get_ref(), schema, path, problems);
                    path.pop();
                }
            }
            _ => {}
        }
    }

    fn remedy(
        &self,
        name: &str,
        properties: Option<&serde_json::Map<String, Value>>,
        inside: bool,
    ) -> String {
        let mut names: Vec<&str> =
            properties.into_iter().flat_map(serde_json::Map::keys).map(String::as_str).collect();
        names.sort_unstable();
        // A key that belongs to another table, such as `bind` before the first header.
        let homes: Vec<String> = self
            .root
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter(|(_, schema)| {
                let schema = self.resolve(schema);
                let schema = schema
                    .get("additionalProperties")
                    .or_else(|| schema.get("items"))
                    .filter(|inner| inner.is_object())
                    .map_or(schema, |inner| self.resolve(inner));
                schema.get("properties").is_some_and(|properties| properties.get(name).is_some())
            })
            .map(|(table, _)| format!("[{table}]"))
            .collect();
        if !homes.is_empty() && !inside {
            return format!("it belongs under {}", homes.join(" or "));
        }
        if let Some(guess) = did_you_mean(name, names.iter().copied()) {
            return format!("did you mean `{guess}`?");
        }
        match (homes.is_empty(), inside) {
            (false, _) => format!("it belongs under {}", homes.join(" or ")),
            (true, _) => format!("the keys here are {}", names.join(", ")),
        }
    }
}
