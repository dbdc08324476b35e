//! Whether who is connected may stay: when a certificate is revoked, a CA goes, a list of revoked certificates
//! arrives, or time runs out, those concerned are found by index, judged again, and sent away with the reason.
//!
//! Knows connections and how a listener judges a path; what a change is, and who made it, others know.

mod metrics;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use mqgate_codec::ReasonCode;
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::certificate::{CertificateFacts, CertificateFingerprint, ClientCertificate, NameKey};
use mqgate_identity::evaluation::{PathPolicy, Rejection, ValidatedPath};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixSeconds;
use tokio_util::sync::CancellationToken;

use self::metrics::LiveMetrics;
use crate::audit::AuditLog;
use crate::broker::Broker;
use crate::clock;
use crate::directory::{Cause, ConnectionHandle, Farewell, Mark, lock};
use crate::gate::connack_code;
use crate::registry::RegistryChange;
use crate::trust::TrustStore;

/// What made somebody ask whether connections may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// The registry bars one certificate.
    Certificate,
    /// A CA is trusted no longer: removed, unbound, or the end of its transition.
    Ca,
    /// A list of revoked certificates arrived.
    Crl,
    /// How a listener judges paths was changed.
    Policy,
    /// A certificate, or one above it, has expired.
    Expiry,
    /// The configuration was changed and was to take effect on live connections.
    Config,
}

/// What happens to a connection whose certificate expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnExpiry {
    #[default]
    Disconnect,
    /// It stays, and the audit log says so.
    Warn,
    Ignore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LiveSettings {
    pub on_expiry: OnExpiry,
    /// Connections closed in a second when a change bars many of them; 0 closes them at once.
    pub drain_rate: u32,
}

/// How a listener judges the path of a certificate: as in its handshake.
#[derive(Clone)]
pub struct PathRules {
    pub trust: Arc<TrustStore>,
    pub policy: PathPolicy,
}

/// Which connections a look at some of them concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcomes {
    pub kept: usize,
    pub disconnected: usize,
}

/// Judges live connections again.
pub struct Live {
    broker: Arc<Broker>,
    audit: Arc<AuditLog>,
    metrics: LiveMetrics,
    settings: ArcSwap<LiveSettings>,
    /// By listener. One that has none takes no certificates.
    rules: ArcSwap<HashMap<Arc<str>, PathRules>>,
    changing: Mutex<()>,
}

/// Connections judged before the others of the broker get a turn.
const TURN: usize = 256;
/// When a connection is looked at again that expired and stays.
const LATER: i64 = 3600;
/// The clock of the machine may be set: it is looked at this often in any case.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

impl Live {
    pub fn new(
        broker: Arc<Broker>,
        audit: Arc<AuditLog>,
        metrics: &prometheus::Registry,
        settings: LiveSettings,
    ) -> Result<Arc<Self>, prometheus::Error> {
        Ok(Arc::new(Self {
            broker,
            audit,
            metrics: LiveMetrics::register(metrics)?,
            settings: ArcSwap::from_pointee(settings),
            rules: ArcSwap::default(),
            changing: Mutex::default(),
        }))
    }

    pub fn configure(&self, settings: LiveSettings) {
        self.settings.store(Arc::new(settings));
    }

    /// Says how a listener judges from now on; `None`: it takes no certificates.
    pub fn judge_by(&self, listener: &str, rules: Option<PathRules>) {
        let _changing = lock(&self.changing);
        let mut all = HashMap::clone(&self.rules.load());
        match rules {
            Some(rules) => all.insert(listener.into(), rules),
            None => all.remove(listener),
        };
        self.rules.store(Arc::new(all));
    }

    /// What the registry tells those concerned; returns when they were told to go.
    pub fn registry_changed(self: &Arc<Self>, change: RegistryChange) {
        let since = Instant::now();
        match change {
            RegistryChange::DeviceBarred { certificate, reason } => {
                let barred = self.broker.connections().find(Mark::Certificate(certificate));
                for handle in barred {
                    self.send_away(&handle, Trigger::Certificate, reason, since);
                }
            }
            // Nobody is connected by what was not let in before.
            RegistryChange::DeviceChanged { .. } => {}
            RegistryChange::CaRemoved { ca } => self.ca_gone(ca),
        }
    }

    /// A CA is trusted no longer, somewhere or anywhere: whoever came under it and has no other path goes.
    pub fn ca_gone(self: &Arc<Self>, ca: CertificateFingerprint) {
        self.look_at(self.broker.connections().find(Mark::Anchor(ca)), Trigger::Ca, Instant::now());
    }

