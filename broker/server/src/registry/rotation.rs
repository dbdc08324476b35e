//! A new certificate for a device that has one: the older is good for a while after the first connection with the new
//! one, and out of use then. And a certificate whose CA has gone, and whose path ends in another now.
//!
//! What happens at a connection; by which rule is the subject of `mqgate-identity`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::rules::{end_supersession, reparent, supersede};
use mqgate_identity::registry::{
    DeviceCertificate, DeviceQuery, DeviceState, EventContext, EventKind, NewEvent, Supersession,
};
use mqgate_identity::time::{UnixMillis, UnixSeconds};

use super::ask::Ask;
use super::changes::{Called, Verdict};
use super::{Registry, RegistryError};
use crate::clock;
use crate::directory::lock;

/// How the certificates of one device follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationSettings {
    /// How long the older certificate is good after the first connection with the newer one.
    pub overlap: Duration,
    /// Certificates of one device that are in use at a time; 0: as many as come.
    pub max_active: usize,
    pub on_max_active: OnMaxActive,
}

/// What happens to one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnMaxActive {
    /// The oldest is out of use at once.
    #[default]
    SupersedeOldest,
    RejectNew,
}

impl Default for RotationSettings {
    fn default() -> Self {
        Self { overlap: Duration::from_secs(600), max_active: 0, on_max_active: OnMaxActive::default() }
    }
}

/// What has to be remembered between connections.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    /// When which certificate is superseded for good.
    ends: Mutex<BTreeSet<(UnixMillis, CertificateFingerprint)>>,
    /// Certificates whose first use has been seen to.
    settled: Mutex<HashSet<CertificateFingerprint>>,
}

/// Certificates whose first use is remembered; more, and it is seen to once more.
const MOST_SETTLED: usize = 100_000;
/// Who acts where nobody asked for it.
const ACTOR: &str = "system:rotation";

impl Rotation {
    pub(super) fn ends(&self, id: CertificateFingerprint, at: UnixMillis) {
        lock(&self.ends).insert((at, id));
    }

    fn take_ended(&self, now: UnixMillis) -> Vec<CertificateFingerprint> {
        let mut ends = lock(&self.ends);
        let mut ended = Vec::new();
        while ends.first().is_some_and(|(at, _)| *at <= now) {
            ended.extend(ends.pop_first().map(|(_, id)| id));
        }
        ended
    }

    /// Whether nobody has seen to it yet.
    fn is_first(&self, id: CertificateFingerprint) -> bool {
        let mut settled = lock(&self.settled);
        if settled.len() >= MOST_SETTLED {
            settled.clear();
        }
        settled.insert(id)
    }

    fn again(&self, id: &CertificateFingerprint) {
        lock(&self.settled).remove(id);
    }
}

/// In which order certificates follow each other: as they were issued; of two issued at once, as they were registered.
fn age(record: &DeviceCertificate) -> (UnixSeconds, UnixMillis, CertificateFingerprint) {
    (record.not_before, record.registered_at, record.id)
}

fn has_ended(record: &DeviceCertificate, now: UnixMillis) -> bool {
    record.superseded.is_some_and(|superseded| superseded.ends_at <= now)
}

/// The certificates of a device that have to go for a new one; or an error, if it has to stay out.
pub(super) fn surplus<'a>(
    new: &DeviceCertificate,
    others: &'a [DeviceCertificate],
    rotation: RotationSettings,
) -> Result<Vec<&'a DeviceCertificate>, RegistryError> {
    let now = clock::now();
    let counts = |other: &&DeviceCertificate| {
        let in_use = matches!(other.state, DeviceState::Active | DeviceState::PendingActivation);
        in_use && !has_ended(other, now)
    };
    let mut in_use: Vec<_> = others.iter().filter(counts).collect();
    if rotation.max_active == 0 || in_use.len() < rotation.max_active {
        return Ok(Vec::new());
    }
    let too_many = in_use.len() + 1 - rotation.max_active;
    in_use.retain(|other| other.state == DeviceState::Active);
    if rotation.on_max_active == OnMaxActive::RejectNew
        || new.state != DeviceState::Active
        || in_use.len() < too_many
    {
        return Err(RegistryError::TooManyActive {
            device_id: new.device_id.clone(),
            maximum: rotation.max_active,
        });
    }
    // Those that are on their way out go first.
    in_use.sort_by_key(|other| (other.superseded.is_none(), age(other)));
    in_use.truncate(too_many);
    Ok(in_use)
}

