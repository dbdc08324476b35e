//! What an unknown certificate has to get past before a registrar is asked about it, and where its client waits for
//! an operator: rates, quotas, places to wait, and a list of those that were not registered.
//!
//! Decides from numbers and settings only; what a CA lets in is a rule of the registry, what a plugin says is the
//! gate's. Everything here is in memory and bounded: who is refused writes nothing.

mod buckets;
mod metrics;
mod parking;
mod quota;
mod rejected;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::CaCertificate;
use mqgate_identity::time::UnixMillis;

use self::buckets::Buckets;
pub use self::buckets::{Empty, ProvisionRates, Rate};
pub use self::metrics::ProvisionMetrics;
pub(crate) use self::metrics::Wait;
use self::parking::{Parked, Parking};
use self::quota::InFlight;
pub(crate) use self::quota::Reservation;
pub use self::rejected::Rejected;
use self::rejected::Ring;
use crate::gate::Accepted;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvisionSettings {
    pub rates: ProvisionRates,
    /// Certificates of one CA that are neither revoked nor deleted, where its record names no number; `None`: as
    /// many as come.
    pub max_device_certs: Option<u64>,
    /// Certificates that wait for an operator, of all CAs.
    pub max_pending: Option<u64>,
    /// How long a client waits for its certificate to be activated; zero: not at all.
    pub park_timeout: Duration,
    pub max_parked: usize,
    /// Certificates in the list of those that were not registered.
    pub max_rejected: usize,
}

/// Nobody waits and nothing is limited: what an operator wants is in the configuration.
impl Default for ProvisionSettings {
    fn default() -> Self {
        Self {
            rates: ProvisionRates::default(),
            max_device_certs: None,
            max_pending: None,
            park_timeout: Duration::ZERO,
            max_parked: 1_000,
            max_rejected: 1_000,
        }
    }
}

/// Why nothing is registered now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Rate { bucket: Empty, retry_after: Duration },
    Quota { registered: u64, maximum: u64 },
    Pending { maximum: u64 },
}

pub struct Provision {
    buckets: Buckets,
    parking: Parking,
    ring: Ring,
    in_flight: Arc<InFlight>,
    metrics: Arc<ProvisionMetrics>,
    started: Instant,
}

impl Provision {
    pub(crate) fn new(metrics: Arc<ProvisionMetrics>) -> Self {
        Self {
            buckets: Buckets::default(),
            parking: Parking::default(),
            ring: Ring::default(),
            in_flight: Arc::default(),
            metrics,
            // Full buckets are those whose moment is past: there has to be a past.
            started: Instant::now(),
        }
    }

    /// Takes a token for one registration under `ca` from `source`.
    pub(crate) fn take(
        &self,
        settings: &ProvisionSettings,
        ca: &CaCertificate,
        source: IpAddr,
    ) -> Result<(), Held> {
        let of_ca =
            ca.settings.registration_rate.map(|rate| Rate::per_minute(rate.per_minute.max(1), rate.burst));
        let rates = ProvisionRates { ca: of_ca.unwrap_or(settings.rates.ca), ..settings.rates };
        self.buckets.take(&rates, ca.id, source, self.started.elapsed()).map_err(|(bucket, retry_after)| {
            self.metrics.rate_limited.with_label_values(&[bucket.as_str()]).inc();
            Held::Rate { bucket, retry_after }
        })
    }

    /// A place for one more certificate of `ca`, until it is written or not. `count` says how many there are: of this
    /// CA, and how many wait for an operator.
    pub(crate) fn reserve(&self, ca: CertificateFingerprint) -> Reservation {
        InFlight::enter(&self.in_flight, ca)
    }

    /// Whether a reservation fits; asked after it was made, so that of two at once neither overlooks the other.
    pub(crate) fn fits(
        &self,
        settings: &ProvisionSettings,
        ca: &CaCertificate,
        reservation: &Reservation,
        registered: u64,
        pending: u64,
    ) -> Result<(), Held> {
        let (of_ca, of_all) = reservation.in_flight();
        if let Some(maximum) = ca.settings.max_device_certs.or(settings.max_device_certs)
            && registered.saturating_add(of_ca) > maximum
        {
            return Err(Held::Quota { registered, maximum });
        }
        match settings.max_pending {
            Some(maximum) if pending.saturating_add(of_all) > maximum => Err(Held::Pending { maximum }),
            _ => Ok(()),
        }
    }

