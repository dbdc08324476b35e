//! The task that follows both sources: fills the ring, and publishes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use mqgate_codec::{Publish, PublishProperties, QoS, TopicName};
use mqgate_identity::audit::AuditEvent;
use mqgate_identity::registry::Storage;
use mqgate_protocol::message::Message;
use mqgate_protocol::session::SessionKey;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::cloud::ROOT_LEVEL;
use super::{CloudEvent, Events, Kept, kinds};
use crate::audit::AuditLog;
use crate::broker::Broker;
use crate::registry::Registry;

/// Events of the outbox that are read at once.
const PAGE: usize = 256;
/// Under this key the number of the last event of the outbox is kept that was published.
const CURSOR: &str = "events.published";
/// A crash tells the events of this time again.
const WRITTEN_DOWN: Duration = Duration::from_secs(1);

impl Events {
    /// Takes in an event of the outbox, and publishes it if anybody subscribes to it.
    fn tell(&self, broker: &Broker, event: CloudEvent, registry: u64) {
        self.publish(broker, &event);
        self.push(Kept::Event(Arc::new(event)), Some(registry));
    }

    /// Takes in an audit record, if it is an event. While nobody subscribes to events and nobody watches, that is all: every
    /// connection comes by here.
    fn tell_record(&self, broker: &Broker, record: Arc<AuditEvent>) {
        let sequence = record.sequence;
        if kinds::of(&record).is_some() {
            self.tell_event(broker, record);
        }
        self.told.store(sequence, Ordering::Release);
    }

    fn tell_event(&self, broker: &Broker, record: Arc<AuditEvent>) {
        if broker.has_receivers_below(ROOT_LEVEL)
            && let Some(event) = CloudEvent::of_audit(&record, self.run)
        {
            self.publish(broker, &event);
        }
        self.push(Kept::Record(record), None);
    }

    fn publish(&self, broker: &Broker, event: &CloudEvent) {
        if self.settings.mqtt
            && let Ok(topic) = TopicName::parse(event.topic().into())
            && broker.has_receivers(&topic)
        {
            let publish = Publish {
                dup: false,
                qos: QoS::AtLeastOnce,
                retain: false,
                topic: None,
                packet_id: None,
                payload: Bytes::from(event.json(&self.settings.source).to_string()),
                properties: PublishProperties {
                    content_type: Some("application/cloudevents+json".into()),
                    ..PublishProperties::default()
                },
            };
            // No session has this key: the message is nobody's own.
            broker.publish_about_itself(&Message::published(topic, publish, SessionKey(0), broker.now()));
        }
    }
}

/// Has the records of `audit` taken in where they arise, while nobody is to be told; [`follow`] does the rest.
pub fn observe(events: &Arc<Events>, broker: &Arc<Broker>, audit: &AuditLog) {
    // The broker has the log: it is not kept alive by it.
    let (events, broker) = (Arc::clone(events), Arc::downgrade(broker));
    let subscribes = move || broker.upgrade().is_none_or(|broker| broker.has_receivers_below(ROOT_LEVEL));
    audit.observe(move |record| events.take(record, &subscribes));
}

/// What is followed.
pub struct Sources {
    pub registry: Arc<Registry>,
    /// Of the audit log.
    pub records: Receiver<Arc<AuditEvent>>,
    pub storage: Arc<dyn Storage>,
}

/// Follows the audit log and the outbox until `shutdown`. What the outbox had when the broker went down and was not
/// published, is published now.
pub async fn follow(events: Arc<Events>, broker: Arc<Broker>, sources: Sources, shutdown: CancellationToken) {
    let Sources { registry, mut records, storage } = sources;
    let mut changed = registry.watch_events();
    let newest = *changed.borrow_and_update();
    let mut outbox = Outbox::open(storage, newest).await;
    events.begin(outbox.after);
    outbox.read(&events, &broker, &registry).await;
    let mut tick = tokio::time::interval(WRITTEN_DOWN);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            record = records.recv() => match record {
                Ok(record) => events.tell_record(&broker, record),
                Err(RecvError::Lagged(missed)) => events.push(Kept::Missed(missed), None),
                Err(RecvError::Closed) => break,
            },
            // The registry lives as long as the broker does.
            Ok(()) = changed.changed() => {
                changed.mark_unchanged();
                outbox.read(&events, &broker, &registry).await;
            }
            _ = tick.tick() => {
                // The storage refused it before.
                if outbox.after < *changed.borrow() {
                    outbox.read(&events, &broker, &registry).await;
                }
                outbox.write_down().await;
            }
        }
    }
    outbox.write_down().await;
}

/// How far the outbox was read.
struct Outbox {
    storage: Arc<dyn Storage>,
    after: u64,
    /// As it is on the disk.
    written: Option<u64>,
}

impl Outbox {
    /// Where the last run of the broker came to; at the first, at the end.
    async fn open(storage: Arc<dyn Storage>, newest: u64) -> Self {
        let reading = Arc::clone(&storage);
        let kept = tokio::task::spawn_blocking(move || reading.setting(CURSOR)).await;
        let kept = kept.ok().and_then(|kept| kept.ok().flatten());
        let written = kept.and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)));
        let after = written.map_or(newest, |kept| kept.min(newest));
        Self { storage, after, written }
    }

    async fn read(&mut self, events: &Events, broker: &Broker, registry: &Registry) {
        loop {
            let page = match registry.events(self.after, PAGE).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(%error, "events of the registry are not read");
                    return;
                }
            };
            let missed = page.oldest.saturating_sub(self.after + 1);
            if missed > 0 && page.newest > self.after {
                events.push(Kept::Missed(missed), None);
                self.after += missed;
            }
            let read = page.events.len();
            for event in page.events {
                self.after = event.sequence;
                events.tell(broker, CloudEvent::of_registry(event), self.after);
            }
            if read < PAGE {
                return;
            }
        }
    }

    /// After the events, so that a crash in between tells them again.
    async fn write_down(&mut self) {
        if self.written == Some(self.after) {
            return;
        }
        let (storage, after) = (Arc::clone(&self.storage), self.after);
        let written = tokio::task::spawn_blocking(move || storage.put_setting(CURSOR, &after.to_be_bytes()));
        match written.await {
            Ok(Ok(())) => self.written = Some(after),
            Ok(Err(error)) => tracing::warn!(%error, "how far events were published is not written down"),
            Err(error) => tracing::error!(%error, "writing down how far events were published broke down"),
        }
    }
}
