//! Accepts connections on one address: with a bound on how many, only while the broker is ready, and through
//! the TLS handshake where there is one.
//!
//! Does not know MQTT: a connection whose transport is up is handed to [`crate::broker::serve`].

mod accept;
mod control;
mod incoming;
mod proxied;
mod report;
mod socket;
mod source;

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::reason::Reason;
use quinn::Endpoint;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::control::ListenerControl;
use self::control::{Move, clamped};
use self::socket::ListeningSocket;
pub use self::socket::{LONGEST_UNIX_PATH, ListenAddress, SocketSettings};
use self::source::Unfinished;
use crate::audit::AuditLog;
use crate::audit::coalesce::Coalescer;
use crate::broker::Broker;
use crate::clock;
use crate::metrics::GateMetrics;
use crate::metrics::mqtt::Transport;
use crate::ocsp::OcspSettings;
use crate::proxy_protocol::ProxySettings;
use crate::quic::QuicSettings;
use crate::readiness::Readiness;
use crate::tls::TlsServer;
use crate::websocket::WebSocketSettings;

/// How one listener accepts.
#[derive(Clone)]
pub struct ListenerSettings {
    /// From the configuration; label of metrics, and in every audit record.
    pub name: Arc<str>,
    /// Port 0 picks a free one; see [`Listener::address`].
    pub address: ListenAddress,
    pub socket: SocketSettings,
    /// Open at the same time, handshakes included; more wait in the kernel's queue.
    pub max_connections: usize,
    /// TLS handshakes at the same time, of clients that have said hello.
    pub max_handshakes: usize,
    /// Connections of one IPv4 address or one IPv6 network of 64 bits whose handshake is not finished; more are
    /// closed. Does not hold for this machine itself.
    pub max_unfinished_per_source: usize,
    /// How long connections get to end at shutdown.
    pub drain: Duration,
    pub tls: Option<Arc<TlsServer>>,
    /// Whether OCSP responses are fetched for the certificates of `tls`, which is somebody else's work.
    pub ocsp: Option<OcspSettings>,
    /// Proxies in front of it.
    pub proxy: Option<Arc<ProxySettings>>,
    /// MQTT comes in WebSocket frames.
    pub websocket: Option<Arc<WebSocketSettings>>,
    /// MQTT comes over QUIC, with the TLS of `tls`.
    pub quic: Option<QuicSettings>,
}

impl ListenerSettings {
    pub fn new(name: &str, address: impl Into<ListenAddress>, tls: Option<Arc<TlsServer>>) -> Self {
        Self {
            name: name.into(),
            address: address.into(),
            socket: SocketSettings::default(),
            max_connections: 100_000,
            max_handshakes: 256,
            max_unfinished_per_source: 64,
            drain: Duration::from_secs(10),
            tls,
            ocsp: None,
            proxy: None,
            websocket: None,
            quic: None,
        }
    }
}

/// What listeners share.
#[derive(Clone)]
pub struct ListenerParts {
    pub broker: Arc<Broker>,
    pub audit: Arc<AuditLog>,
    pub metrics: Arc<GateMetrics>,
    pub readiness: Arc<Readiness>,
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listener \"{listener}\" cannot listen on {address}: {problem}")]
pub struct ListenError {
    pub listener: String,
    pub address: ListenAddress,
    pub problem: io::Error,
}

/// How often readiness is looked at.
const WATCH: Duration = Duration::from_millis(200);
/// Equal handshake failures of one address within this are one audit record with a count.
const COALESCE: Duration = Duration::from_secs(10);
const COALESCED_KEYS: usize = 4096;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub struct Listener {
    inner: Arc<Inner>,
    bound: watch::Sender<Option<ListenAddress>>,
    moves: (mpsc::Sender<Move>, mpsc::Receiver<Move>),
    /// Opened before [`Self::run`], which goes on with it.
    opened: Option<ListeningSocket>,
    /// QUIC: connections live on the socket that they were accepted on.
    endpoint: Option<Endpoint>,
}

