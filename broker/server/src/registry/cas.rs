//! Changes of CA certificates.

use std::collections::BTreeMap;
use std::sync::Arc;

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::certificate::{CertificateFacts, CertificateFingerprint, certificates_from_pem, to_pem};
use mqgate_identity::evaluation::{Anchor, AnchorLint};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::rules::{Force, Transition, add_ca, check_remove_ca};
use mqgate_identity::registry::{CaCertificate, CaState, DeviceState};
use mqgate_identity::time::UnixMillis;

use super::{Registry, RegistryChange, RegistryError, finished};
use crate::clock;
use crate::metrics::gate::{NAMESPACE, ca_state};
use crate::trust::TrustError;

impl Registry {
    /// Every CA that is known: those of the registry, and those of the configuration (revision 0).
    pub fn cas(&self) -> Vec<CaCertificate> {
        let mut cas: Vec<_> = self.cas.load().iter().cloned().collect();
        let trust = self.trust.current();
        for (name, facts) in trust.anchors.iter() {
            if !cas.iter().any(|ca| ca.id == facts.certificate_fingerprint) {
                cas.push(configured(name, facts));
            }
        }
        cas
    }

    /// Whether a CA is trusted everywhere because it is in the registry, whatever the configuration says.
    pub fn trusts_by_itself(&self, id: CertificateFingerprint) -> bool {
        self.cas.load().iter().any(|ca| ca.id == id && ca.state == CaState::Active)
    }

    /// One of them.
    pub fn ca(&self, id: CertificateFingerprint) -> Option<CaCertificate> {
        if let Some(ca) = self.cas.load().iter().find(|ca| ca.id == id) {
            return Some(ca.clone());
        }
        let trust = self.trust.current();
        let (name, facts) = trust.anchors.iter().find(|(_, facts)| facts.certificate_fingerprint == id)?;
        Some(configured(name, facts))
    }

    /// What an operator should know of a CA, each with a sentence.
    pub fn lint_ca(&self, ca: &CaCertificate) -> Vec<(AnchorLint, String)> {
        let facts = certificates_from_pem(ca.pem.as_bytes())
            .ok()
            .and_then(|mut certificates| CertificateFacts::parse(&certificates.swap_remove(0)).ok());
        facts.map_or_else(Vec::new, |facts| self.trust.lint(&facts, self.policy(), clock::now().seconds()))
    }

    /// Writes to the log what an operator should know of every CA.
    pub fn log_ca_lints(&self) {
        for ca in self.cas() {
            for (lint, detail) in self.lint_ca(&ca) {
                tracing::warn!(ca = ca.name, lint = lint.as_str(), detail, "a CA is odd");
            }
        }
    }

    /// Trusts a CA from now on. The name is for people and metrics; the subject's common name by default
    /// would let a certificate pick a metric label.
    pub async fn add_ca(
        self: &Arc<Self>,
        pem: &str,
        name: &str,
        actor: &str,
    ) -> Result<CaCertificate, RegistryError> {
        let (this, pem, name, actor) = (Arc::clone(self), pem.to_owned(), name.to_owned(), actor.to_owned());
        finished(async move { this.add(&pem, &name, &actor).await }).await
    }

    async fn add(&self, pem: &str, name: &str, actor: &str) -> Result<CaCertificate, RegistryError> {
        let _writing = self.cas_writing.lock().await;
        self.audit.check()?;
        let certificates = certificates_from_pem(pem.as_bytes())?;
        let [der] = certificates.as_slice() else {
            return Err(RegistryError::Pem(format!(
                "there are {}: add one CA at a time",
                certificates.len()
            )));
        };
        let facts = CertificateFacts::parse(der)?;
        let known = self.cas.load_full();
        let existing = known.iter().find(|ca| ca.id == facts.certificate_fingerprint);
        let write = match add_ca(&facts, name, existing, clock::now())? {
            Transition::Unchanged(ca) => return Ok(ca),
            Transition::Write(write) => write,
        };
        if self.cas().iter().any(|ca| ca.name == name && ca.id != facts.certificate_fingerprint) {
            return Err(TrustError::NameTaken(name.to_owned()).into());
        }
        let mut next = Vec::clone(&known);
        next.retain(|ca| ca.id != write.record.id);
        next.push(write.record.clone());
        let anchors = anchors(&next)?;
        // A set that cannot be used is refused before anything is written.
        self.trust.check_registered(anchors.clone())?;
        let (record, expected) = (write.record.clone(), write.expected);
        self.blocking(move |storage| storage.put_ca_certificate(&record, expected)).await?;
        self.trust.register(anchors)?;
        self.cas.store(Arc::new(next));
        self.count_cas();
        for (lint, detail) in self.lint_ca(&write.record) {
            tracing::warn!(ca = write.record.name, lint = lint.as_str(), detail, "a CA is odd");
        }
        self.record(about(names::CA_ADDED, &write.record, actor)).await?;
        Ok(write.record)
    }

