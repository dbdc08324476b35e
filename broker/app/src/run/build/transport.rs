//! The settings of a listener's transport: proxies in front of it, WebSocket.

use std::sync::Arc;

use anyhow::Result;
use ipnet::IpNet;
use mqgate_identity::evaluation::PathPolicy;
use mqgate_server::proxy_protocol::{Direct, ProxyIdentity, ProxySettings};
use mqgate_server::trust::TrustStore;
use mqgate_server::websocket::{FrameLimits, WebSocketSettings};

use super::{client_auth, wrong};
use crate::config::check::network;
use crate::config::model;

fn networks(key: &str, texts: &[String]) -> Result<Vec<IpNet>> {
    texts.iter().map(|text| Ok(network(text).map_err(|error| wrong(key, error))?)).collect()
}

pub(super) fn proxy(
    name: &str,
    listener: &model::Listener,
    proxy: &model::ProxyProtocol,
    policy: PathPolicy,
    trust: &Arc<TrustStore>,
) -> Result<ProxySettings> {
    Ok(ProxySettings {
        from: networks(&format!("listeners.{name}.proxy_protocol.from"), &proxy.from)?,
        direct: match proxy.direct {
            model::AllowDeny::Allow => Direct::Allow,
            model::AllowDeny::Deny => Direct::Deny,
        },
        timeout: proxy.timeout.0,
        longest: usize::try_from(proxy.max_size.0).unwrap_or(usize::MAX),
        certificate_tlv: proxy.certificate_tlv,
        identity: match proxy.identity {
            model::ProxyIdentity::None => ProxyIdentity::None,
            model::ProxyIdentity::Cn => ProxyIdentity::CommonName,
            model::ProxyIdentity::Certificate => ProxyIdentity::Certificate {
                client_auth: client_auth(name, listener)?,
                trust: trust.listener(name),
                policy: Box::new(policy),
            },
        },
    })
}

pub(super) fn websocket(name: &str, listener: &model::Listener) -> Result<WebSocketSettings> {
    let websocket = &listener.websocket;
    let trusted_proxies =
        networks(&format!("listeners.{name}.websocket.trusted_proxies"), &websocket.trusted_proxies)?;
    Ok(WebSocketSettings {
        path: websocket.path.as_str().into(),
        require_subprotocol: websocket.require_subprotocol,
        origins: websocket.origins.as_slice().into(),
        limits: FrameLimits { frame: websocket.max_frame_size.0, message: websocket.max_message_size.0 },
        trusted_proxies: trusted_proxies.into(),
        timeout: listener.handshake_timeout.0,
    })
}
