//! A client with perfect manners and a bad network. Keeps the state that a client has to keep, and complains when
//! the broker breaks a rule that one client alone can see.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::num::NonZeroU16;
use std::task::Poll;

use bytestring::ByteString;
use mqgate_codec::*;
use tokio::io::DuplexStream;

use crate::model::{ClientId, Delivery, History, MessageId, Step, Subscription};
use crate::wire::Wire;

/// Seconds that a lasting session outlives its connection; longer than any story.
const LASTING: u32 = 3_600;

pub struct Client {
    pub id: ClientId,
    pub name: String,
    pub version: ProtocolVersion,
    /// Its session outlives its connections.
    pub lasting: bool,
    pub receive_maximum: u16,
    pub wire: Option<Wire>,
    /// Does not read.
    pub stalled: bool,
    /// Acknowledges at once.
    pub prompt: bool,
    /// Topics it must not see any more, and since when.
    pub denied: HashMap<String, Step>,
    /// There may be a session at the broker.
    pub session: Session,
    /// Acknowledgements that are owed, in order [MQTT-4.6.0-2].
    owed: VecDeque<Packet>,
    /// Its own messages under way.
    outgoing: BTreeMap<u16, Outgoing>,
    /// QoS 1 and 2 messages that it has not finished.
    incoming: BTreeMap<u16, Incoming>,
    /// SUBSCRIBE packets that are not answered; `None` where a narrower permit came after.
    subscribing: BTreeMap<u16, Option<String>>,
    last_request: u16,
}

/// What a client knows of the session that the broker keeps for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    No,
    Yes,
    Perhaps,
}

struct Outgoing {
    message: MessageId,
    topic: String,
    qos: QoS,
    released: bool,
}

struct Incoming {
    message: MessageId,
    qos: QoS,
    /// The broker may send it again: a new connection began after it came.
    stale: bool,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// QoS 1: PUBACK owed. QoS 2: PUBREC owed.
    Arrived,
    /// QoS 2: PUBREC sent.
    Received,
    /// QoS 2: PUBREL came, PUBCOMP owed.
    Released,
}

/// How a connection begins.
pub struct Hello {
    pub clean: bool,
    pub will: Option<(MessageId, u8, u32)>,
}

impl Client {
    pub fn new(id: ClientId, name: &str, version: ProtocolVersion) -> Self {
        Self {
            id,
            name: name.to_owned(),
            version,
            lasting: true,
            receive_maximum: 65_535,
            wire: None,
            stalled: false,
            prompt: false,
            denied: HashMap::new(),
            session: Session::No,
            owed: VecDeque::new(),
            outgoing: BTreeMap::new(),
            incoming: BTreeMap::new(),
            subscribing: BTreeMap::new(),
            last_request: 50_000,
        }
    }

    /// From now on it may not use this topic.
    pub fn deny(&mut self, topic: &str, step: Step) {
        self.denied.insert(topic.to_owned(), step);
        self.subscribing.values_mut().for_each(|filter| *filter = None);
    }

    pub fn is_up(&self) -> bool {
        self.wire.as_ref().is_some_and(|wire| wire.up)
    }

    pub fn owes(&self) -> usize {
        self.owed.len()
    }

    /// Flows that are not finished, either way.
    pub fn unfinished(&self) -> (usize, usize) {
        (self.outgoing.len(), self.incoming.len())
    }

    pub fn may_publish(&self) -> bool {
        self.outgoing.len() < 20
    }

    /// Over a new transport; what is still on the older one is lost.
    pub fn connect(&mut self, stream: DuplexStream, hello: &Hello) {
        let v5 = self.version == ProtocolVersion::V5;
        let will = hello.will.map(|(message, qos, delay_interval)| Will {
            topic: topic_name(&format!("will/{}", self.name)),
            payload: message.to_string().into(),
            qos: QoS::from_bits(qos).unwrap(),
            retain: false,
            delay_interval,
            properties: PublishProperties::default(),
        });
        let will_message = hello.will.map(|(message, ..)| message);
        self.wire = Some(Wire::new(stream, self.version, hello.clean, will_message));
        self.owed.clear();
        self.subscribing.clear();
        let receive_maximum = NonZeroU16::new(self.receive_maximum).filter(|_| v5);
        self.send(&Packet::Connect(Box::new(Connect {
            version: self.version,
            bridge: false,
            clean_start: hello.clean,
            keep_alive: 0,
            client_id: ByteString::from(self.name.as_str()),
            will,
            user_name: None,
            password: None,
            properties: ConnectProperties {
                session_expiry_interval: (v5 && self.lasting).then_some(LASTING),
                receive_maximum,
                ..ConnectProperties::default()
            },
        })));
    }

