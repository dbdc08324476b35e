//! The audit log over the admin API: records, checkpoints, proofs, keys.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use mqgate_audit::keys::Term;
use mqgate_audit::proof::{self, Consistency, Proof, ProofError};
use mqgate_audit::query::{self, Filter, moment};
use mqgate_audit::read::ReadError;
use mqgate_audit::subjects::Subject;
use mqgate_audit::{Checkpoint, Record, View};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::{Api, Change, Cursor, Doc, Impact, Limit, Outcome};
use super::{AdminParts, Code, Page, Problem, Scope, bad_json};
use crate::audit::EraseError;

/// Records that are looked at for one page: a search for what is rare takes several.
pub(super) const SCAN: usize = 20_000;

pub(super) fn routes() -> Api<AdminParts> {
    Api::new("Audit log")
        .route(
            Doc::get(
                "/audit/records",
                "audit.records",
                Scope::AuditRead,
                "Looks for audit records, the oldest first.",
            )
            .problems(&[Code::NoAuditLog, Code::AuditUnreadable]),
            records,
        )
        .route(
            Doc::get(
                "/audit/checkpoints",
                "audit.checkpoints",
                Scope::AuditVerify,
                "Signed checkpoints, the newest first, and how far the log is.",
            )
            .problems(&[Code::NoAuditLog, Code::AuditUnreadable]),
            checkpoints,
        )
        .route(
            Doc::get(
                "/audit/proofs/{seq}",
                "audit.prove",
                Scope::AuditVerify,
                "Proves that a record is in the log that the newest checkpoint is about.",
            )
            .problems(&[
                Code::NoAuditLog,
                Code::AuditUnreadable,
                Code::NotFound,
                Code::NotSignedYet,
            ]),
            prove,
        )
        .route(
            Doc::get(
                "/audit/proofs",
                "audit.consistency",
                Scope::AuditVerify,
                "Proves that the log of `first` records is the beginning of that of `second` records.",
            )
            .problems(&[Code::NoAuditLog, Code::AuditUnreadable, Code::NotFound]),
            consistency,
        )
        .route(
            Doc::get(
                "/audit/keys",
                "audit.keys",
                Scope::AuditVerify,
                "The public keys that the log is signed with.",
            )
            .problems(&[Code::NoAuditLog, Code::AuditUnreadable]),
            keys,
        )
        .route(
            Doc::post(
                "/audit/keys",
                "audit.rotate_key",
                Scope::AuditWrite,
                "Signs with a new key from now on.",
            )
            .problems(&[Code::NoAuditLog, Code::AuditUnreadable]),
            rotate_key,
        )
        .route(
            Doc::post(
                "/audit/erasures",
                "audit.erase",
                Scope::AuditWrite,
                "Destroys the key of a subject: its personal members in the log can be read no longer.",
            )
            .problems(&[
                Code::BadSubject,
                Code::NothingPersonal,
                Code::AuditUnavailable,
                Code::AuditUnreadable,
            ]),
            erase,
        )
}

/// What records must be like.
#[derive(Debug, Deserialize, JsonSchema)]
struct Search {
    /// `connection.refused`, or `connection` for all that begin with `connection.`.
    name: Option<String>,
    category: Option<String>,
    outcome: Option<String>,
    reason: Option<String>,
    actor: Option<String>,
    client_id: Option<String>,
    device_id: Option<String>,
    fingerprint: Option<String>,
    listener: Option<String>,
    /// An address, with or without its port.
    peer: Option<String>,
    connection_id: Option<u64>,
    /// Of a request to the admin API.
    request_id: Option<String>,
    /// RFC 3339.
    since: Option<String>,
    /// RFC 3339.
    until: Option<String>,
    /// Only records behind this sequence number.
    from: Option<u64>,
    limit: Option<Limit>,
    after: Option<Cursor>,
}

/// Records that match.
#[derive(Debug, Serialize, JsonSchema)]
struct Records {
    items: Vec<Record>,
    /// `after` of the next page. A page may be empty although there is a next one: one looks at so many records only.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// Everything up to this sequence number was looked at.
    reached: u64,
}

const RECORDS: &str = "audit-records";
const CHECKPOINTS: &str = "audit-checkpoints";

