//! What is counted of bridges.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

#[derive(Debug, Clone)]
pub struct BridgeMetrics {
    pub up: IntGaugeVec,
    messages: IntCounterVec,
    pub connects: IntCounterVec,
    pub queued_messages: IntGaugeVec,
    pub queued_bytes: IntGaugeVec,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Out,
    In,
}

/// What became of a message; a label of `mqgate_bridge_messages_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Forwarded,
    /// It has been where it would go.
    Loop,
    /// No rule is for it.
    Unmatched,
    Expired,
    QueueFull,
    /// QoS 0, and faster than it could be taken.
    Slow,
    /// The other side did not take it.
    Refused,
}

impl Fate {
    const ALL: [Self; 7] = [
        Self::Forwarded,
        Self::Loop,
        Self::Unmatched,
        Self::Expired,
        Self::QueueFull,
        Self::Slow,
        Self::Refused,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Loop => "loop",
            Self::Unmatched => "unmatched",
            Self::Expired => "expired",
            Self::QueueFull => "queue_full",
            Self::Slow => "slow",
            Self::Refused => "refused",
        }
    }
}

impl Way {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::In => "in",
        }
    }
}

impl BridgeMetrics {
    /// Fails only if two families of metrics share a name.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["bridge"]);
        let metrics = Self {
            up: gauge("mqgate_bridge_up", "Whether the bridge is connected.")?,
            messages: IntCounterVec::new(
                Opts::new("mqgate_bridge_messages_total", "Messages of bridges, and what became of them."),
                &["bridge", "direction", "result"],
            )?,
            connects: IntCounterVec::new(
                Opts::new("mqgate_bridge_connects_total", "Attempts of bridges to connect."),
                &["bridge", "result"],
            )?,
            queued_messages: gauge(
                "mqgate_bridge_queued_messages",
                "Messages that wait for the other broker.",
            )?,
            queued_bytes: gauge("mqgate_bridge_queued_bytes", "Bytes of messages that wait so.")?,
        };
        registry.register(Box::new(metrics.up.clone()))?;
        registry.register(Box::new(metrics.messages.clone()))?;
        registry.register(Box::new(metrics.connects.clone()))?;
        registry.register(Box::new(metrics.queued_messages.clone()))?;
        registry.register(Box::new(metrics.queued_bytes.clone()))?;
        Ok(metrics)
    }

    /// Shows a bridge from the beginning.
    pub fn know(&self, bridge: &str) {
        for gauge in [&self.up, &self.queued_messages, &self.queued_bytes] {
            gauge.with_label_values(&[bridge]).set(0);
        }
        for result in ["ok", "failed"] {
            self.connects.with_label_values(&[bridge, result]);
        }
        for fate in Fate::ALL {
            self.messages(bridge, Way::Out, fate);
            self.messages(bridge, Way::In, fate);
        }
    }

    pub fn messages(&self, bridge: &str, way: Way, fate: Fate) -> IntCounter {
        self.messages.with_label_values(&[bridge, way.as_str(), fate.as_str()])
    }

    /// Counts of one direction, by name.
    pub fn counts(&self, bridge: &str, way: Way) -> serde_json::Value {
        let counts = Fate::ALL.map(|fate| {
            (fate.as_str().to_owned(), serde_json::Value::from(self.messages(bridge, way, fate).get()))
        });
        serde_json::Value::Object(counts.into_iter().collect())
    }
}
