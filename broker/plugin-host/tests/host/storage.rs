//! A storage in memory, whose key-value space can be made to block or panic.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::{
    CaCertificate, CaTombstone, DeviceCertificate, DevicePage, DeviceQuery, DeviceState, EventsPage,
    KvAnswer, KvEntry, KvError, KvOperation, KvRequest, QueryIndex, RegistrationCode, RegistryChanges,
    ServerBundle, Storage, StorageError,
};
use mqgate_identity::time::UnixMillis;

#[derive(Default)]
pub struct FakeStorage {
    pub kv: Mutex<BTreeMap<(String, String), Vec<u8>>>,
    pub devices: Mutex<Vec<DeviceCertificate>>,
    /// Certificates per CA and state; there are no records behind them.
    pub counts: Mutex<BTreeMap<(CertificateFingerprint, DeviceState), u64>>,
    /// The key-value space can be asked at once, whoever is blocked.
    pub at_once: AtomicBool,
    mood: Mutex<Mood>,
    changed: Condvar,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Mood {
    #[default]
    Well,
    Blocked,
    Panics,
}

impl FakeStorage {
    pub fn block(&self) {
        self.set(Mood::Blocked);
    }

    pub fn release(&self) {
        self.set(Mood::Well);
    }

    pub fn panic(&self) {
        self.set(Mood::Panics);
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
        self.changed.notify_all();
    }
}

impl Storage for FakeStorage {
    fn device_certificate(
        &self,
        id: &CertificateFingerprint,
    ) -> Result<Option<DeviceCertificate>, StorageError> {
        Ok(self.devices.lock().unwrap().iter().find(|record| record.id == *id).cloned())
    }

    fn device_certificates(
        &self,
        _after: Option<&CertificateFingerprint>,
        _limit: usize,
    ) -> Result<Vec<DeviceCertificate>, StorageError> {
        Ok(Vec::new())
    }

    fn certificates_of_device(&self, device_id: &str) -> Result<Vec<DeviceCertificate>, StorageError> {
        let devices = self.devices.lock().unwrap();
        Ok(devices.iter().filter(|record| record.device_id == device_id).cloned().collect())
    }

    fn device_ids(&self, _: Option<&str>, _: usize) -> Result<Vec<String>, StorageError> {
        Ok(Vec::new())
    }

    fn query_device_certificates(&self, _: &DeviceQuery) -> Result<DevicePage, StorageError> {
        Ok(DevicePage { records: Vec::new(), next: None, index: QueryIndex::Id })
    }

    fn commit(&self, _: &RegistryChanges) -> Result<u64, StorageError> {
        unreachable!("plugins do not write the registry")
    }

    fn touch_device_certificates(
        &self,
        _: &[(CertificateFingerprint, UnixMillis)],
    ) -> Result<(), StorageError> {
        unreachable!("plugins do not write the registry")
    }

    fn events(&self, _: u64, _: usize) -> Result<EventsPage, StorageError> {
        Ok(EventsPage { events: Vec::new(), oldest: 1, newest: 0 })
    }

    fn ca_certificates(&self) -> Result<Vec<CaCertificate>, StorageError> {
        Ok(Vec::new())
    }

    fn ca_tombstones(&self) -> Result<Vec<CaTombstone>, StorageError> {
        Ok(Vec::new())
    }

    fn registration_codes(&self) -> Result<Vec<RegistrationCode>, StorageError> {
        Ok(Vec::new())
    }

    fn server_bundles(&self) -> Result<Vec<ServerBundle>, StorageError> {
        Ok(Vec::new())
    }

    fn put_server_bundle(&self, _: &ServerBundle, _: Option<u64>) -> Result<(), StorageError> {
        unreachable!("plugins have nothing to do with server certificates")
    }

    fn remove_server_bundle(&self, _: &str, _: &str, _: u64) -> Result<(), StorageError> {
        unreachable!("plugins have nothing to do with server certificates")
    }

    fn device_certificate_counts(
        &self,
    ) -> Result<BTreeMap<(CertificateFingerprint, DeviceState), u64>, StorageError> {
        Ok(self.counts.lock().unwrap().clone())
    }

    fn setting(&self, _: &str) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(None)
    }

    fn put_setting(&self, _: &str, _: &[u8]) -> Result<(), StorageError> {
        Ok(())
    }

    fn kv(&self, plugin: &str, operation: KvOperation<'_>) -> Result<KvAnswer, KvError> {
        let mut mood = self.mood.lock().unwrap();
        while *mood == Mood::Blocked {
            mood = self.changed.wait(mood).unwrap();
        }
        drop(mood);
        self.answer(plugin, operation)
    }

    fn kv_at_once(&self, plugin: &str, operation: KvOperation<'_>) -> Option<Result<KvAnswer, KvError>> {
        self.at_once.load(Ordering::Relaxed).then(|| self.answer(plugin, operation))
    }
}

impl FakeStorage {
    fn answer(&self, plugin: &str, operation: KvOperation<'_>) -> Result<KvAnswer, KvError> {
        let panics = *self.mood.lock().unwrap() == Mood::Panics;
        assert!(!panics, "the storage was told to panic");
        let mut kv = self.kv.lock().unwrap();
        match operation.what {
            KvRequest::Get { key } => {
                let entry = kv.get(&(plugin.to_owned(), key.to_owned()));
                Ok(KvAnswer::Entry(entry.map(|value| KvEntry { value: value.clone(), version: 1 })))
            }
            KvRequest::Set { key, value, .. } => {
                kv.insert((plugin.to_owned(), key.to_owned()), value.to_vec());
                Ok(KvAnswer::Done)
            }
            KvRequest::Swap { .. }
            | KvRequest::Add { .. }
            | KvRequest::Delete { .. }
            | KvRequest::List { .. } => Err(KvError::Unavailable(String::from("not in this fake"))),
        }
    }
}
