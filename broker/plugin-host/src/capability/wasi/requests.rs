//! `wasi:http`, the way out: fields, a request with its body, and the moment in which it is sent.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio::sync::watch;
use tokio::time::timeout_at;
use wasmtime::component::Resource;

use super::answers::PendingAnswer;
use super::bindings::wasi::http::types::{self, ErrorCode, HeaderError, Scheme as AbiScheme};
use super::bindings::wasi::http::{outgoing_handler, types::Method as AbiMethod};
use super::io::{Buffer, OutputStream, locked};
use crate::capability::http::{
    Answer, Destination, Failure, HttpClient, Outgoing, Patience, Place, Scheme, size_of_field,
    size_of_fields,
};
use crate::capability::log::one_line;
use crate::instance::StoreState;
use crate::metrics::{HostCallResult, Interface, PluginMetrics};
use crate::plugin::AbortOnDrop;
use crate::tap::{HostCall, HttpAnswered};

/// Fields that are the connection's, or the broker's, to set.
const FORBIDDEN: [&str; 13] = [
    "connection",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// Header fields, or trailers.
#[derive(Clone, Default)]
pub struct Fields {
    pub(crate) map: HeaderMap,
    pub(crate) immutable: bool,
}

pub struct OutgoingRequest {
    method: Method,
    path: String,
    scheme: Option<Scheme>,
    authority: Option<String>,
    headers: HeaderMap,
    body: Option<Unfinished>,
}

/// A body that somebody may still write.
struct Unfinished {
    buffer: Arc<Mutex<Buffer>>,
    done: watch::Receiver<bool>,
}

/// Whoever drops it before it is finished breaks the request off.
pub struct OutgoingBody {
    buffer: Arc<Mutex<Buffer>>,
    done: watch::Sender<bool>,
    /// What a field said about its length.
    announced: Option<u64>,
    has_stream: bool,
}

#[derive(Default)]
pub struct RequestOptions(Patience);

/// Counts a request when it ends, however it does.
struct Counted {
    metrics: Arc<PluginMetrics>,
    result: HostCallResult,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.host_call(Interface::Http, self.result);
    }
}

impl Counted {
    fn note(&mut self, failure: Option<Failure>) {
        self.result = match failure {
            None => HostCallResult::Ok,
            Some(failure) if failure.is_refusal() => HostCallResult::Refused,
            Some(_) => HostCallResult::Error,
        };
    }
}

impl Fields {
    fn append(&mut self, name: &str, value: &[u8], most: usize) -> Result<(), HeaderError> {
        let (name, value) = field(name, value)?;
        let size = size_of_field(name.as_str(), value.as_bytes());
        if size_of_fields(&self.map) + size > most {
            // This version of the interface has no word of its own for it.
            return Err(HeaderError::Forbidden);
        }
        self.map.try_append(name, value).map_err(|_| HeaderError::Forbidden)?;
        Ok(())
    }

    fn change(&mut self) -> Result<&mut Self, HeaderError> {
        if self.immutable { Err(HeaderError::Immutable) } else { Ok(self) }
    }
}

fn name(name: &str) -> Result<HeaderName, HeaderError> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| HeaderError::InvalidSyntax)?;
    if FORBIDDEN.contains(&name.as_str()) { Err(HeaderError::Forbidden) } else { Ok(name) }
}

fn field(field: &str, value: &[u8]) -> Result<(HeaderName, HeaderValue), HeaderError> {
    Ok((name(field)?, HeaderValue::from_bytes(value).map_err(|_| HeaderError::InvalidSyntax)?))
}

impl StoreState {
    fn fields(&self, fields: &Resource<Fields>) -> wasmtime::Result<&Fields> {
        Ok(self.wasi.table.get(fields)?)
    }

