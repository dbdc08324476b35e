//! `Idempotency-Key`: a change that is asked for again is not made again; the first answer is given once more.
//!
//! Kept in memory, for a day, so many and no more; not over a restart. A request with a key runs to its end also when
//! whoever asked has gone away, so that there is an answer to repeat.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use mqgate_identity::time::UnixMillis;
use sha2::{Digest, Sha256};

use super::super::door::Actor;
use super::super::problem::{Code, Problem, Refused};
use super::metrics::AdminMetrics;
use crate::audit::request;
use crate::clock;

pub(super) const HEADER: &str = "idempotency-key";
const REPLAYED: &str = "idempotency-replayed";
/// Largest body of a request with a key: it is held while its hash is taken.
pub const MOST_BODY: usize = 1 << 20;
const LONGEST_KEY: usize = 255;
/// Answers kept, and their bytes; the oldest go first.
const MOST_KEPT: usize = 10_000;
const MOST_BYTES: usize = 16 << 20;
const KEPT_FOR: Duration = Duration::from_hours(24);

type Hash = [u8; 32];

/// The answers that are kept.
pub(super) struct Answered {
    state: Mutex<State>,
    metrics: Arc<AdminMetrics>,
}

#[derive(Default)]
struct State {
    by_key: HashMap<Hash, Entry>,
    /// Those with an answer, the oldest first.
    order: VecDeque<(UnixMillis, Hash)>,
    bytes: usize,
}

struct Entry {
    /// Hash of the request that came with the key.
    request: Hash,
    /// `None` while the first one runs.
    answer: Option<Kept>,
}

#[derive(Clone)]
struct Kept {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    refused: Option<Refused>,
}

impl Kept {
    fn again(self) -> Response {
        let mut response = (self.status, self.body).into_response();
        *response.headers_mut() = self.headers;
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        if let Some(refused) = self.refused {
            // The first refusal was written down.
            response.extensions_mut().insert(Refused { written: true, ..refused });
        }
        response
    }
}

/// Leaves no key behind that waits for ever, should the request break down.
struct Running {
    answered: Arc<Answered>,
    key: Hash,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.answered.lock();
        if state.by_key.get(&self.key).is_some_and(|entry| entry.answer.is_none()) {
            state.by_key.remove(&self.key);
        }
    }
}

impl Answered {
    pub(super) fn new(metrics: Arc<AdminMetrics>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), metrics })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a request that carries a key, or repeats the answer.
    pub(super) async fn run(self: Arc<Self>, request: Request, next: Next) -> Result<Response, Problem> {
        let (parts, body) = request.into_parts();
        let text = key_of(&parts.headers)?;
        let body = to_bytes(body, MOST_BODY).await.map_err(|_| {
            let detail =
                format!("with an `Idempotency-Key` a body has at most {MOST_BODY} bytes, and comes in time");
            Problem::new(Code::TooLarge, detail)
        })?;
        let actor = parts.extensions.get::<Actor>().map_or("", |actor| &*actor.0);
        let key = hash(&[actor.as_bytes(), text.as_bytes()]);
        let uri = parts.uri.to_string();
        let asked = hash(&[parts.method.as_str().as_bytes(), uri.as_bytes(), &body]);
        if let Some(answer) = self.begin(key, asked)? {
            self.metrics.replays.inc();
            return Ok(answer.again());
        }
        let running = Running { answered: Arc::clone(&self), key };
        let request = Request::from_parts(parts, Body::from(body));
        let task = request::spawn(async move {
            let response = next.run(request).await;
            let response = running.answered.keep(running.key, response).await;
            drop(running);
            response
        });
        task.await.map_err(|error| Problem::new(Code::Internal, error.to_string()))
    }

    /// The answer to a key that was seen; with a new one, it is taken.
    fn begin(&self, key: Hash, request: Hash) -> Result<Option<Kept>, Problem> {
        let mut state = self.lock();
        state.forget_old(clock::now());
        match state.by_key.get(&key) {
            Some(entry) if entry.request != request => Err(Problem::new(
                Code::IdempotencyReused,
                "this `Idempotency-Key` came with another request before; every request needs its own",
            )),
            Some(Entry { answer: Some(answer), .. }) => Ok(Some(answer.clone())),
            Some(Entry { answer: None, .. }) => Err(Problem::new(
                Code::IdempotencyRunning,
                "the first request with this `Idempotency-Key` still runs",
            )),
            None => {
                state.by_key.insert(key, Entry { request, answer: None });
                Ok(None)
            }
        }
    }

    /// Keeps an answer to repeat it. Not one that says the broker could not: that is worth another try.
    async fn keep(&self, key: Hash, response: Response) -> Response {
        let (parts, body) = response.into_parts();
        let Ok(body) = to_bytes(body, MOST_BYTES).await else {
            return Problem::new(Code::Internal, "the answer broke off").into_response();
        };
        if !parts.status.is_server_error() {
            let kept = Kept {
                status: parts.status,
                headers: parts.headers.clone(),
                body: body.clone(),
                refused: parts.extensions.get::<Refused>().cloned(),
            };
            let mut state = self.lock();
            if let Some(entry) = state.by_key.get_mut(&key) {
                entry.answer = Some(kept);
                state.bytes += body.len();
                state.order.push_back((clock::now(), key));
            }
            let displaced = state.make_room();
            self.metrics.displaced.inc_by(displaced);
        }
        Response::from_parts(parts, Body::from(body))
    }
}

impl State {
    fn forget_old(&mut self, now: UnixMillis) {
        let age = u64::try_from(KEPT_FOR.as_millis()).unwrap_or(u64::MAX);
        while self.order.front().is_some_and(|(at, _)| now.0.saturating_sub(at.0) >= age) {
            self.drop_oldest();
        }
    }

    /// Says how many had to go before their time.
    fn make_room(&mut self) -> u64 {
        let mut displaced = 0;
        while self.order.len() > MOST_KEPT || (self.bytes > MOST_BYTES && self.order.len() > 1) {
            self.drop_oldest();
            displaced += 1;
        }
        displaced
    }

    fn drop_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front()
            && let Some(entry) = self.by_key.remove(&key)
        {
            self.bytes -= entry.answer.map_or(0, |answer| answer.body.len());
        }
    }
}

fn key_of(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut keys = headers.get_all(HEADER).iter();
    let key = keys.next().and_then(|key| key.to_str().ok()).unwrap_or_default();
    if keys.next().is_some() || key.is_empty() || key.len() > LONGEST_KEY {
        let detail = format!("`Idempotency-Key` is one text of 1 to {LONGEST_KEY} characters of ASCII");
        return Err(Problem::new(Code::BadHeader, detail));
    }
    Ok(key)
}

/// Of the parts, each with its length before it.
fn hash(parts: &[&[u8]]) -> Hash {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Of a request that is answered with a secret.
pub(super) fn refused_here() -> Problem {
    let detail = "the answer is a secret, which is not kept: this route takes no `Idempotency-Key`";
    Problem::new(Code::BadHeader, detail)
}

/// Whether a request asks for it.
pub(super) fn asked(headers: &HeaderMap) -> bool {
    headers.contains_key(HEADER)
}
