//! `mqgate run`: puts the parts together, waits for the signal to stop, takes them apart in order.

pub(crate) mod admin_tls;
pub mod build;
pub(crate) mod builtin;
pub(crate) mod chain;
mod endpoints;
pub mod extras;
pub(crate) mod first_start;
pub(crate) mod listeners;
pub(crate) mod logging;
pub mod paths;
mod plugin_folder;
pub(crate) mod posture;
mod process;
pub(crate) mod revocations;
mod serving;
mod token;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::Storage;
use mqgate_server::admin::{ADMIN_TLS, About};
use mqgate_server::audit::AuditLog;
use mqgate_server::broker::{Admitter, Broker, BrokerParts};
use mqgate_server::bundles::Bundles;
use mqgate_server::clock::sanity::ClockWatch;
use mqgate_server::crl::RevocationService;
use mqgate_server::events::Events;
use mqgate_server::gate::Gate;
use mqgate_server::listener::{ListenError, ListenerParts, ListenerSettings};
use mqgate_server::live::Live;
use mqgate_server::metrics::mqtt::MqttMetrics;
use mqgate_server::metrics::{BuildInfo, Metrics};
use mqgate_server::ocsp::Stapler;
use mqgate_server::posture::{Posture, PostureParts};
use mqgate_server::readiness::Readiness;
use mqgate_server::registry::Registry;
use mqgate_server::retirement::Retirement;
use mqgate_server::sharing::Sharing;
use mqgate_server::tls::TlsServer;
use mqgate_server::trust::{BoundAnchor, TrustStore};
use mqgate_server::{clock, events};
use mqgate_storage::{FjallStorage, StorageOptions};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::PluginAdmin;
use crate::audit::Sinks;
use crate::bridge::{self, Bridges};
use crate::config::{Config, ConfigError, Inputs};
use crate::exit::{Exit, Failure};
use crate::pki::{check_folder, create_folder};
use crate::reload::ledger::Ledger;
use crate::reload::overrides::{self, Overrides};
use crate::reload::transitions::{self, TransitionParts, Transitions};
use crate::reload::{ReloadParts, Reloader, triggers};
use endpoints::Endpoints;
use listeners::Listeners;
use logging::LogFilter;
pub use process::raise_file_limit;

/// How often expired entries of plugins' key-value spaces are removed.
const SWEEP: Duration = Duration::from_secs(60);
const SWEEP_BATCH: usize = 10_000;
/// How long tasks get to end after the listeners.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// The command.
pub fn command(explicit: Option<&Path>) -> Result<()> {
    let inputs = Inputs::gather(explicit)?;
    let (inputs, overrides) = with_overrides(inputs)?;
    let loaded = inputs.load_with_files().map_err(ConfigError::from)?;
    let first_start = first_start::applies(&inputs, &loaded.config);
    let config = first_start::complete(&inputs, loaded.config);
    let log = logging::start(&config.log)?;
    for warning in loaded.warnings.lines() {
        tracing::warn!("{warning}");
    }
    raise_file_limit();
    if config.listeners.is_empty() {
        return Err(Failure::new(
            Exit::Config,
            "no listener is configured: nobody could connect\n  help: add a table [listeners.NAME]; `mqgate config init` writes an example",
        )
        .into());
    }
    create_folder(&config.node.data_dir)?;
    check_folder(&config.node.data_dir)?;
    if first_start {
        first_start::prepare(&config)?;
    }
    mqgate_plugin_host::scheduling::go_first();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if config.node.workers > 0 {
        runtime.worker_threads(usize::from(config.node.workers));
    }
    let runtime = runtime.enable_all().thread_name("mqgate-worker").build().context("no runtime")?;
    let result = runtime.block_on(Box::pin(run(config, overrides, explicit.map(Path::to_owned), log)));
    runtime.shutdown_timeout(LAST_WAIT);
    result
}

