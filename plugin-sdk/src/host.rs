//! What the broker offers a plugin, as traits, so that a plugin's tests need no WebAssembly: see
//! [`crate::testing::MemoryHost`].
//!
//! The traits are used through generics, never as trait objects: a call that a plugin does not make is then
//! absent from its component, and the broker refuses imports that the operator did not grant.

use std::time::Duration;

use crate::http::{HttpError, HttpRequest, HttpResponse};
use crate::types::{
    Attribute, Device, Entry, KeyValueError, Level, Metric, MetricDefinition, MetricError, Page,
    RegistryError, Seconds, UnixMillis,
};

/// Everything the broker can offer. `log` is always there, the others need a grant.
pub trait Host: Log + KeyValue + Registry + Metrics + Http + Clock + Random {}

impl<T: Log + KeyValue + Registry + Metrics + Http + Clock + Random> Host for T {}

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

/// Requests to servers that the operator allows. Needs the grant `http`.
pub trait Http {
    /// Sends a request and waits for the whole answer, whatever its status. Redirects are not followed. The answer counts
    /// as uncertain: with it a decision holds for one connection, whatever the plugin says.
    fn send(&self, request: &HttpRequest) -> Result<HttpResponse, HttpError>;
}

/// The broker's clock, in whole milliseconds. Needs the grant `clock`.
pub trait Clock {
    fn now(&self) -> UnixMillis;
    /// Since some moment, and never backwards.
    fn elapsed(&self) -> Duration;
}

/// Randomness fit for secrets. Needs the grant `random`.
pub trait Random {
    /// At most 64 KiB at once.
    fn random(&self, length: usize) -> Vec<u8>;
}

/// The broker around this component.
#[cfg(target_arch = "wasm32")]
pub struct Broker;

#[cfg(target_arch = "wasm32")]
mod broker {
    use super::*;
    use crate::bindings::granted::wasi::{clocks, random::random};
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

    impl Http for Broker {
        fn send(&self, request: &HttpRequest) -> Result<HttpResponse, HttpError> {
            crate::http::send(request)
        }
    }

    impl Clock for Broker {
        fn now(&self) -> UnixMillis {
            let now = clocks::wall_clock::now();
            now.seconds.saturating_mul(1000).saturating_add(u64::from(now.nanoseconds / 1_000_000))
        }

        fn elapsed(&self) -> Duration {
            Duration::from_nanos(clocks::monotonic_clock::now())
        }
    }

    impl Random for Broker {
        fn random(&self, length: usize) -> Vec<u8> {
            random::get_random_bytes(length as u64)
        }
    }
}
