//! Changes of the running set: each is tried beside what runs, kept on the disk, and live then. One at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use mqgate_identity::hooks::{ChainMember, Reauthorize};
use serde_json::Value;

use crate::artifact::Artifact;
use crate::capability::now;
use crate::error::{LoadError, Stage, UnloadError};
use crate::host::{PluginHost, verify};
use crate::loading::Loaded;
use crate::member::{Draft, Entry, EntryState, Facts, Live, Member, PluginInfo};
use crate::record::{How, Next, Own, Record, Version, Wanted};
use crate::settings::{Capability, PluginSettings, Position, Provenance, Source};
use crate::trust::Signature;

/// Plugins that were unloaded, and that the configuration does not name, of which it is remembered which components they
/// had.
const MOST_GONE: usize = 64;

/// What becomes of a plugin. What is not named stays as it is.
#[derive(Debug, Clone)]
pub struct Change {
    pub component: Option<Source>,
    /// `sha256:…` that the component must have.
    pub digest: Option<String>,
    pub signature: Option<Signature>,
    /// The plugin's own settings.
    pub config: Option<Value>,
    pub capabilities: Option<BTreeSet<Capability>>,
    pub reauthorize: Reauthorize,
    /// Who wants it.
    pub by: String,
}

impl Change {
    pub fn by(actor: impl Into<String>) -> Self {
        Self {
            component: None,
            digest: None,
            signature: None,
            config: None,
            capabilities: None,
            reauthorize: Reauthorize::None,
            by: actor.into(),
        }
    }

    #[must_use]
    pub fn to(mut self, component: impl Into<Arc<[u8]>>) -> Self {
        self.component = Some(Source::Bytes(component.into()));
        self
    }
}

/// A plugin that is about to be replaced, as it is.
pub(crate) struct Found {
    pub(crate) index: usize,
    pub(crate) base: PluginSettings,
    pub(crate) record: Record,
    pub(crate) kept: bool,
}

/// What takes a place in the chains.
pub(crate) struct Ready {
    pub(crate) index: usize,
    pub(crate) base: PluginSettings,
    pub(crate) record: Record,
    pub(crate) kept: bool,
    pub(crate) loaded: Loaded,
    pub(crate) reauthorize: Reauthorize,
}

impl PluginHost {
    /// Checks a component, runs its trial and makes it live, here and after every restart. On error nothing has changed.
    pub async fn load(
        &self,
        settings: PluginSettings,
        position: Position,
        by: &str,
    ) -> Result<PluginInfo, LoadError> {
        let _changing = self.changing.lock().await;
        let name = settings.name.clone();
        let index = {
            let state = self.state();
            match state.members.iter().find(|member| member.name() == name) {
                Some(Member::Native(_)) => {
                    return Err(verify(format!("{name} is the name of a member that is built in")));
                }
                Some(Member::Plugin(entry)) if matches!(entry.state, EntryState::Live(_)) => {
                    return Err(verify(format!("{name} is live already; swap it, or unload it first")));
                }
                Some(Member::Plugin(_)) | None => self.place(&state, &name, &position)?,
            }
        };
        let loaded = self.try_out(&settings).await?;
        let own = Own {
            grants: settings.grants.clone(),
            limits: settings.limits,
            isolation: settings.isolation,
            required: settings.required,
        };
        let known = self.state().entry(&name).map(|(_, entry)| entry.record.clone());
        // What failed is mended: its versions are still its own.
        let mut record = known.unwrap_or_else(|| Record::new(&name, None));
        record.own = Some(own);
        record.wanted = Wanted::Live;
        let next =
            Next { config: Some(settings.config.clone()), ..self.next(&loaded, &settings, How::Loaded, by) };
        record.push(next, now(), self.loader.settings.versions);
        let base = self.kept_here(settings, &loaded);
        self.commit(Ready { index, base, record, kept: true, loaded, reauthorize: Reauthorize::None }).await
    }

    /// The version that [`Self::rollback`] goes back to.
    pub fn rollback_target(&self, name: &str, to: Option<&str>) -> Result<Version, LoadError> {
        let found = self.found(name)?;
        let current = found.record.current().map(|version| version.number);
        let target = match to {
            None => found.record.former(),
            Some(what) => found.record.find(what).filter(|version| Some(version.number) != current),
        };
        target.cloned().ok_or_else(|| {
            verify(match to {
                None => format!("no version ran before the one of {name} that runs"),
                Some(what) => format!(
                    "no former version of {name} is {what:?}; `mqgate plugin versions {name}` lists them"
                ),
            })
        })
    }

