//! `mqgate:plugin/registry`: a reader's view of the device registry. Devices are put together from the
//! certificates registered for them.

use std::sync::Arc;

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::{DeviceCertificate, DeviceState, Storage, StorageError};
use mqgate_identity::time::UnixMillis;

use crate::bindings::mqgate::plugin::registry::{Device, DeviceStatus, Error, Host};
use crate::bindings::mqgate::plugin::types::{Attribute, Value};
use crate::instance::StoreState;
use crate::metrics::Interface;
use crate::outside::DeviceBy;
use crate::tap::{HostCall, KnownDevice};

/// Records read at once, and in all, to count with a condition.
const PAGE: usize = 500;
const MAX_COUNTED: usize = 20_000;
/// A tag of this form, with the fingerprint of a trust anchor, stands for what is registered under that anchor.
const ANCHOR_TAG: &str = "ca:";

impl StoreState {
    async fn read<T: Send + 'static>(
        &mut self,
        read: impl FnOnce(&dyn Storage) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.consulted = true;
        let storage = Arc::clone(&self.services.storage);
        let outcome = match tokio::task::spawn_blocking(move || read(&*storage)).await {
            Ok(outcome) => outcome,
            Err(error) => Err(Error::Unavailable(format!("the storage failed: {error}"))),
        };
        self.services.count(Interface::Registry, &outcome);
        outcome
    }
}

impl StoreState {
    /// What is said in the storage's place.
    fn known<T>(&mut self, known: T) -> Result<T, Error> {
        self.consulted = true;
        let outcome = Ok(known);
        self.services.count(Interface::Registry, &outcome);
        outcome
    }
}

impl Host for StoreState {
    async fn by_id(&mut self, device_id: String) -> Result<Option<Device>, Error> {
        let found = match self.services.outside.device(DeviceBy::Id(&device_id)) {
            Some(known) => self.known(known.map(Device::from)),
            None => {
                let id = device_id.clone();
                self.read(move |storage| device(storage, &id)).await
            }
        };
        self.heard(|| told(DeviceBy::Id(&device_id), &found));
        found
    }

    async fn by_fingerprint(&mut self, sha256: Vec<u8>) -> Result<Option<Device>, Error> {
        let Ok(sha256) = <[u8; 32]>::try_from(sha256) else { return Ok(None) };
        let found = match self.services.outside.device(DeviceBy::Fingerprint(&sha256)) {
            Some(known) => self.known(known.map(Device::from)),
            None => {
                self.read(move |storage| {
                    match storage.device_certificate(&CertificateFingerprint(sha256))? {
                        Some(record) if record.state != DeviceState::Tombstone => {
                            device(storage, &record.device_id)
                        }
                        Some(_) | None => Ok(None),
                    }
                })
                .await
            }
        };
        self.heard(|| told(DeviceBy::Fingerprint(&sha256), &found));
        found
    }

    async fn count(&mut self, tenant: Option<String>, tag: Option<String>) -> Result<u64, Error> {
        let counted = self.counted(tenant.clone(), tag.clone()).await;
        self.heard(|| HostCall::Count { tenant, tag, count: counted.as_ref().copied().map_err(text) });
        counted
    }
}

impl StoreState {
    async fn counted(&mut self, tenant: Option<String>, tag: Option<String>) -> Result<u64, Error> {
        if let Some(known) = self.services.outside.count(tenant.as_deref(), tag.as_deref()) {
            return self.known(known);
        }
        let anchor = tag.as_deref().and_then(anchor_of_tag);
        if tenant.is_none() && (tag.is_none() || anchor.is_some()) {
            self.consulted = true;
            let counted = count_under(&*self.services.storage, anchor);
            self.services.count(Interface::Registry, &counted);
            return counted;
        }
        self.read(move |storage| count(storage, tenant.as_deref(), tag.as_deref())).await
    }
}

fn told(by: DeviceBy<'_>, found: &Result<Option<Device>, Error>) -> HostCall {
    let found = found.as_ref().map(|device| device.as_ref().map(KnownDevice::of)).map_err(text);
    HostCall::Device { by: by.to_string(), found }
}

