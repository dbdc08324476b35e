//! What the data path counts. Every label value is known here, so that nothing is looked up per message:
//! a connection counts into its own [`Tally`] and adds it up once per batch.

use mqgate_codec::{PacketType, ProtocolVersion, QoS, ReasonCode};
use mqgate_protocol::limits::MESSAGE_OVERHEAD;
use mqgate_protocol::outbox::DropReason;
use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Initiator {
    Client,
    Server,
    Network,
}

/// What carries a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    Tcp,
    Tls,
    Ws,
    Wss,
    Quic,
    Unix,
}

impl Transport {
    pub const ALL: [Self; 6] = [Self::Tcp, Self::Tls, Self::Ws, Self::Wss, Self::Quic, Self::Unix];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Quic => "quic",
            Self::Unix => "unix",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SubscriptionKind {
    Normal,
    Shared,
    Exclusive,
}

pub struct MqttMetrics {
    pub clients_connected: IntGauge,
    pub sessions_online: IntGauge,
    pub sessions_offline: IntGauge,
    pub sessions_limit: IntGauge,
    connects: IntCounterVec,
    disconnects: IntCounterVec,
    packets_received: [IntCounter; 15],
    packets_sent: [IntCounter; 15],
    bytes_received: [IntCounter; Transport::ALL.len()],
    bytes_sent: [IntCounter; Transport::ALL.len()],
    messages_received: [IntCounter; 3],
    messages_sent: [IntCounter; 3],
    messages_dropped: [IntCounter; DropReason::ALL.len()],
    pub messages_retained: IntGauge,
    pub messages_retained_limit: IntGauge,
    pub retained_bytes: IntGauge,
    pub retained_bytes_limit: IntGauge,
    subscriptions: [IntGauge; 3],
    inflight_messages: IntGauge,
    inflight_bytes: IntGauge,
    queued_messages: IntGauge,
    queued_bytes: IntGauge,
    pub session_takeovers: IntCounter,
    pub rate_limited_client_messages: IntCounter,
    pub rate_limited_client_bytes: IntCounter,
    pub rate_limited_listener_connections: IntCounter,
    pub rate_limited_listener_messages: IntCounter,
    pub rate_limited_listener_bytes: IntCounter,
    pub will_published: IntCounter,
    pub(crate) turns_waited: IntCounter,
    pub(crate) retained_cut: IntCounter,
    pub(crate) queued_bytes_limit: IntGauge,
    output_bytes: IntGauge,
    unanswered: [IntCounter; Unanswered::ALL.len()],
}

/// How a connection ended whose CONNECT was never complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// It did not come in time.
    Timeout,
    TooLarge,
    Malformed,
    /// The client, or the network.
    Gone,
    /// This side had to end it.
    Other,
}

impl Unanswered {
    const ALL: [Self; 5] = [Self::Timeout, Self::TooLarge, Self::Malformed, Self::Gone, Self::Other];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Gone => "gone",
            Self::Other => "other",
        }
    }
}

/// Labels of `mqgate_connects_total`.
const VERSIONS: [&str; 3] = ["3.1", "3.1.1", "5"];

/// What was counted since the start, and what there is now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Totals {
    pub(crate) packets_received: u64,
    pub(crate) packets_sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) messages_received: u64,
    pub(crate) messages_sent: u64,
    pub(crate) messages_dropped: u64,
    /// Clients that got in.
    pub(crate) connections: u64,
    /// Transports that were served.
    pub(crate) sockets: u64,
    pub(crate) clients_connected: i64,
    pub(crate) sessions_online: i64,
    pub(crate) sessions_offline: i64,
    pub(crate) subscriptions: i64,
    pub(crate) shared_subscriptions: i64,
    pub(crate) retained: i64,
    pub(crate) queued_messages: i64,
    pub(crate) queued_bytes: i64,
    pub(crate) inflight: i64,
}

