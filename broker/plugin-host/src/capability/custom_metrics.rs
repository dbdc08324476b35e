//! `mqgate:plugin/metrics`: series a plugin owns. Bounded in number, with names nobody else has.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::core::Collector;
use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, Opts};

use super::plugin_series::{Version, overlap};
use crate::bindings::mqgate::plugin::metrics::{Definition, Error, Host, Kind};
use crate::instance::{Purpose, StoreState, shorten};
use crate::metrics::Interface;
use crate::settings::MetricsSettings;

const PREFIX: &str = "mqgate_plugin_custom_";
/// What all labels say once the plugin has its number of series.
const OVERFLOW: &str = "overflow";
const MAX_NAME: usize = 64;
const MAX_LABELS: usize = 8;
const MAX_LABEL_VALUE: usize = 128;
const MAX_HELP: usize = 256;
const MAX_BUCKETS: usize = 32;

/// The metrics one version of a plugin defined, shared by its instances.
pub(crate) struct CustomMetrics {
    version: Arc<Version>,
    settings: MetricsSettings,
    /// In a trial everything is checked and claimed, and nothing is shown.
    purpose: Purpose,
    defined: Mutex<Defined>,
}

#[derive(Default)]
struct Defined {
    metrics: Vec<(Definition, Family)>,
    by_name: HashMap<String, u32>,
    series: HashSet<(u32, Vec<String>)>,
    retired: bool,
    /// The first name refused because of another plugin, and why.
    clash: Option<String>,
}

#[derive(Clone)]
enum Family {
    Counter(CounterVec),
    Gauge(GaugeVec),
    Histogram(HistogramVec),
}

impl CustomMetrics {
    pub(crate) fn new(version: Arc<Version>, settings: MetricsSettings, purpose: Purpose) -> Self {
        Self { version, settings, purpose, defined: Mutex::default() }
    }

    /// Takes the series out of what is shown: the plugin is gone or replaced.
    pub(crate) fn retire(&self) {
        // Locked first: a definition under way must not claim a name afterwards.
        let mut defined = self.defined();
        defined.retired = true;
        self.version.retire();
    }

    /// Why a name was refused because of another plugin, if one was.
    pub(crate) fn clash(&self) -> Option<String> {
        self.defined().clash.clone()
    }

    fn define(&self, definition: Definition) -> Result<u32, Error> {
        let mut defined = self.defined();
        // Every instance defines its metrics anew.
        if let Some(&known) = defined.by_name.get(&definition.name) {
            let same = same(&defined.metrics[known as usize].0, &definition);
            return same.then_some(known).ok_or_else(|| {
                invalid(&definition, "it is defined already, with another kind, labels or buckets")
            });
        }
        if defined.metrics.len() >= self.settings.metrics {
            return Err(Error::TooManyMetrics);
        }
        check(&definition)?;
        let family = self.family(&definition).map_err(|error| invalid(&definition, &error.to_string()))?;
        let overlapping = defined
            .metrics
            .iter()
            .find(|(known, _)| overlap(&known.name, known.kind, &definition.name, definition.kind));
        if let Some((known, _)) = overlapping {
            let why = format!("with {}, a histogram's series would have one name with others", known.name);
            return Err(invalid(&definition, &why));
        }
        if !defined.retired {
            let collector = (self.purpose == Purpose::Calls).then(|| family.collector());
            if let Err(why) = self.version.claim(&definition, collector) {
                let error = format!("{}: {why}", definition.name);
                defined.clash.get_or_insert(error);
                return Err(invalid(&definition, &why));
            }
        }
        let number = defined.metrics.len() as u32;
        defined.by_name.insert(definition.name.clone(), number);
        defined.metrics.push((definition, family));
        Ok(number)
    }

    fn family(&self, definition: &Definition) -> prometheus::Result<Family> {
        let help = if definition.help.is_empty() { "A plugin's own metric." } else { &definition.help };
        let options = Opts::new(format!("{PREFIX}{}", definition.name), help)
            .const_label("plugin", self.version.plugin());
        let labels: Vec<&str> = definition.labels.iter().map(String::as_str).collect();
        Ok(match definition.kind {
            Kind::Counter => Family::Counter(CounterVec::new(options, &labels)?),
            Kind::Gauge => Family::Gauge(GaugeVec::new(options, &labels)?),
            Kind::Histogram => {
                let mut options = HistogramOpts::from(options);
                if !definition.buckets.is_empty() {
                    options = options.buckets(definition.buckets.clone());
                }
                Family::Histogram(HistogramVec::new(options, &labels)?)
            }
        })
    }

