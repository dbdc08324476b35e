//! Components come and go: load, swap, unload. What is begun is finished and written down, also when nobody waits any
//! more.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use mqgate_identity::audit::names;
use mqgate_identity::hooks::Reauthorize;
use mqgate_plugin_host::{LoadError, PluginInfo, Rehearsed, Stage, UnloadError};
use mqgate_server::admin::api::Outcome;
use mqgate_server::admin::{Actor, Change, Code, Impact, Problem};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::looking::{no_such, shown};
use super::requests::{Said, finished};
use super::{PluginAdmin, note_change, note_refusal};

pub type Answer = Result<Outcome<Json<Value>>, Problem>;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnloadQuery {
    #[serde(default)]
    force: bool,
}

/// A component that was refused: the host's stage and message.
pub fn refused(error: &LoadError) -> Problem {
    let code = match error.stage {
        Stage::Verify => Code::PluginVerify,
        Stage::Inspect => Code::PluginInspect,
        Stage::Compile => Code::PluginCompile,
        Stage::Link => Code::PluginLink,
        Stage::Trial => Code::PluginTrial,
        Stage::Store => Code::PluginStore,
    };
    Problem::new(code, &*error.message).with("stage", error.stage.as_str())
}

/// A plugin that stays.
pub fn stays(name: &str, error: UnloadError) -> Problem {
    match error {
        UnloadError::NoSuchPlugin => no_such(name),
        UnloadError::Required => Problem::new(
            Code::PluginRequired,
            format!(
                "`{name}` is required: without it connections are judged by the rest of the chain alone; \
                 swap it, or go on with `--force` (`?force=true`)"
            ),
        ),
        UnloadError::Store(what) => Problem::new(Code::PluginStore, what),
    }
}

/// What a load or a swap would come to.
pub fn rehearsed(found: &Rehearsed) -> Value {
    json!({
        "digest": found.digest,
        "version": found.version,
        "hooks": found.hooks,
        "imports": found.imports,
        "cold_start_us": u64::try_from(found.cold_start.as_micros()).unwrap_or(u64::MAX),
    })
}

pub async fn load(
    State(admin): State<PluginAdmin>,
    change: Change,
    Json(said): Json<Said>,
) -> Result<Outcome<(StatusCode, Json<Value>)>, Problem> {
    let name = said.name.clone().ok_or_else(|| Problem::new(Code::BadName, "a plugin needs a `name`"))?;
    let named = |problem: Problem| problem.about(&name);
    can_be_audited(&admin)?;
    let position = said.position().map_err(named)?;
    let reauthorize = said.reauthorize(admin.reauthorize).map_err(named)?;
    let wanted = said.wanted(&name, admin.host.settings_of_failed(&name)).map_err(named)?;
    if change.dry_run {
        let found = admin.host.rehearse_load(&wanted).await.map_err(|error| refused(&error))?;
        let impact = Impact::of("plugin.load", name).after(&rehearsed(&found))?;
        return Ok(impact.affects("connections", admin.broker.connections().len()).into());
    }
    let actor = change.actor;
    finished(async move {
        let outcome = admin.host.load(wanted, position, &actor.0).await;
        let asked = Asked { event: names::PLUGIN_LOADED, actor: &actor, plugin: &name, reauthorize };
        let info = asked.settled(&admin, None, Some(&said.digest), outcome).await?;
        Ok(Outcome::Done((StatusCode::CREATED, Json(shown(&info)))))
    })
    .await
}

