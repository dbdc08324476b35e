//! The byte stream under a connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::HandshakeKind;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio_rustls::TlsConnector;

use crate::{ConnectError, ConnectOptions};

/// Anything that bytes can be read from and written to.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connected stream, and what is known about it.
pub struct Transport {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) tls_resumed: bool,
}

impl Transport {
    /// A stream that exists already, for example one half of [`tokio::io::duplex`].
    pub fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self { stream: Box::new(stream), tls_resumed: false }
    }

    /// The stream, for something else than MQTT.
    pub fn into_stream(self) -> Box<dyn Stream> {
        self.stream
    }

    /// TCP, and TLS if the options ask for it.
    pub async fn open(options: &ConnectOptions) -> Result<Self, ConnectError> {
        let (host, port) = (options.host.clone(), options.port);
        // Wrong files are told before anything goes over the network.
        let tls = match &options.tls {
            Some(tls) => Some((tls.config()?, tls.server_name(&host)?)),
            None => None,
        };
        let stream = connect(&host, port, options.source).await;
        let stream = stream.map_err(|source| ConnectError::Tcp { host: host.clone(), port, source })?;
        // Small packets must not wait for each other's acknowledgement. A socket that refuses still works.
        let _ = stream.set_nodelay(true);
        let Some((config, name)) = tls else { return Ok(Self::over(stream)) };
        let stream = TlsConnector::from(Arc::clone(&config)).connect(name, stream).await;
        let stream = stream.map_err(|source| ConnectError::Handshake { host, port, source })?;
        let tls_resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        Ok(Self { stream: Box::new(stream), tls_resumed })
    }
}

async fn connect(host: &str, port: u16, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let Some(source) = source else { return TcpStream::connect((host, port)).await };
    let same_family = |address: &SocketAddr| address.is_ipv4() == source.is_ipv4();
    let address = lookup_host((host, port)).await?.find(same_family);
    let address = address.ok_or_else(|| io::Error::other("it has no address of the family of the source"))?;
    let socket = if source.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(address).await
}
