//! Records as MQTT messages: to this broker's own subscribers, or to another broker.
//!
//! With QoS 1 and 2 a record is safe when the broker has acknowledged it. The topics are the log's own: who may subscribe
//! to them is said by access lists, as for every topic.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use mqgate_client::{Client, ConnectOptions, Message, Published, Transport};
use mqgate_codec::{PublishProperties, QoS, TopicName};
use mqgate_identity::hooks::{AclRule, Effect, RetainMatch};
use mqgate_server::audit::sinks::format::Parsed;
use mqgate_server::audit::sinks::{Format, Item, Outlet, OutletError, OutletFuture};
use mqgate_server::broker::Broker;
use mqgate_server::inner::InnerClient;
use tokio_util::sync::CancellationToken;

use super::target::topic_of;
use crate::bridge::settings::Address;
use crate::config::model::AuditSink;
use crate::secret;

pub struct MqttOutlet {
    way: Way,
    options: ConnectOptions,
    topic: String,
    qos: QoS,
    format: Format,
    client: tokio::sync::Mutex<Option<Client>>,
}

enum Way {
    Inside(Arc<Broker>, Arc<InnerClient>),
    Outside,
}

/// Where a signed checkpoint of the log goes: below the topic without what stands for category and name.
const CHECKPOINT: &str = "checkpoint";

impl MqttOutlet {
    /// Reads secrets and files.
    pub fn new(
        name: &str,
        address: Option<&Address>,
        sink: &AuditSink,
        format: Format,
        broker: &Arc<Broker>,
    ) -> Result<Self> {
        let mut options = match address {
            Some(address) => ConnectOptions::new(address.host.as_str(), address.port),
            None => ConnectOptions::new("", 0),
        };
        options.connect_timeout = sink.timeout.0;
        options.client_id = sink.client_id.clone().unwrap_or_else(|| format!("mqgate-audit-{name}")).into();
        options.user_name = sink.username.as_deref().map(Into::into);
        let password = sink.password.as_deref().map(secret::resolve).transpose().context("password")?;
        options.password = password.map(|password| password.into_bytes().into());
        let way = match address {
            Some(address) => {
                options.tls = address.tls.then(|| super::tls_options(&sink.tls)).transpose()?;
                Way::Outside
            }
            None => {
                let name = format!("audit-{name}");
                // Everything that the topic may become, and nothing else.
                let filter = topic_of(&sink.topic, "+", "+");
                let rule = AclRule {
                    effect: Effect::Allow,
                    publish: true,
                    subscribe: false,
                    filter: whole_levels(&filter),
                    qos: 7,
                    retain: RetainMatch::Any,
                };
                Way::Inside(Arc::clone(broker), Arc::new(InnerClient { name, rules: vec![rule] }))
            }
        };
        let qos = QoS::from_bits(sink.qos).unwrap_or(QoS::AtLeastOnce);
        Ok(Self {
            way,
            options,
            topic: sink.topic.clone(),
            qos,
            format,
            client: tokio::sync::Mutex::default(),
        })
    }

    async fn connect(&self) -> Result<Client, OutletError> {
        let connected = match &self.way {
            Way::Outside => Client::connect(self.options.clone()).await,
            Way::Inside(broker, client) => {
                let (stream, _task) = broker.connect_inside(client, CancellationToken::new());
                Client::connect_over(Transport::over(stream), self.options.clone()).await
            }
        };
        connected.map(|(client, _)| client).map_err(OutletError::new)
    }

    fn message(&self, topic: String, payload: Vec<u8>, retain: bool) -> Result<Message, OutletError> {
        let topic = TopicName::parse(topic.into()).map_err(OutletError::new)?;
        let properties = PublishProperties::default();
        Ok(Message { topic, payload: payload.into(), qos: self.qos, retain, dup: false, properties })
    }

    /// Up to the first that was not taken.
    async fn publish(&self, messages: Vec<(u64, Message)>) -> Result<u64, OutletError> {
        let mut place = self.client.lock().await;
        // Taken out: one that was left in the middle of a batch is not used again.
        let client = match place.take() {
            Some(client) => client,
            None => self.connect().await?,
        };
        let mut waiting: Vec<(u64, Published)> = Vec::with_capacity(messages.len());
        let mut problem = None;
        for (sequence, message) in messages {
            match client.start_publish(message).await {
                Ok(published) => waiting.push((sequence, published)),
                Err(error) => {
                    problem = Some(OutletError::new(error));
                    break;
                }
            }
        }
        let mut safe = None;
        for (sequence, published) in waiting {
            match published.await {
                Ok(Ok(reason)) if !reason.is_error() => safe = Some(sequence),
                Ok(Ok(reason)) => {
                    problem = Some(OutletError::new(format!("the broker refuses the message: {reason}")));
                    break;
                }
                Ok(Err(error)) => {
                    problem = Some(OutletError::new(error));
                    break;
                }
                Err(_) => {
                    problem = Some(OutletError::new("the connection was lost"));
                    break;
                }
            }
        }
        match (safe, problem) {
            (None, Some(problem)) => Err(problem),
            (Some(safe), Some(_)) => Ok(safe),
            (safe, None) => {
                *place = Some(client);
                Ok(safe.unwrap_or(0))
            }
        }
    }

    /// Publishes a signed checkpoint of the log, retained: the newest is there for whoever comes.
    pub async fn publish_checkpoint(&self, note: &str) -> Result<(), OutletError> {
        let topic = checkpoint_topic(&self.topic);
        let message = self.message(topic, note.as_bytes().to_vec(), true)?;
        self.publish(vec![(1, message)]).await.map(drop)
    }
}

/// `audit/${category}/${name}` becomes `audit/checkpoint`.
fn checkpoint_topic(template: &str) -> String {
    let levels = template.split('/').take_while(|level| !level.contains("${"));
    let mut levels: Vec<&str> = levels.collect();
    levels.push(CHECKPOINT);
    levels.join("/")
}

/// Where a level only holds a `+`, all of it may be anything; where nothing stands for anything, a checkpoint may stand
/// beside it.
fn whole_levels(filter: &str) -> String {
    let levels: Vec<&str> = filter.split('/').take_while(|level| !level.contains('+')).collect();
    if levels.is_empty() { String::from("#") } else { format!("{}/#", levels.join("/")) }
}

impl Outlet for MqttOutlet {
    fn take<'a>(&'a self, items: &'a [Item]) -> OutletFuture<'a> {
        Box::pin(async move {
            let mut messages = Vec::with_capacity(items.len());
            for item in items {
                let record = Parsed::new(&item.line);
                let topic = topic_of(&self.topic, record.text("category"), record.text("name"));
                messages.push((item.sequence, self.message(topic, self.format.write(&item.line), false)?));
            }
            self.publish(messages).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_has_a_topic_beside_the_records() {
        assert_eq!(checkpoint_topic("audit/${category}/${name}"), "audit/checkpoint");
        assert_eq!(checkpoint_topic("a/b"), "a/b/checkpoint");
        assert_eq!(checkpoint_topic("${name}"), "checkpoint");
        for (template, filter) in
            [("audit/${category}/${name}", "audit/#"), ("a/b", "a/b/#"), ("${name}", "#"), ("x-${name}", "#")]
        {
            assert_eq!(whole_levels(&topic_of(template, "+", "+")), filter, "{template}");
        }
    }
}
