//! Server certificates that the broker keeps: list, show, add, replace, remove, enable, disable. Keys and passwords
//! are taken and never shown.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use mqgate_identity::registry::StorageError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::{Api, Change, Doc, IfMatch, Impact, Outcome, Route, Tagged};
use super::grace::GraceQuery;
use super::{BODY_LIMIT, Code, Page, Problem, Scope, bad_json};
use crate::bundles::{BundleError, BundleInfo, BundleMaterial, Bundles, GLOBAL};
use crate::retirement::{RetirementError, Retiring};

type Answer = Result<Outcome<Tagged<BundleInfo>>, Problem>;

/// The routes, to be merged under `/api/v1`.
pub fn router(bundles: Arc<Bundles>) -> Api {
    described().with_state(bundles)
}

/// For the description.
pub fn routes() -> Vec<Route> {
    described().routes().to_vec()
}

/// What the registry and the disk may refuse.
const STORED: &[Code] =
    &[Code::NotFound, Code::RevisionConflict, Code::RegistryUnavailable, Code::LastCertificate, Code::BadTls];

fn described() -> Api<Arc<Bundles>> {
    let (read, write) = (Scope::ServerCertsRead, Scope::ServerCertsWrite);
    Api::new("Server certificates")
        .route(
            Doc::get(
                "/certs/bundles",
                "server_cert.list",
                read,
                "Lists certificates of the server that it keeps.",
            ),
            list,
        )
        .route(
            Doc::post("/certs/bundles", "server_cert.add", write, "Keeps another certificate of the server.")
                .created()
                .problems(&[
                    Code::BadName,
                    Code::NameTaken,
                    Code::BadCertificate,
                    Code::LimitExceeded,
                    Code::RevisionConflict,
                    Code::RegistryUnavailable,
                    Code::BadTls,
                ]),
            add,
        )
        .route(
            Doc::get(
                "/certs/bundles/{namespace}/{name}",
                "server_cert.show",
                read,
                "One certificate of the server.",
            )
            .problems(&[Code::NotFound]),
            show,
        )
        .route(
            Doc::put(
                "/certs/bundles/{namespace}/{name}",
                "server_cert.replace",
                write,
                "Other material under a name; the old one stays valid beside it for its grace.",
            )
            .problems(&[
                Code::NotFound,
                Code::BadCertificate,
                Code::RevisionConflict,
                Code::RegistryUnavailable,
                Code::BadTls,
                Code::TooManyTransitions,
                Code::TransitionsUnavailable,
            ]),
            replace,
        )
        .route(
            Doc::delete(
                "/certs/bundles/{namespace}/{name}",
                "server_cert.remove",
                write,
                "Forgets a certificate that no listener has.",
            )
            .problems(&[
                Code::NotFound,
                Code::BundleInUse,
                Code::RevisionConflict,
                Code::RegistryUnavailable,
            ]),
            remove,
        )
        .route(
            Doc::post(
                "/certs/bundles/{namespace}/{name}/enable",
                "server_cert.enable",
                write,
                "Listeners that have it serve it.",
            )
            .problems(STORED),
            enable,
        )
        .route(
            Doc::post(
                "/certs/bundles/{namespace}/{name}/disable",
                "server_cert.disable",
                write,
                "Listeners that have it do not serve it.",
            )
            .problems(STORED),
            disable,
        )
        .route(
            Doc::get("/certs/default", "server_cert.builtin", read, "The built-in certificate.")
                .problems(&[Code::NotFound]),
            builtin,
        )
        .route(
            Doc::post("/certs/default/enable", "server_cert.builtin_enable", write, "Has it served.")
                .problems(STORED),
            enable_builtin,
        )
        .route(
            Doc::post("/certs/default/disable", "server_cert.builtin_disable", write, "Has it not served.")
                .problems(STORED),
            disable_builtin,
        )
        .body_limit(BODY_LIMIT)
}

/// A chain and its key, PEM.
#[derive(Deserialize, JsonSchema)]
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

/// A chain and its key, PEM.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReplaceBody {
    chain: String,
    key: String,
    #[serde(default)]
    password: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ReplacedServerCertificate")]
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
    Json(Page::whole(bundles.list()))
}

fn tagged(info: BundleInfo) -> Tagged<BundleInfo> {
    Tagged::new(info.revision, info)
}

