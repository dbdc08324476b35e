//! The registry of device certificates and CAs, as a service: cached lookups, changes that are durable,
//! audited and known to every connection, one at a time per certificate.
//!
//! What a change may be is decided by the pure rules of `mqgate-identity`; where records are kept is behind
//! [`Storage`]. Does not know MQTT.

mod ask;
mod ca_changes;
mod cache;
mod cas;
mod changes;
mod codes;
mod commit;
mod devices;
mod flight;
mod jit;
mod preview;
mod rotation;
mod sweeps;
mod tombstones;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use mqgate_identity::audit::AuditEvent;
use mqgate_identity::certificate::{CertificateError, CertificateFingerprint};
use mqgate_identity::evaluation::{PathPolicy, Rejection};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::rules::RuleError;
use mqgate_identity::registry::{
    CaCertificate, Condition, Cursor, DeviceCertificate, DevicePage, DeviceQuery, DeviceState, Effective,
    EffectiveFilter, EventsPage, NewEvent, RegistryChanges, Storage, StorageError, rules,
};
use mqgate_identity::time::UnixMillis;
use tokio_util::sync::CancellationToken;

pub use self::ask::{Ask, Changed, ChangedCa, ChangedDevice, DryRun};
pub use self::ca_changes::{CaImpact, CaProof, CaRegistration};
use self::cache::Cache;
pub use self::cas::RetiredCa;
use self::commit::unwritten;
pub use self::devices::ManualRegistration;
pub(crate) use self::flight::Flight;
use self::flight::Flights;
pub use self::jit::JitRegistration;
use self::rotation::Rotation;
pub use self::rotation::{OnMaxActive, RotationSettings};
use crate::audit::{AuditLog, AuditRefused, request};
use crate::clock;
use crate::live::Live;
use crate::metrics::GateMetrics;
use crate::metrics::gate::{LookupResult, NAMESPACE, device_state};
use crate::retirement::{Retirement, RetirementError, RetirementSlot};
use crate::trust::{TrustError, TrustStore};

#[derive(Debug, Clone)]
pub struct RegistrySettings {
    /// Certificates whose records, or absence, are remembered.
    pub cache: usize,
    /// Rules for the validity of certificates, as the listeners have them.
    pub policy: PathPolicy,
    /// `last_seen` is not written again before this long.
    pub last_seen_granularity: Duration,
    /// How often `last_seen` is written, and a storage that failed is tried again.
    pub housekeeping: Duration,
    /// How long before the end of a certificate, or of a CA, it is told.
    pub expiry_warnings: Vec<Duration>,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            cache: 65_536,
            policy: PathPolicy::default(),
            last_seen_granularity: Duration::from_secs(600),
            housekeeping: Duration::from_secs(5),
            expiry_warnings: Vec::new(),
        }
    }
}

/// A change that did not happen, or happened and could not be written down.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("no such certificate in the registry")]
    NotFound,
    #[error(transparent)]
    Rule(#[from] RuleError),
    #[error("the certificate cannot be read: {0}")]
    Certificate(#[from] CertificateError),
    #[error("the PEM text must hold one certificate first; {0}")]
    Pem(String),
    #[error("the certificate does not lead to a known CA: {0}")]
    NoPath(#[from] Rejection),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("the CA is part of the configuration: remove it there")]
    Configured,
    #[error("the CA was replaced or removed already and is in transition: `mqgate transition end` ends that")]
    Retiring,
    #[error("it is the CA that it is to take the place of")]
    SameCa,
    #[error(transparent)]
    Retirement(#[from] RetirementError),
    #[error("the device \"{0}\" exists already, and the registrar said not to add a certificate to it")]
    DeviceExists(String),
    #[error(
        "the device \"{device_id}\" has {maximum} certificates in use, which is the limit \
         (`rotation.max_active_per_device`): deactivate one, or let the oldest go (`rotation.on_max_active`)"
    )]
    TooManyActive { device_id: String, maximum: usize },
    #[error("{0}")]
    Storage(StorageError),
    #[error("{0}")]
    Audit(#[from] AuditRefused),
}

/// What must be unique is a rule that the storage keeps.
impl From<StorageError> for RegistryError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::DuplicateSerial { existing } => Self::Rule(RuleError::DuplicateSerial { existing }),
            StorageError::KeyCompromised { existing } => Self::Rule(RuleError::KeyCompromised { existing }),
            other => Self::Storage(other),
        }
    }
}