/// What one connection counted since it last added up.
#[derive(Debug)]
pub struct Tally {
    transport: Transport,
    dirty: bool,
    packets_received: [u32; 15],
    packets_sent: [u32; 15],
    bytes_received: u64,
    bytes_sent: u64,
    messages_received: [u32; 3],
    messages_sent: [u32; 3],
    messages_dropped: [u32; DropReason::ALL.len()],
    inflight: i64,
    inflight_bytes: i64,
    queued: i64,
    queued_bytes: i64,
    output: i64,
}

impl MqttMetrics {
    /// Fails only if two families share a name.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| register(registry, IntGauge::new(name, help)?);
        let counter = |name: &str, help: &str| register(registry, IntCounter::new(name, help)?);
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            register(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
        };

        let sessions =
            gauges("mqgate_sessions", "Sessions by whether their client is connected.", &["state"])?;
        let received = counters("mqgate_packets_received_total", "MQTT packets from clients.", &["type"])?;
        let sent = counters("mqgate_packets_sent_total", "MQTT packets to clients.", &["type"])?;
        let bytes_in =
            counters("mqgate_bytes_received_total", "Bytes from clients, without TLS.", &["transport"])?;
        let bytes_out =
            counters("mqgate_bytes_sent_total", "Bytes to clients, without TLS.", &["transport"])?;
        let messages_in =
            counters("mqgate_messages_received_total", "PUBLISH packets from clients.", &["qos"])?;
        let messages_out = counters("mqgate_messages_sent_total", "PUBLISH packets to clients.", &["qos"])?;
        let dropped =
            counters("mqgate_messages_dropped_total", "Messages that were not delivered.", &["reason"])?;
        let subscriptions = gauges("mqgate_subscriptions", "Subscriptions of all sessions.", &["kind"])?;
        let limited = counters(
            "mqgate_rate_limited_total",
            "Times a rate limit held something back.",
            &["scope", "kind"],
        )?;
        let unanswered = counters(
            "mqgate_connections_unanswered_total",
            "Connections that ended before there was a whole CONNECT.",
            &["reason"],
        )?;
        let types =
            |family: &IntCounterVec| PacketType::ALL.map(|kind| family.with_label_values(&[label_of(kind)]));
        let transports =
            |family: &IntCounterVec| Transport::ALL.map(|kind| family.with_label_values(&[kind.as_str()]));
        let qualities =
            |family: &IntCounterVec| ["0", "1", "2"].map(|name| family.with_label_values(&[name]));

