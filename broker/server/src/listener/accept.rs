//! The accept loop: a place first, then a connection, as long as the broker is ready.

use std::io;
use std::sync::Arc;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::control::Move;
use super::socket::ListeningSocket;
use super::{FIRST_PAUSE, LONGEST_PAUSE, Listener, WATCH, sleep};

impl Listener {
    /// Returns when the broker is not ready any more, at shutdown or at the end of the listener, and with an order
    /// to listen somewhere else.
    pub(super) async fn accept_while_ready(
        &mut self,
        socket: &ListeningSocket,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Option<Move> {
        let inner = Arc::clone(&self.inner);
        let mut watch = tokio::time::interval(WATCH);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pause = FIRST_PAUSE;
        loop {
            // The place first: whoever has none is not accepted, and waits in the kernel's queue.
            let next = async {
                let place = Arc::clone(&inner.places).acquire_owned().await.ok();
                (place, socket.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = shutdown.cancelled() => return None,
                () = inner.retired.cancelled() => return None,
                order = self.moves.1.recv() => return order,
                _ = watch.tick() => {
                    inner.housekeeping();
                    if inner.parts.readiness.obstacles().is_empty() {
                        continue;
                    }
                    return None;
                }
                next = next => next,
            };
            match accepted {
                Ok((arrival, caller)) => {
                    pause = FIRST_PAUSE;
                    let inner = Arc::clone(&inner);
                    tasks.spawn(inner.handle(arrival, caller, place, shutdown.clone()));
                    // Whoever is there already comes before the next one.
                    tokio::task::yield_now().await;
                    let broker = &self.inner.parts.broker;
                    let rates = broker.extras.rates(&self.inner.name);
                    if let Some(wait) = rates.and_then(|rates| rates.connection(broker.now())) {
                        broker.metrics.rate_limited_listener_connections.inc();
                        // Whoever comes now waits in the kernel's queue.
                        sleep(wait, shutdown).await;
                    }
                }
                Err(problem) if is_of_the_peer(&problem) => {}
                Err(problem) => {
                    // No file descriptors or no memory: accepting at once again would spin.
                    let listener = &*inner.name;
                    tracing::error!(listener, %problem, ?pause, "accepting failed");
                    sleep(pause, shutdown).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

/// The connection was gone before it was accepted; the next one may be fine.
fn is_of_the_peer(problem: &io::Error) -> bool {
    matches!(
        problem.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
