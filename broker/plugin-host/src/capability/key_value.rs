//! `mqgate:plugin/key-value`: a plugin's own space behind the `Storage` seam.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use mqgate_identity::registry::{KvAnswer, KvError, KvOperation, KvRequest};
use mqgate_identity::time::UnixMillis;

use crate::bindings::mqgate::plugin::key_value::{Entry, Error, Host, Page};
use crate::capability::Services;
use crate::instance::StoreState;
use crate::metrics::Interface;
use crate::tap::HostCall;

const MAX_KEY_BYTES: usize = 512;
/// Keys in one page, whatever was asked for.
const MAX_PAGE: u32 = 1000;

/// What is asked, owned so that it can go to a thread that may wait.
enum Request {
    Get { key: String },
    Set { key: String, value: Vec<u8>, expires: Option<UnixMillis> },
    Swap { key: String, expected: Option<u64>, value: Vec<u8>, expires: Option<UnixMillis> },
    Add { key: String, delta: i64, expires: Option<UnixMillis> },
    Delete { key: String },
    List { prefix: String, cursor: Option<String>, limit: u32 },
}

impl StoreState {
    fn expiry(&self, ttl: Option<u32>) -> Option<UnixMillis> {
        let now = self.services.outside.now().0;
        ttl.map(|seconds| UnixMillis(now.saturating_add(u64::from(seconds) * 1000)))
    }

    async fn ask(&mut self, request: Request) -> Result<KvAnswer, Error> {
        self.consulted = true;
        let outcome = match self.check(&request) {
            Ok(()) => self.store(request).await,
            Err(error) => Err(error),
        };
        self.services.count(Interface::KeyValue, &outcome);
        outcome
    }

    fn check(&self, request: &Request) -> Result<(), Error> {
        let quota = self.services.grants.kv;
        let key = match request {
            Request::Get { key } | Request::Delete { key } | Request::Add { key, .. } => key,
            Request::Set { key, value, .. } | Request::Swap { key, value, .. } => {
                if value.len() > quota.value_bytes as usize {
                    return Err(Error::TooLarge);
                }
                key
            }
            // A prefix may be empty.
            Request::List { prefix, .. } if prefix.len() <= MAX_KEY_BYTES => return Ok(()),
            Request::List { .. } => return Err(Error::TooLarge),
        };
        match key.len() {
            1..=MAX_KEY_BYTES => Ok(()),
            _ => Err(Error::TooLarge),
        }
    }

    async fn store(&mut self, request: Request) -> Result<KvAnswer, Error> {
        let is_trial = self.is_trial();
        let services = &*self.services;
        let at_once = |operation: KvOperation<'_>| services.storage.kv_at_once(&services.plugin, operation);
        // As on a thread of its own: a bug in the storage is an error to the plugin, and ends nothing.
        let answered = catch_unwind(AssertUnwindSafe(|| request.put(services, is_trial, at_once)));
        match answered {
            Ok(Some(answer)) => return answer.map_err(Error::from),
            Ok(None) => {}
            Err(_) => return Err(Error::Unavailable(String::from("the storage failed: it panicked"))),
        }
        let services = Arc::clone(&self.services);
        let answered = tokio::task::spawn_blocking(move || {
            let wait = |operation: KvOperation<'_>| Some(services.storage.kv(&services.plugin, operation));
            request.put(&services, is_trial, wait)
        });
        match answered.await {
            Ok(Some(answer)) => answer.map_err(Error::from),
            Ok(None) => Err(Error::Unavailable(String::from("the storage gave no answer"))),
            Err(error) => Err(Error::Unavailable(format!("the storage failed: {error}"))),
        }
    }
}

impl Request {
    /// Asks the storage, which may say that it cannot answer now.
    fn put(
        &self,
        services: &Services,
        is_trial: bool,
        storage: impl Fn(KvOperation<'_>) -> Option<Result<KvAnswer, KvError>>,
    ) -> Option<Result<KvAnswer, KvError>> {
        let ask = |what: KvRequest<'_>| {
            storage(KvOperation { now: services.outside.now(), quota: services.grants.kv.into(), what })
        };
        let what = match self {
            Self::Get { key } => KvRequest::Get { key },
            Self::Set { key, value, expires } => KvRequest::Set { key, value, expires: *expires },
            Self::Swap { key, expected, value, expires } => {
                KvRequest::Swap { key, expected: *expected, value, expires: *expires }
            }
            Self::Add { key, delta, expires } => KvRequest::Add { key, delta: *delta, expires: *expires },
            Self::Delete { key } => KvRequest::Delete { key },
            Self::List { prefix, cursor, limit } => {
                KvRequest::List { prefix, cursor: cursor.as_deref(), limit: (*limit).min(MAX_PAGE) }
            }
        };
        match what {
            // The trial of a version that may never go live must not change what the live one sees, nor must
            // an operator's question.
            KvRequest::Set { .. } | KvRequest::Delete { .. } if is_trial => Some(Ok(KvAnswer::Done)),
            KvRequest::Swap { expected, .. } if is_trial => {
                Some(Ok(KvAnswer::Version(expected.map_or(1, |version| version.saturating_add(1)))))
            }
            KvRequest::Add { key, delta, .. } if is_trial => {
                let known = match ask(KvRequest::Get { key })? {
                    Ok(KvAnswer::Entry(Some(entry))) => number(&entry.value),
                    Ok(_) => Ok(0),
                    Err(error) => Err(error),
                };
                Some(known.map(|known| KvAnswer::Number(known.saturating_add(delta))))
            }
            what => ask(what),
        }
    }
}

