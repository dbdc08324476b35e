//! `/api/v1/plugins`: the routes of the admin API that are about components. Here because only this crate
//! sees the plugin host; token and host checks are those of the server's door.

pub mod bridges;
pub mod explain;
pub mod reload;
mod routes;

use std::sync::Arc;

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::hooks::Reauthorize;
use mqgate_identity::reason::Reason;
use mqgate_plugin_host::{LoadError, PluginHost, PluginInfo};
use mqgate_server::admin::api::Route;
use mqgate_server::admin::{self, Api, Code, Doc, Scope};
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
pub fn router(state: PluginAdmin, max_upload: usize) -> Api {
    plugins().body_limit(max_upload).with_state(state)
}

/// Every route of this crate, and those of the server's that are merged beside them: for the description.
pub fn described() -> Vec<Route> {
    let mut routes = plugins().routes().to_vec();
    routes.extend(admin::bundles_routes());
    routes.extend(admin::crls_routes());
    routes.extend_from_slice(bridges::routes().routes());
    routes.extend_from_slice(explain::routes().routes());
    routes.extend(admin::described_posture_routes());
    routes.extend_from_slice(reload::routes().routes());
    routes
}

/// What the host may say to a component.
const REFUSALS: &[Code] = &[
    Code::BadUpload,
    Code::BadConfig,
    Code::BadGrant,
    Code::BadPosition,
    Code::BadReauthorize,
    Code::NoSuchPlugin,
    Code::PluginVerify,
    Code::PluginInspect,
    Code::PluginCompile,
    Code::PluginLink,
    Code::PluginTrial,
];

fn plugins() -> Api<PluginAdmin> {
    let (read, write) = (Scope::PluginsRead, Scope::PluginsWrite);
    Api::new("Plugins")
        .route(
            Doc::get("/plugins", "plugin.list", read, "Lists the chains, in the order of asking."),
            routes::list,
        )
        .route(
            Doc::post("/plugins", "plugin.load", write, "Loads a component, which is the body.")
                .created()
                .problems(REFUSALS),
            routes::load,
        )
        .route(
            Doc::get("/plugins/{name}", "plugin.show", read, "One plugin.").problems(&[Code::NoSuchPlugin]),
            routes::show,
        )
        .route(
            Doc::put("/plugins/{name}", "plugin.swap", write, "Puts another component in the place of one.")
                .problems(REFUSALS),
            routes::swap,
        )
        .route(
            Doc::delete("/plugins/{name}", "plugin.unload", write, "Takes a plugin out.")
                .problems(&[Code::NoSuchPlugin, Code::PluginRequired]),
            routes::unload,
        )
        .route(
            Doc::ask("/inspect-plugin", "plugin.inspect", read, "What a component is, without loading it.")
                .problems(REFUSALS),
            routes::inspect,
        )
}

/// Writes down a change of the chains that happened; it is on the disk when this returns.
pub async fn note_change(
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
    if let Err(refused) = audit.record_durable(event).await {
        tracing::error!(plugin = %info.name, %refused, "a change of the chains was made and is not in the audit log");
    }
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
