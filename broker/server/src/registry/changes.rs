//! Changes of device certificates that are registered.

use std::collections::BTreeMap;
use std::sync::Arc;

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::rules::{
    DevicePatch, Force, RevocationReason, RuleError, Transition, activate, change_device, deactivate, delete,
    purge, quarantine, reinstate, reject, release, revoke,
};
use mqgate_identity::registry::{
    CaCertificate, DeviceCertificate, DeviceQuery, DeviceState, EventKind, NewEvent, Quarantine, Supersession,
};
use mqgate_identity::time::UnixMillis;
use serde::Serialize;

use super::ask::{Ask, Changed, ChangedDevice};
use super::devices::about;
use super::{Change, Registry, RegistryError};
use crate::audit::before_and_after;
use crate::clock;
use crate::metrics::gate::device_state;

/// What a rule comes to.
pub(super) enum Verdict {
    To(Box<Transition<DeviceCertificate>>),
    /// The record goes, without a tombstone.
    Gone,
}

impl From<Transition<DeviceCertificate>> for Verdict {
    fn from(transition: Transition<DeviceCertificate>) -> Self {
        Self::To(Box::new(transition))
    }
}

/// One rule applied to one record.
pub(super) type Rule<'a> = dyn Fn(&DeviceCertificate, Option<&CaCertificate>, UnixMillis) -> Result<Verdict, RuleError>
    + Send
    + Sync
    + 'a;

/// What a change is called in the outbox and in the audit log.
#[derive(Clone, Copy)]
pub(super) struct Called<'a> {
    pub(super) kind: EventKind,
    pub(super) audit: &'static str,
    pub(super) field: Option<(&'a str, &'a str)>,
    /// The certificate that takes this one's place.
    pub(super) other: Option<CertificateFingerprint>,
}

impl<'a> Called<'a> {
    pub(super) const fn new(kind: EventKind, audit: &'static str) -> Self {
        Self { kind, audit, field: None, other: None }
    }

    pub(super) const fn with(mut self, name: &'a str, value: &'a str) -> Self {
        self.field = Some((name, value));
        self
    }
}

