//! What the gate counts: listeners, TLS handshakes, decisions, registrations, the registry and the audit log.

use std::sync::Arc;

use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, core::Collector,
};

use mqgate_identity::audit::Outcome;
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::{CaState, DeviceState};

use crate::provision::ProvisionMetrics;
use crate::tls::{CertificateSet, SniMatch};

/// The one namespace there is so far; the label is there so that dashboards survive more of them.
pub const NAMESPACE: &str = "default";

/// Where in a connection's life something was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    Cert,
    Connect,
    Publish,
    Subscribe,
    Will,
}

/// How a TLS handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HandshakeResult {
    Ok,
    Failed,
    Timeout,
}

/// How an attempt to register an unknown certificate ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProvisionOutcome {
    Registered,
    Pending,
    Denied,
    RateLimited,
    Quota,
    Error,
}

/// Where the answer to a registry lookup came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LookupResult {
    Hit,
    Miss,
    NegativeHit,
}

pub struct GateMetrics {
    pub listener_up: IntGaugeVec,
    pub listener_connections: IntGaugeVec,
    pub listener_connections_limit: IntGaugeVec,
    pub listener_accepted: IntCounterVec,
    pub listener_rejected: IntCounterVec,
    pub tls_handshakes: IntCounterVec,
    pub tls_handshake_failures: IntCounterVec,
    pub tls_handshake_duration: HistogramVec,
    pub tls_sessions: IntCounterVec,
    pub tls_live_connections: IntGaugeVec,
    pub tls_resumptions: IntCounterVec,
    pub tls_sni: IntCounterVec,
    pub tls_certificate_not_after: GaugeVec,
    pub tls_certificate_not_before: GaugeVec,
    pub ca_certificates: IntGaugeVec,
    pub ca_certificates_limit: IntGaugeVec,
    pub ca_not_after: GaugeVec,
    pub device_certificates: IntGaugeVec,
    pub device_transitions: IntCounterVec,
    pub provision_attempts: IntCounterVec,
    pub provision_duration: HistogramVec,
    pub provision: Arc<ProvisionMetrics>,
    pub registry_lookups: IntCounterVec,
    pub auth_decisions: IntCounterVec,
    pub auth_decision_duration: HistogramVec,
    pub audit_records: IntCounterVec,
    pub audit_dropped: IntCounterVec,
    pub audit_write_duration: HistogramVec,
    pub audit_sink_up: IntGaugeVec,
    pub audit_sink_lag: IntGaugeVec,
    pub audit_tree_size: IntGaugeVec,
    pub audit_last_checkpoint: IntGaugeVec,
}

