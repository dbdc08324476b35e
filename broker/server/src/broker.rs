//! What all connections share: who judges, who is connected, where sessions are and how messages find them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use mqgate_codec::{Connect, ReasonCode, TopicName};
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::hooks::Reauthorize;
use mqgate_identity::reason::Reason;
use mqgate_protocol::connection::Routed;
use mqgate_protocol::limits::Limits;
use mqgate_protocol::message::Message;
use mqgate_protocol::outbox::DropReason;
use mqgate_protocol::permit::Permit;
use mqgate_protocol::persistent::Seed;
use mqgate_protocol::time::Instant;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::audit::AuditLog;
use crate::audit::coalesce::Coalescer;
use crate::clock;
use crate::directory::{ConnectionHandle, Connections, lock};
use crate::extras::{Extras, ExtrasSettings};
use crate::gate::{Accepted, Admission, Dialogue, Gate, Reauthorization, event_about};
use crate::inner::{self, InnerClients};
use crate::metrics::gate::Stage;
use crate::metrics::mqtt::{MqttMetrics, Tally, Totals, Transport};
use crate::routing::Router;
use crate::sessions::{Found, LateWill, Name, Sessions};
use crate::turns::Turns;

pub use crate::connection::serve;

/// Live sessions that are judged again at the same time.
const REAUTHORIZATIONS: usize = 32;

/// Judges every CONNECT by itself.
pub type AdmissionRule = Box<dyn Fn(&Accepted, &Connect) -> Admission + Send + Sync>;

/// Who judges a CONNECT.
pub enum Admitter {
    Gate(Arc<Gate>),
    /// A fixed rule, for tests of the data path.
    Rule(AdmissionRule),
}

/// What a [`Broker`] is made of.
pub struct BrokerParts {
    pub admitter: Admitter,
    pub audit: Arc<AuditLog>,
    pub metrics: Arc<MqttMetrics>,
    pub limits: Limits,
    /// What holds for the clients of some listeners instead; what all sessions share stays as it is.
    pub listener_limits: HashMap<Arc<str>, Limits>,
}

pub struct Broker {
    admitter: Admitter,
    audit: Arc<AuditLog>,
    pub(crate) metrics: Arc<MqttMetrics>,
    limits: ArcSwap<AllLimits>,
    pub(crate) router: Arc<Router>,
    pub(crate) sessions: Sessions,
    connections: Connections,
    connection_ids: AtomicU64,
    started: tokio::time::Instant,
    pub(crate) reauthorizations: Semaphore,
    pub(crate) extras: Extras,
    pub(crate) inner: InnerClients,
    pub(crate) turns: Turns,
    /// Connections that ended before anybody was asked: a storm of them is not a storm of audit records.
    strangers: Mutex<Coalescer<(Arc<str>, std::net::IpAddr, Reason)>>,
}

/// What holds for connections that are yet to come.
struct AllLimits {
    common: Arc<Limits>,
    of_listeners: HashMap<Arc<str>, Arc<Limits>>,
}

fn shared(limits: HashMap<Arc<str>, Limits>) -> HashMap<Arc<str>, Arc<Limits>> {
    limits.into_iter().map(|(name, limits)| (name, Arc::new(limits))).collect()
}

impl Broker {
    /// To be called within a tokio runtime: time counts from here.
    pub fn new(parts: BrokerParts) -> Arc<Self> {
        Self::with_seed(parts, Seed(getrandom::u64().unwrap_or(0)))
    }

    /// With the seed of the hash tables that clients can fill: for a simulation, where the same must happen twice.
    pub fn with_seed(parts: BrokerParts, seed: Seed) -> Arc<Self> {
        Self::with_all(parts, ExtrasSettings::default(), &prometheus::Registry::new(), seed)
            .expect("an empty registry has no other families")
    }

    /// With what is expected of a broker besides the protocol. Fails only if two families of metrics share a
    /// name.
    pub fn with_extras(
        parts: BrokerParts,
        settings: ExtrasSettings,
        registry: &prometheus::Registry,
    ) -> Result<Arc<Self>, prometheus::Error> {
        Self::with_all(parts, settings, registry, Seed(getrandom::u64().unwrap_or(0)))
    }