    pub fn subscribe(&mut self, filter: &str, qos: u8, history: &mut History) {
        let packet_id = self.request();
        self.subscribing.insert(packet_id.get(), Some(filter.to_owned()));
        for one in &mut history.subscriptions {
            if one.client == self.id && one.filter == filter {
                // Which of the two a message meets is not known: the weaker promise is checked.
                one.qos = one.qos.min(qos);
                one.at_most = one.at_most.min(qos);
            }
        }
        let unknown = Subscription {
            client: self.id,
            filter: filter.to_owned(),
            qos: 0,
            at_most: 2,
            from: Step::MAX,
            until: None,
        };
        history.subscriptions.push(unknown);
        let options = SubscriptionOptions::new(QoS::from_bits(qos).unwrap());
        self.send(&Packet::Subscribe(Subscribe {
            packet_id,
            filters: vec![(TopicFilter::parse(filter.into()).unwrap(), options)],
            subscription_identifier: None,
            user_properties: Vec::new(),
        }));
    }

    pub fn unsubscribe(&mut self, filter: &str, history: &mut History) {
        let packet_id = self.request();
        let step = history.step;
        for subscription in &mut history.subscriptions {
            if subscription.client == self.id && subscription.filter == filter {
                subscription.until.get_or_insert(step);
            }
        }
        self.send(&Packet::Unsubscribe(Unsubscribe {
            packet_id,
            filters: vec![TopicFilter::parse(filter.into()).unwrap()],
            user_properties: Vec::new(),
        }));
    }

    pub fn publish(&mut self, message: MessageId, topic: &str, qos: u8, retain: bool) {
        let qos = QoS::from_bits(qos).unwrap();
        let mut packet_id = None;
        if qos != QoS::AtMostOnce {
            let free = (1..).find(|id| !self.outgoing.contains_key(id)).unwrap();
            self.outgoing.insert(free, Outgoing { message, topic: topic.to_owned(), qos, released: false });
            packet_id = PacketId::new(free);
        }
        self.send_publish(message, topic, qos, retain, packet_id, false);
    }

    /// Sends the first acknowledgement that is owed.
    pub fn acknowledge(&mut self) {
        let Some(packet) = self.owed.pop_front() else { return };
        let wire = self.wire.as_mut().expect("what is owed is owed on a connection");
        match &packet {
            Packet::PubAck(ack) | Packet::PubComp(ack) => {
                self.incoming.remove(&ack.packet_id.get());
                wire.window.remove(&ack.packet_id.get());
            }
            Packet::PubRec(ack) => {
                if let Some(incoming) = self.incoming.get_mut(&ack.packet_id.get()) {
                    incoming.stage = Stage::Received;
                }
            }
            _ => {}
        }
        self.send(&packet);
    }

    pub fn disconnect(&mut self, reason: ReasonCode) {
        self.send(&Packet::Disconnect(Disconnect::new(reason)));
    }

    /// Everything that was sent has left.
    pub fn is_flushed(&self) -> bool {
        self.wire.as_ref().is_none_or(Wire::is_flushed)
    }

    /// The connection is no more.
    pub fn lose(&mut self, history: &mut History) {
        // A CONNECT that was refused changed nothing.
        let clean = self.wire.take().is_some_and(|wire| wire.clean && wire.up);
        self.owed.clear();
        self.subscribing.clear();
        self.ended(clean, history);
    }

    /// The broker sees the end of a connection that began like this.
    pub fn ended(&mut self, clean: bool, history: &mut History) {
        // Clean Session of MQTT 3.1.1 is about the end of the connection too [MQTT-3.1.2-6].
        if !self.lasting || (clean && self.version != ProtocolVersion::V5) {
            self.forget(history);
        }
    }

    /// There is no session any more, here or there.
    pub fn forget(&mut self, history: &mut History) {
        self.outgoing.clear();
        self.incoming.clear();
        self.session = Session::No;
        history.session_lost(self.id);
    }