/// One millisecond to fifteen seconds, the handshake's deadline.
const HANDSHAKE_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0];
const DECISION_SECONDS: &[f64] =
    &[0.000_05, 0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

impl GateMetrics {
    /// Creates and registers the family.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter =
            |name, help, labels: &[&str]| keep(registry, IntCounterVec::new(Opts::new(name, help), labels)?);
        let gauge =
            |name, help, labels: &[&str]| keep(registry, IntGaugeVec::new(Opts::new(name, help), labels)?);
        let time =
            |name, help, labels: &[&str]| keep(registry, GaugeVec::new(Opts::new(name, help), labels)?);
        let histogram = |name, help, buckets: &[f64], labels: &[&str]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            keep(registry, HistogramVec::new(options, labels)?)
        };
        let metrics = Self {
            listener_up: gauge(
                "mqgate_listener_up",
                "1 while the listener accepts connections.",
                &["listener", "protocol"],
            )?,
            listener_connections: gauge(
                "mqgate_listener_connections",
                "Connections open, handshakes included.",
                &["listener"],
            )?,
            listener_connections_limit: gauge(
                "mqgate_listener_connections_limit",
                "Connections the listener keeps open at most.",
                &["listener"],
            )?,
            listener_accepted: counter(
                "mqgate_listener_accepted_total",
                "Connections accepted.",
                &["listener"],
            )?,
            listener_rejected: counter(
                "mqgate_listener_rejected_total",
                "Connections closed before MQTT: too many of one source or of all, a wrong PROXY header, no WebSocket.",
                &["listener", "reason"],
            )?,
            tls_handshakes: counter(
                "mqgate_tls_handshakes_total",
                "TLS handshakes by how they ended.",
                &["listener", "result"],
            )?,
            tls_handshake_failures: counter(
                "mqgate_tls_handshake_failures_total",
                "TLS handshakes that failed, by reason.",
                &["listener", "reason"],
            )?,
            tls_handshake_duration: histogram(
                "mqgate_tls_handshake_duration_seconds",
                "How long successful TLS handshakes took.",
                HANDSHAKE_SECONDS,
                &["listener", "kind"],
            )?,
            tls_sessions: counter(
                "mqgate_tls_sessions_total",
                "TLS sessions by what was negotiated.",
                &["listener", "version", "cipher", "group"],
            )?,
            tls_live_connections: gauge(
                "mqgate_tls_live_connections",
                "Open TLS connections.",
                &["listener", "version", "client_cert"],
            )?,
            tls_resumptions: counter(
                "mqgate_tls_resumptions_total",
                "Resumed TLS sessions by the outcome of judging the certificate again.",
                &["listener", "outcome"],
            )?,
            tls_sni: counter(
                "mqgate_tls_sni_total",
                "Clients by how the server name that they gave was met.",
                &["listener", "match"],
            )?,
            tls_certificate_not_after: time(
                "mqgate_tls_certificate_not_after_timestamp_seconds",
                "When a server certificate of the listener expires, Unix time.",
                &["bundle", "namespace", "listener"],
            )?,
            tls_certificate_not_before: time(
                "mqgate_tls_certificate_not_before_timestamp_seconds",
                "When a server certificate of the listener became valid, Unix time.",
                &["bundle", "namespace", "listener"],
            )?,
            ca_certificates: gauge(
                "mqgate_ca_certificates",
                "CA certificates known.",
                &["namespace", "state"],
            )?,
            ca_certificates_limit: gauge(
                "mqgate_ca_certificates_limit",
                "CA certificates allowed.",
                &["namespace"],
            )?,
            ca_not_after: time(
                "mqgate_ca_not_after_timestamp_seconds",
                "When a CA certificate expires, Unix time.",
                &["ca"],
            )?,
            device_certificates: gauge(
                "mqgate_device_certificates",
                "Registered device certificates by stored state.",
                &["namespace", "ca", "state"],
            )?,
            device_transitions: counter(
                "mqgate_device_certificate_transitions_total",
                "Changes of a device certificate's state.",
                &["ca", "from", "to", "source"],
            )?,
            provision_attempts: counter(
                "mqgate_provision_attempts_total",
                "Attempts to register an unknown certificate at its first connection.",
                &["ca", "outcome"],
            )?,
            provision_duration: histogram(
                "mqgate_provision_duration_seconds",
                "How long such an attempt took, plugins and storage included.",
                DECISION_SECONDS,
                &["ca"],
            )?,
            provision: Arc::new(ProvisionMetrics::register(registry)?),
            registry_lookups: counter(
                "mqgate_registry_lookups_total",
                "Lookups of device certificates by where the answer was found.",
                &["result"],
            )?,
            auth_decisions: counter(
                "mqgate_auth_decisions_total",
                "Decisions about clients.",
                &["listener", "stage", "decision", "reason"],
            )?,
            auth_decision_duration: histogram(
                "mqgate_auth_decision_duration_seconds",
                "How long decisions took.",
                DECISION_SECONDS,
                &["stage"],
            )?,
            audit_records: counter(
                "mqgate_audit_records_total",
                "Audit records accepted.",
                &["category", "outcome"],
            )?,
            audit_dropped: counter(
                "mqgate_audit_dropped_total",
                "Audit records that a sink lost.",
                &["sink", "reason"],
            )?,
            audit_write_duration: histogram(
                "mqgate_audit_write_duration_seconds",
                "How long a batch of audit records took to write.",
                DECISION_SECONDS,
                &["sink"],
            )?,
            audit_sink_up: gauge("mqgate_audit_sink_up", "1 while the sink takes records.", &["sink"])?,
            audit_sink_lag: gauge(
                "mqgate_audit_sink_lag_records",
                "Records accepted and not yet safe with the sink.",
                &["sink"],
            )?,
            audit_tree_size: gauge(
                "mqgate_audit_tree_size",
                "Audit records under the newest checkpoint.",
                &["place"],
            )?,
            audit_last_checkpoint: gauge(
                "mqgate_audit_last_checkpoint_timestamp_seconds",
                "When the newest checkpoint of the audit log was signed (place `log`) or published.",
                &["place"],
            )?,
        };
        metrics.initialise();
        Ok(metrics)
    }

    /// Label sets that are known from the start exist from the start, so that the first event is a rise.
    fn initialise(&self) {
        for result in [LookupResult::Hit, LookupResult::Miss, LookupResult::NegativeHit] {
            self.registry_lookups.with_label_values(&[result.as_str()]);
        }
        for state in CaState::ALL {
            self.ca_certificates.with_label_values(&[NAMESPACE, ca_state(state)]);
        }
        for category in AUDIT_CATEGORIES {
            for outcome in [Outcome::Success, Outcome::Failure, Outcome::Error] {
                self.audit_records.with_label_values(&[*category, outcome.as_str()]);
            }
        }
        for reason in ["queue_full", "write_failed"] {
            self.audit_dropped.with_label_values(&["file", reason]);
        }
    }

    /// Creates the label sets of one listener.
    pub fn add_listener(&self, listener: &str, protocol: &str, limit: usize) {
        self.listener_up.with_label_values(&[listener, protocol]).set(0);
        self.listener_connections.with_label_values(&[listener]);
        self.listener_connections_limit
            .with_label_values(&[listener])
            .set(limit.try_into().unwrap_or(i64::MAX));
        self.listener_accepted.with_label_values(&[listener]);
        self.auth_decisions.with_label_values(&[listener, "connect", "allow", Reason::Ok.as_str()]);
        for reason in CONNECT_REASONS {
            self.auth_decisions.with_label_values(&[listener, "connect", "deny", reason.as_str()]);
        }
        for reason in ["max_conn", "rate", "source_rate", "proxy_header", "websocket"] {
            self.listener_rejected.with_label_values(&[listener, reason]);
        }
        if !matches!(protocol, "tls" | "wss" | "quic") {
            return;
        }
        for result in [HandshakeResult::Ok, HandshakeResult::Failed, HandshakeResult::Timeout] {
            self.tls_handshakes.with_label_values(&[listener, result.as_str()]);
        }
        for reason in HANDSHAKE_REASONS {
            self.tls_handshake_failures.with_label_values(&[listener, reason.as_str()]);
        }
        for kind in ["full", "resumed"] {
            self.tls_handshake_duration.with_label_values(&[listener, kind]);
        }
        for outcome in ["accepted", "reverify_failed"] {
            self.tls_resumptions.with_label_values(&[listener, outcome]);
        }
        for found in SniMatch::ALL {
            self.tls_sni.with_label_values(&[listener, found.as_str()]);
        }
    }

    /// Shows how long the certificates of a listener are valid; those of `before` are forgotten.
    pub fn note_certificates(&self, listener: &str, before: Option<&CertificateSet>, now: &CertificateSet) {
        for bound in before.into_iter().flat_map(CertificateSet::iter) {
            let (namespace, bundle) = bound.source.labels(listener);
            let labels = [bundle, namespace, listener];
            // Not there: two places of one source, the other was first.
            let _ = self.tls_certificate_not_after.remove_label_values(&labels);
            let _ = self.tls_certificate_not_before.remove_label_values(&labels);
        }
        for bound in now.iter() {
            let (namespace, bundle) = bound.source.labels(listener);
            let labels = [bundle, namespace, listener];
            let facts = bound.certificate.facts();
            self.tls_certificate_not_after.with_label_values(&labels).set(facts.not_after.0 as f64);
            self.tls_certificate_not_before.with_label_values(&labels).set(facts.not_before.0 as f64);
        }
    }

    /// Creates the label sets of one CA.
    pub fn add_ca(&self, ca: &str) {
        for outcome in [
            ProvisionOutcome::Registered,
            ProvisionOutcome::Pending,
            ProvisionOutcome::Denied,
            ProvisionOutcome::RateLimited,
            ProvisionOutcome::Quota,
            ProvisionOutcome::Error,
        ] {
            self.provision_attempts.with_label_values(&[ca, outcome.as_str()]);
        }
        for state in DeviceState::ALL {
            self.device_certificates.with_label_values(&[NAMESPACE, ca, device_state(state)]);
        }
    }

    /// Counts one decision about a client.
    pub fn decided(&self, listener: &str, stage: Stage, reason: Reason) {
        let decision = if reason == Reason::Ok { "allow" } else { "deny" };
        self.auth_decisions.with_label_values(&[listener, stage.as_str(), decision, reason.as_str()]).inc();
    }
}

