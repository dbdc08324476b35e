//! Moves bytes and events between a socket, a session and its users. Decides nothing.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use mqgate_codec::{Decoder, Disconnect, Output, ReasonCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::session::{Command, Fault, Received, Session};
use crate::transport::Stream;
use crate::{Delivery, Token};

/// Commands wait while this much is unsent.
const OUTPUT_LIMIT: usize = 256 * 1024;
/// Room for a read, unless a larger packet is known to come.
const READ_SIZE: usize = 8 * 1024;

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// The server's word, if it said one.
    pub(crate) reason: Option<ReasonCode>,
    pub(crate) cause: String,
}

impl End {
    fn because(cause: impl Into<String>) -> Self {
        Self { reason: None, cause: cause.into() }
    }
}

pub(crate) struct Driver {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) decoder: Decoder,
    pub(crate) input: BytesMut,
    pub(crate) session: Session,
    /// `None`: no pings.
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// Of messages that are acknowledged by hand.
    pub(crate) acknowledgements: mpsc::UnboundedReceiver<Token>,
    pub(crate) events: mpsc::Sender<Delivery>,
    /// Received before, and not handed on yet.
    pub(crate) message: Option<Delivery>,
    pub(crate) overflow: Overflow,
    /// Resolves when the connection is to end.
    pub(crate) leave: Pin<Box<dyn Future<Output = Leave> + Send>>,
    pub(crate) end: Arc<OnceLock<End>>,
}

/// How a connection is ended from this side.
#[derive(Debug)]
pub(crate) enum Leave {
    Silently,
    Saying(Disconnect),
}

/// What happens to a message that there is no room for.
#[derive(Debug, Clone)]
pub(crate) enum Overflow {
    /// It waits, and so does everything that the server says.
    Wait,
    /// Of QoS 0 it is dropped and counted when no more room is left than this; the others find room.
    DropQos0 { room: usize, dropped: Arc<AtomicU64> },
}

/// What is left of a connection that ended.
pub(crate) struct Rest {
    pub(crate) session: Session,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) acknowledgements: mpsc::UnboundedReceiver<Token>,
    pub(crate) events: mpsc::Sender<Delivery>,
    pub(crate) message: Option<Delivery>,
}

impl Driver {
    /// Until the connection ends. Whoever still waits for an answer sees the end when the rest is dropped.
    pub(crate) async fn run(self) -> Rest {
        let cell = self.end.clone();
        let (reader, writer) = tokio::io::split(self.stream);
        let mut running = Running {
            reader,
            writer,
            decoder: self.decoder,
            input: self.input,
            session: self.session,
            unflushed: false,
            message: self.message,
            overflow: self.overflow,
            events: self.events,
            pings: self.keep_alive.map(Pings::new),
        };
        let (mut commands, mut acknowledgements) = (self.commands, self.acknowledgements);
        let end = running.run(&mut commands, &mut acknowledgements, self.leave).await;
        tracing::debug!(cause = end.cause, "connection ended");
        // The end is known before the channels close, so that nobody sees a closed channel without it.
        let _ = cell.set(end);
        let Running { session, events, message, .. } = running;
        Rest { session, commands, acknowledgements, events, message }
    }
}

struct Running {
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    decoder: Decoder,
    input: BytesMut,
    session: Session,
    /// Written, but perhaps still in a buffer of TLS.
    unflushed: bool,
    /// Received, and no room for it yet. The socket is not read meanwhile.
    message: Option<Delivery>,
    overflow: Overflow,
    events: mpsc::Sender<Delivery>,
    pings: Option<Pings>,
}

/// What there is to do next.
enum Step {
    Command(Option<Command>),
    Read(io::Result<usize>),
    Wrote(io::Result<()>),
    Delivered,
    PingDue,
    Acknowledge(Token),
    Leave(Leave),
}

