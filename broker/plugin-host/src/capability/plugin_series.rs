//! The series of all plugins: who means what by a name, and one collector that shows them beside the broker's own.
//!
//! The registry of the metrics library never forgets the labels and the help a name once had, so a plugin's next
//! version could not change them. Here a name belongs to the versions that claim it, from their trial until they
//! retire.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use crate::bindings::mqgate::plugin::metrics::{Definition, Kind};

/// Series that a histogram has beside its own name.
const OF_HISTOGRAM: [&str; 3] = ["_bucket", "_count", "_sum"];

/// All names, over all plugins.
#[derive(Clone, Default)]
pub(crate) struct PluginSeries {
    claims: Arc<Mutex<Vec<Claim>>>,
    versions: Arc<AtomicU64>,
}

struct Claim {
    plugin: Arc<str>,
    version: u64,
    name: String,
    kind: Kind,
    labels: Vec<String>,
    /// Shown from the first definition outside a trial.
    shown: Option<Box<dyn Collector>>,
}

/// The claims of one version of a plugin. They end with it, or before, when it is replaced.
pub(crate) struct Version {
    series: PluginSeries,
    plugin: Arc<str>,
    number: u64,
}

impl PluginSeries {
    /// Shows the series in what `registry` gathers.
    pub(crate) fn show_in(&self, registry: &Registry) -> prometheus::Result<()> {
        let description = "Series that plugins define.".to_owned();
        let desc = Desc::new("mqgate_plugin_custom".to_owned(), description, Vec::new(), HashMap::new())?;
        registry.register(Box::new(Shown { series: self.clone(), desc }))
    }

    pub(crate) fn version(&self, plugin: Arc<str>) -> Arc<Version> {
        let number = self.versions.fetch_add(1, Ordering::Relaxed);
        Arc::new(Version { series: self.clone(), plugin, number })
    }

    fn claims(&self) -> MutexGuard<'_, Vec<Claim>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Version {
    pub(crate) fn plugin(&self) -> &str {
        &self.plugin
    }

    /// Claims a name, and shows the series of `collector` under it. Refused, in words, when another plugin means
    /// something else by the name. Versions of one plugin never stand in each other's way: only one is shown.
    pub(crate) fn claim(
        &self,
        definition: &Definition,
        collector: Option<Box<dyn Collector>>,
    ) -> Result<(), String> {
        let mut claims = self.series.claims();
        for other in claims.iter().filter(|claim| claim.plugin != self.plugin) {
            let has = || format!("the plugin {} has {}", other.plugin, other.describe());
            if other.name == definition.name {
                if other.kind != definition.kind || other.labels != definition.labels {
                    return Err(format!("{}; kind and labels must be the same, or the name another", has()));
                }
            } else if overlap(&other.name, other.kind, &definition.name, definition.kind) {
                return Err(format!("{}, a histogram's series would have one name with others", has()));
            }
        }
        let own = |claim: &Claim| claim.version == self.number && claim.name == definition.name;
        claims.retain(|claim| !own(claim));
        claims.push(Claim {
            plugin: Arc::clone(&self.plugin),
            version: self.number,
            name: definition.name.clone(),
            kind: definition.kind,
            labels: definition.labels.clone(),
            shown: collector,
        });
        Ok(())
    }

    /// Gives up every name, and shows nothing any more.
    pub(crate) fn retire(&self) {
        self.series.claims().retain(|claim| claim.version != self.number);
    }
}

impl Drop for Version {
    fn drop(&mut self) {
        self.retire();
    }
}

impl Claim {
    fn describe(&self) -> String {
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        format!("a {kind} {} with the labels [{}]", self.name, self.labels.join(", "))
    }
}

/// Whether one is a histogram whose series include the other's name.
pub(crate) fn overlap(one: &str, kind: Kind, other: &str, other_kind: Kind) -> bool {
    let includes = |histogram: &str, kind: Kind, name: &str| {
        kind == Kind::Histogram && name.strip_prefix(histogram).is_some_and(|end| OF_HISTOGRAM.contains(&end))
    };
    includes(one, kind, other) || includes(other, other_kind, one)
}

struct Shown {
    series: PluginSeries,
    /// The registry wants one to know the collector by.
    desc: Desc,
}

impl Collector for Shown {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    /// The registry joins families of one name.
    fn collect(&self) -> Vec<MetricFamily> {
        let claims = self.series.claims();
        claims.iter().filter_map(|claim| claim.shown.as_ref()).flat_map(|shown| shown.collect()).collect()
    }
}
