//! The members of the chain, from the configuration: native ones at once, components one after the other, each as the
//! configuration or what was decided at runtime has it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use mqgate_identity::audit::names;
use mqgate_identity::hooks::ChainMember;
use mqgate_identity::time::UnixMillis;
use mqgate_plugin_host::{
    Capability, CompileLimits, Configured, Grants, HostSettings, HttpSettings, Isolation, KvSettings, Limits,
    LoadError, MetricsSettings, PluginHost, PluginSettings, Probation, Provenance, Signature, Source, Stage,
    StartOutcome, Started, Trust, TrustedKey, WALL_WITH_HTTP,
};
use mqgate_server::audit::AuditLog;
use serde::de::DeserializeOwned;

use crate::admin::{note_change, note_refusal};
use crate::cli::plugin_compile;
use crate::components;
use crate::config::check::{is_local, network};
use crate::config::units::Size;
use crate::config::{Config, model};
use crate::exit::{Exit, Failure};
use crate::native::anonymous::{Anonymous, AnonymousConfig};
use crate::native::password_file::PasswordFile;
use crate::native::scram::Scram;
use crate::native::static_policy::StaticPolicy;

pub fn host_settings(config: &Config) -> HostSettings {
    let host = &config.plugin_host;
    HostSettings {
        cache_dir: Some(config.node.data_dir.join("components")),
        compiler: Some(plugin_compile::program()),
        compile: CompileLimits {
            memory: host.compile.memory.0,
            cpu: host.compile.cpu.0,
            time: host.compile.time.0,
        },
        store_dir: Some(config.node.data_dir.join("plugins")),
        versions: host.versions as usize,
        staged: host.uploads as usize,
        trust: trust(host),
        probation: Probation {
            time: host.probation.time.0,
            failed_clients: host.probation.failed_clients as usize,
            failed_percent: host.probation.failed_percent,
            denied_points: host.probation.denied_points,
            judged_clients: host.probation.judged_clients as usize,
        },
        order: config.plugins.iter().map(|plugin| plugin.name.clone()).collect(),
        broker_version: String::from(env!("CARGO_PKG_VERSION")),
        ..HostSettings::default()
    }
}

/// The check of the configuration has found every key and every moment good.
fn trust(host: &model::PluginHost) -> Trust {
    let keys = host.trusted_keys.iter().filter_map(|trusted| {
        let until = trusted.until.as_deref().map(|until| match until.parse::<jiff::Timestamp>() {
            Ok(until) => UnixMillis(u64::try_from(until.as_millisecond()).unwrap_or(0)),
            // Over, whenever that is.
            Err(_) => UnixMillis(0),
        });
        Some(TrustedKey { name: trusted.name.clone(), key: trusted.key.parse().ok()?, until })
    });
    Trust { require_signed: host.require_signed, keys: keys.collect() }
}

pub fn natives(config: &Config) -> Result<Vec<ChainMember>> {
    let natives = config.plugins.iter().filter_map(|plugin| Some((plugin, plugin.native?)));
    natives.map(|(plugin, native)| member(config, plugin, native)).collect()
}

pub fn member(config: &Config, plugin: &model::Plugin, native: model::Native) -> Result<ChainMember> {
    let name = plugin.name.as_str();
    Ok(match native {
        model::Native::StaticPolicy => StaticPolicy::member(name, settings(plugin)?),
        model::Native::PasswordFile => {
            let member = PasswordFile::member(name, settings(plugin)?);
            member.map_err(|error| Failure::new(Exit::Config, format!("plugin `{name}`: {error}")))?
        }
        model::Native::Scram => {
            let member = Scram::member(name, settings(plugin)?);
            member.map_err(|error| Failure::new(Exit::Config, format!("plugin `{name}`: {error}")))?
        }
        model::Native::Anonymous => {
            let names: BTreeSet<String> = config
                .listeners
                .iter()
                .filter(|(_, listener)| is_local(&listener.bind))
                .map(|(name, _)| name.clone())
                .collect();
            let settings: AnonymousConfig = settings(plugin)?;
            let from: Result<Vec<_>, String> = settings.from.iter().map(|text| network(text)).collect();
            let from = from.map_err(|what| Failure::new(Exit::Config, format!("plugin `{name}`: {what}")))?;
            Anonymous::member(name, settings, from, names)
        }
    })
}

fn settings<T: DeserializeOwned>(plugin: &model::Plugin) -> Result<T> {
    let config = serde_json::Value::Object(plugin.config.clone());
    let parsed = serde_json::from_value(config);
    Ok(parsed.map_err(|error| Failure::new(Exit::Config, format!("plugin `{}`: {error}", plugin.name)))?)
}

/// Brings every component of the configuration to life, and what was decided at runtime before a restart. What does not
/// load keeps the listeners shut while it is required; the broker starts all the same, so that it can be repaired.
pub async fn start(config: &Config, host: &PluginHost, audit: &AuditLog) {
    for Started { name, outcome } in host.start(configured(config)).await {
        match outcome {
            StartOutcome::Live { info, kept } => {
                tracing::info!(plugin = %name, digest = %info.digest, hooks = ?info.hooks, kept, "plugin is live");
                note_change(audit, names::PLUGIN_LOADED, "system", &info, None, None).await;
                if kept && info.configured {
                    tracing::warn!(
                        plugin = %name,
                        "it runs as it was set at runtime, not as the configuration has it; `mqgate plugin reset` goes \
                         back to the configuration"
                    );
                }
            }
            StartOutcome::Failed { error, closes } => {
                tracing::error!(plugin = %name, listeners_stay_shut = closes, %error, "plugin is not live");
                note_refusal(audit, "system", &name, None, &error);
            }
            StartOutcome::Disabled => {
                tracing::warn!(plugin = %name, "it was disabled at runtime and is not asked");
            }
            StartOutcome::Unloaded => tracing::warn!(
                plugin = %name,
                "the configuration names it, and it was unloaded at runtime; `mqgate plugin reset` brings it back"
            ),
            StartOutcome::Forgotten => tracing::warn!(
                plugin = %name,
                "the configuration names it no longer: what was set at runtime is forgotten"
            ),
        }
    }
    if host.hooks().load().members.is_empty() {
        tracing::warn!("the chain is empty: every client is refused; add [[plugins]]");
    }
}

