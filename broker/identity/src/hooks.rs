//! What the hooks are asked and what they answer, as native types, and the traits behind which plugins
//! and native implementations stand. Names are those of the WIT package `mqgate:plugin`.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::audit::AuditEvent;
use crate::certificate::ClientCertificate;
use crate::time::UnixMillis;

/// What a hook call returns: a boxed future, so that the traits can be used as trait objects.
pub type HookFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, HookFailure>> + Send + 'a>>;

/// Says who a client is. Runs after CONNECT was read, before [`Authorizer`].
pub trait Authenticator: Send + Sync {
    fn authenticate<'a>(&'a self, on: &'a Arc<Connection>) -> HookFuture<'a, Authentication>;
}

/// Says who a client is that asked for enhanced authentication [MQTT 5.0, 4.12], in one or more steps.
///
/// It keeps nothing between the steps: what it has to remember it hands out as state and gets back. The first
/// of the chain that speaks the client's method and does not abstain decides.
pub trait EnhancedAuthenticator: Send + Sync {
    /// The Authentication Methods it speaks.
    fn methods(&self) -> &[String];

    fn step<'a>(
        &'a self,
        on: &'a Arc<Connection>,
        exchange: Exchange<'a>,
    ) -> HookFuture<'a, AuthenticationStep>;
}

/// Decides whether an unknown certificate becomes a registered device.
pub trait Registrar: Send + Sync {
    fn register<'a>(
        &'a self,
        on: &'a Arc<Connection>,
        claimed: Option<&'a Identity>,
    ) -> HookFuture<'a, RegistrationDecision>;
}

/// Says what an identified client may do; the answer is compiled once per session.
pub trait Authorizer: Send + Sync {
    fn authorize<'a>(&'a self, on: &'a Arc<Connection>, who: &'a Identity) -> HookFuture<'a, Authorization>;
}

/// Receives what happened, in batches, after the fact. Answers up to which sequence number events are safe;
/// later ones are delivered again.
pub trait AuditSink: Send + Sync {
    fn record_events<'a>(&'a self, events: &'a [Arc<AuditEvent>]) -> HookFuture<'a, u64>;
}

/// One member of the chains: a plugin or a native implementation, with the hooks it has.
#[derive(Clone)]
pub struct ChainMember {
    /// Name the operator gave it.
    pub name: Arc<str>,
    /// `sha256:…` of the component; `None` for native implementations.
    pub digest: Option<Arc<str>>,
    pub authenticator: Option<Arc<dyn Authenticator>>,
    pub enhanced_authenticator: Option<Arc<dyn EnhancedAuthenticator>>,
    pub registrar: Option<Arc<dyn Registrar>>,
    pub authorizer: Option<Arc<dyn Authorizer>>,
    pub auditor: Option<Arc<dyn AuditSink>>,
}

/// One immutable snapshot of all chains. A connection takes one at CONNECT and uses it throughout.
#[derive(Clone, Default)]
pub struct HookSet {
    /// Rises by one with every change.
    pub generation: u64,
    /// In the order in which they are asked.
    pub members: Vec<Arc<ChainMember>>,
    /// Required plugins that are not live, with the reason. While there is one, listeners stay shut.
    pub missing: Vec<(Arc<str>, String)>,
    /// What happens to live sessions when this set replaced another.
    pub reauthorize: Reauthorize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reauthorize {
    /// Live sessions keep their grant.
    #[default]
    None,
    /// Asked again at their next SUBSCRIBE or PUBLISH.
    Lazy,
    /// Asked again at once, at a bounded rate.
    Eager,
}

/// A hook gave no decision. Always a refusal in the end; the kind is the metric label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookFailure {
    pub kind: FailureKind,
    /// For the operator: never sent to a client.
    pub detail: String,
}

/// `mqgate_plugin_failures_total{kind}`; a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    Trap,
    Deadline,
    Memory,
    Overload,
    Invalid,
    Capability,
    Unavailable,
}

/// An open-ended typed value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
    Blob(Vec<u8>),
    Texts(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Attribute {
    /// Lower-case, dotted, at most 128 bytes.
    pub name: String,
    pub value: Value,
}

/// What is known about a connection when a hook runs.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Unique within the broker process for its lifetime.
    pub id: u64,
    /// W3C trace id, 32 hex digits.
    pub trace_id: String,
    pub listener: Arc<str>,
    pub accepted_at: UnixMillis,
    pub peer: Peer,
    pub tls: Option<TlsSession>,
    pub certificate: Option<Arc<ClientCertificate>>,
    pub connect: ConnectFacts,
    pub attributes: Vec<Attribute>,
    pub occasion: Occasion,
}

/// Why the hooks are asked about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Occasion {
    /// A client is at the gate.
    #[default]
    Admission,
    /// An operator wants to know what would happen to one: nothing that a hook does is kept.
    Explanation,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// IPv4-mapped addresses already unmapped.
    pub address: IpAddr,
    pub port: u16,
    /// Address of the proxy, when `address` came from the PROXY protocol.
    pub via_proxy: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSession {
    /// 0x0303 for TLS 1.2, 0x0304 for TLS 1.3.
    pub version: u16,
    pub cipher_suite: u16,
    pub server_name: Option<String>,
    pub alpn: Option<String>,
    pub resumed: bool,
}

