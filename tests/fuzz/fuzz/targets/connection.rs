//! One client and everything that can happen to it: its bytes, cut anywhere; answers of the gate and of sessions;
//! messages for it; time. The interpreter plays the driver, and beside it a client that keeps book of what it was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use mqgate_codec::*;
use mqgate_identity::hooks::{AclRule, Effect as RuleEffect, GrantLimits, RetainMatch};
use mqgate_identity::reason::Reason;
use mqgate_protocol::connection::{Connection, Effect, Input, Refused, Routed};
use mqgate_protocol::limits::Limits;
use mqgate_protocol::message::Message;
use mqgate_protocol::outbox::Outgoing;
use mqgate_protocol::permit::{Granted, Permit};
use mqgate_protocol::session::{Delivery, Session, SessionKey};
use mqgate_protocol::time::Instant;

use super::{WIRE_WORDS, codec, wire};
use crate::engine::Target;

pub const TARGET: Target = Target { name: "connection", dictionary: WIRE_WORDS, longest: 1024, seeds, run };

/// What one input may bring about at most; a machine that never ends is found by this.
const MOST_EFFECTS: usize = 10_000;
const TOPICS: [&str; 6] = ["a", "a/b", "$share/g/a", "a/#", "+/b", "denied/x"];

fn run(data: &[u8]) {
    let [how, script @ ..] = data else { return };
    let limits = Arc::new(limits(*how));
    let mut stage = Stage::new(limits);
    let mut script = Script(script);
    while let Some(word) = script.byte() {
        stage.step(word, &mut script);
        stage.settle();
        if stage.line.closed && word % 16 != 15 {
            // Nothing wakes a connection that is closed.
            stage.after_the_end();
        }
    }
}

fn limits(how: u8) -> Limits {
    if how & 1 == 0 {
        return Limits { mqtt_3_1: how & 2 == 0, payload_format_check: how & 4 != 0, ..Limits::default() };
    }
    Limits {
        maximum_packet_size: 300,
        client_id_length: 5,
        topic_levels: 3,
        subscriptions_per_session: 2,
        filters_per_subscribe: 2,
        filter_bytes_per_session: 12,
        receive_maximum: NonZeroU16::new(2).expect("not zero"),
        inflight_maximum: NonZeroU16::new(2).expect("not zero"),
        topic_alias_maximum: 2,
        keep_alive_maximum: u16::from(how & 2) * 10,
        session_expiry_maximum: Duration::from_secs(100),
        maximum_qos: if how & 4 == 0 { QoS::ExactlyOnce } else { QoS::AtLeastOnce },
        retain_available: how & 8 == 0,
        retained_backlog: 3,
        reason_strings: how & 16 == 0,
        topic_aliases_to_client: 1,
        ..Limits::default()
    }
}

struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> u8 {
        self.byte().unwrap_or(0)
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

struct Stage {
    now: Instant,
    limits: Arc<Limits>,
    connection: Connection,
    decoder: Decoder,
    input: BytesMut,
    connect: Option<Arc<Connect>>,
    permit_for: ByteString,
    /// Of a connection that ended.
    session: Option<Box<Session>>,
    keys: u64,
    routed: Routed,
    line: Line,
    /// What the client has of its session.
    book: Book,
}

/// What holds for one connection.
#[derive(Default)]
struct Line {
    closed: bool,
    asked: bool,
    connected: bool,
    refused: bool,
    /// Identifiers that were sent on this connection and not acknowledged.
    window: BTreeSet<u16>,
    /// SUBSCRIBE and UNSUBSCRIBE packets that are not answered.
    requests: Vec<u16>,
    /// PUBLISH packets of the client that are not answered, by identifier.
    owed: BTreeMap<(u16, QoS), usize>,
    /// PUBREL packets that are not answered.
    releases: BTreeMap<u16, usize>,
    pings: usize,
    aliases: BTreeMap<u16, String>,
}

/// What holds for a session.
#[derive(Default)]
struct Book {
    /// Identifiers that the broker uses.
    used: BTreeSet<u16>,
}

impl Stage {
    fn new(limits: Arc<Limits>) -> Self {
        Self {
            now: Instant::ZERO,
            connection: Connection::new(Instant::ZERO, Arc::clone(&limits)),
            decoder: Self::decoder(&limits),
            limits,
            input: BytesMut::new(),
            connect: None,
            permit_for: ByteString::new(),
            session: None,
            keys: 0,
            routed: Routed::Delivered,
            line: Line::default(),
            book: Book::default(),
        }
    }

    fn decoder(limits: &Limits) -> Decoder {
        Decoder::server(DecodeLimits {
            maximum_packet_size: limits.maximum_packet_size,
            maximum_topic_levels: u16::try_from(limits.topic_levels).unwrap_or(u16::MAX),
            maximum_filters: u16::try_from(limits.filters_per_subscribe).unwrap_or(u16::MAX),
            ..DecodeLimits::default()
        })
    }

    fn step(&mut self, word: u8, script: &mut Script<'_>) {
        match word % 16 {
            0..=2 => {
                let count = usize::from(script.number());
                self.input.extend_from_slice(script.take(count));
            }
            3 => {
                let packet = self.packet(script);
                self.input.extend_from_slice(&packet);
            }
            4 => {
                let permit = self.permit(script.number());
                self.give(Input::Admitted(permit));
            }
            5 => {
                let code = [ReasonCode::NOT_AUTHORIZED, ReasonCode::BANNED, ReasonCode::SERVER_UNAVAILABLE];
                let mut refused = Refused::new(code[usize::from(script.number() % 3)], Reason::PluginDenied);
                refused.reason_string = Some("no".into());
                self.give(Input::Refused(refused));
            }
            6 => {
                let data = (script.number() & 1 == 0).then(|| Bytes::from_static(b"challenge"));
                self.give(Input::Challenge(data));
            }
            7 => {
                let permit = self.permit(script.number());
                self.give(Input::Reauthenticated(permit));
            }
            8 => {
                let permit = self.permit(script.number());
                self.give(Input::Reauthorized(permit));
            }
            9 => self.give(Input::PermitKept),
            10 => {
                let seconds = u64::from(script.number());
                self.now = self.now.after(Duration::from_millis(seconds * seconds * 10));
                self.connection.handle_timeout(self.now);
                let deadline = self.connection.deadline();
                assert!(deadline.is_none_or(|deadline| deadline > self.now), "the timer turns in circles");
            }
            11 => {
                let outgoing = self.outgoing(script);
                // The driver delivers within the quota only.
                let quota = self.connection.quota();
                if quota.is_some_and(|left| left > 0 || outgoing.qos == QoS::AtMostOnce) {
                    self.give(Input::Deliver(outgoing));
                }
            }
            12 => {
                let count = usize::from(script.number() % 4).min(self.connection.backlog_room());
                let messages = (0..count).map(|_| self.outgoing(script)).collect();
                self.give(Input::Retained(messages));
            }
            13 => match script.number() % 4 {
                0 => self.routed = Routed::Delivered,
                1 => self.routed = Routed::NoSubscribers,
                2 => self.routed = Routed::NoRoom,
                _ => self.connection.set_reading(self.now, script.number() & 1 == 0),
            },
            14 => match script.number() % 4 {
                0 => self.give(Input::TransportClosed),
                1 => {
                    self.give(Input::Close {
                        code: ReasonCode::SESSION_TAKEN_OVER,
                        reason: Reason::AdminAction,
                    });
                }
                2 => {
                    self.give(Input::Close { code: ReasonCode::NOT_AUTHORIZED, reason: Reason::CertRevoked });
                }
                _ => {
                    let data = self.now;
                    self.connection.handle_timeout(data);
                }
            },
            _ => self.again(),
        }
    }

    /// The client comes back, with its session if that is still there.
    fn again(&mut self) {
        self.give(Input::TransportClosed);
        self.settle();
        self.connection = Connection::new(self.now, Arc::clone(&self.limits));
        self.decoder = Self::decoder(&self.limits);
        self.input = BytesMut::new();
        self.connect = None;
        self.line = Line::default();
    }

    fn give(&mut self, input: Input) {
        self.connection.handle(self.now, input);
        self.effects();
    }

    /// Carries out what is to be done, then reads on while the machine wants to.
    fn settle(&mut self) {
        self.effects();
        while self.connection.wants_packet() && !self.line.closed && !self.input.is_empty() {
            match self.decoder.decode(&mut self.input) {
                Ok(Some(packet)) => {
                    self.heard(&packet);
                    self.give(Input::Packet(packet));
                }
                Ok(None) => break,
                Err(error) => {
                    let version = self.decoder.version();
                    self.input = BytesMut::new();
                    self.give(Input::Malformed { error, version });
                }
            }
        }
        while self.connection.send_backlog(self.now, 100) {
            self.effects();
        }
        self.effects();
        self.connection.rest();
    }

    fn after_the_end(&mut self) {
        assert!(self.connection.is_closed() && !self.connection.wants_packet());
        assert_eq!(self.connection.deadline(), None);
        assert_eq!(self.connection.quota(), None);
        assert!(!self.connection.send_backlog(self.now, 100));
    }

    fn effects(&mut self) {
        let mut count = 0;
        while let Some(effect) = self.connection.poll_effect() {
            count += 1;
            assert!(count < MOST_EFFECTS, "it goes on and on");
            assert!(!self.line.closed, "something follows the end: {effect:?}");
            self.effect(effect);
        }
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Send(packet) => self.sent(&packet),
            Effect::Deliver(delivery) => self.delivered(&delivery),
            Effect::Authorize(connect) => {
                assert!(!self.line.asked, "the gate is asked twice about one CONNECT");
                self.line.asked = true;
                self.permit_for = connect.client_id.clone();
                self.connect = Some(connect);
            }
            Effect::OpenSession { client_id, device_id, clean_start } => {
                assert!(self.line.asked, "a session without a verdict");
                let older = self.session.take().filter(|session| {
                    !clean_start
                        && session.client_id == client_id
                        && session.ends_at.is_none_or(|at| at > self.now)
                });
                let present = older.is_some();
                if !present {
                    self.book = Book::default();
                }
                self.keys += 1;
                let fresh = || Box::new(Session::new(SessionKey(self.keys), client_id.clone(), device_id));
                let session = older.unwrap_or_else(fresh);
                self.connection.handle(self.now, Input::SessionOpened { session, present });
            }
            Effect::Connected { version } => {
                assert!(self.line.asked && !self.line.connected);
                assert_eq!(Some(version), self.connect.as_ref().map(|connect| connect.version));
            }
            Effect::Publish { message, acknowledgement }
            | Effect::PublishLater { message, acknowledgement, .. } => {
                assert!(self.line.connected, "a message of somebody who is not connected");
                assert!(message.topic.as_str().split('/').count() <= self.limits.topic_levels.max(1) + 8);
                if let Some(acknowledgement) = acknowledgement {
                    // As the driver does: a message is routed before the next packet is looked at.
                    let routed = self.routed;
                    self.connection.handle(self.now, Input::Published { acknowledgement, routed });
                }
            }
            Effect::Subscribe(all) => {
                assert!(self.line.connected);
                let session = self.connection.session();
                let held = session.map_or(0, |session| session.subscriptions.len());
                assert!(held <= self.limits.subscriptions_per_session, "{held} subscriptions");
                for new in all {
                    let text = new.subscribed.filter.filter();
                    assert!(!text.starts_with("denied/"), "a subscription to what the permit denies: {text}");
                }
            }
            Effect::Unsubscribe(_)
            | Effect::ReviewMail
            | Effect::Denied(_)
            | Effect::Dropped { .. }
            | Effect::Limited(_) => {}
            Effect::Reauthorize | Effect::Reauthenticate(_) | Effect::Proof(_) => {
                assert!(self.connect.is_some());
            }
            Effect::Close(closing) => {
                self.line.closed = true;
                self.session = self.connection.take_session();
                // A CONNACK larger than the client takes is not sent; the session that was there for it stays.
                let unheard = !self.line.connected && closing.reason == Reason::PacketTooLarge;
                let lives = self.line.connected && !self.line.refused;
                assert!(unheard || self.session.is_some() == lives, "{closing:?}");
            }
        }
    }

    fn version(&self) -> ProtocolVersion {
        self.connect
            .as_ref()
            .map_or_else(|| self.decoder.version().unwrap_or(ProtocolVersion::V5), |it| it.version)
    }

    /// A packet that the client sends arrives.
    fn heard(&mut self, packet: &Packet) {
        let line = &mut self.line;
        match packet {
            Packet::Publish(publish) => {
                if let Some(id) = publish.packet_id {
                    *line.owed.entry((id.get(), publish.qos)).or_default() += 1;
                }
            }
            Packet::PubRel(ack) => *line.releases.entry(ack.packet_id.get()).or_default() += 1,
            Packet::PubAck(ack) | Packet::PubComp(ack) => {
                line.window.remove(&ack.packet_id.get());
                self.book.used.remove(&ack.packet_id.get());
            }
            Packet::PubRec(ack) if ack.reason.is_error() => {
                line.window.remove(&ack.packet_id.get());
                self.book.used.remove(&ack.packet_id.get());
            }
            Packet::Subscribe(it) => line.requests.push(it.packet_id.get()),
            Packet::Unsubscribe(it) => line.requests.push(it.packet_id.get()),
            Packet::PingReq => line.pings += 1,
            _ => {}
        }
    }

    /// A packet for the client: one that it can be sent, at a time when it can.
    fn sent(&mut self, packet: &Packet) {
        let version = self.version();
        if version == ProtocolVersion::V5 {
            // Older versions leave out what they have no place for.
            codec::there_and_back(packet, version);
        }
        let mut bytes = BytesMut::new();
        encode(packet, version, &mut bytes).expect("what is to be sent can be written");
        let mut client = Decoder::client(version, DecodeLimits::UNLIMITED);
        let read = client.decode(&mut bytes);
        assert!(matches!(read, Ok(Some(_))), "a client cannot read what it is sent: {read:?} {packet:?}");
        let line = &mut self.line;
        match packet {
            Packet::ConnAck(connack) => {
                assert!(!line.connected && !line.refused, "a second CONNACK");
                line.connected = connack.code.reason() == ReasonCode::SUCCESS;
                line.refused = !line.connected;
                assert!(line.connected || !connack.session_present);
            }
            Packet::Auth(_) => assert_eq!(version, ProtocolVersion::V5),
            Packet::Disconnect(_) => assert!(version == ProtocolVersion::V5 && line.connected),
            other => assert!(line.connected, "before CONNACK: {other:?}"),
        }
        let take = |owed: &mut BTreeMap<(u16, QoS), usize>, id: u16, qos| {
            let count = owed.get_mut(&(id, qos)).filter(|count| **count > 0);
            *count.unwrap_or_else(|| panic!("{id} is acknowledged, but nothing is owed")) -= 1;
        };
        match packet {
            Packet::PubAck(ack) => take(&mut line.owed, ack.packet_id.get(), QoS::AtLeastOnce),
            Packet::PubRec(ack) => take(&mut line.owed, ack.packet_id.get(), QoS::ExactlyOnce),
            Packet::PubComp(ack) => {
                let count = line.releases.get_mut(&ack.packet_id.get()).filter(|count| **count > 0);
                *count.expect("PUBCOMP without PUBREL") -= 1;
            }
            Packet::SubAck(SubAck { packet_id, .. }) | Packet::UnsubAck(UnsubAck { packet_id, .. }) => {
                assert!(!line.requests.is_empty(), "an answer to nothing");
                assert_eq!(line.requests.remove(0), packet_id.get(), "an answer out of turn");
            }
            Packet::PingResp => line.pings = line.pings.checked_sub(1).expect("PINGRESP without PINGREQ"),
            _ => {}
        }
    }

    /// A message for the client.
    fn delivered(&mut self, delivery: &Delivery) {
        assert!(self.line.connected, "a message for somebody who is not connected");
        assert_eq!(delivery.packet_id.is_some(), delivery.qos != QoS::AtMostOnce);
        // What was on its way before is sent again, expired or not [MQTT-4.4.0-1].
        let is_expired = delivery.message.is_expired(self.now);
        assert!(delivery.dup || !is_expired, "what has expired is not sent [MQTT-3.3.2-5]");
        if let Some(alias) = delivery.alias {
            let topic = delivery.message.topic.as_str().to_owned();
            let most = self.connect.as_ref().and_then(|it| it.properties.topic_alias_maximum).unwrap_or(0);
            assert!(alias.number.get() <= most, "an alias beyond what the client takes [MQTT-3.1.2-26]");
            match alias.known {
                true => assert_eq!(self.line.aliases.get(&alias.number.get()), Some(&topic)),
                false => {
                    self.line.aliases.insert(alias.number.get(), topic);
                }
            }
        }
        let Some(id) = delivery.packet_id else { return };
        let id = id.get();
        let new = self.book.used.insert(id);
        assert!(new || delivery.dup, "{id} is in use [MQTT-2.2.1-4]");
        assert!(self.line.window.insert(id), "{id} is sent twice on one connection [MQTT-4.4.0-1]");
        let most = self
            .connect
            .as_ref()
            .and_then(|it| it.properties.receive_maximum)
            .map_or(65_535, NonZeroU16::get);
        assert!(self.line.window.len() <= usize::from(most), "more than Receive Maximum [MQTT-3.3.4-9]");
    }

    fn permit(&self, how: u8) -> Box<Permit> {
        let rule = |effect, filter: &str| AclRule {
            effect,
            publish: true,
            subscribe: true,
            filter: filter.to_owned(),
            qos: 0b111,
            retain: RetainMatch::Any,
        };
        let mut rules = vec![rule(RuleEffect::Deny, "denied/#")];
        if how & 1 == 0 {
            rules.push(rule(RuleEffect::Allow, "#"));
        } else {
            rules.push(rule(RuleEffect::Allow, "a/#"));
        }
        let limits = GrantLimits {
            subscriptions: (how & 2 != 0).then_some(1),
            publishes_per_second: (how & 4 != 0).then_some(2),
            keep_alive: (how & 8 != 0).then_some(5),
            session_expiry: (how & 16 != 0).then_some(10),
            maximum_qos: (how & 32 != 0).then_some(0),
            ..GrantLimits::default()
        };
        let assigned = self.permit_for.is_empty();
        let granted = Granted {
            client_id: if assigned { "auto".into() } else { self.permit_for.clone() },
            assigned,
            device_id: "device",
            tenant: None,
            certificate_fingerprint: None,
            rules: &rules,
            otherwise: RuleEffect::Deny,
            limits,
            valid_for: (how & 64 != 0).then_some(Duration::from_secs(3)),
            generation: 1,
        };
        Box::new(Permit::granted_by(&granted).expect("its rules are right"))
    }

    fn outgoing(&self, script: &mut Script<'_>) -> Outgoing {
        let how = script.number();
        let qos = QoS::from_bits(how % 3).expect("below 3");
        let publish = Publish {
            dup: false,
            qos,
            retain: how & 8 != 0,
            topic: None,
            packet_id: None,
            payload: Bytes::from_static(b"payload"),
            properties: PublishProperties {
                message_expiry_interval: (how & 16 != 0).then_some(1),
                ..PublishProperties::default()
            },
        };
        let topic = TopicName::parse(TOPICS[usize::from(how >> 6) % 2].into()).expect("a topic name");
        let message = Message::published(topic, publish, SessionKey(99), self.now);
        Outgoing { message, qos, retain: how & 8 != 0, origin: None }
    }

    /// A packet with the right form, in the version of the connection.
    fn packet(&self, script: &mut Script<'_>) -> Vec<u8> {
        let (kind, how) = (script.number(), script.number());
        let version = self.version();
        let id = PacketId::new(u16::from(how >> 2 & 3) + 1).expect("above zero");
        let qos = QoS::from_bits(how % 3).expect("below 3");
        let topic = TOPICS[usize::from(how >> 4) % TOPICS.len()];
        let filter = TopicFilter::parse(topic.into()).expect("a topic filter");
        let packet = match kind % 12 {
            0 => Packet::Publish(Publish {
                dup: how & 128 != 0 && qos != QoS::AtMostOnce,
                qos,
                retain: how & 64 != 0,
                topic: TopicName::parse(topic.into()).ok().or_else(|| TopicName::parse("a".into()).ok()),
                packet_id: (qos != QoS::AtMostOnce).then_some(id),
                payload: Bytes::from_static(b"x"),
                properties: PublishProperties {
                    topic_alias: NonZeroU16::new(u16::from(kind >> 6))
                        .filter(|_| version == ProtocolVersion::V5),
                    ..PublishProperties::default()
                },
            }),
            1 => Packet::PubAck(Ack::success(id)),
            2 => Packet::PubRec(Ack::success(id)),
            3 => Packet::PubRel(Ack::success(id)),
            4 => Packet::PubComp(Ack::success(id)),
            5 => Packet::Subscribe(Subscribe {
                packet_id: id,
                filters: vec![(filter, SubscriptionOptions::new(qos)); 1 + usize::from(kind >> 7)],
                subscription_identifier: None,
                user_properties: Vec::new(),
            }),
            6 => Packet::Unsubscribe(Unsubscribe {
                packet_id: id,
                filters: vec![filter],
                user_properties: Vec::new(),
            }),
            7 => Packet::PingReq,
            8 => Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS)),
            9 if version == ProtocolVersion::V5 => Packet::PubRec(Ack::new(id, ReasonCode::QUOTA_EXCEEDED)),
            10 if version == ProtocolVersion::V5 => Packet::Auth(Auth {
                reason: if how & 1 == 0 {
                    ReasonCode::CONTINUE_AUTHENTICATION
                } else {
                    ReasonCode::RE_AUTHENTICATE
                },
                authentication_method: Some("m".into()),
                authentication_data: Some(Bytes::from_static(b"d")),
                reason_string: None,
                user_properties: Vec::new(),
            }),
            _ => wire::specimens(version).swap_remove(usize::from(how & 1)),
        };
        let mut bytes = BytesMut::new();
        match encode(&packet, version, &mut bytes) {
            Ok(()) => bytes.to_vec(),
            Err(_) => Vec::new(),
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for how in [0, 1] {
        for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
            for connect in wire::specimens(version).into_iter().take(2) {
                let mut bytes = BytesMut::new();
                encode(&connect, version, &mut bytes).expect("a specimen can be written");
                let length = u8::try_from(bytes.len()).expect("a short CONNECT");
                let connected = [&[how, 0, length], &*bytes, &[4, 0]].concat();
                seeds
                    .push([&connected[..], &[3, 5, 0, 3, 0, 1, 3, 0, 2, 3, 3, 0, 3, 7, 0, 3, 8, 0]].concat());
                seeds.push(
                    [
                        &connected[..],
                        &[11, 1, 11, 2, 3, 2, 4, 3, 4, 4, 10, 200, 15, 0, length],
                        &bytes,
                        &[4, 0],
                    ]
                    .concat(),
                );
                seeds
                    .push([&connected[..], &[8, 3, 9, 12, 3, 1, 2, 3, 3, 10, 0, 6, 0, 7, 0, 14, 1]].concat());
                seeds.push([&[how, 0, length], &*bytes, &[6, 0, 3, 10, 0, 4, 0, 3, 6, 0, 14, 2]].concat());
            }
        }
    }
    seeds
}
