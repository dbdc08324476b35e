//! Who is connected: one handle per connection, to be found, asked to leave, or asked again for a permit.
//!
//! A handle is there from the moment a transport is served, before CONNECT was judged: a certificate that is
//! revoked meanwhile reaches the connection all the same. Knows nothing of sessions and messages.

mod index;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytestring::ByteString;
use mqgate_codec::ReasonCode;
use mqgate_identity::certificate::{CertificateFingerprint, ClientCertificate};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::{UnixMillis, UnixSeconds};
use mqgate_protocol::permit::Permit;
use mqgate_protocol::time::Instant;
use tokio::sync::oneshot;

pub use self::index::Mark;
use self::index::{Entered, Index};
use crate::delivery::Mailbox;
use crate::gate::Accepted;
use crate::inspect::Request;
use crate::sessions::Handover;

const SHARDS: usize = 64;

/// All connections of a broker.
#[derive(Debug)]
pub struct Connections {
    shards: Box<[Shard]>,
    count: AtomicUsize,
    index: Index,
}

/// By connection id.
type Shard = Mutex<HashMap<u64, Arc<ConnectionHandle>>>;

/// One connection, seen from outside its task.
#[derive(Debug)]
pub struct ConnectionHandle {
    pub connection_id: u64,
    pub listener: Arc<str>,
    pub accepted_at: UnixMillis,
    pub peer_address: std::net::IpAddr,
    pub certificate_fingerprint: Option<CertificateFingerprint>,
    /// As TLS counts versions; `None` without TLS.
    pub tls_version: Option<u16>,
    /// The server's certificate that the client was shown.
    pub server_certificate: Option<CertificateFingerprint>,
    certificate: Option<Arc<ClientCertificate>>,
    /// The trust anchor that the client's path ends in now, if it is not the one it ended in at first.
    anchor: Mutex<Option<CertificateFingerprint>>,
    /// Kept by the index.
    entered: Mutex<Entered>,
    /// Set when the gate admitted the client.
    admitted: OnceLock<Admitted>,
    /// Generation of the hook set that gave the permit in use.
    generation: AtomicU64,
    /// When the client said something last, in milliseconds since the broker's start.
    heard: AtomicU64,
    /// Where its messages wait, once it has a session.
    mailbox: OnceLock<Arc<Mailbox>>,
    orders: Mutex<Orders>,
}

/// Who a connection turned out to be.
#[derive(Debug, Clone)]
pub struct Admitted {
    pub client_id: ByteString,
    pub device_id: Arc<str>,
    pub tenant: Option<Arc<str>>,
}

/// Why a connection is closed from this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Farewell {
    /// Sent to MQTT 5.0 clients.
    pub code: ReasonCode,
    /// Audited and counted.
    pub reason: Reason,
}

/// What others want of a connection's task.
#[derive(Debug, Default)]
struct Orders {
    farewell: Option<Farewell>,
    /// Where the session goes when another connection takes it over.
    heir: Option<oneshot::Sender<Handover>>,
    /// Ask the gate again at once.
    reauthorize: bool,
    /// What others want to know of the session or have done to it.
    requests: Vec<Request>,
    waker: Option<Waker>,
    /// The task is gone; orders reach nobody.
    ended: bool,
    /// Measures how long the farewell takes.
    cause: Option<Cause>,
}

/// Since when a connection has to go, and where it is noted how long that took.
#[derive(Debug, Clone)]
pub struct Cause {
    pub since: std::time::Instant,
    pub latency: prometheus::Histogram,
}

/// What a task finds when it looks at its orders.
#[derive(Debug, Default)]
pub(crate) struct Order {
    pub(crate) farewell: Option<Farewell>,
    pub(crate) reauthorize: bool,
    pub(crate) requests: Vec<Request>,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            count: AtomicUsize::new(0),
            index: Index::default(),
        }
    }
}

impl Connections {
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The connection with this number.
    pub fn get(&self, connection_id: u64) -> Option<Arc<ConnectionHandle>> {
        lock(self.shard(connection_id)).get(&connection_id).cloned()
    }

    /// Every connection, at one moment per shard.
    pub fn list(&self) -> Vec<Arc<ConnectionHandle>> {
        self.shards.iter().flat_map(|shard| lock(shard).values().cloned().collect::<Vec<_>>()).collect()
    }

