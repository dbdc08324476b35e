//! What every change has in common: who asks for it, whether it is only tried, which revision it is meant for; and
//! what is answered to a try.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mqgate_identity::audit::AuditEvent;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::super::door::Actor;
use super::super::problem::{Code, Problem};
use super::super::scope::{Grants, Scope};
use super::describe::{Answers, Sketch, Takes};
use crate::audit::differing;

/// Put into the request by the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DryRun(pub(super) bool);

/// A change that is asked for.
#[derive(Debug, Clone)]
pub struct Change {
    pub actor: Actor,
    /// `?dry_run=true`: everything is checked, nothing is written.
    pub dry_run: bool,
}

impl<S: Sync> FromRequestParts<S> for Change {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let actor = parts.extensions.get::<Actor>().cloned();
        let dry_run = parts.extensions.get::<DryRun>().is_some_and(|dry_run| dry_run.0);
        // Without the door nobody knows who asks: then nothing is changed.
        let actor = actor.ok_or_else(|| Problem::new(Code::Internal, "a route without a door"))?;
        Ok(Self { actor, dry_run })
    }
}

impl Takes for Change {
    fn describe(sketch: &mut Sketch) {
        sketch.changes = true;
        sketch.query(
            "dry_run",
            false,
            json!({
                "type": "boolean",
                "default": false,
                "description": "Only try it: everything is checked, nothing is written.",
            }),
        );
    }
}

/// What the asker may do, for handlers that ask for more than their route's scope.
#[derive(Debug, Clone)]
pub struct Rights(pub(in crate::admin) Arc<Grants>);

impl Rights {
    pub fn has(&self, scope: Scope) -> bool {
        self.0.has(scope)
    }

    pub fn require(&self, scope: Scope) -> Result<(), Problem> {
        match self.has(scope) {
            true => Ok(()),
            false => Err(Problem::new(
                Code::ScopeMissing,
                format!("this needs the scope `{scope}`, which the token does not have"),
            )
            .with("scope", scope.as_str())),
        }
    }

    pub(in crate::admin) fn grants(&self) -> &Grants {
        &self.0
    }
}

impl<S: Sync> FromRequestParts<S> for Rights {
    type Rejection = Infallible;

    /// Whoever came through no door has none.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(|| Self(Arc::default())))
    }
}

impl Takes for Rights {
    fn describe(_: &mut Sketch) {}
}

/// The revisions that a change is meant for: `If-Match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IfMatch(Wanted);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    /// No header, or `*`.
    Any,
    OneOf(Vec<u64>),
}

impl IfMatch {
    /// Refuses where the resource has another revision by now.
    pub fn check(&self, revision: u64) -> Result<(), Problem> {
        match &self.0 {
            Wanted::Any => Ok(()),
            Wanted::OneOf(wanted) if wanted.contains(&revision) => Ok(()),
            Wanted::OneOf(_) => Err(Problem::new(
                Code::RevisionMismatch,
                format!("the revision is {revision} by now: read it again, and decide again"),
            )
            .with("revision", revision)),
        }
    }

    /// The one revision that it is meant for, to be checked where it is written.
    pub fn expected(&self) -> Option<u64> {
        match &self.0 {
            Wanted::OneOf(wanted) if wanted.len() == 1 => wanted.first().copied(),
            Wanted::Any | Wanted::OneOf(_) => None,
        }
    }

    /// A tag that no resource can have (another broker's, a weak one) matches nothing [RFC 9110, 13.1.1].
    fn parse(text: &str) -> Self {
        if text.trim() == "*" {
            return Self(Wanted::Any);
        }
        let tags = text.split(',').map(str::trim);
        let numbers = tags.filter_map(|tag| tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok());
        Self(Wanted::OneOf(numbers.collect()))
    }
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut lines = Vec::new();
        for line in parts.headers.get_all(header::IF_MATCH) {
            let text = line.to_str();
            lines.push(text.map_err(|_| Problem::new(Code::BadHeader, "`If-Match` is no text"))?);
        }
        Ok(if lines.is_empty() { Self(Wanted::Any) } else { Self::parse(&lines.join(",")) })
    }
}

