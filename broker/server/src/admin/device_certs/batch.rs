//! `POST /device-certs:batch`: one thing to all that a filter is for.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::MAX_PAGE;
use mqgate_identity::registry::rules::{Force, RevocationReason};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::super::api::{Api, Change, Doc, Impact, Outcome, Rights};
use super::super::{AdminParts, Code, Problem, Scope, bad_json};
use super::filter::Filter;
use super::verbs;
use crate::audit::request;
use crate::directory::Mark;
use crate::registry::{Ask, ChangedDevice, DryRun, Registry, RegistryError};

/// Certificates that one batch may be about.
const MOST_MATCHES: usize = 200_000;
/// Changes at once: so many share one write to the disk.
const AT_ONCE: usize = 64;
/// Problems that are named; the others are counted.
const MOST_PROBLEMS: usize = 1_000;

pub(super) fn routes() -> Api<AdminParts> {
    Api::new("Device certificates").route(
        Doc::post(
            "/device-certs:batch",
            "device.batch",
            Scope::CertsWrite,
            "Does one thing to all certificates that a filter is for.",
        )
        .problems(&[
            Code::BadParameter,
            Code::BadQuery,
            Code::BadReason,
            Code::EmptyFilter,
            Code::TooManyMatches,
            Code::NotFound,
            Code::RegistryUnavailable,
        ]),
        batch,
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Action {
    Activate,
    Deactivate,
    Revoke,
    Reject,
    Quarantine,
    Release,
    Delete,
}

/// What is to be done, and to which certificates.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BatchBody {
    action: Action,
    #[serde(default)]
    filter: Filter,
    /// Without any filter: all of them are meant.
    #[serde(default)]
    all: bool,
    /// Of a revocation.
    reason: Option<String>,
    /// A deletion takes those that are active, too.
    #[serde(default)]
    force: bool,
}

/// What came of it.
#[derive(Default, Serialize, JsonSchema)]
#[schemars(rename = "BatchReport")]
struct Report {
    /// Certificates that the filter was for.
    matched: usize,
    changed: usize,
    /// They were as wanted already.
    unchanged: usize,
    /// The rules or the storage refused; `problems` says why.
    failed: usize,
    problems: Vec<BatchProblem>,
}

#[derive(Serialize, JsonSchema)]
struct BatchProblem {
    id: String,
    code: String,
    detail: String,
}

/// One change, for many.
#[derive(Clone, Copy)]
struct Doing {
    action: Action,
    reason: RevocationReason,
    force: Force,
}

async fn batch(
    State(parts): State<AdminParts>,
    change: Change,
    rights: Rights,
    body: Result<Json<BatchBody>, JsonRejection>,
) -> Result<Outcome<Json<Report>>, Problem> {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    if body.action == Action::Revoke {
        rights.require(Scope::CertsRevoke)?;
    }
    if body.filter.is_empty() && !body.all {
        let detail = "no filter says which certificates are meant: give one, or `all` for every certificate";
        return Err(Problem::new(Code::EmptyFilter, detail));
    }
    let doing = Doing {
        action: body.action,
        reason: verbs::reason(body.reason.as_deref())?,
        force: if body.force { Force::Yes } else { Force::No },
    };
    let ids = matches(&parts, &body.filter).await?;
    if change.dry_run {
        return Ok(tried(&parts, doing, &ids, &change).await?.into());
    }
    let actor: Arc<str> = Arc::clone(&change.actor.0);
    let registry = Arc::clone(&parts.registry);
    // Once begun it goes on to its end, whether or not the asker waits for it.
    let report = request::spawn(async move { all_of_them(&registry, doing, ids, &actor).await }).await;
    let report = report.map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    Ok(Outcome::Done(Json(report)))
}

/// All that the filter is for, before anything is changed: a change may move a record to where the filter finds it
/// again.
async fn matches(parts: &AdminParts, filter: &Filter) -> Result<Vec<CertificateFingerprint>, Problem> {
    let mut ids = Vec::new();
    let mut cursor = None;
    loop {
        let mut query = filter.query(parts, MAX_PAGE)?;
        query.cursor = cursor;
        let page = parts.registry.query(query).await?;
        ids.extend(page.records.iter().map(|record| record.id));
        if ids.len() > MOST_MATCHES {
            let detail = format!("the filter is for more than {MOST_MATCHES} certificates: narrow it");
            return Err(Problem::new(Code::TooManyMatches, detail));
        }
        match page.next {
            Some(next) => cursor = Some(next),
            None => return Ok(ids),
        }
    }
}

async fn all_of_them(
    registry: &Arc<Registry>,
    doing: Doing,
    ids: Vec<CertificateFingerprint>,
    actor: &Arc<str>,
) -> Report {
    let mut report = Report { matched: ids.len(), ..Report::default() };
    let mut running = JoinSet::new();
    for id in ids {
        if running.len() >= AT_ONCE {
            note(&mut report, running.join_next().await);
        }
        let (registry, actor) = (Arc::clone(registry), Arc::clone(actor));
        let work = async move { (id, one(&registry, doing, id, Ask::by(&actor)).await) };
        running.spawn(request::carried(work));
    }
    while let Some(done) = running.join_next().await {
        note(&mut report, Some(done));
    }
    report
}

type Done = Result<(CertificateFingerprint, Result<ChangedDevice, RegistryError>), tokio::task::JoinError>;

fn note(report: &mut Report, done: Option<Done>) {
    let problem = match done {
        None => return,
        Some(Ok((_, Ok(changed)))) => {
            let was = changed.before.as_ref().map(|before| before.revision);
            let count =
                if was == Some(changed.revision) { &mut report.unchanged } else { &mut report.changed };
            *count += 1;
            return;
        }
        Some(Ok((id, Err(error)))) => {
            BatchProblem { id: id.to_hex(), code: error.code().to_owned(), detail: error.to_string() }
        }
        Some(Err(error)) => {
            BatchProblem { id: String::new(), code: String::from("internal"), detail: error.to_string() }
        }
    };
    report.failed += 1;
    if report.problems.len() < MOST_PROBLEMS {
        report.problems.push(problem);
    }
}

async fn one(
    registry: &Arc<Registry>,
    doing: Doing,
    id: CertificateFingerprint,
    ask: Ask<'_>,
) -> Result<ChangedDevice, RegistryError> {
    match doing.action {
        Action::Activate => registry.activate(id, ask).await,
        Action::Deactivate => registry.deactivate(id, ask).await,
        Action::Revoke => registry.revoke(id, doing.reason, ask).await,
        Action::Reject => registry.reject(id, ask).await,
        Action::Quarantine => registry.quarantine(id, "by an operator, with others", ask).await,
        Action::Release => registry.release(id, ask).await,
        Action::Delete => registry.delete(id, doing.force, ask).await,
    }
}

/// What it would come to, certificate by certificate.
async fn tried(
    parts: &AdminParts,
    doing: Doing,
    ids: &[CertificateFingerprint],
    change: &Change,
) -> Result<Impact, Problem> {
    let (mut report, mut connections) = (Report::default(), 0);
    for id in ids {
        let ask = Ask::by(&change.actor.0).dry_run(DryRun::Yes);
        let tried = one(&parts.registry, doing, *id, ask).await;
        if let Ok(changed) = &tried
            && parts.registry.effective(changed).is_err()
        {
            connections += parts.broker.connections().find(Mark::Certificate(*id)).len();
        }
        note(&mut report, Some(Ok((*id, tried))));
    }
    let mut impact = Impact::of("device.batch", format!("{} certificates", ids.len()))
        .affects("matched", ids.len())
        .affects("changed", report.changed)
        .affects("unchanged", report.unchanged)
        .affects("refused", report.failed)
        .affects("connections_closed", connections);
    for problem in report.problems.iter().take(10) {
        impact = impact.warn(format!("{}: {}: {}", problem.id, problem.code, problem.detail));
    }
    Ok(impact)
}
