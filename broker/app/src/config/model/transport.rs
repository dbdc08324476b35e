//! Keys of a listener's transport: proxies in front of it, WebSocket, QUIC.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::AllowDeny;
use crate::config::units::{Size, Span};

/// The PROXY protocol.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyProtocol {
    /// Networks of the proxies, for example `["10.1.0.0/16", "192.0.2.7"]`. Every connection from them must begin with a
    /// header. On a Unix socket everybody who may connect is a proxy, and the list stays empty.
    pub from: Vec<String>,
    /// Connections from elsewhere: `deny` closes them, `allow` serves them without a header; one with a header is closed.
    pub direct: AllowDeny,
    /// Time for the header.
    pub timeout: Span,
    /// Largest header. One that carries certificates has some KiB.
    pub max_size: Size,
    /// What is believed of a client whose TLS ended in the proxy, on listeners without TLS of their own: `none`; `cn`, the
    /// common name of a certificate that the proxy has verified (it reaches plugins as the attribute `proxy.cn`, and
    /// `static-policy` as `cn`); `certificate`, the whole certificate, judged here as if the client had sent it, by
    /// `auth_mode`, `cacertfile`, `depth` and the like.
    pub identity: ProxyIdentity,
    /// Type of the TLV that carries the certificate in DER, its intermediates after it: 0xE0 to 0xEF. HAProxy 2.9 sends
    /// one with `set-proxy-v2-tlv-fmt(0xE0) %[ssl_c_der]`. The standard type (0x28 within 0x20) is understood as well.
    pub certificate_tlv: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyIdentity {
    #[default]
    None,
    Cn,
    Certificate,
}

impl Default for ProxyProtocol {
    fn default() -> Self {
        Self {
            from: Vec::new(),
            direct: AllowDeny::Deny,
            timeout: Span::secs(5),
            max_size: Size(16 << 10),
            identity: ProxyIdentity::None,
            certificate_tlv: 0xE0,
        }
    }
}

/// Listeners of the types `ws` and `wss`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WebSocket {
    /// Path of the URL; another one is answered with 404.
    pub path: String,
    /// Refuse clients that do not offer the subprotocol `mqtt`, as the specification asks. `mqttv3.1`, the name that came
    /// before it, is taken as well.
    pub require_subprotocol: bool,
    /// Web pages that may connect, for example `["https://app.example.com"]`; empty means any. Clients that are no
    /// browsers send no `Origin` and are not asked for one.
    pub origins: Vec<String>,
    /// Longest frame. A frame is not kept in memory: this bounds what is believed, not what is reserved.
    pub max_frame_size: Size,
    /// Longest message, all its frames together.
    pub max_message_size: Size,
    /// Reverse proxies whose `X-Forwarded-For` is believed, as networks. From anybody else it is ignored.
    pub trusted_proxies: Vec<String>,
}

impl Default for WebSocket {
    fn default() -> Self {
        Self {
            path: String::from("/mqtt"),
            require_subprotocol: true,
            origins: Vec::new(),
            max_frame_size: Size(16 << 20),
            max_message_size: Size(64 << 20),
            trusted_proxies: Vec::new(),
        }
    }
}

/// Listeners of the type `quic`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Quic {
    /// A connection without a sign of life for so long is gone. The broker asks for one three times as often, so that
    /// only the MQTT keep-alive ends a client that is there and has nothing to say.
    pub idle_timeout: Span,
    /// Let a client go on from another address, as phones do between networks. Its key is proved all the same; audit
    /// records keep the first address.
    pub migration: bool,
}

impl Default for Quic {
    fn default() -> Self {
        Self { idle_timeout: Span::secs(30), migration: true }
    }
}
