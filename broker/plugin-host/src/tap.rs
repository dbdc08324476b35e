//! What goes in and out of a call, for whoever records calls or runs one by itself: the question, what the plugin asked
//! the host and was told, what it answered, and what it cost.
//!
//! A call is tapped only where somebody wants it; otherwise nothing here is made.

mod size;

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use mqgate_identity::hooks::{
    Authentication, AuthenticationStep, Authorization, Connection, HookFailure, Identity,
    RegistrationDecision, Secret,
};
use mqgate_identity::time::UnixMillis;
use nix::time::{ClockId, clock_gettime};

use crate::capability::http::{Failure, Whole};
use crate::hook::Hook;

/// Host calls of one call that are remembered; a plugin that makes more is not recorded, for it could not be asked again.
const MOST_CALLS: usize = 1024;
/// Bytes that are remembered of them.
const MOST_BYTES: usize = 1 << 20;

/// Who wants to know of the calls of a plugin.
pub(crate) trait Listener: Send + Sync {
    fn wants(&self, hook: Hook, on: &Connection) -> bool;
    fn take(&self, call: Tapped);
}

/// One call.
#[derive(Debug, Clone)]
pub(crate) struct Tapped {
    pub(crate) asked: Asked,
    pub(crate) told: Result<Told, HookFailure>,
    /// When it began.
    pub(crate) at: UnixMillis,
    pub(crate) took: Duration,
    pub(crate) heard: Heard,
}

/// A question to a client hook.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) hook: Hook,
    pub(crate) on: Arc<Connection>,
    /// The authorizer's; the registrar's, if one is claimed.
    pub(crate) who: Option<Identity>,
    pub(crate) exchange: Option<Exchanged>,
}

/// One step of an exchange.
#[derive(Debug, Clone)]
pub(crate) struct Exchanged {
    pub(crate) method: String,
    pub(crate) round: u32,
    pub(crate) state: Secret,
    pub(crate) data: Option<Secret>,
    pub(crate) again: bool,
}

/// An answer of any client hook.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Told {
    Authentication(Authentication),
    Step(AuthenticationStep),
    Registration(RegistrationDecision),
    Authorization(Authorization),
}

/// What was heard of a call while it ran.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    /// An instance was there for it: before that the plugin was not asked.
    pub(crate) reached: bool,
    /// The instance began with it.
    pub(crate) fresh: bool,
    pub(crate) calls: Vec<HostCall>,
    /// There were more than are remembered.
    pub(crate) cut: bool,
    /// Computing time of the thread it ran on, host functions included.
    pub(crate) cpu: Duration,
    /// Bytes of linear memory of its instance at the end.
    pub(crate) memory: usize,
    bytes: usize,
}

/// One thing that a plugin asked the host.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum HostCall {
    Get { key: String, found: Result<Option<(Vec<u8>, u64)>, String> },
    Set { key: String, done: Result<(), String> },
    Swap { key: String, expected: Option<u64>, version: Result<u64, String> },
    Add { key: String, delta: i64, number: Result<i64, String> },
    Delete { key: String, done: Result<(), String> },
    List { prefix: String, keys: Result<Vec<String>, String> },
    Device { by: String, found: Result<Option<KnownDevice>, String> },
    Count { tenant: Option<String>, tag: Option<String>, count: Result<u64, String> },
    Http { method: String, url: String, answer: Result<HttpAnswered, Failure> },
    Clock { now: UnixMillis },
    Random { bytes: Vec<u8> },
    Log { level: &'static str, line: String },
}

