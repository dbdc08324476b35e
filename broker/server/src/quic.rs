//! QUIC: a connection's one bidirectional stream carries MQTT, as in EMQX's first mode.
//!
//! The handshake is TLS 1.3 with the same certificates, verifier and judgement as over TCP; there is no early
//! data and no resumption. Other streams are not granted.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use mqgate_identity::certificate::{CertificateFingerprint, ClientCertificate};
use mqgate_identity::hooks::TlsSession;
use mqgate_identity::reason::Reason;
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{ConnectionError, IdleTimeout, Incoming, RecvStream, SendStream, TransportConfig, VarInt};
use rustls::AlertDescription;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock;
use crate::tls::{ChainJudge, Findings, HandshakeFailure, TlsError, TlsSet};

/// Bytes a client may have on the way, and we.
const WINDOW: u32 = 256 * 1024;
/// Handshakes that nobody has looked at yet, and the bytes of their first packets.
const MOST_WAITING: usize = 1024;
const WAITING_BYTES: u64 = 8 << 20;
/// For what was written last to be acknowledged.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// QUIC on one listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuicSettings {
    /// Without a sign of life the connection is gone. One is asked for three times as often.
    pub idle_timeout: Duration,
    /// Whether a client may go on from another address.
    pub migration: bool,
}

/// What a finished handshake leaves.
pub(crate) struct QuicHandshaken {
    pub(crate) stream: QuicStream,
    pub(crate) session: TlsSession,
    pub(crate) certificate: Option<Arc<ClientCertificate>>,
    /// The certificate that the client was shown.
    pub(crate) server_certificate: Option<CertificateFingerprint>,
}

/// The stream of one connection.
pub struct QuicStream {
    send: SendStream,
    receive: RecvStream,
    connection: quinn::Connection,
    delivered: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// The configuration for new connections, with today's trust set.
pub(crate) fn server_config(set: &TlsSet, settings: QuicSettings) -> Result<quinn::ServerConfig, TlsError> {
    server_config_of(set.config()?, settings)
}

fn server_config_of(
    config: Arc<rustls::ServerConfig>,
    settings: QuicSettings,
) -> Result<quinn::ServerConfig, TlsError> {
    let crypto = QuicServerConfig::try_from(config).map_err(|_| {
        TlsError::Library(String::from("QUIC needs the cipher suite TLS_AES_128_GCM_SHA256 of TLS 1.3"))
    })?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(IdleTimeout::try_from(settings.idle_timeout).ok())
        .keep_alive_interval(Some(settings.idle_timeout / 3))
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(u64::from(WINDOW));
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::new(transport))
        .migration(settings.migration)
        .max_incoming(MOST_WAITING)
        .incoming_buffer_size(WAITING_BYTES / MOST_WAITING as u64)
        .incoming_buffer_size_total(WAITING_BYTES);
    Ok(config)
}

/// Runs the handshake, judges the client's certificate, and waits for the stream; all within the listener's
/// handshake timeout.
pub(crate) async fn handshake(
    incoming: Incoming,
    set: &TlsSet,
    settings: QuicSettings,
) -> Result<QuicHandshaken, HandshakeFailure> {
    let time = set.settings().handshake_timeout;
    match tokio::time::timeout(time, handshake_untimed(incoming, set, settings)).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let detail = format!("not finished within {time:?}");
            Err(HandshakeFailure::because(Reason::TlsHandshakeTimeout, detail))
        }
    }
}

async fn handshake_untimed(
    incoming: Incoming,
    set: &TlsSet,
    settings: QuicSettings,
) -> Result<QuicHandshaken, HandshakeFailure> {
    let (config, shown) = set
        .config_that_notes()
        .and_then(|(config, shown)| Ok((server_config_of(config, settings)?, shown)))
        .map_err(|error| HandshakeFailure::because(Reason::Other, error.to_string()))?;
    let connection = incoming.accept_with(Arc::new(config)).map_err(|error| failure(&error))?;
    let connection = connection.await.map_err(|error| failure(&error))?;
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    let session = TlsSession {
        version: 0x0304,
        // The library does not tell.
        cipher_suite: 0,
        server_name: data.as_ref().and_then(|data| data.server_name.clone()),
        alpn: data
            .and_then(|data| data.protocol)
            .map(|protocol| String::from_utf8_lossy(&protocol).into_owned()),
        resumed: false,
    };
    let chain: Vec<CertificateDer<'static>> = connection
        .peer_identity()
        .and_then(|identity| identity.downcast().ok())
        .map(|chain| *chain)
        .unwrap_or_default();
    let judge = ChainJudge {
        client_auth: set.settings().client_auth,
        trust: set.trust(),
        policy: &set.settings().policy,
    };
    let certificate = judge.judge(&chain, Findings::default(), clock::now()).map_err(|turned_away| {
        connection.close(VarInt::from_u32(1), b"the client's certificate is refused");
        let mut failure = HandshakeFailure::of(turned_away);
        failure.server_name.clone_from(&session.server_name);
        failure
    })?;
    let (send, receive) = connection.accept_bi().await.map_err(|error| failure(&error))?;
    Ok(QuicHandshaken {
        stream: QuicStream { send, receive, connection, delivered: None },
        session,
        certificate: certificate.map(Arc::new),
        server_certificate: shown.get().copied(),
    })
}

/// The verifier's words stay in the library: what is left of them is the alert.
fn failure(error: &ConnectionError) -> HandshakeFailure {
    let reason = match error {
        ConnectionError::TransportError(error) => match u64::from(error.code) {
            code @ 0x100..=0x1FF => u8::try_from(code - 0x100).map_or(Reason::TlsProtocol, alert_reason),
            _ => Reason::TlsProtocol,
        },
        ConnectionError::TimedOut => Reason::TlsHandshakeTimeout,
        ConnectionError::VersionMismatch => Reason::TlsVersionUnsupported,
        ConnectionError::ConnectionClosed(_)
        | ConnectionError::ApplicationClosed(_)
        | ConnectionError::Reset
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => Reason::TlsProtocol,
    };
    HandshakeFailure::because(reason, error.to_string())
}

fn alert_reason(alert: u8) -> Reason {
    match AlertDescription::from(alert) {
        AlertDescription::BadCertificate => Reason::CertMalformed,
        // Handshakes ask lists, not the registry.
        AlertDescription::CertificateRevoked => Reason::CertRevokedCrl,
        AlertDescription::CertificateExpired => Reason::CertExpired,
        AlertDescription::UnsupportedCertificate => Reason::CertPurpose,
        AlertDescription::UnknownCA => Reason::CertUnknownCa,
        AlertDescription::DecryptError => Reason::CertBadSignature,
        AlertDescription::CertificateRequired => Reason::TlsNoPeerCert,
        AlertDescription::HandshakeFailure => Reason::TlsNoSharedCipher,
        AlertDescription::ProtocolVersion => Reason::TlsVersionUnsupported,
        _ => Reason::TlsProtocol,
    }
}

impl AsyncRead for QuicStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.receive), cx, buf)
    }
}

impl AsyncWrite for QuicStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    /// Done when everything has arrived: the connection ends with this value, and takes with it what has not.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let delivered = this.delivered.get_or_insert_with(|| {
            // It may have been finished by the client.
            let _ = this.send.finish();
            let stopped = this.send.stopped();
            Box::pin(async move {
                let _ = tokio::time::timeout(LAST_WORDS, stopped).await;
            })
        });
        delivered.as_mut().poll(cx).map(Ok)
    }
}

impl Drop for QuicStream {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(0), b"");
    }
}
