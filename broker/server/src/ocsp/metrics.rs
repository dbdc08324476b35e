//! What is counted of OCSP, by server certificate: names that the operator chose.

use prometheus::{GaugeVec, IntCounterVec, Opts, Registry};

/// Every `result` of a fetch.
pub(super) const RESULTS: [&str; 16] = [
    "ok",
    "no_responder",
    "no_issuer",
    "older",
    "refused",
    "timeout",
    "too_large",
    "status",
    "failed",
    "malformed",
    "error_status",
    "other_certificate",
    "signature",
    "stale",
    "revoked",
    "unknown",
];

pub(super) struct OcspMetrics {
    valid_until: GaugeVec,
    fetches: IntCounterVec,
}

impl OcspMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let valid_until = GaugeVec::new(
            Opts::new(
                "mqgate_ocsp_staple_valid_until_timestamp_seconds",
                "Until when the OCSP response that is sent with the server certificate counts, Unix time; 0: none is sent.",
            ),
            &["bundle"],
        )?;
        let fetches = IntCounterVec::new(
            Opts::new(
                "mqgate_ocsp_fetches_total",
                "Fetches of OCSP responses, by server certificate and result.",
            ),
            &["bundle", "result"],
        )?;
        registry.register(Box::new(valid_until.clone()))?;
        registry.register(Box::new(fetches.clone()))?;
        Ok(Self { valid_until, fetches })
    }

    /// Shows a certificate from the beginning.
    pub(super) fn begin(&self, bundle: &str) {
        self.valid_until.with_label_values(&[bundle]).set(0.0);
        for result in RESULTS {
            self.fetches.with_label_values(&[bundle, result]);
        }
    }

    /// Shows one no longer that is there no longer.
    pub(super) fn end(&self, bundle: &str) {
        let _ = self.valid_until.remove_label_values(&[bundle]);
    }

    /// 0: nothing is sent.
    pub(super) fn valid_until(&self, bundle: &str, until: i64) {
        self.valid_until.with_label_values(&[bundle]).set(until as f64);
    }

    pub(super) fn fetched(&self, bundle: &str, result: &str) {
        self.fetches.with_label_values(&[bundle, result]).inc();
    }

    #[cfg(test)]
    pub(super) fn count(&self, bundle: &str, result: &str) -> u64 {
        self.fetches.with_label_values(&[bundle, result]).get()
    }

    #[cfg(test)]
    pub(super) fn until(&self, bundle: &str) -> f64 {
        self.valid_until.with_label_values(&[bundle]).get()
    }
}
