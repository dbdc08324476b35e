//! How to connect.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use mqgate_codec::{
    Connect, ConnectProperties, DecodeLimits, ProtocolVersion, PublishProperties, QoS, TopicName, Will,
};

use crate::{ConnectError, TlsOptions};

/// Everything about one connection. [`ConnectOptions::new`] gives sensible values for the rest.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Name or address.
    pub host: String,
    pub port: u16,
    /// The address to connect from; the system chooses one without.
    pub source: Option<IpAddr>,
    /// `None` is plain TCP.
    pub tls: Option<TlsOptions>,
    pub version: ProtocolVersion,
    /// Empty leaves the choice to the server.
    pub client_id: ByteString,
    /// Clean Session in 3.1.1.
    pub clean_start: bool,
    /// In whole seconds; zero turns it off. A server may choose another in CONNACK.
    pub keep_alive: Duration,
    pub will: Option<WillOptions>,
    pub user_name: Option<ByteString>,
    pub password: Option<Bytes>,
    /// Sets the topmost bit of the protocol level, as bridges do in 3.1.1: servers that know it send them nothing
    /// of their own back.
    pub bridge: bool,
    /// Only sent in MQTT 5.0.
    pub properties: ConnectProperties,
    /// For everything until CONNACK.
    pub connect_timeout: Duration,
    /// How many events may wait for [`crate::Client::recv`]. When they do, the socket is not read.
    pub event_capacity: usize,
    /// What the server may send us.
    pub limits: DecodeLimits,
}

/// The message that the server publishes when this client is lost.
#[derive(Debug, Clone)]
pub struct WillOptions {
    pub topic: ByteString,
    pub payload: Bytes,
    pub qos: QoS,
    pub retain: bool,
    /// Only in MQTT 5.0, in whole seconds.
    pub delay: Duration,
    pub properties: PublishProperties,
}

impl ConnectOptions {
    /// MQTT 5.0 over plain TCP, with a clean start and a keep-alive of a minute.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            source: None,
            tls: None,
            version: ProtocolVersion::V5,
            client_id: ByteString::new(),
            clean_start: true,
            keep_alive: Duration::from_secs(60),
            will: None,
            user_name: None,
            password: None,
            bridge: false,
            properties: ConnectProperties::default(),
            connect_timeout: Duration::from_secs(15),
            event_capacity: 256,
            limits: DecodeLimits {
                maximum_packet_size: 256 * 1024 * 1024,
                maximum_topic_levels: u16::MAX,
                ..DecodeLimits::default()
            },
        }
    }

    /// The same under another name.
    pub fn clone_with_client_id(&self, client_id: impl Into<ByteString>) -> Self {
        Self { client_id: client_id.into(), ..self.clone() }
    }

    /// The topic is checked when the connection is made.
    pub fn set_will(
        &mut self,
        topic: impl Into<ByteString>,
        payload: impl Into<Bytes>,
        qos: QoS,
        retain: bool,
    ) {
        let (topic, payload) = (topic.into(), payload.into());
        let (delay, properties) = (Duration::ZERO, PublishProperties::default());
        self.will = Some(WillOptions { topic, payload, qos, retain, delay, properties });
    }

    /// The CONNECT packet that says all this.
    pub fn connect_packet(&self) -> Result<Connect, ConnectError> {
        Ok(Connect {
            version: self.version,
            bridge: self.bridge && self.version != ProtocolVersion::V5,
            clean_start: self.clean_start,
            keep_alive: self.keep_alive.as_secs().try_into().unwrap_or(u16::MAX),
            client_id: self.client_id.clone(),
            will: self.will.as_ref().map(WillOptions::will).transpose()?,
            user_name: self.user_name.clone(),
            password: self.password.clone(),
            properties: match self.version {
                ProtocolVersion::V5 => self.properties.clone(),
                ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => ConnectProperties::default(),
            },
        })
    }
}

impl WillOptions {
    fn will(&self) -> Result<Will, ConnectError> {
        Ok(Will {
            topic: TopicName::parse(self.topic.clone()).map_err(ConnectError::WillTopic)?,
            payload: self.payload.clone(),
            qos: self.qos,
            retain: self.retain,
            delay_interval: self.delay.as_secs().try_into().unwrap_or(u32::MAX),
            properties: self.properties.clone(),
        })
    }
}
