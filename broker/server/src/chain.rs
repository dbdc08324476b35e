//! Walks the chains of one hook set: the first answer that is not an abstention counts, or what all come to together; a
//! failure is a no.
//!
//! Knows the hooks only; what an answer means for a connection is the gate's.

mod together;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mqgate_identity::audit::PluginVerdict;
use mqgate_identity::hooks::{
    Authentication, AuthenticationStep, Authorization, ChainMember, Connection, Denial, Exchange,
    FailureKind, HookFailure, HookSet, Identity, RegistrationDecision, Secret,
};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::check_device_id;

pub use self::together::{GrantedAcl, Granting, Terms};
use crate::gate::Dialogue;

/// How the members of a chain come to a decision. All abstaining, there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChainMode {
    /// The first that does not abstain decides.
    #[default]
    First,
    /// All are asked: one no is a no, and of what they allow holds what every one allows that does not abstain.
    All,
}

/// The mode of each hook. Enhanced authentication has none: a method is served by one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChainModes {
    pub authenticator: ChainMode,
    pub registrar: ChainMode,
    pub authorizer: ChainMode,
}

/// A hook has its own, shorter deadline; this one is for hooks whose deadline does not work.
const BACKSTOP: Duration = Duration::from_secs(15);
/// Steps of one enhanced authentication; more is a loop.
const MOST_ROUNDS: u32 = 16;
/// Longest tag, in bytes.
const LONGEST_TAG: usize = 256;
const MOST_TAGS: usize = 64;

/// How clients of one listener are judged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListenerChain {
    pub modes: ChainModes,
    /// Members that are not asked about them.
    pub without: Option<Arc<BTreeSet<Box<str>>>>,
}

/// One walk through the chains for one connection, and who said what.
pub(crate) struct Walk<'a> {
    hooks: &'a HookSet,
    chain: ListenerChain,
    on: &'a Arc<Connection>,
    pub(crate) verdicts: Vec<PluginVerdict>,
}

/// Why a chain ended without a yes.
#[derive(Debug)]
pub(crate) enum Stop {
    Denied { by: Arc<str>, denial: Box<Denial> },
    Failed { by: Arc<str>, failure: HookFailure },
}

impl<'a> Walk<'a> {
    pub(crate) fn new(hooks: &'a HookSet, chain: ListenerChain, on: &'a Arc<Connection>) -> Self {
        Self { hooks, chain, on, verdicts: Vec::new() }
    }

    /// Those that are asked about clients of this listener, in their order.
    fn members(&self) -> impl Iterator<Item = &'a Arc<ChainMember>> + use<'a> {
        let without = self.chain.without.clone();
        self.hooks
            .members
            .iter()
            .filter(move |member| without.as_ref().is_none_or(|without| !without.contains(&*member.name)))
    }

    /// Whether anybody could register an unknown certificate.
    pub(crate) fn has_registrar(&self) -> bool {
        self.members().any(|member| member.registrar.is_some())
    }

    /// `None`: all abstained.
    pub(crate) async fn authenticate(&mut self) -> Result<Option<Identity>, Stop> {
        let mut agreed = None;
        for member in self.members() {
            let Some(hook) = &member.authenticator else { continue };
            let (answer, took) = timed(hook.authenticate(self.on)).await;
            let answer = answer.and_then(|answer| match answer {
                Authentication::Accept { identity, .. } => {
                    check_identity(&identity).map(|()| Some(Ok(identity)))
                }
                Authentication::Deny(denial) => Ok(Some(Err(denial))),
                Authentication::Abstain => Ok(None),
            });
            let Some(identity) = self.note(member, "authenticator", "accept", answer, took)? else {
                continue;
            };
            match self.chain.modes.authenticator {
                ChainMode::First => return Ok(Some(identity)),
                ChainMode::All => agreed = Some(together::identity(agreed, &member.name, identity)?),
            }
        }
        Ok(agreed)
    }