    /// A list of revoked certificates of `issuer` (DER of its name) is in force, which names these serial
    /// numbers.
    pub fn crl_arrived<'a>(self: &Arc<Self>, issuer: &[u8], serials: impl IntoIterator<Item = &'a [u8]>) {
        let since = Instant::now();
        let connections = self.broker.connections();
        let issuer = NameKey::of(issuer);
        let named = serials.into_iter().flat_map(|serial| connections.find(Mark::Issued { issuer, serial }));
        self.look_at(named.collect(), Trigger::Crl, since);
    }

    /// What is known of an issuer's certificates has changed in general: its list of revoked certificates became
    /// stale, or is gone.
    pub fn issuer_changed(self: &Arc<Self>, issuer: &[u8]) {
        let issuer = NameKey::of(issuer);
        self.look_at(self.broker.connections().find(Mark::Issuer(issuer)), Trigger::Crl, Instant::now());
    }

    /// How a listener judges was changed, and that is to take effect on who is connected.
    pub fn listener_changed(self: &Arc<Self>, listener: &str) {
        self.look_at(
            self.broker.connections().find(Mark::Listener(listener)),
            Trigger::Policy,
            Instant::now(),
        );
    }

    /// Sends these away because of a change of the configuration.
    pub fn dismiss(self: &Arc<Self>, who: Vec<(Arc<ConnectionHandle>, Reason)>) {
        let (this, since) = (Arc::clone(self), Instant::now());
        tokio::spawn(async move {
            let mut pace = Pace::new(this.settings.load().drain_rate);
            for (handle, reason) in who {
                if this.send_away(&handle, Trigger::Config, reason, since) {
                    pace.one_more().await;
                }
            }
        });
    }

    /// Judges a connection as its listener would judge it if it came now; does nothing about it.
    pub fn judge(
        &self,
        handle: &ConnectionHandle,
        now: UnixSeconds,
    ) -> Option<Result<ValidatedPath, Rejection>> {
        Some(self.judge_certificate(&handle.listener, handle.certificate()?, now))
    }

    /// Judges a certificate as this listener would judge it now.
    pub fn judge_certificate(
        &self,
        listener: &str,
        certificate: &ClientCertificate,
        now: UnixSeconds,
    ) -> Result<ValidatedPath, Rejection> {
        let rules = self.rules_of(listener)?;
        let trust = rules.trust.current();
        trust.judge(&certificate.leaf, &certificate.intermediates, &rules.policy, now)
    }

    /// Judges a chain, the client's certificate first, as this listener would judge it in a handshake now.
    pub fn judge_chain(&self, listener: &str, chain: &[Vec<u8>]) -> Result<ValidatedPath, Rejection> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(Rejection {
                reason: Reason::TlsNoPeerCert,
                detail: String::from("there is no certificate"),
            });
        };
        let rules = self.rules_of(listener)?;
        let leaf = CertificateFacts::parse(leaf)?;
        rules.trust.current().judge(&leaf, intermediates, &rules.policy, clock::now().seconds())
    }

    /// The CA that a certificate's path ends in now. Judged again if what its listener trusts, or how it judges, has
    /// changed since; and then the connection is found by what it depends on now.
    pub fn anchor_now(
        &self,
        connection_id: u64,
        listener: &str,
        certificate: &ClientCertificate,
    ) -> Result<CertificateFingerprint, Rejection> {
        let rules = self.rules_of(listener)?;
        if rules.trust.current().judged_by(&rules.policy) == certificate.judged_by {
            return Ok(certificate.anchor.certificate_fingerprint);
        }
        let handle = self.broker.connections().get(connection_id);
        let path = self.settle(listener, certificate, handle.as_ref(), clock::now().seconds())?;
        Ok(path.anchor.certificate_fingerprint)
    }

    /// Judges, and notes what the path depends on. If what counts has changed meanwhile, whoever changed it looked
    /// for those concerned before that was noted: so it is judged again.
    fn settle(
        &self,
        listener: &str,
        certificate: &ClientCertificate,
        handle: Option<&Arc<ConnectionHandle>>,
        now: UnixSeconds,
    ) -> Result<ValidatedPath, Rejection> {
        loop {
            let rules = self.rules_of(listener)?;
            let trust = rules.trust.current();
            let path = trust.judge(&certificate.leaf, &certificate.intermediates, &rules.policy, now)?;
            if let Some(handle) = handle {
                self.stays(handle, &path, now);
            }
            let rules_now = self.rules_of(listener)?;
            if rules_now.trust.current().generation == trust.generation && rules_now.policy == rules.policy {
                return Ok(path);
            }
        }
    }

    /// The same for a connection; `None`: it has no certificate.
    fn settled(
        &self,
        handle: &Arc<ConnectionHandle>,
        now: UnixSeconds,
    ) -> Option<Result<ValidatedPath, Rejection>> {
        Some(self.settle(&handle.listener, handle.certificate()?, Some(handle), now))
    }

    fn rules_of(&self, listener: &str) -> Result<PathRules, Rejection> {
        self.rules.load().get(listener).cloned().ok_or_else(|| Rejection {
            reason: Reason::CaInactive,
            detail: String::from("the listener takes no certificates any more"),
        })
    }

    /// Judges these again, and sends away who may not stay.
    fn look_at(self: &Arc<Self>, who: Vec<Arc<ConnectionHandle>>, trigger: Trigger, since: Instant) {
        if who.is_empty() {
            return;
        }
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let outcomes = this.look(who, trigger, since).await;
            tracing::info!(trigger = trigger.as_str(), ?outcomes, "live connections were judged again");
        });
    }

    async fn look(&self, who: Vec<Arc<ConnectionHandle>>, trigger: Trigger, since: Instant) -> Outcomes {
        let mut outcomes = Outcomes::default();
        let mut pace = Pace::new(self.settings.load().drain_rate);
        let mut last: Option<Verdict> = None;
        for (number, handle) in who.into_iter().enumerate() {
            if number % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
            let now = clock::now().seconds();
            if !last.as_ref().is_some_and(|verdict| verdict.holds_for(&handle, now)) {
                last = self.verdict(&handle, now);
            }
            let Some(verdict) = &last else { continue };
            match self.carried_out(verdict, &handle, now) {
                Ok(()) => {
                    outcomes.kept += 1;
                    self.metrics.kept(trigger);
                }
                Err(rejection) => {
                    let reason = reason_of(&rejection, trigger);
                    tracing::debug!(
                        connection = handle.connection_id,
                        %reason,
                        detail = rejection.detail,
                        "may not stay"
                    );
                    if self.send_away(&handle, trigger, reason, since) {
                        outcomes.disconnected += 1;
                        pace.one_more().await;
                    }
                }
            }
        }
        outcomes
    }

    fn verdict(&self, handle: &ConnectionHandle, at: UnixSeconds) -> Option<Verdict> {
        let (listener, certificate) = (Arc::clone(&handle.listener), Arc::clone(handle.certificate()?));
        let judged_by = self.judged_by(&listener);
        let outcome = self.judge_certificate(&listener, &certificate, at);
        Some(Verdict { listener, certificate, at, judged_by, outcome })
    }

    /// Which trust set and rules a listener judges by.
    fn judged_by(&self, listener: &str) -> Option<u64> {
        let rules = self.rules_of(listener).ok()?;
        Some(rules.trust.current().judged_by(&rules.policy))
    }

    /// Notes what the path depends on; judges again if what counts has changed since, as in [`Self::settle`].
    fn carried_out(
        &self,
        verdict: &Verdict,
        handle: &Arc<ConnectionHandle>,
        now: UnixSeconds,
    ) -> Result<(), Rejection> {
        let path = verdict.outcome.as_ref().map_err(Clone::clone)?;
        self.stays(handle, path, now);
        if self.judged_by(&verdict.listener) == verdict.judged_by {
            return Ok(());
        }
        self.settled(handle, now).map_or(Ok(()), |judged| judged.map(drop))
    }

    /// Its path may be another one now.
    fn stays(&self, handle: &Arc<ConnectionHandle>, path: &ValidatedPath, now: UnixSeconds) {
        let connections = self.broker.connections();
        connections.reparent(handle, path.anchor.certificate_fingerprint);
        // Past its end, it stays by the listener's tolerance: that ends within the second, or later.
        let next = if path.not_after > now { path.not_after } else { UnixSeconds(now.0.saturating_add(1)) };
        connections.set_due(handle, Some(next));
    }

    /// Whether it was this that sent it away.
    fn send_away(&self, handle: &ConnectionHandle, trigger: Trigger, reason: Reason, since: Instant) -> bool {
        let code = match reason {
            Reason::AdminAction => ReasonCode::ADMINISTRATIVE_ACTION,
            reason => connack_code(reason),
        };
        let cause = Cause { since, latency: self.metrics.latency(trigger) };
        let first = handle.close_because(Farewell { code, reason }, cause);
        if first {
            self.metrics.disconnected(trigger);
        }
        first
    }

    /// Looks at connections whose certificates expire, when they do, until `shutdown`. To be run once.
    pub async fn housekeeping(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let now = clock::now();
            let wait = match self.broker.connections().next_due() {
                // Valid up to and with the second that the certificate names.
                Some(at) => {
                    let at = u64::try_from(at.0.saturating_add(1)).unwrap_or(0).saturating_mul(1000);
                    Duration::from_millis(at.saturating_sub(now.0)).min(LONGEST_SLEEP)
                }
                None => LONGEST_SLEEP,
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.broker.connections().due_sooner() => continue,
                () = tokio::time::sleep(wait) => {}
            }
            self.expire();
        }
    }

    fn expire(self: &Arc<Self>) {
        let now = clock::now().seconds();
        let due = self.broker.connections().take_due(UnixSeconds(now.0.saturating_sub(1)));
        if due.is_empty() {
            return;
        }
        let on_expiry = self.settings.load().on_expiry;
        if on_expiry == OnExpiry::Disconnect {
            self.look_at(due, Trigger::Expiry, Instant::now());
            return;
        }
        for handle in due {
            match self.settled(&handle, now) {
                None | Some(Ok(_)) => {}
                Some(Err(rejection)) => {
                    self.metrics.kept(Trigger::Expiry);
                    if on_expiry == OnExpiry::Warn {
                        self.audit.record(about(&handle, &rejection));
                    }
                    let later = UnixSeconds(now.0.saturating_add(LATER));
                    self.broker.connections().set_due(&handle, Some(later));
                }
            }
        }
    }
}