fn text(error: &Error) -> String {
    match error {
        Error::Denied => String::from("denied"),
        Error::Unavailable(text) => text.clone(),
    }
}

impl KnownDevice {
    fn of(device: &Device) -> Self {
        let text = |attribute: &Attribute| match &attribute.value {
            Value::Text(text) => Some((attribute.name.clone(), text.clone())),
            Value::Integer(_) | Value::Boolean(_) | Value::Blob(_) | Value::Texts(_) => None,
        };
        Self {
            device_id: device.device_id.clone(),
            tenant: device.tenant.clone(),
            status: match device.status {
                DeviceStatus::Active => "active",
                DeviceStatus::Pending => "pending",
                DeviceStatus::Suspended => "suspended",
            },
            tags: device.tags.clone(),
            fingerprints: device.fingerprints.iter().filter_map(|it| it.as_slice().try_into().ok()).collect(),
            registered_at: UnixMillis(device.registered_at),
            last_seen: device.last_seen.map(UnixMillis),
            attributes: device.attributes.iter().filter_map(text).collect(),
        }
    }
}

impl From<KnownDevice> for Device {
    fn from(device: KnownDevice) -> Self {
        let attribute = |(name, text)| Attribute { name, value: Value::Text(text) };
        Self {
            device_id: device.device_id,
            tenant: device.tenant,
            status: match device.status {
                "active" => DeviceStatus::Active,
                "pending" => DeviceStatus::Pending,
                _ => DeviceStatus::Suspended,
            },
            tags: device.tags,
            fingerprints: device.fingerprints.iter().map(|it| it.to_vec()).collect(),
            registered_at: device.registered_at.0,
            last_seen: device.last_seen.map(|time| time.0),
            attributes: device.attributes.into_iter().map(attribute).collect(),
        }
    }
}

fn device(storage: &dyn Storage, device_id: &str) -> Result<Option<Device>, Error> {
    Ok(compose(storage.certificates_of_device(device_id)?))
}

/// One device out of the certificates registered for it.
fn compose(mut records: Vec<DeviceCertificate>) -> Option<Device> {
    records.retain(|record| record.state != DeviceState::Tombstone);
    // The certificate that counts most speaks for the device: active before pending before the rest, then newest.
    records.sort_by_key(|record| (rank(record.state), std::cmp::Reverse(record.registered_at)));
    let first = records.first()?;
    let registered_at = records.iter().map(|record| record.registered_at).min().unwrap_or_default();
    Some(Device {
        device_id: first.device_id.clone(),
        tenant: first.tenant.clone(),
        status: status(first.state),
        tags: first.tags.clone(),
        fingerprints: records.iter().map(|record| record.id.0.to_vec()).collect(),
        registered_at: registered_at.0,
        last_seen: records.iter().filter_map(|record| record.last_seen).max().map(|time| time.0),
        attributes: first
            .attributes
            .iter()
            .map(|(name, value)| Attribute { name: name.clone(), value: Value::Text(value.clone()) })
            .collect(),
    })
}

/// What is registered under one anchor, or all: a number that the storage has in memory.
fn count_under(storage: &dyn Storage, anchor: Option<CertificateFingerprint>) -> Result<u64, Error> {
    let counts = storage.device_certificate_counts()?;
    let wanted = |ca| is_wanted(anchor, ca);
    let counted = counts.iter().filter(|((ca, state), _)| is_registered(*state) && wanted(*ca));
    Ok(counted.map(|(_, count)| count).sum())
}

/// With a condition: record by record.
fn count(storage: &dyn Storage, tenant: Option<&str>, tag: Option<&str>) -> Result<u64, Error> {
    let anchor = tag.and_then(anchor_of_tag);
    let has_tag = |record: &DeviceCertificate| match anchor {
        Some(_) => is_wanted(anchor, record.ca_id),
        None => tag.is_none_or(|tag| record.tags.iter().any(|known| known == tag)),
    };
    let matches = |record: &DeviceCertificate| {
        is_registered(record.state)
            && tenant.is_none_or(|tenant| record.tenant.as_deref() == Some(tenant))
            && has_tag(record)
    };
    let mut found = 0;
    let mut after = None;
    for _ in 0..MAX_COUNTED / PAGE {
        let page = storage.device_certificates(after.as_ref(), PAGE)?;
        found += page.iter().filter(|record| matches(record)).count() as u64;
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.id),
            Some(_) | None => return Ok(found),
        }
    }
    Err(Error::Unavailable(format!("more than {MAX_COUNTED} records would have to be read")))
}

