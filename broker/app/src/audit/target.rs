//! Where a sink's records go, as it is configured; checked, and nothing opened.

use std::path::PathBuf;

use crate::bridge::settings::Address;
use crate::config::model::{AuditSink, AuditSinkKind};

/// A place, by the type of the sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    File(PathBuf),
    Stdout,
    Journald(PathBuf),
    Syslog(Address),
    Webhook(String),
    Otlp(String),
    /// Without an address, this broker.
    Mqtt(Option<Address>),
}

const JOURNAL: &str = "/run/systemd/journal/socket";

impl Target {
    /// Errors name the key.
    pub fn new(sink: &AuditSink) -> Result<Self, (&'static str, String)> {
        match sink.kind {
            AuditSinkKind::File => match &sink.path {
                Some(path) => Ok(Self::File(path.clone())),
                None => Err(("path", String::from("missing: a sink of type `file` needs the file to write"))),
            },
            AuditSinkKind::Stdout => Ok(Self::Stdout),
            AuditSinkKind::Journald => {
                Ok(Self::Journald(sink.path.clone().unwrap_or_else(|| JOURNAL.into())))
            }
            AuditSinkKind::Syslog => {
                let text = sink.address.as_deref().unwrap_or_default();
                let address = address(text, ["tcp", "tls"], [514, 6514]).map_err(|what| ("address", what))?;
                with_ca(sink, address.tls, "tls://")?;
                Ok(Self::Syslog(address))
            }
            AuditSinkKind::Webhook => Ok(Self::Webhook(url(sink)?)),
            AuditSinkKind::Otlp => Ok(Self::Otlp(url(sink)?)),
            AuditSinkKind::Mqtt => {
                if sink.qos > 2 {
                    return Err(("qos", format!("there is no QoS {}: 0, 1 or 2", sink.qos)));
                }
                topic(sink)?;
                let Some(text) = &sink.address else { return Ok(Self::Mqtt(None)) };
                let address = Address::parse(text).map_err(|what| ("address", what))?;
                with_ca(sink, address.tls, "mqtts://")?;
                Ok(Self::Mqtt(Some(address)))
            }
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) | Self::Journald(path) => write!(f, "{}", path.display()),
            Self::Stdout => f.write_str("standard output"),
            Self::Syslog(Address { host, port, tls }) => {
                write!(f, "{}://{host}:{port}", if *tls { "tls" } else { "tcp" })
            }
            Self::Webhook(url) | Self::Otlp(url) => f.write_str(without_user(url)),
            Self::Mqtt(None) => f.write_str("this broker"),
            Self::Mqtt(Some(address)) => write!(f, "{address}"),
        }
    }
}

/// What may hold a secret is not shown.
fn without_user(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

fn with_ca(sink: &AuditSink, tls: bool, scheme: &str) -> Result<(), (&'static str, String)> {
    match (tls, &sink.tls.cacertfile) {
        (true, None) => Err((
            "tls.cacertfile",
            format!(
                "missing: with `{scheme}` the PEM file of the CA is needed that the other side's certificate is of"
            ),
        )),
        (false, Some(_)) => Err(("tls.cacertfile", format!("without effect: the address is not `{scheme}`"))),
        _ => Ok(()),
    }
}

/// `SCHEME://HOST:PORT`, plain and with TLS.
fn address(text: &str, schemes: [&str; 2], ports: [u16; 2]) -> Result<Address, String> {
    let wrong = || {
        format!(
            "{text:?} is no address: write \"{}://HOST:{}\" or \"{}://HOST:PORT\"",
            schemes[1], ports[1], schemes[0]
        )
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let tls = match scheme {
        scheme if scheme == schemes[0] => false,
        scheme if scheme == schemes[1] => true,
        _ => return Err(wrong()),
    };
    // The rest is what it is at a bridge; without a port, the standard one of this protocol.
    let has_port =
        rest.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let rest = if has_port { rest.to_owned() } else { format!("{rest}:{}", ports[usize::from(tls)]) };
    let known = Address::parse(&format!("mqtt://{rest}")).map_err(|_| wrong())?;
    Ok(Address { tls, ..known })
}

fn url(sink: &AuditSink) -> Result<String, (&'static str, String)> {
    let text = sink.url.as_deref().unwrap_or_default();
    let wrong = |what: &str| ("url", format!("{text:?} {what}: write \"https://HOST/PATH\""));
    let https = match text.split_once("://") {
        Some(("http", _)) => false,
        Some(("https", _)) => true,
        _ => return Err(wrong("is no URL of http or https")),
    };
    let uri: axum::http::Uri = text.parse().map_err(|_| wrong("is no URL"))?;
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            return Err(wrong("holds a user: put that into `headers`"));
        }
        Some(authority) if !authority.host().is_empty() => {}
        _ => return Err(wrong("names no host")),
    }
    with_ca(sink, https, "https://")?;
    Ok(text.to_owned())
}

