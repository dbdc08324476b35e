//! Who takes messages slower than they come.

use axum::Json;
use axum::extract::{Query, State};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::{Api, Cursor, Doc, Limit};
use super::{AdminParts, Page, Problem, Scope};

const LIST: &str = "slow-subscribers";

pub(super) fn routes() -> Api<AdminParts> {
    Api::new("Clients").route(
        Doc::get(
            "/slow-subscribers",
            "client.slow",
            Scope::ClientsRead,
            "Who takes messages slower than they come, the slowest first.",
        ),
        list,
    )
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    after: Option<Cursor>,
    limit: Option<Limit>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SlowSubscriber")]
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
    let limit = Limit::or_default(query.limit);
    let first: usize = query.after.map_or(Ok(0), |after| after.read(LIST))?;
    let broker = &parts.broker;
    let now = broker.now();
    let all = broker.extras.slow.as_ref().map_or_else(Vec::new, |slow| slow.list(broker.connections(), now));
    let end = all.len().min(first.saturating_add(limit));
    let next = (end < all.len()).then(|| Cursor::of(LIST, &end));
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
