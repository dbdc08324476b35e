//! `wasi:http`, the way back: an answer that is awaited, and what is in it. The side of servers is there for components
//! that import the whole interface, and gives nothing.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Bytes;
use hyper::header::HeaderMap;
use tokio::sync::watch;
use wasmtime::component::Resource;

use super::bindings::wasi::http::types::{
    self, DnsErrorPayload, ErrorCode, IncomingRequest, Method, OutgoingResponse, ResponseOutparam, Scheme,
};
use super::io::{InputStream, IoError, Pollable};
use super::requests::{Fields, OutgoingBody};
use crate::capability::http::{Answer, Failure, Place, Whole};
use crate::instance::StoreState;
use crate::plugin::AbortOnDrop;

/// Dropping it ends the request.
pub struct PendingAnswer {
    pub(crate) done: watch::Receiver<bool>,
    pub(crate) outcome: Arc<Mutex<Option<Result<Answer, Failure>>>>,
    pub(crate) is_taken: bool,
    pub(crate) _task: AbortOnDrop<()>,
}

pub struct IncomingResponse {
    status: u16,
    headers: HeaderMap,
    body: Option<IncomingBody>,
}

pub struct IncomingBody {
    bytes: Option<Bytes>,
    trailers: Option<HeaderMap>,
    /// What is held counts as a connection.
    place: Arc<Place>,
}

pub struct FutureTrailers {
    trailers: Option<HeaderMap>,
    is_taken: bool,
}

impl From<Failure> for ErrorCode {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Denied => Self::HttpRequestDenied,
            Failure::Prohibited => Self::DestinationIpProhibited,
            Failure::TooMany => Self::ConnectionLimitReached,
            Failure::Unfinished => Self::InternalError(Some(String::from("the body was not finished"))),
            Failure::Invalid => Self::HttpRequestUriInvalid,
            Failure::NotFound => Self::DnsError(DnsErrorPayload { rcode: None, info_code: None }),
            Failure::LookupTimeout => Self::DnsTimeout,
            Failure::ConnectionRefused => Self::ConnectionRefused,
            Failure::Unreachable => Self::DestinationUnavailable,
            Failure::ConnectTimeout => Self::ConnectionTimeout,
            Failure::Certificate => Self::TlsCertificateError,
            Failure::Tls => Self::TlsProtocolError,
            Failure::ResponseTimeout => Self::HttpResponseTimeout,
            Failure::HeadersTooLarge => Self::HttpResponseHeaderSectionSize(None),
            Failure::BodyTooLarge => Self::HttpResponseBodySize(None),
            Failure::Protocol => Self::HttpProtocolError,
            Failure::Terminated => Self::ConnectionTerminated,
        }
    }
}

impl Failure {
    /// What it is when the request is at fault, not its answer.
    pub(super) fn into_request_error(self) -> ErrorCode {
        match self {
            Self::BodyTooLarge => ErrorCode::HttpRequestBodySize(None),
            other => other.into(),
        }
    }
}

impl types::Host for StoreState {
    fn http_error_code(&mut self, error: Resource<IoError>) -> wasmtime::Result<Option<ErrorCode>> {
        // The streams that fail are those of requests.
        Ok(Some(self.wasi.table.get(&error)?.0.into_request_error()))
    }
}

impl types::HostFutureIncomingResponse for StoreState {
    fn subscribe(&mut self, pending: Resource<PendingAnswer>) -> wasmtime::Result<Resource<Pollable>> {
        let done = self.wasi.table.get(&pending)?.done.clone();
        Ok(self.wasi.table.push(Pollable::Answer(done))?)
    }

    fn get(
        &mut self,
        pending: Resource<PendingAnswer>,
    ) -> wasmtime::Result<Option<Result<Result<Resource<IncomingResponse>, ErrorCode>, ()>>> {
        let pending = self.wasi.table.get_mut(&pending)?;
        if pending.is_taken {
            return Ok(Some(Err(())));
        }
        let outcome = pending.outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Its task is gone without a word: it panicked.
        let is_gone = pending.done.has_changed().is_err() && !*pending.done.borrow();
        let outcome = match outcome {
            Some(outcome) => outcome,
            None if is_gone => Err(Failure::Terminated),
            None => return Ok(None),
        };
        pending.is_taken = true;
        Ok(Some(Ok(match outcome {
            Ok(Answer { whole: Whole { status, headers, body }, trailers, place }) => {
                let body = IncomingBody { bytes: Some(body), trailers, place: Arc::new(place) };
                Ok(self.wasi.table.push(IncomingResponse { status, headers, body: Some(body) })?)
            }
            Err(failure) => Err(failure.into()),
        })))
    }

    fn drop(&mut self, pending: Resource<PendingAnswer>) -> wasmtime::Result<()> {
        self.wasi.table.delete(pending)?;
        Ok(())
    }
}

impl types::HostIncomingResponse for StoreState {
    fn status(&mut self, response: Resource<IncomingResponse>) -> wasmtime::Result<u16> {
        Ok(self.wasi.table.get(&response)?.status)
    }

    fn headers(&mut self, response: Resource<IncomingResponse>) -> wasmtime::Result<Resource<Fields>> {
        let map = self.wasi.table.get(&response)?.headers.clone();
        Ok(self.wasi.table.push(Fields { map, immutable: true })?)
    }

