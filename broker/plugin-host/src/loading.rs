//! From bytes to a plugin that could go live: verify, inspect, compile, link, trial. Touches nothing that runs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use mqgate_identity::hooks::{FailureKind, HookFailure};
use mqgate_identity::registry::Storage;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::{Component, Linker};

use crate::abi;
use crate::artifact::Artifact;
use crate::bindings::exports::mqgate::plugin::lifecycle;
use crate::cache::{CompileCache, deserialize};
use crate::capability::http::HttpClient;
use crate::capability::log::{LogRate, one_line};
use crate::capability::{CustomMetrics, Services, Version, now};
use crate::compile::{self, ByChild, COMPILERS, Compile, InProcess};
use crate::dialogue;
use crate::engine::PluginEngine;
use crate::error::{HostError, LoadError, Stage};
use crate::hook_exports::HookExports;
use crate::inspect::{Inspection, check_grants, inspect};
use crate::instance::{Contexts, Purpose, Runnable, describe_init_error, shorten};
use crate::metrics::{Metrics, PluginMetrics};
use crate::outside::Outside;
use crate::plugin::{AbortOnDrop, LivePlugin};
use crate::settings::{
    Capability, HostSettings, Isolation, MOST_AUTH_STEPS, MOST_HTTP_BYTES, MOST_HTTP_CONNECTIONS,
    PluginSettings, Provenance, Source,
};
use crate::store::Store;
use crate::trust::Signer;

const MAX_NAME: usize = 64;
const MAX_CONFIG_BYTES: usize = 1 << 20;
/// Smallest memory limit that makes sense: one page.
const MIN_MEMORY: usize = 64 << 10;
/// Of any limit of time.
const LEAST_TIME: Duration = Duration::from_millis(1);
/// Fresh instances of which the fastest tells what one costs.
const COLD_STARTS: usize = 3;

/// Everything that turning bytes into plugins needs, and nothing about which plugins there are.
pub(crate) struct Loader {
    pub(crate) engine: Arc<PluginEngine>,
    pub(crate) cache: Option<CompileCache>,
    compiler: Box<dyn Compile>,
    /// Components that are compiled at the same time.
    compilers: Arc<Semaphore>,
    pub(crate) store: Option<Store>,
    pub(crate) runtime: Handle,
    pub(crate) instances: Arc<Semaphore>,
    pub(crate) alive: Arc<AtomicUsize>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) metrics: Arc<Metrics>,
    /// What shadows count, apart from the plugins whose names they have.
    shadow_metrics: Arc<Metrics>,
    pub(crate) settings: HostSettings,
    outside: Arc<dyn Outside>,
}

/// A component as machine code, looked at.
pub(crate) struct Made {
    pub(crate) artifact: Artifact,
    component: Component,
    pub(crate) inspection: Inspection,
}

/// A plugin that passed its trial.
pub(crate) struct Loaded {
    pub(crate) plugin: Arc<LivePlugin>,
    pub(crate) inspection: Inspection,
    pub(crate) size: u64,
    pub(crate) version: Option<String>,
    pub(crate) cold_start: Duration,
    pub(crate) isolation: Isolation,
    pub(crate) signer: Option<Signer>,
    pub(crate) artifact: Artifact,
}

impl Loader {
    pub(crate) fn new(
        settings: HostSettings,
        store: Option<Store>,
        runtime: Handle,
        storage: Arc<dyn Storage>,
        metrics: Arc<Metrics>,
        outside: Arc<dyn Outside>,
    ) -> Result<Self, HostError> {
        let engine = Arc::new(PluginEngine::new(&settings)?);
        let open = |folder: &Path| CompileCache::open(folder, engine.engine());
        let cache = settings.cache_dir.as_deref().map(open).transpose()?;
        let compiler: Box<dyn Compile> = match settings.compiler.clone() {
            None => Box::new(InProcess(engine.engine().clone())),
            Some(program) => {
                Box::new(ByChild { program, limits: settings.compile, reservation: engine.reservation() })
            }
        };
        let instances = Arc::new(Semaphore::new(settings.instances as usize));
        let shadow_metrics = Arc::new(Metrics::new(&prometheus::Registry::new())?);
        let alive = Arc::default();
        Ok(Self {
            engine,
            cache,
            compiler,
            compilers: Arc::new(Semaphore::new(COMPILERS)),
            store,
            runtime,
            instances,
            alive,
            storage,
            metrics,
            shadow_metrics,
            settings,
            outside,
        })
    }