    fn with_all(
        parts: BrokerParts,
        settings: ExtrasSettings,
        registry: &prometheus::Registry,
        seed: Seed,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let BrokerParts { admitter, audit, metrics, limits, listener_limits } = parts;
        let limits = Arc::new(limits);
        let listener_limits = shared(listener_limits);
        let started = tokio::time::Instant::now();
        let turns = Turns::new(metrics.turns_waited.clone());
        let router = Arc::new(Router::new(&limits, Arc::clone(&metrics), seed, started));
        let extras = Extras::new(settings, &router.traced, registry)?;
        Ok(Arc::new(Self {
            admitter,
            audit,
            sessions: Sessions::new(Arc::clone(&limits), Arc::clone(&router), Arc::clone(&metrics)),
            metrics,
            limits: ArcSwap::from_pointee(AllLimits { common: limits, of_listeners: listener_limits }),
            router,
            connections: Connections::default(),
            connection_ids: AtomicU64::new(1),
            started,
            reauthorizations: Semaphore::new(REAUTHORIZATIONS),
            extras,
            inner: InnerClients::default(),
            turns,
            strangers: Mutex::new(Coalescer::new(Duration::from_secs(10), 1024)),
        }))
    }

    /// Replaces the limits of connections that are yet to come. What all of them share (sessions, what is queued and
    /// retained) keeps those of the start.
    pub fn configure(&self, mut limits: Limits, mut listener_limits: HashMap<Arc<str>, Limits>) {
        let bridge_id = self.common_limits().bridge_id.clone();
        for limits in listener_limits.values_mut().chain([&mut limits]) {
            limits.bridge_id.clone_from(&bridge_id);
        }
        let all = AllLimits { common: Arc::new(limits), of_listeners: shared(listener_limits) };
        self.limits.store(Arc::new(all));
    }

    /// Says who this broker is to bridges.
    pub fn known_to_bridges_as(&self, id: &Arc<str>) {
        let all = self.limits.load_full();
        let named =
            |limits: &Arc<Limits>| Limits { bridge_id: Some(Arc::clone(id)), ..Limits::clone(limits) };
        let of_listeners =
            all.of_listeners.iter().map(|(name, limits)| (Arc::clone(name), Arc::new(named(limits))));
        self.limits.store(Arc::new(AllLimits {
            common: Arc::new(named(&all.common)),
            of_listeners: of_listeners.collect(),
        }));
    }

    /// Everyone connected: to list, to disconnect, to ask again.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// What holds where no listener says otherwise.
    pub(crate) fn common_limits(&self) -> Arc<Limits> {
        Arc::clone(&self.limits.load().common)
    }

    /// What holds for the clients of a listener.
    pub(crate) fn limits_of(&self, listener: &str) -> Arc<Limits> {
        let all = self.limits.load();
        Arc::clone(all.of_listeners.get(listener).unwrap_or(&all.common))
    }

    /// The connection that has the session of this name.
    pub(crate) fn holder(&self, device_id: &str, client_id: &str) -> Option<Arc<ConnectionHandle>> {
        let name = Name { device_id: device_id.into(), client_id: client_id.into() };
        match self.sessions.find(&name, |_| ()) {
            Found::With(handle) => Some(handle),
            Found::Parked(()) | Found::Nowhere => None,
        }
    }

