//! The driver over in-memory transports, in virtual time.

mod authentication;
mod depth;
mod ends;
mod fairness;
mod idle;
mod messages;
mod narrowing;
mod pressure;
mod sessions;
mod specification;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use bytestring::ByteString;
use mqgate_codec::*;
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::hooks::{
    AclRule, Effect as RuleEffect, GrantLimits, HookSet, Peer as PeerAddress, RetainMatch,
};
use mqgate_identity::time::UnixMillis;
use mqgate_protocol::limits::Limits;
use mqgate_protocol::permit::{Granted, Permit};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use super::*;
use crate::audit::{AuditLog, AuditSettings};
use crate::bans::Bans;
use crate::broker::{AdmissionRule, Admitter, BrokerParts};
use crate::gate::{Admission, Gate, GateSettings, ListenerPolicy, Refusal};
use crate::metrics::Metrics;
use crate::metrics::mqtt::{MqttMetrics, Transport};

pub(super) struct World {
    pub(super) broker: Arc<Broker>,
    pub(super) shutdown: CancellationToken,
    metrics: Arc<Metrics>,
    audit: Arc<AuditLog>,
    file: PathBuf,
    /// Client ids that get no permit.
    pub(super) barred: Arc<Mutex<HashSet<String>>>,
    /// Of the next permits.
    pub(super) valid_for: Arc<Mutex<Option<Duration>>>,
    /// Filters that the next permits deny.
    pub(super) denied: Arc<Mutex<Vec<&'static str>>>,
    /// How often the rule was asked.
    pub(super) asked: Arc<AtomicUsize>,
    _folder: tempfile::TempDir,
}

/// The other end of a connection.
pub(super) struct Peer {
    stream: DuplexStream,
    decoder: Decoder,
    input: BytesMut,
    version: ProtocolVersion,
    task: JoinHandle<()>,
}

/// What is sent in CONNECT.
#[derive(Clone)]
pub(super) struct Hello {
    pub(super) client_id: &'static str,
    pub(super) version: ProtocolVersion,
    pub(super) clean_start: bool,
    pub(super) keep_alive: u16,
    pub(super) expiry: Option<u32>,
    pub(super) maximum_packet_size: Option<u32>,
    pub(super) receive_maximum: Option<u16>,
    pub(super) will: Option<(&'static str, u32)>,
}

impl Hello {
    pub(super) fn v5(client_id: &'static str) -> Self {
        Self {
            client_id,
            version: ProtocolVersion::V5,
            clean_start: true,
            keep_alive: 0,
            expiry: None,
            maximum_packet_size: None,
            receive_maximum: None,
            will: None,
        }
    }

    pub(super) fn v3(client_id: &'static str) -> Self {
        Self { version: ProtocolVersion::V3_1_1, ..Self::v5(client_id) }
    }

    /// With a session that stays.
    pub(super) fn lasting(self, expiry: u32) -> Self {
        Self { clean_start: false, expiry: Some(expiry), ..self }
    }