    /// Enhanced authentication: `None` if nobody speaks the method, or all who do abstained.
    pub(crate) async fn prove(
        &mut self,
        dialogue: &mut Dialogue,
        again: bool,
    ) -> Result<Option<(Identity, Option<Vec<u8>>)>, Stop> {
        let method = self.on.connect.authentication_method.as_deref().unwrap_or_default();
        let first = dialogue.first();
        for member in self.members() {
            let Some(hook) = &member.enhanced_authenticator else { continue };
            if !hook.methods().iter().any(|spoken| spoken == method) {
                continue;
            }
            let (mut data, mut state) = (first.clone(), Secret(Vec::new()));
            let (mut spent, mut abstained) = (Duration::ZERO, false);
            for round in 0..MOST_ROUNDS {
                let exchange = Exchange { method, round, state: &state.0, data: data.as_deref(), again };
                let (answer, took) = timed(hook.step(self.on, exchange)).await;
                spent += took;
                let answer = match answer {
                    Ok(AuthenticationStep::Continue { data: challenge, state: next }) => {
                        state = next;
                        match dialogue.ask(challenge).await {
                            Some(proof) => data = proof,
                            // The client has gone: nobody hears the answer.
                            None => return self.stopped(member, FailureKind::Unavailable, "the client went"),
                        }
                        continue;
                    }
                    Ok(AuthenticationStep::Accept { identity, data }) => {
                        check_identity(&identity).map(|()| Some(Ok((identity, data))))
                    }
                    Ok(AuthenticationStep::Deny(denial)) => Ok(Some(Err(denial))),
                    Ok(AuthenticationStep::Abstain) if round == 0 => Ok(None),
                    Ok(AuthenticationStep::Abstain) => Err(HookFailure {
                        kind: FailureKind::Invalid,
                        detail: "it abstained after it had begun".into(),
                    }),
                    Err(failure) => Err(failure),
                };
                match self.note(member, "enhanced-authenticator", "accept", answer, spent)? {
                    Some(proved) => return Ok(Some(proved)),
                    None => {
                        abstained = true;
                        break;
                    }
                }
            }
            if !abstained {
                return self.stopped(member, FailureKind::Invalid, "it never comes to an end");
            }
        }
        Ok(None)
    }

    /// A member's exchange came to nothing.
    fn stopped<T>(&mut self, member: &ChainMember, kind: FailureKind, why: &str) -> Result<Option<T>, Stop> {
        let failure = HookFailure { kind, detail: why.to_owned() };
        self.note(member, "enhanced-authenticator", "accept", Err(failure), Duration::ZERO)
    }

    /// `None`: all abstained, or there is no registrar. With `only`, no other member is asked. The name is that of the
    /// member that decided, or the names of all.
    pub(crate) async fn register(
        &mut self,
        claimed: Option<&Identity>,
        only: Option<&str>,
    ) -> Result<Option<(Arc<str>, RegistrationDecision)>, Stop> {
        let mode = if only.is_some() { ChainMode::First } else { self.chain.modes.registrar };
        let mut agreed: Option<(Arc<str>, RegistrationDecision)> = None;
        for member in self.members() {
            let Some(hook) = &member.registrar else { continue };
            if only.is_some_and(|only| only != &*member.name) {
                continue;
            }
            let (answer, took) = timed(hook.register(self.on, claimed)).await;
            let mut word = "register";
            let answer = answer.and_then(|answer| match answer {
                RegistrationDecision::Register(registration) => {
                    check_identity(&registration.identity)?;
                    Ok(Some(Ok(RegistrationDecision::Register(registration))))
                }
                RegistrationDecision::Hold(registration) => {
                    check_identity(&registration.identity)?;
                    word = "hold";
                    Ok(Some(Ok(RegistrationDecision::Hold(registration))))
                }
                RegistrationDecision::Deny(denial) => Ok(Some(Err(denial))),
                RegistrationDecision::Abstain => Ok(None),
            });
            let Some(decision) = self.note(member, "registrar", word, answer, took)? else { continue };
            match mode {
                ChainMode::First => return Ok(Some((Arc::clone(&member.name), decision))),
                ChainMode::All => {
                    let (by, so_far) = agreed.take().unzip();
                    let by = by.map_or_else(
                        || Arc::clone(&member.name),
                        |by| format!("{by}, {}", member.name).into(),
                    );
                    agreed = Some((by, together::registration(so_far, &member.name, decision)?));
                }
            }
        }
        Ok(agreed)
    }

