//! Holds every request to the description of its route, before its handler sees it: the right to ask, the parameters
//! of the query, a try, a key for repetition. And what axum itself refuses becomes problem+json here.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::super::problem::{Code, Problem, Refused};
use super::change::{DryRun, Rights};
use super::idempotency::{self, Answered};
use super::metrics::AdminMetrics;
use super::{Access, Effect, Route, Sketch};

/// Where the API is.
pub(in crate::admin) const BASE: &str = "/api/v1";
/// Of a refusal of axum's, text.
const MOST_TEXT: usize = 8 << 10;

/// The routes there are, to be found by what a request matched.
pub(in crate::admin) struct Guard {
    routes: HashMap<&'static str, Vec<Known>>,
    answered: Arc<Answered>,
    metrics: Arc<AdminMetrics>,
}

pub(in crate::admin) struct Known {
    pub(in crate::admin) route: Route,
    /// Of the query.
    parameters: Vec<String>,
}

impl Guard {
    pub(in crate::admin) fn new(routes: &[Route], metrics: Arc<AdminMetrics>) -> Self {
        let mut sketch = Sketch::new();
        let mut found: HashMap<&'static str, Vec<Known>> = HashMap::new();
        for route in routes {
            sketch.clear();
            (route.describe)(&mut sketch);
            let queries = sketch.parameters.iter().filter(|one| one["in"] == "query");
            let parameters = queries.filter_map(|one| one["name"].as_str().map(str::to_owned)).collect();
            found.entry(route.doc.path).or_default().push(Known { route: route.clone(), parameters });
        }
        Self { routes: found, answered: Answered::new(Arc::clone(&metrics)), metrics }
    }

    /// The route that a request goes to; `None` for one that nothing is under.
    pub(in crate::admin) fn find(&self, method: &Method, path: Option<&MatchedPath>) -> Option<&Known> {
        let path = path?.as_str();
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let known = self.routes.get(path.strip_prefix(BASE).unwrap_or(path))?;
        known.iter().find(|known| known.route.doc.method == *method)
    }
}

/// Stands behind the door, which says who asks.
pub(in crate::admin) async fn hold(
    State(guard): State<Arc<Guard>>,
    matched: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(known) = guard.find(request.method(), matched.as_ref()) else {
        return in_our_words(next.run(request).await).await;
    };
    let began = tokio::time::Instant::now();
    let none_match = request.headers().get(header::IF_NONE_MATCH).cloned();
    let response = match prepare(known, &mut request) {
        Err(problem) => problem.into_response(),
        Ok(Repeatable::No) => next.run(request).await,
        Ok(Repeatable::Yes) => {
            let answer = Arc::clone(&guard.answered).run(request, next).await;
            answer.unwrap_or_else(IntoResponse::into_response)
        }
    };
    let mut response = in_our_words(response).await;
    let tag = response.headers().get(header::ETAG);
    if response.status() == StatusCode::OK && tag.is_some() && tag == none_match.as_ref() {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Body::empty();
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response.headers_mut().remove(header::CONTENT_TYPE);
    }
    guard.metrics.count(&known.route, response.status().as_u16(), began.elapsed().as_secs_f64());
    response
}

enum Repeatable {
    Yes,
    No,
}

fn prepare(known: &Known, request: &mut Request) -> Result<Repeatable, Problem> {
    let doc = &known.route.doc;
    if let Access::Needs(scope) = doc.access {
        let rights = request.extensions().get::<Rights>();
        rights.ok_or_else(|| Problem::new(Code::Internal, "a route without a door"))?.require(scope)?;
    }
    check_parameters(known, request.uri())?;
    if doc.effect == Effect::Reads {
        return Ok(Repeatable::No);
    }
    let dry_run = take_dry_run(request)?;
    request.extensions_mut().insert(DryRun(dry_run));
    match idempotency::asked(request.headers()) {
        true if doc.secret => Err(idempotency::refused_here()),
        true if !dry_run => Ok(Repeatable::Yes),
        _ => Ok(Repeatable::No),
    }
}

/// Each parameter of the query is one that the route knows.
fn check_parameters(known: &Known, uri: &Uri) -> Result<(), Problem> {
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        if known.parameters.iter().any(|known| known == name) {
            continue;
        }
        let shown: String = name.chars().take(64).collect();
        let detail = match known.parameters.is_empty() {
            true => format!("there is no parameter `{shown}` here: this route takes none"),
            false => {
                format!("there is no parameter `{shown}` here; there are {}", known.parameters.join(", "))
            }
        };
        return Err(Problem::new(Code::UnknownParameter, detail).with("known", known.parameters.clone()));
    }
    Ok(())
}

/// Takes `dry_run` out of the query, so that no handler has to know of it twice.
fn take_dry_run(request: &mut Request) -> Result<bool, Problem> {
    let query = request.uri().query().unwrap_or_default();
    let (ours, others): (Vec<&str>, Vec<&str>) = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .partition(|pair| pair.split_once('=').map_or(*pair, |(name, _)| name) == "dry_run");
    let dry_run = match ours.as_slice() {
        [] => return Ok(false),
        ["dry_run=true"] => true,
        ["dry_run=false"] => false,
        _ => return Err(Problem::new(Code::BadParameter, "`dry_run` is true or false, and given once")),
    };
    let path = request.uri().path();
    let rest = if others.is_empty() { path.to_owned() } else { format!("{path}?{}", others.join("&")) };
    // A part of a URI that was one is one.
    *request.uri_mut() =
        rest.parse().map_err(|_| Problem::new(Code::BadRequest, "the query cannot be read"))?;
    Ok(dry_run)
}

/// A refusal that is no problem+json yet becomes one.
async fn in_our_words(response: Response) -> Response {
    let status = response.status();
    let ours = response.extensions().get::<Refused>().is_some();
    if ours || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (_, body) = response.into_parts();
    let text = to_bytes(body, MOST_TEXT).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    Problem::new(code_of(status, &text), text).into_response()
}

fn code_of(status: StatusCode, text: &str) -> Code {
    match status {
        StatusCode::BAD_REQUEST if text.contains("query string") => Code::BadParameter,
        StatusCode::BAD_REQUEST if text.starts_with("Invalid URL") || text.contains("path") => Code::BadPath,
        StatusCode::BAD_REQUEST if text.contains("JSON") => Code::BadJson,
        StatusCode::BAD_REQUEST => Code::BadRequest,
        StatusCode::NOT_FOUND => Code::NoSuchPath,
        StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
        StatusCode::REQUEST_TIMEOUT => Code::BodyTimeout,
        StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::MediaType,
        StatusCode::UNPROCESSABLE_ENTITY => Code::BadBody,
        status if status.is_client_error() => Code::BadRequest,
        _ => Code::Internal,
    }
}
