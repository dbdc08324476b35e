//! Connections that a proxy hands on: whose they are, by the header in front of them.

use mqgate_identity::hooks::{Attribute, Peer, Value};
use mqgate_identity::reason::Reason;
use rustls::pki_types::CertificateDer;

use super::Inner;
use crate::clock;
use crate::gate::Accepted;
use crate::proxy_protocol::header::SIGNATURE;
use crate::proxy_protocol::{Direct, Header, Proxied, ProxyIdentity, ProxySettings, ReadError, read_header};
use crate::stream::Socket;
use crate::tls::{ChainJudge, Findings, HandshakeFailure};

/// The connection is not to be served; that is counted and written down.
pub(super) struct Closed;

impl Inner {
    /// Reads the header, where there has to be one, and says in `accepted` whose the connection is.
    pub(super) async fn proxied(
        &self,
        socket: &mut Socket,
        settings: &ProxySettings,
        accepted: &mut Accepted,
    ) -> Result<(), Closed> {
        // Who may connect to a Unix socket is the business of its permissions.
        let from_proxy = match socket {
            Socket::Tcp(_) => settings.is_proxy(accepted.peer.address),
            Socket::Unix(_) => true,
        };
        if !from_proxy {
            return self.direct(socket, settings, accepted).await;
        }
        match read_header(socket, settings).await {
            Ok(Header::Local) => Ok(()),
            Ok(Header::Proxied(proxied)) => self.handed_on(*proxied, settings, accepted),
            Err(error) => {
                let audited = !matches!(error, ReadError::Silent);
                self.header_refused(&error.to_string(), audited, accepted);
                Err(Closed)
            }
        }
    }

    /// Whoever is no proxy may not speak like one.
    async fn direct(
        &self,
        socket: &Socket,
        settings: &ProxySettings,
        accepted: &Accepted,
    ) -> Result<(), Closed> {
        if settings.direct == Direct::Deny {
            self.header_refused("it does not come from a network of `proxy_protocol.from`", true, accepted);
            return Err(Closed);
        }
        let Socket::Tcp(stream) = socket else { return Ok(()) };
        let mut first = [0];
        // Neither MQTT nor TLS nor a request of WebSocket begins with one of these. Who says nothing for so long is
        // waited for by whoever reads next.
        let peeked = tokio::time::timeout(settings.timeout, stream.peek(&mut first)).await;
        if matches!(peeked, Ok(Ok(1))) && (first[0] == b'P' || first[0] == SIGNATURE[0]) {
            self.header_refused("a header from an address that is no proxy's", true, accepted);
            return Err(Closed);
        }
        Ok(())
    }

    fn handed_on(
        &self,
        proxied: Proxied,
        settings: &ProxySettings,
        accepted: &mut Accepted,
    ) -> Result<(), Closed> {
        let Proxied { source, facts } = proxied;
        let proxy = accepted.peer.address;
        let (address, port) = match source {
            Some(source) => (source.ip(), source.port()),
            None => (accepted.peer.address, accepted.peer.port),
        };
        accepted.peer = Peer { address: address.to_canonical(), port, via_proxy: Some(proxy) };
        let mut tell = |name: &str, value: Value| {
            accepted.attributes.push(Attribute { name: name.to_owned(), value });
        };
        if let Some(id) = &facts.unique_id {
            tell("proxy.unique_id", Value::Text(printable(id)));
        }
        let ssl = facts.ssl.as_ref().filter(|ssl| ssl.is_tls);
        if let Some(ssl) = ssl
            && ssl.has_certificate
        {
            tell("proxy.verify_result", Value::Integer(i64::from(ssl.verify_result)));
        }
        accepted.tls = facts.tls_session();
        match &settings.identity {
            ProxyIdentity::None => Ok(()),
            ProxyIdentity::CommonName => {
                if let Some(name) = ssl.filter(|ssl| ssl.verified).and_then(|ssl| ssl.common_name.as_ref()) {
                    tell("proxy.cn", Value::Text(name.clone()));
                }
                Ok(())
            }
            ProxyIdentity::Certificate { client_auth, trust, policy } => {
                // A proxy that says it saw no certificate has none to hand on.
                let contradiction = !facts.certificates.is_empty()
                    && facts.ssl.as_ref().is_some_and(|ssl| !ssl.has_certificate);
                if contradiction {
                    self.header_refused(
                        "it carries a certificate that the client did not have",
                        true,
                        accepted,
                    );
                    return Err(Closed);
                }
                let chain: Vec<CertificateDer<'_>> =
                    facts.certificates.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
                tell("proxy.certificate", Value::Boolean(!chain.is_empty()));
                let judge = ChainJudge { client_auth: *client_auth, trust, policy };
                match judge.judge(&chain, Findings::default(), clock::now()) {
                    Ok(certificate) => {
                        accepted.certificate = certificate.map(std::sync::Arc::new);
                        Ok(())
                    }
                    Err(turned_away) => {
                        let mut failure = HandshakeFailure::of(turned_away);
                        failure.server_name.clone_from(&facts.authority);
                        self.failed(failure, accepted);
                        Err(Closed)
                    }
                }
            }
        }
    }

    fn header_refused(&self, detail: &str, audited: bool, accepted: &Accepted) {
        let listener = &*self.name;
        self.parts.metrics.listener_rejected.with_label_values(&[listener, "proxy_header"]).inc();
        tracing::debug!(listener, peer = %accepted.peer.address, detail, "closed: PROXY protocol");
        if audited {
            self.refused(Reason::ProxyHeader, detail, accepted);
        }
    }
}

/// Text as it is, anything else in hexadecimal.
fn printable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.chars().all(|c| c.is_ascii_graphic()) => text.to_owned(),
        _ => hex::encode(bytes),
    }
}
