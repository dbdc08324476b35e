//! One certificate on two devices: seen when it is used under more client ids than it may be, or when two addresses
//! take one client id from each other again and again.
//!
//! Knows who is connected and who came lately; what is done about a finding is the gate's. A device that moves from
//! one network to another is not two devices: what counts is an older connection that was alive when it was taken
//! over, and an address that comes back.

mod uses;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::source::source_of;
use mqgate_protocol::time::Instant;
use prometheus::{IntCounterVec, IntGauge, Opts};

use self::uses::Uses;
use crate::broker::Broker;
use crate::directory::{ConnectionHandle, Mark, lock};

/// What is done when a certificate is found on two devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnShared {
    /// It is told, and nothing else.
    #[default]
    Alert,
    /// Whoever comes is refused.
    RejectNew,
    /// Whoever was there has to go.
    KickOld,
    /// The certificate is kept out until an operator has looked at it.
    Quarantine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharingSettings {
    pub policy: OnShared,
    /// Client ids that one certificate is used under at a time.
    pub max_client_ids: usize,
    /// How long a client id counts after it was used from another address.
    pub window: Duration,
    /// More takeovers than this …
    pub max_takeovers: usize,
    /// … within this time are two devices.
    pub takeover_window: Duration,
    /// Certificates that are remembered at the same time; of others only what is connected is known.
    pub watched: usize,
}

impl Default for SharingSettings {
    fn default() -> Self {
        Self {
            policy: OnShared::Alert,
            max_client_ids: 1,
            window: Duration::from_secs(60),
            max_takeovers: 3,
            takeover_window: Duration::from_secs(60),
            watched: 100_000,
        }
    }
}

/// A client that is about to be admitted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival<'a> {
    pub(crate) connection_id: u64,
    pub(crate) certificate: CertificateFingerprint,
    pub(crate) device_id: &'a str,
    pub(crate) client_id: &'a str,
    pub(crate) address: IpAddr,
    /// Seconds; 0: it is never silent for too long.
    pub(crate) keep_alive: u16,
}

/// One certificate is on two devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) evidence: Evidence,
    pub(crate) action: OnShared,
    /// It was not told lately.
    pub(crate) is_news: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Evidence {
    ClientIds { ids: BTreeSet<String>, allowed: usize },
    Takeovers { count: usize, addresses: BTreeSet<IpAddr> },
}

/// Who is silent for longer than this is not known to be alive, if its client promised nothing.
const SILENCE: Duration = Duration::from_secs(90);
/// Connections of one certificate that are looked at when another comes: more are no other case.
const MOST_LOOKED_AT: usize = 64;
/// Client ids and addresses named in a finding.
const MOST_NAMED: usize = 8;

pub struct Sharing {
    broker: Weak<Broker>,
    settings: ArcSwap<SharingSettings>,
    seen: Mutex<HashMap<CertificateFingerprint, Uses>>,
    detections: IntCounterVec,
    watched: IntGauge,
}

impl Sharing {
    pub fn new(
        broker: &Arc<Broker>,
        metrics: &prometheus::Registry,
        settings: SharingSettings,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let detections = IntCounterVec::new(
            Opts::new(
                "mqgate_cert_shared_detections_total",
                "Arrivals by which a certificate was found on more than one device, by what was done about it.",
            ),
            &["ca", "action"],
        )?;
        let watched = IntGauge::new(
            "mqgate_cert_shared_watched",
            "Certificates whose last uses are remembered to find those on more than one device.",
        )?;
        metrics.register(Box::new(detections.clone()))?;
        metrics.register(Box::new(watched.clone()))?;
        Ok(Arc::new(Self {
            broker: Arc::downgrade(broker),
            settings: ArcSwap::from_pointee(settings),
            seen: Mutex::default(),
            detections,
            watched,
        }))
    }

    pub fn configure(&self, settings: SharingSettings) {
        self.settings.store(Arc::new(settings));
    }

