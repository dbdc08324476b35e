//! CAs: list, add, remove.

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Extension, Json, Router};
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::CaCertificate;
use serde::{Deserialize, Serialize};

use super::devices::{ForceQuery, bad_json};
use super::{Actor, AdminParts, Page, Problem};
use crate::registry::RegistryError;

pub(super) fn routes() -> Router<AdminParts> {
    Router::new().route("/cas", get(list).post(add)).route("/cas/{id}", get(show).delete(remove))
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    ca: CaCertificate,
    /// `configuration` or `registry`.
    source: &'static str,
    warnings: Vec<Warning>,
}

#[derive(Serialize)]
struct Warning {
    lint: &'static str,
    detail: String,
}

impl Shown {
    fn new(ca: CaCertificate, parts: &AdminParts) -> Self {
        let source = if ca.revision == 0 { "configuration" } else { "registry" };
        let lints = parts.registry.lint_ca(&ca).into_iter();
        let warnings = lints.map(|(lint, detail)| Warning { lint: lint.as_str(), detail }).collect();
        Self { ca, source, warnings }
    }
}

async fn list(State(parts): State<AdminParts>) -> Json<Page<Shown>> {
    let mut cas = parts.registry.cas();
    cas.sort_by(|a, b| a.name.cmp(&b.name));
    Json(Page { items: cas.into_iter().map(|ca| Shown::new(ca, &parts)).collect(), next: None })
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddBody {
    name: String,
    pem: String,
}

async fn add(
    State(parts): State<AdminParts>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<AddBody>, JsonRejection>,
) -> Result<(StatusCode, Json<Shown>), Problem> {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    match parts.registry.add_ca(&body.pem, &body.name, &actor.0).await {
        Ok(ca) => Ok((StatusCode::CREATED, Json(Shown::new(ca, &parts)))),
        Err(error) => Err(Problem::from(error).about(body.name)),
    }
}

async fn remove(
    State(parts): State<AdminParts>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    Query(query): Query<ForceQuery>,
) -> Result<Json<Shown>, Problem> {
    let id = find(&parts, &id)?.id;
    let removed = parts.registry.remove_ca(id, query.force(), &actor.0).await?;
    Ok(Json(Shown::new(removed, &parts)))
}