impl Takes for IfMatch {
    fn describe(sketch: &mut Sketch) {
        sketch.checks_revision = true;
        sketch.header(
            "If-Match",
            "The `ETag` of the revision that the change is meant for; refused when there is another by now.",
            json!({ "type": "string" }),
        );
    }
}

/// An answer with the revision of what it shows, as `ETag`.
#[derive(Debug, Clone)]
pub struct Tagged<T> {
    revision: u64,
    body: T,
}

impl<T> Tagged<T> {
    pub fn new(revision: u64, body: T) -> Self {
        Self { revision, body }
    }
}

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.body).into_response();
        if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", self.revision)) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        response
    }
}

impl<T: JsonSchema> Answers for Tagged<T> {
    fn describe(sketch: &mut Sketch) {
        sketch.tagged = true;
        sketch.answer = Some(sketch.output_of::<T>());
    }
}

/// What a change would do.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Impact {
    /// Always true: nothing was written.
    dry_run: bool,
    /// The operation.
    action: &'static str,
    /// What it is about.
    target: String,
    /// As it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Value>,
    /// As it would be.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Value>,
    /// How many of what else it concerns, such as connections that would be closed.
    affects: BTreeMap<&'static str, u64>,
    /// What to think of before doing it.
    warnings: Vec<String>,
}

impl Impact {
    pub fn of(action: &'static str, target: impl Into<String>) -> Self {
        Self {
            dry_run: true,
            action,
            target: target.into(),
            before: None,
            after: None,
            affects: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }

    pub fn before(mut self, what: &impl Serialize) -> Result<Self, Problem> {
        self.before = Some(value(what)?);
        Ok(self)
    }

    pub fn after(mut self, what: &impl Serialize) -> Result<Self, Problem> {
        self.after = Some(value(what)?);
        Ok(self)
    }

    #[must_use]
    pub fn affects(mut self, what: &'static str, count: usize) -> Self {
        self.affects.insert(what, count as u64);
        self
    }

    /// The record of the change: what a try would have said of it.
    pub(in crate::admin) fn written_down(&self, event: AuditEvent) -> AuditEvent {
        let event = event.field("action", self.action);
        differing(event, self.before.clone(), self.after.clone())
    }

    #[must_use]
    pub fn warn(mut self, warning: impl Into<String>) -> Self {
        self.warnings.push(warning.into());
        self
    }
}

fn value(what: &impl Serialize) -> Result<Value, Problem> {
    serde_json::to_value(what).map_err(|error| Problem::new(Code::Internal, error.to_string()))
}

/// A change that was made, or one that was tried.
#[derive(Debug, Clone)]
pub enum Outcome<T> {
    Done(T),
    Tried(Box<Impact>),
}

impl<T> From<Impact> for Outcome<T> {
    fn from(impact: Impact) -> Self {
        Self::Tried(Box::new(impact))
    }
}

impl<T: IntoResponse> IntoResponse for Outcome<T> {
    fn into_response(self) -> Response {
        match self {
            Self::Done(done) => done.into_response(),
            Self::Tried(impact) => (StatusCode::OK, Json(impact)).into_response(),
        }
    }
}

impl<T: Answers> Answers for Outcome<T> {
    fn describe(sketch: &mut Sketch) {
        T::describe(sketch);
        sketch.impact = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_for_the_revisions_it_names() {
        for (text, matching, expected) in [
            ("*", &[0, 7, 8][..], None),
            ("\"7\"", &[7], Some(7)),
            ("\"7\", \"8\"", &[7, 8], None),
            ("W/\"7\"", &[], None),
            ("7", &[], None),
            ("\"x\"", &[], None),
            ("", &[], None),
        ] {
            let parsed = IfMatch::parse(text);
            let found: Vec<u64> = [0, 7, 8].into_iter().filter(|one| parsed.check(*one).is_ok()).collect();
            assert_eq!((found.as_slice(), parsed.expected()), (matching, expected), "{text}");
        }
        assert_eq!(IfMatch::parse("\"7\"").check(8).unwrap_err().code, Code::RevisionMismatch);
    }
}
