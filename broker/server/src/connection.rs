//! One connection's task: moves bytes between the transport and the machine of `mqgate-protocol`, and does
//! what the machine wants done. Decides nothing itself.

mod asking;
mod brake;
mod dialogue;
mod ending;
mod exclusive;
mod io;
mod mail;
mod next;
mod requests;
mod search;
#[cfg(test)]
mod tests;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use mqgate_codec::{Connect, DecodeLimits, Decoder, Output, Packet, PacketType, ProtocolVersion, ReasonCode};
use mqgate_identity::reason::Reason;
use mqgate_protocol::connection::{Closing, Connection, DeniedAction, Effect, Input, Limited, bars};
use mqgate_protocol::session::Session;
use mqgate_protocol::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use self::brake::Brake;
use self::dialogue::Talk;
use self::ending::Denials;
use self::next::once;
use crate::broker::Broker;
use crate::delivery::{self, Lane, Mailbox, Wakes};
use crate::directory::ConnectionHandle;
use crate::gate::{Accepted, Reauthorization};
use crate::metrics::gate::Stage;
use crate::metrics::mqtt::Tally;
use crate::searching::Searching;
use crate::sessions::{Handover, Name, Opened};
use crate::trace::Direction;
use crate::turns::{Account, cost};

/// With this much to be written, no message is taken from the mailbox: the client is slow.
const OUTPUT_HIGH_WATER: usize = 128 * 1024;
/// A client that has not taken or acknowledged a message for so long is slow.
const DETACH_AFTER: Duration = Duration::from_secs(1);
/// With this much to be written, nothing is read either: the client asks for answers and does not take them.
const ANSWERS_HIGH_WATER: usize = 2 * OUTPUT_HIGH_WATER;
/// What leaves comes before what arrives, but not always: a client that takes as fast as others publish is
/// read and timed as well.
const READ_FIRST_EVERY: u8 = 8;

/// Serves one connection whose transport is up, until it is closed. With `shutdown`, the client is told
/// (MQTT 5.0: DISCONNECT 0x8B) and the connection closed.
pub async fn serve<S>(stream: S, accepted: Accepted, broker: Arc<Broker>, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let handle = Arc::new(ConnectionHandle::new(&accepted));
    let _presence = Presence::of(&broker, &handle);
    let mut driver = Driver::new(stream, accepted, broker, handle);
    let closing = driver.run(&shutdown).await;
    // Boxed: a connection that is up has no room for its end.
    Box::pin(driver.finish(closing)).await;
}

/// Takes a connection out of the directory even if its task panics.
struct Presence {
    broker: Arc<Broker>,
    handle: Arc<ConnectionHandle>,
}

impl Presence {
    fn of(broker: &Arc<Broker>, handle: &Arc<ConnectionHandle>) -> Self {
        broker.connections().enter(Arc::clone(handle));
        Self { broker: Arc::clone(broker), handle: Arc::clone(handle) }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.broker.connections().leave(self.handle.connection_id);
        self.handle.end();
    }
}

struct Driver<S> {
    stream: S,
    accepted: Arc<Accepted>,
    broker: Arc<Broker>,
    handle: Arc<ConnectionHandle>,
    machine: Connection,
    decoder: Decoder,
    /// Bytes that are no whole packet yet, or that the machine does not want yet.
    input: BytesMut,
    output: Output,
    /// TLS may hold back what was written.
    unflushed: bool,
    connect: Option<Arc<Connect>>,
    mailbox: Option<Arc<Mailbox>>,
    /// The mailbox may hold something that can be sent.
    mail: bool,
    /// What cannot be done at once.
    todo: Option<Todo>,
    /// The gate is asked about this session, which goes on meanwhile but for PUBLISH and SUBSCRIBE.
    asking: Option<Asking>,
    /// Enhanced authentication is going on.
    talk: Option<Box<Talk>>,
    /// It is to be asked once more: its answer may be older than the question.
    ask_again: bool,
    /// Read, but not to be handled before the gate has answered.
    held: Option<Box<Packet>>,
    /// As of the last time the task was woken: no clock is read for each packet of a batch.
    now: Instant,
    round: u8,
    /// What it has done lately.
    account: Account,
    /// There is more to be done at once; others are let run first.
    unfinished: bool,
    /// Who gets what it has published, and is to be woken once that is all.
    wakes: Wakes,
    /// Retained messages that are looked for.
    searching: Option<Box<Searching>>,
    /// Of what is to be written some was written: it may begin in the middle of a packet.
    begun: bool,
    /// Nothing can be written any more.
    deaf: bool,
    /// Since when the client takes nothing of what is to be written.
    stalled: Option<Instant>,
    /// How long it may do so.
    write_stall_timeout: Duration,
    /// Generation of hooks that the gate was asked about this session.
    asked_generation: u64,
    tally: Tally,
    /// What the gauges know of this session's inflight messages: how many, and their bytes.
    inflight: (usize, usize),
    /// When messages that wait for the client get memory of their own.
    detach_at: Option<Instant>,
    /// What the gauges know of the output.
    output_told: usize,
    /// An outbox is filling up because of this client.
    pressing: bool,
    denials: Denials,
    /// Only where the listener's traffic is limited.
    brake: Option<Box<Brake>>,
    /// CONNACK with success was sent.
    connected: bool,
    timer: Pin<Box<Sleep>>,
    closing: Option<Closing>,
}

