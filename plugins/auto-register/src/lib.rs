//! Registers a device at its first connection, one certificate each, within the bounds the operator set for
//! its certificate authority. README.md is the reference of its configuration.

mod config;
mod decide;
mod quota;

use mqgate_plugin_sdk::export_plugin;
use mqgate_plugin_sdk::host::Host;
use mqgate_plugin_sdk::plugin::{Plugin, Registrar};
use mqgate_plugin_sdk::types::{
    Connection, HookError, Identity, InitError, PluginContext, RegistrationDecision,
};

use config::Config;

pub struct AutoRegister {
    config: Config,
}

impl Plugin for AutoRegister {
    fn init<H: Host>(context: &PluginContext, _: &H) -> Result<Self, InitError> {
        Ok(Self { config: Config::read(context)? })
    }
}

impl Registrar for AutoRegister {
    fn register<H: Host>(
        &self,
        on: &Connection,
        claimed: Option<&Identity>,
        host: &H,
    ) -> Result<RegistrationDecision, HookError> {
        decide::decide(&self.config, on, claimed, host)
    }
}

export_plugin!(AutoRegister: registrar);
