//! A live plugin: how a hook call gets a place, an instance and an end.

use std::future::Future;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Instant;

use mqgate_identity::audit::AuditEvent;
use mqgate_identity::hooks::{
    AuditSink, Authentication, Authenticator, Authorization, Authorizer, ChainMember, Connection,
    FailureKind, HookFailure, HookFuture, Identity, Registrar, RegistrationDecision,
};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use crate::capability::log::Voice;
use crate::hook::Hook;
use crate::instance::{CallError, Runnable, Running};
use crate::poison::{PoisonList, Poisoned, Subject};
use crate::question::Credentials;
use crate::settings::Capability;
use crate::{answer, question};

/// Calls after which the auditor's instance is replaced, so that a slow leak stays small.
const CALLS_PER_INSTANCE: u32 = 5_000;

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
        Self { name, digest, runnable, hooks, runtime, places, instances, auditor: Arc::default(), poisoned }
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

    /// The one way a hook is called. Everything that can go wrong ends here as a [`HookFailure`].
    async fn call<C: HookCall>(&self, call: C) -> Result<C::Answer, HookFailure> {
        let begun = Instant::now();
        let outcome = match call.subject() {
            Some(subject) => self.attempt_unless_poisoned(call, subject).await,
            None => self.attempt(call).await,
        };
        let metrics = self.runnable.metrics.hook(C::HOOK);
        metrics.duration.observe(begun.elapsed().as_secs_f64());
        match &outcome {
            Ok(answer) => metrics.decided(C::result(answer)),
            Err(failure) => metrics.failed(failure.kind),
        }
        outcome
    }

    async fn attempt_unless_poisoned<C: HookCall>(
        &self,
        call: C,
        subject: Subject,
    ) -> Result<C::Answer, HookFailure> {
        let poisoned = self.poisoned().check(&subject, Instant::now());
        if let Some(Poisoned { kind, failures, wait }) = poisoned {
            let detail = format!(
                "not called: {failures} calls for this client ended so in a row; the next in {} ms",
                wait.as_millis()
            );
            return Err(HookFailure { kind, detail });
        }
        let outcome = self.attempt(call).await;
        let failure = outcome.as_ref().err().map(|failure| failure.kind);
        let mut list = self.poisoned();
        list.ended(subject, failure, Instant::now());
        self.runnable.metrics.poisoned.set(i64::try_from(list.len()).unwrap_or(i64::MAX));
        outcome
    }

    fn poisoned(&self) -> MutexGuard<'_, PoisonList> {
        self.poisoned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn attempt<C: HookCall>(&self, call: C) -> Result<C::Answer, HookFailure> {
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

async fn place(places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(places).acquire_owned().await.expect("these semaphores are never closed")
}

/// What a call runs on.
enum Lane {
    /// An instance of its own: nothing of one call reaches another.
    Fresh { place: OwnedSemaphorePermit, instance: OwnedSemaphorePermit },
    /// The auditor's instance, which lives on; one call at a time.
    Kept { slot: OwnedMutexGuard<Option<Running>>, instances: Arc<Semaphore> },
}

/// One question to a plugin.
trait HookCall: Sized + Send + 'static {
    const HOOK: Hook;
    type Answer: Send + 'static;

    fn run(
        self,
        plugin: &Runnable,
        on: &mut Running,
    ) -> impl Future<Output = Result<Self::Answer, CallError>> + Send;

    /// The label `result` for an answer.
    fn result(answer: &Self::Answer) -> &'static str;

    /// Whom the question is about. `None`: about no client.
    fn subject(&self) -> Option<Subject>;

    fn on_fresh(
        self,
        plugin: &Runnable,
        instance: OwnedSemaphorePermit,
    ) -> impl Future<Output = Result<Self::Answer, HookFailure>> + Send {
        async move {
            let mut running = plugin.start(instance).await?;
            let outcome = self.run(plugin, &mut running).await;
            outcome.map_err(|error| running.name_failure(error))
        }
    }

    fn on_kept(
        self,
        plugin: &Runnable,
        mut slot: OwnedMutexGuard<Option<Running>>,
        instances: Arc<Semaphore>,
    ) -> impl Future<Output = Result<Self::Answer, HookFailure>> + Send {
        async move {
            // Taken out, so that it is gone unless it is put back: after a trap, an answer that does not decode,
            // or when this future is dropped.
            let mut running = match slot.take() {
                Some(running) => running,
                None => plugin.start(place(&instances).await).await?,
            };
            running.refill(plugin.limits.cpu);
            running.calls += 1;
            let outcome = self.run(plugin, &mut running).await;
            let sound = matches!(outcome, Ok(_) | Err(CallError::Hook(_)));
            let outcome = outcome.map_err(|error| running.name_failure(error));
            if sound && running.calls < CALLS_PER_INSTANCE && running.memory() <= plugin.limits.memory / 2 {
                *slot = Some(running);
            }
            outcome
        }
    }
}

struct Authenticate {
    on: Arc<Connection>,
}

struct Register {
    on: Arc<Connection>,
    claimed: Option<Identity>,
}

struct Authorize {
    on: Arc<Connection>,
    who: Identity,
}

struct RecordEvents {
    events: Vec<Arc<AuditEvent>>,
}

const HOOK_IS_EXPORTED: &str = "a plugin is only called through the hooks it exports";

fn credentials(plugin: &Runnable) -> Credentials {
    if plugin.services.grants.has(Capability::Credentials) { Credentials::Shown } else { Credentials::Hidden }
}