fn is_wanted(anchor: Option<CertificateFingerprint>, ca: CertificateFingerprint) -> bool {
    anchor.is_none_or(|anchor| anchor == ca)
}

fn anchor_of_tag(tag: &str) -> Option<CertificateFingerprint> {
    let mut fingerprint = [0; 32];
    hex::decode_to_slice(tag.strip_prefix(ANCHOR_TAG)?, &mut fingerprint).ok()?;
    Some(CertificateFingerprint(fingerprint))
}

fn rank(state: DeviceState) -> u8 {
    match state {
        DeviceState::Active => 0,
        DeviceState::PendingActivation => 1,
        DeviceState::Inactive => 2,
        DeviceState::Revoked => 3,
        DeviceState::Tombstone => 4,
    }
}

fn status(state: DeviceState) -> DeviceStatus {
    match state {
        DeviceState::Active => DeviceStatus::Active,
        DeviceState::PendingActivation => DeviceStatus::Pending,
        DeviceState::Inactive | DeviceState::Revoked | DeviceState::Tombstone => DeviceStatus::Suspended,
    }
}

fn is_registered(state: DeviceState) -> bool {
    match state {
        DeviceState::Active | DeviceState::PendingActivation | DeviceState::Inactive => true,
        DeviceState::Revoked | DeviceState::Tombstone => false,
    }
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mqgate_identity::registry::RegistrationSource;
    use mqgate_identity::time::UnixSeconds;

    use super::*;

    fn record(number: u8, state: DeviceState, registered_at: u64) -> DeviceCertificate {
        DeviceCertificate {
            id: CertificateFingerprint([number; 32]),
            state,
            namespace: String::from("default"),
            trust_domain: String::from("default"),
            device_id: String::from("d"),
            tenant: Some(format!("tenant-{number}")),
            tags: Vec::new(),
            client_id: None,
            ca_id: CertificateFingerprint([0; 32]),
            issuer_key_id: String::new(),
            subject: String::new(),
            issuer: String::new(),
            serial: String::new(),
            spki_sha256: String::new(),
            common_name: None,
            organizational_units: Vec::new(),
            subject_alt_names: Vec::new(),
            not_before: UnixSeconds(0),
            not_after: UnixSeconds(1),
            source: RegistrationSource::Api,
            registered_at: UnixMillis(registered_at),
            updated_at: UnixMillis(registered_at),
            last_seen: Some(UnixMillis(registered_at + 1)),
            pending_until: None,
            superseded: None,
            quarantined: None,
            revocation_reason: None,
            revoked_at: None,
            deleted_at: None,
            attributes: BTreeMap::new(),
            revision: 1,
            pem: String::new(),
        }
    }

    #[test]
    fn the_certificate_that_counts_most_speaks_for_the_device() {
        let found = compose(vec![
            record(1, DeviceState::Revoked, 50),
            record(2, DeviceState::Active, 10),
            record(3, DeviceState::Active, 20),
            record(4, DeviceState::Tombstone, 1),
            record(5, DeviceState::PendingActivation, 30),
        ])
        .expect("a device");
        assert_eq!(found.status, DeviceStatus::Active);
        assert_eq!(found.tenant.as_deref(), Some("tenant-3"));
        assert_eq!((found.registered_at, found.last_seen), (10, Some(51)));
        let numbers: Vec<u8> = found.fingerprints.iter().map(|fingerprint| fingerprint[0]).collect();
        assert_eq!(numbers, [3, 2, 5, 1]);
    }

    #[test]
    fn what_was_deleted_is_no_device() {
        assert!(compose(vec![record(1, DeviceState::Tombstone, 1)]).is_none());
        assert!(compose(Vec::new()).is_none());
        let suspended = compose(vec![record(1, DeviceState::Revoked, 1)]).expect("a device");
        assert_eq!(suspended.status, DeviceStatus::Suspended);
    }
}
