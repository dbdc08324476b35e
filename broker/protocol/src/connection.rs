//! One network connection of a client, from CONNECT to its end, as a state machine.
//!
//! Takes [`Input`]s, emits [`Effect`]s, and never waits, locks or reads a clock. Knows nothing of bytes,
//! sockets and other connections: what concerns those is an effect that the driver carries out, in order.

mod aliases;
mod authentication;
mod effect;
mod fault;
mod handshake;
mod incoming;
mod managing;
mod online;
mod outgoing;
mod rate;
mod subscribing;
mod terms;

use std::collections::VecDeque;
use std::sync::Arc;

use mqgate_codec::{Connect, Packet, ProtocolVersion, ReasonCode};
use mqgate_identity::reason::Reason;

pub use self::effect::{
    Acknowledgement, Closing, Denied, DeniedAction, Effect, Input, Limited, NewSubscription, Refused, Routed,
};
pub use self::fault::{Fault, Initiator, bars};
use self::online::Online;
use self::terms::Terms;
use crate::limits::Limits;
use crate::permit::Permit;
use crate::session::Session;
use crate::time::Instant;

#[derive(Debug)]
pub struct Connection {
    state: State,
    limits: Arc<Limits>,
    effects: VecDeque<Effect>,
}

#[derive(Debug)]
enum State {
    AwaitingConnect {
        deadline: Instant,
    },
    /// The gate is asked.
    AwaitingVerdict {
        connect: Arc<Connect>,
    },
    /// The gate has asked the client to go on with its authentication.
    AwaitingProof {
        connect: Arc<Connect>,
        deadline: Instant,
    },
    /// The session is fetched, from an older connection if need be.
    AwaitingSession {
        connect: Arc<Connect>,
        terms: Terms,
        permit: Box<Permit>,
    },
    Online(Box<Online>),
    /// With the session, if there was one, until it is taken.
    Closed {
        session: Option<Box<Session>>,
    },
}

impl Connection {
    pub fn new(now: Instant, limits: Arc<Limits>) -> Self {
        let deadline = now.after(limits.connect_timeout);
        Self { state: State::AwaitingConnect { deadline }, limits, effects: VecDeque::new() }
    }

    pub fn handle(&mut self, now: Instant, input: Input) {
        if self.is_everyday(&input) {
            self.everyday(now, input);
            return;
        }
        let state = std::mem::replace(&mut self.state, State::Closed { session: None });
        self.state = match (state, input) {
            (State::AwaitingConnect { .. }, Input::Packet(Packet::Connect(connect))) => {
                self.connect(*connect)
            }
            (State::AwaitingConnect { .. }, Input::Packet(_)) => {
                self.fail_before_online(None, Fault::NotConnect)
            }
            (State::AwaitingConnect { .. }, Input::Malformed { error, version }) => {
                self.fail_before_online(version, Fault::Malformed(error))
            }
            (State::AwaitingVerdict { connect }, Input::Challenge(data)) => {
                self.challenge(now, connect, data)
            }
            (State::AwaitingProof { connect, .. }, Input::Packet(packet)) => self.proof(connect, packet),
            (State::AwaitingProof { connect, .. }, Input::Malformed { error, .. }) => {
                self.fail_connect(&connect, Fault::Malformed(error))
            }
            (State::AwaitingVerdict { connect }, Input::Admitted(permit)) => self.admitted(connect, permit),
            (State::AwaitingVerdict { connect }, Input::Refused(refused)) => self.refused(&connect, &refused),
            (
                State::AwaitingSession { connect, terms, permit },
                Input::SessionOpened { session, present },
            ) => self.opened(now, connect, terms, permit, session, present),
            (State::AwaitingSession { connect, .. }, Input::SessionRefused(refused)) => {
                self.refused(&connect, &refused)
            }
            (State::Online(online), input) => self.online(now, online, input),
            (State::AwaitingConnect { .. }, Input::Close { code, reason }) => {
                self.closed(None, Initiator::Server, code, reason)
            }
            (
                State::AwaitingVerdict { connect }
                | State::AwaitingProof { connect, .. }
                | State::AwaitingSession { connect, .. },
                Input::Close { code, reason },
            ) => self.refused(&connect, &Refused::new(code, reason)),
            (State::AwaitingProof { connect, .. }, Input::Refused(refused)) => {
                self.refused(&connect, &refused)
            }
            (
                State::AwaitingConnect { .. }
                | State::AwaitingVerdict { .. }
                | State::AwaitingProof { .. }
                | State::AwaitingSession { .. },
                Input::TransportClosed,
            ) => self.closed(None, Initiator::Network, ReasonCode::UNSPECIFIED_ERROR, Reason::Other),
            // Nothing is read while an answer is awaited, so these come from a driver that asked nothing.
            (
                state @ (State::AwaitingConnect { .. }
                | State::AwaitingVerdict { .. }
                | State::AwaitingProof { .. }
                | State::AwaitingSession { .. }
                | State::Closed { .. }),
                _,
            ) => state,
        };
    }