    fn consume(
        &mut self,
        response: Resource<IncomingResponse>,
    ) -> wasmtime::Result<Result<Resource<IncomingBody>, ()>> {
        let Some(body) = self.wasi.table.get_mut(&response)?.body.take() else { return Ok(Err(())) };
        Ok(Ok(self.wasi.table.push(body)?))
    }

    fn drop(&mut self, response: Resource<IncomingResponse>) -> wasmtime::Result<()> {
        self.wasi.table.delete(response)?;
        Ok(())
    }
}

impl types::HostIncomingBody for StoreState {
    fn stream(
        &mut self,
        body: Resource<IncomingBody>,
    ) -> wasmtime::Result<Result<Resource<InputStream>, ()>> {
        let body = self.wasi.table.get_mut(&body)?;
        let Some(bytes) = body.bytes.take() else { return Ok(Err(())) };
        let place = Arc::clone(&body.place);
        Ok(Ok(self.wasi.table.push(InputStream { bytes, _place: place })?))
    }

    fn finish(&mut self, body: Resource<IncomingBody>) -> wasmtime::Result<Resource<FutureTrailers>> {
        let IncomingBody { trailers, .. } = self.wasi.table.delete(body)?;
        Ok(self.wasi.table.push(FutureTrailers { trailers, is_taken: false })?)
    }

    fn drop(&mut self, body: Resource<IncomingBody>) -> wasmtime::Result<()> {
        self.wasi.table.delete(body)?;
        Ok(())
    }
}

impl types::HostFutureTrailers for StoreState {
    fn subscribe(&mut self, _trailers: Resource<FutureTrailers>) -> wasmtime::Result<Resource<Pollable>> {
        Ok(self.wasi.table.push(Pollable::Ready)?)
    }

    fn get(
        &mut self,
        trailers: Resource<FutureTrailers>,
    ) -> wasmtime::Result<Option<Result<Result<Option<Resource<Fields>>, ErrorCode>, ()>>> {
        let trailers = self.wasi.table.get_mut(&trailers)?;
        if std::mem::replace(&mut trailers.is_taken, true) {
            return Ok(Some(Err(())));
        }
        let Some(map) = trailers.trailers.take() else { return Ok(Some(Ok(Ok(None)))) };
        let fields = self.wasi.table.push(Fields { map, immutable: true })?;
        Ok(Some(Ok(Ok(Some(fields)))))
    }

    fn drop(&mut self, trailers: Resource<FutureTrailers>) -> wasmtime::Result<()> {
        self.wasi.table.delete(trailers)?;
        Ok(())
    }
}

/// Plugins are asked through their hooks alone.
fn no_server<T>() -> wasmtime::Result<T> {
    Err(wasmtime::format_err!("a plugin serves no requests over HTTP"))
}

impl types::HostIncomingRequest for StoreState {
    fn method(&mut self, _request: Resource<IncomingRequest>) -> wasmtime::Result<Method> {
        no_server()
    }

    fn path_with_query(&mut self, _request: Resource<IncomingRequest>) -> wasmtime::Result<Option<String>> {
        no_server()
    }

    fn scheme(&mut self, _request: Resource<IncomingRequest>) -> wasmtime::Result<Option<Scheme>> {
        no_server()
    }

    fn authority(&mut self, _request: Resource<IncomingRequest>) -> wasmtime::Result<Option<String>> {
        no_server()
    }

    fn headers(&mut self, _request: Resource<IncomingRequest>) -> wasmtime::Result<Resource<Fields>> {
        no_server()
    }

    fn consume(
        &mut self,
        _request: Resource<IncomingRequest>,
    ) -> wasmtime::Result<Result<Resource<IncomingBody>, ()>> {
        no_server()
    }

    fn drop(&mut self, _request: Resource<IncomingRequest>) -> wasmtime::Result<()> {
        no_server()
    }
}

impl types::HostResponseOutparam for StoreState {
    fn set(
        &mut self,
        _param: Resource<ResponseOutparam>,
        _response: Result<Resource<OutgoingResponse>, ErrorCode>,
    ) -> wasmtime::Result<()> {
        no_server()
    }

    fn drop(&mut self, _param: Resource<ResponseOutparam>) -> wasmtime::Result<()> {
        no_server()
    }
}

impl types::HostOutgoingResponse for StoreState {
    fn new(&mut self, _headers: Resource<Fields>) -> wasmtime::Result<Resource<OutgoingResponse>> {
        no_server()
    }

    fn status_code(&mut self, _response: Resource<OutgoingResponse>) -> wasmtime::Result<u16> {
        no_server()
    }

    fn set_status_code(
        &mut self,
        _response: Resource<OutgoingResponse>,
        _status: u16,
    ) -> wasmtime::Result<Result<(), ()>> {
        no_server()
    }

    fn headers(&mut self, _response: Resource<OutgoingResponse>) -> wasmtime::Result<Resource<Fields>> {
        no_server()
    }

    fn body(
        &mut self,
        _response: Resource<OutgoingResponse>,
    ) -> wasmtime::Result<Result<Resource<OutgoingBody>, ()>> {
        no_server()
    }

    fn drop(&mut self, _response: Resource<OutgoingResponse>) -> wasmtime::Result<()> {
        no_server()
    }
}
