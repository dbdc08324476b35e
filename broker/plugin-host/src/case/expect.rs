//! What an answer is to be like, and in what another one differs.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::answer::Answer;

/// One field in which an answer is another than it should be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    pub field: String,
    /// `null`: there was to be none.
    pub expected: Value,
    pub got: Value,
}

/// What an answer is to be like: fields, each in the one way it can be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    fields: BTreeMap<String, Value>,
    /// Of attributes and limits, those that are not named count, too.
    whole: bool,
}

/// Fields that are compared by the names that stand in them.
const BY_NAME: [&str; 3] = ["attributes", "identity_attributes", "limits"];
/// Fields of which a part may be written.
pub(super) const IN_PART: [&str; 3] = ["detail", "client_message", "audit_detail"];
pub(super) const CONTAINS: &str = "contains";

impl Expectation {
    /// A word, or fields.
    pub fn parse(value: Value) -> Result<Self, String> {
        let fields = match value {
            Value::String(verdict) => Map::from_iter([(String::from("verdict"), Value::String(verdict))]),
            Value::Object(fields) => fields,
            _ => {
                return Err(String::from(
                    "expect: write a verdict, such as \"deny\", or an object such as { \"verdict\": \"deny\" }",
                ));
            }
        };
        let checked = fields.into_iter().map(|(field, value)| {
            let value = canonical(&field, value)?;
            Ok((field, value))
        });
        Ok(Self { fields: checked.collect::<Result<_, String>>()?, whole: false })
    }

    /// Every field of an answer, those that it does not have included.
    pub fn exactly(answer: &Answer) -> Self {
        let mut fields: BTreeMap<String, Value> = answer.fields().into_iter().collect();
        for field in FIELDS {
            fields.entry((*field).to_owned()).or_insert(Value::Null);
        }
        Self { fields, whole: true }
    }

    /// The fields in which an answer is another.
    pub fn differences(&self, answer: &Answer) -> Vec<Difference> {
        let got = answer.fields();
        let mut found = Vec::new();
        for (field, expected) in &self.fields {
            let got = got.get(field).cloned().unwrap_or(Value::Null);
            if is_redacted(expected) || is_redacted(&got) {
                continue;
            }
            match (expected, &got) {
                (Value::Object(parts), Value::Object(all))
                    if !self.whole && BY_NAME.contains(&field.as_str()) =>
                {
                    for (name, expected) in parts {
                        let got = all.get(name).cloned().unwrap_or(Value::Null);
                        if *expected != got {
                            let field = format!("{field}.{name}");
                            found.push(Difference { field, expected: expected.clone(), got });
                        }
                    }
                }
                (Value::Object(part), Value::String(whole)) if part.contains_key(CONTAINS) => {
                    let contained = part[CONTAINS].as_str().is_some_and(|text| whole.contains(text));
                    if !contained {
                        found.push(Difference { field: field.clone(), expected: expected.clone(), got });
                    }
                }
                (expected, got_now) if expected == got_now => {}
                _ => found.push(Difference { field: field.clone(), expected: expected.clone(), got }),
            }
        }
        found
    }
}

fn is_redacted(value: &Value) -> bool {
    value.as_object().is_some_and(|it| it.get("redacted") == Some(&Value::Bool(true)))
}

/// Every field of [`Answer`].
const FIELDS: &[&str] = &[
    "verdict",
    "device_id",
    "tenant",
    "tags",
    "identity_attributes",
    "on_conflict",
    "rules",
    "acl",
    "otherwise",
    "limits",
    "assigned_client_id",
    "valid_for",
    "reason",
    "client_message",
    "audit_detail",
    "server_reference",
    "cache",
    "attributes",
    "data",
    "state",
    "failure",
    "detail",
];