    /// Reads and handles what has arrived; says whether anything moved.
    pub fn pump(&mut self, history: &mut History) -> bool {
        let mut moved = self.flush();
        if self.stalled {
            return moved;
        }
        loop {
            let Some(wire) = &mut self.wire else { return moved };
            match wire.decode() {
                Ok(Some(packet)) => {
                    moved = true;
                    self.handle(packet, history);
                    if self.prompt {
                        while !self.owed.is_empty() {
                            self.acknowledge();
                        }
                    }
                    continue;
                }
                Ok(None) => {}
                Err(error) => {
                    history.violated(format!("{} cannot read what the broker sent: {error}", self.name));
                    self.wire = None;
                    return true;
                }
            }
            match wire.read() {
                Poll::Ready(0) => {
                    history.note(format!("{} was disconnected", self.name));
                    self.lose(history);
                    return true;
                }
                Poll::Ready(_) => {}
                Poll::Pending => return moved,
            }
        }
    }

    fn handle(&mut self, packet: Packet, history: &mut History) {
        match packet {
            Packet::ConnAck(connack) => self.connected(&connack, history),
            Packet::Publish(publish) => self.received(&publish, history),
            Packet::PubAck(ack) => self.answered(&ack, history),
            Packet::PubRec(ack) => {
                let id = ack.packet_id.get();
                match self.outgoing.get_mut(&id) {
                    Some(outgoing) if ack.reason.is_error() => {
                        history.note(format!("{} message {} refused", self.name, outgoing.message));
                        self.outgoing.remove(&id);
                    }
                    Some(outgoing) => {
                        history.messages[outgoing.message].accepted = true;
                        outgoing.released = true;
                        self.owed.push_back(Packet::PubRel(Ack::success(ack.packet_id)));
                    }
                    None => history.violated(format!("{}: PUBREC {id} for nothing", self.name)),
                }
            }
            Packet::PubRel(ack) => {
                let id = ack.packet_id.get();
                if let Some(incoming) = self.incoming.get_mut(&id) {
                    let barred = self.denied.contains_key(&history.messages[incoming.message].topic);
                    // What it must not have any more is let go of and not sent again.
                    if incoming.stage == Stage::Arrived && !(barred && incoming.stale) {
                        history.violated(format!("{}: PUBREL {id} before PUBREC", self.name));
                    }
                    incoming.stage = Stage::Released;
                }
                self.owed.push_back(Packet::PubComp(Ack::success(ack.packet_id)));
            }
            Packet::PubComp(ack) => self.answered(&ack, history),
            Packet::SubAck(suback) => {
                let Some(filter) = self.subscribing.remove(&suback.packet_id.get()) else {
                    return history.violated(format!("{}: SUBACK for nothing", self.name));
                };
                let Some(filter) = filter else { return };
                let Some(qos) = QoS::from_bits(suback.reasons[0].0) else {
                    return history.note(format!("{} may not subscribe to {filter}", self.name));
                };
                self.subscribed(&filter, qos, history);
            }
            Packet::Disconnect(disconnect) => {
                history.note(format!("{} hears DISCONNECT {:?}", self.name, disconnect.reason));
            }
            Packet::UnsubAck(_) | Packet::PingResp => {}
            other => history.violated(format!("{}: unexpected {other:?}", self.name)),
        }
    }

    /// A subscription to the same filter replaces the older one [MQTT-3.8.4-3].
    fn subscribed(&mut self, filter: &str, qos: QoS, history: &mut History) {
        let step = history.step;
        let mut same = history.subscriptions.iter_mut().filter(|one| {
            one.client == self.id && one.filter == filter && one.until.is_none() && one.from == Step::MAX
        });
        if let Some(one) = same.next() {
            (one.from, one.qos) = (step, one.at_most.min(qos as u8));
        }
    }

    fn connected(&mut self, connack: &ConnAck, history: &mut History) {
        if connack.code.reason().is_error() {
            history.note(format!("{} is refused", self.name));
            return;
        }
        let wire = self.wire.as_mut().expect("it just spoke");
        wire.up = true;
        let present = connack.session_present;
        history.note(format!("{} is connected, session {present}", self.name));
        let expected = match (wire.clean, self.session) {
            (true, _) | (false, Session::No) => Some(false),
            (false, Session::Yes) => Some(true),
            (false, Session::Perhaps) => None,
        };
        if expected.is_some_and(|expected| expected != present) {
            history.violated(format!("{}: session present {present}", self.name));
        }
        if !present {
            self.forget(history);
        }
        self.session = Session::Yes;
        for incoming in self.incoming.values_mut() {
            incoming.stale = true;
        }
        self.let_go(history);
        // What is under way is sent again, in order [MQTT-4.4.0-1].
        let under_way: Vec<_> = self
            .outgoing
            .iter()
            .map(|(id, one)| (one.message, *id, one.topic.clone(), one.qos, one.released))
            .collect();
        let mut under_way = under_way;
        under_way.sort();
        for (message, id, topic, qos, released) in under_way {
            let id = PacketId::new(id).unwrap();
            match released {
                true => self.send(&Packet::PubRel(Ack::success(id))),
                false => {
                    history.messages[message].repeated = true;
                    self.send_publish(message, &topic, qos, false, Some(id), true);
                }
            }
        }
    }

