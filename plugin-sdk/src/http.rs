//! Requests over HTTP as values, and how they are sent by `wasi:http`.
//!
//! ```
//! use mqgate_plugin_sdk::host::Http;
//! use mqgate_plugin_sdk::http::{HttpError, HttpRequest, HttpResponse};
//! use mqgate_plugin_sdk::testing::MemoryHost;
//!
//! fn may_connect(device_id: &str, host: &impl Http) -> Result<bool, HttpError> {
//!     let question = format!(r#"{{"device": "{device_id}"}}"#);
//!     let request = HttpRequest::post("https://policy.example/v1", "application/json", question);
//!     let answer = host.send(&request)?;
//!     Ok(answer.is_success() && answer.json::<serde_json::Value>()?["allow"] == true)
//! }
//!
//! let host = MemoryHost::default();
//! assert!(matches!(may_connect("meter-7", &host), Err(HttpError::Refused(_))));
//! let yes = HttpResponse { status: 200, headers: Vec::new(), body: br#"{"allow": true}"#.to_vec() };
//! host.answers.borrow_mut().insert("https://policy.example/v1".into(), Ok(yes));
//! assert_eq!(may_connect("meter-7", &host), Ok(true));
//! assert_eq!(host.requests.borrow()[1].body, br#"{"device": "meter-7"}"#);
//! ```

use std::fmt;
use std::time::Duration;

/// A request to `http://` or `https://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The longest to wait for the connection, for the first byte, and for each further one. The call's own end holds in
    /// any case.
    pub timeout: Option<Duration>,
}

/// An answer as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpResponse {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpError {
    /// The request is none: its URL, method, or a header.
    Invalid(String),
    /// The operator does not allow it: the destination, its address, the method in a trial, or one connection more.
    Refused(String),
    /// It did not come in time.
    Timeout(String),
    /// There was no connection: nobody has seen the request.
    Unreachable(String),
    /// The request is larger than the operator allows: where its parts are a client's, it is the client's doing.
    TooLarge(String),
    /// The answer is.
    AnswerTooLarge(String),
    /// Anything else: no such host, no trust, no HTTP, an answer that broke off.
    Failed(String),
}

impl HttpRequest {
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self { method: method.into(), url: url.into(), headers: Vec::new(), body: Vec::new(), timeout: None }
    }

    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// A request with a body of this media type.
    pub fn post(url: impl Into<String>, media_type: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::new("POST", url) }.header("content-type", media_type)
    }

    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl HttpResponse {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first value of a header that is text. The name is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| known == name)?;
        std::str::from_utf8(value).ok()
    }

    /// The body as JSON.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, HttpError> {
        serde_json::from_slice(&self.body).map_err(|error| HttpError::Failed(format!("the answer: {error}")))
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Invalid(why)
        | Self::Refused(why)
        | Self::Timeout(why)
        | Self::Unreachable(why)
        | Self::TooLarge(why)
        | Self::AnswerTooLarge(why)
        | Self::Failed(why)) = self;
        f.write_str(why)
    }
}

impl std::error::Error for HttpError {}

