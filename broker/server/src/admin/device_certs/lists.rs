//! Certificates seen from elsewhere: devices, those that wait for an operator, and what is left of those deleted.

use axum::Json;
use axum::extract::{Path, Query, State};
use mqgate_identity::registry::{DeviceCertificate, DeviceState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::api::{Api, Cursor, Doc, Limit, Outcome, Tagged};
use super::super::{AdminParts, Code, Page, Problem, Scope};
use super::filter::Filter;
use super::verbs::{One, settled};
use super::{Shown, page, verbs};
use crate::directory::Mark;
use crate::registry::RegistryError;

const TOMBSTONES: &str = "tombstones";
const DEVICES: &str = "devices";
const PENDING: &str = "provisioning-pending";

pub(super) fn routes() -> Api<AdminParts> {
    let read = Scope::CertsRead;
    let list = &[Code::BadCursor, Code::RegistryUnavailable];
    Api::new("Device certificates")
        .route(
            Doc::get("/tombstones", "tombstone.list", read, "What was deleted and is remembered.")
                .problems(list),
            tombstones,
        )
        .route(
            Doc::delete(
                "/tombstones/{id}",
                "tombstone.purge",
                Scope::CertsWrite,
                "Forgets a tombstone: its certificate may be registered again.",
            )
            .problems(verbs::PROBLEMS),
            purge,
        )
        .route(
            Doc::get("/devices", "device-identity.list", read, "Lists devices with their certificates.")
                .problems(list),
            devices,
        )
        .route(
            Doc::get(
                "/devices/{device_id}",
                "device-identity.show",
                read,
                "One device with its certificates.",
            )
            .problems(&[Code::NotFound, Code::RegistryUnavailable]),
            device,
        )
        .route(
            Doc::get(
                "/provisioning/pending",
                "provisioning.pending",
                read,
                "Certificates that wait for an operator.",
            )
            .problems(list),
            pending,
        )
        .route(
            Doc::post(
                "/provisioning/pending/{id}/approve",
                "provisioning.approve",
                Scope::CertsWrite,
                "Lets a certificate in that waits.",
            )
            .problems(verbs::PROBLEMS),
            approve,
        )
        .route(
            Doc::post(
                "/provisioning/pending/{id}/reject",
                "provisioning.reject",
                Scope::CertsWrite,
                "Says no to a certificate that waits.",
            )
            .problems(verbs::PROBLEMS),
            reject,
        )
}

#[derive(Deserialize, JsonSchema)]
struct PageQuery {
    after: Option<Cursor>,
    limit: Option<Limit>,
}

async fn of_state(
    parts: &AdminParts,
    list: &str,
    state: DeviceState,
    query: PageQuery,
) -> Result<Json<Page<Shown>>, Problem> {
    let filter = Filter { state: Some(state.as_str().to_uppercase()), ..Filter::default() };
    let limit = Limit::or_default(query.limit);
    page(parts, list, &filter, query.after.as_ref(), limit).await.map(Json)
}

async fn tombstones(
    State(parts): State<AdminParts>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Shown>>, Problem> {
    of_state(&parts, TOMBSTONES, DeviceState::Tombstone, query).await
}

async fn purge(one: One) -> Result<Outcome<Tagged<Shown>>, Problem> {
    let purged = one.parts.registry.purge(one.of, one.ask()).await;
    settled(&one, "tombstone.purge", purged)
}

async fn pending(
    State(parts): State<AdminParts>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Shown>>, Problem> {
    of_state(&parts, PENDING, DeviceState::PendingActivation, query).await
}

/// Only what waits is approved: what was deactivated is somebody else's decision.
async fn approve(one: One) -> Result<Outcome<Tagged<Shown>>, Problem> {
    let record = one.parts.registry.device(one.of).await?.ok_or(RegistryError::NotFound)?;
    match record.state {
        DeviceState::PendingActivation | DeviceState::Active => {}
        DeviceState::Inactive => {
            let detail =
                "the certificate does not wait: it was deactivated; `mqgate cert activate` lets it in";
            return Err(Problem::new(Code::CertNotPending, detail));
        }
        DeviceState::Revoked => {
            let detail = "the certificate is revoked, which is final: issue a new certificate for the device";
            return Err(Problem::new(Code::CertRevoked, detail));
        }
        DeviceState::Tombstone => {
            let detail = "the certificate was deleted: register it again with the wish to restore it";
            return Err(Problem::new(Code::CertTombstoned, detail));
        }
    }
    let approved = one.parts.registry.activate(one.of, one.ask()).await;
    settled(&one, "provisioning.approve", approved)
}

async fn reject(one: One) -> Result<Outcome<Tagged<Shown>>, Problem> {
    let rejected = one.parts.registry.reject(one.of, one.ask()).await;
    settled(&one, "provisioning.reject", rejected)
}

/// A device, seen through its certificates.
#[derive(Serialize, JsonSchema)]
struct Device {
    device_id: String,
    /// That of the certificate that counts most: active before pending before inactive before revoked.
    #[schemars(with = "String")]
    state: DeviceState,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    /// The latest of its certificates, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<u64>,
    /// Connections with its certificates.
    connections: usize,
    /// That which counts most first. In one trust domain or in several.
    certificates: Vec<Shown>,
}

const fn rank(state: DeviceState) -> u8 {
    match state {
        DeviceState::Active => 0,
        DeviceState::PendingActivation => 1,
        DeviceState::Inactive => 2,
        DeviceState::Revoked => 3,
        DeviceState::Tombstone => 4,
    }
}

/// `None`: nothing of it is left but tombstones.
async fn compose(parts: &AdminParts, device_id: String) -> Result<Option<Device>, Problem> {
    let mut records = parts.registry.certificates_of(device_id).await?;
    records.retain(|record| record.state != DeviceState::Tombstone);
    records.sort_by_key(|record| (rank(record.state), std::cmp::Reverse(record.registered_at)));
    let Some(first) = records.first() else { return Ok(None) };
    let connections =
        |record: &DeviceCertificate| parts.broker.connections().find(Mark::Certificate(record.id)).len();
    Ok(Some(Device {
        device_id: first.device_id.clone(),
        state: first.state,
        tenant: first.tenant.clone(),
        client_id: first.client_id.clone(),
        last_seen: records.iter().filter_map(|record| record.last_seen).max().map(|at| at.0),
        connections: records.iter().map(connections).sum(),
        certificates: records.into_iter().map(|record| Shown::of(record, parts)).collect(),
    }))
}

async fn devices(
    State(parts): State<AdminParts>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Device>>, Problem> {
    let limit = Limit::or_default(query.limit);
    let after: Option<String> = query.after.map(|after| after.read(DEVICES)).transpose()?;
    let ids = parts.registry.device_ids(after, limit).await?;
    let next = ids.last().filter(|_| ids.len() == limit).map(|last| Cursor::of(DEVICES, last));
    let mut items = Vec::new();
    for id in ids {
        items.extend(compose(&parts, id).await?);
    }
    Ok(Json(Page { items, next }))
}

async fn device(
    State(parts): State<AdminParts>,
    Path(device_id): Path<String>,
) -> Result<Json<Device>, Problem> {
    let found = compose(&parts, device_id).await?;
    found.map(Json).ok_or_else(|| {
        let detail = "there is no device of this id; `mqgate cert devices` lists those there are";
        Problem::new(Code::NotFound, detail)
    })
}
