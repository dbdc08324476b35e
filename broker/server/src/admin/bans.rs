//! Bans: list, add, remove. Whoever is connected and banned is disconnected.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use mqgate_identity::audit::{AuditEvent, names};
use mqgate_identity::time::UnixMillis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::{Api, Change, Cursor, Doc, Impact, Limit, Outcome};
use super::{AdminParts, Code, Page, Problem, Scope, bad_json};
use crate::bans::{Ban, BanError, Bans, Kind};
use crate::clock;
use crate::extras::ban_event;

const LIST: &str = "bans";

pub(super) fn routes() -> Api<AdminParts> {
    Api::new("Bans")
        .route(
            Doc::get("/bans", "ban.list", Scope::BansRead, "Lists who is kept out.")
                .problems(&[Code::BansOff]),
            list,
        )
        .route(
            Doc::post(
                "/bans",
                "ban.add",
                Scope::BansWrite,
                "Keeps somebody out, and disconnects who is there.",
            )
            .created()
            .problems(&[
                Code::BansOff,
                Code::BadAddress,
                Code::BadFingerprint,
                Code::BadBan,
                Code::BadTime,
                Code::TooManyBans,
                Code::StorageUnavailable,
            ]),
            add,
        )
        .route(
            Doc::get("/bans/{id}", "ban.show", Scope::BansRead, "One ban.")
                .problems(&[Code::BansOff, Code::NoSuchBan]),
            show,
        )
        .route(
            Doc::delete("/bans/{id}", "ban.remove", Scope::BansWrite, "Lifts a ban.").problems(&[
                Code::BansOff,
                Code::NoSuchBan,
                Code::StorageUnavailable,
            ]),
            remove,
        )
}

fn bans(parts: &AdminParts) -> Result<Arc<Bans>, Problem> {
    parts.broker.bans().cloned().ok_or_else(|| {
        let detail = "this broker keeps no list of bans";
        Problem::new(Code::BansOff, detail)
    })
}

impl From<BanError> for Problem {
    fn from(error: BanError) -> Self {
        let code = match &error {
            BanError::Address(..) => Code::BadAddress,
            BanError::Fingerprint(_) => Code::BadFingerprint,
            BanError::Empty | BanError::Device => Code::BadBan,
            BanError::Over => Code::BadTime,
            BanError::Full(_) => Code::TooManyBans,
            BanError::Storage(_) => Code::StorageUnavailable,
        };
        Self::new(code, error.to_string())
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    after: Option<Cursor>,
    limit: Option<Limit>,
    kind: Option<Kind>,
}

async fn list(
    State(parts): State<AdminParts>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Ban>>, Problem> {
    let limit = Limit::or_default(query.limit);
    let after: Option<String> = query.after.map(|after| after.read(LIST)).transpose()?;
    let wanted = |ban: &Ban| query.kind.is_none_or(|kind| ban.kind == kind);
    let mut found = bans(&parts)?.list(after.as_deref(), limit + 1, wanted);
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| Cursor::of(LIST, &last.id));
    Ok(Json(Page { items: found.iter().map(|ban| Ban::clone(ban)).collect(), next }))
}

async fn show(State(parts): State<AdminParts>, Path(id): Path<String>) -> Result<Json<Ban>, Problem> {
    let ban = bans(&parts)?.get(&id).ok_or_else(no_such_ban)?;
    Ok(Json(Ban::clone(&ban)))
}

fn no_such_ban() -> Problem {
    let detail = "there is no ban with this id; `mqgate bans list` shows those there are";
    Problem::new(Code::NoSuchBan, detail)
}

/// Whom to keep out.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AddBody {
    kind: Kind,
    /// The client id, fingerprint, address or network.
    value: String,
    device_id: Option<String>,
    reason: Option<String>,
    /// Without one it holds until it is removed.
    seconds: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AddedBan")]
struct Added {
    #[serde(flatten)]
    ban: Ban,
    /// Connections that were closed.
    disconnected: usize,
}

async fn add(
    State(parts): State<AdminParts>,
    change: Change,
    body: Result<Json<AddBody>, JsonRejection>,
) -> Result<Outcome<(StatusCode, Json<Added>)>, Problem> {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    let list = bans(&parts)?;
    let now = clock::now();
    let until = body.seconds.map(|seconds| UnixMillis(now.0.saturating_add(seconds.saturating_mul(1000))));
    let actor = &change.actor.0;
    let ban = Ban::new(body.kind, &body.value, body.device_id, body.reason.as_deref(), actor, now, until)?;
    if change.dry_run {
        let concerned = parts.broker.concerned_by(&ban);
        return Ok(Impact::of("ban.add", body.value).after(&ban)?.affects("connections", concerned).into());
    }
    check_audit(&parts)?;
    let ban = tokio::task::spawn_blocking(move || list.add(ban)).await.map_err(broken)??;
    let disconnected = parts.broker.expel(&ban);
    written(&parts, ban_event(names::BAN_ADDED, &ban, actor)).await?;
    let added = Added { ban: Ban::clone(&ban), disconnected };
    Ok(Outcome::Done((StatusCode::CREATED, Json(added))))
}

async fn remove(
    State(parts): State<AdminParts>,
    change: Change,
    Path(id): Path<String>,
) -> Result<Outcome<Json<Ban>>, Problem> {
    let list = bans(&parts)?;
    let ban = list.get(&id).ok_or_else(no_such_ban)?;
    if change.dry_run {
        return Ok(Impact::of("ban.remove", id).before(&*ban)?.into());
    }
    check_audit(&parts)?;
    let removed = tokio::task::spawn_blocking(move || list.remove(&id)).await.map_err(broken)??;
    let ban = removed.ok_or_else(no_such_ban)?;
    written(&parts, ban_event(names::BAN_REMOVED, &ban, &change.actor.0)).await?;
    Ok(Outcome::Done(Json(Ban::clone(&ban))))
}

/// A change that was made is on the disk before it is answered.
async fn written(parts: &AdminParts, event: AuditEvent) -> Result<(), Problem> {
    parts.audit.record_durable(event).await.map(drop).map_err(|refused| {
        Problem::new(
            Code::AuditUnavailable,
            format!("the change was made and is not in the audit log: {refused}"),
        )
    })
}

fn check_audit(parts: &AdminParts) -> Result<(), Problem> {
    parts.audit.check().map_err(|refused| {
        let detail =
            format!("{refused}: what cannot be written down is not done; free space for the audit log");
        Problem::new(Code::AuditUnavailable, detail)
    })
}

fn broken(error: impl std::fmt::Display) -> Problem {
    Problem::new(Code::Internal, error.to_string())
}
