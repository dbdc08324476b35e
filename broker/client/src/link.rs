//! A session on this side that outlives its connections: what was sent and not acknowledged is sent again on the
//! next one, and what was received twice is handed on once.
//!
//! When and where to connect is the caller's decision; whoever publishes or receives does not notice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mqgate_codec::{ConnAck, Disconnect, ProtocolVersion, ReasonCode};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::client::keep_alive;
use crate::driver::{Driver, Leave, Overflow, Rest};
use crate::session::Session;
use crate::{ConnectError, ConnectOptions, Delivery, Handle, RawConnection, Token, Transport};

/// When the server hears that a message has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledge {
    OnReceipt,
    /// When [`Incoming::acknowledge`] says so.
    ByHand,
}

#[derive(Debug, Clone)]
pub struct LinkOptions {
    pub version: ProtocolVersion,
    pub acknowledge: Acknowledge,
    /// Messages above QoS 0 that the server may send before the first of them is acknowledged; there is always
    /// room for these. 3.1.1 cannot tell the server.
    pub receive_maximum: u16,
    /// Messages of QoS 0 that may wait for [`Incoming::recv`]; more are dropped and counted.
    pub qos0_room: usize,
}

/// The session, without a connection or with one.
pub struct Link {
    version: ProtocolVersion,
    overflow: Overflow,
    /// `None` only while [`Link::run`] has it.
    rest: Option<Rest>,
}

/// A connection that is up and serves nothing yet.
pub struct Connected {
    raw: RawConnection,
    keep_alive: Option<Duration>,
}

/// What the server sends.
pub struct Incoming {
    events: mpsc::Receiver<Delivery>,
    acknowledgements: mpsc::UnboundedSender<Token>,
    dropped: Arc<AtomicU64>,
}

impl Link {
    pub fn new(options: &LinkOptions) -> (Self, Handle, Incoming) {
        let by_hand = options.acknowledge == Acknowledge::ByHand;
        let (commands, command_receiver) = mpsc::channel(64);
        let (acknowledgements, acknowledgement_receiver) = mpsc::unbounded_channel();
        // Without a receive maximum a server may use every packet identifier.
        let above_qos0 = match (by_hand, options.version) {
            (false, _) => 0,
            (true, ProtocolVersion::V5) => usize::from(options.receive_maximum),
            (true, ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1) => usize::from(u16::MAX),
        };
        let (event_sender, events) = mpsc::channel(above_qos0 + options.qos0_room.max(1));
        let dropped = Arc::new(AtomicU64::new(0));
        let overflow = match by_hand {
            true => Overflow::DropQos0 { room: above_qos0, dropped: Arc::clone(&dropped) },
            false => Overflow::Wait,
        };
        let rest = Rest {
            session: Session::lasting(options.version, by_hand),
            commands: command_receiver,
            acknowledgements: acknowledgement_receiver,
            events: event_sender,
            message: None,
        };
        let link = Self { version: options.version, overflow, rest: Some(rest) };
        let handle = Handle { commands, end: Arc::default(), _alive: Arc::new(oneshot::channel().0) };
        (link, handle, Incoming { events, acknowledgements, dropped })
    }

    /// Connects, and resumes the session if the server still has it.
    pub async fn connect(&mut self, options: &ConnectOptions) -> Result<(Connected, ConnAck), ConnectError> {
        let within = options.connect_timeout;
        let open = Box::pin(Transport::open(options));
        let transport =
            tokio::time::timeout(within, open).await.map_err(|_| ConnectError::Timeout(within))??;
        self.connect_over(transport, options).await
    }

    /// The same on a stream that exists already.
    pub async fn connect_over(
        &mut self,
        transport: Transport,
        options: &ConnectOptions,
    ) -> Result<(Connected, ConnAck), ConnectError> {
        let options = &ConnectOptions { version: self.version, ..options.clone() };
        let mut raw = RawConnection::over(transport, options);
        let connack = Box::pin(raw.connect(options)).await?;
        if let Some(rest) = &mut self.rest {
            let asked = &options.properties;
            let receive_maximum = asked.receive_maximum.map(Into::into);
            rest.session.resume(receive_maximum, asked.topic_alias_maximum, &connack, Instant::now());
        }
        Ok((Connected { raw, keep_alive: keep_alive(options, &connack) }, connack))
    }

    /// Serves until the connection ends, or until `leave`, which says goodbye; gives the cause. Not to be dropped
    /// before: the session would go with it.
    pub async fn run(
        &mut self,
        connected: Connected,
        leave: impl Future<Output = ()> + Send + 'static,
    ) -> String {
        let Some(rest) = self.rest.take() else { return String::from("the session is gone") };
        let end = Arc::new(OnceLock::new());
        let driver = Driver {
            stream: connected.raw.transport.stream,
            decoder: connected.raw.decoder,
            input: connected.raw.input,
            session: rest.session,
            keep_alive: connected.keep_alive,
            commands: rest.commands,
            acknowledgements: rest.acknowledgements,
            events: rest.events,
            message: rest.message,
            overflow: self.overflow.clone(),
            leave: Box::pin(async move {
                leave.await;
                Leave::Saying(Disconnect::new(ReasonCode::SUCCESS))
            }),
            end: Arc::clone(&end),
        };
        self.rest = Some(driver.run().await);
        end.get().map(|end| end.cause.clone()).unwrap_or_default()
    }
}

impl Incoming {
    /// The next message; `None` once the [`Link`] is gone.
    pub async fn recv(&mut self) -> Option<Delivery> {
        self.events.recv().await
    }

    /// The message has been taken care of.
    pub fn acknowledge(&self, token: Token) {
        // Without a link there is no server to tell.
        let _ = self.acknowledgements.send(token);
    }

    /// Messages that were dropped, since this was last asked.
    pub fn dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}
