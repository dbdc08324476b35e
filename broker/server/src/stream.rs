//! A client's byte stream: a socket, encrypted or not.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use crate::quic::QuicStream;
use crate::websocket::WebSocket;

/// What the kernel hands out.
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What carries MQTT, or the WebSocket frames that carry it.
pub enum Carrier {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

/// What a listener hands to a connection.
pub enum ServerStream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
    WebSocket(Box<WebSocket<Carrier>>),
    Quic(Box<QuicStream>),
}

impl From<Carrier> for ServerStream {
    fn from(carrier: Carrier) -> Self {
        match carrier {
            Carrier::Plain(socket) => Self::Plain(socket),
            Carrier::Tls(stream) => Self::Tls(stream),
        }
    }
}

/// Passes everything on to the variant that is there.
macro_rules! delegate {
    ($type:ident { $($variant:ident),* }) => {
        impl AsyncRead for $type {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $($type::$variant(stream) => Pin::new(stream).poll_read(cx, buf),)*
                }
            }
        }

        impl AsyncWrite for $type {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $($type::$variant(stream) => Pin::new(stream).poll_write(cx, buf),)*
                }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $($type::$variant(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),)*
                }
            }

            fn is_write_vectored(&self) -> bool {
                match self {
                    $($type::$variant(stream) => stream.is_write_vectored(),)*
                }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $($type::$variant(stream) => Pin::new(stream).poll_flush(cx),)*
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $($type::$variant(stream) => Pin::new(stream).poll_shutdown(cx),)*
                }
            }
        }
    };
}

delegate!(Socket { Tcp, Unix });
delegate!(Carrier { Plain, Tls });
delegate!(ServerStream { Plain, Tls, WebSocket, Quic });
