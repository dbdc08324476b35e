//! One application message: a single allocation, shared by everything that still has to do with it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use bytestring::ByteString;
use mqgate_codec::{EncodedPublish, ProtocolVersion, Publish, PublishProperties, QoS, TopicName, Will};

use crate::session::SessionKey;
use crate::time::Instant;

#[derive(Debug)]
pub struct Message {
    pub topic: TopicName,
    pub payload: Bytes,
    /// As published; a subscription may lower it.
    pub qos: QoS,
    /// As published.
    pub retain: bool,
    /// What travels with the message unchanged; `None` when there is nothing. Expiry, alias and
    /// subscription identifiers are never in here.
    pub properties: Option<Box<PublishProperties>>,
    pub expires_at: Option<Instant>,
    /// Whose it is, for No Local.
    pub publisher: SessionKey,
    /// Memory of the encodings that many receivers share.
    pub frames: Frames,
}

/// Encoded forms of one message, made by the first receiver that needs them: for 3.x and 5.0, by QoS.
#[derive(Debug, Default)]
pub struct Frames {
    /// Most messages have one receiver, and no need of these.
    slots: OnceLock<Box<[OnceLock<EncodedPublish>; 6]>>,
    /// The message stays: what it takes is what it counts, so no encoding stays with it.
    closed: bool,
}

/// A payload of this size or less is copied when its message has to wait for a slow client: for what it takes, it must
/// not keep a whole receive buffer alive.
const SMALL: usize = 4096;

/// What a user property takes besides its texts: two texts that refer to memory of their own.
const USER_PROPERTY_OVERHEAD: usize = 64;

impl Frames {
    /// `None` if the message keeps no encodings.
    pub fn slot(&self, version: ProtocolVersion, qos: QoS) -> Option<&OnceLock<EncodedPublish>> {
        let family = match version {
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => 0,
            ProtocolVersion::V5 => 3,
        };
        (!self.closed).then(|| &self.slots.get_or_init(Box::default)[family + qos as usize])
    }
}

impl Message {
    /// Takes a PUBLISH apart whose topic has been resolved.
    pub fn published(topic: TopicName, publish: Publish, publisher: SessionKey, now: Instant) -> Arc<Self> {
        let Publish { qos, retain, payload, properties, .. } = publish;
        Arc::new(Self::new(topic, payload, qos, retain, properties, publisher, now))
    }

    /// The message a will becomes. It outlives the packet it came in, so it gets its own memory.
    pub fn from_will(will: Will, publisher: SessionKey, now: Instant) -> Arc<Self> {
        let Will { topic, payload, qos, retain, properties, .. } = will;
        Arc::new(Self::new(topic, payload, qos, retain, properties, publisher, now).detached())
    }

    fn new(
        topic: TopicName,
        payload: Bytes,
        qos: QoS,
        retain: bool,
        mut properties: PublishProperties,
        publisher: SessionKey,
        now: Instant,
    ) -> Self {
        let expires_at = properties.message_expiry_interval.take().map(|seconds| now.after_seconds(seconds));
        properties.topic_alias = None;
        properties.subscription_identifiers = Vec::new();
        let properties = (!is_empty(&properties)).then(|| Box::new(properties));
        Self { topic, payload, qos, retain, properties, expires_at, publisher, frames: Frames::default() }
    }

    /// A copy with memory of its own, for what stays long: a small slice must not keep a large receive
    /// buffer alive.
    #[must_use]
    pub fn detached(&self) -> Self {
        let properties =
            self.properties.as_deref().map(|properties| Box::new(detached_properties(properties)));
        Self {
            topic: detached_topic(&self.topic),
            payload: Bytes::copy_from_slice(&self.payload),
            qos: self.qos,
            retain: self.retain,
            properties,
            expires_at: self.expires_at,
            publisher: self.publisher,
            frames: Frames::default(),
        }
    }

    /// Gives a message that waits memory of its own, if it is small. A large one stays shared with others who wait for
    /// it.
    pub(crate) fn detach_small(this: &mut Arc<Self>) {
        if this.payload.len() <= SMALL {
            *this = Arc::new(this.detached());
        }
    }

    /// As [`Message::detached`], and without memory of encodings: for what is stored.
    #[must_use]
    pub fn stored(&self) -> Self {
        let mut stored = self.detached();
        stored.frames.closed = true;
        stored
    }

    /// What it counts against limits in bytes.
    pub fn size(&self) -> usize {
        let properties = self.properties.as_deref().map_or(0, |properties| {
            let user: usize = properties
                .user_properties
                .iter()
                .map(|(name, value)| name.len() + value.len() + USER_PROPERTY_OVERHEAD)
                .sum();
            user + properties.correlation_data.as_ref().map_or(0, Bytes::len)
                + properties.response_topic.as_ref().map_or(0, |topic| topic.as_str().len())
                + properties.content_type.as_ref().map_or(0, |text| text.len())
        });
        self.topic.as_str().len() + self.payload.len() + properties
    }

    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Seconds left, rounded up, as they are passed on [MQTT-3.3.2-6]; `None` without an expiry.
    pub fn expiry_left(&self, now: Instant) -> Option<u32> {
        let left = self.expires_at?.since(now);
        Some(u32::try_from(left.as_millis().div_ceil(1000)).unwrap_or(u32::MAX))
    }
}

fn is_empty(properties: &PublishProperties) -> bool {
    let PublishProperties {
        payload_format_indicator,
        message_expiry_interval,
        topic_alias,
        response_topic,
        correlation_data,
        user_properties,
        subscription_identifiers,
        content_type,
    } = properties;
    payload_format_indicator.is_none()
        && message_expiry_interval.is_none()
        && topic_alias.is_none()
        && response_topic.is_none()
        && correlation_data.is_none()
        && user_properties.is_empty()
        && subscription_identifiers.is_empty()
        && content_type.is_none()
}

/// The same text in memory of its own.
pub(crate) fn detached_text(text: &ByteString) -> ByteString {
    ByteString::from(text.as_ref() as &str)
}

pub(crate) fn detached_properties(properties: &PublishProperties) -> PublishProperties {
    PublishProperties {
        payload_format_indicator: properties.payload_format_indicator,
        message_expiry_interval: properties.message_expiry_interval,
        topic_alias: properties.topic_alias,
        response_topic: properties.response_topic.as_ref().map(detached_topic),
        correlation_data: properties.correlation_data.as_ref().map(|data| Bytes::copy_from_slice(data)),
        user_properties: properties
            .user_properties
            .iter()
            .map(|(name, value)| (detached_text(name), detached_text(value)))
            .collect(),
        subscription_identifiers: properties.subscription_identifiers.clone(),
        content_type: properties.content_type.as_ref().map(detached_text),
    }
}

pub(crate) fn detached_topic(topic: &TopicName) -> TopicName {
    TopicName::parse(detached_text(topic.as_text())).expect("it was a topic name before it was copied")
}