/// What needs waiting.
enum Todo {
    Authorize(Arc<Connect>),
    OpenSession { client_id: bytestring::ByteString, device_id: Arc<str>, clean_start: bool },
}

fn inflight(session: &Session) -> (usize, usize) {
    (session.inflight.len(), session.inflight.bytes())
}

type Asking = Pin<Box<dyn Future<Output = Reauthorization> + Send>>;

enum Event {
    Ordered,
    /// There is more to be done of what was read.
    Unfinished,
    Mail,
    Read(usize),
    Wrote,
    Gone,
    Timeout,
    Shutdown,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Driver<S> {
    fn new(stream: S, accepted: Accepted, broker: Arc<Broker>, handle: Arc<ConnectionHandle>) -> Self {
        let now = broker.now();
        let limits = broker.limits_of(&accepted.listener);
        let write_stall_timeout = limits.write_stall_timeout;
        let machine = Connection::new(now, Arc::clone(&limits));
        let deadline = machine.deadline().unwrap_or(now);
        let transport = accepted.transport;
        let brake = Brake::of(broker.extras.rates(&accepted.listener).as_ref());
        let decoder = Decoder::server(DecodeLimits {
            maximum_packet_size: limits.connect_packet_size.min(limits.maximum_packet_size),
            maximum_topic_levels: u16::try_from(limits.topic_levels).unwrap_or(u16::MAX),
            maximum_filters: u16::try_from(limits.filters_per_subscribe).unwrap_or(u16::MAX),
            ..DecodeLimits::default()
        });
        Self {
            timer: Box::pin(tokio::time::sleep_until(broker.when(deadline))),
            machine,
            decoder,
            stream,
            accepted: Arc::new(accepted),
            broker,
            handle,
            input: BytesMut::new(),
            output: Output::new(),
            unflushed: false,
            connect: None,
            mailbox: None,
            mail: false,
            todo: None,
            asking: None,
            talk: None,
            ask_again: false,
            held: None,
            now,
            round: 0,
            account: Account::new(),
            unfinished: false,
            wakes: Wakes::default(),
            searching: None,
            begun: false,
            deaf: false,
            stalled: None,
            write_stall_timeout,
            asked_generation: 0,
            tally: Tally::new(transport),
            inflight: (0, 0),
            detach_at: None,
            output_told: 0,
            pressing: false,
            denials: Denials::default(),
            brake,
            connected: false,
            closing: None,
        }
    }

    async fn run(&mut self, shutdown: &CancellationToken) -> Closing {
        let mut shutdown = pin!(shutdown.cancelled());
        let broker = Arc::clone(&self.broker);
        let turns = &broker.turns;
        let mut turn = None;
        loop {
            self.work();
            while let Some(todo) = self.todo.take() {
                self.account.spend(cost::CONNECT);
                let mut waiting = Box::pin(self.wait_for(todo));
                if once(|cx| waiting.as_mut().poll(cx)).await.is_pending() {
                    if let Some(turn) = turn.take() {
                        turns.pass(turn, cost::CONNECT).await;
                    }
                    waiting.as_mut().await;
                }
                drop(waiting);
                self.work();
            }
            self.tally.add_to(&self.broker.metrics);
            if let Some(closing) = self.closing {
                self.asking = None;
                self.talk = None;
                return closing;
            }
            if !self.unfinished || self.pressing || self.wakes.are_due(self.now) {
                self.wakes.wake();
            }
            if std::mem::take(&mut self.pressing) || self.account.slice_is_over() {
                self.account.pause();
                tokio::task::yield_now().await;
                turn = None;
            }
            match self.next(turns, &mut turn, shutdown.as_mut()).await {
                Event::Ordered | Event::Unfinished => {}
                Event::Wrote => {
                    self.stalled = None;
                    self.begun = self.output.has_remaining();
                }
                Event::Mail => self.mail = true,
                Event::Read(count) => {
                    self.tally.bytes_received(count);
                    self.handle.hear(self.now);
                    self.brake(0, count);
                }
                Event::Gone => self.handle(Input::TransportClosed),
                Event::Timeout if self.stall_ends().is_some_and(|end| end <= self.now) => {
                    self.close(ReasonCode::KEEP_ALIVE_TIMEOUT, Reason::KeepAliveTimeout);
                }
                Event::Timeout => {
                    if !self.connected {
                        // Those who came together and said nothing end at the same moment: one after the other.
                        let own = match turn.take() {
                            Some(own) => own,
                            None => turns.take().await,
                        };
                        turns.pass(own, cost::CLOSE).await;
                    }
                    if self.detach_at.is_some_and(|at| at <= self.now) {
                        self.detach();
                    }
                    self.release_brake();
                    self.machine.handle_timeout(self.now);
                    self.effects();
                }
                Event::Shutdown => {
                    let elsewhere = self.broker.limits_of(&self.accepted.listener).server_reference.is_some();
                    let code = if elsewhere {
                        ReasonCode::USE_ANOTHER_SERVER
                    } else {
                        ReasonCode::SERVER_SHUTTING_DOWN
                    };
                    self.handle(Input::Close { code, reason: Reason::ServerShuttingDown });
                }
            }
        }
    }

    /// Everything that can be done without waiting.
    fn work(&mut self) {
        if let Some(packet) = self.held.take_if(|_| self.asking.is_none()) {
            self.packet(*packet);
        }
        self.packets();
        self.take_mail();
        let reads = self.reads();
        self.machine.set_reading(self.now, reads);
        let inflight = self.machine.session().map_or(self.inflight, inflight);
        if inflight != self.inflight {
            self.tell_inflight(inflight);
            if let Some(mailbox) = &self.mailbox {
                mailbox.set_unacknowledged(inflight.0);
            }
        }
        if self.detach_at.is_none() && (inflight.0 > 0 || self.stalled.is_some()) {
            self.detach_at = Some(self.now.after(DETACH_AFTER));
        }
        self.tell_output();
        self.machine.rest();
    }

    /// Counts what is written and not taken.
    fn tell_output(&mut self) {
        let output = self.output.remaining();
        self.tally.output(output as i64 - self.output_told as i64);
        self.output_told = output;
        if let Some(mailbox) = &self.mailbox {
            mailbox.set_taken(output + self.inflight.1);
        }
    }

    fn packets(&mut self) {
        let lazy = self.stale_generation();
        self.search();
        self.effects();
        while self.closing.is_none()
            && self.todo.is_none()
            && self.machine.wants_packet()
            && self.reads()
            && !self.input.is_empty()
        {
            if self.account.slice_is_over() {
                self.unfinished = true;
                return;
            }
            match self.decoder.decode(&mut self.input) {
                Ok(Some(packet)) => {
                    let asks = matches!(packet, Packet::Publish(_) | Packet::Subscribe(_));
                    if let Some(generation) =
                        lazy.filter(|generation| asks && *generation != self.asked_generation)
                    {
                        self.asked_generation = generation;
                        self.ask();
                    }
                    if asks && self.asking.is_some() {
                        self.held = Some(Box::new(packet));
                        return;
                    }
                    self.packet(packet);
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(connection = self.accepted.id, %error, "malformed packet");
                    let version = self.decoder.version();
                    self.input = BytesMut::new();
                    self.handle(Input::Malformed { error, version });
                }
            }
        }
        if self.input.is_empty() {
            self.input = BytesMut::new(); // An idle connection holds no buffer.
        }
    }

    /// The generation of hooks to ask about before the next PUBLISH or SUBSCRIBE, if there is a newer one.
    fn stale_generation(&self) -> Option<u64> {
        let permit = self.machine.permit()?;
        self.broker.lazy_generation().filter(|generation| *generation > permit.generation)
    }

    fn packet(&mut self, packet: Packet) {
        self.tally.received(packet.packet_type());
        self.account.spend(cost::PACKET);
        if let Packet::Publish(publish) = &packet {
            self.tally.message_received(publish.qos);
            self.brake(1, 0);
        }
        if self.broker.extras.traces.is_active() {
            self.broker.extras.traces.packet(&self.handle, Direction::In, &packet);
        }
        let claimed = self.claim_exclusive(&packet);
        self.handle(Input::Packet(packet));
        self.settle_exclusive(claimed);
    }

    fn handle(&mut self, input: Input) {
        self.machine.handle(self.now, input);
        self.effects();
    }

    fn effects(&mut self) {
        while let Some(effect) = self.machine.poll_effect() {
            self.effect(effect);
        }
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Send(packet) => self.send(&packet),
            Effect::Deliver(delivery) => {
                let (Some(version), Some(maximum)) =
                    (self.machine.version(), self.machine.maximum_packet_size())
                else {
                    return; // It was closed meanwhile; the session keeps what was not acknowledged.
                };
                let now = self.now;
                self.account.spend(cost::SENDING);
                match delivery::write(&delivery, version, maximum, now, &mut self.output) {
                    Ok(()) => {
                        self.tally.message_sent(delivery.qos);
                        if self.broker.extras.traces.is_active() {
                            self.broker.extras.traces.delivery(&self.handle, &delivery);
                        }
                    }
                    Err(delivery::TooLarge) => self.machine.handle(now, Input::TooLarge(delivery.packet_id)),
                }
            }
            Effect::Publish { message, acknowledgement } => {
                self.wakes.is_busy = self.account.is_busy();
                let wakes = Some(&mut self.wakes);
                let outcome = self.broker.router.publish_with(&message, &mut self.tally, wakes);
                self.pressing |= outcome.pressing;
                self.account.spend_on(outcome.deliveries, cost::DELIVERY);
                self.wakes.spend_on(outcome.deliveries, cost::DELIVERY);
                if message.retain {
                    self.account.spend(cost::RETAINING);
                }
                if let Some(acknowledgement) = acknowledgement {
                    let routed = outcome.routed;
                    self.machine.handle(self.now, Input::Published { acknowledgement, routed });
                }
            }
            Effect::PublishLater { message, seconds, acknowledgement } => {
                let routed = self.broker.publish_later(&message, seconds);
                if let Some(acknowledgement) = acknowledgement {
                    self.machine.handle(self.broker.now(), Input::Published { acknowledgement, routed });
                }
            }
            Effect::Subscribe(subscriptions) => {
                let Some(mailbox) = &self.mailbox else { return };
                self.account.spend_on(subscriptions.len(), cost::SUBSCRIPTION);
                let room = self.machine.backlog_room();
                let searching = self.broker.router.subscribe(mailbox, &subscriptions, room);
                match &mut self.searching {
                    Some(before) => before.append(searching),
                    None => self.searching = Some(Box::new(searching)),
                }
                self.search();
            }
            Effect::Unsubscribe(filters) => {
                self.account.spend_on(filters.len(), cost::SUBSCRIPTION);
                if let Some(mailbox) = &self.mailbox {
                    self.broker.router.unsubscribe(mailbox.key, filters.iter());
                }
            }
            Effect::ReviewMail => {
                self.review_search();
                self.review_mail();
            }
            Effect::Reauthorize => self.ask(),
            Effect::Authorize(connect) if connect.properties.authentication_method.is_some() => {
                self.talk(connect);
            }
            Effect::Proof(data) => self.proof(data),
            Effect::Reauthenticate(data) => self.talk_again(data),
            Effect::Authorize(connect) => self.todo = Some(Todo::Authorize(connect)),
            Effect::OpenSession { client_id, device_id, clean_start } => {
                self.todo = Some(Todo::OpenSession { client_id, device_id, clean_start });
            }
            Effect::Connected { version } => {
                self.connected = true;
                self.account.admit();
                self.mail = true;
                self.open_lane(version);
                let limits = *self.decoder.limits();
                let maximum_packet_size =
                    self.machine.maximum_packet_size_from_client().unwrap_or(limits.maximum_packet_size);
                self.decoder.set_limits(DecodeLimits { maximum_packet_size, ..limits });
                self.broker.metrics.clients_connected.inc();
                self.broker.metrics.connect(version, ReasonCode::SUCCESS);
                self.subscribe_automatically();
            }
            Effect::Denied(denied) => {
                let stage = match denied.action {
                    DeniedAction::Publish => Stage::Publish,
                    DeniedAction::Subscribe => Stage::Subscribe,
                    DeniedAction::Will => Stage::Will,
                };
                self.broker.count_denied(&self.accepted.listener, stage);
                self.denials.note(&self.broker, &self.accepted, &self.handle, &denied);
            }
            Effect::Dropped { reason, count } => self.broker.metrics.dropped(reason, count as u64),
            Effect::Limited(limited) => match limited {
                Limited::Messages => self.broker.metrics.rate_limited_client_messages.inc(),
                Limited::Bytes => self.broker.metrics.rate_limited_client_bytes.inc(),
            },
            Effect::Close(closing) => self.closing = Some(closing),
        }
    }

