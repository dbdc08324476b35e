//! Numbers of the admin API.

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::Route;

pub struct AdminMetrics {
    requests: IntCounterVec,
    duration: HistogramVec,
    pub(super) replays: IntCounter,
    pub(super) displaced: IntCounter,
    /// Open streams of events.
    pub(in crate::admin) streams: IntGauge,
}

impl AdminMetrics {
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new("mqgate_admin_requests_total", "Requests to the admin API, by route and status."),
                &["method", "route", "code"],
            )?,
            duration: HistogramVec::new(
                HistogramOpts::new(
                    "mqgate_admin_request_duration_seconds",
                    "Time from a request to the beginning of its answer.",
                )
                .buckets(vec![0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0]),
                &["route"],
            )?,
            replays: IntCounter::new(
                "mqgate_admin_idempotency_replays_total",
                "Answers that were repeated for an Idempotency-Key.",
            )?,
            displaced: IntCounter::new(
                "mqgate_admin_idempotency_displaced_total",
                "Answers kept for an Idempotency-Key that had to make room before their time.",
            )?,
            streams: IntGauge::new("mqgate_admin_event_streams", "Streams of events that are open.")?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.duration.clone()))?;
        registry.register(Box::new(metrics.replays.clone()))?;
        registry.register(Box::new(metrics.displaced.clone()))?;
        registry.register(Box::new(metrics.streams.clone()))?;
        Ok(metrics)
    }

    pub(super) fn count(&self, route: &Route, status: u16, seconds: f64) {
        let path = route.doc.path;
        self.requests.with_label_values(&[route.doc.method.as_str(), path, &status.to_string()]).inc();
        self.duration.with_label_values(&[path]).observe(seconds);
    }
}
