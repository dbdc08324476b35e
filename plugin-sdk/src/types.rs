//! The types of the plugin ABI under one roof, with the names of `../wit`.

pub use crate::bindings::auditor::exports::mqgate::plugin::auditor::{AuditEvent, Outcome, PluginVerdict};
pub use crate::bindings::authenticator::exports::mqgate::plugin::authenticator::{
    Authenticated, Authentication,
};
pub use crate::bindings::authorizer::exports::mqgate::plugin::authorizer::{
    Acl, AclRule, Actions, Authorization, Effect, Grant, Limits, QosLevels, RetainMatch,
};
pub use crate::bindings::enhanced_authenticator::exports::mqgate::plugin::enhanced_authenticator::{
    AuthenticationStep, Challenge, Exchange, Proved,
};
pub use crate::bindings::host::mqgate::plugin::certificates::{
    Certificate, ChainStatus, ClientCertificate, DistinguishedName, Extension, GeneralName, KeyUsage,
    NameAttribute, PublicKey, RevocationStatus, TrustAnchor,
};
pub use crate::bindings::host::mqgate::plugin::connections::{Connect, Connection, Peer, TlsSession, Will};
pub use crate::bindings::host::mqgate::plugin::key_value::{Entry, Error as KeyValueError, Page};
pub use crate::bindings::host::mqgate::plugin::log::Level;
pub use crate::bindings::host::mqgate::plugin::metrics::{
    Definition as MetricDefinition, Error as MetricError, Kind as MetricKind, Metric,
};
pub use crate::bindings::host::mqgate::plugin::registry::{Device, DeviceStatus, Error as RegistryError};
pub use crate::bindings::host::mqgate::plugin::types::{
    Attribute, CacheHint, CacheScope, ConnackReason, Denial, HookError, Identity, Seconds, UnixMillis, Value,
};
pub use crate::bindings::lifecycle::exports::mqgate::plugin::lifecycle::{
    ConfigProblem, InitError, PluginContext,
};
pub use crate::bindings::registrar::exports::mqgate::plugin::registrar::{
    ConflictPolicy, Registration, RegistrationDecision,
};

impl Denial {
    /// A refusal whose detail only the auditor reads.
    pub fn new(reason: ConnackReason, audit_detail: impl Into<String>) -> Self {
        Self {
            reason,
            client_message: None,
            audit_detail: Some(audit_detail.into()),
            server_reference: None,
            cache: None,
            attributes: Vec::new(),
        }
    }
}

impl Connection {
    /// When this is a live session that is judged once more: then, in milliseconds since the Unix epoch. Nothing else tells
    /// it from its beginning.
    pub fn reauthorized_at(&self) -> Option<UnixMillis> {
        self.attributes.iter().find_map(|attribute| match (attribute.name.as_str(), &attribute.value) {
            ("reauthorization.at", Value::Integer(at)) => u64::try_from(*at).ok(),
            _ => None,
        })
    }

    /// The moment of the question, without a clock: when the connection was accepted, or when the live session is judged
    /// once more.
    pub fn asked_at(&self) -> UnixMillis {
        self.reauthorized_at().unwrap_or(self.accepted_at)
    }
}

impl Identity {
    pub fn new(device_id: impl Into<String>) -> Self {
        Self { device_id: device_id.into(), tenant: None, tags: Vec::new(), attributes: Vec::new() }
    }
}

impl Attribute {
    pub fn text(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: Value::Text(value.into()) }
    }
}

impl Limits {
    /// Leaves every limit to the listener.
    pub const UNCHANGED: Self = Self {
        maximum_qos: None,
        retain_available: None,
        maximum_packet_size: None,
        receive_maximum: None,
        topic_alias_maximum: None,
        session_expiry: None,
        keep_alive: None,
        subscriptions: None,
        publishes_per_second: None,
        publish_bytes_per_second: None,
    };
}
