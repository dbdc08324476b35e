//! The first moments: the plugins of the configuration, with what was decided at runtime before the restart.
//!
//! What was decided at runtime holds until it is taken back ([`PluginHost::reset`]). What cannot be brought back as it
//! was keeps the listeners shut: nobody is let in by a chain that is not the one that was acknowledged.

use std::collections::{BTreeSet, HashMap};

use crate::capability::now;
use crate::error::{LoadError, Stage};
use crate::host::{PluginHost, verify};
use crate::loading::Loaded;
use crate::member::{Entry, EntryState, Facts, Live, Member, PluginInfo};
use crate::record::{How, Own, Record, Wanted, order};
use crate::settings::{PluginSettings, Position, Source};
use crate::store::Manifest;

/// A plugin of the configuration.
pub struct Configured {
    pub settings: PluginSettings,
    /// Its component is not where the configuration says.
    pub missing: Option<LoadError>,
}

/// What became of one plugin.
#[derive(Debug)]
pub struct Started {
    pub name: String,
    pub outcome: StartOutcome,
}

#[derive(Debug)]
pub enum StartOutcome {
    /// `kept`: as it was decided at runtime.
    Live {
        info: Box<PluginInfo>,
        kept: bool,
    },
    /// `closes`: listeners stay shut.
    Failed {
        error: LoadError,
        closes: bool,
    },
    Disabled,
    /// The configuration names it, and it was taken out at runtime.
    Unloaded,
    /// The configuration named it, and does so no longer: what was decided about it is forgotten.
    Forgotten,
}

/// One plugin that is to stand in the chains.
struct Planned {
    base: PluginSettings,
    missing: Option<LoadError>,
    /// What was decided at runtime.
    record: Option<Record>,
}

impl PluginHost {
    /// Brings the plugins of the configuration, in its order, and those of the time before the restart, to life. One
    /// that does not load is remembered as failed; the others go on.
    pub async fn start(&self, configured: Vec<Configured>) -> Vec<Started> {
        let _changing = self.changing.lock().await;
        let found = self.take_found().unwrap_or_default();
        let by_name: HashMap<String, PluginSettings> =
            configured.iter().map(|one| (one.settings.name.clone(), one.settings.clone())).collect();
        let mut started = Vec::new();
        let mut planned = HashMap::new();
        let mut unloaded = Vec::new();
        let mut records: HashMap<String, Record> =
            found.plugins.iter().map(|record| (record.name.clone(), record.clone())).collect();
        let mut had = found.had.clone();
        for Configured { settings, missing } in configured {
            let name = settings.name.clone();
            match records.remove(&name) {
                // It was unloaded before the configuration named it: that has come since.
                Some(record) if record.is_gone() => {
                    had.add_all(&record);
                    planned.insert(name, Planned { base: settings, missing, record: None });
                }
                Some(record) if record.wanted == Wanted::Unloaded => {
                    unloaded.push(record);
                    started.push(Started { name, outcome: StartOutcome::Unloaded });
                }
                // What was loaded under this name holds as a whole.
                Some(record) => {
                    let base = record.own.as_ref().map_or(settings, |own| own_settings(&name, own));
                    planned.insert(name, Planned { base, missing, record: Some(record) });
                }
                None => {
                    planned.insert(name, Planned { base: settings, missing, record: None });
                }
            }
        }
        for (name, record) in records {
            match &record.own {
                Some(_) if record.is_gone() => unloaded.push(record),
                Some(own) => {
                    let base = own_settings(&name, own);
                    planned.insert(name, Planned { base, missing: None, record: Some(record) });
                }
                None => started.push(Started { name, outcome: StartOutcome::Forgotten }),
            }
        }
        let order = {
            let mut state = self.state();
            let placed: BTreeSet<&str> = planned
                .iter()
                .filter(|(_, plan)| plan.record.as_ref().is_some_and(|record| record.own.is_some()))
                .map(|(name, _)| name.as_str())
                .collect();
            state.configured = by_name;
            state.unloaded = unloaded;
            state.had = had;
            let order = order(&state.order, &found.order, &placed);
            state.order.clone_from(&order);
            order
        };
        // In their order; those that nobody ordered come last.
        let mut names: Vec<String> = planned.keys().cloned().collect();
        let rank = |name: &String| order.iter().position(|known| known == name).unwrap_or(usize::MAX);
        names.sort_by_key(|name| (rank(name), name.clone()));
        for name in names {
            if let Some(plan) = planned.remove(&name) {
                let outcome = self.bring(plan).await;
                started.push(Started { name, outcome });
            }
        }
        if let Err(error) = self.sweep(found).await {
            tracing::warn!(%error, "what is not used any more stays on the disk");
        }
        started
    }

