//! What judging live connections again counts, and how long it takes until they are gone.

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use super::Trigger;

/// The promise is one second.
const SECONDS: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 15.0, 60.0];

pub(super) struct LiveMetrics {
    reevaluations: IntCounterVec,
    latency: HistogramVec,
}

impl LiveMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            reevaluations: IntCounterVec::new(
                Opts::new(
                    "mqgate_session_reevaluations_total",
                    "Live connections that were judged again, by what made it necessary and how it ended.",
                ),
                &["trigger", "outcome"],
            )?,
            latency: HistogramVec::new(
                HistogramOpts::new(
                    "mqgate_revocation_disconnect_latency_seconds",
                    "Time from a change that bars a connection to its end: the client was told, its session is closed.",
                )
                .buckets(SECONDS.to_vec()),
                &["trigger"],
            )?,
        };
        registry.register(Box::new(metrics.reevaluations.clone()))?;
        registry.register(Box::new(metrics.latency.clone()))?;
        for trigger in Trigger::ALL {
            for outcome in ["kept", "disconnected"] {
                metrics.reevaluations.with_label_values(&[trigger.as_str(), outcome]);
            }
            metrics.latency(trigger);
        }
        Ok(metrics)
    }

    pub(super) fn kept(&self, trigger: Trigger) {
        self.reevaluations.with_label_values(&[trigger.as_str(), "kept"]).inc();
    }

    pub(super) fn disconnected(&self, trigger: Trigger) {
        self.reevaluations.with_label_values(&[trigger.as_str(), "disconnected"]).inc();
    }

    pub(super) fn latency(&self, trigger: Trigger) -> Histogram {
        self.latency.with_label_values(&[trigger.as_str()])
    }
}