/// Failures with the same source, reason and certificate are one record, with a count.
type FailureKey = (IpAddr, Reason, Option<CertificateFingerprint>);

struct Inner {
    name: Arc<str>,
    /// A connection uses one snapshot from beginning to end.
    settings: ArcSwap<ListenerSettings>,
    parts: ListenerParts,
    places: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    /// Nobody is accepted any more.
    retired: CancellationToken,
    unfinished: Unfinished,
    failures: Mutex<Coalescer<FailureKey>>,
}

impl Listener {
    pub fn new(settings: ListenerSettings, parts: ListenerParts) -> Self {
        let inner = Inner {
            name: Arc::clone(&settings.name),
            places: Arc::new(Semaphore::new(clamped(settings.max_connections))),
            handshakes: Arc::new(Semaphore::new(clamped(settings.max_handshakes))),
            unfinished: Unfinished::new(settings.max_unfinished_per_source),
            failures: Mutex::new(Coalescer::new(COALESCE, COALESCED_KEYS)),
            retired: CancellationToken::new(),
            settings: ArcSwap::from_pointee(settings),
            parts,
        };
        inner.announce(&inner.settings.load());
        let (bound, moves) = (watch::Sender::new(None), mpsc::channel(1));
        Self { inner: Arc::new(inner), bound, moves, opened: None, endpoint: None }
    }

    /// Takes the address now: whether it can be had is known before [`Self::run`].
    pub fn open(&mut self) -> Result<(), ListenError> {
        let settings = self.inner.settings.load_full();
        self.opened = Some(socket(&settings, &mut self.endpoint)?);
        Ok(())
    }

    /// Where it listens now; `None` while it is shut.
    pub fn address(&self) -> watch::Receiver<Option<ListenAddress>> {
        self.bound.subscribe()
    }

