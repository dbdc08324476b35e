//! The handlers.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use mqgate_identity::audit::names;
use mqgate_identity::hooks::Reauthorize;
use mqgate_plugin_host::{
    Capability, Grants, LoadError, PluginInfo, PluginSettings, PluginState, Position, Source, Stage,
    UnloadError,
};
use mqgate_server::admin::api::Outcome;
use mqgate_server::admin::{Change, Code, Impact, Problem};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{PluginAdmin, note_change, note_refusal};

type Answer = Result<Json<Value>, Problem>;

fn shown(info: &PluginInfo) -> Value {
    let (state, why) = match &info.state {
        PluginState::Live => ("live", None),
        PluginState::Failed(why) => ("failed", Some(why)),
    };
    json!({
        "name": info.name,
        "state": state,
        "why": why,
        "digest": info.digest,
        "version": info.version,
        "size": info.size,
        "hooks": info.hooks,
        "imports": info.imports,
        "generation": info.generation,
        "isolation": info.isolation,
        "cold_start_us": u64::try_from(info.cold_start.as_micros()).unwrap_or(u64::MAX),
        "required": info.required,
        "native": false,
    })
}

/// Every member of the chains in the order in which it is asked; those that are not live come last.
pub async fn list(State(admin): State<PluginAdmin>) -> Json<Value> {
    let hooks = admin.host.hooks().load_full();
    let mut plugins = admin.host.list();
    let mut items = Vec::new();
    for member in &hooks.members {
        match plugins.iter().position(|info| info.name == *member.name && info.state == PluginState::Live) {
            Some(index) => items.push(shown(&plugins.remove(index))),
            None if member.digest.is_none() => {
                let has = [
                    ("authenticator", member.authenticator.is_some()),
                    ("registrar", member.registrar.is_some()),
                    ("authorizer", member.authorizer.is_some()),
                    ("auditor", member.auditor.is_some()),
                ];
                let hooks: Vec<_> = has.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
                items.push(json!({ "name": &*member.name, "state": "live", "native": true, "hooks": hooks }));
            }
            None => {}
        }
    }
    items.extend(plugins.iter().map(shown));
    Json(json!({ "items": items, "generation": hooks.generation }))
}

pub async fn show(State(admin): State<PluginAdmin>, Path(name): Path<String>) -> Answer {
    find(&admin, &name).map(|info| Json(shown(&info))).ok_or_else(|| no_such(&name))
}

fn find(admin: &PluginAdmin, name: &str) -> Option<PluginInfo> {
    admin.host.list().into_iter().find(|info| info.name == name)
}

