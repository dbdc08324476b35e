//! Server certificates that the broker keeps: list, show, add, replace, remove, enable, disable. Keys and passwords
//! are taken and never shown.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use mqgate_identity::registry::StorageError;
use serde::{Deserialize, Serialize};

use super::devices::bad_json;
use super::grace::GraceQuery;
use super::{Actor, BODY_LIMIT, Page, Problem};
use crate::bundles::{BundleError, BundleInfo, BundleMaterial, Bundles, GLOBAL};
use crate::retirement::{RetirementError, Retiring};

type Answer = Result<Json<BundleInfo>, Problem>;

/// The routes, to be merged under `/api/v1`.
pub fn router(bundles: Arc<Bundles>) -> Router {
    Router::new()
        .route("/certs/bundles", get(list).post(add))
        .route("/certs/bundles/{namespace}/{name}", get(show).put(replace).delete(remove))
        .route("/certs/bundles/{namespace}/{name}/{verb}", post(switch))
        .route("/certs/default", get(builtin))
        .route("/certs/default/{verb}", post(switch_builtin))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(bundles)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddBody {
    #[serde(default = "global")]
    namespace: String,
    name: String,
    chain: String,
    key: String,
    #[serde(default)]
    password: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplaceBody {
    chain: String,
    key: String,
    #[serde(default)]
    password: Option<String>,
}

#[derive(Serialize)]
struct Replaced {
    #[serde(flatten)]
    bundle: BundleInfo,
    /// What keeps the one before valid beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    transition: Option<Retiring>,
}

fn global() -> String {
    GLOBAL.to_owned()
}

async fn list(State(bundles): State<Arc<Bundles>>) -> Json<Page<BundleInfo>> {
    Json(Page { items: bundles.list(), next: None })
}

async fn show(
    State(bundles): State<Arc<Bundles>>,
    Path((namespace, name)): Path<(String, String)>,
) -> Answer {
    Ok(Json(bundles.show(&namespace, &name)?))
}

async fn add(
    State(bundles): State<Arc<Bundles>>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<AddBody>, JsonRejection>,
) -> Result<(StatusCode, Json<BundleInfo>), Problem> {
    let Json(AddBody { namespace, name, chain, key, password }) =
        body.map_err(|rejection| bad_json(&rejection))?;
    let material = BundleMaterial { chain, key, password };
    match bundles.add(&namespace, &name, material, &actor.0).await {
        Ok(info) => Ok((StatusCode::CREATED, Json(info))),
        Err(error) => Err(Problem::from(error).about(format!("{namespace}/{name}"))),
    }
}

async fn replace(
    State(bundles): State<Arc<Bundles>>,
    Extension(actor): Extension<Actor>,
    Path((namespace, name)): Path<(String, String)>,
    Query(query): Query<GraceQuery>,
    body: Result<Json<ReplaceBody>, JsonRejection>,
) -> Result<Json<Replaced>, Problem> {
    let Json(ReplaceBody { chain, key, password }) = body.map_err(|rejection| bad_json(&rejection))?;
    let material = BundleMaterial { chain, key, password };
    let grace = query.grace.map(|grace| grace.0);
    let (bundle, transition) = bundles.replace(&namespace, &name, material, grace, &actor.0).await?;
    Ok(Json(Replaced { bundle, transition }))
}

async fn remove(
    State(bundles): State<Arc<Bundles>>,
    Extension(actor): Extension<Actor>,
    Path((namespace, name)): Path<(String, String)>,
) -> Answer {
    Ok(Json(bundles.remove(&namespace, &name, &actor.0).await?))
}

async fn switch(
    State(bundles): State<Arc<Bundles>>,
    Extension(actor): Extension<Actor>,
    Path((namespace, name, verb)): Path<(String, String, String)>,
) -> Answer {
    Ok(Json(bundles.enable(&namespace, &name, enables(&verb)?, &actor.0).await?))
}

async fn builtin(State(bundles): State<Arc<Bundles>>) -> Answer {
    Ok(Json(bundles.builtin()?))
}

async fn switch_builtin(
    State(bundles): State<Arc<Bundles>>,
    Extension(actor): Extension<Actor>,
    Path(verb): Path<String>,
) -> Answer {
    Ok(Json(bundles.enable_builtin(enables(&verb)?, &actor.0).await?))
}

fn enables(verb: &str) -> Result<bool, Problem> {
    match verb {
        "enable" => Ok(true),
        "disable" => Ok(false),
        _ => {
            Err(Problem::new(StatusCode::NOT_FOUND, "no_such_path", "the verbs here are enable and disable"))
        }
    }
}

impl From<BundleError> for Problem {
    fn from(error: BundleError) -> Self {
        let (status, code) = match &error {
            BundleError::NotFound { .. } => (StatusCode::NOT_FOUND, "not_found"),
            BundleError::Exists { .. } => (StatusCode::CONFLICT, "name_taken"),
            BundleError::Name(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad_name"),
            BundleError::Material(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad_certificate"),
            BundleError::TooMany { .. } => (StatusCode::CONFLICT, "limit_exceeded"),
            BundleError::InUse { .. } => (StatusCode::CONFLICT, "bundle_in_use"),
            BundleError::LastOne { .. } => (StatusCode::CONFLICT, "last_certificate"),
            BundleError::Tls(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad_tls"),
            BundleError::Retirement(RetirementError::TooMany(_)) => {
                (StatusCode::CONFLICT, "too_many_transitions")
            }
            BundleError::Retirement(RetirementError::Unavailable(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, "transitions_unavailable")
            }
            BundleError::Storage(StorageError::Conflict { .. }) => {
                (StatusCode::CONFLICT, "revision_conflict")
            }
            // The others are about device certificates.
            BundleError::Storage(
                StorageError::Unavailable(_)
                | StorageError::Corrupt(_)
                | StorageError::DuplicateSerial { .. }
                | StorageError::KeyCompromised { .. }
                | StorageError::BadCursor,
            ) => (StatusCode::SERVICE_UNAVAILABLE, "registry_unavailable"),
            BundleError::Audit(_) => (StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable"),
        };
        let problem = Self::new(status, code, error.to_string());
        match error {
            BundleError::InUse { used_by } | BundleError::LastOne { used_by } => {
                problem.with("used_by", used_by)
            }
            BundleError::TooMany { limit, .. } => {
                problem.with("limit", "limits.server_certs").with("maximum", limit)
            }
            _ => problem,
        }
    }
}
