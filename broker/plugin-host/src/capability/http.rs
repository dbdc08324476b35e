//! One request of a plugin over HTTP/1.1: from its destination to its whole answer, which is bounded in every way.
//!
//! Names are resolved once, and the address that was checked is the one that is connected to. Nothing is followed,
//! decompressed or kept open, and nobody waits for a connection: there is one, or the request is refused. Whoever
//! drops the future of a request ends its connection. What a guest sees of it is [`super::wasi`]'s.

mod destination;
mod failure;
mod tls;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use mqgate_identity::reach::Reach;
use prometheus::IntGauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

pub use self::destination::{AllowedDestination, BadDestination};
pub(crate) use self::destination::{Destination, Scheme};
pub(crate) use self::failure::Failure;
use self::tls::Tls;
use crate::outside::Outside;
use crate::settings::HttpSettings;

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;
/// Fields of an answer, however small.
const MAX_FIELDS: usize = 128;
/// The least that the reader of answers works with.
const LEAST_BUFFER: usize = 8 << 10;

/// Finds the addresses of a name: the system's, unless somebody brings another one.
pub trait Resolver: fmt::Debug + Send + Sync {
    fn resolve(&self, host: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;
}

/// The resolver of the operating system, on a thread for each name: threads for what blocks are few, and a lookup cannot
/// be called off.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, host: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        Box::pin(async move {
            let (tell, told) = oneshot::channel();
            let look_up = move || {
                let found = (host.as_str(), 0).to_socket_addrs();
                let _ = tell.send(found.map(|found| found.map(|address| address.ip()).collect()));
            };
            std::thread::Builder::new().name(String::from("plugin-lookup")).spawn(look_up)?;
            told.await.map_err(io::Error::other)?
        })
    }
}

/// Sends the requests of one version of one plugin.
pub(crate) struct HttpClient {
    settings: HttpSettings,
    resolver: Arc<dyn Resolver>,
    tls: Tls,
    connections: Arc<Semaphore>,
    /// Questions to the resolver that are still open: those of the operating system cannot be called off.
    lookups: Arc<Semaphore>,
    open: IntGauge,
    outside: Arc<dyn Outside>,
}

/// A connection that a plugin may have. Whoever holds the answer still has it, so answers are bounded in number, too.
pub(crate) struct Place {
    permit: Option<OwnedSemaphorePermit>,
    open: IntGauge,
}

pub(crate) struct Outgoing {
    pub(crate) method: Method,
    pub(crate) destination: Destination,
    /// With its query.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) patience: Patience,
}

/// What the plugin itself asked for; the end of its call holds in any case.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Patience {
    pub(crate) connect: Option<Duration>,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) between_bytes: Option<Duration>,
}

impl Outgoing {
    /// The port stands in it only where it is not the scheme's.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}{}", self.destination.scheme.as_str(), self.destination.authority(), self.path)
    }
}

pub(crate) struct Answer {
    pub(crate) whole: Whole,
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) place: Place,
}

/// An answer apart from its connection.
#[derive(Debug, Clone)]
pub(crate) struct Whole {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl HttpClient {
    /// Reads the file of the certificate authorities, where there is one.
    pub(crate) fn new(
        settings: HttpSettings,
        resolver: Arc<dyn Resolver>,
        open: IntGauge,
        outside: Arc<dyn Outside>,
    ) -> Result<Self, String> {
        let encrypted = outside.has_network() && settings.allow.iter().any(AllowedDestination::is_encrypted);
        let tls = if encrypted { Tls::new(settings.ca_file.as_deref())? } else { Tls::none() };
        let places = || Arc::new(Semaphore::new(settings.connections));
        Ok(Self { connections: places(), lookups: places(), settings, resolver, tls, open, outside })
    }

    /// Whether the operator allows this at all, by its name.
    pub(crate) fn admit(&self, destination: &Destination) -> Result<(), Failure> {
        let allowed = self.settings.allow.iter().any(|allowed| allowed.allows(destination));
        if allowed { Ok(()) } else { Err(Failure::Denied) }
    }

    /// A connection at once or none: the one who would have to wait may be the one who holds them all.
    pub(crate) fn place(&self) -> Result<Place, Failure> {
        let permit = Arc::clone(&self.connections).try_acquire_owned().map_err(|_| Failure::TooMany)?;
        self.open.inc();
        Ok(Place { permit: Some(permit), open: self.open.clone() })
    }

    /// Sends a request that was admitted, and reads the whole answer.
    pub(crate) async fn send(
        &self,
        outgoing: Outgoing,
        place: Place,
        ends: Instant,
    ) -> Result<Answer, Failure> {
        self.admit(&outgoing.destination)?;
        if let Some(known) = self.outside.fetch(&outgoing) {
            return known.map(|whole| Answer { whole, trailers: None, place });
        }
        let until = |limit: Option<Duration>| limit.map_or(ends, |limit| ends.min(Instant::now() + limit));
        let Outgoing { method, destination, path, headers, body, patience } = outgoing;
        let connecting = until(patience.connect);
        let stream = self.connect(&destination, connecting).await?;
        let request = request(method, &destination, &path, headers, body)?;
        let first_byte = until(patience.first_byte);
        let mut http = hyper::client::conn::http1::Builder::new();
        http.max_headers(MAX_FIELDS).max_buf_size(self.settings.header_bytes.max(LEAST_BUFFER));
        let (mut sender, connection) =
            http.handshake(TokioIo::new(stream)).await.map_err(|error| Failure::of(&error))?;
        let exchange = async {
            let response = within(first_byte, Failure::ResponseTimeout, sender.send_request(request)).await?;
            let response = response.map_err(|error| Failure::of(&error))?;
            self.read(response, place, || until(patience.between_bytes)).await
        };
        // In this task: what drops the request closes its connection. Its end is not the end of what it has read.
        let driven = async {
            let _ = connection.await;
            std::future::pending().await
        };
        let (exchange, driven) = (pin!(exchange), pin!(driven));
        tokio::select! {
            biased;
            answer = exchange => answer,
            never = driven => never,
        }
    }

