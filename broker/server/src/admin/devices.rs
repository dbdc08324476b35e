//! Device certificates: list, register, activate, deactivate, revoke, delete.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::rules::{Force, OnTombstone, RevocationReason};
use mqgate_identity::registry::{DeviceCertificate, DeviceState, RegistrationSource};
use serde::{Deserialize, Serialize};

use super::{Actor, AdminParts, Page, Problem, page_size};
use crate::registry::{ManualRegistration, RegistryError};

/// Records looked at for one page of a filtered list; the rest is behind `next`.
const MOST_SCANNED: usize = 50_000;

pub(super) fn routes() -> Router<AdminParts> {
    Router::new()
        .route("/device-certs", get(list).post(register))
        .route("/device-certs/{id}", get(show).delete(remove))
        .route("/device-certs/{id}/{verb}", post(change))
}

/// A record, and what it comes to today.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    record: DeviceCertificate,
    /// `ok`, or the reason why it may not connect.
    effective: &'static str,
}

impl Shown {
    fn of(record: DeviceCertificate, parts: &AdminParts) -> Self {
        let verdict = parts.registry.effective(&record);
        Self { record, effective: verdict.err().map_or("ok", |reason| reason.as_str()) }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    after: Option<CertificateFingerprint>,
    limit: Option<usize>,
    state: Option<DeviceState>,
    device_id: Option<String>,
    ca: Option<CertificateFingerprint>,
}

async fn list(
    State(parts): State<AdminParts>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Shown>>, Problem> {
    let limit = page_size(query.limit);
    let wanted = |record: &DeviceCertificate| {
        query.state.map_or(record.state != DeviceState::Tombstone, |state| record.state == state)
            && query.device_id.as_deref().is_none_or(|device| record.device_id == device)
            && query.ca.is_none_or(|ca| record.ca_id == ca)
    };
    let mut items = Vec::new();
    let mut after = query.after;
    let mut scanned = 0;
    loop {
        let records = parts.registry.devices(after, super::LARGEST_PAGE).await?;
        let last_of_all = records.len() < super::LARGEST_PAGE;
        scanned += records.len();
        for record in records {
            if items.len() == limit {
                return Ok(Json(Page { items, next: after.map(CertificateFingerprint::to_hex) }));
            }
            after = Some(record.id);
            if wanted(&record) {
                items.push(Shown::of(record, &parts));
            }
        }
        if last_of_all {
            return Ok(Json(Page { items, next: None }));
        }
        if scanned >= MOST_SCANNED {
            return Ok(Json(Page { items, next: after.map(CertificateFingerprint::to_hex) }));
        }
    }
}

fn fingerprint(text: &str) -> Result<CertificateFingerprint, Problem> {
    CertificateFingerprint::from_hex(text)
        .ok_or_else(|| Problem::bad_request("bad_id", "a certificate's id is its SHA-256, 64 hex digits"))
}

async fn show(State(parts): State<AdminParts>, Path(id): Path<String>) -> Result<Json<Shown>, Problem> {
    let record = parts.registry.device(fingerprint(&id)?).await?.ok_or(RegistryError::NotFound)?;
    Ok(Json(Shown::of(record, &parts)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegisterBody {
    pem: String,
    device_id: Option<String>,
    client_id: Option<String>,
    tenant: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    /// Registered, but not to be used yet.
    #[serde(default)]
    inactive: bool,
    /// Bring back a certificate that was deleted.
    #[serde(default)]
    restore: bool,
}

/// A body that is not the JSON it should be.
pub(super) fn bad_json(rejection: &JsonRejection) -> Problem {
    Problem::new(rejection.status(), "bad_json", rejection.body_text())
}

async fn register(
    State(parts): State<AdminParts>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<RegisterBody>, JsonRejection>,
) -> Result<(StatusCode, Json<Shown>), Problem> {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    let request = ManualRegistration {
        pem: body.pem,
        device_id: body.device_id,
        tenant: body.tenant,
        tags: body.tags,
        client_id: body.client_id,
        attributes: body.attributes,
        state: body.inactive.then_some(DeviceState::Inactive),
        source: RegistrationSource::Api,
        on_tombstone: if body.restore { OnTombstone::Restore } else { OnTombstone::Refuse },
    };
    let record = parts.registry.register(request, &actor.0).await?;
    Ok((StatusCode::CREATED, Json(Shown::of(DeviceCertificate::clone(&record), &parts))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeBody {
    /// RFC 5280's name of it, such as `keyCompromise` or `key-compromise`.
    reason: Option<String>,
}

async fn change(
    State(parts): State<AdminParts>,
    Extension(actor): Extension<Actor>,
    Path((id, verb)): Path<(String, String)>,
    body: Bytes,
) -> Result<Json<Shown>, Problem> {
    let target = fingerprint(&id)?;
    let registry = &parts.registry;
    let record = match verb.as_str() {
        "activate" => registry.activate(target, &actor.0).await,
        "deactivate" => registry.deactivate(target, &actor.0).await,
        "revoke" => {
            let asked = match body.is_empty() {
                true => None,
                false => {
                    serde_json::from_slice::<RevokeBody>(&body)
                        .map_err(|error| Problem::bad_request("bad_json", error.to_string()))?
                        .reason
                }
            };
            let reason = match &asked {
                None => RevocationReason::default(),
                Some(text) => {
                    let plain: String = text.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).collect();
                    RevocationReason::parse(&plain).ok_or_else(|| {
                        let known = RevocationReason::ALL.map(RevocationReason::as_str).join(", ");
                        Problem::bad_request("bad_reason", format!("the reasons are {known}"))
                    })?
                }
            };
            registry.revoke(target, reason, &actor.0).await
        }
        _ => return Err(super::problem::not_found().await),
    }?;
    Ok(Json(Shown::of(DeviceCertificate::clone(&record), &parts)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ForceQuery {
    #[serde(default)]
    force: bool,
}

impl ForceQuery {
    pub(super) fn force(&self) -> Force {
        if self.force { Force::Yes } else { Force::No }
    }
}

async fn remove(
    State(parts): State<AdminParts>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    Query(query): Query<ForceQuery>,
) -> Result<Json<Shown>, Problem> {
    let record = parts.registry.delete(fingerprint(&id)?, query.force(), &actor.0).await?;
    Ok(Json(Shown::of(DeviceCertificate::clone(&record), &parts)))
}
