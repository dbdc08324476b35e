//! Keys of what happens to device certificates: registration at a first connection, rotation, one certificate on two
//! devices, and the clock that all of it is judged by.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::AllowDeny;
use crate::config::units::Span;

/// Unknown certificates that are registered at their first connection, on listeners in mode `per-device`. What each
/// CA lets in is set with the CA (`mqgate ca`); what is registered under it, the registrars of the chain decide.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Provisioning {
    /// Registrations in a second, of all CAs together; 0 is without limit. Who is too fast is refused and told when to
    /// come again: no plugin is asked, nothing is written.
    pub rate: u32,
    /// So many at once after a quiet time.
    pub burst: u32,
    /// Registrations in a second under one CA, where the CA names no rate of its own; 0 is without limit.
    pub ca_rate: u32,
    /// So many at once after a quiet time.
    pub ca_burst: u32,
    /// Registrations in a second from one IPv4 address, or one IPv6 network of 64 bits; 0 is without limit. Does not
    /// hold for this machine itself.
    pub source_rate: u32,
    /// So many at once after a quiet time.
    pub source_burst: u32,
    /// Certificates of one CA that are neither revoked nor deleted, where the CA names no number of its own; 0 is
    /// without limit.
    pub max_device_certs: u64,
    /// Certificates that wait for an operator, of all CAs together; 0 is without limit.
    pub max_pending: u64,
    /// How long a certificate waits for an operator before it is forgotten; `"0s"` is the default.
    pub pending_ttl: Span,
    /// How long a client waits for its certificate to be activated, before it is told to come again later. `"0s"` tells
    /// it at once.
    pub park_timeout: Span,
    /// Clients that wait so at the same time; more are told at once.
    pub max_parked: u32,
    /// The last certificates that were not registered, kept in memory with the reason.
    pub max_rejected: u32,
    /// Which client id a certificate is bound to when it is registered: `none` (any will do), `cn` (the last common name
    /// of the subject), `san` (the first alternative name that is a DNS name, a URI or an e-mail address), or
    /// `first-connect` (the one it comes with). A registrar's attribute `client-id` goes before.
    pub bind_client_id: BindClientId,
    /// A client that asks for another client id than its certificate is bound to: `reject`, or `override`, which lets
    /// it in under the one that is bound and tells it so (MQTT 5.0: user property `client-id`).
    pub on_client_id_mismatch: OnClientIdMismatch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BindClientId {
    #[default]
    None,
    Cn,
    San,
    FirstConnect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnClientIdMismatch {
    #[default]
    Reject,
    Override,
}

/// A new certificate for a device that has one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rotation {
    /// How long the old certificate is good after the first connection with the new one.
    pub overlap: Span,
    /// Certificates of one device that are in use at the same time; 0 is without limit.
    pub max_active_per_device: u32,
    /// What happens to one more: `supersede-oldest` takes the oldest out of use at once, `reject-new` refuses it.
    pub on_max_active: OnMaxActive,
    /// An event is written when a certificate or a CA has so much time left.
    pub expiry_warnings: Vec<Span>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnMaxActive {
    #[default]
    SupersedeOldest,
    RejectNew,
}

/// One certificate that is used by two devices, on listeners in mode `per-device`: a copied key. Found when it is used
/// under too many client ids at a time, or when two addresses take one client id from each other again and again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sharing {
    /// What is done: `alert` (an event, and nothing else), `reject-new` (whoever comes is refused), `kick-old` (whoever
    /// was there is disconnected), or `quarantine` (nobody gets in with it until `mqgate cert release`).
    pub policy: OnShared,
    /// Client ids that one certificate is used under at a time, if it is bound to none.
    pub max_client_ids_per_cert: u32,
    /// How long a client id counts after it was used from another address.
    pub window: Span,
    /// More takeovers of a live connection than this, to and fro between addresses …
    pub max_takeovers: u32,
    /// … within this time are two devices.
    pub takeover_window: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnShared {
    #[default]
    Alert,
    RejectNew,
    KickOld,
    Quarantine,
}

/// The machine's clock, which certificates are judged by. It is wrong if it shows a time before this program was built,
/// or a day or more before a time that it has shown: then nobody registers by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Clock {
    /// Whether it is looked at. Starting once with `false` forgets a time that was too late.
    pub check: bool,
    /// What happens to registered certificates while the clock is wrong: `allow` judges them by it all the same, `deny`
    /// lets nobody in.
    pub when_wrong: AllowDeny,
}

impl Default for Provisioning {
    fn default() -> Self {
        Self {
            rate: 100,
            burst: 1_000,
            ca_rate: 100,
            ca_burst: 1_000,
            source_rate: 20,
            source_burst: 200,
            max_device_certs: 0,
            max_pending: 10_000,
            pending_ttl: Span::secs(7 * DAY),
            park_timeout: Span::secs(10),
            max_parked: 1_000,
            max_rejected: 1_000,
            bind_client_id: BindClientId::None,
            on_client_id_mismatch: OnClientIdMismatch::Reject,
        }
    }
}

const DAY: u64 = 86_400;

impl Default for Rotation {
    fn default() -> Self {
        Self {
            overlap: Span::secs(600),
            max_active_per_device: 2,
            on_max_active: OnMaxActive::SupersedeOldest,
            expiry_warnings: [60, 30, 14, 7, 1].map(|days| Span::secs(days * DAY)).to_vec(),
        }
    }
}

impl Default for Sharing {
    fn default() -> Self {
        Self {
            policy: OnShared::Alert,
            max_client_ids_per_cert: 1,
            window: Span::secs(60),
            max_takeovers: 3,
            takeover_window: Span::secs(60),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self { check: true, when_wrong: AllowDeny::Allow }
    }
}
