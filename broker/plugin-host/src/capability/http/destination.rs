//! Where plugins may send requests: the rules of an operator, and the destination of one request.
//!
//! Both are brought into one form first (lower case, no dot at the end, addresses as numbers), so that they cannot
//! differ in spelling alone. Knows names only; what they resolve to is [`super::address`]'s.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name of a host, as DNS has it.
const MAX_HOST: usize = 253;
const MAX_LABEL: usize = 63;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    Name(String),
    Address(IpAddr),
}

/// Where one request goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Destination {
    pub(crate) scheme: Scheme,
    pub(crate) host: Host,
    pub(crate) port: u16,
}

/// Destinations that an operator allows: `scheme://host:port`.
///
/// The scheme is `http` or `https`. The host is a name, `*.` before a name for every name below it (not that name
/// itself), an address, or `*` for any. The port may be left out (80 or 443), and `*` is any port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AllowedDestination {
    scheme: Scheme,
    host: AllowedHost,
    /// `None`: any.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum AllowedHost {
    Any,
    Below(String),
    Is(Host),
}

/// What is wrong with the text of an [`AllowedDestination`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} {what}; write \"https://pki.example.com:443\", \"https://*.example.com\" or \"http://10.0.0.7:*\""
)]
pub struct BadDestination {
    text: String,
    what: &'static str,
}

impl Destination {
    /// The authority of a URL: a host and perhaps a port, nothing else.
    pub(crate) fn parse(scheme: Scheme, authority: &str) -> Result<Self, &'static str> {
        let (host, port) = split(authority)?;
        let port = port.map_or(Ok(scheme.port()), number)?;
        Ok(Self { scheme, host: Host::parse(host)?, port })
    }

    /// As the field `Host` has it.
    pub(crate) fn authority(&self) -> String {
        if self.port == self.scheme.port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl Host {
    fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or("has a bracket without another")?;
            let address: Ipv6Addr = inner.parse().map_err(|_| "has no address between its brackets")?;
            return Ok(Self::Address(IpAddr::V6(address).to_canonical()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let fits = |label: &str| {
            (1..=MAX_LABEL).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
        };
        if name.len() > MAX_HOST || !name.split('.').all(fits) {
            return Err("has a host that is neither a name nor an address");
        }
        // Resolvers take "2130706433" and "0x7f.1" for addresses.
        let last = name.rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") {
            return Err("has a host that is a number");
        }
        Ok(Self::Name(name))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme.as_str(), self.host, self.port)
    }
}

impl AllowedDestination {
    pub(crate) fn allows(&self, destination: &Destination) -> bool {
        let host = match (&self.host, &destination.host) {
            (AllowedHost::Any, _) => true,
            (AllowedHost::Is(host), asked) => host == asked,
            (AllowedHost::Below(domain), Host::Name(name)) => {
                name.strip_suffix(domain).is_some_and(|labels| labels.len() > 1 && labels.ends_with('.'))
            }
            (AllowedHost::Below(_), Host::Address(_)) => false,
        };
        host && self.scheme == destination.scheme && self.port.is_none_or(|port| port == destination.port)
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.scheme == Scheme::Https
    }
}

impl FromStr for AllowedDestination {
    type Err = BadDestination;

    fn from_str(text: &str) -> Result<Self, BadDestination> {
        let bad = |what| BadDestination { text: text.to_owned(), what };
        let (scheme, authority) = match text.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            _ => return Err(bad("does not begin with http:// or https://")),
        };
        let (host, port) = split(authority).map_err(bad)?;
        let port = match port {
            None => Some(scheme.port()),
            Some("*") => None,
            Some(digits) => Some(number(digits).map_err(bad)?),
        };
        let host = match host.strip_prefix("*.") {
            Some(domain) => match Host::parse(domain).map_err(bad)? {
                Host::Name(name) => AllowedHost::Below(name),
                Host::Address(_) => return Err(bad("has nothing below an address")),
            },
            None if host == "*" => AllowedHost::Any,
            None => AllowedHost::Is(Host::parse(host).map_err(bad)?),
        };
        Ok(Self { scheme, host, port })
    }
}

impl fmt::Display for AllowedDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme.as_str())?;
        match &self.host {
            AllowedHost::Any => f.write_str("*")?,
            AllowedHost::Below(domain) => write!(f, "*.{domain}")?,
            AllowedHost::Is(host) => host.fmt(f)?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => f.write_str(":*"),
        }
    }
}

impl TryFrom<String> for AllowedDestination {
    type Error = BadDestination;

    fn try_from(text: String) -> Result<Self, BadDestination> {
        text.parse()
    }
}

