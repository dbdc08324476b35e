//! One seed, one story: who does what, and when.

use std::time::Duration;

use fastrand::Rng;
use mqgate_codec::{ProtocolVersion, ReasonCode};

use crate::check;
use crate::client::{Client, Hello, Session};
use crate::model::{ClientId, History, Message, MessageId, Step, WillFate, matches};
use crate::world::World;

/// Client 0 hears all wills and is never disturbed.
const OBSERVER: ClientId = 0;
const TOPICS: [&str; 5] = ["t/0", "t/1", "t/2", "s/0", "s/1"];
const FILTERS: [&str; 6] = ["t/0", "t/1", "t/+", "t/#", "$share/g/s/#", "$share/g/s/#"];
/// Seconds; longer than the broker's housekeeping takes to notice.
const WILL_DELAY: u32 = 5;

pub struct Outcome {
    pub violations: Vec<String>,
    pub trace: Vec<String>,
    pub deliveries: usize,
}

/// Plays the story of a seed in a runtime of its own.
pub fn play(seed: u64) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let history = runtime.block_on(Box::pin(async {
        let mut story = Story::new(seed);
        story.run().await;
        story.end().await
    }));
    Outcome { violations: history.violations, trace: history.trace, deliveries: history.deliveries.len() }
}

struct Story {
    world: World,
    rng: Rng,
    clients: Vec<Client>,
    barred: Vec<bool>,
    history: History,
    length: Step,
}

