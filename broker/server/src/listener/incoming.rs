//! One connection on its way up, from the socket to what speaks MQTT. Whoever gets there is handed to [`serve`].

use std::sync::Arc;
use std::time::Instant;

use mqgate_identity::certificate::ClientCertificate;
use mqgate_identity::hooks::{Peer, TlsSession};
use mqgate_identity::reason::Reason;
use quinn::Incoming;
use rustls::NamedGroup;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::proxied::Closed;
use super::socket::{Arrival, Caller};
use super::source::Counted;
use super::{Inner, ListenerSettings};
use crate::broker::serve;
use crate::clock;
use crate::gate::Accepted;
use crate::metrics::mqtt::Transport;
use crate::quic::{self, QuicHandshaken};
use crate::stream::{Carrier, ServerStream, Socket};
use crate::tls::{Handshaken, TlsServer};
use crate::websocket::{self, UpgradeError, Upgraded, WebSocket, WebSocketSettings};

/// A transport that is up, and the gauges that count it as long as it lives.
struct Up {
    stream: ServerStream,
    _live: Option<Raised>,
}

impl Inner {
    pub(super) async fn handle(
        self: Arc<Self>,
        arrival: Arrival,
        caller: Caller,
        place: Option<OwnedSemaphorePermit>,
        shutdown: CancellationToken,
    ) {
        let listener = &*self.name;
        let metrics = &self.parts.metrics;
        metrics.listener_accepted.with_label_values(&[listener]).inc();
        let _open = Raised::new(metrics.listener_connections.with_label_values(&[listener]));
        let settings = self.settings.load_full();
        let mut accepted = Accepted {
            id: self.parts.broker.next_connection_id(),
            listener: Arc::clone(&settings.name),
            accepted_at: clock::now(),
            transport: settings.transport(),
            peer: caller.peer,
            tls: None,
            certificate: None,
            server_certificate: None,
            attributes: caller.attributes,
        };
        // In a box: what a handshake needs is not kept for as long as the connection lives.
        let up = tokio::select! {
            () = shutdown.cancelled() => return,
            up = Box::pin(self.bring_up(&settings, arrival, &mut accepted)) => up,
        };
        drop(settings);
        let Some(Up { stream, _live }) = up else { return };
        Box::pin(serve(stream, accepted, Arc::clone(&self.parts.broker), shutdown)).await;
        drop(place);
    }

    /// `None`: it did not get that far, which is counted and written down.
    async fn bring_up(
        &self,
        settings: &ListenerSettings,
        arrival: Arrival,
        accepted: &mut Accepted,
    ) -> Option<Up> {
        let mut socket = match arrival {
            Arrival::Socket(socket) => socket,
            Arrival::Quic(incoming) => return self.quic(settings, *incoming, accepted).await,
        };
        if let Socket::Tcp(stream) = &socket
            && let Err(error) = stream.set_nodelay(settings.socket.nodelay)
        {
            tracing::debug!(peer = %accepted.peer.address, %error, "no TCP_NODELAY");
        }
        if let Some(proxy) = &settings.proxy
            && let Err(Closed) = self.proxied(&mut socket, proxy, accepted).await
        {
            return None;
        }
        // From here on `accepted` says whose connection it is.
        if self.is_banned(accepted) || self.comes_too_often(accepted) {
            return None;
        }
        let (carrier, live) = match &settings.tls {
            None => (Carrier::Plain(socket), None),
            Some(tls) => self.handshake(tls, socket, accepted).await?,
        };
        let stream = match &settings.websocket {
            None => carrier.into(),
            Some(websocket) => self.upgrade(websocket, carrier, accepted).await?,
        };
        Some(Up { stream, _live: live })
    }

