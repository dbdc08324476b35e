//! Traces: what is said with chosen clients, one line a packet, into a file, until a time and a size.
//!
//! Which clients: by client id, certificate, address; or which topics. Payloads only where that was asked for,
//! passwords never. Does not know connections: they ask whether anybody listens and tell what they see.

mod line;
#[cfg(test)]
mod tests;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use mqgate_codec::{Packet, TopicFilter, TopicName};
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::time::UnixMillis;
use mqgate_protocol::session::Delivery;
use prometheus::{IntCounter, IntGauge};

pub(crate) use self::line::Direction;
use self::writer::Writer;
use crate::clock;
use crate::directory::ConnectionHandle;
use crate::network::Network;

/// Bounds of traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceLimits {
    /// Where the files are.
    pub folder: PathBuf,
    /// Traces that run at the same time.
    pub running: usize,
    /// Longest time one may run.
    pub longest: Duration,
    /// Largest file.
    pub bytes: u64,
}

/// What a trace is about: everything that is set has to match.
#[derive(Debug, Clone, Default)]
pub struct Target {
    pub client_id: Option<String>,
    pub certificate: Option<CertificateFingerprint>,
    pub address: Option<Network>,
    /// Only PUBLISH of these topics, and SUBSCRIBE and UNSUBSCRIBE of filters under it.
    pub topic: Option<TopicFilter>,
}

/// How a trace is to run.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub name: String,
    pub target: Target,
    pub duration: Duration,
    pub bytes: u64,
    pub payloads: bool,
}

/// A trace that runs.
pub(crate) struct Trace {
    pub(crate) wanted: Wanted,
    pub(crate) started_at: UnixMillis,
    pub(crate) until: UnixMillis,
    pub(crate) file: PathBuf,
    pub(crate) writer: Writer,
}

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("a trace's name has 1 to 64 lower-case letters, digits and `-`")]
    Name,
    #[error("say what to trace: a client id, a certificate, an address or a topic")]
    Target,
    #[error("a trace runs for at least a second and at most {0} s; give another time")]
    Duration(u64),
    #[error("a trace's file has at least 1 KiB and at most {0} bytes; give another size")]
    Bytes(u64),
    #[error("{0} traces run already; stop one, or raise `trace.max_running`")]
    TooMany(usize),
    #[error("there is a trace of this name, or its file; take another name, or delete it")]
    Exists,
    #[error("the file {path} cannot be made: {problem}")]
    File { path: String, problem: std::io::Error },
    #[error("this broker has no folder for traces")]
    Off,
}

pub(crate) struct Traces {
    limits: Option<TraceLimits>,
    running: RwLock<Vec<Arc<Trace>>>,
    /// Whether any runs: without one, nobody looks further. Shared with those who then do each message by itself.
    active: Arc<AtomicBool>,
    gauge: IntGauge,
    dropped: IntCounter,
}

impl Traces {
    pub(crate) fn new(
        limits: Option<TraceLimits>,
        active: Arc<AtomicBool>,
        gauge: IntGauge,
        dropped: IntCounter,
    ) -> Self {
        Self { limits, running: RwLock::default(), active, gauge, dropped }
    }

    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Makes the file and begins. Blocks for the disk.
    /// Whether a trace like this could be started now.
    pub(crate) fn check(&self, wanted: &Wanted) -> Result<(), TraceError> {
        let running = self.running.read().unwrap_or_else(PoisonError::into_inner);
        self.allows(wanted, &running).map(drop)
    }

    fn allows(&self, wanted: &Wanted, running: &[Arc<Trace>]) -> Result<&TraceLimits, TraceError> {
        let limits = self.limits.as_ref().ok_or(TraceError::Off)?;
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if wanted.name.is_empty() || wanted.name.len() > 64 || !wanted.name.chars().all(fits) {
            return Err(TraceError::Name);
        }
        let target = &wanted.target;
        if target.client_id.is_none()
            && target.certificate.is_none()
            && target.address.is_none()
            && target.topic.is_none()
        {
            return Err(TraceError::Target);
        }
        if wanted.duration < Duration::from_secs(1) || wanted.duration > limits.longest {
            return Err(TraceError::Duration(limits.longest.as_secs()));
        }
        if wanted.bytes < 1024 || wanted.bytes > limits.bytes {
            return Err(TraceError::Bytes(limits.bytes));
        }
        if running.len() >= limits.running {
            return Err(TraceError::TooMany(limits.running));
        }
        if running.iter().any(|trace| trace.wanted.name == wanted.name) {
            return Err(TraceError::Exists);
        }
        Ok(limits)
    }

