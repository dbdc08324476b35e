//! Enhanced authentication: AUTH while CONNECT is judged, and re-authentication of a client that is online.
//! [MQTT 5.0, 4.12]
//!
//! Carries methods and data and knows none of them: what they mean is the gate's.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use mqgate_codec::{Auth, Connect, Packet, ReasonCode};
use mqgate_identity::reason::Reason;

use super::online::Online;
use super::{Connection, Effect, Fault, Initiator, State};
use crate::limits::Limits;
use crate::permit::Permit;
use crate::time::Instant;

/// How far a re-authentication is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Exchange {
    #[default]
    None,
    /// The gate is asked.
    Asked,
    /// The client is to go on until then.
    Challenged(Instant),
}

impl Connection {
    /// The gate wants to know more before it decides.
    pub(super) fn challenge(&mut self, now: Instant, connect: Arc<Connect>, data: Option<Bytes>) -> State {
        let Some(method) = connect.properties.authentication_method.clone() else {
            // The gate is not to ask who did not offer it [MQTT-4.12.0-6].
            return self.fail_connect(&connect, Fault::UnexpectedAuth);
        };
        let auth = auth(ReasonCode::CONTINUE_AUTHENTICATION, method, data); // [MQTT-4.12.0-2]
        let mut packet = Packet::Auth(auth);
        if packet.fit(connect.version, maximum_packet_size(&connect)).is_err() {
            return self.fail_connect(&connect, Fault::AuthTooLarge);
        }
        self.effects.push_back(Effect::Send(packet));
        State::AwaitingProof { connect, deadline: now.after(self.limits.connect_timeout) }
    }

    /// What the client answers. Until CONNACK it sends nothing but AUTH and DISCONNECT [MQTT-3.1.2-30].
    pub(super) fn proof(&mut self, connect: Arc<Connect>, packet: Packet) -> State {
        match packet {
            Packet::Auth(auth) if auth.reason == ReasonCode::CONTINUE_AUTHENTICATION => {
                if auth.authentication_method != connect.properties.authentication_method {
                    return self.fail_connect(&connect, Fault::AuthenticationMethodChanged); // [MQTT-4.12.0-5]
                }
                self.effects.push_back(Effect::Proof(detached(auth.authentication_data)));
                State::AwaitingVerdict { connect }
            }
            Packet::Disconnect(disconnect) => {
                self.closed(None, Initiator::Client, disconnect.reason, Reason::Ok)
            }
            Packet::Connect(_) => self.fail_connect(&connect, Fault::SecondConnect),
            _ => self.fail_connect(&connect, Fault::NotAuth),
        }
    }
}

impl Online {
    /// AUTH of a client that is online.
    pub(super) fn auth(&mut self, auth: Auth, effects: &mut VecDeque<Effect>) -> Result<(), Fault> {
        let Some(method) = &self.connect.properties.authentication_method else {
            return Err(Fault::UnexpectedAuth); // [MQTT-4.12.0-7]
        };
        if auth.authentication_method.as_ref() != Some(method) {
            return Err(Fault::AuthenticationMethodChanged); // [MQTT-4.12.1-1]
        }
        let data = detached(auth.authentication_data);
        match (auth.reason, self.exchange) {
            (ReasonCode::RE_AUTHENTICATE, Exchange::None) => effects.push_back(Effect::Reauthenticate(data)),
            (ReasonCode::CONTINUE_AUTHENTICATION, Exchange::Challenged(_)) => {
                effects.push_back(Effect::Proof(data));
            }
            (_, Exchange::None | Exchange::Asked | Exchange::Challenged(_)) => {
                return Err(Fault::UnexpectedAuth);
            }
        }
        self.exchange = Exchange::Asked;
        Ok(())
    }

    /// The gate wants to know more about a client that is online.
    pub(super) fn challenge_again(
        &mut self,
        now: Instant,
        data: Option<Bytes>,
        limits: &Limits,
        effects: &mut VecDeque<Effect>,
    ) -> Result<(), Fault> {
        if self.exchange != Exchange::Asked {
            return Ok(()); // An answer to what was not asked.
        }
        self.exchange = Exchange::Challenged(now.after(limits.connect_timeout));
        self.send_auth(ReasonCode::CONTINUE_AUTHENTICATION, data, effects)
    }

    /// The gate knows who it is, again.
    pub(super) fn reauthenticated(
        &mut self,
        now: Instant,
        mut permit: Box<Permit>,
        limits: &Limits,
        effects: &mut VecDeque<Effect>,
    ) -> Result<(), Fault> {
        if std::mem::take(&mut self.exchange) == Exchange::None {
            return Ok(());
        }
        let data = permit.authentication_data.take();
        self.replace_permit(now, permit, limits, effects);
        self.send_auth(ReasonCode::SUCCESS, data, effects)
    }

    /// Until when the client has to go on with a re-authentication.
    pub(super) fn exchange_ends(&self) -> Option<Instant> {
        match self.exchange {
            Exchange::Challenged(until) => Some(until),
            Exchange::None | Exchange::Asked => None,
        }
    }

    fn send_auth(
        &mut self,
        reason: ReasonCode,
        data: Option<Bytes>,
        effects: &mut VecDeque<Effect>,
    ) -> Result<(), Fault> {
        let method = self.connect.properties.authentication_method.clone().ok_or(Fault::UnexpectedAuth)?;
        let mut packet = Packet::Auth(auth(reason, method, data));
        packet.fit(self.terms.version, self.terms.maximum_packet_size).map_err(|_| Fault::AuthTooLarge)?;
        effects.push_back(Effect::Send(packet));
        Ok(())
    }
}

fn auth(reason: ReasonCode, method: ByteString, data: Option<Bytes>) -> Auth {
    Auth {
        reason,
        authentication_method: Some(method), // [MQTT-4.12.0-5]
        authentication_data: data,
        reason_string: None,
        user_properties: Vec::new(),
    }
}

/// What the client takes, by its CONNECT.
pub(super) fn maximum_packet_size(connect: &Connect) -> u32 {
    connect.properties.maximum_packet_size.map_or(u32::MAX, std::num::NonZeroU32::get)
}

/// The gate may think about it for a while.
fn detached(data: Option<Bytes>) -> Option<Bytes> {
    data.map(|data| Bytes::copy_from_slice(&data))
}
