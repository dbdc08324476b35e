//! Runs one component apart from any broker, in the real host with the real limits: each call is that of a case, and what
//! the plugin asks is answered from the case.
//!
//! One call at a time: the world is that of one case.

mod storage;
mod world;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mqgate_identity::hooks::{
    Authenticator as _, Authorizer as _, Connection, EnhancedAuthenticator as _, Exchange, Registrar as _,
};
use tokio::runtime::Runtime;

use self::world::World;
use crate::capability::http::AllowedDestination;
use crate::case::{Answer, Case, LimitsOfCase};
use crate::error::{HostError, LoadError, Stage};
use crate::hook::Hook;
use crate::host::{Description, describe};
use crate::inspect::needs;
use crate::instance::Purpose;
use crate::loading::{Loader, Made};
use crate::metrics::Metrics;
use crate::plugin::LivePlugin;
use crate::settings::{
    Capability, Grants, HostSettings, HttpSettings, Isolation, PluginSettings, Provenance, Source,
};
use crate::tap::{Listener, Tapped};

/// Instances at once: one that runs, those that wait for more calls, and one that is tried.
const INSTANCES: u32 = 24;
/// Settings with which the component is kept running; more than that, and all begin again.
const MOST_KEPT: usize = 16;
/// Threads that run it.
const WORKERS: usize = 2;

/// Why a case could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("the component does not export {0}, which the case asks; it exports {1}")]
    NoHook(&'static str, String),
    #[error("the call was not made: {0}")]
    NotCalled(String),
}

/// On which instance a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Instance {
    /// One of its own.
    Fresh,
    /// One that has had calls of other cases with the same settings, if there is one.
    Reused,
}

impl Instance {
    pub const ALL: [Self; 2] = [Self::Fresh, Self::Reused];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Reused => "reused",
        }
    }
}

/// What one call came to.
#[derive(Debug, Clone)]
pub struct Ran {
    pub answer: Answer,
    pub took: Duration,
    /// Computing time, host functions and, on a fresh instance, its start included.
    pub cpu: Duration,
    /// Bytes of linear memory at the end.
    pub memory: usize,
    pub fresh: bool,
    /// What it asked the host, and was told.
    pub calls: Vec<String>,
    /// What it asked and the recording does not tell: the answer decides nothing.
    pub unknown: Vec<String>,
}

/// A component that is asked cases.
pub struct Offline {
    world: Arc<World>,
    loader: Arc<Loader>,
    made: Made,
    described: Description,
    name: String,
    /// What holds where a case says nothing, and what holds whatever it says.
    defaults: LimitsOfCase,
    forced: LimitsOfCase,
    kept: HashMap<(String, Instance), Arc<LivePlugin>>,
    last: Last,
    runtime: Option<Runtime>,
}

/// Takes the call that was made last.
#[derive(Clone, Default)]
struct Last(Arc<Mutex<Option<Tapped>>>);

impl Listener for Last {
    fn wants(&self, _hook: Hook, _on: &Connection) -> bool {
        true
    }

    fn take(&self, call: Tapped) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
    }
}

