//! Publishing in the operator's name.

use std::num::NonZeroU32;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use bytestring::ByteString;
use mqgate_codec::{Publish, PublishProperties};
use mqgate_protocol::connection::Routed;
use mqgate_protocol::message::Message;
use mqgate_protocol::session::SessionKey;
use mqgate_protocol::topics::When;
use mqgate_protocol::topics::is_reserved;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::{Api, Change, Doc, Impact, Outcome};
use super::subscriptions::{quality, topic_name, within_levels};
use super::{AdminParts, Code, Problem, Scope, bad_json, note};

pub(super) fn routes() -> Api<AdminParts> {
    Api::new("Messages").route(
        Doc::post(
            "/publish",
            "message.publish",
            Scope::MessagesPublish,
            "Publishes in the operator's name; nobody's permit is asked.",
        )
        .problems(&[
            Code::BadTopic,
            Code::TooManyLevels,
            Code::ReservedTopic,
            Code::BadDelay,
            Code::BadPayload,
            Code::BadQos,
            Code::BadText,
            Code::TooManyDelayed,
        ]),
        publish,
    )
}

/// A message.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PublishBody {
    topic: String,
    /// Text; or `payload_base64`.
    payload: Option<String>,
    payload_base64: Option<String>,
    #[serde(default)]
    qos: u8,
    #[serde(default)]
    retain: bool,
    expiry_seconds: Option<NonZeroU32>,
    content_type: Option<String>,
    response_topic: Option<String>,
    #[serde(default)]
    /// Name and value of each.
    #[schemars(with = "Vec<[String; 2]>")]
    user_properties: Vec<(String, String)>,
}

impl PublishBody {
    fn payload(&self) -> Result<Bytes, Problem> {
        match (&self.payload, &self.payload_base64) {
            (Some(_), Some(_)) => {
                let detail = "give `payload` or `payload_base64`, not both";
                Err(Problem::new(Code::BadPayload, detail))
            }
            (Some(text), None) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            (None, Some(text)) => STANDARD.decode(text).map(Bytes::from).map_err(|error| {
                Problem::new(Code::BadPayload, format!("`payload_base64` is not base64: {error}"))
            }),
            (None, None) => Ok(Bytes::new()),
        }
    }
}

/// Checks a text that goes to clients as it is: one with U+0000 would make them close [MQTT-1.5.4-2].
fn text(field: &'static str, text: &str) -> Result<ByteString, Problem> {
    if text.len() > usize::from(u16::MAX) || text.contains('\0') {
        let detail =
            format!("`{field}` has more than 65,535 bytes, or holds U+0000: no client may be sent it");
        return Err(Problem::new(Code::BadText, detail));
    }
    Ok(text.into())
}

#[derive(Serialize, JsonSchema)]
struct Published {
    topic: String,
    /// Whether anybody gets it.
    delivered: bool,
}

/// Nobody's permit is asked: whoever has the scope may publish anywhere, and it is written down.
async fn publish(
    State(parts): State<AdminParts>,
    change: Change,
    body: Result<Json<PublishBody>, JsonRejection>,
) -> Result<Outcome<Json<Published>>, Problem> {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    let (topic, when) = parts.broker.common_limits().topics.delay(topic_name(&body.topic)?);
    if when == When::Never {
        let detail = "a delayed message has the topic `$delayed/SECONDS/TOPIC`, with no more than \
                      `delayed.max_delay`, and only where `delayed.enable` is set";
        return Err(Problem::new(Code::BadDelay, detail));
    }
    within_levels(&parts, topic.as_str())?;
    if is_reserved(topic.as_str()) {
        let detail = "below `$SYS` and `$events` only the broker itself publishes";
        return Err(Problem::new(Code::ReservedTopic, detail));
    }
    let payload = body.payload()?;
    let qos = quality(body.qos)?;
    let size = payload.len().to_string();
    let properties = PublishProperties {
        message_expiry_interval: body.expiry_seconds.map(NonZeroU32::get),
        content_type: body.content_type.as_deref().map(|all| text("content_type", all)).transpose()?,
        response_topic: body.response_topic.as_deref().map(topic_name).transpose()?,
        user_properties: body
            .user_properties
            .iter()
            .map(|(name, value)| Ok((text("user_properties", name)?, text("user_properties", value)?)))
            .collect::<Result<_, Problem>>()?,
        ..PublishProperties::default()
    };
    let publish =
        Publish { dup: false, qos, retain: body.retain, topic: None, packet_id: None, payload, properties };
    let receivers = parts.broker.router.receivers(&topic).len();
    let impact = Impact::of("message.publish", &*body.topic).affects("receivers", receivers);
    if change.dry_run {
        return Ok(impact.into());
    }
    note(&parts.audit, &change.actor, &impact, &[("topic", &body.topic), ("bytes", &size)]).await?;
    // No session has this key: the message is nobody's own.
    let message = Message::published(topic, publish, SessionKey(0), parts.broker.now());
    let routed = match when {
        When::After(seconds) => parts.broker.publish_later(&message, seconds),
        When::Now | When::Never => parts.broker.publish(&message),
    };
    if routed == Routed::NoRoom {
        let detail = "too many messages wait to be published; take some back with `mqgate message cancel`, \
                      or raise `delayed.max_messages` or `delayed.max_bytes`";
        return Err(Problem::new(Code::TooManyDelayed, detail));
    }
    Ok(Outcome::Done(Json(Published { topic: body.topic, delivered: routed == Routed::Delivered })))
}