async fn records(
    State(parts): State<AdminParts>,
    Query(search): Query<Search>,
) -> Result<Json<Records>, Problem> {
    let time = |name: &str, text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => moment(text).map(Some).ok_or_else(|| {
            Problem::new(Code::BadParameter, format!("`{name}` is no time; write it as 2026-11-22T00:00:00Z"))
        }),
    };
    let limit = Limit::or_default(search.limit);
    let after = search.after.map(|cursor| cursor.read::<u64>(RECORDS)).transpose()?;
    let after = after.unwrap_or_default().max(search.from.unwrap_or_default());
    let filter = Filter {
        since: time("since", &search.since)?,
        until: time("until", &search.until)?,
        name: search.name,
        category: search.category,
        outcome: search.outcome,
        reason: search.reason,
        actor: search.actor,
        client_id: search.client_id,
        device_id: search.device_id,
        fingerprint: search.fingerprint,
        listener: search.listener,
        peer: search.peer,
        connection_id: search.connection_id,
        request_id: search.request_id,
    };
    let audit = std::sync::Arc::clone(&parts.audit);
    let found = reading(&parts, move |view| {
        let mut reveal = |member: &str, value: &str| audit.reveal(member, value);
        query::find(view, &filter, after, (limit, SCAN), &mut reveal).map_err(unreadable)
    })
    .await?;
    let next = (!found.is_end).then(|| Cursor::of(RECORDS, &found.after));
    Ok(Json(Records { items: found.records, next, reached: found.after }))
}

/// The log, for file accesses that may take a while.
pub(super) async fn reading<T: Send + 'static>(
    parts: &AdminParts,
    read: impl FnOnce(&View) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let view = parts.audit.view().cloned();
    let view = view.ok_or_else(|| Problem::new(Code::NoAuditLog, "this broker keeps no audit log"))?;
    let read = tokio::task::spawn_blocking(move || read(&view)).await;
    read.unwrap_or_else(|error| Err(Problem::new(Code::Internal, error.to_string())))
}

