//! What revocation lists count: how old they are, how long, and how fetching them went.

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry};

pub(super) const RESULTS: [&str; 9] =
    ["ok", "not_modified", "refused", "timeout", "too_large", "status", "failed", "malformed", "untrusted"];

pub(super) struct CrlMetrics {
    pub(super) fetches: IntCounterVec,
    pub(super) next_update: GaugeVec,
    pub(super) this_update: GaugeVec,
    pub(super) entries: IntGaugeVec,
}

impl CrlMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let ca = &["ca"];
        let metrics = Self {
            fetches: IntCounterVec::new(
                Opts::new("mqgate_crl_fetches_total", "Fetches of revocation lists, by CA and result."),
                &["ca", "result"],
            )?,
            next_update: GaugeVec::new(
                Opts::new(
                    "mqgate_crl_next_update_timestamp_seconds",
                    "When the CA's revocation list has to be replaced; 0: it does not say.",
                ),
                ca,
            )?,
            this_update: GaugeVec::new(
                Opts::new(
                    "mqgate_crl_this_update_timestamp_seconds",
                    "When the CA issued the revocation list that is in use: its age is the time since then.",
                ),
                ca,
            )?,
            entries: IntGaugeVec::new(
                Opts::new("mqgate_crl_entries", "Certificates on the CA's revocation list."),
                ca,
            )?,
        };
        registry.register(Box::new(metrics.fetches.clone()))?;
        registry.register(Box::new(metrics.next_update.clone()))?;
        registry.register(Box::new(metrics.this_update.clone()))?;
        registry.register(Box::new(metrics.entries.clone()))?;
        for result in RESULTS {
            metrics.fetches.with_label_values(&["other", result]);
        }
        Ok(metrics)
    }
}
