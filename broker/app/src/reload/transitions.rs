//! Keeps what was replaced valid until its transition ends, and ends it: the ledger says what and until when, this
//! makes it so.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::certificate::certificates_from_pem;
use mqgate_identity::evaluation::Anchor;
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixMillis;
use mqgate_server::audit::AuditLog;
use mqgate_server::broker::Broker;
use mqgate_server::clock;
use mqgate_server::directory::Mark;
use mqgate_server::live::Live;
use mqgate_server::registry::Registry;
use mqgate_server::retirement::{Begun, Old, OldMaterial, Retirement, RetirementError, Retiring, Swap};
use mqgate_server::trust::{BoundAnchor, TrustError, TrustStore};
use prometheus::{GaugeVec, IntGaugeVec, Opts};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::ledger::{Gone, Ledger, LedgerError, Material, Transition, Undo, new_id};

/// How often gauges are brought up to date while something runs, and the clock is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The same while nothing runs.
const REST: Duration = Duration::from_secs(60);

/// Called with the ids of the transitions that run, when listeners have to drop the certificates of others.
type Certificates = dyn Fn(&[String]) + Send + Sync;

pub struct Transitions {
    ledger: Ledger,
    broker: Arc<Broker>,
    trust: Arc<TrustStore>,
    registry: Arc<Registry>,
    live: Arc<Live>,
    audit: Arc<AuditLog>,
    clients: IntGaugeVec,
    ends: GaugeVec,
    certificates: Mutex<Option<Arc<Certificates>>>,
    changed: Notify,
    /// Held while the trust set is changed by what runs: who changes it by what ran before does not come after.
    applying: Mutex<()>,
    /// `reload.grace`.
    grace: Mutex<Duration>,
    /// What others began, by the number they were given.
    open: Mutex<HashMap<u64, (Vec<Transition>, Undo)>>,
    next_note: AtomicU64,
}

/// The parts that transitions act on.
pub struct TransitionParts {
    pub broker: Arc<Broker>,
    pub trust: Arc<TrustStore>,
    pub registry: Arc<Registry>,
    pub live: Arc<Live>,
    pub audit: Arc<AuditLog>,
}

impl Transitions {
    pub fn new(
        ledger: Ledger,
        grace: Duration,
        parts: TransitionParts,
        metrics: &prometheus::Registry,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let clients = IntGaugeVec::new(
            Opts::new(
                "mqgate_tls_grace_clients",
                "Live clients of a listener with a transition that still use what was replaced, and that do not.",
            ),
            &["listener", "material"],
        )?;
        let ends = GaugeVec::new(
            Opts::new(
                "mqgate_tls_grace_ends_timestamp_seconds",
                "When the listener's last transition ends, Unix time; 0 while there is none.",
            ),
            &["listener"],
        )?;
        metrics.register(Box::new(clients.clone()))?;
        metrics.register(Box::new(ends.clone()))?;
        let TransitionParts { broker, trust, registry, live, audit } = parts;
        let (certificates, changed) = (Mutex::default(), Notify::new());
        Ok(Arc::new(Self {
            ledger,
            broker,
            trust,
            registry,
            live,
            audit,
            clients,
            ends,
            certificates,
            changed,
            applying: Mutex::default(),
            grace: Mutex::new(grace),
            open: Mutex::default(),
            next_note: AtomicU64::new(0),
        }))
    }

    /// Says who drops the certificates of listeners.
    pub fn certificates_from(&self, make: Arc<Certificates>) {
        *lock(&self.certificates) = Some(make);
    }

    /// How long what is replaced stays valid unless somebody says otherwise.
    pub fn configure(&self, grace: Duration) {
        *lock(&self.grace) = grace;
    }

    pub fn list(&self) -> Vec<Transition> {
        self.ledger.list()
    }

    /// How many live clients use what a transition keeps valid.
    pub fn clients(&self, transition: &Transition) -> usize {
        let mark = match transition.material {
            Material::Ca => Mark::Anchor(transition.fingerprint),
            Material::ServerCertificate => Mark::Server(transition.fingerprint),
        };
        let found = self.broker.connections().find(mark);
        found.iter().filter(|handle| holds_on(transition, &handle.listener)).count()
    }

    /// The CAs that are in transition.
    pub fn anchors(&self) -> Vec<BoundAnchor> {
        anchors(&self.in_force())
    }

    fn in_force(&self) -> Vec<Transition> {
        let now = clock::now();
        let mut list = self.ledger.list();
        list.retain(|transition| transition.ends_at > now);
        list
    }

    /// The server certificates that are in transition on a listener.
    pub fn server_certificates(&self, listener: &str) -> Vec<Transition> {
        server_certificates_of(&self.in_force(), listener)
    }

    /// Writes down what begins, and that what is `gone` without a successor is valid no longer. Whoever asks for it
    /// makes it so, with [`Self::with_anchors`] and [`Self::server_certificates`], and may take it back.
    pub fn begin(&self, gone: &[Gone], new: &[Transition]) -> Result<Undo, LedgerError> {
        self.ledger.begin(gone, new)
    }

