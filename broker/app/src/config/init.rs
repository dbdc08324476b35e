//! A commented file to start from.

/// What `mqgate config init` writes. It is a valid configuration once the certificates exist.
pub const TEMPLATE: &str = r#"# mqgate configuration. Every key: docs/configuration.md, or `mqgate config docs`.
# Check it with `mqgate config check`; see what holds with `mqgate config show`.

[node]
# Registry, plugin cache, audit log, admin token. Relative paths start at this file's folder.
data_dir = "mqgate-data"

# --- Where devices connect --------------------------------------------------------------------------------
[listeners.devices]
type = "tls"
bind = "127.0.0.1:8883"             # "0.0.0.0:8883" for everybody
auth_mode = "per-device"            # one-way: no client certificate, mutual: one of a trusted CA,
                                    # per-device: and it must be in the registry
registration = "auto"               # manual: only after `mqgate cert register`
certfile = "pki/server.pem"         # `mqgate pki demo --dir pki` makes these three to try with
keyfile = "pki/server.key"
cacertfile = "pki/ca.pem"

# --- Who may enter, as whom, and to which topics: asked in this order ---------------------------------------
[[plugins]]
name = "auto-register"              # puts a new device's certificate into the registry
source = "bundled:auto-register"
grant = ["kv", "registry.read"]

[[plugins]]
name = "cert-acl"                   # certificate fields to device id and topics
source = "bundled:cert-acl"

[[plugins]]
name = "audit-log"                  # filters and redacts what is written down
source = "bundled:audit-log"
required = false

# Without any component, the same in the configuration:
# [[plugins]]
# name = "policy"
# native = "static-policy"
# [[plugins.config.rules]]
# match = { cn = "device-*" }
# publish = ["devices/${device-id}/#"]
# subscribe = ["devices/${device-id}/#"]

[policy]
# What happens to live sessions when a plugin is replaced: none, lazy, eager.
reauthorize = "none"

# --- For the operator -----------------------------------------------------------------------------------------
[admin]
bind = "127.0.0.1:18083"            # plain HTTP with a token: loopback only

[log]
filter = "info"
"#;

#[cfg(test)]
mod tests {
    use crate::config::Inputs;

    #[test]
    fn the_template_is_a_good_configuration() {
        let inputs = Inputs { text: super::TEMPLATE.to_owned(), ..Inputs::default() };
        let loaded = inputs.load().unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(loaded.config.plugins.len(), 3);
    }
}
