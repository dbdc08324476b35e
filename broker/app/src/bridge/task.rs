//! One bridge at work: a client of this broker, a client of the other one, and what goes between them.
//!
//! Messages for the other broker wait in the bridge's own queue, so that neither broker waits for the other.
//! Messages from it are acknowledged there when this broker has taken them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use mqgate_client::{
    Acknowledge, ClientError, ConnectError, ConnectOptions, Delivery, Handle, Incoming, Link, LinkOptions,
    Message, Published, Token, Transport,
};
use mqgate_codec::{
    ConnectReturnCode, PacketId, ProtocolVersion, QoS, ReasonCode, RetainHandling, Subscribe,
    SubscriptionOptions, TopicFilter,
};
use mqgate_protocol::bridge::{self as hops, UNKNOWN, blind_hop, hop};
use mqgate_server::inner::InnerClient;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::metrics::{Fate, Way};
use super::queue::Waiting;
use super::{Bridge, Status};
use crate::config::model::Retain;

/// A message that has come through more brokers goes no further.
const MOST_HOPS: usize = 16;
/// QoS 0 messages from the other broker that may wait for this one.
const QOS0_ROOM: usize = 10_000;
/// After this broker has sent its own bridge away.
const LOCAL_PAUSE: Duration = Duration::from_millis(500);
/// Filters in one SUBSCRIBE.
const FILTERS: usize = 50;

