//! Listeners of every transport.

use super::*;

#[test]
fn transports_that_go_together() {
    let text = r#"
[listeners.a]
type = "tcp"
bind = "unix:/run/mqtt.sock"
unix_mode = "600"
proxy_protocol = { identity = "cn" }
[listeners.b]
type = "ws"
bind = "[::]:8083"
dual_stack = true
reuse_port = true
backlog = 4096
websocket = { path = "/devices", origins = ["https://app.example.com"], trusted_proxies = ["10.0.0.0/8", "2001:db8::1"] }
[listeners.c]
type = "tcp"
bind = "127.0.0.1:1883"
auth_mode = "per-device"
cacertfile = "ca.pem"
depth = 2
proxy_protocol = { from = ["192.0.2.7"], identity = "certificate", certificate_tlv = 0xE4, direct = "allow" }
[listeners.d]
type = "quic"
bind = "127.0.0.1:14567"
certfile = "c"
keyfile = "k"
quic = { migration = false }
"#;
    let loaded = inputs(text, &[]).load().unwrap_or_else(|problems| panic!("{problems}"));
    let listeners = &loaded.config.listeners;
    assert_eq!(listeners["a"].unix_mode, model::UnixMode(0o600));
    assert!(listeners["c"].has_certificates() && !listeners["a"].has_certificates());
    assert_eq!(listeners["c"].proxy_protocol.as_ref().map(|proxy| proxy.certificate_tlv), Some(0xE4));
}