    /// The next thing to be done.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        let effect = self.effects.pop_front();
        if effect.is_none() && self.effects.capacity() > 64 {
            self.effects = VecDeque::new();
        }
        effect
    }

    /// Nothing is to be done before the next input: gives memory back.
    pub fn rest(&mut self) {
        if self.effects.is_empty() {
            self.effects = VecDeque::new();
        }
    }

    /// When [`Connection::handle_timeout`] is to be called; may move later without notice.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::AwaitingConnect { deadline } | State::AwaitingProof { deadline, .. } => Some(*deadline),
            State::Online(online) => online.deadline(),
            State::AwaitingVerdict { .. } | State::AwaitingSession { .. } | State::Closed { .. } => None,
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.state {
            State::AwaitingConnect { deadline } if *deadline <= now => {
                self.state = self.fail_before_online(None, Fault::ConnectTimeout);
            }
            State::AwaitingProof { connect, deadline } if *deadline <= now => {
                let connect = Arc::clone(connect);
                self.state = self.fail_connect(&connect, Fault::AuthenticationTimeout);
            }
            State::Online(online) => {
                if let Some(fault) = online.timeout(now, &mut self.effects) {
                    self.fail(now, fault);
                }
            }
            State::AwaitingConnect { .. }
            | State::AwaitingVerdict { .. }
            | State::AwaitingProof { .. }
            | State::AwaitingSession { .. }
            | State::Closed { .. } => {}
        }
    }

    /// Whether the next packet is to be read. Not while the gate or the session is awaited, nor while the
    /// client publishes faster than it may.
    pub fn wants_packet(&self) -> bool {
        match &self.state {
            State::AwaitingConnect { .. } | State::AwaitingProof { .. } => true,
            State::Online(online) => !online.is_paused(),
            State::AwaitingVerdict { .. } | State::AwaitingSession { .. } | State::Closed { .. } => false,
        }
    }

    /// The driver says when it stops to read and when it goes on: a client that is not read cannot be heard,
    /// so its silence does not count.
    pub fn set_reading(&mut self, now: Instant, reading: bool) {
        if let State::Online(online) = &mut self.state {
            online.set_reading(now, reading);
        }
    }

    /// Sends retained messages that wait, about `bytes` of them at once; says whether there were any that can
    /// be sent now. The driver calls this whenever it has room.
    pub fn send_backlog(&mut self, now: Instant, bytes: usize) -> bool {
        match &mut self.state {
            State::Online(online) => online.send_backlog(now, bytes, &mut self.effects),
            State::AwaitingConnect { .. }
            | State::AwaitingVerdict { .. }
            | State::AwaitingProof { .. }
            | State::AwaitingSession { .. }
            | State::Closed { .. } => false,
        }
    }

    /// The client is slow: what it has not acknowledged may stay for long.
    pub fn detach_small(&mut self) {
        if let State::Online(online) = &mut self.state {
            online.session.inflight.detach_small();
        }
    }

    /// How many more retained messages may wait for the client.
    pub fn backlog_room(&self) -> usize {
        self.session().map_or(0, |session| self.limits.retained_backlog.saturating_sub(session.backlog.len()))
    }

    /// Messages above QoS 0 that may be sent now; `None`: none of any kind, older ones come first.
    pub fn quota(&self) -> Option<usize> {
        match &self.state {
            State::Online(online) => online.quota(),
            State::AwaitingConnect { .. }
            | State::AwaitingVerdict { .. }
            | State::AwaitingProof { .. }
            | State::AwaitingSession { .. }
            | State::Closed { .. } => None,
        }
    }

    /// The version of a client that is online.
    pub fn version(&self) -> Option<ProtocolVersion> {
        Some(self.terms()?.version)
    }

    /// The largest packet that a client which is online takes.
    pub fn maximum_packet_size(&self) -> Option<u32> {
        Some(self.terms()?.maximum_packet_size)
    }

    /// The largest packet that a client which is online may send.
    pub fn maximum_packet_size_from_client(&self) -> Option<u32> {
        Some(self.terms()?.maximum_packet_size_from_client)
    }

    pub fn permit(&self) -> Option<&Permit> {
        match &self.state {
            State::AwaitingSession { permit, .. } => Some(permit),
            State::Online(online) => Some(&online.permit),
            State::AwaitingConnect { .. }
            | State::AwaitingVerdict { .. }
            | State::AwaitingProof { .. }
            | State::Closed { .. } => None,
        }
    }

    /// The session, while the client is online.
    pub fn session(&self) -> Option<&Session> {
        match &self.state {
            State::Online(online) => Some(&online.session),
            State::AwaitingConnect { .. }
            | State::AwaitingVerdict { .. }
            | State::AwaitingProof { .. }
            | State::AwaitingSession { .. }
            | State::Closed { .. } => None,
        }
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// Once closed: the session, with its will and its end, for whoever owns it next.
    pub fn take_session(&mut self) -> Option<Box<Session>> {
        match &mut self.state {
            State::Closed { session } => session.take(),
            State::AwaitingConnect { .. }
            | State::AwaitingVerdict { .. }
            | State::AwaitingProof { .. }
            | State::AwaitingSession { .. }
            | State::Online(_) => None,
        }
    }

    fn terms(&self) -> Option<&Terms> {
        match &self.state {
            State::AwaitingSession { terms, .. } => Some(terms),
            State::Online(online) => Some(&online.terms),
            State::AwaitingConnect { .. }
            | State::AwaitingVerdict { .. }
            | State::AwaitingProof { .. }
            | State::Closed { .. } => None,
        }
    }

    fn closed(
        &mut self,
        session: Option<Box<Session>>,
        initiator: Initiator,
        code: ReasonCode,
        reason: Reason,
    ) -> State {
        self.effects.push_back(Effect::Close(Closing { initiator, code, reason }));
        State::Closed { session }
    }
}
