//! Who gets in, and with which rights: the administrator's token, API tokens, operators' certificates; and the `Host` and
//! `Origin` headers that a page of somebody else's in the operator's browser cannot forge.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::reason::Reason;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::api::Rights;
use super::problem::{Code, Problem};
use super::scope::Grants;
use super::secure::{AdminTls, Shown};
use super::shortened;
use super::tokens::{Pass, Tokens};
use crate::audit::AuditLog;
use crate::audit::coalesce::Coalescer;
use crate::audit::request::RequestId;
use crate::clock;

/// Equal refusals of one address within this are one audit record with a count.
pub(super) const COALESCE: Duration = Duration::from_secs(10);
pub(super) const COALESCED_KEYS: usize = 1_024;

/// What a request is called, by its caller or by us.
const REQUEST_ID: &str = "x-request-id";

/// Who asks, as audit records name it: `admin:{token name}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor(pub Arc<str>);

/// SHA-256 of a bearer token; all that is kept of it.
#[derive(Clone)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// A hash that was computed elsewhere.
    pub const fn from_sha256(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// Takes as long for a wrong token as for the right one.
    fn matches(&self, token: &str) -> bool {
        Self::of(token).0.ct_eq(&self.0).into()
    }
}

/// Which `Host` a request may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostRule {
    /// An IP address, `localhost`, or one of these names.
    Known(Vec<String>),
    /// For an address that is meant to be reached under any name.
    Any,
}

/// What the configuration gives to an operator's certificate.
#[derive(Debug, Clone)]
pub struct Operator {
    /// As audit records name it.
    pub name: String,
    pub whose: OperatorCertificate,
    pub grants: Grants,
}

/// Which certificate it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorCertificate {
    Fingerprint(CertificateFingerprint),
    /// Its whole subject, RFC 4514.
    Subject(String),
}

/// The rules of one address.
pub struct Door {
    token: TokenHash,
    tokens: Option<Arc<Tokens>>,
    operators: Vec<Operator>,
    hosts: HostRule,
    metrics: bool,
    metrics_need_token: bool,
    tls: Option<Arc<AdminTls>>,
    audit: Arc<AuditLog>,
    refusals: Mutex<Coalescer<(IpAddr, Code)>>,
}

impl Door {
    pub fn new(token: TokenHash, hosts: HostRule, audit: Arc<AuditLog>) -> Self {
        Self {
            token,
            tokens: None,
            operators: Vec::new(),
            hosts,
            metrics: true,
            metrics_need_token: false,
            tls: None,
            audit,
            refusals: Mutex::new(Coalescer::new(COALESCE, COALESCED_KEYS)),
        }
    }

    /// Whether `/metrics` is served, and whether it asks for the token.
    #[must_use]
    pub fn metrics(mut self, served: bool, need_token: bool) -> Self {
        (self.metrics, self.metrics_need_token) = (served, need_token);
        self
    }

    /// Behind TLS the names of its certificates are ours as well.
    #[must_use]
    pub fn behind(mut self, tls: Option<Arc<AdminTls>>) -> Self {
        self.tls = tls;
        self
    }

    /// API tokens besides the administrator's.
    #[must_use]
    pub fn tokens(mut self, tokens: Arc<Tokens>) -> Self {
        self.tokens = Some(tokens);
        self
    }

    /// Operators whose certificates have rights of their own.
    #[must_use]
    pub fn operators(mut self, operators: Vec<Operator>) -> Self {
        self.operators = operators;
        self
    }

    /// Who asks, and with which rights. A token counts where there is one; a certificate alone only if it is known.
    fn identify(&self, request: &Request) -> Result<Asker, Problem> {
        let shown = request.extensions().get::<Shown>();
        let Some(token) = bearer(request.headers()) else {
            let operator = shown.and_then(|shown| {
                self.operators.iter().find(|operator| match &operator.whose {
                    OperatorCertificate::Fingerprint(fingerprint) => *fingerprint == shown.fingerprint,
                    OperatorCertificate::Subject(subject) => **subject == *shown.subject,
                })
            });
            let missing = "send the admin token: Authorization: Bearer …";
            // A header that cannot be read is no reason to take the certificate instead.
            let operator = operator.filter(|_| !request.headers().contains_key(header::AUTHORIZATION));
            let operator = operator.ok_or_else(|| Problem::new(Code::TokenMissing, missing))?;
            let rights = Rights(Arc::new(operator.grants.clone()));
            return Ok(Asker { name: format!("admin:{}", operator.name), rights, pass: None });
        };
        if self.token.matches(token) {
            let rights = Rights(Arc::new(Grants::everything()));
            return Ok(Asker { name: String::from("admin:default"), rights, pass: None });
        }
        let pass = self.tokens.as_ref().and_then(|tokens| tokens.pass(token));
        let pass =
            pass.ok_or_else(|| Problem::new(Code::TokenWrong, "this is no admin token, or not any more"))?;
        let rights = Rights(Arc::clone(&pass.grants));
        Ok(Asker { name: format!("admin:{}", pass.name), rights, pass: Some(pass) })
    }

