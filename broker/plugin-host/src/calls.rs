//! What a plugin can be asked, hook by hook: the call itself, what it is counted as, and what an answer may be used
//! for again. Who is called when is [`crate::plugin`]'s.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use mqgate_identity::audit::AuditEvent;
use mqgate_identity::hooks::{
    Authentication, Authorization, CacheHint, CacheScope, Connection, HookFailure, Identity,
    RegistrationDecision,
};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::capability::log::Voice;
use crate::decisions::{Decision, Question};
use crate::hook::Hook;
use crate::hook_exports::Export;
use crate::instance::{CallError, Purpose, Runnable, Running};
use crate::plugin::place;
use crate::poison::Subject;
use crate::pool::Pool;
use crate::question::Credentials;
use crate::settings::Capability;
use crate::tap::{Asked, Ear, Told};
use crate::{answer, question};

/// One question to a plugin.
pub(crate) trait HookCall: Sized + Send + 'static {
    const HOOK: Hook;
    type Answer: Send + 'static;

    fn run(
        self,
        plugin: &Runnable,
        on: &mut Running,
    ) -> impl Future<Output = Result<Self::Answer, CallError>> + Send;

    /// The label `result` for an answer.
    fn result(answer: &Self::Answer) -> &'static str;

    /// Whether an answer is the last word about whom it is about: only that says how well the plugin does.
    fn is_final(_answer: &Self::Answer) -> bool {
        true
    }

    /// Whom the question is about. `None`: about no client.
    fn subject(&self) -> Option<Subject>;

    /// What an instance is started for in order to answer.
    fn purpose(&self) -> Purpose {
        Purpose::Calls
    }

    /// The question, for whoever listens. `None`: nobody may.
    fn asked(&self) -> Option<Asked>;

    /// The answer, likewise.
    fn told(answer: &Self::Answer) -> Option<Told>;

    fn on_fresh(
        self,
        plugin: &Runnable,
        instance: OwnedSemaphorePermit,
        ear: Option<Ear>,
    ) -> impl Future<Output = Result<Answered<Self::Answer>, HookFailure>> + Send {
        async move {
            let mut running = plugin.start(self.purpose(), instance, ear).await?;
            let outcome = self.run(plugin, &mut running).await.map_err(|error| running.name_failure(error));
            running.end_call();
            let answer = outcome?;
            Ok(Answered { answer, consulted: running.store.data().consulted })
        }
    }

    fn on_kept(
        self,
        plugin: &Runnable,
        mut slot: OwnedMutexGuard<Option<Running>>,
        instances: Arc<Semaphore>,
    ) -> impl Future<Output = Result<Answered<Self::Answer>, HookFailure>> + Send {
        async move {
            // Taken out, so that it is gone unless it is put back: after a trap, an answer that does not decode,
            // or when this future is dropped.
            let mut running = match slot.take() {
                Some(running) => running,
                None => plugin.start(Purpose::Calls, place(&instances).await, None).await?,
            };
            running.begin_call(&plugin.limits);
            let outcome = self.run(plugin, &mut running).await;
            let sound = is_sound(&outcome);
            let consulted = running.store.data().consulted;
            let outcome = outcome.map_err(|error| running.name_failure(error));
            if sound && running.may_go_on(&plugin.limits) {
                *slot = Some(running);
            }
            Ok(Answered { answer: outcome?, consulted })
        }
    }

    /// On an instance that has had calls before, or the first of its own.
    fn on_pooled(
        self,
        plugin: &Runnable,
        pool: &Mutex<Pool<Running>>,
        ready: Ready,
        instances: &Semaphore,
        ear: Option<Ear>,
    ) -> impl Future<Output = Result<Answered<Self::Answer>, HookFailure>> + Send {
        async move {
            let mut running = match ready {
                Ready::Waiting(mut running) => {
                    running.listen(ear);
                    *running
                }
                Ready::Fresh(place) => plugin.start(Purpose::Calls, place, ear).await?,
            };
            running.begin_call(&plugin.limits);
            let outcome = self.run(plugin, &mut running).await;
            running.end_call();
            let sound = is_sound(&outcome);
            let consulted = running.store.data().consulted;
            let outcome = outcome.map_err(|error| running.name_failure(error));
            // Others may need its place among all instances more.
            let is_room = instances.available_permits() > plugin.spare;
            if sound && is_room && running.may_go_on(&plugin.limits) {
                let gone = pool.lock().unwrap_or_else(PoisonError::into_inner).put(running, Instant::now());
                drop(gone);
            }
            Ok(Answered { answer: outcome?, consulted })
        }
    }
}

