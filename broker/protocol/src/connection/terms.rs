//! What client, listener and grant agreed on at CONNECT.

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use mqgate_codec::{ConnAckProperties, Connect, ProtocolVersion, QoS, UserProperty};

use crate::bridge;
use crate::limits::Limits;
use crate::permit::Permit;
use crate::session::SessionExpiry;
use crate::topics::TopicRules;

/// User Property of CONNACK: the client id that counts, where it is not the one that the client sent.
const CLIENT_ID_IN_USE: &str = "client-id";

#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) version: ProtocolVersion,
    /// Seconds; 0 turns the keep-alive off.
    pub(super) keep_alive: u16,
    pub(super) session_expiry: SessionExpiry,
    /// Towards the client.
    pub(super) receive_maximum: NonZeroU16,
    /// Towards the client.
    pub(super) maximum_packet_size: u32,
    /// Whether the client wants reason strings and user properties with everything.
    pub(super) problem_information: bool,
    /// From the client, as all that follow.
    pub(super) receive_maximum_from_client: NonZeroU16,
    pub(super) maximum_packet_size_from_client: u32,
    pub(super) maximum_qos: QoS,
    pub(super) retain_available: bool,
    pub(super) topic_alias_maximum: u16,
    /// Towards the client; `None` for none.
    pub(super) topic_aliases_to_client: Option<NonZeroU16>,
    pub(super) subscriptions: usize,
    pub(super) topics: Arc<TopicRules>,
}

impl Terms {
    pub(super) fn agree(connect: &Connect, limits: &Limits, permit: &Permit) -> Self {
        let Connect { version, keep_alive, ref properties, .. } = *connect;
        let granted = &permit.limits;
        let asked_expiry = match version {
            ProtocolVersion::V5 => {
                SessionExpiry::from_seconds(properties.session_expiry_interval.unwrap_or(0))
            }
            // A session that is not clean has no end there.
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 if connect.clean_start => SessionExpiry::After(0),
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => SessionExpiry::Never,
        };
        let granted_expiry = granted.session_expiry.map_or(SessionExpiry::Never, SessionExpiry::from_seconds);
        let taken = properties.receive_maximum.unwrap_or(NonZeroU16::MAX);
        let alias_maximum = match version {
            ProtocolVersion::V5 => limits.topic_alias_maximum,
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => 0,
        };
        Self {
            version,
            keep_alive: keep_alive_of(version, keep_alive, limits, permit),
            session_expiry: asked_expiry.min(granted_expiry).at_most(limits.session_expiry_maximum),
            receive_maximum: taken.min(limits.inflight_maximum),
            maximum_packet_size: properties.maximum_packet_size.map_or(u32::MAX, NonZeroU32::get),
            problem_information: properties.request_problem_information.unwrap_or(true),
            receive_maximum_from_client: granted
                .receive_maximum
                .and_then(NonZeroU16::new)
                .map_or(limits.receive_maximum, |granted| granted.min(limits.receive_maximum)),
            maximum_packet_size_from_client: granted
                .maximum_packet_size
                .map_or(limits.maximum_packet_size, |granted| granted.min(limits.maximum_packet_size)),
            maximum_qos: maximum_qos(limits, permit),
            retain_available: retain_available(limits, permit),
            topic_alias_maximum: granted
                .topic_alias_maximum
                .map_or(alias_maximum, |granted| granted.min(alias_maximum)),
            // [MQTT-3.1.2-26, MQTT-3.1.2-27]
            topic_aliases_to_client: NonZeroU16::new(
                properties.topic_alias_maximum.unwrap_or(0).min(limits.topic_aliases_to_client),
            ),
            subscriptions: subscriptions(limits, permit),
            topics: Arc::clone(&limits.topics),
        }
    }

    /// What another permit changes about a connection that is up. A client that goes on as it was told at
    /// first is closed with the reason, and learns the rest when it connects again.
    pub(super) fn renew(&mut self, limits: &Limits, permit: &Permit) {
        self.maximum_qos = maximum_qos(limits, permit);
        self.retain_available = retain_available(limits, permit);
        self.subscriptions = subscriptions(limits, permit);
    }

