//! The admin API: HTTP for the operator, on loopback or with TLS, with a bearer token. `/health`, `/ready` and
//! `/metrics` need none.
//!
//! Knows the registry, the connections and the audit log; plugins are somebody else's routes, merged here so
//! that they stand behind the same door. Every change is audited with actor and outcome where it happens; the attempts
//! that were refused, in one place for all routes (`refusals`).

pub mod api;
mod asked;
mod audit;
mod bans;
mod bundles;
mod cas;
mod clients;
mod crls;
mod delayed;
mod device_certs;
pub mod door;
mod events;
mod grace;
mod messages;
mod pages;
mod posture;
pub mod problem;
mod refusals;
mod retained;
pub mod scope;
mod secure;
mod serving;
mod sessions;
mod slow;
mod subscriptions;
mod token_routes;
pub mod tokens;
mod traces;
mod transfer;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Bytes;
use axum::middleware;
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixMillis;
use tokio::sync::watch;

pub use self::api::metrics::AdminMetrics;
pub use self::api::{Api, Change, Cursor, Doc, IfMatch, Impact, Limit, Rights, Tagged};
pub use self::bundles::{router as bundles_router, routes as bundles_routes};
pub use self::crls::{crl_routes, routes as crls_routes};
pub use self::door::{Actor, Door, HostRule, Operator, OperatorCertificate, TokenHash};
pub use self::events::{events_router, routes as events_routes};
pub use self::posture::{posture_routes, routes as described_posture_routes};
pub use self::problem::{Code, Problem, bad_json};
pub use self::scope::{Grants, Role, Scope};
pub use self::secure::{ADMIN_TLS, AdminTls};
pub use self::serving::serve;
use crate::audit::AuditLog;
use crate::broker::Broker;
use crate::import::Imports;
use crate::listener::ListenAddress;
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::registry::Registry;

/// Largest body of a request, except for uploads of components.
const BODY_LIMIT: usize = 256 * 1024;

/// What the admin API is about.
#[derive(Clone)]
pub struct AdminParts {
    pub broker: Arc<Broker>,
    pub registry: Arc<Registry>,
    pub audit: Arc<AuditLog>,
    pub metrics: Arc<Metrics>,
    pub readiness: Arc<Readiness>,
    pub about: Arc<About>,
    pub tokens: Arc<tokens::Tokens>,
    pub numbers: Arc<AdminMetrics>,
    pub imports: Arc<Imports>,
}

/// What `/api/v1/status` says of the process.
pub struct About {
    pub version: String,
    pub started_at: UnixMillis,
    /// Those that there are now.
    pub listeners: Box<dyn Fn() -> Vec<AboutListener> + Send + Sync>,
}

#[derive(Clone)]
pub struct AboutListener {
    pub name: String,
    /// `tcp`, `tls`, `ws`, `wss` or `quic`.
    pub kind: &'static str,
    pub auth_mode: &'static str,
    /// `None` while it is shut.
    pub address: watch::Receiver<Option<ListenAddress>>,
}

/// The routes of this crate that are always there; their state is the parts.
pub fn routes() -> Api<AdminParts> {
    Api::new("Broker")
        .merge(clients::routes())
        .merge(sessions::routes())
        .merge(subscriptions::routes())
        .merge(retained::routes())
        .merge(messages::routes())
        .merge(bans::routes())
        .merge(audit::routes())
        .merge(traces::routes())
        .merge(delayed::routes())
        .merge(slow::routes())
        .merge(device_certs::routes())
        .merge(cas::routes())
        .merge(transfer::routes())
        .merge(token_routes::routes())
        .merge(pages::status_route())
        .body_limit(BODY_LIMIT)
}

/// Pages that need no token.
fn pages() -> Api<AdminParts> {
    pages::routes().merge(pages::metrics_route())
}

/// The description of the whole API, `more` being what is merged below `/api/v1`.
pub fn description(version: &str, more: &[api::Route]) -> serde_json::Value {
    api::openapi::document(version, pages().routes(), &all_routes(more))
}