        let metrics = Self {
            clients_connected: gauge("mqgate_clients_connected", "Clients that got a CONNACK with success.")?,
            sessions_online: sessions.with_label_values(&["online"]),
            sessions_offline: sessions.with_label_values(&["offline"]),
            sessions_limit: gauge("mqgate_sessions_limit", "Sessions that may exist, connected or not.")?,
            connects: counters(
                "mqgate_connects_total",
                "CONNECT packets that were answered.",
                &["protocol_version", "result", "reason_code"],
            )?,
            disconnects: counters(
                "mqgate_disconnects_total",
                "Ends of connections that had a CONNACK with success.",
                &["initiator", "reason_code"],
            )?,
            packets_received: types(&received),
            packets_sent: types(&sent),
            bytes_received: transports(&bytes_in),
            bytes_sent: transports(&bytes_out),
            messages_received: qualities(&messages_in),
            messages_sent: qualities(&messages_out),
            messages_dropped: DropReason::ALL.map(|reason| dropped.with_label_values(&[reason.as_str()])),
            messages_retained: gauge("mqgate_messages_retained", "Retained messages.")?,
            messages_retained_limit: gauge(
                "mqgate_messages_retained_limit",
                "Retained messages that may be kept.",
            )?,
            retained_bytes: gauge(
                "mqgate_retained_bytes",
                "Bytes of topics and payloads of retained messages.",
            )?,
            retained_bytes_limit: gauge("mqgate_retained_bytes_limit", "Bytes retained messages may take.")?,
            subscriptions: ["normal", "shared", "exclusive"]
                .map(|kind| subscriptions.with_label_values(&[kind])),
            inflight_messages: gauge("mqgate_inflight_messages", "Messages sent and not yet acknowledged.")?,
            inflight_bytes: gauge(
                "mqgate_inflight_bytes",
                "Bytes of messages sent and not yet acknowledged.",
            )?,
            queued_messages: gauge(
                "mqgate_queued_messages",
                "Messages accepted for a session and not yet sent.",
            )?,
            queued_bytes: gauge("mqgate_queued_bytes", "Bytes of messages accepted and not yet sent.")?,
            session_takeovers: counter(
                "mqgate_session_takeovers_total",
                "Connections closed because their client connected again.",
            )?,
            rate_limited_client_messages: limited.with_label_values(&["client", "msg"]),
            rate_limited_client_bytes: limited.with_label_values(&["client", "bytes"]),
            rate_limited_listener_connections: limited.with_label_values(&["listener", "conn"]),
            rate_limited_listener_messages: limited.with_label_values(&["listener", "msg"]),
            rate_limited_listener_bytes: limited.with_label_values(&["listener", "bytes"]),
            will_published: counter("mqgate_will_published_total", "Wills that were published.")?,
            retained_cut: counter(
                "mqgate_retained_cut_total",
                "Subscriptions that did not get every retained message, because of a limit.",
            )?,
            turns_waited: counter(
                "mqgate_turns_waited_total",
                "Times a busy connection waited in line behind others.",
            )?,
            queued_bytes_limit: gauge(
                "mqgate_queued_bytes_limit",
                "Bytes that messages may take that wait for all sessions together.",
            )?,
            output_bytes: gauge(
                "mqgate_output_bytes",
                "Bytes written for clients and not yet taken by the kernel.",
            )?,
            unanswered: Unanswered::ALL.map(|reason| unanswered.with_label_values(&[reason.as_str()])),
        };
        for version in VERSIONS {
            metrics.connects.with_label_values(&[version, "accepted", "success"]);
            for code in REFUSALS {
                metrics.connects.with_label_values(&[version, "refused", code_label(*code)]);
            }
        }
        for code in CLIENT_DISCONNECTS {
            metrics.disconnects.with_label_values(&["client", code_label(*code)]);
        }
        for code in SERVER_DISCONNECTS {
            metrics.disconnects.with_label_values(&["server", code_label(*code)]);
        }
        metrics.disconnects.with_label_values(&["network", "unspecified_error"]);
        Ok(metrics)
    }

    /// Everything in a few numbers, for the `$SYS` tree.
    pub(crate) fn totals(&self) -> Totals {
        let sum = |counters: &[IntCounter]| counters.iter().map(IntCounter::get).sum();
        let connections =
            VERSIONS.map(|version| self.connects.with_label_values(&[version, "accepted", "success"]).get());
        Totals {
            packets_received: sum(&self.packets_received),
            packets_sent: sum(&self.packets_sent),
            bytes_received: sum(&self.bytes_received),
            bytes_sent: sum(&self.bytes_sent),
            messages_received: sum(&self.messages_received),
            messages_sent: sum(&self.messages_sent),
            messages_dropped: sum(&self.messages_dropped),
            connections: connections.iter().sum(),
            sockets: 0,
            clients_connected: self.clients_connected.get(),
            sessions_online: self.sessions_online.get(),
            sessions_offline: self.sessions_offline.get(),
            subscriptions: self.subscriptions.iter().map(IntGauge::get).sum(),
            shared_subscriptions: self.subscriptions(SubscriptionKind::Shared).get(),
            retained: self.messages_retained.get(),
            queued_messages: self.queued_messages.get(),
            queued_bytes: self.queued_bytes.get(),
            inflight: self.inflight_messages.get(),
        }
    }

    /// A CONNECT was answered with `code`, in the words of MQTT 5.0.
    pub fn connect(&self, version: ProtocolVersion, code: ReasonCode) {
        let version = match version {
            ProtocolVersion::V3_1 => "3.1",
            ProtocolVersion::V3_1_1 => "3.1.1",
            ProtocolVersion::V5 => "5",
        };
        let result = if code.is_error() { "refused" } else { "accepted" };
        self.connects.with_label_values(&[version, result, code_label(code)]).inc();
    }

    pub fn disconnect(&self, initiator: Initiator, code: ReasonCode) {
        let initiator = match initiator {
            Initiator::Client => "client",
            Initiator::Server => "server",
            Initiator::Network => "network",
        };
        let code = if code == ReasonCode::SUCCESS { "normal" } else { code_label(code) };
        self.disconnects.with_label_values(&[initiator, code]).inc();
    }

    pub fn subscriptions(&self, kind: SubscriptionKind) -> &IntGauge {
        &self.subscriptions[kind as usize]
    }

    pub fn dropped(&self, reason: DropReason, count: u64) {
        self.messages_dropped[reason as usize].inc_by(count);
    }

    /// What messages take that wait, are written or are not acknowledged, as far as it was told.
    pub(crate) fn queued_memory(&self) -> i64 {
        let messages = self.queued_messages.get() + self.inflight_messages.get();
        let bytes = self.queued_bytes.get() + self.inflight_bytes.get() + self.output_bytes.get();
        bytes + messages * MESSAGE_OVERHEAD as i64
    }

    /// A connection ended before there was a whole CONNECT.
    pub(crate) fn unanswered(&self, reason: Unanswered) {
        self.unanswered[reason as usize].inc();
    }

    /// Messages that waited for a session are gone with it.
    pub fn forget_queued(&self, messages: usize, bytes: usize) {
        self.queued_messages.sub(messages as i64);
        self.queued_bytes.sub(bytes as i64);
    }

    /// Messages that a session had sent are gone with it.
    pub fn forget_inflight(&self, messages: usize, bytes: usize) {
        self.inflight_messages.sub(messages as i64);
        self.inflight_bytes.sub(bytes as i64);
    }
}

