//! What a listener's transport must not say: its socket, the proxies in front of it, WebSocket.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use mqgate_server::listener::{LONGEST_UNIX_PATH, ListenAddress};

use super::super::model::{
    AuthMode, Listener, ProxyIdentity, ProxyProtocol, TlsVersion, Transport, WebSocket,
};
use super::{BIND_REMEDY, Checker, bind_address};

/// Reads what a listener binds: an address and a port, or `unix:/path`.
pub fn listen_address(text: &str) -> Result<ListenAddress, String> {
    let Some(path) = text.trim().strip_prefix("unix:") else {
        return bind_address(text).map(ListenAddress::Ip);
    };
    match path {
        path if !path.starts_with('/') => Err(format!("`{path}` is not an absolute path")),
        path if path.len() > LONGEST_UNIX_PATH || path.contains('\0') => {
            Err(format!("the path of a Unix socket has at most {LONGEST_UNIX_PATH} bytes"))
        }
        path => Ok(ListenAddress::Unix(Arc::from(Path::new(path)))),
    }
}

/// Whether only this machine can connect; on a Unix socket, whoever its permissions let.
pub fn is_local(bind: &str) -> bool {
    match listen_address(bind) {
        Ok(ListenAddress::Ip(address)) => address.ip().is_loopback(),
        Ok(ListenAddress::Unix(_)) => true,
        Err(_) => false,
    }
}

/// Reads a network, or an address that stands for itself.
pub fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let address = || text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
    match text.parse::<IpNet>().or_else(|_| address()) {
        Ok(network) if network.trunc() == network => Ok(network),
        Ok(network) => {
            Err(format!("`{network}` has bits beyond its length: it would be `{}`", network.trunc()))
        }
        Err(_) => Err(format!("`{text}` is not a network")),
    }
}

const NETWORK_REMEDY: &str =
    "write an address and a length, for example \"10.1.0.0/16\" or \"2001:db8::/32\", or one address";
const UNIX_REMEDY: &str = "write an absolute path, for example \"unix:/run/mqgate/mqgate.sock\"";

impl Checker<'_, '_> {
    pub(super) fn transport(&mut self, key: &dyn Fn(&str) -> String, listener: &Listener) {
        self.socket(key, listener);
        if let Some(proxy) = &listener.proxy_protocol {
            self.proxy_protocol(key, listener, proxy);
        }
        if listener.kind == Transport::Quic {
            self.quic(key, listener);
        } else {
            self.without_effect(
                &key("quic"),
                "without effect: only the type `quic` speaks QUIC",
                "use `type = \"quic\"`, or remove this table",
            );
        }
        if listener.kind.is_websocket() {
            self.websocket(key, &listener.websocket);
        } else {
            self.without_effect(
                &key("websocket"),
                "without effect: only the types `ws` and `wss` speak WebSocket",
                "use `type = \"wss\"` or `type = \"ws\"`, or remove this table",
            );
        }
    }

    fn socket(&mut self, key: &dyn Fn(&str) -> String, listener: &Listener) {
        let is_unix = match listen_address(&listener.bind) {
            Ok(ListenAddress::Unix(_)) if listener.kind.has_tls() => {
                self.add(
                    &key("bind"),
                    "a Unix socket has no TLS: what it carries does not leave this machine",
                    Some("write type = \"tcp\" (or \"ws\"), or an address and a port"),
                );
                true
            }
            Ok(address) => {
                let is_ipv6 = address.ip().is_some_and(|address| address.is_ipv6());
                if !is_ipv6 {
                    self.without_effect(
                        &key("dual_stack"),
                        "without effect: only a listener on an IPv6 address can take IPv4 as well",
                        "write bind = \"[::]:PORT\", or remove this key",
                    );
                }
                address.ip().is_none()
            }
            Err(what) => {
                let unix = listener.bind.trim().starts_with("unix:");
                self.add(&key("bind"), what, Some(if unix { UNIX_REMEDY } else { BIND_REMEDY }));
                return;
            }
        };
        let without =
            if is_unix { ["nodelay", "reuse_port", "send_buffer"].as_slice() } else { &["unix_mode"] };
        for field in without {
            let what = match is_unix {
                true => "without effect: `bind` is a Unix socket",
                false => "without effect: `bind` is not a Unix socket",
            };
            self.without_effect(&key(field), what, "remove this key");
        }
        if listener.backlog == 0 {
            self.add(&key("backlog"), "nobody could connect: at least 1 is needed", None);
        }
    }

