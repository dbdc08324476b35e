//! How device certificates get into the registry.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::certificate::{CertificateFacts, CertificateFingerprint, certificates_from_pem};
use mqgate_identity::evaluation::{Anchor, TrustAnchors, ValidatedPath, evaluate_facts};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::rules::{
    KnownDevices, NewDevice, OnTombstone, PENDING_TTL_MILLIS, register_new, renewed_by,
};
use mqgate_identity::registry::{
    CaState, DeviceCertificate, DeviceQuery, DeviceState, EventContext, EventKind, NewEvent,
    RegistrationSource, Storage, StorageError, check_device_id, common_name,
};

use super::ask::{Ask, Changed, ChangedDevice};
use super::changes::Changing;
use super::flight::Flight;
use super::{Change, Registry, RegistryError};
use crate::audit::before_and_after;
use crate::clock;
use crate::metrics::gate::device_state;

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
    /// `None`: active.
    pub state: Option<DeviceState>,
    pub source: RegistrationSource,
    pub on_tombstone: OnTombstone,
}

/// What registering comes to: the record before and after, and what has to be written.
pub(super) struct Prepared {
    pub(super) changed: ChangedDevice,
    pub(super) change: Option<Change>,
}

/// What the storage knows that a registration has to do with.
#[derive(Default)]
pub(super) struct Known {
    pub(super) existing: Option<DeviceCertificate>,
    pub(super) same_key: Vec<DeviceCertificate>,
    pub(super) same_serial: Option<CertificateFingerprint>,
}

