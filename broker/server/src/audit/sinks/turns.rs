//! Blocking work of a sink, one piece at a time. Work that hangs cannot be called off, only left alone: if every attempt
//! began another, a pipe that nobody reads would take all threads that there are for such work.

use tokio::sync::Mutex;
use tokio::task::{JoinHandle, spawn_blocking};

use super::OutletError;

/// See above. One for each sink.
#[derive(Debug, Default)]
pub struct Turns {
    running: Mutex<Option<JoinHandle<Result<(), OutletError>>>>,
}

impl Turns {
    /// Runs `work` when what ran before is over, also if nobody waited for that any more.
    pub async fn take(
        &self,
        work: impl FnOnce() -> Result<(), OutletError> + Send + 'static,
    ) -> Result<(), OutletError> {
        let mut running = self.running.lock().await;
        if let Some(before) = running.as_mut() {
            // Its records come again in any case: nobody heard that they were taken.
            drop(before.await);
            *running = None;
        }
        let done = running.insert(spawn_blocking(work)).await;
        *running = None;
        done.unwrap_or_else(|error| Err(OutletError::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use super::*;

    #[tokio::test]
    async fn work_that_hangs_is_not_begun_again_beside_itself() {
        let turns = Turns::default();
        let (begun, seen) = mpsc::channel();
        let seen = Arc::new(std::sync::Mutex::new(seen));
        let (release, released) = mpsc::channel::<()>();
        let (told, waiting) = tokio::sync::oneshot::channel();
        let first = begun.clone();
        let work = move || {
            let _ = told.send(());
            let _ = released.recv();
            first.send("first").map_err(OutletError::new)
        };
        tokio::select! {
            _ = turns.take(work) => panic!("it hangs"),
            // Given up, as a sink does after its timeout.
            _ = waiting => {}
        }
        let second = turns.take(move || begun.send("second").map_err(OutletError::new));
        let mut second = std::pin::pin!(second);
        for _ in 0..1000 {
            tokio::select! {
                biased;
                _ = &mut second => panic!("it began beside the first"),
                () = tokio::task::yield_now() => {}
            }
        }
        release.send(()).expect("it waits");
        assert_eq!(second.await, Ok(()));
        let order: Vec<&str> = seen.lock().expect("nobody panicked").try_iter().collect();
        assert_eq!(order, ["first", "second"]);
        assert_eq!(turns.take(|| Err(OutletError::new("full"))).await, Err(OutletError::new("full")));
    }
}
