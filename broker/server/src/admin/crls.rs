//! Revocation lists: which are in force, and have them read and fetched again.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::reason::Reason;

use super::{Actor, Page, Problem};
use crate::audit::AuditLog;
use crate::crl::{CrlStatus, RevocationService};
use crate::registry::RegistryError;

#[derive(Clone)]
struct Parts {
    service: Arc<RevocationService>,
    audit: Arc<AuditLog>,
}

/// To be merged with the other routes.
pub fn crl_routes(service: Arc<RevocationService>, audit: Arc<AuditLog>) -> Router {
    Router::new()
        .route("/crls", get(list))
        .route("/crls/refresh", post(refresh))
        .with_state(Parts { service, audit })
}

async fn list(State(parts): State<Parts>) -> Json<Page<CrlStatus>> {
    // May check signatures over large lists.
    let items = tokio::task::spawn_blocking(move || parts.service.status()).await.unwrap_or_default();
    Json(Page { items, next: None })
}

async fn refresh(
    State(parts): State<Parts>,
    Extension(actor): Extension<Actor>,
) -> Result<StatusCode, Problem> {
    let event = AuditEvent::new(names::ADMIN_ACTION, Outcome::Success, Reason::Ok)
        .actor(&*actor.0)
        .field("action", "crl.refresh");
    parts.audit.record_durable(event).await.map_err(RegistryError::from)?;
    parts.service.refresh();
    Ok(StatusCode::ACCEPTED)
}