    /// Removes components that nobody names any more: uploads that nobody used are gone with the process that had them,
    /// and what is forgotten needs none. The list that names none of them is on the disk before.
    async fn sweep(&self, found: Manifest) -> Result<(), LoadError> {
        let draft = self.state().draft();
        let swept = self.loader.blocking(move |loader| {
            let Some(store) = &loader.store else { return Ok(()) };
            let manifest = draft.manifest();
            if manifest != found {
                store.write(&manifest).map_err(|error| LoadError::new(Stage::Store, error.to_string()))?;
            }
            store.prune(draft.records());
            Ok(())
        });
        swept.await
    }

    async fn bring(&self, plan: Planned) -> StartOutcome {
        let Planned { base, missing, record } = plan;
        let kept = record.is_some();
        let name = base.name.clone();
        let mut record = record.unwrap_or_else(|| Record::new(&name, None));
        let settings = record.settings(&base);
        let from_file = matches!(settings.source, Source::File(_));
        if record.wanted == Wanted::Disabled {
            self.insert(Entry { base, record, kept, state: EntryState::Disabled });
            self.loader.metrics.disabled(&name);
            return StartOutcome::Disabled;
        }
        let is_native = self.state().members.iter().any(|member| member.name() == name);
        let outcome = match missing.filter(|_| from_file) {
            Some(error) => Err(error),
            None if is_native => Err(verify(format!("{name} is the name of a member that is built in"))),
            None => self.loader.load(&settings).await,
        };
        let outcome = outcome.and_then(|loaded| self.check_methods(&loaded.plugin).map(|()| loaded));
        match outcome {
            Ok(loaded) => {
                self.note_version(&mut record, &settings, &loaded).await;
                let info = self.go_live(base, record, kept, loaded);
                StartOutcome::Live { info: Box::new(info), kept }
            }
            Err(error) => {
                // What was acknowledged and is not there: the chain is another one, required or not.
                let closes = base.required || kept;
                let state = EntryState::Failed { why: error.to_string(), closes };
                self.insert(Entry { base, record, kept, state });
                self.loader.metrics.failed(&name);
                StartOutcome::Failed { error, closes }
            }
        }
    }

    /// The component of the configuration is a version like any other: there is a way back to it.
    async fn note_version(&self, record: &mut Record, settings: &PluginSettings, loaded: &Loaded) {
        let digest = loaded.artifact.digest();
        if record.current().is_some_and(|version| version.digest == digest) {
            return;
        }
        let current = record.current();
        let (config, capabilities) =
            current.map(|version| (version.config.clone(), version.capabilities.clone())).unwrap_or_default();
        let mut next = self.next(loaded, settings, How::Configuration, "system");
        (next.config, next.capabilities) = (config, capabilities);
        record.push(next, now(), self.loader.settings.versions);
        let artifact = loaded.artifact.clone();
        let stored = self.loader.blocking(move |loader| match &loader.store {
            Some(store) => {
                store.put(&artifact).map_err(|error| LoadError::new(Stage::Store, error.to_string()))
            }
            None => Ok(()),
        });
        if let Err(error) = stored.await {
            tracing::warn!(plugin = settings.name, %error, "its component cannot be kept: there is no way back to it");
        }
    }

    fn go_live(&self, base: PluginSettings, record: Record, kept: bool, loaded: Loaded) -> PluginInfo {
        let (name, digest) = (base.name.clone(), loaded.plugin.digest.clone());
        let facts = Facts::of(&loaded);
        let member = loaded.plugin.member().into();
        let generation = self.next_generation();
        self.watch_on(&loaded.plugin, &record);
        let live = EntryState::Live(Box::new(Live {
            plugin: loaded.plugin,
            member,
            generation,
            facts,
            shadow: None,
        }));
        self.loader.metrics.live(&name, loaded.version.as_deref(), &digest);
        self.insert(Entry { base, record, kept, state: live })
    }

    /// Puts a plugin where the order has it.
    fn insert(&self, entry: Entry) -> PluginInfo {
        let mut state = self.state();
        let info = state.info(&entry);
        let place = self.place(&state, &info.name, &Position::Configured);
        let index = place.unwrap_or(state.members.len());
        state.members.insert(index, Member::Plugin(Box::new(entry)));
        self.publish(self.next_generation(), &state, mqgate_identity::hooks::Reauthorize::None);
        info
    }
}

/// The settings of a plugin that the configuration does not name; the rest is in its versions.
fn own_settings(name: &str, own: &Own) -> PluginSettings {
    let digest = String::new();
    PluginSettings {
        grants: own.grants.clone(),
        limits: own.limits,
        isolation: own.isolation,
        required: own.required,
        ..PluginSettings::new(name, Source::Stored(digest))
    }
}
