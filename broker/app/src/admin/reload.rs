//! `/api/v1/config`, `/api/v1/listeners/{name}` and `/api/v1/transitions`: change while the broker runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use mqgate_identity::certificate::certificates_from_pem;
use mqgate_identity::evaluation::Step;
use mqgate_identity::time::UnixMillis;
use mqgate_server::admin::api::Outcome;
use mqgate_server::admin::{Api, Change, Code, Doc, IfMatch, Impact, Page, Problem, Scope, Tagged, bad_json};
use mqgate_server::clock;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::config::units::Span;
use crate::reload::ledger::{LedgerError, Transition};
use crate::reload::{Disconnect, Patch, ReloadError, Reloader, Report, Request};
use crate::run::listeners::ShownListener;

type Reloading = Arc<Reloader>;

/// The routes, to be merged under `/api/v1`.
pub fn router(reloader: Reloading) -> Api {
    routes().with_state(reloader)
}

/// What a change of settings may be refused for.
const REFUSALS: &[Code] =
    &[Code::NotFound, Code::BadConfiguration, Code::Refused, Code::RolledBack, Code::Interrupted];
const OF_LISTENERS: &[Code] = &[
    Code::NotFound,
    Code::BadConfiguration,
    Code::Refused,
    Code::RolledBack,
    Code::Interrupted,
    Code::PathNotAllowed,
];

/// For the description, too.
pub fn routes() -> Api<Reloading> {
    let (read, write) = (Scope::ConfigRead, Scope::ConfigWrite);
    let missing: &[Code] = &[Code::NotFound];
    Api::new("Configuration")
        .route(Doc::get("/config", "config.show", read, "What is in force, secrets left out."), show)
        .route(
            Doc::post("/config/reload", "config.reload", write, "Reads the configuration anew.")
                .problems(REFUSALS),
            reload,
        )
        .route(Doc::get("/listeners", "listener.list", read, "Lists listeners."), listeners)
        .route(
            Doc::get("/listeners/{name}", "listener.show", read, "One listener and its settings.")
                .problems(missing),
            listener,
        )
        .route(
            Doc::patch(
                "/listeners/{name}",
                "listener.change",
                write,
                "Changes settings of a listener (RFC 7396: `null` lets the file's value hold again).",
            )
            .problems(OF_LISTENERS),
            change,
        )
        .route(
            Doc::put(
                "/listeners/{name}/auth-mode",
                "listener.auth_mode",
                write,
                "Whether it asks for certificates.",
            )
            .problems(OF_LISTENERS),
            auth_mode,
        )
        .route(
            Doc::ask(
                "/listeners/{name}/explain",
                "listener.explain",
                read,
                "Would this chain get through the handshake, and if not, at which step.",
            )
            .problems(&[Code::NotFound, Code::BadCertificate]),
            explain,
        )
        .route(
            Doc::get("/transitions", "transition.list", read, "What was replaced and is still valid."),
            transitions,
        )
        .route(
            Doc::get("/transitions/{id}", "transition.show", read, "One transition.").problems(missing),
            transition,
        )
        .route(
            Doc::post(
                "/transitions/{id}/end",
                "transition.end",
                write,
                "What was replaced is valid no longer.",
            )
            .problems(&[Code::NotFound, Code::Disk]),
            end,
        )
        .route(
            Doc::post("/transitions/{id}/extend", "transition.extend", write, "Moves its end.").problems(&[
                Code::NotFound,
                Code::InThePast,
                Code::TooManyTransitions,
                Code::Disk,
            ]),
            extend,
        )
}

/// How a change is to be made; in the query, so that every change takes it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct How {
    /// How long what is replaced stays valid beside it; `reload.grace` otherwise.
    grace: Option<Span>,
    #[serde(default)]
    disconnect: Disconnect,
}

