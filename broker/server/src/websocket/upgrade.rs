//! The HTTP request that becomes a WebSocket connection: who may, and what it is answered.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Parts};
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tungstenite::handshake::derive_accept_key;

use super::{UpgradeError, WebSocketSettings};

/// The head of the request has to fit.
const LONGEST_HEAD: usize = 16 * 1024;
const MOST_HEADERS: usize = 100;
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What a granted request leaves.
pub struct Upgraded<S> {
    pub stream: S,
    /// What the client sent after its request without waiting for the answer.
    pub early: Bytes,
    /// Whose connection it is, by a trusted proxy's word.
    pub client: Option<IpAddr>,
}

struct Granted {
    upgrade: OnUpgrade,
    client: Option<IpAddr>,
}

/// Answers the request on `stream`, which came from `peer`.
pub async fn upgrade<S>(
    stream: S,
    peer: IpAddr,
    settings: &WebSocketSettings,
) -> Result<Upgraded<S>, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answered = tokio::time::timeout(settings.timeout, answer(stream, peer, settings.clone())).await;
    answered.unwrap_or(Err(UpgradeError::Timeout(settings.timeout)))
}

async fn answer<S>(stream: S, peer: IpAddr, settings: WebSocketSettings) -> Result<Upgraded<S>, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let outcome: Arc<Mutex<Option<Result<Granted, UpgradeError>>>> = Arc::default();
    let place = Arc::clone(&outcome);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (response, outcome) = match check(&request, peer, &settings) {
            Ok((response, client)) => {
                (response, Ok(Granted { upgrade: hyper::upgrade::on(&mut request), client }))
            }
            Err(error) => (refusal(&error), Err(error)),
        };
        *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(LONGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    let outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
    let granted = match (outcome, served) {
        (Some(outcome), _) => outcome?,
        (None, Ok(())) => return Err(UpgradeError::Silent),
        (None, Err(error)) => return Err(UpgradeError::Http(error.to_string())),
    };
    let lost = |error: hyper::Error| UpgradeError::Http(error.to_string());
    let upgraded = granted.upgrade.await.map_err(lost)?;
    let Parts { io, read_buf, .. } = upgraded
        .downcast::<TokioIo<S>>()
        .map_err(|_| UpgradeError::Http(String::from("the stream was exchanged for another")))?;
    Ok(Upgraded { stream: io.into_inner(), early: read_buf, client: granted.client })
}