impl RegistryError {
    /// What a client hears of it that is being registered.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Rule(rule) => rule.reason(),
            Self::NotFound
            | Self::Certificate(_)
            | Self::Pem(_)
            | Self::NoPath(_)
            | Self::Trust(_)
            | Self::Configured
            | Self::Retiring
            | Self::SameCa
            | Self::Retirement(_)
            | Self::DeviceExists(_) => Reason::ProvisionDenied,
            Self::TooManyActive { .. } => Reason::ProvisionQuota,
            Self::Storage(_) => Reason::RegistryUnavailable,
            Self::Audit(_) => Reason::AuditUnavailable,
        }
    }

    /// For programs: stable.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Rule(rule) => rule.code(),
            Self::Certificate(_) | Self::Pem(_) => "bad_certificate",
            Self::NoPath(rejection) => rejection.reason.as_str(),
            Self::Trust(TrustError::NameTaken(_)) => "name_taken",
            Self::Trust(TrustError::TooMany { .. }) => "too_many_cas",
            Self::Trust(TrustError::Anchor(_)) => "bad_ca",
            Self::Configured => "ca_configured",
            Self::Retiring => "ca_in_transition",
            Self::SameCa => "same_ca",
            Self::Retirement(RetirementError::TooMany(_)) => "too_many_transitions",
            Self::Retirement(RetirementError::Unavailable(_)) => "transitions_unavailable",
            Self::DeviceExists(_) => "device_exists",
            Self::TooManyActive { .. } => "too_many_active_certificates",
            Self::Storage(StorageError::Conflict { .. }) => "revision_conflict",
            Self::Storage(StorageError::BadCursor) => "bad_cursor",
            Self::Storage(StorageError::DuplicateSerial { .. }) => "duplicate_serial",
            Self::Storage(StorageError::KeyCompromised { .. }) => "key_compromised",
            Self::Storage(StorageError::Unavailable(_) | StorageError::Corrupt(_)) => "registry_unavailable",
            Self::Audit(_) => "audit_unavailable",
        }
    }
}

/// Something live connections have to know at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistryChange {
    /// Connections with this certificate have to go.
    DeviceBarred { certificate: CertificateFingerprint, reason: Reason },
    /// The record of a certificate is new, or changed in a way that bars nobody: who waits for it may look again.
    DeviceChanged { certificate: CertificateFingerprint },
    /// Connections whose path ends in this CA have to go.
    CaRemoved { ca: CertificateFingerprint },
}

/// One record that is written, and what goes with it.
struct Change {
    before: Option<Arc<DeviceCertificate>>,
    /// `None`: the record goes.
    after: Option<Arc<DeviceCertificate>>,
    source: &'static str,
    audit: AuditEvent,
    event: NewEvent,
}

/// Runs `work` to its end even if the caller stops waiting: half a change would be worse than none.
async fn finished<T: Send + 'static>(
    work: impl Future<Output = Result<T, RegistryError>> + Send + 'static,
) -> Result<T, RegistryError> {
    request::spawn(work).await.unwrap_or_else(|error| {
        Err(StorageError::Unavailable(format!("the change was interrupted: {error}")).into())
    })
}

type Listener = Arc<dyn Fn(RegistryChange) + Send + Sync>;

