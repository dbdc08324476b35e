//! Who is connected, and sending somebody away.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use mqgate_codec::ReasonCode;
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixMillis;
use serde::{Deserialize, Serialize};

use super::{Actor, AdminParts, Page, Problem, page_size, shortened};
use crate::directory::ConnectionHandle;

pub(super) fn routes() -> Router<AdminParts> {
    Router::new()
        .route("/clients", get(list))
        .route("/clients/{client_id}", get(show))
        .route("/clients/{client_id}/kick", post(kick))
}

#[derive(Serialize)]
struct Client {
    connection_id: u64,
    client_id: Option<String>,
    device_id: Option<String>,
    tenant: Option<String>,
    listener: String,
    peer_address: String,
    fingerprint: Option<CertificateFingerprint>,
    connected_at: UnixMillis,
    /// Of the hook set that gave its permit.
    generation: u64,
}

impl From<&ConnectionHandle> for Client {
    fn from(handle: &ConnectionHandle) -> Self {
        let tenant = handle.admitted().and_then(|admitted| admitted.tenant.as_deref());
        Self {
            connection_id: handle.connection_id,
            client_id: handle.client_id().map(str::to_owned),
            device_id: handle.device_id().map(str::to_owned),
            tenant: tenant.map(str::to_owned),
            listener: handle.listener.to_string(),
            peer_address: handle.peer_address.to_string(),
            fingerprint: handle.certificate_fingerprint,
            connected_at: handle.accepted_at,
            generation: handle.generation(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    after: Option<u64>,
    limit: Option<usize>,
    device_id: Option<String>,
    listener: Option<String>,
    fingerprint: Option<CertificateFingerprint>,
}

async fn list(
    State(parts): State<AdminParts>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Client>>, Problem> {
    let limit = page_size(query.limit);
    let mut handles = parts.broker.connections().list();
    handles.retain(|handle| {
        query.after.is_none_or(|after| handle.connection_id > after)
            && query.device_id.as_deref().is_none_or(|device| handle.device_id() == Some(device))
            && query.listener.as_deref().is_none_or(|listener| &*handle.listener == listener)
            && query.fingerprint.is_none_or(|wanted| handle.certificate_fingerprint == Some(wanted))
    });
    handles.sort_unstable_by_key(|handle| handle.connection_id);
    let more = handles.len() > limit;
    handles.truncate(limit);
    let next = handles.last().filter(|_| more).map(|last| last.connection_id.to_string());
    Ok(Json(Page { items: handles.iter().map(|handle| Client::from(&**handle)).collect(), next }))
}

async fn show(
    State(parts): State<AdminParts>,
    Path(client_id): Path<String>,
) -> Result<Json<Client>, Problem> {
    let handles = parts.broker.connections().list();
    let handle = handles.iter().find(|handle| handle.client_id() == Some(client_id.as_str()));
    handle.map(|handle| Json(Client::from(&**handle))).ok_or_else(not_connected)
}

async fn kick(
    State(parts): State<AdminParts>,
    Extension(actor): Extension<Actor>,
    Path(client_id): Path<String>,
) -> Result<Json<serde_json::Value>, Problem> {
    parts.audit.check().map_err(|refused| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable", refused.to_string())
    })?;
    let count = parts.broker.connections().disconnect_where(
        |handle| handle.client_id() == Some(client_id.as_str()),
        ReasonCode::ADMINISTRATIVE_ACTION,
        Reason::AdminAction,
    );
    if count == 0 {
        return Err(not_connected());
    }
    let mut event = AuditEvent::new(names::ADMIN_ACTION, Outcome::Success, Reason::AdminAction)
        .actor(&*actor.0)
        .field("action", "client.kick");
    event.client_id = Some(shortened(&client_id));
    parts.audit.record(event);
    Ok(Json(serde_json::json!({ "disconnected": count })))
}

fn not_connected() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_connected", "no client with this id is connected")
}
