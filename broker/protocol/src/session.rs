//! The state of a client that may outlive its connections.
//!
//! A value with exactly one owner: the connection's task while the client is online, the parked sessions
//! while it is not; a takeover hands the value over. Knows nothing of packets on the wire and of other sessions.

mod inflight;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use mqgate_codec::{PacketId, SubscriptionOptions, TopicFilter};

pub use self::inflight::{Acknowledged, Alias, Delivery, Inflight, Redelivery};
use crate::message::Message;
use crate::outbox::Outgoing;
use crate::time::Instant;

/// Names a session among those of this broker process; never reused. Above a running number it carries a few
/// bits that are the same for every session of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionKey(pub u64);

impl SessionKey {
    /// A million new sessions a second for twelve days.
    const NUMBER_BITS: u32 = 40;

    pub fn new(number: u64, client_hash: u64) -> Self {
        Self(client_hash << Self::NUMBER_BITS | number & ((1 << Self::NUMBER_BITS) - 1))
    }

    /// Says which client it is, more or less: what must not change when it connects again can go by this.
    pub fn client_hash(self) -> u64 {
        self.0 >> Self::NUMBER_BITS
    }
}

#[derive(Debug)]
pub struct Session {
    pub key: SessionKey,
    pub client_id: ByteString,
    /// Whose it is: nobody else gets it, whatever client id they connect with.
    pub device_id: Arc<str>,
    pub expiry: SessionExpiry,
    /// By the text the client sent.
    pub subscriptions: BTreeMap<ByteString, Subscribed>,
    /// Sent and not yet acknowledged.
    pub inflight: Inflight,
    /// QoS 2 messages that were taken and not yet released [MQTT-4.3.3-10].
    pub received: BTreeSet<PacketId>,
    /// Retained messages that a new subscription still has to get.
    pub backlog: VecDeque<Outgoing>,
    /// Once the connection is gone: what is still to be published for it.
    pub will: Option<PendingWill>,
    /// Once the connection is gone: when the session ends; `None` means never.
    pub ends_at: Option<Instant>,
}

/// How long a session outlives its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionExpiry {
    /// Seconds; 0 ends it with the connection.
    After(u32),
    Never,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribed {
    pub filter: TopicFilter,
    /// With the QoS that was granted.
    pub options: SubscriptionOptions,
    pub identifier: Option<NonZeroU32>,
}

#[derive(Debug, Clone)]
pub struct PendingWill {
    pub message: Arc<Message>,
    pub due: Instant,
}

impl SessionExpiry {
    /// The Session Expiry Interval of MQTT 5.0: all bits set means never.
    pub fn from_seconds(seconds: u32) -> Self {
        if seconds == u32::MAX { Self::Never } else { Self::After(seconds) }
    }

    pub fn as_seconds(self) -> u32 {
        match self {
            Self::After(seconds) => seconds,
            Self::Never => u32::MAX,
        }
    }

    /// Not longer than `maximum`.
    #[must_use]
    pub fn at_most(self, maximum: Duration) -> Self {
        let maximum = u32::try_from(maximum.as_secs()).map_or(Self::Never, Self::from_seconds);
        self.min(maximum)
    }

    pub fn ends_at(self, now: Instant) -> Option<Instant> {
        match self {
            Self::After(seconds) => Some(now.after_seconds(seconds)),
            Self::Never => None,
        }
    }
}

impl Session {
    pub fn new(key: SessionKey, client_id: ByteString, device_id: Arc<str>) -> Self {
        Self {
            key,
            client_id,
            device_id,
            expiry: SessionExpiry::After(0),
            subscriptions: BTreeMap::new(),
            inflight: Inflight::default(),
            received: BTreeSet::new(),
            backlog: VecDeque::new(),
            will: None,
            ends_at: None,
        }
    }

    /// Whether it ends with its connection.
    pub fn is_transient(&self) -> bool {
        self.expiry == SessionExpiry::After(0)
    }

    /// When something has to be done about a session whose client is away.
    pub fn due(&self) -> Option<Instant> {
        let will = self.will.as_ref().map(|will| will.due);
        [will, self.ends_at].into_iter().flatten().min()
    }

    /// The will, if its delay has passed or the session ends now [MQTT-3.1.3-9].
    pub fn take_due_will(&mut self, now: Instant) -> Option<Arc<Message>> {
        let ends = self.ends_at.is_some_and(|at| at <= now);
        let will = self.will.take_if(|will| ends || will.due <= now)?;
        Some(will.message)
    }
}
