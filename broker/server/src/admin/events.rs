//! The stream of events over HTTP: Server-Sent Events, each a CloudEvent; taken up again with `Last-Event-ID`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{FromRequestParts, Query, State};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use prometheus::IntGauge;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::api::metrics::AdminMetrics;
use super::api::{Api, Doc, Route, Sketch, Takes};
use super::serving::{OpenStream, Streaming};
use super::tokens::Pass;
use super::{Code, Problem, Scope};
use crate::events::{CloudEvent, Events, Filter, Position, Seen, What};
use crate::registry::Registry;

/// A comment that keeps the connection, when nothing happens.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Events that are taken from the ring, or the outbox, at once.
const PAGE: usize = 64;
const LAST_EVENT_ID: &str = "last-event-id";

#[derive(Clone)]
struct Parts {
    events: Arc<Events>,
    registry: Arc<Registry>,
    places: Arc<Semaphore>,
    numbers: Arc<AdminMetrics>,
}

/// The route, to be merged under `/api/v1`.
pub fn events_router(events: Arc<Events>, registry: Arc<Registry>, numbers: Arc<AdminMetrics>) -> Api {
    let places = Arc::new(Semaphore::new(events.settings.streams));
    described().with_state(Parts { events, registry, places, numbers })
}

/// For the description.
pub fn routes() -> Vec<Route> {
    described().routes().to_vec()
}

