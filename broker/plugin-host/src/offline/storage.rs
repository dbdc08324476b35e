//! The key-value space of a case, and nothing else of a storage.

use std::collections::BTreeMap;

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::{
    CaCertificate, CaTombstone, DeviceCertificate, DevicePage, DeviceQuery, DeviceState, EventsPage,
    KvAnswer, KvEntry, KvError, KvOperation, KvRequest, RegistrationCode, RegistryChanges, ServerBundle,
    Storage, StorageError,
};
use mqgate_identity::time::UnixMillis;

use super::world::{State, Stored, World};

fn nothing_else<T>() -> Result<T, StorageError> {
    Err(StorageError::Unavailable(String::from("a case has no storage but for its key-value entries")))
}

impl State {
    /// The entry that is there, those whose time is over not counted. An inner `None`: nobody knows its value.
    fn find(&mut self, key: &str, now: UnixMillis) -> Option<(Option<Vec<u8>>, u64)> {
        match self.entries.get(key) {
            Some(entry) if entry.expires.is_none_or(|end| end > now) => {
                let found = (entry.value.known().map(<[u8]>::to_vec), entry.version);
                Some(found)
            }
            Some(_) => None,
            None => {
                self.missing(key);
                None
            }
        }
    }

    fn put(&mut self, key: &str, value: &[u8], expires: Option<UnixMillis>) -> u64 {
        let version = self.entries.get(key).map_or(1, |entry| entry.version + 1);
        self.entries.insert(key.to_owned(), Stored { value: value.into(), version, expires });
        self.wrote(key);
        version
    }

    fn has_room(&self, operation: &KvOperation<'_>, key: &str, length: usize) -> bool {
        let others = self.entries.iter().filter(|(known, _)| *known != key);
        let sizes = others.map(|(key, entry)| key.len() + entry.value.known().map_or(0, <[u8]>::len));
        let (count, bytes) = sizes.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size));
        let quota = operation.quota;
        count < quota.entries && (bytes + key.len() + length) as u64 <= quota.bytes
    }
}

impl Storage for World {
    fn kv(&self, _plugin: &str, operation: KvOperation<'_>) -> Result<KvAnswer, KvError> {
        let mut state = self.locked();
        let now = operation.now;
        match operation.what {
            KvRequest::Get { key } => Ok(KvAnswer::Entry(match state.find(key, now) {
                Some((Some(value), version)) => Some(KvEntry { value, version }),
                Some((None, _)) => {
                    state.hidden(key);
                    None
                }
                None => None,
            })),
            KvRequest::Set { key, value, expires } => {
                if !state.has_room(&operation, key, value.len()) {
                    return Err(KvError::QuotaExceeded);
                }
                Ok(KvAnswer::Version(state.put(key, value, expires)))
            }
            KvRequest::Swap { key, expected, value, expires } => {
                if state.find(key, now).map(|(_, version)| version) != expected {
                    return Err(KvError::Conflict);
                }
                if !state.has_room(&operation, key, value.len()) {
                    return Err(KvError::QuotaExceeded);
                }
                Ok(KvAnswer::Version(state.put(key, value, expires)))
            }
            KvRequest::Add { key, delta, expires } => {
                let number = match state.find(key, now) {
                    None => 0,
                    Some((Some(value), _)) => {
                        let number =
                            std::str::from_utf8(&value).ok().and_then(|text| text.parse::<i64>().ok());
                        let no_number =
                            || KvError::Unavailable("the entry does not hold a number".to_owned());
                        number.ok_or_else(no_number)?
                    }
                    Some((None, _)) => {
                        state.hidden(key);
                        0
                    }
                };
                let number = number.saturating_add(delta);
                let text = number.to_string();
                // The time of an entry begins with it, and further additions do not move it.
                let known = state.entries.get(key).filter(|entry| entry.expires.is_none_or(|end| end > now));
                let expires = known.map_or(expires, |entry| entry.expires);
                if !state.has_room(&operation, key, text.len()) {
                    return Err(KvError::QuotaExceeded);
                }
                state.put(key, text.as_bytes(), expires);
                Ok(KvAnswer::Number(number))
            }
            KvRequest::Delete { key } => {
                state.entries.remove(key);
                state.wrote(key);
                Ok(KvAnswer::Done)
            }
            KvRequest::List { prefix, cursor, limit } => {
                state.not_listed(prefix);
                let live = state.entries.iter().filter(|(_, it)| it.expires.is_none_or(|end| end > now));
                let keys = live.map(|(key, _)| key.clone()).filter(|key| key.starts_with(prefix));
                let mut keys = keys.skip_while(|key| cursor.is_some_and(|cursor| key.as_str() <= cursor));
                let page: Vec<String> = keys.by_ref().take(limit as usize).collect();
                let cursor = keys.next().and(page.last().cloned());
                Ok(KvAnswer::Page { keys: page, cursor })
            }
        }
    }

    fn device_certificate(
        &self,
        _: &CertificateFingerprint,
    ) -> Result<Option<DeviceCertificate>, StorageError> {
        nothing_else()
    }

    fn device_certificates(
        &self,
        _: Option<&CertificateFingerprint>,
        _: usize,
    ) -> Result<Vec<DeviceCertificate>, StorageError> {
        nothing_else()
    }

    fn certificates_of_device(&self, _: &str) -> Result<Vec<DeviceCertificate>, StorageError> {
        nothing_else()
    }

    fn device_ids(&self, _: Option<&str>, _: usize) -> Result<Vec<String>, StorageError> {
        nothing_else()
    }

    fn query_device_certificates(&self, _: &DeviceQuery) -> Result<DevicePage, StorageError> {
        nothing_else()
    }

    fn commit(&self, _: &RegistryChanges) -> Result<u64, StorageError> {
        nothing_else()
    }

    fn touch_device_certificates(
        &self,
        _: &[(CertificateFingerprint, UnixMillis)],
    ) -> Result<(), StorageError> {
        nothing_else()
    }

    fn events(&self, _: u64, _: usize) -> Result<EventsPage, StorageError> {
        nothing_else()
    }

    fn ca_certificates(&self) -> Result<Vec<CaCertificate>, StorageError> {
        nothing_else()
    }

    fn ca_tombstones(&self) -> Result<Vec<CaTombstone>, StorageError> {
        nothing_else()
    }

    fn registration_codes(&self) -> Result<Vec<RegistrationCode>, StorageError> {
        nothing_else()
    }

    fn server_bundles(&self) -> Result<Vec<ServerBundle>, StorageError> {
        nothing_else()
    }

    fn put_server_bundle(&self, _: &ServerBundle, _: Option<u64>) -> Result<(), StorageError> {
        nothing_else()
    }

    fn remove_server_bundle(&self, _: &str, _: &str, _: u64) -> Result<(), StorageError> {
        nothing_else()
    }

    fn device_certificate_counts(
        &self,
    ) -> Result<BTreeMap<(CertificateFingerprint, DeviceState), u64>, StorageError> {
        nothing_else()
    }

    fn setting(&self, _: &str) -> Result<Option<Vec<u8>>, StorageError> {
        nothing_else()
    }

    fn put_setting(&self, _: &str, _: &[u8]) -> Result<(), StorageError> {
        nothing_else()
    }
}