    /// Notes a certificate that is not registered.
    pub(crate) fn rejected(
        &self,
        settings: &ProvisionSettings,
        accepted: &Accepted,
        reason: Reason,
        why: (Option<&str>, Option<&str>),
        now: UnixMillis,
    ) {
        self.ring.note(settings.max_rejected, accepted, reason, why, now);
        self.count_rejected();
    }

    /// It was registered after all.
    pub(crate) fn accepted(&self, id: &CertificateFingerprint) {
        self.ring.forget(id);
        self.count_rejected();
    }

    /// The last certificates that were not registered, the latest first.
    pub fn rejections(&self) -> Vec<Rejected> {
        self.ring.list()
    }

    fn count_rejected(&self) {
        self.metrics.rejected.set(i64::try_from(self.ring.len()).unwrap_or(i64::MAX));
    }

    /// The record of a certificate has changed: who waits for that looks again.
    pub(crate) fn changed(&self, id: CertificateFingerprint) {
        self.parking.release(id);
    }

    /// Lets nobody wait any more.
    pub fn close(&self) {
        self.parking.close();
    }

    /// Forgets what is over.
    pub(crate) fn sweep(&self) {
        self.buckets.sweep(self.started.elapsed());
    }

    /// A place to wait for an operator, if there is one.
    pub(crate) fn park(
        &self,
        settings: &ProvisionSettings,
        listener: &str,
        id: CertificateFingerprint,
    ) -> Option<Waiting> {
        if settings.park_timeout.is_zero() {
            return None;
        }
        let Some(parked) = self.parking.park(id, settings.max_parked) else {
            self.metrics.not_parked.with_label_values(&[listener]).inc();
            return None;
        };
        Some(Waiting {
            parked,
            until: tokio::time::Instant::now() + settings.park_timeout,
            outcomes: self.metrics.released.clone(),
            _standing: Standing::on(self.metrics.parked.with_label_values(&[listener])),
        })
    }
}

/// A client that waits for its certificate to be activated.
pub(crate) struct Waiting {
    parked: Parked,
    until: tokio::time::Instant,
    outcomes: prometheus::IntCounterVec,
    _standing: Standing,
}

impl Waiting {
    /// To be called before one looks at the record: a change in between would go unheard.
    pub(crate) fn listen(&self) -> impl Future<Output = ()> + use<> {
        self.parked.listen()
    }

    /// Whether the record has changed since one listened; not if the time is over, or the broker stops.
    pub(crate) async fn has_changed(&self, changed: impl Future<Output = ()>) -> bool {
        !self.parked.is_over() && tokio::time::timeout_at(self.until, changed).await.is_ok()
    }

    pub(crate) fn ended(self, outcome: Wait) {
        self.outcomes.with_label_values(&[outcome.as_str()]).inc();
    }
}

/// One more in a gauge, until it is dropped.
struct Standing(prometheus::IntGauge);

impl Standing {
    fn on(gauge: prometheus::IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Held {
    pub(crate) const fn reason(self) -> Reason {
        match self {
            Self::Rate { .. } => Reason::ProvisionRateLimited,
            Self::Quota { .. } | Self::Pending { .. } => Reason::ProvisionQuota,
        }
    }

    /// Seconds, rounded up.
    pub(crate) fn retry_after(self) -> Option<u32> {
        match self {
            Self::Rate { retry_after, .. } => {
                Some(u32::try_from(retry_after.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1))
            }
            Self::Quota { .. } | Self::Pending { .. } => None,
        }
    }
}

/// For the operator.
impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rate { bucket: Empty::Global, .. } => {
                f.write_str("the broker registers no more at a time (`provisioning.rate`)")
            }
            Self::Rate { bucket: Empty::Ca, .. } => f.write_str(
                "the CA registers no more at a time (its `registration_rate`, or `provisioning.ca_rate`)",
            ),
            Self::Rate { bucket: Empty::Source, .. } => {
                f.write_str("the address registers no more at a time (`provisioning.source_rate`)")
            }
            Self::Quota { registered, maximum } => write!(
                f,
                "the CA has {registered} certificates registered, its maximum is {maximum} (its \
                 `max_device_certs`, or `provisioning.max_device_certs`)"
            ),
            Self::Pending { maximum } => write!(
                f,
                "{maximum} certificates wait for an operator already (`provisioning.max_pending`): approve or \
                 reject them"
            ),
        }
    }
}
