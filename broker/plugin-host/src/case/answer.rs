//! What a plugin answered, as a case has it, and how two answers differ.

use mqgate_identity::hooks::{
    Acl, AclRule, Authentication, AuthenticationStep, Authorization, CacheHint, CacheScope, ConflictPolicy,
    ConnackReason, Denial, Effect, FailureKind, Grant, GrantLimits, HookFailure, Identity, Registration,
    RegistrationDecision, RetainMatch,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::value::{Attributes, Bytes, InShort, short_or_whole};
use crate::tap::Told;

/// Everything that an answer says.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Answer {
    pub verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity_attributes: Option<Attributes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_conflict: Option<Conflict>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<Rule>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otherwise: Option<EffectWord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assigned_client_id: Option<String>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_for: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<ReasonWord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_reference: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CachePart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Attributes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureWord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Accept,
    Allow,
    Register,
    Hold,
    /// An exchange goes on.
    Continue,
    Deny,
    #[default]
    Abstain,
    /// No answer: it trapped, took too long, said that it cannot decide, or broke a rule of the ABI.
    Fail,
}

/// Declares an enum of words and its way from the native one.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident of $native:ident { $($word:ident),+ $(,)? }) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
        $(#[$meta])*
        pub enum $name { $($word),+ }

        impl From<$native> for $name {
            fn from(native: $native) -> Self {
                match native { $($native::$word => Self::$word),+ }
            }
        }
    };
}

words!(#[serde(rename_all = "kebab-case")] Conflict of ConflictPolicy { Refuse, AddCertificate, ReplaceCertificates });
words!(#[serde(rename_all = "kebab-case")] EffectWord of Effect { Allow, Deny });
words!(#[serde(rename_all = "kebab-case")] ScopeWord of CacheScope { Connection, Certificate, Identity });
words!(#[serde(rename_all = "snake_case")] RetainWord of RetainMatch { Any, OnlyRetained, OnlyLive });
words!(
    #[serde(rename_all = "kebab-case")]
    ReasonWord of ConnackReason {
        UnspecifiedError,
        ImplementationSpecificError,
        ClientIdentifierNotValid,
        BadUserNameOrPassword,
        NotAuthorized,
        ServerUnavailable,
        ServerBusy,
        Banned,
        BadAuthenticationMethod,
        QuotaExceeded,
        UseAnotherServer,
        ServerMoved,
        ConnectionRateExceeded,
    }
);

words!(
    #[serde(rename_all = "kebab-case")]
    FailureWord of FailureKind { Trap, Deadline, Memory, Overload, Invalid, Capability, Unavailable }
);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CachePart {
    pub scope: ScopeWord,
    pub seconds: u64,
}

/// One line of an access list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    pub effect: EffectWord,
    pub publish: bool,
    pub subscribe: bool,
    pub filter: String,
    pub qos: Vec<u8>,
    pub retain: RetainWord,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsPart {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum_qos: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain_available: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum_packet_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_maximum: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_alias_maximum: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_expiry: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscriptions: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publishes_per_second: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish_bytes_per_second: Option<u32>,
}

impl Verdict {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Allow => "allow",
            Self::Register => "register",
            Self::Hold => "hold",
            Self::Continue => "continue",
            Self::Deny => "deny",
            Self::Abstain => "abstain",
            Self::Fail => "fail",
        }
    }

    /// The client gets past this plugin by its own word.
    pub const fn admits(self) -> bool {
        match self {
            Self::Accept | Self::Allow | Self::Register => true,
            Self::Hold | Self::Continue | Self::Deny | Self::Abstain | Self::Fail => false,
        }
    }

    /// The client is turned away: also where there is no answer, and where an operator has to say so first.
    pub const fn refuses(self) -> bool {
        match self {
            Self::Deny | Self::Fail | Self::Hold => true,
            Self::Accept | Self::Allow | Self::Register | Self::Continue | Self::Abstain => false,
        }
    }
}

impl InShort for Rule {
    const WHAT: &'static str = "a rule: \"allow publish FILTER\", or { \"effect\": …, \"publish\": …, \"subscribe\": …, \"filter\": … }";

    fn in_short(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not like \"allow publish,subscribe devices/7/#\"");
        let mut words = text.splitn(3, ' ');
        let effect = match words.next() {
            Some("allow") => EffectWord::Allow,
            Some("deny") => EffectWord::Deny,
            _ => return Err(wrong()),
        };
        let (publish, subscribe) = match words.next() {
            Some("publish") => (true, false),
            Some("subscribe") => (false, true),
            Some("publish,subscribe" | "subscribe,publish") => (true, true),
            _ => return Err(wrong()),
        };
        let filter = words.next().filter(|filter| !filter.is_empty()).ok_or_else(wrong)?.to_owned();
        Ok(Self { effect, publish, subscribe, filter, qos: vec![0, 1, 2], retain: RetainWord::Any })
    }
}

/// A rule at length.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WholeRule {
    effect: EffectWord,
    #[serde(default)]
    publish: bool,
    #[serde(default)]
    subscribe: bool,
    filter: String,
    #[serde(default = "every")]
    qos: Vec<u8>,
    #[serde(default = "any")]
    retain: RetainWord,
}