/// Every component of the configuration, in its order.
pub fn configured(config: &Config) -> Vec<Configured> {
    config.plugins.iter().filter(|plugin| plugin.source.is_some()).map(plugin_settings).collect()
}

/// With what a component of the configuration runs.
pub fn settings_of(config: &Config, name: &str) -> Option<PluginSettings> {
    let plugin = config.plugins.iter().find(|plugin| plugin.name == name && plugin.source.is_some())?;
    Some(plugin_settings(plugin).settings)
}

/// What the host needs to know, and an error if the component is not to be found.
fn plugin_settings(plugin: &model::Plugin) -> Configured {
    let source = plugin.source.as_deref().unwrap_or_default();
    let (file, mut missing) = match source.strip_prefix("bundled:").map(components::find) {
        None => (source.into(), None),
        Some(Ok(file)) => (file, None),
        Some(Err(error)) => {
            (source.into(), Some(LoadError { stage: Stage::Verify, message: error.to_string() }))
        }
    };
    let provenance = match source.starts_with("bundled:") {
        true => Provenance::Bundled,
        false => match signature_of(&file) {
            Ok(signature) => Provenance::New(signature),
            Err(message) => {
                missing = Some(LoadError { stage: Stage::Verify, message });
                Provenance::New(None)
            }
        },
    };
    let mut settings = PluginSettings::new(plugin.name.clone(), Source::File(file));
    settings.config = serde_json::Value::Object(plugin.config.clone());
    settings.digest.clone_from(&plugin.digest);
    settings.provenance = provenance;
    settings.grants = grants(&plugin.grant);
    settings.limits = limits(&plugin.limits, &settings.grants);
    settings.isolation = isolation(plugin.isolation);
    settings.required = plugin.required;
    Configured { settings, missing }
}

/// Where the signature of a component lies: in `NAME.wasm.sig` beside it.
pub fn signature_file(component: &Path) -> PathBuf {
    let mut file = component.as_os_str().to_owned();
    file.push(".sig");
    file.into()
}

/// The signature beside a component, if there is one.
pub fn signature_of(component: &Path) -> Result<Option<Signature>, String> {
    let file = signature_file(component);
    match std::fs::read_to_string(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{} cannot be read: {error}", file.display())),
        Ok(text) => text.parse().map(Some).map_err(|error| format!("{}: {error}", file.display())),
    }
}

fn grants(grant: &model::PluginGrant) -> Grants {
    let capabilities = grant.capabilities.iter().map(|capability| match capability {
        model::Capability::KeyValue => Capability::KeyValue,
        model::Capability::RegistryRead => Capability::RegistryRead,
        model::Capability::Metrics => Capability::Metrics,
        model::Capability::Credentials => Capability::Credentials,
        model::Capability::Http => Capability::Http,
        model::Capability::Clock => Capability::Clock,
        model::Capability::Random => Capability::Random,
    });
    Grants {
        capabilities: capabilities.collect(),
        kv: KvSettings {
            bytes: grant.kv_bytes.0,
            entries: grant.kv_entries,
            value_bytes: u32::try_from(grant.kv_value.0).unwrap_or(u32::MAX),
        },
        metrics: MetricsSettings { metrics: grant.metrics as usize, series: grant.metric_series as usize },
        http: http(&grant.http),
    }
}

pub fn http(http: &model::PluginHttp) -> HttpSettings {
    let bytes = |size: Size| usize::try_from(size.0).unwrap_or(usize::MAX);
    HttpSettings {
        allow: http.allow.clone(),
        private_networks: http.private_networks,
        connections: http.connections as usize,
        request_bytes: bytes(http.request),
        response_bytes: bytes(http.response),
        header_bytes: bytes(http.headers),
        ca_file: http.ca_file.clone(),
    }
}

pub fn isolation(isolation: model::Isolation) -> Isolation {
    match isolation {
        model::Isolation::Auto => Isolation::Auto,
        model::Isolation::PerCall => Isolation::PerCall,
        model::Isolation::Pooled => Isolation::Pooled,
        model::Isolation::Single => Isolation::Single,
    }
}

pub fn limits(limits: &model::PluginLimits, grants: &Grants) -> Limits {
    let wall = if grants.has(Capability::Http) { WALL_WITH_HTTP } else { Limits::default().wall };
    Limits {
        memory: usize::try_from(limits.memory.0).unwrap_or(usize::MAX),
        cpu: limits.cpu.0,
        wall: limits.wall.map_or(wall, |wall| wall.0),
        init: limits.init.0,
        concurrency: limits.concurrency as usize,
        queue_wait: limits.queue_wait.0,
        answer_bytes: usize::try_from(limits.answer.0).unwrap_or(usize::MAX),
        backoff: limits.backoff.0,
        longest_cached: limits.cache_ttl.0,
        cached_decisions: limits.cache_entries as usize,
        breaker_subjects: limits.breaker_clients as usize,
        breaker_percent: limits.breaker_percent,
        breaker_window: limits.breaker_window.0,
        breaker_wait: limits.breaker_wait.0,
        auth_state: usize::try_from(limits.auth_state.0).unwrap_or(usize::MAX),
        auth_steps: limits.auth_steps,
    }
}
