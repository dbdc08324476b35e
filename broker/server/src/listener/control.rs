//! Changing a listener while it accepts: its settings, its address, its end.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Inner, ListenError, Listener, ListenerSettings};

/// A handle on a listener that runs, or is about to.
#[derive(Clone)]
pub struct ListenerControl {
    inner: Arc<Inner>,
    moves: mpsc::Sender<Move>,
}

/// A listener is to listen somewhere else.
pub(super) struct Move {
    pub(super) settings: ListenerSettings,
    pub(super) answer: oneshot::Sender<Result<(), ListenError>>,
}

impl Listener {
    /// To change it from elsewhere.
    pub fn control(&self) -> ListenerControl {
        ListenerControl { inner: Arc::clone(&self.inner), moves: self.moves.0.clone() }
    }
}

impl ListenerControl {
    /// What new connections are served by.
    pub fn settings(&self) -> Arc<ListenerSettings> {
        self.inner.settings.load_full()
    }

    /// How many are connected now, handshakes included, and how many have been accepted.
    pub fn connections(&self) -> (i64, u64) {
        let (name, metrics) = (&*self.inner.name, &self.inner.parts.metrics);
        let now = metrics.listener_connections.with_label_values(&[name]).get();
        (now, metrics.listener_accepted.with_label_values(&[name]).get())
    }

    /// Serves new connections by these settings from now on; those that are there go on by theirs. The address
    /// stays: see [`Self::move_to`].
    pub fn configure(&self, settings: ListenerSettings) {
        let before = self.inner.settings.load_full();
        resize(&self.inner.places, before.max_connections, settings.max_connections);
        resize(&self.inner.handshakes, before.max_handshakes, settings.max_handshakes);
        self.inner.announce(&settings);
        self.inner.settings.store(Arc::new(settings));
    }

    /// Listens at the address of these settings from now on, and takes all of them over. On an error everything
    /// is as before.
    pub async fn move_to(&self, settings: ListenerSettings) -> Result<(), ListenError> {
        let (answer, answered) = oneshot::channel();
        let ended = |settings: &ListenerSettings| ListenError {
            listener: settings.name.to_string(),
            address: settings.address.clone(),
            problem: std::io::Error::other("the listener has ended"),
        };
        let wanted = settings.clone();
        if self.moves.send(Move { settings, answer }).await.is_err() {
            return Err(ended(&wanted));
        }
        answered.await.unwrap_or_else(|_| Err(ended(&wanted)))?;
        self.configure(wanted);
        Ok(())
    }

    /// Accepts nobody any more. Who is connected stays until the broker stops, or the client goes.
    pub fn retire(&self) {
        self.inner.retired.cancel();
    }
}

/// Changes how many places there are. Places that are to go and are taken go when they are given back, before
/// anybody else gets one.
fn resize(places: &Arc<Semaphore>, before: usize, after: usize) {
    let (before, after) = (clamped(before), clamped(after));
    if after >= before {
        places.add_permits(after - before);
        return;
    }
    let (places, mut surplus) = (Arc::clone(places), before - after);
    surplus -= places.forget_permits(surplus);
    if surplus > 0 {
        tokio::spawn(async move {
            let surplus = u32::try_from(surplus).unwrap_or(u32::MAX);
            if let Ok(taken) = places.acquire_many(surplus).await {
                taken.forget();
            }
        });
    }
}

pub(super) fn clamped(places: usize) -> usize {
    places.clamp(1, Semaphore::MAX_PERMITS)
}
