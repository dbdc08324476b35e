//! Traces: start, list, stop, read.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Extension, Json, Router};
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::time::UnixMillis;
use serde::{Deserialize, Serialize};

use super::clients::network;
use super::devices::bad_json;
use super::subscriptions::topic_filter;
use super::{Actor, AdminParts, Page, Problem, note};
use crate::trace::{Target, Trace, TraceError, Wanted};

pub(super) fn routes() -> Router<AdminParts> {
    Router::new()
        .route("/traces", get(list).post(start))
        .route("/traces/{name}", delete(stop))
        .route("/traces/{name}/file", get(read).delete(remove))
}

#[derive(Serialize)]
struct Line {
    name: String,
    client_id: Option<String>,
    fingerprint: Option<CertificateFingerprint>,
    address: Option<String>,
    topic: Option<String>,
    payloads: bool,
    started_at: UnixMillis,
    until: UnixMillis,
    bytes: u64,
    max_bytes: u64,
    file: String,
}

impl From<&Trace> for Line {
    fn from(trace: &Trace) -> Self {
        let target = &trace.wanted.target;
        Self {
            name: trace.wanted.name.clone(),
            client_id: target.client_id.clone(),
            fingerprint: target.certificate,
            address: target.address.map(|network| network.to_string()),
            topic: target.topic.as_ref().map(|filter| filter.as_str().to_owned()),
            payloads: trace.wanted.payloads,
            started_at: trace.started_at,
            until: trace.until,
            bytes: trace.writer.bytes(),
            max_bytes: trace.wanted.bytes,
            file: trace.file.display().to_string(),
        }
    }
}

impl From<TraceError> for Problem {
    fn from(error: TraceError) -> Self {
        let (status, code) = match &error {
            TraceError::Name => (StatusCode::UNPROCESSABLE_ENTITY, "bad_name"),
            TraceError::Target => (StatusCode::UNPROCESSABLE_ENTITY, "bad_target"),
            TraceError::Duration(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad_time"),
            TraceError::Bytes(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad_size"),
            TraceError::TooMany(_) => (StatusCode::CONFLICT, "too_many_traces"),
            TraceError::Exists => (StatusCode::CONFLICT, "trace_exists"),
            TraceError::File { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "trace_file"),
            TraceError::Off => (StatusCode::NOT_FOUND, "traces_off"),
        };
        Self::new(status, code, error.to_string())
    }
}

async fn list(State(parts): State<AdminParts>) -> Json<Page<Line>> {
    let items = parts.broker.extras.traces.list();
    Json(Page { items: items.iter().map(|trace| Line::from(&**trace)).collect(), next: None })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StartBody {
    name: String,
    client_id: Option<String>,
    fingerprint: Option<String>,
    address: Option<String>,
    /// A Topic Filter.
    topic: Option<String>,
    #[serde(default = "ten_minutes")]
    seconds: u64,
    #[serde(default = "ten_megabytes")]
    max_bytes: u64,
    /// Whether payloads are written too.
    #[serde(default)]
    payloads: bool,
}

fn ten_minutes() -> u64 {
    600
}

fn ten_megabytes() -> u64 {
    10 << 20
}

async fn start(
    State(parts): State<AdminParts>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<StartBody>, JsonRejection>,
) -> Result<(StatusCode, Json<Line>), Problem> {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    let certificate = body.fingerprint.as_deref().map(|text| {
        CertificateFingerprint::from_hex(text).ok_or_else(|| {
            Problem::bad_request(
                "bad_fingerprint",
                "a certificate's fingerprint is its SHA-256, 64 hex digits",
            )
        })
    });
    let target = Target {
        client_id: body.client_id,
        certificate: certificate.transpose()?,
        address: body.address.as_deref().map(network).transpose()?,
        topic: body.topic.as_deref().map(topic_filter).transpose()?,
    };
    let payloads = if body.payloads { "true" } else { "false" };
    note(&parts.audit, &actor, "trace.start", &[("name", &body.name), ("payloads", payloads)])?;
    let wanted = Wanted {
        name: body.name,
        target,
        duration: Duration::from_secs(body.seconds),
        bytes: body.max_bytes,
        payloads: body.payloads,
    };
    let broker = Arc::clone(&parts.broker);
    let started = tokio::task::spawn_blocking(move || broker.extras.traces.start(wanted)).await;
    let trace = started
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string()))??;
    Ok((StatusCode::CREATED, Json(Line::from(&*trace))))
}

async fn stop(
    State(parts): State<AdminParts>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
) -> Result<Json<Line>, Problem> {
    note(&parts.audit, &actor, "trace.stop", &[("name", &name)])?;
    let stopped = parts.broker.extras.traces.stop(&name);
    stopped.map(|trace| Json(Line::from(&*trace))).ok_or_else(no_such_trace)
}

fn no_such_trace() -> Problem {
    let detail = "no trace of this name runs; `mqgate trace list` shows those that do";
    Problem::new(StatusCode::NOT_FOUND, "no_such_trace", detail)
}

fn no_such_file() -> Problem {
    let detail = "there is no file of a trace of this name; it may have been deleted";
    Problem::new(StatusCode::NOT_FOUND, "no_such_file", detail)
}

/// The whole file; its size has a bound.
async fn read(State(parts): State<AdminParts>, Path(name): Path<String>) -> Result<Response, Problem> {
    let file = parts.broker.extras.traces.file(&name).ok_or_else(no_such_file)?;
    let bytes = tokio::task::spawn_blocking(move || std::fs::read(file)).await;
    let bytes = bytes.ok().and_then(Result::ok).ok_or_else(no_such_file)?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], bytes).into_response())
}

async fn remove(
    State(parts): State<AdminParts>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
) -> Result<Json<serde_json::Value>, Problem> {
    let traces = &parts.broker.extras.traces;
    let file = traces.file(&name).ok_or_else(no_such_file)?;
    note(&parts.audit, &actor, "trace.delete", &[("name", &name)])?;
    drop(traces.stop(&name));
    let removed = tokio::task::spawn_blocking(move || std::fs::remove_file(file)).await;
    match removed {
        Ok(Ok(())) => Ok(Json(serde_json::json!({ "deleted": name }))),
        _ => Err(no_such_file()),
    }
}
