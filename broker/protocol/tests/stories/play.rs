//! A small language for stories about one client: each line is something that happens, and what the machine
//! wants done about it is written beside it. The interpreter plays the driver: it keeps sessions, opens them,
//! and answers that a message was routed.
//!
//! ```text
//! connect ID [v3|v31|v5] [clean] [keep-alive=N] [expiry=N] [receive-maximum=N] [maximum=N] [no-problem-info]
//!            [will=TOPIC] [will-qos=N] [will-delay=N] [will-retain] [will-expiry=N] [will-not-text]
//!            [aliases=N] [response-info|no-response-info] [method=M] [data=D]
//! admit [RULE,RULE…] [subscriptions=N] [rate=N] [bytes=N] [expiry=N] [keep-alive=N] [qos=N] [valid-for=SECONDS]
//!            [data=D (of authentication)] [as=CLIENT-ID]
//! challenge [data=D] | proved (as admit)
//! (a rule: +filter or -filter) | reauthorize (as admit) | kept (the permit, by the gate) | deny CODE [pending] | close CODE
//! wait SECONDS | late SECONDS (nobody looks at the timer) | lost | malformed | nobody (is subscribed from now on)
//! publish TOPIC [qos=N] [id=N] [dup] [retain] [alias=N] [text|not-text] | puback ID | pubrec ID [CODE] | pubrel ID | pubcomp ID
//! subscribe FILTER… [qos=N] [handling=N] [id=N] [sid=N] | unsubscribe FILTER… | ping | disconnect [CODE] [expiry=N]
//! auth [CODE] [method=M] [data=D] | deliver TOPIC [qos=N] [expiry=N] [size=N] | retained TOPIC… | again (the same session on a new connection; then `connect`)
//! ```

#![allow(clippy::unwrap_used, reason = "these are the helpers of tests")]

use std::collections::HashMap;
use std::fmt::Write;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
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

/// Tells a story with the default limits.
pub fn play(lines: &[&str]) -> String {
    play_with(Limits::default(), lines)
}

pub fn play_with(limits: Limits, lines: &[&str]) -> String {
    let limits = Arc::new(limits);
    let mut stage = Stage {
        now: Instant::ZERO,
        connection: Connection::new(Instant::ZERO, Arc::clone(&limits)),
        limits,
        client_id: ByteString::new(),
        session: None,
        routed: Routed::Delivered,
        keys: 0,
    };
    let mut story = String::new();
    for line in lines {
        let effects = stage.line(line);
        let effects = if effects.is_empty() { "nothing".to_owned() } else { effects.join(", ") };
        let _ = writeln!(story, "{line} => {effects}");
    }
    story
}

struct Stage {
    now: Instant,
    limits: Arc<Limits>,
    connection: Connection,
    client_id: ByteString,
    /// Of a connection that ended.
    session: Option<Box<Session>>,
    routed: Routed,
    keys: u64,
}

/// The words of a line after the verb: plain ones, and `key=value`.
struct Words<'a> {
    plain: Vec<&'a str>,
    named: HashMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn of(text: &'a str) -> Self {
        let (named, plain): (Vec<_>, Vec<_>) =
            text.split(' ').filter(|word| !word.is_empty()).partition(|word| word.contains('='));
        Self { plain, named: named.into_iter().filter_map(|word| word.split_once('=')).collect() }
    }

    fn number<N: std::str::FromStr>(&self, name: &str) -> Option<N>
    where
        N::Err: std::fmt::Debug,
    {
        self.named.get(name).map(|text| text.parse().unwrap())
    }

    fn bytes(&self, name: &str) -> Option<Bytes> {
        self.named.get(name).map(|text| Bytes::copy_from_slice(text.as_bytes()))
    }

    fn text(&self, name: &str) -> Option<ByteString> {
        self.named.get(name).map(|text| ByteString::from(*text))
    }

    fn has(&self, word: &str) -> bool {
        self.plain.contains(&word)
    }

    fn qos(&self, name: &str) -> QoS {
        QoS::from_bits(self.number(name).unwrap_or(0)).unwrap()
    }
}

fn code(text: &str) -> ReasonCode {
    ReasonCode(u8::from_str_radix(text.trim_start_matches("0x"), 16).unwrap())
}