    async fn quic(
        &self,
        settings: &ListenerSettings,
        incoming: Incoming,
        accepted: &mut Accepted,
    ) -> Option<Up> {
        let (Some(quic), Some(tls)) = (settings.quic, &settings.tls) else { return None };
        // Half of the places are for whoever has shown that the address is its own.
        let crowded = self.handshakes.available_permits() <= settings.max_handshakes / 2;
        if crowded && incoming.may_retry() && !incoming.remote_address_validated() {
            let _ = incoming.retry();
            return None;
        }
        if self.is_banned(accepted) || self.comes_too_often(accepted) {
            return None;
        }
        let unfinished = self.unfinished(accepted)?;
        let Ok(place) = self.handshakes.try_acquire() else {
            incoming.refuse();
            self.parts.metrics.listener_rejected.with_label_values(&[&*self.name, "rate"]).inc();
            return None;
        };
        let started = Instant::now();
        let handshaken = quic::handshake(incoming, &tls.current(), quic).await;
        drop((place, unfinished));
        match handshaken {
            Ok(QuicHandshaken { stream, session, certificate, server_certificate }) => {
                accepted.server_certificate = server_certificate;
                let live = self.established(session, None, certificate, started, accepted);
                Some(Up { stream: ServerStream::Quic(Box::new(stream)), _live: Some(live) })
            }
            Err(failure) => {
                self.failed(failure, accepted);
                None
            }
        }
    }

    /// Whether nobody from this address may come in; which is counted.
    fn is_banned(&self, accepted: &Accepted) -> bool {
        let banned = self.parts.broker.bans_address(accepted.peer.address);
        if banned {
            self.parts.metrics.listener_rejected.with_label_values(&[&*self.name, "ip_block"]).inc();
        }
        banned
    }

    /// Whether its address has connected too often within this second; which is counted.
    fn comes_too_often(&self, accepted: &Accepted) -> bool {
        let broker = &self.parts.broker;
        // Whoever comes by a Unix socket has no address.
        let nowhere = accepted.transport == Transport::Unix && accepted.peer.via_proxy.is_none();
        let Some(rates) = broker.extras.rates(&self.name).filter(|_| !nowhere) else { return false };
        let too_often = !rates.source_connection(broker.now(), accepted.peer.address);
        if too_often {
            self.parts.metrics.listener_rejected.with_label_values(&[&*self.name, "source_rate"]).inc();
        }
        too_often
    }

    /// A place among the unfinished ones of the connection's source.
    fn unfinished(&self, accepted: &Accepted) -> Option<Counted<'_>> {
        let peer = accepted.peer.address;
        let place = self.unfinished.enter(peer);
        if place.is_none() {
            let listener = &*self.name;
            self.parts.metrics.listener_rejected.with_label_values(&[listener, "max_conn"]).inc();
            let detail = "its source has as many unfinished handshakes as it may";
            self.refused(Reason::ServerBusy, detail, accepted);
        }
        place
    }

    async fn upgrade(
        &self,
        settings: &WebSocketSettings,
        carrier: Carrier,
        accepted: &mut Accepted,
    ) -> Option<ServerStream> {
        let peer = accepted.peer.address;
        // Everybody behind a reverse proxy has its address until the request is read.
        let unfinished = match settings.is_trusted(peer) {
            true => None,
            false => Some(self.unfinished(accepted)?),
        };
        let upgraded = websocket::upgrade(carrier, peer, settings).await;
        drop(unfinished);
        match upgraded {
            Ok(Upgraded { stream, early, client }) => {
                if let Some(address) = client {
                    accepted.peer = Peer { address, port: 0, via_proxy: Some(peer) };
                }
                Some(ServerStream::WebSocket(Box::new(WebSocket::new(stream, early, settings.limits))))
            }
            Err(UpgradeError::Silent) => None,
            Err(error) => {
                let listener = &*self.name;
                self.parts.metrics.listener_rejected.with_label_values(&[listener, "websocket"]).inc();
                tracing::debug!(listener, %peer, %error, "closed: no WebSocket request");
                self.refused(Reason::WebSocketRefused, &error.to_string(), accepted);
                None
            }
        }
    }

    async fn handshake(
        &self,
        tls: &TlsServer,
        socket: Socket,
        accepted: &mut Accepted,
    ) -> Option<(Carrier, Option<Raised>)> {
        let listener = &*self.name;
        let metrics = &self.parts.metrics;
        let started = Instant::now();
        let unfinished = self.unfinished(accepted)?;
        let timeout = tls.current().settings().handshake_timeout;
        // Signatures are dear: a storm of handshakes is no storm for those who are there.
        let handshake = Box::pin(tls.accept(socket, timeout, &self.handshakes));
        let handshake = self.parts.broker.turns.run(handshake).await;
        drop(unfinished);
        let Handshaken { stream, session, group, certificate, sni, server_certificate } = match handshake {
            Ok(handshaken) => handshaken,
            Err(failure) => {
                self.failed(failure, accepted);
                return None;
            }
        };
        metrics.tls_sni.with_label_values(&[listener, sni.as_str()]).inc();
        accepted.server_certificate = server_certificate;
        let live = self.established(session, group, certificate, started, accepted);
        Some((Carrier::Tls(Box::new(stream)), Some(live)))
    }
}

