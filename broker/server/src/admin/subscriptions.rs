//! Subscriptions: of a client, or of everyone a topic goes to; add one, remove one.

use std::collections::HashSet;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use mqgate_codec::{QoS, ReasonCode, SubscriptionOptions, TopicFilter, TopicName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::api::{Api, Change, Cursor, Doc, Impact, Limit, Outcome};
use super::sessions::resolve;
use super::{AdminParts, Code, Page, Problem, Scope, bad_json, note};
use crate::inspect::NotSubscribed;
use crate::sessions::Name;

const LIST: &str = "subscriptions";

pub(super) fn routes() -> Api<AdminParts> {
    Api::new("Sessions")
        .route(
            Doc::get(
                "/subscriptions",
                "subscription.list",
                Scope::SessionsRead,
                "Subscriptions of a client, or those that a topic goes to; one of the two is asked for.",
            )
            .problems(&[
                Code::BadQuery,
                Code::BadTopic,
                Code::NoSession,
                Code::AmbiguousClientId,
            ]),
            list,
        )
        .route(
            Doc::post(
                "/subscriptions",
                "subscription.add",
                Scope::SessionsWrite,
                "Subscribes a client that is connected, within its permit.",
            )
            .created()
            .problems(&[
                Code::BadFilter,
                Code::TooManyLevels,
                Code::BadQos,
                Code::NoSession,
                Code::AmbiguousClientId,
                Code::ClientAway,
                Code::NotPermitted,
                Code::TooManySubscriptions,
                Code::Refused,
            ]),
            add,
        )
        .route(
            Doc::delete(
                "/subscriptions",
                "subscription.remove",
                Scope::SessionsWrite,
                "Takes a subscription from a client.",
            )
            .problems(&[Code::NoSession, Code::AmbiguousClientId, Code::NoSubscription]),
            remove,
        )
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    after: Option<Cursor>,
    limit: Option<Limit>,
    /// Whose; or `topic`.
    client_id: Option<String>,
    device_id: Option<String>,
    /// Those that this topic goes to; or `client_id`.
    topic: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Subscription")]
struct Shown {
    client_id: String,
    device_id: String,
    /// Of a client; not told for a topic, where several may match.
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<String>,
    /// Group of a shared subscription, for a topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    qos: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    no_local: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retain_as_published: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identifier: Option<u32>,
}

async fn list(
    State(parts): State<AdminParts>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Shown>>, Problem> {
    let limit = Limit::or_default(query.limit);
    let items = match (&query.client_id, &query.topic) {
        (Some(client_id), None) => {
            let name = resolve(&parts, client_id, query.device_id.as_deref())?;
            of_client(&parts, &name).await?
        }
        (None, Some(topic)) => of_topic(&parts, topic)?,
        _ => {
            let detail = "say whose: `client_id` (`--client`) or `topic` (`--topic`), one of the two";
            return Err(Problem::new(Code::BadQuery, detail));
        }
    };
    // A place in the list: it may have changed since, and then something is seen twice or not at all.
    let first: usize = query.after.map_or(Ok(0), |after| after.read(LIST))?;
    let end = items.len().min(first.saturating_add(limit));
    let next = (end < items.len()).then(|| Cursor::of(LIST, &end));
    Ok(Json(Page { items: items.into_iter().take(end).skip(first).collect(), next }))
}

async fn of_client(parts: &AdminParts, name: &Name) -> Result<Vec<Shown>, Problem> {
    let facts = parts.broker.session(name).await.ok_or_else(super::sessions::no_session)?;
    let shown = facts.subscriptions.into_iter().map(|subscription| Shown {
        client_id: facts.client_id.clone(),
        device_id: facts.device_id.clone(),
        filter: Some(subscription.filter),
        group: None,
        qos: subscription.qos,
        no_local: Some(subscription.no_local),
        retain_as_published: Some(subscription.retain_as_published),
        identifier: subscription.identifier,
    });
    Ok(shown.collect())
}

fn of_topic(parts: &AdminParts, topic: &str) -> Result<Vec<Shown>, Problem> {
    let topic = topic_name(topic)?;
    let receivers = parts.broker.router.receivers(&topic);
    let keys: HashSet<_> = receivers.iter().map(|receiver| receiver.key).collect();
    let names = parts.broker.sessions.names_of(&keys);
    let mut shown: Vec<Shown> = receivers
        .into_iter()
        .filter_map(|receiver| {
            let name = names.get(&receiver.key)?;
            Some(Shown {
                client_id: name.client_id.to_string(),
                device_id: name.device_id.to_string(),
                filter: None,
                group: receiver.group.map(|group| group.to_string()),
                qos: receiver.qos as u8,
                no_local: None,
                retain_as_published: None,
                identifier: None,
            })
        })
        .collect();
    shown.sort_by(|a, b| (&a.device_id, &a.client_id, &a.group).cmp(&(&b.device_id, &b.client_id, &b.group)));
    Ok(shown)
}

pub(super) fn topic_name(text: &str) -> Result<TopicName, Problem> {
    TopicName::parse(text.into())
        .map_err(|error| Problem::new(Code::BadTopic, format!("{text:?} is no Topic Name: it {error}")))
}

pub(super) fn topic_filter(text: &str) -> Result<TopicFilter, Problem> {
    TopicFilter::parse(text.into())
        .map_err(|error| Problem::new(Code::BadFilter, format!("{text:?} is no Topic Filter: it {error}")))
}

/// Operators keep to the number of levels that clients have to keep to.
pub(super) fn within_levels(parts: &AdminParts, text: &str) -> Result<(), Problem> {
    let limit = parts.broker.common_limits().topic_levels;
    if text.split('/').count() > limit {
        let detail = format!("the topic has more than {limit} levels; raise `limits.max_topic_levels`");
        return Err(Problem::new(Code::TooManyLevels, detail));
    }
    Ok(())
}

pub(super) fn quality(bits: u8) -> Result<QoS, Problem> {
    QoS::from_bits(bits).ok_or_else(|| Problem::new(Code::BadQos, "the QoS levels are 0, 1 and 2"))
}

/// What to subscribe whom to.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AddBody {
    client_id: String,
    device_id: Option<String>,
    filter: String,
    #[serde(default)]
    qos: u8,
    #[serde(default)]
    no_local: bool,
    #[serde(default)]
    retain_as_published: bool,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AddedSubscription")]
struct Added {
    client_id: String,
    device_id: String,
    filter: String,
    /// As granted.
    qos: u8,
}

async fn add(
    State(parts): State<AdminParts>,
    change: Change,
    body: Result<Json<AddBody>, JsonRejection>,
) -> Result<Outcome<(StatusCode, Json<Added>)>, Problem> {
    let Json(body) = body.map_err(|rejection| bad_json(&rejection))?;
    let filter = topic_filter(&body.filter)?;
    within_levels(&parts, filter.filter())?;
    let mut options = SubscriptionOptions::new(quality(body.qos)?);
    options.no_local = body.no_local && filter.share_name().is_none();
    options.retain_as_published = body.retain_as_published;
    let name = resolve(&parts, &body.client_id, body.device_id.as_deref())?;
    // Whether its permit covers the filter, only the client's connection knows.
    let session = parts.broker.session(&name).await.ok_or_else(super::sessions::no_session)?;
    if !session.connected {
        return Err(not_subscribed(NotSubscribed::Away));
    }
    let mut impact = Impact::of("subscription.add", &*body.filter).affects("subscriptions", 1);
    if let Some(before) = session.subscriptions.iter().find(|one| one.filter == body.filter) {
        impact = impact.before(before)?;
    }
    let after = json!({
        "filter": body.filter,
        "qos": body.qos,
        "no_local": options.no_local,
        "retain_as_published": options.retain_as_published,
    });
    let impact = impact.after(&after)?;
    if change.dry_run {
        return Ok(impact.warn("the client's permit is asked only when it is done").into());
    }
    let about =
        [("client_id", body.client_id.as_str()), ("device_id", &name.device_id), ("filter", &body.filter)];
    note(&parts.audit, &change.actor, &impact, &about).await?;
    let qos = parts.broker.subscribe_client(&name, filter, options).await.map_err(not_subscribed)?;
    let added = Added {
        client_id: body.client_id,
        device_id: name.device_id.to_string(),
        filter: body.filter,
        qos: qos as u8,
    };
    Ok(Outcome::Done((StatusCode::CREATED, Json(added))))
}

fn not_subscribed(problem: NotSubscribed) -> Problem {
    match problem {
        NotSubscribed::NoSession => super::sessions::no_session(),
        NotSubscribed::Away => {
            let detail = "the client is not connected: there is no permit to judge the filter by; \
                          wait until it connects, or configure an automatic subscription";
            Problem::new(Code::ClientAway, detail)
        }
        NotSubscribed::Refused(ReasonCode::NOT_AUTHORIZED) => {
            let detail = "the client's permit does not cover this filter; widen the rules of its grant first";
            Problem::new(Code::NotPermitted, detail)
        }
        NotSubscribed::Refused(ReasonCode::QUOTA_EXCEEDED) => {
            let detail = "the client has as many subscriptions as it may; remove one, or raise \
                          `limits.max_subscriptions` or `limits.max_filter_bytes`";
            Problem::new(Code::TooManySubscriptions, detail)
        }
        NotSubscribed::Refused(code) => {
            let detail = format!("the client's session refused it with reason code {:#04x}", code.0);
            Problem::new(Code::Refused, detail)
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RemoveQuery {
    client_id: String,
    device_id: Option<String>,
    /// As it was subscribed to.
    filter: String,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RemovedSubscription")]
struct Removed {
    client_id: String,
    filter: String,
}

async fn remove(
    State(parts): State<AdminParts>,
    change: Change,
    Query(query): Query<RemoveQuery>,
) -> Result<Outcome<Json<Removed>>, Problem> {
    let name = resolve(&parts, &query.client_id, query.device_id.as_deref())?;
    let session = parts.broker.session(&name).await.ok_or_else(super::sessions::no_session)?;
    let found = session.subscriptions.iter().find(|one| one.filter == query.filter);
    let impact = Impact::of("subscription.remove", &query.filter);
    let impact = impact.before(found.ok_or_else(no_subscription)?)?;
    if change.dry_run {
        return Ok(impact.into());
    }
    let about =
        [("client_id", query.client_id.as_str()), ("device_id", &name.device_id), ("filter", &query.filter)];
    note(&parts.audit, &change.actor, &impact, &about).await?;
    match parts.broker.unsubscribe_client(&name, &query.filter).await {
        true => Ok(Outcome::Done(Json(Removed { client_id: query.client_id, filter: query.filter }))),
        false => Err(no_subscription()),
    }
}

fn no_subscription() -> Problem {
    let detail = "the client has no such subscription; `mqgate subscriptions list --client ID` shows them";
    Problem::new(Code::NoSubscription, detail)
}
