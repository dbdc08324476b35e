//! Sessions, their clients connected or not: list, show, delete.

use axum::Json;
use axum::extract::{Path, Query, State};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::{Api, Change, Cursor, Doc, Impact, Limit, Outcome};
use super::{AdminParts, Code, Page, Problem, Scope, note};
use crate::directory::ConnectionHandle;
use crate::inspect::{SessionFacts, SessionLine};
use crate::sessions::Name;

const LIST: &str = "sessions";

pub(super) fn routes() -> Api<AdminParts> {
    Api::new("Sessions")
        .route(
            Doc::get(
                "/sessions",
                "session.list",
                Scope::SessionsRead,
                "Lists sessions, clients connected or not.",
            ),
            list,
        )
        .route(
            Doc::get("/sessions/{client_id}", "session.show", Scope::SessionsRead, "One session.")
                .problems(&[Code::NoSession, Code::AmbiguousClientId]),
            show,
        )
        .route(
            Doc::delete(
                "/sessions/{client_id}",
                "session.delete",
                Scope::SessionsWrite,
                "Disconnects the client, if it is there, and forgets its session.",
            )
            .problems(&[Code::NoSession, Code::AmbiguousClientId]),
            remove,
        )
}

/// Which of the devices that use a client id is meant.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceQuery {
    /// Needed where several devices use the client id.
    pub(super) device_id: Option<String>,
}

impl DeviceQuery {
    pub(super) fn picks(&self, handle: &ConnectionHandle, client_id: &str) -> bool {
        handle.client_id() == Some(client_id)
            && self.device_id.as_deref().is_none_or(|device| handle.device_id() == Some(device))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    after: Option<Cursor>,
    limit: Option<Limit>,
    client_id: Option<String>,
    device_id: Option<String>,
    connected: Option<bool>,
}

async fn list(
    State(parts): State<AdminParts>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<SessionLine>>, Problem> {
    let limit = Limit::or_default(query.limit);
    let after: Option<(String, String)> = query.after.map(|after| after.read(LIST)).transpose()?;
    let after = after.map(|(device, client)| Name { device_id: device.into(), client_id: client.into() });
    let wanted = |name: &Name, connected: bool| {
        query.client_id.as_deref().is_none_or(|client| &*name.client_id == client)
            && query.device_id.as_deref().is_none_or(|device| &*name.device_id == device)
            && query.connected.is_none_or(|wanted| wanted == connected)
    };
    let broker = &parts.broker;
    let mut items = broker.sessions.list(after.as_ref(), limit + 1, broker.now(), wanted);
    let more = items.len() > limit;
    items.truncate(limit);
    let next =
        items.last().filter(|_| more).map(|last| Cursor::of(LIST, &(&last.device_id, &last.client_id)));
    Ok(Json(Page { items, next }))
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
    Problem::new(Code::NoSession, detail)
}

pub(super) fn ambiguous<'a>(devices: impl Iterator<Item = &'a str>) -> Problem {
    let devices: Vec<&str> = devices.take(10).collect();
    let detail = format!(
        "several devices use this client id ({}); name one with `device_id` (`--device`)",
        devices.join(", ")
    );
    Problem::new(Code::AmbiguousClientId, detail).with("devices", devices)
}

async fn show(
    State(parts): State<AdminParts>,
    Path(client_id): Path<String>,
    Query(query): Query<DeviceQuery>,
) -> Result<Json<SessionFacts>, Problem> {
    let name = resolve(&parts, &client_id, query.device_id.as_deref())?;
    parts.broker.session(&name).await.map(Json).ok_or_else(no_session)
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeletedSession")]
struct Deleted {
    client_id: String,
    device_id: String,
}

async fn remove(
    State(parts): State<AdminParts>,
    change: Change,
    Path(client_id): Path<String>,
    Query(query): Query<DeviceQuery>,
) -> Result<Outcome<Json<Deleted>>, Problem> {
    let name = resolve(&parts, &client_id, query.device_id.as_deref())?;
    let session = parts.broker.session(&name).await.ok_or_else(no_session)?;
    let impact = Impact::of("session.delete", &*client_id).before(&session)?;
    let impact = impact.affects("connections", usize::from(session.connected));
    let impact = impact.affects("messages", session.queued_messages);
    if change.dry_run {
        return Ok(impact.into());
    }
    let about = [("client_id", client_id.as_str()), ("device_id", &name.device_id)];
    note(&parts.audit, &change.actor, &impact, &about).await?;
    match parts.broker.end_session(&name).await {
        true => Ok(Outcome::Done(Json(Deleted { client_id, device_id: name.device_id.to_string() }))),
        false => Err(no_session()),
    }
}