    /// Trusts a CA no longer: new connections under it are refused, live ones are closed.
    pub async fn remove_ca(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        force: Force,
        actor: &str,
    ) -> Result<CaCertificate, RegistryError> {
        let (this, actor) = (Arc::clone(self), actor.to_owned());
        finished(async move { this.remove(id, force, &actor).await }).await
    }

    async fn remove(
        &self,
        id: CertificateFingerprint,
        force: Force,
        actor: &str,
    ) -> Result<CaCertificate, RegistryError> {
        let _writing = self.cas_writing.lock().await;
        let known = self.cas.load_full();
        let Some(ca) = known.iter().find(|ca| ca.id == id).cloned() else {
            return Err(match self.trust.current().contains(id) {
                true => RegistryError::Configured,
                false => RegistryError::NotFound,
            });
        };
        let counts = self.blocking(|storage| storage.device_certificate_counts()).await?;
        let devices = counts
            .iter()
            .filter(|((of, state), _)| *of == id && *state != DeviceState::Tombstone)
            .map(|(_, count)| *count)
            .sum();
        check_remove_ca(devices, force)?;
        let revision = ca.revision;
        self.blocking(move |storage| storage.remove_ca_certificate(&id, revision)).await?;
        let next: Vec<_> = known.iter().filter(|ca| ca.id != id).cloned().collect();
        self.trust.register(anchors(&next)?)?;
        self.cas.store(Arc::new(next));
        self.count_cas();
        if !self.trust.current().contains(id) {
            self.tell(RegistryChange::CaRemoved { ca: id });
        }
        self.record(about(names::CA_REMOVED, &ca, actor)).await?;
        Ok(ca)
    }

    pub(super) async fn load_cas(&self) -> Result<(), RegistryError> {
        let _writing = self.cas_writing.lock().await;
        let cas = self.blocking(|storage| storage.ca_certificates()).await?;
        self.trust.register(anchors(&cas)?)?;
        self.cas.store(Arc::new(cas));
        self.count_cas();
        Ok(())
    }

    /// Brings the gauges up to date; to be called, too, after the CAs of the configuration changed.
    pub fn count_cas(&self) {
        let cas = self.cas();
        let mut states: BTreeMap<&str, i64> = BTreeMap::new();
        self.metrics.ca_not_after.reset();
        for ca in &cas {
            *states.entry(ca_state(ca.state)).or_default() += 1;
            self.metrics.ca_not_after.with_label_values(&[&*ca.name]).set(ca.not_after.0 as f64);
            self.metrics.add_ca(&ca.name);
        }
        for state in [CaState::Active, CaState::Inactive, CaState::Revoked].map(ca_state) {
            let count = states.get(state).copied().unwrap_or(0);
            self.metrics.ca_certificates.with_label_values(&[NAMESPACE, state]).set(count);
        }
        let limit = i64::try_from(self.trust.limit()).unwrap_or(i64::MAX);
        self.metrics.ca_certificates_limit.with_label_values(&[NAMESPACE]).set(limit);
    }
}

fn anchors(cas: &[CaCertificate]) -> Result<Vec<Anchor>, RegistryError> {
    let mut anchors = Vec::new();
    for ca in cas.iter().filter(|ca| ca.state == CaState::Active) {
        let mut certificates = certificates_from_pem(ca.pem.as_bytes())?;
        anchors.push(Anchor { name: ca.name.as_str().into(), der: certificates.swap_remove(0).into() });
    }
    Ok(anchors)
}

fn configured(name: &Arc<str>, facts: &CertificateFacts) -> CaCertificate {
    CaCertificate {
        id: facts.certificate_fingerprint,
        name: name.to_string(),
        state: CaState::Active,
        subject: facts.subject.display.clone(),
        not_before: facts.not_before,
        not_after: facts.not_after,
        created_at: UnixMillis(0),
        updated_at: UnixMillis(0),
        revision: 0,
        pem: to_pem(&facts.der),
    }
}

fn about(name: &'static str, ca: &CaCertificate, actor: &str) -> AuditEvent {
    let mut event = AuditEvent::new(name, Outcome::Success, Reason::Ok).actor(actor);
    event.certificate_fingerprint = Some(ca.id);
    event.subject = Some(ca.subject.clone());
    event.field("ca", &*ca.name)
}