impl Inner {
    /// Counts a handshake, and says in `accepted` what it came to.
    fn established(
        &self,
        session: TlsSession,
        group: Option<NamedGroup>,
        certificate: Option<Arc<ClientCertificate>>,
        started: Instant,
        accepted: &mut Accepted,
    ) -> Raised {
        let version = if session.version == 0x0303 { "1.2" } else { "1.3" };
        self.count(&session, version, group, certificate.is_some(), started);
        let has_certificate = if certificate.is_some() { "present" } else { "none" };
        let labels = [&*self.name, version, has_certificate];
        accepted.tls = Some(session);
        accepted.certificate = certificate;
        Raised::new(self.parts.metrics.tls_live_connections.with_label_values(&labels))
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

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use mqgate_identity::time::UnixMillis;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::listener::tests::World;
    use crate::listener::{Listener, ListenerSettings};
    use crate::websocket::FrameLimits;

    fn tcp(socket: &Socket) -> &TcpStream {
        match socket {
            Socket::Tcp(stream) => stream,
            Socket::Unix(_) => panic!("no TCP"),
        }
    }

    fn below(stream: &ServerStream) -> &TcpStream {
        match stream {
            ServerStream::Plain(socket) => tcp(socket),
            ServerStream::Tls(stream) => tcp(stream.get_ref().0),
            ServerStream::WebSocket(frames) => match frames.inner() {
                Carrier::Plain(socket) => tcp(socket),
                Carrier::Tls(stream) => tcp(stream.get_ref().0),
            },
            ServerStream::Quic(_) => panic!("no TCP"),
        }
    }

    async fn ask_for_websocket(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let request = "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await;
    }

    /// Small packets wait for no acknowledgement of those before (44 ms with Nagle's algorithm and delayed
    /// acknowledgements), whatever TCP carries.
    #[tokio::test]
    async fn every_transport_over_tcp_sends_at_once() {
        let world = World::new();
        let websocket = Arc::new(WebSocketSettings {
            path: "/mqtt".into(),
            require_subprotocol: true,
            origins: Arc::default(),
            limits: FrameLimits::default(),
            trusted_proxies: Arc::default(),
            timeout: std::time::Duration::from_secs(30),
        });
        for (with_tls, with_websocket) in [(false, false), (true, false), (false, true), (true, true)] {
            for nodelay in [true, false] {
                let (tls, ca) = world.tls_of();
                let any = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let mut settings = ListenerSettings::new("test", any, with_tls.then_some(tls));
                assert!(settings.socket.nodelay, "that is the default");
                settings.socket.nodelay = nodelay;
                settings.websocket = with_websocket.then(|| Arc::clone(&websocket));
                let listener = Listener::new(settings, world.parts.clone());
                let socket = TcpListener::bind(any).await.unwrap();
                let far = TcpStream::connect(socket.local_addr().unwrap()).await.unwrap();
                let client = tokio::spawn(async move {
                    match (with_tls, with_websocket) {
                        (false, false) => {}
                        (false, true) => ask_for_websocket(far).await,
                        (true, _) => {
                            let name = "localhost".try_into().unwrap();
                            let stream =
                                tokio_rustls::TlsConnector::from(ca).connect(name, far).await.unwrap();
                            if with_websocket {
                                ask_for_websocket(stream).await;
                            }
                        }
                    }
                });
                let (stream, _) = socket.accept().await.unwrap();
                let settings = listener.inner.settings.load_full();
                let mut accepted = Accepted {
                    id: 1,
                    listener: "test".into(),
                    accepted_at: UnixMillis(0),
                    transport: settings.transport(),
                    peer: Peer { address: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 1, via_proxy: None },
                    tls: None,
                    certificate: None,
                    server_certificate: None,
                    attributes: Vec::new(),
                };
                let arrival = Arrival::Socket(Socket::Tcp(stream));
                let up = listener.inner.bring_up(&settings, arrival, &mut accepted).await.unwrap();
                assert_eq!(below(&up.stream).nodelay().unwrap(), nodelay, "{:?}", settings.transport());
                client.await.unwrap();
            }
        }
    }
}
