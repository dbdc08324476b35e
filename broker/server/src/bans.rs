//! Who is kept out, by whom, why and until when: client ids, devices, certificates, addresses.
//!
//! Kept in memory, where every connection looks, and in the key-value seam of the storage, so that a ban
//! outlives the broker. Does not know connections: whoever adds a ban closes those it is about.

mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::{KvError, Storage};
use mqgate_identity::time::UnixMillis;
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::store::Store;
use crate::network::{Network, NetworkError};

/// Bytes of a ban's reason.
const LONGEST_REASON: usize = 256;

/// What a ban is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "BanKind")]
pub enum Kind {
    /// A client id; of one device, if one is named.
    Client,
    Device,
    /// SHA-256 of a certificate.
    Certificate,
    /// An address or a network.
    Address,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Client, Self::Device, Self::Certificate, Self::Address];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Device => "device",
            Self::Certificate => "certificate",
            Self::Address => "address",
        }
    }
}

/// One entry of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ban {
    /// Made from what it is about: the same thing is banned once.
    pub id: String,
    pub kind: Kind,
    pub value: String,
    /// Only for client ids, which are names within a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who added it, as audit records name it.
    pub by: String,
    pub created_at: UnixMillis,
    /// `None`: until it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixMillis>,
}

/// What is known about whoever wants in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Subject<'a> {
    pub client_id: Option<&'a str>,
    pub device_id: Option<&'a str>,
    pub certificate: Option<CertificateFingerprint>,
    pub address: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BanError {
    #[error("{0:?} {1}")]
    Address(String, NetworkError),
    #[error("{0:?} is no SHA-256 of a certificate: 64 hex digits")]
    Fingerprint(String),
    #[error("the value is empty; say what is to be banned")]
    Empty,
    #[error("`device_id` narrows a ban of a client id; ban the device itself with the kind `device`")]
    Device,
    #[error("there are {0} bans already; remove some, or raise `bans.max_entries`")]
    Full(usize),
    #[error("the ban is over before it begins; give a time that is still to come")]
    Over,
    #[error("the storage does not take it: {0}")]
    Storage(#[from] KvError),
}

pub struct Bans {
    state: RwLock<State>,
    /// How many there are: without any, nobody looks further.
    count: AtomicUsize,
    limit: usize,
    store: Option<Store>,
    gauges: [IntGauge; 4],
}

#[derive(Default)]
struct State {
    by_id: BTreeMap<String, Arc<Ban>>,
    clients: HashMap<String, Vec<Arc<Ban>>>,
    devices: HashMap<String, Arc<Ban>>,
    certificates: HashMap<CertificateFingerprint, Arc<Ban>>,
    addresses: HashMap<IpAddr, Arc<Ban>>,
    networks: Vec<(Network, Arc<Ban>)>,
}

impl Ban {
    /// Checks what is to be banned and brings it into the one form it is compared in.
    pub fn new(
        kind: Kind,
        value: &str,
        device_id: Option<String>,
        reason: Option<&str>,
        by: &str,
        created_at: UnixMillis,
        until: Option<UnixMillis>,
    ) -> Result<Self, BanError> {
        if value.is_empty() {
            return Err(BanError::Empty);
        }
        if device_id.is_some() && kind != Kind::Client {
            return Err(BanError::Device);
        }
        if until.is_some_and(|until| until <= created_at) {
            return Err(BanError::Over);
        }
        let value = match kind {
            Kind::Client | Kind::Device => value.to_owned(),
            Kind::Certificate => CertificateFingerprint::from_hex(value)
                .ok_or_else(|| BanError::Fingerprint(value.to_owned()))?
                .to_hex(),
            Kind::Address => value
                .parse::<Network>()
                .map_err(|error| BanError::Address(value.to_owned(), error))?
                .to_string(),
        };
        let id = id_of(kind, &value, device_id.as_deref());
        let reason = reason.map(|reason| reason.chars().take(LONGEST_REASON).collect());
        Ok(Self { id, kind, value, device_id, reason, by: by.to_owned(), created_at, until })
    }

    /// Whether it holds for `subject`: everything it names must be known of it and equal.
    pub fn covers(&self, subject: &Subject<'_>) -> bool {
        match self.kind {
            Kind::Client => {
                subject.client_id == Some(self.value.as_str())
                    && self.device_id.as_deref().is_none_or(|device| subject.device_id == Some(device))
            }
            Kind::Device => subject.device_id == Some(self.value.as_str()),
            Kind::Certificate => {
                let banned = CertificateFingerprint::from_hex(&self.value);
                banned.is_some() && subject.certificate == banned
            }
            Kind::Address => {
                let network = self.value.parse::<Network>();
                network.is_ok_and(|network| subject.address.is_some_and(|address| network.contains(address)))
            }
        }
    }

    fn holds(&self, now: UnixMillis) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

fn id_of(kind: Kind, value: &str, device_id: Option<&str>) -> String {
    let mut hash = Sha256::new();
    for part in [kind.as_str(), value, device_id.unwrap_or_default()] {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hex::encode(&hash.finalize()[..16])
}

impl Bans {
    /// Reads what was stored, which blocks. Without a storage, bans end with the broker.
    pub fn open(
        storage: Option<Arc<dyn Storage>>,
        limit: usize,
        registry: &Registry,
    ) -> Result<Self, OpenError> {
        let gauges = IntGaugeVec::new(Opts::new("mqgate_banned_entries", "Bans in force."), &["kind"])?;
        registry.register(Box::new(gauges.clone()))?;
        let bans = Self {
            state: RwLock::default(),
            count: AtomicUsize::new(0),
            limit,
            store: storage.map(|storage| Store::new(storage, limit)),
            gauges: Kind::ALL.map(|kind| gauges.with_label_values(&[kind.as_str()])),
        };
        if let Some(store) = &bans.store {
            let stored = store.all(crate::clock::now())?;
            bans.change(|state| stored.into_iter().for_each(|ban| state.insert(Arc::new(ban))));
        }
        Ok(bans)
    }

    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A ban that keeps `subject` out now.
    pub fn find(&self, subject: &Subject<'_>, now: UnixMillis) -> Option<Arc<Ban>> {
        if self.is_empty() {
            return None;
        }
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let found = |ban: &&Arc<Ban>| ban.holds(now) && ban.covers(subject);
        let clients = subject.client_id.and_then(|id| state.clients.get(id)).into_iter().flatten();
        let device = subject.device_id.and_then(|id| state.devices.get(id));
        let certificate = subject.certificate.and_then(|id| state.certificates.get(&id));
        let address = subject.address.and_then(|address| state.addresses.get(&address.to_canonical()));
        let single = clients.chain(device).chain(certificate).chain(address).find(found);
        let within = |(network, ban): &&(Network, Arc<Ban>)| {
            ban.holds(now) && subject.address.is_some_and(|address| network.contains(address))
        };
        single.or_else(|| state.networks.iter().find(within).map(|(_, ban)| ban)).cloned()
    }

    /// Adds a ban, or replaces the one about the same; on the disk when this returns, which it does after
    /// blocking.
    pub fn add(&self, ban: Ban) -> Result<Arc<Ban>, BanError> {
        self.has_room(&ban)?;
        if let Some(store) = &self.store {
            store.put(&ban)?;
        }
        Ok(self.enter(ban))
    }

    /// Adds a ban at once, for this run of the broker; [`Self::keep`] writes it down.
    pub fn add_in_memory(&self, ban: Ban) -> Result<Arc<Ban>, BanError> {
        self.has_room(&ban)?;
        Ok(self.enter(ban))
    }

    /// Writes down a ban that is in force. Blocks.
    pub fn keep(&self, ban: &Ban) -> Result<(), BanError> {
        self.store.as_ref().map_or(Ok(()), |store| store.put(ban))?;
        Ok(())
    }

    fn has_room(&self, ban: &Ban) -> Result<(), BanError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        match state.by_id.len() >= self.limit && !state.by_id.contains_key(&ban.id) {
            true => Err(BanError::Full(self.limit)),
            false => Ok(()),
        }
    }

    fn enter(&self, ban: Ban) -> Arc<Ban> {
        let ban = Arc::new(ban);
        self.change(|state| {
            state.remove(&ban.id);
            state.insert(Arc::clone(&ban));
        });
        ban
    }

    /// Takes a ban back; says which it was. Blocks.
    pub fn remove(&self, id: &str) -> Result<Option<Arc<Ban>>, BanError> {
        if let Some(store) = &self.store {
            store.delete(id)?;
        }
        Ok(self.change(|state| state.remove(id)))
    }

    pub fn get(&self, id: &str) -> Option<Arc<Ban>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).by_id.get(id).cloned()
    }

    /// The first `limit` bans after `after`, in order of their ids.
    pub fn list(&self, after: Option<&str>, limit: usize, wanted: impl Fn(&Ban) -> bool) -> Vec<Arc<Ban>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let later = state.by_id.iter().filter(|(id, _)| after.is_none_or(|after| id.as_str() > after));
        later.map(|(_, ban)| ban).filter(|ban| wanted(ban)).take(limit).cloned().collect()
    }

    /// Forgets bans that are over. The storage forgets them by itself.
    pub fn expire(&self, now: UnixMillis) {
        if self.is_empty() {
            return;
        }
        let over: Vec<String> = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            state.by_id.values().filter(|ban| !ban.holds(now)).map(|ban| ban.id.clone()).collect()
        };
        if !over.is_empty() {
            self.change(|state| over.iter().for_each(|id| drop(state.remove(id))));
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let done = change(&mut state);
        self.count.store(state.by_id.len(), Ordering::Relaxed);
        for (kind, gauge) in Kind::ALL.into_iter().zip(&self.gauges) {
            gauge.set(state.count(kind) as i64);
        }
        done
    }
}

