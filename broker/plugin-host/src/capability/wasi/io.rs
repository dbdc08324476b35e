//! `wasi:io`: errors, streams over bytes that are here already, and the one place in which a guest waits.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;
use wasmtime::component::Resource;

use super::MAX_HANDLES;
use super::bindings::wasi::io::{error, poll, streams};
use crate::capability::http::{Failure, Place};
use crate::instance::StoreState;
use crate::outside::Outside;
use streams::StreamError;

/// The most that one read hands over, however much was asked for.
const MAX_READ: usize = 64 << 10;

/// Why an operation on a stream failed.
pub struct IoError(pub(crate) Failure);

/// What a guest can wait for.
#[derive(Clone)]
pub enum Pollable {
    Ready,
    /// True, or without a sender: it has come.
    Answer(watch::Receiver<bool>),
    Timer {
        at: Instant,
        /// The same, as time that has passed since the instance began.
        until: Duration,
        outside: Arc<dyn Outside>,
    },
}

/// A body that was received as a whole.
pub struct InputStream {
    pub(crate) bytes: Bytes,
    /// What is held counts as a connection.
    pub(crate) _place: Arc<Place>,
}

/// The way into a body that is sent as a whole.
pub struct OutputStream(pub(crate) Arc<Mutex<Buffer>>);

/// A body that grows up to a bound.
pub(crate) struct Buffer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) most: usize,
    /// It takes no more: it was finished, or was to be larger than it may.
    pub(crate) closed: bool,
}

impl Pollable {
    fn is_ready(&self) -> bool {
        match self {
            Self::Ready => true,
            Self::Answer(done) => *done.borrow() || done.has_changed().is_err(),
            Self::Timer { at, until, outside } => {
                let rings = Instant::now() >= *at;
                if rings {
                    outside.waited(*until);
                }
                rings
            }
        }
    }

    async fn wait(mut self) {
        match &mut self {
            Self::Ready => {}
            // Without a sender, what was waited for has ended, too.
            Self::Answer(done) => drop(done.wait_for(|done| *done).await),
            Self::Timer { at, until, outside } => {
                tokio::time::sleep_until(*at).await;
                outside.waited(*until);
            }
        }
    }
}

impl Buffer {
    pub(crate) fn new(most: usize) -> Self {
        Self { bytes: Vec::new(), most, closed: false }
    }

    fn write(&mut self, more: &[u8]) -> Result<(), Failure> {
        if self.closed || self.bytes.len() + more.len() > self.most {
            self.closed = true;
            return Err(Failure::BodyTooLarge);
        }
        self.bytes.extend_from_slice(more);
        Ok(())
    }
}