impl HookCall for Authenticate {
    const HOOK: Hook = Hook::Authenticator;
    type Answer = Authentication;

    async fn run(self, plugin: &Runnable, on: &mut Running) -> Result<Authentication, CallError> {
        let indices = plugin.exports.authenticator.as_ref().expect(HOOK_IS_EXPORTED);
        let guest = indices.load(&mut on.store, &on.instance)?;
        let asked = question::connection(&self.on, credentials(plugin));
        let answer = guest.call_authenticate(&mut on.store, &asked).await?.map_err(CallError::Hook)?;
        answer::authentication(answer).map_err(CallError::Invalid)
    }

    fn subject(&self) -> Option<Subject> {
        Some(Subject::of(&self.on))
    }

    fn result(answer: &Authentication) -> &'static str {
        match answer {
            Authentication::Accept { .. } => "allow",
            Authentication::Deny(_) => "deny",
            Authentication::Abstain => "continue",
        }
    }
}

impl HookCall for Register {
    const HOOK: Hook = Hook::Registrar;
    type Answer = RegistrationDecision;

    async fn run(self, plugin: &Runnable, on: &mut Running) -> Result<RegistrationDecision, CallError> {
        let indices = plugin.exports.registrar.as_ref().expect(HOOK_IS_EXPORTED);
        let guest = indices.load(&mut on.store, &on.instance)?;
        let asked = question::connection(&self.on, credentials(plugin));
        let claimed = self.claimed.as_ref().map(question::identity);
        let answer =
            guest.call_register(&mut on.store, &asked, claimed.as_ref()).await?.map_err(CallError::Hook)?;
        answer::registration_decision(answer).map_err(CallError::Invalid)
    }

    fn subject(&self) -> Option<Subject> {
        Some(Subject::of(&self.on))
    }

    fn result(answer: &RegistrationDecision) -> &'static str {
        match answer {
            RegistrationDecision::Register(_) => "allow",
            RegistrationDecision::Hold(_) => "defer",
            RegistrationDecision::Deny(_) => "deny",
            RegistrationDecision::Abstain => "continue",
        }
    }
}

impl HookCall for Authorize {
    const HOOK: Hook = Hook::Authorizer;
    type Answer = Authorization;

    async fn run(self, plugin: &Runnable, on: &mut Running) -> Result<Authorization, CallError> {
        let indices = plugin.exports.authorizer.as_ref().expect(HOOK_IS_EXPORTED);
        let guest = indices.load(&mut on.store, &on.instance)?;
        let asked = question::connection(&self.on, credentials(plugin));
        let who = question::identity(&self.who);
        let answer = guest.call_authorize(&mut on.store, &asked, &who).await?.map_err(CallError::Hook)?;
        answer::authorization(answer).map_err(CallError::Invalid)
    }

    fn subject(&self) -> Option<Subject> {
        Some(Subject::of(&self.on))
    }

    fn result(answer: &Authorization) -> &'static str {
        match answer {
            Authorization::Allow(_) => "allow",
            Authorization::Deny(_) => "deny",
            Authorization::Abstain => "continue",
        }
    }
}

impl HookCall for RecordEvents {
    const HOOK: Hook = Hook::Auditor;
    type Answer = u64;

    async fn run(self, plugin: &Runnable, on: &mut Running) -> Result<u64, CallError> {
        let indices = plugin.exports.auditor.as_ref().expect(HOOK_IS_EXPORTED);
        let guest = indices.load(&mut on.store, &on.instance)?;
        let events: Vec<_> = self.events.iter().map(|event| question::audit_event(event)).collect();
        // Only here: what `init` says is no audit event. The instance is kept for the next call of this hook.
        on.store.data_mut().voice = Voice::auditor();
        let safe = guest.call_record_events(&mut on.store, &events).await?.map_err(CallError::Hook)?;
        let last = self.events.iter().map(|event| event.sequence).max().unwrap_or(0);
        if safe > last {
            return Err(CallError::Invalid(format!(
                "it says that event {safe} is safe; the last one was {last}"
            )));
        }
        Ok(safe)
    }

    fn subject(&self) -> Option<Subject> {
        None
    }

    fn result(_answer: &u64) -> &'static str {
        "allow"
    }
}

impl Authenticator for LivePlugin {
    fn authenticate<'a>(&'a self, on: &'a Arc<Connection>) -> HookFuture<'a, Authentication> {
        Box::pin(self.call(Authenticate { on: Arc::clone(on) }))
    }
}

impl Registrar for LivePlugin {
    fn register<'a>(
        &'a self,
        on: &'a Arc<Connection>,
        claimed: Option<&'a Identity>,
    ) -> HookFuture<'a, RegistrationDecision> {
        Box::pin(self.call(Register { on: Arc::clone(on), claimed: claimed.cloned() }))
    }
}

impl Authorizer for LivePlugin {
    fn authorize<'a>(&'a self, on: &'a Arc<Connection>, who: &'a Identity) -> HookFuture<'a, Authorization> {
        Box::pin(self.call(Authorize { on: Arc::clone(on), who: who.clone() }))
    }
}

impl AuditSink for LivePlugin {
    fn record_events<'a>(&'a self, events: &'a [Arc<AuditEvent>]) -> HookFuture<'a, u64> {
        Box::pin(self.call(RecordEvents { events: events.to_vec() }))
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