/// What a call on a pool begins with.
pub(crate) enum Ready {
    /// An instance that has waited for it.
    Waiting(Box<Running>),
    /// The place for one of its own.
    Fresh(OwnedSemaphorePermit),
}

/// After a trap, or an answer that does not decode, nothing is known of an instance.
fn is_sound<T>(outcome: &Result<T, CallError>) -> bool {
    matches!(outcome, Ok(_) | Err(CallError::Hook(_)))
}

/// A call whose answer the plugin may let us give again.
pub(crate) trait Remembered: HookCall {
    /// What was asked, as far as an answer of this scope depends on it.
    fn question(&self, scope: CacheScope) -> Option<Question>;
    fn hint(answer: &Self::Answer) -> Option<CacheHint>;
    fn decision(answer: &Self::Answer) -> Decision;
    fn recall(decision: Decision) -> Option<Self::Answer>;
}

/// The outcome of a call.
pub(crate) struct Answered<T> {
    pub(crate) answer: T,
    /// The plugin asked the broker for something that changes.
    pub(crate) consulted: bool,
}

pub(crate) struct Authenticate {
    pub(crate) on: Arc<Connection>,
}

pub(crate) struct Register {
    pub(crate) on: Arc<Connection>,
    pub(crate) claimed: Option<Identity>,
}

pub(crate) struct Authorize {
    pub(crate) on: Arc<Connection>,
    pub(crate) who: Identity,
}

pub(crate) struct RecordEvents {
    pub(crate) events: Vec<Arc<AuditEvent>>,
}

/// The function of a hook.
pub(crate) fn exported<F>(export: &Option<Export<F>>) -> &Export<F> {
    export.as_ref().expect("a plugin is only called through the hooks it exports")
}

pub(crate) fn credentials(plugin: &Runnable) -> Credentials {
    if plugin.services.grants.has(Capability::Credentials) { Credentials::Shown } else { Credentials::Hidden }
}

impl HookCall for Authenticate {
    const HOOK: Hook = Hook::Authenticator;
    type Answer = Authentication;

    async fn run(self, plugin: &Runnable, on: &mut Running) -> Result<Authentication, CallError> {
        let asked = question::connection(&self.on, credentials(plugin));
        let (answer,) = exported(&plugin.exports.authenticate).call(on, (&asked,)).await?;
        let answer = answer.map_err(CallError::Hook)?;
        answer::authentication(answer).map_err(CallError::Invalid)
    }

    fn asked(&self) -> Option<Asked> {
        Some(Asked { hook: Self::HOOK, on: Arc::clone(&self.on), who: None, exchange: None })
    }

    fn told(answer: &Self::Answer) -> Option<Told> {
        Some(Told::Authentication(answer.clone()))
    }

    fn subject(&self) -> Option<Subject> {
        Some(Subject::of(&self.on))
    }

    fn purpose(&self) -> Purpose {
        Purpose::of(&self.on)
    }

    fn result(answer: &Authentication) -> &'static str {
        match answer {
            Authentication::Accept { .. } => "allow",
            Authentication::Deny(_) => "deny",
            Authentication::Abstain => "continue",
        }
    }
}

impl Remembered for Authenticate {
    fn question(&self, scope: CacheScope) -> Option<Question> {
        Question::of(scope, &self.on, None)
    }

    fn hint(answer: &Authentication) -> Option<CacheHint> {
        match answer {
            Authentication::Accept { cache, .. } => *cache,
            Authentication::Deny(denial) => denial.cache,
            Authentication::Abstain => None,
        }
    }

    fn decision(answer: &Authentication) -> Decision {
        Decision::Authentication(answer.clone())
    }

    fn recall(decision: Decision) -> Option<Authentication> {
        match decision {
            Decision::Authentication(answer) => Some(answer),
            Decision::Authorization(_) => None,
        }
    }
}