fn packet_id(text: &str) -> PacketId {
    PacketId::new(text.parse().unwrap()).unwrap()
}

fn topic(text: &str) -> TopicName {
    TopicName::parse(text.into()).unwrap()
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::parse(text.into()).unwrap()
}

impl Stage {
    fn line(&mut self, line: &str) -> Vec<String> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words = Words::of(rest);
        match verb {
            "late" => self.pass(&words),
            "wait" => {
                self.pass(&words);
                self.connection.handle_timeout(self.now);
                // Or else the driver would turn in circles.
                assert!(self.connection.deadline().is_none_or(|deadline| deadline > self.now), "{line}");
            }
            "again" => {
                self.connection = Connection::new(self.now, Arc::clone(&self.limits));
            }
            "nobody" => self.routed = Routed::NoSubscribers,
            verb => {
                let input = self.input(verb, &words);
                if matches!(input, Input::Packet(_)) && !self.connection.wants_packet() {
                    return vec!["not read".to_owned()];
                }
                self.connection.handle(self.now, input);
            }
        }
        let mut seen = Vec::new();
        loop {
            while let Some(effect) = self.connection.poll_effect() {
                // There is no outbox in these stories.
                if matches!(effect, Effect::ReviewMail) {
                    continue;
                }
                seen.push(self.effect(effect));
            }
            if !self.connection.send_backlog(self.now, 1) {
                return seen;
            }
        }
    }

    fn pass(&mut self, words: &Words<'_>) {
        let seconds: f64 = words.plain[0].parse().unwrap();
        self.now = self.now.after(Duration::from_secs_f64(seconds));
    }

    fn input(&mut self, verb: &str, words: &Words<'_>) -> Input {
        match verb {
            "connect" => Input::Packet(Packet::Connect(Box::new(self.connect(words)))),
            "admit" => Input::Admitted(self.permit(words)),
            "reauthorize" => Input::Reauthorized(self.permit(words)),
            "challenge" => Input::Challenge(words.bytes("data")),
            "proved" => Input::Reauthenticated(self.permit(words)),
            "kept" => Input::PermitKept,
            "deny" => {
                let reason = if words.has("pending") { Reason::CertPending } else { Reason::PluginDenied };
                Input::Refused(Refused::new(code(words.plain[0]), reason))
            }
            "close" => Input::Close { code: code(words.plain[0]), reason: Reason::AdminAction },
            "revoke" => Input::Close { code: ReasonCode::NOT_AUTHORIZED, reason: Reason::CertRevoked },
            "lost" => Input::TransportClosed,
            "malformed" => Input::Malformed { error: DecodeError::Truncated, version: None },
            "deliver" => Input::Deliver(outgoing(words.plain[0], words, self.now, false)),
            "retained" => Input::Retained(
                words.plain.iter().map(|topic| outgoing(topic, words, self.now, true)).collect(),
            ),
            verb => Input::Packet(packet(verb, words)),
        }
    }

    fn connect(&mut self, words: &Words<'_>) -> Connect {
        let version = if words.has("v3") {
            ProtocolVersion::V3_1_1
        } else if words.has("v31") {
            ProtocolVersion::V3_1
        } else {
            ProtocolVersion::V5
        };
        let first = words.plain.first().copied().unwrap_or_default();
        self.client_id = if first == "nameless" { ByteString::new() } else { first.into() };
        let will = words.named.get("will").map(|will| Will {
            topic: topic(will),
            payload: Bytes::from_static(if words.has("will-not-text") { b"\xFF" } else { b"gone" }),
            qos: words.qos("will-qos"),
            retain: words.has("will-retain"),
            delay_interval: words.number("will-delay").unwrap_or(0),
            properties: PublishProperties {
                payload_format_indicator: words.has("will-not-text").then_some(true),
                message_expiry_interval: words.number("will-expiry"),
                ..PublishProperties::default()
            },
        });
        Connect {
            version,
            bridge: words.has("bridge"),
            clean_start: words.has("clean"),
            keep_alive: words.number("keep-alive").unwrap_or(0),
            client_id: self.client_id.clone(),
            will,
            user_name: None,
            password: None,
            properties: ConnectProperties {
                session_expiry_interval: words.number("expiry"),
                receive_maximum: words.number::<NonZeroU16>("receive-maximum"),
                maximum_packet_size: words.number::<NonZeroU32>("maximum"),
                request_problem_information: words.has("no-problem-info").then_some(false),
                request_response_information: match (
                    words.has("response-info"),
                    words.has("no-response-info"),
                ) {
                    (true, _) => Some(true),
                    (false, true) => Some(false),
                    (false, false) => None,
                },
                topic_alias_maximum: words.number("aliases"),
                authentication_method: words.text("method"),
                authentication_data: words.bytes("data"),
                ..ConnectProperties::default()
            },
        }
    }

    fn permit(&self, words: &Words<'_>) -> Box<Permit> {
        let texts = words.plain.first().copied().unwrap_or("+#");
        let rules: Vec<_> = texts
            .split(',')
            .map(|text| AclRule {
                effect: if text.starts_with('+') { RuleEffect::Allow } else { RuleEffect::Deny },
                publish: true,
                subscribe: true,
                filter: text[1..].to_owned(),
                qos: 0b111,
                retain: RetainMatch::Any,
            })
            .collect();
        let assigned = self.client_id.is_empty();
        let client_id = if assigned { ByteString::from_static("auto-1") } else { self.client_id.clone() };
        let client_id = words.text("as").unwrap_or(client_id);
        let limits = GrantLimits {
            subscriptions: words.number("subscriptions"),
            publishes_per_second: words.number("rate"),
            publish_bytes_per_second: words.number("bytes"),
            session_expiry: words.number("expiry"),
            keep_alive: words.number("keep-alive"),
            maximum_qos: words.number("qos"),
            ..GrantLimits::default()
        };
        let granted = Granted {
            client_id,
            assigned,
            device_id: "device",
            tenant: None,
            certificate_fingerprint: None,
            rules: &rules,
            otherwise: RuleEffect::Deny,
            limits,
            valid_for: words.number("valid-for").map(Duration::from_secs),
            generation: 1,
        };
        let mut permit = Permit::granted_by(&granted).unwrap();
        permit.authentication_data = words.bytes("data");
        Box::new(permit)
    }

    fn effect(&mut self, effect: Effect) -> String {
        match effect {
            Effect::Send(packet) => show(&packet),
            Effect::Deliver(delivery) => show_delivery(&delivery, self.now),
            Effect::Authorize(connect) => format!("Authorize({:?})", &*connect.client_id),
            Effect::Reauthorize => "Reauthorize".to_owned(),
            Effect::Proof(data) => format!("Proof({})", text_of(data.as_ref())),
            Effect::Reauthenticate(data) => format!("Reauthenticate({})", text_of(data.as_ref())),
            Effect::OpenSession { client_id, device_id, clean_start } => {
                let older = self.session.take().filter(|_| !clean_start);
                let present = older.is_some();
                self.keys += 1;
                let session = older.unwrap_or_else(|| {
                    Box::new(Session::new(SessionKey(self.keys), client_id.clone(), device_id))
                });
                self.connection.handle(self.now, Input::SessionOpened { session, present });
                format!("OpenSession({client_id}{})", if clean_start { " clean" } else { "" })
            }
            Effect::Connected { .. } => "Connected".to_owned(),
            Effect::Publish { message, acknowledgement } => {
                if let Some(acknowledgement) = acknowledgement {
                    self.connection
                        .handle(self.now, Input::Published { acknowledgement, routed: self.routed });
                }
                format!("Publish({})", message.topic.as_str())
            }
            Effect::ReviewMail => unreachable!("passed over"),
            Effect::PublishLater { message, seconds, acknowledgement } => {
                if let Some(acknowledgement) = acknowledgement {
                    self.connection
                        .handle(self.now, Input::Published { acknowledgement, routed: self.routed });
                }
                format!("PublishLater({} in {seconds}s)", message.topic.as_str())
            }
            Effect::Subscribe(all) => {
                let all: Vec<_> = all
                    .iter()
                    .map(|new| {
                        format!(
                            "{} qos {}{}{}",
                            new.subscribed.filter.as_str(),
                            new.subscribed.options.qos as u8,
                            new.subscribed.identifier.map_or(String::new(), |id| format!(" sid {id}")),
                            if new.send_retained { " with retained" } else { "" }
                        )
                    })
                    .collect();
                format!("Subscribe({})", all.join(", "))
            }
            Effect::Unsubscribe(all) => {
                let all: Vec<_> = all.iter().map(TopicFilter::as_str).collect();
                format!("Unsubscribe({})", all.join(", "))
            }
            Effect::Denied(denied) => format!("Denied({:?} {})", denied.action, denied.topic),
            Effect::Dropped { reason, count: 1 } => format!("Dropped({})", reason.as_str()),
            Effect::Dropped { reason, count } => format!("Dropped({count} {})", reason.as_str()),
            Effect::Limited(limited) => format!("Limited({limited:?})"),
            Effect::Close(closing) => {
                let session = self.connection.take_session();
                let will = session.as_ref().and_then(|session| session.will.as_ref()).map(|will| {
                    format!(
                        " will {} in {}s",
                        will.message.topic.as_str(),
                        will.due.since(self.now).as_secs()
                    )
                });
                let ends = session.as_ref().map(|session| match session.ends_at {
                    Some(at) => format!(" session ends in {}s", at.since(self.now).as_secs()),
                    None => " session stays".to_owned(),
                });
                self.session = session;
                let (initiator, code) = (closing.initiator, closing.code.0);
                format!(
                    "Close({initiator:?} {code:#04x} {}{}{})",
                    closing.reason,
                    will.unwrap_or_default(),
                    ends.unwrap_or_default()
                )
            }
        }
    }
}

