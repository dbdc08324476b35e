//! Accepts connections on one address: with a bound on how many, only while the broker is ready, and through
//! the TLS handshake where there is one.
//!
//! Does not know MQTT: a connection whose transport is up is handed to [`crate::broker::serve`].

mod accept;
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
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::socket::ListeningSocket;
pub use self::socket::{LONGEST_UNIX_PATH, ListenAddress, SocketSettings};
use self::source::Unfinished;
pub(crate) use self::source::source_of;
use crate::audit::AuditLog;
use crate::audit::coalesce::Coalescer;
use crate::broker::Broker;
use crate::clock;
use crate::metrics::GateMetrics;
use crate::metrics::mqtt::Transport;
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
}

/// Failures with the same are one record, with a count.
type FailureKey = (IpAddr, Reason, Option<CertificateFingerprint>);

struct Inner {
    name: Arc<str>,
    /// A connection uses one snapshot from beginning to end.
    settings: Arc<ArcSwap<ListenerSettings>>,
    parts: ListenerParts,
    handshakes: Semaphore,
    unfinished: Unfinished,
    failures: Mutex<Coalescer<FailureKey>>,
}

impl Listener {
    pub fn new(settings: ListenerSettings, parts: ListenerParts) -> Self {
        let protocol = settings.transport().as_str();
        parts.metrics.add_listener(&settings.name, protocol, settings.max_connections);
        if let Some(tls) = &settings.tls {
            parts.metrics.note_certificates(&settings.name, None, tls.current().certificates());
        }
        let inner = Inner {
            name: Arc::clone(&settings.name),
            handshakes: Semaphore::new(settings.max_handshakes.clamp(1, Semaphore::MAX_PERMITS)),
            unfinished: Unfinished::new(settings.max_unfinished_per_source),
            failures: Mutex::new(Coalescer::new(COALESCE, COALESCED_KEYS)),
            settings: Arc::new(ArcSwap::from_pointee(settings)),
            parts,
        };
        Self { inner: Arc::new(inner), bound: watch::Sender::new(None) }
    }

    /// Where it listens now; `None` while it is shut.
    pub fn address(&self) -> watch::Receiver<Option<ListenAddress>> {
        self.bound.subscribe()
    }

    /// What new connections are served by. May be replaced at any time; the address, the kind of socket and the
    /// numbers of places are those of the start.
    pub fn settings(&self) -> Arc<ArcSwap<ListenerSettings>> {
        Arc::clone(&self.inner.settings)
    }

    /// Accepts until `shutdown`, then waits for the connections to end. Fails if the address cannot be had the
    /// first time.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ListenError> {
        let settings = self.inner.settings.load_full();
        let tasks = TaskTracker::new();
        let places = Arc::new(Semaphore::new(settings.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
        // With port 0 the port that was picked is kept when the listener opens again.
        let mut address = settings.address.clone();
        let mut opened_before = false;
        // QUIC: connections live on the socket that they were accepted on.
        let mut endpoint = None;
        let mut last_obstacles = Vec::new();
        let mut pause = FIRST_PAUSE;
        while !shutdown.is_cancelled() {
            let obstacles = self.inner.parts.readiness.obstacles();
            if !obstacles.is_empty() {
                if obstacles != last_obstacles {
                    tracing::warn!(listener = %settings.name, ?obstacles, "the listener stays shut");
                }
                last_obstacles = obstacles;
                self.inner.housekeeping();
                sleep(WATCH, &shutdown).await;
                continue;
            }
            last_obstacles.clear();
            match ListeningSocket::open(&address, &settings, &mut endpoint) {
                Ok(socket) => {
                    pause = FIRST_PAUSE;
                    opened_before = true;
                    address = socket.address().unwrap_or(address);
                    self.opened(Some(address.clone()));
                    self.accept_while_ready(&socket, &places, &tasks, &shutdown).await;
                    socket.shut();
                    self.opened(None);
                }
                Err(problem) if !opened_before => {
                    return Err(ListenError { listener: settings.name.to_string(), address, problem });
                }
                Err(problem) => {
                    tracing::error!(listener = %settings.name, %address, %problem, "cannot listen again yet");
                    sleep(pause, &shutdown).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        tasks.close();
        if tokio::time::timeout(settings.drain, tasks.wait()).await.is_err() {
            tracing::warn!(listener = %settings.name, connections = tasks.len(), "connections did not end in time");
        }
        for event in self.inner.failures().finish() {
            self.inner.parts.audit.record(event);
        }
        Ok(())
    }

    fn opened(&self, address: Option<ListenAddress>) {
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
    fn housekeeping(&self) {
        self.parts.audit.flush_refusals();
        let due = self.failures().flush(clock::now());
        for event in due {
            self.parts.audit.record(event);
        }
    }
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