/// The one way in which a value is written, so that short and long forms are the same.
fn canonical(field: &str, value: Value) -> Result<Value, String> {
    if value.is_null() && field != "verdict" && FIELDS.contains(&field) {
        return Ok(value);
    }
    if IN_PART.contains(&field)
        && let Some(part) = value.as_object()
    {
        let is_part = part.len() == 1 && part.get(CONTAINS).is_some_and(Value::is_string);
        return is_part
            .then(|| value.clone())
            .ok_or_else(|| format!("expect.{field}: write a text, or {{ \"contains\": \"text\" }}"));
    }
    let mut one = Map::new();
    one.insert(field.to_owned(), value);
    let answer: Answer = serde_json::from_value(Value::Object(one)).map_err(|error| {
        let known = if FIELDS.contains(&field) { "" } else { "; it is no field of an answer" };
        format!("expect.{field}: {error}{known}")
    })?;
    Ok(answer.fields().remove(field).unwrap_or(Value::Null))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::case::answer::Verdict;
    use crate::case::value::Bytes;

    fn allow() -> Answer {
        serde_json::from_value(json!({
            "verdict": "allow",
            "rules": ["allow publish a/#", "deny subscribe,publish b"],
            "otherwise": "deny",
            "limits": { "maximum_qos": 1, "keep_alive": 60 },
            "attributes": { "policy.rule": "meters", "n": 7 },
        }))
        .expect("an answer")
    }

    fn differing(expected: Value) -> Vec<String> {
        let expected = Expectation::parse(expected).expect("an expectation");
        expected.differences(&allow()).into_iter().map(|difference| difference.field).collect()
    }

    #[test]
    fn only_what_is_written_is_compared() {
        let nothing: Vec<String> = Vec::new();
        assert_eq!(differing(json!("allow")), nothing);
        assert_eq!(differing(json!("deny")), ["verdict"]);
        assert_eq!(differing(json!({ "limits": { "keep_alive": 60 } })), nothing);
        assert_eq!(
            differing(json!({ "limits": { "keep_alive": 61, "subscriptions": 1 } })),
            ["limits.keep_alive", "limits.subscriptions"]
        );
        assert_eq!(differing(json!({ "attributes": { "n": 8 } })), ["attributes.n"]);
        assert_eq!(differing(json!({ "valid_for": null, "reason": null })), nothing);
        assert_eq!(differing(json!({ "otherwise": null })), ["otherwise"]);
    }

    #[test]
    fn a_rule_is_the_same_in_short_and_at_length() {
        let long = json!([
            { "effect": "allow", "publish": true, "filter": "a/#", "qos": [2, 1, 0] },
            { "effect": "deny", "publish": true, "subscribe": true, "filter": "b", "retain": "any" },
        ]);
        assert_eq!(differing(json!({ "rules": long })), Vec::<String>::new());
        for other in [
            json!(["allow publish a/#"]),
            json!(["deny subscribe,publish b", "allow publish a/#"]),
            json!(["allow publish a/+", "deny publish,subscribe b"]),
            json!([{ "effect": "allow", "publish": true, "filter": "a/#", "qos": [0] }, "deny publish,subscribe b"]),
        ] {
            assert_eq!(differing(json!({ "rules": other })), ["rules"]);
        }
    }

    #[test]
    fn an_expectation_that_cannot_hold_is_refused() {
        for (bad, why) in [
            (json!(7), "write a verdict"),
            (json!("perhaps"), "expect.verdict: unknown variant `perhaps`"),
            (json!({ "verdict": null }), "expect.verdict"),
            (json!({ "divice_id": "x" }), "expect.divice_id"),
            (json!({ "reason": "because" }), "expect.reason"),
            (json!({ "rules": ["permit publish a"] }), "is not like"),
            (json!({ "detail": { "contain": "x" } }), "expect.detail"),
        ] {
            let error = Expectation::parse(bad.clone()).expect_err(&bad.to_string());
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_part_of_a_text_is_enough_where_it_is_asked_for() {
        let deny: Answer =
            serde_json::from_value(json!({ "verdict": "deny", "audit_detail": "no such meter" }))
                .expect("one");
        let differs = |detail: Value| {
            let expected = Expectation::parse(json!({ "audit_detail": detail })).expect("one");
            !expected.differences(&deny).is_empty()
        };
        assert!(!differs(json!("no such meter")) && differs(json!("no such")));
        assert!(!differs(json!({ "contains": "such" })) && differs(json!({ "contains": "gateway" })));
    }

    #[test]
    fn a_recorded_answer_is_compared_whole() {
        let recorded = Expectation::exactly(&allow());
        assert_eq!(recorded.differences(&allow()), []);
        let more = Answer { valid_for: Some(60), ..allow() };
        let found = recorded.differences(&more);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].field.as_str(), &found[0].expected), ("valid_for", &Value::Null));
        let mut more = allow();
        more.limits.as_mut().expect("limits").subscriptions = Some(7);
        assert_eq!(recorded.differences(&more).len(), 1, "a limit that it did not have");
        // No field is forgotten when one is added.
        let known = serde_json::to_string(&FIELDS).expect("JSON");
        let error = serde_json::from_value::<Answer>(json!({ "x": 1 })).expect_err("unknown").to_string();
        for field in error.split('`').skip(3).step_by(2) {
            assert!(known.contains(&format!("\"{field}\"")), "{field}");
        }
        assert_eq!(error.split('`').skip(3).step_by(2).count(), FIELDS.len());
    }

    #[test]
    fn what_was_left_out_is_not_compared() {
        let mut recorded = Answer {
            verdict: Verdict::Continue,
            data: Some(Bytes::Are(b"challenge".to_vec())),
            state: Some(Bytes::Are(b"state".to_vec())),
            ..Answer::default()
        };
        let now = recorded.clone();
        recorded.redact();
        assert!(!serde_json::to_string(&recorded).expect("JSON").contains("challenge"));
        assert_eq!(Expectation::exactly(&recorded).differences(&now), []);
        let other = Answer { data: None, verdict: Verdict::Deny, ..now };
        let fields: Vec<_> = Expectation::exactly(&recorded).differences(&other);
        assert_eq!(fields.len(), 1, "{fields:?}");
    }
}
