//! Prometheus series about plugins. Labels are names the operator gave and closed sets; never what a client sent.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mqgate_identity::hooks::FailureKind;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::abi;
use crate::capability::PluginSeries;
use crate::hook::Hook;
use crate::shadow::Difference;

/// Values of the label `result` of `mqgate_plugin_calls_total`.
const CALL_RESULTS: [&str; 6] = ["allow", "deny", "continue", "defer", "challenge", "error"];
/// Values of the label `result` of `mqgate_plugin_cache_requests_total`. Narrowed: the plugin would have had its
/// answer used again, but it depends on more than it said.
const CACHE_RESULTS: [&str; 3] = ["hit", "miss", "narrowed"];
/// Refused: it never went live. Rolled back: it did, and was taken back.
const SWAP_RESULTS: [&str; 3] = ["ok", "refused", "rolled_back"];
const STATES: [&str; 3] = ["live", "disabled", "failed"];

/// Values of the label `result` of `mqgate_plugin_shadow_calls_total`.
const SHADOW_RESULTS: [&str; 3] = ["same", "different", "skipped"];

/// Values of the label `result` of `mqgate_plugin_recorded_calls_total`.
const RECORDING_RESULTS: [&str; 2] = ["kept", "dropped"];

/// Values of the label `interface` of `mqgate_plugin_host_calls_total`.
#[derive(Clone, Copy)]
pub(crate) enum Interface {
    Log,
    KeyValue,
    Registry,
    Metrics,
    Http,
    Clock,
    Random,
}

/// Values of the label `result` of `mqgate_plugin_host_calls_total`.
#[derive(Clone, Copy)]
pub(crate) enum HostCallResult {
    Ok,
    Error,
    /// A log line over the plugin's rate.
    Dropped,
    /// A request that a rule or a limit stopped.
    Refused,
}

impl Interface {
    const ALL: [Self; 7] =
        [Self::Log, Self::KeyValue, Self::Registry, Self::Metrics, Self::Http, Self::Clock, Self::Random];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::KeyValue => "kv",
            Self::Registry => "registry",
            Self::Metrics => "metrics",
            Self::Http => "http",
            Self::Clock => "clock",
            Self::Random => "random",
        }
    }
}

impl HostCallResult {
    const ALL: [Self; 4] = [Self::Ok, Self::Error, Self::Dropped, Self::Refused];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Dropped => "dropped",
            Self::Refused => "refused",
        }
    }
}

pub(crate) struct Metrics {
    /// What plugins define themselves.
    series: PluginSeries,
    info: IntGaugeVec,
    /// Version and digest that `info` shows for each plugin, to take them back.
    shown: Mutex<HashMap<String, (String, String)>>,
    state: IntGaugeVec,
    calls: IntCounterVec,
    duration: HistogramVec,
    failures: IntCounterVec,
    swaps: IntCounterVec,
    inflight: IntGaugeVec,
    queued: IntGaugeVec,
    memory: IntGaugeVec,
    memory_peak: IntGaugeVec,
    poisoned: IntGaugeVec,
    breaker: IntGaugeVec,
    cache_requests: IntCounterVec,
    cache_evictions: IntCounterVec,
    cached: IntGaugeVec,
    host_calls: IntCounterVec,
    http_connections: IntGaugeVec,
    compile: HistogramVec,
    shadow_calls: IntCounterVec,
    shadow_differences: IntCounterVec,
    recorded: IntCounterVec,
}

/// Of a plugin that has a shadow.
pub(crate) struct ShadowMetrics {
    pub(crate) same: IntCounter,
    pub(crate) skipped: IntCounter,
    different: IntCounter,
    by_difference: Vec<(Hook, [IntCounter; Difference::ALL.len()])>,
}

/// Of a plugin whose calls are recorded.
pub(crate) struct RecordingMetrics {
    pub(crate) kept: IntCounter,
    pub(crate) dropped: IntCounter,
}

/// The series of one plugin, looked up once.
pub(crate) struct PluginMetrics {
    hooks: Vec<(Hook, HookMetrics)>,
    pub(crate) inflight: IntGauge,
    pub(crate) queued: IntGauge,
    pub(crate) memory: IntGauge,
    pub(crate) memory_peak: IntGauge,
    pub(crate) poisoned: IntGauge,
    pub(crate) cache_evictions: IntCounter,
    pub(crate) cached: IntGauge,
    pub(crate) http_connections: IntGauge,
    host_calls: [[IntCounter; HostCallResult::ALL.len()]; Interface::ALL.len()],
}

