//! From CONNECT to CONNACK.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use mqgate_codec::{
    ConnAck, ConnAckCode, ConnAckProperties, Connect, ConnectProperties, DecodeError, Packet, PacketType,
    ProtocolVersion, ReasonCode, Will,
};
use mqgate_identity::reason::Reason;

use super::authentication::maximum_packet_size;
use super::incoming::is_as_said;
use super::online::Online;
use super::terms::Terms;
use super::{Connection, Denied, DeniedAction, Effect, Fault, Initiator, Refused, State};
use crate::message::{detached_properties, detached_text, detached_topic};
use crate::permit::Permit;
use crate::session::Session;
use crate::time::Instant;

impl Connection {
    pub(super) fn connect(&mut self, connect: Connect) -> State {
        if let Err(fault) = self.check(&connect) {
            return self.fail_connect(&connect, fault);
        }
        let mut connect = detached(&connect);
        if let Some(will) = &mut connect.will {
            let maximum = u32::try_from(self.limits.will_delay_maximum.as_secs()).unwrap_or(u32::MAX);
            will.delay_interval = will.delay_interval.min(maximum);
            will.topic = self.limits.topics.published(will.topic.clone());
        }
        let connect = Arc::new(connect);
        self.effects.push_back(Effect::Authorize(Arc::clone(&connect)));
        State::AwaitingVerdict { connect }
    }