impl Running {
    async fn run(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        acknowledgements: &mut mpsc::UnboundedReceiver<Token>,
        mut leave: Pin<Box<dyn Future<Output = Leave> + Send>>,
    ) -> End {
        // CONNACK and a first message may have come in one read.
        if let Err(end) = self.take_packets() {
            return self.close(end).await;
        }
        loop {
            match self.step(commands, acknowledgements, &mut leave).await {
                Step::Command(Some(Command::Disconnect(disconnect))) => {
                    self.session.command(Command::Disconnect(disconnect));
                    return self.close(End::because("we disconnected")).await;
                }
                Step::Command(Some(command)) => self.session.command(command),
                Step::Acknowledge(token) => self.session.acknowledge(token),
                Step::Leave(Leave::Saying(disconnect)) => {
                    self.session.command(Command::Disconnect(disconnect));
                    return self.close(End::because("we disconnected")).await;
                }
                Step::Command(None) | Step::Leave(Leave::Silently) => {
                    return End::because("nobody holds the client any more");
                }
                Step::Read(Ok(0)) => return End::because("the server closed the connection"),
                Step::Read(Ok(_)) | Step::Delivered => {
                    if let Err(end) = self.take_packets() {
                        return self.close(end).await;
                    }
                }
                Step::Wrote(Ok(())) => {}
                Step::Read(Err(error)) | Step::Wrote(Err(error)) => {
                    // What the server said last may still lie unread behind a failed write.
                    return self.last_words(&error).await;
                }
                Step::PingDue => {
                    if let Err(end) = self.ping().await {
                        return end;
                    }
                }
            }
        }
    }

    async fn step(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        acknowledgements: &mut mpsc::UnboundedReceiver<Token>,
        leave: &mut Pin<Box<dyn Future<Output = Leave> + Send>>,
    ) -> Step {
        let Self { reader, writer, decoder, input, session, unflushed, message, events, pings, .. } = self;
        let wants_commands = session.has_room() && session.output.remaining() < OUTPUT_LIMIT;
        let writes = session.output.has_remaining() || *unflushed;
        let reads = message.is_none();
        if reads && input.capacity() - input.len() < READ_SIZE {
            input.reserve(decoder.missing().max(READ_SIZE));
        }
        let ping_at = pings.as_ref().map(|pings| pings.due);
        tokio::select! {
            how = leave => Step::Leave(how),
            Some(token) = acknowledgements.recv() => Step::Acknowledge(token),
            permit = events.reserve(), if message.is_some() => {
                if let (Ok(permit), Some(message)) = (permit, message.take()) {
                    permit.send(message);
                }
                Step::Delivered
            }
            read = reader.read_buf(input), if reads => Step::Read(read),
            wrote = write(writer, &mut session.output, unflushed, pings), if writes => Step::Wrote(wrote),
            command = commands.recv(), if wants_commands => Step::Command(command),
            () = sleep_until(ping_at.unwrap_or_else(Instant::now)), if ping_at.is_some() => Step::PingDue,
        }
    }

