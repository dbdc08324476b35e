//! Load for a broker: who connects, what is published to whom, and what is measured meanwhile.
//!
//! One thread, few system calls: everything a connection has to say goes out in one write, and everything
//! that arrived is read in one read. Publishers are held back by what is not delivered yet (a closed loop), so
//! a broker is measured at what it can do and drops nothing. Does not know whose process the broker is: a
//! [`Probe`] tells what it costs.

mod ledger;
mod retained;
mod sessions;
mod storm;
#[cfg(test)]
mod tests;
mod traffic;
mod wire;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use mqgate_codec::{EncodeError, QoS, ReasonCode, TopicError};
use tokio::task::LocalSet;

use crate::{ConnectError, ConnectOptions};

pub use self::ledger::SMALLEST_PAYLOAD;

/// What to do to a broker.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How each connection is made. The client id is a prefix.
    pub connect: ConnectOptions,
    pub load: Load,
    pub qos: QoS,
    /// Bytes; at least [`SMALLEST_PAYLOAD`].
    pub payload: usize,
    /// Topics begin with this.
    pub topic: String,
    /// Messages of one publisher that may be published and not delivered yet.
    pub window: u32,
    /// Messages a second of all publishers together; as many as the window allows without.
    pub rate: Option<u32>,
    /// Not measured.
    pub warm_up: Duration,
    pub length: Length,
    /// Connections come from this many addresses in turn, 127.0.0.1 and those that follow: one address has
    /// ports for about 28,000.
    pub sources: u8,
    /// Certificates and keys that connections have in turn, instead of that of `connect`; with
    /// [`Load::Connect`], each for one connection.
    pub identities: Arc<[(PathBuf, PathBuf)]>,
}

/// When a measurement ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    For(Duration),
    /// Deliveries, or connections.
    Count(u64),
}

/// Who talks to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Publishers with a subscriber each.
    Pairs { pairs: u32 },
    /// Many publishers, few subscribers to everything.
    FanIn { publishers: u32, subscribers: u32 },
    /// Few publishers, many subscribers to everything.
    FanOut { publishers: u32, subscribers: u32 },
    /// Members of shared subscriptions; each group gets everything once.
    Shared { publishers: u32, groups: u32, members: u32 },
    /// Subscribers that get all retained messages, again and again.
    Retained { topics: u32, subscribers: u32 },
    /// Clients that are away while messages for them arrive, and fetch them.
    Sessions { clients: u32, messages: u32 },
    /// Connections that end as soon as they are accepted, so many at once.
    Connect { at_once: u32 },
    /// Connections that do nothing, with so many subscriptions each.
    Idle { connections: u32, filters: u32, hold: Duration },
}

impl Load {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pairs { .. } => "pairs",
            Self::FanIn { .. } => "fan-in",
            Self::FanOut { .. } => "fan-out",
            Self::Shared { .. } => "shared",
            Self::Retained { .. } => "retained",
            Self::Sessions { .. } => "sessions",
            Self::Connect { .. } => "connect",
            Self::Idle { .. } => "idle",
        }
    }

    /// What is counted.
    pub const fn unit(&self) -> Unit {
        match self {
            Self::Connect { .. } | Self::Idle { .. } => Unit::Connection,
            Self::Pairs { .. }
            | Self::FanIn { .. }
            | Self::FanOut { .. }
            | Self::Shared { .. }
            | Self::Retained { .. }
            | Self::Sessions { .. } => Unit::Delivery,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Delivery,
    Connection,
}

impl Unit {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delivery => "delivery",
            Self::Connection => "connection",
        }
    }
}

/// What the broker's process has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu: Duration,
    pub resident_bytes: u64,
}

/// Looks at the broker's process, if it can be seen.
pub trait Probe {
    fn usage(&self) -> Option<Usage>;
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Report {
    pub elapsed: Duration,
    /// Deliveries or connections while it was measured.
    pub count: u64,
    /// Messages published while it was measured.
    pub published: u64,
    /// From beginning to end, warm-up included: never delivered,
    pub lost: u64,
    /// delivered after a later one of the same publisher, or a second time.
    pub out_of_order: u64,
    /// Microseconds: from publishing to delivery, or from the first packet of TCP to CONNACK; retained and
    /// stored messages: until all were there.
    pub latency: Histogram<u64>,
    /// The broker before and after.
    pub usage: Option<(Usage, Usage)>,
}

impl Report {
    pub fn per_second(&self) -> f64 {
        self.count as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }

    /// Of the broker, for one delivery or connection.
    pub fn cpu_microseconds(&self) -> Option<f64> {
        let (before, after) = self.usage?;
        let cpu = after.cpu.saturating_sub(before.cpu);
        (self.count > 0).then(|| cpu.as_secs_f64() * 1e6 / self.count as f64)
    }