impl Story {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut clients = vec![Client::new(OBSERVER, "observer", ProtocolVersion::V5)];
        clients[OBSERVER].prompt = true;
        for id in 1..=rng.usize(2..=5) {
            let version = if rng.u8(0..3) == 0 { ProtocolVersion::V3_1_1 } else { ProtocolVersion::V5 };
            let mut client = Client::new(id, &format!("c{id}"), version);
            client.lasting = rng.u8(0..4) > 0;
            client.prompt = rng.u8(0..5) < 2;
            if version == ProtocolVersion::V5 && rng.bool() {
                client.receive_maximum = rng.u16(1..=5);
            }
            clients.push(client);
        }
        let barred = vec![false; clients.len()];
        let length = rng.u32(60..220);
        Self { world: World::new(), rng, clients, barred, history: History::default(), length }
    }

    async fn run(&mut self) {
        self.connect(OBSERVER, true).await;
        self.clients[OBSERVER].subscribe("will/#", 2, &mut self.history);
        self.settle().await;
        while self.history.step < self.length {
            self.history.step += 1;
            self.act().await;
            self.settle().await;
        }
    }

    async fn act(&mut self) {
        let who = self.rng.usize(1..self.clients.len());
        if !self.clients[who].is_up() {
            if self.rng.u8(0..10) < 3 {
                return self.pass().await;
            }
            let clean = !self.clients[who].lasting || self.rng.u8(0..8) == 0;
            return self.connect(who, clean).await;
        }
        match self.rng.u8(0..100) {
            0..34 => self.publish(who),
            34..54 => {
                self.tell(who, "acknowledges");
                self.clients[who].acknowledge();
            }
            54..66 => {
                let filter = FILTERS[self.rng.usize(0..FILTERS.len())];
                // A shared message that goes to a QoS 0 member may be lost.
                let qos = if filter.starts_with('$') { self.rng.u8(1..=2) } else { self.rng.u8(0..=2) };
                self.tell(who, &format!("subscribes to {filter} at QoS {qos}"));
                self.clients[who].subscribe(filter, qos, &mut self.history);
            }
            66..69 => {
                let filter = FILTERS[self.rng.usize(0..FILTERS.len())];
                self.tell(who, &format!("unsubscribes from {filter}"));
                self.clients[who].unsubscribe(filter, &mut self.history);
            }
            69..76 => self.drop_connection(who).await,
            76..80 => self.disconnect(who).await,
            80..85 => {
                let clean = !self.clients[who].lasting || self.rng.u8(0..6) == 0;
                self.tell(who, "takes over");
                self.connect(who, clean).await;
            }
            85..91 => {
                let stalled = !self.clients[who].stalled;
                self.tell(who, if stalled { "stops reading" } else { "reads again" });
                self.clients[who].stalled = stalled;
            }
            91..96 => self.pass().await,
            96..98 => self.bar(who).await,
            _ => self.deny(who),
        }
    }

    fn publish(&mut self, who: ClientId) {
        let topic = TOPICS[self.rng.usize(0..TOPICS.len())];
        let (qos, retain) = (self.rng.u8(0..=2), self.rng.u8(0..10) == 0);
        if !self.clients[who].may_publish() || self.clients[who].denied.contains_key(topic) {
            return;
        }
        let message = self.message(who, topic, qos, None);
        self.tell(who, &format!("publishes {message} to {topic} at QoS {qos}"));
        self.clients[who].publish(message, topic, qos, retain);
    }

    fn message(&mut self, publisher: ClientId, topic: &str, qos: u8, will: Option<WillFate>) -> MessageId {
        let sent_at = self.history.step;
        let topic = topic.to_owned();
        self.history.messages.push(Message {
            publisher,
            topic,
            qos,
            sent_at,
            accepted: false,
            repeated: false,
            will,
        });
        self.history.messages.len() - 1
    }

    async fn connect(&mut self, who: ClientId, clean: bool) {
        if self.barred[who] && self.rng.bool() {
            self.barred[who] = false;
            self.world.unbar(&self.clients[who].name);
        }
        let delays = self.clients[who].version == ProtocolVersion::V5 && self.rng.bool();
        let mut will = None;
        if who != OBSERVER && self.rng.u8(0..5) < 2 {
            let (qos, delay) = (self.rng.u8(0..=2), if delays { WILL_DELAY } else { 0 });
            let topic = format!("will/{}", self.clients[who].name);
            let message = self.message(who, &topic, qos, Some(WillFate::AtMostOnce));
            will = Some((message, qos, delay));
        }
        let room = if self.rng.u8(0..4) == 0 { 64 } else { 64 * 1024 };
        self.tell(who, &format!("connects, clean {clean}, will {will:?}, room {room}"));
        let older = self.clients[who].wire.take();
        if let Some(older) = &older {
            self.will_ends(who, older.will, WillFate::Once);
            self.clients[who].ended(older.clean, &mut self.history);
        }
        if clean {
            // Whatever becomes of this connection, the older session is on its way out.
            self.history.session_lost(who);
        }
        let stream = self.world.dial(room);
        self.clients[who].connect(stream, &Hello { clean, will });
        self.clients[who].stalled = false;
        self.settle().await;
        drop(older);
        self.settle().await;
        if !self.clients[who].is_up() {
            if let Some((message, ..)) = will {
                self.history.messages[message].will = Some(WillFate::Never);
            }
            self.lose(who);
        } else if let Some((message, _, delay)) = will {
            self.delays(message, delay);
        }
    }

    /// Remembers that what becomes of a delayed will depends on when its client comes back.
    fn delays(&mut self, message: MessageId, delay: u32) {
        if delay > 0 {
            self.history.messages[message].will = Some(WillFate::AtMostOnce);
        } else {
            // Decided when the connection ends; until then nobody has heard of it.
            self.history.messages[message].will = Some(WillFate::Never);
        }
    }

    /// A connection ended; a will without delay is decided now.
    fn will_ends(&mut self, who: ClientId, will: Option<MessageId>, fate: WillFate) {
        let Some(will) = will else { return };
        let known = &mut self.history.messages[will].will;
        if *known == Some(WillFate::Never) {
            *known = Some(fate);
        }
        self.history.note(format!(
            "the will {will} of {} is {:?}",
            self.clients[who].name, self.history.messages[will].will
        ));
    }

    async fn drop_connection(&mut self, who: ClientId) {
        self.tell(who, "loses its connection");
        let will = self.clients[who].wire.as_ref().and_then(|wire| wire.will);
        self.will_ends(who, will, WillFate::Once);
        self.lose(who);
    }

    async fn disconnect(&mut self, who: ClientId) {
        let with_will = self.clients[who].version == ProtocolVersion::V5 && self.rng.bool();
        let reason = if with_will { ReasonCode::DISCONNECT_WITH_WILL } else { ReasonCode::SUCCESS };
        self.tell(who, &format!("disconnects with {reason:?}"));
        // From here on the broker may close at once; what the client does not read any more may stand in the way.
        let (will, stalled) =
            (self.clients[who].wire.as_ref().and_then(|wire| wire.will), self.clients[who].stalled);
        self.clients[who].stalled = false;
        self.settle().await;
        if self.clients[who].is_up() {
            self.clients[who].disconnect(reason);
            let sure = !stalled && self.clients[who].is_flushed();
            self.settle().await;
            let fate = match (sure, with_will) {
                (false, _) => WillFate::AtMostOnce,
                (true, true) => WillFate::Once,
                (true, false) => WillFate::Never,
            };
            self.will_ends(who, will, fate);
        } else {
            self.will_ends(who, will, WillFate::AtMostOnce);
        }
        self.lose(who);
    }

    fn lose(&mut self, who: ClientId) {
        self.clients[who].lose(&mut self.history);
        self.clients[who].stalled = false;
    }

    async fn bar(&mut self, who: ClientId) {
        self.tell(who, "is barred");
        let will = self.clients[who].wire.as_ref().and_then(|wire| wire.will);
        self.will_ends(who, will, WillFate::AtMostOnce);
        self.barred[who] = true;
        self.world.bar(&self.clients[who].name);
        self.clients[who].stalled = false;
        self.settle().await;
        if self.clients[who].wire.is_some() {
            self.history.violated(format!("{} was barred and is still connected", self.clients[who].name));
        }
        self.clients[who].session = Session::Perhaps;
        self.history.session_uncertain(who);
        self.lose(who);
    }

    fn deny(&mut self, who: ClientId) {
        let topic = TOPICS[self.rng.usize(0..3)];
        self.tell(who, &format!("may not use {topic} any more"));
        let step = self.history.step;
        self.clients[who].deny(topic, step);
        self.clients[who].let_go(&self.history);
        for one in self.history.subscriptions.iter_mut().filter(|one| one.client == who) {
            if matches(&one.filter, topic) {
                one.until.get_or_insert(step);
            }
        }
        self.world.deny(&self.clients[who].name, topic);
    }

    async fn pass(&mut self) {
        let seconds = self.rng.u64(1..8);
        self.history.note(format!("{seconds} s pass"));
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    fn tell(&mut self, who: ClientId, what: &str) {
        self.history.note(format!("{} {what}", self.clients[who].name));
    }

    /// Until nobody moves.
    async fn settle(&mut self) {
        loop {
            self.world.settle().await;
            let mut moved = false;
            for client in &mut self.clients {
                moved |= client.pump(&mut self.history);
            }
            if !moved {
                return;
            }
        }
    }

    /// Everyone comes back, reads and acknowledges everything; then the checkers look.
    async fn end(mut self) -> History {
        self.history.step += 1;
        self.history.note(String::from("everyone comes back"));
        tokio::time::sleep(Duration::from_secs(2 * u64::from(WILL_DELAY))).await;
        for who in 1..self.clients.len() {
            self.barred[who] = false;
            self.world.unbar(&self.clients[who].name);
            self.clients[who].stalled = false;
            self.clients[who].prompt = true;
            self.settle().await;
            if !self.clients[who].is_up() && self.clients[who].lasting {
                self.connect(who, false).await;
            }
            while self.clients[who].owes() > 0 {
                self.clients[who].acknowledge();
            }
            self.settle().await;
        }
        self.settle().await;
        for who in 0..self.clients.len() {
            let unfinished = self.clients[who].unfinished();
            if self.clients[who].is_up() && unfinished != (0, 0) {
                self.history.violated(format!(
                    "{} has unfinished flows: {} of its own, {} of the broker's",
                    self.clients[who].name, unfinished.0, unfinished.1
                ));
            }
        }
        check::check(&mut self.history);
        self.world.end().await;
        self.history
    }
}
