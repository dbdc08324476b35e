//! The form of a file of cases as a JSON Schema, for editors and checks before anything runs: made from the types that read
//! it. A case is laid over what its file has in common, so only there does nothing have to stand, and anything may be null.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::Written;
use super::answer::{Answer, Rule, Verdict, WholeRule};
use super::expect::{CONTAINS, IN_PART};
use super::host::{Entry, HttpAnswer, HttpPart, RandomPart, WholeEntry};
use super::settings::{Size, Span};
use super::value::{Attributes, Bytes, Time};

/// Objects that are merged with those of `common`: what they must have may stand there.
const MERGED: [&str; 5] = ["Case", "IdentityPart", "ExchangePart", "AnchorPart", "WillPart"];

/// The schema of a file with one case, with several, or with `common` and `cases`.
pub fn schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12().for_deserialize().into_generator();
    let case = generator.subschema_for::<Written>();
    let mut definitions = generator.take_definitions(true);
    for (name, definition) in &mut definitions {
        loosen(name, definition);
    }
    if let Some(answer) = definitions.get_mut("Answer").and_then(|answer| answer.get_mut("properties")) {
        for field in IN_PART {
            let part = json!({
                "type": "object", "properties": { CONTAINS: { "type": "string" } }, "required": [CONTAINS],
                "additionalProperties": false,
            });
            let whole = answer[field].take();
            answer[field] = json!({ "anyOf": [whole, part] });
        }
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Cases of an mqgate plugin",
        "description": "docs/plugins/cases.md",
        "if": { "type": "array" },
        "then": { "items": whole(&case) },
        "else": {
            "if": { "required": ["cases"] },
            "then": {
                "type": "object",
                "properties": {
                    "$schema": { "type": "string" },
                    "common": case,
                    "cases": { "type": "array", "items": case },
                },
                "additionalProperties": false,
            },
            "else": whole(&case),
        },
        "$defs": definitions,
    })
}

/// A case that has nothing to be laid over.
fn whole(case: &Schema) -> Value {
    let word = json!({ "type": "string" });
    json!({ "allOf": [case], "properties": { "name": word, "hook": word }, "required": ["name", "hook"] })
}

/// Lets every field be null, and those that may come from `common` be left out.
fn loosen(name: &str, definition: &mut Value) {
    let Some(object) = definition.as_object_mut() else { return };
    if MERGED.contains(&name) {
        object.remove("required");
    }
    let Some(Value::Object(properties)) = object.get_mut("properties") else { return };
    for property in properties.values_mut().filter(|property| !may_be_null(property)) {
        let mut outer = Map::new();
        let mut inner = property.take();
        if let Some(about) = inner.as_object_mut().and_then(|inner| inner.remove("description")) {
            outer.insert(String::from("description"), about);
        }
        outer.insert(String::from("anyOf"), json!([inner, { "type": "null" }]));
        *property = Value::Object(outer);
    }
}

fn may_be_null(property: &Value) -> bool {
    let null = json!("null");
    match property.get("type") {
        Some(Value::Array(types)) if types.contains(&null) => true,
        Some(_) => false,
        None => {
            let choices = property.get("anyOf").and_then(Value::as_array);
            property.as_bool() == Some(true)
                || choices
                    .is_some_and(|choices| choices.iter().any(|choice| choice.get("type") == Some(&null)))
        }
    }
}

/// What can be written in short: a text, or the whole.
pub struct Short<T>(std::marker::PhantomData<T>);

/// What is expected: a verdict, or fields of an answer.
pub struct Expected;

/// SHA-256, in hexadecimal.
pub struct Fingerprint;

/// Says how a type is written that reads itself.
macro_rules! written {
    ($($type:ty, $name:literal, |$generator:ident| $schema:expr;)+) => {$(
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema($generator: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    )+};
}

impl<T: JsonSchema> JsonSchema for Short<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}InShort", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let whole = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [{ "type": "string" }, whole] })
    }
}

