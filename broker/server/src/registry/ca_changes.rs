//! How CAs get into the registry, and the changes of their state.

use std::collections::BTreeMap;
use std::sync::Arc;

use mqgate_identity::audit::{AuditEvent, names};
use mqgate_identity::certificate::{CertificateFacts, CertificateFingerprint};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::rules::{
    CaPatch, Cascade, KnownCa, NewCa, Proof, RevocationReason, RuleError, Transition, activate_ca, bury_ca,
    change_ca, check_code, check_delete_ca, check_verification, deactivate_ca, register_ca, revoke,
    revoke_ca, use_code, verify_ca,
};
use mqgate_identity::registry::{
    CaCertificate, CaSettings, CaState, DeviceQuery, DeviceState, EventKind, MAX_PAGE, NewEvent,
    OnDeactivate, RecordWrite, RegistrationCode, RegistryChanges, VerifiedBy,
};
use mqgate_identity::time::UnixMillis;

use super::ask::{Ask, Changed, ChangedCa};
use super::cas::{about, only_certificate};
use super::changes::{Called, Verdict};
use super::{Registry, RegistryChange, RegistryError, finished};
use crate::audit::before_and_after;
use crate::clock;
use crate::metrics::gate::ca_state;

/// A CA to be registered.
#[derive(Debug, Clone, Default)]
pub struct CaRegistration {
    /// One certificate.
    pub pem: String,
    pub name: String,
    pub proof: CaProof,
    /// Verified, but not to be used yet.
    pub inactive: bool,
    /// `None`: one of its own.
    pub trust_domain: Option<String>,
    pub settings: CaSettings,
    pub tags: Vec<String>,
}

/// How it is known that who registers a CA holds its key.
#[derive(Debug, Clone, Default)]
pub enum CaProof {
    /// Not yet: it verifies nothing.
    #[default]
    None,
    /// A certificate that the CA signed, with a registration code as its common name.
    Certificate(String),
    /// On the word of who asks; whether that may be is for who calls.
    Skip,
}

/// What a change of a CA would concern.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CaImpact {
    /// Certificates registered under it.
    pub certificates: BTreeMap<DeviceState, u64>,
}

/// A rule applied to a CA.
type CaRule<'a> =
    dyn Fn(&CaCertificate, UnixMillis) -> Result<Transition<CaCertificate>, RuleError> + Send + Sync + 'a;

/// A code that a proof was made with, and how it is used up.
struct Proved {
    by: VerifiedBy,
    code: Option<RegistrationCode>,
}

