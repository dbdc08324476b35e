//! The listeners of the running broker: which there are, and how they are added, changed, moved and removed while it
//! runs. What a listener does is `mqgate_server::listener`'s.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mqgate_server::admin::AboutListener;
use mqgate_server::bundles::Bundles;
use mqgate_server::listener::{
    ListenAddress, ListenError, Listener, ListenerControl, ListenerParts, ListenerSettings,
};
use mqgate_server::ocsp::Stapler;
use mqgate_server::tls::{BoundCertificate, CertificateSet, CertificateSource, ClientAuth};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::endpoints::{Endpoints, announce};
use crate::config::model;

/// Every listener that runs, by name.
pub struct Listeners {
    shared: ListenerParts,
    /// Told which certificates are shown.
    bundles: Arc<Bundles>,
    stapler: Arc<Stapler>,
    endpoints: Arc<Endpoints>,
    /// Connections end.
    stop: CancellationToken,
    /// Everything ends.
    end: CancellationToken,
    running: Mutex<BTreeMap<String, Running>>,
    tasks: TaskTracker,
    /// End with everything.
    telling: TaskTracker,
    failed: mpsc::UnboundedSender<ListenError>,
}

struct Running {
    control: ListenerControl,
    about: AboutListener,
    /// Ends what tells of its address.
    announced: CancellationToken,
    /// Not opened yet.
    waiting: Option<Listener>,
}

/// One listener as people see it.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[schemars(rename = "Listener")]
pub struct ShownListener {
    pub name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    auth_mode: &'static str,
    #[schemars(with = "Option<String>")]
    address: Option<ListenAddress>,
    /// `open`, or `shut` while the broker is not ready.
    state: &'static str,
    connections: i64,
    max_connections: usize,
    accepted: u64,
    /// CAs whose certificates let clients in here; nothing where no certificate is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    trusted_cas: Option<usize>,
    /// What clients are shown, in order.
    certificates: Vec<ShownCertificate>,
}

/// A server certificate of a listener.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[schemars(rename = "ListenerCertificate")]
struct ShownCertificate {
    source: String,
    subject: String,
    fingerprint: String,
    server_names: Vec<String>,
    not_after: i64,
    enabled: bool,
    /// Whether an OCSP response is sent with it.
    stapled: bool,
}

impl ShownListener {
    fn of(running: &Running) -> Self {
        let address = running.about.address.borrow().clone();
        let settings = running.control.settings();
        let (connections, accepted) = running.control.connections();
        let tls = settings.tls.as_ref().map(|tls| tls.current());
        let asks = tls.as_ref().filter(|set| set.settings().client_auth != ClientAuth::None);
        let staples = tls.as_ref().is_some_and(|set| set.settings().staple);
        let bound = tls.iter().flat_map(|set| set.certificates().iter().cloned().collect::<Vec<_>>());
        Self {
            name: running.about.name.clone(),
            kind: running.about.kind,
            auth_mode: running.about.auth_mode,
            state: if address.is_some() { "open" } else { "shut" },
            address,
            connections,
            max_connections: settings.max_connections,
            accepted,
            trusted_cas: asks.map(|set| set.trust().current().anchors.iter().count()),
            certificates: bound.map(|bound| ShownCertificate::of(&bound, staples)).collect(),
        }
    }
}

impl ShownCertificate {
    fn of(bound: &BoundCertificate, staples: bool) -> Self {
        let facts = bound.certificate.facts();
        Self {
            source: bound.source.to_string(),
            subject: facts.subject.display.clone(),
            fingerprint: facts.certificate_fingerprint.to_hex(),
            server_names: bound.server_names().to_vec(),
            not_after: facts.not_after.0,
            enabled: bound.enabled,
            stapled: staples && bound.certificate.is_stapled(),
        }
    }
}

/// What listeners are to become, checked as far as it can be without doing it.
#[derive(Default)]
pub struct Next {
    pub added: Vec<(String, model::Listener, ListenerSettings)>,
    pub changed: Vec<(String, model::Listener, ListenerSettings)>,
    pub removed: Vec<String>,
}

/// The part of a change that can fail was done; it is finished or taken back.
pub struct Begun {
    next: Next,
    opened: Vec<(String, model::Listener, Listener)>,
    /// Listeners with another address, with their settings before.
    moved: Vec<(ListenerControl, ListenerSettings)>,
}

impl Listeners {
    /// Listeners that end before they are told to are told to the receiver.
    pub fn new(
        shared: ListenerParts,
        bundles: Arc<Bundles>,
        stapler: Arc<Stapler>,
        endpoints: Arc<Endpoints>,
        stop: CancellationToken,
        end: CancellationToken,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<ListenError>) {
        let (failed, failures) = mpsc::unbounded_channel();
        let (running, tasks, telling) = (Mutex::default(), TaskTracker::new(), TaskTracker::new());
        let listeners =
            Self { shared, bundles, stapler, endpoints, stop, end, running, tasks, telling, failed };
        (Arc::new(listeners), failures)
    }

    /// Makes one that opens with [`Self::start`]; that its address can be had is found out then.
    pub fn prepare(&self, name: &str, config: &model::Listener, settings: ListenerSettings) {
        self.watch(name, &settings);
        let listener = Listener::new(settings, self.shared.clone());
        let running = self.known(name, config, &listener);
        self.running().insert(name.to_owned(), Running { waiting: Some(listener), ..running });
    }