fn outgoing(name: &str, words: &Words<'_>, now: Instant, retain: bool) -> Outgoing {
    let qos = words.qos("qos");
    let publish = Publish {
        dup: false,
        qos,
        retain,
        topic: None,
        packet_id: None,
        payload: Bytes::from(vec![b'x'; words.number("size").unwrap_or(1)]),
        properties: PublishProperties {
            message_expiry_interval: words.number("expiry"),
            ..PublishProperties::default()
        },
    };
    let message = Message::published(topic(name), publish, SessionKey(99), now);
    Outgoing { message, qos, retain, origin: None }
}

fn packet(verb: &str, words: &Words<'_>) -> Packet {
    let ack = || {
        let reason = words.plain.get(1).map_or(ReasonCode::SUCCESS, |text| code(text));
        Ack::new(packet_id(words.plain[0]), reason)
    };
    let id = || packet_id(words.named.get("id").copied().unwrap_or("1"));
    match verb {
        "publish" => Packet::Publish(Publish {
            dup: words.has("dup"),
            qos: words.qos("qos"),
            retain: words.has("retain"),
            topic: words.plain.first().filter(|text| **text != "aliased").map(|text| topic(text)),
            packet_id: (words.qos("qos") != QoS::AtMostOnce).then(id),
            payload: Bytes::from_static(if words.has("not-text") { b"\xFF" } else { b"x" }),
            properties: PublishProperties {
                topic_alias: words.number("alias"),
                payload_format_indicator: (words.has("text") || words.has("not-text")).then_some(true),
                ..PublishProperties::default()
            },
        }),
        "puback" => Packet::PubAck(ack()),
        "pubrec" => Packet::PubRec(ack()),
        "pubrel" => Packet::PubRel(ack()),
        "pubcomp" => Packet::PubComp(ack()),
        "subscribe" => {
            let retain_handling = match words.number("handling") {
                Some(1) => RetainHandling::SendIfNewSubscription,
                Some(2) => RetainHandling::DoNotSend,
                Some(_) | None => RetainHandling::SendAtSubscribe,
            };
            let options =
                SubscriptionOptions { retain_handling, ..SubscriptionOptions::new(words.qos("qos")) };
            Packet::Subscribe(Subscribe {
                packet_id: id(),
                filters: words.plain.iter().map(|text| (filter(text), options)).collect(),
                subscription_identifier: words.number("sid"),
                user_properties: Vec::new(),
            })
        }
        "unsubscribe" => Packet::Unsubscribe(Unsubscribe {
            packet_id: id(),
            filters: words.plain.iter().map(|text| filter(text)).collect(),
            user_properties: Vec::new(),
        }),
        "ping" => Packet::PingReq,
        "disconnect" => Packet::Disconnect(Disconnect {
            session_expiry_interval: words.number("expiry"),
            ..Disconnect::new(words.plain.first().map_or(ReasonCode::SUCCESS, |text| code(text)))
        }),
        "auth" => Packet::Auth(Auth {
            reason: words.plain.first().map_or(ReasonCode::RE_AUTHENTICATE, |text| code(text)),
            authentication_method: words.text("method"),
            authentication_data: words.bytes("data"),
            reason_string: None,
            user_properties: Vec::new(),
        }),
        unknown => panic!("{unknown} is no word of a story"),
    }
}

