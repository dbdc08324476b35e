//! What can be asked of the list of device certificates.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::is_wanted;
use super::{CaCertificate, Condition, DeviceCertificate, DeviceState, RegistrationSource};
use crate::certificate::CertificateFingerprint;
use crate::evaluation::PathPolicy;
use crate::time::{UnixMillis, UnixSeconds};

/// Records on one page, at most.
pub const MAX_PAGE: usize = 1_000;
/// Records that one call reads to fill a page; where filters leave fewer, the cursor goes on from there.
pub const MAX_SCANNED: usize = 1_000;

/// Filters, all of which must hold; texts are compared exactly. The empty query is for every record but tombstones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceQuery {
    /// Empty: all but tombstones.
    pub states: Vec<DeviceState>,
    pub ca: Option<CertificateFingerprint>,
    pub common_name: Option<String>,
    /// `dns:x`, or without a type any name of this text.
    pub san: Option<String>,
    pub organizational_unit: Option<String>,
    pub device_id: Option<String>,
    pub client_id: Option<String>,
    pub tenant: Option<String>,
    /// Hex, big-endian, without leading zeros; any case.
    pub serial: Option<String>,
    /// Hex.
    pub spki_sha256: Option<String>,
    pub not_after: Span<UnixSeconds>,
    pub last_seen: Span<UnixMillis>,
    pub source: Option<RegistrationSource>,
    pub tag: Option<String>,
    pub effective: Option<EffectiveFilter>,
    /// From the page before.
    pub cursor: Option<Cursor>,
    /// 0: [`MAX_PAGE`].
    pub limit: usize,
}

/// `from <= x < until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span<T> {
    pub from: Option<T>,
    pub until: Option<T>,
}

/// Conditions are derived, so that the question needs what they are derived from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveFilter {
    pub wanted: Effective,
    pub cas: Vec<CaCertificate>,
    pub policy: PathPolicy,
    pub now: UnixMillis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effective {
    /// It may connect.
    Ok,
    /// It may not, for whatever reason.
    Barred,
    /// It has this condition, whatever else it has.
    Condition(Condition),
}

/// Where a page ended. Opaque to clients: text goes in and out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub(crate) Vec<u8>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePage {
    pub records: Vec<DeviceCertificate>,
    /// `None`: there is no more.
    pub next: Option<Cursor>,
    /// Which index answered; for tests and for who measures.
    pub index: QueryIndex,
}

/// The index that a query is answered from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QueryIndex {
    Serial,
    Spki,
    ClientId,
    Device,
    CommonName,
    San,
    OrganizationalUnit,
    Tag,
    NotAfter,
    LastSeen,
    CaState,
    State,
    Id,
}

impl DeviceQuery {
    /// Whether a record is one of those asked for, wherever the page begins.
    pub fn is_for(&self, record: &DeviceCertificate) -> bool {
        let same = |wanted: &Option<String>, value: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| value == Some(wanted))
        };
        self.is_for_state(record.state)
            && self.ca.is_none_or(|ca| record.ca_id == ca)
            && same(&self.common_name, record.common_name.as_deref())
            && same(&self.device_id, Some(&record.device_id))
            && same(&self.client_id, record.client_id.as_deref())
            && same(&self.tenant, record.tenant.as_deref())
            && self.san.as_deref().is_none_or(|wanted| has_name(record, wanted))
            && self.organizational_unit.as_ref().is_none_or(|unit| record.organizational_units.contains(unit))
            && self
                .serial
                .as_deref()
                .is_none_or(|wanted| plain_serial(&record.serial) == plain_serial(wanted))
            && self
                .spki_sha256
                .as_deref()
                .is_none_or(|wanted| record.spki_sha256.eq_ignore_ascii_case(wanted))
            && self.not_after.contains(record.not_after)
            && (self.last_seen.is_open() || record.last_seen.is_some_and(|at| self.last_seen.contains(at)))
            && self.source.is_none_or(|source| record.source == source)
            && self.tag.as_ref().is_none_or(|tag| record.tags.contains(tag))
            && self.effective.as_ref().is_none_or(|filter| is_wanted(record, filter))
    }

    pub fn is_for_state(&self, state: DeviceState) -> bool {
        match self.states.is_empty() {
            true => state != DeviceState::Tombstone,
            false => self.states.contains(&state),
        }
    }
}

/// A serial number as it is compared: hex in lower case, without colons and leading zeros.
pub fn plain_serial(text: &str) -> String {
    let digits: String = text.chars().filter(|&c| c != ':').collect();
    digits.trim_start_matches('0').to_ascii_lowercase()
}

fn has_name(record: &DeviceCertificate, wanted: &str) -> bool {
    let is_dns = |name: &str| name.starts_with("dns:");
    record.subject_alt_names.iter().any(|name| {
        let bare = name.split_once(':').map_or("", |(_, bare)| bare);
        match is_dns(name) {
            true => name.eq_ignore_ascii_case(wanted) || bare.eq_ignore_ascii_case(wanted),
            false => name == wanted || bare == wanted,
        }
    })
}

impl<T: PartialOrd + Copy> Span<T> {
    pub fn contains(&self, value: T) -> bool {
        self.from.is_none_or(|from| from <= value) && self.until.is_none_or(|until| value < until)
    }

    pub fn is_open(&self) -> bool {
        self.from.is_none() && self.until.is_none()
    }
}

impl Cursor {
    /// For the storage, which alone knows what is in it.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn parse(text: &str) -> Option<Self> {
        hex::decode(text).ok().filter(|bytes| bytes.len() <= 2048).map(Self)
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}
