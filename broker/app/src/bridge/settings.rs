//! From the configuration to what a bridge connects with. Reads secrets and files.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use mqgate_client::{ConnectOptions, TlsOptions, TlsVersion};
use mqgate_codec::{DecodeLimits, ProtocolVersion};
use mqgate_protocol::bridge::hop;
use mqgate_protocol::limits::WhenFull;
use mqgate_server::tls::plain_pem;

use super::rules::Rules;
use crate::config::model;
use crate::secret;

/// Where the other broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

impl Address {
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{text:?} is no address: write \"mqtt://HOST:PORT\", or \"mqtts://HOST:PORT\" for TLS")
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let tls = match scheme {
            "mqtt" => false,
            "mqtts" => true,
            _ => return Err(wrong()),
        };
        let standard = if tls { 8883 } else { 1883 };
        let bracketed = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (host, port) = match bracketed {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(wrong)?)),
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let port = port.map_or(Ok(standard), |port| port.parse().map_err(|_| wrong()))?;
        let strange = |c: char| c.is_whitespace() || matches!(c, '/' | '@' | '?' | '#');
        if host.is_empty() || host.contains(strange) || port == 0 {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port, tls })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

/// A bridge as its task needs it.
#[derive(Debug, Clone)]
pub struct Settings {
    pub addresses: Vec<Address>,
    pub rules: Rules,
    pub min_backoff: Duration,
    pub max_backoff: Duration,
    pub max_inflight: u16,
    pub max_queued_messages: usize,
    pub max_queued_bytes: usize,
    pub when_full: WhenFull,
    /// With host, port and TLS of no address yet.
    connect: ConnectOptions,
    tls: Option<TlsOptions>,
}

impl Settings {
    /// Errors name the key.
    pub fn new(name: &str, broker: &str, bridge: &model::Bridge) -> Result<Self> {
        let rules = Rules::new(&bridge.topics)
            .map_err(|(at, error)| anyhow!("bridges.{name}.topics[{at}].{}: {}", error.key, error.what))?;
        let addresses =
            bridge.addresses.iter().map(|text| Address::parse(text).map_err(|error| anyhow!(error)));
        let addresses =
            addresses.collect::<Result<Vec<_>>>().with_context(|| format!("bridges.{name}.addresses"))?;
        let tls = addresses.iter().any(|address| address.tls).then(|| tls(&bridge.tls)).transpose();
        let tls = tls.with_context(|| format!("bridges.{name}.tls"))?;
        let mut connect = ConnectOptions::new("", 0);
        connect.version = match bridge.version {
            model::BridgeVersion::V5 => ProtocolVersion::V5,
            model::BridgeVersion::V311 => ProtocolVersion::V3_1_1,
        };
        connect.client_id = match &bridge.client_id {
            Some(id) => id.as_str().into(),
            None => format!("mqgate-{broker}-{name}").into(),
        };
        connect.clean_start = bridge.clean_start;
        connect.keep_alive = bridge.keep_alive.0;
        connect.user_name = bridge.username.as_deref().map(Into::into);
        let password = bridge.password.as_deref().map(secret::resolve).transpose();
        let password = password.with_context(|| format!("bridges.{name}.password"))?;
        connect.password = password.map(|password| password.into_bytes().into());
        connect.connect_timeout = bridge.connect_timeout.0;
        connect.bridge = bridge.bridge_bit;
        let seconds = u32::try_from(bridge.session_expiry.0.as_secs()).unwrap_or(u32::MAX);
        connect.properties.session_expiry_interval = Some(seconds);
        connect.properties.receive_maximum = bridge.max_inflight.try_into().ok();
        let largest = u32::try_from(bridge.max_packet_size.0).unwrap_or(u32::MAX);
        connect.properties.maximum_packet_size = largest.try_into().ok();
        connect.properties.user_properties.push(hop(broker));
        connect.limits = DecodeLimits { maximum_packet_size: largest, ..connect.limits };
        Ok(Self {
            addresses,
            rules,
            min_backoff: bridge.min_backoff.0,
            max_backoff: bridge.max_backoff.0,
            max_inflight: bridge.max_inflight,
            max_queued_messages: bridge.max_queued_messages as usize,
            max_queued_bytes: usize::try_from(bridge.max_queued_bytes.0).unwrap_or(usize::MAX),
            when_full: match bridge.when_full {
                model::WhenFull::DropNewest => WhenFull::DropNewest,
                model::WhenFull::DropOldest => WhenFull::DropOldest,
            },
            connect,
            tls,
        })
    }

    pub fn version(&self) -> ProtocolVersion {
        self.connect.version
    }

    pub fn client_id(&self) -> &str {
        &self.connect.client_id
    }

    /// How to connect to one of the addresses.
    pub fn options(&self, address: &Address, bridge_bit: bool) -> ConnectOptions {
        ConnectOptions {
            host: address.host.clone(),
            port: address.port,
            tls: self.tls.clone().filter(|_| address.tls),
            bridge: self.connect.bridge && bridge_bit,
            ..self.connect.clone()
        }
    }
}

/// How to speak TLS with another server. Reads the key, which may have a password.
pub(crate) fn tls(settings: &model::BridgeTls) -> Result<TlsOptions> {
    let mut tls = TlsOptions::new();
    tls.ca_file.clone_from(&settings.cacertfile);
    tls.cert_file.clone_from(&settings.certfile);
    tls.server_name.clone_from(&settings.server_name);
    tls.version = settings.version.map(|version| match version {
        model::TlsVersion::Tls12 => TlsVersion::V1_2,
        model::TlsVersion::Tls13 => TlsVersion::V1_3,
    });
    if let Some(file) = &settings.keyfile {
        let text = std::fs::read(file).with_context(|| format!("the key {}", file.display()))?;
        let password = settings.password.as_deref().map(secret::resolve).transpose()?;
        let key =
            plain_pem(&text, password.as_deref()).with_context(|| format!("the key {}", file.display()))?;
        tls.key_pem = Some(key.into_bytes());
    }
    Ok(tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_urls_without_anything_that_is_not_used() {
        let parse = |text: &str| Address::parse(text).map(|address| (address.to_string(), address.tls));
        assert_eq!(parse("mqtt://b.example"), Ok(("mqtt://b.example:1883".into(), false)));
        assert_eq!(parse("mqtts://b.example"), Ok(("mqtts://b.example:8883".into(), true)));
        assert_eq!(parse("mqtts://[::1]:99"), Ok(("mqtts://[::1]:99".into(), true)));
        for wrong in [
            "b.example:1883",
            "http://b",
            "mqtt://",
            "mqtt://u@b",
            "mqtt://b:0",
            "mqtt://b:x",
            "mqtt://b/t",
            "mqtt://[::1]9",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
