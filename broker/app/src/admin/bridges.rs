//! `/api/v1/bridges`: what bridges do, and starting, stopping and reconnecting them.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::reason::Reason;
use mqgate_server::admin::{Actor, Problem};
use mqgate_server::audit::AuditLog;
use serde_json::{Value, json};

use crate::bridge::{Bridges, Unknown};

#[derive(Clone)]
struct BridgeAdmin {
    bridges: Arc<Bridges>,
    audit: Arc<AuditLog>,
}

/// The routes, to be merged under `/api/v1`.
pub fn router(bridges: Arc<Bridges>, audit: Arc<AuditLog>) -> Router {
    Router::new()
        .route("/bridges", get(list))
        .route("/bridges/{name}", get(show))
        .route("/bridges/{name}/start", post(start))
        .route("/bridges/{name}/stop", post(stop))
        .route("/bridges/{name}/reconnect", post(reconnect))
        .with_state(BridgeAdmin { bridges, audit })
}

async fn list(State(admin): State<BridgeAdmin>) -> Json<Value> {
    Json(json!({ "items": admin.bridges.list() }))
}

async fn show(State(admin): State<BridgeAdmin>, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    admin.bridges.show(&name).map(Json).map_err(no_such_bridge)
}

async fn start(
    State(admin): State<BridgeAdmin>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    admin.note(&actor, "bridge.start", &name)?;
    let started = admin.bridges.start(&name).map_err(no_such_bridge)?;
    Ok(Json(json!({ "started": started })))
}

async fn stop(
    State(admin): State<BridgeAdmin>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    admin.note(&actor, "bridge.stop", &name)?;
    let stopped = admin.bridges.stop(&name).await.map_err(no_such_bridge)?;
    Ok(Json(json!({ "stopped": stopped })))
}

async fn reconnect(
    State(admin): State<BridgeAdmin>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    admin.note(&actor, "bridge.reconnect", &name)?;
    let asked = admin.bridges.reconnect(&name).map_err(no_such_bridge)?;
    Ok(Json(json!({ "reconnecting": asked })))
}

impl BridgeAdmin {
    /// Writes down what is about to be done; without room for that it must not be.
    fn note(&self, actor: &Actor, action: &'static str, name: &str) -> Result<(), Problem> {
        self.bridges.show(name).map_err(no_such_bridge)?;
        let event = AuditEvent::new(names::ADMIN_ACTION, Outcome::Success, Reason::AdminAction)
            .actor(&*actor.0)
            .field("action", action)
            .field("bridge", name);
        self.audit.try_record(event).map(drop).map_err(|refused| {
            let detail =
                format!("{refused}: what cannot be written down is not done; free space for the audit log");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable", detail)
        })
    }
}

fn no_such_bridge(Unknown: Unknown) -> Problem {
    let detail = "there is no bridge of this name; `mqgate bridge list` shows those there are";
    Problem::new(StatusCode::NOT_FOUND, "no_such_bridge", detail)
}