    /// What an MQTT 5.0 client has to be told [MQTT 5.0, 3.2.2.3].
    pub(super) fn tell(&self, connect: &Connect, permit: &Permit, limits: &Limits) -> ConnAckProperties {
        if self.version != ProtocolVersion::V5 {
            return ConnAckProperties::default();
        }
        let asked = connect.properties.session_expiry_interval.unwrap_or(0);
        ConnAckProperties {
            session_expiry_interval: Some(self.session_expiry.as_seconds()).filter(|given| *given != asked),
            receive_maximum: Some(self.receive_maximum_from_client)
                .filter(|maximum| *maximum != NonZeroU16::MAX),
            maximum_qos: Some(self.maximum_qos).filter(|maximum| *maximum != QoS::ExactlyOnce),
            retain_available: Some(self.retain_available).filter(|available| !available),
            maximum_packet_size: NonZeroU32::new(self.maximum_packet_size_from_client),
            assigned_client_id: permit.assigned.then(|| permit.client_id.clone()),
            topic_alias_maximum: Some(self.topic_alias_maximum).filter(|maximum| *maximum != 0),
            server_keep_alive: Some(self.keep_alive).filter(|given| *given != connect.keep_alive),
            response_information: response_information(connect, permit, limits),
            authentication_method: connect.properties.authentication_method.clone(), // [MQTT-4.12.0-5]
            authentication_data: permit.authentication_data.clone(),
            user_properties: bridge_id(connect, limits)
                .into_iter()
                .chain(overridden(connect, permit))
                .collect(),
            ..ConnAckProperties::default()
        }
    }

    /// One and a half keep-alives [MQTT-3.1.2-22].
    pub(super) fn silence_allowed(&self) -> Option<Duration> {
        (self.keep_alive > 0).then(|| Duration::from_millis(u64::from(self.keep_alive) * 1500))
    }
}

/// Only for who asks for it [MQTT-3.1.2-28].
fn response_information(connect: &Connect, permit: &Permit, limits: &Limits) -> Option<ByteString> {
    let template = limits.response_information.as_deref()?;
    let asked = connect.properties.request_response_information == Some(true);
    let text =
        || template.replace("${client-id}", &permit.client_id).replace("${device-id}", &permit.device_id);
    asked.then(|| text().into())
}

/// MQTT has a word for the client id of a client that sent none, and none for one that is not taken as it was sent.
fn overridden(connect: &Connect, permit: &Permit) -> Option<UserProperty> {
    let differs = !connect.client_id.is_empty() && connect.client_id != permit.client_id;
    differs.then(|| (ByteString::from_static(CLIENT_ID_IN_USE), permit.client_id.clone()))
}

/// Only for bridges.
fn bridge_id(connect: &Connect, limits: &Limits) -> Option<UserProperty> {
    bridge::hops(&connect.properties.user_properties).next()?;
    limits.bridge_id.as_deref().map(bridge::hop)
}

fn maximum_qos(limits: &Limits, permit: &Permit) -> QoS {
    let granted = permit.limits.maximum_qos.and_then(QoS::from_bits);
    granted.map_or(limits.maximum_qos, |granted| granted.min(limits.maximum_qos))
}

fn retain_available(limits: &Limits, permit: &Permit) -> bool {
    limits.retain_available && permit.limits.retain_available.unwrap_or(true)
}

fn subscriptions(limits: &Limits, permit: &Permit) -> usize {
    let maximum = limits.subscriptions_per_session;
    permit.limits.subscriptions.map_or(maximum, |granted| maximum.min(granted as usize))
}

/// Only an MQTT 5.0 client can be told another value than its own [MQTT-3.1.2-21].
fn keep_alive_of(version: ProtocolVersion, asked: u16, limits: &Limits, permit: &Permit) -> u16 {
    if version != ProtocolVersion::V5 {
        return asked;
    }
    let lower = |value: u16, maximum: u16| match (value, maximum) {
        (value, 0) => value,
        (0, maximum) => maximum,
        (value, maximum) => value.min(maximum),
    };
    lower(lower(asked, limits.keep_alive_maximum), permit.limits.keep_alive.unwrap_or(0))
}
