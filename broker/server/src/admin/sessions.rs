//! Sessions, their clients connected or not: list, show, delete.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde::Deserialize;

use super::{Actor, AdminParts, Page, Problem, note, page_size};
use crate::directory::ConnectionHandle;
use crate::inspect::{SessionFacts, SessionLine};
use crate::sessions::Name;

pub(super) fn routes() -> Router<AdminParts> {
    Router::new().route("/sessions", get(list)).route("/sessions/{client_id}", get(show).delete(remove))
}

/// Which of the devices that use a client id is meant.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceQuery {
    pub(super) device_id: Option<String>,
}

impl DeviceQuery {
    pub(super) fn picks(&self, handle: &ConnectionHandle, client_id: &str) -> bool {
        handle.client_id() == Some(client_id)
            && self.device_id.as_deref().is_none_or(|device| handle.device_id() == Some(device))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Of an earlier answer.
    after: Option<String>,
    limit: Option<usize>,
    client_id: Option<String>,
    device_id: Option<String>,
    connected: Option<bool>,
}

async fn list(
    State(parts): State<AdminParts>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<SessionLine>>, Problem> {
    let limit = page_size(query.limit);
    let after = query.after.as_deref().map(from_cursor).transpose()?;
    let wanted = |name: &Name, connected: bool| {
        query.client_id.as_deref().is_none_or(|client| &*name.client_id == client)
            && query.device_id.as_deref().is_none_or(|device| &*name.device_id == device)
            && query.connected.is_none_or(|wanted| wanted == connected)
    };
    let broker = &parts.broker;
    let mut items = broker.sessions.list(after.as_ref(), limit + 1, broker.now(), wanted);
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|last| to_cursor(&last.device_id, &last.client_id));
    Ok(Json(Page { items, next }))
}

/// Neither of the two holds a NUL: MQTT and the rules for device ids see to it.
fn to_cursor(device_id: &str, client_id: &str) -> String {
    hex::encode(format!("{device_id}\0{client_id}"))
}

fn from_cursor(text: &str) -> Result<Name, Problem> {
    let pair = hex::decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = pair.as_deref().and_then(|pair| pair.split_once('\0'));
    let (device_id, client_id) = pair.ok_or_else(bad_cursor)?;
    Ok(Name { device_id: device_id.into(), client_id: client_id.into() })
}

pub(super) fn bad_cursor() -> Problem {
    Problem::bad_request("bad_cursor", "`after` is not a `next` of an earlier answer; begin without it")
}

/// The session that a client id means: of the device that is named, or of the only one that uses it.
pub(super) fn resolve(parts: &AdminParts, client_id: &str, device_id: Option<&str>) -> Result<Name, Problem> {
    let mut names = parts.broker.sessions.of_client(client_id);
    names.retain(|name| device_id.is_none_or(|device| &*name.device_id == device));
    match names.as_slice() {
        [] => Err(no_session()),
        [_] => Ok(names.remove(0)),
        several => Err(ambiguous(several.iter().map(|name| &*name.device_id))),
    }
}

pub(super) fn no_session() -> Problem {
    let detail = "no client with this id has a session; `mqgate sessions list` shows who has";
    Problem::new(StatusCode::NOT_FOUND, "no_session", detail)
}

pub(super) fn ambiguous<'a>(devices: impl Iterator<Item = &'a str>) -> Problem {
    let devices: Vec<&str> = devices.take(10).collect();
    let detail = format!(
        "several devices use this client id ({}); name one with `device_id` (`--device`)",
        devices.join(", ")
    );
    Problem::new(StatusCode::CONFLICT, "ambiguous_client_id", detail).with("devices", devices)
}

async fn show(
    State(parts): State<AdminParts>,
    Path(client_id): Path<String>,
    Query(query): Query<DeviceQuery>,
) -> Result<Json<SessionFacts>, Problem> {
    let name = resolve(&parts, &client_id, query.device_id.as_deref())?;
    parts.broker.session(&name).await.map(Json).ok_or_else(no_session)
}

async fn remove(
    State(parts): State<AdminParts>,
    Extension(actor): Extension<Actor>,
    Path(client_id): Path<String>,
    Query(query): Query<DeviceQuery>,
) -> Result<Json<serde_json::Value>, Problem> {
    let name = resolve(&parts, &client_id, query.device_id.as_deref())?;
    let about = [("client_id", client_id.as_str()), ("device_id", &name.device_id)];
    note(&parts.audit, &actor, "session.delete", &about)?;
    match parts.broker.end_session(&name).await {
        true => Ok(Json(serde_json::json!({ "client_id": client_id, "device_id": &*name.device_id }))),
        false => Err(no_session()),
    }
}