pub(crate) fn locked(buffer: &Mutex<Buffer>) -> MutexGuard<'_, Buffer> {
    buffer.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StoreState {
    fn take(&mut self, stream: &Resource<InputStream>, length: u64) -> wasmtime::Result<Option<Bytes>> {
        let bytes = &mut self.wasi.table.get_mut(stream)?.bytes;
        if bytes.is_empty() {
            return Ok(None);
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(MAX_READ).min(bytes.len());
        Ok(Some(bytes.split_to(length)))
    }

    fn append(
        &mut self,
        stream: &Resource<OutputStream>,
        bytes: &[u8],
    ) -> wasmtime::Result<Result<(), StreamError>> {
        let outcome = locked(&self.wasi.table.get(stream)?.0).write(bytes);
        match outcome {
            Ok(()) => Ok(Ok(())),
            Err(failure) => Ok(Err(self.failed(failure)?)),
        }
    }

    fn failed(&mut self, failure: Failure) -> wasmtime::Result<StreamError> {
        Ok(StreamError::LastOperationFailed(self.wasi.table.push(IoError(failure))?))
    }

    fn subscribe_at_once(&mut self) -> wasmtime::Result<Resource<Pollable>> {
        Ok(self.wasi.table.push(Pollable::Ready)?)
    }
}

impl error::Host for StoreState {}

impl error::HostError for StoreState {
    fn to_debug_string(&mut self, error: Resource<IoError>) -> wasmtime::Result<String> {
        Ok(format!("{:?}", self.wasi.table.get(&error)?.0))
    }

    fn drop(&mut self, error: Resource<IoError>) -> wasmtime::Result<()> {
        self.wasi.table.delete(error)?;
        Ok(())
    }
}

impl poll::Host for StoreState {
    async fn poll(&mut self, pollables: Vec<Resource<Pollable>>) -> wasmtime::Result<Vec<u32>> {
        // The same one may be named any number of times.
        if pollables.is_empty() || pollables.len() > MAX_HANDLES {
            wasmtime::bail!(
                "{} things to wait for; between 1 and {MAX_HANDLES} are possible",
                pollables.len()
            );
        }
        let mut waiting: Vec<Pin<Box<dyn Future<Output = ()> + Send>>> = Vec::new();
        for pollable in &pollables {
            waiting.push(Box::pin(self.wasi.table.get(pollable)?.clone().wait()));
        }
        let ready = poll_fn(|context| {
            let mut ready = Vec::new();
            for (index, waits) in (0..).zip(&mut waiting) {
                if waits.as_mut().poll(context).is_ready() {
                    ready.push(index);
                }
            }
            if ready.is_empty() { Poll::Pending } else { Poll::Ready(ready) }
        });
        Ok(ready.await)
    }
}

impl poll::HostPollable for StoreState {
    fn ready(&mut self, pollable: Resource<Pollable>) -> wasmtime::Result<bool> {
        Ok(self.wasi.table.get(&pollable)?.is_ready())
    }

    async fn block(&mut self, pollable: Resource<Pollable>) -> wasmtime::Result<()> {
        let pollable = self.wasi.table.get(&pollable)?.clone();
        pollable.wait().await;
        Ok(())
    }

    fn drop(&mut self, pollable: Resource<Pollable>) -> wasmtime::Result<()> {
        self.wasi.table.delete(pollable)?;
        Ok(())
    }
}

impl streams::Host for StoreState {}

impl streams::HostInputStream for StoreState {
    fn read(
        &mut self,
        stream: Resource<InputStream>,
        length: u64,
    ) -> wasmtime::Result<Result<Vec<u8>, StreamError>> {
        Ok(self.take(&stream, length)?.map(|bytes| bytes.to_vec()).ok_or(StreamError::Closed))
    }

    fn blocking_read(
        &mut self,
        stream: Resource<InputStream>,
        length: u64,
    ) -> wasmtime::Result<Result<Vec<u8>, StreamError>> {
        streams::HostInputStream::read(self, stream, length)
    }

    fn skip(
        &mut self,
        stream: Resource<InputStream>,
        length: u64,
    ) -> wasmtime::Result<Result<u64, StreamError>> {
        Ok(self.take(&stream, length)?.map(|bytes| bytes.len() as u64).ok_or(StreamError::Closed))
    }

    fn blocking_skip(
        &mut self,
        stream: Resource<InputStream>,
        length: u64,
    ) -> wasmtime::Result<Result<u64, StreamError>> {
        streams::HostInputStream::skip(self, stream, length)
    }

    fn subscribe(&mut self, _stream: Resource<InputStream>) -> wasmtime::Result<Resource<Pollable>> {
        self.subscribe_at_once()
    }

    fn drop(&mut self, stream: Resource<InputStream>) -> wasmtime::Result<()> {
        self.wasi.table.delete(stream)?;
        Ok(())
    }
}

impl streams::HostOutputStream for StoreState {
    fn check_write(&mut self, stream: Resource<OutputStream>) -> wasmtime::Result<Result<u64, StreamError>> {
        let room = {
            let buffer = locked(&self.wasi.table.get(&stream)?.0);
            if buffer.closed { 0 } else { buffer.most - buffer.bytes.len() }
        };
        // A guest that is told 0 waits, and nobody would ever wake it.
        if room == 0 {
            return Ok(Err(self.failed(Failure::BodyTooLarge)?));
        }
        Ok(Ok(room as u64))
    }

    fn write(
        &mut self,
        stream: Resource<OutputStream>,
        contents: Vec<u8>,
    ) -> wasmtime::Result<Result<(), StreamError>> {
        self.append(&stream, &contents)
    }

    fn blocking_write_and_flush(
        &mut self,
        stream: Resource<OutputStream>,
        contents: Vec<u8>,
    ) -> wasmtime::Result<Result<(), StreamError>> {
        self.append(&stream, &contents)
    }

    fn flush(&mut self, _stream: Resource<OutputStream>) -> wasmtime::Result<Result<(), StreamError>> {
        Ok(Ok(()))
    }

    fn blocking_flush(
        &mut self,
        _stream: Resource<OutputStream>,
    ) -> wasmtime::Result<Result<(), StreamError>> {
        Ok(Ok(()))
    }

    fn subscribe(&mut self, _stream: Resource<OutputStream>) -> wasmtime::Result<Resource<Pollable>> {
        self.subscribe_at_once()
    }

    fn write_zeroes(
        &mut self,
        stream: Resource<OutputStream>,
        length: u64,
    ) -> wasmtime::Result<Result<(), StreamError>> {
        let most = self.services.grants.http.request_bytes;
        match usize::try_from(length) {
            Ok(length) if length <= most => self.append(&stream, &vec![0; length]),
            Ok(_) | Err(_) => Ok(Err(self.failed(Failure::BodyTooLarge)?)),
        }
    }

    fn blocking_write_zeroes_and_flush(
        &mut self,
        stream: Resource<OutputStream>,
        length: u64,
    ) -> wasmtime::Result<Result<(), StreamError>> {
        streams::HostOutputStream::write_zeroes(self, stream, length)
    }

    fn splice(
        &mut self,
        stream: Resource<OutputStream>,
        from: Resource<InputStream>,
        length: u64,
    ) -> wasmtime::Result<Result<u64, StreamError>> {
        let Some(bytes) = self.take(&from, length)? else { return Ok(Err(StreamError::Closed)) };
        Ok(self.append(&stream, &bytes)?.map(|()| bytes.len() as u64))
    }

    fn blocking_splice(
        &mut self,
        stream: Resource<OutputStream>,
        from: Resource<InputStream>,
        length: u64,
    ) -> wasmtime::Result<Result<u64, StreamError>> {
        streams::HostOutputStream::splice(self, stream, from, length)
    }

    fn drop(&mut self, stream: Resource<OutputStream>) -> wasmtime::Result<()> {
        self.wasi.table.delete(stream)?;
        Ok(())
    }
}
