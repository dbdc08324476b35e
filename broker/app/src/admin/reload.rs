//! `/api/v1/config`, `/api/v1/listeners/{name}` and `/api/v1/transitions`: change while the broker runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use mqgate_identity::certificate::certificates_from_pem;
use mqgate_identity::evaluation::Step;
use mqgate_identity::time::UnixMillis;
use mqgate_server::admin::{Actor, Problem};
use mqgate_server::clock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::units::Span;
use crate::reload::ledger::{LedgerError, Transition};
use crate::reload::{Disconnect, Patch, ReloadError, Reloader, Report, Request};

type Reloading = Arc<Reloader>;

/// The routes, to be merged under `/api/v1`.
pub fn router(reloader: Reloading) -> Router {
    Router::new()
        .route("/config", get(show))
        .route("/config/reload", post(reload))
        .route("/listeners", get(listeners))
        .route("/listeners/{name}", get(listener).patch(change))
        .route("/listeners/{name}/auth-mode", axum::routing::put(auth_mode))
        .route("/listeners/{name}/explain", post(explain))
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
            patch: None,
        }
    }
}

async fn show(State(reloader): State<Reloading>) -> Json<Value> {
    let (config, overrides, waiting) = reloader.in_force().await;
    Json(json!({
        "config": crate::config::show::without_secrets(&config),
        "overrides": crate::config::show::hide_secrets(overrides.shown()),
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
    if !config.listeners.contains_key(&name) {
        return Err(no_listener(&name));
    }
    let shown = reloader.listeners().shown().into_iter().find(|shown| shown.name == name);
    let mut answer = json!({
        "name": name,
        "settings": crate::config::show::without_secrets(&config)["listeners"][&name],
        "overrides": crate::config::show::hide_secrets(overrides.shown())["listeners"][&name],
    });
    // One that was just added may not run yet.
    if let Some(Value::Object(shown)) = shown.map(|shown| json!(shown)) {
        for (key, value) in shown {
            answer[key] = value;
        }
    }
    Ok(Json(answer))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChainBody {
    /// What a client would send: its certificate, then intermediates.
    pem: String,
}

/// Would this chain get through the handshake now, and if not, at which step; nothing is changed by asking.
async fn explain(
    State(reloader): State<Reloading>,
    Path(name): Path<String>,
    body: Result<Json<ChainBody>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let Json(body) = body.map_err(bad_json)?;
    let (config, ..) = reloader.in_force().await;
    if !config.listeners.contains_key(&name) {
        return Err(no_listener(&name));
    }
    let chain = certificates_from_pem(body.pem.as_bytes())
        .map_err(|error| Problem::bad_request("bad_certificate", error.to_string()))?;
    Ok(Json(match reloader.live().judge_chain(&name, &chain) {
        Ok(path) => json!({
            "admitted": true,
            "ca": &*path.anchor.name,
            "depth": path.depth,
            "not_after": path.not_after.0,
            "remarks": path.lints.iter().map(|lint| lint.as_str()).collect::<Vec<_>>(),
        }),
        Err(rejection) => json!({
            "admitted": false,
            "step": Step::of(rejection.reason).as_str(),
            "reason": rejection.reason.as_str(),
            "detail": rejection.detail,
        }),
    }))
}

async fn listeners(State(reloader): State<Reloading>) -> Json<Value> {
    Json(json!({ "items": reloader.listeners().shown() }))
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
    let (config, ..) = reloader.in_force().await;
    if !config.listeners.contains_key(name) {
        return Err(no_listener(name));
    }
    let named = files_in(&patch);
    if let Some(file) = named.iter().find(|file| !is_allowed(file, &config.admin.allow_paths)) {
        let detail = format!(
            "`{file}` may not be named over the API: write it into the configuration, have its folder in \
             `admin.allow_paths`, or have the broker keep the certificate (`mqgate server-cert add`, `mqgate ca add`)"
        );
        return Err(Problem::new(StatusCode::FORBIDDEN, "path_not_allowed", detail).about(name));
    }
    let mut request = how.request(actor);
    request.patch = Some(Patch { listener: name.to_owned(), settings: patch });
    let report = reloader.reload(request).await.map_err(refused)?;
    Ok(Json(report))
}

/// Files, and other places outside of the broker, that settings of a listener name.
fn files_in(settings: &Value) -> Vec<String> {
    const KEYS: [&str; 5] = ["certfile", "keyfile", "cacertfile", "cacertfiles", "issuer_pem"];
    fn walk(value: &Value, is_file: bool, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    walk(value, KEYS.contains(&key.as_str()), found);
                    if let ("password", Some(text)) = (key.as_str(), value.as_str()) {
                        found.extend(text.strip_prefix("file://").map(str::to_owned));
                        // The environment is no folder: nobody is let in there.
                        found.extend(text.starts_with("env:").then(|| text.to_owned()));
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, is_file, found)),
            Value::String(text) if is_file => found.push(text.clone()),
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(settings, false, &mut found);
    found
}

/// Whether a file lies in one of the folders, links followed.
fn is_allowed(file: &str, folders: &[PathBuf]) -> bool {
    let Ok(file) = std::path::Path::new(file).canonicalize() else { return false };
    let inside = |folder: &PathBuf| folder.canonicalize().is_ok_and(|folder| file.starts_with(folder));
    folders.iter().any(inside)
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
        ReloadError::Interrupted(_) => (StatusCode::INTERNAL_SERVER_ERROR, "interrupted"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_need_a_folder_that_is_allowed() {
        let settings = json!({
            "certfile": "/a", "keyfile": "/b", "password": "file:///c", "cacertfiles": ["/d", "/e"], "depth": 1,
            "certificates": [{ "certfile": "/f", "keyfile": "/g", "password": "env:X", "sni": "h" }],
            "ocsp": { "issuer_pem": "/i", "responder_url": "http://j" }, "auth_mode": "mutual", "cacertfile": null,
        });
        let mut named = files_in(&settings);
        named.sort();
        assert_eq!(named, ["/a", "/b", "/c", "/d", "/e", "/f", "/g", "/i", "env:X"]);
        let folder = tempfile::tempdir().expect("a folder");
        let (inside, outside) = (folder.path().join("inside"), folder.path().join("outside"));
        std::fs::create_dir(&inside).expect("made");
        for file in [inside.join("a.pem"), outside.clone()] {
            std::fs::write(file, "x").expect("written");
        }
        std::os::unix::fs::symlink(&outside, inside.join("link.pem")).expect("linked");
        let allowed = |file: PathBuf| is_allowed(&file.display().to_string(), std::slice::from_ref(&inside));
        assert!(allowed(inside.join("a.pem")));
        for refused in [
            outside,
            inside.join("link.pem"),
            inside.join("../outside"),
            inside.join("absent"),
            "env:X".into(),
        ] {
            assert!(!allowed(refused.clone()), "{}", refused.display());
        }
        assert!(!is_allowed(&inside.join("a.pem").display().to_string(), &[]));
    }
}
