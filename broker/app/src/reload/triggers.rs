//! What makes the broker read its configuration anew without being asked over the API: a signal, and a file that
//! changed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::files::Watch;
use super::{Reloader, Request};

/// While watching is off, how often it is looked whether it is on again.
const OFF: Duration = Duration::from_secs(5);
/// The shortest time between two looks.
const SHORTEST: Duration = Duration::from_millis(100);

/// Reads the configuration anew at every `SIGHUP`, until `end`.
pub async fn on_signal(reloader: Arc<Reloader>, signal: Arc<Notify>, end: CancellationToken) {
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            () = signal.notified() => {}
        }
        // How it ended is logged, counted and written down there.
        let _ = reloader.reload(Request::by("system:SIGHUP")).await;
    }
}

/// Reads the configuration anew when a file has changed, and changed no more by the next look: whoever replaces
/// several files is not caught between two of them.
pub async fn on_change(reloader: Arc<Reloader>, end: CancellationToken) {
    let mut watch = Watch::default();
    let mut pending = false;
    loop {
        let (files, every) = reloader.watched().await;
        let is_on = !every.is_zero();
        if is_on {
            let looked = tokio::task::spawn_blocking(move || {
                let changed = watch.look(&files);
                (watch, changed)
            })
            .await;
            let Ok((seen, changed)) = looked else { return };
            watch = seen;
            if changed {
                pending = true;
            } else if std::mem::take(&mut pending) {
                // Of a change that is refused nothing more is said until a file changes again.
                let _ = reloader.reload(Request::by("system:file")).await;
            }
        }
        // A change is taken over soon after it is seen.
        let wait = match (is_on, pending) {
            (false, _) => OFF,
            (true, true) => every.min(Duration::from_secs(1)),
            (true, false) => every,
        };
        tokio::select! {
            () = end.cancelled() => return,
            () = tokio::time::sleep(wait.max(SHORTEST)) => {}
        }
    }
}
