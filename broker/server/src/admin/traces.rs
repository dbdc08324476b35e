//! Traces: start, list, stop, read.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::time::UnixMillis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::{Api, Change, Doc, Impact, Outcome};
use super::clients::network;
use super::subscriptions::topic_filter;
use super::{AdminParts, Code, Page, Problem, Scope, bad_json, note};
use crate::trace::{Target, Trace, TraceError, Wanted};

pub(super) fn routes() -> Api<AdminParts> {
    Api::new("Traces")
        .route(Doc::get("/traces", "trace.list", Scope::TracesRead, "Lists the traces that run."), list)
        .route(
            Doc::post(
                "/traces",
                "trace.start",
                Scope::TracesWrite,
                "Writes what is said with chosen clients.",
            )
            .created()
            .problems(&[
                Code::TracesOff,
                Code::BadName,
                Code::BadTarget,
                Code::BadFingerprint,
                Code::BadAddress,
                Code::BadFilter,
                Code::BadTime,
                Code::BadSize,
                Code::TooManyTraces,
                Code::TraceExists,
                Code::TraceFile,
            ]),
            start,
        )
        .route(
            Doc::delete("/traces/{name}", "trace.stop", Scope::TracesWrite, "Stops a trace; its file stays.")
                .problems(&[Code::NoSuchTrace]),
            stop,
        )
        .route(
            Doc::get("/traces/{name}/file", "trace.read", Scope::TracesRead, "What a trace has written.")
                .media(&["text/plain; charset=utf-8"])
                .problems(&[Code::NoSuchFile]),
            read,
        )
        .route(
            Doc::delete(
                "/traces/{name}/file",
                "trace.delete",
                Scope::TracesWrite,
                "Stops a trace, if it runs, and deletes its file.",
            )
            .problems(&[Code::NoSuchFile]),
            remove,
        )
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Trace")]
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
        let code = match &error {
            TraceError::Name => Code::BadName,
            TraceError::Target => Code::BadTarget,
            TraceError::Duration(_) => Code::BadTime,
            TraceError::Bytes(_) => Code::BadSize,
            TraceError::TooMany(_) => Code::TooManyTraces,
            TraceError::Exists => Code::TraceExists,
            TraceError::File { .. } => Code::TraceFile,
            TraceError::Off => Code::TracesOff,
        };
        Self::new(code, error.to_string())
    }
}

async fn list(State(parts): State<AdminParts>) -> Json<Page<Line>> {
    let items = parts.broker.extras.traces.list();
    Json(Page::whole(items.iter().map(|trace| Line::from(&**trace)).collect()))
}

/// What to trace.
#[derive(Serialize, Deserialize, JsonSchema)]
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
    change: Change,
    body: Result<Json<StartBody>, JsonRejection>,
) -> Result<Outcome<(StatusCode, Json<Line>)>, Problem> {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    let impact = Impact::of("trace.start", &*body.name).after(&body)?;
    let certificate = body.fingerprint.as_deref().map(|text| {
        CertificateFingerprint::from_hex(text).ok_or_else(|| {
            Problem::new(Code::BadFingerprint, "a certificate's fingerprint is its SHA-256, 64 hex digits")
        })
    });
    let target = Target {
        client_id: body.client_id,
        certificate: certificate.transpose()?,
        address: body.address.as_deref().map(network).transpose()?,
        topic: body.topic.as_deref().map(topic_filter).transpose()?,
    };
    let payloads = if body.payloads { "true" } else { "false" };
    let wanted = Wanted {
        name: body.name,
        target,
        duration: Duration::from_secs(body.seconds),
        bytes: body.max_bytes,
        payloads: body.payloads,
    };
    let traces = &parts.broker.extras.traces;
    traces.check(&wanted).map_err(|error| Problem::from(error).about(&wanted.name))?;
    if change.dry_run {
        return Ok(impact.into());
    }
    note(&parts.audit, &change.actor, &impact, &[("name", &wanted.name), ("payloads", payloads)]).await?;
    let broker = Arc::clone(&parts.broker);
    let started = tokio::task::spawn_blocking(move || broker.extras.traces.start(wanted)).await;
    let trace = started.map_err(|error| Problem::new(Code::Internal, error.to_string()))??;
    Ok(Outcome::Done((StatusCode::CREATED, Json(Line::from(&*trace)))))
}

async fn stop(
    State(parts): State<AdminParts>,
    change: Change,
    Path(name): Path<String>,
) -> Result<Outcome<Json<Line>>, Problem> {
    let traces = &parts.broker.extras.traces;
    let running = traces.list().into_iter().find(|trace| trace.wanted.name == name);
    let line = running.map(|trace| Line::from(&*trace)).ok_or_else(no_such_trace)?;
    let impact = Impact::of("trace.stop", &*name).before(&line)?;
    if change.dry_run {
        return Ok(impact.into());
    }
    note(&parts.audit, &change.actor, &impact, &[("name", &name)]).await?;
    let stopped = traces.stop(&name);
    stopped.map(|trace| Outcome::Done(Json(Line::from(&*trace)))).ok_or_else(no_such_trace)
}

fn no_such_trace() -> Problem {
    let detail = "no trace of this name runs; `mqgate trace list` shows those that do";
    Problem::new(Code::NoSuchTrace, detail)
}

fn no_such_file() -> Problem {
    let detail = "there is no file of a trace of this name; it may have been deleted";
    Problem::new(Code::NoSuchFile, detail)
}

/// The whole file; its size has a bound.
async fn read(State(parts): State<AdminParts>, Path(name): Path<String>) -> Result<Response, Problem> {
    let file = parts.broker.extras.traces.file(&name).ok_or_else(no_such_file)?;
    let bytes = tokio::task::spawn_blocking(move || std::fs::read(file)).await;
    let bytes = bytes.ok().and_then(Result::ok).ok_or_else(no_such_file)?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], bytes).into_response())
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeletedTrace")]
struct Deleted {
    /// Its name.
    deleted: String,
}

async fn remove(
    State(parts): State<AdminParts>,
    change: Change,
    Path(name): Path<String>,
) -> Result<Outcome<Json<Deleted>>, Problem> {
    let traces = &parts.broker.extras.traces;
    let file = traces.file(&name).ok_or_else(no_such_file)?;
    let impact = Impact::of("trace.delete", &*name);
    if change.dry_run {
        return Ok(impact.into());
    }
    note(&parts.audit, &change.actor, &impact, &[("name", &name)]).await?;
    drop(traces.stop(&name));
    let removed = tokio::task::spawn_blocking(move || std::fs::remove_file(file)).await;
    match removed {
        Ok(Ok(())) => Ok(Outcome::Done(Json(Deleted { deleted: name }))),
        _ => Err(no_such_file()),
    }
}
