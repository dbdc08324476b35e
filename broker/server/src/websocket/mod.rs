//! MQTT over WebSocket: the HTTP request that begins it, and the frames after it.
//!
//! Knows the transport below it only as a stream of bytes, and hands one up: packets may lie across frames as
//! they like. [MQTT-6.0.0-1]

mod frames;
mod upgrade;

use std::sync::Arc;

use ipnet::IpNet;

pub use self::frames::{FrameLimits, WebSocket};
pub use self::upgrade::{Upgraded, upgrade};

/// WebSocket on one listener.
#[derive(Debug, Clone)]
pub struct WebSocketSettings {
    /// Of the URL.
    pub path: Arc<str>,
    /// Refuse who does not offer `mqtt` or `mqttv3.1`. [MQTT-6.0.0-3]
    pub require_subprotocol: bool,
    /// Web pages that may connect; empty: any.
    pub origins: Arc<[String]>,
    pub limits: FrameLimits,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Arc<[IpNet]>,
    /// For the request.
    pub timeout: std::time::Duration,
}

impl WebSocketSettings {
    pub fn is_trusted(&self, address: std::net::IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }
}

/// Why there is no WebSocket connection. What the client heard is an HTTP status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    #[error("the request is not HTTP/1.1, or its head is too large: {0}")]
    Http(String),
    #[error("there is nothing at the path {0:?}")]
    Path(String),
    #[error("the method is not GET")]
    Method,
    #[error("it does not ask for WebSocket of version 13")]
    NotWebSocket,
    #[error("its key is not one")]
    Key,
    #[error("the origin {0:?} may not connect")]
    Origin(String),
    #[error("it offers no subprotocol `mqtt`")]
    Subprotocol,
    #[error("it was not complete within {0:?}")]
    Timeout(std::time::Duration),
    #[error("it was closed before it said anything")]
    Silent,
}