    /// An id for [`Accepted`], never given twice.
    pub fn next_connection_id(&self) -> u64 {
        self.connection_ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Publishes due wills, ends expired sessions and drops expired retained messages, until `shutdown`. To
    /// be run once per broker.
    pub async fn housekeeping(self: Arc<Self>, shutdown: CancellationToken) {
        const PERIOD: Duration = Duration::from_millis(500);
        let mut tended = self.now();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(PERIOD) => {}
            }
            let wills = self.sessions.sweep(self.now());
            self.publish_late(wills).await;
            self.router.expire(self.now());
            self.publish_due();
            if self.now().since(tended) >= crate::slow::EVERY {
                tended = self.now();
                self.tend_extras();
            }
            let due = lock(&self.strangers).flush(clock::now());
            due.into_iter().for_each(|event| self.audit.record(event));
        }
        let rest = lock(&self.strangers).finish();
        rest.into_iter().for_each(|event| self.audit.record(event));
    }

    /// Publishes wills whose clients went some time ago, except of those that are not let in any more: what
    /// somebody left behind who was barred since is not heard either.
    pub(crate) async fn publish_late(&self, wills: impl IntoIterator<Item = LateWill>) {
        for LateWill { name, message, accepted } in wills {
            if let (Admitter::Gate(gate), Some(accepted), false) =
                (&self.admitter, &accepted, self.extras.barred_wills)
                && let Err(reason) = gate.still_lets_in(accepted, &name.client_id, &name.device_id).await
            {
                tracing::info!(client_id = %name.client_id, device_id = %name.device_id, %reason, "the will of a barred client is not published");
                let mut event = AuditEvent::new(names::PUBLISH_DENIED, Outcome::Failure, reason)
                    .field("topic", message.topic.as_str())
                    .field("will", "true");
                event.client_id = Some(name.client_id.to_string());
                event.device_id = Some(name.device_id.to_string());
                self.audit.record(event_about(event, accepted));
                self.count_denied(&accepted.listener, Stage::Will);
                continue;
            }
            self.sessions.publish(Some(message));
        }
    }

    /// What was counted since the start, and what there is now.
    pub(crate) fn totals(&self) -> Totals {
        let sockets = self.connection_ids.load(Ordering::Relaxed) - 1;
        Totals { sockets, ..self.metrics.totals() }
    }

    /// Publishes what the broker says about itself: that nobody wants it is no loss.
    pub(crate) fn publish_about_itself(&self, message: &Arc<Message>) {
        let mut tally = Tally::new(Transport::Tcp);
        self.router.publish(message, &mut tally);
        tally.forgive(DropReason::NoSubscribers);
        tally.add_to(&self.metrics);
    }

    /// Whether a message to this topic would go to anybody.
    pub(crate) fn has_receivers(&self, topic: &TopicName) -> bool {
        self.router.has_receivers(topic)
    }

    /// Whether any message below this first level would go to anybody.
    pub(crate) fn has_receivers_below(&self, level: &str) -> bool {
        self.router.has_receivers_below(level)
    }

    /// Publishes what comes from no client.
    pub(crate) fn publish(&self, message: &Arc<Message>) -> Routed {
        let mut tally = Tally::new(Transport::Tcp);
        let outcome = self.router.publish(message, &mut tally);
        tally.add_to(&self.metrics);
        outcome.routed
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::since_start(self.started.elapsed())
    }

    /// The point in tokio's time that is `at` in the machine's.
    pub(crate) fn when(&self, at: Instant) -> tokio::time::Instant {
        self.started + at.elapsed()
    }

    pub(crate) fn record(&self, event: AuditEvent) {
        self.audit.record(event);
    }

    pub(crate) fn record_stranger(&self, accepted: &Accepted, event: AuditEvent) {
        let key = (Arc::clone(&accepted.listener), accepted.peer.address, event.reason);
        let due = lock(&self.strangers).offer(clock::now(), key, event);
        due.into_iter().for_each(|event| self.audit.record(event));
    }

    /// A permit did not cover something.
    pub(crate) fn count_denied(&self, listener: &str, stage: Stage) {
        if let Admitter::Gate(gate) = &self.admitter {
            gate.metrics().decided(listener, stage, Reason::AclDenied);
        }
    }

    pub(crate) async fn admit(
        &self,
        accepted: &Accepted,
        connect: &Connect,
        dialogue: Option<Dialogue>,
    ) -> Admission {
        if let Some(client) = self.inside(accepted) {
            return inner::admit(&client, connect);
        }
        let mut admission = inner::keep_outside(match &self.admitter {
            Admitter::Gate(gate) => gate.admit_with(accepted, connect, dialogue).await,
            Admitter::Rule(rule) => rule(accepted, connect),
        });
        if let (Admission::Admitted(permit), Some(rates)) =
            (&mut admission, self.extras.rates(&accepted.listener))
        {
            rates.lower(&mut permit.limits);
        }
        admission
    }

    /// Generation of the hook set in force, if sessions of older ones are to be asked again when they next
    /// publish or subscribe.
    pub(crate) fn lazy_generation(&self) -> Option<u64> {
        let Admitter::Gate(gate) = &self.admitter else { return None };
        let hooks = gate.hooks().load();
        (hooks.reauthorize == Reauthorize::Lazy).then_some(hooks.generation)
    }

    pub(crate) async fn reauthorize(
        &self,
        accepted: &Accepted,
        connect: &Connect,
        current: &Permit,
        dialogue: Option<Dialogue>,
    ) -> Reauthorization {
        if self.inside(accepted).is_some() {
            return Reauthorization::Kept;
        }
        let _one_of_some = self.reauthorizations.acquire().await;
        let mut answer = match &self.admitter {
            Admitter::Gate(gate) => gate.reauthorize_with(accepted, connect, current, dialogue).await,
            Admitter::Rule(rule) => match rule(accepted, connect) {
                Admission::Admitted(permit) => Reauthorization::Replaced(permit),
                Admission::Refused(refusal) => Reauthorization::Withdrawn(refusal),
            },
        };
        if let (Reauthorization::Replaced(permit), Some(rates)) =
            (&mut answer, self.extras.rates(&accepted.listener))
        {
            rates.lower(&mut permit.limits);
        }
        answer
    }
}

/// What a client hears whose permit was withdrawn.
pub(crate) const WITHDRAWN: ReasonCode = ReasonCode::NOT_AUTHORIZED;