    /// Whether this is to be sent, and if so, the task that does it.
    fn begin(
        &self,
        client: &Arc<HttpClient>,
        request: OutgoingRequest,
        patience: Patience,
    ) -> Result<PendingAnswer, Failure> {
        let OutgoingRequest { method, path, scheme, authority, headers, body } = request;
        let authority = authority.ok_or(Failure::Invalid)?;
        let scheme = scheme.unwrap_or(Scheme::Https);
        let destination = Destination::parse(scheme, &authority).map_err(|_| Failure::Invalid)?;
        let refused = |failure: Failure| {
            let destination = one_line(&destination.to_string());
            tracing::debug!(plugin = &*self.services.plugin, %destination, ?failure, "a request is refused");
            failure
        };
        client.admit(&destination).map_err(refused)?;
        // What a trial or a question of an operator does must not be kept, elsewhere neither.
        if self.is_trial() && !matches!(method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return Err(refused(Failure::Denied));
        }
        let place = client.place().map_err(refused)?;
        let outgoing = Outgoing { method, destination, path, headers, body: Bytes::new(), patience };
        let (done, waits) = watch::channel(false);
        let outcome = Arc::new(Mutex::new(None));
        let task = tokio::spawn({
            let (client, outcome) = (Arc::clone(client), Arc::clone(&outcome));
            let ends = self.wasi.deadline();
            let mut counted =
                Counted { metrics: Arc::clone(&self.services.metrics), result: HostCallResult::Error };
            let ear = self.ear.clone();
            async move {
                let asked = ear.as_ref().map(|_| (outgoing.method.to_string(), outgoing.url()));
                let answer = send(&client, outgoing, body, place, ends).await;
                if let (Some(ear), Some((method, url))) = (ear, asked) {
                    let answer =
                        answer.as_ref().map(|it| HttpAnswered::of(&it.whole)).map_err(|failure| *failure);
                    ear.note(HostCall::Http { method, url, answer });
                }
                counted.note(answer.as_ref().err().copied());
                *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
                let _ = done.send(true);
            }
        });
        Ok(PendingAnswer { done: waits, outcome, is_taken: false, _task: AbortOnDrop(task) })
    }
}

async fn send(
    client: &HttpClient,
    mut outgoing: Outgoing,
    body: Option<Unfinished>,
    place: Place,
    ends: tokio::time::Instant,
) -> Result<Answer, Failure> {
    if let Some(Unfinished { buffer, mut done }) = body {
        let finished = timeout_at(ends, done.wait_for(|done| *done)).await;
        finished.map_err(|_| Failure::Unfinished)?.map_err(|_| Failure::Unfinished)?;
        outgoing.body = std::mem::take(&mut locked(&buffer).bytes).into();
    }
    client.send(outgoing, place, ends).await
}

impl outgoing_handler::Host for StoreState {
    fn handle(
        &mut self,
        request: Resource<OutgoingRequest>,
        options: Option<Resource<RequestOptions>>,
    ) -> wasmtime::Result<Result<Resource<PendingAnswer>, ErrorCode>> {
        // Whatever it is told: the next time it may be something else.
        self.consulted = true;
        let request = self.wasi.table.delete(request)?;
        let options = options.map(|options| self.wasi.table.delete(options)).transpose()?;
        let patience = options.unwrap_or_default().0;
        let client = self.services.http.clone();
        let client = client.ok_or_else(|| wasmtime::format_err!("`http` is linked with its grant alone"))?;
        match self.begin(&client, request, patience) {
            Ok(pending) => Ok(Ok(self.wasi.table.push(pending)?)),
            Err(failure) => {
                let metrics = Arc::clone(&self.services.metrics);
                Counted { metrics, result: HostCallResult::Error }.note(Some(failure));
                Ok(Err(failure.into()))
            }
        }
    }
}

impl types::HostFields for StoreState {
    fn new(&mut self) -> wasmtime::Result<Resource<Fields>> {
        Ok(self.wasi.table.push(Fields::default())?)
    }

    fn from_list(
        &mut self,
        entries: Vec<(String, Vec<u8>)>,
    ) -> wasmtime::Result<Result<Resource<Fields>, HeaderError>> {
        let most = self.services.grants.http.header_bytes;
        let mut fields = Fields::default();
        for (name, value) in entries {
            if let Err(error) = fields.append(&name, &value, most) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(self.wasi.table.push(fields)?))
    }

    fn get(&mut self, fields: Resource<Fields>, name: String) -> wasmtime::Result<Vec<Vec<u8>>> {
        let values = self.fields(&fields)?.map.get_all(name.as_str());
        Ok(values.iter().map(|value| value.as_bytes().to_vec()).collect())
    }

    fn has(&mut self, fields: Resource<Fields>, name: String) -> wasmtime::Result<bool> {
        Ok(self.fields(&fields)?.map.contains_key(name.as_str()))
    }

    fn set(
        &mut self,
        fields: Resource<Fields>,
        field: String,
        values: Vec<Vec<u8>>,
    ) -> wasmtime::Result<Result<(), HeaderError>> {
        let most = self.services.grants.http.header_bytes;
        let fields = self.wasi.table.get_mut(&fields)?;
        let set = |fields: &mut Fields| {
            let mut fresh = fields.clone();
            fresh.map.remove(name(&field)?);
            for value in &values {
                fresh.append(&field, value, most)?;
            }
            *fields = fresh;
            Ok(())
        };
        Ok(fields.change().and_then(set))
    }

    fn delete(
        &mut self,
        fields: Resource<Fields>,
        field: String,
    ) -> wasmtime::Result<Result<(), HeaderError>> {
        let fields = self.wasi.table.get_mut(&fields)?;
        Ok(fields.change().and_then(|fields| {
            fields.map.remove(name(&field)?);
            Ok(())
        }))
    }

