//! Many certificates in, and out: `/imports` and `/exports`. Bodies of any length, neither of them in memory as a whole.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use mqgate_identity::registry::{DeviceCertificate, DeviceState, MAX_PAGE};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::api::{Api, Change, Doc, Impact};
use super::device_certs::Filter;
use super::serving::{OpenStream, Streaming};
use super::{AdminParts, Code, Page, Problem, Scope};
use crate::clock;
use crate::import::{About, Format, Importer, KeyError, Options, Progress, Report, RowError};

const NDJSON: &str = "application/x-ndjson";
const CSV: &str = "text/csv; charset=utf-8";
const PEM: &str = "application/x-pem-file";
/// Pages that wait for the reader of an export.
const PAGES_AHEAD: usize = 2;

pub(super) fn routes() -> Api<AdminParts> {
    let write = Scope::CertsWrite;
    Api::new("Imports and exports")
        .route(
            Doc::post(
                "/imports",
                "import.add",
                write,
                "Registers the certificates of a file, or of a part of it.",
            )
            .problems(&[
                Code::BadImport,
                Code::ImportCancelled,
                Code::BadParameter,
                Code::RegistryUnavailable,
                Code::AuditUnavailable,
            ]),
            import,
        )
        .route(
            Doc::get("/imports", "import.list", Scope::CertsRead, "Lists imports that are sent in parts."),
            list,
        )
        .route(
            Doc::get("/imports/{key}", "import.show", Scope::CertsRead, "How far an import came.")
                .problems(&[Code::NoSuchImport]),
            show,
        )
        .route(
            Doc::delete(
                "/imports/{key}",
                "import.cancel",
                write,
                "Cancels an import, or forgets one that has ended.",
            )
            .problems(&[Code::NoSuchImport]),
            cancel,
        )
        .route(
            Doc::get("/exports", "export.read", Scope::CertsRead, "Certificates by filters, as a file.")
                .media(&[NDJSON, CSV, PEM])
                .problems(&[Code::BadParameter, Code::BadQuery, Code::RegistryUnavailable]),
            export,
        )
}

#[derive(Deserialize, JsonSchema)]
struct ImportQuery {
    /// Without it, by `Content-Type`: `application/x-ndjson`, `text/csv`, `application/x-pem-file`.
    format: Option<Format>,
    /// Number that the line of the first row has in the file, for a part of it. Without it, counted from 1.
    line: Option<u64>,
    /// A name for the import, chosen by who sends it in parts: how far it came is remembered under it.
    key: Option<String>,
    /// With `key`: there is no further part.
    #[serde(default)]
    last: bool,
    /// What does not say otherwise is registered and not let in yet.
    #[serde(default)]
    inactive: bool,
    /// Rows that went well are named, too.
    #[serde(default)]
    every_row: bool,
}

fn format(query: Option<Format>, headers: &HeaderMap) -> Result<Format, Problem> {
    if let Some(word) = query {
        return Ok(word);
    }
    let media = headers.get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok()).unwrap_or_default();
    match media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/x-ndjson" | "application/jsonl" => Ok(Format::Ndjson),
        "text/csv" => Ok(Format::Csv),
        "application/x-pem-file" | "application/pem-certificate-chain" => Ok(Format::Pem),
        _ => {
            let detail = "say with `format` or `Content-Type` how it is written: ndjson, csv or pem";
            Err(Problem::new(Code::BadImport, detail))
        }
    }
}

fn of_key(error: &KeyError) -> Problem {
    let code = match error {
        KeyError::Bad | KeyError::Different => Code::BadImport,
        KeyError::Cancelled { .. } => Code::ImportCancelled,
    };
    Problem::new(code, error.to_string())
}

/// Of a file that cannot be used at all.
fn of_file(error: &RowError) -> Problem {
    Problem::new(Code::BadImport, error.to_string())
}

async fn import(
    State(parts): State<AdminParts>,
    Extension(streaming): Extension<Streaming>,
    change: Change,
    Query(query): Query<ImportQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Report>, Problem> {
    let _open = streaming.begin();
    let format = format(query.format, &headers)?;
    let actor = change.actor.0.to_string();
    if let Some(key) = &query.key {
        let about = About { key, format, dry_run: change.dry_run, actor: &actor };
        parts.imports.begin(&about, clock::now()).map_err(|error| of_key(&error))?;
    }
    let options = Options {
        format,
        line: query.line,
        dry_run: change.dry_run,
        inactive: query.inactive,
        every_row: query.every_row,
        actor,
    };
    let mut importer = Importer::new(Arc::clone(&parts.registry), options);
    let mut body = body;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let detail = format!("the file broke off: {error}; what was registered stays so, send it again");
            Problem::new(Code::BodyTimeout, detail)
        })?;
        if let Ok(piece) = frame.into_data() {
            importer.take(&piece).await.map_err(|error| of_file(&error))?;
        }
    }
    let report = importer.finish().await.map_err(|error| of_file(&error))?;
    if let Some(key) = &query.key {
        parts.imports.add(key, &report, query.last, clock::now());
    }
    Ok(Json(report))
}

