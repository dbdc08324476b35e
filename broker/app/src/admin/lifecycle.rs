//! What becomes of a plugin that is there: other settings, enabled, disabled, taken back, as the configuration has it;
//! and components that are uploaded before anybody uses them.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use mqgate_identity::audit::names;
use mqgate_identity::hooks::Reauthorize;
use mqgate_plugin_host::{Change as PluginChange, PluginInfo, Source, UnloadError};
use mqgate_server::admin::api::Outcome;
use mqgate_server::admin::{Change, Impact, Problem};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::PluginAdmin;
use super::looking::{described, no_such, shown};
use super::requests::{bytes, finished, reauthorize};
use super::routes::{Answer, Asked, can_be_audited, refused, rehearsed, stays};

/// Of every change that can concern live sessions.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeQuery {
    /// `none`, `lazy` or `eager`; as configured, otherwise.
    reauthorize: Option<String>,
}

impl ChangeQuery {
    pub fn reauthorize(&self, configured: Reauthorize) -> Result<Reauthorize, Problem> {
        reauthorize(self.reauthorize.as_deref(), configured)
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DisableQuery {
    /// Even if it is required.
    #[serde(default)]
    force: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackQuery {
    /// The number or the digest of a former version; without it, the one before.
    to: Option<String>,
    /// For the list of versions and the audit log.
    why: Option<String>,
    reauthorize: Option<String>,
}

/// Takes a component in; it is used by its digest.
pub async fn stage(
    State(admin): State<PluginAdmin>,
    change: Change,
    body: Result<Bytes, BytesRejection>,
) -> Result<Outcome<(StatusCode, Json<Value>)>, Problem> {
    let component = bytes(body)?;
    if change.dry_run {
        let found = admin.host.inspect(Source::Bytes(component)).await.map_err(|error| refused(&error))?;
        return Ok(Impact::of("plugin.upload", &found.digest).after(&described(&found))?.into());
    }
    let found = finished(async move { admin.host.stage(component).await.map_err(|error| refused(&error)) });
    Ok(Outcome::Done((StatusCode::CREATED, Json(described(&found.await?)))))
}

/// Other settings for the component that runs. The body is the settings, as the plugin reads them.
pub async fn configure(
    State(admin): State<PluginAdmin>,
    change: Change,
    Path(name): Path<String>,
    Query(query): Query<ChangeQuery>,
    Json(config): Json<Value>,
) -> Answer {
    can_be_audited(&admin)?;
    let reauthorize = query.reauthorize(admin.reauthorize)?;
    let before = admin.host.find(&name).ok_or_else(|| no_such(&name))?;
    let actor = change.actor;
    let wanted = PluginChange { config: Some(config), reauthorize, ..PluginChange::by(&*actor.0) };
    if change.dry_run {
        let found = admin.host.rehearse(&name, &wanted).await.map_err(|error| refused(&error))?;
        let impact =
            Impact::of("plugin.configure", name).before(&shown(&before))?.after(&rehearsed(&found))?;
        return Ok(impact.affects("connections", admin.broker.connections().len()).into());
    }
    finished(async move {
        let outcome = admin.host.swap(&name, wanted).await;
        let asked = Asked { event: names::PLUGIN_CONFIGURED, actor: &actor, plugin: &name, reauthorize };
        let info = asked.settled(&admin, Some(&before.digest), None, outcome).await?;
        Ok(Outcome::Done(Json(shown(&info))))
    })
    .await
}

/// What would become of a plugin that is there.
fn tried(admin: &PluginAdmin, action: &'static str, name: &str, before: &PluginInfo) -> Answer {
    let impact = Impact::of(action, name).before(&shown(before))?;
    Ok(impact.affects("connections", admin.broker.connections().len()).into())
}

pub async fn enable(
    State(admin): State<PluginAdmin>,
    change: Change,
    Path(name): Path<String>,
    Query(query): Query<ChangeQuery>,
) -> Answer {
    can_be_audited(&admin)?;
    let reauthorize = query.reauthorize(admin.reauthorize)?;
    let before = admin.host.find(&name).ok_or_else(|| no_such(&name))?;
    if change.dry_run {
        return tried(&admin, "plugin.enable", &name, &before);
    }
    let (actor, before) = (change.actor, before.digest);
    finished(async move {
        let outcome = admin.host.enable(&name, reauthorize).await;
        let asked = Asked { event: names::PLUGIN_ENABLED, actor: &actor, plugin: &name, reauthorize };
        let info = asked.settled(&admin, Some(&before), None, outcome).await?;
        Ok(Outcome::Done(Json(shown(&info))))
    })
    .await
}

pub async fn disable(
    State(admin): State<PluginAdmin>,
    change: Change,
    Path(name): Path<String>,
    Query(query): Query<DisableQuery>,
) -> Answer {
    can_be_audited(&admin)?;
    let before = admin.host.find(&name).ok_or_else(|| no_such(&name))?;
    if change.dry_run && before.required && !query.force {
        return Err(stays(&name, UnloadError::Required));
    }
    if change.dry_run {
        return tried(&admin, "plugin.disable", &name, &before);
    }
    let (actor, before) = (change.actor, before.digest);
    finished(async move {
        let info = admin.host.disable(&name, query.force).await.map_err(|error| stays(&name, error))?;
        let reauthorize = admin.reauthorize;
        let asked = Asked { event: names::PLUGIN_DISABLED, actor: &actor, plugin: &name, reauthorize };
        asked.done(&admin, &info, Some(&before), None).await;
        Ok(Outcome::Done(Json(shown(&info))))
    })
    .await
}

/// Takes the version that runs back.
pub async fn rollback(
    State(admin): State<PluginAdmin>,
    change: Change,
    Path(name): Path<String>,
    Query(query): Query<RollbackQuery>,
) -> Answer {
    can_be_audited(&admin)?;
    let reauthorize = reauthorize(query.reauthorize.as_deref(), admin.reauthorize)?;
    let before = admin.host.find(&name).ok_or_else(|| no_such(&name))?;
    if change.dry_run {
        admin.host.rollback_target(&name, query.to.as_deref()).map_err(|error| refused(&error))?;
    }
    if change.dry_run {
        return tried(&admin, "plugin.rollback", &name, &before);
    }
    let (actor, before) = (change.actor, before.digest);
    finished(async move {
        let why: String = query.why.as_deref().unwrap_or("an operator wanted it").chars().take(256).collect();
        let change = PluginChange { reauthorize, ..PluginChange::by(&*actor.0) };
        let outcome = admin.host.rollback(&name, query.to.as_deref(), None, &why, change).await;
        let asked = Asked { event: names::PLUGIN_ROLLED_BACK, actor: &actor, plugin: &name, reauthorize };
        let info = outcome.map_err(|error| asked.not_done(&admin, Some(&before), &error))?;
        asked.done(&admin, &info, Some(&before), Some(&why)).await;
        Ok(Outcome::Done(Json(shown(&info))))
    })
    .await
}

/// What the configuration says of it holds again.
pub async fn reset(
    State(admin): State<PluginAdmin>,
    change: Change,
    Path(name): Path<String>,
    Query(query): Query<ChangeQuery>,
) -> Answer {
    can_be_audited(&admin)?;
    let reauthorize = query.reauthorize(admin.reauthorize)?;
    let before = match admin.host.find(&name) {
        Some(info) => info.digest,
        // What was taken out at runtime can be brought back.
        None if admin.host.unloaded().contains(&name) => String::new(),
        None => return Err(no_such(&name)),
    };
    if change.dry_run {
        let impact = Impact::of("plugin.reset", &name).before(&admin.host.find(&name).as_ref().map(shown))?;
        return Ok(impact.affects("connections", admin.broker.connections().len()).into());
    }
    let actor = change.actor;
    finished(async move {
        let outcome = admin.host.reset(&name, &actor.0, reauthorize).await;
        let asked = Asked { event: names::PLUGIN_RESET, actor: &actor, plugin: &name, reauthorize };
        let info = asked.settled(&admin, Some(&before), None, outcome).await?;
        Ok(Outcome::Done(Json(shown(&info))))
    })
    .await
}