    /// What the client must not see any more is not sent again: its packet id is free, unless it is one of QoS 2, which
    /// is released.
    pub fn let_go(&mut self, history: &History) {
        let denied = &self.denied;
        self.incoming.retain(|_, incoming| {
            let barred = denied.contains_key(&history.messages[incoming.message].topic);
            !(barred && incoming.stale && incoming.qos == QoS::AtLeastOnce)
        });
    }

    fn received(&mut self, publish: &Publish, history: &mut History) {
        let message: MessageId = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
        let topic = publish.topic.as_ref().map(|topic| topic.as_str().to_owned()).unwrap_or_default();
        if topic != history.messages[message].topic {
            history.violated(format!("{}: message {message} on topic {topic}", self.name));
        }
        // What was published before may be on its way.
        let sent_at = history.messages[message].sent_at;
        if self.denied.get(&topic).is_some_and(|since| *since < sent_at) {
            history.violated(format!("{}: message {message} on {topic}, which it may not see", self.name));
        }
        let wire = self.wire.as_mut().expect("it just spoke");
        if let Some(packet_id) = publish.packet_id {
            let id = packet_id.get();
            wire.window.insert(id);
            if wire.window.len() > usize::from(self.receive_maximum) {
                history.violated(format!("{}: {} messages at once", self.name, wire.window.len()));
            }
            let ack = Ack::success(packet_id);
            self.owed.push_back(match publish.qos {
                QoS::AtLeastOnce => Packet::PubAck(ack),
                _ => Packet::PubRec(ack),
            });
            let older = self.incoming.get_mut(&id);
            if let Some(older) = older {
                if !older.stale || older.message != message || !publish.dup || older.stage == Stage::Released
                {
                    history.violated(format!(
                        "{}: packet id {id} used for {message} while {} is under way",
                        self.name, older.message
                    ));
                }
                older.stale = false;
                if publish.qos == QoS::ExactlyOnce {
                    return; // Known: not delivered again.
                }
            } else {
                let (qos, stage) = (publish.qos, Stage::Arrived);
                self.incoming.insert(id, Incoming { message, qos, stale: false, stage });
            }
        }
        let (client, at) = (self.id, history.step);
        history.note(format!("{} gets {message} at QoS {}", self.name, publish.qos as u8));
        history.deliveries.push(Delivery {
            client,
            message,
            qos: publish.qos as u8,
            retained: publish.retain,
            at,
        });
    }

    /// A flow of ours is at its end.
    fn answered(&mut self, ack: &Ack, history: &mut History) {
        match self.outgoing.remove(&ack.packet_id.get()) {
            Some(outgoing) => history.messages[outgoing.message].accepted |= !ack.reason.is_error(),
            None => history.violated(format!("{}: answer to {} for nothing", self.name, ack.packet_id.get())),
        }
    }

    fn request(&mut self) -> PacketId {
        self.last_request += 1;
        PacketId::new(self.last_request).unwrap()
    }

    fn send_publish(
        &mut self,
        message: MessageId,
        topic: &str,
        qos: QoS,
        retain: bool,
        packet_id: Option<PacketId>,
        dup: bool,
    ) {
        self.send(&Packet::Publish(Publish {
            dup,
            qos,
            retain,
            topic: Some(topic_name(topic)),
            packet_id,
            payload: message.to_string().into(),
            properties: PublishProperties::default(),
        }));
    }

    fn send(&mut self, packet: &Packet) {
        let Some(wire) = &mut self.wire else { return };
        wire.send(packet);
    }

    fn flush(&mut self) -> bool {
        self.wire.as_mut().is_some_and(Wire::write)
    }
}

fn topic_name(text: &str) -> TopicName {
    TopicName::parse(text.into()).unwrap()
}
