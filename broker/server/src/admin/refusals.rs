//! The audit records of changes that were asked for and did not happen, whatever the reason: one place for all
//! routes, those of others included.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{MatchedPath, RawPathParams, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::reason::Reason;

use super::problem::Refused;
use super::{Actor, shortened};
use crate::audit::AuditLog;

/// Lets a request through, and records its refusal if it was to change something. Stands behind the token:
/// what is refused there has records of its own.
pub(super) async fn write_down(
    State(audit): State<Arc<AuditLog>>,
    Extension(actor): Extension<Actor>,
    route: Option<MatchedPath>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Response {
    let params: Vec<String> = params
        .map_or_else(|_| Vec::new(), |params| params.iter().map(|(_, value)| value.to_owned()).collect());
    let action = action(request.method(), route.as_ref().map(MatchedPath::as_str), &params);
    let response = next.run(request).await;
    let status = response.status();
    if let Some(action) = action
        && (status.is_client_error() || status.is_server_error())
    {
        let refused = response.extensions().get::<Refused>();
        if refused.is_some_and(|refused| refused.written) {
            return response;
        }
        // Without a problem of ours it is a path or a query that axum could not read.
        let (code, detail) = refused
            .map_or(("bad_request", status.as_str()), |refused| (refused.code, refused.detail.as_str()));
        let target =
            refused.and_then(|refused| refused.target.as_deref()).or(params.first().map(String::as_str));
        audit.record(
            AuditEvent::new(names::ADMIN_ACTION, Outcome::Failure, Reason::AdminAction)
                .actor(&*actor.0)
                .field("action", action)
                .field("target", shortened(target.unwrap_or_default()))
                .field("code", code)
                .field("detail", shortened(detail)),
        );
    }
    response
}

/// What a request was to do, in the words of the audit log; `None` if it only reads.
fn action(method: &Method, route: Option<&str>, params: &[String]) -> Option<&'static str> {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return None;
    }
    let route = route.unwrap_or_default().trim_start_matches("/api/v1");
    Some(match (method.as_str(), route) {
        ("POST", "/inspect-plugin") => return None,
        ("POST", "/device-certs") => "device.register",
        ("DELETE", "/device-certs/{id}") => "device.delete",
        ("POST", "/device-certs/{id}/{verb}") => match params.get(1).map(String::as_str) {
            Some("activate") => "device.activate",
            Some("deactivate") => "device.deactivate",
            Some("revoke") => "device.revoke",
            _ => "unknown",
        },
        ("POST", "/cas") => "ca.add",
        ("DELETE", "/cas/{id}") => "ca.remove",
        ("POST", "/clients/{client_id}/kick") => "client.kick",
        ("DELETE", "/sessions/{client_id}") => "session.delete",
        ("POST", "/subscriptions") => "subscription.add",
        ("DELETE", "/subscriptions") => "subscription.remove",
        ("DELETE", "/retained") => "retained.delete",
        ("POST", "/publish") => "message.publish",
        ("DELETE", "/delayed/{id}") => "delayed.cancel",
        ("POST", "/traces") => "trace.start",
        ("DELETE", "/traces/{name}") => "trace.stop",
        ("DELETE", "/traces/{name}/file") => "trace.delete",
        ("POST", "/bans") => "ban.add",
        ("DELETE", "/bans/{id}") => "ban.remove",
        ("POST", "/plugins") => "plugin.load",
        ("PUT", "/plugins/{name}") => "plugin.swap",
        ("DELETE", "/plugins/{name}") => "plugin.unload",
        _ => "unknown",
    })
}