    async fn connect(&self, destination: &Destination, until: Instant) -> Result<Box<dyn Stream>, Failure> {
        let addresses = self.addresses(destination, until).await?;
        let mut problem = Failure::NotFound;
        for address in addresses.into_iter().take(MAX_ADDRESSES) {
            match within(until, Failure::ConnectTimeout, TcpStream::connect(address)).await? {
                Ok(stream) if destination.scheme == Scheme::Https => {
                    let encrypted = self.tls.connect(&destination.host, stream);
                    return Ok(Box::new(within(until, Failure::ConnectTimeout, encrypted).await??));
                }
                Ok(stream) => return Ok(Box::new(stream)),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    problem = Failure::ConnectionRefused;
                }
                Err(_) => problem = Failure::Unreachable,
            }
        }
        Err(problem)
    }

    /// The addresses that may be connected to.
    async fn addresses(&self, destination: &Destination, until: Instant) -> Result<Vec<SocketAddr>, Failure> {
        let found = match &destination.host {
            destination::Host::Address(address) => vec![*address],
            destination::Host::Name(name) => self.resolve(name.clone(), until).await?,
        };
        if found.is_empty() {
            return Err(Failure::NotFound);
        }
        let found = found.into_iter().map(|address| address.to_canonical());
        let allowed = found.filter(|address| self.may_reach(*address));
        let allowed: Vec<_> = allowed.map(|address| SocketAddr::new(address, destination.port)).collect();
        if allowed.is_empty() { Err(Failure::Prohibited) } else { Ok(allowed) }
    }

    fn may_reach(&self, address: IpAddr) -> bool {
        match Reach::of(address) {
            Reach::Everybody => true,
            Reach::Near => self.settings.private_networks,
            Reach::Nobody => false,
        }
    }

    async fn resolve(&self, name: String, until: Instant) -> Result<Vec<IpAddr>, Failure> {
        let permit = Arc::clone(&self.lookups).try_acquire_owned().map_err(|_| Failure::TooMany)?;
        let asked = self.resolver.resolve(name);
        // A task of its own: a lookup that nobody waits for any more counts until it ends.
        let lookup = tokio::spawn(async move {
            let found = asked.await;
            drop(permit);
            found
        });
        match within(until, Failure::LookupTimeout, lookup).await? {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(_)) | Err(_) => Err(Failure::NotFound),
        }
    }

    async fn read(
        &self,
        response: Response<Incoming>,
        place: Place,
        next: impl Fn() -> Instant,
    ) -> Result<Answer, Failure> {
        let HttpSettings { response_bytes, header_bytes, .. } = self.settings;
        let (head, mut incoming) = response.into_parts();
        if size_of_fields(&head.headers) > header_bytes {
            return Err(Failure::HeadersTooLarge);
        }
        let announced = head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let announced = announced.and_then(|length| length.parse::<usize>().ok());
        let mut body = Vec::new();
        let mut trailers = None;
        // An answer to HEAD announces what does not come.
        if !incoming.is_end_stream() && announced.is_some_and(|length| length > response_bytes) {
            return Err(Failure::BodyTooLarge);
        }
        while let Some(frame) = within(next(), Failure::ResponseTimeout, incoming.frame()).await? {
            let frame = frame.map_err(|error| Failure::of(&error))?;
            match frame.into_data() {
                Ok(data) if body.len() + data.len() > response_bytes => return Err(Failure::BodyTooLarge),
                Ok(data) => body.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        if trailers.as_ref().is_some_and(|fields| size_of_fields(fields) > header_bytes) {
            return Err(Failure::HeadersTooLarge);
        }
        let (status, headers) = (head.status.as_u16(), head.headers);
        Ok(Answer { whole: Whole { status, headers, body: body.into() }, trailers, place })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is counted as closed can be had.
        drop(self.permit.take());
        self.open.dec();
    }
}

/// What fields cost in memory, as HTTP/2 counts it.
pub(crate) fn size_of_fields(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| size_of_field(name.as_str(), value.as_bytes())).sum()
}

pub(crate) fn size_of_field(name: &str, value: &[u8]) -> usize {
    name.len() + value.len() + 32
}

fn request(
    method: Method,
    destination: &Destination,
    path: &str,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, Failure> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|_| Failure::Invalid)?;
    *request.headers_mut() = headers;
    let fields = request.headers_mut();
    let authority = HeaderValue::from_str(&destination.authority()).map_err(|_| Failure::Invalid)?;
    fields.insert(header::HOST, authority);
    fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
    // It is what there is of the body, whatever was said before.
    fields.remove(header::CONTENT_LENGTH);
    Ok(request)
}

async fn within<T>(until: Instant, late: Failure, work: impl Future<Output = T>) -> Result<T, Failure> {
    timeout_at(until, work).await.map_err(|_| late)
}
