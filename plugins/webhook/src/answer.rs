//! What the service answered, checked whole: a member that is not known, or a value that the broker would not take, makes it
//! no answer. README.md has the schema.

use mqgate_plugin_sdk::access::{self, LimitsTable, TopicLists};
use mqgate_plugin_sdk::template::{ExpandError, plain};
use mqgate_plugin_sdk::types::{
    Acl, Attribute, Authenticated, Authentication, Authorization, ConnackReason, Denial, Effect, Grant,
    Identity, InitError,
};
use serde::Deserialize;

/// As the broker has them.
const MOST_TAGS: usize = 64;
const LONGEST_TAG: usize = 128;
const LONGEST_TEXT: usize = 4096;

#[derive(Deserialize, Debug)]
#[serde(tag = "decision", rename_all = "kebab-case")]
enum ToAuthenticator {
    Accept(Accepted),
    Deny(Denied),
    Abstain(Abstained),
}

#[derive(Deserialize, Debug)]
#[serde(tag = "decision", rename_all = "kebab-case")]
enum ToAuthorizer {
    Allow(Box<Allowed>),
    Deny(Denied),
    Abstain(Abstained),
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Accepted {
    device_id: String,
    tenant: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    cache: u32,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Allowed {
    #[serde(default)]
    topics: TopicLists,
    #[serde(default)]
    limits: LimitsTable,
    valid_for: Option<u32>,
    #[serde(default)]
    cache: u32,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Denied {
    #[serde(default)]
    reason: Reason,
    /// For the client.
    message: Option<String>,
    /// For the audit record.
    detail: Option<String>,
    #[serde(default)]
    cache: u32,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Abstained {
    #[serde(default)]
    cache: u32,
}

#[derive(Deserialize, Debug, Default, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum Reason {
    #[default]
    NotAuthorized,
    BadUserNameOrPassword,
    ClientIdentifierNotValid,
    Banned,
    QuotaExceeded,
    ServerBusy,
    ServerUnavailable,
    ConnectionRateExceeded,
}

/// A hook's answer, and for how many seconds it may be kept.
pub type Read<T> = Result<(T, u32), String>;

pub fn authentication(body: &[u8]) -> Read<Authentication> {
    match parse(body)? {
        ToAuthenticator::Abstain(Abstained { cache }) => Ok((Authentication::Abstain, cache)),
        ToAuthenticator::Deny(denied) => {
            let cache = denied.cache;
            Ok((Authentication::Deny(denied.check()?), cache))
        }
        ToAuthenticator::Accept(accepted) => {
            plain(&accepted.device_id).map_err(|why| format!("device-id {why}"))?;
            if let Some(tenant) = &accepted.tenant {
                plain(tenant).map_err(|why| format!("tenant {why}"))?;
            }
            let fine =
                |tag: &String| (1..=LONGEST_TAG).contains(&tag.len()) && !tag.chars().any(char::is_control);
            if accepted.tags.len() > MOST_TAGS || !accepted.tags.iter().all(fine) {
                return Err(format!("tags are at most {MOST_TAGS} of 1 to {LONGEST_TAG} bytes"));
            }
            let identity = Identity {
                tenant: accepted.tenant,
                tags: accepted.tags,
                attributes: vec![Attribute::text("auth.method", "webhook")],
                ..Identity::new(accepted.device_id)
            };
            let authenticated = Authenticated { identity, cache: None };
            Ok((Authentication::Accept(authenticated), accepted.cache))
        }
    }
}

pub fn authorization(body: &[u8]) -> Read<Authorization> {
    match parse(body)? {
        ToAuthorizer::Abstain(Abstained { cache }) => Ok((Authorization::Abstain, cache)),
        ToAuthorizer::Deny(denied) => {
            let cache = denied.cache;
            Ok((Authorization::Deny(denied.check()?), cache))
        }
        ToAuthorizer::Allow(allowed) => {
            // Nothing may stand in them but what the broker fills in.
            let lines = allowed.topics.check("/topics", |_| false, |_| Ok(())).map_err(why)?;
            let rules = lines.iter().map(|line| {
                let filter = line.filter.expand(|_| Ok::<_, ExpandError>(None));
                Ok(access::rule(line.effect, line.actions, filter?))
            });
            let rules = rules.collect::<Result<_, ExpandError>>().map_err(|error| error.to_string())?;
            if allowed.valid_for == Some(0) {
                return Err("valid-for is at least 1".into());
            }
            let grant = Grant {
                acl: Acl::Inline(rules),
                otherwise: Effect::Deny,
                limits: allowed.limits.check("/limits").map_err(why)?,
                assigned_client_id: None,
                valid_for: allowed.valid_for,
                cache: None,
                attributes: vec![Attribute::text("auth.method", "webhook")],
            };
            // A grant that is kept must not outlive what the service said.
            let cache = allowed.cache.min(allowed.valid_for.unwrap_or(u32::MAX));
            Ok((Authorization::Allow(grant), cache))
        }
    }
}

fn parse<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

fn why(error: InitError) -> String {
    match error {
        InitError::InvalidConfig(problems) => {
            problems.into_iter().map(|problem| format!("{}: {}", problem.at, problem.message)).collect()
        }
        InitError::Failed(why) => why,
    }
}

impl Denied {
    fn check(self) -> Result<Denial, String> {
        for (what, text) in [("message", &self.message), ("detail", &self.detail)] {
            if text.as_ref().is_some_and(|text| text.len() > LONGEST_TEXT) {
                return Err(format!("{what} is longer than {LONGEST_TEXT} bytes"));
            }
        }
        let reason = match self.reason {
            Reason::NotAuthorized => ConnackReason::NotAuthorized,
            Reason::BadUserNameOrPassword => ConnackReason::BadUserNameOrPassword,
            Reason::ClientIdentifierNotValid => ConnackReason::ClientIdentifierNotValid,
            Reason::Banned => ConnackReason::Banned,
            Reason::QuotaExceeded => ConnackReason::QuotaExceeded,
            Reason::ServerBusy => ConnackReason::ServerBusy,
            Reason::ServerUnavailable => ConnackReason::ServerUnavailable,
            Reason::ConnectionRateExceeded => ConnackReason::ConnectionRateExceeded,
        };
        let detail = self.detail.unwrap_or_else(|| "the service refuses it".into());
        Ok(Denial { client_message: self.message, ..Denial::new(reason, detail) })
    }
}