/// The parts of a URL: whether it is encrypted, its authority, its path with the query.
#[cfg_attr(not(target_arch = "wasm32"), allow(dead_code, reason = "tests of plugins send nothing"))]
fn parts(url: &str) -> Option<(bool, &str, &str)> {
    let (encrypted, rest) = match url.split_once("://")? {
        ("http", rest) => (false, rest),
        ("https", rest) => (true, rest),
        _ => return None,
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    (!authority.is_empty()).then_some((encrypted, authority, path))
}

#[cfg(target_arch = "wasm32")]
pub(crate) use self::guest::send;

#[cfg(target_arch = "wasm32")]
mod guest {
    use super::{HttpError, HttpRequest, HttpResponse, parts};
    use crate::bindings::granted::wasi::http::outgoing_handler;
    use crate::bindings::granted::wasi::http::types::{
        ErrorCode, Fields, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme,
    };
    use crate::bindings::granted::wasi::io::streams::StreamError;

    /// Bytes in one step.
    const STEP: usize = 64 << 10;

    pub(crate) fn send(request: &HttpRequest) -> Result<HttpResponse, HttpError> {
        let (outgoing, body) = outgoing(request)?;
        let pending = outgoing_handler::handle(outgoing, options(request)).map_err(failed)?;
        if let Some(body) = body {
            write(body, &request.body)?;
        }
        let ready = pending.subscribe();
        ready.block();
        drop(ready);
        let answer = match pending.get() {
            Some(Ok(answer)) => answer.map_err(failed)?,
            Some(Err(())) | None => return Err(HttpError::Failed("there is no answer".into())),
        };
        let headers = answer.headers().entries();
        let body = answer.consume().map_err(|()| HttpError::Failed("the answer has no body".into()))?;
        let mut bytes = Vec::new();
        {
            let stream = body.stream().map_err(|()| HttpError::Failed("the answer has no body".into()))?;
            loop {
                match stream.blocking_read(STEP as u64) {
                    Ok(more) => bytes.extend(more),
                    Err(StreamError::Closed) => break,
                    Err(StreamError::LastOperationFailed(error)) => {
                        return Err(HttpError::Failed(error.to_debug_string()));
                    }
                }
            }
        }
        Ok(HttpResponse { status: answer.status(), headers, body: bytes })
    }

    fn outgoing(request: &HttpRequest) -> Result<(OutgoingRequest, Option<OutgoingBody>), HttpError> {
        let invalid = |what: &str| HttpError::Invalid(format!("{what} of {} is not good", request.url));
        let (encrypted, authority, path) = parts(&request.url).ok_or_else(|| invalid("the URL"))?;
        let headers = Fields::new();
        for (name, value) in &request.headers {
            headers
                .append(name, &value.as_bytes().to_vec())
                .map_err(|error| HttpError::Invalid(format!("the header {name} is not good: {error:?}")))?;
        }
        let outgoing = OutgoingRequest::new(headers);
        let scheme = if encrypted { Scheme::Https } else { Scheme::Http };
        outgoing.set_scheme(Some(&scheme)).map_err(|()| invalid("the scheme"))?;
        outgoing.set_authority(Some(authority)).map_err(|()| invalid("the host"))?;
        outgoing.set_path_with_query(Some(path)).map_err(|()| invalid("the path"))?;
        outgoing.set_method(&method(&request.method)).map_err(|()| invalid("the method"))?;
        let body = match request.body.is_empty() {
            true => None,
            false => Some(outgoing.body().map_err(|()| invalid("the body"))?),
        };
        Ok((outgoing, body))
    }

    fn method(name: &str) -> Method {
        match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            "PATCH" => Method::Patch,
            other => Method::Other(other.into()),
        }
    }

    fn options(request: &HttpRequest) -> Option<RequestOptions> {
        let limit = u64::try_from(request.timeout?.as_nanos()).unwrap_or(u64::MAX);
        let options = RequestOptions::new();
        // A broker that supports none of them has its own end of the call.
        let _ = options.set_connect_timeout(Some(limit));
        let _ = options.set_first_byte_timeout(Some(limit));
        let _ = options.set_between_bytes_timeout(Some(limit));
        Some(options)
    }

    fn write(body: OutgoingBody, bytes: &[u8]) -> Result<(), HttpError> {
        let too_large = |_| HttpError::TooLarge("the request is larger than it may be".into());
        {
            let stream = body.write().map_err(|()| HttpError::Failed("the body is taken".into()))?;
            for step in bytes.chunks(STEP) {
                stream.blocking_write_and_flush(step).map_err(too_large)?;
            }
        }
        OutgoingBody::finish(body, None).map_err(failed)
    }

    fn failed(code: ErrorCode) -> HttpError {
        let text = format!("{code:?}");
        match code {
            ErrorCode::HttpRequestDenied
            | ErrorCode::DestinationIpProhibited
            | ErrorCode::ConnectionLimitReached => HttpError::Refused(text),
            ErrorCode::DnsTimeout
            | ErrorCode::ConnectionTimeout
            | ErrorCode::ConnectionReadTimeout
            | ErrorCode::ConnectionWriteTimeout
            | ErrorCode::HttpResponseTimeout => HttpError::Timeout(text),
            ErrorCode::ConnectionRefused | ErrorCode::DestinationUnavailable => HttpError::Unreachable(text),
            ErrorCode::HttpRequestBodySize(_) | ErrorCode::HttpRequestHeaderSectionSize(_) => {
                HttpError::TooLarge(text)
            }
            ErrorCode::HttpResponseBodySize(_)
            | ErrorCode::HttpResponseHeaderSectionSize(_)
            | ErrorCode::HttpResponseTrailerSectionSize(_) => HttpError::AnswerTooLarge(text),
            ErrorCode::HttpRequestMethodInvalid
            | ErrorCode::HttpRequestUriInvalid
            | ErrorCode::HttpRequestUriTooLong => HttpError::Invalid(text),
            _ => HttpError::Failed(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_three_parts() {
        for (url, expected) in [
            ("https://a.example/x?y=1#z", Some((true, "a.example", "/x?y=1"))),
            ("http://a.example:8080", Some((false, "a.example:8080", ""))),
            ("http://a.example?q", Some((false, "a.example", "?q"))),
            ("http://[::1]:80/", Some((false, "[::1]:80", "/"))),
            ("ftp://a.example/", None),
            ("http:///x", None),
            ("a.example", None),
        ] {
            assert_eq!(parts(url), expected, "{url}");
        }
    }

    #[test]
    fn an_answer_is_read_by_name_and_as_json() {
        let answer = HttpResponse {
            status: 201,
            headers: vec![("content-type".into(), b"application/json".to_vec())],
            body: b"{\"allow\": true}".to_vec(),
        };
        assert!(answer.is_success());
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.json::<serde_json::Value>().unwrap()["allow"], true);
        assert!(matches!(answer.json::<u8>(), Err(HttpError::Failed(_))));
    }
}
