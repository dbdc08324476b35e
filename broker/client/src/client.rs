//! One connection to a server: [`Client`] receives, [`Handle`]s send.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use mqgate_codec::{
    ConnAck, Disconnect, PacketId, Publish, PublishProperties, QoS, ReasonCode, Subscribe,
    SubscriptionOptions, TopicFilter, TopicName, Unsubscribe,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::driver::{Driver, End, Leave, Overflow};
use crate::session::{Command, Reply, Session, UNASSIGNED};
use crate::{ClientError, ConnectError, ConnectOptions, RawConnection, Transport};

/// A message that the server delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: TopicName,
    pub payload: Bytes,
    pub qos: QoS,
    pub retain: bool,
    pub dup: bool,
    pub properties: PublishProperties,
}

/// A message, and what it is acknowledged with if that is done by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub message: Message,
    pub token: Option<Token>,
}

/// Names a message that waits to be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub(crate) packet_id: PacketId,
    pub(crate) era: u64,
}

/// What [`Client::recv`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all events are messages, and none is kept")]
pub enum Event {
    Message(Message),
    /// The last event; asked again, it is told again.
    Disconnected {
        /// The server's reason, if it sent a DISCONNECT.
        reason: Option<ReasonCode>,
        /// For people.
        cause: String,
    },
}

/// Sends; there may be many of one connection. When the last of them and the [`Client`] are dropped, the
/// connection ends without a DISCONNECT, as if it were lost.
#[derive(Clone)]
pub struct Handle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) end: Arc<OnceLock<End>>,
    pub(crate) _alive: Arc<oneshot::Sender<()>>,
}

/// A connection. Everything that a [`Handle`] can do, it can do too.
///
/// Who subscribes has to call [`Client::recv`]: when [`ConnectOptions::event_capacity`] messages wait,
/// nothing is read any more, acknowledgements included.
pub struct Client {
    handle: Handle,
    events: mpsc::Receiver<Delivery>,
    driver: JoinHandle<()>,
    tls_resumed: bool,
}

impl Client {
    /// Connects, and waits for the server's yes.
    pub async fn connect(options: ConnectOptions) -> Result<(Self, ConnAck), ConnectError> {
        let within = options.connect_timeout;
        let connect = async {
            let raw = RawConnection::over(Transport::open(&options).await?, &options);
            Self::start(raw, &options).await
        };
        // Boxed: a handshake is large, and its caller holds it for a moment only.
        tokio::time::timeout(within, Box::pin(connect)).await.map_err(|_| ConnectError::Timeout(within))?
    }

    /// The same on a stream that exists already.
    pub async fn connect_over(
        transport: Transport,
        options: ConnectOptions,
    ) -> Result<(Self, ConnAck), ConnectError> {
        Self::start(RawConnection::over(transport, &options), &options).await
    }

    async fn start(
        mut raw: RawConnection,
        options: &ConnectOptions,
    ) -> Result<(Self, ConnAck), ConnectError> {
        let connack = raw.connect(options).await?;
        let asked = &options.properties;
        let receive_maximum = asked.receive_maximum.map(Into::into);
        let session = Session::new(options.version, receive_maximum, asked.topic_alias_maximum, &connack);
        let keep_alive = keep_alive(options, &connack);
        let (commands, command_receiver) = mpsc::channel(64);
        let (event_sender, events) = mpsc::channel(options.event_capacity.max(1));
        let (alive, abandoned) = oneshot::channel();
        let end = Arc::new(OnceLock::new());
        let tls_resumed = raw.tls_resumed();
        let driver = Driver {
            stream: raw.transport.stream,
            decoder: raw.decoder,
            input: raw.input,
            session,
            keep_alive,
            commands: command_receiver,
            acknowledgements: mpsc::unbounded_channel().1,
            events: event_sender,
            message: None,
            overflow: Overflow::Wait,
            leave: Box::pin(async move {
                let _ = abandoned.await;
                Leave::Silently
            }),
            end: end.clone(),
        };
        let driver = tokio::spawn(async move { drop(driver.run().await) });
        let handle = Handle { commands, end, _alive: Arc::new(alive) };
        Ok((Self { handle, events, driver, tls_resumed }, connack))
    }

    /// The next message, or the end.
    pub async fn recv(&mut self) -> Event {
        match self.events.recv().await {
            Some(delivery) => Event::Message(delivery.message),
            None => {
                let (reason, cause) = match self.handle.end.get() {
                    Some(end) => (end.reason, end.cause.clone()),
                    None => (None, "the connection's task was stopped".to_owned()),
                };
                Event::Disconnected { reason, cause }
            }
        }
    }

    /// Waits for the end, past all messages, and gives the server's reason.
    pub async fn disconnected(&mut self) -> Option<ReasonCode> {
        loop {
            if let Event::Disconnected { reason, .. } = self.recv().await {
                return reason;
            }
        }
    }

    /// Another sender on the same connection.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Whether TLS resumed an earlier session.
    pub fn tls_resumed(&self) -> bool {
        self.tls_resumed
    }

