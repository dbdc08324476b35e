//! A client's end of a transport, driven by hand: nothing here waits.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use mqgate_codec::{DecodeError, DecodeLimits, Decoder, Packet, ProtocolVersion, encode};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use crate::model::MessageId;

/// One connection.
pub struct Wire {
    stream: DuplexStream,
    version: ProtocolVersion,
    decoder: Decoder,
    input: BytesMut,
    output: BytesMut,
    /// Packet identifiers published to us on this connection and not finished.
    pub window: BTreeSet<u16>,
    pub clean: bool,
    pub up: bool,
    pub will: Option<MessageId>,
}

impl Wire {
    pub fn new(stream: DuplexStream, version: ProtocolVersion, clean: bool, will: Option<MessageId>) -> Self {
        Self {
            stream,
            version,
            decoder: Decoder::client(version, DecodeLimits::UNLIMITED),
            input: BytesMut::new(),
            output: BytesMut::new(),
            window: BTreeSet::new(),
            clean,
            up: false,
            will,
        }
    }

    pub fn send(&mut self, packet: &Packet) {
        encode(packet, self.version, &mut self.output).unwrap();
        self.write();
    }

    /// The next packet of what was read.
    pub fn decode(&mut self) -> Result<Option<Packet>, DecodeError> {
        self.decoder.decode(&mut self.input)
    }

    /// Everything that was sent has left.
    pub fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// Bytes that have arrived; 0 is the end.
    pub fn read(&mut self) -> Poll<usize> {
        let mut room = [0; 4096];
        let mut buffer = ReadBuf::new(&mut room);
        match Pin::new(&mut self.stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
            Poll::Ready(Ok(())) => {
                self.input.extend_from_slice(buffer.filled());
                Poll::Ready(buffer.filled().len())
            }
            Poll::Ready(Err(_)) => Poll::Ready(0),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Sends on what did not fit; says whether anything moved.
    pub fn write(&mut self) -> bool {
        let mut moved = false;
        while !self.output.is_empty() {
            let mut context = Context::from_waker(Waker::noop());
            match Pin::new(&mut self.stream).poll_write(&mut context, &self.output) {
                Poll::Ready(Ok(count)) => {
                    self.output.advance(count);
                    moved = true;
                }
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
        }
        moved
    }
}