    /// What can be judged without knowing who it is.
    fn check(&self, connect: &Connect) -> Result<(), Fault> {
        if connect.version == ProtocolVersion::V3_1 && !self.limits.mqtt_3_1 {
            return Err(Fault::Mqtt31);
        }
        // In 5.0 it is told which one it has got, and can come back with that [MQTT-3.1.3-6, MQTT-3.1.3-7].
        if connect.client_id.is_empty() && !connect.clean_start && connect.version != ProtocolVersion::V5 {
            return Err(Fault::ClientIdEmpty); // [MQTT 3.1.1: MQTT-3.1.3-8]
        }
        if connect.client_id.len() > self.limits.client_id_length {
            return Err(Fault::ClientIdTooLong);
        }
        match &connect.will {
            Some(will)
                if self.limits.payload_format_check && !is_as_said(&will.properties, &will.payload) =>
            {
                Err(Fault::PayloadFormat)
            }
            Some(will) if will.qos > self.limits.maximum_qos => Err(Fault::QosNotSupported), // [MQTT-3.2.2-12]
            Some(will) if will.retain && !self.limits.retain_available => Err(Fault::RetainNotSupported), // [MQTT-3.2.2-13]
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn admitted(&mut self, connect: Arc<Connect>, permit: Box<Permit>) -> State {
        let terms = Terms::agree(&connect, &self.limits, &permit);
        if let Some(will) = &connect.will {
            if will.qos > terms.maximum_qos {
                return self.fail_connect(&connect, Fault::QosNotSupported);
            }
            if will.retain && !terms.retain_available {
                return self.fail_connect(&connect, Fault::RetainNotSupported);
            }
            if !permit.may_publish(&will.topic, will.qos, will.retain) {
                self.effects.push_back(Effect::Denied(Denied {
                    action: DeniedAction::Will,
                    topic: will.topic.as_text().clone(),
                    qos: will.qos,
                }));
                return self.fail_connect(&connect, Fault::WillDenied);
            }
        }
        self.effects.push_back(Effect::OpenSession {
            client_id: permit.client_id.clone(),
            device_id: Arc::clone(&permit.device_id),
            clean_start: connect.clean_start,
        });
        State::AwaitingSession { connect, terms, permit }
    }

    pub(super) fn opened(
        &mut self,
        now: Instant,
        connect: Arc<Connect>,
        terms: Terms,
        permit: Box<Permit>,
        mut session: Box<Session>,
        present: bool,
    ) -> State {
        let version = terms.version;
        session.expiry = terms.session_expiry;
        session.ends_at = None;
        // 3.1 has no Session Present flag.
        let session_present = present && version != ProtocolVersion::V3_1;
        let properties = terms.tell(&connect, &permit, &self.limits);
        self.effects.push_back(Effect::Connected { version });
        let told =
            self.answer(version, terms.maximum_packet_size, ReasonCode::SUCCESS, session_present, properties);
        let mut online = Online::new(now, connect, terms, permit, *session);
        if !told {
            // It can be told neither that it is connected nor why it is not [MQTT-3.1.2-24].
            return self.vanish(now, online, Fault::ConnAckTooLarge);
        }
        online.review_subscriptions(&mut self.effects);
        if present {
            online.review_messages(&mut self.effects);
        }
        online.pump(&mut self.effects);
        State::Online(Box::new(online))
    }

    pub(super) fn refused(&mut self, connect: &Connect, refused: &Refused) -> State {
        let retry_after = refused
            .retry_after
            .map(|seconds| (ByteString::from_static("retry-after"), ByteString::from(seconds.to_string())));
        let properties = ConnAckProperties {
            reason_string: refused.reason_string.clone(),
            server_reference: refused.server_reference.clone(),
            user_properties: retry_after.into_iter().collect(),
            ..ConnAckProperties::default()
        };
        let code = match (connect.version, refused.reason) {
            // A client of 3.1.1 that is told "not authorized" may never come again: this one is to.
            (ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1, Reason::CertPending) => {
                ReasonCode::SERVER_UNAVAILABLE
            }
            _ => refused.code,
        };
        self.answer(connect.version, maximum_packet_size(connect), code, false, properties);
        self.closed(None, Initiator::Server, refused.code, refused.reason)
    }

    /// A fault of a client that is not online: it hears about it in CONNACK, if it can be told at all.
    pub(super) fn fail_before_online(&mut self, version: Option<ProtocolVersion>, fault: Fault) -> State {
        // A will topic that is none: of 3.1.1 such a CONNECT gets no answer [MQTT 3.1.1: MQTT-3.1.4-1].
        let unanswered = matches!(fault, Fault::Malformed(DecodeError::TopicName(_)));
        if let Some(version) = version.filter(|version| *version == ProtocolVersion::V5 || !unanswered) {
            self.answer(version, u32::MAX, fault.code(), false, ConnAckProperties::default());
        }
        self.closed(None, Initiator::Server, fault.code(), fault.reason())
    }

    /// The same, once its CONNECT could be read.
    pub(super) fn fail_connect(&mut self, connect: &Connect, fault: Fault) -> State {
        let properties = match connect.version {
            ProtocolVersion::V5 if self.limits.reason_strings => {
                ConnAckProperties { reason_string: Some(fault.to_string().into()), ..Default::default() }
            }
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 | ProtocolVersion::V5 => {
                ConnAckProperties::default()
            }
        };
        self.answer(connect.version, maximum_packet_size(connect), fault.code(), false, properties);
        self.closed(None, Initiator::Server, fault.code(), fault.reason())
    }

    /// Says whether there was a word for it that the client takes.
    fn answer(
        &mut self,
        version: ProtocolVersion,
        maximum_packet_size: u32,
        code: ReasonCode,
        session_present: bool,
        properties: ConnAckProperties,
    ) -> bool {
        // MQTT 3.1.1 has no word for some refusals: the connection is closed without one.
        let Some(code) = ConnAckCode::for_version(connack_code(code), version) else { return false };
        let mut packet = Packet::ConnAck(Box::new(ConnAck { session_present, code, properties }));
        let fits = packet.fit(version, maximum_packet_size).is_ok();
        if fits {
            self.effects.push_back(Effect::Send(packet));
        }
        fits
    }
}

/// CONNACK has no word for some ends that a connection may meet while it is judged [MQTT-3.2.2-8].
fn connack_code(code: ReasonCode) -> ReasonCode {
    match code {
        ReasonCode::SERVER_SHUTTING_DOWN
        | ReasonCode::SESSION_TAKEN_OVER
        | ReasonCode::ADMINISTRATIVE_ACTION => ReasonCode::SERVER_UNAVAILABLE,
        code if code.is_allowed_in(PacketType::ConnAck) => code,
        // A Topic Alias of 0 in a will, say.
        _ => ReasonCode::PROTOCOL_ERROR,
    }
}

/// A copy with memory of its own: it is kept as long as the connection.
fn detached(connect: &Connect) -> Connect {
    let Connect {
        version,
        bridge,
        clean_start,
        keep_alive,
        client_id,
        will,
        user_name,
        password,
        properties,
    } = connect;
    Connect {
        version: *version,
        bridge: *bridge,
        clean_start: *clean_start,
        keep_alive: *keep_alive,
        client_id: detached_text(client_id),
        will: will.as_ref().map(detached_will),
        user_name: user_name.as_ref().map(detached_text),
        password: password.as_ref().map(|password| Bytes::copy_from_slice(password)),
        properties: ConnectProperties {
            authentication_method: properties.authentication_method.as_ref().map(detached_text),
            authentication_data: properties
                .authentication_data
                .as_ref()
                .map(|data| Bytes::copy_from_slice(data)),
            user_properties: properties
                .user_properties
                .iter()
                .map(|(name, value)| (detached_text(name), detached_text(value)))
                .collect(),
            ..*properties
        },
    }
}

fn detached_will(will: &Will) -> Will {
    let Will { topic, payload, qos, retain, delay_interval, properties } = will;
    Will {
        topic: detached_topic(topic),
        payload: Bytes::copy_from_slice(payload),
        qos: *qos,
        retain: *retain,
        delay_interval: *delay_interval,
        properties: detached_properties(properties),
    }
}