impl Registry {
    pub async fn activate<'a>(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        ask: impl Into<Ask<'a>>,
    ) -> Result<ChangedDevice, RegistryError> {
        let called = Called::new(EventKind::CertActivated, names::DEVICE_ACTIVATED);
        self.change(id, &ask.into(), called, &|record, ca, now| activate(record, ca, now).map(Verdict::from))
            .await
    }

    /// Its connections are closed.
    pub async fn deactivate<'a>(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        ask: impl Into<Ask<'a>>,
    ) -> Result<ChangedDevice, RegistryError> {
        let called = Called::new(EventKind::CertDeactivated, names::DEVICE_DEACTIVATED);
        self.change(id, &ask.into(), called, &|record, _, now| deactivate(record, now).map(Verdict::from))
            .await
    }

    /// Refuses for good a certificate that waits for its activation.
    pub async fn reject<'a>(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        ask: impl Into<Ask<'a>>,
    ) -> Result<ChangedDevice, RegistryError> {
        let called = Called::new(EventKind::CertRejected, names::DEVICE_REJECTED);
        self.change(id, &ask.into(), called, &|record, _, now| reject(record, now).map(Verdict::from)).await
    }

    /// Its connections are closed. A reason that says that somebody has the key revokes every certificate with the
    /// key, in one step.
    pub async fn revoke<'a>(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        reason: RevocationReason,
        ask: impl Into<Ask<'a>>,
    ) -> Result<ChangedDevice, RegistryError> {
        let ask = ask.into();
        let (kind, audit) = match reason {
            RevocationReason::CertificateHold => (EventKind::CertDeactivated, names::DEVICE_REVOKED),
            RevocationReason::RemoveFromCrl => (EventKind::CertActivated, names::DEVICE_REVOKED),
            _ => (EventKind::CertRevoked, names::DEVICE_REVOKED),
        };
        let called = Called::new(kind, audit).with("revocation_reason", reason.as_str());
        let mut others = Vec::new();
        if reason.is_compromise()
            && let Some(record) = self.device(id).await?
        {
            others = self.same_key(&record).await?;
        }
        let rule = |record: &DeviceCertificate, ca: Option<&CaCertificate>, now| {
            revoke(record, reason, ca, now).map(Verdict::from)
        };
        self.change_with(id, others, &ask, called, &rule).await
    }

    /// Makes a certificate good again that another took the place of, but for a hold.
    pub async fn reinstate<'a>(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        ask: impl Into<Ask<'a>>,
    ) -> Result<ChangedDevice, RegistryError> {
        let called = Called::new(EventKind::CertReinstated, names::DEVICE_REINSTATED);
        self.change(id, &ask.into(), called, &|record, ca, now| reinstate(record, ca, now).map(Verdict::from))
            .await
    }

    /// Keeps a certificate out until it is released. Its connections are closed.
    pub async fn quarantine<'a>(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        why: &str,
        ask: impl Into<Ask<'a>>,
    ) -> Result<ChangedDevice, RegistryError> {
        let called = Called::new(EventKind::CertQuarantined, names::DEVICE_QUARANTINED).with("why", why);
        let rule = |record: &DeviceCertificate, _: Option<&CaCertificate>, now| {
            quarantine(record, why, now).map(Verdict::from)
        };
        self.change(id, &ask.into(), called, &rule).await
    }

    /// Ends a quarantine.
    pub async fn release<'a>(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        ask: impl Into<Ask<'a>>,
    ) -> Result<ChangedDevice, RegistryError> {
        let called = Called::new(EventKind::CertReleased, names::DEVICE_RELEASED);
        self.change(id, &ask.into(), called, &|record, _, now| release(record, now).map(Verdict::from)).await
    }

    /// Changes binding, tenant, tags or attributes.
    pub async fn change_device<'a>(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        patch: &DevicePatch,
        ask: impl Into<Ask<'a>>,
    ) -> Result<ChangedDevice, RegistryError> {
        let called = Called::new(EventKind::CertChanged, names::DEVICE_CHANGED);
        let rule = |record: &DeviceCertificate, _: Option<&CaCertificate>, now| {
            change_device(record, patch, now).map(Verdict::from)
        };
        self.change(id, &ask.into(), called, &rule).await
    }

    /// Leaves a tombstone, so that the device does not register itself again. Its connections are closed.
    pub async fn delete<'a>(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        force: Force,
        ask: impl Into<Ask<'a>>,
    ) -> Result<ChangedDevice, RegistryError> {
        let called = Called::new(EventKind::CertDeleted, names::DEVICE_DELETED);
        let rule = |record: &DeviceCertificate, _: Option<&CaCertificate>, now| {
            delete(record, force, now).map(Verdict::from)
        };
        self.change(id, &ask.into(), called, &rule).await
    }

    /// Forgets a tombstone: the certificate may be registered again.
    pub async fn purge<'a>(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        ask: impl Into<Ask<'a>>,
    ) -> Result<ChangedDevice, RegistryError> {
        let called = Called::new(EventKind::CertPurged, names::DEVICE_PURGED);
        self.change(id, &ask.into(), called, &|record, _, now| purge(record, now).map(|()| Verdict::Gone))
            .await
    }

    /// Other certificates with the same key.
    async fn same_key(
        &self,
        record: &DeviceCertificate,
    ) -> Result<Vec<CertificateFingerprint>, RegistryError> {
        let query = DeviceQuery { spki_sha256: Some(record.spki_sha256.clone()), ..DeviceQuery::default() };
        let page = self.query(query).await?;
        Ok(page.records.iter().map(|other| other.id).filter(|id| *id != record.id).collect())
    }

    pub(super) async fn change(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        ask: &Ask<'_>,
        called: Called<'_>,
        rule: &Rule<'_>,
    ) -> Result<ChangedDevice, RegistryError> {
        self.change_with(id, Vec::new(), ask, called, rule).await
    }

    /// Changes a record, and in the same step those others that the rule allows to be changed.
    pub(super) async fn change_with(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        others: Vec<CertificateFingerprint>,
        ask: &Ask<'_>,
        called: Called<'_>,
        rule: &Rule<'_>,
    ) -> Result<ChangedDevice, RegistryError> {
        // Everybody enters the flights of registered certificates in this order.
        let mut ids = others;
        ids.push(id);
        ids.sort_unstable();
        ids.dedup();
        let mut flights = Vec::new();
        for id in &ids {
            flights.push(self.flights.enter(*id).await);
        }
        // Barring somebody must not depend on a full audit queue; letting somebody in must.
        let audited = self.audit.check();
        let now = clock::now();
        let mut changes = Vec::new();
        let mut answer = None;
        for each in ids {
            let is_asked_for = each == id;
            let Some(before) = self.device(each).await? else {
                match is_asked_for {
                    true => return Err(RegistryError::NotFound),
                    false => continue,
                }
            };
            if is_asked_for {
                ask.check(before.revision)?;
            }
            let verdict = match rule(&before, self.ca(before.ca_id).as_ref(), now) {
                Ok(verdict) => verdict,
                Err(error) if is_asked_for => return Err(error.into()),
                Err(_) => continue,
            };
            let before = Arc::new(before);
            let after = match verdict {
                Verdict::To(transition) => match transition.write() {
                    None => Some(Arc::clone(&before)),
                    Some(write) => Some(Arc::new(write.record)),
                },
                Verdict::Gone => None,
            };
            if is_asked_for {
                let after = after.clone().unwrap_or_else(|| Arc::clone(&before));
                answer = Some(Changed { before: Some(Arc::clone(&before)), after });
            }
            if after.as_ref().is_some_and(|after| Arc::ptr_eq(after, &before)) {
                continue;
            }
            if after.as_ref().is_some_and(|after| barred(after).is_none()) {
                audited?;
            }
            changes.push(described(before, after, ask.actor, called, now));
        }
        let answer = answer.ok_or(RegistryError::NotFound)?;
        if !ask.is_dry() && !changes.is_empty() {
            self.commit(flights, changes).await?;
        }
        Ok(answer)
    }
}