impl Bridge {
    /// Until `stop`.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (mut local, to_local, from_local) = Link::new(&LinkOptions {
            version: ProtocolVersion::V5,
            acknowledge: Acknowledge::OnReceipt,
            receive_maximum: u16::MAX,
            qos0_room: 256,
        });
        let (mut remote, to_remote, from_remote) = Link::new(&LinkOptions {
            version: self.settings.version(),
            acknowledge: Acknowledge::ByHand,
            receive_maximum: self.settings.max_inflight,
            qos0_room: QOS0_ROOM,
        });
        tokio::join!(
            self.keep_local(&mut local, &to_local, &stop),
            self.keep_remote(&mut remote, &to_remote, &stop),
            until(&stop, self.collect(from_local)),
            until(&stop, self.send(&to_remote)),
            until(&stop, self.receive(from_remote, &to_local)),
        );
        self.set_status(Status::Stopped, None);
    }

    /// Is a client of this broker.
    async fn keep_local(&self, link: &mut Link, handle: &Handle, stop: &CancellationToken) {
        let client =
            Arc::new(InnerClient { name: self.name.clone(), rules: self.settings.rules.permitted() });
        let mut options = ConnectOptions::new("", 0);
        options.client_id = self.name.as_str().into();
        options.clean_start = false;
        options.keep_alive = Duration::ZERO;
        // Long enough to come back after somebody has disconnected it.
        options.properties.session_expiry_interval = Some(60);
        options.properties.receive_maximum = std::num::NonZeroU16::new(u16::MAX);
        while !stop.is_cancelled() {
            let (stream, task) = self.broker.connect_inside(&client, CancellationToken::new());
            match link.connect_over(Transport::over(stream), &options).await {
                Ok((connected, connack)) => {
                    let known = connack.session_present;
                    let subscribe = async {
                        if !known {
                            let filters = self.settings.rules.local_filters();
                            let handling = RetainHandling::SendAtSubscribe;
                            if let Err(why) = subscribe(handle, filters, ProtocolVersion::V5, handling).await
                            {
                                tracing::error!(
                                    bridge = self.name,
                                    why,
                                    "the bridge gets nothing of this broker"
                                );
                            }
                        }
                    };
                    let cause = serve(link, connected, stop.clone().cancelled_owned(), subscribe).await;
                    tracing::debug!(bridge = self.name, cause, "the local session's connection ended");
                }
                Err(error) => {
                    tracing::error!(bridge = self.name, %error, "this broker does not let its bridge in");
                }
            }
            // The client's end is closed: it ends, too.
            let _ = task.await;
            until(stop, tokio::time::sleep(LOCAL_PAUSE)).await;
        }
        let name = &self.name;
        self.broker.end_inside(name, name).await;
    }

    /// Is a client of the other broker, as long as that is there.
    async fn keep_remote(&self, link: &mut Link, handle: &Handle, stop: &CancellationToken) {
        let mut backoff = self.settings.min_backoff;
        // Retained messages of 3.1.1 come with each SUBSCRIBE: it is not repeated without need.
        let mut subscribed = false;
        let mut bridge_bit = true;
        let mut next = 0;
        while !stop.is_cancelled() {
            let address = &self.settings.addresses[next % self.settings.addresses.len()];
            self.set_status(Status::Connecting, None);
            let options = self.settings.options(address, bridge_bit);
            let connected = tokio::select! {
                () = stop.cancelled() => return,
                connected = link.connect(&options) => connected,
            };
            match connected {
                Ok((connected, connack)) => {
                    let started = Instant::now();
                    let id = hops::hops(&connack.properties.user_properties).last().map(str::to_owned);
                    let maximum_qos = connack.properties.maximum_qos.unwrap_or(QoS::ExactlyOnce);
                    let retain = connack.properties.retain_available.unwrap_or(true);
                    self.reached(address, id, maximum_qos, retain);
                    let again =
                        !connack.session_present || !subscribed || options.version == ProtocolVersion::V5;
                    let subscribe = async {
                        if again {
                            let handling = RetainHandling::SendIfNewSubscription;
                            let filters = self.settings.rules.remote_filters();
                            match subscribe(handle, filters, options.version, handling).await {
                                Ok(()) => subscribed = true,
                                Err(why) => self.warn(&why),
                            }
                        }
                    };
                    let leave = {
                        let (stop, again) = (stop.clone(), Arc::clone(&self.reconnect));
                        async move {
                            tokio::select! {
                                () = stop.cancelled() => {}
                                () = again.notified() => {}
                            }
                        }
                    };
                    let cause = serve(link, connected, leave, subscribe).await;
                    self.lost(address, &cause);
                    if started.elapsed() > self.settings.max_backoff.min(Duration::from_secs(10)) {
                        backoff = self.settings.min_backoff;
                    }
                }
                Err(error) => {
                    // Brokers that do not know the bit refuse, or close.
                    let refuses_bit = options.bridge
                        && (error.return_code() == Some(ConnectReturnCode::UnacceptableProtocolVersion)
                            || matches!(error, ConnectError::Closed));
                    if refuses_bit {
                        bridge_bit = false;
                        continue;
                    }
                    next += 1;
                    self.failed(address, &error);
                    // All addresses once, without a pause.
                    if !next.is_multiple_of(self.settings.addresses.len()) {
                        continue;
                    }
                }
            }
            let pause = varied(backoff);
            self.set_status(Status::Waiting, None);
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.reconnect.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
            backoff = (backoff * 2).min(self.settings.max_backoff);
        }
    }

    /// Puts what this broker has for the other one into the queue.
    async fn collect(&self, mut from: Incoming) {
        while let Some(Delivery { message, .. }) = from.recv().await {
            let lost = self.queue.push(match self.outgoing(message) {
                Ok(waiting) => waiting,
                Err(fate) => {
                    self.count(Way::Out, fate, 1);
                    continue;
                }
            });
            self.count(Way::Out, Fate::QueueFull, lost);
            self.count_queue();
        }
    }

    /// The message as the other broker is to get it.
    fn outgoing(&self, mut message: Message) -> Result<Waiting, Fate> {
        let mapped = self.settings.rules.out(&message.topic, message.qos).ok_or(Fate::Unmatched)?;
        if self.has_been_there(&message) {
            return Err(Fate::Loop);
        }
        let properties = &mut message.properties;
        properties.response_topic =
            properties.response_topic.as_ref().map(|topic| self.settings.rules.response_out(topic));
        properties.user_properties.push(hop(&self.id));
        let expiry = properties.message_expiry_interval;
        let expires_at = expiry.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
        message.topic = mapped.topic;
        message.qos = mapped.qos;
        message.retain &= mapped.retain == Retain::Keep;
        Ok(Waiting { message, expires_at })
    }

    /// Whether a message came from where it would go.
    fn has_been_there(&self, message: &Message) -> bool {
        let remote = self.remote_id();
        let blind = blind_hop(&self.id, &self.name);
        let passed: Vec<&str> = hops::hops(&message.properties.user_properties).collect();
        passed.len() >= MOST_HOPS
            || passed.iter().any(|hop| {
                *hop == &*self.id
                    || *hop == blind
                    || match &remote {
                        Some(remote) => *hop == remote.as_str(),
                        None => *hop == UNKNOWN,
                    }
            })
    }

    /// Sends what waits in the queue, while there is a connection.
    async fn send(&self, to: &Handle) {
        let mut answers: VecDeque<Published> = VecDeque::new();
        let mut up = self.up.subscribe();
        loop {
            let ready = async {
                // A message that is taken out is in nobody's queue: not before somebody can have it.
                while !*up.borrow_and_update() {
                    if up.changed().await.is_err() {
                        return std::future::pending().await;
                    }
                }
                self.queue.pop().await
            };
            let waiting = tokio::select! {
                biased;
                Some(answer) = first(&mut answers) => {
                    self.answered(Way::Out, answer);
                    continue;
                }
                waiting = ready, if answers.len() < usize::from(u16::MAX) => waiting,
            };
            self.count_queue();
            let Waiting { mut message, expires_at } = waiting;
            if let Some(at) = expires_at {
                let left = at.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    self.count(Way::Out, Fate::Expired, 1);
                    continue;
                }
                let seconds = left.as_millis().div_ceil(1000);
                message.properties.message_expiry_interval = Some(seconds.try_into().unwrap_or(u32::MAX));
            }
            let (maximum_qos, retain) = self.remote_takes();
            message.qos = message.qos.min(maximum_qos);
            message.retain &= retain;
            let publish = to.start_publish(message);
            tokio::pin!(publish);
            let answer = loop {
                tokio::select! {
                    biased;
                    Some(answer) = first(&mut answers) => self.answered(Way::Out, answer),
                    started = &mut publish => break started,
                }
            };
            match answer {
                Ok(answer) => answers.push_back(answer),
                Err(error) => self.answered(Way::Out, Err(error)),
            }
        }
    }

    /// Publishes here what the other broker sends.
    async fn receive(&self, mut from: Incoming, to: &Handle) {
        let mut answers: VecDeque<(Published, Option<Token>)> = VecDeque::new();
        let most = usize::from(self.settings.max_inflight.max(1));
        loop {
            let delivery = tokio::select! {
                biased;
                Some((answer, token)) = first_of_two(&mut answers) => {
                    self.answered(Way::In, answer);
                    token.into_iter().for_each(|token| from.acknowledge(token));
                    continue;
                }
                delivery = from.recv(), if answers.len() < most => delivery,
            };
            let Some(Delivery { message, token }) = delivery else { return };
            self.count(Way::In, Fate::Slow, from.dropped());
            match self.incoming(message) {
                Ok(message) => match to.start_publish(message).await {
                    Ok(answer) => answers.push_back((answer, token)),
                    Err(error) => self.answered(Way::In, Err(error)),
                },
                Err(fate) => {
                    self.count(Way::In, fate, 1);
                    token.into_iter().for_each(|token| from.acknowledge(token));
                }
            }
        }
    }

    /// The message as this broker is to get it.
    fn incoming(&self, mut message: Message) -> Result<Message, Fate> {
        let mapped = self.settings.rules.inwards(&message.topic, message.qos).ok_or(Fate::Unmatched)?;
        let blind = blind_hop(&self.id, &self.name);
        let properties = &mut message.properties;
        let passed: Vec<&str> = hops::hops(&properties.user_properties).collect();
        if passed.len() >= MOST_HOPS || passed.iter().any(|hop| *hop == &*self.id || *hop == blind) {
            return Err(Fate::Loop);
        }
        properties.response_topic =
            properties.response_topic.as_ref().map(|topic| self.settings.rules.response_in(topic));
        properties.user_properties.push(hop(&self.remote_id().unwrap_or(blind)));
        properties.subscription_identifiers.clear();
        properties.topic_alias = None;
        message.topic = mapped.topic;
        message.qos = mapped.qos;
        message.retain &= mapped.retain == Retain::Keep;
        Ok(message)
    }

    fn answered(&self, way: Way, answer: Result<ReasonCode, ClientError>) {
        match answer {
            Ok(reason) if !reason.is_error() => self.count(way, Fate::Forwarded, 1),
            Ok(reason) => {
                tracing::debug!(bridge = self.name, %reason, "a message was refused");
                self.count(way, Fate::Refused, 1);
            }
            Err(error) => {
                tracing::debug!(bridge = self.name, %error, "a message could not be sent");
                self.count(way, Fate::Refused, 1);
            }
        }
    }
}