    /// Accepts until `shutdown`, then waits for the connections to end. Fails if the address cannot be had the
    /// first time.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), ListenError> {
        let name = Arc::clone(&self.inner.name);
        let tasks = TaskTracker::new();
        // With port 0 the port that was picked is kept when the listener opens again.
        let mut wanted = ListenerSettings::clone(&self.inner.settings.load());
        let mut opened_before = false;
        let mut last_obstacles = Vec::new();
        let mut pause = FIRST_PAUSE;
        while !shutdown.is_cancelled() && !self.inner.retired.is_cancelled() {
            let obstacles = self.inner.parts.readiness.obstacles();
            if !obstacles.is_empty() {
                if obstacles != last_obstacles {
                    tracing::warn!(listener = %name, ?obstacles, "the listener stays shut");
                }
                last_obstacles = obstacles;
                self.opened = None;
                self.inner.housekeeping();
                tokio::select! {
                    () = sleep(WATCH, &shutdown) => {}
                    Some(order) = self.moves.1.recv() => {
                        // Only whether it could be had: it opens when the broker is ready.
                        let tried = socket(&order.settings, &mut None).map(drop);
                        if tried.is_ok() {
                            wanted = order.settings;
                        }
                        let _ = order.answer.send(tried);
                    }
                }
                continue;
            }
            last_obstacles.clear();
            let socket = match self.opened.take() {
                Some(opened) => Ok(opened),
                None => socket(&wanted, &mut self.endpoint),
            };
            match socket {
                Ok(socket) => {
                    pause = FIRST_PAUSE;
                    opened_before = true;
                    wanted.address = socket.address().unwrap_or(wanted.address);
                    self.tell(Some(wanted.address.clone()));
                    let order = self.accept_while_ready(&socket, &tasks, &shutdown).await;
                    if let Some(order) = order {
                        self.relocate(socket, &mut wanted, order);
                    } else {
                        socket.shut();
                        self.tell(None);
                    }
                }
                Err(error) if !opened_before => return Err(error),
                Err(error) => {
                    tracing::error!(%error, "cannot listen again yet");
                    sleep(pause, &shutdown).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        drop(self.moves);
        tasks.close();
        self.inner.tell_failures();
        // A listener that was removed keeps its clients as long as they like.
        tokio::select! {
            () = tasks.wait() => {}
            () = shutdown.cancelled() => {}
        }
        let drain = self.inner.settings.load().drain;
        if tokio::time::timeout(drain, tasks.wait()).await.is_err() {
            tracing::warn!(listener = %name, connections = tasks.len(), "connections did not end in time");
        }
        self.inner.tell_failures();
        Ok(())
    }

    /// Goes where it is told to, and leaves the socket to be taken for [`Self::run`]; if that cannot be had it stays.
    fn relocate(&mut self, before: ListeningSocket, wanted: &mut ListenerSettings, order: Move) {
        let mut endpoint = None;
        let mut tried = socket(&order.settings, &mut endpoint);
        let in_our_way = |error: &ListenError| error.problem.kind() == io::ErrorKind::AddrInUse;
        let mut before = Some(before);
        if tried.as_ref().is_err_and(in_our_way) {
            // The old address may be a part of the new one: `127.0.0.1:8883` of `0.0.0.0:8883`.
            if let Some(before) = before.take() {
                before.shut();
            }
            self.tell(None);
            tried = socket(&order.settings, &mut endpoint);
        }
        let answer = match tried {
            Ok(fresh) => {
                if let Some(before) = before.take() {
                    before.shut();
                    self.tell(None);
                }
                (self.opened, self.endpoint) = (Some(fresh), endpoint);
                *wanted = order.settings;
                Ok(())
            }
            Err(error) => {
                // If it was given up it is opened again by `run`.
                self.opened = before;
                Err(error)
            }
        };
        let _ = order.answer.send(answer);
    }

    fn tell(&self, address: Option<ListenAddress>) {
        let settings = self.inner.settings.load();
        let labels = [&*settings.name, settings.transport().as_str()];
        self.inner.parts.metrics.listener_up.with_label_values(&labels).set(i64::from(address.is_some()));
        match &address {
            Some(address) => tracing::info!(listener = %settings.name, %address, "listening"),
            None => tracing::info!(listener = %settings.name, "shut"),
        }
        self.bound.send_replace(address);
    }
}

impl ListenerSettings {
    /// What carries its connections.
    pub const fn transport(&self) -> Transport {
        if self.quic.is_some() {
            return Transport::Quic;
        }
        match (&self.websocket, &self.tls, &self.address) {
            (Some(_), Some(_), _) => Transport::Wss,
            (Some(_), None, _) => Transport::Ws,
            (None, Some(_), _) => Transport::Tls,
            (None, None, ListenAddress::Ip(_)) => Transport::Tcp,
            (None, None, ListenAddress::Unix(_)) => Transport::Unix,
        }
    }
}

impl Inner {
    /// Brings what metrics say of the listener up to date.
    fn announce(&self, settings: &ListenerSettings) {
        let metrics = &self.parts.metrics;
        metrics.add_listener(&self.name, settings.transport().as_str(), settings.max_connections);
        if let Some(tls) = &settings.tls {
            metrics.note_certificates(&self.name, None, tls.current().certificates());
        }
    }

    /// Writes down what was counted so far.
    fn tell_failures(&self) {
        let counted = self.failures().finish();
        for event in counted {
            self.parts.audit.record(event);
        }
    }

    fn housekeeping(&self) {
        self.parts.audit.flush_refusals();
        let due = self.failures().flush(clock::now());
        for event in due {
            self.parts.audit.record(event);
        }
    }
}

/// Opens the socket of a listener.
fn socket(
    settings: &ListenerSettings,
    endpoint: &mut Option<Endpoint>,
) -> Result<ListeningSocket, ListenError> {
    ListeningSocket::open(&settings.address, settings, endpoint).map_err(|problem| ListenError {
        listener: settings.name.to_string(),
        address: settings.address.clone(),
        problem,
    })
}

async fn sleep(time: Duration, shutdown: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = shutdown.cancelled() => {}
    }
}

#[cfg(test)]
mod forensics;
#[cfg(test)]
mod tests;