    fn packet(&self) -> Packet {
        Packet::Connect(Box::new(Connect {
            version: self.version,
            bridge: false,
            clean_start: self.clean_start,
            keep_alive: self.keep_alive,
            client_id: ByteString::from_static(self.client_id),
            will: self.will.map(|(topic, delay_interval)| Will {
                topic: name(topic),
                payload: Bytes::from_static(b"gone"),
                qos: QoS::AtMostOnce,
                retain: false,
                delay_interval,
                properties: PublishProperties::default(),
            }),
            user_name: None,
            password: None,
            properties: ConnectProperties {
                session_expiry_interval: self.expiry,
                maximum_packet_size: self.maximum_packet_size.and_then(std::num::NonZeroU32::new),
                receive_maximum: self.receive_maximum.and_then(std::num::NonZeroU16::new),
                ..ConnectProperties::default()
            },
        }))
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(super) fn with(limits: Limits) -> Self {
        Self::judged(limits, |_, _, rule| Admitter::Rule(rule))
    }

    /// With a gate over `hooks` that keeps out who is banned.
    pub(super) fn guarded(hooks: &Arc<ArcSwap<HookSet>>, bans: Arc<Bans>) -> Self {
        Self::judged(Limits::default(), |audit, metrics, _| {
            let settings =
                GateSettings { other_listeners: Some(ListenerPolicy::default()), ..GateSettings::default() };
            let (audit, metrics) = (Arc::clone(audit), Arc::clone(&metrics.gate));
            let gate = Gate::new(Arc::clone(hooks), None, audit, metrics, settings);
            Admitter::Gate(Arc::new(gate.with_bans(bans)))
        })
    }

    /// With a gate over `hooks` instead of the rule.
    pub(super) fn gated(hooks: &Arc<ArcSwap<HookSet>>) -> Self {
        Self::judged(Limits::default(), |audit, metrics, _| {
            let settings =
                GateSettings { other_listeners: Some(ListenerPolicy::default()), ..GateSettings::default() };
            let (audit, metrics) = (Arc::clone(audit), Arc::clone(&metrics.gate));
            Admitter::Gate(Arc::new(Gate::new(Arc::clone(hooks), None, audit, metrics, settings)))
        })
    }

    fn judged(
        limits: Limits,
        admitter: impl FnOnce(&Arc<AuditLog>, &Metrics, AdmissionRule) -> Admitter,
    ) -> Self {
        let metrics = crate::testing::metrics();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let settings = AuditSettings { path: Some(file.clone()), ..AuditSettings::default() };
        let audit = Arc::new(AuditLog::open(settings, Arc::clone(&metrics.gate)).unwrap());
        let barred = Arc::new(Mutex::new(HashSet::<String>::new()));
        let valid_for = Arc::new(Mutex::new(None));
        let asked = Arc::new(AtomicUsize::new(0));
        let denied = Arc::new(Mutex::new(Vec::new()));
        let denies = Arc::clone(&denied);
        let (bars, validity, count) = (Arc::clone(&barred), Arc::clone(&valid_for), Arc::clone(&asked));
        let rule = move |_: &Accepted, connect: &Connect| {
            count.fetch_add(1, Ordering::SeqCst);
            match bars.lock().unwrap().contains(&*connect.client_id) {
                true => Admission::Refused(Refusal {
                    reason: Reason::PluginDenied,
                    code: ReasonCode::NOT_AUTHORIZED,
                    reason_string: None,
                    server_reference: None,
                    retry_after: None,
                }),
                false => Admission::Admitted(Box::new(permit(
                    &connect.client_id,
                    &denies.lock().unwrap(),
                    *validity.lock().unwrap(),
                ))),
            }
        };
        let broker = Broker::new(BrokerParts {
            admitter: admitter(&audit, &metrics, Box::new(rule)),
            audit: Arc::clone(&audit),
            metrics: Arc::new(MqttMetrics::register(metrics.registry()).unwrap()),
            limits,
            listener_limits: Default::default(),
        });
        let shutdown = CancellationToken::new();
        tokio::spawn(Arc::clone(&broker).housekeeping(shutdown.clone()));
        Self { broker, shutdown, metrics, audit, file, barred, valid_for, denied, asked, _folder: folder }
    }

    /// A transport whose other end nobody has written to. `room` is what it holds unread, each way.
    pub(super) fn dial(&self, version: ProtocolVersion, room: usize) -> Peer {
        let (ours, theirs) = tokio::io::duplex(room);
        let accepted = accepted(&self.broker);
        let task = tokio::spawn(serve(theirs, accepted, Arc::clone(&self.broker), self.shutdown.clone()));
        let decoder = Decoder::client(version, DecodeLimits::UNLIMITED);
        Peer { stream: ours, decoder, input: BytesMut::new(), version, task }
    }

    /// Connects and hears whether there was a session.
    pub(super) async fn connect(&self, hello: &Hello) -> (Peer, bool) {
        let mut peer = self.dial(hello.version, 64 * 1024);
        peer.send(&hello.packet()).await;
        match peer.next().await {
            Packet::ConnAck(connack) => {
                assert!(!connack.code.reason().is_error(), "{connack:?}");
                (peer, connack.session_present)
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn client(&self, client_id: &'static str) -> Peer {
        self.connect(&Hello::v5(client_id)).await.0
    }

    /// One metric as a scrape shows it.
    pub(super) fn metric(&self, line: &str) -> f64 {
        let text = self.metrics.encode().unwrap();
        let found = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' ')?.parse().ok());
        found.unwrap_or_else(|| panic!("no {line} in\n{text}"))
    }

    /// Everything that was written down, as `name reason` with the fields that tell more.
    pub(super) fn audited(&self) -> Vec<serde_json::Value> {
        self.audit.close();
        let text = std::fs::read_to_string(&self.file).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A connection whose driver is run by the test, and the other end of it. `room` as in [`World::dial`].
pub(super) fn bare(world: &World, room: usize) -> (Driver<DuplexStream>, Peer) {
    let (ours, theirs) = tokio::io::duplex(room);
    let accepted = accepted(&world.broker);
    let handle = Arc::new(ConnectionHandle::new(&accepted));
    let driver = Driver::new(theirs, accepted, Arc::clone(&world.broker), handle);
    let (version, task) = (ProtocolVersion::V5, tokio::spawn(async {}));
    let decoder = Decoder::client(version, DecodeLimits::UNLIMITED);
    (driver, Peer { stream: ours, decoder, input: BytesMut::new(), version, task })
}

/// A connection that was just accepted.
pub(super) fn accepted(broker: &Broker) -> Accepted {
    Accepted {
        id: broker.next_connection_id(),
        listener: "test".into(),
        accepted_at: UnixMillis(0),
        peer: PeerAddress { address: [127, 0, 0, 1].into(), port: 1, via_proxy: None },
        transport: Transport::Tcp,
        tls: None,
        certificate: None,
        attributes: Vec::new(),
        server_certificate: None,
    }
}

impl Peer {
    pub(super) async fn send(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        encode(packet, self.version, &mut bytes).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    pub(super) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next packet, or `None` when the broker closed.
    pub(super) async fn receive(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.input).unwrap() {
                return Some(packet);
            }
            if self.stream.read_buf(&mut self.input).await.unwrap() == 0 {
                return None;
            }
        }
    }

    pub(super) async fn next(&mut self) -> Packet {
        self.receive().await.expect("the connection is open")
    }

    /// The payload of the next packet, which is a PUBLISH; acknowledges it.
    pub(super) async fn message(&mut self) -> Publish {
        match self.next().await {
            Packet::Publish(publish) => {
                if let Some(id) = publish.packet_id.filter(|_| publish.qos == QoS::AtLeastOnce) {
                    self.send(&Packet::PubAck(Ack::success(id))).await;
                }
                publish
            }
            other => panic!("{other:?}"),
        }
    }

    /// Nothing is on its way: a PINGREQ is answered next.
    pub(super) async fn is_quiet(&mut self) {
        self.send(&Packet::PingReq).await;
        assert_eq!(self.next().await, Packet::PingResp);
    }

    /// So many messages came and were not acknowledged; then nothing.
    pub(super) async fn is_quiet_after(&mut self, messages: usize) {
        for _ in 0..messages {
            assert!(matches!(self.next().await, Packet::Publish(_)));
        }
        self.is_quiet().await;
    }

    pub(super) async fn subscribe(&mut self, filter: &str, options: SubscriptionOptions) -> ReasonCode {
        let filter = TopicFilter::parse(filter.into()).unwrap();
        self.send(&Packet::Subscribe(Subscribe {
            packet_id: PacketId::new(1).unwrap(),
            filters: vec![(filter, options)],
            subscription_identifier: None,
            user_properties: Vec::new(),
        }))
        .await;
        match self.next().await {
            Packet::SubAck(suback) => suback.reasons[0],
            other => panic!("{other:?}"),
        }
    }

    /// Publishes, and waits for the acknowledgements that are due.
    pub(super) async fn publish(&mut self, publish: Publish) -> ReasonCode {
        let (qos, id) = (publish.qos, publish.packet_id);
        self.send(&Packet::Publish(publish)).await;
        match qos {
            QoS::AtMostOnce => ReasonCode::SUCCESS,
            QoS::AtLeastOnce => match self.next().await {
                Packet::PubAck(ack) => ack.reason,
                other => panic!("{other:?}"),
            },
            QoS::ExactlyOnce => {
                let reason = match self.next().await {
                    Packet::PubRec(ack) => ack.reason,
                    other => panic!("{other:?}"),
                };
                if !reason.is_error() {
                    self.send(&Packet::PubRel(Ack::success(id.unwrap()))).await;
                    assert!(matches!(self.next().await, Packet::PubComp(_)));
                }
                reason
            }
        }
    }

    pub(super) async fn disconnect(mut self) {
        self.send(&Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS))).await;
        assert_eq!(self.receive().await, None);
        self.gone().await;
    }

    /// The transport breaks.
    pub(super) async fn lose(self) {
        drop(self.stream);
        self.task.await.unwrap();
    }

    /// The broker is done with it.
    pub(super) async fn gone(self) {
        drop(self.stream);
        self.task.await.unwrap();
    }

    pub(super) async fn dismissal(&mut self) -> ReasonCode {
        match self.next().await {
            Packet::Disconnect(disconnect) => {
                assert_eq!(self.receive().await, None);
                disconnect.reason
            }
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn name(text: &str) -> TopicName {
    TopicName::parse(text.into()).unwrap()
}

pub(super) fn message(topic: &str, payload: impl Into<Bytes>, qos: QoS) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(name(topic)),
        packet_id: (qos != QoS::AtMostOnce).then_some(const { PacketId::new(7).unwrap() }),
        payload: payload.into(),
        properties: PublishProperties::default(),
    }
}

pub(super) fn qos(bits: u8) -> SubscriptionOptions {
    SubscriptionOptions::new(QoS::from_bits(bits).unwrap())
}

/// Everything but `secret/#` and `denied`.
fn permit(client_id: &str, denied: &[&str], valid_for: Option<Duration>) -> Permit {
    let rule = |effect, filter: &str| AclRule {
        effect,
        publish: true,
        subscribe: true,
        filter: filter.to_owned(),
        qos: 0b111,
        retain: RetainMatch::Any,
    };
    let device_id = client_id.split('@').next_back().unwrap_or(client_id);
    let mut rules: Vec<_> = denied.iter().map(|filter| rule(RuleEffect::Deny, filter)).collect();
    rules.extend([rule(RuleEffect::Deny, "secret/#"), rule(RuleEffect::Allow, "+/#")]);
    Permit::granted_by(&Granted {
        client_id: client_id.split('@').next().unwrap_or(client_id).into(),
        assigned: false,
        device_id,
        tenant: None,
        certificate_fingerprint: Some(CertificateFingerprint([7; 32])),
        rules: &rules,
        otherwise: RuleEffect::Deny,
        limits: GrantLimits::default(),
        valid_for,
        generation: 1,
    })
    .unwrap()
}

pub(super) const SECOND: Duration = Duration::from_secs(1);
