//! Device certificates: list, register, show, change, delete; what happened to one, and who uses it.

mod batch;
mod decisions;
mod filter;
mod lists;
mod shown;
mod verbs;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::rules::OnTombstone;
use mqgate_identity::registry::{
    Cursor as StorageCursor, DeviceCertificate, DeviceState, EventData, MAX_PAGE, RegistrationSource,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(in crate::admin) use self::filter::Filter;
pub(in crate::admin) use self::shown::Shown;
pub(in crate::admin) use self::verbs::{reason, refused};
use super::api::{Api, Change, Cursor, Doc, Impact, Limit, Outcome, Tagged};
use super::asked::{asked, fingerprint};
use super::clients::Client;
use super::{AdminParts, Code, Page, Problem, Scope, bad_json};
use crate::directory::Mark;
use crate::registry::{Changed, ChangedDevice, ManualRegistration, RegistryError};

const LIST: &str = "device-certs";
const HISTORY: &str = "device-cert-history";
/// Events looked at for a certificate's history: all that the outbox keeps.
const EVENTS: usize = 1_000;
/// Problems of whatever reads or changes the registry.
const REGISTRY: &[Code] = &[Code::NotFound, Code::BadId, Code::RegistryUnavailable];

pub(super) fn routes() -> Api<AdminParts> {
    let read = Scope::CertsRead;
    Api::new("Device certificates")
        .route(
            Doc::get("/device-certs", "device.list", read, "Lists device certificates by filters.")
                .problems(&[Code::BadParameter, Code::BadQuery, Code::RegistryUnavailable]),
            list,
        )
        .route(
            Doc::post("/device-certs", "device.register", Scope::CertsWrite, "Registers a certificate.")
                .created()
                .problems(verbs::PROBLEMS),
            register,
        )
        .route(
            Doc::get("/device-certs/{id}", "device.show", read, "One certificate.").problems(REGISTRY),
            show,
        )
        .route(
            Doc::patch(
                "/device-certs/{id}",
                "device.change",
                Scope::CertsWrite,
                "Changes tags, attributes, tenant, client id.",
            )
            .problems(verbs::PROBLEMS),
            verbs::patch,
        )
        .route(
            Doc::delete(
                "/device-certs/{id}",
                "device.delete",
                Scope::CertsWrite,
                "Deletes a certificate; a tombstone stays.",
            )
            .problems(verbs::PROBLEMS),
            verbs::remove,
        )
        .route(
            Doc::get("/device-certs/{id}/pem", "device.pem", read, "The certificate as PEM.")
                .media(&["application/x-pem-file"])
                .problems(REGISTRY),
            pem,
        )
        .route(
            Doc::get(
                "/device-certs/{id}/history",
                "device.history",
                read,
                "What happened to it, the latest last.",
            )
            .problems(REGISTRY),
            history,
        )
        .route(
            Doc::get("/device-certs/{id}/sessions", "device.sessions", read, "Who is connected with it.")
                .problems(&[Code::BadId]),
            sessions,
        )
        .merge(verbs::routes())
        .merge(batch::routes())
        .merge(decisions::routes())
        .merge(lists::routes())
}

#[derive(Deserialize, JsonSchema)]
struct ListQuery {
    after: Option<Cursor>,
    limit: Option<Limit>,
    /// The beginning of a SHA-256, in hex; the other filters do not count then.
    id: Option<String>,
    #[serde(flatten)]
    filter: Filter,
}

async fn list(
    State(parts): State<AdminParts>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Shown>>, Problem> {
    let limit = Limit::or_default(query.limit);
    if let Some(start) = &query.id {
        return by_start(&parts, start, limit).await.map(Json);
    }
    page(&parts, LIST, &query.filter, query.after.as_ref(), limit).await.map(Json)
}

/// One page of those that a filter is for. A page may be short, and even empty, with more behind it.
async fn page(
    parts: &AdminParts,
    list: &str,
    filter: &Filter,
    after: Option<&Cursor>,
    limit: usize,
) -> Result<Page<Shown>, Problem> {
    let mut query = filter.query(parts, limit)?;
    query.cursor = after.map(|after| cursor(list, after)).transpose()?;
    let page = parts.registry.query(query).await?;
    let next = page.next.map(|next| Cursor::of(list, &next.to_string()));
    Ok(Page { items: page.records.into_iter().map(|record| Shown::of(record, parts)).collect(), next })
}

fn cursor(list: &str, after: &Cursor) -> Result<StorageCursor, Problem> {
    let text: String = after.read(list)?;
    StorageCursor::parse(&text).ok_or_else(|| {
        Problem::new(
            Code::BadCursor,
            "`after` is not a `next` of an earlier page of this list; begin without it",
        )
    })
}

/// Those whose SHA-256 begins so.
async fn by_start(parts: &AdminParts, start: &str, limit: usize) -> Result<Page<Shown>, Problem> {
    let digits = start.replace(':', "").to_ascii_lowercase();
    if digits.is_empty() || digits.len() > 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Problem::new(Code::BadId, "`id` is the beginning of a SHA-256: 1 to 64 hex digits"));
    }
    let records = parts.registry.devices(just_before(&digits), limit).await?;
    let fitting = records.into_iter().take_while(|record| record.id.to_hex().starts_with(&digits));
    let tombstone = |record: &DeviceCertificate| record.state == DeviceState::Tombstone;
    let items = fitting.filter(|record| digits.len() == 64 || !tombstone(record));
    Ok(Page::whole(items.map(|record| Shown::of(record, parts)).collect()))
}