    /// Closes every connection that `predicate` picks; says how many. The client hears `code` (MQTT 5.0), the
    /// auditor `reason`.
    pub fn disconnect_where(
        &self,
        predicate: impl Fn(&ConnectionHandle) -> bool,
        code: ReasonCode,
        reason: Reason,
    ) -> usize {
        self.each(predicate, |handle| handle.close(Farewell { code, reason }))
    }

    /// Has every connection that `predicate` picks ask the gate for a new permit at once; says how many. One
    /// that gets none is closed with Not authorized.
    pub fn reauthorize_where(&self, predicate: impl Fn(&ConnectionHandle) -> bool) -> usize {
        self.each(predicate, ConnectionHandle::reauthorize)
    }

    fn each(
        &self,
        predicate: impl Fn(&ConnectionHandle) -> bool,
        order: impl Fn(&ConnectionHandle),
    ) -> usize {
        let mut found = 0;
        for handle in self.list() {
            if predicate(&handle) {
                order(&handle);
                found += 1;
            }
        }
        found
    }

    /// Everyone who depends on this.
    pub fn find(&self, mark: Mark<'_>) -> Vec<Arc<ConnectionHandle>> {
        self.index.find(mark, usize::MAX)
    }

    /// Some of them, `most` at the most.
    pub(crate) fn find_some(&self, mark: Mark<'_>, most: usize) -> Vec<Arc<ConnectionHandle>> {
        self.index.find(mark, most)
    }

    /// Says when a connection has to be looked at again; at first, when its path's validity ends.
    pub(crate) fn set_due(&self, handle: &Arc<ConnectionHandle>, at: Option<UnixSeconds>) {
        self.index.set_due(handle, at);
    }

    /// Takes out who has to be looked at by `now`.
    pub(crate) fn take_due(&self, now: UnixSeconds) -> Vec<Arc<ConnectionHandle>> {
        self.index.take_due(now)
    }

    pub(crate) fn next_due(&self) -> Option<UnixSeconds> {
        self.index.next_due()
    }

    /// Waits until [`Self::next_due`] has become an earlier moment.
    pub(crate) async fn due_sooner(&self) {
        self.index.sooner.notified().await;
    }

    /// A connection's path ends in another CA from now on.
    pub(crate) fn reparent(&self, handle: &Arc<ConnectionHandle>, to: CertificateFingerprint) {
        let Some(from) = handle.anchor().filter(|from| *from != to) else { return };
        handle.set_anchor(to);
        self.index.moved(handle, from, to);
    }

    pub(crate) fn enter(&self, handle: Arc<ConnectionHandle>) {
        self.index.enter(&handle);
        if lock(self.shard(handle.connection_id)).insert(handle.connection_id, handle).is_none() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn leave(&self, connection_id: u64) {
        let gone = lock(self.shard(connection_id)).remove(&connection_id);
        if let Some(gone) = gone {
            self.count.fetch_sub(1, Ordering::Relaxed);
            self.index.leave(&gone);
        }
    }

    fn shard(&self, connection_id: u64) -> &Shard {
        &self.shards[(connection_id % SHARDS as u64) as usize]
    }
}

impl ConnectionHandle {
    pub(crate) fn new(accepted: &Accepted) -> Self {
        let certificate = accepted.certificate.as_deref();
        Self {
            connection_id: accepted.id,
            listener: Arc::clone(&accepted.listener),
            accepted_at: accepted.accepted_at,
            peer_address: accepted.peer.address,
            certificate_fingerprint: certificate.map(|certificate| certificate.leaf.certificate_fingerprint),
            tls_version: accepted.tls.as_ref().map(|tls| tls.version),
            server_certificate: accepted.server_certificate,
            certificate: accepted.certificate.clone(),
            anchor: Mutex::default(),
            entered: Mutex::default(),
            admitted: OnceLock::new(),
            generation: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            mailbox: OnceLock::new(),
            orders: Mutex::default(),
        }
    }

    /// Who it is, once it was admitted.
    pub fn admitted(&self) -> Option<&Admitted> {
        self.admitted.get()
    }

    pub fn client_id(&self) -> Option<&str> {
        self.admitted().map(|admitted| admitted.client_id.as_ref())
    }

    pub fn device_id(&self) -> Option<&str> {
        self.admitted().map(|admitted| &*admitted.device_id)
    }

    /// The certificate that the client proved to hold the key of.
    pub fn certificate(&self) -> Option<&Arc<ClientCertificate>> {
        self.certificate.as_ref()
    }

