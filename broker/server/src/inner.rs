//! Clients within this process: bridges. They speak MQTT like any other, over memory instead of a socket, and hold
//! permits of their own. The gate is not asked about them: the configuration is the operator's word.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use mqgate_codec::{Connect, ReasonCode};
use mqgate_identity::hooks::{AclRule, Effect, GrantLimits, Peer};
use mqgate_identity::reason::Reason;
use mqgate_protocol::permit::{GrantError, Granted, Permit};
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, serve};
use crate::clock;
use crate::directory::lock;
use crate::gate::{Accepted, Admission, Refusal};
use crate::metrics::mqtt::Transport;
use crate::sessions::Name;

/// Devices whose names begin like this are inside: nobody from outside gets such an identity.
pub const PREFIX: &str = "$bridge/";
/// The listener that they are shown with.
pub const LISTENER: &str = "$bridge";
/// Bytes that either side may be ahead of the other.
const PIPE: usize = 64 * 1024;

/// A client inside, and what it may do.
#[derive(Debug, Clone)]
pub struct InnerClient {
    /// Without [`PREFIX`].
    pub name: String,
    /// Everything else is denied.
    pub rules: Vec<AclRule>,
}

/// Those that are connected, by connection id, which only the broker gives.
#[derive(Default)]
pub(crate) struct InnerClients {
    count: AtomicUsize,
    known: Mutex<HashMap<u64, Arc<InnerClient>>>,
}

impl InnerClient {
    /// Whether its rules can be compiled.
    pub fn check(&self) -> Result<(), GrantError> {
        self.permit(&self.name).map(drop)
    }

    fn permit(&self, client_id: &str) -> Result<Permit, GrantError> {
        let mut permit = Permit::granted_by(&Granted {
            client_id: client_id.into(),
            assigned: false,
            device_id: &format!("{PREFIX}{}", self.name),
            tenant: None,
            certificate_fingerprint: None,
            rules: &self.rules,
            otherwise: Effect::Deny,
            limits: GrantLimits::default(),
            valid_for: None,
            generation: 0,
        })?;
        permit.granted_at = Some(clock::now());
        Ok(permit)
    }
}

impl Broker {
    /// A connection of `client`; CONNECT is still to come. The task ends with the connection.
    pub fn connect_inside(
        self: &Arc<Self>,
        client: &Arc<InnerClient>,
        shutdown: CancellationToken,
    ) -> (DuplexStream, JoinHandle<()>) {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let accepted = Accepted {
            id: self.next_connection_id(),
            listener: LISTENER.into(),
            accepted_at: clock::now(),
            transport: Transport::Unix,
            peer: Peer { address: std::net::Ipv4Addr::LOCALHOST.into(), port: 0, via_proxy: None },
            tls: None,
            certificate: None,
            attributes: Vec::new(),
            server_certificate: None,
        };
        let (broker, client) = (Arc::clone(self), Arc::clone(client));
        let task = tokio::spawn(async move {
            let id = accepted.id;
            lock(&broker.inner.known).insert(id, client);
            broker.inner.count.fetch_add(1, Ordering::Release);
            serve(theirs, accepted, Arc::clone(&broker), shutdown).await;
            lock(&broker.inner.known).remove(&id);
            broker.inner.count.fetch_sub(1, Ordering::Release);
        });
        (ours, task)
    }

    /// Forgets the session of a client inside.
    pub async fn end_inside(&self, name: &str, client_id: &str) -> bool {
        let device_id = format!("{PREFIX}{name}").into();
        self.end_session(&Name { device_id, client_id: client_id.into() }).await
    }

    /// Whether this connection comes from inside.
    pub(crate) fn inside(&self, accepted: &Accepted) -> Option<Arc<InnerClient>> {
        if self.inner.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        lock(&self.inner.known).get(&accepted.id).cloned()
    }
}

/// The answer to its CONNECT.
pub(crate) fn admit(client: &InnerClient, connect: &Connect) -> Admission {
    match client.permit(&connect.client_id) {
        Ok(permit) => Admission::Admitted(Box::new(permit)),
        Err(error) => {
            tracing::error!(client = client.name, %error, "a client inside cannot be given a permit");
            refused()
        }
    }
}

/// Somebody outside claims, with a plugin's word, to be inside.
pub(crate) fn keep_outside(admission: Admission) -> Admission {
    match admission {
        Admission::Admitted(permit) if permit.device_id.starts_with(PREFIX) => {
            tracing::error!(device_id = %permit.device_id, "a device has a name that only bridges may have");
            refused()
        }
        admission => admission,
    }
}

fn refused() -> Admission {
    Admission::Refused(Refusal {
        reason: Reason::PluginInvalid,
        code: ReasonCode::NOT_AUTHORIZED,
        reason_string: None,
        server_reference: None,
        retry_after: None,
    })
}
