//! Changes of device certificates.

use std::collections::BTreeMap;
use std::sync::Arc;

use mqgate_identity::audit::{AuditEvent, Outcome, PluginVerdict, names};
use mqgate_identity::certificate::{
    CertificateFacts, CertificateFingerprint, ClientCertificate, certificates_from_pem,
};
use mqgate_identity::evaluation::evaluate_facts;
use mqgate_identity::hooks::{ConflictPolicy, Registration, Value};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::rules::{
    Force, NewDevice, OnTombstone, RevocationReason, RuleError, Transition, Write, activate, deactivate,
    delete, register_new, revoke,
};
use mqgate_identity::registry::{
    DeviceCertificate, DeviceState, RegistrationSource, StorageError, check_device_id,
};

use super::flight::{Flight, Subject};
use super::{Change, Registry, RegistryError, finished};
use crate::clock;
use crate::gate::{Accepted, event_about};
use crate::metrics::gate::device_state;

/// What a registrar decided about the certificate of a connection.
pub struct JitRegistration {
    pub accepted: Accepted,
    pub certificate: Arc<ClientCertificate>,
    pub registration: Registration,
    /// Write it as pending.
    pub hold: bool,
    /// Name of the chain member that decided.
    pub by: Arc<str>,
    pub verdicts: Vec<PluginVerdict>,
}

/// What an operator registers by hand.
#[derive(Debug, Clone, Default)]
pub struct ManualRegistration {
    /// The certificate first; intermediates may follow.
    pub pem: String,
    /// The subject's common name if absent, or else the fingerprint.
    pub device_id: Option<String>,
    pub tenant: Option<String>,
    pub tags: Vec<String>,
    /// The only client id it may use.
    pub client_id: Option<String>,
    pub attributes: BTreeMap<String, String>,
    /// Registered, but not to be used yet.
    pub inactive: bool,
    pub on_tombstone: OnTombstone,
}

/// A new record and what goes with it.
type Prepared = (Write<DeviceCertificate>, Change);

/// One rule applied to one record.
type Rule<'a> =
    dyn Fn(&DeviceCertificate) -> Result<Transition<DeviceCertificate>, RuleError> + Send + Sync + 'a;

impl Registry {
    pub(crate) async fn flight(&self, id: CertificateFingerprint) -> Flight {
        self.flights.enter(id).await
    }

    /// One record, tombstones included.
    pub async fn device(
        &self,
        id: CertificateFingerprint,
    ) -> Result<Option<DeviceCertificate>, RegistryError> {
        Ok(self.blocking(move |storage| storage.device_certificate(&id)).await?)
    }

    /// Records with an id above `after`, in order of id, at most `limit`.
    pub async fn devices(
        &self,
        after: Option<CertificateFingerprint>,
        limit: usize,
    ) -> Result<Vec<DeviceCertificate>, RegistryError> {
        Ok(self.blocking(move |storage| storage.device_certificates(after.as_ref(), limit)).await?)
    }

    /// Registers a certificate at its first connection; the caller found no record in this flight.
    ///
    /// Looking for other certificates of the device, taking them out of use and writing the new one is one
    /// piece: for the device it is the only one in flight, and it is finished even if the client does not wait
    /// for it. What is replaced goes first: a broker that dies in between leaves a device that is let in by
    /// neither certificate until it comes again with the new one, never one that is let in by both.
    pub(crate) async fn register_jit(
        self: &Arc<Self>,
        jit: JitRegistration,
        flight: Flight,
    ) -> Result<Arc<DeviceCertificate>, RegistryError> {
        let device = self.flights.enter(Subject::Device(jit.registration.identity.device_id.clone())).await;
        let this = Arc::clone(self);
        finished(async move {
            let record = this.register_alone(jit, flight).await;
            drop(device);
            record
        })
        .await
    }