fn show(packet: &Packet) -> String {
    let ack = |name: &str, ack: &Ack| match ack.reason {
        ReasonCode::SUCCESS => format!("{name} {}", ack.packet_id.get()),
        reason => format!("{name} {} {:#04x}", ack.packet_id.get(), reason.0),
    };
    let codes = |reasons: &[ReasonCode]| {
        reasons.iter().map(|reason| format!("{:#04x}", reason.0)).collect::<Vec<_>>().join(" ")
    };
    match packet {
        Packet::ConnAck(connack) => {
            let mut text = match connack.code {
                ConnAckCode::V3(code) => format!("CONNACK {}", code as u8),
                ConnAckCode::V5(reason) => format!("CONNACK {:#04x}", reason.0),
            };
            if connack.session_present {
                text.push_str(" present");
            }
            let properties = &connack.properties;
            let mut tell = |name: &str, value: Option<String>| {
                if let Some(value) = value {
                    let _ = write!(text, " {name}={value}");
                }
            };
            tell("id", properties.assigned_client_id.as_ref().map(ToString::to_string));
            let mut said = properties.user_properties.iter();
            let overridden = said.find(|(name, _)| name == "client-id");
            tell("client-id", overridden.map(|(_, client_id)| client_id.to_string()));
            tell("expiry", properties.session_expiry_interval.map(|value| value.to_string()));
            tell("keep-alive", properties.server_keep_alive.map(|value| value.to_string()));
            tell("qos", properties.maximum_qos.map(|qos| (qos as u8).to_string()));
            tell("retain", properties.retain_available.map(|value| value.to_string()));
            tell("answers", properties.response_information.as_ref().map(ToString::to_string));
            tell("method", properties.authentication_method.as_ref().map(ToString::to_string));
            tell("data", properties.authentication_data.as_ref().map(|data| text_of(Some(data))));
            text
        }
        Packet::PubAck(it) => ack("PUBACK", it),
        Packet::PubRec(it) => ack("PUBREC", it),
        Packet::PubRel(it) => ack("PUBREL", it),
        Packet::PubComp(it) => ack("PUBCOMP", it),
        Packet::SubAck(it) => format!("SUBACK {} {}", it.packet_id.get(), codes(&it.reasons)),
        Packet::UnsubAck(it) => format!("UNSUBACK {} {}", it.packet_id.get(), codes(&it.reasons)),
        Packet::Disconnect(it) => {
            let elsewhere = it.server_reference.as_ref().map_or(String::new(), |at| format!(" to {at}"));
            format!("DISCONNECT {:#04x}{elsewhere}", it.reason.0)
        }
        Packet::Auth(it) => {
            let method = it.authentication_method.as_deref().unwrap_or("-");
            format!("AUTH {:#04x} {method} {}", it.reason.0, text_of(it.authentication_data.as_ref()))
        }
        other => other.packet_type().name().to_owned(),
    }
}

fn text_of(data: Option<&Bytes>) -> String {
    data.map_or_else(|| "-".to_owned(), |data| String::from_utf8_lossy(data).into_owned())
}

fn show_delivery(delivery: &Delivery, now: Instant) -> String {
    let mut text = format!("PUBLISH {} qos {}", delivery.message.topic.as_str(), delivery.qos as u8);
    if let Some(id) = delivery.packet_id {
        let _ = write!(text, " id {}", id.get());
    }
    if let Some(alias) = delivery.alias {
        let _ = write!(text, " alias {}{}", alias.number, if alias.known { "" } else { " new" });
    }
    if delivery.dup {
        text.push_str(" dup");
    }
    if delivery.retain {
        text.push_str(" retain");
    }
    if let Some(left) = delivery.message.expiry_left(now) {
        let _ = write!(text, " expires in {left}s");
    }
    text
}