/// `docs/api.md`.
pub fn reference(more: &[api::Route]) -> String {
    api::reference::markdown(pages().routes(), &all_routes(more))
}

fn all_routes(more: &[api::Route]) -> Vec<api::Route> {
    let mut all = routes().routes().to_vec();
    all.extend_from_slice(api::openapi::routes().routes());
    all.extend_from_slice(more);
    all
}

/// Everything: pages, API, and `more` under `/api/v1`, behind `door`.
pub fn router(parts: AdminParts, door: Arc<Door>, more: Api) -> Router {
    let text: api::openapi::Text = Arc::new(OnceLock::new());
    let (more, more_routes) = more.into_parts();
    let all = all_routes(&more_routes);
    let description = description(&parts.about.version, &more_routes);
    // Set here and nowhere else.
    let _ = text.set(Bytes::from(description.to_string()));
    let guard = Arc::new(api::guard::Guard::new(&all, Arc::clone(&parts.numbers)));
    let (own, _) = routes().with_state::<()>(parts.clone()).into_parts();
    let (describing, _) = api::openapi::routes().with_state::<()>(text).into_parts();
    let written = (Arc::clone(&parts.audit), Arc::clone(&guard));
    let api = own
        .merge(more)
        .merge(describing)
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(middleware::from_fn_with_state(guard, api::guard::hold))
        .layer(middleware::from_fn_with_state(written, refusals::write_down))
        .layer(middleware::from_fn_with_state(Arc::clone(&door), door::ask_for_token));
    let (mut pages, _) = pages::routes().with_state(parts.clone()).into_parts();
    if door.metrics_on_this_address() {
        pages = pages.merge(metrics_page(parts, &door));
    }
    pages
        .nest(api::guard::BASE, api)
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(middleware::from_fn_with_state(door, door::check_host))
        .layer(middleware::from_fn(door::name_it))
}

fn metrics_page(parts: AdminParts, door: &Arc<Door>) -> Router {
    let (metrics, _) = pages::metrics_route().with_state(parts).into_parts();
    match door.metrics_need_token() {
        true => metrics.layer(middleware::from_fn_with_state(Arc::clone(door), door::ask_for_token)),
        false => metrics,
    }
}

/// `/health`, `/ready` and `/metrics` only, for an address of their own.
pub fn metrics_router(parts: AdminParts, door: Arc<Door>) -> Router {
    let (pages, _) = pages::routes().with_state(parts.clone()).into_parts();
    pages
        .merge(metrics_page(parts, &door))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(middleware::from_fn_with_state(door, door::check_host))
        .layer(middleware::from_fn(door::name_it))
}

/// What a stranger wrote, short enough for a record.
fn shortened(text: &str) -> String {
    text.chars().take(256).collect()
}

/// Writes down a change that is about to be made, with what is before and after it: it is on the disk when this returns;
/// without that it must not be made.
pub async fn note(
    audit: &AuditLog,
    actor: &Actor,
    change: &Impact,
    fields: &[(&'static str, &str)],
) -> Result<(), Problem> {
    let event = AuditEvent::new(names::ADMIN_ACTION, Outcome::Success, Reason::AdminAction);
    let mut event = change.written_down(event.actor(&*actor.0));
    for (name, value) in fields {
        match *name {
            "client_id" => event.client_id = Some(shortened(value)),
            "device_id" => event.device_id = Some(shortened(value)),
            name => event = event.field(name, shortened(value)),
        }
    }
    audit.admit_durable(event).await.map(drop).map_err(|refused| {
        let detail =
            format!("{refused}: what cannot be written down is not done; free space for the audit log");
        Problem::new(Code::AuditUnavailable, detail)
    })
}

/// One page of a list; `next` goes into `after`.
#[derive(Debug, serde::Serialize, schemars::JsonSchema)]
#[schemars(rename = "{T}Page")]
pub struct Page<T> {
    pub items: Vec<T>,
    /// `after` of the next page; there is none on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// Of a list that is short and comes whole.
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }
}

#[cfg(test)]
mod tests;
