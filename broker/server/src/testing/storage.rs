//! A registry storage in memory.

use super::*;

/// Keeps records in memory; fails while told to.
#[derive(Default)]
pub(crate) struct MemoryStorage {
    devices: Mutex<BTreeMap<CertificateFingerprint, DeviceCertificate>>,
    cas: Mutex<BTreeMap<CertificateFingerprint, CaCertificate>>,
    codes: Mutex<BTreeMap<String, RegistrationCode>>,
    buried: Mutex<BTreeMap<CertificateFingerprint, CaTombstone>>,
    events: Mutex<Vec<RegistryEvent>>,
    bundles: Mutex<BTreeMap<(String, String), ServerBundle>>,
    settings: Mutex<BTreeMap<String, Vec<u8>>>,
    entries: Mutex<BTreeMap<(String, String), KvEntry>>,
    pub(crate) failing: AtomicBool,
    pub(crate) writes: AtomicUsize,
    /// Whoever holds it makes writes wait.
    pub(crate) slow: Mutex<()>,
    pub(crate) writes_begun: AtomicUsize,
    /// What making a change safe on the disk comes to, after it was applied.
    pub(crate) synchronising: Mutex<Option<Synchronising>>,
}

type Synchronising = Box<dyn Fn() -> Result<(), StorageError> + Send>;

impl MemoryStorage {
    fn check(&self) -> Result<(), StorageError> {
        match self.failing.load(Ordering::SeqCst) {
            true => Err(StorageError::Unavailable("told to fail".into())),
            false => Ok(()),
        }
    }
}

impl Storage for MemoryStorage {
    fn device_certificate(
        &self,
        id: &CertificateFingerprint,
    ) -> Result<Option<DeviceCertificate>, StorageError> {
        self.check()?;
        Ok(self.devices.lock().unwrap().get(id).cloned())
    }

    fn device_certificates(
        &self,
        after: Option<&CertificateFingerprint>,
        limit: usize,
    ) -> Result<Vec<DeviceCertificate>, StorageError> {
        self.check()?;
        let devices = self.devices.lock().unwrap();
        Ok(devices.values().filter(|record| Some(&record.id) > after).take(limit).cloned().collect())
    }

    fn certificates_of_device(&self, device_id: &str) -> Result<Vec<DeviceCertificate>, StorageError> {
        self.check()?;
        let devices = self.devices.lock().unwrap();
        Ok(devices.values().filter(|record| record.device_id == device_id).cloned().collect())
    }

    fn device_ids(&self, after: Option<&str>, limit: usize) -> Result<Vec<String>, StorageError> {
        self.check()?;
        let devices = self.devices.lock().unwrap();
        let ids: BTreeSet<_> = devices.values().map(|record| record.device_id.clone()).collect();
        Ok(ids.into_iter().filter(|id| after.is_none_or(|after| &**id > after)).take(limit).collect())
    }

    fn query_device_certificates(&self, query: &DeviceQuery) -> Result<DevicePage, StorageError> {
        self.check()?;
        let devices = self.devices.lock().unwrap();
        let after = query.cursor.as_ref().map(|cursor| cursor.as_bytes().to_vec());
        let limit = if query.limit == 0 { usize::MAX } else { query.limit };
        let mut records: Vec<_> = devices
            .values()
            .filter(|record| after.as_ref().is_none_or(|after| &record.id.0[..] > after.as_slice()))
            .filter(|record| query.is_for(record))
            .take(limit.saturating_add(1))
            .cloned()
            .collect();
        let more = records.len() > limit;
        records.truncate(limit);
        let next = records.last().filter(|_| more).map(|last| Cursor::new(last.id.0.to_vec()));
        Ok(DevicePage { records, next, index: QueryIndex::Id })
    }

    fn commit_beside(
        &self,
        changes: &RegistryChanges,
        applied: &mut dyn FnMut(),
    ) -> Result<u64, StorageError> {
        let newest = self.commit(changes)?;
        applied();
        let synchronising = self.synchronising.lock().unwrap();
        synchronising.as_ref().map_or(Ok(()), |synchronise| synchronise()).map(|()| newest)
    }

    fn commit(&self, changes: &RegistryChanges) -> Result<u64, StorageError> {
        self.check()?;
        self.writes_begun.fetch_add(1, Ordering::SeqCst);
        let _slow = self.slow.lock().unwrap();
        let mut devices = self.devices.lock().unwrap();
        let mut cas = self.cas.lock().unwrap();
        let mut codes = self.codes.lock().unwrap();
        let mut buried = self.buried.lock().unwrap();
        let compare = |current: Option<u64>, expected: Option<u64>| match current == expected {
            true => Ok(()),
            false => Err(StorageError::Conflict { current }),
        };
        for write in &changes.writes {
            match write {
                RecordWrite::Device { record, expected } => {
                    compare(devices.get(&record.id).map(|record| record.revision), *expected)?;
                }
                RecordWrite::RemoveDevice { id, expected } => {
                    compare(devices.get(id).map(|record| record.revision), Some(*expected))?;
                }
                RecordWrite::Ca { record, expected } => {
                    compare(cas.get(&record.id).map(|record| record.revision), *expected)?;
                }
                RecordWrite::RemoveCa { id, expected } => {
                    compare(cas.get(id).map(|record| record.revision), Some(*expected))?;
                }
                RecordWrite::Code { record, expected } => {
                    compare(codes.get(&record.code).map(|code| code.revision), *expected)?;
                }
                RecordWrite::CaTombstone { .. }
                | RecordWrite::RemoveCaTombstone { .. }
                | RecordWrite::RemoveCode { .. } => {}
            }
        }
        for write in changes.writes.clone() {
            match write {
                RecordWrite::Device { record, .. } => drop(devices.insert(record.id, *record)),
                RecordWrite::RemoveDevice { id, .. } => drop(devices.remove(&id)),
                RecordWrite::Ca { record, .. } => drop(cas.insert(record.id, *record)),
                RecordWrite::RemoveCa { id, .. } => drop(cas.remove(&id)),
                RecordWrite::Code { record, .. } => drop(codes.insert(record.code.clone(), *record)),
                RecordWrite::RemoveCode { code } => drop(codes.remove(&code)),
                RecordWrite::CaTombstone { tombstone } => drop(buried.insert(tombstone.id, *tombstone)),
                RecordWrite::RemoveCaTombstone { id } => drop(buried.remove(&id)),
            }
        }
        self.writes.fetch_add(1, Ordering::SeqCst);
        let mut events = self.events.lock().unwrap();
        for event in &changes.events {
            let sequence = events.len() as u64 + 1;
            let NewEvent { kind, at, actor, data } = event.clone();
            events.push(RegistryEvent { sequence, kind, at, actor, data });
        }
        Ok(events.len() as u64)
    }