impl Registry {
    pub async fn register_ca<'a>(
        self: &Arc<Self>,
        request: CaRegistration,
        ask: impl Into<Ask<'a>>,
    ) -> Result<ChangedCa, RegistryError> {
        let Ask { actor, expected, dry_run } = ask.into();
        let (this, actor) = (Arc::clone(self), actor.to_owned());
        finished(
            async move { this.register_this_ca(request, &Ask { actor: &actor, expected, dry_run }).await },
        )
        .await
    }

    async fn register_this_ca(
        &self,
        request: CaRegistration,
        ask: &Ask<'_>,
    ) -> Result<ChangedCa, RegistryError> {
        let _writing = self.cas_writing.lock().await;
        self.audit.check()?;
        let facts = only_certificate(&request.pem)?;
        let id = facts.certificate_fingerprint;
        let now = clock::now();
        let proved = match &request.proof {
            CaProof::None => None,
            CaProof::Skip => {
                Some(Proved { by: VerifiedBy::Skipped { by: ask.actor.to_owned() }, code: None })
            }
            CaProof::Certificate(pem) => Some(self.prove(&facts, pem, now).await?),
        };
        let buried = self.blocking(|storage| storage.ca_tombstones()).await?;
        let known = self.cas.load_full();
        let existing = known.iter().find(|ca| ca.id == id);
        let about_it = KnownCa { existing, buried: buried.iter().find(|buried| buried.id == id) };
        let (given, code) = match proved {
            Some(Proved { by, code }) => (Proof::Given(by), code),
            None => (Proof::Missing, None),
        };
        let new = NewCa {
            facts: &facts,
            name: request.name,
            trust_domain: request.trust_domain,
            settings: request.settings,
            tags: request.tags,
            proof: given,
            inactive: request.inactive,
        };
        let name = new.name.clone();
        let transition = register_ca(new, &about_it, now)?;
        let before = existing.cloned();
        let Transition::Write(write) = transition else { return Ok(Changed::tried(before, transition)) };
        if write.expected.is_none() {
            self.check_name(&name, &[id])?;
        }
        let (kind, audit) = match before {
            None => (EventKind::CaRegistered, names::CA_ADDED),
            Some(_) => (EventKind::CaVerified, names::CA_VERIFIED),
        };
        let from = before.as_ref().map(|before| before.state);
        let mut changes = RegistryChanges::write(RecordWrite::Ca {
            record: Box::new(write.record.clone()),
            expected: write.expected,
        });
        changes.events.push(NewEvent::ca(kind, from, &write.record, ask.actor, now));
        changes.writes.extend(code.map(|code| used(&code, id, now)));
        if about_it.buried.is_some() {
            changes.writes.push(RecordWrite::RemoveCaTombstone { id });
        }
        let after = write.record;
        if ask.is_dry() {
            self.check_cas(&after)?;
            return Ok(Changed { before, after });
        }
        self.change_cas(changes, |cas| put(cas, &after)).await?;
        for (lint, detail) in self.lint_ca(&after) {
            tracing::warn!(ca = after.name, lint = lint.as_str(), detail, "a CA is odd");
        }
        self.record(described(audit, before.as_ref(), &after, ask.actor)).await?;
        Ok(Changed { before, after })
    }

    /// Whether the trust set could take a CA in the state it is to have.
    fn check_cas(&self, record: &CaCertificate) -> Result<(), RegistryError> {
        let mut next = Vec::clone(&self.cas.load_full());
        put(&mut next, record);
        Ok(self.trust.check_registered(super::cas::anchors(&next)?)?)
    }

    /// Checks a verification certificate and the code in it.
    async fn prove(
        &self,
        ca: &CertificateFacts,
        pem: &str,
        now: UnixMillis,
    ) -> Result<Proved, RegistryError> {
        let verification = only_certificate(pem)?;
        let code = check_verification(ca, &verification, now)?;
        let codes = self.blocking(|storage| storage.registration_codes()).await?;
        let known = codes.into_iter().find(|known| known.code.eq_ignore_ascii_case(&code));
        check_code(known.as_ref(), now)?;
        Ok(Proved { by: VerifiedBy::RegistrationCode, code: known })
    }

    /// Proves that somebody holds the CA's key: the certificate was signed by it, with a registration code as its
    /// common name.
    pub async fn verify_ca<'a>(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        verification_pem: &str,
        ask: impl Into<Ask<'a>>,
    ) -> Result<ChangedCa, RegistryError> {
        let ask = ask.into();
        let known = self.registered_ca(id)?;
        let facts = only_certificate(&known.pem)?;
        let now = clock::now();
        // A CA that needs no proof any more uses up no code.
        if known.verified_by == Some(VerifiedBy::RegistrationCode) {
            check_verification(&facts, &only_certificate(verification_pem)?, now)?;
            return Ok(Changed { before: Some(known.clone()), after: known });
        }
        let proved = self.prove(&facts, verification_pem, now).await?;
        let rule = |ca: &CaCertificate, now| verify_ca(ca, proved.by.clone(), now);
        let writes = proved.code.iter().map(|code| used(code, id, now)).collect();
        self.change_this_ca(id, &ask, (EventKind::CaVerified, names::CA_VERIFIED), writes, &rule).await
    }

    /// Takes a CA into use without a proof, on the word of who asks; whether that may be is for who calls.
    pub async fn trust_ca<'a>(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        ask: impl Into<Ask<'a>>,
    ) -> Result<ChangedCa, RegistryError> {
        let ask = ask.into();
        let by = VerifiedBy::Skipped { by: ask.actor.to_owned() };
        let rule = |ca: &CaCertificate, now| verify_ca(ca, by.clone(), now);
        self.change_this_ca(id, &ask, (EventKind::CaVerified, names::CA_VERIFIED), Vec::new(), &rule).await
    }

    pub async fn activate_ca<'a>(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        ask: impl Into<Ask<'a>>,
    ) -> Result<ChangedCa, RegistryError> {
        let called = (EventKind::CaActivated, names::CA_ACTIVATED);
        self.change_this_ca(id, &ask.into(), called, Vec::new(), &activate_ca).await
    }

    /// Takes a CA out of use: `None` as its settings say.
    pub async fn deactivate_ca<'a>(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        mode: Option<OnDeactivate>,
        ask: impl Into<Ask<'a>>,
    ) -> Result<ChangedCa, RegistryError> {
        let called = (EventKind::CaDeactivated, names::CA_DEACTIVATED);
        let rule = |ca: &CaCertificate, now| deactivate_ca(ca, mode, now);
        self.change_this_ca(id, &ask.into(), called, Vec::new(), &rule).await
    }

    /// Ends a CA for good. Connections under it are closed.
    pub async fn revoke_ca<'a>(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        reason: RevocationReason,
        ask: impl Into<Ask<'a>>,
    ) -> Result<ChangedCa, RegistryError> {
        let called = (EventKind::CaRevoked, names::CA_REVOKED);
        let rule = |ca: &CaCertificate, now| revoke_ca(ca, reason, now);
        self.change_this_ca(id, &ask.into(), called, Vec::new(), &rule).await
    }

    /// Changes name, settings, tags or trust domain.
    pub async fn change_ca<'a>(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        patch: &CaPatch,
        ask: impl Into<Ask<'a>>,
    ) -> Result<ChangedCa, RegistryError> {
        if let Some(name) = &patch.name {
            self.check_name(name, &[id])?;
        }
        let called = (EventKind::CaChanged, names::CA_CHANGED);
        let rule = |ca: &CaCertificate, now| change_ca(ca, patch, now);
        self.change_this_ca(id, &ask.into(), called, Vec::new(), &rule).await
    }

    /// Deletes a CA that is out of use. Of one that was revoked a tombstone stays, so that it cannot come back.
    pub async fn delete_ca<'a>(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        cascade: Cascade,
        ask: impl Into<Ask<'a>>,
    ) -> Result<ChangedCa, RegistryError> {
        let ask = ask.into();
        let ca = self.registered_ca(id)?;
        ask.check(ca.revision)?;
        let impact = self.ca_impact(id).await?;
        check_delete_ca(&ca, impact.not_deleted(), cascade)?;
        let answer = Changed { before: Some(ca.clone()), after: ca };
        if ask.is_dry() {
            return Ok(answer);
        }
        if cascade == Cascade::Revoke {
            self.revoke_all_of(id, &ask).await?;
        }
        let (this, actor, expected) = (Arc::clone(self), ask.actor.to_owned(), answer.revision);
        finished(async move { this.delete_this_ca(id, cascade, expected, &actor).await }).await?;
        Ok(answer)
    }

    async fn delete_this_ca(
        &self,
        id: CertificateFingerprint,
        cascade: Cascade,
        expected: u64,
        actor: &str,
    ) -> Result<(), RegistryError> {
        let _writing = self.cas_writing.lock().await;
        let ca = self.registered_ca(id)?;
        Ask { expected: Some(expected), ..Ask::by(actor) }.check(ca.revision)?;
        // Somebody may have registered one meanwhile.
        check_delete_ca(&ca, self.ca_impact(id).await?.not_deleted(), cascade)?;
        let now = clock::now();
        let mut changes = RegistryChanges::write(RecordWrite::RemoveCa { id, expected });
        if ca.state == CaState::Revoked {
            changes.writes.push(RecordWrite::CaTombstone { tombstone: Box::new(bury_ca(&ca, now)) });
        }
        changes.events.push(NewEvent::ca(EventKind::CaDeleted, Some(ca.state), &ca, actor, now));
        self.change_cas(changes, |cas| cas.retain(|other| other.id != id)).await?;
        self.tell(RegistryChange::CaRemoved { ca: id });
        let event = about(names::CA_REMOVED, &ca, actor);
        self.record(before_and_after(event, Some(&ca), None::<&CaCertificate>)).await
    }

    /// Certificates registered under a CA.
    pub async fn ca_impact(&self, id: CertificateFingerprint) -> Result<CaImpact, RegistryError> {
        let counts = self.counts()?;
        let of_ca = counts.into_iter().filter(|((ca, _), _)| *ca == id);
        Ok(CaImpact { certificates: of_ca.map(|((_, state), count)| (state, count)).collect() })
    }

    async fn revoke_all_of(
        self: &Arc<Self>,
        ca: CertificateFingerprint,
        ask: &Ask<'_>,
    ) -> Result<(), RegistryError> {
        let reason = RevocationReason::CessationOfOperation;
        let ask = Ask { expected: None, ..*ask };
        let called = Called::new(EventKind::CertRevoked, names::DEVICE_REVOKED)
            .with("revocation_reason", reason.as_str());
        loop {
            let in_use = vec![DeviceState::PendingActivation, DeviceState::Active, DeviceState::Inactive];
            let query =
                DeviceQuery { ca: Some(ca), states: in_use, limit: MAX_PAGE, ..DeviceQuery::default() };
            let page = self.query(query).await?;
            let mut ids: Vec<_> = page.records.iter().map(|record| record.id).collect();
            let Some(first) = ids.pop() else { return Ok(()) };
            let rule = |record: &_, ca: Option<&_>, now| revoke(record, reason, ca, now).map(Verdict::from);
            match self.change_with(first, ids, &ask, called, &rule).await {
                // Deleted meanwhile.
                Ok(_) | Err(RegistryError::NotFound | RegistryError::Rule(RuleError::Tombstoned)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A CA of the registry, not of the configuration.
    fn registered_ca(&self, id: CertificateFingerprint) -> Result<CaCertificate, RegistryError> {
        let known = self.cas.load();
        known.iter().find(|ca| ca.id == id).cloned().ok_or_else(|| {
            let trust = self.trust.current();
            match (trust.contains(id), trust.is_retiring(id)) {
                (true, true) => RegistryError::Retiring,
                (true, false) => RegistryError::Configured,
                (false, _) => RegistryError::NotFound,
            }
        })
    }

    async fn change_this_ca(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        ask: &Ask<'_>,
        (kind, audit): (EventKind, &'static str),
        also: Vec<RecordWrite>,
        rule: &CaRule<'_>,
    ) -> Result<ChangedCa, RegistryError> {
        let writing = Arc::clone(&self.cas_writing).lock_owned().await;
        let before = self.registered_ca(id)?;
        ask.check(before.revision)?;
        let now = clock::now();
        let transition = rule(&before, now)?;
        let Transition::Write(write) = transition else {
            return Ok(Changed::tried(Some(before), transition));
        };
        let after = write.record;
        // Whom it lets in must be written down; whom it keeps out goes in any case.
        if after.carries_connections() && !before.carries_connections() {
            self.audit.check()?;
            self.check_cas(&after)?;
        }
        if ask.is_dry() {
            return Ok(Changed { before: Some(before), after });
        }
        let mut changes = RegistryChanges::write(RecordWrite::Ca {
            record: Box::new(after.clone()),
            expected: write.expected,
        });
        changes.events.push(NewEvent::ca(kind, Some(before.state), &after, ask.actor, now));
        changes.writes.extend(also);
        let event = described(audit, Some(&before), &after, ask.actor);
        let (this, changed, actor) = (Arc::clone(self), after.clone(), ask.actor.to_owned());
        finished(async move {
            this.change_cas(changes, |cas| put(cas, &changed)).await?;
            if changed.state == CaState::Revoked {
                this.end_transition_of(&changed, &actor)?;
            }
            let live_ones_go = changed.state == CaState::Revoked
                || (changed.state == CaState::Inactive
                    && changed.deactivated == Some(OnDeactivate::Disconnect));
            if live_ones_go {
                // Who has another path stays.
                this.tell(RegistryChange::CaRemoved { ca: changed.id });
            }
            let recorded = this.record(event).await;
            drop(writing);
            recorded
        })
        .await?;
        Ok(Changed { before: Some(before), after })
    }
}

impl CaImpact {
    /// Certificates that are not deleted.
    pub fn not_deleted(&self) -> u64 {
        let counts = self.certificates.iter().filter(|(state, _)| **state != DeviceState::Tombstone);
        counts.map(|(_, count)| count).sum()
    }

    /// Certificates that may register no further one when there is a limit.
    pub fn in_use(&self) -> u64 {
        let is_in_use = |state: &DeviceState| match state {
            DeviceState::PendingActivation | DeviceState::Active | DeviceState::Inactive => true,
            DeviceState::Revoked | DeviceState::Tombstone => false,
        };
        self.certificates.iter().filter(|(state, _)| is_in_use(state)).map(|(_, count)| count).sum()
    }
}

fn put(cas: &mut Vec<CaCertificate>, record: &CaCertificate) {
    cas.retain(|ca| ca.id != record.id);
    cas.push(record.clone());
}

fn used(code: &RegistrationCode, ca: CertificateFingerprint, now: UnixMillis) -> RecordWrite {
    RecordWrite::Code { record: Box::new(use_code(code, ca, now)), expected: Some(code.revision) }
}

fn described(
    name: &'static str,
    before: Option<&CaCertificate>,
    ca: &CaCertificate,
    actor: &str,
) -> AuditEvent {
    let from = before.map_or("none", |before| ca_state(before.state));
    let event = about(name, ca, actor).field("from", from).field("to", ca_state(ca.state));
    let mut event = before_and_after(event, before, Some(ca));
    event.reason = Reason::Ok;
    if let Some(VerifiedBy::Skipped { by }) = &ca.verified_by {
        event = event.field("proof_skipped_by", &**by);
    }
    event
}
