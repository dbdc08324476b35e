//! Gets one file over HTTP, or the answer to one question: bounded in time, size and redirects, and only from addresses
//! that may be asked.
//!
//! The address that a name resolves to is checked and then connected to, so that no second answer of the resolver
//! can lead elsewhere. Does not know what the file is.

pub(crate) mod cache;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use mqgate_identity::reach::Reach;
use tokio::net::{TcpStream, lookup_host};

/// Redirects followed for one file.
const MAX_REDIRECTS: usize = 3;
const MAX_URL_BYTES: usize = 2048;

/// What bounds a fetch.
#[derive(Debug, Clone)]
pub struct FetchRules {
    pub timeout: Duration,
    pub max_bytes: usize,
    /// Hosts that others may name, `*.` before a domain standing for all below it.
    pub hosts: Vec<String>,
    /// May be asked although they are not public.
    pub networks: Vec<IpNet>,
    pub names: FetchNames,
}

/// What errors call that which bounds a fetch.
#[derive(Debug, Clone, Copy)]
pub struct FetchNames {
    pub hosts: &'static str,
    pub networks: &'static str,
    pub max_bytes: &'static str,
    /// What is fetched, for the server: the media type.
    pub accept: &'static str,
}

/// A question that is sent along.
#[derive(Clone, Copy)]
struct Posted<'a> {
    content_type: &'static str,
    body: &'a [u8],
}

/// Who named the URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamedBy {
    /// The operator: its host may be asked.
    Configuration,
    /// A certificate: its host must be among `hosts`.
    Certificate,
}

/// What says whether there is anything new.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validators {
    pub etag: Option<String>,
    pub last_modified: Option<String>,
}

#[derive(Debug)]
pub enum Fetched {
    New { body: Vec<u8>, validators: Validators },
    NotModified,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("{0}")]
    Refused(String),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("more than {0} bytes: raise {1}")]
    TooLarge(usize, &'static str),
    #[error("the server answers {0}")]
    Status(StatusCode),
    #[error("{0}")]
    Failed(String),
}

impl FetchError {
    /// Label of metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Timeout(_) => "timeout",
            Self::TooLarge(..) => "too_large",
            Self::Status(_) => "status",
            Self::Failed(_) => "failed",
        }
    }
}

/// Checks a URL before anything is done with it: plain HTTP, a host, no user name.
pub fn check_url(url: &str) -> Result<Uri, FetchError> {
    let refused = |what: &str| Err(FetchError::Refused(format!("\"{url}\" {what}")));
    if url.len() > MAX_URL_BYTES {
        return refused("is too long");
    }
    let uri: Uri = match url.parse() {
        Ok(uri) => uri,
        Err(_) => return refused("is not a URL"),
    };
    if uri.scheme_str() != Some("http") {
        return refused("is not of http, which is all that is spoken: what is fetched is signed itself");
    }
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => refused("names a user"),
        Some(authority) if !authority.host().is_empty() => Ok(uri),
        _ => refused("names no host"),
    }
}

impl FetchRules {
    /// Whether a host that somebody else named may be asked.
    pub fn allows_host(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.hosts.iter().any(|allowed| {
            let allowed = allowed.to_ascii_lowercase();
            match allowed.strip_prefix("*.") {
                Some(domain) => {
                    host.strip_suffix(domain).is_some_and(|labels| labels.len() > 1 && labels.ends_with('.'))
                }
                None => host == allowed,
            }
        })
    }

