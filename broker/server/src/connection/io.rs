//! Reading and writing, without keeping a buffer for a connection that has nothing to say.

use std::cell::RefCell;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Driver, Event};
use crate::turns::cost;

/// Room for one read.
const READ_SIZE: usize = 16 * 1024;
/// Packets of many connections are read into one piece of memory, one after the other.
const SHARED_SIZE: usize = 64 * 1024;

/// Room for most CONNECT packets.
const CONNECT_SIZE: usize = 256;

thread_local! {
    static SHARED: RefCell<BytesMut> = RefCell::default();
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Driver<S> {
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let read = if self.input.is_empty() && self.connected {
            SHARED.with_borrow_mut(|shared| {
                if shared.capacity() < READ_SIZE {
                    *shared = BytesMut::with_capacity(SHARED_SIZE);
                }
                let count = ready!(pin!(self.stream.read_buf(shared)).poll(cx));
                self.input = shared.split();
                Poll::Ready(count)
            })
        } else {
            // What is announced is not believed: memory grows with what came.
            // What CONNECT says stays as long as the connection: it must not keep the memory of others alive.
            let least = if self.connected { 1024 } else { CONNECT_SIZE };
            self.input.reserve(self.decoder.missing().clamp(least, READ_SIZE));
            pin!(self.stream.read_buf(&mut self.input)).poll(cx)
        };
        match ready!(read) {
            Ok(0) | Err(_) => Poll::Ready(Event::Gone),
            Ok(count) => {
                self.account.spend_on_call(cost::READ, count);
                Poll::Ready(Event::Read(count))
            }
        }
    }

    /// Writes what is waiting, in one call where the transport allows. To a client that takes nothing any more
    /// nothing is written; but it is heard to its end: its last word may have been DISCONNECT.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if self.output.has_remaining() && !self.deaf {
            match ready!(pin!(self.stream.write_buf(&mut self.output)).poll(cx)) {
                Ok(0) | Err(_) => self.deaf = true,
                Ok(count) => {
                    self.tally.bytes_sent(count);
                    self.account.spend_on_call(cost::WRITE, count);
                    self.unflushed = true;
                    return Poll::Ready(Event::Wrote);
                }
            }
        }
        if self.deaf {
            self.output.release();
            return match self.poll_input(cx) {
                Poll::Ready(event) => Poll::Ready(event),
                // What was read before is heard first.
                Poll::Pending if self.unfinished => Poll::Pending,
                Poll::Pending => Poll::Ready(Event::Gone),
            };
        }
        if self.unflushed {
            match ready!(pin!(self.stream.flush()).poll(cx)) {
                Ok(()) => {
                    self.unflushed = false;
                    self.output.release();
                }
                Err(_) => {
                    self.deaf = true;
                    return self.poll_write(cx);
                }
            }
        }
        Poll::Pending
    }
}
