//! What registering at a first connection counts besides its attempts: what held somebody back.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::Empty;

pub struct ProvisionMetrics {
    pub(super) rate_limited: IntCounterVec,
    pub(super) parked: IntGaugeVec,
    pub(super) not_parked: IntCounterVec,
    pub(super) released: IntCounterVec,
    pub(super) rejected: IntGauge,
}

/// How waiting for an operator ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    Activated,
    Refused,
    Timeout,
}

impl Wait {
    const ALL: [Self; 3] = [Self::Activated, Self::Refused, Self::Timeout];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Activated => "activated",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
        }
    }
}

impl ProvisionMetrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name, help, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let metrics = Self {
            rate_limited: counter(
                "mqgate_provision_rate_limited_total",
                "Unknown certificates that were not registered because a rate was used up: of all, of the CA, of the source.",
                &["bucket"],
            )?,
            parked: IntGaugeVec::new(
                Opts::new(
                    "mqgate_provision_parked_connections",
                    "Connections that wait for their certificate to be activated.",
                ),
                &["listener"],
            )?,
            not_parked: counter(
                "mqgate_provision_not_parked_total",
                "Connections that were refused at once because too many wait already.",
                &["listener"],
            )?,
            released: counter(
                "mqgate_provision_parked_total",
                "Connections that waited for their certificate to be activated, by how that ended.",
                &["outcome"],
            )?,
            rejected: IntGauge::new(
                "mqgate_provision_rejected_remembered",
                "Certificates in the list of those that were not registered.",
            )?,
        };
        registry.register(Box::new(metrics.rate_limited.clone()))?;
        registry.register(Box::new(metrics.parked.clone()))?;
        registry.register(Box::new(metrics.not_parked.clone()))?;
        registry.register(Box::new(metrics.released.clone()))?;
        registry.register(Box::new(metrics.rejected.clone()))?;
        for bucket in Empty::ALL {
            metrics.rate_limited.with_label_values(&[bucket.as_str()]);
        }
        for outcome in Wait::ALL {
            metrics.released.with_label_values(&[outcome.as_str()]);
        }
        Ok(metrics)
    }
}

/// For tests: the numbers.
#[cfg(test)]
impl ProvisionMetrics {
    pub(crate) fn parked_on(&self, listener: &str) -> IntGauge {
        self.parked.with_label_values(&[listener])
    }

    pub(crate) fn not_parked_on(&self, listener: &str) -> u64 {
        self.not_parked.with_label_values(&[listener]).get()
    }

    pub(crate) fn waits(&self, outcome: &str) -> u64 {
        self.released.with_label_values(&[outcome]).get()
    }

    pub(crate) fn limited(&self, bucket: &str) -> u64 {
        self.rate_limited.with_label_values(&[bucket]).get()
    }
}