fn every() -> Vec<u8> {
    vec![0, 1, 2]
}

fn any() -> RetainWord {
    RetainWord::Any
}

impl InShort for WholeRule {
    const WHAT: &'static str = Rule::WHAT;

    fn in_short(text: &str) -> Result<Self, String> {
        let Rule { effect, publish, subscribe, filter, qos, retain } = Rule::in_short(text)?;
        Ok(Self { effect, publish, subscribe, filter, qos, retain })
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let WholeRule { effect, publish, subscribe, filter, mut qos, retain } = short_or_whole(deserializer)?;
        qos.sort_unstable();
        Ok(Self { effect, publish, subscribe, filter, qos, retain })
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let effect = if self.effect == EffectWord::Allow { "allow" } else { "deny" };
        let actions = match (self.publish, self.subscribe) {
            (true, true) => "publish,subscribe",
            (true, false) => "publish",
            (false, true) => "subscribe",
            (false, false) => "nothing",
        };
        write!(f, "{effect} {actions} {}", self.filter)?;
        if self.qos != [0, 1, 2] {
            write!(f, " qos {:?}", self.qos)?;
        }
        match self.retain {
            RetainWord::Any => Ok(()),
            RetainWord::OnlyRetained => f.write_str(" retained"),
            RetainWord::OnlyLive => f.write_str(" live"),
        }
    }
}

impl From<&AclRule> for Rule {
    fn from(rule: &AclRule) -> Self {
        Self {
            effect: rule.effect.into(),
            publish: rule.publish,
            subscribe: rule.subscribe,
            filter: rule.filter.clone(),
            qos: (0..3).filter(|level| rule.qos & (1 << level) != 0).collect(),
            retain: rule.retain.into(),
        }
    }
}

impl From<GrantLimits> for LimitsPart {
    fn from(limits: GrantLimits) -> Self {
        Self {
            maximum_qos: limits.maximum_qos,
            retain_available: limits.retain_available,
            maximum_packet_size: limits.maximum_packet_size,
            receive_maximum: limits.receive_maximum,
            topic_alias_maximum: limits.topic_alias_maximum,
            session_expiry: limits.session_expiry,
            keep_alive: limits.keep_alive,
            subscriptions: limits.subscriptions,
            publishes_per_second: limits.publishes_per_second,
            publish_bytes_per_second: limits.publish_bytes_per_second,
        }
    }
}

impl From<CacheHint> for CachePart {
    fn from(hint: CacheHint) -> Self {
        Self { scope: hint.scope.into(), seconds: hint.ttl.as_secs() }
    }
}

impl Answer {
    /// Whole, with what is secret.
    pub(crate) fn of(told: &Result<Told, HookFailure>) -> Self {
        match told {
            Ok(Told::Authentication(answer)) => match answer {
                Authentication::Accept { identity, cache } => {
                    Self { cache: cache.map(Into::into), ..Self::identified(Verdict::Accept, identity) }
                }
                Authentication::Deny(denial) => Self::denied(denial),
                Authentication::Abstain => Self::default(),
            },
            Ok(Told::Step(answer)) => match answer {
                AuthenticationStep::Continue { data, state } => Self {
                    verdict: Verdict::Continue,
                    data: data.as_deref().map(Bytes::from),
                    state: Some(state.0.as_slice().into()),
                    ..Self::default()
                },
                AuthenticationStep::Accept { identity, data } => Self {
                    data: data.as_deref().map(Bytes::from),
                    ..Self::identified(Verdict::Accept, identity)
                },
                AuthenticationStep::Deny(denial) => Self::denied(denial),
                AuthenticationStep::Abstain => Self::default(),
            },
            Ok(Told::Registration(answer)) => match answer {
                RegistrationDecision::Register(what) => Self::registered(Verdict::Register, what),
                RegistrationDecision::Hold(what) => Self::registered(Verdict::Hold, what),
                RegistrationDecision::Deny(denial) => Self::denied(denial),
                RegistrationDecision::Abstain => Self::default(),
            },
            Ok(Told::Authorization(answer)) => match answer {
                Authorization::Allow(grant) => Self::granted(grant),
                Authorization::Deny(denial) => Self::denied(denial),
                Authorization::Abstain => Self::default(),
            },
            Err(failure) => Self {
                verdict: Verdict::Fail,
                failure: Some(failure.kind.into()),
                detail: Some(failure.detail.clone()),
                ..Self::default()
            },
        }
    }

