//! The running set of plugins: load, swap, unload, list.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mqgate_identity::hooks::{ChainMember, HookSet, Reauthorize};
use mqgate_identity::registry::Storage;

use crate::error::{HostError, LoadError};
use crate::settings::{HostSettings, PluginSettings, Position};

/// The plugins of a broker and the chains they and the native members form.
pub struct PluginHost {}

/// What is known of a plugin, for operators.
#[derive(Debug, Clone)]
pub struct PluginInfo {
    pub name: String,
    /// `sha256:…`; empty while the plugin was never loaded.
    pub digest: String,
    /// Bytes of the component.
    pub size: u64,
    /// Names of the hooks' interfaces.
    pub hooks: Vec<String>,
    pub imports: Vec<String>,
    /// Generation of the set in which this version of the plugin went live.
    pub generation: u64,
    pub state: PluginState,
    /// `per-call` or `single`.
    pub isolation: &'static str,
    /// Time a fresh instance took in the trial: instantiate, `init`, drop.
    pub cold_start: Duration,
    pub required: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PluginState {
    Live,
    /// Wanted, but refused; why.
    Failed(String),
}

/// What a component is, found without running it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub digest: String,
    pub size: u64,
    /// From the component's custom section `version`, if it has one.
    pub version: Option<String>,
    pub hooks: Vec<String>,
    pub imports: Vec<String>,
    /// Exports outside `mqgate:plugin/`, which nobody calls.
    pub other_exports: Vec<String>,
}

impl PluginHost {
    pub fn new(
        _settings: HostSettings,
        _natives: Vec<ChainMember>,
        _storage: Arc<dyn Storage>,
        _metrics: &prometheus::Registry,
    ) -> Result<Self, HostError> {
        todo!()
    }

    /// The chains; consumers load a snapshot per connection.
    pub fn hooks(&self) -> Arc<ArcSwap<HookSet>> {
        todo!()
    }

    /// Checks a component, runs its trial and makes it live. On error nothing has changed.
    pub async fn load(&self, _settings: PluginSettings, _position: Position) -> Result<PluginInfo, LoadError> {
        todo!()
    }

    /// Replaces a live plugin's component, and its configuration if one is given, in its place.
    pub async fn swap(
        &self,
        _name: &str,
        _component: Arc<[u8]>,
        _config: Option<serde_json::Value>,
        _reauthorize: Reauthorize,
    ) -> Result<PluginInfo, LoadError> {
        todo!()
    }

    /// Takes a plugin out of the chains. False when there is none of that name.
    pub async fn unload(&self, _name: &str) -> bool {
        todo!()
    }

    /// Says that a wanted plugin is not live: while it is required, listeners stay shut.
    pub async fn mark_failed(&self, _settings: &PluginSettings, _why: &LoadError) {
        todo!()
    }

    pub fn list(&self) -> Vec<PluginInfo> {
        todo!()
    }

    /// What a component is, without running it.
    pub async fn inspect(&self, _component: Arc<[u8]>) -> Result<Description, LoadError> {
        todo!()
    }
}
