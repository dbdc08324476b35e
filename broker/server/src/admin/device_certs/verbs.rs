//! Changes of one certificate: `POST /device-certs/{id}/{verb}`, `PATCH` and `DELETE`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use mqgate_identity::registry::rules::{DevicePatch, Force, RevocationReason};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use super::super::api::{Api, Change, Doc, IfMatch, MaybeJson, Outcome, Tagged};
use super::super::{AdminParts, Code, Problem, Scope, bad_json};
use super::{Shown, answer, asked, fingerprint};
use crate::registry::{ChangedDevice, RegistryError};

type Answer = Result<Outcome<Tagged<Shown>>, Problem>;

/// What the rules and the storage may say.
pub(super) const PROBLEMS: &[Code] = &[
    Code::NotFound,
    Code::BadId,
    Code::BadReason,
    Code::BadCertificate,
    Code::CertificateRefused,
    Code::BadDeviceId,
    Code::BadState,
    Code::CertRevoked,
    Code::CertTombstoned,
    Code::CertRegistered,
    Code::CertExpired,
    Code::CertPending,
    Code::CertNotPending,
    Code::CertActive,
    Code::CertNotOnHold,
    Code::CertNotSuperseded,
    Code::CertNotQuarantined,
    Code::CertNotInUse,
    Code::CertNotTombstoned,
    Code::TombstoneKept,
    Code::CertSuperseded,
    Code::DuplicateSerial,
    Code::KeyCompromised,
    Code::CaMissing,
    Code::CaInactive,
    Code::CaPending,
    Code::CaRevoked,
    Code::RevisionMismatch,
    Code::RevisionConflict,
    Code::RegistryUnavailable,
    Code::AuditUnavailable,
];

pub(super) fn routes() -> Api<AdminParts> {
    let write = Scope::CertsWrite;
    Api::new("Device certificates")
        .route(
            Doc::post("/device-certs/{id}/activate", "device.activate", write, "Lets a certificate in.")
                .problems(PROBLEMS),
            activate,
        )
        .route(
            Doc::post(
                "/device-certs/{id}/deactivate",
                "device.deactivate",
                write,
                "Keeps a certificate out for now, and closes its connections.",
            )
            .problems(PROBLEMS),
            deactivate,
        )
        .route(
            Doc::post(
                "/device-certs/{id}/revoke",
                "device.revoke",
                Scope::CertsRevoke,
                "Keeps a certificate out for good, and closes its connections.",
            )
            .problems(PROBLEMS),
            revoke,
        )
        .route(
            Doc::post(
                "/device-certs/{id}/reject",
                "device.reject",
                write,
                "Says no to a certificate that waits.",
            )
            .problems(PROBLEMS),
            reject,
        )
        .route(
            Doc::post(
                "/device-certs/{id}/reinstate",
                "device.reinstate",
                write,
                "Lets a certificate in again that a newer one took the place of.",
            )
            .problems(PROBLEMS),
            reinstate,
        )
        .route(
            Doc::post("/device-certs/{id}/bind", "device.bind", write, "Binds a certificate to a client id.")
                .problems(PROBLEMS),
            bind,
        )
        .route(
            Doc::post(
                "/device-certs/{id}/quarantine",
                "device.quarantine",
                write,
                "Keeps a certificate out until somebody has looked at it.",
            )
            .problems(PROBLEMS),
            quarantine,
        )
        .route(
            Doc::post("/device-certs/{id}/release", "device.release", write, "Ends a quarantine.")
                .problems(PROBLEMS),
            release,
        )
}

/// `If-Match` that did not match, in the words of HTTP.
pub(in crate::admin) fn refused(error: RegistryError, if_match: &IfMatch) -> Problem {
    use mqgate_identity::registry::StorageError;
    match error {
        RegistryError::Storage(StorageError::Conflict { current: Some(current) }) => {
            match if_match.check(current) {
                Err(mismatch) => mismatch,
                Ok(()) => RegistryError::Storage(StorageError::Conflict { current: Some(current) }).into(),
            }
        }
        error => error.into(),
    }
}

/// The answer to a change, made or tried.
fn settled(
    parts: &AdminParts,
    change: &Change,
    if_match: &IfMatch,
    action: &'static str,
    changed: Result<ChangedDevice, RegistryError>,
) -> Answer {
    let changed = changed.map_err(|error| refused(error, if_match))?;
    answer(parts, change, action, &changed)
}

async fn activate(
    State(parts): State<AdminParts>,
    change: Change,
    if_match: IfMatch,
    Path(id): Path<String>,
) -> Answer {
    let ask = asked(&change, Some(&if_match));
    let changed = parts.registry.activate(fingerprint(&id)?, ask).await;
    settled(&parts, &change, &if_match, "device.activate", changed)
}

async fn deactivate(
    State(parts): State<AdminParts>,
    change: Change,
    if_match: IfMatch,
    Path(id): Path<String>,
) -> Answer {
    let ask = asked(&change, Some(&if_match));
    let changed = parts.registry.deactivate(fingerprint(&id)?, ask).await;
    settled(&parts, &change, &if_match, "device.deactivate", changed)
}

