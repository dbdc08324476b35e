//! CAs: list, add, replace, remove.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::CaCertificate;
use mqgate_identity::registry::rules::Force;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::{Api, Change, Doc};
use super::devices::untried;
use super::grace::{Grace, GraceQuery};
use super::{AdminParts, Code, Page, Problem, Rights, Scope, bad_json};
use crate::registry::RegistryError;
use crate::retirement::Retiring;

/// What the rules of the registry may say to a change of a CA.
const REFUSALS: &[Code] = &[
    Code::NotFound,
    Code::BadCertificate,
    Code::BadCa,
    Code::NotACa,
    Code::BadName,
    Code::NameTaken,
    Code::TooManyCas,
    Code::CaRevoked,
    Code::CaConfigured,
    Code::CaInTransition,
    Code::SameCa,
    Code::DeviceCertificatesExist,
    Code::TooManyTransitions,
    Code::TransitionsUnavailable,
    Code::RevisionConflict,
    Code::RegistryUnavailable,
    Code::Refused,
];

pub(super) fn routes() -> Api<AdminParts> {
    Api::new("CAs")
        .route(
            Doc::get("/cas", "ca.list", Scope::CasRead, "Lists CAs, those of the configuration included."),
            list,
        )
        .route(
            Doc::post(
                "/cas",
                "ca.add",
                Scope::CasWrite,
                "Trusts another CA, without proof that its key is at hand: needs `cas:unproven` too.",
            )
            .created()
            .problems(REFUSALS),
            add,
        )
        .route(
            Doc::get("/cas/{id}", "ca.show", Scope::CasRead, "One CA, by fingerprint or name.")
                .problems(&[Code::NotFound]),
            show,
        )
        .route(
            Doc::delete("/cas/{id}", "ca.remove", Scope::CasWrite, "Trusts a CA no longer, after its grace.")
                .problems(REFUSALS),
            remove,
        )
        .route(
            Doc::post(
                "/cas/{id}/replace",
                "ca.replace",
                Scope::CasWrite,
                "Trusts another CA in the place of one; answers the new one. Needs `cas:unproven` too.",
            )
            .problems(REFUSALS),
            replace,
        )
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Ca")]
struct Shown {
    #[serde(flatten)]
    ca: CaCertificate,
    /// `configuration`, `registry`, or `transition`: replaced or removed, and valid until that ends.
    source: &'static str,
    warnings: Vec<Warning>,
    /// What keeps the one valid whose place it took, or itself if it was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    transition: Option<Retiring>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "CaWarning")]
struct Warning {
    lint: &'static str,
    detail: String,
}

impl Shown {
    fn new(ca: CaCertificate, parts: &AdminParts) -> Self {
        let source = match ca.revision {
            _ if parts.registry.is_retiring(ca.id) => "transition",
            0 => "configuration",
            _ => "registry",
        };
        let lints = parts.registry.lint_ca(&ca).into_iter();
        let warnings = lints.map(|(lint, detail)| Warning { lint: lint.as_str(), detail }).collect();
        Self { ca, source, warnings, transition: None }
    }
}

async fn list(State(parts): State<AdminParts>) -> Json<Page<Shown>> {
    let mut cas = parts.registry.cas();
    cas.sort_by(|a, b| a.name.cmp(&b.name));
    Json(Page::whole(cas.into_iter().map(|ca| Shown::new(ca, &parts)).collect()))
}

/// By fingerprint or by name.
fn find(parts: &AdminParts, id: &str) -> Result<CaCertificate, Problem> {
    let fingerprint = CertificateFingerprint::from_hex(id);
    let mut cas = parts.registry.cas().into_iter();
    let found = cas.find(|ca| Some(ca.id) == fingerprint || ca.name == id);
    found.ok_or_else(|| RegistryError::NotFound.into())
}

async fn show(State(parts): State<AdminParts>, Path(id): Path<String>) -> Result<Json<Shown>, Problem> {
    find(&parts, &id).map(|ca| Json(Shown::new(ca, &parts)))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AddBody {
    name: String,
    pem: String,
}

async fn add(
    State(parts): State<AdminParts>,
    rights: Rights,
    change: Change,
    body: Result<Json<AddBody>, JsonRejection>,
) -> Result<(StatusCode, Json<Shown>), Problem> {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    rights.require(Scope::CasUnproven)?;
    untried(&change)?;
    let actor = change.actor;
    match parts.registry.add_ca(&body.pem, &body.name, &actor.0).await {
        Ok(ca) => Ok((StatusCode::CREATED, Json(Shown::new(ca, &parts)))),
        Err(error) => Err(Problem::from(error).about(body.name)),
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RemoveQuery {
    #[serde(default)]
    force: bool,
    grace: Option<Grace>,
}

async fn remove(
    State(parts): State<AdminParts>,
    change: Change,
    Path(id): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Result<Json<Shown>, Problem> {
    untried(&change)?;
    let actor = change.actor;
    let id = find(&parts, &id)?.id;
    let force = if query.force { Force::Yes } else { Force::No };
    let removed = parts.registry.remove_ca(id, force, query.grace.map(|grace| grace.0), &actor.0).await?;
    Ok(Json(Shown { transition: removed.retiring, ..Shown::new(removed.old, &parts) }))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReplaceBody {
    pem: String,
    /// Without one it gets that of the old CA.
    name: Option<String>,
}

/// Answers the new one.
async fn replace(
    State(parts): State<AdminParts>,
    rights: Rights,
    change: Change,
    Path(id): Path<String>,
    Query(query): Query<GraceQuery>,
    body: Result<Json<ReplaceBody>, JsonRejection>,
) -> Result<Json<Shown>, Problem> {
    rights.require(Scope::CasUnproven)?;
    untried(&change)?;
    let actor = change.actor;
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    let id = find(&parts, &id)?.id;
    let grace = query.grace.map(|grace| grace.0);
    let replaced = parts.registry.replace_ca(id, &body.pem, body.name.as_deref(), grace, &actor.0).await?;
    let shown = Shown::new(replaced.new.unwrap_or(replaced.old), &parts);
    Ok(Json(Shown { transition: replaced.retiring, ..shown }))
}