    /// Looks at who comes, and at who is there. Whoever is not refused for what is found is remembered.
    pub(crate) fn judge(&self, comes: Arrival<'_>, ca: &str) -> Option<Finding> {
        let broker = self.broker.upgrade()?;
        let settings = self.settings.load();
        let now = broker.now();
        let mark = Mark::Certificate(comes.certificate);
        let mut others = broker.connections().find_some(mark, MOST_LOOKED_AT);
        others.extend(
            broker
                .holder(comes.device_id, comes.client_id)
                .filter(|holder| holder.certificate_fingerprint == Some(comes.certificate)),
        );
        others.retain(|other| {
            other.connection_id != comes.connection_id
                && other.farewell().is_none()
                && other.admitted().is_some()
        });
        let mut seen = lock(&self.seen);
        if seen.len() >= settings.watched && !seen.contains_key(&comes.certificate) {
            seen.retain(|_, uses| uses.tidy(&settings, now));
        }
        let room = seen.len() < settings.watched;
        let mut none = Uses::default();
        let uses = match seen.get_mut(&comes.certificate) {
            Some(uses) => uses,
            None if room => seen.entry(comes.certificate).or_default(),
            None => &mut none,
        };
        uses.tidy(&settings, now);
        let found = found(&settings, uses, &comes, &others, now);
        let finding = found.map(|evidence| {
            let is_news = uses.tell(&settings, now);
            self.detections.with_label_values(&[ca, settings.policy.as_str()]).inc();
            Finding { evidence, action: settings.policy, is_news }
        });
        if !finding.as_ref().is_some_and(|finding| finding.action == OnShared::RejectNew) {
            uses.used(comes.client_id, source_of(comes.address), comes.keep_alive, now);
        }
        self.watched.set(i64::try_from(seen.len()).unwrap_or(i64::MAX));
        finding
    }

    /// Sends away who uses the certificate under another client id: whoever uses it under this one is taken over.
    pub(crate) fn others(&self, comes: Arrival<'_>) -> Vec<Arc<ConnectionHandle>> {
        let Some(broker) = self.broker.upgrade() else { return Vec::new() };
        let mut others = broker.connections().find(Mark::Certificate(comes.certificate));
        others.retain(|other| {
            other.connection_id != comes.connection_id && other.client_id() != Some(comes.client_id)
        });
        others
    }

    /// Forgets what is over.
    pub(crate) fn sweep(&self) {
        let Some(broker) = self.broker.upgrade() else { return };
        let (settings, now) = (self.settings.load(), broker.now());
        let mut seen = lock(&self.seen);
        seen.retain(|_, uses| uses.tidy(&settings, now));
        if seen.is_empty() && seen.capacity() > 1024 {
            *seen = HashMap::new();
        }
        self.watched.set(i64::try_from(seen.len()).unwrap_or(i64::MAX));
    }
}

fn found(
    settings: &SharingSettings,
    uses: &mut Uses,
    comes: &Arrival<'_>,
    others: &[Arc<ConnectionHandle>],
    now: Instant,
) -> Option<Evidence> {
    let source = source_of(comes.address);
    let alive = |other: &ConnectionHandle, client_id: &str| {
        let allowed = match uses.keep_alive(client_id) {
            None | Some(0) => SILENCE,
            // One and a half keep-alives [MQTT-3.1.2-22].
            Some(keep_alive) => Duration::from_millis(u64::from(keep_alive) * 1500),
        };
        other.heard_within(now, allowed)
    };
    let taken_over = others.iter().find(|other| other.client_id() == Some(comes.client_id));
    let from = taken_over
        .filter(|older| alive(older, comes.client_id))
        .map(|older| source_of(older.peer_address))
        .filter(|from| *from != source);
    let mut ids: BTreeSet<&str> = others
        .iter()
        .filter_map(|other| other.client_id().filter(|client_id| alive(other, client_id)))
        .collect();
    ids.extend(uses.elsewhere(source));
    ids.insert(comes.client_id);
    let too_many = ids.len() > settings.max_client_ids;
    let named: BTreeSet<String> = ids.into_iter().take(MOST_NAMED).map(str::to_owned).collect();
    if let Some(from) = from {
        uses.taken_over(from, source, now);
    }
    let takeovers = uses.takeovers();
    if takeovers.count > settings.max_takeovers && takeovers.somebody_came_back {
        let addresses = takeovers.addresses.into_iter().take(MOST_NAMED).collect();
        return Some(Evidence::Takeovers { count: takeovers.count, addresses });
    }
    too_many.then_some(Evidence::ClientIds { ids: named, allowed: settings.max_client_ids })
}

impl OnShared {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::RejectNew => "reject_new",
            Self::KickOld => "kick_old",
            Self::Quarantine => "quarantine",
        }
    }
}

/// For the operator.
impl std::fmt::Display for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ClientIds { ids, allowed } => {
                write!(f, "used under the client ids {ids:?}, {allowed} allowed at a time")
            }
            Self::Takeovers { count, addresses } => {
                write!(f, "{count} takeovers of a live connection, back and forth between")?;
                addresses.iter().try_for_each(|address| write!(f, " {address}"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