    /// Fingerprint of the trust anchor that the client's path ends in.
    pub fn anchor(&self) -> Option<CertificateFingerprint> {
        let certificate = self.certificate.as_deref()?;
        Some(lock(&self.anchor).unwrap_or(certificate.anchor.certificate_fingerprint))
    }

    fn set_anchor(&self, anchor: CertificateFingerprint) {
        *lock(&self.anchor) = Some(anchor);
    }

    /// Generation of the hook set that gave the permit in use; 0 before there is one.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// The client said something.
    pub(crate) fn hear(&self, now: Instant) {
        self.heard.store(u64::try_from(now.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether the client said something lately.
    pub(crate) fn heard_within(&self, now: Instant, time: Duration) -> bool {
        let heard = Instant::since_start(Duration::from_millis(self.heard.load(Ordering::Relaxed)));
        now.since(heard) <= time
    }

    /// Asks the connection's task to say goodbye; the first request wins.
    pub fn close(&self, farewell: Farewell) {
        self.order(|orders| {
            orders.farewell.get_or_insert(farewell);
        });
    }

    /// Asks the connection's task about its session. A task that is gone drops the request, and with it the
    /// sender of the answer.
    pub(crate) fn request(&self, request: Request) {
        self.order(|orders| {
            if !orders.ended {
                orders.requests.push(request);
            }
        });
    }

    pub(crate) fn delivers_to(&self, mailbox: &Arc<Mailbox>) {
        self.mailbox.get_or_init(|| Arc::clone(mailbox));
    }

    pub(crate) fn mailbox(&self) -> Option<&Arc<Mailbox>> {
        self.mailbox.get()
    }

    /// As [`Self::close`], and notes how long it takes. Whether this was the first request.
    pub fn close_because(&self, farewell: Farewell, cause: Cause) -> bool {
        let mut first = false;
        self.order(|orders| {
            first = orders.farewell.is_none() && !orders.ended;
            if first {
                orders.farewell = Some(farewell);
                orders.cause = Some(cause);
            }
        });
        first
    }

    /// The client has been told to go: what was measured is written down.
    pub(crate) fn dismissed(&self) {
        let cause = lock(&self.orders).cause.take();
        if let Some(cause) = cause {
            cause.latency.observe(cause.since.elapsed().as_secs_f64());
        }
    }

    /// Asks the connection's task to get a new permit.
    pub fn reauthorize(&self) {
        self.order(|orders| orders.reauthorize = true);
    }

    pub(crate) fn hand_over(&self, heir: oneshot::Sender<Handover>) {
        self.order(|orders| {
            // Without a task the heir is dropped, and so learns that nothing comes.
            orders.heir = Some(heir).filter(|_| !orders.ended);
            orders.farewell.get_or_insert(Farewell {
                code: ReasonCode::SESSION_TAKEN_OVER, // [MQTT-3.1.4-3]
                reason: Reason::TakenOver,
            });
        });
    }

    pub(crate) fn take_heir(&self) -> Option<oneshot::Sender<Handover>> {
        lock(&self.orders).heir.take()
    }

    /// The task ends, however it does.
    pub(crate) fn end(&self) {
        let mut orders = lock(&self.orders);
        orders.ended = true;
        orders.heir = None;
        orders.requests = Vec::new();
        orders.waker = None;
    }

    pub(crate) fn farewell(&self) -> Option<Farewell> {
        lock(&self.orders).farewell
    }

    pub(crate) fn permitted(&self, permit: &Permit) {
        self.admitted.get_or_init(|| Admitted {
            client_id: permit.client_id.clone(),
            device_id: Arc::clone(&permit.device_id),
            tenant: permit.tenant.clone(),
        });
        self.generation.store(permit.generation, Ordering::Relaxed);
    }

    /// Takes what was ordered and leaves `waker` to be woken by the next order.
    pub(crate) fn orders(&self, waker: &Waker) -> Order {
        let mut orders = lock(&self.orders);
        if !orders.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            orders.waker = Some(waker.clone());
        }
        Order {
            farewell: orders.farewell,
            reauthorize: std::mem::take(&mut orders.reauthorize),
            requests: std::mem::take(&mut orders.requests),
        }
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        let waker = {
            let mut orders = lock(&self.orders);
            change(&mut orders);
            orders.waker.clone()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// What a lock guards here is changed in single steps, so a panic elsewhere leaves nothing half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