/// A certificate that an operator gave, and where its path leads.
struct Judged {
    facts: CertificateFacts,
    path: ValidatedPath,
    request: ManualRegistration,
}

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

    /// Registers a certificate before its first connection. It must lead to a CA that is known, in use or not.
    pub async fn register<'a>(
        self: &Arc<Self>,
        request: ManualRegistration,
        ask: impl Into<Ask<'a>>,
    ) -> Result<ChangedDevice, RegistryError> {
        let ask = ask.into();
        let judged = self.judge(request, &self.anchors_out_of_use())?;
        let flight = self.flights.enter(judged.facts.certificate_fingerprint).await;
        let Prepared { changed, change } = self.prepare_judged(judged, &ask).await?;
        if let Some(before) = &changed.before {
            ask.check(before.revision)?;
        }
        match change {
            Some(change) if !ask.is_dry() => self.commit(vec![flight], vec![change]).await?,
            Some(_) | None => {}
        }
        Ok(changed)
    }

    /// Registers many in one step, as far as each may be; answers for each, in order. Where one stands in the way of
    /// the step, each is registered by itself.
    pub async fn register_many<'a>(
        self: &Arc<Self>,
        requests: Vec<ManualRegistration>,
        ask: impl Into<Ask<'a>>,
    ) -> Vec<Result<ChangedDevice, RegistryError>> {
        let ask = Ask { expected: None, ..ask.into() };
        let idle = self.anchors_out_of_use();
        let again = requests.clone();
        let judged: Vec<_> = requests.into_iter().map(|request| self.judge(request, &idle)).collect();
        let flights = match self.enter_new(&judged).await {
            Ok(flights) => flights,
            Err(_) => return self.register_each(again, &ask).await,
        };
        let mut seen = HashSet::new();
        let mut answers = Vec::new();
        let mut changes = Vec::new();
        let mut is_plain = true;
        for each in judged {
            let prepared = match each {
                Ok(judged) => {
                    is_plain &= seen.insert(judged.facts.certificate_fingerprint);
                    self.prepare_judged(judged, &ask).await
                }
                Err(error) => Err(error),
            };
            answers.push(prepared.map(|Prepared { changed, change }| {
                changes.extend(change);
                changed
            }));
        }
        if ask.is_dry() || changes.is_empty() {
            return answers;
        }
        // What is there twice, and what has one serial number with another of these, needs an answer of its own.
        let written = match is_plain {
            true => self.commit(flights, changes).await.is_ok(),
            false => {
                drop(flights);
                false
            }
        };
        match written {
            true => answers,
            false => self.register_each(again, &ask).await,
        }
    }

    async fn register_each(
        self: &Arc<Self>,
        requests: Vec<ManualRegistration>,
        ask: &Ask<'_>,
    ) -> Vec<Result<ChangedDevice, RegistryError>> {
        let mut answers = Vec::new();
        for request in requests {
            answers.push(self.register(request, *ask).await);
        }
        answers
    }

    /// The flights of those that are not registered, in order. Nobody who is in a flight of one that is registered
    /// waits for these, so that there is no circle.
    async fn enter_new(
        &self,
        judged: &[Result<Judged, RegistryError>],
    ) -> Result<Vec<Flight>, RegistryError> {
        let mut ids: Vec<_> =
            judged.iter().flatten().map(|judged| judged.facts.certificate_fingerprint).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut flights = Vec::new();
        for id in ids {
            let flight = self.flights.enter(id).await;
            if self.device(id).await?.is_none() {
                flights.push(flight);
            }
        }
        Ok(flights)
    }

    /// CAs that are no trust anchors and may have certificates registered by hand all the same.
    fn anchors_out_of_use(&self) -> TrustAnchors {
        let idle = self.cas.load();
        let anchors = idle.iter().filter(|ca| ca.state == CaState::Inactive).filter_map(|ca| {
            let der = certificates_from_pem(ca.pem.as_bytes()).ok()?.swap_remove(0);
            Some(Anchor { name: ca.name.as_str().into(), der: der.into() })
        });
        // Each was read when it was registered.
        TrustAnchors::new(anchors.collect()).unwrap_or_default()
    }

    fn judge(&self, request: ManualRegistration, idle: &TrustAnchors) -> Result<Judged, RegistryError> {
        let mut chain = certificates_from_pem(request.pem.as_bytes())?;
        let intermediates = chain.split_off(1);
        let facts = CertificateFacts::parse(&chain[0])?;
        let trust = self.trust.current();
        let (policy, now) = (self.policy(), clock::now().seconds());
        let path = match evaluate_facts(&facts, &intermediates, &trust.anchors, &policy, now) {
            Err(rejection) if rejection.reason == Reason::CertUnknownCa && !idle.is_empty() => {
                evaluate_facts(&facts, &intermediates, idle, &policy, now).map_err(|_| rejection)
            }
            judged => judged,
        }?;
        Ok(Judged { facts, path, request })
    }

    async fn prepare_judged(&self, judged: Judged, ask: &Ask<'_>) -> Result<Prepared, RegistryError> {
        let Judged { facts, path, request } = judged;
        let new = NewDevice {
            facts: &facts,
            ca_id: path.anchor.certificate_fingerprint,
            issuer_key: path.issuer_key,
            device_id: request.device_id.unwrap_or_else(|| name_of(&facts)),
            tenant: request.tenant,
            tags: request.tags,
            client_id: request.client_id,
            attributes: request.attributes,
            state: request.state.unwrap_or(DeviceState::Active),
            source: request.source,
            on_tombstone: request.on_tombstone,
            pending_ttl_millis: PENDING_TTL_MILLIS,
        };
        let event = |name, reason| AuditEvent::new(name, Outcome::Success, reason).actor(ask.actor);
        let known = self.known(&new).await?;
        self.prepare(new, known, "api", ask.actor, None, event)
    }

    /// What writing a new record takes. The caller is in the flight of the certificate.
    pub(super) fn prepare(
        &self,
        new: NewDevice<'_>,
        known: Known,
        source: &'static str,
        actor: &str,
        context: Option<EventContext>,
        event: impl FnOnce(&'static str, Reason) -> AuditEvent,
    ) -> Result<Prepared, RegistryError> {
        self.audit.check()?;
        let now = clock::now();
        let ca = self.ca(new.ca_id);
        let about_it = KnownDevices {
            existing: known.existing.as_ref(),
            ca: ca.as_ref(),
            same_key: &known.same_key,
            same_serial: known.same_serial,
        };
        let renews = renewed_by(&new, &about_it).map(|older| older.id);
        let transition = register_new(new, &about_it, now)?;
        let before = known.existing.map(Arc::new);
        let Some(write) = transition.clone().write() else {
            return Ok(Prepared { changed: Changed::tried(before, transition), change: None });
        };
        let after = Arc::new(write.record);
        let (name, reason, kind) = match (after.state, renews) {
            (DeviceState::PendingActivation, _) => {
                (names::DEVICE_PENDING, Reason::CertPending, EventKind::CertPending)
            }
            (_, Some(_)) => (names::DEVICE_REGISTERED, Reason::Ok, EventKind::CertRenewed),
            (_, None) => (names::DEVICE_REGISTERED, Reason::Ok, EventKind::CertRegistered),
        };
        let audit = about(event(name, reason), &after);
        let was = before.as_deref().map(Changing::of);
        let mut audit = before_and_after(audit, was.as_ref(), Some(&Changing::of(&after)));
        let from = before.as_ref().map(|before| before.state);
        let mut outbox = NewEvent::device(kind, from, &after, actor, now);
        if let Some(older) = renews {
            audit = audit.field("renews", older.to_hex());
            outbox = outbox.with_other(older);
        }
        if let Some(context) = context {
            outbox = outbox.at_connection(context);
        }
        let change =
            Change { before: before.clone(), after: Some(Arc::clone(&after)), source, audit, event: outbox };
        Ok(Prepared { changed: Changed { before, after }, change: Some(change) })
    }

    async fn known(&self, new: &NewDevice<'_>) -> Result<Known, RegistryError> {
        let look = Look::new(new);
        Ok(self.blocking(move |storage| look.known(storage)).await?)
    }
}