/// Serves a connection to its end, and does `begin` as soon as it is up.
async fn serve(
    link: &mut Link,
    connected: mqgate_client::Connected,
    leave: impl Future<Output = ()> + Send + 'static,
    begin: impl Future<Output = ()>,
) -> String {
    let serving = link.run(connected, leave);
    tokio::pin!(serving);
    tokio::select! {
        cause = &mut serving => cause,
        () = begin => serving.await,
    }
}

async fn subscribe(
    handle: &Handle,
    filters: Vec<(TopicFilter, QoS)>,
    version: ProtocolVersion,
    retain_handling: RetainHandling,
) -> Result<(), String> {
    let options = |qos| match version {
        ProtocolVersion::V5 => {
            let mut options = SubscriptionOptions::new(qos);
            options.no_local = true;
            options.retain_as_published = true;
            options.retain_handling = retain_handling;
            options
        }
        ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => SubscriptionOptions::new(qos),
    };
    for filters in filters.chunks(FILTERS) {
        let request = Subscribe {
            packet_id: const { PacketId::new(1).expect("not zero") }, // The client gives it another.
            filters: filters.iter().map(|(filter, qos)| (filter.clone(), options(*qos))).collect(),
            subscription_identifier: None,
            user_properties: Vec::new(),
        };
        let reasons = handle.subscribe_with(request).await.map_err(|error| error.to_string())?;
        for ((filter, _), reason) in filters.iter().zip(reasons) {
            if reason.is_error() {
                return Err(format!("the subscription to {} was refused: {reason}", filter.as_str()));
            }
        }
    }
    Ok(())
}

/// What became of the oldest; `None` if there is none.
async fn first(answers: &mut VecDeque<Published>) -> Option<Result<ReasonCode, ClientError>> {
    let answer = answers.front_mut()?.await;
    answers.pop_front();
    Some(answer.unwrap_or(Err(ClientError::Closed { reason: None })))
}

async fn first_of_two(
    answers: &mut VecDeque<(Published, Option<Token>)>,
) -> Option<(Result<ReasonCode, ClientError>, Option<Token>)> {
    let answer = (&mut answers.front_mut()?.0).await;
    let (_, token) = answers.pop_front()?;
    // Without an answer this broker may not have it: it is not acknowledged.
    match answer {
        Ok(answer) => Some((answer, token)),
        Err(_) => Some((Err(ClientError::Closed { reason: None }), None)),
    }
}

async fn until(stop: &CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// Between one and one and a half times as long.
fn varied(pause: Duration) -> Duration {
    let part = getrandom::u32().unwrap_or(0);
    pause + pause.mul_f64(f64::from(part) / f64::from(u32::MAX) / 2.0)
}
