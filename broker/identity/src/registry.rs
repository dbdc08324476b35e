//! The registry of CAs and device certificates: records, states, transitions, and the seam to the disk.

mod bundle;
mod ca;
mod code;
mod device;
mod event;
mod identifier;
mod kv;
mod names;
mod patterns;
mod query;
mod revocation;
pub mod rules;
mod storage;

pub use self::bundle::ServerBundle;
pub use self::ca::{
    AutoRegistration, CaCertificate, CaSettings, CaState, CaTombstone, CaUsage, OnDeactivate,
    RegistrationRate, VerifiedBy,
};
pub use self::code::{
    CodeUse, MAX_REGISTRATION_CODES, REGISTRATION_CODE_BYTES, REGISTRATION_CODE_TTL_MILLIS, RegistrationCode,
};
pub use self::device::{
    Condition, DeviceCertificate, DeviceState, Quarantine, RegistrationSource, Supersession,
};
pub use self::event::{
    CaEventData, DEFAULT_OUTBOX_EVENTS, DeviceEventData, EventContext, EventData, EventKind, EventsPage,
    NewEvent, RegistryEvent,
};
pub use self::identifier::{
    IdentifierError, MAX_BOUND_CLIENT_ID_BYTES, MAX_DEVICE_ID_BYTES, check_device_id, is_bindable,
    is_topic_safe,
};
pub use self::kv::{KvAnswer, KvEntry, KvError, KvOperation, KvQuota, KvRequest};
pub use self::names::{alternative_names, common_name, organizational_units};
pub use self::patterns::{MAX_PATTERN_BYTES, MAX_PATTERNS, PatternError};
pub use self::query::{
    Cursor, DevicePage, DeviceQuery, Effective, EffectiveFilter, MAX_PAGE, MAX_SCANNED, QueryIndex, Span,
    plain_serial,
};
pub use self::revocation::RevocationReason;
pub use self::storage::{RecordWrite, RegistryChanges, Storage, StorageError};

/// The one namespace there is so far; records say it, so that there can be others.
pub const DEFAULT_NAMESPACE: &str = "default";
/// The trust domain of the configuration's CAs, and of what was registered before there were trust domains.
pub const DEFAULT_TRUST_DOMAIN: &str = "default";
/// Bytes of a CA's name: it is a metric label.
pub const MAX_CA_NAME_BYTES: usize = 64;
