//! The evidence that a session may exist, and what it may do: a grant, compiled.

mod rules;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use mqgate_codec::{QoS, TopicFilter, TopicName};
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::hooks::{AclRule, Effect, GrantLimits, Identity};
use mqgate_identity::time::UnixMillis;

use self::rules::Rules;
use crate::topics::is_reserved;

/// A permit is valid for this long at the least, so that nobody keeps the gate busy with one connection.
const SHORTEST_VALIDITY: Duration = Duration::from_secs(1);

/// What the gate decided for one connection. Only [`Permit::granted_by`] makes one; [`Permit::narrowed_by`] takes from it.
#[derive(Debug, Clone)]
pub struct Permit {
    /// The client id that counts: as sent, bound, or assigned.
    pub client_id: ByteString,
    /// Set when the client sent none and is to be told.
    pub assigned: bool,
    pub device_id: Arc<str>,
    pub tenant: Option<Arc<str>>,
    pub certificate_fingerprint: Option<CertificateFingerprint>,
    pub limits: GrantLimits,
    /// The gate is asked again after this long; at least a second.
    pub valid_for: Option<Duration>,
    /// Set by whoever has a clock.
    pub granted_at: Option<UnixMillis>,
    /// Generation of the hook set that decided.
    pub generation: u64,
    /// Who enhanced authentication proved it to be. Set by the gate, which asks nobody twice.
    pub proved: Option<Arc<Identity>>,
    /// The last word of enhanced authentication to the client. Set by the gate.
    pub authentication_data: Option<Bytes>,
    rules: Arc<Rules>,
}

/// What [`Permit::granted_by`] compiles.
#[derive(Debug, Clone)]
pub struct Granted<'a> {
    pub client_id: ByteString,
    pub assigned: bool,
    pub device_id: &'a str,
    pub tenant: Option<&'a str>,
    pub certificate_fingerprint: Option<CertificateFingerprint>,
    pub rules: &'a [AclRule],
    pub otherwise: Effect,
    pub limits: GrantLimits,
    pub valid_for: Option<Duration>,
    pub generation: u64,
}

/// The first thing wrong with a grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    #[error("rule {rule}: filter {filter:?} {problem}")]
    Filter { rule: usize, filter: String, problem: String },
}

impl Permit {
    /// Compiles a grant: variables replaced, filters parsed, a rule whose variable holds `/`, `+` or `#`
    /// (or is absent) left out if it allows, and matching everything if it denies.
    pub fn granted_by(granted: &Granted<'_>) -> Result<Self, GrantError> {
        Ok(Self {
            client_id: granted.client_id.clone(),
            assigned: granted.assigned,
            device_id: granted.device_id.into(),
            tenant: granted.tenant.map(Into::into),
            certificate_fingerprint: granted.certificate_fingerprint,
            limits: granted.limits,
            valid_for: granted.valid_for.map(|validity| validity.max(SHORTEST_VALIDITY)),
            granted_at: None,
            generation: granted.generation,
            proved: None,
            authentication_data: None,
            rules: Arc::new(Rules::compile(granted)?),
        })
    }

    /// The same permit without the topics that these rules do not allow. Variables stand for what they are in it.
    pub fn narrowed_by(mut self, rules: &[AclRule], otherwise: Effect) -> Result<Self, GrantError> {
        let granted = Granted {
            client_id: self.client_id.clone(),
            assigned: self.assigned,
            device_id: &self.device_id,
            tenant: self.tenant.as_deref(),
            certificate_fingerprint: self.certificate_fingerprint,
            rules,
            otherwise,
            limits: self.limits,
            valid_for: self.valid_for,
            generation: self.generation,
        };
        Arc::make_mut(&mut self.rules).and(&granted)?;
        Ok(self)
    }

    /// Whether a message may be published, or named as a will. Below `$SYS` and `$events`
    /// only the broker publishes.
    pub fn may_publish(&self, topic: &TopicName, qos: QoS, retain: bool) -> bool {
        !is_reserved(topic.as_str()) && self.rules.may_publish(topic.as_str(), qos, retain)
    }

    /// Whether a filter may be subscribed to with `qos`: a rule that allows covers it, and no rule before it
    /// that denies overlaps it. A shared subscription is judged by the filter inside.
    pub fn may_subscribe(&self, filter: &TopicFilter, qos: QoS) -> bool {
        self.rules.may_subscribe(filter.filter(), qos)
    }

    /// Whether a message of this topic may reach the client at all: whether it could subscribe to the topic.
    pub fn may_receive(&self, topic: &TopicName) -> bool {
        [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]
            .into_iter()
            .any(|qos| self.rules.may_subscribe(topic.as_str(), qos))
    }

    /// Whether both allow the same topics.
    pub fn has_rules_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.rules, &other.rules) || self.rules == other.rules
    }

    /// The highest QoS, up to the one asked for, with which a filter may be subscribed to.
    pub fn granted_qos(&self, filter: &TopicFilter, asked: QoS) -> Option<QoS> {
        [QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::AtMostOnce]
            .into_iter()
            .filter(|qos| *qos <= asked)
            .find(|qos| self.may_subscribe(filter, *qos))
    }
}