async fn list(State(parts): State<AdminParts>) -> Json<Page<Progress>> {
    Json(Page::whole(parts.imports.list()))
}

async fn show(State(parts): State<AdminParts>, Path(key): Path<String>) -> Result<Json<Progress>, Problem> {
    parts.imports.find(&key).map(Json).ok_or_else(no_such_import)
}

async fn cancel(
    State(parts): State<AdminParts>,
    change: Change,
    Path(key): Path<String>,
) -> Result<Json<Progress>, Problem> {
    let known = parts.imports.find(&key).ok_or_else(no_such_import)?;
    if change.dry_run {
        return Ok(Json(known));
    }
    let impact = Impact::of("import.cancel", &*key).before(&known)?;
    super::note(&parts.audit, &change.actor, &impact, &[("key", &key)]).await?;
    parts.imports.cancel(&key, &change.actor.0, clock::now()).map(Json).ok_or_else(no_such_import)
}

fn no_such_import() -> Problem {
    let detail =
        "no import of this key is known: it was never begun, has ended, or the broker was restarted since";
    Problem::new(Code::NoSuchImport, detail)
}

#[derive(Deserialize, JsonSchema)]
struct ExportQuery {
    /// How it is written; without it, NDJSON.
    format: Option<Format>,
    #[serde(flatten)]
    filter: Filter,
}

/// What was deleted has no certificate any more, and is never exported.
async fn export(
    State(parts): State<AdminParts>,
    Extension(streaming): Extension<Streaming>,
    Query(query): Query<ExportQuery>,
) -> Result<Response, Problem> {
    let format = query.format.unwrap_or(Format::Ndjson);
    let first = query.filter.query(&parts, MAX_PAGE)?;
    let (sender, receiver) = mpsc::channel(PAGES_AHEAD);
    let registry = Arc::clone(&parts.registry);
    tokio::spawn(async move {
        if format == Format::Csv && sender.send(Ok(Bytes::from_static(COLUMNS))).await.is_err() {
            return;
        }
        let mut query = first;
        loop {
            // Without a reader nobody wants the next page.
            let page = match registry.query(query.clone()).await {
                Ok(page) => page,
                Err(error) => {
                    let _ = sender.send(Err(error.to_string().into())).await;
                    return;
                }
            };
            let mut piece = Vec::new();
            let there = page.records.iter().filter(|record| record.state != DeviceState::Tombstone);
            there.for_each(|record| write(format, record, &mut piece));
            if !piece.is_empty() && sender.send(Ok(piece.into())).await.is_err() {
                return;
            }
            match page.next {
                Some(next) => query.cursor = Some(next),
                None => return,
            }
        }
    });
    let media = match format {
        Format::Ndjson => NDJSON,
        Format::Csv => CSV,
        Format::Pem => PEM,
    };
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(media))];
    Ok((headers, Body::new(Pieces { receiver, _open: streaming.begin() })).into_response())
}

const COLUMNS: &[u8] = b"id,device_id,client_id,tenant,tags,state,pem\n";

/// As an import reads it.
fn write(format: Format, record: &DeviceCertificate, out: &mut Vec<u8>) {
    match format {
        Format::Pem => out.extend_from_slice(record.pem.as_bytes()),
        Format::Ndjson => {
            // A record is plain data: it has a JSON form.
            if serde_json::to_writer(&mut *out, record).is_ok() {
                out.push(b'\n');
            }
        }
        Format::Csv => {
            let (id, tags) = (record.id.to_hex(), record.tags.join(";"));
            // There is no column for what else keeps it out.
            let is_barred = record.quarantined.is_some() || record.superseded.is_some();
            let state = match record.state {
                DeviceState::Active if is_barred => DeviceState::Inactive.as_str(),
                state => state.as_str(),
            };
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let (client_id, tenant) = (text(&record.client_id), text(&record.tenant));
            let mut writer = csv::Writer::from_writer(out);
            // A vector takes everything.
            let _ =
                writer.write_record([&id, &record.device_id, &client_id, &tenant, &tags, state, &record.pem]);
        }
    }
}

/// An answer that comes piece by piece. An error cuts it off, so that nobody takes it for a whole one.
struct Pieces {
    receiver: mpsc::Receiver<Result<Bytes, axum::BoxError>>,
    _open: OpenStream,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        self.receiver.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