impl HookCall for Register {
    const HOOK: Hook = Hook::Registrar;
    type Answer = RegistrationDecision;

    async fn run(self, plugin: &Runnable, on: &mut Running) -> Result<RegistrationDecision, CallError> {
        let asked = question::connection(&self.on, credentials(plugin));
        let claimed = self.claimed.as_ref().map(question::identity);
        let (answer,) = exported(&plugin.exports.register).call(on, (&asked, claimed)).await?;
        let answer = answer.map_err(CallError::Hook)?;
        answer::registration_decision(answer).map_err(CallError::Invalid)
    }

    fn asked(&self) -> Option<Asked> {
        Some(Asked { hook: Self::HOOK, on: Arc::clone(&self.on), who: self.claimed.clone(), exchange: None })
    }

    fn told(answer: &Self::Answer) -> Option<Told> {
        Some(Told::Registration(answer.clone()))
    }

    fn subject(&self) -> Option<Subject> {
        Some(Subject::of(&self.on))
    }

    fn purpose(&self) -> Purpose {
        Purpose::of(&self.on)
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
        let asked = question::connection(&self.on, credentials(plugin));
        let who = question::identity(&self.who);
        let (answer,) = exported(&plugin.exports.authorize).call(on, (&asked, &who)).await?;
        let answer = answer.map_err(CallError::Hook)?;
        answer::authorization(answer).map_err(CallError::Invalid)
    }

    fn asked(&self) -> Option<Asked> {
        Some(Asked {
            hook: Self::HOOK,
            on: Arc::clone(&self.on),
            who: Some(self.who.clone()),
            exchange: None,
        })
    }

    fn told(answer: &Self::Answer) -> Option<Told> {
        Some(Told::Authorization(answer.clone()))
    }

    fn subject(&self) -> Option<Subject> {
        Some(Subject::of(&self.on))
    }

    fn purpose(&self) -> Purpose {
        Purpose::of(&self.on)
    }

    fn result(answer: &Authorization) -> &'static str {
        match answer {
            Authorization::Allow(_) => "allow",
            Authorization::Deny(_) => "deny",
            Authorization::Abstain => "continue",
        }
    }
}

impl Remembered for Authorize {
    fn question(&self, scope: CacheScope) -> Option<Question> {
        Question::of(scope, &self.on, Some(&self.who))
    }

    fn hint(answer: &Authorization) -> Option<CacheHint> {
        match answer {
            Authorization::Allow(grant) => grant.cache,
            Authorization::Deny(denial) => denial.cache,
            Authorization::Abstain => None,
        }
    }

    fn decision(answer: &Authorization) -> Decision {
        Decision::Authorization(answer.clone())
    }

    fn recall(decision: Decision) -> Option<Authorization> {
        match decision {
            Decision::Authorization(answer) => Some(answer),
            Decision::Authentication(_) => None,
        }
    }
}

impl HookCall for RecordEvents {
    const HOOK: Hook = Hook::Auditor;
    type Answer = u64;

    async fn run(self, plugin: &Runnable, on: &mut Running) -> Result<u64, CallError> {
        let mut digits = vec![[0; 64]; self.events.len()];
        let with_digits = self.events.iter().zip(&mut digits);
        let events: Vec<_> =
            with_digits.map(|(event, digits)| question::audit_event(event, digits)).collect();
        // Only here: what `init` says is no audit event. The instance is kept for the next call of this hook.
        on.store.data_mut().voice = Voice::auditor();
        let (safe,) = exported(&plugin.exports.record_events).call(on, (&events[..],)).await?;
        let safe = safe.map_err(CallError::Hook)?;
        let last = self.events.iter().map(|event| event.sequence).max().unwrap_or(0);
        if safe > last {
            return Err(CallError::Invalid(format!(
                "it says that event {safe} is safe; the last one was {last}"
            )));
        }
        Ok(safe)
    }

    fn asked(&self) -> Option<Asked> {
        None
    }

    fn told(_answer: &u64) -> Option<Told> {
        None
    }

    fn subject(&self) -> Option<Subject> {
        None
    }

    fn result(_answer: &u64) -> &'static str {
        "allow"
    }
}
