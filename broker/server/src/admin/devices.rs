//! Device certificates: list, register, activate, deactivate, revoke, delete.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::rules::{Force, OnTombstone, RevocationReason};
use mqgate_identity::registry::{DeviceCertificate, DeviceState, RegistrationSource};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::{Api, Change, Cursor, Doc, Limit, MaybeJson};
use super::{AdminParts, Code, Page, Problem, Scope, bad_json};
use crate::registry::{ManualRegistration, RegistryError};

/// Records looked at for one page of a filtered list; the rest is behind `next`.
const MOST_SCANNED: usize = 50_000;

const LIST: &str = "device-certs";

/// What the rules of the registry may say to a change.
const REFUSALS: &[Code] = &[
    Code::NotFound,
    Code::BadId,
    Code::BadCertificate,
    Code::CertificateRefused,
    Code::BadDeviceId,
    Code::BadState,
    Code::BadReason,
    Code::CertRevoked,
    Code::CertTombstoned,
    Code::CertRegistered,
    Code::CertExpired,
    Code::CertPending,
    Code::CertActive,
    Code::CertNotOnHold,
    Code::DeviceExists,
    Code::CaInactive,
    Code::RevisionConflict,
    Code::RegistryUnavailable,
    Code::Refused,
];

pub(super) fn routes() -> Api<AdminParts> {
    let (read, write, revoking) = (Scope::CertsRead, Scope::CertsWrite, Scope::CertsRevoke);
    Api::new("Device certificates")
        .route(
            Doc::get("/device-certs", "device.list", read, "Lists device certificates.")
                .problems(&[Code::RegistryUnavailable]),
            list,
        )
        .route(
            Doc::post("/device-certs", "device.register", write, "Registers a device certificate.")
                .created()
                .problems(REFUSALS),
            register,
        )
        .route(
            Doc::get("/device-certs/{id}", "device.show", read, "One device certificate.").problems(&[
                Code::NotFound,
                Code::BadId,
                Code::RegistryUnavailable,
            ]),
            show,
        )
        .route(
            Doc::delete("/device-certs/{id}", "device.delete", write, "Deletes; a tombstone stays.")
                .problems(REFUSALS),
            remove,
        )
        .route(
            Doc::post("/device-certs/{id}/activate", "device.activate", write, "Lets it connect.")
                .problems(REFUSALS),
            activate,
        )
        .route(
            Doc::post(
                "/device-certs/{id}/deactivate",
                "device.deactivate",
                write,
                "Keeps it out for a while.",
            )
            .problems(REFUSALS),
            deactivate,
        )
        .route(
            Doc::post("/device-certs/{id}/revoke", "device.revoke", revoking, "Revokes it for good.")
                .problems(REFUSALS),
            revoke,
        )
}

/// The registry cannot say yet what would become of it: then nothing is done at all.
pub(super) fn untried(change: &Change) -> Result<(), Problem> {
    match change.dry_run {
        true => Err(Problem::new(Code::Refused, "this change cannot be tried; nothing was done")),
        false => Ok(()),
    }
}

/// A record, and what it comes to today.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeviceCertificate")]
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

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    after: Option<Cursor>,
    limit: Option<Limit>,
    state: Option<DeviceState>,
    device_id: Option<String>,
    ca: Option<CertificateFingerprint>,
}

async fn list(
    State(parts): State<AdminParts>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Shown>>, Problem> {
    let limit = Limit::or_default(query.limit);
    let wanted = |record: &DeviceCertificate| {
        query.state.map_or(record.state != DeviceState::Tombstone, |state| record.state == state)
            && query.device_id.as_deref().is_none_or(|device| record.device_id == device)
            && query.ca.is_none_or(|ca| record.ca_id == ca)
    };
    let mut items = Vec::new();
    let mut after: Option<CertificateFingerprint> = query.after.map(|after| after.read(LIST)).transpose()?;
    let mut scanned = 0;
    loop {
        let records = parts.registry.devices(after, Limit::LARGEST).await?;
        let last_of_all = records.len() < Limit::LARGEST;
        scanned += records.len();
        for record in records {
            if items.len() == limit {
                return Ok(Json(Page { items, next: after.map(|after| Cursor::of(LIST, &after)) }));
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
            return Ok(Json(Page { items, next: after.map(|after| Cursor::of(LIST, &after)) }));
        }
    }
}

fn fingerprint(text: &str) -> Result<CertificateFingerprint, Problem> {
    CertificateFingerprint::from_hex(text)
        .ok_or_else(|| Problem::new(Code::BadId, "a certificate's id is its SHA-256, 64 hex digits"))
}

async fn show(State(parts): State<AdminParts>, Path(id): Path<String>) -> Result<Json<Shown>, Problem> {
    let record = parts.registry.device(fingerprint(&id)?).await?.ok_or(RegistryError::NotFound)?;
    Ok(Json(Shown::of(record, &parts)))
}

#[derive(Deserialize, JsonSchema)]
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

async fn register(
    State(parts): State<AdminParts>,
    change: Change,
    body: Result<Json<RegisterBody>, JsonRejection>,
) -> Result<(StatusCode, Json<Shown>), Problem> {
    untried(&change)?;
    let actor = change.actor;
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

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RevokeBody {
    /// RFC 5280's name of it, such as `keyCompromise` or `key-compromise`.
    reason: Option<String>,
}

async fn activate(
    State(parts): State<AdminParts>,
    change: Change,
    Path(id): Path<String>,
) -> Result<Json<Shown>, Problem> {
    untried(&change)?;
    let record = parts.registry.activate(fingerprint(&id)?, &change.actor.0).await?;
    Ok(Json(Shown::of(DeviceCertificate::clone(&record), &parts)))
}

async fn deactivate(
    State(parts): State<AdminParts>,
    change: Change,
    Path(id): Path<String>,
) -> Result<Json<Shown>, Problem> {
    untried(&change)?;
    let record = parts.registry.deactivate(fingerprint(&id)?, &change.actor.0).await?;
    Ok(Json(Shown::of(DeviceCertificate::clone(&record), &parts)))
}

async fn revoke(
    State(parts): State<AdminParts>,
    change: Change,
    Path(id): Path<String>,
    MaybeJson(body): MaybeJson<RevokeBody>,
) -> Result<Json<Shown>, Problem> {
    let target = fingerprint(&id)?;
    let asked = body.and_then(|body| body.reason);
    let reason = match &asked {
        None => RevocationReason::default(),
        Some(text) => {
            let plain: String = text.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).collect();
            RevocationReason::parse(&plain).ok_or_else(|| {
                let known = RevocationReason::ALL.map(RevocationReason::as_str).join(", ");
                Problem::new(Code::BadReason, format!("the reasons are {known}"))
            })?
        }
    };
    untried(&change)?;
    let record = parts.registry.revoke(target, reason, &change.actor.0).await?;
    Ok(Json(Shown::of(DeviceCertificate::clone(&record), &parts)))
}

#[derive(Deserialize, JsonSchema)]
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
    change: Change,
    Path(id): Path<String>,
    Query(query): Query<ForceQuery>,
) -> Result<Json<Shown>, Problem> {
    untried(&change)?;
    let actor = change.actor;
    let record = parts.registry.delete(fingerprint(&id)?, query.force(), &actor.0).await?;
    Ok(Json(Shown::of(DeviceCertificate::clone(&record), &parts)))
}
