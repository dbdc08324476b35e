//! `/api/v1/plugins`: the routes of the admin API that are about components. Here because only this crate
//! sees the plugin host; token and host checks are those of the server's door.

pub mod bridges;
pub mod explain;
mod lifecycle;
mod looking;
mod recording;
pub mod reload;
mod requests;
mod routes;
mod shadow;

use std::sync::Arc;

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::hooks::Reauthorize;
use mqgate_identity::reason::Reason;
use mqgate_plugin_host::{LoadError, PluginHost, PluginInfo, TakenBack};
use mqgate_server::admin::api::Route;
use mqgate_server::admin::{self, Api, Code, Doc, Scope};
use mqgate_server::audit::AuditLog;
use mqgate_server::broker::Broker;

pub use self::routes::ask_again;

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
    routes.extend(admin::events_routes());
    routes.extend_from_slice(bridges::routes().routes());
    routes.extend_from_slice(explain::routes().routes());
    routes.extend(admin::described_posture_routes());
    routes.extend_from_slice(reload::routes().routes());
    routes
}

/// What the host may say to a component.
const REFUSALS: &[Code] = &[
    Code::BadUpload,
    Code::TooLarge,
    Code::BadName,
    Code::BadConfig,
    Code::BadGrant,
    Code::BadPosition,
    Code::BadReauthorize,
    Code::BadSignature,
    Code::NoComponent,
    Code::NoSuchPlugin,
    Code::PluginVerify,
    Code::PluginInspect,
    Code::PluginCompile,
    Code::PluginLink,
    Code::PluginTrial,
    Code::PluginStore,
];

/// What may be said to a plugin that is there.
const STAYS: &[Code] = &[
    Code::NoSuchPlugin,
    Code::PluginRequired,
    Code::PluginVerify,
    Code::PluginTrial,
    Code::PluginStore,
    Code::BadReauthorize,
];