    /// False when the sample makes no sense and was ignored.
    fn record(&self, number: u32, value: f64, mut labels: Vec<String>) -> bool {
        let mut defined = self.defined();
        let Some((definition, family)) = defined.metrics.get(number as usize) else { return false };
        if labels.len() != definition.labels.len() || !value.is_finite() {
            return false;
        }
        let family = family.clone();
        for label in &mut labels {
            *label = shorten(std::mem::take(label), MAX_LABEL_VALUE);
        }
        let series = (number, labels);
        let mut labels = series.1.clone();
        if !defined.series.contains(&series) {
            if defined.series.len() < self.settings.series {
                defined.series.insert(series);
            } else {
                labels.fill(String::from(OVERFLOW));
            }
        }
        match family {
            Family::Counter(counter) if value >= 0.0 => counter.with_label_values(&labels).inc_by(value),
            Family::Counter(_) => return false,
            Family::Gauge(gauge) => gauge.with_label_values(&labels).set(value),
            Family::Histogram(histogram) => histogram.with_label_values(&labels).observe(value),
        }
        true
    }

    fn defined(&self) -> MutexGuard<'_, Defined> {
        self.defined.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Family {
    fn collector(&self) -> Box<dyn Collector> {
        match self {
            Self::Counter(family) => Box::new(family.clone()),
            Self::Gauge(family) => Box::new(family.clone()),
            Self::Histogram(family) => Box::new(family.clone()),
        }
    }
}

impl Host for StoreState {
    fn define(&mut self, definition: Definition) -> Result<u32, Error> {
        let outcome = if self.initializing {
            self.services.custom_metrics.define(definition)
        } else {
            Err(Error::NotDuringInit)
        };
        self.services.count(Interface::Metrics, &outcome);
        outcome
    }