    /// Replaces a plugin's component, or its settings, in its place. On error the old version goes on as if nothing had
    /// been asked.
    pub async fn swap(&self, name: &str, change: Change) -> Result<PluginInfo, LoadError> {
        let _changing = self.changing.lock().await;
        let found = self.found(name)?;
        let how = if change.component.is_some() { How::Swapped } else { How::Configured };
        let outcome = self.swap_found(found, change, how).await;
        match &outcome {
            Ok(_) => self.loader.metrics.swapped(name),
            Err(_) => self.loader.metrics.swap_refused(name),
        }
        outcome
    }

    pub(crate) async fn swap_found(
        &self,
        found: Found,
        change: Change,
        how: How,
    ) -> Result<PluginInfo, LoadError> {
        let settings = self.changed(&found, &change)?;
        let loaded = self.loader.load(&settings).await?;
        let Found { index, base, mut record, .. } = found;
        let current = record.current();
        let next = Next {
            pinned: self.loader.store.is_some()
                && (change.component.is_some() || current.is_some_and(|version| version.pinned)),
            config: change.config.or_else(|| current.and_then(|version| version.config.clone())),
            capabilities: change
                .capabilities
                .or_else(|| current.and_then(|version| version.capabilities.clone())),
            ..self.next(&loaded, &settings, how, &change.by)
        };
        record.push(next, now(), self.loader.settings.versions);
        let base = match self.loader.store {
            Some(_) => base,
            // Nobody else keeps the bytes.
            None => PluginSettings { source: settings.source, ..base },
        };
        self.commit(Ready { index, base, record, kept: true, loaded, reauthorize: change.reauthorize }).await
    }

    /// The settings of a plugin with a change laid over.
    pub(crate) fn changed(&self, found: &Found, change: &Change) -> Result<PluginSettings, LoadError> {
        let mut settings = found.record.settings(&found.base);
        match &change.component {
            Some(source) => {
                let known = match source {
                    Source::Stored(digest) => found.record.find(digest),
                    Source::File(_) | Source::Bytes(_) => None,
                };
                settings.provenance = match (known, &change.signature) {
                    (Some(version), None) => version.provenance(),
                    (_, signature) => Provenance::New(signature.clone()),
                };
                settings.source = source.clone();
                settings.digest.clone_from(&change.digest);
            }
            None => self.as_it_runs(found, &mut settings),
        }
        if let Some(config) = &change.config {
            settings.config = config.clone();
        }
        if let Some(capabilities) = &change.capabilities {
            settings.grants.capabilities.clone_from(capabilities);
        }
        Ok(settings)
    }

    /// The component that runs, whatever its file holds by now.
    fn as_it_runs(&self, found: &Found, settings: &mut PluginSettings) {
        if let Some(version) = found.record.current()
            && self.loader.store.is_some()
        {
            settings.source = Source::Stored(version.digest.clone());
            settings.digest = None;
            settings.provenance = version.provenance();
        }
    }

    /// The configuration gives a plugin other settings; its component stays the one that runs, whatever the file holds
    /// by now. Answers the settings before. On error it goes on with those. Where settings were set at runtime those
    /// go on, too, until they are taken back.
    pub async fn reconfigure(
        &self,
        name: &str,
        config: Value,
        reauthorize: Reauthorize,
    ) -> Result<Value, LoadError> {
        let _changing = self.changing.lock().await;
        let mut found = match self.found(name) {
            Ok(found) => found,
            Err(error) => {
                // Taken out at runtime: that holds. What the configuration says counts once it is brought back.
                let mut state = self.state();
                let Some(configured) = state.configured.get_mut(name) else { return Err(error) };
                return Ok(std::mem::replace(&mut configured.config, config));
            }
        };
        let before = std::mem::replace(&mut found.base.config, config.clone());
        let current = found.record.current();
        let is_live = self.find(name).is_some_and(|info| info.state == crate::PluginState::Live);
        if is_live && current.is_none_or(|version| version.config.is_none()) {
            let digest = current.map(|version| version.digest.clone());
            let settings = found.record.settings(&found.base);
            let loaded = self.loader.load(&settings).await?;
            if digest.is_some_and(|digest| digest != loaded.artifact.digest()) {
                return Err(verify(format!(
                    "the file of {name} holds another component than the one that runs: `mqgate plugin swap` takes it \
                     over, or put the former file back"
                )));
            }
            self.check_methods(&loaded.plugin)?;
            let Found { index, base, record, kept } = found;
            self.take_over(Ready { index, base, record, kept, loaded, reauthorize });
        }
        let mut state = self.state();
        if let Some(entry) = state.entry_mut(name) {
            entry.base.config = config.clone();
        }
        if let Some(configured) = state.configured.get_mut(name) {
            configured.config = config;
        }
        Ok(before)
    }