    async fn register_alone(
        self: &Arc<Self>,
        jit: JitRegistration,
        flight: Flight,
    ) -> Result<Arc<DeviceCertificate>, RegistryError> {
        let JitRegistration { accepted, certificate, registration, hold, by, verdicts } = jit;
        let identity = registration.identity;
        let others =
            self.certificates_in_use(&identity.device_id, certificate.leaf.certificate_fingerprint).await?;
        if registration.on_conflict == ConflictPolicy::Refuse && !others.is_empty() {
            return Err(RegistryError::DeviceExists(identity.device_id));
        }
        let new = NewDevice {
            facts: &certificate.leaf,
            ca_id: certificate.anchor.certificate_fingerprint,
            device_id: identity.device_id,
            tenant: identity.tenant,
            tags: identity.tags,
            client_id: None,
            attributes: identity
                .attributes
                .into_iter()
                .chain(registration.attributes)
                .map(|attribute| (attribute.name, text(attribute.value)))
                .collect(),
            state: if hold { DeviceState::PendingActivation } else { DeviceState::Active },
            source: RegistrationSource::Jit,
            on_tombstone: OnTombstone::Refuse,
        };
        let event = |name, reason| {
            let mut event = event_about(AuditEvent::new(name, Outcome::Success, reason), &accepted);
            event.plugins = verdicts;
            event.field("registered_by", &*by)
        };
        let replaces = registration.on_conflict == ConflictPolicy::ReplaceCertificates && !hold;
        let (write, change) = match self.prepare(new, "plugin", event).await? {
            Ok(prepared) => prepared,
            Err(unchanged) => return Ok(unchanged),
        };
        for other in others.iter().filter(|_| replaces) {
            self.replace_by(other.id, write.record.id, &by).await?;
        }
        self.commit(flight, write, Some(change)).await
    }

    /// Registers a certificate before its first connection. It must lead to a CA that is trusted.
    pub async fn register(
        self: &Arc<Self>,
        request: ManualRegistration,
        actor: &str,
    ) -> Result<Arc<DeviceCertificate>, RegistryError> {
        let mut chain = certificates_from_pem(request.pem.as_bytes())?;
        let intermediates = chain.split_off(1);
        let facts = CertificateFacts::parse(&chain[0])?;
        let trust = self.trust.current();
        let path =
            evaluate_facts(&facts, &intermediates, &trust.anchors, &self.policy(), clock::now().seconds())?;
        let new = NewDevice {
            facts: &facts,
            ca_id: path.anchor.certificate_fingerprint,
            device_id: request.device_id.unwrap_or_else(|| name_of(&facts)),
            tenant: request.tenant,
            tags: request.tags,
            client_id: request.client_id,
            attributes: request.attributes,
            state: if request.inactive { DeviceState::Inactive } else { DeviceState::Active },
            source: RegistrationSource::Api,
            on_tombstone: request.on_tombstone,
        };
        let flight = self.flights.enter(facts.certificate_fingerprint).await;
        let event = |name, reason| AuditEvent::new(name, Outcome::Success, reason).actor(actor);
        match self.prepare(new, "api", event).await? {
            Ok((write, change)) => self.commit(flight, write, Some(change)).await,
            Err(unchanged) => Ok(unchanged),
        }
    }

    pub async fn activate(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        actor: &str,
    ) -> Result<Arc<DeviceCertificate>, RegistryError> {
        let rule =
            |record: &DeviceCertificate| activate(record, self.ca(record.ca_id).as_ref(), clock::now());
        self.change(id, actor, names::DEVICE_ACTIVATED, &rule, None).await
    }

    /// Its connections are closed.
    pub async fn deactivate(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        actor: &str,
    ) -> Result<Arc<DeviceCertificate>, RegistryError> {
        let rule = |record: &DeviceCertificate| deactivate(record, clock::now());
        self.change(id, actor, names::DEVICE_DEACTIVATED, &rule, None).await
    }

    /// Its connections are closed.
    pub async fn revoke(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        reason: RevocationReason,
        actor: &str,
    ) -> Result<Arc<DeviceCertificate>, RegistryError> {
        let rule =
            |record: &DeviceCertificate| revoke(record, reason, self.ca(record.ca_id).as_ref(), clock::now());
        self.change(id, actor, names::DEVICE_REVOKED, &rule, Some(("revocation_reason", reason.as_str())))
            .await
    }

    /// Leaves a tombstone, so that the device does not register itself again. Its connections are closed.
    pub async fn delete(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        force: Force,
        actor: &str,
    ) -> Result<Arc<DeviceCertificate>, RegistryError> {
        let rule = |record: &DeviceCertificate| delete(record, force, clock::now());
        self.change(id, actor, names::DEVICE_DELETED, &rule, None).await
    }

    /// Certificates of a device, other than `except`, that are in use or may be.
    async fn certificates_in_use(
        &self,
        device_id: &str,
        except: CertificateFingerprint,
    ) -> Result<Vec<DeviceCertificate>, RegistryError> {
        let device_id = device_id.to_owned();
        let mut all = self.blocking(move |storage| storage.certificates_of_device(&device_id)).await?;
        all.retain(|record| {
            let in_use = !matches!(record.state, DeviceState::Revoked | DeviceState::Tombstone);
            record.id != except && in_use
        });
        Ok(all)
    }

