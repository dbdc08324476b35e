//! A live plugin: how a hook call gets a place, an instance and an end.

use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Instant;

use mqgate_identity::audit::AuditEvent;
use mqgate_identity::hooks::{
    AuditSink, Authentication, Authenticator, Authorization, Authorizer, CacheScope, ChainMember, Connection,
    FailureKind, HookFailure, HookFuture, Identity, Registrar, RegistrationDecision,
};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use crate::calls::{Answered, Authenticate, Authorize, HookCall, RecordEvents, Register, Remembered};
use crate::decisions::Decisions;
use crate::hook::Hook;
use crate::instance::{Purpose, Runnable, Running};
use crate::poison::{PoisonList, Poisoned, Subject};

pub(crate) struct LivePlugin {
    pub(crate) name: Arc<str>,
    pub(crate) digest: Arc<str>,
    pub(crate) runnable: Arc<Runnable>,
    pub(crate) hooks: Vec<Hook>,
    runtime: Handle,
    /// Calls of this plugin at once.
    places: Arc<Semaphore>,
    /// Instances of all plugins at once.
    instances: Arc<Semaphore>,
    /// The one instance that sees all audit events.
    auditor: Arc<Mutex<Option<Running>>>,
    /// Who has to wait after breaking a call. Ends with this version of the plugin.
    poisoned: StdMutex<PoisonList>,
    /// `None`: every answer is asked for.
    decisions: Option<StdMutex<Decisions>>,
}

impl LivePlugin {
    pub(crate) fn new(
        name: Arc<str>,
        digest: Arc<str>,
        runnable: Arc<Runnable>,
        hooks: Vec<Hook>,
        runtime: Handle,
        instances: Arc<Semaphore>,
    ) -> Self {
        let places = Arc::new(Semaphore::new(runnable.limits.concurrency));
        let poisoned = StdMutex::new(PoisonList::new(runnable.limits.backoff));
        let decisions = Decisions::new(runnable.limits.longest_cached, runnable.limits.cached_decisions);
        let decisions = (!decisions.is_off()).then(|| StdMutex::new(decisions));
        let auditor = Arc::default();
        Self { name, digest, runnable, hooks, runtime, places, instances, auditor, poisoned, decisions }
    }

    pub(crate) fn member(self: &Arc<Self>) -> ChainMember {
        let has = |hook| self.hooks.contains(&hook);
        ChainMember {
            name: Arc::clone(&self.name),
            digest: Some(Arc::clone(&self.digest)),
            authenticator: has(Hook::Authenticator).then(|| Arc::clone(self) as Arc<dyn Authenticator>),
            enhanced_authenticator: None,
            registrar: has(Hook::Registrar).then(|| Arc::clone(self) as Arc<dyn Registrar>),
            authorizer: has(Hook::Authorizer).then(|| Arc::clone(self) as Arc<dyn Authorizer>),
            auditor: has(Hook::Auditor).then(|| Arc::clone(self) as Arc<dyn AuditSink>),
        }
    }

    /// The one way a hook is asked: by a call, unless it has said that its last answer holds for this one too.
    async fn ask<C: Remembered>(&self, call: C) -> Result<C::Answer, HookFailure> {
        let Some(decisions) = self.decisions.as_ref().filter(|_| call.purpose() == Purpose::Calls) else {
            return Ok(self.call(call).await?.answer);
        };
        let questions = [CacheScope::Certificate, CacheScope::Identity].map(|scope| call.question(scope));
        let metrics = self.runnable.metrics.hook(C::HOOK);
        let known = {
            let mut decisions = locked(decisions);
            let now = Instant::now();
            questions.iter().flatten().find_map(|question| decisions.find(question, now))
        };
        if let Some(answer) = known.and_then(C::recall) {
            metrics.cache_hits.inc();
            return Ok(answer);
        }
        metrics.cache_misses.inc();
        let Answered { answer, consulted } = self.call(call).await?;
        let Some(hint) = C::hint(&answer) else { return Ok(answer) };
        let [of_certificate, of_identity] = questions;
        let question = match hint.scope {
            CacheScope::Connection => None,
            CacheScope::Certificate => of_certificate,
            CacheScope::Identity => of_identity,
        };
        match question {
            // What it was told meanwhile may be otherwise the next time.
            Some(question) if !consulted => {
                let mut decisions = locked(decisions);
                let gone = decisions.remember(question, hint, C::decision(&answer), Instant::now());
                self.runnable.metrics.cache_evictions.inc_by(gone as u64);
                self.runnable.metrics.cached.set(i64::try_from(decisions.len()).unwrap_or(i64::MAX));
            }
            Some(_) | None if hint.scope != CacheScope::Connection => metrics.cache_narrowed.inc(),
            Some(_) | None => {}
        }
        Ok(answer)
    }

    /// Everything that can go wrong with a call ends here as a [`HookFailure`].
    async fn call<C: HookCall>(&self, call: C) -> Result<Answered<C::Answer>, HookFailure> {
        if call.purpose() == Purpose::Explanation {
            return self.rehearse(call).await;
        }
        let begun = Instant::now();
        let outcome = match call.subject() {
            Some(subject) => self.attempt_unless_poisoned(call, subject).await,
            None => self.attempt(call).await,
        };
        let metrics = self.runnable.metrics.hook(C::HOOK);
        metrics.duration.observe(begun.elapsed().as_secs_f64());
        match &outcome {
            Ok(answered) => metrics.decided(C::result(&answered.answer)),
            Err(failure) => metrics.failed(failure.kind),
        }
        outcome
    }