    /// Takes the version that runs back: the one before it runs again, or the one that `to` names by number or digest.
    /// With `only`, nothing happens unless that version still runs.
    pub async fn rollback(
        &self,
        name: &str,
        to: Option<&str>,
        only: Option<u32>,
        why: &str,
        change: Change,
    ) -> Result<PluginInfo, LoadError> {
        let _changing = self.changing.lock().await;
        let found = self.found(name)?;
        let current = found.record.current().map(|version| version.number);
        if only.is_some_and(|only| current != Some(only)) {
            return Err(verify(format!("another version of {name} runs by now")));
        }
        let target = self.rollback_target(name, to)?;
        let mut settings = target.settings(&found.base);
        if self.loader.store.is_some() {
            settings.source = Source::Stored(target.digest.clone());
            settings.digest = None;
            settings.provenance = target.provenance();
        } else if !target.pinned
            && found.record.current().is_some_and(|version| version.digest != target.digest)
        {
            return Err(verify("this broker keeps no components: bring the former one and swap"));
        }
        let loaded = self.loader.load(&settings).await?;
        let Found { index, base, mut record, .. } = found;
        record.go_back(&target, why, &change.by, now(), self.loader.settings.versions);
        let ready = Ready { index, base, record, kept: true, loaded, reauthorize: change.reauthorize };
        let info = self.commit(ready).await?;
        self.loader.metrics.rolled_back(name);
        Ok(info)
    }

    /// Has a plugin asked again that is not.
    pub async fn enable(&self, name: &str, reauthorize: Reauthorize) -> Result<PluginInfo, LoadError> {
        let _changing = self.changing.lock().await;
        let mut found = self.found(name)?;
        let mut settings = found.record.settings(&found.base);
        self.as_it_runs(&found, &mut settings);
        let loaded = self.loader.load(&settings).await?;
        found.record.wanted = Wanted::Live;
        let Found { index, base, record, .. } = found;
        self.commit(Ready { index, base, record, kept: true, loaded, reauthorize }).await
    }

    /// Leaves a plugin in its place and has it asked no more. One that is required only by `force`.
    pub async fn disable(&self, name: &str, force: bool) -> Result<PluginInfo, UnloadError> {
        let _changing = self.changing.lock().await;
        let draft = {
            let state = self.state();
            let (index, entry) = state.entry(name).ok_or(UnloadError::NoSuchPlugin)?;
            if entry.base.required && !force {
                return Err(UnloadError::Required);
            }
            let mut draft = state.draft();
            draft.put(index, Record { wanted: Wanted::Disabled, ..entry.record.clone() }, true);
            draft
        };
        self.keep(draft, None).await.map_err(|error| UnloadError::Store(error.message))?;
        let mut state = self.state();
        if let Some(entry) = state.entry_mut(name) {
            entry.record.wanted = Wanted::Disabled;
            entry.kept = true;
            entry.retire();
            entry.state = EntryState::Disabled;
        }
        self.loader.metrics.disabled(name);
        self.publish(self.next_generation(), &state, Reauthorize::None);
        let info = state.entry(name).map(|(_, entry)| state.info(entry));
        info.ok_or(UnloadError::NoSuchPlugin)
    }

    /// Takes a plugin out of the chains. One that is required holds the listeners shut while it is not live, and
    /// without it nobody would ask for it any more: it goes only by `force`.
    pub async fn unload(&self, name: &str, force: bool) -> Result<(), UnloadError> {
        let _changing = self.changing.lock().await;
        let (draft, unloaded, had) = {
            let state = self.state();
            let (_, entry) = state.entry(name).ok_or(UnloadError::NoSuchPlugin)?;
            if entry.base.required && !force {
                return Err(UnloadError::Required);
            }
            let mut draft = state.draft();
            draft.remove(name);
            // The configuration, or a watched folder, would bring it back.
            let unloaded = entry.record.unloaded(state.configured.contains_key(name));
            remember(&mut draft.unloaded, unloaded.clone());
            draft.remember_had(&state.draft());
            let had = draft.had.clone();
            (draft, unloaded, had)
        };
        self.keep(draft, None).await.map_err(|error| UnloadError::Store(error.message))?;
        let mut state = self.state();
        if let Some((index, _)) = state.entry(name) {
            state.members.remove(index).retire();
        }
        remember(&mut state.unloaded, unloaded);
        state.had = had;
        self.publish(self.next_generation(), &state, Reauthorize::None);
        self.loader.metrics.forget(name);
        Ok(())
    }