    fn append(
        &mut self,
        fields: Resource<Fields>,
        name: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), HeaderError>> {
        let most = self.services.grants.http.header_bytes;
        let fields = self.wasi.table.get_mut(&fields)?;
        Ok(fields.change().and_then(|fields| fields.append(&name, &value, most)))
    }

    fn entries(&mut self, fields: Resource<Fields>) -> wasmtime::Result<Vec<(String, Vec<u8>)>> {
        let entries = self.fields(&fields)?.map.iter();
        Ok(entries.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect())
    }

    fn clone(&mut self, fields: Resource<Fields>) -> wasmtime::Result<Resource<Fields>> {
        let map = self.fields(&fields)?.map.clone();
        Ok(self.wasi.table.push(Fields { map, immutable: false })?)
    }

    fn drop(&mut self, fields: Resource<Fields>) -> wasmtime::Result<()> {
        self.wasi.table.delete(fields)?;
        Ok(())
    }
}

impl types::HostOutgoingRequest for StoreState {
    fn new(&mut self, headers: Resource<Fields>) -> wasmtime::Result<Resource<OutgoingRequest>> {
        let headers = self.wasi.table.delete(headers)?.map;
        let (method, path) = (Method::GET, String::from("/"));
        let request = OutgoingRequest { method, path, scheme: None, authority: None, headers, body: None };
        Ok(self.wasi.table.push(request)?)
    }

    fn body(
        &mut self,
        request: Resource<OutgoingRequest>,
    ) -> wasmtime::Result<Result<Resource<OutgoingBody>, ()>> {
        let most = self.services.grants.http.request_bytes;
        let request = self.wasi.table.get_mut(&request)?;
        if request.body.is_some() {
            return Ok(Err(()));
        }
        let buffer = Arc::new(Mutex::new(Buffer::new(most)));
        let (done, waits) = watch::channel(false);
        request.body = Some(Unfinished { buffer: Arc::clone(&buffer), done: waits });
        let announced = request.headers.get(header::CONTENT_LENGTH);
        let announced = announced.and_then(|value| value.to_str().ok()?.parse().ok());
        let body = OutgoingBody { buffer, done, announced, has_stream: false };
        Ok(Ok(self.wasi.table.push(body)?))
    }

