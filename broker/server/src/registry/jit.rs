//! The registration of a certificate at its first connection.

use std::sync::Arc;
use std::time::Duration;

use mqgate_identity::audit::{AuditEvent, Outcome, PluginVerdict, names};
use mqgate_identity::certificate::{CertificateFingerprint, ClientCertificate};
use mqgate_identity::hooks::{ConflictPolicy, Registration, Value};
use mqgate_identity::registry::rules::{NewDevice, OnTombstone, PENDING_TTL_MILLIS, Transition, deactivate};
use mqgate_identity::registry::{
    DeviceCertificate, DeviceState, EventContext, EventKind, RegistrationSource, Storage, StorageError,
};

use super::ask::Ask;
use super::changes::{Called, Verdict};
use super::commit::{Stored, store_beside, written_for};
use super::devices::{Known, Look, Prepared};
use super::flight::{Flight, Subject};
use super::rotation::RotationSettings;
use super::{Change, Registry, RegistryError, finished};
use crate::gate::{Accepted, event_about};

/// What a registrar decided about the certificate of a connection.
pub struct JitRegistration {
    pub accepted: Accepted,
    pub certificate: Arc<ClientCertificate>,
    /// The CA that its path ends in now.
    pub anchor: CertificateFingerprint,
    pub registration: Registration,
    /// The only client id it may use.
    pub client_id: Option<String>,
    /// Write it as pending.
    pub hold: bool,
    /// Name of the chain member that decided.
    pub by: Arc<str>,
    pub verdicts: Vec<PluginVerdict>,
    pub rotation: RotationSettings,
    /// How long it waits for an operator.
    pub pending_ttl: Duration,
}

/// What a first look at the storage came to.
enum Begun {
    /// The device has no other certificate: this one is written.
    Written(Box<Change>, Arc<DeviceCertificate>, Stored),
    /// There is nothing to write, or it may not be.
    Settled(Result<Arc<DeviceCertificate>, RegistryError>),
    /// Other certificates of the device have to be seen to first.
    HasOthers(Box<Known>, Vec<DeviceCertificate>),
}

impl JitRegistration {
    /// The certificate as the rules want to see it.
    pub(super) fn new_device(&self) -> NewDevice<'_> {
        let Registration { identity, attributes, .. } = &self.registration;
        let attributes = identity.attributes.iter().chain(attributes);
        NewDevice {
            facts: &self.certificate.leaf,
            ca_id: self.anchor,
            issuer_key: self.certificate.issuer_key,
            device_id: identity.device_id.clone(),
            tenant: identity.tenant.clone(),
            tags: identity.tags.clone(),
            client_id: self.client_id.clone(),
            attributes: attributes
                .map(|attribute| (attribute.name.clone(), text(attribute.value.clone())))
                .collect(),
            state: if self.hold { DeviceState::PendingActivation } else { DeviceState::Active },
            source: RegistrationSource::Jit,
            on_tombstone: OnTombstone::Refuse,
            pending_ttl_millis: match u64::try_from(self.pending_ttl.as_millis()).unwrap_or(u64::MAX) {
                0 => PENDING_TTL_MILLIS,
                millis => millis,
            },
        }
    }
}

impl Registry {
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
        let (this, jit) = (Arc::clone(self), Arc::new(jit));
        let asked = Arc::clone(&jit);
        let id = jit.certificate.leaf.certificate_fingerprint;
        match self.blocking(move |storage| this.begin_jit(storage, &asked)).await {
            Ok(Begun::Written(change, after, stored)) => {
                self.committed(std::slice::from_ref(&change), Ok(stored)).await?;
                Ok(after)
            }
            Ok(Begun::Settled(answer)) => answer,
            Ok(Begun::HasOthers(known, others)) => self.register_beside(&jit, *known, &others, flight).await,
            Err(error) => {
                // Whatever is stored now, it is not known here.
                self.cache.forget(&id);
                Err(error.into())
            }
        }
    }

    /// What most registrations are, the first certificate of a device: looked for and written in one go, which a thread
    /// that waits for the disk does alone.
    fn begin_jit(
        self: &Arc<Self>,
        storage: &dyn Storage,
        jit: &JitRegistration,
    ) -> Result<Begun, StorageError> {
        let (known, others) = Look::new(&jit.new_device()).known_and_in_use(storage)?;
        if !others.is_empty() {
            return Ok(Begun::HasOthers(Box::new(known), others));
        }
        let Prepared { changed, change } = match self.prepare_jit(jit, known) {
            Ok(prepared) => prepared,
            Err(error) => return Ok(Begun::Settled(Err(error))),
        };
        let Some(change) = change else { return Ok(Begun::Settled(Ok(changed.after))) };
        let (to_store, records) = written_for(std::slice::from_ref(&change));
        let stored = store_beside(storage, &self.audit, &to_store, records)?;
        Ok(Begun::Written(Box::new(change), changed.after, stored))
    }

    /// The device has other certificates in use, or that may be.
    async fn register_beside(
        self: &Arc<Self>,
        jit: &JitRegistration,
        known: Known,
        others: &[DeviceCertificate],
        flight: Flight,
    ) -> Result<Arc<DeviceCertificate>, RegistryError> {
        let JitRegistration { registration, hold, by, rotation, .. } = jit;
        if registration.on_conflict == ConflictPolicy::Refuse {
            return Err(RegistryError::DeviceExists(registration.identity.device_id.clone()));
        }
        let Prepared { changed, change } = self.prepare_jit(jit, known)?;
        let Some(change) = change else { return Ok(changed.after) };
        let same_device: Vec<_> =
            others.iter().filter(|other| other.is_same_device(&changed.after)).cloned().collect();
        if registration.on_conflict == ConflictPolicy::ReplaceCertificates && !*hold {
            for other in &same_device {
                self.replace_by(other.id, changed.after.id, by).await?;
            }
        } else {
            self.make_room(&changed.after, &same_device, *rotation).await?;
        }
        self.commit(vec![flight], vec![change]).await?;
        Ok(changed.after)
    }

    fn prepare_jit(&self, jit: &JitRegistration, known: Known) -> Result<Prepared, RegistryError> {
        let JitRegistration { accepted, by, verdicts, .. } = jit;
        let actor = format!("plugin:{by}");
        let context = EventContext {
            peer_ip: Some(accepted.peer.address.to_string()),
            sni: accepted.tls.as_ref().and_then(|tls| tls.server_name.as_deref().map(str::to_owned)),
            listener: Some(accepted.listener.to_string()),
            plugin: Some(by.to_string()),
            ..EventContext::default()
        };
        let event = |name, reason| {
            let mut event = event_about(AuditEvent::new(name, Outcome::Success, reason), accepted);
            event.plugins.clone_from(verdicts);
            event.field("registered_by", &**by)
        };
        self.prepare(jit.new_device(), known, "plugin", &actor, Some(context), event)
    }

    async fn replace_by(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        successor: CertificateFingerprint,
        by: &str,
    ) -> Result<(), RegistryError> {
        let (actor, replaced_by) = (format!("plugin:{by}"), successor.to_hex());
        let called = Called {
            other: Some(successor),
            ..Called::new(EventKind::CertDeactivated, names::DEVICE_DEACTIVATED)
                .with("replaced_by", &replaced_by)
        };
        self.change(id, &Ask::by(&actor), called, &|record, _, now| match record.state {
            DeviceState::Active => deactivate(record, now).map(Verdict::from),
            _ => Ok(Transition::Unchanged(record.clone()).into()),
        })
        .await?;
        Ok(())
    }
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
