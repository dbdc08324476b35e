//! The admin API: HTTP for the operator, on loopback or with TLS, with a bearer token. `/health`, `/ready` and
//! `/metrics` need none.
//!
//! Knows the registry, the connections and the audit log; plugins are somebody else's routes, merged here so
//! that they stand behind the same door. Every change is audited with actor and outcome where it happens; the attempts
//! that were refused, in one place for all routes (`refusals`).

mod bans;
mod bundles;
mod cas;
mod clients;
mod crls;
mod delayed;
mod devices;
pub mod door;
mod grace;
mod messages;
mod pages;
pub mod problem;
mod refusals;
mod retained;
mod secure;
mod serving;
mod sessions;
mod slow;
mod subscriptions;
mod traces;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixMillis;
use tokio::sync::watch;

pub use self::bundles::router as bundles_router;
pub use self::crls::crl_routes;
pub use self::door::{Actor, Door, HostRule, TokenHash};
pub use self::problem::Problem;
pub use self::secure::{ADMIN_TLS, AdminTls};
pub use self::serving::serve;
use crate::audit::AuditLog;
use crate::broker::Broker;
use crate::listener::ListenAddress;
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::registry::Registry;

/// Largest body of a request, except for uploads of components.
const BODY_LIMIT: usize = 256 * 1024;
/// Items of a page unless asked for otherwise, and at most.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1_000;

/// What the admin API is about.
#[derive(Clone)]
pub struct AdminParts {
    pub broker: Arc<Broker>,
    pub registry: Arc<Registry>,
    pub audit: Arc<AuditLog>,
    pub metrics: Arc<Metrics>,
    pub readiness: Arc<Readiness>,
    pub about: Arc<About>,
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

/// Everything: pages, API, and `more` under `/api/v1`, behind `door`.
pub fn router(parts: AdminParts, door: Arc<Door>, more: Router) -> Router {
    let api = Router::new()
        .merge(clients::routes())
        .merge(sessions::routes())
        .merge(subscriptions::routes())
        .merge(retained::routes())
        .merge(messages::routes())
        .merge(bans::routes())
        .merge(traces::routes())
        .merge(delayed::routes())
        .merge(slow::routes())
        .merge(devices::routes())
        .merge(cas::routes())
        .merge(pages::status_route())
        .with_state(parts.clone())
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .merge(more)
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(&parts.audit), refusals::write_down))
        .layer(middleware::from_fn_with_state(Arc::clone(&door), door::ask_for_token));
    let mut pages = pages::routes().with_state(parts.clone());
    if door.metrics_on_this_address() {
        let metrics = pages::metrics_route().with_state(parts);
        pages = pages.merge(match door.metrics_need_token() {
            true => metrics.layer(middleware::from_fn_with_state(Arc::clone(&door), door::ask_for_token)),
            false => metrics,
        });
    }
    pages
        .nest("/api/v1", api)
        .fallback(problem::not_found)
        .layer(middleware::from_fn_with_state(door, door::check_host))
}

/// `/health`, `/ready` and `/metrics` only, for an address of their own.
pub fn metrics_router(parts: AdminParts, door: Arc<Door>) -> Router {
    let metrics = pages::metrics_route().with_state(parts.clone());
    let metrics = match door.metrics_need_token() {
        true => metrics.layer(middleware::from_fn_with_state(Arc::clone(&door), door::ask_for_token)),
        false => metrics,
    };
    pages::routes()
        .with_state(parts)
        .merge(metrics)
        .fallback(problem::not_found)
        .layer(middleware::from_fn_with_state(door, door::check_host))
}

/// What a stranger wrote, short enough for a record.
fn shortened(text: &str) -> String {
    text.chars().take(256).collect()
}

/// Writes down a change that is about to be made; without room for that it must not be.
fn note(
    audit: &AuditLog,
    actor: &Actor,
    action: &'static str,
    fields: &[(&'static str, &str)],
) -> Result<(), Problem> {
    let mut event = AuditEvent::new(names::ADMIN_ACTION, Outcome::Success, Reason::AdminAction)
        .actor(&*actor.0)
        .field("action", action);
    for (name, value) in fields {
        match *name {
            "client_id" => event.client_id = Some(shortened(value)),
            "device_id" => event.device_id = Some(shortened(value)),
            name => event = event.field(name, shortened(value)),
        }
    }
    audit.try_record(event).map(drop).map_err(|refused| {
        let detail =
            format!("{refused}: what cannot be written down is not done; free space for the audit log");
        Problem::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable", detail)
    })
}

/// `limit` of a list.
fn page_size(asked: Option<usize>) -> usize {
    asked.unwrap_or(PAGE).clamp(1, LARGEST_PAGE)
}

/// One page of a list; `next` goes into `after`.
#[derive(serde::Serialize)]
struct Page<T> {
    items: Vec<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[cfg(test)]
mod tests;