    fn record(&mut self, metric: u32, value: f64, labels: Vec<String>) {
        let recorded = self.services.custom_metrics.record(metric, value, labels);
        self.services.count(Interface::Metrics, &recorded.then_some(()).ok_or(()));
    }
}

fn check(definition: &Definition) -> Result<(), Error> {
    let is_name = |name: &str| {
        name.len() <= MAX_NAME
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let fail = |why| Err(invalid(definition, why));
    if !is_name(&definition.name) {
        return fail("a name is at most 64 of a-z, 0-9 and _, and begins with a letter");
    }
    if definition.help.len() > MAX_HELP || definition.help.chars().any(char::is_control) {
        return fail("its help is longer than 256 bytes or holds control characters");
    }
    if definition.labels.len() > MAX_LABELS {
        return fail("it has more than 8 labels");
    }
    if definition.labels.iter().any(|label| !is_name(label) || label == "plugin" || label == "le") {
        return fail(
            "a label is at most 64 of a-z, 0-9 and _, begins with a letter, and is not `plugin` or `le`",
        );
    }
    if definition.labels.iter().collect::<HashSet<_>>().len() != definition.labels.len() {
        return fail("it has a label twice");
    }
    let rises = definition.buckets.is_sorted_by(|a, b| a < b);
    if definition.buckets.len() > MAX_BUCKETS
        || !rises
        || !definition.buckets.iter().all(|bound| bound.is_finite())
    {
        return fail("its buckets are more than 32, or not finite numbers that rise");
    }
    Ok(())
}

fn same(known: &Definition, other: &Definition) -> bool {
    known.kind == other.kind && known.labels == other.labels && known.buckets == other.buckets
}

fn invalid(definition: &Definition, why: &str) -> Error {
    Error::InvalidName(format!("{}: {why}", shorten(definition.name.clone(), MAX_NAME)))
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::capability::PluginSeries;

    fn definition(name: &str, kind: Kind, labels: &[&str]) -> Definition {
        Definition {
            name: name.to_owned(),
            help: String::from("help"),
            kind,
            labels: labels.iter().map(|&label| label.to_owned()).collect(),
            buckets: Vec::new(),
        }
    }

    fn shown() -> (Registry, PluginSeries) {
        let (registry, series) = (Registry::new(), PluginSeries::default());
        series.show_in(&registry).expect("shown");
        (registry, series)
    }

    fn metrics(series: &PluginSeries, plugin: &str) -> CustomMetrics {
        let settings = MetricsSettings { metrics: 3, series: 2 };
        CustomMetrics::new(series.version(plugin.into()), settings, Purpose::Calls)
    }

    fn text(registry: &Registry) -> String {
        prometheus::TextEncoder::new().encode_to_string(&registry.gather()).expect("text")
    }

    #[test]
    fn series_are_capped_and_the_rest_overflows() {
        let (registry, series) = shown();
        let metrics = metrics(&series, "p");
        let number = metrics.define(definition("seen_total", Kind::Counter, &["who"])).expect("defined");
        assert_eq!(metrics.define(definition("seen_total", Kind::Counter, &["who"])).expect("again"), number);
        for who in ["a", "b", "c", "d", "a"] {
            assert!(metrics.record(number, 1.0, vec![who.to_owned()]));
        }
        for (value, labels) in [(-1.0, 1), (f64::NAN, 1), (f64::INFINITY, 1), (1.0, 0), (1.0, 2)] {
            assert!(!metrics.record(number, value, vec![String::from("a"); labels]), "{value} {labels}");
        }
        assert!(!metrics.record(number + 1, 1.0, Vec::new()));
        let text = text(&registry);
        assert!(text.contains(r#"mqgate_plugin_custom_seen_total{plugin="p",who="a"} 2"#), "{text}");
        assert!(text.contains(r#"{plugin="p",who="overflow"} 2"#), "{text}");
        assert!(!text.contains(r#"who="c""#), "{text}");
    }

    #[test]
    fn names_are_checked_and_belong_to_one_meaning() {
        let (_, series) = shown();
        let first = metrics(&series, "first");
        let second = metrics(&series, "second");
        for name in ["", "1x", "A", "a-b", "a b", "ä", &"a".repeat(65)] {
            assert!(first.define(definition(name, Kind::Gauge, &[])).is_err(), "{name:?}");
        }
        for labels in [&["plugin"][..], &["le"], &["__name"], &["a", "a"]] {
            assert!(first.define(definition("x", Kind::Gauge, labels)).is_err(), "{labels:?}");
        }
        first.define(definition("x", Kind::Gauge, &["a"])).expect("defined");
        second.define(definition("x", Kind::Gauge, &["a"])).expect("another plugin, same meaning");
        let third = metrics(&series, "third");
        assert!(third.define(definition("x", Kind::Gauge, &["b"])).is_err(), "another meaning");
        assert!(third.define(definition("x", Kind::Counter, &["a"])).is_err(), "another kind");
        assert!(third.clash().expect("noted").contains("first has a gauge x with the labels [a]"));
        for name in ["b", "c", "d"] {
            assert!(third.define(definition(name, Kind::Gauge, &[])).is_ok(), "{name}");
        }
        assert!(matches!(third.define(definition("e", Kind::Gauge, &[])), Err(Error::TooManyMetrics)));
    }

    #[test]
    fn the_series_of_histograms_keep_their_names() {
        let (_, series) = shown();
        let first = metrics(&series, "first");
        first.define(definition("x", Kind::Histogram, &[])).expect("defined");
        first.define(definition("y_sum", Kind::Counter, &[])).expect("defined");
        for plugin in ["first", "second"] {
            let metrics = if plugin == "first" { &first } else { &metrics(&series, plugin) };
            assert!(metrics.define(definition("x_count", Kind::Counter, &[])).is_err(), "{plugin}");
            assert!(metrics.define(definition("y", Kind::Histogram, &[])).is_err(), "{plugin}");
            metrics.define(definition("x_total", Kind::Counter, &[])).expect("another name");
        }
    }

    #[test]
    fn what_is_retired_is_gone_and_can_mean_something_else() {
        let (registry, series) = shown();
        let old = metrics(&series, "p");
        let number = old.define(definition("x", Kind::Gauge, &[])).expect("defined");
        old.record(number, 1.0, Vec::new());
        let other = metrics(&series, "other");
        let theirs = other.define(definition("y", Kind::Gauge, &[])).expect("defined");
        other.record(theirs, 7.0, Vec::new());

        let settings = MetricsSettings { metrics: 3, series: 2 };
        let version = series.version("p".into());
        let trial = CustomMetrics::new(Arc::clone(&version), settings, Purpose::Trial);
        let next = Definition { help: "another".into(), ..definition("x", Kind::Counter, &["a"]) };
        trial.define(next.clone()).expect("the version before is no obstacle");
        assert!(other.define(definition("x", Kind::Gauge, &[])).is_err(), "p means two things by it");
        assert!(text(&registry).contains(r#"x{plugin="p"} 1"#), "a trial shows and hides nothing");

        old.retire();
        assert!(!text(&registry).contains("_x"), "{}", text(&registry));
        let new = CustomMetrics::new(version, settings, Purpose::Calls);
        let number = new.define(next).expect("defined");
        new.record(number, 2.0, vec!["b".into()]);
        // A call of the old version that ends late, and one that begins late.
        old.record(0, 3.0, Vec::new());
        old.define(definition("z", Kind::Gauge, &[])).expect("defined");
        old.record(1, 3.0, Vec::new());
        let shown = text(&registry);
        assert_eq!(shown.matches("# TYPE mqgate_plugin_custom_x ").count(), 1, "{shown}");
        assert!(shown.contains(r#"x{a="b",plugin="p"} 2"#), "{shown}");
        assert!(shown.contains(r#"y{plugin="other"} 7"#) && !shown.contains("_z"), "{shown}");

        drop((trial, new));
        assert!(!text(&registry).contains("_x"), "what never was retired ends with the version");
        other.define(definition("x", Kind::Gauge, &[])).expect("nobody has it now");
    }

    #[test]
    fn plugins_share_a_family() {
        let (registry, series) = shown();
        for plugin in ["a", "b"] {
            let metrics = metrics(&series, plugin);
            let number = metrics
                .define(Definition { help: plugin.into(), ..definition("x", Kind::Gauge, &["l"]) })
                .expect("defined");
            metrics.record(number, 1.0, vec!["v".into()]);
            std::mem::forget(metrics);
        }
        let shown = text(&registry);
        assert_eq!(shown.matches("# HELP").count(), 1, "{shown}");
        assert_eq!(shown.matches("} 1").count(), 2, "{shown}");
    }
}
