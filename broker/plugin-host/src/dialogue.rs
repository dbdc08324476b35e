//! Enhanced authentication by a plugin: the methods it serves and the steps of an exchange.
//!
//! Each step is a call like any other. What the plugin has to remember between two of them is kept by the caller, who
//! also sees to it that all steps of an exchange go to the version that began it: it holds on to the set of hooks.

use std::sync::Arc;

use mqgate_identity::hooks::{self, AuthenticationStep, Connection, Secret};

use crate::answer::{denial, identity};
use crate::bindings::exports::mqgate::plugin::enhanced_authenticator as abi;
use crate::bindings::mqgate::plugin::types::HookError;
use crate::calls::{HookCall, credentials, exported};
use crate::hook::Hook;
use crate::instance::{CallError, Purpose, Runnable, Running};
use crate::poison::Subject;
use crate::question;
use crate::question::records::Exchange;
use crate::settings::Limits;
use crate::tap::{Asked, Exchanged, Told};

const MOST_METHODS: usize = 8;
const LONGEST_METHOD: usize = 256;
/// What a packet can carry.
const LONGEST_DATA: usize = u16::MAX as usize;
/// Random bytes that every step is given.
const RANDOM: usize = 32;

/// One step.
pub(crate) struct Step {
    on: Arc<Connection>,
    method: String,
    round: u32,
    state: Secret,
    data: Option<Vec<u8>>,
    again: bool,
}

impl Step {
    pub(crate) fn new(on: &Arc<Connection>, exchange: &hooks::Exchange<'_>) -> Self {
        Self {
            on: Arc::clone(on),
            method: exchange.method.to_owned(),
            round: exchange.round,
            state: Secret(exchange.state.to_vec()),
            data: exchange.data.map(<[u8]>::to_vec),
            again: exchange.again,
        }
    }
}

impl HookCall for Step {
    const HOOK: Hook = Hook::EnhancedAuthenticator;
    type Answer = AuthenticationStep;

    async fn run(self, plugin: &Runnable, on: &mut Running) -> Result<AuthenticationStep, CallError> {
        let asked = question::connection(&self.on, credentials(plugin));
        let mut random = vec![0; RANDOM];
        let filled = plugin.services.outside.fill(&mut random);
        filled.map_err(|error| CallError::Hook(HookError::Transient(error.to_string())))?;
        let exchange = Exchange {
            method: &self.method,
            round: self.round,
            state: &self.state.0,
            data: self.data.as_deref(),
            again: self.again,
            random: &random,
        };
        let (answer,) = exported(&plugin.exports.step).call(on, (&asked, &exchange)).await?;
        let answer = answer.map_err(CallError::Hook)?;
        checked(answer, self.round, &plugin.limits).map_err(CallError::Invalid)
    }

    fn asked(&self) -> Option<Asked> {
        let exchange = Exchanged {
            method: self.method.clone(),
            round: self.round,
            state: self.state.clone(),
            data: self.data.clone().map(Secret),
            again: self.again,
        };
        Some(Asked { hook: Self::HOOK, on: Arc::clone(&self.on), who: None, exchange: Some(exchange) })
    }

    fn told(answer: &AuthenticationStep) -> Option<Told> {
        Some(Told::Step(answer.clone()))
    }

    fn subject(&self) -> Option<Subject> {
        Some(Subject::of(&self.on))
    }

    fn purpose(&self) -> Purpose {
        Purpose::of(&self.on)
    }

    fn result(answer: &AuthenticationStep) -> &'static str {
        match answer {
            AuthenticationStep::Continue { .. } => "challenge",
            AuthenticationStep::Accept { .. } => "allow",
            AuthenticationStep::Deny(_) => "deny",
            AuthenticationStep::Abstain => "continue",
        }
    }

    fn is_final(answer: &AuthenticationStep) -> bool {
        !matches!(answer, AuthenticationStep::Continue { .. })
    }
}

/// The methods that a plugin says it serves.
pub(crate) fn methods(named: Vec<String>) -> Result<Vec<String>, String> {
    if !(1..=MOST_METHODS).contains(&named.len()) {
        return Err(format!(
            "it serves {} authentication methods; 1 to {MOST_METHODS} are possible",
            named.len()
        ));
    }
    for (index, method) in named.iter().enumerate() {
        if !(1..=LONGEST_METHOD).contains(&method.len()) || method.chars().any(char::is_control) {
            return Err(format!(
                "authentication method {} is not 1 to {LONGEST_METHOD} bytes without control characters",
                index + 1
            ));
        }
        if named[..index].contains(method) {
            return Err(format!("it names the authentication method {method} twice"));
        }
    }
    Ok(named)
}

fn checked(
    answer: abi::AuthenticationStep,
    round: u32,
    limits: &Limits,
) -> Result<AuthenticationStep, String> {
    Ok(match answer {
        abi::AuthenticationStep::Challenge(challenge) => {
            // Told now, so that no client answers in vain.
            if round.saturating_add(1) >= limits.auth_steps {
                return Err(format!(
                    "it would have the client go on after {} steps, as many as limits.auth_steps allows",
                    limits.auth_steps
                ));
            }
            let state = challenge.state;
            if state.len() > limits.auth_state {
                return Err(format!(
                    "a state of {} bytes; limits.auth_state allows {}",
                    state.len(),
                    limits.auth_state
                ));
            }
            AuthenticationStep::Continue { data: data(challenge.data)?, state: Secret(state) }
        }
        abi::AuthenticationStep::Accept(proved) => {
            AuthenticationStep::Accept { identity: identity(proved.identity)?, data: data(proved.data)? }
        }
        abi::AuthenticationStep::Deny(refusal) => AuthenticationStep::Deny(denial(refusal)?),
    })
}

fn data(data: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, String> {
    match data {
        Some(data) if data.len() > LONGEST_DATA => Err(format!(
            "Authentication Data of {} bytes; a packet carries {LONGEST_DATA} at most",
            data.len()
        )),
        data => Ok(data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_few_and_short_and_named_once() {
        let named = |methods: &[&str]| super::methods(methods.iter().map(|&text| text.to_owned()).collect());
        assert_eq!(named(&["A", "B"]), Ok(vec![String::from("A"), String::from("B")]));
        assert!(named(&["1", "2", "3", "4", "5", "6", "7", "8"]).is_ok());
        assert!(named(&[&"x".repeat(256)]).is_ok());
        for bad in [
            &[][..],
            &["1", "2", "3", "4", "5", "6", "7", "8", "9"],
            &[""],
            &[&"x".repeat(257)],
            &["a\nb"],
            &["A", "A"],
        ] {
            assert!(named(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_challenge_is_bounded() {
        let limits = Limits { auth_state: 3, auth_steps: 2, ..Limits::default() };
        let challenge = |data: usize, state: usize, round| {
            let challenge = abi::Challenge { data: Some(vec![0; data]), state: vec![0; state] };
            checked(abi::AuthenticationStep::Challenge(challenge), round, &limits).map(drop)
        };
        assert_eq!(challenge(65_535, 3, 0), Ok(()));
        assert!(challenge(65_536, 3, 0).is_err_and(|why| why.contains("65536 bytes")));
        assert!(challenge(0, 4, 0).is_err_and(|why| why.contains("limits.auth_state allows 3")));
        assert!(challenge(0, 0, 1).is_err_and(|why| why.contains("after 2 steps")));
        assert!(challenge(0, 0, u32::MAX).is_err());
    }
}
