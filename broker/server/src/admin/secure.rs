//! TLS in front of the admin API and the pages: the handshake, and what is written down when there is none.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::reason::Reason;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::server::TlsStream;

use super::door::{COALESCE, COALESCED_KEYS};
use crate::audit::AuditLog;
use crate::audit::coalesce::Coalescer;
use crate::clock;
use crate::tls::{HandshakeFailure, SniMatch, TlsServer};

/// As audit records and server certificates name it: no listener can be called so.
pub const ADMIN_TLS: &str = "admin.tls";
/// Handshakes at once; more wait.
const MOST_HANDSHAKES: usize = 32;

/// The TLS of one address or several.
pub struct AdminTls {
    server: Arc<TlsServer>,
    audit: Arc<AuditLog>,
    places: Semaphore,
    failures: Mutex<Coalescer<(IpAddr, Reason)>>,
}

/// The certificate that a connection showed and proved to have the key of.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) fingerprint: CertificateFingerprint,
    /// Whole: rights may hang on it.
    pub(super) subject: Arc<str>,
}

impl AdminTls {
    pub fn new(server: Arc<TlsServer>, audit: Arc<AuditLog>) -> Self {
        let failures = Mutex::new(Coalescer::new(COALESCE, COALESCED_KEYS));
        Self { server, audit, places: Semaphore::new(MOST_HANDSHAKES), failures }
    }

    /// `None`: it failed, which is written down.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> Option<(TlsStream<TcpStream>, Option<Shown>)> {
        let timeout = self.server.current().settings().handshake_timeout;
        match self.server.accept(stream, timeout, &self.places).await {
            Ok(handshaken) => {
                let shown = handshaken.certificate.as_ref().map(|certificate| Shown {
                    fingerprint: certificate.leaf.certificate_fingerprint,
                    subject: certificate.leaf.subject.display.as_str().into(),
                });
                Some((handshaken.stream, shown))
            }
            Err(failure) => {
                self.failed(failure, peer);
                None
            }
        }
    }

    /// Whether a certificate is for this name: then it is no trick to call us so.
    pub(super) fn is_named(&self, name: &str) -> bool {
        matches!(self.server.current().sni_match(Some(name)), SniMatch::Exact | SniMatch::Wildcard)
    }

    fn failed(&self, failure: HandshakeFailure, peer: SocketAddr) {
        tracing::debug!(%peer, reason = %failure.reason, detail = failure.detail, "admin API: TLS handshake failed");
        let mut event = AuditEvent::new(names::HANDSHAKE_FAILED, Outcome::Failure, failure.reason)
            .actor("admin:unknown")
            .field("detail", failure.detail);
        event.listener = Some(ADMIN_TLS.into());
        event.peer_address = Some(peer.ip().to_string());
        event.server_name = failure.server_name;
        event.certificate_fingerprint = failure.certificate_fingerprint;
        event.subject = failure.subject;
        let key = (peer.ip(), failure.reason);
        let due =
            self.failures.lock().unwrap_or_else(PoisonError::into_inner).offer(clock::now(), key, event);
        for event in due {
            self.audit.record(event);
        }
    }
}
