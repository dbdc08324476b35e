//! What is asked of sessions from outside: to be shown, to get or lose a subscription, to end.
//!
//! A session has one owner: the task of its connection, or the parked map. Whoever wants something of it asks
//! the owner.

use std::sync::Arc;

use bytestring::ByteString;
use mqgate_codec::{ProtocolVersion, QoS, ReasonCode, RetainHandling, SubscriptionOptions, TopicFilter};
use mqgate_protocol::session::{Session, SessionExpiry, Subscribed};
use mqgate_protocol::time::Instant;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::broker::Broker;
use crate::delivery::Mailbox;
use crate::directory::ConnectionHandle;
use crate::sessions::{Found, Name};

/// One wish, to the task of a connection.
#[derive(Debug)]
pub(crate) enum Request {
    Show(oneshot::Sender<SessionFacts>),
    Subscribe {
        filter: TopicFilter,
        options: SubscriptionOptions,
        answer: oneshot::Sender<Result<QoS, ReasonCode>>,
    },
    Unsubscribe {
        filter: ByteString,
        answer: oneshot::Sender<bool>,
    },
    /// Disconnect, and forget the session.
    End(oneshot::Sender<()>),
}

/// A session as an operator sees it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Session")]
pub(crate) struct SessionFacts {
    pub(crate) client_id: String,
    pub(crate) device_id: String,
    pub(crate) connected: bool,
    pub(crate) connection_id: Option<u64>,
    pub(crate) protocol: Option<&'static str>,
    pub(crate) clean_start: Option<bool>,
    pub(crate) keep_alive: Option<u16>,
    pub(crate) user_name: Option<String>,
    pub(crate) will_topic: Option<String>,
    /// `None`: it never ends.
    pub(crate) expiry_seconds: Option<u32>,
    /// Of a session whose client is away.
    pub(crate) ends_in_seconds: Option<u64>,
    pub(crate) subscriptions: Vec<SubscriptionFacts>,
    pub(crate) inflight_messages: usize,
    /// QoS 2 messages from the client that it has not released.
    pub(crate) unreleased_messages: usize,
    /// Retained messages that still wait to be sent.
    pub(crate) retained_waiting: usize,
    pub(crate) queued_messages: usize,
    pub(crate) queued_bytes: usize,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "SessionSubscription")]
pub(crate) struct SubscriptionFacts {
    pub(crate) filter: String,
    pub(crate) qos: u8,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) retain_handling: u8,
    pub(crate) identifier: Option<u32>,
}

/// One line of the list of sessions.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct SessionLine {
    pub(crate) client_id: String,
    pub(crate) device_id: String,
    pub(crate) connected: bool,
    pub(crate) queued_messages: usize,
    pub(crate) queued_bytes: usize,
    pub(crate) ends_in_seconds: Option<u64>,
}

impl From<&Subscribed> for SubscriptionFacts {
    fn from(subscribed: &Subscribed) -> Self {
        let options = subscribed.options;
        Self {
            filter: subscribed.filter.as_str().to_owned(),
            qos: options.qos as u8,
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            retain_handling: match options.retain_handling {
                RetainHandling::SendAtSubscribe => 0,
                RetainHandling::SendIfNewSubscription => 1,
                RetainHandling::DoNotSend => 2,
            },
            identifier: subscribed.identifier.map(std::num::NonZeroU32::get),
        }
    }
}

impl SessionFacts {
    pub(crate) fn of(session: &Session, mailbox: &Mailbox, now: Instant) -> Self {
        let (queued_messages, queued_bytes) = mailbox.waiting();
        Self {
            client_id: session.client_id.to_string(),
            device_id: session.device_id.to_string(),
            connected: mailbox.is_online(),
            connection_id: None,
            protocol: None,
            clean_start: None,
            keep_alive: None,
            user_name: None,
            will_topic: session.will.as_ref().map(|will| will.message.topic.as_str().to_owned()),
            expiry_seconds: match session.expiry {
                SessionExpiry::After(seconds) => Some(seconds),
                SessionExpiry::Never => None,
            },
            ends_in_seconds: session.ends_at.map(|at| at.since(now).as_secs()),
            subscriptions: session.subscriptions.values().map(SubscriptionFacts::from).collect(),
            inflight_messages: session.inflight.len(),
            unreleased_messages: session.received.len(),
            retained_waiting: session.backlog.len(),
            queued_messages,
            queued_bytes,
        }
    }
}

pub(crate) fn protocol_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::V3_1 => "3.1",
        ProtocolVersion::V3_1_1 => "3.1.1",
        ProtocolVersion::V5 => "5.0",
    }
}

/// Why a subscription was not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotSubscribed {
    /// Nobody is there whose permit could be asked.
    Away,
    NoSession,
    Refused(ReasonCode),
}

impl Broker {
    /// A session, online or parked.
    pub(crate) async fn session(&self, name: &Name) -> Option<SessionFacts> {
        let now = self.now();
        match self.sessions.find(name, |older| SessionFacts::of(&older.session, &older.mailbox, now)) {
            Found::Parked(facts) => Some(facts),
            Found::With(handle) => ask(&handle, Request::Show).await,
            Found::Nowhere => None,
        }
    }

    /// Subscribes a client that is online, within its permit.
    pub(crate) async fn subscribe_client(
        &self,
        name: &Name,
        filter: TopicFilter,
        options: SubscriptionOptions,
    ) -> Result<QoS, NotSubscribed> {
        match self.sessions.find(name, |_| ()) {
            Found::Parked(()) => Err(NotSubscribed::Away),
            Found::With(handle) => {
                let answer = ask(&handle, |answer| Request::Subscribe { filter, options, answer }).await;
                answer.ok_or(NotSubscribed::Away)?.map_err(NotSubscribed::Refused)
            }
            Found::Nowhere => Err(NotSubscribed::NoSession),
        }
    }

    /// Takes a subscription away; says whether there was one.
    pub(crate) async fn unsubscribe_client(&self, name: &Name, filter: &str) -> bool {
        let parked = self.sessions.find(name, |older| {
            let removed = older.session.subscriptions.remove(filter)?;
            self.router.unsubscribe(older.session.key, std::iter::once(&removed.filter));
            Some(())
        });
        match parked {
            Found::Parked(removed) => removed.is_some(),
            Found::With(handle) => {
                let filter = ByteString::from(filter);
                ask(&handle, |answer| Request::Unsubscribe { filter, answer }).await.unwrap_or(false)
            }
            Found::Nowhere => false,
        }
    }

    /// Ends a session: a client that is connected is disconnected. Says whether there was one.
    pub(crate) async fn end_session(&self, name: &Name) -> bool {
        match self.sessions.find(name, |_| ()) {
            // Without an answer the connection was at its end already, and may have left the session behind.
            Found::With(handle) if ask(&handle, Request::End).await.is_some() => true,
            Found::With(_) | Found::Parked(()) => match self.sessions.end_parked(name) {
                Some(will) => {
                    self.publish_late(will).await;
                    true
                }
                None => false,
            },
            Found::Nowhere => false,
        }
    }
}

/// Waits for the answer of a connection's task; `None` when it is gone, or at its end.
async fn ask<T>(
    handle: &Arc<ConnectionHandle>,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Option<T> {
    let (sender, answer) = oneshot::channel();
    handle.request(request(sender));
    answer.await.ok()
}
