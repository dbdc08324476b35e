//! A live plugin: how a hook call gets a place, an instance and an end.

use std::sync::{Arc, Mutex as StdMutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use mqgate_identity::audit::AuditEvent;
use mqgate_identity::hooks::{
    AuditSink, Authentication, AuthenticationStep, Authenticator, Authorization, Authorizer, CacheScope,
    ChainMember, Connection, EnhancedAuthenticator, Exchange, FailureKind, HookFailure, HookFuture, Identity,
    Registrar, RegistrationDecision,
};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::breaker::Breaker;
use crate::calls::{Answered, Authenticate, Authorize, HookCall, Ready, RecordEvents, Register, Remembered};
use crate::decisions::Decisions;
use crate::dialogue::Step;
use crate::hook::Hook;
use crate::instance::{Purpose, Runnable, Running};
use crate::poison::{Party, PoisonList, Poisoned, Subject};
use crate::pool::{IDLE, Pool};
use crate::probation::{Ended, Judged, Share, Watch};
use crate::scheduling;
use crate::settings::Isolation;
use crate::tap::{Ear, Listener, Metered, Tapped};

pub(crate) struct LivePlugin {
    pub(crate) name: Arc<str>,
    pub(crate) digest: Arc<str>,
    pub(crate) runnable: Arc<Runnable>,
    pub(crate) hooks: Vec<Hook>,
    /// The Authentication Methods it serves.
    pub(crate) methods: Vec<String>,
    runtime: Handle,
    /// Calls of this plugin at once.
    places: Arc<Semaphore>,
    /// Instances of all plugins at once.
    instances: Arc<Semaphore>,
    /// Instances that wait for their next call. `None`: each call has one of its own.
    pool: Option<Arc<StdMutex<Pool<Running>>>>,
    /// The one instance that sees all audit events.
    auditor: Arc<Mutex<Option<Running>>>,
    /// Who has to wait after breaking a call. Ends with this version of the plugin.
    poisoned: StdMutex<PoisonList>,
    /// `None`: every answer is asked for.
    decisions: Option<StdMutex<Decisions>>,
    /// In the order of `hooks`.
    breakers: Vec<StdMutex<Breaker>>,
    /// While it is new: whether it does worse than the version before.
    watched: OnceLock<Watched>,
    /// What the version that follows is compared with.
    judged: StdMutex<Judged>,
    /// Whoever wants to know of its calls.
    listener: ArcSwapOption<Box<dyn Listener>>,
}

/// A version on probation, and whom to tell when it fails.
pub(crate) struct Watched {
    pub(crate) number: u32,
    /// What the version before was like.
    pub(crate) before: Share,
    pub(crate) watch: StdMutex<Watch>,
    pub(crate) alarms: mpsc::Sender<Alarm>,
}

/// A version that is to be taken back.
#[derive(Debug)]
pub(crate) struct Alarm {
    pub(crate) plugin: Arc<str>,
    pub(crate) number: u32,
    pub(crate) why: String,
}

impl LivePlugin {
    pub(crate) fn new(
        runnable: Arc<Runnable>,
        hooks: Vec<Hook>,
        methods: Vec<String>,
        runtime: Handle,
        instances: Arc<Semaphore>,
        isolation: Isolation,
    ) -> Self {
        let concurrency = match isolation {
            Isolation::Single => 1,
            Isolation::Auto | Isolation::PerCall | Isolation::Pooled => runnable.limits.concurrency,
        };
        let places = Arc::new(Semaphore::new(concurrency));
        let pool = match isolation {
            Isolation::Auto | Isolation::PerCall => None,
            Isolation::Pooled | Isolation::Single => Some(Arc::new(StdMutex::new(Pool::new(concurrency)))),
        };
        if let Some(pool) = &pool {
            runtime.spawn(tidy_up(Arc::downgrade(pool)));
        }
        let poisoned = StdMutex::new(PoisonList::new(runnable.limits.backoff));
        let decisions = Decisions::new(runnable.limits.longest_cached, runnable.limits.cached_decisions);
        let decisions = (!decisions.is_off()).then(|| StdMutex::new(decisions));
        let now = Instant::now();
        let breakers = hooks.iter().map(|_| StdMutex::new(Breaker::new(&runnable.limits, now))).collect();
        Self {
            name: runnable.context.name().into(),
            digest: runnable.context.digest().into(),
            runnable,
            hooks,
            methods,
            runtime,
            places,
            instances,
            pool,
            auditor: Arc::default(),
            poisoned,
            decisions,
            breakers,
            watched: OnceLock::new(),
            judged: StdMutex::default(),
            listener: ArcSwapOption::empty(),
        }
    }

    /// Tells somebody of every call from now on, or nobody.
    pub(crate) fn set_listener(&self, listener: Option<Box<dyn Listener>>) {
        self.listener.store(listener.map(Arc::new));
    }

    /// Compares it from now on with what was before.
    pub(crate) fn watch(&self, watched: Watched) {
        let _ = self.watched.set(watched);
    }

    /// Nobody can take it back.
    pub(crate) fn unwatch(&self) {
        if let Some(watched) = self.watched.get() {
            locked(&watched.watch).end();
        }
    }

    /// Until when it is compared.
    pub(crate) fn watched_for(&self) -> Option<Duration> {
        self.watched.get().and_then(|watched| locked(&watched.watch).left(Instant::now()))
    }

    /// What its successor is compared with; where that is the same version again, what this one is.
    pub(crate) fn compared_with(&self, successor: u32) -> Share {
        let again = self.watched.get().filter(|watched| watched.number == successor);
        again.map_or_else(|| self.share(), |watched| watched.before)
    }

    /// How many of the clients that it judged it refused.
    fn share(&self) -> Share {
        locked(&self.judged).share()
    }

    pub(crate) fn member(self: &Arc<Self>) -> ChainMember {
        let has = |hook| self.hooks.contains(&hook);
        ChainMember {
            name: Arc::clone(&self.name),
            digest: Some(Arc::clone(&self.digest)),
            authenticator: has(Hook::Authenticator).then(|| Arc::clone(self) as Arc<dyn Authenticator>),
            enhanced_authenticator: has(Hook::EnhancedAuthenticator)
                .then(|| Arc::clone(self) as Arc<dyn EnhancedAuthenticator>),
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

    /// A call, of which those are told who want to know.
    async fn call<C: HookCall>(&self, call: C) -> Result<Answered<C::Answer>, HookFailure> {
        let listener = self.listener.load_full();
        let asked = listener.as_ref().and_then(|_| call.asked());
        let (Some(listener), Some(asked)) = (listener, asked) else { return self.try_call(call, None).await };
        if !listener.wants(C::HOOK, &asked.on) {
            return self.try_call(call, None).await;
        }
        let (ear, at, begun) = (Ear::default(), self.runnable.services.outside.now(), Instant::now());
        let outcome = self.try_call(call, Some(ear.clone())).await;
        let (took, heard) = (begun.elapsed(), ear.heard());
        let told = match &outcome {
            Ok(answered) => C::told(&answered.answer).map(Ok),
            Err(failure) => Some(Err(failure.clone())),
        };
        if let Some(told) = told.filter(|_| heard.reached) {
            listener.take(Tapped { asked, told, at, took, heard });
        }
        outcome
    }

    /// Everything that can go wrong with a call ends here as a [`HookFailure`].
    async fn try_call<C: HookCall>(
        &self,
        call: C,
        ear: Option<Ear>,
    ) -> Result<Answered<C::Answer>, HookFailure> {
        if call.purpose() == Purpose::Explanation {
            return self.rehearse(call, ear).await;
        }
        let begun = Instant::now();
        let outcome = match call.subject() {
            Some(subject) => self.attempt_unless_poisoned(call, subject, ear).await,
            None => self.attempt(call, ear).await,
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
    async fn rehearse<C: HookCall>(
        &self,
        call: C,
        ear: Option<Ear>,
    ) -> Result<Answered<C::Answer>, HookFailure> {
        if let Some(subject) = call.subject() {
            self.check_poisoned(&subject)?;
        }
        if let Some(wait) = self.breaker(C::HOOK).and_then(|breaker| locked(breaker).wait(Instant::now())) {
            return Err(broken(wait));
        }
        self.attempt(call, ear).await
    }

    fn breaker(&self, hook: Hook) -> Option<&StdMutex<Breaker>> {
        self.hooks.iter().position(|own| *own == hook).map(|at| &self.breakers[at])
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
        ear: Option<Ear>,
    ) -> Result<Answered<C::Answer>, HookFailure> {
        self.check_poisoned(&subject)?;
        let breaker = self.breaker(C::HOOK);
        if let Some(Err(wait)) = breaker.map(|breaker| locked(breaker).admit(Instant::now())) {
            return Err(broken(wait));
        }
        let outcome = self.attempt(call, ear).await;
        let now = Instant::now();
        let failure = outcome.as_ref().err().map(|failure| failure.kind);
        // That there is no room is nothing that the plugin does.
        let overload = failure == Some(FailureKind::Overload);
        let failed = failure.is_some() && !overload;
        // Nor has a client that is to go on been judged.
        let goes_on = matches!(&outcome, Ok(answered) if !C::is_final(&answered.answer));
        if let Some(breaker) = breaker {
            let mut breaker = locked(breaker);
            if overload || goes_on {
                breaker.told_nothing(now);
            } else {
                breaker.ended(subject.party().clone(), failed, now);
            }
            self.runnable.metrics.hook(C::HOOK).breaker.set(i64::from(breaker.is_open()));
        }
        let ended = match &outcome {
            Err(_) => Ended::Failed,
            Ok(answered) if C::result(&answered.answer) == "deny" => Ended::Denied,
            Ok(_) => Ended::Otherwise,
        };
        if goes_on {
            return outcome;
        }
        if !overload {
            self.compare(subject.party(), ended, now);
        }
        let mut list = locked(&self.poisoned);
        list.ended(subject, failure, now);
        self.runnable.metrics.poisoned.set(i64::try_from(list.len()).unwrap_or(i64::MAX));
        outcome
    }

    /// Counts an answer, and tells who takes versions back when this one does too badly.
    fn compare(&self, party: &Party, ended: Ended, now: Instant) {
        if ended != Ended::Failed {
            locked(&self.judged).note(party, ended == Ended::Denied);
        }
        let Some(Watched { number, watch, alarms, .. }) = self.watched.get() else { return };
        if let Some(why) = locked(watch).ended(party, ended, now) {
            let alarm = Alarm { plugin: Arc::clone(&self.name), number: *number, why };
            // One is enough; while there is no room another call tells it again.
            let _ = alarms.try_send(alarm);
        }
    }

    async fn attempt<C: HookCall>(
        &self,
        call: C,
        ear: Option<Ear>,
    ) -> Result<Answered<C::Answer>, HookFailure> {
        let limits = self.runnable.limits;
        let queued = Counted::new(&self.runnable.metrics.queued);
        let lane = tokio::time::timeout(limits.queue_wait, self.lane(C::HOOK, call.purpose()))
            .await
            .map_err(|_| HookFailure {
                kind: FailureKind::Overload,
                detail: format!("no free place within {:?}", limits.queue_wait),
            })?;
        drop(queued);
        let runnable = Arc::clone(&self.runnable);
        let metered = ear.clone();
        let work = async move {
            let _inflight = Counted::new(&runnable.metrics.inflight);
            let _ticking = runnable.ticking();
            scheduling::go_first_again();
            match lane {
                Lane::Fresh { instance, place } => {
                    let outcome = call.on_fresh(&runnable, instance, ear).await;
                    drop(place);
                    outcome
                }
                Lane::Pooled { pool, place, ready, instances } => {
                    let outcome = call.on_pooled(&runnable, &pool, ready, &instances, ear).await;
                    drop(place);
                    outcome
                }
                Lane::Kept { slot, instances } => call.on_kept(&runnable, slot, instances).await,
            }
        };
        let mut task = AbortOnDrop(match metered {
            Some(ear) => self.runtime.spawn(Metered::new(work, ear)),
            None => self.runtime.spawn(work),
        });
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

    async fn lane(&self, hook: Hook, purpose: Purpose) -> Lane {
        match hook {
            Hook::Auditor => Lane::Kept {
                slot: Arc::clone(&self.auditor).lock_owned().await,
                instances: Arc::clone(&self.instances),
            },
            Hook::Authenticator | Hook::EnhancedAuthenticator | Hook::Registrar | Hook::Authorizer => {
                // An explanation leaves nothing behind in an instance that others meet.
                if let Some(pool) = self.pool.as_ref().filter(|_| purpose == Purpose::Calls) {
                    let (pool, instances) = (Arc::clone(pool), Arc::clone(&self.instances));
                    let own = place(&self.places).await;
                    let (waiting, stale) = locked(&pool).take(Instant::now());
                    // They have places that this call may need.
                    drop(stale);
                    let ready = match waiting {
                        Some(running) => Ready::Waiting(Box::new(running)),
                        None => Ready::Fresh(place(&instances).await),
                    };
                    return Lane::Pooled { pool, place: own, ready, instances };
                }
                Lane::Fresh { place: place(&self.places).await, instance: place(&self.instances).await }
            }
        }
    }
}

/// Instances go after their time also when nobody calls any more: others may need their places.
async fn tidy_up(pool: Weak<StdMutex<Pool<Running>>>) {
    loop {
        tokio::time::sleep(IDLE).await;
        let Some(pool) = pool.upgrade() else { return };
        let stale = locked(&pool).stale(Instant::now());
        drop(stale);
    }
}

/// What a call gets that the breaker does not let through.
fn broken(wait: Duration) -> HookFailure {
    let detail =
        format!("not called: it fails for too many clients; the next call in {} ms", wait.as_millis());
    HookFailure { kind: FailureKind::Unavailable, detail }
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
    /// One that waits for calls, if there is one; its place among the calls of the plugin is its own.
    Pooled {
        pool: Arc<StdMutex<Pool<Running>>>,
        place: OwnedSemaphorePermit,
        ready: Ready,
        instances: Arc<Semaphore>,
    },
    /// The auditor's instance, which lives on; one call at a time.
    Kept { slot: OwnedMutexGuard<Option<Running>>, instances: Arc<Semaphore> },
}

impl Authenticator for LivePlugin {
    fn authenticate<'a>(&'a self, on: &'a Arc<Connection>) -> HookFuture<'a, Authentication> {
        Box::pin(self.ask(Authenticate { on: Arc::clone(on) }))
    }
}

impl EnhancedAuthenticator for LivePlugin {
    fn methods(&self) -> &[String] {
        &self.methods
    }

    fn step<'a>(
        &'a self,
        on: &'a Arc<Connection>,
        exchange: Exchange<'a>,
    ) -> HookFuture<'a, AuthenticationStep> {
        Box::pin(async move { Ok(self.call(Step::new(on, &exchange)).await?.answer) })
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