/// The CONNECT packet, as the hooks see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectFacts {
    /// 3 for MQTT 3.1, 4 for 3.1.1, 5 for 5.0.
    pub protocol_level: u8,
    /// As sent; empty when the client left the choice to the broker.
    pub client_id: String,
    pub clean_start: bool,
    pub keep_alive: u16,
    pub user_name: Option<String>,
    /// Handed to native implementations, and to plugins granted `credentials`.
    pub password: Option<Secret>,
    pub will: Option<WillFacts>,
    pub session_expiry: Option<u32>,
    pub receive_maximum: Option<u16>,
    pub maximum_packet_size: Option<u32>,
    pub authentication_method: Option<String>,
    pub user_properties: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WillFacts {
    pub topic: String,
    pub qos: u8,
    pub retain: bool,
    pub payload_length: u32,
}

/// Bytes that no log or debug output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Who a connection belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// 1 to 256 bytes, no `/ + #`, no control characters; anything else is refused.
    pub device_id: String,
    pub tenant: Option<String>,
    pub tags: Vec<String>,
    pub attributes: Vec<Attribute>,
}

/// The CONNACK reasons a hook may pick. [MQTT 5.0, 3.2.2.2]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnackReason {
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheScope {
    Connection,
    Certificate,
    Identity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheHint {
    pub scope: CacheScope,
    pub ttl: Duration,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq)]
pub struct Denial {
    pub reason: ConnackReason,
    /// Sent to the client as Reason String when the operator allows it.
    pub client_message: Option<String>,
    /// Written to the audit log, never sent to the client.
    pub audit_detail: Option<String>,
    pub server_reference: Option<String>,
    pub cache: Option<CacheHint>,
    pub attributes: Vec<Attribute>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Authentication {
    Accept {
        identity: Identity,
        cache: Option<CacheHint>,
    },
    Deny(Denial),
    /// No opinion; the next of the chain is asked.
    Abstain,
}

/// How far an enhanced authentication is.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    pub method: &'a str,
    /// From 0 on.
    pub round: u32,
    /// What the step before said to remember; empty at first. The client has not seen it.
    pub state: &'a [u8],
    /// Authentication Data of CONNECT or AUTH, if there was any.
    pub data: Option<&'a [u8]>,
    /// The client is online and proves once more who it is.
    pub again: bool,
}

/// The answer to one step of an enhanced authentication.
#[derive(Debug, Clone, PartialEq)]
pub enum AuthenticationStep {
    /// The client is sent `data` and goes on.
    Continue {
        data: Option<Vec<u8>>,
        state: Secret,
    },
    /// It is proved. The client is sent `data` with the good news.
    Accept {
        identity: Identity,
        data: Option<Vec<u8>>,
    },
    Deny(Denial),
    /// No opinion, in the first step only; the next of the chain is asked.
    Abstain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictPolicy {
    Refuse,
    AddCertificate,
    ReplaceCertificates,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    pub identity: Identity,
    pub on_conflict: ConflictPolicy,
    pub attributes: Vec<Attribute>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RegistrationDecision {
    Register(Registration),
    Hold(Registration),
    Deny(Denial),
    Abstain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Allow,
    Deny,
}

/// One line of an access list. Rules are tried in order, the first match wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AclRule {
    pub effect: Effect,
    pub publish: bool,
    pub subscribe: bool,
    /// A Topic Filter with `${client-id}`, `${device-id}` and `${tenant}`. A value that holds `/`, `+` or `#`
    /// never matches. For subscribing, the requested filter must be covered by this one.
    pub filter: String,
    /// Bit n set: QoS n.
    pub qos: u8,
    pub retain: RetainMatch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetainMatch {
    Any,
    OnlyRetained,
    OnlyLive,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acl {
    Inline(Vec<AclRule>),
    /// A rule set of the configuration.
    Named(String),
}

/// `None` leaves the listener's own limit; a larger value is lowered to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GrantLimits {
    pub maximum_qos: Option<u8>,
    pub retain_available: Option<bool>,
    pub maximum_packet_size: Option<u32>,
    pub receive_maximum: Option<u16>,
    pub topic_alias_maximum: Option<u16>,
    /// Seconds.
    pub session_expiry: Option<u32>,
    /// Seconds.
    pub keep_alive: Option<u16>,
    pub subscriptions: Option<u32>,
    pub publishes_per_second: Option<u32>,
    pub publish_bytes_per_second: Option<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    pub acl: Acl,
    /// What happens when no rule matches.
    pub otherwise: Effect,
    pub limits: GrantLimits,
    /// Replaces an empty client id; ignored when the client sent one.
    pub assigned_client_id: Option<String>,
    /// Ask again after this long; at least a second.
    pub valid_for: Option<Duration>,
    pub cache: Option<CacheHint>,
    pub attributes: Vec<Attribute>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Authorization {
    Allow(Grant),
    Deny(Denial),
    Abstain,
}

impl FailureKind {
    pub const ALL: [Self; 7] = [
        Self::Trap,
        Self::Deadline,
        Self::Memory,
        Self::Overload,
        Self::Invalid,
        Self::Capability,
        Self::Unavailable,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::Overload => "overload",
            Self::Invalid => "invalid",
            Self::Capability => "capability",
            Self::Unavailable => "unavailable",
        }
    }
}
