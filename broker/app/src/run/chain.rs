//! The members of the chain, from the configuration: native ones at once, components one after the other.

use std::collections::BTreeSet;

use anyhow::Result;
use mqgate_identity::audit::names;
use mqgate_identity::hooks::ChainMember;
use mqgate_plugin_host::{
    Capability, Grants, HostSettings, KvSettings, Limits, LoadError, MetricsSettings, PluginHost,
    PluginSettings, Position, Source, Stage,
};
use mqgate_server::audit::AuditLog;
use serde::de::DeserializeOwned;

use crate::admin::{note_change, note_refusal};
use crate::components;
use crate::config::check::is_local;
use crate::config::{Config, model};
use crate::exit::{Exit, Failure};
use crate::native::anonymous::Anonymous;
use crate::native::password_file::PasswordFile;
use crate::native::scram::Scram;
use crate::native::static_policy::StaticPolicy;

pub fn host_settings(config: &Config) -> HostSettings {
    HostSettings {
        cache_dir: Some(config.node.data_dir.join("components")),
        order: config.plugins.iter().map(|plugin| plugin.name.clone()).collect(),
        broker_version: String::from(env!("CARGO_PKG_VERSION")),
        ..HostSettings::default()
    }
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
            Anonymous::member(name, settings(plugin)?, names)
        }
    })
}

fn settings<T: DeserializeOwned>(plugin: &model::Plugin) -> Result<T> {
    let config = serde_json::Value::Object(plugin.config.clone());
    let parsed = serde_json::from_value(config);
    Ok(parsed.map_err(|error| Failure::new(Exit::Config, format!("plugin `{}`: {error}", plugin.name)))?)
}

/// Loads every component. One that does not load keeps the listeners shut while it is required; the broker
/// starts all the same, so that it can be repaired.
pub async fn load_all(config: &Config, host: &PluginHost, audit: &AuditLog) {
    for plugin in config.plugins.iter().filter(|plugin| plugin.source.is_some()) {
        let (wanted, missing) = plugin_settings(plugin);
        let result = match missing {
            None => host.load(wanted.clone(), Position::Configured).await,
            Some(error) => Err(error),
        };
        match result {
            Ok(info) => {
                tracing::info!(plugin = %info.name, digest = %info.digest, hooks = ?info.hooks, "plugin is live");
                note_change(audit, names::PLUGIN_LOADED, "system", &info, None).await;
            }
            Err(error) => {
                let required = plugin.required;
                tracing::error!(plugin = %plugin.name, required, %error, "plugin is not live");
                note_refusal(audit, "system", &plugin.name, None, &error);
                host.mark_failed(wanted, Position::Configured, &error).await;
            }
        }
    }
    if host.hooks().load().members.is_empty() {
        tracing::warn!("the chain is empty: every client is refused; add [[plugins]]");
    }
}

/// What the host needs to know, and an error if the component is not to be found.
fn plugin_settings(plugin: &model::Plugin) -> (PluginSettings, Option<LoadError>) {
    let source = plugin.source.as_deref().unwrap_or_default();
    let (file, missing) = match source.strip_prefix("bundled:").map(components::find) {
        None => (source.into(), None),
        Some(Ok(file)) => (file, None),
        Some(Err(error)) => {
            (source.into(), Some(LoadError { stage: Stage::Verify, message: error.to_string() }))
        }
    };
    let mut settings = PluginSettings::new(plugin.name.clone(), Source::File(file));
    settings.config = serde_json::Value::Object(plugin.config.clone());
    settings.grants = grants(&plugin.grant);
    settings.limits = limits(&plugin.limits);
    settings.required = plugin.required;
    (settings, missing)
}

fn grants(grant: &model::PluginGrant) -> Grants {
    let capabilities = grant.capabilities.iter().map(|capability| match capability {
        model::Capability::KeyValue => Capability::KeyValue,
        model::Capability::RegistryRead => Capability::RegistryRead,
        model::Capability::Metrics => Capability::Metrics,
        model::Capability::Credentials => Capability::Credentials,
    });
    Grants {
        capabilities: capabilities.collect(),
        kv: KvSettings {
            bytes: grant.kv_bytes.0,
            entries: grant.kv_entries,
            value_bytes: u32::try_from(grant.kv_value.0).unwrap_or(u32::MAX),
        },
        metrics: MetricsSettings { metrics: grant.metrics as usize, series: grant.metric_series as usize },
    }
}

fn limits(limits: &model::PluginLimits) -> Limits {
    Limits {
        memory: usize::try_from(limits.memory.0).unwrap_or(usize::MAX),
        cpu: limits.cpu.0,
        wall: limits.wall.0,
        init: limits.init.0,
        concurrency: limits.concurrency as usize,
        queue_wait: limits.queue_wait.0,
        answer_bytes: usize::try_from(limits.answer.0).unwrap_or(usize::MAX),
        backoff: limits.backoff.0,
        longest_cached: limits.cache_ttl.0,
        cached_decisions: limits.cache_entries as usize,
    }
}