impl Registry {
    /// A client was let in by this certificate, whose path ends in `anchor`. What follows from that is done in the
    /// background: older certificates of the device are superseded, and a record whose CA has gone is moved.
    pub(crate) fn used(
        self: &Arc<Self>,
        record: &Arc<DeviceCertificate>,
        anchor: CertificateFingerprint,
        rotation: RotationSettings,
    ) {
        if let Some(superseded) = record.superseded {
            self.rotation.ends(record.id, superseded.ends_at);
        }
        let carried =
            record.ca_id == anchor || self.ca(record.ca_id).is_some_and(|ca| ca.carries_connections());
        let is_first = record.last_seen.is_none() && self.rotation.is_first(record.id);
        if carried && !is_first {
            return;
        }
        let (this, record) = (Arc::clone(self), Arc::clone(record));
        tokio::spawn(async move {
            let mut done = Ok(());
            if !carried {
                done = this.move_to(&record, anchor).await;
            }
            if is_first && done.is_ok() {
                done = this.supersede_older(&record, rotation.overlap).await;
            }
            if let Err(error) = done {
                this.rotation.again(&record.id);
                tracing::warn!(%error, certificate = %record.id, "what follows from its use is not written");
            }
        });
    }

    async fn move_to(
        self: &Arc<Self>,
        record: &DeviceCertificate,
        anchor: CertificateFingerprint,
    ) -> Result<(), RegistryError> {
        let called = Called::new(EventKind::CertReparented, names::DEVICE_REPARENTED);
        self.change(record.id, &Ask::by(ACTOR), called, &|record, _, now| {
            reparent(record, anchor, now).map(Verdict::from)
        })
        .await
        .map(drop)
    }

    /// Certificates of the same device that were issued before this one go out of use when the overlap is over.
    pub(super) async fn supersede_older(
        self: &Arc<Self>,
        newer: &DeviceCertificate,
        overlap: Duration,
    ) -> Result<(), RegistryError> {
        let mut older = self.certificates_of(newer.device_id.clone()).await?;
        older.retain(|other| {
            let in_use = other.state == DeviceState::Active && other.superseded.is_none();
            other.id != newer.id && other.is_same_device(newer) && in_use && age(other) < age(newer)
        });
        for other in older {
            self.supersede(other.id, newer, overlap).await?;
        }
        Ok(())
    }

    async fn supersede(
        self: &Arc<Self>,
        id: CertificateFingerprint,
        by: &DeviceCertificate,
        overlap: Duration,
    ) -> Result<(), RegistryError> {
        let overlap = u64::try_from(overlap.as_millis()).unwrap_or(u64::MAX);
        let called =
            Called { other: Some(by.id), ..Called::new(EventKind::CertSuperseded, names::DEVICE_SUPERSEDED) };
        let changed = self
            .change(id, &Ask::by(ACTOR), called, &|record, _, now| {
                supersede(record, by, overlap, now).map(Verdict::from)
            })
            .await?;
        if let Some(superseded) = changed.superseded {
            match superseded.ends_at <= clock::now() {
                true => self.end_supersession(id).await?,
                false => self.rotation.ends(id, superseded.ends_at),
            }
        }
        Ok(())
    }

    /// The overlap is over: its connections are closed.
    pub(crate) async fn end_supersession(
        self: &Arc<Self>,
        id: CertificateFingerprint,
    ) -> Result<(), RegistryError> {
        let called = Called::new(EventKind::CertDeactivated, names::DEVICE_DEACTIVATED);
        self.change(id, &Ask::by(ACTOR), called, &|record, _, now| {
            end_supersession(record, now).map(Verdict::from)
        })
        .await
        .map(drop)
    }

    /// Somebody came with a certificate whose overlap is over: it was superseded before the last start.
    pub(crate) fn over(&self, id: CertificateFingerprint) {
        self.rotation.ends(id, UnixMillis(0));
    }