    /// Sends DISCONNECT after everything that was asked for before, and waits until the socket is closed.
    pub async fn disconnect(self) -> Result<(), ClientError> {
        self.disconnect_with(Disconnect::new(ReasonCode::SUCCESS)).await
    }

    /// With a reason of one's own: [`ReasonCode::DISCONNECT_WITH_WILL`], for example.
    pub async fn disconnect_with(self, disconnect: Disconnect) -> Result<(), ClientError> {
        self.handle.ask(Command::Disconnect(disconnect)).await?;
        // Nobody reads messages any more, and they must not hold up the end.
        drop(self.events);
        // The task can only have panicked or been cancelled with its runtime: closed, either way.
        let _ = self.driver.await;
        Ok(())
    }
}

impl Deref for Client {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Handle {
    /// Ready when the server has acknowledged the message to the end, at QoS 0 when it is on its way. The
    /// reason tells whether the server took it; in 3.1.1 it always says Success.
    pub async fn publish(
        &self,
        topic: impl Into<ByteString>,
        payload: impl Into<Bytes>,
        qos: QoS,
        retain: bool,
    ) -> Result<ReasonCode, ClientError> {
        self.publish_with(topic, payload, qos, retain, PublishProperties::default()).await
    }

    /// With MQTT 5.0 properties.
    pub async fn publish_with(
        &self,
        topic: impl Into<ByteString>,
        payload: impl Into<Bytes>,
        qos: QoS,
        retain: bool,
        properties: PublishProperties,
    ) -> Result<ReasonCode, ClientError> {
        let topic = TopicName::parse(topic.into()).map_err(ClientError::TopicName)?;
        let message = Message { topic, payload: payload.into(), qos, retain, dup: false, properties };
        let answer = self.start_publish(message).await?;
        answer.await.unwrap_or_else(|_| Err(self.closed()))
    }

    /// Ready when the message is on its way; its end is told later. Messages go in the order in which this is
    /// asked for.
    pub async fn start_publish(&self, message: Message) -> Result<Published, ClientError> {
        let Message { topic, payload, qos, retain, properties, .. } = message;
        let expiry = properties.message_expiry_interval.map(|seconds| Duration::from_secs(seconds.into()));
        let expires_at = expiry.map(|expiry| Instant::now() + expiry);
        let topic = Some(topic);
        let publish = Publish { dup: false, qos, retain, topic, packet_id: None, payload, properties };
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Publish { publish, expires_at, reply }).await?;
        Ok(answer)
    }

    /// The server's answer to each filter, in order.
    pub async fn subscribe(&self, filters: &[(&str, QoS)]) -> Result<Vec<ReasonCode>, ClientError> {
        let filters =
            filters.iter().map(|&(filter, qos)| Ok((parse(filter)?, SubscriptionOptions::new(qos))));
        let filters = filters.collect::<Result<_, ClientError>>()?;
        let (subscription_identifier, user_properties) = (None, Vec::new());
        self.subscribe_with(Subscribe {
            packet_id: UNASSIGNED,
            filters,
            subscription_identifier,
            user_properties,
        })
        .await
    }

    /// With MQTT 5.0 options. The packet identifier does not matter.
    pub async fn subscribe_with(&self, subscribe: Subscribe) -> Result<Vec<ReasonCode>, ClientError> {
        self.request(|reply| Command::Subscribe { subscribe, reply }).await
    }

    /// The server's answer to each filter, in order; in 3.1.1 it always says Success.
    pub async fn unsubscribe(&self, filters: &[&str]) -> Result<Vec<ReasonCode>, ClientError> {
        let filters = filters.iter().map(|filter| parse(filter)).collect::<Result<_, _>>()?;
        let unsubscribe = Unsubscribe { packet_id: UNASSIGNED, filters, user_properties: Vec::new() };
        self.request(|reply| Command::Unsubscribe { unsubscribe, reply }).await
    }

    async fn request<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, ClientError> {
        let (reply, answer) = oneshot::channel();
        self.ask(command(reply)).await?;
        answer.await.unwrap_or_else(|_| Err(self.closed()))
    }

    async fn ask(&self, command: Command) -> Result<(), ClientError> {
        self.commands.send(command).await.map_err(|_| self.closed())
    }

    fn closed(&self) -> ClientError {
        ClientError::Closed { reason: self.end.get().and_then(|end| end.reason) }
    }
}

/// What became of a message; an error of the channel means that the connection, or its session, is gone.
pub type Published = oneshot::Receiver<Result<ReasonCode, ClientError>>;

/// `None`: no pings. The server's word counts. [MQTT-3.2.2-21]
pub(crate) fn keep_alive(options: &ConnectOptions, connack: &ConnAck) -> Option<Duration> {
    let keep_alive = match connack.properties.server_keep_alive {
        Some(seconds) => Duration::from_secs(seconds.into()),
        None => options.keep_alive,
    };
    Some(keep_alive).filter(|keep_alive| !keep_alive.is_zero())
}

fn parse(filter: &str) -> Result<TopicFilter, ClientError> {
    TopicFilter::parse(filter.into()).map_err(ClientError::TopicFilter)
}