    fn allows_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        Reach::of(address) == Reach::Everybody
            || self.networks.iter().any(|network| network.contains(&address))
    }

    /// Gets the file, unless it is the one that `known` tells of.
    pub async fn get(&self, url: &str, named_by: NamedBy, known: &Validators) -> Result<Fetched, FetchError> {
        tokio::time::timeout(self.timeout, self.follow(url, named_by, known, None))
            .await
            .unwrap_or(Err(FetchError::Timeout(self.timeout)))
    }

    /// Sends a question and gets the answer.
    pub async fn post(
        &self,
        url: &str,
        named_by: NamedBy,
        content_type: &'static str,
        body: &[u8],
    ) -> Result<Vec<u8>, FetchError> {
        let (posted, known) = (Posted { content_type, body }, Validators::default());
        let asked = self.follow(url, named_by, &known, Some(posted));
        match tokio::time::timeout(self.timeout, asked).await {
            Ok(Ok(Fetched::New { body, .. })) => Ok(body),
            Ok(Ok(Fetched::NotModified)) => Err(FetchError::Status(StatusCode::NOT_MODIFIED)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(FetchError::Timeout(self.timeout)),
        }
    }

    async fn follow(
        &self,
        url: &str,
        named_by: NamedBy,
        known: &Validators,
        posted: Option<Posted<'_>>,
    ) -> Result<Fetched, FetchError> {
        let mut uri = check_url(url)?;
        let first_host = uri.host().unwrap_or_default().to_ascii_lowercase();
        for _ in 0..=MAX_REDIRECTS {
            let host = uri.host().unwrap_or_default().to_ascii_lowercase();
            let is_ours = named_by == NamedBy::Configuration && host == first_host;
            if !is_ours && !self.allows_host(&host) {
                return Err(FetchError::Refused(format!("the host {host} is not in {}", self.names.hosts)));
            }
            let response = self.ask(&uri, known, posted).await?;
            match response.status() {
                StatusCode::OK => return self.read(response).await,
                StatusCode::NOT_MODIFIED => return Ok(Fetched::NotModified),
                // A question is not asked again elsewhere.
                status if status.is_redirection() && posted.is_none() => {
                    uri = redirected(&uri, response.headers())?;
                }
                status => return Err(FetchError::Status(status)),
            }
        }
        Err(FetchError::Refused(format!("more than {MAX_REDIRECTS} redirects")))
    }

    async fn ask(
        &self,
        uri: &Uri,
        known: &Validators,
        posted: Option<Posted<'_>>,
    ) -> Result<hyper::Response<hyper::body::Incoming>, FetchError> {
        let failed = |error: &dyn std::fmt::Display| FetchError::Failed(error.to_string());
        let stream = self.connect(uri).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        // Ends with the response, or with the sender.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let method = if posted.is_some() { Method::POST } else { Method::GET };
        let mut request = Request::builder()
            .method(method)
            .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(header::HOST, authority)
            .header(header::USER_AGENT, concat!("mqgate/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, format!("{}, */*;q=0.1", self.names.accept))
            .header(header::CONNECTION, "close");
        for (name, value) in
            [(header::IF_NONE_MATCH, &known.etag), (header::IF_MODIFIED_SINCE, &known.last_modified)]
        {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        if let Some(posted) = posted {
            request = request.header(header::CONTENT_TYPE, posted.content_type);
        }
        let body = posted.map_or_else(Body::empty, |posted| Body::from(posted.body.to_vec()));
        let request = request.body(body).map_err(|error| failed(&error))?;
        sender.send_request(request).await.map_err(|error| failed(&error))
    }

    async fn connect(&self, uri: &Uri) -> Result<TcpStream, FetchError> {
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(80);
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let addresses: Vec<SocketAddr> = match bare.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => lookup_host((host, port))
                .await
                .map_err(|error| FetchError::Failed(format!("{host}: {error}")))?
                .collect(),
        };
        let mut problem = FetchError::Failed(format!("{host} has no address"));
        for address in addresses {
            if !self.allows_address(address.ip()) {
                problem = FetchError::Refused(format!(
                    "{} of {host} is not a public address: add its network to {} if it is to be asked",
                    address.ip(),
                    self.names.networks
                ));
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => problem = FetchError::Failed(format!("{address}: {error}")),
            }
        }
        Err(problem)
    }

    async fn read(&self, response: hyper::Response<hyper::body::Incoming>) -> Result<Fetched, FetchError> {
        let too_large = || FetchError::TooLarge(self.max_bytes, self.names.max_bytes);
        let text = |name: header::HeaderName| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let validators = Validators { etag: text(header::ETAG), last_modified: text(header::LAST_MODIFIED) };
        let announced = text(header::CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
        if announced.is_some_and(|length| length > self.max_bytes) {
            return Err(too_large());
        }
        let mut stream = response.into_body();
        let mut body = Vec::new();
        while let Some(frame) = stream.frame().await {
            let frame = frame.map_err(|error| FetchError::Failed(error.to_string()))?;
            if let Some(data) = frame.data_ref() {
                if body.len() + data.len() > self.max_bytes {
                    return Err(too_large());
                }
                body.extend_from_slice(data);
            }
        }
        Ok(Fetched::New { body, validators })
    }
}

/// Where an answer leads: an absolute URL, or a path of the same host.
fn redirected(from: &Uri, headers: &HeaderMap<HeaderValue>) -> Result<Uri, FetchError> {
    let to = headers
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| FetchError::Failed("a redirect leads nowhere".into()))?;
    if to.starts_with('/') && !to.starts_with("//") {
        let authority = from.authority().map(ToString::to_string).unwrap_or_default();
        return check_url(&format!("http://{authority}{to}"));
    }
    check_url(to)
}

/// Shared by everything that fetches by them.
pub type SharedRules = Arc<FetchRules>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_plain_http() {
        for good in ["http://pki.example/ca.crl", "http://10.0.0.1:8080/x?y", "http://[::1]/x"] {
            assert!(check_url(good).is_ok(), "{good}");
        }
        for bad in [
            "https://pki.example/ca.crl",
            "ldap://pki.example/",
            "file:///etc/passwd",
            "http://user@pki.example/",
            "http:///x",
            "/x",
            "",
        ] {
            assert!(matches!(check_url(bad), Err(FetchError::Refused(_))), "{bad}");
        }
        assert!(check_url(&format!("http://a/{}", "x".repeat(3000))).is_err());
    }

    #[test]
    fn hosts_are_named_or_below_a_domain() {
        let rules = FetchRules {
            timeout: Duration::from_secs(1),
            max_bytes: 1,
            hosts: vec!["pki.example".into(), "*.acme.example".into()],
            networks: Vec::new(),
            names: crate::crl::NAMES,
        };
        for (host, expected) in [
            ("pki.example", true),
            ("PKI.example.", true),
            ("a.acme.example", true),
            ("a.b.acme.example", true),
            ("acme.example", false),
            ("xacme.example", false),
            ("a.pki.example", false),
            ("", false),
        ] {
            assert_eq!(rules.allows_host(host), expected, "{host}");
        }
    }
}