    /// A client that takes messages as they are gets those of QoS 0 without a detour. Not with topic aliases:
    /// those are chosen message by message.
    fn open_lane(&self, version: ProtocolVersion) {
        if self.connect.as_ref().is_some_and(|connect| connect.bridge) {
            return; // Of each message it is looked at where it came from.
        }
        let aliases = self.connect.as_ref().and_then(|connect| connect.properties.topic_alias_maximum);
        if let (Some(mailbox), Some(maximum_packet_size), None | Some(0)) =
            (&self.mailbox, self.machine.maximum_packet_size(), aliases)
        {
            mailbox.set_lane(Some(Lane { version, maximum_packet_size }));
        }
    }

    fn send(&mut self, packet: &Packet) {
        let version = self.decoder.version().unwrap_or(ProtocolVersion::V3_1_1);
        match self.output.push(packet, version) {
            Ok(()) => {
                self.tally.sent(packet.packet_type());
                if self.broker.extras.traces.is_active() {
                    self.broker.extras.traces.packet(&self.handle, Direction::Out, packet);
                }
            }
            Err(error) => tracing::error!(kind = %packet.packet_type(), %error, "a packet cannot be written"),
        }
        if packet.packet_type() == PacketType::ConnAck && !self.connected {
            self.count_refusal(version, packet);
        }
    }