fn no_such(name: &str) -> Problem {
    let name: String = name.chars().take(128).collect();
    Problem::new(Code::NoSuchPlugin, format!("no plugin is called `{name}`"))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoadQuery {
    name: String,
    /// Capabilities, separated by commas.
    grant: Option<String>,
    /// `first`, `last`, `before:NAME`, `after:NAME`; where the configuration has it, otherwise.
    position: Option<String>,
    required: Option<bool>,
    /// The plugin's configuration, JSON.
    config: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnloadQuery {
    #[serde(default)]
    force: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SwapQuery {
    config: Option<String>,
    reauthorize: Option<String>,
}

fn settings(config: Option<&str>) -> Result<Option<Value>, Problem> {
    let parsed = config.map(serde_json::from_str).transpose();
    parsed.map_err(|error| {
        Problem::new(Code::BadConfig, format!("the plugin's configuration is no JSON: {error}"))
    })
}

fn position(text: Option<&str>) -> Result<Position, Problem> {
    Ok(match text {
        None => Position::Configured,
        Some("first") => Position::First,
        Some("last") => Position::Last,
        Some(text) => match text.split_once(':') {
            Some(("before", name)) => Position::Before(name.to_owned()),
            Some(("after", name)) => Position::After(name.to_owned()),
            _ => {
                let what = "a position is first, last, before:NAME or after:NAME";
                return Err(Problem::new(Code::BadPosition, what));
            }
        },
    })
}

fn grants(text: Option<&str>) -> Result<Grants, Problem> {
    let words = text.unwrap_or_default().split(',').map(str::trim).filter(|word| !word.is_empty());
    let words: Result<Vec<Capability>, _> = words.map(|word| capability(word).parse()).collect();
    words.map(Grants::of).map_err(|error: mqgate_plugin_host::UnknownCapability| {
        Problem::new(Code::BadGrant, error.to_string())
    })
}

/// The names of the interfaces are understood too.
fn capability(word: &str) -> &str {
    match word {
        "key-value" => "kv",
        "registry" => "registry.read",
        other => other,
    }
}

fn bytes(body: Result<Bytes, BytesRejection>) -> Result<Arc<[u8]>, Problem> {
    let too_large = "the component is larger than `admin.max_upload`, or the upload broke off";
    body.map(|bytes| Arc::from(&*bytes)).map_err(|rejection| {
        let code = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
            _ => Code::BadUpload,
        };
        Problem::new(code, format!("{too_large}: {}", rejection.body_text()))
    })
}

/// A component that was refused: the host's stage and message.
fn refused(error: &LoadError) -> Problem {
    let code = match error.stage {
        Stage::Verify => Code::PluginVerify,
        Stage::Inspect => Code::PluginInspect,
        Stage::Compile => Code::PluginCompile,
        Stage::Link => Code::PluginLink,
        Stage::Trial => Code::PluginTrial,
    };
    Problem::new(code, &*error.message).with("stage", error.stage.as_str())
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The settings to load with: those of the entry that failed under this name, where there is one, and what
/// the request names instead.
fn wanted(
    query: &LoadQuery,
    failed: Option<PluginSettings>,
    component: Arc<[u8]>,
) -> Result<PluginSettings, Problem> {
    let source = Source::Bytes(component);
    let mut wanted = match failed {
        Some(failed) => PluginSettings { source, ..failed },
        None => PluginSettings { required: false, ..PluginSettings::new(query.name.clone(), source) },
    };
    if let Some(required) = query.required {
        wanted.required = required;
    }
    if query.grant.is_some() {
        wanted.grants.capabilities = grants(query.grant.as_deref())?.capabilities;
    }
    if let Some(config) = settings(query.config.as_deref())? {
        wanted.config = config;
    }
    Ok(wanted)
}

pub async fn load(
    State(admin): State<PluginAdmin>,
    change: Change,
    Query(query): Query<LoadQuery>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Outcome<(StatusCode, Json<Value>)>, Problem> {
    let actor = change.actor;
    let component = bytes(body).map_err(|problem| problem.about(&query.name))?;
    can_be_audited(&admin)?;
    let digest = digest(&component);
    let position = position(query.position.as_deref()).map_err(|problem| problem.about(&query.name))?;
    let wanted = wanted(&query, admin.host.settings_of_failed(&query.name), component);
    let wanted = wanted.map_err(|problem| problem.about(&query.name))?;
    let name = wanted.name.clone();
    if change.dry_run {
        let Source::Bytes(component) = &wanted.source else {
            return Err(Problem::new(Code::BadUpload, "a component is the body of the request"));
        };
        let found = admin.host.inspect(Arc::clone(component)).await.map_err(|error| refused(&error))?;
        let live = admin.broker.connections().len();
        return Ok(Impact::of("plugin.load", name)
            .after(&json!({ "digest": found.digest, "hooks": found.hooks, "imports": found.imports }))?
            .affects("connections", live)
            .warn("its trial is made only when it is loaded")
            .into());
    }
    match admin.host.load(wanted, position).await {
        Ok(info) => {
            note_change(&admin.audit, names::PLUGIN_LOADED, &actor.0, &info, None).await;
            ask_again(&admin, admin.reauthorize);
            Ok(Outcome::Done((StatusCode::CREATED, Json(shown(&info)))))
        }
        Err(error) => {
            note_refusal(&admin.audit, &actor.0, &name, Some(&digest), &error);
            Err(refused(&error).written_down())
        }
    }
}

pub async fn swap(
    State(admin): State<PluginAdmin>,
    change: Change,
    Path(name): Path<String>,
    Query(query): Query<SwapQuery>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Outcome<Json<Value>>, Problem> {
    let actor = change.actor;
    let component = bytes(body)?;
    can_be_audited(&admin)?;
    let reauthorize = match query.reauthorize.as_deref() {
        None => admin.reauthorize,
        Some("none") => Reauthorize::None,
        Some("lazy") => Reauthorize::Lazy,
        Some("eager") => Reauthorize::Eager,
        Some(_) => {
            return Err(Problem::new(Code::BadReauthorize, "reauthorize is none, lazy or eager"));
        }
    };
    let config = settings(query.config.as_deref())?;
    let before = find(&admin, &name).ok_or_else(|| no_such(&name))?.digest;
    let after = digest(&component);
    if change.dry_run {
        let found = admin.host.inspect(component).await.map_err(|error| refused(&error))?;
        let live = admin.broker.connections().len();
        return Ok(Impact::of("plugin.swap", name)
            .before(&json!({ "digest": before }))?
            .after(&json!({ "digest": found.digest, "hooks": found.hooks, "imports": found.imports }))?
            .affects("connections", live)
            .warn("its trial is made only when it is swapped")
            .into());
    }
    match admin.host.swap(&name, component, config, reauthorize).await {
        Ok(info) => {
            note_change(&admin.audit, names::PLUGIN_SWAPPED, &actor.0, &info, Some(&before)).await;
            ask_again(&admin, reauthorize);
            Ok(Outcome::Done(Json(shown(&info))))
        }
        Err(error) => {
            note_refusal(&admin.audit, &actor.0, &name, Some(&after), &error);
            Err(refused(&error).written_down())
        }
    }
}

pub async fn unload(
    State(admin): State<PluginAdmin>,
    change: Change,
    Path(name): Path<String>,
    Query(query): Query<UnloadQuery>,
) -> Result<Outcome<Json<Value>>, Problem> {
    let actor = change.actor;
    can_be_audited(&admin)?;
    let info = find(&admin, &name).ok_or_else(|| no_such(&name))?;
    let required = || {
        let detail = format!(
            "`{name}` is required: without it connections are judged by the rest of the chain alone; \
             swap it, or unload it with `--force` (`?force=true`)"
        );
        Problem::new(Code::PluginRequired, detail)
    };
    if change.dry_run {
        if info.required && !query.force {
            return Err(required());
        }
        let live = admin.broker.connections().len();
        let impact = Impact::of("plugin.unload", &name).before(&shown(&info))?;
        return Ok(impact.affects("connections", live).into());
    }
    admin.host.unload(&name, query.force).await.map_err(|error| match error {
        UnloadError::NoSuchPlugin => no_such(&name),
        UnloadError::Required => required(),
    })?;
    note_change(&admin.audit, names::PLUGIN_UNLOADED, &actor.0, &info, Some(&info.digest)).await;
    ask_again(&admin, admin.reauthorize);
    Ok(Outcome::Done(Json(json!({ "name": info.name, "digest": info.digest }))))
}

pub async fn inspect(State(admin): State<PluginAdmin>, body: Result<Bytes, BytesRejection>) -> Answer {
    let found = admin.host.inspect(bytes(body)?).await.map_err(|error| refused(&error))?;
    Ok(Json(json!({
        "digest": found.digest,
        "size": found.size,
        "version": found.version,
        "hooks": found.hooks,
        "imports": found.imports,
        "other_exports": found.other_exports,
    })))
}

/// A change that cannot be written down does not happen.
fn can_be_audited(admin: &PluginAdmin) -> Result<(), Problem> {
    admin.audit.check().map_err(|refused| Problem::new(Code::AuditUnavailable, refused.to_string()))
}

/// Lazily is the connections' own business; eagerly is asked for here.
fn ask_again(admin: &PluginAdmin, reauthorize: Reauthorize) {
    if reauthorize == Reauthorize::Eager {
        let asked = admin.broker.connections().reauthorize_where(|_| true);
        tracing::info!(connections = asked, "live sessions are asked for again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> LoadQuery {
        let uri = format!("/?{text}").parse().expect("a URI");
        Query::try_from_uri(&uri).map(|Query(query)| query).expect("a query")
    }

    #[test]
    fn what_failed_is_loaded_with_its_own_settings() {
        let mut failed = PluginSettings::new("p", Source::File("missing.wasm".into()));
        failed.config = json!({ "a": 1 });
        failed.grants = Grants::of([Capability::KeyValue]);
        failed.grants.kv.entries = 7;
        failed.limits.concurrency = 3;
        let known = |settings: PluginSettings| {
            let granted: Vec<_> = settings.grants.capabilities.iter().map(|one| one.as_str()).collect();
            let (kv, limits) = (settings.grants.kv.entries, settings.limits.concurrency);
            assert!(matches!(settings.source, Source::Bytes(_)));
            (settings.required, granted.join(","), kv, limits, settings.config)
        };
        let load = |text: &str, failed: Option<PluginSettings>| {
            known(wanted(&query(text), failed, Arc::from(&b""[..])).expect("good settings"))
        };
        let again = load("name=p", Some(failed.clone()));
        assert_eq!(again, (true, String::from("kv"), 7, 3, json!({ "a": 1 })));
        let other = load("name=p&grant=metrics&config=%7B%7D&required=false", Some(failed));
        assert_eq!(other, (false, String::from("metrics"), 7, 3, json!({})));
        let (required, granted, ..) = load("name=p", None);
        assert_eq!((required, granted.as_str()), (false, ""));
    }
}
