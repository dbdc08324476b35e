//! The running set of plugins: load, swap, unload, list. Every change is one new snapshot of the chains.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use mqgate_identity::hooks::{ChainMember, HookSet, Reauthorize};
use mqgate_identity::registry::Storage;
use tokio::runtime::Runtime;

use crate::error::{HostError, LoadError, Stage, UnloadError};
use crate::hook::Hook;
use crate::loading::{Loaded, Loader};
use crate::metrics::Metrics;
use crate::plugin::LivePlugin;
use crate::settings::{HostSettings, PluginSettings, Position, Source};

/// Threads for what blocks: storage, compilation.
const BLOCKING_THREADS: usize = 8;

/// The plugins of a broker, and the chains that they and the native members form.
pub struct PluginHost {
    loader: Arc<Loader>,
    /// In the order in which they are asked. Locked for moments only, never across an await.
    members: Mutex<Vec<Member>>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
    hooks: Arc<ArcSwap<HookSet>>,
    /// `Some` until the host is dropped.
    runtime: Option<Runtime>,
}

enum Member {
    Native(Arc<ChainMember>),
    Plugin(Box<Entry>),
}

struct Entry {
    settings: PluginSettings,
    state: EntryState,
}

enum EntryState {
    Live(Live),
    Failed(String),
}

struct Live {
    plugin: Arc<LivePlugin>,
    member: Arc<ChainMember>,
    info: PluginInfo,
}

/// What is known of a plugin, for operators.
#[derive(Debug, Clone)]
pub struct PluginInfo {
    pub name: String,
    /// `sha256:…`; empty while the plugin was never loaded.
    pub digest: String,
    /// From the component's custom section `version`, if it has one.
    pub version: Option<String>,
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
    /// `natives` stand in the chains as they are given; plugins find their place among them by [`Position`].
    pub fn new(
        settings: HostSettings,
        natives: Vec<ChainMember>,
        storage: Arc<dyn Storage>,
        metrics: &prometheus::Registry,
    ) -> Result<Self, HostError> {
        let mut names = HashSet::new();
        if let Some(twice) = natives.iter().find(|native| !names.insert(Arc::clone(&native.name))) {
            return Err(HostError::DuplicateName(twice.name.to_string()));
        }
        let number = AtomicU64::new(1);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(settings.worker_threads.max(1))
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name_fn(move || format!("plugin-worker-{}", number.fetch_add(1, Ordering::Relaxed)))
            .enable_time()
            .build()?;
        let metrics = Arc::new(Metrics::new(metrics)?);
        let loader = Loader::new(settings, runtime.handle().clone(), storage, metrics)?;
        let members = natives.into_iter().map(|native| Member::Native(Arc::new(native))).collect();
        let host = Self {
            loader: Arc::new(loader),
            members: Mutex::new(members),
            changing: tokio::sync::Mutex::new(()),
            hooks: Arc::new(ArcSwap::from_pointee(HookSet::default())),
            runtime: Some(runtime),
        };
        host.publish(0, &host.members(), Reauthorize::None);
        Ok(host)
    }

    /// The chains; consumers load a snapshot per connection.
    pub fn hooks(&self) -> Arc<ArcSwap<HookSet>> {
        Arc::clone(&self.hooks)
    }

    /// Checks a component, runs its trial and makes it live. On error nothing has changed.
    pub async fn load(&self, settings: PluginSettings, position: Position) -> Result<PluginInfo, LoadError> {
        let _changing = self.changing.lock().await;
        let name = settings.name.clone();
        let index = {
            let members = self.members();
            match members.iter().find(|member| member.name() == name) {
                Some(Member::Native(_)) => {
                    return Err(verify(format!("{name} is the name of a member that is built in")));
                }
                Some(Member::Plugin(entry)) if matches!(entry.state, EntryState::Live(_)) => {
                    return Err(verify(format!("{name} is live already; swap it, or unload it first")));
                }
                Some(Member::Plugin(_)) | None => self.place(&members, &name, &position)?,
            }
        };
        match self.loader.load(&settings).await {
            Ok(loaded) => Ok(self.go_live(index, settings, loaded, Reauthorize::None)),
            Err(error) => {
                if !self.members().iter().any(|member| member.name() == name) {
                    self.loader.metrics.forget(&name);
                }
                Err(error)
            }
        }
    }

    /// Replaces a plugin's component, and its configuration if one is given, in its place. On error the old one
    /// goes on as if nothing had been asked.
    pub async fn swap(
        &self,
        name: &str,
        component: Arc<[u8]>,
        config: Option<serde_json::Value>,
        reauthorize: Reauthorize,
    ) -> Result<PluginInfo, LoadError> {
        let _changing = self.changing.lock().await;
        let (index, mut settings) = {
            let members = self.members();
            let found = members.iter().enumerate().find_map(|(index, member)| match member {
                Member::Plugin(entry) if entry.settings.name == name => Some((index, entry.settings.clone())),
                Member::Plugin(_) | Member::Native(_) => None,
            });
            found.ok_or_else(|| verify(format!("no plugin is called {name:?}")))?
        };
        settings.source = Source::Bytes(component);
        if let Some(config) = config {
            settings.config = config;
        }
        match self.loader.load(&settings).await {
            Ok(loaded) => {
                self.loader.metrics.swapped(name);
                Ok(self.go_live(index, settings, loaded, reauthorize))
            }
            Err(error) => {
                self.loader.metrics.swap_refused(name);
                Err(error)
            }
        }
    }