/// The service.
pub struct Registry {
    storage: Arc<dyn Storage>,
    trust: Arc<TrustStore>,
    audit: Arc<AuditLog>,
    metrics: Arc<GateMetrics>,
    settings: RegistrySettings,
    /// Those of the settings at first.
    policy: ArcSwap<PathPolicy>,
    cache: Cache,
    flights: Flights,
    /// Those of the storage; the configuration's are in the trust store only.
    cas: ArcSwap<Vec<CaCertificate>>,
    retirement: RetirementSlot,
    /// Held while CAs change.
    cas_writing: Arc<tokio::sync::Mutex<()>>,
    seen: Mutex<HashMap<CertificateFingerprint, UnixMillis>>,
    listeners: Mutex<Vec<Listener>>,
    failing: AtomicBool,
    /// Number of the newest event.
    newest_event: tokio::sync::watch::Sender<u64>,
    rotation: Rotation,
    /// Where the sweep over pending certificates has come to.
    pending_cursor: Mutex<Option<Cursor>>,
    tombstones: tombstones::Sweep,
}

/// Certificates whose `last_seen` may wait to be written; more are not remembered.
const MOST_SEEN: usize = 100_000;
/// Certificates whose `last_seen` is written in one step.
const SEEN_BATCH: usize = 2_000;

impl Registry {
    /// Reads the CAs into `trust`. The audit log gets one durable record for each change.
    pub async fn open(
        storage: Arc<dyn Storage>,
        trust: Arc<TrustStore>,
        audit: Arc<AuditLog>,
        metrics: Arc<GateMetrics>,
        settings: RegistrySettings,
    ) -> Result<Arc<Self>, RegistryError> {
        let registry = Arc::new(Self {
            cache: Cache::new(settings.cache),
            policy: ArcSwap::from_pointee(settings.policy.clone()),
            storage,
            trust,
            audit,
            metrics,
            settings,
            flights: Flights::default(),
            cas: ArcSwap::default(),
            retirement: RetirementSlot::default(),
            cas_writing: Arc::default(),
            seen: Mutex::default(),
            listeners: Mutex::default(),
            failing: AtomicBool::new(false),
            newest_event: tokio::sync::watch::Sender::new(0),
            rotation: Rotation::default(),
            pending_cursor: Mutex::default(),
            tombstones: tombstones::Sweep::default(),
        });
        registry.load_cas().await?;
        let newest = registry.blocking(|storage| storage.events(u64::MAX, 0)).await?.newest;
        registry.newest_event.send_replace(newest);
        let counts = registry.blocking(|storage| storage.device_certificate_counts()).await?;
        for ((ca, state), count) in counts {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            registry.device_gauge(ca, state).add(count);
        }
        Ok(registry)
    }

    /// Says who keeps CAs valid that are replaced or removed; the first one stays.
    pub fn retires_with(&self, retirement: &Arc<dyn Retirement>) {
        self.retirement.fill(retirement);
    }

    /// Has `live` send away whoever a change bars.
    pub fn disconnects(&self, live: &Arc<Live>) {
        let live: Weak<Live> = Arc::downgrade(live);
        self.on_change(move |change| {
            if let Some(live) = live.upgrade() {
                live.registry_changed(change);
            }
        });
    }

    /// Calls `listener` after each change that bars somebody: the change is visible to new lookups by then.
    pub fn on_change(&self, listener: impl Fn(RegistryChange) + Send + Sync + 'static) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(listener));
    }

    /// Whether the storage worked when it was last used.
    pub fn is_healthy(&self) -> bool {
        !self.failing.load(Ordering::Acquire)
    }

    /// Whether new connections under this CA are welcome.
    pub fn trusts(&self, ca: CertificateFingerprint) -> bool {
        self.trust.current().contains(ca)
    }

    pub(crate) fn policy(&self) -> Arc<PathPolicy> {
        self.policy.load_full()
    }