fn keep<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// The `category` label of `mqgate_audit_records_total`.
pub const AUDIT_CATEGORIES: &[&str] =
    &["authn", "authz", "registry", "ca", "plugin", "admin", "tls", "session", "system"];

/// What a TLS handshake may fail with.
pub const HANDSHAKE_REASONS: &[Reason] = &[
    Reason::TlsVersionUnsupported,
    Reason::TlsNoSharedCipher,
    Reason::TlsNoPeerCert,
    Reason::TlsSniRequired,
    Reason::TlsSniUnknown,
    Reason::TlsHandshakeTimeout,
    Reason::TlsProtocol,
    Reason::CertMalformed,
    Reason::CertV1,
    Reason::CertCaAsLeaf,
    Reason::CertDepth,
    Reason::CertUnknownCa,
    Reason::CertExpired,
    Reason::CertNotYetValid,
    Reason::CertPurpose,
    Reason::CertSigAlg,
    Reason::CertBadSignature,
    Reason::CertNameConstraint,
    Reason::CertPolicy,
    Reason::CertTooLarge,
    Reason::CertRevokedCrl,
    Reason::CrlUnknown,
    Reason::CrlStale,
];

/// What a CONNECT may be refused with.
const CONNECT_REASONS: &[Reason] = &[
    Reason::CertNotRegistered,
    Reason::CertPending,
    Reason::CertInactive,
    Reason::CertRevoked,
    Reason::CertTombstoned,
    Reason::CertSuperseded,
    Reason::CertQuarantined,
    Reason::KeyCompromised,
    Reason::CloneDetected,
    Reason::CaInactive,
    Reason::ProvisionRateLimited,
    Reason::ProvisionQuota,
    Reason::ProvisionDenied,
    Reason::ClockInsane,
    Reason::RegistryUnavailable,
    Reason::PluginDenied,
    Reason::PluginUnavailable,
    Reason::PluginTimeout,
    Reason::PluginSaturated,
    Reason::PluginInvalid,
    Reason::AllAbstained,
    Reason::ClientIdMismatch,
    Reason::ClientIdInvalid,
    Reason::BadCredentials,
    Reason::Banned,
];

/// The `state` label of device certificates.
pub const fn device_state(state: DeviceState) -> &'static str {
    state.as_str()
}

/// The `state` label of CA certificates.
pub const fn ca_state(state: CaState) -> &'static str {
    state.as_str()
}

impl Stage {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cert => "cert",
            Self::Connect => "connect",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Will => "will",
        }
    }
}

impl HandshakeResult {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
        }
    }
}

impl ProvisionOutcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Pending => "pending",
            Self::Denied => "denied",
            Self::RateLimited => "rate_limited",
            Self::Quota => "quota",
            Self::Error => "error",
        }
    }
}

impl LookupResult {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::NegativeHit => "negative_hit",
        }
    }
}
