//! A connection without manners: sends anything, and shows what comes back.

use bytes::{Buf, BytesMut};
use mqgate_codec::{Decoder, Output, Packet, ProtocolVersion, ReasonCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{ConnectError, ConnectOptions, RawError, Transport};

/// Keeps no state of the protocol: no pings, no acknowledgements, no packet identifiers.
pub struct RawConnection {
    pub(crate) transport: Transport,
    pub(crate) decoder: Decoder,
    pub(crate) input: BytesMut,
    version: ProtocolVersion,
}

impl RawConnection {
    /// TCP and TLS as `options` say, and not a byte of MQTT.
    pub async fn open(options: &ConnectOptions) -> Result<Self, ConnectError> {
        let within = options.connect_timeout;
        match tokio::time::timeout(within, Box::pin(Transport::open(options))).await {
            Ok(transport) => Ok(Self::over(transport?, options)),
            Err(_) => Err(ConnectError::Timeout(within)),
        }
    }

    /// On a stream that exists already.
    pub fn over(transport: Transport, options: &ConnectOptions) -> Self {
        let version = options.version;
        Self { transport, decoder: Decoder::client(version, options.limits), input: BytesMut::new(), version }
    }

    /// And CONNECT, and CONNACK.
    pub async fn open_and_connect(options: ConnectOptions) -> Result<Self, ConnectError> {
        let mut raw = Self::open(&options).await?;
        raw.connect(&options).await?;
        Ok(raw)
    }

    /// Sends CONNECT and waits for a CONNACK that says yes.
    pub async fn connect(&mut self, options: &ConnectOptions) -> Result<mqgate_codec::ConnAck, ConnectError> {
        let connect = Packet::Connect(Box::new(options.connect_packet()?));
        let within = options.connect_timeout;
        let exchange = async {
            self.send(&connect).await?;
            self.recv().await
        };
        let answer = tokio::time::timeout(within, exchange).await;
        let answer = answer.map_err(|_| ConnectError::Timeout(within))?;
        match answer {
            Ok(Some(Packet::ConnAck(connack))) if connack.code.reason().is_error() => {
                Err(ConnectError::Refused(connack))
            }
            Ok(Some(Packet::ConnAck(connack))) => Ok(*connack),
            Ok(Some(packet)) => Err(ConnectError::Unexpected(packet.packet_type())),
            Ok(None) => Err(ConnectError::Closed),
            Err(RawError::Io(source)) => Err(ConnectError::Io { source }),
            Err(RawError::Decode(error)) => Err(ConnectError::Decode(error)),
            Err(RawError::Encode(error)) => Err(ConnectError::Encode(error)),
        }
    }

    /// Whether TLS resumed an earlier session.
    pub fn tls_resumed(&self) -> bool {
        self.transport.tls_resumed
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), RawError> {
        self.transport.stream.write_all(bytes).await?;
        self.transport.stream.flush().await?;
        Ok(())
    }

    pub async fn send(&mut self, packet: &Packet) -> Result<(), RawError> {
        let mut output = Output::new();
        output.push(packet, self.version)?;
        while output.has_remaining() {
            self.transport.stream.write_buf(&mut output).await?;
        }
        self.transport.stream.flush().await?;
        Ok(())
    }

    /// The next packet; `None` when the peer closed the connection between two.
    pub async fn recv(&mut self) -> Result<Option<Packet>, RawError> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.input)? {
                return Ok(Some(packet));
            }
            self.input.reserve(self.decoder.missing().clamp(1024, 64 * 1024));
            if self.transport.stream.read_buf(&mut self.input).await? == 0 {
                if self.input.is_empty() {
                    return Ok(None);
                }
                return Err(RawError::Io(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Reads on until the server says DISCONNECT, and gives its reason; `None` when the connection ends
    /// without.
    pub async fn disconnect_reason(&mut self) -> Option<ReasonCode> {
        loop {
            match self.recv().await {
                Ok(Some(Packet::Disconnect(disconnect))) => return Some(disconnect.reason),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Ends our side of the stream.
    pub async fn shutdown(&mut self) -> Result<(), RawError> {
        self.transport.stream.shutdown().await?;
        Ok(())
    }
}
