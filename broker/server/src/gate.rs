//! The gate: everything between a finished handshake with a CONNECT packet and a [`Permit`].

use std::sync::Arc;

use bytestring::ByteString;
use mqgate_codec::{Connect, ReasonCode};
use mqgate_identity::certificate::ClientCertificate;
use mqgate_identity::hooks::{Peer, TlsSession};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixMillis;
use mqgate_protocol::permit::Permit;

/// What is known about a connection once its transport is up, before CONNECT.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// Unique within the process.
    pub id: u64,
    pub listener: Arc<str>,
    pub accepted_at: UnixMillis,
    pub peer: Peer,
    pub tls: Option<TlsSession>,
    /// Its key was proved and its path judged, also after a resumption.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// The answer to CONNECT.
#[derive(Debug)]
pub enum Admission {
    Admitted(Box<Permit>),
    Refused(Refusal),
}

/// Already audited and counted when it is returned.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub reason: Reason,
    /// For MQTT 5.0; mapped for 3.1.1 by the protocol machine.
    pub code: ReasonCode,
    pub reason_string: Option<ByteString>,
    pub server_reference: Option<ByteString>,
    /// Sent as the user property `retry-after`, seconds.
    pub retry_after: Option<u32>,
}

/// Judges connections.
#[derive(Default)]
pub struct Gate {}

impl Gate {
    /// Runs registry, authenticators, registrars and authorizers for one CONNECT, and audits the outcome.
    pub async fn admit(&self, accepted: &Accepted, connect: &Connect) -> Admission {
        let _ = (accepted, connect);
        todo!("the gate's author writes this")
    }
}
