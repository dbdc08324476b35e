//! What lookups remember: records, and that there is none. Bounded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::registry::DeviceCertificate;
use mqgate_identity::time::UnixMillis;

type Known = Option<Arc<DeviceCertificate>>;

/// Two halves: what was used since the last turn, and before. At a turn the older half is forgotten.
pub(super) struct Cache {
    halves: Mutex<Halves>,
    half: usize,
}

#[derive(Default)]
struct Halves {
    young: HashMap<CertificateFingerprint, Known>,
    old: HashMap<CertificateFingerprint, Known>,
    epochs: Epochs,
}

/// How often records were changed, told apart by the first byte of their ids: with one number for all, of many
/// registrations at once none would remember what it looked up, and each would ask the storage again.
struct Epochs([u64; 256]);

impl Default for Epochs {
    fn default() -> Self {
        Self([0; 256])
    }
}

impl Epochs {
    fn of(&mut self, id: &CertificateFingerprint) -> &mut u64 {
        &mut self.0[usize::from(id.0[0])]
    }
}

impl Cache {
    pub(super) fn new(capacity: usize) -> Self {
        Self { halves: Mutex::default(), half: (capacity / 2).max(1) }
    }

    pub(super) fn get(&self, id: &CertificateFingerprint) -> Option<Known> {
        let mut halves = self.lock();
        if let Some(known) = halves.young.get(id) {
            return Some(known.clone());
        }
        let known = halves.old.remove(id)?;
        self.insert(&mut halves, *id, known.clone());
        Some(known)
    }

    /// To be asked before a record is read from the storage.
    pub(super) fn epoch(&self, id: &CertificateFingerprint) -> u64 {
        *self.lock().epochs.of(id)
    }

    /// Remembers what was read, unless it may have changed since `epoch`.
    pub(super) fn put_if(&self, epoch: u64, id: CertificateFingerprint, known: Known) {
        let mut halves = self.lock();
        if *halves.epochs.of(&id) == epoch {
            self.insert(&mut halves, id, known);
        }
    }

    /// Remembers what was written.
    pub(super) fn put(&self, id: CertificateFingerprint, known: Known) {
        let mut halves = self.lock();
        *halves.epochs.of(&id) += 1;
        halves.old.remove(&id);
        self.insert(&mut halves, id, known);
    }

    /// Notes when a certificate was seen, in the record that is remembered.
    pub(super) fn seen(&self, id: &CertificateFingerprint, at: UnixMillis) {
        let mut halves = self.lock();
        let Halves { young, old, .. } = &mut *halves;
        if let Some(Some(record)) = young.get_mut(id).or_else(|| old.get_mut(id)) {
            Arc::make_mut(record).last_seen = Some(at);
        }
    }

    pub(super) fn forget(&self, id: &CertificateFingerprint) {
        let mut halves = self.lock();
        *halves.epochs.of(id) += 1;
        halves.young.remove(id);
        halves.old.remove(id);
    }

    fn insert(&self, halves: &mut Halves, id: CertificateFingerprint, known: Known) {
        if halves.young.len() >= self.half && !halves.young.contains_key(&id) {
            halves.old = std::mem::take(&mut halves.young);
        }
        halves.young.insert(id, known);
    }

    fn lock(&self) -> MutexGuard<'_, Halves> {
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> CertificateFingerprint {
        CertificateFingerprint([number; 32])
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let cache = Cache::new(8);
        for number in 0..100 {
            cache.put(id(number), None);
            assert!(cache.get(&id(0)).is_some(), "used all the time, at {number}");
        }
        let kept = (0..100).filter(|number| cache.get(&id(*number)).is_some()).count();
        assert!(kept <= 8, "{kept}");
    }

    #[test]
    fn what_was_read_before_a_change_is_not_remembered() {
        let cache = Cache::new(8);
        let before = cache.epoch(&id(1));
        cache.put(id(1), None);
        cache.forget(&id(1));
        cache.put_if(before, id(1), None);
        assert!(cache.get(&id(1)).is_none());
    }

    #[test]
    fn what_others_change_is_no_reason_to_forget() {
        let cache = Cache::new(8);
        let before = cache.epoch(&id(1));
        cache.put(id(2), None);
        cache.put_if(before, id(1), None);
        assert!(cache.get(&id(1)).is_some());
    }
}