    pub(crate) async fn load(self: &Arc<Self>, settings: &PluginSettings) -> Result<Loaded, LoadError> {
        self.load_for(settings, Purpose::Calls).await
    }

    /// As a shadow, or for calls.
    pub(crate) async fn load_for(
        self: &Arc<Self>,
        settings: &PluginSettings,
        purpose: Purpose,
    ) -> Result<Loaded, LoadError> {
        self.check_settings(settings)?;
        let (source, asked) = (settings.source.clone(), settings.clone());
        let verify = move |loader: &Self, artifact: &Artifact| loader.verify(&asked, artifact);
        let (made, signer) = self.make(source, verify, Some(settings.name.clone())).await?;
        self.bring_up(settings, &made, signer, purpose).await
    }

    /// Reads, verifies, compiles and inspects, and runs nothing. What is compiled already takes one way to the thread that blocks.
    async fn make<T: Send + 'static>(
        self: &Arc<Self>,
        source: Source,
        verify: impl FnOnce(&Self, &Artifact) -> Result<T, LoadError> + Send + 'static,
        plugin: Option<String>,
    ) -> Result<(Made, T), LoadError> {
        let (artifact, verified, kept) = self
            .blocking(move |loader| {
                let artifact = Artifact::read_from(&source, loader.store.as_ref())?;
                let verified = verify(loader, &artifact)?;
                let kept = loader.compiled(&artifact);
                Ok((artifact, verified, kept))
            })
            .await?;
        let component = match kept {
            Some(kept) => kept,
            None => self.compile(artifact.clone(), plugin).await?,
        };
        let inspection = inspect(self.engine.engine(), &component, &self.settings.broker_version)?;
        Ok((Made { artifact, component, inspection }, verified))
    }

    /// A component as it is, whoever made it.
    pub(crate) async fn examine(self: &Arc<Self>, source: Source) -> Result<Made, LoadError> {
        let (made, ()) = self.make(source, |_, _| Ok(()), None).await?;
        Ok(made)
    }

    /// From machine code to a plugin that could go live.
    pub(crate) async fn bring_up(
        self: &Arc<Self>,
        settings: &PluginSettings,
        made: &Made,
        signer: Option<Signer>,
        purpose: Purpose,
    ) -> Result<Loaded, LoadError> {
        self.check_settings(settings)?;
        let config = settings.config.to_string();
        if config.len() > MAX_CONFIG_BYTES {
            return Err(verify(format!("the configuration is over {MAX_CONFIG_BYTES} bytes of JSON")));
        }
        let Made { artifact, component, inspection } = made;
        check_grants(inspection, &settings.grants, &self.settings.broker_version)?;
        check_memory(component, settings)?;
        let runnable = self.link(settings, component, inspection, artifact, (config, purpose))?;
        let runnable = Arc::new(runnable);
        let (cold_start, methods) = self.trial(&runnable).await?;
        let isolation = settings.isolation.decided(&settings.provenance, cold_start);
        let plugin = LivePlugin::new(
            runnable,
            inspection.hooks.clone(),
            methods,
            self.runtime.clone(),
            Arc::clone(&self.instances),
            isolation,
        );
        Ok(Loaded {
            plugin: Arc::new(plugin),
            inspection: inspection.clone(),
            size: artifact.bytes.len() as u64,
            version: artifact.version(),
            cold_start,
            isolation,
            signer,
            artifact: artifact.clone(),
        })
    }

    /// Whether these are the bytes that are meant, and who says so.
    pub(crate) fn verify(
        &self,
        settings: &PluginSettings,
        artifact: &Artifact,
    ) -> Result<Option<Signer>, LoadError> {
        let digest = artifact.digest();
        if let Some(wanted) = settings.digest.as_ref().filter(|wanted| **wanted != digest) {
            return Err(verify(format!(
                "the component is {digest}.\n\
                 It was to be {wanted}.\n\
                 Bring that one, or change the digest that is asked for."
            )));
        }
        let trust = &self.settings.trust;
        let signed = match &settings.provenance {
            Provenance::Bundled => return Ok(None),
            Provenance::Accepted(signer) => trust.check_again(signer.as_ref()).map(|()| signer.clone()),
            Provenance::New(signature) => trust.check(&digest, signature.as_ref(), now()),
        };
        signed.map_err(|error| {
            verify(format!(
                "{error}\n\
                 This broker trusts: {}.\n\
                 Sign it with `mqgate plugin sign`, and name its key in [[plugin_host.trusted_keys]].",
                trust.names()
            ))
        })
    }

    fn check_settings(&self, settings: &PluginSettings) -> Result<(), LoadError> {
        let limits = &settings.limits;
        let name = &settings.name;
        let name_fits = (1..=MAX_NAME).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
        if !name_fits {
            return Err(verify(format!("the name {name:?} is not 1 to {MAX_NAME} of a-z, 0-9, `-` and `_`")));
        }
        let ceiling = self.settings.memory_ceiling;
        if !(MIN_MEMORY..=ceiling).contains(&limits.memory) {
            return Err(verify(format!("limits.memory is not between {MIN_MEMORY} and {ceiling} bytes")));
        }
        if [limits.cpu, limits.wall, limits.init].iter().any(|limit| *limit < LEAST_TIME) {
            return Err(verify("limits.cpu, limits.wall and limits.init are at least a millisecond"));
        }
        let most = self.settings.instances as usize;
        if !(1..=most).contains(&limits.concurrency) {
            return Err(verify(format!("limits.concurrency is not between 1 and {most}")));
        }
        if !(1..=MOST_AUTH_STEPS).contains(&limits.auth_steps) {
            return Err(verify(format!("limits.auth_steps is not between 1 and {MOST_AUTH_STEPS}")));
        }
        if limits.breaker_percent > 100 {
            return Err(verify("limits.breaker_percent is not between 0 and 100"));
        }
        let http = &settings.grants.http;
        if !(1..=MOST_HTTP_CONNECTIONS).contains(&http.connections) {
            return Err(verify(format!("http.connections is not between 1 and {MOST_HTTP_CONNECTIONS}")));
        }
        if [http.request_bytes, http.response_bytes, http.header_bytes]
            .iter()
            .any(|size| *size > MOST_HTTP_BYTES)
        {
            return Err(verify(format!("the sizes of http are not over {MOST_HTTP_BYTES} bytes")));
        }
        if settings.grants.has(Capability::Http) && http.allow.is_empty() {
            return Err(verify(
                "the plugin is granted http, and no destination is allowed.\n\
                 A request would go nowhere.\n\
                 Name some, as http = { allow = [\"https://HOST:443\"] } beside its capabilities.",
            ));
        }
        Ok(())
    }

    /// Machine code of a component that has none yet. A load that is given up ends what makes it.
    async fn compile(
        self: &Arc<Self>,
        artifact: Artifact,
        plugin: Option<String>,
    ) -> Result<Component, LoadError> {
        let place = Arc::clone(&self.compilers).acquire_owned().await;
        let (_wanted, job) = compile::job();
        let made = self.blocking(move |loader| {
            let _place = place;
            // Somebody may have made it while this one waited.
            if let Some(known) = loader.compiled(&artifact) {
                return Ok(known);
            }
            let begun = Instant::now();
            let code = loader.compiler.compile(&artifact.bytes, job)?;
            // What asks for more than an instance may have is refused here.
            let component = deserialize(loader.engine.engine(), &code)
                .map_err(|error| LoadError::new(Stage::Compile, one_line(&format!("{error:#}"))))?;
            if let Some(plugin) = plugin {
                loader.metrics.compiled(&plugin, begun.elapsed());
            }
            if let Some(cache) = &loader.cache {
                cache.store(&artifact, &code);
            }
            Ok(component)
        });
        made.await
    }

    /// From the cache; blocks.
    fn compiled(&self, artifact: &Artifact) -> Option<Component> {
        self.cache.as_ref()?.load(self.engine.engine(), artifact)
    }

    /// Runs what blocks on a thread for it. A panic, which would be ours or wasmtime's, is an error of the load.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, LoadError> + Send + 'static,
    ) -> Result<T, LoadError> {
        let loader = Arc::clone(self);
        match self.runtime.spawn_blocking(move || work(&loader)).await {
            Ok(outcome) => outcome,
            Err(error) => Err(LoadError::new(Stage::Compile, format!("the compiler failed: {error}"))),
        }
    }

    fn link(
        &self,
        settings: &PluginSettings,
        component: &Component,
        inspection: &Inspection,
        artifact: &Artifact,
        (config, purpose): (String, Purpose),
    ) -> Result<Runnable, LoadError> {
        let counted = if purpose == Purpose::Shadow { &self.shadow_metrics } else { &self.metrics };
        let failed = |error: wasmtime::Error| {
            LoadError::new(
                Stage::Link,
                format!(
                    "{}\n{}\nRebuild the plugin against wit/ of this broker.",
                    one_line(&format!("{error:#}")),
                    abi::difference(self.engine.engine(), component, &self.settings.broker_version)
                ),
            )
        };
        let mut linker = Linker::new(self.engine.engine());
        abi::link(&mut linker, &settings.grants).map_err(failed)?;
        let pre = linker.instantiate_pre(component).map_err(failed)?;
        let exports = HookExports::find(&pre, &inspection.hooks, inspection.has_health).map_err(failed)?;
        let metrics = Arc::new(counted.of(&settings.name, &inspection.hooks));
        let http = self.http(settings, &metrics)?;
        let granted = settings.grants.capabilities.iter();
        let version = counted.series().version(settings.name.as_str().into());
        Ok(Runnable {
            engine: Arc::clone(&self.engine),
            pre,
            exports,
            context: Contexts::new(lifecycle::PluginContext {
                name: settings.name.clone(),
                digest: artifact.digest(),
                broker_version: self.settings.broker_version.clone(),
                config,
                granted: granted.map(|capability| Capability::as_str(*capability).to_owned()).collect(),
                trial: false,
                attributes: Vec::new(),
            }),
            services: self.services(settings, &metrics, &version, http.as_ref(), Purpose::Calls),
            trial_services: self.services(settings, &metrics, &version, http.as_ref(), Purpose::Trial),
            metrics,
            limits: settings.limits,
            purpose,
            spare: self.settings.instances as usize / 4,
            alive: Arc::clone(&self.alive),
        })
    }

    fn services(
        &self,
        settings: &PluginSettings,
        metrics: &Arc<PluginMetrics>,
        version: &Arc<Version>,
        http: Option<&Arc<HttpClient>>,
        purpose: Purpose,
    ) -> Arc<Services> {
        Arc::new(Services {
            custom_metrics: CustomMetrics::new(Arc::clone(version), settings.grants.metrics, purpose),
            plugin: settings.name.as_str().into(),
            grants: settings.grants.clone(),
            storage: Arc::clone(&self.storage),
            metrics: Arc::clone(metrics),
            log_rate: LogRate::new(Instant::now()),
            http: http.cloned(),
            outside: Arc::clone(&self.outside),
        })
    }

    /// What sends its requests, where it may send any: one for calls and trials, so that both share what is limited.
    fn http(
        &self,
        settings: &PluginSettings,
        metrics: &PluginMetrics,
    ) -> Result<Option<Arc<HttpClient>>, LoadError> {
        if !settings.grants.has(Capability::Http) {
            return Ok(None);
        }
        let (http, resolver) = (settings.grants.http.clone(), Arc::clone(&self.settings.resolver));
        let open = metrics.http_connections.clone();
        let client = HttpClient::new(http, resolver, open, Arc::clone(&self.outside)).map_err(verify)?;
        Ok(Some(Arc::new(client)))
    }

    /// Runs `init` and the self-test as the plugin will be run, and says what a fresh instance costs and which
    /// Authentication Methods it serves.
    async fn trial(&self, runnable: &Arc<Runnable>) -> Result<(Duration, Vec<String>), LoadError> {
        let limit = runnable.limits.init;
        let place = self.place(limit).await?;
        let plugin = Arc::clone(runnable);
        let mut first = AbortOnDrop(self.runtime.spawn(async move {
            let _ticking = plugin.ticking();
            first_instance(&plugin, place).await
        }));
        let outcome = tokio::time::timeout(limit, &mut first.0).await;
        // However the plugin took it: in calls it would be the same.
        if let Some(clash) = runnable.trial_services.custom_metrics.clash() {
            return Err(trial(format!("a metric it defines is taken: {clash}")));
        }
        let methods = match outcome {
            Ok(Ok(outcome)) => outcome?,
            Ok(Err(error)) => return Err(trial(format!("the trial failed: {error}"))),
            Err(_) => return Err(too_slow("init and the self-test", limit)),
        };
        drop(first);

        let place = self.place(limit).await?;
        let plugin = Arc::clone(runnable);
        let mut costs = AbortOnDrop(self.runtime.spawn(async move {
            let _ticking = plugin.ticking();
            cold_start(&plugin, place).await
        }));
        match tokio::time::timeout(limit, &mut costs.0).await {
            Ok(Ok(outcome)) => Ok((outcome?, methods)),
            Ok(Err(error)) => Err(trial(format!("the trial failed: {error}"))),
            Err(_) => Err(too_slow("init", limit)),
        }
    }

    async fn place(&self, limit: Duration) -> Result<OwnedSemaphorePermit, LoadError> {
        match tokio::time::timeout(limit, Arc::clone(&self.instances).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(trial("no instance is free for the trial; all plugins are busy")),
        }
    }
}

