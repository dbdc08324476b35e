//! What goes into the machine and what comes out.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use mqgate_codec::{Connect, DecodeError, Packet, PacketId, ProtocolVersion, QoS, ReasonCode, TopicFilter};
use mqgate_identity::reason::Reason;

use super::Initiator;
use crate::message::Message;
use crate::outbox::{DropReason, Outgoing};
use crate::permit::Permit;
use crate::session::{Delivery, Session, Subscribed};

#[derive(Debug)]
pub enum Input {
    Packet(Packet),
    /// The bytes are no packet; nothing can be read after them.
    Malformed {
        error: DecodeError,
        /// As far as it is known by now.
        version: Option<ProtocolVersion>,
    },
    /// Answers to [`Effect::Authorize`].
    Admitted(Box<Permit>),
    Refused(Refused),
    /// The gate wants the client to go on with its authentication; then comes [`Effect::Proof`].
    Challenge(Option<Bytes>),
    /// The client has proved who it is once more, as it asked with [`Effect::Reauthenticate`].
    Reauthenticated(Box<Permit>),
    /// Answers to [`Effect::OpenSession`].
    SessionOpened {
        session: Box<Session>,
        present: bool,
    },
    SessionRefused(Refused),
    /// Answer to [`Effect::Publish`] with an acknowledgement.
    Published {
        acknowledgement: Acknowledgement,
        routed: Routed,
    },
    /// From the outbox, within [`super::Connection::quota`].
    Deliver(Outgoing),
    /// Retained messages for a new subscription.
    Retained(Vec<Outgoing>),
    /// A [`Effect::Deliver`] does not fit the client's maximum packet size.
    TooLarge(Option<PacketId>),
    /// The gate judged a live session anew, because of [`Effect::Reauthorize`] or of its own accord.
    Reauthorized(Box<Permit>),
    /// The gate was asked about a live session and had nothing to say: the permit goes on.
    PermitKept,
    /// From this side: an operator, a revocation, a takeover, the end of the broker.
    Close {
        code: ReasonCode,
        reason: Reason,
    },
    TransportClosed,
}

#[derive(Debug)]
pub enum Effect {
    Send(Packet),
    Deliver(Delivery),
    /// Ask the gate.
    Authorize(Arc<Connect>),
    /// What the client answers to [`Input::Challenge`].
    Proof(Option<Bytes>),
    /// The client wants to prove again who it is, beginning with this.
    Reauthenticate(Option<Bytes>),
    /// The permit's time is over: ask the gate again. The client stays connected meanwhile.
    Reauthorize,
    /// Fetch or make the session of the client that the permit names.
    OpenSession {
        client_id: ByteString,
        device_id: Arc<str>,
        clean_start: bool,
    },
    /// CONNACK with success comes next: the client is connected.
    Connected {
        version: ProtocolVersion,
    },
    Publish {
        message: Arc<Message>,
        /// `None` for QoS 0; otherwise [`Input::Published`] is awaited.
        acknowledgement: Option<Acknowledgement>,
    },
    /// As [`Effect::Publish`], but later; [`Routed::NoRoom`] if that cannot be promised.
    PublishLater {
        message: Arc<Message>,
        seconds: u32,
        acknowledgement: Option<Acknowledgement>,
    },
    Subscribe(Vec<NewSubscription>),
    Unsubscribe(Vec<TopicFilter>),
    /// The permit is another one: what waits in the outbox and it does not let the client have, is to go.
    ReviewMail,
    Denied(Denied),
    Dropped {
        reason: DropReason,
        count: usize,
    },
    Limited(Limited),
    Close(Closing),
}

/// A refusal of CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub code: ReasonCode,
    pub reason: Reason,
    pub reason_string: Option<ByteString>,
    pub server_reference: Option<ByteString>,
    /// Seconds; sent as the user property `retry-after`.
    pub retry_after: Option<u32>,
}

impl Refused {
    pub fn new(code: ReasonCode, reason: Reason) -> Self {
        Self { code, reason, reason_string: None, server_reference: None, retry_after: None }
    }
}

/// What is owed for a PUBLISH once it was routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledgement {
    pub packet_id: PacketId,
    /// PUBACK for QoS 1, PUBREC for QoS 2.
    pub qos: QoS,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routed {
    /// Every outbox took it that had to.
    Delivered,
    NoSubscribers,
    /// It was to be kept for later, and there is no room.
    NoRoom,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSubscription {
    pub subscribed: Subscribed,
    /// Whether retained messages are to be sent.
    pub send_retained: bool,
    /// It replaces none of this session.
    pub is_new: bool,
}

/// The permit did not cover something; to be counted and audited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    pub action: DeniedAction,
    /// Topic Name or Topic Filter.
    pub topic: ByteString,
    pub qos: QoS,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeniedAction {
    Publish,
    Subscribe,
    Will,
}

/// The client publishes faster than it may and is not read for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    Messages,
    Bytes,
}

/// The connection is at its end: send what is waiting and close the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    pub initiator: Initiator,
    /// In the words of MQTT 5.0, whatever the client heard.
    pub code: ReasonCode,
    pub reason: Reason,
}
