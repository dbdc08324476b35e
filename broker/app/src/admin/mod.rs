//! `/api/v1/plugins`: the routes of the admin API that are about components. Here because only this crate
//! sees the plugin host; token and host checks are those of the server's door.

pub mod bridges;
pub mod reload;
mod routes;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post, put};
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::hooks::Reauthorize;
use mqgate_identity::reason::Reason;
use mqgate_plugin_host::{LoadError, PluginHost, PluginInfo};
use mqgate_server::audit::AuditLog;
use mqgate_server::broker::Broker;

/// What the routes work on.
#[derive(Clone)]
pub struct PluginAdmin {
    pub host: Arc<PluginHost>,
    pub broker: Arc<Broker>,
    pub audit: Arc<AuditLog>,
    /// As configured; a swap may say otherwise.
    pub reauthorize: Reauthorize,
}

/// The routes, to be merged under `/api/v1`.
pub fn router(state: PluginAdmin, max_upload: usize) -> Router {
    Router::new()
        .route("/plugins", get(routes::list).post(routes::load))
        .route("/plugins/{name}", put(routes::swap).get(routes::show).delete(routes::unload))
        .route("/inspect-plugin", post(routes::inspect))
        .layer(DefaultBodyLimit::max(max_upload))
        .with_state(state)
}

/// Writes down a change of the chains that happened.
pub fn note_change(
    audit: &AuditLog,
    name: &'static str,
    actor: &str,
    info: &PluginInfo,
    before: Option<&str>,
) {
    let mut event = AuditEvent::new(name, Outcome::Success, Reason::Ok)
        .actor(actor)
        .field("plugin", &*info.name)
        .field("digest", &*info.digest)
        .field("hooks", info.hooks.join(","))
        .field("generation", info.generation.to_string());
    if let Some(before) = before {
        event = event.field("digest_before", before);
    }
    audit.record(event);
}

/// Writes down a component that was refused.
pub fn note_refusal(audit: &AuditLog, actor: &str, plugin: &str, digest: Option<&str>, error: &LoadError) {
    let mut event = AuditEvent::new(names::PLUGIN_REFUSED, Outcome::Failure, Reason::PluginInvalid)
        .actor(actor)
        .field("plugin", plugin.chars().take(128).collect::<String>())
        .field("stage", error.stage.as_str())
        .field("detail", &*error.message);
    if let Some(digest) = digest {
        event = event.field("digest", digest);
    }
    audit.record(event);
}