/// Answers which Authentication Methods it serves.
async fn first_instance(plugin: &Runnable, place: OwnedSemaphorePermit) -> Result<Vec<String>, LoadError> {
    let limit = plugin.limits.init;
    let failed = |failure: HookFailure| match failure.kind {
        FailureKind::Deadline => too_slow("init and the self-test", limit),
        kind => trial(format!("the trial ended with {}: {}", kind.as_str(), one_line(&failure.detail))),
    };
    let mut running = plugin.instantiate(Purpose::Trial, limit, place, None).await.map_err(failed)?;
    plugin.exports.compare_types(&mut running).map_err(|error| {
        LoadError::new(
            Stage::Link,
            format!(
                "{}\n\
                 This broker has other types under that name.\n\
                 Rebuild the plugin against wit/ of this broker.",
                one_line(&format!("{error:#}"))
            ),
        )
    })?;
    if let Err(error) = plugin.init(&mut running).await.map_err(failed)? {
        return Err(trial(format!("init failed: {}", describe_init_error(&error))));
    }
    if let Some(check) = &plugin.exports.check {
        match check.call(&mut running, ()).await {
            Ok((Ok(()),)) => {}
            Ok((Err(why),)) => {
                return Err(trial(format!("the self-test failed: {}", one_line(&shorten(why, 1024)))));
            }
            Err(error) => return Err(failed(running.name_failure(error.into()))),
        }
    }
    let Some(methods) = &plugin.exports.methods else { return Ok(Vec::new()) };
    let (named,) =
        methods.call(&mut running, ()).await.map_err(|error| failed(running.name_failure(error.into())))?;
    dialogue::methods(named).map_err(trial)
}

