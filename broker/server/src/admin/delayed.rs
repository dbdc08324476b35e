//! Messages that wait to be published: list, take back.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{delete, get};
use axum::{Extension, Json, Router};
use serde::{Deserialize, Serialize};

use super::{Actor, AdminParts, Page, Problem, note, page_size};
use crate::delayed::Waiting;

pub(super) fn routes() -> Router<AdminParts> {
    Router::new().route("/delayed", get(list)).route("/delayed/{id}", delete(cancel))
}

#[derive(Serialize)]
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    after: Option<u64>,
    limit: Option<usize>,
}

async fn list(State(parts): State<AdminParts>, Query(query): Query<ListQuery>) -> Json<Page<Line>> {
    let limit = page_size(query.limit);
    let mut found = parts.broker.extras.delayed.list(query.after.unwrap_or(0), limit + 1);
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| last.id.to_string());
    Json(Page { items: found.iter().map(|waiting| Line::of(waiting, &parts)).collect(), next })
}

async fn cancel(
    State(parts): State<AdminParts>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<u64>,
) -> Result<Json<Line>, Problem> {
    note(&parts.audit, &actor, "delayed.cancel", &[("id", &id.to_string())])?;
    let cancelled = parts.broker.cancel_delayed(id).ok_or_else(|| {
        let detail = "no message with this id waits; `mqgate message delayed` shows those that do";
        Problem::new(StatusCode::NOT_FOUND, "no_such_message", detail)
    })?;
    Ok(Json(Line::of(&cancelled, &parts)))
}
