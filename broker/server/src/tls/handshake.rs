//! One TLS handshake, and the judgement of the client's certificate after it.

use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use mqgate_identity::certificate::{CertificateFacts, CertificateFingerprint, ClientCertificate};
use mqgate_identity::evaluation::Rejection;
use mqgate_identity::hooks::TlsSession;
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixSeconds;
use rustls::server::Acceptor;
use rustls::{HandshakeKind, NamedGroup, PeerIncompatible};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::judge::{ChainJudge, TurnedAway};
use super::verifier::FINDINGS;
use super::{SniMatch, TlsServer};
use crate::clock;

/// How long a client may keep a place.
const PLACE_TIME: Duration = Duration::from_secs(2);

/// What a finished handshake leaves: the key is proved, the path judged by today's trust set and clock.
pub struct Handshaken<S> {
    pub stream: TlsStream<S>,
    pub session: TlsSession,
    pub group: Option<NamedGroup>,
    pub certificate: Option<Arc<ClientCertificate>>,
    /// How the name that the client gave was met.
    pub sni: SniMatch,
    /// The certificate that the client was shown.
    pub server_certificate: Option<CertificateFingerprint>,
}

/// Why there is no connection, and what is known about who tried.
#[derive(Debug)]
pub struct HandshakeFailure {
    pub reason: Reason,
    /// For the operator.
    pub detail: String,
    pub server_name: Option<String>,
    /// How that name was met; nothing before the client has said hello.
    pub sni: Option<SniMatch>,
    /// Sent by the client; whether it holds the key was not proved.
    pub certificate_fingerprint: Option<CertificateFingerprint>,
    pub subject: Option<String>,
    /// The rest of what it says, if it could be read.
    pub certificate: Option<Presented>,
    pub resumed: bool,
    /// It waits, or waited in vain, for one of the places.
    pub crowded: bool,
}

/// What a client's certificate says, for whoever looks for the reason afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    pub issuer: String,
    /// Hex digits.
    pub serial: String,
    pub not_before: UnixSeconds,
    pub not_after: UnixSeconds,
}

impl TlsServer {
    /// Runs the handshake on `stream` within `time`, waiting for a place included.
    ///
    /// A place is taken once the client has said hello: whoever connects and stays silent holds none.
    ///
    /// rustls does not ask the verifier about a resumed session, and the trust set may have changed while a
    /// full handshake ran: the chain is judged afterwards, unless the verifier has just done that with the
    /// trust set that counts now.
    pub async fn accept<S>(
        &self,
        stream: S,
        time: Duration,
        places: &Semaphore,
    ) -> Result<Handshaken<S>, HandshakeFailure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut failure = HandshakeFailure::new();
        tokio::time::timeout(time, self.accept_untimed(stream, places, &mut failure))
            .await
            .unwrap_or_else(|_| {
                failure.reason = Reason::TlsHandshakeTimeout;
                failure.detail = match failure.crowded {
                    true => format!("no place for a handshake within {time:?}"),
                    false => format!("not finished within {time:?}"),
                };
                None
            })
            .ok_or(failure)
    }

    /// `None`: see `failure`.
    async fn accept_untimed<S>(
        &self,
        stream: S,
        places: &Semaphore,
        failure: &mut HandshakeFailure,
    ) -> Option<Handshaken<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut started = match LazyConfigAcceptor::new(Acceptor::default(), stream).await {
            Ok(started) => started,
            Err(error) => {
                failure.explain(&error);
                return None;
            }
        };
        failure.server_name = started.client_hello().server_name().map(str::to_owned);
        // The set that counts for this connection to the end.
        let set = self.current();
        let sni = set.sni_match(failure.server_name.as_deref());
        failure.sni = Some(sni);
        if sni == SniMatch::Rejected {
            failure.unknown_name(&mut started.io).await;
            return None;
        }
        failure.crowded = true;
        // Nobody closes the semaphore.
        let place = places.acquire().await.ok()?;
        failure.crowded = false;
        let config = match set.config() {
            Ok(config) => config,
            Err(error) => {
                failure.detail = error.to_string();
                return None;
            }
        };

        let (stream, findings) = FINDINGS
            .scope(RefCell::default(), async {
                let stream = with_place(started.into_stream(config), place).await;
                (stream, FINDINGS.with(RefCell::take))
            })
            .await;
        failure.certificate_fingerprint = findings.fingerprint;
        if let Some(leaf) = &findings.leaf {
            failure.presented(leaf);
        }
        let mut stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                match findings.judged {
                    Some((_, Err(rejection))) => failure.rejected(rejection),
                    _ => failure.explain(&error),
                }
                return None;
            }
        };

        let (session, group) = describe(&stream);
        let server_certificate = findings.shown;
        failure.resumed = session.resumed;
        // As the session holds it, restored or fresh.
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let judge = ChainJudge {
            client_auth: set.settings().client_auth,
            trust: set.trust(),
            policy: &set.settings().policy,
        };
        let certificate = match judge.judge(chain, findings, clock::now()) {
            Ok(certificate) => certificate,
            Err(turned_away) => {
                failure.turned_away(turned_away);
                // Too late for an alert with the cause; the refusal itself does not depend on this.
                let _ = stream.shutdown().await;
                return None;
            }
        };
        let certificate = certificate.map(Arc::new);
        Some(Handshaken { stream, session, group, certificate, sni, server_certificate })
    }
}