pub async fn swap(
    State(admin): State<PluginAdmin>,
    change: Change,
    Path(name): Path<String>,
    Json(said): Json<Said>,
) -> Answer {
    can_be_audited(&admin)?;
    let wanted = said.change(admin.reauthorize, &change.actor.0)?;
    let before = admin.host.find(&name).ok_or_else(|| no_such(&name))?;
    if change.dry_run {
        let found = admin.host.rehearse(&name, &wanted).await.map_err(|error| refused(&error))?;
        let impact = Impact::of("plugin.swap", name).before(&shown(&before))?.after(&rehearsed(&found))?;
        return Ok(impact.affects("connections", admin.broker.connections().len()).into());
    }
    let actor = change.actor;
    finished(async move {
        let reauthorize = wanted.reauthorize;
        let outcome = admin.host.swap(&name, wanted).await;
        let asked = Asked { event: names::PLUGIN_SWAPPED, actor: &actor, plugin: &name, reauthorize };
        let info = asked.settled(&admin, Some(&before.digest), Some(&said.digest), outcome).await?;
        Ok(Outcome::Done(Json(shown(&info))))
    })
    .await
}

pub async fn unload(
    State(admin): State<PluginAdmin>,
    change: Change,
    Path(name): Path<String>,
    Query(query): Query<UnloadQuery>,
) -> Answer {
    can_be_audited(&admin)?;
    let info = admin.host.find(&name).ok_or_else(|| no_such(&name))?;
    if change.dry_run {
        if info.required && !query.force {
            return Err(stays(&name, UnloadError::Required));
        }
        let impact = Impact::of("plugin.unload", &name).before(&shown(&info))?;
        return Ok(impact.affects("connections", admin.broker.connections().len()).into());
    }
    let actor = change.actor;
    finished(async move {
        admin.host.unload(&name, query.force).await.map_err(|error| stays(&name, error))?;
        let reauthorize = admin.reauthorize;
        let asked = Asked { event: names::PLUGIN_UNLOADED, actor: &actor, plugin: &name, reauthorize };
        asked.done(&admin, &info, Some(&info.digest), None).await;
        Ok(Outcome::Done(Json(json!({ "name": info.name, "digest": info.digest }))))
    })
    .await
}

/// A change of the chains that somebody asked for, as it is written down.
pub struct Asked<'a> {
    /// Of the change, if it happens.
    pub event: &'static str,
    pub actor: &'a Actor,
    pub plugin: &'a str,
    pub reauthorize: Reauthorize,
}

impl Asked<'_> {
    /// A change that was tried: what came of it is written down, and live sessions hear of it. `before` ran until then,
    /// `wanted` is the component that was to run.
    pub async fn settled(
        &self,
        admin: &PluginAdmin,
        before: Option<&str>,
        wanted: Option<&str>,
        outcome: Result<PluginInfo, LoadError>,
    ) -> Result<PluginInfo, Problem> {
        match outcome {
            Ok(info) => {
                self.done(admin, &info, before, None).await;
                Ok(info)
            }
            Err(error) => Err(self.not_done(admin, wanted.or(before), &error)),
        }
    }

    /// It happened. `why`: of a version that was taken back.
    pub async fn done(
        &self,
        admin: &PluginAdmin,
        info: &PluginInfo,
        before: Option<&str>,
        why: Option<&str>,
    ) {
        note_change(&admin.audit, self.event, &self.actor.0, info, before, why).await;
        ask_again(admin, self.reauthorize);
    }

    /// It was refused.
    pub fn not_done(&self, admin: &PluginAdmin, digest: Option<&str>, error: &LoadError) -> Problem {
        let digest = digest.filter(|digest| !digest.is_empty());
        note_refusal(&admin.audit, &self.actor.0, self.plugin, digest, error);
        refused(error).written_down()
    }
}

/// A change that cannot be written down does not happen.
pub fn can_be_audited(admin: &PluginAdmin) -> Result<(), Problem> {
    admin.audit.check().map_err(|refused| Problem::new(Code::AuditUnavailable, refused.to_string()))
}

/// Lazily is the connections' own business; eagerly is asked for here.
pub fn ask_again(admin: &PluginAdmin, reauthorize: Reauthorize) {
    if reauthorize == Reauthorize::Eager {
        let asked = admin.broker.connections().reauthorize_where(|_| true);
        tracing::info!(connections = asked, "live sessions are asked for again");
    }
}