    /// How much the broker grew, for one delivery or connection.
    pub fn bytes_each(&self) -> Option<f64> {
        let (before, after) = self.usage?;
        let grown = after.resident_bytes as f64 - before.resident_bytes as f64;
        (self.count > 0).then(|| grown / self.count as f64)
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error(
        "a payload of {0} bytes is too small: {SMALLEST_PAYLOAD} hold who sent it, which it is, and when"
    )]
    Payload(usize),
    #[error("{what} must not be {value}")]
    Number { what: &'static str, value: u64 },
    #[error("the topic prefix {0}")]
    Topic(TopicError),
    #[error("the messages cannot be written: {0}")]
    Encode(#[from] EncodeError),
    #[error("connection {number} of {of}: {source}")]
    Connect { number: u32, of: u32, source: ConnectError },
    #[error("{who} lost its connection: {cause}")]
    Lost { who: String, cause: String },
    #[error("the broker did not accept a subscription of {who}: {reason}")]
    NotSubscribed { who: String, reason: ReasonCode },
    #[error("the broker did not take a message of {who}: {reason}")]
    NotPublished { who: String, reason: ReasonCode },
    #[error("nothing was delivered for {0:?}: {1}")]
    Silence(Duration, String),
}

/// Does what the plan says. `probe` is asked when the measurement begins and when it ends.
pub async fn run(plan: &Plan, probe: &dyn Probe) -> Result<Report, BenchError> {
    check(plan)?;
    let mut plan = plan.clone();
    // Whoever generates load has no time for pings.
    plan.connect.keep_alive = Duration::from_secs(u64::from(u16::MAX));
    plan.connect.event_capacity = 1;
    if let Some(tls) = &mut plan.connect.tls
        && plan.identities.is_empty()
    {
        tls.read_once();
    }
    let work = async {
        match plan.load {
            Load::Pairs { .. } | Load::FanIn { .. } | Load::FanOut { .. } | Load::Shared { .. } => {
                traffic::run(&plan, probe).await
            }
            Load::Retained { topics, subscribers } => retained::run(&plan, topics, subscribers, probe).await,
            Load::Sessions { clients, messages } => sessions::run(&plan, clients, messages, probe).await,
            Load::Connect { at_once } => storm::connect(&plan, at_once, probe).await,
            Load::Idle { connections, filters, hold } => {
                storm::idle(&plan, connections, filters, hold, probe).await
            }
        }
    };
    Box::pin(LocalSet::new().run_until(work)).await
}

fn check(plan: &Plan) -> Result<(), BenchError> {
    if plan.payload < SMALLEST_PAYLOAD {
        return Err(BenchError::Payload(plan.payload));
    }
    let counts: &[(&'static str, u32)] = match &plan.load {
        Load::Pairs { pairs } => &[("the number of pairs", *pairs)],
        Load::FanIn { publishers, subscribers } | Load::FanOut { publishers, subscribers } => {
            &[("the number of publishers", *publishers), ("the number of subscribers", *subscribers)]
        }
        Load::Shared { publishers, groups, members } => &[
            ("the number of publishers", *publishers),
            ("the number of groups", *groups),
            ("the number of members", *members),
        ],
        Load::Retained { topics, subscribers } => {
            &[("the number of topics", *topics), ("the number of subscribers", *subscribers)]
        }
        Load::Sessions { clients, messages } => {
            &[("the number of clients", *clients), ("the number of messages", *messages)]
        }
        Load::Connect { at_once } => &[("the number of connections at once", *at_once)],
        Load::Idle { connections, .. } => &[("the number of connections", *connections)],
    };
    let others = [("the window", plan.window), ("the number of source addresses", u32::from(plan.sources))];
    for (what, value) in counts.iter().copied().chain(others) {
        if value == 0 {
            return Err(BenchError::Number { what, value: 0 });
        }
    }
    if plan.rate == Some(0) {
        return Err(BenchError::Number { what: "the rate", value: 0 });
    }
    mqgate_codec::TopicName::parse(plan.topic.as_str().into()).map(drop).map_err(BenchError::Topic)
}

impl Plan {
    /// For connection `number`: its client id, and where it comes from.
    fn options(&self, role: &str, number: u32) -> ConnectOptions {
        let prefix = &self.connect.client_id;
        let mut options = self.connect.clone_with_client_id(format!("{prefix}{role}{number}"));
        if self.sources > 1 {
            let last = (number % u32::from(self.sources)) as u8;
            options.source = Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last.saturating_add(1))));
        }
        let identity = self.identities.get(number as usize % self.identities.len().max(1));
        if let (Some((certificate, key)), Some(tls)) = (identity, &mut options.tls) {
            tls.cert_file = Some(certificate.clone());
            tls.key_file = Some(key.clone());
        }
        options
    }
}

/// Longer than anybody waits.
const LONGEST: u64 = 3600 * 1_000_000;

fn microseconds() -> Histogram<u64> {
    Histogram::new_with_max(LONGEST, 3).expect("three significant figures are within 0 to 5")
}

fn record(histogram: &mut Histogram<u64>, microseconds: u64) {
    histogram.saturating_record(microseconds);
}