/// A device as the registry told it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KnownDevice {
    pub(crate) device_id: String,
    pub(crate) tenant: Option<String>,
    pub(crate) status: &'static str,
    pub(crate) tags: Vec<String>,
    pub(crate) fingerprints: Vec<[u8; 32]>,
    pub(crate) registered_at: UnixMillis,
    pub(crate) last_seen: Option<UnixMillis>,
    pub(crate) attributes: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HttpAnswered {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl HttpAnswered {
    pub(crate) fn of(answer: &Whole) -> Self {
        let headers = answer.headers.iter();
        let headers = headers.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
        Self { status: answer.status, headers: headers.collect(), body: answer.body.to_vec() }
    }
}

/// Listens to one call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ear(Arc<Mutex<Heard>>);

impl Ear {
    pub(crate) fn note(&self, call: HostCall) {
        let mut heard = self.locked();
        heard.bytes = heard.bytes.saturating_add(call.size());
        if heard.calls.len() < MOST_CALLS && heard.bytes <= MOST_BYTES {
            heard.calls.push(call);
        } else {
            heard.cut = true;
        }
    }

    pub(crate) fn reached(&self, fresh: bool) {
        let mut heard = self.locked();
        (heard.reached, heard.fresh) = (true, fresh);
    }

    pub(crate) fn measured(&self, memory: usize) {
        self.locked().memory = memory;
    }

    pub(crate) fn heard(&self) -> Heard {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    /// What it takes in memory, about.
    pub(crate) fn size(&self) -> usize {
        self.bytes.min(MOST_BYTES)
    }
}

/// For operators and developers; values are shown where they are short text.
impl fmt::Display for HostCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn told<T, E: fmt::Display>(answer: &Result<T, E>, show: impl FnOnce(&T) -> String) -> String {
            answer.as_ref().map_or_else(|error| format!("error: {error}"), show)
        }
        match self {
            Self::Get { key, found } => {
                let found = told(found, |found| match found {
                    None => String::from("nothing"),
                    Some((value, version)) => format!("{} (version {version})", shown(value)),
                });
                write!(f, "kv get {key:?} -> {found}")
            }
            Self::Set { key, done } => {
                write!(f, "kv set {key:?} -> {}", told(done, |()| String::from("done")))
            }
            Self::Swap { key, expected, version } => {
                let expected = expected.map_or_else(|| String::from("none"), |version| version.to_string());
                let version = told(version, |version| format!("version {version}"));
                write!(f, "kv swap {key:?} if version {expected} -> {version}")
            }
            Self::Add { key, delta, number } => {
                write!(f, "kv add {delta} to {key:?} -> {}", told(number, i64::to_string))
            }
            Self::Delete { key, done } => {
                write!(f, "kv delete {key:?} -> {}", told(done, |()| String::from("done")))
            }
            Self::List { prefix, keys } => {
                write!(f, "kv list {prefix:?} -> {}", told(keys, |keys| format!("{} keys", keys.len())))
            }
            Self::Device { by, found } => {
                let found = told(found, |found| match found {
                    None => String::from("none"),
                    Some(device) => format!("device {}, {}", device.device_id, device.status),
                });
                write!(f, "registry {by} -> {found}")
            }
            Self::Count { tenant, tag, count } => {
                let of = |what: &Option<String>| what.clone().unwrap_or_else(|| String::from("any"));
                let count = told(count, u64::to_string);
                write!(f, "registry count of tenant {}, tag {} -> {count}", of(tenant), of(tag))
            }
            Self::Http { method, url, answer } => {
                let answer = answer.as_ref().map_err(|failure| format!("{failure:?}"));
                let answer = told(&answer, |it| format!("{}, {} bytes", it.status, it.body.len()));
                write!(f, "http {method} {url} -> {answer}")
            }
            Self::Clock { now } => write!(f, "clock -> {} ms", now.0),
            Self::Random { bytes } => write!(f, "random -> {} bytes", bytes.len()),
            Self::Log { level, line } => write!(f, "log {level}: {line}"),
        }
    }
}

fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= 80 => format!("{text:?}"),
        Ok(_) | Err(_) => format!("{} bytes", bytes.len()),
    }
}

/// A future whose computing time is counted, thread by thread.
pub(crate) struct Metered<F> {
    work: Pin<Box<F>>,
    ear: Ear,
}

impl<F> Metered<F> {
    pub(crate) fn new(work: F, ear: Ear) -> Self {
        Self { work: Box::pin(work), ear }
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let before = thread_time();
        let polled = self.work.as_mut().poll(context);
        let spent = thread_time().saturating_sub(before);
        self.ear.locked().cpu += spent;
        polled
    }
}

/// Computing time of this thread so far.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}
