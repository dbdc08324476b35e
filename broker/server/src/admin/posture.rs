//! Posture checks: which there are, what they have found, and living with it.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use mqgate_identity::posture::{Check, Severity};
use mqgate_identity::time::UnixMillis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::{Api, Change, Cursor, Doc, Impact, Limit, Outcome, Route};
use super::{Code, Page, Problem, Scope, bad_json};
use crate::audit::sinks::SinkStatus;
use crate::clock;
use crate::posture::{Kept, Posture, PostureError, Round, SuppressError, Suppression};

const LIST: &str = "findings";

/// To be merged with the other routes.
pub fn posture_routes(posture: Arc<Posture>) -> Api {
    described().with_state(posture)
}

/// For the description.
pub fn routes() -> Vec<Route> {
    described().routes().to_vec()
}

fn described() -> Api<Arc<Posture>> {
    let (read, write) = (Scope::AuditRead, Scope::AuditWrite);
    let one = "/audit/findings/{id}";
    let suppression = "/audit/findings/{id}/suppress";
    Api::new("Posture checks")
        .route(
            Doc::get(
                "/audit/sinks",
                "audit.sinks",
                read,
                "Lists the sinks of the audit log, and how far behind they are.",
            ),
            sinks,
        )
        .route(
            Doc::get(
                "/audit/checks",
                "audit.checks",
                read,
                "Lists the checks, and how many findings each has.",
            ),
            checks,
        )
        .route(Doc::ask("/audit/checks/run", "audit.check", write, "Makes all checks now."), run)
        .route(Doc::get("/audit/findings", "audit.findings", read, "Lists what the checks have found."), list)
        .route(Doc::get(one, "audit.finding", read, "One finding.").problems(&[Code::NoSuchFinding]), show)
        .route(
            Doc::post(suppression, "audit.suppress", write, "Lives with a finding: it is counted no longer.")
                .problems(&[
                    Code::NoSuchFinding,
                    Code::BadSuppression,
                    Code::TooManySuppressions,
                    Code::StorageUnavailable,
                ]),
            suppress,
        )
        .route(
            Doc::delete(suppression, "audit.unsuppress", write, "Counts a finding again.")
                .problems(&[Code::NoSuchFinding, Code::StorageUnavailable]),
            unsuppress,
        )
        .route(
            Doc::post(
                "/audit/accepted/{plugin}",
                "audit.accept",
                write,
                "Agrees to what a component may use now: later rights are compared with these.",
            )
            .problems(&[Code::NotFound, Code::StorageUnavailable]),
            accept,
        )
}

impl From<PostureError> for Problem {
    fn from(error: PostureError) -> Self {
        let code = match &error {
            PostureError::Suppress(SuppressError::Unknown) => Code::NoSuchFinding,
            PostureError::Suppress(SuppressError::NoReason | SuppressError::Over) => Code::BadSuppression,
            PostureError::Suppress(SuppressError::Full) => Code::TooManySuppressions,
            PostureError::Audit(_) => Code::AuditUnavailable,
            PostureError::Storage(_) => Code::StorageUnavailable,
            PostureError::NoPlugin => Code::NotFound,
        };
        Self::new(code, error.to_string())
    }
}