    /// Gives a plugin other settings; its component stays the one that runs, whatever the file holds by now. Answers
    /// the settings before. On error it goes on with those.
    pub async fn reconfigure(
        &self,
        name: &str,
        config: serde_json::Value,
        reauthorize: Reauthorize,
    ) -> Result<serde_json::Value, LoadError> {
        let _changing = self.changing.lock().await;
        let (index, mut settings, digest) = {
            let members = self.members();
            let found = members.iter().enumerate().find_map(|(index, member)| match member {
                Member::Plugin(entry) if entry.settings.name == name => {
                    Some((index, entry.settings.clone(), entry.info().digest))
                }
                Member::Plugin(_) | Member::Native(_) => None,
            });
            found.ok_or_else(|| verify(format!("no plugin is called {name:?}")))?
        };
        let before = std::mem::replace(&mut settings.config, config);
        let loaded = self.loader.load(&settings).await?;
        if !digest.is_empty() && *loaded.plugin.digest != *digest {
            return Err(verify(format!(
                "the file of {name} holds another component than the one that runs: `mqgate plugin swap` takes it \
                 over, or put the former file back"
            )));
        }
        self.go_live(index, settings, loaded, reauthorize);
        Ok(before)
    }

    /// Replaces a member that is built in, in its place; whether there was one of this name.
    pub async fn replace_native(&self, native: ChainMember) -> bool {
        let _changing = self.changing.lock().await;
        let mut members = self.members();
        let found = members.iter_mut().find_map(|member| match member {
            Member::Native(known) if known.name == native.name => Some(known),
            Member::Native(_) | Member::Plugin(_) => None,
        });
        let Some(known) = found else { return false };
        *known = Arc::new(native);
        self.publish(self.next_generation(), &members, Reauthorize::None);
        true
    }

    /// Takes a plugin out of the chains. One that is required holds the listeners shut while it is not live, and
    /// without it nobody would ask for it any more: it goes only by `force`.
    pub async fn unload(&self, name: &str, force: bool) -> Result<(), UnloadError> {
        let _changing = self.changing.lock().await;
        let mut members = self.members();
        let found = members.iter().enumerate().find_map(|(index, member)| match member {
            Member::Plugin(entry) if entry.settings.name == name => Some((index, entry.settings.required)),
            Member::Plugin(_) | Member::Native(_) => None,
        });
        let (index, required) = found.ok_or(UnloadError::NoSuchPlugin)?;
        if required && !force {
            return Err(UnloadError::Required);
        }
        let gone = members.remove(index);
        gone.retire();
        self.publish(self.next_generation(), &members, Reauthorize::None);
        self.loader.metrics.forget(name);
        Ok(())
    }

    /// The settings of a plugin that is wanted and not live, for whoever loads it again.
    pub fn settings_of_failed(&self, name: &str) -> Option<PluginSettings> {
        self.members().iter().find_map(|member| match member {
            Member::Plugin(entry)
                if entry.settings.name == name && matches!(entry.state, EntryState::Failed(_)) =>
            {
                Some(entry.settings.clone())
            }
            Member::Plugin(_) | Member::Native(_) => None,
        })
    }

    /// Notes that a wanted plugin did not load: while it is required, listeners stay shut. It can be swapped or
    /// loaded later. Has no effect on a live plugin.
    pub async fn mark_failed(&self, settings: PluginSettings, position: Position, why: &LoadError) {
        let _changing = self.changing.lock().await;
        let mut members = self.members();
        let name = settings.name.clone();
        let known = members.iter().position(|member| member.name() == name);
        let index = match known.map(|index| (index, &members[index])) {
            Some((index, Member::Plugin(entry))) if matches!(entry.state, EntryState::Failed(_)) => {
                members.remove(index);
                index
            }
            Some(_) => return,
            None => self.place(&members, &name, &position).unwrap_or(members.len()),
        };
        let state = EntryState::Failed(why.to_string());
        members.insert(index, Member::Plugin(Box::new(Entry { settings, state })));
        self.loader.metrics.failed(&name);
        self.publish(self.next_generation(), &members, Reauthorize::None);
    }

    /// Every plugin, in the order in which they are asked.
    pub fn list(&self) -> Vec<PluginInfo> {
        let members = self.members();
        members
            .iter()
            .filter_map(|member| match member {
                Member::Native(_) => None,
                Member::Plugin(entry) => Some(entry.info()),
            })
            .collect()
    }

