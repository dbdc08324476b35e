//! What people expect of a broker besides the protocol, as far as it is configured. What is off costs the
//! data path one look at an absent value.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use bytestring::ByteString;
use mqgate_codec::{ReasonCode, SubscriptionOptions, TopicFilter};
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixMillis;
use mqgate_protocol::connection::Routed;
use mqgate_protocol::message::Message;
use mqgate_protocol::outbox::DropReason;
use prometheus::{IntCounter, IntGauge, Registry};

use crate::audit::before_and_after;
use crate::bans::{Ban, Bans, Kind, Subject};
use crate::broker::Broker;
use crate::clock;
use crate::delayed::{Delayed, DelayedLimits, Waiting};
use crate::directory::{Admitted, ConnectionHandle, Farewell};
use crate::flapping::{Flapping, FlappingRules};
use crate::rates::{RateLimits, Rates};
use crate::slow::{Slow, SlowRules};
use crate::trace::{TraceLimits, Traces};

/// What is switched on.
#[derive(Default)]
pub struct ExtrasSettings {
    pub bans: Option<Arc<Bans>>,
    pub flapping: Option<FlappingRules>,
    /// By name of the listener.
    pub rates: HashMap<Arc<str>, RateLimits>,
    pub slow: Option<SlowRules>,
    pub delayed: DelayedLimits,
    pub subscriptions: Vec<AutomaticSubscription>,
    pub traces: Option<TraceLimits>,
    /// Whether delayed wills are published although their clients were barred meanwhile.
    pub barred_wills: bool,
}

/// What every client is subscribed to when it connects.
#[derive(Debug, Clone)]
pub struct AutomaticSubscription {
    /// A Topic Filter with `${client-id}` and `${device-id}`.
    pub template: String,
    pub options: SubscriptionOptions,
}

impl AutomaticSubscription {
    /// `None` where a value would change what the filter means.
    pub(crate) fn filter_for(&self, client_id: &str, device_id: &str) -> Option<TopicFilter> {
        let mut text = String::with_capacity(self.template.len());
        let mut rest = self.template.as_str();
        while let Some(start) = rest.find("${") {
            let (before, variable) = rest.split_at(start);
            let end = variable.find('}')?;
            let value = match &variable[2..end] {
                "client-id" => client_id,
                "device-id" => device_id,
                _ => return None,
            };
            let breaks_out = value.chars().any(|c| matches!(c, '/' | '+' | '#') || c.is_control());
            text.push_str(before);
            let special = (text.is_empty() || text.ends_with('/')) && value.starts_with('$');
            if value.is_empty() || breaks_out || special {
                return None;
            }
            text.push_str(value);
            rest = &variable[end + 1..];
        }
        text.push_str(rest);
        TopicFilter::parse(text.into()).ok()
    }
}

pub(crate) struct Extras {
    pub(crate) bans: Option<Arc<Bans>>,
    pub(crate) flapping: Option<Flapping>,
    rates: ArcSwap<HashMap<Arc<str>, Arc<Rates>>>,
    pub(crate) slow: Option<Slow>,
    pub(crate) delayed: Delayed,
    pub(crate) subscriptions: Vec<AutomaticSubscription>,
    pub(crate) traces: Traces,
    pub(crate) metrics: ExtrasMetrics,
    /// Delayed wills are published although their clients were barred meanwhile.
    pub(crate) barred_wills: bool,
}

/// What is counted here.
pub(crate) struct ExtrasMetrics {
    pub(crate) flapping_clients: IntCounter,
    pub(crate) slow_subscribers: IntGauge,
    pub(crate) slow_disconnects: IntCounter,
    pub(crate) delayed_messages: IntGauge,
    pub(crate) delayed_bytes: IntGauge,
    traces_running: IntGauge,
    trace_dropped: IntCounter,
}

