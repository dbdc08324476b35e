//! Accepts connections on one address: with a bound on how many, only while the broker is ready, and through
//! the TLS handshake where there is one.
//!
//! Does not know MQTT: a connection whose transport is up is handed to [`crate::broker::serve`].

mod accept;
mod incoming;
mod report;
mod socket;
mod source;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mqgate_identity::reason::Reason;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::socket::bind;
use self::source::Unfinished;
pub(crate) use self::source::source_of;
use crate::audit::AuditLog;
use crate::audit::coalesce::Coalescer;
use crate::broker::Broker;
use crate::clock;
use crate::metrics::GateMetrics;
use crate::readiness::Readiness;
use crate::tls::TlsServer;

/// How one listener accepts.
#[derive(Clone)]
pub struct ListenerSettings {
    /// From the configuration; label of metrics, and in every audit record.
    pub name: Arc<str>,
    /// Port 0 picks a free one; see [`Listener::address`].
    pub address: SocketAddr,
    /// Open at the same time, handshakes included; more wait in the kernel's queue.
    pub max_connections: usize,
    /// TLS handshakes at the same time, of clients that have said hello.
    pub max_handshakes: usize,
    /// Connections of one IPv4 address or one IPv6 network of 64 bits whose handshake is not finished; more are
    /// closed. Does not hold for this machine itself.
    pub max_unfinished_per_source: usize,
    /// The kernel's queue.
    pub backlog: i32,
    /// How long connections get to end at shutdown.
    pub drain: Duration,
    pub tls: Option<Arc<TlsServer>>,
}

impl ListenerSettings {
    pub fn new(name: &str, address: SocketAddr, tls: Option<Arc<TlsServer>>) -> Self {
        Self {
            name: name.into(),
            address,
            max_connections: 100_000,
            max_handshakes: 256,
            max_unfinished_per_source: 64,
            backlog: 1024,
            drain: Duration::from_secs(10),
            tls,
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
    pub address: SocketAddr,
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
    bound: watch::Sender<Option<SocketAddr>>,
}

struct Inner {
    settings: ListenerSettings,
    parts: ListenerParts,
    handshakes: Semaphore,
    unfinished: Unfinished,
    failures: Mutex<Coalescer<(IpAddr, Reason)>>,
}

impl Listener {
    pub fn new(settings: ListenerSettings, parts: ListenerParts) -> Self {
        let protocol = settings.protocol();
        parts.metrics.add_listener(&settings.name, protocol, settings.max_connections);
        if let Some(tls) = &settings.tls {
            parts.metrics.note_certificates(&settings.name, None, tls.current().certificates());
        }
        let inner = Inner {
            handshakes: Semaphore::new(settings.max_handshakes.clamp(1, Semaphore::MAX_PERMITS)),
            unfinished: Unfinished::new(settings.max_unfinished_per_source),
            failures: Mutex::new(Coalescer::new(COALESCE, COALESCED_KEYS)),
            settings,
            parts,
        };
        Self { inner: Arc::new(inner), bound: watch::Sender::new(None) }
    }

    /// Where it listens now; `None` while it is shut.
    pub fn address(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.bound.subscribe()
    }

    /// Accepts until `shutdown`, then waits for the connections to end. Fails if the address cannot be had the
    /// first time.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ListenError> {
        let settings = &self.inner.settings;
        let tasks = TaskTracker::new();
        let places = Arc::new(Semaphore::new(settings.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
        // With port 0 the port that was picked is kept when the listener opens again.
        let mut address = settings.address;
        let mut opened_before = false;
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
            match bind(address, settings.backlog) {
                Ok(socket) => {
                    pause = FIRST_PAUSE;
                    opened_before = true;
                    address = socket.local_addr().unwrap_or(address);
                    self.opened(Some(address));
                    self.accept_while_ready(&socket, &places, &tasks, &shutdown).await;
                    drop(socket);
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

    fn opened(&self, address: Option<SocketAddr>) {
        let settings = &self.inner.settings;
        let labels = [&*settings.name, settings.protocol()];
        self.inner.parts.metrics.listener_up.with_label_values(&labels).set(i64::from(address.is_some()));
        match address {
            Some(address) => tracing::info!(listener = %settings.name, %address, "listening"),
            None => tracing::info!(listener = %settings.name, "shut"),
        }
        self.bound.send_replace(address);
    }
}

impl ListenerSettings {
    const fn protocol(&self) -> &'static str {
        if self.tls.is_some() { "tls" } else { "tcp" }
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
mod tests;