    fn method(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<AbiMethod> {
        let method = &self.wasi.table.get(&request)?.method;
        Ok(match method.as_str() {
            "GET" => AbiMethod::Get,
            "HEAD" => AbiMethod::Head,
            "POST" => AbiMethod::Post,
            "PUT" => AbiMethod::Put,
            "DELETE" => AbiMethod::Delete,
            "OPTIONS" => AbiMethod::Options,
            "PATCH" => AbiMethod::Patch,
            other => AbiMethod::Other(other.to_owned()),
        })
    }

    fn set_method(
        &mut self,
        request: Resource<OutgoingRequest>,
        method: AbiMethod,
    ) -> wasmtime::Result<Result<(), ()>> {
        let method = match method {
            AbiMethod::Get => Some(Method::GET),
            AbiMethod::Head => Some(Method::HEAD),
            AbiMethod::Post => Some(Method::POST),
            AbiMethod::Put => Some(Method::PUT),
            AbiMethod::Delete => Some(Method::DELETE),
            AbiMethod::Options => Some(Method::OPTIONS),
            AbiMethod::Patch => Some(Method::PATCH),
            // A tunnel would lead past every rule.
            AbiMethod::Connect | AbiMethod::Trace => None,
            AbiMethod::Other(text) => Method::from_bytes(text.as_bytes())
                .ok()
                .filter(|method| !matches!(*method, Method::CONNECT | Method::TRACE)),
        };
        let Some(method) = method else { return Ok(Err(())) };
        self.wasi.table.get_mut(&request)?.method = method;
        Ok(Ok(()))
    }

    fn path_with_query(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<Option<String>> {
        Ok(Some(self.wasi.table.get(&request)?.path.clone()))
    }

    fn set_path_with_query(
        &mut self,
        request: Resource<OutgoingRequest>,
        path: Option<String>,
    ) -> wasmtime::Result<Result<(), ()>> {
        let mut path = path.unwrap_or_default();
        if !path.starts_with('/') {
            path.insert(0, '/');
        }
        let fits = path.len() <= self.services.grants.http.header_bytes;
        let is_path = |uri: hyper::Uri| uri.scheme().is_none() && uri.authority().is_none();
        if !fits || !path.parse().is_ok_and(is_path) {
            return Ok(Err(()));
        }
        self.wasi.table.get_mut(&request)?.path = path;
        Ok(Ok(()))
    }

    fn scheme(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<Option<AbiScheme>> {
        Ok(self.wasi.table.get(&request)?.scheme.map(|scheme| match scheme {
            Scheme::Http => AbiScheme::Http,
            Scheme::Https => AbiScheme::Https,
        }))
    }

    fn set_scheme(
        &mut self,
        request: Resource<OutgoingRequest>,
        scheme: Option<AbiScheme>,
    ) -> wasmtime::Result<Result<(), ()>> {
        let scheme = match scheme {
            None => None,
            Some(AbiScheme::Http) => Some(Scheme::Http),
            Some(AbiScheme::Https) => Some(Scheme::Https),
            Some(AbiScheme::Other(_)) => return Ok(Err(())),
        };
        self.wasi.table.get_mut(&request)?.scheme = scheme;
        Ok(Ok(()))
    }

    fn authority(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<Option<String>> {
        Ok(self.wasi.table.get(&request)?.authority.clone())
    }

    fn set_authority(
        &mut self,
        request: Resource<OutgoingRequest>,
        authority: Option<String>,
    ) -> wasmtime::Result<Result<(), ()>> {
        if authority.as_ref().is_some_and(|text| Destination::parse(Scheme::Https, text).is_err()) {
            return Ok(Err(()));
        }
        self.wasi.table.get_mut(&request)?.authority = authority;
        Ok(Ok(()))
    }

    fn headers(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<Resource<Fields>> {
        let map = self.wasi.table.get(&request)?.headers.clone();
        Ok(self.wasi.table.push(Fields { map, immutable: true })?)
    }

    fn drop(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<()> {
        self.wasi.table.delete(request)?;
        Ok(())
    }
}

impl types::HostOutgoingBody for StoreState {
    fn write(
        &mut self,
        body: Resource<OutgoingBody>,
    ) -> wasmtime::Result<Result<Resource<OutputStream>, ()>> {
        let body = self.wasi.table.get_mut(&body)?;
        if body.has_stream {
            return Ok(Err(()));
        }
        body.has_stream = true;
        let stream = OutputStream(Arc::clone(&body.buffer));
        Ok(Ok(self.wasi.table.push(stream)?))
    }

    fn finish(
        &mut self,
        body: Resource<OutgoingBody>,
        trailers: Option<Resource<Fields>>,
    ) -> wasmtime::Result<Result<(), ErrorCode>> {
        let OutgoingBody { buffer, done, announced, .. } = self.wasi.table.delete(body)?;
        if let Some(trailers) = trailers {
            // A body of known length has none.
            self.wasi.table.delete(trailers)?;
            return Ok(Err(ErrorCode::HttpRequestTrailerSectionSize(None)));
        }
        let length = {
            let mut buffer = locked(&buffer);
            if buffer.closed {
                return Ok(Err(Failure::BodyTooLarge.into_request_error()));
            }
            buffer.closed = true;
            buffer.bytes.len() as u64
        };
        if announced.is_some_and(|announced| announced != length) {
            return Ok(Err(ErrorCode::HttpRequestBodySize(Some(length))));
        }
        let _ = done.send(true);
        Ok(Ok(()))
    }

    fn drop(&mut self, body: Resource<OutgoingBody>) -> wasmtime::Result<()> {
        self.wasi.table.delete(body)?;
        Ok(())
    }
}

impl types::HostRequestOptions for StoreState {
    fn new(&mut self) -> wasmtime::Result<Resource<RequestOptions>> {
        Ok(self.wasi.table.push(RequestOptions::default())?)
    }

    fn connect_timeout(&mut self, options: Resource<RequestOptions>) -> wasmtime::Result<Option<u64>> {
        Ok(nanoseconds(self.wasi.table.get(&options)?.0.connect))
    }

    fn set_connect_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        limit: Option<u64>,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.wasi.table.get_mut(&options)?.0.connect = limit.map(Duration::from_nanos);
        Ok(Ok(()))
    }

    fn first_byte_timeout(&mut self, options: Resource<RequestOptions>) -> wasmtime::Result<Option<u64>> {
        Ok(nanoseconds(self.wasi.table.get(&options)?.0.first_byte))
    }

    fn set_first_byte_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        limit: Option<u64>,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.wasi.table.get_mut(&options)?.0.first_byte = limit.map(Duration::from_nanos);
        Ok(Ok(()))
    }

    fn between_bytes_timeout(&mut self, options: Resource<RequestOptions>) -> wasmtime::Result<Option<u64>> {
        Ok(nanoseconds(self.wasi.table.get(&options)?.0.between_bytes))
    }

    fn set_between_bytes_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        limit: Option<u64>,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.wasi.table.get_mut(&options)?.0.between_bytes = limit.map(Duration::from_nanos);
        Ok(Ok(()))
    }

    fn drop(&mut self, options: Resource<RequestOptions>) -> wasmtime::Result<()> {
        self.wasi.table.delete(options)?;
        Ok(())
    }
}

fn nanoseconds(limit: Option<Duration>) -> Option<u64> {
    limit.map(|limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX))
}
