//! What is odd about a client although it may be let in, or was refused for it: written once in a while for each
//! certificate, so that a client that comes again and again writes no more than that.

use std::sync::Arc;

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::{DeviceCertificate, EventKind, is_topic_safe};
use mqgate_protocol::permit::Permit;

use super::judge::{Decision, No};
use super::{Accepted, Gate, binding, facts};
use crate::registry::Registry;
use crate::sharing::{Arrival, OnShared};
use crate::{clock, directory};

impl Gate {
    /// Writes an event about a certificate, unless the same was written a moment ago.
    fn finding(
        &self,
        registry: &Arc<Registry>,
        kind: EventKind,
        accepted: &Accepted,
        record: &DeviceCertificate,
        detail: String,
    ) {
        if let Some(attempts) = self.findings.attempted(record.id, kind) {
            let mut context = facts::event_context(accepted);
            context.attempts = Some(attempts).filter(|attempts| *attempts > 1);
            context.detail = Some(detail);
            registry.finding(kind, record, context);
        }
    }

    /// A client was refused for something that is worth an event.
    pub(super) fn note_violation(&self, accepted: &Accepted, record: &DeviceCertificate, no: &No) {
        if let (Some(registry), Some(kind)) = (&self.registry, no.finding) {
            let detail = no.detail.clone().unwrap_or_default();
            self.finding(registry, kind, accepted, record, detail);
        }
    }

    /// Refuses a client that asks for the client id that another device's certificate is bound to: its topics may be
    /// named after it. Looks only.
    pub(super) async fn is_not_anothers(
        &self,
        record: &DeviceCertificate,
        client_id: &str,
    ) -> Result<(), No> {
        let Some(registry) = &self.registry else { return Ok(()) };
        if client_id.is_empty() || record.client_id.is_some() {
            return Ok(());
        }
        let owner = registry
            .bound_to(client_id, &record.trust_domain, &record.device_id)
            .await
            .map_err(|error| No::unanswered(Reason::RegistryUnavailable, error.to_string()))?;
        match owner {
            None => Ok(()),
            Some(owner) => Err(binding::is_anothers(client_id, &owner).about(&record.device_id)),
        }
    }

    /// A name of the client stands in a topic of its rules, and would change what the topic means: such a rule allows
    /// nothing.
    pub(super) fn note_injection(&self, accepted: &Accepted, decision: &Decision, permit: &Permit) {
        let (Some(registry), Some(record)) = (&self.registry, decision.record.as_deref()) else { return };
        let values = [
            ("${client-id}", Some(&*permit.client_id)),
            ("${device-id}", Some(&*permit.device_id)),
            ("${tenant}", permit.tenant.as_deref()),
        ];
        for (variable, value) in values {
            let Some(value) = value.filter(|value| !is_topic_safe(value)) else { continue };
            let mut rules = decision.rules.iter().flat_map(|set| &set.rules);
            if rules.any(|rule| rule.filter.contains(variable)) {
                let detail = format!("{variable} is {value:?}, which cannot stand in a topic");
                self.finding(registry, EventKind::CertTopicInjection, accepted, record, detail);
                return;
            }
        }
    }