    /// Server certificates that change reach it, and no longer what it had before.
    fn watch(&self, name: &str, settings: &ListenerSettings) {
        match &settings.tls {
            Some(tls) => {
                self.bundles.watch(name, tls);
                self.stapler.watch(name, tls, settings.ocsp.clone());
            }
            None => self.forget(name),
        }
    }

    fn forget(&self, name: &str) {
        self.bundles.forget(name);
        self.stapler.forget(name);
    }

    /// Opens every one that waits for it.
    pub fn start(&self) {
        for (name, running) in self.running().iter_mut() {
            if let Some(listener) = running.waiting.take() {
                self.serve(name, listener, running);
            }
        }
    }

    fn known(&self, name: &str, config: &model::Listener, listener: &Listener) -> Running {
        Running {
            control: listener.control(),
            about: AboutListener {
                name: name.to_owned(),
                kind: super::build::kind(config),
                auth_mode: super::build::auth_mode_name(config),
                address: listener.address(),
            },
            announced: self.end.child_token(),
            waiting: None,
        }
    }

    fn serve(&self, name: &str, listener: Listener, running: &Running) {
        let telling = announce(
            running.about.kind,
            name.to_owned(),
            listener.address(),
            Arc::clone(&self.endpoints),
            running.announced.clone(),
        );
        self.telling.spawn(telling);
        let (failed, stop) = (self.failed.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            if let Err(error) = listener.run(stop).await {
                // Nobody listens any more when the broker stops.
                let _ = failed.send(error);
            }
        });
    }

    /// What `/status` shows.
    pub fn about(&self) -> Vec<AboutListener> {
        self.running().values().map(|running| running.about.clone()).collect()
    }

    /// What each is and does, by name.
    pub fn shown(&self) -> Vec<ShownListener> {
        self.running().values().map(ShownListener::of).collect()
    }

    /// The settings that connections of a listener are served by.
    pub fn settings(&self, name: &str) -> Option<Arc<ListenerSettings>> {
        self.running().get(name).map(|running| running.control.settings())
    }

    /// Drops the certificates of transitions that are not among these.
    pub fn keep_retired(&self, transitions: &[String]) {
        for (name, running) in self.running().iter() {
            let settings = running.control.settings();
            let Some(tls) = &settings.tls else { continue };
            let over = |bound: &BoundCertificate| match &bound.source {
                CertificateSource::Retired { transition } => !transitions.contains(transition),
                _ => false,
            };
            if !tls.current().certificates().iter().any(over) {
                continue;
            }
            let swapped = tls.update(|set| {
                let kept = set.certificates().iter().filter(|bound| !over(bound)).cloned().collect();
                set.with_certificates(CertificateSet::new(kept))
            });
            match swapped {
                Ok(_) => running.control.configure(ListenerSettings::clone(&settings)),
                Err(error) => tracing::error!(listener = %name, %error, "an old certificate is still shown"),
            }
        }
    }

    /// Opens what is new and moves what has another address. On an error everything is as before.
    pub async fn begin(&self, next: Next) -> Result<Begun, ListenError> {
        let mut begun = Begun { next: Next::default(), opened: Vec::new(), moved: Vec::new() };
        match self.open_and_move(next, &mut begun).await {
            Ok(()) => Ok(begun),
            Err(error) => {
                self.take_back(begun).await;
                Err(error)
            }
        }
    }

    async fn open_and_move(&self, mut next: Next, begun: &mut Begun) -> Result<(), ListenError> {
        for (name, config, settings) in std::mem::take(&mut next.added) {
            let mut listener = Listener::new(settings, self.shared.clone());
            listener.open()?;
            begun.opened.push((name, config, listener));
        }
        for (name, _, settings) in &next.changed {
            let Some(control) = self.running().get(name).map(|running| running.control.clone()) else {
                continue;
            };
            let before = control.settings();
            let place = |settings: &ListenerSettings| {
                (settings.address.clone(), settings.socket.clone(), settings.quic.is_some())
            };
            if place(&before) != place(settings) {
                control.move_to(settings.clone()).await?;
                begun.moved.push((control, ListenerSettings::clone(&before)));
            }
        }
        begun.next = next;
        Ok(())
    }

    /// Undoes what [`Self::begin`] did.
    pub async fn take_back(&self, begun: Begun) {
        for (control, before) in begun.moved {
            if let Err(error) = control.move_to(before).await {
                tracing::error!(%error, "a listener cannot go back to where it was");
            }
        }
    }

    /// Finishes what [`Self::begin`] began: from here on nothing fails.
    pub fn finish(&self, begun: Begun) {
        for (name, config, settings) in begun.next.changed {
            let mut running = self.running();
            let Some(running) = running.get_mut(&name) else { continue };
            self.watch(&name, &settings);
            running.control.configure(settings);
            running.about.kind = super::build::kind(&config);
            running.about.auth_mode = super::build::auth_mode_name(&config);
        }
        for name in begun.next.removed {
            if let Some(gone) = self.running().remove(&name) {
                gone.control.retire();
                gone.announced.cancel();
                self.endpoints.closed(&name);
                self.forget(&name);
            }
        }
        for (name, config, listener) in begun.opened {
            let running = self.known(&name, &config, &listener);
            self.watch(&name, &running.control.settings());
            self.serve(&name, listener, &running);
            self.running().insert(name, running);
        }
    }

    /// Waits until every listener and its connections have ended; whether they did in time.
    pub async fn ended(&self, patience: Duration) -> bool {
        self.tasks.close();
        tokio::time::timeout(patience, self.tasks.wait()).await.is_ok()
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