/// The configuration that a broker started now would have.
pub fn effective(inputs: &Inputs) -> Result<Config> {
    Ok(first_start::complete(inputs, inputs.load().map_err(ConfigError::from)?.config))
}

/// Lays what the API has changed over file and environment: it is where the file says the data is.
fn with_overrides(mut inputs: Inputs) -> Result<(Inputs, Overrides)> {
    let data_dir = inputs.load().map_err(ConfigError::from)?.config.node.data_dir;
    let overrides = Overrides::read(&overrides::file(&data_dir))?;
    inputs.overrides = overrides.variables();
    Ok((inputs, overrides))
}

/// Everything that serves until the end.
struct Parts {
    config: Config,
    storage: Arc<FjallStorage>,
    metrics: Arc<Metrics>,
    audit: Arc<AuditLog>,
    registry: Arc<Registry>,
    host: Arc<mqgate_plugin_host::PluginHost>,
    broker: Arc<Broker>,
    gate: Arc<Gate>,
    clock_watch: Arc<ClockWatch>,
    sharing: Arc<Sharing>,
    live: Arc<Live>,
    transitions: Arc<Transitions>,
    anchors: Vec<BoundAnchor>,
    readiness: Arc<Readiness>,
    trust: Arc<TrustStore>,
    bundles: Arc<Bundles>,
    builtin: Arc<builtin::Builtin>,
    revocations: Arc<RevocationService>,
    stapler: Arc<Stapler>,
    /// The admin API's.
    admin_tls: Option<Arc<TlsServer>>,
    bridges: Arc<Bridges>,
    posture: Arc<Posture>,
    sinks: Arc<Sinks>,
    /// What posture checks know of the configuration.
    known: Arc<posture::Known>,
}

