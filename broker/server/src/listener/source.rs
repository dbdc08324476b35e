//! How many unfinished handshakes one source of connections may have.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use mqgate_identity::source::source_of;

/// Counts by source. As many entries as there are sources with something unfinished.
pub(super) struct Unfinished {
    limit: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// One that is counted, until it is dropped.
pub(super) struct Counted<'a> {
    unfinished: &'a Unfinished,
    source: IpAddr,
}

impl Unfinished {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), counts: Mutex::default() }
    }

    /// `None`: the source has as many as it may. This machine itself has no limit.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Counted<'_>> {
        let loopback = address.to_canonical().is_loopback();
        let source = source_of(address);
        let mut counts = self.counts();
        let count = counts.entry(source).or_default();
        if *count >= self.limit && !loopback {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Counted { unfinished: self, source })
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let mut counts = self.unfinished.counts();
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_so_many_and_no_more() {
        let unfinished = Unfinished::new(2);
        let enter = |address: &str| unfinished.enter(address.parse().unwrap());
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none());
        let _other = enter("192.0.2.2").unwrap();
        drop(first);
        let _again = enter("192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none());

        let six: Vec<_> = ["2001:db8:0:1::1", "2001:db8:0:1:ffff::2"].map(enter).into();
        assert!(six.iter().all(Option::is_some));
        assert!(enter("2001:db8:0:1::3").is_none());
        assert!(enter("2001:db8:0:2::1").is_some());
    }

    #[test]
    fn this_machine_has_no_limit_and_nothing_stays_behind() {
        let unfinished = Unfinished::new(1);
        let many: Vec<_> = (0..100).map(|_| unfinished.enter([127, 0, 0, 1].into())).collect();
        assert!(many.iter().all(Option::is_some));
        assert_eq!(unfinished.counts().len(), 1);
        drop(many);
        assert!(unfinished.counts().is_empty());
    }
}