    /// The plugin could not be asked.
    pub(crate) fn unavailable(detail: String) -> Self {
        Self {
            verdict: Verdict::Fail,
            failure: Some(FailureWord::Unavailable),
            detail: Some(detail),
            ..Self::default()
        }
    }

    fn identified(verdict: Verdict, who: &Identity) -> Self {
        Self {
            verdict,
            device_id: Some(who.device_id.clone()),
            tenant: who.tenant.clone(),
            tags: Some(who.tags.clone()),
            identity_attributes: Some(Attributes(who.attributes.clone())),
            ..Self::default()
        }
    }

    fn registered(verdict: Verdict, what: &Registration) -> Self {
        Self {
            on_conflict: Some(what.on_conflict.into()),
            attributes: Some(Attributes(what.attributes.clone())),
            ..Self::identified(verdict, &what.identity)
        }
    }

    fn denied(denial: &Denial) -> Self {
        Self {
            verdict: Verdict::Deny,
            reason: Some(denial.reason.into()),
            client_message: denial.client_message.clone(),
            audit_detail: denial.audit_detail.clone(),
            server_reference: denial.server_reference.clone(),
            cache: denial.cache.map(Into::into),
            attributes: Some(Attributes(denial.attributes.clone())),
            ..Self::default()
        }
    }

    fn granted(grant: &Grant) -> Self {
        let (rules, acl) = match &grant.acl {
            Acl::Inline(rules) => (Some(rules.iter().map(Rule::from).collect()), None),
            Acl::Named(name) => (None, Some(name.clone())),
        };
        Self {
            verdict: Verdict::Allow,
            rules,
            acl,
            otherwise: Some(grant.otherwise.into()),
            limits: Some(grant.limits.into()),
            assigned_client_id: grant.assigned_client_id.clone(),
            valid_for: grant.valid_for.map(|time| time.as_secs()),
            cache: grant.cache.map(Into::into),
            attributes: Some(Attributes(grant.attributes.clone())),
            ..Self::default()
        }
    }

    /// What is between the plugin and the client alone is left out.
    pub(crate) fn redact(&mut self) {
        for secret in [&mut self.data, &mut self.state].into_iter().flatten() {
            *secret = Bytes::Redacted;
        }
    }

    /// By name, as JSON.
    pub fn fields(&self) -> Map<String, Value> {
        let mut fields = match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) | Err(_) => Map::new(),
        };
        for name in ["attributes", "identity_attributes"] {
            // Their order decides nothing.
            if let Some(found) = fields.get_mut(name)
                && let Some(pairs) = found.as_array()
            {
                let pair = |pair: &Value| Some((pair[0].as_str()?.to_owned(), pair[1].clone()));
                *found = Value::Object(pairs.iter().filter_map(pair).collect());
            }
        }
        fields
    }

    /// In one line: the verdict, and who or why.
    pub fn summary(&self) -> String {
        let more = match self.verdict {
            Verdict::Accept | Verdict::Register | Verdict::Hold => self.device_id.clone(),
            Verdict::Allow => Some(match (&self.rules, &self.acl) {
                (Some(rules), _) if rules.len() == 1 => rules[0].to_string(),
                (Some(rules), _) => format!("{} rules", rules.len()),
                (None, acl) => format!("rule set {}", acl.as_deref().unwrap_or_default()),
            }),
            Verdict::Deny => {
                let fields = self.fields();
                let reason = fields.get("reason").and_then(Value::as_str).unwrap_or_default().to_owned();
                Some(match &self.audit_detail {
                    Some(detail) => format!("{reason}: {detail}"),
                    None => reason,
                })
            }
            Verdict::Fail => self.detail.clone(),
            Verdict::Continue | Verdict::Abstain => None,
        };
        let verdict = self.verdict.as_str();
        more.map_or_else(|| verdict.to_owned(), |more| format!("{verdict} {more}"))
    }
}
