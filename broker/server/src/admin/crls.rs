//! Revocation lists: which are in force, and have them read and fetched again.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::reason::Reason;

use super::api::{Api, Change, Doc, Impact, Outcome as Made, Route};
use super::{Page, Problem, Scope};
use crate::audit::AuditLog;
use crate::crl::{CrlStatus, RevocationService};
use crate::registry::RegistryError;

#[derive(Clone)]
struct Parts {
    service: Arc<RevocationService>,
    audit: Arc<AuditLog>,
}

/// To be merged with the other routes.
pub fn crl_routes(service: Arc<RevocationService>, audit: Arc<AuditLog>) -> Api {
    described().with_state(Parts { service, audit })
}

/// For the description.
pub fn routes() -> Vec<Route> {
    described().routes().to_vec()
}

fn described() -> Api<Parts> {
    Api::new("Revocation lists")
        .route(Doc::get("/crls", "crl.list", Scope::CrlsRead, "Which revocation lists are in force."), list)
        .route(
            Doc::post(
                "/crls/refresh",
                "crl.refresh",
                Scope::CrlsWrite,
                "Has all of them read and fetched again.",
            )
            .accepted(),
            refresh,
        )
}

async fn list(State(parts): State<Parts>) -> Json<Page<CrlStatus>> {
    // May check signatures over large lists.
    let items = tokio::task::spawn_blocking(move || parts.service.status()).await.unwrap_or_default();
    Json(Page::whole(items))
}

async fn refresh(State(parts): State<Parts>, change: Change) -> Result<Made<StatusCode>, Problem> {
    if change.dry_run {
        let lists = tokio::task::spawn_blocking(move || parts.service.status()).await.unwrap_or_default();
        return Ok(Impact::of("crl.refresh", "all").affects("lists", lists.len()).into());
    }
    let event = AuditEvent::new(names::ADMIN_ACTION, Outcome::Success, Reason::Ok)
        .actor(&*change.actor.0)
        .field("action", "crl.refresh");
    parts.audit.record_durable(event).await.map_err(RegistryError::from)?;
    parts.service.refresh();
    Ok(Made::Done(StatusCode::ACCEPTED))
}