    /// Ends what is over. A certificate that was superseded before the last start is found when it is used.
    pub(super) async fn end_supersessions(self: &Arc<Self>) {
        for id in self.rotation.take_ended(clock::now()) {
            match self.end_supersession(id).await {
                // Reinstated, revoked or deleted meanwhile.
                Ok(()) | Err(RegistryError::Rule(_) | RegistryError::NotFound) => {}
                Err(error) => {
                    tracing::warn!(%error, certificate = %id, "a superseded certificate stays active for now");
                    self.rotation.ends(id, clock::now());
                }
            }
        }
    }

    /// Sees to it that a device has room for one more certificate, or says that it has none.
    pub(super) async fn make_room(
        self: &Arc<Self>,
        new: &DeviceCertificate,
        others: &[DeviceCertificate],
        rotation: RotationSettings,
    ) -> Result<(), RegistryError> {
        for other in surplus(new, others, rotation)? {
            match other.superseded {
                None => self.supersede(other.id, new, Duration::ZERO).await?,
                Some(_) => self.cut_short(other.id).await?,
            }
        }
        Ok(())
    }

    /// Ends an overlap before its time.
    async fn cut_short(self: &Arc<Self>, id: CertificateFingerprint) -> Result<(), RegistryError> {
        let called = Called::new(EventKind::CertDeactivated, names::DEVICE_DEACTIVATED);
        self.change(id, &Ask::by(ACTOR), called, &|record, _, now| {
            let superseded =
                record.superseded.map(|other| Supersession { ends_at: other.ends_at.min(now), ..other });
            end_supersession(&DeviceCertificate { superseded, ..record.clone() }, now).map(Verdict::from)
        })
        .await
        .map(drop)
    }

    /// Number of certificates by CA and state.
    pub(crate) fn counts(
        &self,
    ) -> Result<BTreeMap<(CertificateFingerprint, DeviceState), u64>, RegistryError> {
        Ok(self.storage.device_certificate_counts()?)
    }

    /// A certificate that is bound to this client id, and not of this device.
    pub(crate) async fn bound_to(
        &self,
        client_id: &str,
        trust_domain: &str,
        device_id: &str,
    ) -> Result<Option<DeviceCertificate>, RegistryError> {
        if !self.storage.may_bind_client_ids() {
            return Ok(None);
        }
        let query = DeviceQuery {
            client_id: Some(client_id.to_owned()),
            states: vec![DeviceState::Active, DeviceState::Inactive, DeviceState::PendingActivation],
            limit: 16,
            ..DeviceQuery::default()
        };
        let page = self.query(query).await?;
        let is_same =
            |owner: &DeviceCertificate| owner.trust_domain == trust_domain && owner.device_id == device_id;
        Ok(page.records.into_iter().find(|owner| !is_same(owner)))
    }

    /// Writes down that something is odd about a certificate, in the background: nobody's connection waits for it.
    pub(crate) fn finding(
        self: &Arc<Self>,
        kind: EventKind,
        record: &DeviceCertificate,
        context: EventContext,
    ) {
        let mut told = AuditEvent::new(names::CERTIFICATE_FINDING, Outcome::Failure, Reason::Other)
            .field("finding", kind.as_str());
        told.device_id = Some(record.device_id.clone());
        told.certificate_fingerprint = Some(record.id);
        told.subject = Some(record.subject.clone());
        told.peer_address.clone_from(&context.peer_ip);
        told.listener = context.listener.as_deref().map(Into::into);
        if let Some(detail) = &context.detail {
            told = told.field("detail", detail.as_str());
        }
        if let Some(attempts) = context.attempts {
            told = told.field("attempts", attempts.to_string());
        }
        self.audit.record(told);
        self.tell_later(kind, record, context);
    }

    /// Puts an event into the outbox that is about no change of a record.
    pub(crate) fn tell_later(
        self: &Arc<Self>,
        kind: EventKind,
        record: &DeviceCertificate,
        context: EventContext,
    ) {
        let event =
            NewEvent::device(kind, Some(record.state), record, "system", clock::now()).at_connection(context);
        let this = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = this.announce(vec![event]).await {
                tracing::warn!(%error, kind = kind.as_str(), "an event is not written");
            }
        });
    }
}