async fn show(
    State(bundles): State<Arc<Bundles>>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Tagged<BundleInfo>, Problem> {
    Ok(tagged(bundles.show(&namespace, &name)?))
}

async fn add(
    State(bundles): State<Arc<Bundles>>,
    change: Change,
    body: Result<Json<AddBody>, JsonRejection>,
) -> Result<Outcome<(StatusCode, Json<BundleInfo>)>, Problem> {
    let Json(AddBody { namespace, name, chain, key, password }) =
        body.map_err(|rejection| bad_json(&rejection))?;
    let material = BundleMaterial { chain, key, password };
    let target = format!("{namespace}/{name}");
    let refused = |error: BundleError| Problem::from(error).about(&target);
    if change.dry_run {
        let info = bundles.try_add(&namespace, &name, material).await.map_err(refused)?;
        return Ok(Impact::of("server_cert.add", &target).after(&info)?.into());
    }
    let info = bundles.add(&namespace, &name, material, &change.actor.0).await.map_err(refused)?;
    Ok(Outcome::Done((StatusCode::CREATED, Json(info))))
}

async fn replace(
    State(bundles): State<Arc<Bundles>>,
    change: Change,
    if_match: IfMatch,
    Path((namespace, name)): Path<(String, String)>,
    Query(query): Query<GraceQuery>,
    body: Result<Json<ReplaceBody>, JsonRejection>,
) -> Result<Outcome<Json<Replaced>>, Problem> {
    let Json(ReplaceBody { chain, key, password }) = body.map_err(|rejection| bad_json(&rejection))?;
    let material = BundleMaterial { chain, key, password };
    let before = bundles.show(&namespace, &name)?;
    if_match.check(before.revision)?;
    if change.dry_run {
        let after = bundles.try_replace(&namespace, &name, material).await?;
        let listeners = before.used_by.len();
        let impact = Impact::of("server_cert.replace", format!("{namespace}/{name}"));
        return Ok(impact.before(&before)?.after(&after)?.affects("listeners", listeners).into());
    }
    let grace = query.grace.map(|grace| grace.0);
    let (bundle, transition) = bundles.replace(&namespace, &name, material, grace, &change.actor.0).await?;
    Ok(Outcome::Done(Json(Replaced { bundle, transition })))
}

async fn remove(
    State(bundles): State<Arc<Bundles>>,
    change: Change,
    if_match: IfMatch,
    Path((namespace, name)): Path<(String, String)>,
) -> Answer {
    let before = bundles.show(&namespace, &name)?;
    if_match.check(before.revision)?;
    if change.dry_run {
        if !before.used_by.is_empty() {
            return Err(BundleError::InUse { used_by: before.used_by }.into());
        }
        let impact = Impact::of("server_cert.remove", format!("{namespace}/{name}"));
        return Ok(impact.before(&before)?.into());
    }
    Ok(Outcome::Done(tagged(bundles.remove(&namespace, &name, &change.actor.0).await?)))
}

async fn enable(
    bundles: State<Arc<Bundles>>,
    change: Change,
    if_match: IfMatch,
    path: Path<(String, String)>,
) -> Answer {
    switch(bundles, change, if_match, path, true).await
}

async fn disable(
    bundles: State<Arc<Bundles>>,
    change: Change,
    if_match: IfMatch,
    path: Path<(String, String)>,
) -> Answer {
    switch(bundles, change, if_match, path, false).await
}

async fn switch(
    State(bundles): State<Arc<Bundles>>,
    change: Change,
    if_match: IfMatch,
    Path((namespace, name)): Path<(String, String)>,
    enabled: bool,
) -> Answer {
    let before = bundles.show(&namespace, &name)?;
    if_match.check(before.revision)?;
    if change.dry_run {
        if !enabled {
            bundles.try_disable(&namespace, &name)?;
        }
        let action = if enabled { "server_cert.enable" } else { "server_cert.disable" };
        let listeners = before.used_by.len();
        let after = BundleInfo { enabled, ..before.clone() };
        let impact = Impact::of(action, format!("{namespace}/{name}")).before(&before)?.after(&after)?;
        return Ok(impact.affects("listeners", listeners).into());
    }
    Ok(Outcome::Done(tagged(bundles.enable(&namespace, &name, enabled, &change.actor.0).await?)))
}

async fn builtin(State(bundles): State<Arc<Bundles>>) -> Result<Json<BundleInfo>, Problem> {
    Ok(Json(bundles.builtin()?))
}

async fn enable_builtin(
    bundles: State<Arc<Bundles>>,
    change: Change,
) -> Result<Outcome<Json<BundleInfo>>, Problem> {
    switch_builtin(bundles, change, true).await
}

async fn disable_builtin(
    bundles: State<Arc<Bundles>>,
    change: Change,
) -> Result<Outcome<Json<BundleInfo>>, Problem> {
    switch_builtin(bundles, change, false).await
}

async fn switch_builtin(
    State(bundles): State<Arc<Bundles>>,
    change: Change,
    enabled: bool,
) -> Result<Outcome<Json<BundleInfo>>, Problem> {
    if change.dry_run {
        let before = bundles.builtin()?;
        if !enabled {
            bundles.try_disable_builtin()?;
        }
        let action = if enabled { "server_cert.builtin_enable" } else { "server_cert.builtin_disable" };
        let listeners = before.used_by.len();
        return Ok(Impact::of(action, "builtin").before(&before)?.affects("listeners", listeners).into());
    }
    Ok(Outcome::Done(Json(bundles.enable_builtin(enabled, &change.actor.0).await?)))
}

impl From<BundleError> for Problem {
    fn from(error: BundleError) -> Self {
        let code = match &error {
            BundleError::NotFound { .. } => Code::NotFound,
            BundleError::Exists { .. } => Code::NameTaken,
            BundleError::Name(_) => Code::BadName,
            BundleError::Material(_) => Code::BadCertificate,
            BundleError::TooMany { .. } => Code::LimitExceeded,
            BundleError::InUse { .. } => Code::BundleInUse,
            BundleError::LastOne { .. } => Code::LastCertificate,
            BundleError::Tls(_) => Code::BadTls,
            BundleError::Retirement(RetirementError::TooMany(_)) => Code::TooManyTransitions,
            BundleError::Retirement(RetirementError::Unavailable(_)) => Code::TransitionsUnavailable,
            BundleError::Storage(StorageError::Conflict { .. }) => Code::RevisionConflict,
            // The others are about device certificates.
            BundleError::Storage(
                StorageError::Unavailable(_)
                | StorageError::Corrupt(_)
                | StorageError::DuplicateSerial { .. }
                | StorageError::KeyCompromised { .. }
                | StorageError::BadCursor,
            ) => Code::RegistryUnavailable,
            BundleError::Audit(_) => Code::AuditUnavailable,
        };
        let problem = Self::new(code, error.to_string());
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