    /// What a component is, without running it.
    pub async fn inspect(&self, component: Arc<[u8]>) -> Result<Description, LoadError> {
        let (artifact, found) = self.loader.describe(component).await?;
        Ok(Description {
            digest: artifact.digest(),
            size: artifact.bytes.len() as u64,
            version: artifact.version(),
            hooks: names(&found.hooks),
            imports: found.imports,
            other_exports: found.other_exports,
        })
    }

    /// Instances of plugins that are alive.
    pub fn instances(&self) -> usize {
        self.loader.alive.load(Ordering::SeqCst)
    }

    fn go_live(
        &self,
        index: usize,
        settings: PluginSettings,
        loaded: Loaded,
        reauthorize: Reauthorize,
    ) -> PluginInfo {
        let Loaded { plugin, inspection, size, version, cold_start } = loaded;
        let generation = self.next_generation();
        let is_single = inspection.hooks == [Hook::Auditor];
        let info = PluginInfo {
            name: settings.name.clone(),
            digest: plugin.digest.to_string(),
            version,
            size,
            hooks: names(&inspection.hooks),
            imports: inspection.imports,
            generation,
            state: PluginState::Live,
            isolation: if is_single { "single" } else { "per-call" },
            cold_start,
            required: settings.required,
        };
        let member = Arc::new(plugin.member());
        let entry = Entry { settings, state: EntryState::Live(Live { plugin, member, info: info.clone() }) };
        let mut members = self.members();
        // Whatever stood under this name, live or failed, makes room.
        if members.get(index).is_some_and(|member| member.name() == info.name) {
            members.remove(index).retire();
        }
        let index = index.min(members.len());
        members.insert(index, Member::Plugin(Box::new(entry)));
        self.loader.metrics.live(&info.name, info.version.as_deref(), &info.digest);
        self.publish(generation, &members, reauthorize);
        info
    }

    /// The index at which a member of this name stands or would stand.
    fn place(&self, members: &[Member], name: &str, position: &Position) -> Result<usize, LoadError> {
        let of = |wanted: &str| {
            members
                .iter()
                .position(|member| member.name() == wanted)
                .ok_or_else(|| verify(format!("no member of the chains is called {wanted:?}")))
        };
        if let Ok(known) = of(name) {
            return Ok(known);
        }
        match position {
            Position::First => Ok(0),
            Position::Last => Ok(members.len()),
            Position::Before(other) => of(other),
            Position::After(other) => of(other).map(|index| index + 1),
            Position::Configured => {
                let order = &self.loader.settings.order;
                let rank = |name: &str| order.iter().position(|known| known == name).unwrap_or(order.len());
                let own = rank(name);
                Ok(members.iter().position(|member| rank(member.name()) > own).unwrap_or(members.len()))
            }
        }
    }

    fn next_generation(&self) -> u64 {
        self.hooks.load().generation + 1
    }

    fn publish(&self, generation: u64, members: &[Member], reauthorize: Reauthorize) {
        let mut set = HookSet { generation, reauthorize, ..HookSet::default() };
        for member in members {
            match member {
                Member::Native(native) => set.members.push(Arc::clone(native)),
                Member::Plugin(entry) => match &entry.state {
                    EntryState::Live(live) => set.members.push(Arc::clone(&live.member)),
                    EntryState::Failed(why) if entry.settings.required => {
                        set.missing.push((entry.settings.name.as_str().into(), why.clone()));
                    }
                    EntryState::Failed(_) => {}
                },
            }
        }
        self.hooks.store(Arc::new(set));
    }

    fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PluginHost {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Dropping a runtime inside another one's task would panic.
            runtime.shutdown_background();
        }
    }
}

impl Member {
    fn name(&self) -> &str {
        match self {
            Self::Native(native) => &native.name,
            Self::Plugin(entry) => &entry.settings.name,
        }
    }

    /// Its own series make room for those of the version that follows.
    fn retire(&self) {
        if let Self::Plugin(entry) = self
            && let EntryState::Live(live) = &entry.state
        {
            live.plugin.runnable.services.custom_metrics.retire();
        }
    }
}

impl Entry {
    fn info(&self) -> PluginInfo {
        match &self.state {
            EntryState::Live(live) => live.info.clone(),
            EntryState::Failed(why) => PluginInfo {
                name: self.settings.name.clone(),
                digest: String::new(),
                version: None,
                size: 0,
                hooks: Vec::new(),
                imports: Vec::new(),
                generation: 0,
                state: PluginState::Failed(why.clone()),
                isolation: "per-call",
                cold_start: Duration::ZERO,
                required: self.settings.required,
            },
        }
    }
}

fn names(hooks: &[Hook]) -> Vec<String> {
    hooks.iter().map(|hook| hook.as_str().to_owned()).collect()
}

fn verify(message: impl Into<String>) -> LoadError {
    LoadError::new(Stage::Verify, message)
}
