//! HTTP/1.1 for the admin API and the pages, with TLS or without: so many connections and no more, and none that says
//! nothing keeps its place.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::secure::{AdminTls, Shown};

/// Connections at once; more wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 256;
/// Time for the head of a request, the wait for it included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the next piece of a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// After this a connection ends with the request it is at.
const LONGEST: Duration = Duration::from_secs(300);
/// Time for that last request, its answer included: loading a component compiles it.
const LAST_REQUEST: Duration = Duration::from_secs(120);
/// Time for requests in flight when the broker stops.
const LAST_MOMENT: Duration = Duration::from_secs(2);
/// Wait when no connection can be accepted, for want of file descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What a connection may take up.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    connections: usize,
    head: Duration,
    body: Duration,
    longest: Duration,
    last_request: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: MOST_CONNECTIONS,
            head: HEAD_TIMEOUT,
            body: BODY_TIMEOUT,
            longest: LONGEST,
            last_request: LAST_REQUEST,
        }
    }
}

/// Serves `router` until `shutdown`; requests in flight get a moment to end.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<AdminTls>>,
    router: Router,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    serve_within(Bounds::default(), listener, tls, router, shutdown).await;
    Ok(())
}

async fn serve_within(
    bounds: Bounds,
    listener: TcpListener,
    tls: Option<Arc<AdminTls>>,
    router: Router,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(bounds.connections));
    let mut connections = JoinSet::new();
    while let Some((stream, peer, place)) = next(&listener, &places, &shutdown).await {
        while connections.try_join_next().is_some() {}
        let (tls, router, shutdown) = (tls.clone(), router.clone(), shutdown.clone());
        connections.spawn(async move {
            let _ = stream.set_nodelay(true);
            match tls {
                None => connection(bounds, stream, Asker { peer, shown: None }, router, shutdown).await,
                Some(tls) => {
                    // In a box: what a handshake needs is not kept for as long as the connection lives.
                    let accepted = tokio::select! {
                        () = shutdown.cancelled() => None,
                        accepted = Box::pin(tls.accept(stream, peer)) => accepted,
                    };
                    if let Some((stream, shown)) = accepted {
                        connection(bounds, stream, Asker { peer, shown }, router, shutdown).await;
                    }
                }
            }
            drop(place);
        });
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    // Whoever is left is cut off with the set.
    let _ = timeout(LAST_MOMENT, all_ended).await;
}

/// The next connection and its place; `None` when it is time to stop.
async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let accept = async {
        let place = Arc::clone(places).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => return Some((stream, peer, place)),
                Err(error) => {
                    tracing::warn!(%error, "a connection to the admin API or the pages cannot be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => None,
        accepted = accept => accepted,
    }
}

/// Who is at the other end.
struct Asker {
    peer: SocketAddr,
    shown: Option<Shown>,
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    bounds: Bounds,
    stream: S,
    asker: Asker,
    router: Router,
    shutdown: CancellationToken,
) {
    let router = TowerToHyperService::new(router);
    let streaming = Streaming { end: shutdown.clone(), open: Arc::default() };
    let streams = Arc::clone(&streaming.open);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(|body| Body::new(Hurried::new(body, bounds.body)));
        request.extensions_mut().insert(ConnectInfo(asker.peer));
        if let Some(shown) = &asker.shown {
            request.extensions_mut().insert(shown.clone());
        }
        request.extensions_mut().insert(streaming.clone());
        let answer = router.call(request);
        async move { answer.await.map_err(|never: Infallible| never) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let last = tokio::select! {
        _ = &mut connection => return,
        () = shutdown.cancelled() => LAST_MOMENT,
        () = too_long(bounds.longest, &streams) => bounds.last_request,
    };
    connection.as_mut().graceful_shutdown();
    let _ = timeout(last, connection).await;
}

/// A connection with a stream on it may live for longer; the stream has bounds of its own.
async fn too_long(longest: Duration, streams: &AtomicUsize) {
    loop {
        sleep(longest).await;
        if streams.load(Ordering::Relaxed) == 0 {
            return;
        }
    }
}

/// For requests and answers that take as long as they are, and those that do not end by themselves.
#[derive(Debug, Clone)]
pub(super) struct Streaming {
    /// The server stops.
    pub(super) end: CancellationToken,
    open: Arc<AtomicUsize>,
}

impl Streaming {
    /// Keeps the connection for as long as the value lives.
    pub(super) fn begin(&self) -> OpenStream {
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenStream(Arc::clone(&self.open))
    }
}

pub(super) struct OpenStream(Arc<AtomicUsize>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request's body, each piece of which has to be here in time.
struct Hurried {
    body: Incoming,
    /// Longest wait for the next piece.
    patience: Duration,
    end: Pin<Box<Sleep>>,
    /// The next piece is waited for. What the handler does in between does not count: an import writes to the disk.
    waiting: bool,
}

impl Hurried {
    fn new(body: Incoming, patience: Duration) -> Self {
        Self { body, patience, end: Box::pin(sleep(patience)), waiting: false }
    }
}

impl hyper::body::Body for Hurried {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                this.waiting = false;
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => {
                if !std::mem::replace(&mut this.waiting, true) {
                    let end = tokio::time::Instant::now() + this.patience;
                    this.end.as_mut().reset(end);
                }
                this.end.as_mut().poll(cx).map(|()| Some(Err("the request's body takes too long".into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const SOON: Duration = Duration::from_millis(100);
    const NEVER: Duration = Duration::from_secs(3_600);

    #[expect(clippy::disallowed_methods, reason = "these routes are not the API's")]
    async fn start(bounds: Bounds) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let router = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/", post(|body: Bytes| async move { body.len().to_string() }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let end = CancellationToken::new();
        (address, end.clone(), tokio::spawn(serve_within(bounds, listener, None, router, end)))
    }

    fn patient() -> Bounds {
        Bounds { connections: 1, head: NEVER, body: NEVER, longest: NEVER, last_request: NEVER }
    }

    /// Everything that comes until the server closes.
    async fn say(address: SocketAddr, text: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = timeout(Duration::from_secs(20), stream.read_to_end(&mut answer));
        let _ = read.await.expect("the server closes the connection");
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_or_half_loses_its_place() {
        let (address, _end, _serving) = start(Bounds { head: SOON, ..patient() }).await;
        // There is one place: each of these is only served because those before it were sent away.
        for text in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: x\r\n"] {
            assert!(!say(address, text).await.contains("200 OK"), "{text}");
        }
        // One that has asked and asks nothing more, too.
        let answer = say(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.contains("200 OK") && answer.ends_with("here"), "{answer}");
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let (address, _end, _serving) = start(Bounds { body: SOON, ..patient() }).await;
        let answer = say(address, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf").await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        let whole = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody";
        assert!(say(address, whole).await.ends_with('4'));
    }

    #[tokio::test]
    async fn no_connection_lives_for_ever() {
        let (address, _end, _serving) =
            start(Bounds { longest: SOON, last_request: SOON, ..patient() }).await;
        for text in ["", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf"] {
            assert!(!say(address, text).await.contains("200 OK"), "{text}");
        }
    }

    #[tokio::test]
    async fn stopping_ends_idle_connections_at_once() {
        let (address, end, serving) = start(patient()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut first = [0; 15];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");
        end.cancel();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        serving.await.unwrap();
    }
}
