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

use super::api::Effect;
use super::api::guard::Guard;
use super::problem::{Code, Refused};
use super::{Actor, shortened};
use crate::audit::AuditLog;

/// Lets a request through, and records its refusal if it was to change something, or if the asker had no right to
/// ask. Stands behind the token: what is refused there has records of its own.
pub(super) async fn write_down(
    State((audit, guard)): State<(Arc<AuditLog>, Arc<Guard>)>,
    Extension(actor): Extension<Actor>,
    route: Option<MatchedPath>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Response {
    let target = params.ok().and_then(|params| params.iter().next().map(|(_, value)| value.to_owned()));
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    // The operation, in the words of its description.
    let (action, changes) = match guard.find(request.method(), route.as_ref()) {
        Some(known) => (known.route.doc.id, known.route.doc.effect == Effect::Changes),
        None => ("unknown", !reads),
    };
    let response = next.run(request).await;
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    // Behind the guard every refusal is a problem of ours.
    let Some(refused) = response.extensions().get::<Refused>() else { return response };
    if !refused.written && (changes || refused.code == Code::ScopeMissing) {
        let target = refused.target.as_deref().or(target.as_deref());
        audit.record(
            AuditEvent::new(names::ADMIN_ACTION, Outcome::Failure, Reason::AdminAction)
                .actor(&*actor.0)
                .field("action", action)
                .field("target", shortened(target.unwrap_or_default()))
                .field("code", refused.code.as_str())
                .field("detail", shortened(&refused.detail)),
        );
    }
    response
}