/// The fingerprint just before all that begin with these digits; `None`: there is none before.
fn just_before(digits: &str) -> Option<CertificateFingerprint> {
    let mut first = CertificateFingerprint::from_hex(&format!("{digits:0<64}"))?.0;
    for byte in first.iter_mut().rev() {
        let (less, borrowed) = byte.overflowing_sub(1);
        *byte = less;
        if !borrowed {
            return Some(CertificateFingerprint(first));
        }
    }
    None
}

/// The fingerprint that a text is, or what `named` makes of it.
pub(in crate::admin) fn fingerprint_or(
    text: &str,
    named: impl FnOnce() -> Result<CertificateFingerprint, Problem>,
) -> Result<CertificateFingerprint, Problem> {
    CertificateFingerprint::from_hex(text).map_or_else(named, Ok)
}

async fn record(parts: &AdminParts, id: &str) -> Result<DeviceCertificate, Problem> {
    Ok(parts.registry.device(fingerprint(id)?).await?.ok_or(RegistryError::NotFound)?)
}

async fn show(State(parts): State<AdminParts>, Path(id): Path<String>) -> Result<Tagged<Shown>, Problem> {
    let record = record(&parts, &id).await?;
    Ok(Tagged::new(record.revision, Shown::of(record, &parts)))
}

async fn pem(State(parts): State<AdminParts>, Path(id): Path<String>) -> Result<Response, Problem> {
    let record = record(&parts, &id).await?;
    if record.pem.is_empty() {
        let detail =
            "the certificate was deleted: its tombstone remembers what it was, and not the certificate";
        return Err(Problem::new(Code::CertTombstoned, detail));
    }
    let media = HeaderValue::from_static("application/x-pem-file");
    Ok(([(header::CONTENT_TYPE, media)], record.pem).into_response())
}

/// A certificate to be registered.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RegisterBody {
    /// The certificate, intermediates after it.
    pem: String,
    /// Without it, the certificate's common name.
    device_id: Option<String>,
    /// The only client id that it may use.
    client_id: Option<String>,
    tenant: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    /// Registered, but not to be used yet.
    #[serde(default)]
    inactive: bool,
    /// Bring back a certificate that was deleted.
    #[serde(default)]
    restore: bool,
}

async fn register(
    State(parts): State<AdminParts>,
    change: Change,
    body: Result<Json<RegisterBody>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    let request = ManualRegistration {
        pem: body.pem,
        device_id: body.device_id,
        tenant: body.tenant,
        tags: body.tags,
        client_id: body.client_id,
        attributes: body.attributes,
        state: Some(if body.inactive { DeviceState::Inactive } else { DeviceState::Active }),
        source: RegistrationSource::Api,
        on_tombstone: if body.restore { OnTombstone::Restore } else { OnTombstone::Refuse },
    };
    let changed = parts.registry.register(request, asked(&change, None)).await?;
    if change.dry_run {
        return Ok(Json(impact(&parts, "device.register", &changed)?).into_response());
    }
    let status = if changed.is_new() { StatusCode::CREATED } else { StatusCode::OK };
    let record = DeviceCertificate::clone(&changed);
    Ok((status, Tagged::new(record.revision, Shown::of(record, &parts))).into_response())
}