/// What may change in a record, as its audit record has it.
#[derive(Serialize)]
pub(super) struct Changing<'a> {
    state: DeviceState,
    ca_id: CertificateFingerprint,
    tenant: Option<&'a str>,
    client_id: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tags: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: &'a BTreeMap<String, String>,
    superseded: Option<&'a Supersession>,
    quarantined: Option<&'a Quarantine>,
    revocation_reason: Option<&'a str>,
    pending_until: Option<UnixMillis>,
}

impl<'a> Changing<'a> {
    pub(super) fn of(record: &'a DeviceCertificate) -> Self {
        Self {
            state: record.state,
            ca_id: record.ca_id,
            tenant: record.tenant.as_deref(),
            client_id: record.client_id.as_deref(),
            tags: &record.tags,
            attributes: &record.attributes,
            superseded: record.superseded.as_ref(),
            quarantined: record.quarantined.as_ref(),
            revocation_reason: record.revocation_reason.as_deref(),
            pending_until: record.pending_until,
        }
    }
}

fn described(
    before: Arc<DeviceCertificate>,
    after: Option<Arc<DeviceCertificate>>,
    actor: &str,
    called: Called<'_>,
    now: UnixMillis,
) -> Change {
    let shown = after.as_ref().unwrap_or(&before);
    let mut audit = AuditEvent::new(called.audit, Outcome::Success, Reason::Ok).actor(actor);
    if let Some((name, value)) = called.field {
        audit = audit.field(name, value);
    }
    let to = after.as_ref().map_or("none", |after| device_state(after.state));
    audit = audit.field("from", device_state(before.state)).field("to", to);
    let audit = about(audit, shown);
    let audit =
        before_and_after(audit, Some(&Changing::of(&before)), after.as_deref().map(Changing::of).as_ref());
    let mut event = NewEvent::device(called.kind, Some(before.state), shown, actor, now);
    if let Some(other) = called.other {
        event = event.with_other(other);
    }
    Change { before: Some(before), after, source: "api", audit, event }
}

/// Why connections with this certificate have to go.
pub(super) fn barred(record: &DeviceCertificate) -> Option<Reason> {
    match record.state {
        DeviceState::Active if record.quarantined.is_some() => Some(Reason::CertQuarantined),
        DeviceState::Active => None,
        DeviceState::PendingActivation => Some(Reason::CertPending),
        DeviceState::Inactive if record.superseded.is_some() => Some(Reason::CertSuperseded),
        DeviceState::Inactive => Some(Reason::CertInactive),
        DeviceState::Revoked => Some(Reason::CertRevoked),
        DeviceState::Tombstone => Some(Reason::CertTombstoned),
    }
}