impl ExtrasMetrics {
    fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            flapping_clients: IntCounter::new(
                "mqgate_flapping_clients_total",
                "Clients that were banned because they came and went too often.",
            )?,
            slow_subscribers: IntGauge::new(
                "mqgate_slow_subscribers",
                "Clients that take their messages slower than they come.",
            )?,
            slow_disconnects: IntCounter::new(
                "mqgate_slow_subscriber_disconnects_total",
                "Clients that were disconnected because they were slow.",
            )?,
            delayed_messages: IntGauge::new(
                "mqgate_delayed_messages",
                "Messages that wait to be published later.",
            )?,
            delayed_bytes: IntGauge::new("mqgate_delayed_bytes", "Bytes of messages that wait so.")?,
            traces_running: IntGauge::new("mqgate_traces_running", "Traces that run.")?,
            trace_dropped: IntCounter::new(
                "mqgate_trace_lines_dropped_total",
                "Lines of traces that were lost because the disk was too slow.",
            )?,
        })
    }

    /// Shows the numbers to whoever scrapes.
    fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.flapping_clients.clone()))?;
        registry.register(Box::new(self.slow_subscribers.clone()))?;
        registry.register(Box::new(self.slow_disconnects.clone()))?;
        registry.register(Box::new(self.delayed_messages.clone()))?;
        registry.register(Box::new(self.delayed_bytes.clone()))?;
        registry.register(Box::new(self.traces_running.clone()))?;
        registry.register(Box::new(self.trace_dropped.clone()))
    }
}

impl Extras {
    /// Fails only if two families of metrics share a name.
    pub(crate) fn new(
        settings: ExtrasSettings,
        traced: &Arc<AtomicBool>,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let ExtrasSettings { bans, flapping, rates, slow, delayed, subscriptions, traces, barred_wills } =
            settings;
        let metrics = ExtrasMetrics::new()?;
        metrics.register(registry)?;
        Ok(Self {
            bans,
            flapping: flapping.map(Flapping::new),
            rates: ArcSwap::from_pointee(named(rates)),
            slow: slow.map(Slow::new),
            delayed: Delayed::new(delayed),
            subscriptions,
            traces: Traces::new(
                traces,
                Arc::clone(traced),
                metrics.traces_running.clone(),
                metrics.trace_dropped.clone(),
            ),
            metrics,
            barred_wills,
        })
    }

    pub(crate) fn rates(&self, listener: &str) -> Option<Arc<Rates>> {
        self.rates.load().get(listener).cloned()
    }

    /// A listener keeps what it has left. One that has no limit any more keeps its entry, for its clients. One change
    /// at a time.
    fn configure_rates(&self, mut limits: HashMap<Arc<str>, RateLimits>) {
        let mut next = HashMap::clone(&self.rates.load());
        for (name, rates) in &next {
            rates.configure(limits.remove(name).unwrap_or_default());
        }
        next.extend(named(limits));
        self.rates.store(Arc::new(next));
    }
}

fn named(limits: HashMap<Arc<str>, RateLimits>) -> HashMap<Arc<str>, Arc<Rates>> {
    limits.into_iter().map(|(name, limits)| (name, Arc::new(Rates::new(limits)))).collect()
}

impl Broker {
    /// Replaces the limits of listeners; those that are not named have none.
    pub fn configure_rates(&self, limits: HashMap<Arc<str>, RateLimits>) {
        self.extras.configure_rates(limits);
    }

    /// The list of bans, if there is one.
    pub fn bans(&self) -> Option<&Arc<Bans>> {
        self.extras.bans.as_ref()
    }

    /// Whether nobody from this address may come in.
    pub(crate) fn bans_address(&self, address: std::net::IpAddr) -> bool {
        let Some(bans) = &self.extras.bans else { return false };
        let subject = Subject { address: Some(address), ..Subject::default() };
        bans.find(&subject, clock::now()).is_some()
    }

    /// What to tell a client that was banned while the gate was thinking.
    pub(crate) fn ban_on(&self, handle: &ConnectionHandle) -> Option<Farewell> {
        let bans = self.extras.bans.as_ref()?;
        bans.find(&subject_of(handle), clock::now())?;
        Some(Farewell { code: ReasonCode::BANNED, reason: Reason::Banned })
    }

    /// Closes whoever is there and is banned now; says how many.
    pub(crate) fn expel(&self, ban: &Ban) -> usize {
        let covers = |handle: &ConnectionHandle| ban.covers(&subject_of(handle));
        self.connections().disconnect_where(covers, ReasonCode::BANNED, Reason::Banned)
    }

    /// How many of those who are there a ban would send away.
    pub(crate) fn concerned_by(&self, ban: &Ban) -> usize {
        self.connections().list().iter().filter(|handle| ban.covers(&subject_of(handle))).count()
    }