/// What a registration asks the storage.
pub(super) struct Look {
    device_id: String,
    id: CertificateFingerprint,
    spki_sha256: String,
    serial: String,
    issuer_key: String,
}

impl Look {
    pub(super) fn new(new: &NewDevice<'_>) -> Self {
        Self {
            device_id: new.device_id.clone(),
            id: new.facts.certificate_fingerprint,
            spki_sha256: hex::encode(new.facts.public_key.spki_sha256),
            serial: hex::encode(&new.facts.serial),
            issuer_key: hex::encode(new.issuer_key),
        }
    }

    /// And the other certificates of the device that are in use or may be.
    pub(super) fn known_and_in_use(
        &self,
        storage: &dyn Storage,
    ) -> Result<(Known, Vec<DeviceCertificate>), StorageError> {
        let mut in_use = storage.certificates_of_device(&self.device_id)?;
        in_use.retain(|record| {
            let is_over = matches!(record.state, DeviceState::Revoked | DeviceState::Tombstone);
            record.id != self.id && !is_over
        });
        Ok((self.known(storage)?, in_use))
    }

    fn known(&self, storage: &dyn Storage) -> Result<Known, StorageError> {
        let every = || DeviceQuery { states: DeviceState::ALL.to_vec(), ..DeviceQuery::default() };
        let query = DeviceQuery { spki_sha256: Some(self.spki_sha256.clone()), ..every() };
        let mut same_key = storage.query_device_certificates(&query)?.records;
        same_key.retain(|other| other.id != self.id);
        let query = DeviceQuery { serial: Some(self.serial.clone()), ..every() };
        let same_serial = storage.query_device_certificates(&query)?.records;
        let same_serial = same_serial
            .into_iter()
            .find(|other| other.id != self.id && other.issuer_key_id == self.issuer_key)
            .map(|other| other.id);
        Ok(Known { existing: storage.device_certificate(&self.id)?, same_key, same_serial })
    }
}

pub(super) fn about(mut event: AuditEvent, record: &DeviceCertificate) -> AuditEvent {
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
    common_name(facts)
        .filter(|name| check_device_id(name).is_ok())
        .unwrap_or_else(|| facts.certificate_fingerprint.to_hex())
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