impl How {
    fn request(self, change: &Change) -> Request {
        Request {
            actor: change.actor.0.to_string(),
            dry_run: change.dry_run,
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
    change: Change,
    Query(how): Query<How>,
) -> Result<Json<Report>, Problem> {
    Ok(Json(reloader.reload(how.request(&change)).await.map_err(refused)?))
}

/// Of a listener: its settings have no number, so it is made from them.
async fn revision(reloader: &Reloader, name: &str) -> Result<u64, Problem> {
    let (config, overrides, _) = reloader.in_force().await;
    if !config.listeners.contains_key(name) {
        return Err(no_listener(name));
    }
    let whole = json!([config.listeners[name], overrides.shown()["listeners"][name]]).to_string();
    let hash = Sha256::digest(whole.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    Ok(u64::from_be_bytes(first))
}

async fn listener(
    State(reloader): State<Reloading>,
    Path(name): Path<String>,
) -> Result<Tagged<Value>, Problem> {
    let revision = revision(&reloader, &name).await?;
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
    Ok(Tagged::new(revision, answer))
}

/// Certificates, PEM.
#[derive(Deserialize, JsonSchema)]
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
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    let (config, ..) = reloader.in_force().await;
    if !config.listeners.contains_key(&name) {
        return Err(no_listener(&name));
    }
    let chain = certificates_from_pem(body.pem.as_bytes())
        .map_err(|error| Problem::new(Code::BadCertificate, error.to_string()))?;
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

async fn listeners(State(reloader): State<Reloading>) -> Json<Page<ShownListener>> {
    Json(Page::whole(reloader.listeners().shown()))
}

/// Settings of a listener, as in the configuration; `null` lets the file's value hold again.
async fn change(
    State(reloader): State<Reloading>,
    change: Change,
    if_match: IfMatch,
    Path(name): Path<String>,
    Query(how): Query<How>,
    body: Result<Json<Value>, JsonRejection>,
) -> Result<Json<Report>, Problem> {
    let Json(patch) = body.map_err(|rejection| bad_json(&rejection))?;
    if !patch.is_object() {
        return Err(Problem::new(Code::BadBody, "an object with settings of the listener is needed"));
    }
    if_match.check(revision(&reloader, &name).await?)?;
    patched(&reloader, &change, &name, how, patch).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AuthModeBody {
    /// `one-way`, `mutual` or `optional`, as in the configuration.
    auth_mode: String,
}

async fn auth_mode(
    State(reloader): State<Reloading>,
    change: Change,
    if_match: IfMatch,
    Path(name): Path<String>,
    Query(how): Query<How>,
    body: Result<Json<AuthModeBody>, JsonRejection>,
) -> Result<Json<Report>, Problem> {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    if_match.check(revision(&reloader, &name).await?)?;
    patched(&reloader, &change, &name, how, json!({ "auth_mode": body.auth_mode })).await
}

async fn patched(
    reloader: &Reloading,
    change: &Change,
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
        return Err(Problem::new(Code::PathNotAllowed, detail).about(name));
    }
    let mut request = how.request(change);
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

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Transition")]
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

async fn transitions(State(reloader): State<Reloading>) -> Json<Page<Shown>> {
    let list = reloader.transitions().list();
    Json(Page::whole(list.into_iter().map(|transition| shown(&reloader, transition)).collect()))
}

fn find(reloader: &Reloader, id: &str) -> Result<Shown, Problem> {
    let found = reloader.transitions().list().into_iter().find(|transition| transition.id == id);
    found.map(|found| shown(reloader, found)).ok_or_else(|| of_ledger(LedgerError::NoSuch(id.to_owned())))
}

async fn transition(
    State(reloader): State<Reloading>,
    Path(id): Path<String>,
) -> Result<Json<Shown>, Problem> {
    find(&reloader, &id).map(Json)
}

async fn end(
    State(reloader): State<Reloading>,
    change: Change,
    Path(id): Path<String>,
) -> Result<Outcome<Json<Shown>>, Problem> {
    if change.dry_run {
        let before = find(&reloader, &id)?;
        let clients = before.clients;
        return Ok(Impact::of("transition.end", id).before(&before)?.affects("connections", clients).into());
    }
    let ended = reloader.transitions().end(&id, &change.actor.0).map_err(of_ledger)?;
    Ok(Outcome::Done(Json(shown(&reloader, ended))))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ExtendBody {
    /// From now.
    grace: Span,
}

async fn extend(
    State(reloader): State<Reloading>,
    change: Change,
    Path(id): Path<String>,
    body: Result<Json<ExtendBody>, JsonRejection>,
) -> Result<Outcome<Json<Shown>>, Problem> {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    let ends_at = from_now(body.grace.0);
    if change.dry_run {
        let before = find(&reloader, &id)?;
        return Ok(Impact::of("transition.extend", id).before(&before)?.after(&ends_at)?.into());
    }
    let extended = reloader.transitions().extend(&id, ends_at, &change.actor.0).map_err(of_ledger)?;
    Ok(Outcome::Done(Json(shown(&reloader, extended))))
}

fn from_now(time: Duration) -> UnixMillis {
    let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    UnixMillis(clock::now().0.saturating_add(milliseconds))
}

fn no_listener(name: &str) -> Problem {
    Problem::new(Code::NotFound, "there is no listener of this name").about(name)
}

fn refused(error: ReloadError) -> Problem {
    let code = match &error {
        ReloadError::Config(_) => Code::BadConfiguration,
        ReloadError::Refused(_) => Code::Refused,
        ReloadError::RolledBack(_) => Code::RolledBack,
        ReloadError::Interrupted(_) => Code::Interrupted,
    };
    // The audit log has `config.refused`.
    Problem::new(code, error.to_string()).written_down()
}

fn of_ledger(error: LedgerError) -> Problem {
    let code = match &error {
        LedgerError::NoSuch(_) => Code::NotFound,
        LedgerError::Past => Code::InThePast,
        LedgerError::TooMany => Code::TooManyTransitions,
        LedgerError::Disk(_) => Code::Disk,
    };
    Problem::new(code, error.to_string())
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