async fn run(config: Config, overrides: Overrides, explicit: Option<PathBuf>, log: LogFilter) -> Result<()> {
    let mut signals = process::Signals::new()?;
    let parts = open(config).await?;
    let Parts { config, audit, .. } = &parts;
    chain::start(config, &parts.host, audit).await;

    // Listeners and their connections end first, everything they use ends later.
    let (stop, end) = (CancellationToken::new(), CancellationToken::new());
    let endpoints = Arc::new(Endpoints::new(config.endpoints_file()));
    let settings = listener_settings(&parts)?;
    let shared = ListenerParts {
        broker: Arc::clone(&parts.broker),
        audit: Arc::clone(audit),
        metrics: Arc::clone(&parts.metrics.gate),
        readiness: Arc::clone(&parts.readiness),
    };
    let (listeners, mut failures) = Listeners::new(
        shared,
        Arc::clone(&parts.bundles),
        Arc::clone(&parts.stapler),
        Arc::clone(&endpoints),
        stop.clone(),
        end.clone(),
    );
    let reloader = reloader(&parts, &listeners, overrides, explicit, log)?;
    let known = Arc::clone(&listeners);
    let about = Arc::new(About {
        version: String::from(env!("CARGO_PKG_VERSION")),
        started_at: clock::now(),
        listeners: Box::new(move || known.about()),
    });
    let mut helpers = JoinSet::new();
    for (name, settings) in settings {
        listeners.prepare(&name, &config.listeners[&name], settings);
    }
    let events = Events::new(extras::events(config));
    // Before anybody can connect: what is told begins with the first.
    let sources = events::Sources {
        registry: Arc::clone(&parts.registry),
        records: audit.follow(),
        storage: Arc::clone(&parts.storage) as _,
    };
    events::observe(&events, &parts.broker, audit);
    helpers.spawn(events::follow(Arc::clone(&events), Arc::clone(&parts.broker), sources, end.clone()));
    serving::serve_admin(&parts, about, &reloader, &events, &endpoints, &end, &mut helpers).await?;
    helpers.spawn(Arc::clone(audit).deliver(parts.host.hooks(), end.clone()));
    helpers.spawn(Arc::clone(&parts.registry).housekeeping(end.clone()));
    helpers.spawn(Arc::clone(&parts.revocations).run(end.clone()));
    helpers.spawn(Arc::clone(&parts.stapler).run(end.clone()));
    helpers.spawn(Arc::clone(&parts.broker).housekeeping(end.clone()));
    helpers.spawn(Arc::clone(&parts.builtin).renew(Arc::clone(&parts.bundles), end.clone()));
    helpers.spawn(Arc::clone(&parts.bridges).run(stop.clone()));
    extras::spawn(config, &parts.broker, &mut helpers, &end);
    helpers.spawn(Arc::clone(&parts.posture).run(end.clone()));
    helpers.spawn(Arc::clone(&parts.sinks).publish_checkpoints(end.clone()));
    helpers.spawn(Arc::clone(&parts.live).housekeeping(end.clone()));
    helpers.spawn(Arc::clone(&parts.clock_watch).housekeeping(end.clone()));
    helpers.spawn(tidy(Arc::clone(&parts.gate), end.clone()));
    helpers.spawn(Arc::clone(&parts.transitions).housekeeping(end.clone()));
    helpers.spawn(sweep(Arc::clone(&parts.storage), end.clone()));
    plugin_folder::spawn(plugin_admin(&parts), &config.plugin_host, &mut helpers, &end);

    audit.record(
        AuditEvent::new(names::BROKER_STARTED, Outcome::Success, Reason::Ok)
            .field("version", env!("CARGO_PKG_VERSION")),
    );
    listeners.start();
    let hangup = Arc::new(Notify::new());
    helpers.spawn(triggers::on_signal(Arc::clone(&reloader), Arc::clone(&hangup), stop.clone()));
    helpers.spawn(triggers::on_change(reloader, stop.clone()));

    let result = tokio::select! {
        signal = signals.stop(&hangup) => {
            tracing::info!(signal, "stopping: clients are told");
            Ok(())
        }
        Some(failed) = failures.recv() => Err(failure(&failed)),
    };
    // Nobody waits for an operator any more.
    parts.gate.provision().close();
    stop.cancel();
    let patience = parts.config.node.shutdown_timeout.0 + Duration::from_secs(1);
    tokio::select! {
        in_time = listeners.ended(patience) => {
            if !in_time {
                tracing::warn!("connections did not end in time");
            }
        }
        signal = signals.stop(&hangup) => tracing::warn!(signal, "stopping without waiting any longer"),
    }
    let stopped = AuditEvent::new(names::BROKER_STOPPED, Outcome::Success, Reason::ServerShuttingDown);
    // Durable, so that sinks get it before they end.
    if let Err(refused) = audit.record_durable(stopped).await {
        tracing::error!(%refused, "the end is not in the audit log");
    }
    end.cancel();
    parts.sinks.end().await;
    let helpers_ended = async { while helpers.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_WAIT, helpers_ended).await;
    let closing = Arc::clone(audit);
    // Writes and syncs what is queued: blocks.
    let _ = tokio::task::spawn_blocking(move || closing.close()).await;
    endpoints.forget();
    // The host has a runtime of its own, which must not be dropped by this one's threads.
    let _ = tokio::task::spawn_blocking(move || drop(parts)).await;
    tracing::info!("stopped");
    result
}

/// Looks whether the machine's clock can be right.
async fn clock_watch(
    config: &Config,
    storage: &Arc<FjallStorage>,
    audit: &Arc<AuditLog>,
    metrics: &Arc<Metrics>,
) -> Result<Arc<ClockWatch>> {
    let storage = Arc::clone(storage) as Arc<dyn Storage>;
    let (audit, prometheus, check) = (Arc::clone(audit), metrics.registry().clone(), config.clock.check);
    let built_at = build::registry::built_at();
    let watch =
        tokio::task::spawn_blocking(move || ClockWatch::open(storage, audit, &prometheus, built_at, check))
            .await?
            .map_err(|error| Failure::unavailable(format!("what the clock has shown: {error}")))?;
    watch.configure(build::registry::when_wrong(config));
    Ok(watch)
}