    /// Handles what lies in the buffer, up to the first message that nobody has room for.
    fn take_packets(&mut self) -> Result<(), End> {
        while self.message.is_none() {
            let packet = match self.decoder.decode(&mut self.input) {
                Ok(Some(packet)) => packet,
                Ok(None) => return Ok(()),
                Err(error) => return Err(self.fault(error.into())),
            };
            match self.session.packet(packet) {
                Ok(Received::Nothing) => {}
                Ok(Received::Message(message)) => {
                    if let Overflow::DropQos0 { room, dropped } = &self.overflow
                        && message.token.is_none()
                        && self.events.capacity() <= *room
                    {
                        dropped.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    if let Err(mpsc::error::TrySendError::Full(message)) = self.events.try_send(message) {
                        self.message = Some(message);
                    }
                }
                Ok(Received::PingResp) => {
                    if let Some(pings) = &mut self.pings {
                        pings.answered();
                    }
                }
                Ok(Received::Disconnect(disconnect)) => return Err(said(&disconnect)),
                Err(fault) => return Err(self.fault(fault)),
            }
        }
        Ok(())
    }

    /// Tells the server why the connection ends. [MQTT-4.13.1-1]
    fn fault(&mut self, fault: Fault) -> End {
        self.session.command(Command::Disconnect(Disconnect::new(fault.reason())));
        End::because(fault.to_string())
    }

    async fn ping(&mut self) -> Result<(), End> {
        // Who does not read cannot see an answer, but has to tell that he lives.
        let reads = self.message.is_none();
        if reads && self.is_unanswered() {
            // We may have slept, not the server: its answer may lie in the socket.
            let read = self.reader.read_buf(&mut self.input);
            if let Ok(Ok(1..)) = tokio::time::timeout(Duration::ZERO, read).await {
                self.take_packets()?;
            }
        }
        if reads && self.is_unanswered() {
            return Err(End::because("the server did not answer PINGREQ"));
        }
        if let Some(pings) = &mut self.pings {
            pings.sent();
            pings.unanswered &= reads;
        }
        self.session.ping();
        Ok(())
    }

    fn is_unanswered(&self) -> bool {
        self.pings.as_ref().is_some_and(|pings| pings.unanswered)
    }

    /// Sends what is left, as far as the server takes it at once, and closes.
    async fn close(&mut self, end: End) -> End {
        let finish = async {
            self.writer.write_all_buf(&mut self.session.output).await?;
            self.writer.flush().await?;
            self.writer.shutdown().await
        };
        // A server that does not read any more cannot hold us up.
        let _ = tokio::time::timeout(Duration::from_secs(2), finish).await;
        end
    }

    /// A server that refuses to go on says why and closes; our next write may fail before we read it.
    async fn last_words(&mut self, error: &io::Error) -> End {
        let read_on = async {
            while let Ok(1..) = self.reader.read_buf(&mut self.input).await {
                while let Ok(Some(packet)) = self.decoder.decode(&mut self.input) {
                    if let mqgate_codec::Packet::Disconnect(disconnect) = packet {
                        return Some(said(&disconnect));
                    }
                }
            }
            None
        };
        let said = tokio::time::timeout(Duration::from_millis(500), read_on).await;
        said.ok().flatten().unwrap_or_else(|| End::because(format!("the connection broke: {error}")))
    }
}

/// One write of everything that waits, or a flush of what was written.
async fn write(
    writer: &mut WriteHalf<Box<dyn Stream>>,
    output: &mut Output,
    unflushed: &mut bool,
    pings: &mut Option<Pings>,
) -> io::Result<()> {
    if output.has_remaining() {
        writer.write_buf(output).await?;
        *unflushed = true;
        if let Some(pings) = pings {
            pings.wrote();
        }
    } else {
        writer.flush().await?;
        *unflushed = false;
    }
    Ok(())
}

fn said(disconnect: &Disconnect) -> End {
    let reason = disconnect.reason;
    let cause = match &disconnect.reason_string {
        Some(text) => format!("the server disconnected us: {reason}: {text}"),
        None => format!("the server disconnected us: {reason}"),
    };
    End { reason: Some(reason), cause }
}

/// When to say PINGREQ, and when to stop waiting for its answer. [MQTT-3.1.2-20]
struct Pings {
    interval: Duration,
    due: Instant,
    unanswered: bool,
}

impl Pings {
    fn new(keep_alive: Duration) -> Self {
        // A little early, so that it arrives in time.
        let interval = keep_alive.mul_f32(0.75);
        Self { interval, due: Instant::now() + interval, unanswered: false }
    }

    /// Anything we send tells the server that we live.
    fn wrote(&mut self) {
        if !self.unanswered {
            self.due = Instant::now() + self.interval;
        }
    }

    fn sent(&mut self) {
        self.unanswered = true;
        self.due = Instant::now() + self.interval;
    }

    fn answered(&mut self) {
        self.unanswered = false;
        self.due = Instant::now() + self.interval;
    }
}
