//! A version that is asked what the live one is asked, and decides nothing: its answers are compared, counted and
//! sampled, until it is promoted or dropped.
//!
//! It is asked after the live one has answered, beside the connection that waits for the answer, and what it writes is
//! not kept.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mqgate_identity::hooks::{
    Authentication, Authenticator, Authorization, Authorizer, ChainMember, Connection, HookFailure,
    HookFuture, Identity, Occasion, Registrar, RegistrationDecision,
};
use mqgate_identity::time::UnixMillis;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::capability::now;
use crate::hook::Hook;
use crate::instance::shorten;
use crate::metrics::ShadowMetrics;
use crate::plugin::LivePlugin;

/// Comparisons at once; one for which there is no room is skipped and counted.
const AT_ONCE: usize = 64;
/// Differences that are shown; the newest.
const SAMPLES: usize = 32;
const LONGEST_TEXT: usize = 256;

/// How two answers differ, from the live one to the shadow's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// It refuses whom the live version does not.
    Denies,
    /// It lets in, or registers, whom the live version does not.
    Allows,
    /// It has no opinion where the live version has one.
    Abstains,
    /// It gave no answer where the live version gave one.
    Fails,
    /// The same verdict with another identity, grant or reason.
    Other,
}

/// One difference.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub at: UnixMillis,
    pub hook: &'static str,
    pub difference: Difference,
    pub client_id: String,
    pub peer: String,
    /// Of the client's certificate, 64 hex digits.
    pub fingerprint: Option<String>,
    pub live: String,
    pub shadow: String,
}

/// What was found so far.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// `sha256:…` of the shadow.
    pub digest: String,
    pub version: Option<String>,
    pub since: Option<UnixMillis>,
    pub by: String,
    pub same: u64,
    pub different: u64,
    /// There was no room to ask it.
    pub skipped: u64,
    /// By [`Difference::ALL`].
    pub by_difference: [u64; Difference::ALL.len()],
    /// The newest last.
    pub samples: VecDeque<Sample>,
}

pub(crate) struct Shadow {
    plugin: Arc<LivePlugin>,
    runtime: Handle,
    places: Arc<Semaphore>,
    metrics: ShadowMetrics,
    report: Mutex<Report>,
}

/// The live version with its shadow.
struct Shadowed {
    live: Arc<LivePlugin>,
    shadow: Arc<Shadow>,
}

/// An answer, as far as it matters here.
struct Told {
    verdict: Verdict,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Allow,
    Deny,
    Abstain,
    Failed,
}

impl Difference {
    pub const ALL: [Self; 5] = [Self::Denies, Self::Allows, Self::Abstains, Self::Fails, Self::Other];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Denies => "new_deny",
            Self::Allows => "new_allow",
            Self::Abstains => "new_abstention",
            Self::Fails => "new_failure",
            Self::Other => "other",
        }
    }

    /// `None`: the answers are the same.
    fn between(live: Verdict, shadow: Verdict, is_equal: bool) -> Option<Self> {
        match (live, shadow) {
            (Verdict::Failed, Verdict::Failed) => None,
            (_, Verdict::Failed) => Some(Self::Fails),
            (live, shadow) if live == shadow => (!is_equal).then_some(Self::Other),
            (_, Verdict::Deny) => Some(Self::Denies),
            (_, Verdict::Allow) => Some(Self::Allows),
            (_, Verdict::Abstain) => Some(Self::Abstains),
        }
    }
}

impl Shadow {
    pub(crate) fn new(
        plugin: Arc<LivePlugin>,
        version: Option<String>,
        by: &str,
        runtime: Handle,
        metrics: ShadowMetrics,
    ) -> Self {
        let report = Report {
            digest: plugin.digest.to_string(),
            version,
            since: Some(now()),
            by: by.to_owned(),
            ..Report::default()
        };
        Self {
            plugin,
            runtime,
            places: Arc::new(Semaphore::new(AT_ONCE)),
            metrics,
            report: Mutex::new(report),
        }
    }

    pub(crate) fn report(&self) -> Report {
        self.locked().clone()
    }

