//! Who takes messages slower than they come.

use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::sessions::bad_cursor;
use super::{AdminParts, Page, Problem, page_size};

pub(super) fn routes() -> Router<AdminParts> {
    Router::new().route("/slow-subscribers", get(list))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Line {
    connection_id: u64,
    client_id: Option<String>,
    device_id: Option<String>,
    slow_for_seconds: u64,
    queued_messages: usize,
    queued_bytes: usize,
}

/// The slowest first; empty where nobody looks (`slow_subscribers.enable = false`).
async fn list(
    State(parts): State<AdminParts>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Line>>, Problem> {
    let limit = page_size(query.limit);
    let first: usize = query.after.as_deref().map_or(Ok(0), str::parse).map_err(|_| bad_cursor())?;
    let broker = &parts.broker;
    let now = broker.now();
    let all = broker.extras.slow.as_ref().map_or_else(Vec::new, |slow| slow.list(broker.connections(), now));
    let end = all.len().min(first.saturating_add(limit));
    let next = (end < all.len()).then(|| end.to_string());
    let items = all.into_iter().take(end).skip(first).map(|client| Line {
        connection_id: client.handle.connection_id,
        client_id: client.handle.client_id().map(str::to_owned),
        device_id: client.handle.device_id().map(str::to_owned),
        slow_for_seconds: now.since(client.since).as_secs(),
        queued_messages: client.messages,
        queued_bytes: client.bytes,
    });
    Ok(Json(Page { items: items.collect(), next }))
}