impl From<AllowedDestination> for String {
    fn from(allowed: AllowedDestination) -> Self {
        allowed.to_string()
    }
}

/// Host and port. What has a path, a user or a blank is neither.
fn split(authority: &str) -> Result<(&str, Option<&str>), &'static str> {
    if authority
        .bytes()
        .any(|b| !b.is_ascii_graphic() || matches!(b, b'@' | b'/' | b'?' | b'#' | b'\\' | b'%'))
    {
        return Err("has more than a host and a port");
    }
    let host_ends = match authority.find(']') {
        Some(bracket) => bracket + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(host_ends);
    match (host, rest.strip_prefix(':')) {
        ("", _) => Err("has no host"),
        (_, Some(port)) => Ok((host, Some(port))),
        (_, None) if rest.is_empty() => Ok((host, None)),
        (_, None) => Err("has more than a host and a port"),
    }
}

fn number(digits: &str) -> Result<u16, &'static str> {
    let port = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
    port.filter(|port| *port > 0).ok_or("has a port that is not between 1 and 65535")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(rule: &str, url: &str) -> bool {
        let rule: AllowedDestination = rule.parse().unwrap();
        let (scheme, authority) = match url.split_once("://").unwrap() {
            ("https", authority) => (Scheme::Https, authority),
            (_, authority) => (Scheme::Http, authority),
        };
        rule.allows(&Destination::parse(scheme, authority).unwrap())
    }

    #[test]
    fn a_rule_allows_what_it_says() {
        for (rule, url, expected) in [
            ("https://pki.example.com:443", "https://pki.example.com", true),
            ("https://pki.example.com", "https://PKI.Example.com.:443", true),
            ("https://pki.example.com", "http://pki.example.com:443", false),
            ("https://pki.example.com", "https://pki.example.com:8443", false),
            ("https://pki.example.com:*", "https://pki.example.com:8443", true),
            ("https://pki.example.com", "https://xpki.example.com", false),
            ("https://pki.example.com", "https://a.pki.example.com", false),
            ("https://*.example.com", "https://a.example.com", true),
            ("https://*.example.com", "https://a.b.example.com", true),
            ("https://*.example.com", "https://example.com", false),
            ("https://*.example.com", "https://xexample.com", false),
            ("https://*.example.com", "https://example.com.evil.test", false),
            ("http://*:*", "http://anything.test:99", true),
            ("http://*", "http://anything.test:99", false),
            ("http://*:*", "https://anything.test:99", false),
            ("http://*:80", "http://192.0.2.7", true),
            ("http://127.0.0.1", "http://127.0.0.1", true),
            // One address, however it is written.
            ("http://127.0.0.1", "http://[::ffff:127.0.0.1]", true),
            ("http://[2001:DB8::1]:80", "http://[2001:db8:0::1]", true),
            ("http://127.0.0.1", "http://localhost", false),
        ] {
            assert_eq!(allows(rule, url), expected, "{rule} {url}");
        }
    }

    #[test]
    fn what_is_no_destination_is_no_rule() {
        for bad in [
            "",
            "pki.example.com",
            "ftp://pki.example.com",
            "HTTPS://pki.example.com",
            "https://",
            "https://:443",
            "https://user@pki.example.com",
            "https://pki.example.com/path",
            "https://pki.example.com:0",
            "https://pki.example.com:65536",
            "https://pki.example.com:+80",
            "https://pki.example.com:",
            "https://a b",
            "https://a..b",
            "https://p%6bi.example.com",
            "https://b\u{fc}cher.example",
            "https://*.*.example.com",
            "https://a.*.com",
            "https://**",
            "https://*.10.0.0.1",
            "https://[::1",
            "https://::1",
            "https://2130706433",
            "https://0x7f.1",
            "https://127.1",
        ] {
            assert!(bad.parse::<AllowedDestination>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rule_is_written_as_it_is_read() {
        for text in
            ["https://a.example:443", "http://*.example:80", "https://*:*", "http://[2001:db8::1]:8080"]
        {
            let rule: AllowedDestination = text.parse().unwrap();
            assert_eq!(rule.to_string(), text);
            let json = serde_json::to_string(&rule).unwrap();
            assert_eq!(serde_json::from_str::<AllowedDestination>(&json).unwrap(), rule);
        }
    }

    #[test]
    fn the_host_field_has_a_port_where_it_is_not_the_usual_one() {
        let authority = |text| Destination::parse(Scheme::Https, text).unwrap().authority();
        assert_eq!(authority("A.example:443"), "a.example");
        assert_eq!(authority("a.example:444"), "a.example:444");
        assert_eq!(authority("[::1]:444"), "[::1]:444");
    }
}