    pub(crate) fn start(&self, wanted: Wanted) -> Result<Arc<Trace>, TraceError> {
        let mut running = self.running.write().unwrap_or_else(PoisonError::into_inner);
        let limits = self.allows(&wanted, &running)?;
        let file = limits.folder.join(format!("{}.log", wanted.name));
        let writer = Writer::start(&file, wanted.bytes, self.dropped.clone())?;
        let started_at = clock::now();
        let millis = u64::try_from(wanted.duration.as_millis()).unwrap_or(u64::MAX);
        let until = UnixMillis(started_at.0.saturating_add(millis));
        let trace = Arc::new(Trace { wanted, started_at, until, file, writer });
        running.push(Arc::clone(&trace));
        self.count(&running);
        Ok(trace)
    }

    fn count(&self, running: &[Arc<Trace>]) {
        self.gauge.set(running.len() as i64);
        self.active.store(!running.is_empty(), Ordering::Relaxed);
    }

    /// Ends a trace; its file stays. The last lines are on their way to it.
    pub(crate) fn stop(&self, name: &str) -> Option<Arc<Trace>> {
        let mut running = self.running.write().unwrap_or_else(PoisonError::into_inner);
        let at = running.iter().position(|trace| trace.wanted.name == name)?;
        let trace = running.remove(at);
        self.count(&running);
        trace.writer.end();
        Some(trace)
    }

    pub(crate) fn list(&self) -> Vec<Arc<Trace>> {
        self.running.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The file of a trace, running or not, if the name can be one's.
    pub(crate) fn file(&self, name: &str) -> Option<PathBuf> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let fine = !name.is_empty() && name.len() <= 64 && name.chars().all(fits);
        fine.then_some(())?;
        Some(self.limits.as_ref()?.folder.join(format!("{name}.log")))
    }

    /// Ends those whose time is over or whose file is full.
    pub(crate) fn expire(&self, now: UnixMillis) {
        if !self.is_active() {
            return;
        }
        let over = self.list().into_iter().filter(|trace| trace.until <= now || trace.writer.is_full());
        let names: Vec<String> = over.map(|trace| trace.wanted.name.clone()).collect();
        names.iter().for_each(|name| drop(self.stop(name)));
    }

    /// A packet, either way, but for PUBLISH to the client.
    pub(crate) fn packet(&self, on: &ConnectionHandle, direction: Direction, packet: &Packet) {
        for trace in self.list() {
            if trace.is_about(on, packet) && trace.wanted.target.covers_packet(packet) {
                trace.writer.write(line::packet(on, direction, packet, trace.wanted.payloads));
            }
        }
    }

    /// PUBLISH to the client.
    pub(crate) fn delivery(&self, on: &ConnectionHandle, delivery: &Delivery) {
        for trace in self.list() {
            if trace.wanted.target.is_client(on, None)
                && trace.wanted.target.covers_topic(&delivery.message.topic)
            {
                trace.writer.write(line::delivery(on, delivery, trace.wanted.payloads));
            }
        }
    }
}

impl Trace {
    fn is_about(&self, on: &ConnectionHandle, packet: &Packet) -> bool {
        // A client that is not let in has no other name than the one it brings.
        let claimed = match packet {
            Packet::Connect(connect) => Some(&*connect.client_id),
            _ => None,
        };
        self.wanted.target.is_client(on, claimed)
    }
}

impl Target {
    fn is_client(&self, on: &ConnectionHandle, claimed: Option<&str>) -> bool {
        let client_id = on.client_id().or(claimed);
        self.client_id.as_deref().is_none_or(|wanted| client_id == Some(wanted))
            && self.certificate.is_none_or(|wanted| on.certificate_fingerprint == Some(wanted))
            && self.address.is_none_or(|network| network.contains(on.peer_address))
    }

    fn covers_topic(&self, topic: &TopicName) -> bool {
        self.topic.as_ref().is_none_or(|filter| filter.matches(topic))
    }

    fn covers_packet(&self, packet: &Packet) -> bool {
        let Some(filter) = &self.topic else { return true };
        match packet {
            // By an alias alone it cannot be told: such a packet is shown.
            Packet::Publish(publish) => publish.topic.as_ref().is_none_or(|topic| filter.matches(topic)),
            Packet::Subscribe(subscribe) => subscribe.filters.iter().any(|(asked, _)| filter.covers(asked)),
            Packet::Unsubscribe(unsubscribe) => unsubscribe.filters.iter().any(|asked| filter.covers(asked)),
            _ => false,
        }
    }
}