    /// `None`: all abstained.
    pub(crate) async fn authorize(&mut self, who: &Identity) -> Result<Option<Granting>, Stop> {
        let mut granted = None;
        for member in self.members() {
            let Some(hook) = &member.authorizer else { continue };
            let (answer, took) = timed(hook.authorize(self.on, who)).await;
            let answer = answer.map(|answer| match answer {
                Authorization::Allow(grant) => Some(Ok(grant)),
                Authorization::Deny(denial) => Some(Err(denial)),
                Authorization::Abstain => None,
            });
            let Some(grant) = self.note(member, "authorizer", "allow", answer, took)? else { continue };
            match self.chain.modes.authorizer {
                ChainMode::First => return Ok(Some(Granting::by(&member.name, grant))),
                ChainMode::All => granted = Some(together::grant(granted, &member.name, grant)?),
            }
        }
        Ok(granted)
    }

    /// Writes down what a member said, and turns a no into an error.
    fn note<T>(
        &mut self,
        member: &ChainMember,
        hook: &'static str,
        yes: &'static str,
        answer: Result<Option<Result<T, Denial>>, HookFailure>,
        took: Duration,
    ) -> Result<Option<T>, Stop> {
        let result = match &answer {
            Ok(Some(Ok(_))) => yes,
            Ok(Some(Err(_))) => "deny",
            Ok(None) => "abstain",
            Err(failure) => failure.kind.as_str(),
        };
        self.verdicts.push(PluginVerdict {
            name: Arc::clone(&member.name),
            digest: member.digest.clone(),
            hook,
            result,
            microseconds: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        });
        let by = || Arc::clone(&member.name);
        match answer {
            Ok(Some(Ok(value))) => Ok(Some(value)),
            Ok(None) => Ok(None),
            Ok(Some(Err(denial))) => Err(Stop::Denied { by: by(), denial: Box::new(denial) }),
            Err(failure) => Err(Stop::Failed { by: by(), failure }),
        }
    }
}

async fn timed<T>(call: impl Future<Output = Result<T, HookFailure>>) -> (Result<T, HookFailure>, Duration) {
    let started = Instant::now();
    let answer = tokio::time::timeout(BACKSTOP, call).await.unwrap_or_else(|_| {
        Err(HookFailure { kind: FailureKind::Deadline, detail: format!("no answer within {BACKSTOP:?}") })
    });
    (answer, started.elapsed())
}

/// An identity ends up in topics, logs and the registry: it must be harmless in all of them.
fn check_identity(identity: &Identity) -> Result<(), HookFailure> {
    let wrong = |what: &str| {
        Err(HookFailure { kind: FailureKind::Invalid, detail: format!("the identity's {what} is not valid") })
    };
    if check_device_id(&identity.device_id).is_err() {
        return wrong("device id");
    }
    if identity.tenant.as_deref().is_some_and(|tenant| check_device_id(tenant).is_err()) {
        return wrong("tenant");
    }
    if identity.tags.len() > MOST_TAGS
        || identity.tags.iter().any(|tag| tag.is_empty() || tag.len() > LONGEST_TAG)
    {
        return wrong("tags");
    }
    Ok(())
}

/// The reason a failed hook leaves behind.
pub(crate) const fn failure_reason(kind: FailureKind) -> Reason {
    match kind {
        FailureKind::Deadline => Reason::PluginTimeout,
        FailureKind::Overload => Reason::PluginSaturated,
        FailureKind::Invalid => Reason::PluginInvalid,
        FailureKind::Trap | FailureKind::Memory | FailureKind::Capability | FailureKind::Unavailable => {
            Reason::PluginUnavailable
        }
    }
}
