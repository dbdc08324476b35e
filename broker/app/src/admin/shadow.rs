//! A version that is asked beside the live one and decides nothing: begun, looked at, promoted, dropped.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use mqgate_identity::audit::{AuditEvent, Outcome as Ended, names};
use mqgate_identity::hooks::Reauthorize;
use mqgate_identity::reason::Reason;
use mqgate_plugin_host::{Difference, Report, Sample};
use mqgate_server::admin::api::Outcome;
use mqgate_server::admin::{Change, Code, Impact, Problem};
use serde_json::{Value, json};

use super::PluginAdmin;
use super::lifecycle::ChangeQuery;
use super::looking::{no_such, shown};
use super::requests::{Said, finished};
use super::routes::{Answer, Asked, can_be_audited, refused, rehearsed};

fn reported(report: &Report) -> Value {
    let kinds = Difference::ALL.iter().zip(report.by_difference);
    json!({
        "digest": report.digest,
        "version": report.version,
        "since": report.since.map(|since| since.0),
        "by": report.by,
        "same": report.same,
        "different": report.different,
        "skipped": report.skipped,
        "kinds": kinds.map(|(kind, count)| (kind.as_str().to_owned(), count.into())).collect::<serde_json::Map<_, _>>(),
        "samples": report.samples.iter().rev().map(sample).collect::<Vec<_>>(),
    })
}

fn sample(sample: &Sample) -> Value {
    json!({
        "at": sample.at.0,
        "hook": sample.hook,
        "kind": sample.difference.as_str(),
        "client_id": sample.client_id,
        "peer": sample.peer,
        "fingerprint": sample.fingerprint,
        "live": sample.live,
        "shadow": sample.shadow,
    })
}

fn note(admin: &PluginAdmin, asked: &Asked<'_>, report: &Report) {
    let event = AuditEvent::new(asked.event, Ended::Success, Reason::Ok)
        .actor(&*asked.actor.0)
        .field("plugin", asked.plugin)
        .field("digest", &*report.digest)
        .field("same", report.same.to_string())
        .field("different", report.different.to_string());
    admin.audit.record(event);
}

pub async fn begin(
    State(admin): State<PluginAdmin>,
    change: Change,
    Path(name): Path<String>,
    Json(said): Json<Said>,
) -> Result<Outcome<(StatusCode, Json<Value>)>, Problem> {
    can_be_audited(&admin)?;
    let wanted = said.change(admin.reauthorize, &change.actor.0)?;
    admin.host.find(&name).ok_or_else(|| no_such(&name))?;
    if change.dry_run {
        let found = admin.host.rehearse(&name, &wanted).await.map_err(|error| refused(&error))?;
        return Ok(Impact::of("plugin.shadow", name).after(&rehearsed(&found))?.into());
    }
    let actor = change.actor;
    finished(async move {
        let reauthorize = wanted.reauthorize;
        let outcome = admin.host.shadow(&name, wanted).await;
        let asked = Asked { event: names::PLUGIN_SHADOWED, actor: &actor, plugin: &name, reauthorize };
        let report = outcome.map_err(|error| asked.not_done(&admin, Some(&said.digest), &error))?;
        note(&admin, &asked, &report);
        Ok(Outcome::Done((StatusCode::CREATED, Json(reported(&report)))))
    })
    .await
}

pub async fn show(
    State(admin): State<PluginAdmin>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    admin.host.find(&name).ok_or_else(|| no_such(&name))?;
    let report = admin.host.shadow_report(&name).ok_or_else(|| no_shadow(&name))?;
    Ok(Json(reported(&report)))
}

fn no_shadow(name: &str) -> Problem {
    Problem::new(Code::NoShadow, format!("the plugin `{name}` has no shadow"))
}

pub async fn promote(
    State(admin): State<PluginAdmin>,
    change: Change,
    Path(name): Path<String>,
    Query(query): Query<ChangeQuery>,
) -> Answer {
    can_be_audited(&admin)?;
    let reauthorize = query.reauthorize(admin.reauthorize)?;
    let before = admin.host.find(&name).ok_or_else(|| no_such(&name))?;
    let report = admin.host.shadow_report(&name).ok_or_else(|| no_shadow(&name))?;
    if change.dry_run {
        let impact = Impact::of("plugin.promote", name).before(&shown(&before))?.after(&reported(&report))?;
        return Ok(impact.affects("connections", admin.broker.connections().len()).into());
    }
    let actor = change.actor;
    finished(async move {
        let outcome = admin.host.promote(&name, &actor.0, reauthorize).await;
        let asked = Asked { event: names::PLUGIN_SWAPPED, actor: &actor, plugin: &name, reauthorize };
        let info = asked.settled(&admin, Some(&before.digest), Some(&report.digest), outcome).await?;
        Ok(Outcome::Done(Json(shown(&info))))
    })
    .await
}

pub async fn drop_it(State(admin): State<PluginAdmin>, change: Change, Path(name): Path<String>) -> Answer {
    can_be_audited(&admin)?;
    admin.host.find(&name).ok_or_else(|| no_such(&name))?;
    let report = admin.host.shadow_report(&name).ok_or_else(|| no_shadow(&name))?;
    if change.dry_run {
        return Ok(Impact::of("plugin.shadow_drop", name).before(&reported(&report))?.into());
    }
    let actor = change.actor;
    finished(async move {
        let outcome = admin.host.drop_shadow(&name).await;
        let reauthorize = Reauthorize::None;
        let asked = Asked { event: names::PLUGIN_SHADOW_DROPPED, actor: &actor, plugin: &name, reauthorize };
        let report = outcome.map_err(|error| asked.not_done(&admin, Some(&report.digest), &error))?;
        note(&admin, &asked, &report);
        Ok(Outcome::Done(Json(reported(&report))))
    })
    .await
}