/// What was found about one connection. Those that an index names for one certificate follow each other, and need
/// no more than one look at its path.
struct Verdict {
    listener: Arc<str>,
    certificate: Arc<ClientCertificate>,
    at: UnixSeconds,
    /// `None`: the listener takes no certificates.
    judged_by: Option<u64>,
    outcome: Result<ValidatedPath, Rejection>,
}

impl Verdict {
    /// Whether the same would be found about this one. A change that comes meanwhile has a look of its own.
    fn holds_for(&self, handle: &ConnectionHandle, now: UnixSeconds) -> bool {
        let Some(certificate) = handle.certificate() else { return false };
        self.at == now
            && self.listener == handle.listener
            && self.certificate.leaf.certificate_fingerprint == certificate.leaf.certificate_fingerprint
            && self.certificate.intermediates == certificate.intermediates
    }
}

/// Not more than so many in a second.
struct Pace {
    rate: u32,
    done: u32,
    started: tokio::time::Instant,
}

impl Pace {
    fn new(rate: u32) -> Self {
        Self { rate, done: 0, started: tokio::time::Instant::now() }
    }

    async fn one_more(&mut self) {
        self.done = self.done.saturating_add(1);
        if self.rate > 0 {
            let next = Duration::from_secs(1) * self.done / self.rate;
            tokio::time::sleep_until(self.started + next).await;
        }
    }
}