    /// Judges by these rules from now on.
    pub fn configure(&self, policy: PathPolicy) {
        self.policy.store(Arc::new(policy));
    }

    /// No CA is added, replaced or removed as long as the answer lives.
    pub async fn hold_cas(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.cas_writing.lock().await
    }

    /// The record of a certificate, if there is one; from memory, mostly.
    pub async fn lookup(
        &self,
        id: CertificateFingerprint,
    ) -> Result<Option<Arc<DeviceCertificate>>, StorageError> {
        let count = |result: LookupResult| {
            self.metrics.registry_lookups.with_label_values(&[result.as_str()]).inc();
        };
        if let Some(known) = self.cache.get(&id) {
            count(if known.is_some() { LookupResult::Hit } else { LookupResult::NegativeHit });
            return Ok(known);
        }
        count(LookupResult::Miss);
        let before = self.cache.epoch(&id);
        let record = self.blocking(move |storage| storage.device_certificate(&id)).await?.map(Arc::new);
        // What was read may be older than a change made meanwhile: then it is not remembered.
        self.cache.put_if(before, id, record.clone());
        Ok(record)
    }

    /// Notes that a certificate was used; written later, with others.
    pub fn seen(&self, id: CertificateFingerprint) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() < MOST_SEEN {
            seen.insert(id, clock::now());
        }
    }

    /// Writes `last_seen` now and then, and tries a storage that failed, until `shutdown`. To be run once.
    pub async fn housekeeping(self: Arc<Self>, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(self.settings.housekeeping);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut swept = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = tick.tick() => {}
            }
            if !self.is_healthy() {
                // Only whether it works is of interest: `blocking` notes it.
                let _ = self.blocking(|storage| storage.ca_certificates()).await;
            }
            self.end_retirements().await;
            self.end_supersessions().await;
            if swept.is_none_or(|at: tokio::time::Instant| at.elapsed() >= sweeps::PERIOD) {
                swept = Some(tokio::time::Instant::now());
                self.sweep().await;
            }
            self.sweep_tombstones_in_time().await;
            self.write_seen().await;
        }
        self.write_seen().await;
    }

    async fn write_seen(self: &Arc<Self>) {
        let granularity = u64::try_from(self.settings.last_seen_granularity.as_millis()).unwrap_or(u64::MAX);
        loop {
            let batch: Vec<_> = {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                let ids: Vec<_> = seen.keys().take(SEEN_BATCH).copied().collect();
                ids.into_iter().filter_map(|id| seen.remove(&id).map(|at| (id, at))).collect()
            };
            if batch.is_empty() {
                return;
            }
            let mut due = Vec::new();
            for (id, at) in batch {
                let Ok(Some(record)) = self.lookup(id).await else { continue };
                let recent = record.last_seen.is_some_and(|last| at.0.saturating_sub(last.0) < granularity);
                if !recent && record.state == DeviceState::Active {
                    due.push((id, at));
                }
            }
            if due.is_empty() {
                continue;
            }
            let written = due.clone();
            match self.blocking(move |storage| storage.touch_device_certificates(&written)).await {
                Ok(()) => due.into_iter().for_each(|(id, at)| self.cache.seen(&id, at)),
                Err(error) => {
                    tracing::warn!(%error, certificates = due.len(), "last_seen is not written");
                    return;
                }
            }
        }
    }

    /// Events with a number above `after`, in order, at most `limit`.
    pub async fn events(&self, after: u64, limit: usize) -> Result<EventsPage, RegistryError> {
        Ok(self.blocking(move |storage| storage.events(after, limit)).await?)
    }

    /// The number of the newest event; changes with each.
    pub fn watch_events(&self) -> tokio::sync::watch::Receiver<u64> {
        self.newest_event.subscribe()
    }

    /// Puts events into the outbox that are about no change of a record.
    pub async fn announce(&self, events: Vec<NewEvent>) -> Result<(), RegistryError> {
        Ok(self.store(RegistryChanges { writes: Vec::new(), events }).await?)
    }

    /// A page of the records that a query is for.
    pub async fn query(&self, query: DeviceQuery) -> Result<DevicePage, RegistryError> {
        Ok(self.blocking(move |storage| storage.query_device_certificates(&query)).await?)
    }

    /// For queries by what records come to now.
    pub fn effective_filter(&self, wanted: Effective) -> EffectiveFilter {
        EffectiveFilter { wanted, cas: self.cas(), policy: (*self.policy()).clone(), now: clock::now() }
    }

    /// What keeps a certificate out besides its state, as far as its record and its CA show.
    pub fn conditions(&self, record: &DeviceCertificate) -> Vec<Condition> {
        rules::conditions(record, self.ca(record.ca_id).as_ref(), &self.policy(), clock::now())
    }

    /// Whether a certificate may connect, as far as its record and its CA show.
    pub fn effective(&self, record: &DeviceCertificate) -> Result<(), Reason> {
        rules::effective(record, self.ca(record.ca_id).as_ref(), &self.policy(), clock::now())
    }

    /// Ids of devices above `after`, in order, at most `limit`.
    pub async fn device_ids(
        &self,
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<String>, RegistryError> {
        Ok(self.blocking(move |storage| storage.device_ids(after.as_deref(), limit)).await?)
    }

    /// Every certificate registered for a device of this id, in whatever trust domain.
    pub async fn certificates_of(&self, device_id: String) -> Result<Vec<DeviceCertificate>, RegistryError> {
        Ok(self.blocking(move |storage| storage.certificates_of_device(&device_id)).await?)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Storage) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let storage = Arc::clone(&self.storage);
        let answer = request::spawn_blocking(move || work(&*storage))
            .await
            .unwrap_or_else(|error| Err(StorageError::Unavailable(format!("the storage panicked: {error}"))));
        let failing = matches!(answer, Err(StorageError::Unavailable(_) | StorageError::Corrupt(_)));
        if self.failing.swap(failing, Ordering::AcqRel) != failing {
            match &answer {
                Err(error) => {
                    tracing::error!(%error, "the registry's storage fails: unknown devices are refused");
                }
                Ok(_) => tracing::warn!("the registry's storage works again"),
            }
        }
        answer
    }

    fn count(&self, change: &Change) {
        let name = |state: Option<DeviceState>| state.map_or("none", device_state);
        let state = |record: &Option<Arc<DeviceCertificate>>| record.as_ref().map(|record| record.state);
        let (from, to) = (state(&change.before), state(&change.after));
        let Some(record) = change.after.as_ref().or(change.before.as_ref()) else { return };
        if from != to {
            let ca = self.ca_name(record.ca_id);
            let labels = [&*ca, name(from), name(to), change.source];
            self.metrics.device_transitions.with_label_values(&labels).inc();
        }
        if let Some(before) = &change.before {
            self.device_gauge(before.ca_id, before.state).dec();
        }
        if let Some(after) = &change.after {
            self.device_gauge(after.ca_id, after.state).inc();
        }
    }

    fn tell(&self, change: RegistryChange) {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for listener in listeners {
            listener(change);
        }
    }

    async fn record(&self, event: AuditEvent) -> Result<(), RegistryError> {
        self.audit.record_durable(event).await.map(drop).map_err(unwritten)
    }

    /// The name of a CA for metrics and people.
    fn ca_name(&self, id: CertificateFingerprint) -> String {
        self.ca(id).map_or_else(|| "other".to_owned(), |ca| ca.name)
    }

    fn device_gauge(&self, ca: CertificateFingerprint, state: DeviceState) -> prometheus::IntGauge {
        let ca = self.ca_name(ca);
        self.metrics.device_certificates.with_label_values(&[NAMESPACE, &*ca, device_state(state)])
    }
}

#[cfg(test)]
mod tests;