    /// Asks the shadow, where nobody waits for it.
    fn ask<T: Clone + PartialEq + Send + 'static>(
        self: &Arc<Self>,
        hook: Hook,
        on: &Arc<Connection>,
        live: &Result<T, HookFailure>,
        tell: fn(&Result<T, HookFailure>) -> Told,
        question: impl AsyncQuestion<T>,
    ) {
        // What an operator only wants to know is no question of a client's.
        if on.occasion == Occasion::Explanation {
            return;
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.metrics.skipped.inc();
            self.locked().skipped += 1;
            return;
        };
        let (this, on, live) = (Arc::clone(self), Arc::clone(on), live.clone());
        self.runtime.spawn(async move {
            let shadow = question.put(&this.plugin).await;
            let (before, after) = (tell(&live), tell(&shadow));
            let difference = Difference::between(before.verdict, after.verdict, live == shadow);
            this.compared(hook, &on, difference, before, after);
            drop(place);
        });
    }

    fn compared(
        &self,
        hook: Hook,
        on: &Connection,
        difference: Option<Difference>,
        live: Told,
        shadow: Told,
    ) {
        let mut report = self.locked();
        let Some(difference) = difference else {
            self.metrics.same.inc();
            report.same += 1;
            return;
        };
        self.metrics.different(hook, difference);
        report.different += 1;
        report.by_difference[difference as usize] += 1;
        if report.samples.len() >= SAMPLES {
            report.samples.pop_front();
        }
        let fingerprint = on.certificate.as_ref();
        report.samples.push_back(Sample {
            at: now(),
            hook: hook.as_str(),
            difference,
            client_id: shorten(on.connect.client_id.clone(), LONGEST_TEXT),
            peer: on.peer.address.to_string(),
            fingerprint: fingerprint.map(|certificate| certificate.leaf.certificate_fingerprint.to_hex()),
            live: shorten(live.text, LONGEST_TEXT),
            shadow: shorten(shadow.text, LONGEST_TEXT),
        });
    }

    fn locked(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question that owns what it is about.
trait AsyncQuestion<T>: Send + 'static {
    fn put(self, to: &Arc<LivePlugin>) -> impl Future<Output = Result<T, HookFailure>> + Send;
}

struct Authenticate(Arc<Connection>);
struct Register(Arc<Connection>, Option<Identity>);
struct Authorize(Arc<Connection>, Identity);

impl AsyncQuestion<Authentication> for Authenticate {
    async fn put(self, to: &Arc<LivePlugin>) -> Result<Authentication, HookFailure> {
        to.authenticate(&self.0).await
    }
}

impl AsyncQuestion<RegistrationDecision> for Register {
    async fn put(self, to: &Arc<LivePlugin>) -> Result<RegistrationDecision, HookFailure> {
        to.register(&self.0, self.1.as_ref()).await
    }
}

impl AsyncQuestion<Authorization> for Authorize {
    async fn put(self, to: &Arc<LivePlugin>) -> Result<Authorization, HookFailure> {
        to.authorize(&self.0, &self.1).await
    }
}

/// The live version's member, whose answers are compared. Hooks that only the shadow has are not asked.
pub(crate) fn member(live: &Arc<LivePlugin>, shadow: &Arc<Shadow>) -> ChainMember {
    let both = Arc::new(Shadowed { live: Arc::clone(live), shadow: Arc::clone(shadow) });
    let mut member = live.member();
    let has = |hook| shadow.plugin.hooks.contains(&hook);
    if member.authenticator.is_some() && has(Hook::Authenticator) {
        member.authenticator = Some(Arc::clone(&both) as Arc<dyn Authenticator>);
    }
    if member.registrar.is_some() && has(Hook::Registrar) {
        member.registrar = Some(Arc::clone(&both) as Arc<dyn Registrar>);
    }
    if member.authorizer.is_some() && has(Hook::Authorizer) {
        member.authorizer = Some(both as Arc<dyn Authorizer>);
    }
    member
}