    /// What began did not come about.
    pub fn take_back(&self, undo: &Undo) {
        if let Err(error) = self.ledger.take_back(undo) {
            tracing::error!(%error, "transitions that did not come about are still in the ledger");
        }
        self.make_so();
    }

    /// Has the trust set changed by the CAs that are in transition: nothing begins or ends in between.
    pub fn with_anchors<T>(&self, change: impl FnOnce(Vec<BoundAnchor>) -> T) -> T {
        let _applying = lock(&self.applying);
        change(self.anchors())
    }

    /// What began has come about: tells the auditors, looks at the clock anew, and drops what ended meanwhile.
    pub fn begun(&self, new: &[Transition], undo: &Undo) {
        for transition in new {
            self.audit.record(event(names::TRANSITION_STARTED, transition).actor(&*transition.actor));
        }
        let actor = new.first().map_or("system", |transition| &*transition.actor);
        self.ended(undo.removed(), actor);
    }

    /// Ends one now.
    pub fn end(&self, id: &str, actor: &str) -> Result<Transition, LedgerError> {
        let ended = self.ledger.take(id)?;
        self.ended(std::slice::from_ref(&ended), actor);
        Ok(ended)
    }

    /// Moves the end of one.
    pub fn extend(&self, id: &str, ends_at: UnixMillis, actor: &str) -> Result<Transition, LedgerError> {
        let (before, after) = self.ledger.extend(id, ends_at, clock::now())?;
        let event = event(names::TRANSITION_CHANGED, &after)
            .actor(actor)
            .field("ends_before", before.ends_at.seconds().to_string());
        self.audit.record(event);
        self.changed.notify_one();
        Ok(after)
    }

    /// What was to be valid beside its successor is valid no longer.
    fn ended(&self, ended: &[Transition], actor: &str) {
        self.make_so();
        for transition in ended {
            let clients = self.clients(transition);
            let event = event(names::TRANSITION_ENDED, transition).actor(actor);
            self.audit.record(event.field("clients", clients.to_string()));
            tracing::info!(name = transition.name, clients, "a transition has ended");
            if transition.material == Material::Ca {
                self.live.ca_gone(transition.fingerprint);
            }
        }
        self.changed.notify_one();
    }

    /// Makes what runs valid, and nothing else of what was replaced.
    pub fn make_so(&self) {
        if let Err(error) = self.with_anchors(|anchors| self.trust.retire(anchors)) {
            tracing::error!(%error, "CAs in transition cannot be put together");
        }
        self.registry.count_cas();
        let certificates = lock(&self.certificates).clone();
        if let Some(keep) = certificates {
            let running: Vec<String> = self.in_force().into_iter().map(|transition| transition.id).collect();
            keep(&running);
        }
    }

    /// Ends what is due, until `shutdown`. To be run once.
    pub async fn housekeeping(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let mut soonest = Duration::from_millis(1);
            match self.ledger.take_ended(clock::now()) {
                Ok(ended) if ended.is_empty() => {}
                Ok(ended) => self.ended(&ended, "system"),
                // Valid no longer all the same: a full disk must not make it valid for ever.
                Err(error) => {
                    tracing::error!(%error, "the end of a transition cannot be written down; tried again");
                    soonest = LOOK;
                    self.make_so();
                    let now = clock::now();
                    let due = self.ledger.list().into_iter().filter(|transition| transition.ends_at <= now);
                    due.for_each(|transition| self.live.ca_gone(transition.fingerprint));
                }
            }
            self.count();
            let wait = match self.ledger.next_end() {
                None => REST,
                Some(end) => Duration::from_millis(end.0.saturating_sub(clock::now().0)).min(LOOK),
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(wait.max(soonest)) => {}
            }
        }
    }

    /// Brings the gauges up to date.
    fn count(&self) {
        let list = self.ledger.list();
        self.clients.reset();
        self.ends.reset();
        if list.is_empty() {
            return;
        }
        let mut old: BTreeMap<Arc<str>, BTreeSet<u64>> = BTreeMap::new();
        let mut ends: BTreeMap<Arc<str>, UnixMillis> = BTreeMap::new();
        for transition in &list {
            let mark = match transition.material {
                Material::Ca => Mark::Anchor(transition.fingerprint),
                Material::ServerCertificate => Mark::Server(transition.fingerprint),
            };
            for handle in self.broker.connections().find(mark) {
                if holds_on(transition, &handle.listener) {
                    old.entry(Arc::clone(&handle.listener)).or_default().insert(handle.connection_id);
                }
            }
            for listener in &transition.listeners {
                let end = ends.entry(listener.as_str().into()).or_default();
                *end = (*end).max(transition.ends_at);
            }
        }
        for listener in old.keys() {
            ends.entry(Arc::clone(listener)).or_insert_with(|| {
                list.iter().map(|transition| transition.ends_at).max().unwrap_or_default()
            });
        }
        for (listener, end) in ends {
            let all = self.broker.connections().find(Mark::Listener(&listener)).len();
            let old = old.get(&listener).map_or(0, BTreeSet::len);
            let set = |material, count: usize| {
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                self.clients.with_label_values(&[&*listener, material]).set(count);
            };
            set("old", old);
            set("new", all.saturating_sub(old));
            self.ends.with_label_values(&[&*listener]).set(end.seconds().0 as f64);
        }
    }
}