/// Why a certificate is revoked.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct RevokeBody {
    /// RFC 5280's name of it, such as `keyCompromise` or `key-compromise`.
    reason: Option<String>,
}

/// RFC 5280's name of a reason, in any case, with or without separators.
pub(in crate::admin) fn reason(asked: Option<&str>) -> Result<RevocationReason, Problem> {
    let Some(text) = asked else { return Ok(RevocationReason::default()) };
    let plain: String = text.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).collect();
    RevocationReason::parse(&plain).ok_or_else(|| {
        let known = RevocationReason::ALL.map(RevocationReason::as_str).join(", ");
        Problem::new(Code::BadReason, format!("the reasons are {known}"))
    })
}

async fn revoke(
    State(parts): State<AdminParts>,
    change: Change,
    if_match: IfMatch,
    Path(id): Path<String>,
    MaybeJson(body): MaybeJson<RevokeBody>,
) -> Answer {
    let reason = reason(body.and_then(|body| body.reason).as_deref())?;
    let ask = asked(&change, Some(&if_match));
    let changed = parts.registry.revoke(fingerprint(&id)?, reason, ask).await;
    settled(&parts, &change, &if_match, "device.revoke", changed)
}

async fn reject(
    State(parts): State<AdminParts>,
    change: Change,
    if_match: IfMatch,
    Path(id): Path<String>,
) -> Answer {
    let ask = asked(&change, Some(&if_match));
    let changed = parts.registry.reject(fingerprint(&id)?, ask).await;
    settled(&parts, &change, &if_match, "device.reject", changed)
}

async fn reinstate(
    State(parts): State<AdminParts>,
    change: Change,
    if_match: IfMatch,
    Path(id): Path<String>,
) -> Answer {
    let ask = asked(&change, Some(&if_match));
    let changed = parts.registry.reinstate(fingerprint(&id)?, ask).await;
    settled(&parts, &change, &if_match, "device.reinstate", changed)
}

/// The client id that a certificate may use from now on.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BindBody {
    /// `null` unbinds it.
    client_id: Option<String>,
}

async fn bind(
    State(parts): State<AdminParts>,
    change: Change,
    if_match: IfMatch,
    Path(id): Path<String>,
    body: Result<Json<BindBody>, JsonRejection>,
) -> Answer {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    let patch = DevicePatch { client_id: Some(body.client_id), ..DevicePatch::default() };
    let ask = asked(&change, Some(&if_match));
    let changed = parts.registry.change_device(fingerprint(&id)?, &patch, ask).await;
    settled(&parts, &change, &if_match, "device.bind", changed)
}

/// For who looks at it.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct QuarantineBody {
    why: Option<String>,
}

async fn quarantine(
    State(parts): State<AdminParts>,
    change: Change,
    if_match: IfMatch,
    Path(id): Path<String>,
    MaybeJson(body): MaybeJson<QuarantineBody>,
) -> Answer {
    let why = body.and_then(|body| body.why);
    let why: String = why.as_deref().unwrap_or("by an operator").chars().take(LONGEST_WHY).collect();
    let ask = asked(&change, Some(&if_match));
    let changed = parts.registry.quarantine(fingerprint(&id)?, &why, ask).await;
    settled(&parts, &change, &if_match, "device.quarantine", changed)
}

/// Characters of the text that goes with a quarantine.
const LONGEST_WHY: usize = 256;

async fn release(
    State(parts): State<AdminParts>,
    change: Change,
    if_match: IfMatch,
    Path(id): Path<String>,
) -> Answer {
    let ask = asked(&change, Some(&if_match));
    let changed = parts.registry.release(fingerprint(&id)?, ask).await;
    settled(&parts, &change, &if_match, "device.release", changed)
}

/// What is left out stays as it is; `null` lets it go.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PatchBody {
    /// The only client id that it may use.
    #[serde(deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    client_id: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    tenant: Option<Option<String>>,
    /// All tags that it has from then on.
    tags: Option<Vec<String>>,
    /// All attributes that it has from then on.
    attributes: Option<BTreeMap<String, String>>,
}

/// `null` is something else than nothing.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

pub(super) async fn patch(
    State(parts): State<AdminParts>,
    change: Change,
    if_match: IfMatch,
    Path(id): Path<String>,
    body: Result<Json<PatchBody>, JsonRejection>,
) -> Answer {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    let PatchBody { client_id, tenant, tags, attributes } = body;
    let patch = DevicePatch { client_id, tenant, tags, attributes };
    let ask = asked(&change, Some(&if_match));
    let changed = parts.registry.change_device(fingerprint(&id)?, &patch, ask).await;
    settled(&parts, &change, &if_match, "device.change", changed)
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct RemoveQuery {
    /// Also if it is active.
    #[serde(default)]
    force: bool,
}

pub(super) async fn remove(
    State(parts): State<AdminParts>,
    change: Change,
    if_match: IfMatch,
    Path(id): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Answer {
    let force = if query.force { Force::Yes } else { Force::No };
    let ask = asked(&change, Some(&if_match));
    let changed = parts.registry.delete(fingerprint(&id)?, force, ask).await;
    settled(&parts, &change, &if_match, "device.delete", changed)
}
