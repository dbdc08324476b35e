//! What `mqgate pub` and `mqgate sub` do, without a command line.

use std::ops::ControlFlow;

use bytes::Bytes;
use mqgate_codec::{QoS, ReasonCode};
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use crate::{Client, ClientError, ConnectError, ConnectOptions, Event, Message};

/// `mqgate pub`: where messages go.
#[derive(Debug, Clone)]
pub struct PublishOptions {
    pub connect: ConnectOptions,
    pub topic: String,
    pub qos: QoS,
    pub retain: bool,
}

/// `mqgate sub`: what to receive.
#[derive(Debug, Clone)]
pub struct SubscribeOptions {
    pub connect: ConnectOptions,
    pub filters: Vec<String>,
    pub qos: QoS,
}

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("{0}")]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("the server did not take the message for {topic}: {reason}")]
    NotPublished { topic: String, reason: ReasonCode },
    #[error("the server did not accept the subscription to {filter}: {reason}")]
    NotSubscribed { filter: String, reason: ReasonCode },
    #[error("{cause}")]
    Disconnected { reason: Option<ReasonCode>, cause: String },
    #[error("cannot read the messages to publish: {0}")]
    Input(#[from] std::io::Error),
}

/// Publishes one message and disconnects.
pub async fn publish(options: PublishOptions, payload: impl Into<Bytes>) -> Result<(), CommandError> {
    let client = connect(&options.connect).await?;
    publish_one(&client, &options, payload.into()).await?;
    Ok(client.disconnect().await?)
}

/// Publishes each line of `input`, without its end, in order, and disconnects. Gives their number.
pub async fn publish_lines(
    options: PublishOptions,
    mut input: impl AsyncBufRead + Unpin,
) -> Result<u64, CommandError> {
    let client = connect(&options.connect).await?;
    let mut published = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line).await? == 0 {
            client.disconnect().await?;
            return Ok(published);
        }
        let end = line.strip_suffix(b"\n").unwrap_or(&line);
        let end = end.strip_suffix(b"\r").unwrap_or(end).len();
        line.truncate(end);
        publish_one(&client, &options, Bytes::copy_from_slice(&line)).await?;
        published += 1;
    }
}

async fn publish_one(client: &Client, options: &PublishOptions, payload: Bytes) -> Result<(), CommandError> {
    let topic = options.topic.clone();
    let reason = client.publish(topic.as_str(), payload, options.qos, options.retain).await?;
    if reason.is_error() { Err(CommandError::NotPublished { topic, reason }) } else { Ok(()) }
}

/// Hands each message to `on_message` until that breaks off or `stop` is ready; then disconnects.
/// `on_subscribed` is told once that all filters are in place.
pub async fn subscribe(
    options: SubscribeOptions,
    stop: impl Future<Output = ()>,
    on_subscribed: impl FnOnce(),
    mut on_message: impl FnMut(&Message) -> ControlFlow<()>,
) -> Result<(), CommandError> {
    let mut client = connect(&options.connect).await?;
    let filters: Vec<_> = options.filters.iter().map(|filter| (filter.as_str(), options.qos)).collect();
    let reasons = client.subscribe(&filters).await?;
    for (filter, reason) in options.filters.iter().zip(reasons) {
        if reason.is_error() {
            return Err(CommandError::NotSubscribed { filter: filter.clone(), reason });
        }
    }
    on_subscribed();
    tokio::pin!(stop);
    loop {
        let event = tokio::select! {
            () = &mut stop => return Ok(client.disconnect().await?),
            event = client.recv() => event,
        };
        match event {
            Event::Message(message) => {
                if on_message(&message).is_break() {
                    return Ok(client.disconnect().await?);
                }
            }
            Event::Disconnected { reason, cause } => {
                return Err(CommandError::Disconnected { reason, cause });
            }
        }
    }
}

async fn connect(options: &ConnectOptions) -> Result<Client, CommandError> {
    Ok(Client::connect(options.clone()).await?.0)
}
