//! What all connections share, and how one connection is served.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mqgate_codec::Connect;
use mqgate_protocol::limits::Limits;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::audit::AuditLog;
use crate::directory::Connections;
use crate::gate::{Accepted, Admission, Gate};
use crate::metrics::mqtt::MqttMetrics;

/// Who judges a CONNECT.
pub enum Admitter {
    Gate(Arc<Gate>),
    /// A fixed rule, for tests of the data path.
    Rule(Box<dyn Fn(&Accepted, &Connect) -> Admission + Send + Sync>),
}

/// What a [`Broker`] is made of.
pub struct BrokerParts {
    pub admitter: Admitter,
    pub audit: Arc<AuditLog>,
    pub metrics: Arc<MqttMetrics>,
    pub limits: Limits,
}

pub struct Broker {
    pub(crate) admitter: Admitter,
    pub(crate) audit: Arc<AuditLog>,
    pub(crate) metrics: Arc<MqttMetrics>,
    pub(crate) limits: Arc<Limits>,
    connections: Connections,
    connection_ids: AtomicU64,
}

impl Broker {
    pub fn new(parts: BrokerParts) -> Arc<Self> {
        let BrokerParts { admitter, audit, metrics, limits } = parts;
        Arc::new(Self {
            admitter,
            audit,
            metrics,
            limits: Arc::new(limits),
            connections: Connections::default(),
            connection_ids: AtomicU64::new(1),
        })
    }

    /// Everyone connected: to list, to disconnect, to ask again.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// An id for [`Accepted`], never given twice.
    pub fn next_connection_id(&self) -> u64 {
        self.connection_ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Publishes due wills, ends expired sessions and drops expired retained messages, until `shutdown`. To
    /// be run once per broker.
    pub async fn housekeeping(self: Arc<Self>, shutdown: CancellationToken) {
        shutdown.cancelled().await;
    }
}

/// Serves one connection whose transport is up, until it is closed. With `shutdown`, the client is told
/// (MQTT 5.0: DISCONNECT 0x8B) and the connection closed.
pub async fn serve<S>(stream: S, accepted: Accepted, broker: Arc<Broker>, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let _ = (stream, accepted, broker, shutdown);
    unimplemented!("comes with the connection driver")
}
