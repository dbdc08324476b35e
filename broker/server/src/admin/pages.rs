//! What needs no token: whether the broker lives, whether it is ready, its numbers. And the status page.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use super::{AdminParts, Problem};
use crate::clock;

pub(super) fn routes() -> Router<AdminParts> {
    Router::new().route("/health", get(health)).route("/ready", get(ready))
}

pub(super) fn metrics_route() -> Router<AdminParts> {
    Router::new().route("/metrics", get(metrics))
}

pub(super) fn status_route() -> Router<AdminParts> {
    Router::new().route("/status", get(status))
}

/// The process answers: that is all this says.
async fn health() -> Json<serde_json::Value> {
    Json(json!({ "status": "ok" }))
}

/// Whether connections are taken; if not, why.
async fn ready(State(parts): State<AdminParts>) -> Response {
    let obstacles = obstacles(&parts);
    let (status, word) = match obstacles.is_empty() {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    (status, Json(json!({ "status": word, "reasons": obstacles }))).into_response()
}

/// What keeps connections out: obstacles, and listeners that are not open yet.
fn obstacles(parts: &AdminParts) -> Vec<String> {
    let mut obstacles = parts.readiness.obstacles();
    if obstacles.is_empty() {
        let listeners = (parts.about.listeners)();
        let shut = listeners.iter().filter(|listener| listener.address.borrow().is_none());
        obstacles.extend(shut.map(|listener| format!("listener \"{}\" is not open", listener.name)));
    }
    obstacles
}

async fn metrics(State(parts): State<AdminParts>) -> Result<Response, Problem> {
    let text = parts.metrics.encode().map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "metrics_failed", error.to_string())
    })?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response())
}

async fn status(State(parts): State<AdminParts>) -> Json<serde_json::Value> {
    let about = &parts.about;
    let listeners: Vec<_> = (about.listeners)()
        .iter()
        .map(|listener| {
            let address = listener.address.borrow().clone();
            json!({
                "name": listener.name,
                "type": listener.kind,
                "auth_mode": listener.auth_mode,
                "state": if address.is_some() { "open" } else { "shut" },
                "address": address,
            })
        })
        .collect();
    let obstacles = obstacles(&parts);
    Json(json!({
        "version": about.version,
        "started_at": about.started_at,
        "uptime_seconds": clock::now().0.saturating_sub(about.started_at.0) / 1_000,
        "ready": obstacles.is_empty(),
        "reasons": obstacles,
        "connections": parts.broker.connections().len(),
        "listeners": listeners,
    }))
}