written! {
    Expected, "Expected", |generator| {
        let (verdict, answer) = (generator.subschema_for::<Verdict>(), generator.subschema_for::<Answer>());
        json_schema!({ "anyOf": [verdict, answer] })
    };
    Fingerprint, "Fingerprint", |_generator| json_schema!({ "type": "string", "pattern": "^[0-9A-Fa-f]{64}$" });
    Bytes, "Bytes", |_generator| json_schema!({ "anyOf": [
        { "type": "string" },
        { "type": "object", "properties": { "base64": { "type": "string" } }, "required": ["base64"], "additionalProperties": false },
        { "type": "object", "properties": { "redacted": { "const": true } }, "required": ["redacted"], "additionalProperties": false },
    ] });
    Time, "Time", |_generator| json_schema!({ "anyOf": [{ "type": "string", "format": "date-time" }, { "type": "integer", "minimum": 0 }] });
    Attributes, "Attributes", |_generator| {
        let value = json!({ "anyOf": [
            { "type": ["string", "integer", "boolean", "null"] },
            { "type": "array", "items": { "type": "string" } },
            { "type": "object", "properties": { "base64": { "type": "string" } }, "required": ["base64"], "additionalProperties": false },
        ] });
        json_schema!({ "anyOf": [
            { "type": "object", "additionalProperties": value },
            { "type": "array", "items": { "type": "array", "prefixItems": [{ "type": "string" }, value], "minItems": 2, "maxItems": 2 } },
        ] })
    };
    RandomPart, "Random", |generator| {
        let bytes = generator.subschema_for::<Bytes>();
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 0 }, bytes] })
    };
    Entry, "Entry", |generator| {
        let whole = generator.subschema_for::<WholeEntry>();
        json_schema!({ "anyOf": [{ "type": "string" }, whole] })
    };
    HttpPart, "Http", |generator| {
        let answer = generator.subschema_for::<HttpAnswer>();
        json_schema!({ "anyOf": [answer, { "type": "array", "items": answer }] })
    };
    Rule, "Rule", |generator| {
        let whole = generator.subschema_for::<WholeRule>();
        json_schema!({ "anyOf": [
            { "type": "string", "pattern": "^(allow|deny) (publish|subscribe|publish,subscribe|subscribe,publish) ." }, whole
        ] })
    };
    Size, "Size", |_generator| json_schema!({ "type": "string", "pattern": "^ *[0-9]+ *(B|KiB|MiB)?$" });
    Span, "Span", |_generator| json_schema!({ "type": "string", "pattern": "^ *[0-9]+ *(ms|s|m)$" });
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn is_valid(file: &Value) -> bool {
        let root = schema();
        Validator(&root).fits(&root, file)
    }

    /// As much of JSON Schema as this one uses, but for patterns and formats; what it does not know it refuses.
    struct Validator<'a>(&'a Value);

    impl Validator<'_> {
        fn fits(&self, schema: &Value, value: &Value) -> bool {
            let Some(keywords) = schema.as_object() else { return schema == &json!(true) };
            let each = |schemas: &Value| schemas.as_array().cloned().unwrap_or_default();
            keywords.iter().all(|(keyword, says)| match keyword.as_str() {
                "$ref" => {
                    let path = says.as_str().expect("a text").trim_start_matches('#');
                    self.fits(self.0.pointer(path).expect(path), value)
                }
                "anyOf" | "oneOf" => each(says).iter().any(|one| self.fits(one, value)),
                "allOf" => each(says).iter().all(|one| self.fits(one, value)),
                "if" => {
                    let branch = if self.fits(says, value) { "then" } else { "else" };
                    keywords.get(branch).is_none_or(|branch| self.fits(branch, value))
                }
                "const" => says == value,
                "enum" => each(says).contains(value),
                "type" => {
                    let types = says.as_array().cloned().unwrap_or_else(|| vec![says.clone()]);
                    types.iter().any(|one| is_of(one.as_str().expect("a word"), value))
                }
                "required" => value.as_object().is_none_or(|object| {
                    each(says).iter().all(|name| object.contains_key(name.as_str().expect("a name")))
                }),
                "properties" => value.as_object().is_none_or(|object| {
                    let known = says.as_object().expect("an object");
                    known.iter().all(|(name, one)| object.get(name).is_none_or(|it| self.fits(one, it)))
                }),
                "additionalProperties" => value.as_object().is_none_or(|object| {
                    let known =
                        |name: &str| keywords.get("properties").is_some_and(|it| it.get(name).is_some());
                    object.iter().all(|(name, it)| known(name) || self.fits(says, it))
                }),
                "prefixItems" => value.as_array().is_none_or(|items| {
                    items.iter().zip(each(says)).all(|(item, one)| self.fits(&one, item))
                }),
                "items" => value.as_array().is_none_or(|items| items.iter().all(|it| self.fits(says, it))),
                "minimum" => value.as_f64().is_none_or(|it| it >= says.as_f64().expect("a number")),
                "maximum" => value.as_f64().is_none_or(|it| it <= says.as_f64().expect("a number")),
                "minItems" => {
                    value.as_array().is_none_or(|it| it.len() as u64 >= says.as_u64().expect("a number"))
                }
                "maxItems" => {
                    value.as_array().is_none_or(|it| it.len() as u64 <= says.as_u64().expect("a number"))
                }
                "$schema" | "$defs" | "title" | "description" | "default" | "format" | "pattern" | "then"
                | "else" | "uniqueItems" | "writeOnly" => true,
                other => panic!("{other} is not known here"),
            })
        }
    }

    fn is_of(word: &str, value: &Value) -> bool {
        match word {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("{other} is not known here"),
        }
    }

    #[test]
    fn the_cases_of_the_bundled_plugins_have_this_form() {
        let plugins = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins"));
        let mut files = 0;
        for plugin in plugins.read_dir().expect("the plugins").flatten() {
            for file in plugin.path().join("cases").read_dir().into_iter().flatten().flatten() {
                if file.path().extension().is_none_or(|extension| extension != "json") {
                    continue;
                }
                let text = std::fs::read_to_string(file.path()).expect("a file");
                let cases: Value = serde_json::from_str(&text).expect("JSON");
                assert!(is_valid(&cases), "{}", file.path().display());
                files += 1;
            }
        }
        assert!(files >= 5, "{files}");
    }

    #[test]
    fn what_is_refused_when_it_is_read_has_another_form() {
        let case = json!({ "name": "n", "hook": "authorizer", "identity": "d", "expect": "deny" });
        assert!(is_valid(&case) && is_valid(&json!([case])) && is_valid(&json!({ "cases": [case] })));
        // What stands in `common` may be taken away, and need not be said again.
        let common = json!({ "hook": "authenticator", "connection": { "certificate": "d.pem" } });
        let laid = json!({ "name": "n", "connection": { "certificate": null }, "expect": "abstain" });
        assert!(is_valid(&json!({ "$schema": "x", "common": common, "cases": [laid] })));
        for (path, value) in [
            ("hook", json!("auditor")),
            ("hook", json!(null)),
            ("expect", json!("perhaps")),
            ("expect", json!({ "verdict": "deny", "reson": "banned" })),
            ("expect", json!({ "audit_detail": { "contain": "x" } })),
            ("connection", json!({ "certificat": "d.pem" })),
            ("connection", json!({ "connect": { "keep_alive": -1 } })),
            ("plugin", json!({ "limits": { "cpu": 20 } })),
            ("host", json!({ "http": { "GET https://x/": { "failure": "lost" } } })),
        ] {
            let mut wrong = case.clone();
            wrong[path] = value.clone();
            assert!(!is_valid(&wrong), "{path} {value}");
        }
        assert!(!is_valid(&json!([laid])), "nothing says which hook");
        assert!(!is_valid(&json!({ "cases": [], "comon": {} })));
    }
}