pub(super) fn unreadable(error: ReadError) -> Problem {
    Problem::new(Code::AuditUnreadable, error.to_string())
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ListQuery {
    limit: Option<Limit>,
    after: Option<Cursor>,
}

/// A signed checkpoint.
#[derive(Debug, Serialize, JsonSchema)]
struct CheckpointBody {
    /// Records under it.
    size: u64,
    /// The root hash, in hexadecimal digits.
    root: String,
    /// When it was signed.
    time: String,
    /// The signed note.
    note: String,
}

impl From<Checkpoint> for CheckpointBody {
    fn from(checkpoint: Checkpoint) -> Self {
        let Checkpoint { size, root, time, note, .. } = checkpoint;
        Self { size, root: root.to_hex(), time, note }
    }
}

/// Checkpoints, and how far the log is.
#[derive(Debug, Serialize, JsonSchema)]
struct Checkpoints {
    items: Vec<CheckpointBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// The log's name.
    log: String,
    /// The oldest record that is there, the last that was written, and the last that is safe on the disk.
    oldest: u64,
    written: u64,
    durable: u64,
}

async fn checkpoints(
    State(parts): State<AdminParts>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Checkpoints>, Problem> {
    let limit = Limit::or_default(query.limit);
    let below = query.after.map(|cursor| cursor.read::<u64>(CHECKPOINTS)).transpose()?.unwrap_or(u64::MAX);
    reading(&parts, move |view| {
        let found = view.checkpoints(below, limit + 1).map_err(|error| unreadable(error.into()))?;
        let is_more = found.len() > limit;
        let items: Vec<CheckpointBody> = found.into_iter().take(limit).map(Into::into).collect();
        let next = items.last().filter(|_| is_more).map(|last| Cursor::of(CHECKPOINTS, &last.size));
        let end = view.end();
        let log = view.id().to_owned();
        Ok(Json(Checkpoints {
            items,
            next,
            log,
            oldest: end.oldest,
            written: end.written,
            durable: end.durable,
        }))
    })
    .await
}

fn no_proof(error: ProofError) -> Problem {
    let code = match &error {
        ProofError::NoRecord { .. } | ProofError::NoTree(_) | ProofError::Deleted(..) => Code::NotFound,
        ProofError::NoCheckpoint(_) => Code::NotSignedYet,
        ProofError::Damaged(_) | ProofError::Read(_) => Code::AuditUnreadable,
    };
    Problem::new(code, error.to_string())
}

async fn prove(State(parts): State<AdminParts>, Path(seq): Path<u64>) -> Result<Json<Proof>, Problem> {
    reading(&parts, move |view| {
        let checkpoint = view.checkpoint().ok_or_else(|| no_proof(ProofError::NoCheckpoint(seq)))?;
        proof::prove(view, seq, &checkpoint).map(Json).map_err(no_proof)
    })
    .await
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Sizes {
    first: u64,
    second: u64,
}

async fn consistency(
    State(parts): State<AdminParts>,
    Query(sizes): Query<Sizes>,
) -> Result<Json<Consistency>, Problem> {
    reading(&parts, move |view| {
        proof::consistency(view, sizes.first, sizes.second).map(Json).map_err(no_proof)
    })
    .await
}

/// A key, and the sizes of the log that it signs.
#[derive(Debug, Serialize, JsonSchema)]
struct KeyBody {
    /// As `mqgate audit verify --key` takes it.
    key: String,
    id: String,
    from: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
    /// The hand-over, signed by the key before and by this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    statement: Option<String>,
}

impl From<&Term> for KeyBody {
    fn from(term: &Term) -> Self {
        Self {
            key: term.key.to_string(),
            id: term.key.id(),
            from: term.from,
            to: term.to,
            statement: term.statement.clone(),
        }
    }
}

async fn keys(State(parts): State<AdminParts>) -> Result<Json<Page<KeyBody>>, Problem> {
    let ring = reading(&parts, |view| {
        view.keys().map_err(|error| Problem::new(Code::AuditUnreadable, error.to_string()))
    });
    Ok(Json(Page::whole(ring.await?.terms().iter().map(Into::into).collect())))
}

async fn rotate_key(
    State(parts): State<AdminParts>,
    change: Change,
) -> Result<Outcome<Json<KeyBody>>, Problem> {
    let read = || {
        reading(&parts, |view| {
            view.keys().map_err(|error| Problem::new(Code::AuditUnreadable, error.to_string()))
        })
    };
    let before = read().await?;
    if change.dry_run {
        return Ok(Impact::of("audit.rotate_key", before.current().id()).into());
    }
    parts
        .audit
        .rotate_key(&change.actor.0)
        .await
        .map_err(|error| Problem::new(Code::AuditUnreadable, error.to_string()))?;
    let after = read().await?;
    let newest = after.terms().last().ok_or_else(|| Problem::new(Code::Internal, "a log without a key"))?;
    Ok(Outcome::Done(Json(newest.into())))
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Erasure {
    /// `device:NAME`, `certificate:FINGERPRINT`, `client:ID` or `address:IP`.
    subject: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Erased {
    /// Whether there was a key to destroy.
    erased: bool,
}

async fn erase(
    State(parts): State<AdminParts>,
    change: Change,
    body: Result<Json<Erasure>, JsonRejection>,
) -> Result<Outcome<Json<Erased>>, Problem> {
    let Json(Erasure { subject }) = body.map_err(|rejection| bad_json(&rejection))?;
    let what = "write device:NAME, certificate:FINGERPRINT, client:ID or address:IP";
    let parsed = Subject::parse(&subject).ok_or_else(|| Problem::new(Code::BadSubject, what))?;
    if change.dry_run {
        return Ok(Impact::of("audit.erase", &subject).into());
    }
    let erased = parts.audit.erase(parsed, &change.actor.0).await.map_err(|error| match error {
        EraseError::Refused(_) => Problem::new(Code::AuditUnavailable, error.to_string()),
        EraseError::File(_) => Problem::new(Code::AuditUnreadable, error.to_string()),
    })?;
    let nothing =
        || Problem::new(Code::NothingPersonal, "nothing is encrypted: `audit.personal.members` is empty");
    Ok(Outcome::Done(Json(Erased { erased: erased.ok_or_else(nothing)? })))
}