/// Has the gate forget what is over, until `end`.
async fn tidy(gate: Arc<Gate>, end: CancellationToken) {
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            () = tokio::time::sleep(SWEEP) => gate.sweep(),
        }
    }
}

/// A listener has ended before it was told to.
fn failure(error: &ListenError) -> anyhow::Error {
    Failure::unavailable(format!(
        "{error}\n  help: another program has the address, or it is not this machine's; change `listeners.{}.bind`",
        error.listener
    ))
    .into()
}

/// Who takes changes over while the broker runs.
fn reloader(
    parts: &Parts,
    listeners: &Arc<Listeners>,
    overrides: Overrides,
    explicit: Option<PathBuf>,
    log: LogFilter,
) -> Result<Arc<Reloader>> {
    let keeping = Arc::clone(listeners);
    parts.transitions.certificates_from(Arc::new(move |running| keeping.keep_retired(running)));
    let reached = ReloadParts {
        broker: Arc::clone(&parts.broker),
        gate: Arc::clone(&parts.gate),
        clock_watch: Arc::clone(&parts.clock_watch),
        sharing: Arc::clone(&parts.sharing),
        live: Arc::clone(&parts.live),
        trust: Arc::clone(&parts.trust),
        registry: Arc::clone(&parts.registry),
        bundles: Arc::clone(&parts.bundles),
        builtin: Arc::clone(&parts.builtin),
        host: Arc::clone(&parts.host),
        audit: Arc::clone(&parts.audit),
        listeners: Arc::clone(listeners),
        transitions: Arc::clone(&parts.transitions),
        admin_tls: parts.admin_tls.clone(),
        revocations: Arc::clone(&parts.revocations),
        posture: Arc::clone(&parts.posture),
        sinks: Arc::clone(&parts.sinks),
        known: Arc::clone(&parts.known),
        log,
    };
    let (config, anchors) = (parts.config.clone(), parts.anchors.clone());
    Ok(Reloader::new(explicit, reached, config, overrides, anchors, parts.metrics.registry())?)
}