fn plugins() -> Api<PluginAdmin> {
    let (read, write) = (Scope::PluginsRead, Scope::PluginsWrite);
    let get = |path, id, what| Doc::get(path, id, read, what).problems(&[Code::NoSuchPlugin]);
    let act = |path, id, what| Doc::post(path, id, write, what).problems(STAYS);
    Api::new("Plugins")
        .route(
            Doc::get("/plugins", "plugin.list", read, "Lists the chains, in the order of asking."),
            looking::list,
        )
        .route(
            Doc::post("/plugins", "plugin.load", write, "Loads a component that was uploaded.")
                .created()
                .problems(REFUSALS),
            routes::load,
        )
        .route(get("/plugins/{name}", "plugin.show", "One plugin."), looking::show)
        .route(
            Doc::put("/plugins/{name}", "plugin.swap", write, "Puts another component in the place of one.")
                .problems(REFUSALS),
            routes::swap,
        )
        .route(
            Doc::delete("/plugins/{name}", "plugin.unload", write, "Takes a plugin out.").problems(&[
                Code::NoSuchPlugin,
                Code::PluginRequired,
                Code::PluginStore,
            ]),
            routes::unload,
        )
        .route(
            get("/plugins/{name}/versions", "plugin.versions", "Its versions, the one that runs first."),
            looking::versions,
        )
        .route(
            Doc::put("/plugins/{name}/config", "plugin.configure", write, "Gives a plugin other settings.")
                .problems(REFUSALS),
            lifecycle::configure,
        )
        .route(act("/plugins/{name}/enable", "plugin.enable", "Has a plugin asked again."), lifecycle::enable)
        .route(
            act("/plugins/{name}/disable", "plugin.disable", "Has a plugin asked no more."),
            lifecycle::disable,
        )
        .route(
            act("/plugins/{name}/rollback", "plugin.rollback", "Takes the version that runs back."),
            lifecycle::rollback,
        )
        .route(
            act("/plugins/{name}/reset", "plugin.reset", "Has the configuration's word hold again."),
            lifecycle::reset,
        )
        .route(
            get("/plugins/{name}/shadow", "plugin.shadow_show", "What a shadow's answers were, compared.")
                .problems(&[Code::NoSuchPlugin, Code::NoShadow]),
            shadow::show,
        )
        .route(
            Doc::post(
                "/plugins/{name}/shadow",
                "plugin.shadow",
                write,
                "Asks a version what the live one is asked.",
            )
            .created()
            .problems(REFUSALS),
            shadow::begin,
        )
        .route(
            Doc::delete("/plugins/{name}/shadow", "plugin.shadow_drop", write, "Forgets a shadow.")
                .problems(&[Code::NoSuchPlugin, Code::NoShadow]),
            shadow::drop_it,
        )
        .route(
            act("/plugins/{name}/promote", "plugin.promote", "Has the shadow take over.").problems(&[
                Code::NoSuchPlugin,
                Code::NoShadow,
                Code::PluginTrial,
                Code::PluginStore,
                Code::BadReauthorize,
            ]),
            shadow::promote,
        )
        .route(
            Doc::post(
                "/plugins/{name}/recording",
                "plugin.record",
                Scope::TracesWrite,
                "Records calls of a plugin as cases.",
            )
            .created()
            .problems(&[Code::NoSuchPlugin, Code::PluginVerify, Code::BadSize, Code::BadTime]),
            recording::begin,
        )
        .route(
            Doc::get(
                "/plugins/{name}/recording",
                "plugin.recorded",
                Scope::TracesWrite,
                "What was recorded; what is fetched is forgotten.",
            )
            .problems(&[Code::NoSuchPlugin, Code::NoRecording]),
            recording::fetch,
        )
        .route(
            Doc::delete(
                "/plugins/{name}/recording",
                "plugin.record_end",
                Scope::TracesWrite,
                "Ends a recording, and forgets what nobody fetched.",
            )
            .problems(&[Code::NoSuchPlugin, Code::NoRecording]),
            recording::end,
        )
        .route(
            Doc::post(
                "/plugin-components",
                "plugin.upload",
                write,
                "Takes a component in, to be used by its digest.",
            )
            .created()
            .problems(REFUSALS),
            lifecycle::stage,
        )
        .route(
            Doc::ask("/inspect-plugin", "plugin.inspect", read, "What a component is, without loading it.")
                .problems(REFUSALS),
            looking::inspect,
        )
}

/// Writes down a change of the chains that happened; it is on the disk when this returns. `why`: of a version that was
/// taken back.
pub async fn note_change(
    audit: &AuditLog,
    name: &'static str,
    actor: &str,
    info: &PluginInfo,
    before: Option<&str>,
    why: Option<&str>,
) {
    let mut event = AuditEvent::new(name, Outcome::Success, Reason::Ok)
        .actor(actor)
        .field("plugin", &*info.name)
        .field("digest", &*info.digest)
        .field("hooks", info.hooks.join(","))
        .field("generation", info.generation.to_string())
        .field("version_number", info.number.to_string());
    if let Some(signer) = &info.signer {
        event = event.field("signed_by", &**signer);
    }
    if let Some(before) = before {
        event = event.field("digest_before", before);
    }
    if let Some(why) = why {
        event = event.field("detail", why);
    }
    if let Err(refused) = audit.record_durable(event).await {
        tracing::error!(plugin = %info.name, %refused, "a change of the chains was made and is not in the audit log");
    }
}

/// A version was taken back by itself, or could not be.
pub async fn note_taken_back(audit: &AuditLog, taken: &TakenBack) {
    let TakenBack { name, digest, why, outcome } = taken;
    match outcome {
        Ok(info) => {
            tracing::error!(plugin = %name, %digest, why, now = %info.digest, "a new version was taken back");
            note_change(audit, names::PLUGIN_ROLLED_BACK, "system", info, Some(digest), Some(why)).await;
        }
        Err(error) => {
            tracing::error!(plugin = %name, %digest, why, %error, "a new version fails and cannot be taken back");
            note_refusal(audit, "system", name, Some(digest), error);
        }
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
