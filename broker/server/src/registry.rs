//! The registry of device certificates and CAs, as a service: cached lookups, changes that are durable,
//! audited and known to every connection, one at a time per certificate.
//!
//! What a change may be is decided by the pure rules of `mqgate-identity`; where records are kept is behind
//! [`Storage`]. Does not know MQTT.

mod cache;
mod cas;
mod devices;
mod flight;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use mqgate_identity::audit::AuditEvent;
use mqgate_identity::certificate::{CertificateError, CertificateFingerprint};
use mqgate_identity::evaluation::{PathPolicy, Rejection};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::rules::{RuleError, Write};
use mqgate_identity::registry::{CaCertificate, DeviceCertificate, DeviceState, Storage, StorageError};
use mqgate_identity::time::UnixMillis;
use tokio_util::sync::CancellationToken;

use self::cache::Cache;
pub use self::cas::RetiredCa;
pub use self::devices::{JitRegistration, ManualRegistration};
pub(crate) use self::flight::Flight;
use self::flight::Flights;
use crate::audit::{AuditLog, AuditRefused};
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
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            cache: 65_536,
            policy: PathPolicy::default(),
            last_seen_granularity: Duration::from_secs(600),
            housekeeping: Duration::from_secs(5),
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
    #[error("{0}")]
    Storage(#[from] StorageError),
    #[error("{0}")]
    Audit(#[from] AuditRefused),
}

impl RegistryError {
    /// What a client hears of it that is being registered.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Rule(RuleError::Revoked) => Reason::CertRevoked,
            Self::Rule(RuleError::Tombstoned) => Reason::CertTombstoned,
            Self::Rule(RuleError::Expired { .. }) => Reason::CertExpired,
            Self::Rule(RuleError::Ca(_)) => Reason::CaInactive,
            Self::NotFound
            | Self::Rule(_)
            | Self::Certificate(_)
            | Self::Pem(_)
            | Self::NoPath(_)
            | Self::Trust(_)
            | Self::Configured
            | Self::Retiring
            | Self::SameCa
            | Self::Retirement(_)
            | Self::DeviceExists(_) => Reason::ProvisionDenied,
            Self::Storage(_) => Reason::RegistryUnavailable,
            Self::Audit(_) => Reason::AuditUnavailable,
        }
    }
}

/// Something live connections have to know at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistryChange {
    /// Connections with this certificate have to go.
    DeviceBarred { certificate: CertificateFingerprint, reason: Reason },
    /// Connections whose path ends in this CA have to go.
    CaRemoved { ca: CertificateFingerprint },
}

/// What goes with a record that is written, other than the record.
struct Change {
    /// CA and state of the record it replaces.
    before: Option<(CertificateFingerprint, DeviceState)>,
    source: &'static str,
    event: AuditEvent,
}

/// Runs `work` to its end even if the caller stops waiting: half a change would be worse than none.
async fn finished<T: Send + 'static>(
    work: impl Future<Output = Result<T, RegistryError>> + Send + 'static,
) -> Result<T, RegistryError> {
    tokio::spawn(work).await.unwrap_or_else(|error| {
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
    cas_writing: tokio::sync::Mutex<()>,
    seen: Mutex<HashMap<CertificateFingerprint, UnixMillis>>,
    listeners: Mutex<Vec<Listener>>,
    failing: AtomicBool,
}

/// Certificates whose `last_seen` may wait to be written; more are not remembered.
const MOST_SEEN: usize = 100_000;
/// Records written for `last_seen` in one round.
const SEEN_BATCH: usize = 1_000;

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
            cas_writing: tokio::sync::Mutex::default(),
            seen: Mutex::default(),
            listeners: Mutex::default(),
            failing: AtomicBool::new(false),
        });
        registry.load_cas().await?;
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
        let before = self.cache.epoch();
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
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = tick.tick() => {}
            }
            if !self.is_healthy() {
                // Only whether it works is of interest: `blocking` notes it.
                let _ = self.blocking(|storage| storage.ca_certificates()).await;
            }
            self.write_seen().await;
        }
        self.write_seen().await;
    }

    async fn write_seen(self: &Arc<Self>) {
        let batch: Vec<_> = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let ids: Vec<_> = seen.keys().take(SEEN_BATCH).copied().collect();
            ids.into_iter().filter_map(|id| seen.remove(&id).map(|at| (id, at))).collect()
        };
        let granularity = u64::try_from(self.settings.last_seen_granularity.as_millis()).unwrap_or(u64::MAX);
        for (id, at) in batch {
            let Ok(Some(record)) = self.lookup(id).await else { continue };
            let recent = record.last_seen.is_some_and(|last| at.0.saturating_sub(last.0) < granularity);
            if recent || record.state != DeviceState::Active {
                continue;
            }
            let flight = self.flights.enter(id).await;
            let Ok(Some(record)) = self.lookup(id).await else { continue };
            let mut next = DeviceCertificate::clone(&record);
            next.last_seen = Some(at);
            next.revision += 1;
            let write = Write { record: next, expected: Some(record.revision) };
            if let Err(error) = self.commit(flight, write, None).await {
                tracing::warn!(%error, certificate = %id, "last_seen is not written");
            }
        }
    }

    /// Makes a change: stored, seen by every new lookup, made known to live connections, written down, in this
    /// order. Once begun it is finished, whether or not the caller still waits.
    async fn commit(
        self: &Arc<Self>,
        flight: Flight,
        write: Write<DeviceCertificate>,
        change: Option<Change>,
    ) -> Result<Arc<DeviceCertificate>, RegistryError> {
        let this = Arc::clone(self);
        finished(async move {
            let record = this.put(write.record, write.expected).await?;
            if let Some(Change { before, source, event }) = change {
                this.count(before, &record, source);
                if let Some(reason) = devices::barred(&record).filter(|_| before.is_some()) {
                    this.tell(RegistryChange::DeviceBarred { certificate: record.id, reason });
                }
                this.record(event).await?;
            }
            drop(flight);
            Ok(record)
        })
        .await
    }

    async fn put(
        &self,
        record: DeviceCertificate,
        expected: Option<u64>,
    ) -> Result<Arc<DeviceCertificate>, StorageError> {
        let record = Arc::new(record);
        let to_store = Arc::clone(&record);
        let written = self.blocking(move |storage| storage.put_device_certificate(&to_store, expected)).await;
        match written {
            Ok(()) => self.cache.put(record.id, Some(Arc::clone(&record))),
            // Whatever is stored now, it is not known here.
            Err(_) => self.cache.forget(&record.id),
        }
        written.map(|()| record)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Storage) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let storage = Arc::clone(&self.storage);
        let answer = tokio::task::spawn_blocking(move || work(&*storage))
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

    fn count(
        &self,
        before: Option<(CertificateFingerprint, DeviceState)>,
        after: &DeviceCertificate,
        source: &str,
    ) {
        let ca = self.ca_name(after.ca_id);
        let from = before.map_or("none", |(_, state)| device_state(state));
        let labels = [&*ca, from, device_state(after.state), source];
        self.metrics.device_transitions.with_label_values(&labels).inc();
        if let Some((ca, state)) = before {
            self.device_gauge(ca, state).dec();
        }
        self.device_gauge(after.ca_id, after.state).inc();
    }

    fn tell(&self, change: RegistryChange) {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for listener in listeners {
            listener(change);
        }
    }

    async fn record(&self, event: AuditEvent) -> Result<(), RegistryError> {
        self.audit.record_durable(event).await.map(drop).map_err(|refused| {
            tracing::error!(%refused, "a change of the registry was made and is not in the audit log");
            RegistryError::Audit(refused)
        })
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
