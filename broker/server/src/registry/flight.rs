//! One change at a time per certificate, and one registration at a time per device: who comes second waits,
//! and sees what the first has done.
//!
//! Nobody waits for a device's flight but a registration at a first connection, which is in the flight of its
//! certificate by then. While it is in both it waits for the flights of certificates that are registered: in
//! those nobody registers at a first connection, so nobody there waits for a device.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mqgate_identity::certificate::CertificateFingerprint;
use tokio::sync::OwnedMutexGuard;

/// What only one is in flight about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Certificate(CertificateFingerprint),
    Device(String),
}

type Table = HashMap<Subject, Arc<tokio::sync::Mutex<()>>>;
type Locks = Arc<Mutex<Table>>;

/// As many entries as there are subjects being changed.
#[derive(Default)]
pub(crate) struct Flights {
    locks: Locks,
}

/// Held by the one in flight.
pub(crate) struct Flight {
    locks: Locks,
    subject: Subject,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Flights {
    pub(crate) async fn enter(&self, subject: impl Into<Subject>) -> Flight {
        let subject = subject.into();
        let lock = Arc::clone(held(&self.locks).entry(subject.clone()).or_default());
        // Made first: an abandoned wait cleans up, too.
        let mut flight = Flight { locks: Arc::clone(&self.locks), subject, guard: None };
        flight.guard = Some(lock.lock_owned().await);
        flight
    }
}

impl From<CertificateFingerprint> for Subject {
    fn from(id: CertificateFingerprint) -> Self {
        Self::Certificate(id)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.guard = None;
        let mut locks = held(&self.locks);
        if locks.get(&self.subject).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.subject);
        }
    }
}

fn held(locks: &Locks) -> MutexGuard<'_, Table> {
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