    pub(super) fn metrics_on_this_address(&self) -> bool {
        self.metrics
    }

    pub(super) fn metrics_need_token(&self) -> bool {
        self.metrics_need_token
    }

    fn refuse(&self, request: &Request, problem: Problem) -> Response {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
        let peer = peer.unwrap_or(IpAddr::from([0, 0, 0, 0]));
        let whole = request.extensions().get::<WholePath>();
        let mut event = AuditEvent::new(names::ADMIN_REFUSED, Outcome::Failure, Reason::NotAuthorized)
            .actor("admin:unknown")
            .field("code", problem.code.as_str())
            .field("method", request.method().as_str())
            .field("path", shortened(whole.map_or(request.uri().path(), |path| &path.0)));
        event.peer_address = Some(peer.to_string());
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        for event in refusals.offer(clock::now(), (peer, problem.code), event) {
            self.audit.record(event);
        }
        problem.into_response()
    }

    fn knows_host(&self, host: &str) -> bool {
        let HostRule::Known(names) = &self.hosts else { return true };
        let Some(name) = without_port(host) else { return false };
        // Rebinding needs a name: an address in `Host` is where the browser really connected to.
        name.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || names.iter().any(|known| known.eq_ignore_ascii_case(name))
            || self.tls.as_ref().is_some_and(|tls| tls.is_named(name))
    }

    fn check_names(&self, request: &Request) -> Result<(), Problem> {
        let refused = |what: &str| {
            let hint = "use the address itself, or add the name to `admin.hosts`";
            Problem::new(Code::HostNotAllowed, format!("{what}: {hint}"))
        };
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
        if hosts.next().is_some() || !self.knows_host(host) {
            return Err(refused("the Host header names somebody else"));
        }
        if request.uri().host().is_some_and(|host| !self.knows_host(host)) {
            return Err(refused("the request line names somebody else"));
        }
        match request.headers().get(header::ORIGIN).map(header::HeaderValue::to_str) {
            None => Ok(()),
            Some(Ok(origin)) => {
                let host = origin.split_once("://").map(|(_, host)| host);
                match host.is_some_and(|host| self.knows_host(host)) {
                    true => Ok(()),
                    false => Err(refused("a page from elsewhere asks")),
                }
            }
            Some(Err(_)) => Err(refused("the Origin header is no text")),
        }
    }
}

/// The name of `name:port` or `[address]:port`.
fn without_port(host: &str) -> Option<&str> {
    if let Some(rest) = host.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        return (port.is_empty() || port.starts_with(':')).then_some(address);
    }
    Some(host.split_once(':').map_or(host, |(name, _)| name))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The path before nested routers took its beginning off.
#[derive(Clone)]
struct WholePath(String);

/// Names the request, in its records and in its answer.
pub(super) async fn name_it(request: Request, next: Next) -> Response {
    let chosen = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let id = chosen.and_then(RequestId::parse).unwrap_or_else(RequestId::random);
    let mut response = id.clone().within(next.run(request)).await;
    if let Ok(value) = header::HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Refuses requests that another site's page makes.
pub(super) async fn check_host(State(door): State<Arc<Door>>, mut request: Request, next: Next) -> Response {
    if let Err(problem) = door.check_names(&request) {
        return door.refuse(&request, problem);
    }
    let whole = WholePath(request.uri().path().to_owned());
    request.extensions_mut().insert(whole);
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(header::HeaderValue::from_static("no-store"));
    response
}

/// Refuses requests of nobody, and tells the others' handlers who asks and with which rights.
pub(super) async fn ask_for_token(
    State(door): State<Arc<Door>>,
    mut request: Request,
    next: Next,
) -> Response {
    match door.identify(&request) {
        Ok(Asker { name, rights, pass }) => {
            let name = match request.extensions().get::<Shown>() {
                Some(Shown { subject, .. }) => format!("{name} ({})", shortened(subject)),
                None => name,
            };
            let extensions = request.extensions_mut();
            extensions.insert(Actor(name.into()));
            extensions.insert(rights);
            if let Some(pass) = pass {
                extensions.insert(pass);
            }
            next.run(request).await
        }
        Err(problem) => door.refuse(&request, problem),
    }
}

/// Who asks.
struct Asker {
    name: String,
    rights: Rights,
    pass: Option<Pass>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_brackets_are_taken_off() {
        for (host, name) in [
            ("localhost", Some("localhost")),
            ("localhost:1", Some("localhost")),
            ("[::1]:80", Some("::1")),
            ("[::1]", Some("::1")),
            ("[::1]x", None),
            ("[::1", None),
            ("", Some("")),
        ] {
            assert_eq!(without_port(host), name, "{host}");
        }
    }

    #[test]
    fn only_known_names_are_hosts() {
        let hosts = HostRule::Known(vec![String::from("broker.example")]);
        let door = Door::new(TokenHash::of("x"), hosts, Arc::new(AuditLog::default()));
        for (host, known) in [
            ("127.0.0.1:18083", true),
            ("[::1]:18083", true),
            ("LOCALHOST", true),
            ("broker.example:1", true),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ] {
            assert_eq!(door.knows_host(host), known, "{host}");
        }
    }
}
