//! Instances that wait for their next call. One call at a time each; the one that came back last goes out first, so that
//! after a spike those that nobody needs grow old and go.
//!
//! Takes the time as an argument; knows nothing of what it keeps.

use std::time::{Duration, Instant};

/// The longest an instance waits for a call.
pub(crate) const IDLE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Pool<T> {
    /// The one that came back last is the last.
    idle: Vec<(Instant, T)>,
    most: usize,
}

impl<T> Pool<T> {
    pub(crate) fn new(most: usize) -> Self {
        Self { idle: Vec::new(), most }
    }

    /// One that is ready, and those that waited too long, for the caller to drop.
    pub(crate) fn take(&mut self, now: Instant) -> (Option<T>, Vec<T>) {
        let stale = self.stale(now);
        (self.idle.pop().map(|(_, one)| one), stale)
    }

    /// Keeps one for later. Those for which there is no room, or that waited too long, for the caller to drop.
    pub(crate) fn put(&mut self, one: T, now: Instant) -> Vec<T> {
        let mut gone = self.stale(now);
        if self.idle.len() < self.most {
            self.idle.push((now, one));
        } else {
            gone.push(one);
        }
        gone
    }

    /// Those that waited too long, for the caller to drop.
    pub(crate) fn stale(&mut self, now: Instant) -> Vec<T> {
        let fresh = self.idle.iter().position(|(since, _)| now < *since + IDLE).unwrap_or(self.idle.len());
        self.idle.drain(..fresh).map(|(_, one)| one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_goes_out_first_and_there_are_never_more_than_the_bound() {
        let now = Instant::now();
        let mut pool = Pool::new(2);
        assert_eq!(pool.take(now), (None, Vec::new()));
        assert_eq!(pool.put('a', now), Vec::new());
        assert_eq!(pool.put('b', now), Vec::new());
        assert_eq!(pool.put('c', now), ['c']);
        assert_eq!(pool.take(now).0, Some('b'));
        assert_eq!(pool.take(now).0, Some('a'));
        assert_eq!(pool.take(now).0, None);
    }

    #[test]
    fn what_nobody_needs_goes() {
        let now = Instant::now();
        let mut pool = Pool::new(8);
        pool.put('a', now);
        pool.put('b', now + IDLE / 2);
        assert_eq!(pool.take(now + IDLE), (Some('b'), vec!['a']));
        pool.put('b', now + IDLE);
        assert_eq!(pool.put('c', now + IDLE * 2), ['b']);
        assert_eq!(pool.take(now + IDLE * 2), (Some('c'), Vec::new()));
    }
}