    /// A call that only an operator hears of: neither counted nor remembered.
    async fn rehearse<C: HookCall>(&self, call: C) -> Result<Answered<C::Answer>, HookFailure> {
        if let Some(subject) = call.subject() {
            self.check_poisoned(&subject)?;
        }
        self.attempt(call).await
    }

    fn check_poisoned(&self, subject: &Subject) -> Result<(), HookFailure> {
        let poisoned = locked(&self.poisoned).check(subject, Instant::now());
        let Some(Poisoned { kind, failures, wait }) = poisoned else { return Ok(()) };
        let detail = format!(
            "not called: {failures} calls for this client ended so in a row; the next in {} ms",
            wait.as_millis()
        );
        Err(HookFailure { kind, detail })
    }

    async fn attempt_unless_poisoned<C: HookCall>(
        &self,
        call: C,
        subject: Subject,
    ) -> Result<Answered<C::Answer>, HookFailure> {
        self.check_poisoned(&subject)?;
        let outcome = self.attempt(call).await;
        let failure = outcome.as_ref().err().map(|failure| failure.kind);
        let mut list = locked(&self.poisoned);
        list.ended(subject, failure, Instant::now());
        self.runnable.metrics.poisoned.set(i64::try_from(list.len()).unwrap_or(i64::MAX));
        outcome
    }

    async fn attempt<C: HookCall>(&self, call: C) -> Result<Answered<C::Answer>, HookFailure> {
        let limits = self.runnable.limits;
        let queued = Counted::new(&self.runnable.metrics.queued);
        let lane =
            tokio::time::timeout(limits.queue_wait, self.lane(C::HOOK)).await.map_err(|_| HookFailure {
                kind: FailureKind::Overload,
                detail: format!("no free place within {:?}", limits.queue_wait),
            })?;
        drop(queued);
        let runnable = Arc::clone(&self.runnable);
        let mut task = AbortOnDrop(self.runtime.spawn(async move {
            let _inflight = Counted::new(&runnable.metrics.inflight);
            let _ticking = runnable.ticking();
            match lane {
                Lane::Fresh { instance, place } => {
                    let outcome = call.on_fresh(&runnable, instance).await;
                    drop(place);
                    outcome
                }
                Lane::Kept { slot, instances } => call.on_kept(&runnable, slot, instances).await,
            }
        }));
        // From outside: whatever the task hangs in, the caller goes on in time.
        match tokio::time::timeout(limits.wall, &mut task.0).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) if error.is_panic() => Err(HookFailure {
                kind: FailureKind::Trap,
                detail: String::from("a host function panicked; the instance is discarded"),
            }),
            Ok(Err(_)) => Err(HookFailure {
                kind: FailureKind::Unavailable,
                detail: String::from("plugins are being shut down"),
            }),
            Err(_) => Err(HookFailure {
                kind: FailureKind::Deadline,
                detail: format!("no answer within {:?}", limits.wall),
            }),
        }
    }

    async fn lane(&self, hook: Hook) -> Lane {
        match hook {
            Hook::Auditor => Lane::Kept {
                slot: Arc::clone(&self.auditor).lock_owned().await,
                instances: Arc::clone(&self.instances),
            },
            Hook::Authenticator | Hook::Registrar | Hook::Authorizer => {
                Lane::Fresh { place: place(&self.places).await, instance: place(&self.instances).await }
            }
        }
    }
}

fn locked<T>(value: &StdMutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) async fn place(places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(places).acquire_owned().await.expect("these semaphores are never closed")
}

/// What a call runs on.
enum Lane {
    /// An instance of its own: nothing of one call reaches another.
    Fresh { place: OwnedSemaphorePermit, instance: OwnedSemaphorePermit },
    /// The auditor's instance, which lives on; one call at a time.
    Kept { slot: OwnedMutexGuard<Option<Running>>, instances: Arc<Semaphore> },
}

impl Authenticator for LivePlugin {
    fn authenticate<'a>(&'a self, on: &'a Arc<Connection>) -> HookFuture<'a, Authentication> {
        Box::pin(self.ask(Authenticate { on: Arc::clone(on) }))
    }
}

impl Registrar for LivePlugin {
    fn register<'a>(
        &'a self,
        on: &'a Arc<Connection>,
        claimed: Option<&'a Identity>,
    ) -> HookFuture<'a, RegistrationDecision> {
        Box::pin(async move {
            Ok(self.call(Register { on: Arc::clone(on), claimed: claimed.cloned() }).await?.answer)
        })
    }
}

impl Authorizer for LivePlugin {
    fn authorize<'a>(&'a self, on: &'a Arc<Connection>, who: &'a Identity) -> HookFuture<'a, Authorization> {
        Box::pin(self.ask(Authorize { on: Arc::clone(on), who: who.clone() }))
    }
}

impl AuditSink for LivePlugin {
    fn record_events<'a>(&'a self, events: &'a [Arc<AuditEvent>]) -> HookFuture<'a, u64> {
        Box::pin(async move { Ok(self.call(RecordEvents { events: events.to_vec() }).await?.answer) })
    }
}

/// A task whose caller went away has nobody to answer to.
pub(crate) struct AbortOnDrop<T>(pub(crate) JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Counts itself in a gauge while it lives.
struct Counted(prometheus::IntGauge);

impl Counted {
    fn new(gauge: &prometheus::IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