    /// Forgets what was decided about a plugin at runtime: what the configuration says of it holds again.
    pub async fn reset(
        &self,
        name: &str,
        by: &str,
        reauthorize: Reauthorize,
    ) -> Result<PluginInfo, LoadError> {
        let _changing = self.changing.lock().await;
        let (index, base) = {
            let state = self.state();
            let Some(base) = state.configured.get(name).cloned() else {
                return Err(verify(match state.entry(name) {
                    Some(_) => format!(
                        "the configuration does not name {name}: `mqgate plugin unload {name}` removes it"
                    ),
                    None => format!("no plugin is called {name:?}"),
                }));
            };
            let index = match state.entry(name) {
                Some((_, entry)) if entry.record.own.is_none() => {
                    self.place(&state, name, &Position::Configured)?
                }
                // It stands where it was put at runtime, or nowhere.
                _ => {
                    let rank = |name: &str| state.order.iter().position(|known| known == name);
                    let own = rank(name);
                    let behind = |member: &Member| member.name() != name && rank(member.name()) > own;
                    state.members.iter().position(behind).unwrap_or(state.members.len())
                }
            };
            (index, base)
        };
        let loaded = self.loader.load(&base).await?;
        let mut record = Record::new(name, None);
        record.push(self.next(&loaded, &base, How::Configuration, by), now(), self.loader.settings.versions);
        self.commit(Ready { index, base, record, kept: false, loaded, reauthorize }).await
    }

    /// Replaces a member that is built in, in its place; whether there was one of this name.
    pub async fn replace_native(&self, native: ChainMember) -> bool {
        let _changing = self.changing.lock().await;
        let mut state = self.state();
        let found = state.members.iter_mut().find_map(|member| match member {
            Member::Native(known) if known.name == native.name => Some(known),
            Member::Native(_) | Member::Plugin(_) => None,
        });
        let Some(known) = found else { return false };
        *known = Arc::new(native);
        self.publish(self.next_generation(), &state, Reauthorize::None);
        true
    }

    /// The settings of a plugin that is wanted and not live, for whoever loads it again.
    pub fn settings_of_failed(&self, name: &str) -> Option<PluginSettings> {
        let state = self.state();
        let (_, entry) = state.entry(name)?;
        matches!(entry.state, EntryState::Failed { .. }).then(|| entry.record.settings(&entry.base))
    }

    /// Whether settings that were set at runtime hold, whatever the configuration says.
    pub fn has_settings_of_its_own(&self, name: &str) -> bool {
        let state = self.state();
        let current = state.entry(name).and_then(|(_, entry)| entry.record.current());
        current.is_some_and(|version| version.config.is_some())
    }

    /// Whether a plugin has, or had, this component; nobody needs to bring it again.
    pub fn knows(&self, name: &str, digest: &str) -> bool {
        let state = self.state();
        state.entry(name).is_some_and(|(_, entry)| entry.record.knows(digest))
            || state.unloaded.iter().any(|record| record.name == name && record.knows(digest))
            || state.had.knows(name, digest)
    }

    async fn try_out(&self, settings: &PluginSettings) -> Result<Loaded, LoadError> {
        let outcome = self.loader.load(settings).await;
        if outcome.is_err() && self.state().entry(&settings.name).is_none() {
            self.loader.metrics.forget(&settings.name);
        }
        outcome
    }

    pub(crate) fn found(&self, name: &str) -> Result<Found, LoadError> {
        let state = self.state();
        let (index, entry) =
            state.entry(name).ok_or_else(|| verify(format!("no plugin is called {name:?}")))?;
        let (base, record, kept) = (entry.base.clone(), entry.record.clone(), entry.kept);
        Ok(Found { index, base, record, kept })
    }

