//! Changes of one certificate: `POST /device-certs/{id}/{verb}`, `PATCH` and `DELETE`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::Query;
use axum::extract::rejection::JsonRejection;
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::rules::{DevicePatch, Force, RevocationReason};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use super::super::api::{Api, Doc, IfMatch, MaybeJson, Outcome, Tagged};
use super::super::asked::Asked;
use super::super::{AdminParts, Code, Problem, Scope, bad_json};
use super::{Shown, answer};
use crate::registry::{ChangedDevice, RegistryError};

/// A change of one certificate.
pub(super) type One = Asked<CertificateFingerprint>;
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
pub(super) fn settled(
    one: &One,
    action: &'static str,
    changed: Result<ChangedDevice, RegistryError>,
) -> Answer {
    let changed = changed.map_err(|error| refused(error, &one.if_match))?;
    answer(&one.parts, &one.change, action, &changed)
}

async fn activate(one: One) -> Answer {
    let changed = one.parts.registry.activate(one.of, one.ask()).await;
    settled(&one, "device.activate", changed)
}

async fn deactivate(one: One) -> Answer {
    let changed = one.parts.registry.deactivate(one.of, one.ask()).await;
    settled(&one, "device.deactivate", changed)
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

async fn revoke(one: One, MaybeJson(body): MaybeJson<RevokeBody>) -> Answer {
    let reason = reason(body.and_then(|body| body.reason).as_deref())?;
    let changed = one.parts.registry.revoke(one.of, reason, one.ask()).await;
    settled(&one, "device.revoke", changed)
}

async fn reject(one: One) -> Answer {
    let changed = one.parts.registry.reject(one.of, one.ask()).await;
    settled(&one, "device.reject", changed)
}

async fn reinstate(one: One) -> Answer {
    let changed = one.parts.registry.reinstate(one.of, one.ask()).await;
    settled(&one, "device.reinstate", changed)
}

/// The client id that a certificate may use from now on.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BindBody {
    /// `null` unbinds it.
    client_id: Option<String>,
}

async fn bind(one: One, body: Result<Json<BindBody>, JsonRejection>) -> Answer {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    let patch = DevicePatch { client_id: Some(body.client_id), ..DevicePatch::default() };
    let changed = one.parts.registry.change_device(one.of, &patch, one.ask()).await;
    settled(&one, "device.bind", changed)
}

/// For who looks at it.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct QuarantineBody {
    why: Option<String>,
}

async fn quarantine(one: One, MaybeJson(body): MaybeJson<QuarantineBody>) -> Answer {
    let why = body.and_then(|body| body.why);
    let why: String = why.as_deref().unwrap_or("by an operator").chars().take(LONGEST_WHY).collect();
    let changed = one.parts.registry.quarantine(one.of, &why, one.ask()).await;
    settled(&one, "device.quarantine", changed)
}

/// Characters of the text that goes with a quarantine.
const LONGEST_WHY: usize = 256;

async fn release(one: One) -> Answer {
    let changed = one.parts.registry.release(one.of, one.ask()).await;
    settled(&one, "device.release", changed)
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

pub(super) async fn patch(one: One, body: Result<Json<PatchBody>, JsonRejection>) -> Answer {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    let PatchBody { client_id, tenant, tags, attributes } = body;
    let patch = DevicePatch { client_id, tenant, tags, attributes };
    let changed = one.parts.registry.change_device(one.of, &patch, one.ask()).await;
    settled(&one, "device.change", changed)
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct RemoveQuery {
    /// Also if it is active.
    #[serde(default)]
    force: bool,
}

pub(super) async fn remove(one: One, Query(query): Query<RemoveQuery>) -> Answer {
    let force = if query.force { Force::Yes } else { Force::No };
    let changed = one.parts.registry.delete(one.of, force, one.ask()).await;
    settled(&one, "device.delete", changed)
}
