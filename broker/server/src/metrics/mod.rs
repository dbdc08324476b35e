//! The numbers an operator scrapes: one registry, its text form, and what describes the process itself.
//!
//! Each subject registers its own family: the gate in [`gate`], the data path in `mqtt`, plugins and the
//! admin API beside their code, through [`Metrics::registry`]. No label value comes from a client.

pub mod gate;
pub mod mqtt;

use std::sync::Arc;
use std::time::SystemTime;

use prometheus::{Gauge, IntGaugeVec, Opts, TextEncoder};

pub use gate::GateMetrics;

/// What `mqgate_build_info` says.
#[derive(Debug, Clone, Default)]
pub struct BuildInfo {
    pub version: String,
    pub revision: String,
    pub rustc: String,
    pub features: String,
}

/// All metrics of this process.
pub struct Metrics {
    registry: prometheus::Registry,
    pub gate: Arc<GateMetrics>,
}

impl Metrics {
    /// The metrics every broker has. Fails only if two families share a name.
    pub fn new(build: &BuildInfo) -> Result<Arc<Self>, prometheus::Error> {
        let registry = prometheus::Registry::new();
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;

        let info = IntGaugeVec::new(
            Opts::new("mqgate_build_info", "What this broker was built from; always 1."),
            &["version", "revision", "rustc", "features"],
        )?;
        info.with_label_values(&[
            build.version.as_str(),
            build.revision.as_str(),
            build.rustc.as_str(),
            build.features.as_str(),
        ])
        .set(1);
        registry.register(Box::new(info))?;

        let started = Gauge::new("mqgate_start_time_seconds", "When this broker started, Unix time.")?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        started.set(now.as_secs_f64());
        registry.register(Box::new(started))?;

        let gate = Arc::new(GateMetrics::register(&registry)?);
        Ok(Arc::new(Self { registry, gate }))
    }

    /// Where other subjects register their families.
    pub fn registry(&self) -> &prometheus::Registry {
        &self.registry
    }

    /// The classic text format, for `GET /metrics`; its content type is [`prometheus::TEXT_FORMAT`].
    pub fn encode(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_the_build_and_the_process() {
        let build = BuildInfo { version: "1.2.3".into(), ..BuildInfo::default() };
        let metrics = Metrics::new(&build).unwrap();
        let text = metrics.encode().unwrap();
        assert!(text.contains(r#"version="1.2.3""#), "{text}");
        assert!(text.contains("mqgate_start_time_seconds"), "{text}");
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    }
}