impl Tally {
    pub fn new(transport: Transport) -> Self {
        Self {
            transport,
            dirty: false,
            packets_received: [0; 15],
            packets_sent: [0; 15],
            bytes_received: 0,
            bytes_sent: 0,
            messages_received: [0; 3],
            messages_sent: [0; 3],
            messages_dropped: [0; DropReason::ALL.len()],
            inflight: 0,
            inflight_bytes: 0,
            queued: 0,
            queued_bytes: 0,
            output: 0,
        }
    }

    pub fn received(&mut self, kind: PacketType) {
        self.packets_received[kind as usize - 1] += 1;
        self.dirty = true;
    }

    pub fn sent(&mut self, kind: PacketType) {
        self.packets_sent[kind as usize - 1] += 1;
        self.dirty = true;
    }

    pub fn message_received(&mut self, qos: QoS) {
        self.messages_received[qos as usize] += 1;
        self.dirty = true;
    }

    pub fn message_sent(&mut self, qos: QoS) {
        self.messages_sent[qos as usize] += 1;
        self.sent(PacketType::Publish);
    }

    /// The same `count` times.
    pub fn messages_sent(&mut self, qos: QoS, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.messages_sent[qos as usize] += count;
        self.packets_sent[PacketType::Publish as usize - 1] += count;
        self.dirty |= count > 0;
    }

    pub fn dropped(&mut self, reason: DropReason) {
        self.messages_dropped[reason as usize] += 1;
        self.dirty = true;
    }

    /// What was counted as dropped for this reason is not.
    pub(crate) fn forgive(&mut self, reason: DropReason) {
        self.messages_dropped[reason as usize] = 0;
    }

    pub fn bytes_received(&mut self, count: usize) {
        self.bytes_received += count as u64;
        self.dirty = true;
    }

    pub fn bytes_sent(&mut self, count: usize) {
        self.bytes_sent += count as u64;
        self.dirty = true;
    }

    pub fn inflight(&mut self, count: i64, bytes: i64) {
        self.inflight += count;
        self.inflight_bytes += bytes;
        self.dirty = true;
    }

