//! Publishing in the operator's name.

use std::num::NonZeroU32;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Extension, Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use bytestring::ByteString;
use mqgate_codec::{Publish, PublishProperties};
use mqgate_protocol::connection::Routed;
use mqgate_protocol::message::Message;
use mqgate_protocol::session::SessionKey;
use mqgate_protocol::topics::When;
use serde::Deserialize;

use super::devices::bad_json;
use super::subscriptions::{quality, topic_name, within_levels};
use super::{Actor, AdminParts, Problem, note};

pub(super) fn routes() -> Router<AdminParts> {
    Router::new().route("/publish", post(publish))
}

#[derive(Deserialize)]
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
    user_properties: Vec<(String, String)>,
}

impl PublishBody {
    fn payload(&self) -> Result<Bytes, Problem> {
        match (&self.payload, &self.payload_base64) {
            (Some(_), Some(_)) => {
                let detail = "give `payload` or `payload_base64`, not both";
                Err(Problem::bad_request("bad_payload", detail))
            }
            (Some(text), None) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            (None, Some(text)) => STANDARD.decode(text).map(Bytes::from).map_err(|error| {
                Problem::bad_request("bad_payload", format!("`payload_base64` is not base64: {error}"))
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
        return Err(Problem::bad_request("bad_text", detail));
    }
    Ok(text.into())
}

/// Nobody's permit is asked: whoever has the admin token may publish anywhere, and it is written down.
async fn publish(
    State(parts): State<AdminParts>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<PublishBody>, JsonRejection>,
) -> Result<Json<serde_json::Value>, Problem> {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    let (topic, when) = parts.broker.common_limits().topics.delay(topic_name(&body.topic)?);
    if when == When::Never {
        let detail = "a delayed message has the topic `$delayed/SECONDS/TOPIC`, with no more than \
                      `delayed.max_delay`, and only where `delayed.enable` is set";
        return Err(Problem::bad_request("bad_delay", detail));
    }
    within_levels(&parts, topic.as_str())?;
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
    note(&parts.audit, &actor, "message.publish", &[("topic", &body.topic), ("bytes", &size)])?;
    // No session has this key: the message is nobody's own.
    let message = Message::published(topic, publish, SessionKey(0), parts.broker.now());
    let routed = match when {
        When::After(seconds) => parts.broker.publish_later(&message, seconds),
        When::Now | When::Never => parts.broker.publish(&message),
    };
    if routed == Routed::NoRoom {
        let detail = "too many messages wait to be published; take some back with `mqgate message cancel`, \
                      or raise `delayed.max_messages` or `delayed.max_bytes`";
        return Err(Problem::new(StatusCode::CONFLICT, "too_many_delayed", detail));
    }
    Ok(Json(serde_json::json!({ "topic": body.topic, "delivered": routed == Routed::Delivered })))
}
