//! `/api/v1/bridges`: what bridges do, and starting, stopping and reconnecting them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use mqgate_server::admin::api::Outcome as Made;
use mqgate_server::admin::{Api, Change, Code, Doc, Impact, Page, Problem, Scope, note};
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
    let impact = admin.impact("bridge.start", &name)?;
    if change.dry_run {
        return Ok(impact.into());
    }
    note(&admin.audit, &change.actor, &impact, &[("bridge", &name)]).await?;
    let started = admin.bridges.start(&name).map_err(no_such_bridge)?;
    Ok(Made::Done(Json(Started { started })))
}

async fn stop(
    State(admin): State<BridgeAdmin>,
    change: Change,
    Path(name): Path<String>,
) -> Result<Made<Json<Stopped>>, Problem> {
    let impact = admin.impact("bridge.stop", &name)?;
    if change.dry_run {
        return Ok(impact.into());
    }
    note(&admin.audit, &change.actor, &impact, &[("bridge", &name)]).await?;
    let stopped = admin.bridges.stop(&name).await.map_err(no_such_bridge)?;
    Ok(Made::Done(Json(Stopped { stopped })))
}

async fn reconnect(
    State(admin): State<BridgeAdmin>,
    change: Change,
    Path(name): Path<String>,
) -> Result<Made<Json<Reconnecting>>, Problem> {
    let impact = admin.impact("bridge.reconnect", &name)?;
    if change.dry_run {
        return Ok(impact.into());
    }
    note(&admin.audit, &change.actor, &impact, &[("bridge", &name)]).await?;
    let reconnecting = admin.bridges.reconnect(&name).map_err(no_such_bridge)?;
    Ok(Made::Done(Json(Reconnecting { reconnecting })))
}

impl BridgeAdmin {
    fn impact(&self, action: &'static str, name: &str) -> Result<Impact, Problem> {
        Impact::of(action, name).before(&self.bridges.show(name).map_err(no_such_bridge)?)
    }
}

fn no_such_bridge(Unknown: Unknown) -> Problem {
    let detail = "there is no bridge of this name; `mqgate bridge list` shows those there are";
    Problem::new(Code::NoSuchBridge, detail)
}