    pub fn queued(&mut self, messages: i64, bytes: i64) {
        self.queued += messages;
        self.queued_bytes += bytes;
        self.dirty = true;
    }

    pub(crate) fn output(&mut self, change: i64) {
        self.output += change;
        self.dirty |= change != 0;
    }

    /// What messages that came into queues, output or flight take, less those that left.
    pub(crate) const fn queued_memory(&self) -> i64 {
        let bytes = self.queued_bytes + self.inflight_bytes + self.output;
        bytes + (self.queued + self.inflight) * MESSAGE_OVERHEAD as i64
    }

    /// Adds everything to the shared counters and starts again at zero.
    pub fn add_to(&mut self, metrics: &MqttMetrics) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        add(&mut self.packets_received, &metrics.packets_received);
        add(&mut self.packets_sent, &metrics.packets_sent);
        add(&mut self.messages_received, &metrics.messages_received);
        add(&mut self.messages_sent, &metrics.messages_sent);
        add(&mut self.messages_dropped, &metrics.messages_dropped);
        let transport = self.transport as usize;
        for (count, counter) in [
            (&mut self.bytes_received, &metrics.bytes_received[transport]),
            (&mut self.bytes_sent, &metrics.bytes_sent[transport]),
        ] {
            if *count != 0 {
                counter.inc_by(std::mem::take(count));
            }
        }
        for (change, gauge) in [
            (&mut self.inflight, &metrics.inflight_messages),
            (&mut self.inflight_bytes, &metrics.inflight_bytes),
            (&mut self.queued, &metrics.queued_messages),
            (&mut self.queued_bytes, &metrics.queued_bytes),
            (&mut self.output, &metrics.output_bytes),
        ] {
            if *change != 0 {
                gauge.add(std::mem::take(change));
            }
        }
    }
}

fn add<const N: usize>(counts: &mut [u32; N], counters: &[IntCounter; N]) {
    for (count, counter) in counts.iter_mut().zip(counters) {
        if *count != 0 {
            counter.inc_by(u64::from(std::mem::take(count)));
        }
    }
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn label_of(kind: PacketType) -> &'static str {
    match kind {
        PacketType::Connect => "connect",
        PacketType::ConnAck => "connack",
        PacketType::Publish => "publish",
        PacketType::PubAck => "puback",
        PacketType::PubRec => "pubrec",
        PacketType::PubRel => "pubrel",
        PacketType::PubComp => "pubcomp",
        PacketType::Subscribe => "subscribe",
        PacketType::SubAck => "suback",
        PacketType::Unsubscribe => "unsubscribe",
        PacketType::UnsubAck => "unsuback",
        PacketType::PingReq => "pingreq",
        PacketType::PingResp => "pingresp",
        PacketType::Disconnect => "disconnect",
        PacketType::Auth => "auth",
    }
}

/// With what a CONNECT may be refused.
const REFUSALS: &[ReasonCode] = &[
    ReasonCode::UNSPECIFIED_ERROR,
    ReasonCode::MALFORMED_PACKET,
    ReasonCode::PROTOCOL_ERROR,
    ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR,
    ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
    ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
    ReasonCode::BAD_USER_NAME_OR_PASSWORD,
    ReasonCode::NOT_AUTHORIZED,
    ReasonCode::SERVER_UNAVAILABLE,
    ReasonCode::SERVER_BUSY,
    ReasonCode::BANNED,
    ReasonCode::BAD_AUTHENTICATION_METHOD,
    ReasonCode::TOPIC_NAME_INVALID,
    ReasonCode::PACKET_TOO_LARGE,
    ReasonCode::QUOTA_EXCEEDED,
    ReasonCode::PAYLOAD_FORMAT_INVALID,
    ReasonCode::RETAIN_NOT_SUPPORTED,
    ReasonCode::QOS_NOT_SUPPORTED,
    ReasonCode::USE_ANOTHER_SERVER,
    ReasonCode::SERVER_MOVED,
    ReasonCode::CONNECTION_RATE_EXCEEDED,
];

