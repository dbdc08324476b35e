//! One connection on its way up: counted, through the TLS handshake where there is one, handed to [`serve`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use mqgate_identity::hooks::Peer;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::Inner;
use crate::broker::serve;
use crate::clock;
use crate::gate::Accepted;
use crate::stream::ServerStream;
use crate::tls::Handshaken;

impl Inner {
    pub(super) async fn handle(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        place: Option<OwnedSemaphorePermit>,
        shutdown: CancellationToken,
    ) {
        let listener = &*self.settings.name;
        let metrics = &self.parts.metrics;
        metrics.listener_accepted.with_label_values(&[listener]).inc();
        let _open = Raised::new(metrics.listener_connections.with_label_values(&[listener]));
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "no TCP_NODELAY");
        }
        let mut accepted = Accepted {
            id: self.parts.broker.next_connection_id(),
            listener: Arc::clone(&self.settings.name),
            accepted_at: clock::now(),
            peer: Peer { address: peer.ip().to_canonical(), port: peer.port(), via_proxy: None },
            tls: None,
            certificate: None,
        };
        let Some(tls) = &self.settings.tls else {
            let broker = Arc::clone(&self.parts.broker);
            serve(ServerStream::Tcp(stream), accepted, broker, shutdown).await;
            return;
        };
        let started = Instant::now();
        let Some(unfinished) = self.unfinished.enter(peer.ip()) else {
            metrics.listener_rejected.with_label_values(&[listener, "max_conn"]).inc();
            tracing::debug!(listener, %peer, "closed: its source has too many unfinished handshakes");
            return;
        };
        let timeout = tls.current().settings().handshake_timeout;
        let handshake = tokio::select! {
            () = shutdown.cancelled() => return,
            handshake = tls.accept(stream, timeout, &self.handshakes) => handshake,
        };
        drop(unfinished);
        let Handshaken { stream, session, group, certificate, sni } = match handshake {
            Ok(handshaken) => handshaken,
            Err(failure) => return self.failed(failure, &accepted),
        };
        metrics.tls_sni.with_label_values(&[listener, sni.as_str()]).inc();
        let version = if session.version == 0x0303 { "1.2" } else { "1.3" };
        self.count(&session, version, group, certificate.is_some(), started);
        let has_certificate = if certificate.is_some() { "present" } else { "none" };
        let labels = [listener, version, has_certificate];
        let _live = Raised::new(metrics.tls_live_connections.with_label_values(&labels));
        accepted.tls = Some(session);
        accepted.certificate = certificate;
        let broker = Arc::clone(&self.parts.broker);
        serve(ServerStream::Tls(Box::new(stream)), accepted, broker, shutdown).await;
        drop(place);
    }
}

/// A gauge that is one higher as long as this lives.
struct Raised(prometheus::IntGauge);

impl Raised {
    fn new(gauge: prometheus::IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        self.0.dec();
    }
}