impl Offline {
    /// Compiles a component, and runs nothing of it. Of `settings` count those about compiling, memory and trust.
    pub fn new(name: &str, component: Source, settings: HostSettings) -> Result<Self, OfflineError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .enable_all()
            .build()
            .map_err(HostError::from)?;
        let metrics = Metrics::new(&prometheus::Registry::new()).map_err(HostError::from)?;
        let metrics = Arc::new(metrics);
        let world = Arc::new(World::default());
        let settings = HostSettings { instances: INSTANCES, store_dir: None, ..settings };
        let loader = Loader::new(
            settings,
            None,
            runtime.handle().clone(),
            Arc::clone(&world) as _,
            metrics,
            Arc::clone(&world) as _,
        )?;
        let loader = Arc::new(loader);
        let made = runtime.block_on(loader.examine(component))?;
        Ok(Self {
            described: describe(&made.artifact, made.inspection.clone()),
            world,
            loader,
            made,
            name: name.to_owned(),
            defaults: LimitsOfCase::default(),
            forced: LimitsOfCase::default(),
            kept: HashMap::new(),
            last: Last::default(),
            runtime: Some(runtime),
        })
    }

    /// Limits for cases that do not say their own, and limits that hold whatever they say.
    #[must_use]
    pub fn with_limits(mut self, defaults: LimitsOfCase, forced: LimitsOfCase) -> Self {
        (self.defaults, self.forced) = (defaults, forced);
        self
    }

    /// What the component is.
    pub fn description(&self) -> &Description {
        &self.described
    }

    /// Whether a broker would load it so: everything up to the moment at which it would go live.
    pub fn check(&self, settings: &PluginSettings) -> Result<Duration, LoadError> {
        let signer = self.loader.verify(settings, &self.made.artifact)?;
        let brought = self.loader.bring_up(settings, &self.made, signer, Purpose::Calls);
        Ok(self.runtime().block_on(brought)?.cold_start)
    }

    /// What a recording left out and the plugin would be shown: then its answer decides nothing.
    pub fn hidden(&self, case: &Case) -> Vec<&'static str> {
        case.hidden(&self.granted(case))
    }

    /// Asks one case.
    pub fn run(&mut self, case: &Case, instance: Instance) -> Result<Ran, OfflineError> {
        let hook = case.asked.hook;
        if !self.made.inspection.hooks.contains(&hook) {
            return Err(OfflineError::NoHook(hook.as_str(), self.described.hooks.join(", ")));
        }
        let plugin = self.plugin(case, instance)?;
        self.world.begin(case);
        self.last.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let failure = self.runtime().block_on(ask(&plugin, case));
        let tapped = self.last.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Tapped { told, took, heard, .. }) = tapped else {
            return Err(OfflineError::NotCalled(failure.unwrap_or_default()));
        };
        Ok(Ran {
            answer: Answer::of(&told),
            took,
            cpu: heard.cpu,
            memory: heard.memory,
            fresh: heard.fresh,
            calls: heard.calls.iter().map(ToString::to_string).collect(),
            unknown: self.world.unknown(),
        })
    }

    /// As [`Self::run`]; with settings that `init` refuses there is no answer to any call, as in a broker.
    pub fn judge(&mut self, case: &Case, instance: Instance) -> Result<Ran, OfflineError> {
        match self.run(case, instance) {
            Err(OfflineError::Load(error)) if error.stage == Stage::Trial => Ok(Ran {
                answer: Answer::unavailable(error.message),
                took: Duration::ZERO,
                cpu: Duration::ZERO,
                memory: 0,
                fresh: true,
                calls: Vec::new(),
                unknown: Vec::new(),
            }),
            outcome => outcome,
        }
    }

    fn granted(&self, case: &Case) -> BTreeSet<Capability> {
        case.plugin.grant.clone().unwrap_or_else(|| needs(&self.made.inspection))
    }

    fn settings(&self, case: &Case, instance: Instance) -> PluginSettings {
        let capabilities = self.granted(case);
        let mut limits = self.forced.or(case.plugin.limits).or(self.defaults).over(&capabilities);
        // Each call is made, whatever became of those before.
        limits.backoff = Duration::ZERO;
        limits.longest_cached = Duration::ZERO;
        limits.breaker_subjects = 0;
        limits.concurrency = 1;
        let allow = match &case.plugin.http_allow {
            Some(allow) => allow.clone(),
            None => case.host.destinations(),
        };
        let mut allow: Vec<AllowedDestination> = allow.iter().filter_map(|text| text.parse().ok()).collect();
        if allow.is_empty() && capabilities.contains(&Capability::Http) {
            // Nobody answers there, either.
            allow.extend("https://*:*".parse());
        }
        let grants =
            Grants { http: HttpSettings { allow, ..HttpSettings::default() }, ..Grants::of(capabilities) };
        let bytes = Source::Bytes(Arc::clone(&self.made.artifact.bytes));
        PluginSettings {
            config: case.plugin.config(),
            grants,
            limits,
            isolation: match instance {
                Instance::Fresh => Isolation::PerCall,
                Instance::Reused => Isolation::Single,
            },
            provenance: Provenance::Bundled,
            ..PluginSettings::new(self.name.clone(), bytes)
        }
    }

    /// The component with the settings of a case, brought up once.
    fn plugin(&mut self, case: &Case, instance: Instance) -> Result<Arc<LivePlugin>, OfflineError> {
        let settings = self.settings(case, instance);
        let key = serde_json::to_string(&(&settings.config, &settings.grants, &settings.limits));
        let key = (key.unwrap_or_default(), instance);
        if let Some(known) = self.kept.get(&key) {
            return Ok(Arc::clone(known));
        }
        if self.kept.len() >= MOST_KEPT {
            self.kept.clear();
        }
        // `init` may look at the world, too.
        self.world.begin(case);
        let brought = self.loader.bring_up(&settings, &self.made, None, Purpose::Calls);
        let plugin = self.runtime().block_on(brought)?.plugin;
        plugin.set_listener(Some(Box::new(self.last.clone())));
        self.kept.insert(key, Arc::clone(&plugin));
        Ok(plugin)
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is there until this value is dropped")
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Makes the call; the answer is heard where it is given. Why there was none.
async fn ask(plugin: &Arc<LivePlugin>, case: &Case) -> Option<String> {
    let asked = &case.asked;
    let failed = match (asked.hook, &asked.exchange, &asked.who) {
        (Hook::Authenticator, _, _) => plugin.authenticate(&asked.on).await.err(),
        (Hook::Registrar, _, claimed) => plugin.register(&asked.on, claimed.as_ref()).await.err(),
        (Hook::Authorizer, _, Some(who)) => plugin.authorize(&asked.on, who).await.err(),
        (Hook::EnhancedAuthenticator, Some(exchange), _) => {
            let step = Exchange {
                method: &exchange.method,
                round: exchange.round,
                state: &exchange.state.0,
                data: exchange.data.as_ref().map(|data| data.0.as_slice()),
                again: exchange.again,
            };
            plugin.step(&asked.on, step).await.err()
        }
        // A case that was read has what its hook needs.
        (Hook::Authorizer, _, None) | (Hook::EnhancedAuthenticator, None, _) | (Hook::Auditor, ..) => {
            return Some(String::from("the case is incomplete"));
        }
    };
    failed.map(|failure| failure.detail)
}
