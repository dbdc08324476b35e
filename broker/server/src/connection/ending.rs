//! How a connection ends: the session moves on, the audit log hears about it, the client gets the last bytes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use mqgate_codec::{QoS, ReasonCode};
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::reason::Reason;
use mqgate_protocol::connection::{Closing, Denied, DeniedAction, Initiator};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Driver, inflight};
use crate::audit::coalesce::Coalescer;
use crate::broker::Broker;
use crate::clock;
use crate::directory::ConnectionHandle;
use crate::gate::{Accepted, event_about};
use crate::metrics::mqtt::{self, Unanswered};
use crate::sessions::Name;

/// How long the last bytes may take.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long a client may take to close after it was told to.
const LINGER: Duration = Duration::from_millis(500);
/// A client that is denied again and again is written down once in a while.
const DENIALS_EVERY: Duration = Duration::from_secs(10);

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Driver<S> {
    pub(super) async fn finish(mut self, closing: Closing) {
        let permit_given = self.handle.admitted().is_some();
        // First of all: another connection may be waiting for the session.
        match self.handover() {
            Some(mut handover) => {
                if self.searching.is_some() {
                    Box::pin(self.finish_search(&mut handover.session)).await;
                }
                // Before whoever has the session next counts: the last packets may have acknowledged something.
                self.tell_inflight(inflight(&handover.session));
                self.tally.add_to(&self.broker.metrics);
                self.broker.sessions.leave(&self.handle, handover, self.broker.now());
            }
            None => {
                if let Some(admitted) = self.handle.admitted() {
                    let name = Name {
                        device_id: Arc::clone(&admitted.device_id),
                        client_id: admitted.client_id.clone(),
                    };
                    self.broker.sessions.abandon(&self.handle, &name);
                }
            }
        }
        self.broker.connections().leave(self.accepted.id);
        self.handle.end();
        self.denials.finish(&self.broker);
        if self.connected {
            if let Some(admitted) = self.handle.admitted() {
                self.broker.note_departure(admitted, closing.reason);
            }
            self.broker.metrics.clients_connected.dec();
            let initiator = match closing.initiator {
                Initiator::Client => mqtt::Initiator::Client,
                Initiator::Server => mqtt::Initiator::Server,
                Initiator::Network => mqtt::Initiator::Network,
            };
            self.broker.metrics.disconnect(initiator, closing.code);
        }
        if self.decoder.version().is_none() {
            self.count_unanswered(closing);
        }
        self.audit(closing, permit_given);
        tracing::debug!(connection = self.accepted.id, reason = %closing.reason, "connection closed");
        if closing.initiator != Initiator::Network || self.has_close_frames() {
            // Errors have nobody left to hear of them.
            let _ = tokio::time::timeout(LAST_WORDS, self.last_words(closing.initiator)).await;
        }
        self.handle.dismissed();
        self.output.release();
        self.tell_output();
        self.tally.add_to(&self.broker.metrics);
    }

    fn count_unanswered(&self, closing: Closing) {
        self.broker.metrics.unanswered(match (closing.initiator, closing.reason) {
            (Initiator::Network | Initiator::Client, _) => Unanswered::Gone,
            (Initiator::Server, Reason::ConnectTimeout) => Unanswered::Timeout,
            (Initiator::Server, Reason::PacketTooLarge) => Unanswered::TooLarge,
            (Initiator::Server, Reason::ServerShuttingDown) => Unanswered::Other,
            (Initiator::Server, _) => Unanswered::Malformed,
        });
    }

    /// Whether the end of the connection is said below MQTT, too [RFC 6455, 7.1.1].
    fn has_close_frames(&self) -> bool {
        matches!(self.accepted.transport, mqtt::Transport::Ws | mqtt::Transport::Wss)
    }

    async fn last_words(&mut self, initiator: Initiator) -> std::io::Result<()> {
        if initiator == Initiator::Network {
            self.output.release(); // Nobody listens to MQTT any more.
        }
        let waiting = self.output.remaining();
        self.stream.write_all_buf(&mut self.output).await?;
        self.tally.bytes_sent(waiting);
        self.stream.flush().await?;
        self.handle.dismissed();
        self.stream.shutdown().await?;
        // A WebSocket client may still have its Close frame to send, or to get.
        if initiator == Initiator::Server || self.has_close_frames() {
            // Closing with unread bytes would reset the connection and take what was just said with it.
            let mut sink = [0; 512];
            let rest = async { while self.stream.read(&mut sink).await.is_ok_and(|count| count > 0) {} };
            let _ = tokio::time::timeout(LINGER, rest).await;
        }
        Ok(())
    }

    fn audit(&self, closing: Closing, permit_given: bool) {
        if !permit_given && self.connect.is_some() {
            return; // The gate has written down that it refused.
        }
        if !permit_given {
            if closing.initiator == Initiator::Network {
                return; // Nobody asked for anything.
            }
            let event = AuditEvent::new(names::CONNECTION_REFUSED, Outcome::Failure, closing.reason);
            let event = event_about(event, &self.accepted);
            self.broker.record_stranger(&self.accepted, event.field("code", code(closing)));
            return;
        }
        let outcome = if closing.reason == Reason::Ok { Outcome::Success } else { Outcome::Failure };
        let event = AuditEvent::new(names::CONNECTION_CLOSED, outcome, closing.reason);
        let mut event = event_about(event, &self.accepted);
        identify(&mut event, &self.handle);
        match closing.initiator {
            Initiator::Client => {}
            Initiator::Server => event = event.field("initiator", "server"),
            Initiator::Network => event = event.field("initiator", "network"),
        }
        if closing.code != ReasonCode::SUCCESS {
            event = event.field("code", code(closing));
        }
        self.broker.record(event);
    }
}