/// A client that lets us wait gives its place to another, and goes on without: who says hello and stays
/// silent then keeps nobody out.
async fn with_place<T>(handshake: impl Future<Output = T>, place: SemaphorePermit<'_>) -> T {
    let mut handshake = pin!(handshake);
    match tokio::time::timeout(PLACE_TIME, &mut handshake).await {
        Ok(finished) => finished,
        Err(_) => {
            drop(place);
            handshake.await
        }
    }
}

fn describe<S>(stream: &TlsStream<S>) -> (TlsSession, Option<NamedGroup>) {
    let connection = stream.get_ref().1;
    let session = TlsSession {
        version: connection.protocol_version().map_or(0, u16::from),
        cipher_suite: connection.negotiated_cipher_suite().map_or(0, |suite| u16::from(suite.suite())),
        server_name: connection.server_name().map(str::to_owned),
        alpn: connection.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
    };
    (session, connection.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name))
}

impl HandshakeFailure {
    fn new() -> Self {
        Self {
            reason: Reason::Other,
            detail: String::new(),
            server_name: None,
            sni: None,
            certificate_fingerprint: None,
            subject: None,
            certificate: None,
            resumed: false,
            crowded: false,
        }
    }

    /// The library has no alert for it: the record is written out. Nothing is encrypted yet.
    async fn unknown_name<S: AsyncWrite + Unpin>(&mut self, stream: &mut S) {
        // RFC 6066, section 3: unrecognized_name. RFC 8446, section 9.2: missing_extension.
        let (reason, detail, alert) = match &self.server_name {
            Some(name) => {
                (Reason::TlsSniUnknown, format!("no certificate is for the server name \"{name}\""), 112)
            }
            None => (Reason::TlsSniRequired, "the client named no server".to_owned(), 109),
        };
        (self.reason, self.detail) = (reason, detail);
        let fatal_alert = [0x15, 3, 3, 0, 2, 2, alert];
        let _ = stream.write_all(&fatal_alert).await;
        let _ = stream.shutdown().await;
    }

    pub(crate) fn because(reason: Reason, detail: String) -> Self {
        Self { reason, detail, ..Self::new() }
    }

    /// The key was proved, and that was all.
    pub(crate) fn of(turned_away: TurnedAway) -> Self {
        let mut failure = Self::new();
        failure.turned_away(turned_away);
        failure
    }

    fn turned_away(&mut self, (leaf, rejection): TurnedAway) {
        if let Some(leaf) = leaf {
            self.presented(&leaf);
        }
        self.rejected(rejection);
    }

    fn presented(&mut self, leaf: &CertificateFacts) {
        self.certificate_fingerprint = Some(leaf.certificate_fingerprint);
        self.subject = Some(leaf.subject.display.clone());
        self.certificate = Some(Presented {
            issuer: leaf.issuer.display.clone(),
            serial: hex::encode(&leaf.serial),
            not_before: leaf.not_before,
            not_after: leaf.not_after,
        });
    }

    fn rejected(&mut self, rejection: Rejection) {
        self.reason = rejection.reason;
        self.detail = rejection.detail;
    }

    fn explain(&mut self, error: &io::Error) {
        self.detail = error.to_string();
        self.reason = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(error) => tls_reason(error),
            None => Reason::TlsProtocol,
        };
    }
}

fn tls_reason(error: &rustls::Error) -> Reason {
    use PeerIncompatible as Incompatible;
    match error {
        rustls::Error::NoCertificatesPresented => Reason::TlsNoPeerCert,
        // The path's own rejection is in the findings: this is the signature over the handshake.
        rustls::Error::InvalidCertificate(_) => Reason::CertBadSignature,
        rustls::Error::PeerIncompatible(what) => match what {
            Incompatible::ServerDoesNotSupportTls12Or13
            | Incompatible::ServerTlsVersionIsDisabledByOurConfig
            | Incompatible::SupportedVersionsExtensionRequired
            | Incompatible::Tls12NotOffered
            | Incompatible::Tls12NotOfferedOrEnabled
            | Incompatible::Tls13RequiredForQuic => Reason::TlsVersionUnsupported,
            Incompatible::NoCipherSuitesInCommon
            | Incompatible::NoKxGroupsInCommon
            | Incompatible::NoSignatureSchemesInCommon
            | Incompatible::NoEcPointFormatsInCommon
            | Incompatible::NamedGroupsExtensionRequired
            | Incompatible::SignatureAlgorithmsExtensionRequired => Reason::TlsNoSharedCipher,
            _ => Reason::TlsProtocol,
        },
        _ => Reason::TlsProtocol,
    }
}