async fn open(config: Config) -> Result<Parts> {
    let metrics = Metrics::new(&BuildInfo {
        version: String::from(env!("CARGO_PKG_VERSION")),
        revision: String::from(option_env!("MQGATE_REVISION").unwrap_or("unknown")),
        rustc: String::from(option_env!("MQGATE_RUSTC").unwrap_or("unknown")),
        features: String::new(),
    })?;
    let folder = config.node.data_dir.join("registry");
    let path = folder.clone();
    let options =
        StorageOptions { outbox_events: config.limits.registry_events.into(), ..StorageOptions::default() };
    let storage = tokio::task::spawn_blocking(move || FjallStorage::open(&path, options))
        .await?
        .map_err(|error| Failure::unavailable(format!("the storage in {}: {error}", folder.display())))?;
    if storage.migrated() > 0 {
        tracing::info!(certificates = storage.migrated(), "the registry was brought up to date");
    }
    let storage = Arc::new(storage);
    let as_storage: Arc<dyn Storage> = Arc::clone(&storage) as Arc<dyn Storage>;

    let audit_file = config.audit_file();
    if let Some(folder) = audit_file.parent() {
        create_folder(folder)?;
    }
    let audit = AuditLog::open(build::audit_settings(&config), Arc::clone(&metrics.gate))
        .map_err(|error| Failure::unavailable(error.to_string()))?;
    let audit = Arc::new(audit);

    let ledger = Ledger::open(&config.node.data_dir.join("transitions.json"), clock::now())?;
    let anchors = build::anchors(&config)?;
    // What ended while the broker was down is valid no longer from the first moment.
    let mut running = ledger.list();
    running.retain(|transition| transition.ends_at > clock::now());
    let retiring = transitions::anchors(&running);
    let trust = Arc::new(TrustStore::new(config.limits.ca_certs as usize));
    trust
        .configure_bound(anchors.clone(), retiring)
        .map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    trust
        .limit_hints(build::hint_limits(&config))
        .map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    let settings = revocations::settings(&config);
    let (of_trust, of_audit) = (Arc::clone(&trust), Arc::clone(&audit));
    let prometheus = metrics.registry().clone();
    // Reads files.
    let revocations = tokio::task::spawn_blocking(move || {
        RevocationService::open(settings, of_trust, of_audit, &prometheus)
    })
    .await??;
    let staples = config.node.data_dir.join("ocsp");
    let stapler = Stapler::new(Some(staples), Arc::clone(&audit), metrics.registry())?;
    let registry = Registry::open(
        Arc::clone(&as_storage),
        Arc::clone(&trust),
        Arc::clone(&audit),
        Arc::clone(&metrics.gate),
        build::registry_settings(&config),
    )
    .await
    .map_err(|error| Failure::unavailable(format!("the registry: {error}")))?;

    let bundles = Bundles::open(
        Arc::clone(&as_storage),
        Arc::clone(&audit),
        Arc::clone(&metrics.gate),
        config.limits.server_certs as usize,
    )
    .await
    .map_err(|error| Failure::unavailable(format!("the server certificates: {error}")))?;
    let builtin = Arc::new(builtin::Builtin::new(&config));
    if builtin::is_wanted(&config) {
        bundles.set_builtin(builtin.provide(&config)?)?;
    }

    let admin_tls = admin_tls::set(&config, &bundles)?.map(|set| Arc::new(TlsServer::new(set)));
    if let Some(tls) = &admin_tls {
        bundles.watch(ADMIN_TLS, tls);
    }

    let (settings, natives) = (chain::host_settings(&config), chain::natives(&config)?);
    let prometheus = metrics.registry().clone();
    // Starts threads and may read a cache of compiled components.
    let host = tokio::task::spawn_blocking(move || {
        mqgate_plugin_host::PluginHost::new(settings, natives, as_storage, &prometheus)
    })
    .await?
    .map_err(|error| Failure::unavailable(error.to_string()))?;
    let host = Arc::new(host);

    let clock_watch = clock_watch(&config, &storage, &audit, &metrics).await?;
    let bans = extras::bans(&config, Arc::clone(&storage) as Arc<dyn Storage>, &metrics).await?;
    let gate = Gate::new(
        host.hooks(),
        Some(Arc::clone(&registry)),
        Arc::clone(&audit),
        Arc::clone(&metrics.gate),
        build::gate_settings(&config),
    );
    let gate = Arc::new(gate.with_bans(Arc::clone(&bans)));
    gate.reads(Arc::clone(&clock_watch));
    let parts = BrokerParts {
        admitter: Admitter::Gate(Arc::clone(&gate)),
        audit: Arc::clone(&audit),
        metrics: Arc::new(MqttMetrics::register(metrics.registry())?),
        limits: build::limits(&config),
        listener_limits: build::listener_limits(&config),
    };
    let broker = Broker::with_extras(parts, extras::settings(&config, bans), metrics.registry())?;
    let sharing = Sharing::new(&broker, metrics.registry(), build::registry::sharing(&config))?;
    gate.finds_shared_by(Arc::clone(&sharing));
    let bridge_id = bridge::broker_id(&config.node.data_dir)?;
    broker.known_to_bridges_as(&bridge_id);
    let bridges = Bridges::new(&config, &bridge_id, &broker, &audit, metrics.registry())
        .map_err(|error| Failure::new(Exit::Config, format!("{error:#}")))?;
    trust.know_own_chain(build::own_chain(&config));
    registry.log_ca_lints();
    let live = Live::new(Arc::clone(&broker), Arc::clone(&audit), metrics.registry(), build::live(&config))?;
    for (name, listener) in &config.listeners {
        live.judge_by(name, build::path_rules(&config, name, listener, &trust));
    }
    registry.disconnects(&live);
    let judges = Arc::clone(&live);
    // Found by issuer and serial number, and judged by the list that is in force by then.
    revocations.on_arrival(move |list| judges.crl_arrived(list.issuer_raw(), list.serials()));
    let transitions = Transitions::new(
        ledger,
        config.reload.grace.0,
        TransitionParts {
            broker: Arc::clone(&broker),
            trust: Arc::clone(&trust),
            registry: Arc::clone(&registry),
            live: Arc::clone(&live),
            audit: Arc::clone(&audit),
        },
        metrics.registry(),
    )?;
    let retirement: Arc<dyn Retirement> = Arc::clone(&transitions) as _;
    registry.retires_with(&retirement);
    bundles.retires_with(&retirement);
    let judges = Arc::clone(&live);
    gate.anchors_from(Arc::new(move |id, listener, certificate| {
        judges.anchor_now(id, listener, certificate)
    }));
    let readiness = Readiness::new(host.hooks(), Arc::clone(&audit), Some(Arc::clone(&registry)));
    let readiness = Arc::new(readiness);
    let sinks = Sinks::new(&config, &audit, &broker);
    let known = posture::Known::new(&config, &host, &audit, &sinks);
    let of_config = Arc::clone(&known);
    let looked_at = PostureParts {
        broker: Arc::clone(&broker),
        registry: Arc::clone(&registry),
        trust: Arc::clone(&trust),
        audit: Arc::clone(&audit),
        storage: Arc::clone(&storage) as Arc<dyn Storage>,
        known: Box::new(move || of_config.facts()),
    };
    let posture = Posture::open(looked_at, posture::settings(&config), metrics.registry())
        .await
        .map_err(|error| Failure::unavailable(format!("the posture checks: {error}")))?;
    Ok(Parts {
        config,
        storage,
        metrics,
        audit,
        registry,
        host,
        broker,
        gate,
        clock_watch,
        sharing,
        live,
        transitions,
        anchors,
        readiness,
        trust,
        bundles,
        builtin,
        revocations,
        stapler,
        admin_tls,
        bridges,
        posture,
        sinks,
        known,
    })
}

