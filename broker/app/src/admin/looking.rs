//! Looking at plugins: who is in the chains, which versions there are, what a component is.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Query, State};
use mqgate_plugin_host::{Description, PluginInfo, PluginState, Signature, Source, Version, grant_line};
use mqgate_server::admin::{Code, Problem};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::PluginAdmin;
use super::requests::bytes;
use super::routes::refused;

type Answer = Result<Json<Value>, Problem>;

pub fn shown(info: &PluginInfo) -> Value {
    let (state, why) = match &info.state {
        PluginState::Live => ("live", None),
        PluginState::Disabled => ("disabled", None),
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
        "number": info.number,
        "since": info.since.map(|since| since.0),
        "by": info.by,
        "how": info.how.map(mqgate_plugin_host::How::as_str),
        "rollback_to": info.former,
        "signed_by": info.signer,
        "configured": info.configured,
        "decided_at_runtime": info.kept,
        "shadow": info.shadow,
        "probation_seconds": info.probation.map(|left| left.as_secs()),
    })
}

/// Every member of the chains in the order in which it is asked; plugins that are not live stand in their places.
pub async fn list(State(admin): State<PluginAdmin>) -> Json<Value> {
    let hooks = admin.host.hooks().load_full();
    let plugins = admin.host.list();
    let items: Vec<Value> = admin
        .host
        .order()
        .iter()
        .filter_map(|name| {
            if let Some(info) = plugins.iter().find(|info| info.name == *name) {
                return Some(shown(info));
            }
            let member = hooks.members.iter().find(|member| *member.name == **name)?;
            let has = [
                ("authenticator", member.authenticator.is_some()),
                ("enhanced-authenticator", member.enhanced_authenticator.is_some()),
                ("registrar", member.registrar.is_some()),
                ("authorizer", member.authorizer.is_some()),
                ("auditor", member.auditor.is_some()),
            ];
            let hooks: Vec<_> = has.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
            Some(json!({ "name": name, "state": "live", "native": true, "hooks": hooks }))
        })
        .collect();
    Json(json!({ "items": items, "generation": hooks.generation, "unloaded": admin.host.unloaded() }))
}

pub async fn show(State(admin): State<PluginAdmin>, Path(name): Path<String>) -> Answer {
    admin.host.find(&name).map(|info| Json(shown(&info))).ok_or_else(|| no_such(&name))
}

/// The versions of a plugin, the one that runs first. Settings may be secret: it is only said whether there are any.
pub async fn versions(State(admin): State<PluginAdmin>, Path(name): Path<String>) -> Answer {
    let versions = admin.host.versions(&name).ok_or_else(|| no_such(&name))?;
    let running = versions.last().map(|version| version.number);
    let items: Vec<Value> = versions.iter().rev().map(|version| item(version, running)).collect();
    Ok(Json(json!({ "items": items })))
}

fn item(version: &Version, running: Option<u32>) -> Value {
    json!({
        "number": version.number,
        "running": Some(version.number) == running,
        "digest": version.digest,
        "version": version.label,
        "since": version.since.0,
        "by": version.by,
        "how": version.how.as_str(),
        "before": version.before,
        "withdrawn": version.withdrawn,
        "signed_by": version.signer.as_ref().map(|signer| &signer.name),
        "own_settings": version.config.is_some(),
        "own_grant": version.capabilities,
    })
}

pub fn no_such(name: &str) -> Problem {
    let name: String = name.chars().take(128).collect();
    Problem::new(Code::NoSuchPlugin, format!("no plugin is called `{name}`"))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InspectQuery {
    /// The plugin to compare with.
    name: Option<String>,
    signature: Option<String>,
}

/// What a component is, and what would have to be so that it can be loaded.
pub async fn inspect(
    State(admin): State<PluginAdmin>,
    Query(query): Query<InspectQuery>,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let signature = query.signature.as_deref().map(str::parse::<Signature>).transpose();
    let signature = signature.map_err(|error| Problem::new(Code::BadSignature, error.to_string()))?;
    let component = Source::Bytes(bytes(body)?);
    let found = admin.host.inspect(component).await.map_err(|error| refused(&error))?;
    let signed = match admin.host.check_signature(&found.digest, signature.as_ref()) {
        Ok(Some(signer)) => json!({ "state": "trusted", "key": signer.name }),
        Ok(None) => json!({ "state": if signature.is_some() { "not-checked" } else { "none" } }),
        Err(error) => json!({ "state": "refused", "why": error.to_string() }),
    };
    let mut answer = described(&found);
    answer["signature"] = signed;
    if let Some(name) = &query.name {
        let running = admin.host.find(name).ok_or_else(|| no_such(name))?;
        answer["against"] = difference(&admin, &found, &running);
    }
    Ok(Json(answer))
}

pub fn described(found: &Description) -> Value {
    let needs: Vec<&str> = found.needs.iter().map(|capability| capability.as_str()).collect();
    json!({
        "digest": found.digest,
        "size": found.size,
        "version": found.version,
        "hooks": found.hooks,
        "imports": found.imports,
        "other_exports": found.other_exports,
        "needs": needs,
        "not_provided": found.unserved,
        "configuration": (!needs.is_empty()).then(|| grant_line(&found.needs, &[])),
    })
}

fn difference(admin: &PluginAdmin, found: &Description, running: &PluginInfo) -> Value {
    let beyond = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|one| !those.contains(one)).cloned().collect()
    };
    let granted = admin.host.granted(&running.name).unwrap_or_default();
    let missing: Vec<&str> = found.needs.difference(&granted).map(|capability| capability.as_str()).collect();
    let wanted = found.needs.union(&granted).copied().collect();
    json!({
        "name": running.name,
        "digest": running.digest,
        "same": running.digest == found.digest,
        "version": running.version,
        "hooks_added": beyond(&found.hooks, &running.hooks),
        "hooks_removed": beyond(&running.hooks, &found.hooks),
        "imports_added": beyond(&found.imports, &running.imports),
        "imports_removed": beyond(&running.imports, &found.imports),
        "size_before": running.size,
        "not_granted": missing,
        "configuration": (!missing.is_empty()).then(|| grant_line(&wanted, &admin.host.allowed(&running.name))),
    })
}
