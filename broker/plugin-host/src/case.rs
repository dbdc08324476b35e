//! A case: one call of a hook and its answer, as JSON. Written by hand it says what is expected, recorded it says what
//! was answered. docs/plugins/cases.md is for those who write them.
//!
//! Read once and checked as a whole: what has become a [`Case`] can be asked. Who asks it is [`crate::offline`].

mod answer;
mod connection;
mod expect;
mod file;
mod host;
mod recorded;
mod schema;
mod settings;
mod value;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use mqgate_identity::hooks::{Connection, Identity};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::answer::{Answer, Rule, Verdict};
use self::connection::{ConnectionPart, ExchangePart, IdentityPart};
pub use self::expect::{Difference, Expectation};
pub use self::file::{CaseError, Lines, read, read_all};
pub(crate) use self::host::{Entry, HostPart, HttpAnswer, HttpFailure, RandomPart, StatusPart};
pub use self::recorded::Recording;
pub(crate) use self::recorded::{captured, headline};
pub use self::schema::schema;
use self::schema::{Expected, Short};
pub use self::settings::{LimitsOfCase, PluginPart};
pub(crate) use self::value::Bytes;
use self::value::maybe_short;
use crate::hook::Hook;
use crate::settings::Capability;
use crate::tap::{Asked, Exchanged};

/// A case that can be asked.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    pub plugin: PluginPart,
    pub(crate) asked: Asked,
    pub(crate) host: HostPart,
    /// What the answer is to be like. `None`: nobody says.
    pub expected: Option<Expectation>,
    /// Of a recording: where it is from, and what was answered.
    pub recorded: Option<(Recording, Answer)>,
    /// Fields of the question that the recording left out.
    redacted: Vec<&'static str>,
}

/// A case as it is written.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Case")]
pub(crate) struct Written {
    /// Unique among the cases of a folder.
    name: String,
    hook: HookWord,
    #[serde(default, skip_serializing_if = "PluginPart::is_empty")]
    plugin: PluginPart,
    #[serde(default)]
    connection: ConnectionPart,
    #[serde(default, deserialize_with = "maybe_short", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Short<IdentityPart>>")]
    identity: Option<IdentityPart>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exchange: Option<ExchangePart>,
    #[serde(default)]
    host: HostPart,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Expected>")]
    expect: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<Answer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recorded: Option<Recording>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum HookWord {
    Authenticator,
    EnhancedAuthenticator,
    Registrar,
    Authorizer,
}

impl From<HookWord> for Hook {
    fn from(word: HookWord) -> Self {
        match word {
            HookWord::Authenticator => Self::Authenticator,
            HookWord::EnhancedAuthenticator => Self::EnhancedAuthenticator,
            HookWord::Registrar => Self::Registrar,
            HookWord::Authorizer => Self::Authorizer,
        }
    }
}

impl HookWord {
    /// `None`: what auditors are told is no case.
    fn of(hook: Hook) -> Option<Self> {
        match hook {
            Hook::Authenticator => Some(Self::Authenticator),
            Hook::EnhancedAuthenticator => Some(Self::EnhancedAuthenticator),
            Hook::Registrar => Some(Self::Registrar),
            Hook::Authorizer => Some(Self::Authorizer),
            Hook::Auditor => None,
        }
    }
}

impl Written {
    /// Files that it names are looked for in `folder`.
    pub(crate) fn check(self, folder: &Path) -> Result<Case, String> {
        let Self { name, hook, plugin, connection, identity, exchange, host, expect, answer, recorded } =
            self;
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(String::from("name: a case has one, of one line"));
        }
        plugin.check()?;
        host.check()?;
        match (hook, &identity, &exchange) {
            (HookWord::Authorizer, None, _) => {
                return Err(String::from(
                    "identity: an authorizer is asked about somebody; write \"identity\": \"DEVICE-ID\"",
                ));
            }
            (HookWord::Authenticator | HookWord::EnhancedAuthenticator, Some(_), _) => {
                return Err(String::from("identity: an authenticator is not told one; leave it out"));
            }
            (HookWord::EnhancedAuthenticator, _, None) => {
                return Err(String::from(
                    "exchange: this hook is asked step by step; write \"exchange\": { \"method\": … }",
                ));
            }
            (HookWord::Authenticator | HookWord::Registrar | HookWord::Authorizer, _, Some(_)) => {
                return Err(String::from(
                    "exchange: only the hook enhanced-authenticator has one; leave it out",
                ));
            }
            _ => {}
        }
        let recorded = match (recorded, answer) {
            (Some(recorded), Some(answer)) => Some((recorded, answer)),
            (None, None) => None,
            _ => {
                return Err(String::from(
                    "answer, recorded: a recording has both; what you expect is written as \"expect\"",
                ));
            }
        };
        let mut redacted = Vec::new();
        if connection.connect.password.as_ref().is_some_and(Bytes::is_redacted) {
            redacted.push(PASSWORD);
        }
        if let Some(exchange) = &exchange {
            let secrets = [Some(&exchange.state), exchange.data.as_ref()];
            if secrets.into_iter().flatten().any(Bytes::is_redacted) {
                redacted.push(EXCHANGE);
            }
        }
        let on = connection.native(folder, host.clock.0)?;
        Ok(Case {
            name,
            plugin,
            asked: Asked {
                hook: hook.into(),
                on: Arc::new(on),
                who: identity.map(|who| who.native()),
                exchange: exchange.map(ExchangePart::native),
            },
            host,
            expected: expect.map(Expectation::parse).transpose()?,
            recorded,
            redacted,
        })
    }
}

const PASSWORD: &str = "connection.connect.password";
const EXCHANGE: &str = "exchange";

impl Case {
    /// The WIT interface that is asked.
    pub fn hook(&self) -> &'static str {
        self.asked.hook.as_str()
    }

    pub fn connection(&self) -> &Connection {
        &self.asked.on
    }

    pub fn identity(&self) -> Option<&Identity> {
        self.asked.who.as_ref()
    }

    /// What a plugin with these grants would be shown and the recording left out.
    pub(crate) fn hidden(&self, granted: &BTreeSet<Capability>) -> Vec<&'static str> {
        let sees = |field: &str| field != PASSWORD || granted.contains(&Capability::Credentials);
        self.redacted.iter().copied().filter(|field| sees(field)).collect()
    }

    /// In which an answer is not what is expected, or what was recorded.
    pub fn differences(&self, answer: &Answer) -> Vec<Difference> {
        match (&self.expected, &self.recorded) {
            (Some(expected), _) => expected.differences(answer),
            (None, Some((_, before))) => Expectation::exactly(before).differences(answer),
            (None, None) => Vec::new(),
        }
    }
}

impl ExchangePart {
    fn native(self) -> Exchanged {
        let secret =
            |bytes: Bytes| mqgate_identity::hooks::Secret(bytes.known().unwrap_or_default().to_vec());
        Exchanged {
            method: self.method,
            round: self.round,
            state: secret(self.state),
            data: self.data.map(secret),
            again: self.again,
        }
    }

    /// Without what is secret.
    fn of(exchange: &Exchanged) -> Self {
        let redacted = |is_empty: bool| if is_empty { Bytes::Are(Vec::new()) } else { Bytes::Redacted };
        Self {
            method: exchange.method.clone(),
            round: exchange.round,
            state: redacted(exchange.state.0.is_empty()),
            data: exchange.data.as_ref().map(|data| redacted(data.0.is_empty())),
            again: exchange.again,
        }
    }
}

#[cfg(test)]
mod tests;
