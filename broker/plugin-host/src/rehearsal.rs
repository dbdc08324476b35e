//! Changes that are only tried: everything that a load or a swap does, up to the moment at which it would go live.

use std::time::Duration;

use crate::changes::Change;
use crate::error::LoadError;
use crate::host::{PluginHost, verify};
use crate::loading::Loaded;
use crate::member::{PluginInfo, names};
use crate::settings::PluginSettings;

/// What a change would come to.
#[derive(Debug, Clone)]
pub struct Rehearsed {
    /// `sha256:…` of the component.
    pub digest: String,
    pub version: Option<String>,
    pub hooks: Vec<String>,
    pub imports: Vec<String>,
    /// Time a fresh instance took.
    pub cold_start: Duration,
}

impl Rehearsed {
    fn of(loaded: &Loaded) -> Self {
        Self {
            digest: loaded.artifact.digest(),
            version: loaded.version.clone(),
            hooks: names(&loaded.inspection.hooks),
            imports: loaded.inspection.imports.clone(),
            cold_start: loaded.cold_start,
        }
    }
}

impl PluginHost {
    /// What [`Self::load`] would come to, its trial included. Nothing changes.
    pub async fn rehearse_load(&self, settings: &PluginSettings) -> Result<Rehearsed, LoadError> {
        let is_live = |info: PluginInfo| info.state == crate::PluginState::Live;
        if self.find(&settings.name).is_some_and(is_live) {
            return Err(verify(format!("{} is live already; swap it, or unload it first", settings.name)));
        }
        let outcome = self.loader.load(settings).await.map(|loaded| Rehearsed::of(&loaded));
        // Unless somebody of this name is there, or went live meanwhile, the series are nobody's.
        let _changing = self.changing.lock().await;
        if self.find(&settings.name).is_none() {
            self.loader.metrics.forget(&settings.name);
        }
        outcome
    }

    /// What [`Self::swap`] or [`Self::shadow`] would come to, the trial included. Nothing changes.
    pub async fn rehearse(&self, name: &str, change: &Change) -> Result<Rehearsed, LoadError> {
        let found = self.found(name)?;
        let settings = self.changed(&found, change)?;
        Ok(Rehearsed::of(&self.loader.load(&settings).await?))
    }
}
