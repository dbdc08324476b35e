//! What needs no token: whether the broker lives, whether it is ready, its numbers. And the status page.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use mqgate_identity::time::UnixMillis;
use schemars::JsonSchema;
use serde::Serialize;

use super::api::{Api, Doc};
use super::{AdminParts, Code, Problem, Scope};
use crate::clock;
use crate::listener::ListenAddress;

pub(super) fn routes() -> Api<AdminParts> {
    Api::new("Pages")
        .route(Doc::page("/health", "page.health", "Whether the process answers."), health)
        .route(
            Doc::page("/ready", "page.ready", "Whether connections are taken; 503 and why, if not."),
            ready,
        )
}

pub(super) fn metrics_route() -> Api<AdminParts> {
    Api::new("Pages").route(
        Doc::page("/metrics", "page.metrics", "Numbers for Prometheus; `metrics.require_token` guards them.")
            .media(&["text/plain"])
            .problems(&[Code::MetricsFailed]),
        metrics,
    )
}

pub(super) fn status_route() -> Api<AdminParts> {
    Api::new("Broker").route(
        Doc::get("/status", "broker.status", Scope::StatusRead, "Version, listeners, whether it is ready."),
        status,
    )
}

#[derive(Serialize, JsonSchema)]
struct Health {
    status: &'static str,
}

/// The process answers: that is all this says.
async fn health() -> Json<Health> {
    Json(Health { status: "ok" })
}

#[derive(Serialize, JsonSchema)]
struct Ready {
    status: &'static str,
    /// What keeps connections out.
    reasons: Vec<String>,
}

/// Whether connections are taken; if not, why.
async fn ready(State(parts): State<AdminParts>) -> (StatusCode, Json<Ready>) {
    let obstacles = obstacles(&parts);
    let (status, word) = match obstacles.is_empty() {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    (status, Json(Ready { status: word, reasons: obstacles }))
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
    let text =
        parts.metrics.encode().map_err(|error| Problem::new(Code::MetricsFailed, error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response())
}

#[derive(Serialize, JsonSchema)]
struct Status {
    version: String,
    /// Unix time, milliseconds.
    started_at: UnixMillis,
    uptime_seconds: u64,
    ready: bool,
    /// What keeps connections out.
    reasons: Vec<String>,
    connections: usize,
    listeners: Vec<ListenerStatus>,
}

#[derive(Serialize, JsonSchema)]
struct ListenerStatus {
    name: String,
    /// `tcp`, `tls`, `ws`, `wss` or `quic`.
    #[serde(rename = "type")]
    kind: &'static str,
    auth_mode: &'static str,
    /// `open` or `shut`.
    state: &'static str,
    /// Address and port, or the path of a socket.
    #[schemars(with = "Option<String>")]
    address: Option<ListenAddress>,
}

async fn status(State(parts): State<AdminParts>) -> Json<Status> {
    let about = &parts.about;
    let listeners = (about.listeners)().into_iter().map(|listener| {
        let address = listener.address.borrow().clone();
        ListenerStatus {
            name: listener.name,
            kind: listener.kind,
            auth_mode: listener.auth_mode,
            state: if address.is_some() { "open" } else { "shut" },
            address,
        }
    });
    let listeners = listeners.collect();
    let reasons = obstacles(&parts);
    Json(Status {
        version: about.version.clone(),
        started_at: about.started_at,
        uptime_seconds: clock::now().0.saturating_sub(about.started_at.0) / 1_000,
        ready: reasons.is_empty(),
        reasons,
        connections: parts.broker.connections().len(),
        listeners,
    })
}
