//! Nothing is configured: mutual TLS on loopback with certificates made for the occasion, and the bundled
//! components; or a clear refusal.

use std::path::PathBuf;

use anyhow::Result;

use crate::components;
use crate::config::Inputs;
use crate::config::model::{
    AuthMode, Capability, Config, Isolation, Listener, Plugin, PluginGrant, PluginLimits, Registration,
};
use crate::exit::Failure;
use crate::pki;

const LISTENER: &str = "default";

/// Whether the broker chooses listener and chain itself: nobody wrote a file, or a listener, or a member.
pub fn applies(inputs: &Inputs, config: &Config) -> bool {
    inputs.file.is_none() && config.listeners.is_empty() && config.plugins.is_empty()
}

/// The configuration with that choice made.
pub fn complete(inputs: &Inputs, mut config: Config) -> Config {
    if !applies(inputs, &config) {
        return config;
    }
    let file = |name: &str| Some(folder(&config).join(name));
    let listener = Listener {
        auth_mode: Some(AuthMode::PerDevice),
        registration: Registration::Auto,
        certfile: file("server.pem"),
        keyfile: file("server.key"),
        cacertfile: file("ca.pem"),
        ..Listener::default()
    };
    config.listeners.insert(String::from(LISTENER), listener);
    config.plugins = vec![
        plugin("auto-register", true, &[Capability::KeyValue, Capability::RegistryRead]),
        plugin("cert-acl", true, &[]),
        plugin("audit-log", false, &[]),
    ];
    config
}

fn folder(config: &Config) -> PathBuf {
    config.node.data_dir.join("demo-pki")
}

fn plugin(name: &str, required: bool, capabilities: &[Capability]) -> Plugin {
    Plugin {
        name: name.to_owned(),
        source: Some(format!("bundled:{name}")),
        digest: None,
        native: None,
        required,
        grant: PluginGrant { capabilities: capabilities.to_vec(), ..PluginGrant::default() },
        limits: PluginLimits::default(),
        isolation: Isolation::Auto,
        config: serde_json::Map::new(),
    }
}

/// Makes what the choice needs, and says what it was.
pub fn prepare(config: &Config) -> Result<()> {
    for plugin in config.plugins.iter().filter(|plugin| plugin.required) {
        if let Err(error) = components::find(&plugin.name) {
            return Err(Failure::unavailable(format!(
                "nothing is configured, and the secure default needs the bundled components\n{error}\n  help: or write a \
                 configuration of your own: `mqgate config init`"
            ))
            .into());
        }
    }
    let folder = folder(config);
    pki::demo(&folder)?;
    tracing::warn!(
        pki = %folder.display(),
        "no configuration: mutual TLS on loopback with certificates made for trying out; `mqgate config init` starts a real one"
    );
    Ok(())
}
