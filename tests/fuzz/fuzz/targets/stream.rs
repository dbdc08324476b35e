//! A transport that says what it was told to say, in pieces, and remembers what it hears.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub struct Script {
    says: Vec<u8>,
    at: usize,
    /// Bytes of each read.
    piece: usize,
    heard: Heard,
}

/// What was written to a [`Script`].
pub type Heard = Arc<Mutex<Vec<u8>>>;

impl Script {
    pub fn new(says: &[u8], piece: usize) -> (Self, Heard) {
        let heard = Heard::default();
        (Self { says: says.to_vec(), at: 0, piece: piece.max(1), heard: Arc::clone(&heard) }, heard)
    }
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.piece.min(buffer.remaining()).min(self.says.len() - self.at);
        let at = self.at;
        buffer.put_slice(&self.says[at..at + count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut heard = self.heard.lock().expect("nobody panics while holding it");
        heard.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Runs what waits for nothing but its script.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without sockets needs nothing");
    }
    RUNTIME.with(|runtime| runtime.block_on(work))
}