impl Host for StoreState {
    async fn get(&mut self, key: String) -> Result<Option<Entry>, Error> {
        let found = match self.ask(Request::Get { key: key.clone() }).await {
            Ok(KvAnswer::Entry(entry)) => Ok(entry),
            other => Err(failed(other)),
        };
        self.heard(|| {
            let found = found.as_ref().map(|entry| entry.clone().map(|entry| (entry.value, entry.version)));
            HostCall::Get { key, found: found.map_err(text) }
        });
        found.map(|entry| entry.map(|entry| Entry { value: entry.value, version: entry.version }))
    }

    async fn set(&mut self, key: String, value: Vec<u8>, ttl: Option<u32>) -> Result<(), Error> {
        let expires = self.expiry(ttl);
        let done = match self.ask(Request::Set { key: key.clone(), value, expires }).await {
            Ok(KvAnswer::Done | KvAnswer::Version(_)) => Ok(()),
            other => Err(failed(other)),
        };
        self.heard(|| HostCall::Set { key, done: done.as_ref().copied().map_err(text) });
        done
    }

    async fn swap(
        &mut self,
        key: String,
        expected: Option<u64>,
        value: Vec<u8>,
        ttl: Option<u32>,
    ) -> Result<u64, Error> {
        let expires = self.expiry(ttl);
        let version = match self.ask(Request::Swap { key: key.clone(), expected, value, expires }).await {
            Ok(KvAnswer::Version(version)) => Ok(version),
            other => Err(failed(other)),
        };
        self.heard(|| HostCall::Swap { key, expected, version: version.as_ref().copied().map_err(text) });
        version
    }

    async fn add(&mut self, key: String, delta: i64, ttl: Option<u32>) -> Result<i64, Error> {
        let expires = self.expiry(ttl);
        let number = match self.ask(Request::Add { key: key.clone(), delta, expires }).await {
            Ok(KvAnswer::Number(number)) => Ok(number),
            other => Err(failed(other)),
        };
        self.heard(|| HostCall::Add { key, delta, number: number.as_ref().copied().map_err(text) });
        number
    }

    async fn delete(&mut self, key: String) -> Result<(), Error> {
        let done = match self.ask(Request::Delete { key: key.clone() }).await {
            Ok(KvAnswer::Done) => Ok(()),
            other => Err(failed(other)),
        };
        self.heard(|| HostCall::Delete { key, done: done.as_ref().copied().map_err(text) });
        done
    }

    async fn list(&mut self, prefix: String, cursor: Option<String>, limit: u32) -> Result<Page, Error> {
        let begins = cursor.is_none();
        let page = match self.ask(Request::List { prefix: prefix.clone(), cursor, limit }).await {
            Ok(KvAnswer::Page { keys, cursor }) => Ok(Page { keys, cursor }),
            other => Err(failed(other)),
        };
        self.heard(|| {
            // Only a list that is whole says which keys there are not.
            let whole = match &page {
                Ok(page) if begins && page.cursor.is_none() => Ok(page.keys.clone()),
                Ok(_) => Err(String::from("a page of several")),
                Err(error) => Err(text(error)),
            };
            HostCall::List { prefix, keys: whole }
        });
        page
    }
}

impl From<KvError> for Error {
    fn from(error: KvError) -> Self {
        match error {
            KvError::QuotaExceeded => Self::QuotaExceeded,
            KvError::TooLarge => Self::TooLarge,
            KvError::Conflict => Self::Conflict,
            KvError::Unavailable(text) => Self::Unavailable(text),
        }
    }
}

/// A counter as the storage keeps it.
fn number(value: &[u8]) -> Result<i64, KvError> {
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| KvError::Unavailable("the entry does not hold a number".to_owned()))
}

/// An answer that is none to the question.
fn failed(answer: Result<KvAnswer, Error>) -> Error {
    match answer {
        Ok(answer) => Error::Unavailable(format!("the storage answered another question: {answer:?}")),
        Err(error) => error,
    }
}

fn text(error: &Error) -> String {
    match error {
        Error::Unavailable(text) => text.clone(),
        other => format!("{other:?}"),
    }
}