    fn touch_device_certificates(
        &self,
        seen: &[(CertificateFingerprint, UnixMillis)],
    ) -> Result<(), StorageError> {
        self.check()?;
        let mut devices = self.devices.lock().unwrap();
        for (id, at) in seen {
            if let Some(record) = devices.get_mut(id) {
                record.last_seen = Some(*at);
            }
        }
        Ok(())
    }

    fn events(&self, after: u64, limit: usize) -> Result<EventsPage, StorageError> {
        self.check()?;
        let events = self.events.lock().unwrap();
        let page = events.iter().filter(|event| event.sequence > after).take(limit).cloned().collect();
        Ok(EventsPage { events: page, oldest: 1, newest: events.len() as u64 })
    }

    fn ca_tombstones(&self) -> Result<Vec<CaTombstone>, StorageError> {
        self.check()?;
        Ok(self.buried.lock().unwrap().values().cloned().collect())
    }

    fn registration_codes(&self) -> Result<Vec<RegistrationCode>, StorageError> {
        self.check()?;
        Ok(self.codes.lock().unwrap().values().cloned().collect())
    }

    fn ca_certificates(&self) -> Result<Vec<CaCertificate>, StorageError> {
        self.check()?;
        Ok(self.cas.lock().unwrap().values().cloned().collect())
    }

    fn server_bundles(&self) -> Result<Vec<ServerBundle>, StorageError> {
        self.check()?;
        Ok(self.bundles.lock().unwrap().values().cloned().collect())
    }

    fn put_server_bundle(&self, record: &ServerBundle, _: Option<u64>) -> Result<(), StorageError> {
        self.check()?;
        let key = (record.namespace.clone(), record.name.clone());
        self.bundles.lock().unwrap().insert(key, record.clone());
        Ok(())
    }

    fn remove_server_bundle(&self, namespace: &str, name: &str, _: u64) -> Result<(), StorageError> {
        self.check()?;
        self.bundles.lock().unwrap().remove(&(namespace.to_owned(), name.to_owned()));
        Ok(())
    }

    fn device_certificate_counts(
        &self,
    ) -> Result<BTreeMap<(CertificateFingerprint, DeviceState), u64>, StorageError> {
        self.check()?;
        let mut counts = BTreeMap::new();
        for record in self.devices.lock().unwrap().values() {
            *counts.entry((record.ca_id, record.state)).or_default() += 1;
        }
        Ok(counts)
    }

    fn setting(&self, key: &str) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.settings.lock().unwrap().get(key).cloned())
    }

    fn put_setting(&self, key: &str, value: &[u8]) -> Result<(), StorageError> {
        self.settings.lock().unwrap().insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    /// Without quotas and without times.
    fn kv(&self, space: &str, operation: KvOperation<'_>) -> Result<KvAnswer, KvError> {
        let mut entries = self.entries.lock().unwrap();
        let at = |key: &str| (space.to_owned(), key.to_owned());
        let mut put = |key: &str, value: &[u8]| {
            let version = entries.get(&at(key)).map_or(1, |entry| entry.version + 1);
            entries.insert(at(key), KvEntry { value: value.to_owned(), version });
            version
        };
        match operation.what {
            KvRequest::Get { key } => Ok(KvAnswer::Entry(entries.get(&at(key)).cloned())),
            KvRequest::Set { key, value, .. } => {
                put(key, value);
                Ok(KvAnswer::Done)
            }
            KvRequest::Delete { key } => {
                entries.remove(&at(key));
                Ok(KvAnswer::Done)
            }
            KvRequest::List { prefix, cursor, limit } => {
                let mut keys: Vec<String> = entries
                    .keys()
                    .filter(|(of, key)| of == space && key.starts_with(prefix))
                    .map(|(_, key)| key.clone())
                    .filter(|key| cursor.is_none_or(|cursor| key.as_str() > cursor))
                    .take(limit as usize + 1)
                    .collect();
                let more = keys.len() > limit as usize;
                keys.truncate(limit as usize);
                Ok(KvAnswer::Page { cursor: keys.last().filter(|_| more).cloned(), keys })
            }
            KvRequest::Swap { .. } | KvRequest::Add { .. } => Err(KvError::Unavailable("not here".into())),
        }
    }
}
