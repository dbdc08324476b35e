//! Who is connected, and sending somebody away.

use axum::Json;
use axum::extract::{Path, Query, State};
use mqgate_codec::ReasonCode;
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixMillis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::{Api, Change, Cursor, Doc, Impact, Limit, Outcome};
use super::sessions::{DeviceQuery, ambiguous};
use super::{AdminParts, Code, Page, Problem, Scope, note};
use crate::directory::ConnectionHandle;
use crate::inspect::SessionFacts;
use crate::network::Network;
use crate::sessions::Name;

const LIST: &str = "clients";

pub(super) fn routes() -> Api<AdminParts> {
    Api::new("Clients")
        .route(Doc::get("/clients", "client.list", Scope::ClientsRead, "Lists who is connected."), list)
        .route(
            Doc::get("/clients/{client_id}", "client.show", Scope::ClientsRead, "A client and its session.")
                .problems(&[Code::NotConnected, Code::AmbiguousClientId]),
            show,
        )
        .route(
            Doc::post(
                "/clients/{client_id}/kick",
                "client.kick",
                Scope::ClientsKick,
                "Disconnects a client.",
            )
            .problems(&[Code::NotConnected]),
            kick,
        )
}

/// A connection.
#[derive(Serialize, JsonSchema)]
pub(super) struct Client {
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
    queued_messages: usize,
    queued_bytes: usize,
    /// Only where one client is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<SessionFacts>,
}

impl From<&ConnectionHandle> for Client {
    fn from(handle: &ConnectionHandle) -> Self {
        let tenant = handle.admitted().and_then(|admitted| admitted.tenant.as_deref());
        let (queued_messages, queued_bytes) = handle.mailbox().map_or((0, 0), |mailbox| mailbox.waiting());
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
            queued_messages,
            queued_bytes,
            session: None,
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    after: Option<Cursor>,
    limit: Option<Limit>,
    client_id: Option<String>,
    device_id: Option<String>,
    listener: Option<String>,
    /// An address or a network.
    address: Option<String>,
    fingerprint: Option<CertificateFingerprint>,
}

async fn list(
    State(parts): State<AdminParts>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Client>>, Problem> {
    let limit = Limit::or_default(query.limit);
    let after: Option<u64> = query.after.map(|after| after.read(LIST)).transpose()?;
    let network = query.address.as_deref().map(network).transpose();
    let network = network
        .map_err(|problem| Problem::new(Code::BadParameter, format!("`address`: {}", problem.detail)))?;
    let mut handles = parts.broker.connections().list();
    handles.retain(|handle| {
        after.is_none_or(|after| handle.connection_id > after)
            && query.client_id.as_deref().is_none_or(|client| handle.client_id() == Some(client))
            && query.device_id.as_deref().is_none_or(|device| handle.device_id() == Some(device))
            && query.listener.as_deref().is_none_or(|listener| &*handle.listener == listener)
            && network.is_none_or(|network| network.contains(handle.peer_address))
            && query.fingerprint.is_none_or(|wanted| handle.certificate_fingerprint == Some(wanted))
    });
    handles.sort_unstable_by_key(|handle| handle.connection_id);
    let more = handles.len() > limit;
    handles.truncate(limit);
    let next = handles.last().filter(|_| more).map(|last| Cursor::of(LIST, &last.connection_id));
    Ok(Json(Page { items: handles.iter().map(|handle| Client::from(&**handle)).collect(), next }))
}

pub(super) fn network(text: &str) -> Result<Network, Problem> {
    text.parse().map_err(|error| Problem::new(Code::BadAddress, format!("{text:?} {error}")))
}

async fn show(
    State(parts): State<AdminParts>,
    Path(client_id): Path<String>,
    Query(query): Query<DeviceQuery>,
) -> Result<Json<Client>, Problem> {
    let mut handles = parts.broker.connections().list();
    handles.retain(|handle| query.picks(handle, &client_id));
    let (handle, device_id) = match handles.as_slice() {
        [] => return Err(not_connected()),
        [handle] => (handle, handle.device_id().unwrap_or_default()),
        several => return Err(ambiguous(several.iter().filter_map(|handle| handle.device_id()))),
    };
    let mut client = Client::from(&**handle);
    let name = Name { device_id: device_id.into(), client_id: client_id.into() };
    client.session = parts.broker.session(&name).await;
    Ok(Json(client))
}

#[derive(Serialize, JsonSchema)]
struct Disconnected {
    /// Connections that were closed.
    disconnected: usize,
}

async fn kick(
    State(parts): State<AdminParts>,
    change: Change,
    Path(client_id): Path<String>,
    Query(query): Query<DeviceQuery>,
) -> Result<Outcome<Json<Disconnected>>, Problem> {
    let connections = parts.broker.connections();
    let mut handles = connections.list();
    handles.retain(|handle| query.picks(handle, &client_id));
    if handles.is_empty() {
        return Err(not_connected());
    }
    let before: Vec<Client> = handles.iter().map(|handle| Client::from(&**handle)).collect();
    let impact =
        Impact::of("client.kick", &*client_id).before(&before)?.affects("connections", handles.len());
    if change.dry_run {
        return Ok(impact.into());
    }
    note(&parts.audit, &change.actor, &impact, &[("client_id", &client_id)]).await?;
    let count = connections.disconnect_where(
        |handle| query.picks(handle, &client_id),
        ReasonCode::ADMINISTRATIVE_ACTION,
        Reason::AdminAction,
    );
    Ok(Outcome::Done(Json(Disconnected { disconnected: count })))
}

fn not_connected() -> Problem {
    let detail = "no client with this id is connected; `mqgate clients list` shows who is";
    Problem::new(Code::NotConnected, detail)
}
