//! Calls of a plugin as cases: begun, fetched, ended. What is fetched holds what clients showed and what the plugin was told,
//! passwords and authentication data left out.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use mqgate_identity::audit::{AuditEvent, Outcome as Ended, names};
use mqgate_identity::reason::Reason;
use mqgate_plugin_host::{RecordingPage, RecordingReport, RecordingTerms};
use mqgate_server::admin::api::Outcome;
use mqgate_server::admin::{Change, Code, Impact, Problem};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::PluginAdmin;
use super::looking::no_such;
use super::routes::{Answer, can_be_audited, refused};

const MOST_CALLS: u64 = 1_000_000;
const LONGEST: u64 = 86_400;

/// What is to be recorded.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Calls at most, up to 1000000.
    count: u64,
    /// Seconds at most, up to a day.
    seconds: u64,
    /// Of so many calls one.
    #[serde(default = "one")]
    every: u64,
    /// Only calls for clients on this listener.
    listener: Option<String>,
}

fn one() -> u64 {
    1
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct After {
    /// The number of the last call that was fetched: those up to it are forgotten.
    #[serde(default)]
    after: u64,
}

impl Wanted {
    fn terms(self) -> Result<RecordingTerms, Problem> {
        let Self { count, seconds, every, listener } = self;
        if !(1..=MOST_CALLS).contains(&count) || !(1..=MOST_CALLS).contains(&every) {
            let detail = format!("`count` and `every` are between 1 and {MOST_CALLS}");
            return Err(Problem::new(Code::BadSize, detail));
        }
        if !(1..=LONGEST).contains(&seconds) {
            return Err(Problem::new(Code::BadTime, format!("`seconds` is between 1 and {LONGEST}")));
        }
        Ok(RecordingTerms { count, time: Duration::from_secs(seconds), every, listener })
    }
}

fn reported(name: &str, report: &RecordingReport) -> Value {
    json!({
        "plugin": name,
        "digest": report.digest,
        "ended": report.ended,
        "taken": report.taken,
        "dropped": report.dropped,
    })
}

fn note(admin: &PluginAdmin, event: &'static str, actor: &str, plugin: &str, report: &RecordingReport) {
    let event = AuditEvent::new(event, Ended::Success, Reason::Ok)
        .actor(actor)
        .field("plugin", plugin)
        .field("digest", &*report.digest)
        .field("taken", report.taken.to_string())
        .field("dropped", report.dropped.to_string());
    admin.audit.record(event);
}

pub async fn begin(
    State(admin): State<PluginAdmin>,
    change: Change,
    Path(name): Path<String>,
    Json(wanted): Json<Wanted>,
) -> Result<Outcome<(StatusCode, Json<Value>)>, Problem> {
    can_be_audited(&admin)?;
    let terms = wanted.terms()?;
    admin.host.find(&name).ok_or_else(|| no_such(&name))?;
    if change.dry_run {
        return Ok(Impact::of("plugin.record", name).into());
    }
    let report = admin.host.record(&name, terms).map_err(|error| refused(&error))?;
    note(&admin, names::PLUGIN_RECORDING, &change.actor.0, &name, &report);
    Ok(Outcome::Done((StatusCode::CREATED, Json(reported(&name, &report)))))
}

pub async fn fetch(
    State(admin): State<PluginAdmin>,
    Path(name): Path<String>,
    Query(query): Query<After>,
) -> Result<Json<Value>, Problem> {
    admin.host.find(&name).ok_or_else(|| no_such(&name))?;
    let page = admin.host.recorded(&name, query.after).ok_or_else(|| no_recording(&name))?;
    let RecordingPage { lines, next, finished, report } = page;
    let mut answer = reported(&name, &report);
    answer["lines"] = json!(lines);
    answer["next"] = json!(next);
    answer["finished"] = json!(finished);
    Ok(Json(answer))
}

pub async fn end(State(admin): State<PluginAdmin>, change: Change, Path(name): Path<String>) -> Answer {
    can_be_audited(&admin)?;
    admin.host.find(&name).ok_or_else(|| no_such(&name))?;
    if change.dry_run {
        return Ok(Impact::of("plugin.record_end", name).into());
    }
    let report = admin.host.end_recording(&name).ok_or_else(|| no_recording(&name))?;
    note(&admin, names::PLUGIN_RECORDING_ENDED, &change.actor.0, &name, &report);
    Ok(Outcome::Done(Json(reported(&name, &report))))
}

fn no_recording(name: &str) -> Problem {
    Problem::new(Code::NoRecording, format!("nothing is recorded of the plugin `{name}`"))
}
