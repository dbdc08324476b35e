//! The running set of plugins: who there is, in which order, and the snapshot of the chains that all take.
//!
//! Changes are made by `changes`, one at a time; what was decided before a restart is brought back by `start`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use mqgate_identity::hooks::{ChainMember, HookSet, Reauthorize};
use mqgate_identity::registry::Storage;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::artifact::Artifact;
use crate::capability::http::AllowedDestination;
use crate::capability::now;
use crate::error::{HostError, LoadError, Stage};
use crate::inspect::{Inspection, needs, unserved};
use crate::loading::{Loader, Made};
use crate::member::{EntryState, Member, PluginInfo, State, methods, names, versions};
use crate::metrics::Metrics;
use crate::outside::TheWorld;
use crate::plugin::{Alarm, LivePlugin};
use crate::record::Version;
use crate::recording::Recorder;
use crate::scheduling;
use crate::settings::{Capability, HostSettings, Position, Source};
use crate::store::{Manifest, Store};
use crate::trust::{Signature, SignatureError, Signer};

/// Threads for what blocks: storage, compilation.
const BLOCKING_THREADS: usize = 8;
/// Versions that wait to be taken back; a version for which there is no room tells it again with its next call.
const ALARMS: usize = 16;

/// The plugins of a broker, and the chains that they and the native members form.
pub struct PluginHost {
    pub(crate) loader: Arc<Loader>,
    /// Locked for moments only, never across an await.
    state: Mutex<State>,
    /// What the disk held when the host began; taken by [`Self::start`].
    found: Mutex<Option<Manifest>>,
    /// One change at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    hooks: Arc<ArcSwap<HookSet>>,
    /// Versions that are to be taken back.
    pub(crate) alarms: mpsc::Sender<Alarm>,
    alarmed: Mutex<Option<mpsc::Receiver<Alarm>>>,
    /// By plugin.
    recordings: Mutex<HashMap<String, Arc<Recorder>>>,
    /// `Some` until the host is dropped.
    runtime: Option<Runtime>,
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
    /// What its imports need to be granted.
    pub needs: BTreeSet<Capability>,
    /// Imports that no grant serves.
    pub unserved: Vec<String>,
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
        let mut served: Vec<(&str, &str)> = Vec::new();
        for native in &natives {
            for method in methods(native) {
                if let Some((_, first)) = served.iter().find(|(known, _)| known == method) {
                    return Err(HostError::DuplicateMethod {
                        method: method.clone(),
                        first: (*first).to_owned(),
                        second: native.name.to_string(),
                    });
                }
                served.push((method, &native.name));
            }
        }
        let number = AtomicU64::new(1);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(settings.worker_threads.max(1))
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name_fn(move || format!("plugin-worker-{}", number.fetch_add(1, Ordering::Relaxed)))
            .on_thread_start(scheduling::go_first)
            .on_thread_park(scheduling::go_first_again)
            .enable_all()
            .build()?;
        let metrics = Arc::new(Metrics::new(metrics)?);
        let open = |folder: &PathBuf| Store::open(folder, settings.staged);
        let (store, found) = settings.store_dir.as_ref().map(open).transpose()?.unzip();
        let order = settings.order.clone();
        let loader =
            Loader::new(settings, store, runtime.handle().clone(), storage, metrics, Arc::new(TheWorld))?;
        let members = natives.into_iter().map(|native| Member::Native(Arc::new(native))).collect();
        let (alarms, alarmed) = mpsc::channel(ALARMS);
        let host = Self {
            loader: Arc::new(loader),
            state: Mutex::new(State { members, order, ..State::default() }),
            found: Mutex::new(found),
            changing: tokio::sync::Mutex::new(()),
            hooks: Arc::new(ArcSwap::from_pointee(HookSet::default())),
            alarms,
            alarmed: Mutex::new(Some(alarmed)),
            recordings: Mutex::default(),
            runtime: Some(runtime),
        };
        host.publish(0, &host.state(), Reauthorize::None);
        Ok(host)
    }

    /// The chains; consumers load a snapshot per connection.
    pub fn hooks(&self) -> Arc<ArcSwap<HookSet>> {
        Arc::clone(&self.hooks)
    }

    /// Every plugin, in the order in which they are asked.
    pub fn list(&self) -> Vec<PluginInfo> {
        let state = self.state();
        let entries = state.members.iter().filter_map(|member| match member {
            Member::Native(_) => None,
            Member::Plugin(entry) => Some(state.info(entry)),
        });
        entries.collect()
    }

    pub fn find(&self, name: &str) -> Option<PluginInfo> {
        let state = self.state();
        let (_, entry) = state.entry(name)?;
        Some(state.info(entry))
    }

    /// Plugins of the configuration that were taken out of the chains at runtime.
    pub fn unloaded(&self) -> Vec<String> {
        let state = self.state();
        state.unloaded.iter().filter(|record| !record.is_gone()).map(|record| record.name.clone()).collect()
    }

    /// What a plugin is granted.
    pub fn granted(&self, name: &str) -> Option<BTreeSet<Capability>> {
        let state = self.state();
        let (_, entry) = state.entry(name)?;
        Some(entry.record.settings(&entry.base).grants.capabilities)
    }

    /// Where it may send requests.
    pub fn allowed(&self, name: &str) -> Vec<AllowedDestination> {
        let state = self.state();
        let settings = state.entry(name).map(|(_, entry)| entry.record.settings(&entry.base));
        settings.map(|settings| settings.grants.http.allow).unwrap_or_default()
    }

    /// Who signed a component, by the operator's rules.
    pub fn check_signature(
        &self,
        digest: &str,
        signature: Option<&Signature>,
    ) -> Result<Option<Signer>, SignatureError> {
        self.loader.settings.trust.check(digest, signature, now())
    }

    /// The versions of a plugin, oldest first; the last one runs.
    pub fn versions(&self, name: &str) -> Option<Vec<Version>> {
        self.state().entry(name).map(|(_, entry)| versions(entry))
    }

    /// The names of the members in the order in which they are asked, whatever their state.
    pub fn order(&self) -> Vec<String> {
        self.state().members.iter().map(|member| member.name().to_owned()).collect()
    }

    /// What a component is, without running it.
    pub async fn inspect(&self, component: Source) -> Result<Description, LoadError> {
        let Made { artifact, inspection: found, .. } = self.loader.examine(component).await?;
        Ok(describe(&artifact, found))
    }

    /// Takes a component in, to be loaded later by its digest. It is compiled and looked at, and nothing of it is run.
    pub async fn stage(&self, component: Arc<[u8]>) -> Result<Description, LoadError> {
        let Made { artifact, inspection: found, .. } = self.loader.examine(Source::Bytes(component)).await?;
        let described = describe(&artifact, found);
        // No change may remove it before it is remembered.
        let _changing = self.changing.lock().await;
        let draft = self.state().draft();
        let kept = self.loader.blocking(move |loader| {
            let failed =
                |error: std::io::Error| LoadError::new(Stage::Store, format!("it cannot be kept: {error}"));
            let store = loader.store.as_ref();
            let store =
                store.ok_or_else(|| LoadError::new(Stage::Store, "this broker keeps no components"))?;
            store.put(&artifact).map_err(failed)?;
            // Nothing goes that the list on the disk names.
            store.write(&draft.manifest()).map_err(failed)?;
            store.stage(&artifact.digest());
            store.prune(draft.records());
            Ok(())
        });
        kept.await?;
        Ok(described)
    }

    /// Instances of plugins that are alive.
    pub fn instances(&self) -> usize {
        self.loader.alive.load(Ordering::SeqCst)
    }

    /// The index at which a member of this name stands or would stand.
    pub(crate) fn place(&self, state: &State, name: &str, position: &Position) -> Result<usize, LoadError> {
        let members = &state.members;
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
                let order = &state.order;
                let rank = |name: &str| order.iter().position(|known| known == name).unwrap_or(order.len());
                let own = rank(name);
                Ok(members.iter().position(|member| rank(member.name()) > own).unwrap_or(members.len()))
            }
        }
    }

    /// A client that names an Authentication Method is judged by the one member that serves it.
    pub(crate) fn check_methods(&self, plugin: &LivePlugin) -> Result<(), LoadError> {
        let state = self.state();
        let others = state.members.iter().filter(|member| member.name() != &*plugin.name);
        for member in others {
            let Some(method) = plugin.methods.iter().find(|method| member.methods().contains(method)) else {
                continue;
            };
            let (first, second) = (member.name(), &plugin.name);
            return Err(LoadError::new(
                Stage::Trial,
                format!(
                    "the authentication method {method} is served by {first} and by {second}.\n\
                     One member of the chain serves a method.\n\
                     Disable or unload one of the two."
                ),
            ));
        }
        Ok(())
    }

    pub(crate) fn next_generation(&self) -> u64 {
        self.hooks.load().generation + 1
    }

    pub(crate) fn publish(&self, generation: u64, state: &State, reauthorize: Reauthorize) {
        let mut set = HookSet { generation, reauthorize, ..HookSet::default() };
        for member in &state.members {
            match member {
                Member::Native(native) => set.members.push(Arc::clone(native)),
                Member::Plugin(entry) => match &entry.state {
                    EntryState::Live(live) => set.members.push(Arc::clone(&live.member)),
                    EntryState::Failed { why, closes: true } => {
                        set.missing.push((entry.base.name.as_str().into(), why.clone()));
                    }
                    EntryState::Failed { .. } | EntryState::Disabled => {}
                },
            }
        }
        self.hooks.store(Arc::new(set));
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn recordings(&self) -> MutexGuard<'_, HashMap<String, Arc<Recorder>>> {
        self.recordings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take_alarmed(&self) -> Option<mpsc::Receiver<Alarm>> {
        self.alarmed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What was kept by the process before this one.
    pub(crate) fn take_found(&self) -> Option<Manifest> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).take()
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

pub(crate) fn describe(artifact: &Artifact, found: Inspection) -> Description {
    Description {
        digest: artifact.digest(),
        size: artifact.bytes.len() as u64,
        version: artifact.version(),
        needs: needs(&found),
        unserved: unserved(&found),
        hooks: names(&found.hooks),
        imports: found.imports,
        other_exports: found.other_exports,
    }
}

pub(crate) fn verify(message: impl Into<String>) -> LoadError {
    LoadError::new(Stage::Verify, message)
}