    pub(super) fn networks(&mut self, key: &str, networks: &[String]) {
        for (index, text) in networks.iter().enumerate() {
            if let Err(what) = network(text) {
                self.add(&format!("{key}[{index}]"), what, Some(NETWORK_REMEDY));
            }
        }
    }

    fn proxy_protocol(&mut self, key: &dyn Fn(&str) -> String, listener: &Listener, proxy: &ProxyProtocol) {
        let at = |field: &str| key(&format!("proxy_protocol.{field}"));
        let is_unix = matches!(listen_address(&listener.bind), Ok(ListenAddress::Unix(_)));
        if proxy.from.is_empty() && !is_unix {
            self.add(
                &at("from"),
                "nobody could connect: no network of proxies is listed",
                Some("name the networks that the proxies connect from, for example [\"10.1.0.0/16\"]"),
            );
        }
        if is_unix {
            for field in ["from", "direct"] {
                self.without_effect(
                    &at(field),
                    "without effect: on a Unix socket everybody who may connect is a proxy",
                    "remove this key",
                );
            }
        }
        self.networks(&at("from"), &proxy.from);
        if proxy.timeout.0.is_zero() {
            self.add(&at("timeout"), "no header would be in time", None);
        }
        if !(107..=65_551).contains(&proxy.max_size.0) {
            self.add(&at("max_size"), "headers have 107 to 65551 bytes at most", None);
        }
        if !(0xE0..=0xEF).contains(&proxy.certificate_tlv) {
            self.add(
                &at("certificate_tlv"),
                "the types 0xE0 to 0xEF are free for such use, others have a meaning",
                Some("write 0xE0, and the same in the proxy"),
            );
        }
        if listener.kind.has_tls() && proxy.identity != ProxyIdentity::None {
            self.add(
                &at("identity"),
                "TLS ends here: who the client is shows in the handshake, not in the header",
                Some("remove this key, or use type = \"tcp\" (or \"ws\") for a proxy that ends TLS"),
            );
        }
        if proxy.identity != ProxyIdentity::Certificate {
            self.without_effect(
                &at("certificate_tlv"),
                "without effect: certificates are believed with `identity = \"certificate\"` only",
                "set `identity = \"certificate\"`, or remove this key",
            );
        } else if !listener.kind.has_tls() && listener.mode() == AuthMode::OneWay {
            self.add(
                &at("identity"),
                "`auth_mode = \"one-way\"` asks for no certificate, so none can be handed on",
                Some("use `auth_mode = \"mutual\"` or `\"per-device\"`, or another `identity`"),
            );
        }
    }

    fn quic(&mut self, key: &dyn Fn(&str) -> String, listener: &Listener) {
        if listener.proxy_protocol.is_some() {
            self.add(
                &key("proxy_protocol"),
                "a connection of QUIC has no beginning that a proxy could write a header to",
                Some("remove this table"),
            );
        }
        if listener.versions.highest != TlsVersion::Tls13 {
            self.add(&key("versions"), "QUIC is TLS 1.3", Some("remove this key"));
        }
        for field in ["nodelay", "backlog", "send_buffer", "session_resumption"] {
            self.without_effect(&key(field), "without effect: the type is `quic`", "remove this key");
        }
        let idle = listener.quic.idle_timeout.0;
        if !(3..=600).contains(&idle.as_secs()) {
            self.add(&key("quic.idle_timeout"), "from 3 s to 10 m is possible", None);
        }
    }

    fn websocket(&mut self, key: &dyn Fn(&str) -> String, websocket: &WebSocket) {
        let at = |field: &str| key(&format!("websocket.{field}"));
        if !websocket.path.starts_with('/') || websocket.path.contains(['?', '#', ' ']) {
            self.add(
                &at("path"),
                "a path begins with `/` and has neither `?` nor `#`",
                Some("write path = \"/mqtt\""),
            );
        }
        for (index, origin) in websocket.origins.iter().enumerate() {
            let rest = origin.split_once("://").map_or("", |(_, rest)| rest);
            if rest.is_empty() || rest.contains(['/', '*']) {
                self.add(
                    &at(&format!("origins[{index}]")),
                    format!("`{origin}` is not an origin"),
                    Some("write scheme, host and port as browsers do, without a path: \"https://app.example.com\""),
                );
            }
        }
        for (field, size) in
            [("max_frame_size", websocket.max_frame_size), ("max_message_size", websocket.max_message_size)]
        {
            if size.0 < 125 {
                self.add(&at(field), "at least 125 B are needed", None);
            }
        }
        self.networks(&at("trusted_proxies"), &websocket.trusted_proxies);
    }
}