impl Authenticator for Shadowed {
    fn authenticate<'a>(&'a self, on: &'a Arc<Connection>) -> HookFuture<'a, Authentication> {
        Box::pin(async move {
            let answer = self.live.authenticate(on).await;
            let question = Authenticate(Arc::clone(on));
            self.shadow.ask(Hook::Authenticator, on, &answer, authentication, question);
            answer
        })
    }
}

impl Registrar for Shadowed {
    fn register<'a>(
        &'a self,
        on: &'a Arc<Connection>,
        claimed: Option<&'a Identity>,
    ) -> HookFuture<'a, RegistrationDecision> {
        Box::pin(async move {
            let answer = self.live.register(on, claimed).await;
            let question = Register(Arc::clone(on), claimed.cloned());
            self.shadow.ask(Hook::Registrar, on, &answer, registration, question);
            answer
        })
    }
}

impl Authorizer for Shadowed {
    fn authorize<'a>(&'a self, on: &'a Arc<Connection>, who: &'a Identity) -> HookFuture<'a, Authorization> {
        Box::pin(async move {
            let answer = self.live.authorize(on, who).await;
            let question = Authorize(Arc::clone(on), who.clone());
            self.shadow.ask(Hook::Authorizer, on, &answer, authorization, question);
            answer
        })
    }
}

fn told(verdict: Verdict, text: String) -> Told {
    Told { verdict, text }
}

fn denied(detail: Option<&str>) -> Told {
    told(Verdict::Deny, detail.map_or_else(|| String::from("deny"), |detail| format!("deny: {detail}")))
}

fn failed(failure: &HookFailure) -> Told {
    told(Verdict::Failed, format!("{}: {}", failure.kind.as_str(), failure.detail))
}

fn authentication(answer: &Result<Authentication, HookFailure>) -> Told {
    match answer {
        Ok(Authentication::Accept { identity, .. }) => {
            told(Verdict::Allow, format!("accept as {}", identity.device_id))
        }
        Ok(Authentication::Deny(denial)) => denied(denial.audit_detail.as_deref()),
        Ok(Authentication::Abstain) => told(Verdict::Abstain, String::from("abstain")),
        Err(failure) => failed(failure),
    }
}

fn registration(answer: &Result<RegistrationDecision, HookFailure>) -> Told {
    match answer {
        Ok(RegistrationDecision::Register(what)) => {
            told(Verdict::Allow, format!("register as {}", what.identity.device_id))
        }
        // Nobody gets in before an operator says so.
        Ok(RegistrationDecision::Hold(what)) => {
            told(Verdict::Deny, format!("hold as {}", what.identity.device_id))
        }
        Ok(RegistrationDecision::Deny(denial)) => denied(denial.audit_detail.as_deref()),
        Ok(RegistrationDecision::Abstain) => told(Verdict::Abstain, String::from("abstain")),
        Err(failure) => failed(failure),
    }
}

fn authorization(answer: &Result<Authorization, HookFailure>) -> Told {
    match answer {
        Ok(Authorization::Allow(grant)) => told(Verdict::Allow, format!("allow {:?}", grant.acl)),
        Ok(Authorization::Deny(denial)) => denied(denial.audit_detail.as_deref()),
        Ok(Authorization::Abstain) => told(Verdict::Abstain, String::from("abstain")),
        Err(failure) => failed(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_answers_has_its_word() {
        use Verdict::{Abstain, Allow, Deny, Failed};
        for (live, shadow, is_equal, expected) in [
            (Allow, Allow, true, None),
            (Allow, Allow, false, Some(Difference::Other)),
            (Deny, Deny, false, Some(Difference::Other)),
            (Abstain, Abstain, true, None),
            (Allow, Deny, false, Some(Difference::Denies)),
            (Abstain, Deny, false, Some(Difference::Denies)),
            (Failed, Deny, false, Some(Difference::Denies)),
            (Deny, Allow, false, Some(Difference::Allows)),
            (Failed, Allow, false, Some(Difference::Allows)),
            (Allow, Abstain, false, Some(Difference::Abstains)),
            (Allow, Failed, false, Some(Difference::Fails)),
            // Two failures differ in their words at most.
            (Failed, Failed, false, None),
        ] {
            assert_eq!(Difference::between(live, shadow, is_equal), expected);
        }
    }
}
