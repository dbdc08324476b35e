//! Registrations that are not written yet: of two at once, a quota counts both.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use mqgate_identity::certificate::CertificateFingerprint;

use crate::directory::lock;

#[derive(Debug, Default)]
pub(super) struct InFlight {
    by_ca: Mutex<HashMap<CertificateFingerprint, u64>>,
}

/// One registration that may be written, until it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    of: Arc<InFlight>,
    ca: CertificateFingerprint,
}

impl InFlight {
    pub(super) fn enter(this: &Arc<Self>, ca: CertificateFingerprint) -> Reservation {
        *lock(&this.by_ca).entry(ca).or_default() += 1;
        Reservation { of: Arc::clone(this), ca }
    }
}

impl Reservation {
    /// Of the CA and of all, with this one.
    pub(super) fn in_flight(&self) -> (u64, u64) {
        let by_ca = lock(&self.of.by_ca);
        (by_ca.get(&self.ca).copied().unwrap_or(0), by_ca.values().sum())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut by_ca = lock(&self.of.by_ca);
        if let Some(count) = by_ca.get_mut(&self.ca) {
            *count -= 1;
            if *count == 0 {
                by_ca.remove(&self.ca);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_in_flight_counts_until_it_has_landed() {
        let all = Arc::new(InFlight::default());
        let (one, two) = (CertificateFingerprint([1; 32]), CertificateFingerprint([2; 32]));
        let first = InFlight::enter(&all, one);
        let second = InFlight::enter(&all, one);
        let other = InFlight::enter(&all, two);
        assert_eq!((first.in_flight(), other.in_flight()), ((2, 3), (1, 3)));
        drop((first, other));
        assert_eq!(second.in_flight(), (1, 1));
        drop(second);
        assert!(lock(&all.by_ca).is_empty());
    }
}