    async fn replace_by(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        successor: CertificateFingerprint,
        by: &str,
    ) -> Result<(), RegistryError> {
        let rule = |record: &DeviceCertificate| match record.state {
            DeviceState::Active => deactivate(record, clock::now()),
            _ => Ok(Transition::Unchanged(record.clone())),
        };
        let successor = successor.to_hex();
        let actor = format!("plugin:{by}");
        self.change(id, &actor, names::DEVICE_DEACTIVATED, &rule, Some(("replaced_by", &successor))).await?;
        Ok(())
    }

    /// What writing a new record takes; or the record, if it is there and the same.
    async fn prepare(
        &self,
        new: NewDevice<'_>,
        source: &'static str,
        event: impl FnOnce(&'static str, Reason) -> AuditEvent,
    ) -> Result<Result<Prepared, Arc<DeviceCertificate>>, RegistryError> {
        self.audit.check()?;
        let id = new.facts.certificate_fingerprint;
        let existing = self.device(id).await?;
        let ca = self.ca(new.ca_id);
        let transition = register_new(new, existing.as_ref(), ca.as_ref(), clock::now())?;
        let write = match transition {
            Transition::Unchanged(record) => return Ok(Err(Arc::new(record))),
            Transition::Write(write) => write,
        };
        let (name, reason) = match write.record.state {
            DeviceState::PendingActivation => (names::DEVICE_PENDING, Reason::CertPending),
            _ => (names::DEVICE_REGISTERED, Reason::Ok),
        };
        let event = about(event(name, reason), &write.record);
        let before = existing.map(|record| (record.ca_id, record.state));
        Ok(Ok((write, Change { before, source, event })))
    }

    async fn change(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        actor: &str,
        name: &'static str,
        rule: &Rule<'_>,
        field: Option<(&str, &str)>,
    ) -> Result<Arc<DeviceCertificate>, RegistryError> {
        let flight = self.flights.enter(id).await;
        // Barring somebody must not depend on a full audit queue; letting somebody in must.
        let audited = self.audit.check();
        let before = self.device(id).await?.ok_or(RegistryError::NotFound)?;
        let write = match rule(&before)? {
            Transition::Unchanged(record) => return Ok(Arc::new(record)),
            Transition::Write(write) => write,
        };
        if write.record.state == DeviceState::Active {
            audited?;
        }
        let mut event = AuditEvent::new(name, Outcome::Success, Reason::Ok).actor(actor);
        if let Some((name, value)) = field {
            event = event.field(name, value);
        }
        event = event.field("from", device_state(before.state)).field("to", device_state(write.record.state));
        let event = about(event, &write.record);
        let before = Some((before.ca_id, before.state));
        self.commit(flight, write, Some(Change { before, source: "api", event })).await
    }
}

/// Why connections with this certificate have to go.
pub(super) const fn barred(record: &DeviceCertificate) -> Option<Reason> {
    match record.state {
        DeviceState::Active => None,
        DeviceState::PendingActivation => Some(Reason::CertPending),
        DeviceState::Inactive => Some(Reason::CertInactive),
        DeviceState::Revoked => Some(Reason::CertRevoked),
        DeviceState::Tombstone => Some(Reason::CertTombstoned),
    }
}

fn about(mut event: AuditEvent, record: &DeviceCertificate) -> AuditEvent {
    event.device_id = Some(record.device_id.clone());
    event.certificate_fingerprint = Some(record.id);
    event.subject = Some(record.subject.clone());
    event
        .field("ca_id", record.ca_id.to_hex())
        .field("serial", &*record.serial)
        .field("state", device_state(record.state))
        .field("revision", record.revision.to_string())
}

/// The last common name that may be a device id, or else the fingerprint.
fn name_of(facts: &CertificateFacts) -> String {
    const COMMON_NAME: &str = "2.5.4.3";
    facts
        .subject
        .attributes
        .iter()
        .rfind(|attribute| attribute.oid == COMMON_NAME)
        .and_then(|attribute| attribute.text.clone())
        .filter(|name| check_device_id(name).is_ok())
        .unwrap_or_else(|| facts.certificate_fingerprint.to_hex())
}

fn text(value: Value) -> String {
    match value {
        Value::Text(text) => text,
        Value::Integer(number) => number.to_string(),
        Value::Boolean(yes) => yes.to_string(),
        Value::Blob(bytes) => hex::encode(bytes),
        Value::Texts(texts) => texts.join(","),
    }
}

impl RegistryError {
    /// Whether trying again may help.
    pub const fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Storage(StorageError::Unavailable(_) | StorageError::Conflict { .. }) | Self::Audit(_)
        )
    }
}