fn described() -> Api<Parts> {
    Api::new("Events").route(
        Doc::get(
            "/events",
            "events.watch",
            Scope::EventsRead,
            "What happens, as Server-Sent Events; each is a CloudEvent, and `gap` says that something was missed.",
        )
        .media(&["text/event-stream"])
        .problems(&[Code::BadEventId, Code::TooManyWatchers]),
        watch,
    )
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WatchQuery {
    /// Types, separated by commas: `certs.revoked`, or `certs` for all that begin so.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Subjects, separated by commas: a certificate's or CA's SHA-256, a client id, …
    subject: Option<String>,
    /// As the header of the same meaning, for who cannot set headers.
    last_event_id: Option<String>,
}

/// Where the stream is taken up again.
struct LastEventId(Option<String>);

impl<S: Sync> FromRequestParts<S> for LastEventId {
    type Rejection = Infallible;

    /// One that is no text is no id either, which is for the handler to say.
    async fn from_request_parts(parts: &mut axum::http::request::Parts, _: &S) -> Result<Self, Infallible> {
        let header = parts.headers.get(LAST_EVENT_ID);
        Ok(Self(header.map(|value| value.to_str().unwrap_or("?").to_owned())))
    }
}

impl Takes for LastEventId {
    fn describe(sketch: &mut Sketch) {
        let description = "The `id` of the last event that was seen.";
        sketch.header("Last-Event-ID", description, json!({ "type": "string" }));
    }
}

async fn watch(
    State(parts): State<Parts>,
    Query(query): Query<WatchQuery>,
    LastEventId(header): LastEventId,
    pass: Option<Extension<Pass>>,
    Extension(streaming): Extension<Streaming>,
) -> Result<Response, Problem> {
    let words = |text: Option<String>| -> Vec<String> {
        let text = text.unwrap_or_default();
        text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let filter = Filter { types: words(query.kind), subjects: words(query.subject) };
    let begin = match header.or(query.last_event_id).filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(Position::parse(&text).ok_or_else(|| {
            Problem::new(Code::BadEventId, "`Last-Event-ID` is not the id of an event of this stream")
        })?),
    };
    let place = Arc::clone(&parts.places).try_acquire_owned().map_err(|_| {
        let detail = format!("there are {} streams already", parts.events.settings.streams);
        Problem::new(Code::TooManyWatchers, detail)
    })?;
    let watcher = Watcher::new(&parts, filter, begin, pass.map(|Extension(pass)| pass), streaming, place);
    let stream = stream::unfold(watcher, |mut watcher| async move {
        watcher.next().await.map(|event| (Ok::<Event, Infallible>(event), watcher))
    });
    Ok(Sse::new(stream).into_response())
}

/// The registry's events from before this run of the broker.
struct Replay {
    /// The run that it was seen in: who is cut off here begins here again.
    at: Position,
    until: u64,
}

/// Somebody who watches.
struct Watcher {
    events: Arc<Events>,
    registry: Arc<Registry>,
    arrived: watch::Receiver<u64>,
    filter: Filter,
    pass: Option<Pass>,
    /// How far the ring was seen.
    at: Position,
    /// What is left to be read of the outbox before the ring.
    replay: Option<Replay>,
    waiting: VecDeque<Event>,
    heartbeat: Interval,
    streaming: Streaming,
    _open: OpenStream,
    _counted: Counted,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    fn new(
        parts: &Parts,
        filter: Filter,
        begin: Option<Position>,
        pass: Option<Pass>,
        streaming: Streaming,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let end = parts.events.end();
        let mut waiting = VecDeque::new();
        // Says that the stream is there, and where it would be taken up again, before anything happens.
        let hello = Event::default().comment("mqgate").retry(Duration::from_secs(1));
        waiting.push_back(hello.id(begin.as_ref().unwrap_or(&end).to_string()));
        let (at, replay) = match begin {
            None => (end, None),
            Some(position) if parts.events.is_own(&position) => (position, None),
            // Of another run of the broker: the registry's events are on the disk, the others are gone.
            Some(position) => {
                waiting.push_back(gap(None, "the broker was started anew", &position));
                let until = end.registry;
                (end, Some(Replay { at: position, until }))
            }
        };
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat.reset();
        Self {
            arrived: parts.events.arrived(),
            events: Arc::clone(&parts.events),
            registry: Arc::clone(&parts.registry),
            filter,
            pass,
            at,
            replay,
            waiting,
            heartbeat,
            _open: streaming.begin(),
            streaming,
            _counted: Counted::new(parts.numbers.streams.clone()),
            _place: place,
        }
    }

    /// `None`: the stream is over.
    async fn next(&mut self) -> Option<Event> {
        loop {
            // A token that is revoked ends its streams.
            if self.streaming.end.is_cancelled() || self.pass.as_ref().is_some_and(|pass| !pass.holds()) {
                return None;
            }
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if let Some(replay) = self.replay.take() {
                self.replay(replay).await;
                continue;
            }
            self.arrived.mark_unchanged();
            let batch = self.events.after(self.at.number, PAGE);
            if let Some(first) = batch.seen.first().filter(|_| batch.missed > 0) {
                // Before the first that is still there, and not beyond what it has of the registry.
                self.at.number = first.at.number - 1;
                self.at.registry = self.at.registry.max(first.at.registry.saturating_sub(1));
                self.waiting.push_back(gap(Some(batch.missed), "the stream was too slow", &self.at));
            }
            if !batch.seen.is_empty() {
                for seen in batch.seen {
                    self.take(&seen);
                    self.at = seen.at;
                }
                continue;
            }
            tokio::select! {
                () = self.streaming.end.cancelled() => return None,
                _ = self.arrived.changed() => {}
                // With how far the stream is: much may have happened that was not asked for.
                _ = self.heartbeat.tick() => {
                    let here = Event::default().comment("here").id(self.at.to_string());
                    self.waiting.push_back(here);
                }
            }
        }
    }

    fn take(&mut self, seen: &Seen) {
        match &seen.what {
            What::Event(event) if self.filter.takes(event) => {
                let event = shown(event, &seen.at, &self.events.settings.source);
                self.waiting.push_back(event);
            }
            What::Event(_) => {}
            What::Missed(count) => self.waiting.push_back(gap(Some(*count), "events were lost", &seen.at)),
        }
    }

    /// A page of it.
    async fn replay(&mut self, Replay { mut at, until }: Replay) {
        let page = match self.registry.events(at.registry, PAGE).await {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(%error, "events of the registry are not read");
                self.waiting.push_back(gap(None, "the registry cannot be read", &at));
                return;
            }
        };
        let last = page.events.last().map(|event| event.sequence);
        for event in page.events.into_iter().take_while(|event| event.sequence <= until) {
            at.registry = event.sequence;
            let event = CloudEvent::of_registry(event);
            if self.filter.takes(&event) {
                self.waiting.push_back(shown(&event, &at, &self.events.settings.source));
            }
        }
        // What is newer than that comes from the ring; what was forgotten meanwhile comes no more.
        if last.is_some_and(|last| last < until) {
            self.replay = Some(Replay { at, until });
        }
    }
}

fn shown(event: &CloudEvent, at: &Position, source: &str) -> Event {
    Event::default().id(at.to_string()).data(event.json(source).to_string())
}

fn gap(missed: Option<u64>, why: &str, at: &Position) -> Event {
    let data = json!({ "missed": missed, "why": why });
    Event::default().event("gap").id(at.to_string()).data(data.to_string())
}

/// In the gauge for as long as it lives.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
