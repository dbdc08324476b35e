//! Bans: list, add, remove. Whoever is connected and banned is disconnected.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Extension, Json, Router};
use mqgate_identity::audit::names;
use mqgate_identity::time::UnixMillis;
use serde::Deserialize;

use super::devices::bad_json;
use super::{Actor, AdminParts, Page, Problem, page_size};
use crate::bans::{Ban, BanError, Bans, Kind};
use crate::clock;
use crate::extras::ban_event;

pub(super) fn routes() -> Router<AdminParts> {
    Router::new().route("/bans", get(list).post(add)).route("/bans/{id}", get(show).delete(remove))
}

fn bans(parts: &AdminParts) -> Result<Arc<Bans>, Problem> {
    parts.broker.bans().cloned().ok_or_else(|| {
        let detail = "this broker keeps no list of bans";
        Problem::new(StatusCode::NOT_FOUND, "bans_off", detail)
    })
}

impl From<BanError> for Problem {
    fn from(error: BanError) -> Self {
        let (status, code) = match &error {
            BanError::Address(..) => (StatusCode::UNPROCESSABLE_ENTITY, "bad_address"),
            BanError::Fingerprint(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad_fingerprint"),
            BanError::Empty | BanError::Device => (StatusCode::UNPROCESSABLE_ENTITY, "bad_ban"),
            BanError::Over => (StatusCode::UNPROCESSABLE_ENTITY, "bad_time"),
            BanError::Full(_) => (StatusCode::CONFLICT, "too_many_bans"),
            BanError::Storage(_) => (StatusCode::SERVICE_UNAVAILABLE, "storage_unavailable"),
        };
        Self::new(status, code, error.to_string())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    after: Option<String>,
    limit: Option<usize>,
    kind: Option<Kind>,
}

async fn list(
    State(parts): State<AdminParts>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Ban>>, Problem> {
    let limit = page_size(query.limit);
    let wanted = |ban: &Ban| query.kind.is_none_or(|kind| ban.kind == kind);
    let mut found = bans(&parts)?.list(query.after.as_deref(), limit + 1, wanted);
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| last.id.clone());
    Ok(Json(Page { items: found.iter().map(|ban| Ban::clone(ban)).collect(), next }))
}

async fn show(State(parts): State<AdminParts>, Path(id): Path<String>) -> Result<Json<Ban>, Problem> {
    let ban = bans(&parts)?.get(&id).ok_or_else(no_such_ban)?;
    Ok(Json(Ban::clone(&ban)))
}

fn no_such_ban() -> Problem {
    let detail = "there is no ban with this id; `mqgate bans list` shows those there are";
    Problem::new(StatusCode::NOT_FOUND, "no_such_ban", detail)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddBody {
    kind: Kind,
    value: String,
    device_id: Option<String>,
    reason: Option<String>,
    /// Without one it holds until it is removed.
    seconds: Option<u64>,
}

async fn add(
    State(parts): State<AdminParts>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<AddBody>, JsonRejection>,
) -> Result<(StatusCode, Json<serde_json::Value>), Problem> {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    let list = bans(&parts)?;
    let now = clock::now();
    let until = body.seconds.map(|seconds| UnixMillis(now.0.saturating_add(seconds.saturating_mul(1000))));
    let ban = Ban::new(body.kind, &body.value, body.device_id, body.reason.as_deref(), &actor.0, now, until)?;
    check_audit(&parts)?;
    let ban = tokio::task::spawn_blocking(move || list.add(ban)).await.map_err(broken)??;
    parts.audit.record(ban_event(names::BAN_ADDED, &ban, &actor.0));
    let disconnected = parts.broker.expel(&ban);
    let mut shown = serde_json::to_value(&*ban).map_err(broken)?;
    shown["disconnected"] = disconnected.into();
    Ok((StatusCode::CREATED, Json(shown)))
}

async fn remove(
    State(parts): State<AdminParts>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<Ban>, Problem> {
    let list = bans(&parts)?;
    list.get(&id).ok_or_else(no_such_ban)?;
    check_audit(&parts)?;
    let removed = tokio::task::spawn_blocking(move || list.remove(&id)).await.map_err(broken)??;
    let ban = removed.ok_or_else(no_such_ban)?;
    parts.audit.record(ban_event(names::BAN_REMOVED, &ban, &actor.0));
    Ok(Json(Ban::clone(&ban)))
}

fn check_audit(parts: &AdminParts) -> Result<(), Problem> {
    parts.audit.check().map_err(|refused| {
        let detail =
            format!("{refused}: what cannot be written down is not done; free space for the audit log");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable", detail)
    })
}

fn broken(error: impl std::fmt::Display) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string())
}
