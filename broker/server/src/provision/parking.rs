//! Clients whose certificates wait for an operator: they are kept for a while instead of being sent away, and go
//! on the moment their certificate is activated. So many at a time, and each for so long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use mqgate_identity::certificate::CertificateFingerprint;
use tokio::sync::Notify;

use crate::directory::lock;

#[derive(Debug, Default)]
pub(super) struct Parking {
    lot: Arc<Lot>,
}

#[derive(Debug, Default)]
struct Lot {
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    waiting: HashMap<CertificateFingerprint, Place>,
    taken: usize,
    /// Nobody waits any more: the broker is stopping.
    closed: bool,
}

#[derive(Debug, Default)]
struct Place {
    changed: Arc<Notify>,
    clients: usize,
}

/// One client that waits, until it is dropped.
#[derive(Debug)]
pub(super) struct Parked {
    lot: Arc<Lot>,
    id: CertificateFingerprint,
    changed: Arc<Notify>,
}

impl Parking {
    /// A place, if there is one. The certificate has to be looked up once more after
    /// [`Parked::listen`]: it may have changed meanwhile.
    pub(super) fn park(&self, id: CertificateFingerprint, limit: usize) -> Option<Parked> {
        let mut places = lock(&self.lot.places);
        if places.taken >= limit || places.closed {
            return None;
        }
        places.taken += 1;
        let place = places.waiting.entry(id).or_default();
        place.clients += 1;
        let changed = Arc::clone(&place.changed);
        Some(Parked { lot: Arc::clone(&self.lot), id, changed })
    }

    /// The record of this certificate has changed: who waits for that looks again.
    pub(super) fn release(&self, id: CertificateFingerprint) {
        let places = lock(&self.lot.places);
        if let Some(place) = places.waiting.get(&id) {
            place.changed.notify_waiters();
        }
    }

    /// Releases everybody, for good.
    pub(super) fn close(&self) {
        let mut places = lock(&self.lot.places);
        places.closed = true;
        places.waiting.values().for_each(|place| place.changed.notify_waiters());
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        lock(&self.lot.places).taken
    }
}

impl Parked {
    /// Whether nobody waits any more.
    pub(super) fn is_over(&self) -> bool {
        lock(&self.lot.places).closed
    }

    /// Completes when the certificate changed after this call.
    pub(super) fn listen(&self) -> impl Future<Output = ()> + use<> {
        let mut changed = Box::pin(Arc::clone(&self.changed).notified_owned());
        changed.as_mut().enable();
        changed
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        let mut places = lock(&self.lot.places);
        places.taken -= 1;
        if let Some(place) = places.waiting.get_mut(&self.id) {
            place.clients -= 1;
            if place.clients == 0 {
                places.waiting.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> CertificateFingerprint {
        CertificateFingerprint([number; 32])
    }

    #[tokio::test]
    async fn who_waits_hears_of_its_own_certificate_only() {
        let parking = Parking::default();
        let (one, other) = (parking.park(id(1), 9).unwrap(), parking.park(id(2), 9).unwrap());
        let (mut hears, mut sleeps) = (Box::pin(one.listen()), Box::pin(other.listen()));
        parking.release(id(1));
        tokio::select! {
            biased;
            () = &mut sleeps => panic!("it is another certificate"),
            () = &mut hears => {}
        }
        // What changed before one listens is not heard: so one looks after listening.
        let again = Box::pin(one.listen());
        parking.close();
        tokio::join!(again, sleeps);
        assert!(one.is_over() && parking.park(id(3), 9).is_none());
    }

    #[test]
    fn there_are_so_many_places_and_each_is_given_back() {
        let parking = Parking::default();
        let first = parking.park(id(1), 2).unwrap();
        let second = parking.park(id(1), 2).unwrap();
        assert!(parking.park(id(2), 2).is_none(), "one above the limit");
        drop(first);
        let third = parking.park(id(2), 2).unwrap();
        drop((second, third));
        assert_eq!(parking.taken(), 0);
        assert!(lock(&parking.lot.places).waiting.is_empty());
    }
}
