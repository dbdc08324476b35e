//! Messages that wait to be published: list, take back.

use axum::Json;
use axum::extract::{Path, Query, State};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::{Api, Change, Cursor, Doc, Impact, Limit, Outcome};
use super::{AdminParts, Code, Page, Problem, Scope, note};
use crate::delayed::Waiting;

const LIST: &str = "delayed";

pub(super) fn routes() -> Api<AdminParts> {
    Api::new("Messages")
        .route(
            Doc::get(
                "/delayed",
                "delayed.list",
                Scope::MessagesRead,
                "Lists messages that wait to be published.",
            ),
            list,
        )
        .route(
            Doc::delete(
                "/delayed/{id}",
                "delayed.cancel",
                Scope::MessagesWrite,
                "Takes a waiting message back.",
            )
            .problems(&[Code::NoSuchMessage]),
            cancel,
        )
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DelayedMessage")]
struct Line {
    id: u64,
    topic: String,
    qos: u8,
    retain: bool,
    payload_bytes: usize,
    due_in_seconds: u64,
}

impl Line {
    fn of(waiting: &Waiting, parts: &AdminParts) -> Self {
        let message = &waiting.message;
        Self {
            id: waiting.id,
            topic: message.topic.as_str().to_owned(),
            qos: message.qos as u8,
            retain: message.retain,
            payload_bytes: message.payload.len(),
            due_in_seconds: waiting.due.since(parts.broker.now()).as_secs(),
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    after: Option<Cursor>,
    limit: Option<Limit>,
}

async fn list(
    State(parts): State<AdminParts>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Line>>, Problem> {
    let limit = Limit::or_default(query.limit);
    let after: u64 = query.after.map_or(Ok(0), |after| after.read(LIST))?;
    let mut found = parts.broker.extras.delayed.list(after, limit + 1);
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| Cursor::of(LIST, &last.id));
    Ok(Json(Page { items: found.iter().map(|waiting| Line::of(waiting, &parts)).collect(), next }))
}

async fn cancel(
    State(parts): State<AdminParts>,
    change: Change,
    Path(id): Path<u64>,
) -> Result<Outcome<Json<Line>>, Problem> {
    let none = || {
        let detail = "no message with this id waits; `mqgate message delayed` shows those that do";
        Problem::new(Code::NoSuchMessage, detail)
    };
    // Lists begin behind an id.
    let found = parts.broker.extras.delayed.list(id.saturating_sub(1), 1);
    let waiting = found.first().filter(|waiting| waiting.id == id).ok_or_else(none)?;
    let impact = Impact::of("delayed.cancel", id.to_string()).before(&Line::of(waiting, &parts))?;
    if change.dry_run {
        return Ok(impact.into());
    }
    note(&parts.audit, &change.actor, &impact, &[("id", &id.to_string())]).await?;
    let cancelled = parts.broker.cancel_delayed(id).ok_or_else(none)?;
    Ok(Outcome::Done(Json(Line::of(&cancelled, &parts))))
}
