//! A shadow beside a live plugin: begun, looked at, promoted, dropped. It ends with the version it is compared with, and
//! with the process.

use std::sync::Arc;

use mqgate_identity::hooks::Reauthorize;

use crate::changes::Change;
use crate::error::LoadError;
use crate::host::{PluginHost, verify};
use crate::instance::Purpose;
use crate::member::EntryState;
use crate::record::How;
use crate::settings::Source;
use crate::shadow::{Report, Shadow, member};

impl PluginHost {
    /// Has a version asked what the live one is asked, without consequences. One that was a shadow before is dropped.
    pub async fn shadow(&self, name: &str, change: Change) -> Result<Report, LoadError> {
        let _changing = self.changing.lock().await;
        let found = self.found(name)?;
        if !self.find(name).is_some_and(|info| info.state == crate::PluginState::Live) {
            return Err(verify(format!("{name} is not live: there is nothing to compare with")));
        }
        let settings = self.changed(&found, &change)?;
        let loaded = self.loader.load_for(&settings, Purpose::Shadow).await?;
        let component = match &change.component {
            // Of what ran before it is known why it was trusted, and its bytes stay.
            Some(Source::Stored(digest)) if found.record.knows(digest) => change.component.clone(),
            // The component that runs, with other settings.
            None if self.loader.store.is_some() => None,
            // Uploads and files come and go; a promotion takes these bytes.
            Some(_) | None => Some(Source::Bytes(Arc::clone(&loaded.artifact.bytes))),
        };
        let kept = Change { component, digest: None, ..change };
        let metrics = self.loader.metrics.shadow(name);
        let shadow =
            Shadow::new(loaded.plugin, loaded.version, &kept.by, self.loader.runtime.clone(), metrics);
        let shadow = Arc::new(shadow);
        let report = shadow.report();
        self.set_shadow(name, Some((shadow, kept)))?;
        Ok(report)
    }

    /// What the comparison has shown so far.
    pub fn shadow_report(&self, name: &str) -> Option<Report> {
        let state = self.state();
        let (_, entry) = state.entry(name)?;
        let EntryState::Live(live) = &entry.state else { return None };
        live.shadow.as_ref().map(|(shadow, _)| shadow.report())
    }

    /// Forgets a shadow. What it had shown.
    pub async fn drop_shadow(&self, name: &str) -> Result<Report, LoadError> {
        let _changing = self.changing.lock().await;
        let report = self.shadow_report(name).ok_or_else(|| no_shadow(name))?;
        self.set_shadow(name, None)?;
        Ok(report)
    }

    /// The shadow takes over. What it had shown goes with it.
    pub async fn promote(
        &self,
        name: &str,
        by: &str,
        reauthorize: Reauthorize,
    ) -> Result<crate::PluginInfo, LoadError> {
        let _changing = self.changing.lock().await;
        let change = {
            let state = self.state();
            let live = state.entry(name).and_then(|(_, entry)| match &entry.state {
                EntryState::Live(live) => live.shadow.as_ref(),
                EntryState::Disabled | EntryState::Failed { .. } => None,
            });
            live.map(|(_, change)| change.clone()).ok_or_else(|| no_shadow(name))?
        };
        let found = self.found(name)?;
        let change = Change { reauthorize, by: by.to_owned(), ..change };
        self.swap_found(found, change, How::Promoted).await.inspect(|_| self.loader.metrics.swapped(name))
    }

    fn set_shadow(&self, name: &str, shadow: Option<(Arc<Shadow>, Change)>) -> Result<(), LoadError> {
        let mut state = self.state();
        let Some(EntryState::Live(live)) = state.entry_mut(name).map(|entry| &mut entry.state) else {
            return Err(verify(format!("{name} is not live any more")));
        };
        live.member = Arc::new(match &shadow {
            Some((shadow, _)) => member(&live.plugin, shadow),
            None => live.plugin.member(),
        });
        live.shadow = shadow;
        self.publish(self.next_generation(), &state, Reauthorize::None);
        Ok(())
    }
}

fn no_shadow(name: &str) -> LoadError {
    verify(format!("{name} has no shadow; `mqgate plugin shadow begin` gives it one"))
}
