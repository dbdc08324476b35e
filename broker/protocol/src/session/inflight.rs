//! QoS 1 and 2 messages under way to a client: packet ids, acknowledgements, retransmission.

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::sync::Arc;

use mqgate_codec::{PacketId, QoS};

use crate::message::Message;
use crate::outbox::{Origin, Outgoing};

/// In the order in which the messages were first sent [MQTT-4.6.0-1].
#[derive(Debug, Default)]
pub struct Inflight {
    entries: VecDeque<Entry>,
    /// How many of `entries`, from the front, were sent on the present connection.
    sent: usize,
    last_packet_id: u16,
    /// Of messages that may have to be sent again.
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    packet_id: PacketId,
    state: State,
    /// It has memory of its own, or is large.
    detached: bool,
}

#[derive(Debug)]
enum State {
    /// QoS 1: PUBACK is due; QoS 2: PUBREC is due.
    Published(Outgoing),
    /// PUBREL was sent, PUBCOMP is due. The message is no longer needed.
    Released,
}

/// One PUBLISH to a client.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub message: Arc<Message>,
    pub qos: QoS,
    pub retain: bool,
    pub dup: bool,
    /// Present exactly when `qos` is above 0.
    pub packet_id: Option<PacketId>,
    pub origin: Option<Arc<Origin>>,
    /// Stands for the topic, or will from now on.
    pub alias: Option<Alias>,
}

/// A Topic Alias of one PUBLISH to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alias {
    pub number: NonZeroU16,
    /// The client knows what it stands for: the topic itself is not sent.
    pub known: bool,
}

/// What an acknowledgement meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// Done; the packet id is free again.
    Finished,
    /// PUBREL is owed.
    Release,
    /// No message with this packet id waits for this.
    Unknown,
}

/// What is sent again on a new connection.
#[derive(Debug)]
pub enum Redelivery {
    Publish(Delivery),
    Release(PacketId),
}

impl Entry {
    fn bytes(&self) -> usize {
        match &self.state {
            State::Published(outgoing) => outgoing.message.size(),
            State::Released => 0,
        }
    }
}

impl Inflight {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of messages that may have to be sent again.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many more may be sent to a client that takes `receive_maximum` at once [MQTT-3.3.4-9]. None while
    /// there is something to send again.
    pub fn quota(&self, receive_maximum: NonZeroU16) -> usize {
        if self.sent < self.entries.len() {
            return 0;
        }
        usize::from(receive_maximum.get()).saturating_sub(self.entries.len())
    }

    /// Turns a message into a delivery and, above QoS 0, keeps it until it is acknowledged. The caller has
    /// looked at [`Inflight::quota`].
    pub fn send(&mut self, outgoing: Outgoing) -> Delivery {
        if outgoing.qos == QoS::AtMostOnce {
            return delivery(outgoing, None, false);
        }
        let packet_id = self.free_packet_id();
        self.bytes += outgoing.message.size();
        self.entries.push_back(Entry {
            packet_id,
            state: State::Published(outgoing.clone()),
            detached: false,
        });
        self.sent += 1;
        delivery(outgoing, Some(packet_id), false)
    }