fn listener_settings(parts: &Parts) -> Result<Vec<(String, ListenerSettings)>> {
    let drain = parts.config.node.shutdown_timeout.0;
    let named = parts.config.listeners.iter().map(|(name, listener)| {
        let policy = paths::path_policy(&parts.config, listener);
        let retired = parts.transitions.server_certificates(name);
        let settings =
            build::listener(name, listener, policy, &parts.trust, &parts.bundles, &retired, drain)?;
        Ok((name.clone(), settings))
    });
    let listeners = named.collect::<Result<_>>()?;
    parts
        .bundles
        .check_files(build::files_of_certificates(&parts.config), parts.config.limits.server_certs as usize)
        .map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    Ok(listeners)
}

/// What changes of the chains reach.
fn plugin_admin(parts: &Parts) -> PluginAdmin {
    PluginAdmin {
        host: Arc::clone(&parts.host),
        broker: Arc::clone(&parts.broker),
        audit: Arc::clone(&parts.audit),
        reauthorize: build::reauthorize(parts.config.policy.reauthorize),
    }
}

/// Gives the space of expired key-value entries back.
async fn sweep(storage: Arc<FjallStorage>, end: CancellationToken) {
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            _ = tick.tick() => {}
        }
        let storage = Arc::clone(&storage);
        match tokio::task::spawn_blocking(move || storage.sweep_expired(clock::now(), SWEEP_BATCH)).await {
            Ok(Ok(removed)) => tracing::debug!(removed, "expired entries of plugins are removed"),
            Ok(Err(error)) => tracing::warn!(%error, "expired entries of plugins are not removed"),
            Err(error) => tracing::error!(%error, "removing expired entries broke down"),
        }
    }
}
