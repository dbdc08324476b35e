//! What a change has changed, for its record: the members that differ, as JSON in the fields `before` and `after`.

use mqgate_identity::audit::AuditEvent;
use serde::Serialize;
use serde_json::Value;

/// Members that say nothing about a change: they are long, or change with every one.
const LEFT_OUT: [&str; 3] = ["pem", "updated_at", "last_seen"];

/// As it was before, and as it is after; `None` where there was, or is, nothing.
pub(crate) fn before_and_after(
    event: AuditEvent,
    before: Option<&impl Serialize>,
    after: Option<&impl Serialize>,
) -> AuditEvent {
    // What is written down is plain data: it has a JSON form.
    let (before, after) = (before.and_then(json), after.and_then(json));
    differing(event, before, after)
}

fn json(what: &impl Serialize) -> Option<Value> {
    serde_json::to_value(what).ok()
}

/// The same, of what is JSON already.
pub(crate) fn differing(event: AuditEvent, before: Option<Value>, after: Option<Value>) -> AuditEvent {
    let (mut before, mut after) = (before, after);
    if let (Some(Value::Object(old)), Some(Value::Object(new))) = (&mut before, &mut after) {
        old.retain(|name, value| new.get(name) != Some(value) || new.remove(name).is_none());
    }
    for side in [&mut before, &mut after] {
        if let Some(Value::Object(members)) = side {
            members.retain(|name, value| !LEFT_OUT.contains(&&**name) && !value.is_null());
        }
    }
    let says =
        |side: &Option<Value>| side.as_ref().is_some_and(|side| *side != Value::Object(Default::default()));
    if !says(&before) && !says(&after) {
        return event;
    }
    let sides = [("before", before), ("after", after)];
    sides.into_iter().fold(event, |event, (name, side)| match side {
        Some(side) => event.field(name, side.to_string()),
        None => event,
    })
}

#[cfg(test)]
mod tests {
    use mqgate_identity::audit::{Outcome, names};
    use mqgate_identity::hooks::Value as Field;
    use mqgate_identity::reason::Reason;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_the_same_before_and_after_is_left_out() {
        for (before, after, expected) in [
            (Some(json!({ "a": 1, "b": 2 })), Some(json!({ "a": 1, "b": 3 })), (r#"{"b":2}"#, r#"{"b":3}"#)),
            (Some(json!({ "a": 1 })), Some(json!({ "a": 1, "c": 3 })), ("{}", r#"{"c":3}"#)),
            (Some(json!({ "a": 1, "c": null })), Some(json!({ "c": 3 })), (r#"{"a":1}"#, r#"{"c":3}"#)),
            (None, Some(json!({ "a": 1, "pem": "long" })), ("", r#"{"a":1}"#)),
            (Some(json!({ "a": 1 })), None, (r#"{"a":1}"#, "")),
            (Some(json!({ "a": 1, "updated_at": 1 })), Some(json!({ "a": 1, "updated_at": 2 })), ("", "")),
            (Some(json!("x")), Some(json!("y")), (r#""x""#, r#""y""#)),
            (None, None, ("", "")),
        ] {
            let event = AuditEvent::new(names::ADMIN_ACTION, Outcome::Success, Reason::AdminAction);
            let event = differing(event, before.clone(), after.clone());
            let field = |name: &str| match event.fields.iter().find(|field| field.name == name) {
                Some(field) => match &field.value {
                    Field::Text(text) => text.clone(),
                    other => panic!("{other:?}"),
                },
                None => String::new(),
            };
            assert_eq!((&*field("before"), &*field("after")), expected, "{before:?} {after:?}");
        }
    }
}