    /// The next id that no message under way has [MQTT-2.2.1-3]. There are 65,535, and the receive maximum
    /// keeps at least one of them free.
    fn free_packet_id(&mut self) -> PacketId {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            if let Some(id) = NonZeroU16::new(self.last_packet_id)
                && self.position(PacketId(id)).is_none()
            {
                return PacketId(id);
            }
        }
    }

    fn position(&self, packet_id: PacketId) -> Option<usize> {
        self.entries.iter().position(|entry| entry.packet_id == packet_id)
    }

    /// What waits under a packet id, if it was sent on this connection.
    fn sent(&mut self, packet_id: PacketId) -> Option<(usize, &mut State)> {
        let at = self.position(packet_id).filter(|at| *at < self.sent)?;
        Some((at, &mut self.entries[at].state))
    }

    fn finish(&mut self, at: usize) -> Acknowledged {
        self.entries.remove(at).iter().for_each(|entry| self.bytes -= entry.bytes());
        self.sent -= 1;
        if self.entries.is_empty() && self.entries.capacity() > 64 {
            self.entries = VecDeque::new();
        }
        Acknowledged::Finished
    }

    /// PUBACK.
    pub fn puback(&mut self, packet_id: PacketId) -> Acknowledged {
        match self.sent(packet_id) {
            Some((at, State::Published(outgoing))) if outgoing.qos == QoS::AtLeastOnce => self.finish(at),
            Some((_, State::Published(_) | State::Released)) | None => Acknowledged::Unknown,
        }
    }

    /// PUBREC; one with an error ends the exchange [MQTT-4.3.3-4].
    pub fn pubrec(&mut self, packet_id: PacketId, accepted: bool) -> Acknowledged {
        match self.sent(packet_id) {
            Some((at, State::Published(outgoing))) if outgoing.qos == QoS::ExactlyOnce => {
                if accepted {
                    let size = outgoing.message.size();
                    self.bytes -= size;
                    self.entries[at].state = State::Released;
                    Acknowledged::Release
                } else {
                    self.finish(at)
                }
            }
            // The same again: so is the answer.
            Some((_, State::Released)) if accepted => Acknowledged::Release,
            Some((_, State::Published(_) | State::Released)) | None => Acknowledged::Unknown,
        }
    }

    /// PUBCOMP.
    pub fn pubcomp(&mut self, packet_id: PacketId) -> Acknowledged {
        match self.sent(packet_id) {
            Some((at, State::Released)) => self.finish(at),
            Some((_, State::Published(_))) | None => Acknowledged::Unknown,
        }
    }

    /// A new connection: everything has to be sent again [MQTT-4.4.0-1].
    pub fn restart(&mut self) {
        self.sent = 0;
    }

    /// The next thing to be sent again, as far as the receive maximum allows.
    pub fn redeliver(&mut self, receive_maximum: NonZeroU16) -> Option<Redelivery> {
        if self.sent >= usize::from(receive_maximum.get()) {
            return None;
        }
        let entry = self.entries.get(self.sent)?;
        self.sent += 1;
        Some(match &entry.state {
            State::Published(outgoing) => {
                Redelivery::Publish(delivery(outgoing.clone(), Some(entry.packet_id), true)) // [MQTT-3.3.1-1]
            }
            State::Released => Redelivery::Release(entry.packet_id),
        })
    }

    /// A delivery could not be put on the wire: its packet id is free again.
    pub fn abandon(&mut self, packet_id: PacketId) {
        if let Some((at, _)) = self.sent(packet_id) {
            self.finish(at);
        }
    }

    /// Takes out the messages of shared subscriptions that may go to another member now that this session ends:
    /// those of QoS 1. Of QoS 2 none may [MQTT-4.8.2-5].
    pub fn take_shared(&mut self) -> Vec<Outgoing> {
        let mut taken = Vec::new();
        self.entries.retain(|entry| match &entry.state {
            State::Published(outgoing)
                if outgoing.qos == QoS::AtLeastOnce && Origin::is_shared(outgoing.origin.as_ref()) =>
            {
                taken.push(outgoing.clone());
                false
            }
            State::Published(_) | State::Released => true,
        });
        self.sent = 0; // Nothing is acknowledged any more.
        self.bytes = self.entries.iter().map(Entry::bytes).sum();
        taken
    }

    /// Forgets messages that are to be sent again and must not be; says how many. What the client was sent on
    /// this connection stays until it is acknowledged.
    pub fn forget_unsent(&mut self, allowed: impl Fn(&Message) -> bool) -> usize {
        let (sent, mut at, mut forgotten) = (self.sent, 0, 0);
        self.entries.retain_mut(|entry| {
            at += 1;
            let State::Published(outgoing) = &entry.state else { return true };
            if at <= sent || allowed(&outgoing.message) {
                return true;
            }
            forgotten += 1;
            // The client may hold it under this packet id, and would take another message for the same: it is
            // released first.
            let exactly_once = outgoing.qos == QoS::ExactlyOnce;
            if exactly_once {
                entry.state = State::Released;
            }
            exactly_once
        });
        self.bytes = self.entries.iter().map(Entry::bytes).sum();
        forgotten
    }

    /// Gives small messages memory of their own, because their acknowledgements may take long.
    pub fn detach_small(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| !entry.detached) {
            entry.detached = true;
            if let State::Published(outgoing) = &mut entry.state {
                Message::detach_small(&mut outgoing.message);
            }
        }
    }

    /// Gives every message that is kept memory of its own; see [`Message::detached`].
    pub fn detach(&mut self) {
        for entry in &mut self.entries {
            if let State::Published(outgoing) = &mut entry.state {
                outgoing.message = Arc::new(outgoing.message.detached());
            }
        }
    }
}

fn delivery(outgoing: Outgoing, packet_id: Option<PacketId>, dup: bool) -> Delivery {
    let Outgoing { message, qos, retain, origin } = outgoing;
    Delivery { message, qos, retain, dup, packet_id, origin, alias: None }
}