fn topic(sink: &AuditSink) -> Result<(), (&'static str, String)> {
    let topic = topic_of(&sink.topic, "c", "n");
    match mqgate_codec::TopicName::parse(topic.into()) {
        Ok(name) if !name.as_str().starts_with('$') => Ok(()),
        Ok(_) => Err(("topic", String::from("topics that begin with `$` are the broker's own"))),
        Err(error) => Err(("topic", error.to_string())),
    }
}

/// The topic of one record.
pub fn topic_of(template: &str, category: &str, name: &str) -> String {
    template.replace("${category}", category).replace("${name}", name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::BridgeTls;

    fn sink(kind: AuditSinkKind) -> AuditSink {
        AuditSink { kind, ..AuditSink::default() }
    }

    #[test]
    fn each_type_needs_its_place() {
        use AuditSinkKind::{File, Journald, Mqtt, Otlp, Stdout, Syslog, Webhook};
        for (kind, key) in [(File, "path"), (Syslog, "address"), (Webhook, "url"), (Otlp, "url")] {
            assert_eq!(Target::new(&sink(kind)).unwrap_err().0, key, "{kind:?}");
        }
        for kind in [Stdout, Journald, Mqtt] {
            assert!(Target::new(&sink(kind)).is_ok(), "{kind:?}");
        }
    }

    #[test]
    fn addresses_say_whether_there_is_tls() {
        let tls = BridgeTls { cacertfile: Some("ca.pem".into()), ..BridgeTls::default() };
        let syslog = |text: &str, tls: BridgeTls| {
            let sink = AuditSink { address: Some(text.into()), tls, ..sink(AuditSinkKind::Syslog) };
            Target::new(&sink).map(|target| target.to_string()).map_err(|(key, _)| key)
        };
        assert_eq!(syslog("tls://logs.example", tls.clone()), Ok("tls://logs.example:6514".into()));
        assert_eq!(
            syslog("tcp://logs.example:1514", BridgeTls::default()),
            Ok("tcp://logs.example:1514".into())
        );
        assert_eq!(syslog("tls://logs.example", BridgeTls::default()), Err("tls.cacertfile"));
        assert_eq!(syslog("tcp://logs.example", tls.clone()), Err("tls.cacertfile"));
        assert_eq!(syslog("udp://logs.example", tls.clone()), Err("address"));
        let hook = |text: &str, tls: BridgeTls| {
            let sink = AuditSink { url: Some(text.into()), tls, ..sink(AuditSinkKind::Webhook) };
            Target::new(&sink).map(|target| target.to_string()).map_err(|(key, _)| key)
        };
        assert_eq!(hook("https://h/x?token=1", tls.clone()), Ok("https://h/x".into()));
        assert_eq!(hook("http://h:8/x", BridgeTls::default()), Ok("http://h:8/x".into()));
        for wrong in ["h/x", "ftp://h/x", "https://u:p@h/x", "https:///x"] {
            assert_eq!(hook(wrong, tls.clone()), Err("url"), "{wrong}");
        }
    }

    #[test]
    fn topics_are_names_and_not_the_brokers_own() {
        let mqtt = |topic: &str| {
            let sink = AuditSink { topic: topic.into(), ..sink(AuditSinkKind::Mqtt) };
            Target::new(&sink).map(drop).map_err(|(key, _)| key)
        };
        assert_eq!(mqtt("audit/${category}/${name}"), Ok(()));
        assert_eq!(mqtt("audit/#"), Err("topic"));
        assert_eq!(mqtt("$SYS/audit"), Err("topic"));
        assert_eq!(
            topic_of("a/${category}/${name}", "authn", "connection.refused"),
            "a/authn/connection.refused"
        );
    }
}
