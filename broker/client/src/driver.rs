//! Moves bytes and events between a socket, a session and its users. Decides nothing.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use mqgate_codec::{Decoder, Disconnect, Output, ReasonCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::Message;
use crate::session::{Command, Fault, Received, Session};
use crate::transport::Stream;

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
    pub(crate) events: mpsc::Sender<Message>,
    /// Resolves when the last handle is gone.
    pub(crate) abandoned: oneshot::Receiver<()>,
    pub(crate) end: Arc<OnceLock<End>>,
}

impl Driver {
    /// Until the connection ends. Whoever still waits for an answer then sees the end.
    pub(crate) async fn run(self) {
        let cell = self.end.clone();
        let (reader, writer) = tokio::io::split(self.stream);
        let mut running = Running {
            reader,
            writer,
            decoder: self.decoder,
            input: self.input,
            session: self.session,
            unflushed: false,
            message: None,
            events: self.events,
            pings: self.keep_alive.map(Pings::new),
        };
        let mut commands = self.commands;
        let end = running.run(&mut commands, self.abandoned).await;
        tracing::debug!(cause = end.cause, "connection ended");
        // The end is known before the channels close, so that nobody sees a closed channel without it.
        let _ = cell.set(end);
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
    message: Option<Message>,
    events: mpsc::Sender<Message>,
    pings: Option<Pings>,
}

/// What there is to do next.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on the stack")]
enum Step {
    Command(Option<Command>),
    Read(io::Result<usize>),
    Wrote(io::Result<()>),
    Delivered,
    PingDue,
    Abandoned,
}

impl Running {
    async fn run(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        mut abandoned: oneshot::Receiver<()>,
    ) -> End {
        // CONNACK and a first message may have come in one read.
        if let Err(end) = self.take_packets() {
            return self.close(end).await;
        }
        loop {
            match self.step(commands, &mut abandoned).await {
                Step::Command(Some(Command::Disconnect(disconnect))) => {
                    self.session.command(Command::Disconnect(disconnect));
                    return self.close(End::because("we disconnected")).await;
                }
                Step::Command(Some(command)) => self.session.command(command),
                Step::Command(None) | Step::Abandoned => {
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
        abandoned: &mut oneshot::Receiver<()>,
    ) -> Step {
        let Self { reader, writer, decoder, input, session, unflushed, message, events, pings } = self;
        let wants_commands = session.has_room() && session.output.remaining() < OUTPUT_LIMIT;
        let writes = session.output.has_remaining() || *unflushed;
        let reads = message.is_none();
        if reads && input.capacity() - input.len() < READ_SIZE {
            input.reserve(decoder.missing().max(READ_SIZE));
        }
        let ping_at = pings.as_ref().map(|pings| pings.due);
        tokio::select! {
            _ = abandoned => Step::Abandoned,
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