    fn count_refusal(&self, version: ProtocolVersion, packet: &Packet) {
        if let Packet::ConnAck(connack) = packet {
            self.broker.metrics.connect(version, connack.code.reason());
        }
    }

    async fn wait_for(&mut self, todo: Todo) {
        match todo {
            Todo::Authorize(connect) => {
                self.connect = Some(Arc::clone(&connect));
                let admission = self.broker.admit(&self.accepted, &connect, None).await;
                self.now = self.broker.now();
                self.judged(admission);
            }
            Todo::OpenSession { client_id, device_id, clean_start } => {
                let broker = Arc::clone(&self.broker);
                let opened = broker
                    .sessions
                    .open(&self.handle, Name { device_id, client_id }, clean_start, || broker.now())
                    .await;
                self.now = self.broker.now();
                match opened {
                    Ok(Opened { session, mailbox, present }) => {
                        self.inflight = inflight(&session);
                        self.handle.delivers_to(&mailbox);
                        self.mailbox = Some(mailbox);
                        self.handle(Input::SessionOpened { session, present });
                    }
                    Err(refused) => self.handle(Input::SessionRefused(refused)),
                }
            }
        }
    }

    /// Ends the connection from this side. A client that is barred gets nothing that still waits for it; if it
    /// got a part of a packet, there is no place for a last word either.
    fn close(&mut self, code: ReasonCode, reason: Reason) {
        let barred = bars(reason);
        if barred {
            self.held = None;
            self.output.release();
        }
        self.handle(Input::Close { code, reason });
        if barred && self.begun {
            self.output.release();
        }
    }

    /// Tells the gauges how many of the session's messages are inflight, and their bytes.
    fn tell_inflight(&mut self, (count, bytes): (usize, usize)) {
        let change = (count as i64 - self.inflight.0 as i64, bytes as i64 - self.inflight.1 as i64);
        self.tally.inflight(change.0, change.1);
        self.inflight = (count, bytes);
    }

    /// The session and its mailbox, once the machine has let go of them.
    fn handover(&mut self) -> Option<Handover> {
        let session: Box<Session> = self.machine.take_session()?;
        let mailbox = self.mailbox.take()?;
        let accepted = session.will.is_some().then(|| Arc::clone(&self.accepted));
        Some(Handover { session, mailbox, accepted })
    }
}