fn check(
    request: &Request<Incoming>,
    peer: IpAddr,
    settings: &WebSocketSettings,
) -> Result<(Response<Body>, Option<IpAddr>), UpgradeError> {
    let headers = request.headers();
    // RFC 6455, 4.2.1.
    if request.version() < Version::HTTP_11 {
        return Err(UpgradeError::Http(String::from("an older version cannot upgrade")));
    }
    if single(headers, &header::HOST).is_none() {
        return Err(UpgradeError::Http(String::from("it does not name one host")));
    }
    // RFC 9110, 7.8: nothing is switched before all of the request is there; and nobody has a use for a body.
    if !request.body().is_end_stream() {
        return Err(UpgradeError::Http(String::from("it has a body")));
    }
    if request.uri().path() != &*settings.path {
        return Err(UpgradeError::Path(request.uri().path().chars().take(256).collect()));
    }
    if request.method() != Method::GET {
        return Err(UpgradeError::Method);
    }
    let asks = has_token(headers, header::CONNECTION, "upgrade")
        && has_token(headers, header::UPGRADE, "websocket")
        && headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    if !asks {
        return Err(UpgradeError::NotWebSocket);
    }
    let key = single(headers, &header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    // 16 bytes in base64.
    if key.len() != 24 || !key.ends_with(b"==") {
        return Err(UpgradeError::Key);
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = String::from_utf8_lossy(origin.as_bytes());
        let listed = settings.origins.iter().any(|listed| listed.eq_ignore_ascii_case(&origin));
        if !settings.origins.is_empty() && !listed {
            return Err(UpgradeError::Origin(origin.chars().take(256).collect()));
        }
    }
    let subprotocol = ["mqtt", "mqttv3.1"]
        .into_iter()
        .find(|name| has_token(headers, header::SEC_WEBSOCKET_PROTOCOL, name));
    if subprotocol.is_none() && settings.require_subprotocol {
        return Err(UpgradeError::Subprotocol);
    }

    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::try_from(derive_accept_key(key)).map_err(|_| UpgradeError::Key)?;
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(name) = subprotocol {
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    let client = settings.is_trusted(peer).then(|| forwarded_for(headers, settings)).flatten();
    Ok((response, client))
}

fn refusal(error: &UpgradeError) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{error}\n")));
    *response.status_mut() = match error {
        UpgradeError::Path(_) => StatusCode::NOT_FOUND,
        UpgradeError::Method => StatusCode::METHOD_NOT_ALLOWED,
        UpgradeError::NotWebSocket => StatusCode::UPGRADE_REQUIRED,
        UpgradeError::Origin(_) => StatusCode::FORBIDDEN,
        UpgradeError::Http(_)
        | UpgradeError::Key
        | UpgradeError::Subprotocol
        | UpgradeError::Timeout(_)
        | UpgradeError::Silent => StatusCode::BAD_REQUEST,
    };
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    match error {
        UpgradeError::Method => {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
        }
        UpgradeError::NotWebSocket => {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("close, Upgrade"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        _ => {}
    }
    response
}

/// The value of a header that stands once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Whether a list of words has one, in whatever case.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case(token))
}

/// The last address that no trusted proxy has: those before it were written by somebody we do not know.
fn forwarded_for(headers: &HeaderMap, settings: &WebSocketSettings) -> Option<IpAddr> {
    let mut client = None;
    let values: Vec<&str> =
        headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    for word in values.iter().rev().flat_map(|value| value.rsplit(',')) {
        let word = word.trim();
        let address =
            word.parse().ok().or_else(|| word.parse().ok().map(|address: std::net::SocketAddr| address.ip()));
        // What cannot be read ends what can be believed.
        let Some(address) = address.map(|address: IpAddr| address.to_canonical()) else { break };
        client = Some(address);
        if !settings.is_trusted(address) {
            break;
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::FrameLimits;
    use super::*;

    fn settings() -> WebSocketSettings {
        WebSocketSettings {
            path: "/mqtt".into(),
            require_subprotocol: true,
            origins: Arc::from([]),
            limits: FrameLimits::default(),
            trusted_proxies: Arc::from(["10.0.0.0/8".parse().unwrap()]),
            timeout: Duration::from_secs(5),
        }
    }

    const GOOD: &str = "GET /mqtt HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Protocol: mqtt\r\n";

    /// Sends a request; what it was answered, and what came of it.
    async fn ask(
        settings: &WebSocketSettings,
        request: &str,
    ) -> (String, Result<(Bytes, Option<IpAddr>), UpgradeError>) {
        let (mut client, ours) = tokio::io::duplex(64 * 1024);
        client.write_all(request.as_bytes()).await.unwrap();
        let upgraded = upgrade(ours, [10, 0, 0, 1].into(), settings).await;
        let outcome = upgraded.map(|upgraded| (upgraded.early, upgraded.client));
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        (String::from_utf8(answer).unwrap(), outcome)
    }

    fn with(headers: &str) -> String {
        format!("{GOOD}{headers}\r\n")
    }

    #[tokio::test]
    async fn the_sample_of_rfc_6455_is_granted() {
        let (answer, outcome) = ask(&settings(), &with("")).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        let lower = answer.to_ascii_lowercase();
        for line in ["connection: upgrade", "upgrade: websocket", "sec-websocket-protocol: mqtt"] {
            assert!(lower.contains(line), "{line}: {answer}");
        }
        assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
        assert_eq!(outcome, Ok((Bytes::new(), None)));
    }

    #[tokio::test]
    async fn what_is_sent_without_waiting_is_kept() {
        let (_, outcome) = ask(&settings(), &format!("{}early", with(""))).await;
        assert_eq!(outcome.unwrap().0, "early");
    }

    #[tokio::test]
    async fn what_is_refused_and_how() {
        let refused = [
            (with("").replace("/mqtt", "/"), "404", UpgradeError::Path("/".into())),
            (
                with("").replace("Host: x\r\n", ""),
                "400",
                UpgradeError::Http("it does not name one host".into()),
            ),
            (with("Host: y\r\n"), "400", UpgradeError::Http("it does not name one host".into())),
            (with("Content-Length: 2\r\n") + "ab", "400", UpgradeError::Http("it has a body".into())),
            (with("Transfer-Encoding: chunked\r\n"), "400", UpgradeError::Http("it has a body".into())),
            (with("").replace("GET", "PUT"), "405", UpgradeError::Method),
            (with("").replace("Upgrade: websocket\r\n", ""), "426", UpgradeError::NotWebSocket),
            (with("").replace("Version: 13", "Version: 8"), "426", UpgradeError::NotWebSocket),
            (with("").replace("dGhlIHNhbXBsZSBub25jZQ==", "short"), "400", UpgradeError::Key),
            (with("").replace("Protocol: mqtt", "Protocol: chat, amqp"), "400", UpgradeError::Subprotocol),
        ];
        for (request, status, error) in refused {
            let (answer, outcome) = ask(&settings(), &request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            assert_eq!(outcome.unwrap_err(), error);
        }
        let (answer, outcome) = ask(&settings(), &with("").replace("HTTP/1.1", "HTTP/1.0")).await;
        assert!(answer.contains(" 400 ") && outcome.is_err(), "{answer}");
        let (answer, outcome) = ask(&settings(), "\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0\r\n\r\n").await;
        assert!(matches!(outcome, Err(UpgradeError::Http(_))), "{answer}");
        let huge = with(&format!("X: {}\r\n", "x".repeat(LONGEST_HEAD)));
        assert!(matches!(ask(&settings(), &huge).await.1, Err(UpgradeError::Http(_))));
    }

    /// [MQTT-6.0.0-4; MQTT 3.1.1: MQTT-6.0.0-4]
    #[tokio::test]
    async fn subprotocols_that_are_taken() {
        for (offered, answered) in
            [("chat, mqtt", Some("mqtt")), ("mqttv3.1", Some("mqttv3.1")), ("mqttv3.1, mqtt", Some("mqtt"))]
        {
            let (answer, outcome) =
                ask(&settings(), &with("").replace("Protocol: mqtt", &format!("Protocol: {offered}"))).await;
            assert!(outcome.is_ok(), "{answer}");
            let line = answered.map(|name| format!("sec-websocket-protocol: {name}\r\n")).unwrap();
            assert!(answer.to_ascii_lowercase().contains(&line), "{answer}");
        }
        let lax = WebSocketSettings { require_subprotocol: false, ..settings() };
        let (answer, outcome) = ask(&lax, &with("").replace("Sec-WebSocket-Protocol: mqtt\r\n", "")).await;
        assert!(
            outcome.is_ok() && !answer.to_ascii_lowercase().contains("sec-websocket-protocol"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn only_listed_pages_may_connect() {
        let settings =
            WebSocketSettings { origins: Arc::from(["https://app.example.com".to_owned()]), ..settings() };
        assert!(ask(&settings, &with("Origin: https://APP.example.com\r\n")).await.1.is_ok());
        assert!(ask(&settings, &with("")).await.1.is_ok(), "no browser");
        for origin in
            ["https://evil.example", "null", "http://app.example.com", "https://app.example.com.evil.example"]
        {
            let (answer, outcome) = ask(&settings, &with(&format!("Origin: {origin}\r\n"))).await;
            assert_eq!(outcome.unwrap_err(), UpgradeError::Origin(origin.to_owned()));
            assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        }
    }

    #[tokio::test]
    async fn whose_connection_it_is_only_trusted_proxies_say() {
        let client = async |settings: &WebSocketSettings, header: &str| {
            ask(settings, &with(&format!("X-Forwarded-For: {header}\r\n")))
                .await
                .1
                .unwrap()
                .1
                .map(|ip| ip.to_string())
        };
        let ours = settings();
        assert_eq!(client(&ours, "192.0.2.7").await.as_deref(), Some("192.0.2.7"));
        assert_eq!(client(&ours, "203.0.113.1, 192.0.2.7, 10.3.3.3").await.as_deref(), Some("192.0.2.7"));
        assert_eq!(
            client(&ours, "203.0.113.1\r\nX-Forwarded-For: 192.0.2.7").await.as_deref(),
            Some("192.0.2.7")
        );
        assert_eq!(client(&ours, "[2001:db8::1]:443").await.as_deref(), Some("2001:db8::1"));
        assert_eq!(client(&ours, "203.0.113.1, garbage").await, None);
        let nobody = WebSocketSettings { trusted_proxies: Arc::from([]), ..ours };
        assert_eq!(client(&nobody, "192.0.2.7").await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_come_is_not_waited_for() {
        let (mut client, ours) = tokio::io::duplex(64);
        client.write_all(b"GET /mqtt HT").await.unwrap();
        let late = upgrade(ours, [10, 0, 0, 1].into(), &settings()).await.err();
        assert_eq!(late, Some(UpgradeError::Timeout(Duration::from_secs(5))));
        let (client, ours) = tokio::io::duplex(64);
        drop(client);
        assert_eq!(upgrade(ours, [10, 0, 0, 1].into(), &settings()).await.err(), Some(UpgradeError::Silent));
    }
}