    /// A client that was connected is gone: one that comes and goes all the time is kept out for a while.
    pub(crate) fn note_departure(self: &Arc<Self>, admitted: &Admitted, reason: Reason) {
        let (Some(flapping), Some(bans)) = (&self.extras.flapping, &self.extras.bans) else { return };
        if matches!(reason, Reason::ServerShuttingDown | Reason::AdminAction | Reason::Banned) {
            return; // Not the client's doing.
        }
        if !flapping.disconnected(&admitted.device_id, &admitted.client_id, self.now()) {
            return;
        }
        let rules = flapping.rules;
        let now = clock::now();
        let why = format!("flapping: {} disconnects within {} s", rules.disconnects, rules.window.as_secs());
        let until =
            UnixMillis(now.0.saturating_add(u64::try_from(rules.ban.as_millis()).unwrap_or(u64::MAX)));
        let (client_id, device_id): (&ByteString, _) = (&admitted.client_id, admitted.device_id.to_string());
        let ban = Ban::new(
            Kind::Client,
            client_id,
            Some(device_id),
            Some(&why),
            "system:flapping",
            now,
            Some(until),
        );
        let ban = match ban.and_then(|ban| bans.add_in_memory(ban)) {
            Ok(ban) => ban,
            Err(error) => {
                tracing::warn!(%client_id, %error, "a flapping client is not banned");
                return;
            }
        };
        self.extras.metrics.flapping_clients.inc();
        self.record(ban_event(names::BAN_ADDED, &ban, "system:flapping"));
        self.expel(&ban);
        let bans = Arc::clone(bans);
        // Detached: it ends by itself, and what it writes is only needed after a restart.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = bans.keep(&ban) {
                tracing::warn!(ban = ban.id, %error, "a ban does not outlive the broker");
            }
        });
    }

    /// Keeps a message until its time has come.
    pub(crate) fn publish_later(&self, message: &Message, seconds: u32) -> Routed {
        let held = self.extras.delayed.hold(message, self.now().after_seconds(seconds));
        self.count_delayed();
        match held {
            Ok(()) => Routed::Delivered,
            Err(crate::delayed::Full) => {
                self.metrics.dropped(DropReason::Quota, 1);
                Routed::NoRoom
            }
        }
    }

    /// Publishes the messages whose time has come.
    pub(crate) fn publish_due(&self) {
        let due = self.extras.delayed.take_due(self.now());
        if !due.is_empty() {
            for message in &due {
                self.publish(message);
            }
            self.count_delayed();
        }
    }

    /// Takes a message back that waits to be published.
    pub(crate) fn cancel_delayed(&self, id: u64) -> Option<Waiting> {
        let cancelled = self.extras.delayed.cancel(id);
        self.count_delayed();
        cancelled
    }

    fn count_delayed(&self) {
        let (messages, bytes) = self.extras.delayed.size();
        self.extras.metrics.delayed_messages.set(messages as i64);
        self.extras.metrics.delayed_bytes.set(bytes as i64);
    }

    /// What has to be done now and then.
    pub(crate) fn tend_extras(&self) {
        let extras = &self.extras;
        if let Some(bans) = &extras.bans {
            bans.expire(clock::now());
        }
        extras.traces.expire(clock::now());
        if let Some(flapping) = &extras.flapping {
            flapping.sweep(self.now());
        }
        if let Some(slow) = &extras.slow {
            let (now_slow, closed) = slow.look(self.connections(), self.now());
            extras.metrics.slow_subscribers.set(now_slow as i64);
            extras.metrics.slow_disconnects.inc_by(closed as u64);
        }
    }
}

fn subject_of(handle: &ConnectionHandle) -> Subject<'_> {
    Subject {
        client_id: handle.client_id(),
        device_id: handle.device_id(),
        certificate: handle.certificate_fingerprint,
        address: Some(handle.peer_address),
    }
}

/// What is written down about a ban.
pub(crate) fn ban_event(name: &'static str, ban: &Ban, actor: &str) -> AuditEvent {
    let event = ban_fields(name, ban, actor);
    match name {
        names::BAN_REMOVED => before_and_after(event, Some(ban), None::<&Ban>),
        _ => before_and_after(event, None::<&Ban>, Some(ban)),
    }
}

fn ban_fields(name: &'static str, ban: &Ban, actor: &str) -> AuditEvent {
    let mut event = AuditEvent::new(name, Outcome::Success, Reason::Banned)
        .actor(actor)
        .field("ban", &*ban.id)
        .field("kind", ban.kind.as_str())
        .field("value", &*ban.value);
    event.device_id = ban.device_id.clone();
    if let Some(until) = ban.until {
        event = event.field("until", until.0.to_string());
    }
    match &ban.reason {
        Some(reason) => event.field("detail", &**reason),
        None => event,
    }
}