const CLIENT_DISCONNECTS: &[ReasonCode] = &[ReasonCode::SUCCESS, ReasonCode::DISCONNECT_WITH_WILL];

const SERVER_DISCONNECTS: &[ReasonCode] = &[
    ReasonCode::MALFORMED_PACKET,
    ReasonCode::PROTOCOL_ERROR,
    ReasonCode::NOT_AUTHORIZED,
    ReasonCode::SERVER_SHUTTING_DOWN,
    ReasonCode::KEEP_ALIVE_TIMEOUT,
    ReasonCode::SESSION_TAKEN_OVER,
    ReasonCode::TOPIC_FILTER_INVALID,
    ReasonCode::TOPIC_NAME_INVALID,
    ReasonCode::RECEIVE_MAXIMUM_EXCEEDED,
    ReasonCode::TOPIC_ALIAS_INVALID,
    ReasonCode::PACKET_TOO_LARGE,
    ReasonCode::QUOTA_EXCEEDED,
    ReasonCode::ADMINISTRATIVE_ACTION,
    ReasonCode::RETAIN_NOT_SUPPORTED,
    ReasonCode::QOS_NOT_SUPPORTED,
];

/// The `reason_code` label: a closed set, because a client can put any byte into its DISCONNECT.
fn code_label(code: ReasonCode) -> &'static str {
    match code {
        ReasonCode::SUCCESS => "success",
        ReasonCode::DISCONNECT_WITH_WILL => "disconnect_with_will",
        ReasonCode::UNSPECIFIED_ERROR => "unspecified_error",
        ReasonCode::MALFORMED_PACKET => "malformed_packet",
        ReasonCode::PROTOCOL_ERROR => "protocol_error",
        ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR => "implementation_specific_error",
        ReasonCode::UNSUPPORTED_PROTOCOL_VERSION => "unsupported_protocol_version",
        ReasonCode::CLIENT_IDENTIFIER_NOT_VALID => "client_identifier_not_valid",
        ReasonCode::BAD_USER_NAME_OR_PASSWORD => "bad_user_name_or_password",
        ReasonCode::NOT_AUTHORIZED => "not_authorized",
        ReasonCode::SERVER_UNAVAILABLE => "server_unavailable",
        ReasonCode::SERVER_BUSY => "server_busy",
        ReasonCode::BANNED => "banned",
        ReasonCode::SERVER_SHUTTING_DOWN => "server_shutting_down",
        ReasonCode::BAD_AUTHENTICATION_METHOD => "bad_authentication_method",
        ReasonCode::KEEP_ALIVE_TIMEOUT => "keep_alive_timeout",
        ReasonCode::SESSION_TAKEN_OVER => "session_taken_over",
        ReasonCode::TOPIC_FILTER_INVALID => "topic_filter_invalid",
        ReasonCode::TOPIC_NAME_INVALID => "topic_name_invalid",
        ReasonCode::RECEIVE_MAXIMUM_EXCEEDED => "receive_maximum_exceeded",
        ReasonCode::TOPIC_ALIAS_INVALID => "topic_alias_invalid",
        ReasonCode::PACKET_TOO_LARGE => "packet_too_large",
        ReasonCode::MESSAGE_RATE_TOO_HIGH => "message_rate_too_high",
        ReasonCode::QUOTA_EXCEEDED => "quota_exceeded",
        ReasonCode::ADMINISTRATIVE_ACTION => "administrative_action",
        ReasonCode::PAYLOAD_FORMAT_INVALID => "payload_format_invalid",
        ReasonCode::RETAIN_NOT_SUPPORTED => "retain_not_supported",
        ReasonCode::QOS_NOT_SUPPORTED => "qos_not_supported",
        ReasonCode::USE_ANOTHER_SERVER => "use_another_server",
        ReasonCode::SERVER_MOVED => "server_moved",
        ReasonCode::CONNECTION_RATE_EXCEEDED => "connection_rate_exceeded",
        _ => "other",
    }
}