impl Retirement for Transitions {
    fn begin(&self, old: &Old<'_>, grace: Option<Duration>, actor: &str) -> Result<Begun, RetirementError> {
        let grace = grace.unwrap_or_else(|| *lock(&self.grace));
        let transition =
            transition(old, grace, actor).map_err(|error| RetirementError::Unavailable(error.to_string()))?;
        let gone = Gone::of(&transition);
        let new = if grace.is_zero() { Vec::new() } else { vec![transition] };
        let undo = self.ledger.begin(&[gone], &new).map_err(|error| match error {
            LedgerError::TooMany => RetirementError::TooMany(error.to_string()),
            error => RetirementError::Unavailable(format!("{error:#}")),
        })?;
        let retiring = new.first().map(|new| Retiring { id: new.id.clone(), ends_at: new.ends_at });
        let note = self.next_note.fetch_add(1, Ordering::Relaxed);
        lock(&self.open).insert(note, (new, undo));
        Ok(Begun { retiring, note })
    }

    fn take_back(&self, begun: Begun) {
        if let Some((_, undo)) = lock(&self.open).remove(&begun.note) {
            Self::take_back(self, &undo);
        }
    }

    fn swap(&self, change: &mut Swap<'_>) -> Result<(), TrustError> {
        self.with_anchors(change)
    }

    fn finish(&self, begun: Begun) {
        let open = lock(&self.open).remove(&begun.note);
        if let Some((new, undo)) = open {
            self.begun(&new, &undo);
        }
    }
}

fn transition(old: &Old<'_>, grace: Duration, actor: &str) -> anyhow::Result<Transition> {
    let started_at = clock::now();
    let (material, key, password, server_names) = match old.what {
        OldMaterial::Ca => (Material::Ca, None, None, &[][..]),
        OldMaterial::Server { key, password, server_names } => {
            (Material::ServerCertificate, Some(key.to_owned()), password.map(str::to_owned), server_names)
        }
    };
    Ok(Transition {
        id: new_id()?,
        material,
        name: old.name.to_owned(),
        fingerprint: old.fingerprint,
        subject: old.subject.to_owned(),
        not_after: old.not_after,
        listeners: old.listeners.to_vec(),
        started_at,
        ends_at: after(started_at, grace),
        actor: actor.to_owned(),
        pem: old.pem.to_owned(),
        key,
        password,
        server_names: server_names.to_vec(),
    })
}

/// When a grace that begins now ends.
pub fn after(now: UnixMillis, grace: Duration) -> UnixMillis {
    UnixMillis(now.0.saturating_add(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The CAs among these.
pub fn anchors(transitions: &[Transition]) -> Vec<BoundAnchor> {
    let cas = transitions.iter().filter(|transition| transition.material == Material::Ca);
    cas.filter_map(|transition| {
        let mut ders = certificates_from_pem(transition.pem.as_bytes()).ok()?;
        let der: Arc<[u8]> = ders.pop()?.into();
        let listeners: Vec<Arc<str>> = transition.listeners.iter().map(|name| name.as_str().into()).collect();
        Some(BoundAnchor {
            anchor: Anchor { name: transition.name.as_str().into(), der },
            listeners: Some(listeners).filter(|listeners| !listeners.is_empty()),
        })
    })
    .collect()
}

/// The server certificates among these that are for a listener.
pub fn server_certificates_of(transitions: &[Transition], listener: &str) -> Vec<Transition> {
    let wanted = |transition: &&Transition| {
        transition.material == Material::ServerCertificate && holds_on(transition, listener)
    };
    transitions.iter().filter(wanted).cloned().collect()
}

fn holds_on(transition: &Transition, listener: &str) -> bool {
    transition.listeners.is_empty() || transition.listeners.iter().any(|name| name == listener)
}

fn event(name: &'static str, transition: &Transition) -> AuditEvent {
    let material = match transition.material {
        Material::Ca => "ca",
        Material::ServerCertificate => "server-certificate",
    };
    let mut event = AuditEvent::new(name, Outcome::Success, Reason::Ok)
        .field("transition", transition.id.as_str())
        .field("material", material)
        .field("name", transition.name.as_str())
        .field("ends", transition.ends_at.seconds().to_string());
    if !transition.listeners.is_empty() {
        event = event.field("listeners", transition.listeners.join(","));
    }
    event.certificate_fingerprint = Some(transition.fingerprint);
    event.subject = Some(transition.subject.clone());
    event
}
