//! What the broker provides to a plugin: `log` always, the rest by grant. One module per interface.

mod custom_metrics;
pub(crate) mod http;
mod key_value;
pub(crate) mod log;
mod plugin_series;
mod registry;
pub(crate) mod wasi;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mqgate_identity::registry::Storage;
use mqgate_identity::time::UnixMillis;
use wasmtime::component::{HasSelf, Linker};

pub(crate) use self::custom_metrics::CustomMetrics;
use self::http::HttpClient;
use self::log::LogRate;
pub(crate) use self::plugin_series::{PluginSeries, Version};
use crate::bindings::mqgate::plugin::{certificates, connections, key_value as kv, log as log_interface};
use crate::bindings::mqgate::plugin::{metrics as metrics_interface, registry as registry_interface, types};
use crate::instance::{Purpose, StoreState};
use crate::metrics::{HostCallResult, Interface, PluginMetrics};
use crate::outside::Outside;
use crate::settings::{Capability, Grants};
use crate::tap::HostCall;

/// What the host functions of one plugin share.
pub(crate) struct Services {
    pub(crate) plugin: Arc<str>,
    pub(crate) grants: Grants,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) metrics: Arc<PluginMetrics>,
    pub(crate) log_rate: LogRate,
    pub(crate) custom_metrics: CustomMetrics,
    /// With the grant `http` alone.
    pub(crate) http: Option<Arc<HttpClient>>,
    pub(crate) outside: Arc<dyn Outside>,
}

impl Services {
    fn count<T, E>(&self, interface: Interface, outcome: &Result<T, E>) {
        let result = if outcome.is_ok() { HostCallResult::Ok } else { HostCallResult::Error };
        self.metrics.host_call(interface, result);
    }
}

/// The functions of the first release.
pub(crate) fn link(linker: &mut Linker<StoreState>, grants: &Grants) -> wasmtime::Result<()> {
    type Host = HasSelf<StoreState>;
    types::add_to_linker::<StoreState, Host>(linker, |state| state)?;
    certificates::add_to_linker::<StoreState, Host>(linker, |state| state)?;
    connections::add_to_linker::<StoreState, Host>(linker, |state| state)?;
    log_interface::add_to_linker::<StoreState, Host>(linker, |state| state)?;
    if grants.has(Capability::KeyValue) {
        kv::add_to_linker::<StoreState, Host>(linker, |state| state)?;
    }
    if grants.has(Capability::RegistryRead) {
        registry_interface::add_to_linker::<StoreState, Host>(linker, |state| state)?;
    }
    if grants.has(Capability::Metrics) {
        metrics_interface::add_to_linker::<StoreState, Host>(linker, |state| state)?;
    }
    Ok(())
}

impl types::Host for StoreState {}
impl certificates::Host for StoreState {}
impl connections::Host for StoreState {}

impl StoreState {
    /// Nothing that it does is kept.
    fn is_trial(&self) -> bool {
        match self.purpose {
            Purpose::Trial | Purpose::Explanation | Purpose::Shadow => true,
            Purpose::Calls => false,
        }
    }

    /// Tells whoever listens to the call.
    pub(crate) fn heard(&self, call: impl FnOnce() -> HostCall) {
        if let Some(ear) = &self.ear {
            ear.note(call());
        }
    }
}

pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