impl State {
    fn insert(&mut self, ban: Arc<Ban>) {
        match ban.kind {
            Kind::Client => self.clients.entry(ban.value.clone()).or_default().push(Arc::clone(&ban)),
            Kind::Device => drop(self.devices.insert(ban.value.clone(), Arc::clone(&ban))),
            Kind::Certificate => {
                if let Some(fingerprint) = CertificateFingerprint::from_hex(&ban.value) {
                    self.certificates.insert(fingerprint, Arc::clone(&ban));
                }
            }
            Kind::Address => match ban.value.parse::<Network>() {
                Ok(network) if network.is_single() => {
                    self.addresses.insert(network.address(), Arc::clone(&ban));
                }
                Ok(network) => self.networks.push((network, Arc::clone(&ban))),
                Err(_) => {}
            },
        }
        self.by_id.insert(ban.id.clone(), ban);
    }

    fn remove(&mut self, id: &str) -> Option<Arc<Ban>> {
        let ban = self.by_id.remove(id)?;
        match ban.kind {
            Kind::Client => {
                if let Some(bans) = self.clients.get_mut(&ban.value) {
                    bans.retain(|other| other.id != id);
                    if bans.is_empty() {
                        self.clients.remove(&ban.value);
                    }
                }
            }
            Kind::Device => drop(self.devices.remove(&ban.value)),
            Kind::Certificate => self.certificates.retain(|_, other| other.id != id),
            Kind::Address => {
                self.addresses.retain(|_, other| other.id != id);
                self.networks.retain(|(_, other)| other.id != id);
            }
        }
        Some(ban)
    }

    fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Client => self.clients.values().map(Vec::len).sum(),
            Kind::Device => self.devices.len(),
            Kind::Certificate => self.certificates.len(),
            Kind::Address => self.addresses.len() + self.networks.len(),
        }
    }
}

/// The list of bans cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Storage(#[from] KvError),
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}