    /// The version that a loaded component makes.
    pub(crate) fn next(&self, loaded: &Loaded, settings: &PluginSettings, how: How, by: &str) -> Next {
        Next {
            digest: loaded.artifact.digest(),
            pinned: self.loader.store.is_some() && how != How::Configuration,
            bundled: settings.provenance == Provenance::Bundled,
            label: loaded.version.clone(),
            config: None,
            capabilities: None,
            by: by.to_owned(),
            how,
            signer: loaded.signer.clone(),
        }
    }

    /// Its bytes are in the store from now on, and not in memory.
    fn kept_here(&self, settings: PluginSettings, loaded: &Loaded) -> PluginSettings {
        match self.loader.store {
            Some(_) => PluginSettings { source: Source::Stored(loaded.artifact.digest()), ..settings },
            None => settings,
        }
    }

    pub(crate) async fn commit(&self, ready: Ready) -> Result<PluginInfo, LoadError> {
        if ready.record.wanted != Wanted::Disabled {
            self.check_methods(&ready.loaded.plugin)?;
        }
        let before = self.state().draft();
        let mut draft = before.clone();
        draft.put(ready.index, ready.record.clone(), ready.kept);
        draft.remember_had(&before);
        let had = draft.had.clone();
        self.keep(draft, Some(ready.loaded.artifact.clone())).await?;
        self.state().had = had;
        Ok(self.take_over(ready))
    }

    /// Writes down what will be so, before it is.
    pub(crate) async fn keep(&self, draft: Draft, artifact: Option<Artifact>) -> Result<(), LoadError> {
        if self.loader.store.is_none() {
            return Ok(());
        }
        let kept = self.loader.blocking(move |loader| {
            let Some(store) = &loader.store else { return Ok(()) };
            let failed = |error: std::io::Error| {
                LoadError::new(
                    Stage::Store,
                    format!(
                        "it cannot be kept: {error}.\n\
                         What would not be there after a restart does not go live.\n\
                         See to the disk of the data directory."
                    ),
                )
            };
            if let Some(artifact) = artifact {
                store.put(&artifact).map_err(failed)?;
            }
            store.write(&draft.manifest()).map_err(failed)?;
            store.prune(draft.records());
            Ok(())
        });
        kept.await
    }

    /// From here on it is asked, unless it is disabled.
    pub(crate) fn take_over(&self, ready: Ready) -> PluginInfo {
        let Ready { index, base, record, kept, loaded, reauthorize } = ready;
        let name = base.name.clone();
        let generation = self.next_generation();
        let facts = Facts::of(&loaded);
        let digest = Arc::clone(&loaded.plugin.digest);
        let state_of_entry = match record.wanted {
            Wanted::Disabled => EntryState::Disabled,
            Wanted::Live | Wanted::Unloaded => {
                let member = Arc::new(loaded.plugin.member());
                EntryState::Live(Box::new(Live {
                    plugin: loaded.plugin,
                    member,
                    generation,
                    facts,
                    shadow: None,
                }))
            }
        };
        let is_live = matches!(state_of_entry, EntryState::Live(_));
        if let EntryState::Live(live) = &state_of_entry {
            self.watch_on(&live.plugin, &record);
        }
        let entry = Entry { base, record, kept, state: state_of_entry };
        let mut state = self.state();
        let info = state.info(&entry);
        // Whatever stood under this name, live or failed, makes room.
        let index = match state.entry(&name) {
            Some((known, _)) => {
                state.members.remove(known).retire();
                index - usize::from(known < index)
            }
            None => index,
        };
        state.unloaded.retain(|record| record.name != name);
        let index = index.min(state.members.len());
        state.members.insert(index, Member::Plugin(Box::new(entry)));
        if is_live {
            self.loader.metrics.live(&name, loaded.version.as_deref(), &digest);
        }
        self.publish(generation, &state, reauthorize);
        info
    }
}

/// Of those that the configuration does not name only the last are remembered.
fn remember(unloaded: &mut Vec<Record>, record: Record) {
    unloaded.push(record);
    let gone = unloaded.iter().filter(|record| record.is_gone()).count();
    if gone > MOST_GONE
        && let Some(oldest) = unloaded.iter().position(Record::is_gone)
    {
        unloaded.remove(oldest);
    }
}

impl Entry {
    /// Its own series make room for those of the version that follows.
    pub(crate) fn retire(&self) {
        if let EntryState::Live(live) = &self.state {
            live.plugin.runnable.services.custom_metrics.retire();
        }
    }
}
