//! Recordings: calls of one version of a plugin, kept as cases until somebody fetches them. Bounded in number, in time
//! and in memory; what does not fit is dropped and counted, and no call waits for it.
//!
//! What is made of a call is [`crate::case`]'s, and only when it is fetched.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use mqgate_identity::hooks::{Connection, Occasion};

use crate::case::{captured, headline};
use crate::error::LoadError;
use crate::hook::Hook;
use crate::host::{PluginHost, verify};
use crate::member::EntryState;
use crate::metrics::RecordingMetrics;
use crate::plugin::LivePlugin;
use crate::tap::{Listener, Tapped};

/// Calls that wait to be fetched, and the memory that they may take.
const MOST_WAITING: usize = 4096;
const MOST_BYTES: usize = 32 << 20;
/// What a call takes beside what it was asked and told.
const CALL_COST: usize = 4 << 10;
/// A recording that nobody fetches from is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Lines of one page.
const PAGE: usize = 500;

/// What is to be recorded.
#[derive(Debug, Clone)]
pub struct RecordingTerms {
    /// Calls at most.
    pub count: u64,
    /// Time at most.
    pub time: Duration,
    /// Of so many calls one.
    pub every: u64,
    /// Only on this listener.
    pub listener: Option<String>,
}

/// How far a recording is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordingReport {
    pub digest: String,
    /// It takes no more calls.
    pub ended: bool,
    /// Calls that it took, those that were dropped included.
    pub taken: u64,
    /// For which there was no room.
    pub dropped: u64,
}

/// Some of what was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordingPage {
    /// Cases, one in each line; before the first one what they have in common.
    pub lines: Vec<String>,
    /// For the next page; with that question these are forgotten.
    pub next: u64,
    /// Nothing is left and nothing more comes.
    pub finished: bool,
    pub report: RecordingReport,
}

/// One recording.
pub(crate) struct Recorder {
    /// The plugin holds the recorder, through whoever listens to it.
    plugin: Weak<LivePlugin>,
    name: Arc<str>,
    digest: Arc<str>,
    headline: String,
    terms: RecordingTerms,
    until: Instant,
    metrics: RecordingMetrics,
    state: Mutex<State>,
}

struct State {
    seen: u64,
    taken: u64,
    dropped: u64,
    ended: bool,
    waiting: VecDeque<(u64, usize, Tapped)>,
    bytes: usize,
    fetched: Instant,
}

/// What the plugin tells.
struct Microphone(Arc<Recorder>);

impl Recorder {
    fn new(plugin: &Arc<LivePlugin>, terms: RecordingTerms, metrics: RecordingMetrics, now: Instant) -> Self {
        let state = State {
            seen: 0,
            taken: 0,
            dropped: 0,
            ended: false,
            waiting: VecDeque::new(),
            bytes: 0,
            fetched: now,
        };
        Self {
            plugin: Arc::downgrade(plugin),
            name: Arc::clone(&plugin.name),
            digest: Arc::clone(&plugin.digest),
            headline: headline(&plugin.runnable),
            until: now + terms.time,
            terms,
            metrics,
            state: Mutex::new(state),
        }
    }

    /// Whether a call is one of those that are to be recorded.
    fn wants(&self, on: &Connection, now: Instant) -> bool {
        // What an operator asks is no call of a client's.
        let is_meant = on.occasion == Occasion::Admission
            && self.terms.listener.as_deref().is_none_or(|name| *name == *on.listener);
        if !is_meant {
            return false;
        }
        let mut state = self.locked();
        self.look_at_the_end(&mut state, now);
        if state.ended {
            return false;
        }
        state.seen += 1;
        (state.seen - 1).is_multiple_of(self.terms.every.max(1))
    }

    fn take(&self, call: Tapped) {
        let size = CALL_COST + call.size();
        let mut state = self.locked();
        if state.taken >= self.terms.count {
            return;
        }
        state.taken += 1;
        if state.waiting.len() >= MOST_WAITING || state.bytes + size > MOST_BYTES {
            state.dropped += 1;
            self.metrics.dropped.inc();
            return;
        }
        self.metrics.kept.inc();
        let number = state.taken;
        state.bytes += size;
        state.waiting.push_back((number, size, call));
    }

    fn look_at_the_end(&self, state: &mut State, now: Instant) {
        let given_up = now.saturating_duration_since(state.fetched) >= PATIENCE;
        if given_up {
            state.waiting.clear();
            state.bytes = 0;
        }
        state.ended |= given_up || now >= self.until || state.taken >= self.terms.count;
    }

