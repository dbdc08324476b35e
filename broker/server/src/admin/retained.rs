//! Retained messages: list by filter, read, delete.

use axum::Json;
use axum::extract::{Query, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mqgate_protocol::message::Message;
use mqgate_protocol::time::Instant;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::{Api, Change, Cursor, Doc, Impact, Limit, Outcome};
use super::subscriptions::{topic_filter, topic_name};
use super::{AdminParts, Code, Page, Problem, Scope, note};

const LIST: &str = "retained";

pub(super) fn routes() -> Api<AdminParts> {
    Api::new("Messages")
        .route(
            Doc::get("/retained", "retained.list", Scope::MessagesRead, "Lists retained messages.")
                .problems(&[Code::BadFilter]),
            list,
        )
        .route(
            Doc::get("/retained/message", "retained.show", Scope::MessagesRead, "One retained message.")
                .problems(&[Code::BadTopic, Code::BadFilter, Code::NoRetainedMessage]),
            show,
        )
        .route(
            Doc::delete(
                "/retained",
                "retained.delete",
                Scope::MessagesWrite,
                "Deletes what a filter matches.",
            )
            .problems(&[Code::BadFilter, Code::NoRetainedMessage]),
            remove,
        )
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RetainedLine")]
struct Line {
    topic: String,
    qos: u8,
    payload_bytes: usize,
    expires_in_seconds: Option<u32>,
}

impl Line {
    fn of(message: &Message, now: Instant) -> Self {
        Self {
            topic: message.topic.as_str().to_owned(),
            qos: message.qos as u8,
            payload_bytes: message.payload.len(),
            expires_in_seconds: message.expiry_left(now),
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// A Topic Filter; without it, everything but topics that begin with `$`.
    filter: Option<String>,
    after: Option<Cursor>,
    limit: Option<Limit>,
}

async fn list(
    State(parts): State<AdminParts>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Line>>, Problem> {
    let limit = Limit::or_default(query.limit);
    let filter = topic_filter(query.filter.as_deref().unwrap_or("#"))?;
    let after: Option<String> = query.after.map(|after| after.read(LIST)).transpose()?;
    let now = parts.broker.now();
    let mut found = parts.broker.router.retained_matching(&filter, now);
    found.retain(|message| after.as_deref().is_none_or(|after| message.topic.as_str() > after));
    found.sort_unstable_by(|a, b| a.topic.cmp(&b.topic));
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| Cursor::of(LIST, &last.topic.as_str()));
    Ok(Json(Page { items: found.iter().map(|message| Line::of(message, now)).collect(), next }))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ShowQuery {
    topic: String,
}

/// With its payload: as text where it is UTF-8, in any case as base64.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RetainedMessage")]
struct Shown {
    #[serde(flatten)]
    line: Line,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    payload_base64: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_topic: Option<String>,
    /// Name and value of each.
    #[schemars(with = "Vec<[String; 2]>")]
    user_properties: Vec<(String, String)>,
}

async fn show(
    State(parts): State<AdminParts>,
    Query(query): Query<ShowQuery>,
) -> Result<Json<Shown>, Problem> {
    let topic = topic_name(&query.topic)?;
    let now = parts.broker.now();
    let filter = topic_filter(topic.as_str())?;
    let found = parts.broker.router.retained_matching(&filter, now);
    let message = found.first().ok_or_else(none)?;
    let properties = message.properties.as_deref();
    Ok(Json(Shown {
        line: Line::of(message, now),
        payload: std::str::from_utf8(&message.payload).ok().map(str::to_owned),
        payload_base64: STANDARD.encode(&message.payload),
        content_type: properties.and_then(|all| all.content_type.as_ref()).map(ToString::to_string),
        response_topic: properties
            .and_then(|all| all.response_topic.as_ref())
            .map(|topic| topic.as_str().to_owned()),
        user_properties: properties
            .map(|all| &all.user_properties)
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
    }))
}

fn none() -> Problem {
    let detail = "there is no retained message there; `mqgate retained list` shows those there are";
    Problem::new(Code::NoRetainedMessage, detail)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RemoveQuery {
    /// A Topic Filter.
    filter: String,
}

/// Topics that a deletion names; the others are counted.
const NAMED: usize = 20;

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeletedMessages")]
struct Deleted {
    /// How many.
    deleted: usize,
}

async fn remove(
    State(parts): State<AdminParts>,
    change: Change,
    Query(query): Query<RemoveQuery>,
) -> Result<Outcome<Json<Deleted>>, Problem> {
    let filter = topic_filter(&query.filter)?;
    let found = parts.broker.router.retained_matching(&filter, parts.broker.now());
    if found.is_empty() {
        return Err(none());
    }
    let topics: Vec<&str> = found.iter().take(NAMED).map(|message| message.topic.as_str()).collect();
    let impact = Impact::of("retained.delete", &*query.filter).before(&topics)?;
    let impact = impact.affects("messages", found.len());
    if change.dry_run {
        return Ok(impact.into());
    }
    let count = found.len().to_string();
    note(&parts.audit, &change.actor, &impact, &[("filter", &query.filter), ("count", &count)]).await?;
    let removed = parts.broker.router.forget_retained(found.iter().map(|message| &message.topic));
    Ok(Outcome::Done(Json(Deleted { deleted: removed })))
}