pub(crate) struct HookMetrics {
    calls: [IntCounter; CALL_RESULTS.len()],
    failures: [IntCounter; FailureKind::ALL.len()],
    pub(crate) duration: prometheus::Histogram,
    pub(crate) cache_hits: IntCounter,
    pub(crate) cache_misses: IntCounter,
    pub(crate) cache_narrowed: IntCounter,
    /// 1 while the hook is not called.
    pub(crate) breaker: IntGauge,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let family = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let histograms = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let family = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let series = PluginSeries::default();
        series.show_in(registry)?;
        Ok(Self {
            series,
            info: gauges(
                "mqgate_plugin_info",
                "Live plugins with the component each runs.",
                &["plugin", "version", "digest", "abi"],
            )?,
            state: gauges("mqgate_plugin_state", "1 for the state a plugin is in.", &["plugin", "state"])?,
            calls: counters(
                "mqgate_plugin_calls_total",
                "Calls of a plugin's hooks by result.",
                &["plugin", "hook", "result"],
            )?,
            duration: histograms(
                "mqgate_plugin_call_duration_seconds",
                "Time a hook call took, waiting for a free place included.",
                &["plugin", "hook"],
                &[0.000_01, 0.000_05, 0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0],
            )?,
            failures: counters(
                "mqgate_plugin_failures_total",
                "Hook calls without a decision, by kind.",
                &["plugin", "hook", "kind"],
            )?,
            swaps: counters(
                "mqgate_plugin_swaps_total",
                "Replacements of a plugin's component by result.",
                &["plugin", "result"],
            )?,
            inflight: gauges("mqgate_plugin_inflight", "Calls a plugin is busy with.", &["plugin"])?,
            queued: gauges("mqgate_plugin_queue_depth", "Calls waiting for a free place.", &["plugin"])?,
            memory: gauges(
                "mqgate_plugin_memory_bytes",
                "Linear memory of a plugin's living instances.",
                &["plugin"],
            )?,
            memory_peak: gauges(
                "mqgate_plugin_memory_peak_bytes",
                "Most linear memory one instance of a plugin had.",
                &["plugin"],
            )?,
            poisoned: gauges(
                "mqgate_plugin_poisoned_subjects",
                "Clients and certificates that broke a call and may have to wait for the next.",
                &["plugin"],
            )?,
            breaker: gauges(
                "mqgate_plugin_breaker_open",
                "1 while a hook is not called because it failed for too many clients.",
                &["plugin", "hook"],
            )?,
            cache_requests: counters(
                "mqgate_plugin_cache_requests_total",
                "Questions by whether an earlier answer of the plugin was given again.",
                &["plugin", "hook", "result"],
            )?,
            cache_evictions: counters(
                "mqgate_plugin_cache_evictions_total",
                "Answers that were forgotten before their time because there were too many.",
                &["plugin"],
            )?,
            cached: gauges(
                "mqgate_plugin_cache_entries",
                "Answers of a plugin that are kept to be given again.",
                &["plugin"],
            )?,
            host_calls: counters(
                "mqgate_plugin_host_calls_total",
                "Calls of a plugin to the broker by interface and result.",
                &["plugin", "interface", "result"],
            )?,
            http_connections: gauges(
                "mqgate_plugin_http_connections",
                "Connections over HTTP that a plugin has, answers that it holds included.",
                &["plugin"],
            )?,
            compile: histograms(
                "mqgate_plugin_compile_seconds",
                "Time compiling a component took; nothing is counted when it came from disk.",
                &["plugin"],
                &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0],
            )?,
            shadow_calls: counters(
                "mqgate_plugin_shadow_calls_total",
                "Questions that a plugin's shadow was asked, by how its answer compared.",
                &["plugin", "result"],
            )?,
            shadow_differences: counters(
                "mqgate_plugin_shadow_disagreements_total",
                "Answers of a plugin's shadow that differ from the live version's.",
                &["plugin", "hook", "kind"],
            )?,
            recorded: counters(
                "mqgate_plugin_recorded_calls_total",
                "Calls of a plugin that were to be recorded; dropped: there was no room for them.",
                &["plugin", "result"],
            )?,
            shown: Mutex::default(),
        })
    }

    /// Where plugins' own series go.
    pub(crate) fn series(&self) -> &PluginSeries {
        &self.series
    }

    /// The plugin's series, all of them at zero if they are new.
    pub(crate) fn of(&self, plugin: &str, hooks: &[Hook]) -> PluginMetrics {
        for result in SWAP_RESULTS {
            let _ = self.swaps.with_label_values(&[plugin, result]);
        }
        PluginMetrics {
            hooks: hooks.iter().map(|&hook| (hook, self.hook(plugin, hook))).collect(),
            inflight: self.inflight.with_label_values(&[plugin]),
            queued: self.queued.with_label_values(&[plugin]),
            memory: self.memory.with_label_values(&[plugin]),
            memory_peak: self.memory_peak.with_label_values(&[plugin]),
            poisoned: self.poisoned.with_label_values(&[plugin]),
            cache_evictions: self.cache_evictions.with_label_values(&[plugin]),
            cached: self.cached.with_label_values(&[plugin]),
            http_connections: self.http_connections.with_label_values(&[plugin]),
            host_calls: Interface::ALL.map(|interface| {
                HostCallResult::ALL.map(|result| {
                    self.host_calls.with_label_values(&[plugin, interface.as_str(), result.as_str()])
                })
            }),
        }
    }

    fn hook(&self, plugin: &str, hook: Hook) -> HookMetrics {
        let [cache_hits, cache_misses, cache_narrowed] = CACHE_RESULTS
            .map(|result| self.cache_requests.with_label_values(&[plugin, hook.as_str(), result]));
        HookMetrics {
            cache_hits,
            cache_misses,
            cache_narrowed,
            breaker: self.breaker.with_label_values(&[plugin, hook.as_str()]),
            calls: CALL_RESULTS.map(|result| self.calls.with_label_values(&[plugin, hook.as_str(), result])),
            failures: FailureKind::ALL
                .map(|kind| self.failures.with_label_values(&[plugin, hook.as_str(), kind.as_str()])),
            duration: self.duration.with_label_values(&[plugin, hook.as_str()]),
        }
    }

    /// The series of a plugin's shadow.
    pub(crate) fn shadow(&self, plugin: &str) -> ShadowMetrics {
        let of = |result: &str| self.shadow_calls.with_label_values(&[plugin, result]);
        let [same, different, skipped] = SHADOW_RESULTS.map(of);
        let kinds = |hook: Hook| {
            let of = |kind: Difference| {
                self.shadow_differences.with_label_values(&[plugin, hook.as_str(), kind.as_str()])
            };
            (hook, Difference::ALL.map(of))
        };
        ShadowMetrics { same, different, skipped, by_difference: Hook::ALL.into_iter().map(kinds).collect() }
    }

    /// The series of a plugin whose calls are recorded.
    pub(crate) fn recording(&self, plugin: &str) -> RecordingMetrics {
        let [kept, dropped] =
            RECORDING_RESULTS.map(|result| self.recorded.with_label_values(&[plugin, result]));
        RecordingMetrics { kept, dropped }
    }

    pub(crate) fn compiled(&self, plugin: &str, took: std::time::Duration) {
        self.compile.with_label_values(&[plugin]).observe(took.as_secs_f64());
    }

    pub(crate) fn swapped(&self, plugin: &str) {
        self.swaps.with_label_values(&[plugin, "ok"]).inc();
    }

    pub(crate) fn swap_refused(&self, plugin: &str) {
        self.swaps.with_label_values(&[plugin, "refused"]).inc();
    }

    pub(crate) fn rolled_back(&self, plugin: &str) {
        self.swaps.with_label_values(&[plugin, "rolled_back"]).inc();
    }

    /// `digest` is `sha256:…`; the label holds its first 12 digits.
    pub(crate) fn live(&self, plugin: &str, version: Option<&str>, digest: &str) {
        self.forget_info(plugin);
        let version = version.unwrap_or("unknown");
        let digest: String = digest.trim_start_matches("sha256:").chars().take(12).collect();
        self.info.with_label_values(&[plugin, version, &digest, &abi::track().to_string()]).set(1);
        self.shown().insert(plugin.to_owned(), (version.to_owned(), digest));
        self.set_state(plugin, "live");
    }

    pub(crate) fn failed(&self, plugin: &str) {
        self.set_state(plugin, "failed");
    }

    pub(crate) fn disabled(&self, plugin: &str) {
        self.forget_info(plugin);
        self.set_state(plugin, "disabled");
    }

    fn set_state(&self, plugin: &str, current: &str) {
        for state in STATES {
            self.state.with_label_values(&[plugin, state]).set(i64::from(state == current));
        }
    }

    /// Removes every series of a plugin that is gone.
    pub(crate) fn forget(&self, plugin: &str) {
        self.forget_info(plugin);
        let remove = |removed: prometheus::Result<()>| drop(removed); // it may never have existed
        for state in STATES {
            remove(self.state.remove_label_values(&[plugin, state]));
        }
        for result in SWAP_RESULTS {
            remove(self.swaps.remove_label_values(&[plugin, result]));
        }
        for hook in Hook::ALL {
            for result in CALL_RESULTS {
                remove(self.calls.remove_label_values(&[plugin, hook.as_str(), result]));
            }
            for kind in FailureKind::ALL {
                remove(self.failures.remove_label_values(&[plugin, hook.as_str(), kind.as_str()]));
            }
            for result in CACHE_RESULTS {
                remove(self.cache_requests.remove_label_values(&[plugin, hook.as_str(), result]));
            }
            remove(self.duration.remove_label_values(&[plugin, hook.as_str()]));
            remove(self.breaker.remove_label_values(&[plugin, hook.as_str()]));
            for kind in Difference::ALL {
                remove(self.shadow_differences.remove_label_values(&[plugin, hook.as_str(), kind.as_str()]));
            }
        }
        for result in SHADOW_RESULTS {
            remove(self.shadow_calls.remove_label_values(&[plugin, result]));
        }
        for result in RECORDING_RESULTS {
            remove(self.recorded.remove_label_values(&[plugin, result]));
        }
        for interface in Interface::ALL {
            for result in HostCallResult::ALL {
                remove(self.host_calls.remove_label_values(&[plugin, interface.as_str(), result.as_str()]));
            }
        }
        let gauges = [
            &self.inflight,
            &self.queued,
            &self.memory,
            &self.memory_peak,
            &self.poisoned,
            &self.cached,
            &self.http_connections,
        ];
        for gauges in gauges {
            remove(gauges.remove_label_values(&[plugin]));
        }
        remove(self.cache_evictions.remove_label_values(&[plugin]));
        remove(self.compile.remove_label_values(&[plugin]));
    }

    fn forget_info(&self, plugin: &str) {
        if let Some((version, digest)) = self.shown().remove(plugin) {
            let _ = self.info.remove_label_values(&[plugin, &version, &digest, &abi::track().to_string()]);
        }
    }

    fn shown(&self) -> MutexGuard<'_, HashMap<String, (String, String)>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ShadowMetrics {
    pub(crate) fn different(&self, hook: Hook, difference: Difference) {
        self.different.inc();
        if let Some((_, kinds)) = self.by_difference.iter().find(|(known, _)| *known == hook) {
            kinds[difference as usize].inc();
        }
    }
}

impl PluginMetrics {
    pub(crate) fn hook(&self, hook: Hook) -> &HookMetrics {
        let found = self.hooks.iter().find(|(known, _)| *known == hook);
        &found.expect("a plugin is only called through the hooks it has").1
    }

    pub(crate) fn host_call(&self, interface: Interface, result: HostCallResult) {
        self.host_calls[interface as usize][result as usize].inc();
    }
}

impl HookMetrics {
    pub(crate) fn decided(&self, result: &str) {
        if let Some(index) = CALL_RESULTS.iter().position(|known| *known == result) {
            self.calls[index].inc();
        }
    }

    pub(crate) fn failed(&self, kind: FailureKind) {
        self.decided("error");
        if let Some(index) = FailureKind::ALL.iter().position(|known| *known == kind) {
            self.failures[index].inc();
        }
    }
}