    /// What comes after `after`, the number of the last call that was fetched; everything up to it is forgotten.
    fn page(&self, after: u64, now: Instant) -> RecordingPage {
        let (calls, mut page) = {
            let mut state = self.locked();
            self.look_at_the_end(&mut state, now);
            state.fetched = now;
            while state.waiting.front().is_some_and(|(number, ..)| *number <= after) {
                if let Some((_, size, _)) = state.waiting.pop_front() {
                    state.bytes -= size;
                }
            }
            let calls: Vec<(u64, Tapped)> =
                state.waiting.iter().take(PAGE).map(|(number, _, call)| (*number, call.clone())).collect();
            let page = RecordingPage {
                lines: Vec::new(),
                next: calls.last().map_or(after, |(number, _)| *number),
                finished: state.ended && state.waiting.is_empty(),
                report: self.told(&state),
            };
            (calls, page)
        };
        if after == 0 && !calls.is_empty() {
            page.lines.push(self.headline.clone());
        }
        let lines =
            calls.iter().filter_map(|(number, call)| captured(*number, &self.name, &self.digest, call));
        page.lines.extend(lines);
        page
    }

    fn is_of(&self, plugin: &Arc<LivePlugin>) -> bool {
        std::ptr::eq(self.plugin.as_ptr(), Arc::as_ptr(plugin))
    }

    /// Takes no more calls.
    fn end(&self) -> RecordingReport {
        let mut state = self.locked();
        state.ended = true;
        self.told(&state)
    }

    fn told(&self, state: &State) -> RecordingReport {
        RecordingReport {
            digest: self.digest.to_string(),
            ended: state.ended,
            taken: state.taken,
            dropped: state.dropped,
        }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Microphone {
    fn wants(&self, _hook: Hook, on: &Connection) -> bool {
        self.0.wants(on, Instant::now())
    }

    fn take(&self, call: Tapped) {
        self.0.take(call);
    }
}

impl PluginHost {
    /// Records calls of the version that runs. It ends with that version; one that went on before is given up.
    pub fn record(&self, name: &str, terms: RecordingTerms) -> Result<RecordingReport, LoadError> {
        let live = self.live(name);
        let live = live.ok_or_else(|| verify(format!("{name} is not live: there is nothing to record")))?;
        let metrics = self.loader.metrics.recording(name);
        let recorder = Arc::new(Recorder::new(&live, terms, metrics, Instant::now()));
        live.set_listener(Some(Box::new(Microphone(Arc::clone(&recorder)))));
        self.loader.runtime.spawn(see_to_the_end(Arc::downgrade(&recorder)));
        let report = recorder.told(&recorder.locked());
        if let Some(former) = self.recordings().insert(name.to_owned(), recorder) {
            former.end();
        }
        Ok(report)
    }

    /// What was recorded after the call of this number. `None`: nothing is recorded of this plugin.
    pub fn recorded(&self, name: &str, after: u64) -> Option<RecordingPage> {
        let recorder = self.recordings().get(name).cloned()?;
        if !self.live(name).is_some_and(|live| recorder.is_of(&live)) {
            recorder.end();
        }
        Some(recorder.page(after, Instant::now()))
    }

    /// Ends a recording, and forgets what nobody fetched.
    pub fn end_recording(&self, name: &str) -> Option<RecordingReport> {
        let recorder = self.recordings().remove(name)?;
        if let Some(live) = self.live(name).filter(|live| recorder.is_of(live)) {
            live.set_listener(None);
        }
        Some(recorder.end())
    }

    fn live(&self, name: &str) -> Option<Arc<LivePlugin>> {
        match self.state().entry(name).map(|(_, entry)| &entry.state) {
            Some(EntryState::Live(live)) => Some(Arc::clone(&live.plugin)),
            Some(EntryState::Disabled | EntryState::Failed { .. }) | None => None,
        }
    }
}

/// A recording that nobody fetches does not keep what it took.
async fn see_to_the_end(recorder: Weak<Recorder>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Some(recorder) = recorder.upgrade() else { return };
        let mut state = recorder.locked();
        recorder.look_at_the_end(&mut state, Instant::now());
        let (ended, is_empty) = (state.ended, state.waiting.is_empty());
        drop(state);
        if ended && is_empty {
            return;
        }
    }
}
