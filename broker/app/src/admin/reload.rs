//! `/api/v1/config`, `/api/v1/listeners/{name}` and `/api/v1/transitions`: change while the broker runs.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use mqgate_identity::time::UnixMillis;
use mqgate_server::admin::{Actor, Problem};
use mqgate_server::clock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::units::Span;
use crate::reload::ledger::{LedgerError, Transition};
use crate::reload::{Disconnect, ReloadError, Reloader, Report, Request};

type Reloading = Arc<Reloader>;

/// The routes, to be merged under `/api/v1`.
pub fn router(reloader: Reloading) -> Router {
    Router::new()
        .route("/config", get(show))
        .route("/config/reload", post(reload))
        .route("/listeners/{name}", get(listener).patch(change))
        .route("/listeners/{name}/auth-mode", axum::routing::put(auth_mode))
        .route("/transitions", get(transitions))
        .route("/transitions/{id}", get(transition))
        .route("/transitions/{id}/end", post(end))
        .route("/transitions/{id}/extend", post(extend))
        .with_state(reloader)
}

/// How a change is to be made; in the query, so that every change takes it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct How {
    #[serde(default)]
    dry_run: bool,
    grace: Option<Span>,
    #[serde(default)]
    disconnect: Disconnect,
}

impl How {
    fn request(self, actor: &Actor) -> Request {
        Request {
            actor: actor.0.to_string(),
            dry_run: self.dry_run,
            grace: self.grace.map(|grace| grace.0),
            disconnect: self.disconnect,
            overrides: None,
        }
    }
}

async fn show(State(reloader): State<Reloading>) -> Json<Value> {
    let (config, overrides, waiting) = reloader.in_force().await;
    Json(json!({
        "config": crate::config::show::without_secrets(&config),
        "overrides": overrides.shown(),
        "restart_required": waiting,
    }))
}

async fn reload(
    State(reloader): State<Reloading>,
    Extension(actor): Extension<Actor>,
    Query(how): Query<How>,
) -> Result<Json<Report>, Problem> {
    Ok(Json(reloader.reload(how.request(&actor)).await.map_err(refused)?))
}

async fn listener(
    State(reloader): State<Reloading>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    let (config, overrides, _) = reloader.in_force().await;
    let Some(listener) = config.listeners.get(&name) else { return Err(no_listener(&name)) };
    let address = reloader.listeners().about().into_iter().find(|about| about.name == name);
    let address = address.and_then(|about| about.address.borrow().as_ref().map(ToString::to_string));
    Ok(Json(json!({
        "name": name,
        "address": address,
        "settings": listener,
        "overrides": overrides.shown()["listeners"][&name],
    })))
}

/// Settings of a listener, as in the configuration; `null` lets the file's value hold again.
async fn change(
    State(reloader): State<Reloading>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
    Query(how): Query<How>,
    body: Result<Json<Value>, JsonRejection>,
) -> Result<Json<Report>, Problem> {
    let Json(patch) = body.map_err(bad_json)?;
    if !patch.is_object() {
        return Err(Problem::bad_request("bad_request", "an object with settings of the listener is needed"));
    }
    patched(&reloader, &actor, &name, how, patch).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthModeBody {
    auth_mode: String,
}

async fn auth_mode(
    State(reloader): State<Reloading>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
    Query(how): Query<How>,
    body: Result<Json<AuthModeBody>, JsonRejection>,
) -> Result<Json<Report>, Problem> {
    let Json(body) = body.map_err(bad_json)?;
    patched(&reloader, &actor, &name, how, json!({ "auth_mode": body.auth_mode })).await
}

async fn patched(
    reloader: &Reloading,
    actor: &Actor,
    name: &str,
    how: How,
    patch: Value,
) -> Result<Json<Report>, Problem> {
    let (config, overrides, _) = reloader.in_force().await;
    if !config.listeners.contains_key(name) {
        return Err(no_listener(name));
    }
    let mut request = how.request(actor);
    request.overrides = Some(overrides.patched(&["listeners", name], patch));
    let report = reloader.reload(request).await.map_err(refused)?;
    Ok(Json(report))
}

#[derive(Serialize)]
struct Shown {
    id: String,
    material: crate::reload::ledger::Material,
    name: String,
    fingerprint: String,
    subject: String,
    not_after: i64,
    listeners: Vec<String>,
    started_at: u64,
    ends_at: u64,
    actor: String,
    /// Live clients that still use what was replaced.
    clients: usize,
}

fn shown(reloader: &Reloader, transition: Transition) -> Shown {
    let clients = reloader.transitions().clients(&transition);
    Shown {
        id: transition.id,
        material: transition.material,
        name: transition.name,
        fingerprint: transition.fingerprint.to_hex(),
        subject: transition.subject,
        not_after: transition.not_after.0,
        listeners: transition.listeners,
        started_at: transition.started_at.0,
        ends_at: transition.ends_at.0,
        actor: transition.actor,
        clients,
    }
}

async fn transitions(State(reloader): State<Reloading>) -> Json<Value> {
    let list = reloader.transitions().list();
    let items: Vec<Shown> = list.into_iter().map(|transition| shown(&reloader, transition)).collect();
    Json(json!({ "items": items }))
}

async fn transition(
    State(reloader): State<Reloading>,
    Path(id): Path<String>,
) -> Result<Json<Shown>, Problem> {
    let found = reloader.transitions().list().into_iter().find(|transition| transition.id == id);
    found.map(|found| Json(shown(&reloader, found))).ok_or_else(|| of_ledger(LedgerError::NoSuch(id)))
}

async fn end(
    State(reloader): State<Reloading>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<Shown>, Problem> {
    let ended = reloader.transitions().end(&id, &actor.0).map_err(of_ledger)?;
    Ok(Json(shown(&reloader, ended)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExtendBody {
    /// From now.
    grace: Span,
}

async fn extend(
    State(reloader): State<Reloading>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    body: Result<Json<ExtendBody>, JsonRejection>,
) -> Result<Json<Shown>, Problem> {
    let Json(body) = body.map_err(bad_json)?;
    let ends_at = from_now(body.grace.0);
    let extended = reloader.transitions().extend(&id, ends_at, &actor.0).map_err(of_ledger)?;
    Ok(Json(shown(&reloader, extended)))
}

fn from_now(time: Duration) -> UnixMillis {
    let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    UnixMillis(clock::now().0.saturating_add(milliseconds))
}

fn no_listener(name: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "there is no listener of this name").about(name)
}

fn bad_json(rejection: JsonRejection) -> Problem {
    Problem::bad_request("bad_request", rejection.body_text())
}

fn refused(error: ReloadError) -> Problem {
    let (status, code) = match &error {
        ReloadError::Config(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad_configuration"),
        ReloadError::Refused(_) => (StatusCode::CONFLICT, "refused"),
        ReloadError::RolledBack(_) => (StatusCode::CONFLICT, "rolled_back"),
    };
    // The audit log has `config.refused`.
    Problem::new(status, code, error.to_string()).written_down()
}

fn of_ledger(error: LedgerError) -> Problem {
    let (status, code) = match &error {
        LedgerError::NoSuch(_) => (StatusCode::NOT_FOUND, "not_found"),
        LedgerError::Past => (StatusCode::BAD_REQUEST, "in_the_past"),
        LedgerError::TooMany => (StatusCode::CONFLICT, "too_many_transitions"),
        LedgerError::Disk(_) => (StatusCode::SERVICE_UNAVAILABLE, "disk"),
    };
    Problem::new(status, code, error.to_string())
}
