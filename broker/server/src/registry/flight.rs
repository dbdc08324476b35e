//! One change at a time per certificate: who comes second waits, and sees what the first has done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mqgate_identity::certificate::CertificateFingerprint;
use tokio::sync::OwnedMutexGuard;

type Locks = Arc<Mutex<HashMap<CertificateFingerprint, Arc<tokio::sync::Mutex<()>>>>>;

/// As many entries as there are certificates being changed.
#[derive(Default)]
pub(crate) struct Flights {
    locks: Locks,
}

/// Held by the one in flight.
pub(crate) struct Flight {
    locks: Locks,
    id: CertificateFingerprint,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Flights {
    pub(crate) async fn enter(&self, id: CertificateFingerprint) -> Flight {
        let lock = Arc::clone(held(&self.locks).entry(id).or_default());
        // Made first: an abandoned wait cleans up, too.
        let mut flight = Flight { locks: Arc::clone(&self.locks), id, guard: None };
        flight.guard = Some(lock.lock_owned().await);
        flight
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.guard = None;
        let mut locks = held(&self.locks);
        if locks.get(&self.id).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.id);
        }
    }
}

fn held(locks: &Locks) -> MutexGuard<'_, HashMap<CertificateFingerprint, Arc<tokio::sync::Mutex<()>>>> {
    locks.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_waits_and_nothing_stays_behind() {
        let flights = Arc::new(Flights::default());
        let id = CertificateFingerprint([7; 32]);
        let first = flights.enter(id).await;
        let second = tokio::spawn({
            let flights = Arc::clone(&flights);
            async move { drop(flights.enter(id).await) }
        });
        let other = flights.enter(CertificateFingerprint([8; 32])).await;
        assert!(!second.is_finished());
        drop(other);
        drop(first);
        second.await.unwrap();
        assert!(held(&flights.locks).is_empty());
    }
}