async fn sinks(State(posture): State<Arc<Posture>>) -> Json<Page<SinkStatus>> {
    Json(Page::whole(posture.sinks()))
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PostureCheck")]
struct ShownCheck {
    name: &'static str,
    about: &'static str,
    severity: Severity,
    enabled: bool,
    /// Findings, without those suppressed.
    open: u64,
    suppressed: u64,
    /// Of the open ones, those that are counted and not kept one by one.
    more: u64,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PostureChecks")]
struct Checks {
    items: Vec<ShownCheck>,
    /// The last round; absent before the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<Round>,
}

async fn checks(State(posture): State<Arc<Posture>>) -> Json<Checks> {
    let shown = posture.checks().into_iter().map(|(check, enabled, count)| ShownCheck {
        name: check.as_str(),
        about: check.about(),
        severity: check.severity(),
        enabled,
        open: count.open.iter().sum::<u64>() + count.more,
        suppressed: count.suppressed,
        more: count.more,
    });
    Json(Checks { items: shown.collect(), last: posture.last() })
}

/// Answers when all checks were made.
async fn run(State(posture): State<Arc<Posture>>) -> Json<Round> {
    Json(posture.check_now().await)
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PostureFinding")]
struct Shown {
    #[serde(flatten)]
    finding: Kept,
    #[serde(skip_serializing_if = "Option::is_none")]
    suppressed: Option<Suppression>,
}

impl From<(Kept, Option<Suppression>)> for Shown {
    fn from((finding, suppressed): (Kept, Option<Suppression>)) -> Self {
        Self { finding, suppressed }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    after: Option<Cursor>,
    limit: Option<Limit>,
    check: Option<Check>,
    severity: Option<Severity>,
    /// Only those suppressed, or only the others.
    suppressed: Option<bool>,
}

async fn list(
    State(posture): State<Arc<Posture>>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Shown>>, Problem> {
    let limit = Limit::or_default(query.limit);
    let after: Option<String> = query.after.map(|after| after.read(LIST)).transpose()?;
    let mut found = posture.findings(after.as_deref(), limit + 1, |kept, suppressed| {
        query.check.is_none_or(|check| kept.check == check)
            && query.severity.is_none_or(|severity| kept.severity == severity)
            && query.suppressed.is_none_or(|wanted| wanted == suppressed)
    });
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|(last, _)| Cursor::of(LIST, &last.id));
    Ok(Json(Page { items: found.into_iter().map(Shown::from).collect(), next }))
}

fn find(posture: &Posture, id: &str) -> Result<Shown, Problem> {
    let found = posture.finding(id).ok_or(PostureError::Suppress(SuppressError::Unknown))?;
    Ok(found.into())
}

async fn show(State(posture): State<Arc<Posture>>, Path(id): Path<String>) -> Result<Json<Shown>, Problem> {
    find(&posture, &id).map(Json)
}

/// Why, and for how long.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SuppressFinding")]
struct SuppressBody {
    reason: String,
    /// Without one it holds until it is taken back.
    seconds: Option<u64>,
}

async fn suppress(
    State(posture): State<Arc<Posture>>,
    change: Change,
    Path(id): Path<String>,
    body: Result<Json<SuppressBody>, JsonRejection>,
) -> Result<Outcome<Json<Shown>>, Problem> {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    if change.dry_run {
        return Ok(Impact::of("audit.suppress", &id).before(&find(&posture, &id)?)?.into());
    }
    let end = |seconds: u64| UnixMillis(clock::now().0.saturating_add(seconds.saturating_mul(1000)));
    let found = posture.suppress(&id, &body.reason, body.seconds.map(end), &change.actor.0).await?;
    Ok(Outcome::Done(Json(found.into())))
}

async fn unsuppress(
    State(posture): State<Arc<Posture>>,
    change: Change,
    Path(id): Path<String>,
) -> Result<Outcome<Json<Shown>>, Problem> {
    if change.dry_run {
        return Ok(Impact::of("audit.unsuppress", &id).before(&find(&posture, &id)?)?.into());
    }
    Ok(Outcome::Done(Json(posture.unsuppress(&id, &change.actor.0).await?.into())))
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AcceptedCapabilities")]
struct Accepted {
    /// The component.
    plugin: String,
}

async fn accept(
    State(posture): State<Arc<Posture>>,
    change: Change,
    Path(plugin): Path<String>,
) -> Result<Outcome<Json<Accepted>>, Problem> {
    if change.dry_run {
        return Ok(Impact::of("audit.accept", &plugin).into());
    }
    posture.accept(&plugin, &change.actor.0).await?;
    Ok(Outcome::Done(Json(Accepted { plugin })))
}
