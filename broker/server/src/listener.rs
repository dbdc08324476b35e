//! Accepts connections on one address: with a bound on how many, only while the broker is ready, and through
//! the TLS handshake where there is one.
//!
//! Does not know MQTT: a connection whose transport is up is handed to [`serve`].

mod source;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::hooks::Peer;
use mqgate_identity::reason::Reason;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::source::Unfinished;
pub(crate) use self::source::source_of;
use crate::audit::AuditLog;
use crate::audit::coalesce::Coalescer;
use crate::broker::{Broker, serve};
use crate::clock;
use crate::gate::{Accepted, event_about};
use crate::metrics::GateMetrics;
use crate::metrics::gate::{HandshakeResult, NAMESPACE, Stage};
use crate::readiness::Readiness;
use crate::stream::ServerStream;
use crate::tls::{HandshakeFailure, Handshaken, TlsServer};

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
            let not_after = tls.certificate().not_after.0 as f64;
            let labels = [&*settings.name, NAMESPACE, &*settings.name];
            parts.metrics.tls_certificate_not_after.with_label_values(&labels).set(not_after);
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

    /// Returns when the broker is not ready any more, or at shutdown.
    async fn accept_while_ready(
        &self,
        socket: &TcpListener,
        places: &Arc<Semaphore>,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) {
        let mut watch = tokio::time::interval(WATCH);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pause = FIRST_PAUSE;
        loop {
            // The place first: whoever has none is not accepted, and waits in the kernel's queue.
            let next = async {
                let place = Arc::clone(places).acquire_owned().await.ok();
                (place, socket.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = shutdown.cancelled() => return,
                _ = watch.tick() => {
                    self.inner.housekeeping();
                    if self.inner.parts.readiness.obstacles().is_empty() {
                        continue;
                    }
                    return;
                }
                next = next => next,
            };
            match accepted {
                Ok((stream, peer)) => {
                    pause = FIRST_PAUSE;
                    let inner = Arc::clone(&self.inner);
                    tasks.spawn(inner.handle(stream, peer, place, shutdown.clone()));
                }
                Err(problem) if is_of_the_peer(&problem) => {}
                Err(problem) => {
                    // No file descriptors or no memory: accepting at once again would spin.
                    let listener = &*self.inner.settings.name;
                    tracing::error!(listener, %problem, ?pause, "accepting failed");
                    sleep(pause, shutdown).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

impl ListenerSettings {
    const fn protocol(&self) -> &'static str {
        if self.tls.is_some() { "tls" } else { "tcp" }
    }
}

impl Inner {
    async fn handle(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        place: Option<OwnedSemaphorePermit>,
        shutdown: CancellationToken,
    ) {
        let listener = &*self.settings.name;
        let metrics = &self.parts.metrics;
        metrics.listener_accepted.with_label_values(&[listener]).inc();
        let _open = Raised::new(metrics.listener_connections.with_label_values(&[listener]));
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "no TCP_NODELAY");
        }
        let mut accepted = Accepted {
            id: self.parts.broker.next_connection_id(),
            listener: Arc::clone(&self.settings.name),
            accepted_at: clock::now(),
            peer: Peer { address: peer.ip().to_canonical(), port: peer.port(), via_proxy: None },
            tls: None,
            certificate: None,
        };
        let Some(tls) = &self.settings.tls else {
            let broker = Arc::clone(&self.parts.broker);
            serve(ServerStream::Tcp(stream), accepted, broker, shutdown).await;
            return;
        };
        let started = Instant::now();
        let Some(unfinished) = self.unfinished.enter(peer.ip()) else {
            metrics.listener_rejected.with_label_values(&[listener, "max_conn"]).inc();
            tracing::debug!(listener, %peer, "closed: its source has too many unfinished handshakes");
            return;
        };
        let handshake = tokio::select! {
            () = shutdown.cancelled() => return,
            handshake = tls.accept(stream, tls.settings().handshake_timeout, &self.handshakes) => handshake,
        };
        drop(unfinished);
        let Handshaken { stream, session, group, certificate } = match handshake {
            Ok(handshaken) => handshaken,
            Err(failure) => return self.failed(failure, &accepted),
        };
        let version = if session.version == 0x0303 { "1.2" } else { "1.3" };
        self.count(&session, version, group, certificate.is_some(), started);
        let has_certificate = if certificate.is_some() { "present" } else { "none" };
        let labels = [listener, version, has_certificate];
        let _live = Raised::new(metrics.tls_live_connections.with_label_values(&labels));
        accepted.tls = Some(session);
        accepted.certificate = certificate;
        let broker = Arc::clone(&self.parts.broker);
        serve(ServerStream::Tls(Box::new(stream)), accepted, broker, shutdown).await;
        drop(place);
    }

    fn count(
        &self,
        session: &mqgate_identity::hooks::TlsSession,
        version: &str,
        group: Option<rustls::NamedGroup>,
        has_certificate: bool,
        started: Instant,
    ) {
        let listener = &*self.settings.name;
        let metrics = &self.parts.metrics;
        metrics.tls_handshakes.with_label_values(&[listener, HandshakeResult::Ok.as_str()]).inc();
        let kind = if session.resumed { "resumed" } else { "full" };
        let took = started.elapsed().as_secs_f64();
        metrics.tls_handshake_duration.with_label_values(&[listener, kind]).observe(took);
        let cipher = rustls::CipherSuite::from(session.cipher_suite);
        let cipher = cipher.as_str().unwrap_or("other");
        let group = group.map_or("none", |group| group.as_str().unwrap_or("other"));
        metrics.tls_sessions.with_label_values(&[listener, version, cipher, group]).inc();
        if session.resumed {
            metrics.tls_resumptions.with_label_values(&[listener, "accepted"]).inc();
        }
        if has_certificate {
            metrics.decided(listener, Stage::Cert, Reason::Ok);
        }
    }

    fn failed(&self, failure: HandshakeFailure, accepted: &Accepted) {
        let listener = &*self.settings.name;
        let metrics = &self.parts.metrics;
        let result = match failure.reason {
            Reason::TlsHandshakeTimeout => HandshakeResult::Timeout,
            _ => HandshakeResult::Failed,
        };
        metrics.tls_handshakes.with_label_values(&[listener, result.as_str()]).inc();
        metrics.tls_handshake_failures.with_label_values(&[listener, failure.reason.as_str()]).inc();
        if failure.certificate_fingerprint.is_some() {
            metrics.decided(listener, Stage::Cert, failure.reason);
        }
        if failure.crowded && failure.reason == Reason::TlsHandshakeTimeout {
            metrics.listener_rejected.with_label_values(&[listener, "rate"]).inc();
        }
        if failure.resumed {
            metrics.tls_resumptions.with_label_values(&[listener, "reverify_failed"]).inc();
        }
        tracing::debug!(
            listener,
            peer = %accepted.peer.address,
            reason = %failure.reason,
            detail = failure.detail,
            "TLS handshake failed"
        );
        let event = AuditEvent::new(names::HANDSHAKE_FAILED, Outcome::Failure, failure.reason);
        let mut event = event_about(event, accepted).field("detail", failure.detail);
        event.server_name = failure.server_name;
        event.certificate_fingerprint = failure.certificate_fingerprint;
        event.subject = failure.subject;
        let due = self.failures().offer(clock::now(), (accepted.peer.address, failure.reason), event);
        for event in due {
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

    fn failures(&self) -> std::sync::MutexGuard<'_, Coalescer<(IpAddr, Reason)>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A gauge that is one higher as long as this lives.
struct Raised(prometheus::IntGauge);

impl Raised {
    fn new(gauge: prometheus::IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn bind(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted broker must not wait for the connections of its predecessor to be forgotten.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` means IPv6; IPv4 is a listener of its own, whatever the system's default is.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    TcpListener::from_std(socket.into())
}

/// The connection was gone before it was accepted; the next one may be fine.
fn is_of_the_peer(problem: &io::Error) -> bool {
    matches!(
        problem.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

async fn sleep(time: Duration, shutdown: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = shutdown.cancelled() => {}
    }
}

#[cfg(test)]
mod tests;