/// What a change would do.
fn impact(parts: &AdminParts, action: &'static str, changed: &ChangedDevice) -> Result<Impact, Problem> {
    let after = Shown::of(DeviceCertificate::clone(&changed.after), parts);
    let connections = parts.broker.connections().find(Mark::Certificate(changed.id)).len();
    let bars = after.effective != "ok";
    let mut impact = Impact::of(action, changed.id.to_hex());
    if let Some(before) = &changed.before {
        impact = impact.before(&Shown::of(DeviceCertificate::clone(before), parts))?;
    }
    if unchanged(changed) {
        impact = impact.warn("it is as wanted already: nothing would be written");
    }
    impact
        .after(&after)
        .map(|impact| impact.affects("connections_closed", if bars { connections } else { 0 }))
}

fn unchanged(changed: &ChangedDevice) -> bool {
    changed.before.as_ref().is_some_and(|before| before.revision == changed.after.revision)
}

/// One thing that happened to a certificate.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "CertificateEvent")]
struct Happened {
    /// Number of the event in the registry's outbox.
    sequence: u64,
    /// Milliseconds since 1970.
    at: u64,
    /// `certs.registered`, `certs.revoked` and so on.
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'static str>,
    to: &'static str,
    actor: String,
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct HistoryQuery {
    after: Option<Cursor>,
    limit: Option<Limit>,
}

async fn history(
    State(parts): State<AdminParts>,
    Path(id): Path<String>,
    Query(query): Query<HistoryQuery>,
) -> Result<Json<Page<Happened>>, Problem> {
    let id = record(&parts, &id).await?.id;
    let limit = Limit::or_default(query.limit);
    let mut after: u64 = query.after.map(|after| after.read(HISTORY)).transpose()?.unwrap_or(0);
    let mut items = Vec::new();
    loop {
        let page = parts.registry.events(after, EVENTS).await?;
        let Some(last) = page.events.last().map(|event| event.sequence) else { break };
        for event in page.events {
            let EventData::Device(data) = event.data else { continue };
            if data.cert_id != id {
                continue;
            }
            items.push(Happened {
                sequence: event.sequence,
                at: event.at.0,
                event: event.kind.as_str(),
                from: data.from.map(DeviceState::as_str),
                to: data.state.as_str(),
                actor: event.actor,
                revision: data.revision,
                reason: data.reason,
            });
            if items.len() == limit {
                let next = Some(Cursor::of(HISTORY, &event.sequence));
                return Ok(Json(Page { items, next }));
            }
        }
        after = last;
    }
    Ok(Json(Page::whole(items)))
}

async fn sessions(
    State(parts): State<AdminParts>,
    Path(id): Path<String>,
) -> Result<Json<Page<Client>>, Problem> {
    let mut handles = parts.broker.connections().find(Mark::Certificate(fingerprint(&id)?));
    handles.sort_unstable_by_key(|handle| handle.connection_id);
    handles.truncate(MAX_PAGE);
    Ok(Json(Page::whole(handles.iter().map(|handle| Client::from(&**handle)).collect())))
}

/// The answer to a change of one record.
fn answer(
    parts: &AdminParts,
    change: &Change,
    action: &'static str,
    changed: &Changed<Arc<DeviceCertificate>>,
) -> Result<Outcome<Tagged<Shown>>, Problem> {
    if change.dry_run {
        return Ok(impact(parts, action, changed)?.into());
    }
    let record = DeviceCertificate::clone(&changed.after);
    Ok(Outcome::Done(Tagged::new(record.revision, Shown::of(record, parts))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_the_first_that_begins_so() {
        let hex = |digits: &str| just_before(digits).map(CertificateFingerprint::to_hex);
        assert_eq!(hex("0"), None);
        assert_eq!(hex(&"0".repeat(64)), None);
        assert_eq!(hex("1"), Some(format!("0{}", "f".repeat(63))));
        assert_eq!(hex("ab10"), Some(format!("ab0f{}", "f".repeat(60))));
    }
}