fn code(closing: Closing) -> String {
    format!("{:#04x}", closing.code.0)
}

fn identify(event: &mut AuditEvent, handle: &ConnectionHandle) {
    event.client_id = handle.client_id().map(str::to_owned);
    event.device_id = handle.device_id().map(str::to_owned);
}

/// What a session was denied: written down at once, then as a count.
#[derive(Default)]
pub(super) struct Denials(Option<Box<Coalescer<DeniedAction>>>);

impl Denials {
    pub(super) fn note(
        &mut self,
        broker: &Broker,
        accepted: &Accepted,
        handle: &ConnectionHandle,
        denied: &Denied,
    ) {
        let name = match denied.action {
            DeniedAction::Publish | DeniedAction::Will => names::PUBLISH_DENIED,
            DeniedAction::Subscribe => names::SUBSCRIBE_DENIED,
        };
        let mut event = event_about(AuditEvent::new(name, Outcome::Failure, Reason::AclDenied), accepted);
        identify(&mut event, handle);
        let qos = match denied.qos {
            QoS::AtMostOnce => "0",
            QoS::AtLeastOnce => "1",
            QoS::ExactlyOnce => "2",
        };
        let topic = match denied.action {
            DeniedAction::Publish | DeniedAction::Will => "topic",
            DeniedAction::Subscribe => "filter",
        };
        event = event.field(topic, &*denied.topic).field("qos", qos);
        if denied.action == DeniedAction::Will {
            event = event.field("will", "true");
        }
        let coalescer = self.0.get_or_insert_with(|| Box::new(Coalescer::new(DENIALS_EVERY, 4)));
        coalescer
            .offer(clock::now(), denied.action, event)
            .into_iter()
            .for_each(|event| broker.record(event));
    }

    pub(super) fn finish(&mut self, broker: &Broker) {
        if let Some(mut coalescer) = self.0.take() {
            coalescer.finish().into_iter().for_each(|event| broker.record(event));
        }
    }
}
