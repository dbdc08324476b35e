//! The loads that are compared, and what mqgate aims at for each.

use serde_json::Value;

/// How clients reach the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Plain,
    Tls,
    /// With client certificate; mqgate asks its plugins and its registry then.
    Mutual,
}

impl Transport {
    pub const fn host(self) -> &'static str {
        // The certificate is for the name.
        if self.is_tls() { "localhost" } else { "127.0.0.1" }
    }

    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Mutual)
    }

    pub const fn shows_certificate(self) -> bool {
        matches!(self, Self::Mutual)
    }
}

pub struct Load {
    pub name: &'static str,
    pub transport: Transport,
    arguments: &'static str,
    pub aim: Aim,
    pub figure: Figure,
    /// Other brokers are measured, too.
    pub with_peers: bool,
}

/// What is read off a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Microseconds of the broker's CPU for one delivery or connection.
    Cpu,
    /// Resident bytes of the broker for one connection.
    Memory,
}

#[derive(Debug, Clone, Copy)]
pub enum Aim {
    None,
    /// Of rumqttd's figure on the same machine.
    OfRumqttd(f64),
    /// Of the best peer's.
    OfBest(f64),
    Bytes(u32),
}

const fn cpu(name: &'static str, transport: Transport, arguments: &'static str, aim: Aim) -> Load {
    Load { name, transport, arguments, aim, figure: Figure::Cpu, with_peers: true }
}

const fn memory(name: &'static str, transport: Transport, arguments: &'static str, aim: Aim) -> Load {
    Load { name, transport, arguments, aim, figure: Figure::Memory, with_peers: true }
}

/// How memory grows with the number of connections: of mqgate alone, peers have other bounds.
const fn growth(name: &'static str, arguments: &'static str) -> Load {
    Load { with_peers: false, ..memory(name, Mutual, arguments, Bytes(10_000)) }
}

use Aim::{Bytes, OfBest, OfRumqttd};
use Transport::{Mutual, Plain, Tls};

/// The aims are those of FlashMQ's figures divided by 1.3, as ratios to rumqttd's on the machine where both
/// were measured.
pub const ALL: &[Load] = &[
    cpu("pairs-q0", Plain, "pairs", OfRumqttd(0.25)),
    cpu("pairs-q0-1k", Plain, "pairs -s 1024", OfRumqttd(0.17)),
    cpu("pairs-q0-tls", Tls, "pairs", OfRumqttd(0.29)),
    cpu("pairs-q0-1k-tls", Tls, "pairs -s 1024", OfRumqttd(0.36)),
    cpu("pairs-q1", Plain, "pairs -q 1", OfRumqttd(0.30)),
    cpu("pairs-q2", Plain, "pairs -q 2", OfRumqttd(0.39)),
    cpu("fan-in-q0", Plain, "fan-in", OfRumqttd(0.22)),
    cpu("fan-in-q1", Plain, "fan-in -q 1", OfRumqttd(0.31)),
    cpu("fan-out-100-q0", Plain, "fan-out", OfRumqttd(0.50)),
    cpu("fan-out-100-q0-tls", Tls, "fan-out", OfRumqttd(0.58)),
    cpu("fan-out-100-q1", Plain, "fan-out -q 1", OfRumqttd(0.60)),
    cpu("fan-out-1000-q0", Plain, "fan-out --subscribers 1000", OfRumqttd(0.60)),
    cpu("paced-5000-q1", Plain, "pairs -q 1 --rate 5000", OfRumqttd(0.39)),
    cpu("shared-q0", Plain, "shared", Aim::None),
    cpu("retained-q0", Plain, "retained", Aim::None),
    cpu("sessions-q1", Plain, "sessions -q 1 --clients 20", Aim::None),
    cpu("connect", Plain, "connect --sources 8", OfBest(1.0)),
    cpu("connect-tls", Tls, "connect --sources 8", OfBest(0.70)),
    cpu("connect-mutual", Mutual, "connect --sources 8", OfRumqttd(0.72)),
    cpu("connect-mutual-1.2", Mutual, "connect --sources 8 --tls-version tlsv1.2", OfRumqttd(0.76)),
    memory("idle", Plain, "idle", Bytes(2_000)),
    memory("idle-tls", Tls, "idle", Bytes(7_500)),
    memory("idle-mutual", Mutual, "idle", Bytes(10_000)),
    memory("idle-50-filters", Plain, "idle --filters 50", Bytes(10_000)),
    growth("idle-mutual-1000", "idle --sources 4 --connections 1000"),
    growth("idle-mutual-5000", "idle --sources 4 --connections 5000"),
    // As many as a process may have here: 20,000 open files.
    growth("idle-mutual-19000", "idle --sources 4 --connections 19000"),
];

impl Load {
    pub fn arguments(&self, quick: bool) -> Vec<&'static str> {
        let mut arguments: Vec<&'static str> = self.arguments.split(' ').collect();
        match (self.figure, quick) {
            (Figure::Cpu, false) => arguments.extend(["-d", "5", "--warm-up", "1.5"]),
            (Figure::Cpu, true) => arguments.extend(["-d", "1", "--warm-up", "0.5"]),
            (Figure::Memory, _) if self.arguments.contains("--connections") => {}
            (Figure::Memory, _) if self.arguments.contains("--filters") => {
                arguments.extend(["--connections", "1000"]);
            }
            (Figure::Memory, false) => arguments.extend(["--connections", "9500"]),
            (Figure::Memory, true) => arguments.extend(["--connections", "2000"]),
        }
        arguments
    }

    /// Whether it is the handshake that is measured.
    pub fn is_about_handshakes(&self) -> bool {
        self.arguments.starts_with("connect")
    }

    /// `None` if the broker's process could not be seen.
    pub fn figure(&self, report: &Value) -> Option<f64> {
        let broker = &report["broker"];
        match self.figure {
            Figure::Cpu => broker["cpu_microseconds_each"].as_f64(),
            Figure::Memory => broker["resident_bytes_each"].as_f64(),
        }
    }
}
