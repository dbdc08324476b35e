//! Registration codes: what the holder of a CA's key signs to prove it.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use mqgate_identity::registry::RegistrationCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::api::{Api, Change, Doc, MaybeJson};
use super::super::asked::asked;
use super::super::{AdminParts, Code, Page, Problem, Scope};
use crate::units::duration;

/// Seconds that a code may be good for.
const LONGEST_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);

pub(super) fn routes() -> Api<AdminParts> {
    Api::new("CAs")
        .route(
            Doc::post(
                "/ca-registration-codes",
                "ca-code.create",
                Scope::CasWrite,
                "Makes a registration code: good for one CA, for a day.",
            )
            .created()
            .secret()
            .problems(&[
                Code::TooManyRegistrationCodes,
                Code::BadTime,
                Code::RegistryUnavailable,
                Code::AuditUnavailable,
            ]),
            create,
        )
        .route(
            Doc::get("/ca-registration-codes", "ca-code.list", Scope::CasWrite, "Lists registration codes.")
                .problems(&[Code::RegistryUnavailable]),
            list,
        )
        .route(
            Doc::delete(
                "/ca-registration-codes/{code}",
                "ca-code.delete",
                Scope::CasWrite,
                "Deletes a registration code.",
            )
            .problems(&[Code::NotFound, Code::RegistryUnavailable, Code::AuditUnavailable]),
            delete,
        )
}

/// A registration code. Times are in milliseconds since 1970.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RegistrationCode")]
struct Shown {
    /// The common name of the verification certificate: 64 hex digits.
    code: String,
    created_at: u64,
    created_by: String,
    expires_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    used: Option<Used>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RegistrationCodeUse")]
struct Used {
    at: u64,
    /// SHA-256 of the CA.
    ca: String,
}

impl From<RegistrationCode> for Shown {
    fn from(code: RegistrationCode) -> Self {
        Self {
            code: code.code,
            created_at: code.created_at.0,
            created_by: code.created_by,
            expires_at: code.expires_at.0,
            used: code.used.map(|used| Used { at: used.at.0, ca: used.ca.to_hex() }),
        }
    }
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct CreateBody {
    /// How long it is good for: `1h`; without it, a day.
    ttl: Option<String>,
}

async fn create(
    State(parts): State<AdminParts>,
    change: Change,
    MaybeJson(body): MaybeJson<CreateBody>,
) -> Result<(StatusCode, Json<Shown>), Problem> {
    let ttl = body.and_then(|body| body.ttl).map(|text| {
        duration(&text)
            .filter(|ttl| !ttl.is_zero() && *ttl <= LONGEST_TTL)
            .ok_or_else(|| Problem::new(Code::BadTime, "`ttl` is a time up to 30d, for example 1h"))
    });
    let code = parts.registry.create_registration_code(ttl.transpose()?, asked(&change, None)).await?;
    let status = if change.dry_run { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(code.into())))
}

async fn list(State(parts): State<AdminParts>) -> Result<Json<Page<Shown>>, Problem> {
    let mut codes = parts.registry.registration_codes().await?;
    codes.sort_by_key(|code| code.created_at);
    Ok(Json(Page::whole(codes.into_iter().map(Shown::from).collect())))
}

async fn delete(
    State(parts): State<AdminParts>,
    change: Change,
    Path(code): Path<String>,
) -> Result<Json<Shown>, Problem> {
    let deleted = parts.registry.delete_registration_code(&code, asked(&change, None)).await?;
    Ok(Json(deleted.into()))
}