/// The reason that says what happened: a path that is gone because its CA is, is not a path that never was.
fn reason_of(rejection: &Rejection, trigger: Trigger) -> Reason {
    match (trigger, rejection.reason) {
        (Trigger::Ca, Reason::CertUnknownCa) => Reason::CaInactive,
        (_, reason) => reason,
    }
}

fn about(handle: &ConnectionHandle, rejection: &Rejection) -> AuditEvent {
    let mut event = AuditEvent::new(names::CERTIFICATE_EXPIRED, Outcome::Success, rejection.reason)
        .field("detail", rejection.detail.as_str());
    event.connection_id = Some(handle.connection_id);
    event.client_id = handle.client_id().map(str::to_owned);
    event.device_id = handle.device_id().map(str::to_owned);
    event.listener = Some(Arc::clone(&handle.listener));
    event.peer_address = Some(handle.peer_address.to_string());
    event.certificate_fingerprint = handle.certificate_fingerprint;
    event
}

impl Trigger {
    pub const ALL: [Self; 6] =
        [Self::Certificate, Self::Ca, Self::Crl, Self::Policy, Self::Expiry, Self::Config];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "cert",
            Self::Ca => "ca",
            Self::Crl => "crl",
            Self::Policy => "policy",
            Self::Expiry => "expiry",
            Self::Config => "config",
        }
    }
}