/// Each call begins with a fresh instance, so what `init` costs must fit into a call.
async fn cold_start(plugin: &Runnable, place: OwnedSemaphorePermit) -> Result<Duration, LoadError> {
    let limit = plugin.limits.cpu;
    let mut fastest = Duration::MAX;
    let mut place = Some(place);
    for _ in 0..COLD_STARTS {
        let Some(own) = place.take() else { break };
        let begun = Instant::now();
        let mut running = plugin
            .instantiate(Purpose::Trial, limit, own, None)
            .await
            .map_err(|failure| trial(format!("a second instance could not start: {}", failure.detail)))?;
        match plugin.init(&mut running).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                return Err(trial(format!("init failed the second time: {}", describe_init_error(&error))));
            }
            Err(failure) if failure.kind == FailureKind::Deadline => {
                return Err(trial(format!(
                    "init computes for longer than {limit:?}.\n\
                     Every call runs on a fresh instance, whose init counts to the call.\n\
                     Do less in init, or raise limits.cpu of the plugin."
                )));
            }
            Err(failure) => {
                return Err(trial(format!("init failed the second time: {}", one_line(&failure.detail))));
            }
        }
        place = Some(running.into_place());
        fastest = fastest.min(begun.elapsed());
    }
    Ok(fastest)
}

fn check_memory(component: &Component, settings: &PluginSettings) -> Result<(), LoadError> {
    const PAGE: u64 = 64 << 10;
    let Some(required) = component.resources_required() else { return Ok(()) };
    let needed = required.max_initial_memory_size.unwrap_or(0).saturating_mul(PAGE);
    if needed <= settings.limits.memory as u64 {
        return Ok(());
    }
    Err(LoadError::new(
        Stage::Inspect,
        format!(
            "the component begins with {needed} bytes of memory.\n\
             The plugin may use {}.\n\
             Raise limits.memory of the plugin, or build it with a smaller stack and less data.",
            settings.limits.memory
        ),
    ))
}

fn too_slow(what: &str, limit: Duration) -> LoadError {
    trial(format!(
        "{what} did not end within {limit:?}.\n\
         A plugin goes live only after both ended well.\n\
         Do less there, or raise limits.init of the plugin."
    ))
}

fn trial(message: impl Into<String>) -> LoadError {
    LoadError::new(Stage::Trial, message)
}

fn verify(message: impl Into<String>) -> LoadError {
    LoadError::new(Stage::Verify, message)
}
