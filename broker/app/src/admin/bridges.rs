//! `/api/v1/bridges`: what bridges do, and starting, stopping and reconnecting them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::reason::Reason;
use mqgate_server::admin::api::Outcome as Made;
use mqgate_server::admin::{Actor, Api, Change, Code, Doc, Impact, Page, Problem, Scope};
use mqgate_server::audit::AuditLog;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::bridge::{Bridges, Unknown};

/// What the routes work on.
#[derive(Clone)]
pub struct BridgeAdmin {
    bridges: Arc<Bridges>,
    audit: Arc<AuditLog>,
}

/// The routes, to be merged under `/api/v1`.
pub fn router(bridges: Arc<Bridges>, audit: Arc<AuditLog>) -> Api {
    routes().with_state(BridgeAdmin { bridges, audit })
}

/// For the description, too.
pub fn routes() -> Api<BridgeAdmin> {
    let (read, write) = (Scope::BridgesRead, Scope::BridgesWrite);
    Api::new("Bridges")
        .route(Doc::get("/bridges", "bridge.list", read, "Lists bridges and how they are."), list)
        .route(
            Doc::get("/bridges/{name}", "bridge.show", read, "One bridge.").problems(&[Code::NoSuchBridge]),
            show,
        )
        .route(
            Doc::post("/bridges/{name}/start", "bridge.start", write, "Starts a bridge that was stopped.")
                .problems(&[Code::NoSuchBridge]),
            start,
        )
        .route(
            Doc::post("/bridges/{name}/stop", "bridge.stop", write, "Stops a bridge; what waits stays.")
                .problems(&[Code::NoSuchBridge]),
            stop,
        )
        .route(
            Doc::post("/bridges/{name}/reconnect", "bridge.reconnect", write, "Connects anew.")
                .problems(&[Code::NoSuchBridge]),
            reconnect,
        )
}

async fn list(State(admin): State<BridgeAdmin>) -> Json<Page<Value>> {
    Json(Page::whole(admin.bridges.list()))
}

#[derive(Serialize, JsonSchema)]
struct Started {
    /// False: it ran already.
    started: bool,
}

#[derive(Serialize, JsonSchema)]
struct Stopped {
    /// False: it stood already.
    stopped: bool,
}

#[derive(Serialize, JsonSchema)]
struct Reconnecting {
    /// False: it does not run.
    reconnecting: bool,
}

async fn show(State(admin): State<BridgeAdmin>, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    admin.bridges.show(&name).map(Json).map_err(no_such_bridge)
}

async fn start(
    State(admin): State<BridgeAdmin>,
    change: Change,
    Path(name): Path<String>,
) -> Result<Made<Json<Started>>, Problem> {
    if change.dry_run {
        return admin.tried("bridge.start", &name);
    }
    admin.note(&change.actor, "bridge.start", &name).await?;
    let started = admin.bridges.start(&name).map_err(no_such_bridge)?;
    Ok(Made::Done(Json(Started { started })))
}

async fn stop(
    State(admin): State<BridgeAdmin>,
    change: Change,
    Path(name): Path<String>,
) -> Result<Made<Json<Stopped>>, Problem> {
    if change.dry_run {
        return admin.tried("bridge.stop", &name);
    }
    admin.note(&change.actor, "bridge.stop", &name).await?;
    let stopped = admin.bridges.stop(&name).await.map_err(no_such_bridge)?;
    Ok(Made::Done(Json(Stopped { stopped })))
}

async fn reconnect(
    State(admin): State<BridgeAdmin>,
    change: Change,
    Path(name): Path<String>,
) -> Result<Made<Json<Reconnecting>>, Problem> {
    if change.dry_run {
        return admin.tried("bridge.reconnect", &name);
    }
    admin.note(&change.actor, "bridge.reconnect", &name).await?;
    let reconnecting = admin.bridges.reconnect(&name).map_err(no_such_bridge)?;
    Ok(Made::Done(Json(Reconnecting { reconnecting })))
}

impl BridgeAdmin {
    fn tried<T>(&self, action: &'static str, name: &str) -> Result<Made<T>, Problem> {
        let bridge = self.bridges.show(name).map_err(no_such_bridge)?;
        Ok(Impact::of(action, name).before(&bridge)?.into())
    }

    /// Writes down what is about to be done: it is on the disk when this returns; without that it must not be.
    async fn note(&self, actor: &Actor, action: &'static str, name: &str) -> Result<(), Problem> {
        self.bridges.show(name).map_err(no_such_bridge)?;
        let event = AuditEvent::new(names::ADMIN_ACTION, Outcome::Success, Reason::AdminAction)
            .actor(&*actor.0)
            .field("action", action)
            .field("bridge", name);
        self.audit.admit_durable(event).await.map(drop).map_err(|refused| {
            let detail =
                format!("{refused}: what cannot be written down is not done; free space for the audit log");
            Problem::new(Code::AuditUnavailable, detail)
        })
    }
}

fn no_such_bridge(Unknown: Unknown) -> Problem {
    let detail = "there is no bridge of this name; `mqgate bridge list` shows those there are";
    Problem::new(Code::NoSuchBridge, detail)
}
