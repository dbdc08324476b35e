//! What a listener counts and writes down about handshakes.

use std::sync::PoisonError;
use std::time::Instant;

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::reason::Reason;
use mqgate_identity::source::source_of;

use super::{FailureKey, Inner};
use crate::audit::coalesce::Coalescer;
use crate::clock;
use crate::gate::{Accepted, event_about};
use crate::metrics::gate::{HandshakeResult, Stage};
use crate::tls::HandshakeFailure;

impl Inner {
    pub(super) fn count(
        &self,
        session: &mqgate_identity::hooks::TlsSession,
        version: &str,
        group: Option<rustls::NamedGroup>,
        has_certificate: bool,
        started: Instant,
    ) {
        let listener = &*self.name;
        let metrics = &self.parts.metrics;
        metrics.tls_handshakes.with_label_values(&[listener, HandshakeResult::Ok.as_str()]).inc();
        let kind = if session.resumed { "resumed" } else { "full" };
        let took = started.elapsed().as_secs_f64();
        metrics.tls_handshake_duration.with_label_values(&[listener, kind]).observe(took);
        // 0: QUIC's library does not tell.
        let cipher = Some(session.cipher_suite).filter(|suite| *suite != 0).map(rustls::CipherSuite::from);
        let cipher = cipher.and_then(|suite| suite.as_str()).unwrap_or("other");
        let group = group.map_or("none", |group| group.as_str().unwrap_or("other"));
        metrics.tls_sessions.with_label_values(&[listener, version, cipher, group]).inc();
        if session.resumed {
            metrics.tls_resumptions.with_label_values(&[listener, "accepted"]).inc();
        }
        if has_certificate {
            metrics.decided(listener, Stage::Cert, Reason::Ok);
        }
    }

    pub(super) fn failed(&self, failure: HandshakeFailure, accepted: &Accepted) {
        let listener = &*self.name;
        let metrics = &self.parts.metrics;
        let result = match failure.reason {
            Reason::TlsHandshakeTimeout => HandshakeResult::Timeout,
            _ => HandshakeResult::Failed,
        };
        metrics.tls_handshakes.with_label_values(&[listener, result.as_str()]).inc();
        metrics.tls_handshake_failures.with_label_values(&[listener, failure.reason.as_str()]).inc();
        if let Some(sni) = failure.sni {
            metrics.tls_sni.with_label_values(&[listener, sni.as_str()]).inc();
        }
        if failure.certificate_fingerprint.is_some() {
            metrics.decided(listener, Stage::Cert, failure.reason);
        }
        if failure.crowded && failure.reason == Reason::TlsHandshakeTimeout {
            metrics.listener_rejected.with_label_values(&[listener, "rate"]).inc();
        }
        if failure.resumed {
            metrics.tls_resumptions.with_label_values(&[listener, "reverify_failed"]).inc();
        }
        tracing::debug!(
            listener,
            peer = %accepted.peer.address,
            reason = %failure.reason,
            detail = failure.detail,
            "TLS handshake failed"
        );
        let event = AuditEvent::new(names::HANDSHAKE_FAILED, Outcome::Failure, failure.reason);
        let mut event = event_about(event, accepted).field("detail", failure.detail);
        event.server_name = failure.server_name;
        event.certificate_fingerprint = failure.certificate_fingerprint;
        event.subject = failure.subject;
        if let Some(certificate) = failure.certificate {
            event = event
                .field("certificate.issuer", certificate.issuer)
                .field("certificate.serial", certificate.serial)
                .field("certificate.not_before", certificate.not_before.to_string())
                .field("certificate.not_after", certificate.not_after.to_string());
        }
        // Only a CA's signature, which revocation is looked up behind, says that a certificate is not made up:
        // then each has its own record. Who makes certificates up gets one for all of them, and their number.
        let proved = matches!(failure.reason, Reason::CertRevokedCrl | Reason::CrlUnknown | Reason::CrlStale);
        let whose = failure.certificate_fingerprint.filter(|_| proved);
        let key = (source_of(accepted.peer.address), failure.reason, whose);
        let due = self.failures().offer(clock::now(), key, event);
        for event in due {
            self.parts.audit.record(event);
        }
    }

    /// Writes down that a connection was closed before it could speak MQTT.
    pub(super) fn refused(&self, reason: Reason, detail: &str, accepted: &Accepted) {
        let event = AuditEvent::new(names::CONNECTION_REFUSED, Outcome::Failure, reason);
        let event = event_about(event, accepted).field("detail", detail);
        let due =
            self.failures().offer(clock::now(), (source_of(accepted.peer.address), reason, None), event);
        for event in due {
            self.parts.audit.record(event);
        }
    }

    pub(super) fn failures(&self) -> std::sync::MutexGuard<'_, Coalescer<FailureKey>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