    /// Looks whether the certificate is on two devices, and does what is to be done about it.
    pub(super) async fn check_sharing(
        &self,
        accepted: &Accepted,
        keep_alive: u16,
        decision: &Decision,
        permit: &Permit,
    ) -> Result<(), No> {
        let (Some(sharing), Some(registry)) = (self.sharing.get(), &self.registry) else { return Ok(()) };
        let (Some(certificate), Some(record)) = (&accepted.certificate, decision.record.as_deref()) else {
            return Ok(());
        };
        let arrival = Arrival {
            connection_id: accepted.id,
            certificate: record.id,
            device_id: &permit.device_id,
            client_id: &permit.client_id,
            address: accepted.peer.address,
            keep_alive,
        };
        let Some(found) = sharing.judge(arrival, &certificate.anchor.name) else { return Ok(()) };
        let detail = format!("the certificate is on more than one device: {}", found.evidence);
        if found.is_news {
            let mut context = facts::event_context(accepted);
            context.detail = Some(format!("{detail}; {}", found.action.as_str()));
            registry.finding(EventKind::CertSharedDetected, record, context);
            tracing::warn!(certificate = %record.id, device_id = record.device_id, detail, "a shared certificate");
        }
        let refused = |reason, detail| Err(No::because(reason).about(&record.device_id).detail(detail));
        match found.action {
            OnShared::Alert => Ok(()),
            OnShared::RejectNew => refused(Reason::CloneDetected, detail),
            OnShared::KickOld => {
                for older in sharing.others(arrival) {
                    older.close(directory::Farewell {
                        code: mqgate_codec::ReasonCode::SESSION_TAKEN_OVER,
                        reason: Reason::CloneDetected,
                    });
                }
                Ok(())
            }
            OnShared::Quarantine => {
                // Sends away who is there. What cannot be written is refused all the same.
                if let Err(error) = registry.quarantine(record.id, &detail, "system:sharing").await {
                    tracing::error!(%error, certificate = %record.id, "a shared certificate is not quarantined");
                    return refused(Reason::CloneDetected, detail);
                }
                refused(Reason::CertQuarantined, detail)
            }
        }
    }
}

/// When what was written about which certificate.
#[derive(Debug, Default)]
pub(super) struct Findings {
    of: std::sync::Mutex<std::collections::HashMap<(CertificateFingerprint, EventKind), Counted>>,
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    told: u64,
    since: u64,
}

/// Milliseconds between two events of one kind about one certificate.
const PERIOD: u64 = 60_000;
/// Certificates that are counted; of others nothing is written.
const MOST: usize = 10_000;

impl Findings {
    /// Counts one; the number since it was written last, if it is to be written now.
    pub(super) fn attempted(&self, id: CertificateFingerprint, kind: EventKind) -> Option<u64> {
        self.attempted_at(id, kind, clock::now().0)
    }

    fn attempted_at(&self, id: CertificateFingerprint, kind: EventKind, now: u64) -> Option<u64> {
        let mut of = directory::lock(&self.of);
        if of.len() >= MOST {
            of.retain(|_, counted| now.saturating_sub(counted.told) < PERIOD);
        }
        if of.len() >= MOST && !of.contains_key(&(id, kind)) {
            return None;
        }
        let counted = of.entry((id, kind)).or_insert(Counted { told: 0, since: 0 });
        counted.since += 1;
        // A clock that was set back ends the period, too.
        if counted.told <= now && now - counted.told < PERIOD {
            return None;
        }
        let attempts = counted.since;
        *counted = Counted { told: now, since: 0 };
        Some(attempts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_a_minute_with_the_number() {
        let findings = Findings::default();
        let id = CertificateFingerprint([7; 32]);
        let start = 1_767_312_000_000;
        let at = |seconds: u64| findings.attempted_at(id, EventKind::CertPending, start + seconds * 1000);
        assert_eq!(at(0), Some(1));
        assert_eq!((at(1), at(30), at(59)), (None, None, None));
        let other = findings.attempted_at(id, EventKind::CertBindingViolation, start);
        assert_eq!(other, Some(1), "another kind is counted by itself");
        assert_eq!(at(60), Some(4), "three that were not told, and this one");
        assert_eq!(at(61), None);
        assert_eq!(findings.attempted_at(id, EventKind::CertPending, start - 1), Some(2), "a clock set back");
    }

    #[test]
    fn a_flood_of_certificates_is_not_counted_without_end() {
        let findings = Findings::default();
        let mut bytes = [0; 32];
        for number in 0..MOST + 100 {
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            let told =
                findings.attempted_at(CertificateFingerprint(bytes), EventKind::CertPending, 1_000_000_000);
            assert_eq!(told.is_some(), number < MOST);
        }
        assert_eq!(directory::lock(&findings.of).len(), MOST);
        // A minute later they are forgotten.
        let id = CertificateFingerprint([0xff; 32]);
        assert_eq!(findings.attempted_at(id, EventKind::CertPending, 1_000_000_000 + PERIOD), Some(1));
        assert_eq!(directory::lock(&findings.of).len(), 1);
    }
}
