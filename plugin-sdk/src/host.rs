//! What the broker offers a plugin, as traits, so that a plugin's tests need no WebAssembly: see
//! [`crate::testing::MemoryHost`].
//!
//! The traits are used through generics, never as trait objects: a call that a plugin does not make is then
//! absent from its component, and the broker refuses imports that the operator did not grant.

use crate::types::{
    Attribute, Device, Entry, KeyValueError, Level, Metric, MetricDefinition, MetricError, Page,
    RegistryError, Seconds,
};

/// Everything the broker can offer. `log` is always there, the others need a grant.
pub trait Host: Log + KeyValue + Registry + Metrics {}

impl<T: Log + KeyValue + Registry + Metrics> Host for T {}

/// Structured logging. The broker limits the rate, shortens and escapes.
pub trait Log {
    fn enabled(&self, level: Level) -> bool;
    fn log(&self, level: Level, message: &str, fields: &[Attribute]);
}

/// A key-value space of the plugin's own, kept across instances and upgrades. Needs the grant `kv`.
pub trait KeyValue {
    fn get(&self, key: &str) -> Result<Option<Entry>, KeyValueError>;
    fn set(&self, key: &str, value: &[u8], ttl: Option<Seconds>) -> Result<(), KeyValueError>;
    /// Writes only if the entry still has the version `expected`, or does not exist when that is `None`.
    fn swap(
        &self,
        key: &str,
        expected: Option<u64>,
        value: &[u8],
        ttl: Option<Seconds>,
    ) -> Result<u64, KeyValueError>;
    /// Atomic addition; starts from 0.
    fn add(&self, key: &str, delta: i64, ttl: Option<Seconds>) -> Result<i64, KeyValueError>;
    fn delete(&self, key: &str) -> Result<(), KeyValueError>;
    fn list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<Page, KeyValueError>;
}

/// Reads the device registry. Needs the grant `registry.read`.
pub trait Registry {
    fn device_by_id(&self, device_id: &str) -> Result<Option<Device>, RegistryError>;
    fn device_by_fingerprint(&self, sha256: &[u8]) -> Result<Option<Device>, RegistryError>;
    fn count_devices(&self, tenant: Option<&str>, tag: Option<&str>) -> Result<u64, RegistryError>;
}

/// Prometheus series of the plugin's own, defined during `init`. Needs the grant `metrics`.
pub trait Metrics {
    fn define_metric(&self, metric: &MetricDefinition) -> Result<Metric, MetricError>;
    fn record_metric(&self, metric: Metric, value: f64, labels: &[String]);
}

/// The broker around this component.
#[cfg(target_arch = "wasm32")]
pub struct Broker;

#[cfg(target_arch = "wasm32")]
mod broker {
    use super::*;
    use crate::bindings::host::mqgate::plugin::{key_value, log, metrics, registry};

    impl Log for Broker {
        fn enabled(&self, level: Level) -> bool {
            log::enabled(level)
        }

        fn log(&self, level: Level, message: &str, fields: &[Attribute]) {
            log::write(level, message, fields);
        }
    }

    impl KeyValue for Broker {
        fn get(&self, key: &str) -> Result<Option<Entry>, KeyValueError> {
            key_value::get(key)
        }

        fn set(&self, key: &str, value: &[u8], ttl: Option<Seconds>) -> Result<(), KeyValueError> {
            key_value::set(key, value, ttl)
        }

        fn swap(
            &self,
            key: &str,
            expected: Option<u64>,
            value: &[u8],
            ttl: Option<Seconds>,
        ) -> Result<u64, KeyValueError> {
            key_value::swap(key, expected, value, ttl)
        }

        fn add(&self, key: &str, delta: i64, ttl: Option<Seconds>) -> Result<i64, KeyValueError> {
            key_value::add(key, delta, ttl)
        }

        fn delete(&self, key: &str) -> Result<(), KeyValueError> {
            key_value::delete(key)
        }

        fn list(&self, prefix: &str, cursor: Option<&str>, limit: u32) -> Result<Page, KeyValueError> {
            key_value::list(prefix, cursor, limit)
        }
    }

    impl Registry for Broker {
        fn device_by_id(&self, device_id: &str) -> Result<Option<Device>, RegistryError> {
            registry::by_id(device_id)
        }

        fn device_by_fingerprint(&self, sha256: &[u8]) -> Result<Option<Device>, RegistryError> {
            registry::by_fingerprint(sha256)
        }

        fn count_devices(&self, tenant: Option<&str>, tag: Option<&str>) -> Result<u64, RegistryError> {
            registry::count(tenant, tag)
        }
    }

    impl Metrics for Broker {
        fn define_metric(&self, metric: &MetricDefinition) -> Result<Metric, MetricError> {
            metrics::define(metric)
        }

        fn record_metric(&self, metric: Metric, value: f64, labels: &[String]) {
            metrics::record(metric, value, labels);
        }
    }
}
