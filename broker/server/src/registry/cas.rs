//! Changes of CA certificates.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::certificate::{CertificateFacts, CertificateFingerprint, certificates_from_pem, to_pem};
use mqgate_identity::evaluation::{Anchor, AnchorLint};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::rules::{Force, Transition, Write, add_ca, check_remove_ca};
use mqgate_identity::registry::{CaCertificate, CaState, DeviceState, StorageError};
use mqgate_identity::time::UnixMillis;

use super::{Registry, RegistryChange, RegistryError, finished};
use crate::clock;
use crate::metrics::gate::{NAMESPACE, ca_state};
use crate::retirement::{Old, OldMaterial, Retiring};
use crate::trust::TrustError;

/// What takes the place of a CA.
enum Successor {
    /// Nothing; whether it goes although certificates are registered under it.
    None(Force),
    Ca {
        pem: String,
        name: Option<String>,
    },
}

/// A CA that is in the registry no longer.
#[derive(Debug, Clone)]
pub struct RetiredCa {
    pub old: CaCertificate,
    pub new: Option<CaCertificate>,
    /// How it stays valid; `None`: it does not.
    pub retiring: Option<Retiring>,
}

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
        facts.map_or_else(Vec::new, |facts| self.trust.lint(&facts, &self.policy(), clock::now().seconds()))
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
        let facts = only_certificate(pem)?;
        let known = self.cas.load_full();
        let existing = known.iter().find(|ca| ca.id == facts.certificate_fingerprint);
        let write = match add_ca(&facts, name, existing, clock::now())? {
            Transition::Unchanged(ca) => return Ok(ca),
            Transition::Write(write) => write,
        };
        self.check_name(name, &[facts.certificate_fingerprint])?;
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

    /// Trusts a CA no longer: after its grace, or at once without any, new connections under it are refused and
    /// live ones are closed.
    pub async fn remove_ca(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        force: Force,
        grace: Option<Duration>,
        actor: &str,
    ) -> Result<RetiredCa, RegistryError> {
        let (this, actor) = (Arc::clone(self), actor.to_owned());
        finished(async move { this.retire(id, Successor::None(force), grace, &actor).await }).await
    }

    /// Trusts another CA in the place of one, which stays valid beside it for its grace. Without a name it gets
    /// that of the old one.
    pub async fn replace_ca(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        pem: &str,
        name: Option<&str>,
        grace: Option<Duration>,
        actor: &str,
    ) -> Result<RetiredCa, RegistryError> {
        let (this, actor) = (Arc::clone(self), actor.to_owned());
        let successor = Successor::Ca { pem: pem.to_owned(), name: name.map(str::to_owned) };
        finished(async move { this.retire(id, successor, grace, &actor).await }).await
    }

    async fn retire(
        &self,
        id: CertificateFingerprint,
        successor: Successor,
        grace: Option<Duration>,
        actor: &str,
    ) -> Result<RetiredCa, RegistryError> {
        let _writing = self.cas_writing.lock().await;
        self.audit.check()?;
        let known = self.cas.load_full();
        let Some(old) = known.iter().find(|ca| ca.id == id).cloned() else {
            let trust = self.trust.current();
            return Err(match (trust.contains(id), trust.is_retiring(id)) {
                (true, true) => RegistryError::Retiring,
                (true, false) => RegistryError::Configured,
                (false, _) => RegistryError::NotFound,
            });
        };
        let new = match successor {
            Successor::None(force) => {
                self.check_devices(id, force).await?;
                None
            }
            Successor::Ca { pem, name } => Some(self.successor(&old, &pem, name.as_deref(), &known)?),
        };
        let mut next: Vec<_> = known.iter().filter(|ca| ca.id != id).cloned().collect();
        if let Some(Write { record, .. }) = &new {
            next.retain(|ca| ca.id != record.id);
            next.push(record.clone());
        }
        let next_anchors = anchors(&next)?;
        // A set that cannot be used is refused before anything is written.
        self.trust.check_registered(next_anchors.clone())?;
        let retirement = self.retirement.get();
        let begun = match &retirement {
            Some(retirement) => Some(retirement.begin(&old_ca(&old), grace, actor)?),
            None => None,
        };
        if let Err(error) = self.store_successor(&old, new.as_ref()).await {
            if let (Some(retirement), Some(begun)) = (&retirement, begun) {
                retirement.take_back(begun);
            }
            return Err(error.into());
        }
        match &retirement {
            Some(retirement) => retirement
                .swap(&mut |retiring| self.trust.register_and_retire(next_anchors.clone(), retiring))?,
            None => self.trust.register(next_anchors)?,
        }
        self.cas.store(Arc::new(next));
        self.count_cas();
        let retiring = begun.as_ref().and_then(|begun| begun.retiring.clone());
        if let (Some(retirement), Some(begun)) = (&retirement, begun) {
            retirement.finish(begun);
        }
        if retiring.is_none() {
            // Who has another path stays, and so does who is on a listener that has it from the configuration.
            self.tell(RegistryChange::CaRemoved { ca: id });
        }
        let new = new.map(|write| write.record);
        self.record_retired(&old, new.as_ref(), retiring.as_ref(), actor).await?;
        Ok(RetiredCa { old, new, retiring })
    }

    async fn check_devices(&self, id: CertificateFingerprint, force: Force) -> Result<(), RegistryError> {
        let counts = self.blocking(|storage| storage.device_certificate_counts()).await?;
        let devices = counts
            .iter()
            .filter(|((of, state), _)| *of == id && *state != DeviceState::Tombstone)
            .map(|(_, count)| *count)
            .sum();
        Ok(check_remove_ca(devices, force)?)
    }

    /// The record of the CA that takes the place of `old`.
    fn successor(
        &self,
        old: &CaCertificate,
        pem: &str,
        name: Option<&str>,
        known: &[CaCertificate],
    ) -> Result<Write<CaCertificate>, RegistryError> {
        let facts = only_certificate(pem)?;
        if facts.certificate_fingerprint == old.id {
            return Err(RegistryError::SameCa);
        }
        let name = name.unwrap_or(&old.name);
        let existing = known.iter().find(|ca| ca.id == facts.certificate_fingerprint);
        let write = match add_ca(&facts, name, existing, clock::now())? {
            // It is trusted already: the old one goes.
            Transition::Unchanged(record) => Write { expected: Some(record.revision), record },
            Transition::Write(write) => write,
        };
        self.check_name(&write.record.name, &[old.id, write.record.id])?;
        Ok(write)
    }

    /// Retiring CAs make room for their successors' names.
    fn check_name(&self, name: &str, except: &[CertificateFingerprint]) -> Result<(), RegistryError> {
        let trust = self.trust.current();
        let taken =
            |ca: &CaCertificate| ca.name == name && !except.contains(&ca.id) && !trust.is_retiring(ca.id);
        match self.cas().iter().any(taken) {
            true => Err(TrustError::NameTaken(name.to_owned()).into()),
            false => Ok(()),
        }
    }

    /// The new one first: what is left of a half-done change trusts who is trusted anyway.
    async fn store_successor(
        &self,
        old: &CaCertificate,
        new: Option<&Write<CaCertificate>>,
    ) -> Result<(), StorageError> {
        let added = new.filter(|write| write.expected.is_none()).map(|write| write.record.clone());
        let (old_id, old_revision) = (old.id, old.revision);
        self.blocking(move |storage| {
            if let Some(added) = &added {
                storage.put_ca_certificate(added, None)?;
            }
            let removed = storage.remove_ca_certificate(&old_id, old_revision);
            if let (Err(_), Some(added)) = (&removed, &added) {
                storage.remove_ca_certificate(&added.id, added.revision)?;
            }
            removed
        })
        .await
    }

    async fn record_retired(
        &self,
        old: &CaCertificate,
        new: Option<&CaCertificate>,
        retiring: Option<&Retiring>,
        actor: &str,
    ) -> Result<(), RegistryError> {
        let mut event = about(names::CA_REMOVED, old, actor);
        if let Some(new) = new {
            self.record(about(names::CA_ADDED, new, actor).field("replaces", &*old.name)).await?;
            event = event.field("replaced_by", new.id.to_hex());
        }
        if let Some(retiring) = retiring {
            event = event
                .field("transition", &*retiring.id)
                .field("ends", retiring.ends_at.seconds().to_string());
        }
        self.record(event).await
    }

    /// Whether a CA is trusted only until its transition ends.
    pub fn is_retiring(&self, id: CertificateFingerprint) -> bool {
        self.trust.current().is_retiring(id)
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

fn only_certificate(pem: &str) -> Result<CertificateFacts, RegistryError> {
    let certificates = certificates_from_pem(pem.as_bytes())?;
    let [der] = certificates.as_slice() else {
        let detail = format!("there are {}: add one CA at a time", certificates.len());
        return Err(RegistryError::Pem(detail));
    };
    Ok(CertificateFacts::parse(der)?)
}

fn old_ca(ca: &CaCertificate) -> Old<'_> {
    Old {
        what: OldMaterial::Ca,
        name: &ca.name,
        fingerprint: ca.id,
        subject: &ca.subject,
        not_after: ca.not_after,
        pem: &ca.pem,
        // What the registry trusts is trusted everywhere.
        listeners: &[],
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
