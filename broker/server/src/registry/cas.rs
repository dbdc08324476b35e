//! Changes of CA certificates.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::certificate::{CertificateFacts, CertificateFingerprint, certificates_from_pem, to_pem};
use mqgate_identity::evaluation::{Anchor, AnchorLint, key_ids};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::rules::{
    CaPatch, Force, KnownCa, NewCa, Proof, Transition, Write, change_ca, check_remove_ca, end_retirement,
    register_ca, retire_ca,
};
use mqgate_identity::registry::{
    CaCertificate, CaSettings, CaState, CaUsage, DEFAULT_TRUST_DOMAIN, DeviceState, EventKind,
    MAX_CA_NAME_BYTES, NewEvent, RecordWrite, RegistryChanges, VerifiedBy,
};
use mqgate_identity::time::UnixMillis;

use super::ca_changes::CaProof;
use super::{CaRegistration, Registry, RegistryChange, RegistryError, finished};
use crate::audit::before_and_after;
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
        self.cas.load().iter().any(|ca| ca.id == id && is_anchor(ca))
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

    /// Trusts a CA from now on, on the word of who adds it. The name is for people and metrics; the subject's
    /// common name by default would let a certificate pick a metric label.
    pub async fn add_ca(
        self: &Arc<Self>,
        pem: &str,
        name: &str,
        actor: &str,
    ) -> Result<CaCertificate, RegistryError> {
        let request = CaRegistration {
            pem: pem.to_owned(),
            name: name.to_owned(),
            proof: CaProof::Skip,
            trust_domain: Some(DEFAULT_TRUST_DOMAIN.to_owned()),
            ..CaRegistration::default()
        };
        Ok(self.register_ca(request, actor).await?.after)
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
        if old.state == CaState::Retiring {
            return Err(RegistryError::Retiring);
        }
        let new = match successor {
            Successor::None(force) => {
                self.check_devices(id, force).await?;
                None
            }
            Successor::Ca { pem, name } => {
                Some(self.successor(&old, &pem, name.as_deref(), &known, actor)?)
            }
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
        let until = begun.as_ref().and_then(|begun| begun.retiring.as_ref()).map(|retiring| retiring.ends_at);
        let stored = match replaced(&old, new.as_ref(), until) {
            Ok(kept) => {
                next.extend(kept.as_ref().map(|write| write.record.clone()));
                self.store_successor(&old, new.as_ref(), kept, actor).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = stored {
            if let (Some(retirement), Some(begun)) = (&retirement, begun) {
                retirement.take_back(begun);
            }
            return Err(error);
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
        let counts = self.counts()?;
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
        actor: &str,
    ) -> Result<Write<CaCertificate>, RegistryError> {
        let facts = only_certificate(pem)?;
        if facts.certificate_fingerprint == old.id {
            return Err(RegistryError::SameCa);
        }
        let name = name.unwrap_or(&old.name);
        let existing = known.iter().find(|ca| ca.id == facts.certificate_fingerprint);
        // It is the same CA under another certificate: what was set for it goes on.
        let successor = NewCa {
            facts: &facts,
            name: name.to_owned(),
            trust_domain: Some(old.trust_domain.clone()),
            settings: old.settings.clone(),
            tags: old.tags.clone(),
            proof: Proof::Given(VerifiedBy::Skipped { by: actor.to_owned() }),
            inactive: false,
        };
        let write = match register_ca(successor, &KnownCa { existing, buried: None }, clock::now())? {
            // It is trusted already: the old one goes.
            Transition::Unchanged(record) => Write { expected: Some(record.revision), record },
            Transition::Write(write) => write,
        };
        self.check_name(&write.record.name, &[old.id, write.record.id])?;
        Ok(write)
    }

    /// Retiring CAs make room for their successors' names.
    pub(super) fn check_name(
        &self,
        name: &str,
        except: &[CertificateFingerprint],
    ) -> Result<(), RegistryError> {
        let trust = self.trust.current();
        let taken =
            |ca: &CaCertificate| ca.name == name && !except.contains(&ca.id) && !trust.is_retiring(ca.id);
        match self.cas().iter().any(taken) {
            true => Err(TrustError::NameTaken(name.to_owned()).into()),
            false => Ok(()),
        }
    }

    /// In one step: nobody sees the one without the other.
    async fn store_successor(
        &self,
        old: &CaCertificate,
        new: Option<&Write<CaCertificate>>,
        kept: Option<Write<CaCertificate>>,
        actor: &str,
    ) -> Result<(), RegistryError> {
        let now = clock::now();
        let mut changes = RegistryChanges::default();
        if let Some(Write { record, expected: None }) = new {
            changes.events.push(NewEvent::ca(EventKind::CaRegistered, None, record, actor, now));
            changes.writes.push(RecordWrite::Ca { record: Box::new(record.clone()), expected: None });
        }
        match kept {
            Some(Write { record, expected }) => {
                let kind = match record.state {
                    CaState::Retiring => EventKind::CaRetiring,
                    _ => EventKind::CaRetired,
                };
                changes.events.push(NewEvent::ca(kind, Some(old.state), &record, actor, now));
                changes.writes.push(RecordWrite::Ca { record: Box::new(record), expected });
            }
            None => {
                changes.events.push(NewEvent::ca(EventKind::CaDeleted, Some(old.state), old, actor, now));
                changes.writes.push(RecordWrite::RemoveCa { id: old.id, expected: old.revision });
            }
        }
        Ok(self.store(changes).await?)
    }

    /// Takes those out of use whose retirement is over: its end is in the ledger, and the trust set follows that.
    pub(super) async fn end_retirements(&self) {
        let is_over = |ca: &CaCertificate| ca.state == CaState::Retiring && !self.is_retiring(ca.id);
        if !self.cas.load().iter().any(is_over) {
            return;
        }
        let _writing = self.cas_writing.lock().await;
        let known = self.cas.load_full();
        let now = clock::now();
        for ca in known.iter().filter(|ca| is_over(ca)) {
            let Ok(Transition::Write(write)) = end_retirement(ca, now) else { continue };
            let event = NewEvent::ca(EventKind::CaRetired, Some(ca.state), &write.record, "system", now);
            if let Err(error) = self.put_ca(write, event).await {
                tracing::warn!(%error, ca = ca.name, "the end of a CA's retirement is not written");
            }
        }
    }

    /// A CA that is revoked is not valid for the rest of its retirement either.
    pub(super) fn end_transition_of(&self, ca: &CaCertificate, actor: &str) -> Result<(), RegistryError> {
        let Some(retirement) = self.retirement.get().filter(|_| self.is_retiring(ca.id)) else {
            return Ok(());
        };
        // No grace at all ends what was begun before.
        let begun = retirement.begin(&old_ca(ca), Some(Duration::ZERO), actor)?;
        retirement.swap(&mut |retiring| self.trust.retire(retiring))?;
        retirement.finish(begun);
        Ok(())
    }

    /// Writes one CA, and has the trust set follow. The caller holds `cas_writing`.
    pub(super) async fn put_ca(
        &self,
        write: Write<CaCertificate>,
        event: NewEvent,
    ) -> Result<CaCertificate, RegistryError> {
        let record = write.record.clone();
        let put = RecordWrite::Ca { record: Box::new(write.record), expected: write.expected };
        let changes = RegistryChanges { writes: vec![put], events: vec![event] };
        self.change_cas(changes, |cas| {
            cas.retain(|ca| ca.id != record.id);
            cas.push(record.clone());
        })
        .await?;
        Ok(record)
    }

    /// Makes a change of CAs: refused before anything is written if the trust set could not follow. The caller
    /// holds `cas_writing`.
    pub(super) async fn change_cas(
        &self,
        changes: RegistryChanges,
        apply: impl FnOnce(&mut Vec<CaCertificate>),
    ) -> Result<(), RegistryError> {
        let known = self.cas.load_full();
        let mut next = Vec::clone(&known);
        apply(&mut next);
        let (before, after) = (anchors(&known)?, anchors(&next)?);
        if before != after {
            self.trust.check_registered(after.clone())?;
        }
        self.store(changes).await?;
        if before != after {
            self.trust.register(after)?;
        }
        self.cas.store(Arc::new(next));
        self.count_cas();
        Ok(())
    }

    async fn record_retired(
        &self,
        old: &CaCertificate,
        new: Option<&CaCertificate>,
        retiring: Option<&Retiring>,
        actor: &str,
    ) -> Result<(), RegistryError> {
        let gone = about(names::CA_REMOVED, old, actor);
        let mut event = before_and_after(gone, Some(old), None::<&CaCertificate>);
        if let Some(new) = new {
            let came = about(names::CA_ADDED, new, actor).field("replaces", &*old.name);
            self.record(before_and_after(came, None::<&CaCertificate>, Some(new))).await?;
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
        for state in CaState::ALL.map(ca_state) {
            let count = states.get(state).copied().unwrap_or(0);
            self.metrics.ca_certificates.with_label_values(&[NAMESPACE, state]).set(count);
        }
        let limit = i64::try_from(self.trust.limit()).unwrap_or(i64::MAX);
        self.metrics.ca_certificates_limit.with_label_values(&[NAMESPACE]).set(limit);
    }
}

pub(super) fn only_certificate(pem: &str) -> Result<CertificateFacts, RegistryError> {
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

pub(super) fn anchors(cas: &[CaCertificate]) -> Result<Vec<Anchor>, RegistryError> {
    let mut anchors = Vec::new();
    for ca in cas.iter().filter(|ca| is_anchor(ca)) {
        let mut certificates = certificates_from_pem(ca.pem.as_bytes())?;
        anchors.push(Anchor { name: ca.name.as_str().into(), der: certificates.swap_remove(0).into() });
    }
    Ok(anchors)
}

/// Whether it is in the trust set because of its state. One that is retiring is there because of the ledger.
pub(super) fn is_anchor(ca: &CaCertificate) -> bool {
    ca.carries_connections() && ca.state != CaState::Retiring
}

/// What stays of a CA that is replaced, under another name: its own may be its successor's. `None`: nothing, it is
/// removed.
fn replaced(
    old: &CaCertificate,
    new: Option<&Write<CaCertificate>>,
    until: Option<UnixMillis>,
) -> Result<Option<Write<CaCertificate>>, RegistryError> {
    let Some(new) = new else { return Ok(None) };
    let now = clock::now();
    let Some(Write { record, expected }) = retire_ca(old, new.record.id, until, now)?.write() else {
        return Ok(None);
    };
    let id = old.id.to_hex();
    let room = MAX_CA_NAME_BYTES - 9;
    let name = format!("{}-{}", old.name.get(..room).unwrap_or(&old.name), &id[..8]);
    let patch = CaPatch { name: Some(name), ..CaPatch::default() };
    let named = change_ca(&record, &patch, now)?.record().clone();
    // One write, one revision.
    Ok(Some(Write { record: CaCertificate { revision: record.revision, ..named }, expected }))
}

fn configured(name: &Arc<str>, facts: &CertificateFacts) -> CaCertificate {
    let (subject_key_id, authority_key_id) = key_ids(facts);
    CaCertificate {
        id: facts.certificate_fingerprint,
        name: name.to_string(),
        namespace: NAMESPACE.to_owned(),
        trust_domain: DEFAULT_TRUST_DOMAIN.to_owned(),
        state: CaState::Active,
        usage: CaUsage::ClientAuth,
        settings: CaSettings::default(),
        verified_by: None,
        tags: Vec::new(),
        subject: facts.subject.display.clone(),
        issuer: facts.issuer.display.clone(),
        serial: hex::encode(&facts.serial),
        spki_sha256: hex::encode(facts.public_key.spki_sha256),
        subject_key_id: subject_key_id.map(hex::encode),
        authority_key_id: authority_key_id.map(hex::encode),
        key_algorithm: facts.public_key.algorithm_oid.clone(),
        key_bits: facts.public_key.bits,
        is_self_issued: facts.subject.raw == facts.issuer.raw,
        not_before: facts.not_before,
        not_after: facts.not_after,
        retiring_until: None,
        replaced_by: None,
        deactivated: None,
        revocation_reason: None,
        created_at: UnixMillis(0),
        updated_at: UnixMillis(0),
        last_activated: None,
        last_deactivated: None,
        revision: 0,
        pem: to_pem(&facts.der),
    }
}

pub(super) fn about(name: &'static str, ca: &CaCertificate, actor: &str) -> AuditEvent {
    let mut event = AuditEvent::new(name, Outcome::Success, Reason::Ok).actor(actor);
    event.certificate_fingerprint = Some(ca.id);
    event.subject = Some(ca.subject.clone());
    event.field("ca", &*ca.name)
}
