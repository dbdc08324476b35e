//! `GET /device-certs/{id}/decisions`: what was decided about a certificate, as the audit log has it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use mqgate_audit::{Record, query};
use mqgate_identity::audit::names;
use schemars::JsonSchema;
use serde::Deserialize;

use super::super::api::{Api, Cursor, Doc, Limit};
use super::super::asked::fingerprint;
use super::super::audit::{SCAN, reading, unreadable};
use super::super::{AdminParts, Code, Page, Problem, Scope};

const LIST: &str = "device-cert-decisions";

/// Records of somebody who was judged: at the handshake, at CONNECT, at a registration, and in a session.
const DECISIONS: [&str; 6] = [
    names::HANDSHAKE_FAILED,
    names::CONNECTION_ACCEPTED,
    names::CONNECTION_REFUSED,
    names::CONNECTION_REAUTHORIZED,
    names::DEVICE_REGISTERED,
    names::DEVICE_PENDING,
];

pub(super) fn routes() -> Api<AdminParts> {
    Api::new("Device certificates").route(
        Doc::get(
            "/device-certs/{id}/decisions",
            "device.decisions",
            Scope::AuditRead,
            "What was decided about whoever came with it, registered or not, the newest first: records of the audit \
             log. A page may be empty although there is a next one.",
        )
        .problems(&[Code::BadId, Code::NoAuditLog, Code::AuditUnreadable]),
        list,
    )
}

#[derive(Deserialize, JsonSchema)]
struct ListQuery {
    after: Option<Cursor>,
    limit: Option<Limit>,
}

async fn list(
    State(parts): State<AdminParts>,
    Path(id): Path<String>,
    Query(page): Query<ListQuery>,
) -> Result<Json<Page<Record>>, Problem> {
    let id = fingerprint(&id)?.to_hex();
    let limit = Limit::or_default(page.limit);
    let before: u64 = page.after.map(|after| after.read(LIST)).transpose()?.unwrap_or(u64::MAX);
    let audit = Arc::clone(&parts.audit);
    let found = reading(&parts, move |view| {
        let mut reveal = |member: &str, value: &str| audit.reveal(member, value);
        let wanted = |record: &Record| {
            record.fingerprint.as_deref() == Some(&*id) && DECISIONS.contains(&&*record.name)
        };
        query::find_newest(view, before, (limit, SCAN), &mut reveal, &wanted).map_err(unreadable)
    });
    let found = found.await?;
    let next = (!found.is_end).then(|| Cursor::of(LIST, &found.after));
    Ok(Json(Page { items: found.records, next }))
}
