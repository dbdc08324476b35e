//! The first minutes of a version that took over: whether it fails, or refuses, more clients than it may.
//!
//! Clients are counted, not calls. Takes the time as an argument; who takes the version back is [`crate::host`].

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::poison::Party;
use crate::settings::Probation;

/// Clients that are told apart; beyond them shares are what they are by then.
const MOST_CLIENTS: usize = 4_096;

/// How often a version refused whom it judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) judged: u64,
    pub(crate) denied: u64,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Failed,
    Denied,
    Otherwise,
}

#[derive(Debug)]
pub(crate) struct Watch {
    rule: Probation,
    ends: Instant,
    /// Of the version before; `None`: it judged too few to compare.
    before: Option<u64>,
    calls: u64,
    failures: u64,
    failed: HashSet<Party>,
    /// Who was judged, and whether the last answer was a refusal.
    judged: HashMap<Party, bool>,
}

impl Share {
    fn percent(self) -> u64 {
        (self.denied * 100).checked_div(self.judged).unwrap_or(0)
    }
}

impl Watch {
    pub(crate) fn new(rule: Probation, before: Share, now: Instant) -> Self {
        let comparable = before.judged >= rule.judged_clients as u64 && rule.denied_points < 100;
        Self {
            rule,
            ends: now + rule.time,
            before: comparable.then(|| before.percent()),
            calls: 0,
            failures: 0,
            failed: HashSet::new(),
            judged: HashMap::new(),
        }
    }

    /// Remembers how a call ended. Says why the version is to be taken back, if it is.
    pub(crate) fn ended(&mut self, party: &Party, ended: Ended, now: Instant) -> Option<String> {
        self.left(now)?;
        self.calls += 1;
        if ended == Ended::Failed {
            return self.failed(party);
        }
        let denied = ended == Ended::Denied;
        if self.judged.len() < MOST_CLIENTS || self.judged.contains_key(party) {
            self.judged.insert(party.clone(), denied);
        }
        let judged = self.judged.len();
        // Counting takes as long as there are clients; refusals alone can make it too many.
        if !denied || judged < self.rule.judged_clients {
            return None;
        }
        let before = self.before?;
        let denied = self.judged.values().filter(|denied| **denied).count();
        let share = Share { judged: judged as u64, denied: denied as u64 }.percent();
        (share > before + u64::from(self.rule.denied_points)).then(|| {
            format!("it refused {denied} of {judged} clients ({share} %), and the version before {before} %")
        })
    }

    /// Nothing more is said of this version.
    pub(crate) fn end(&mut self) {
        self.rule.time = Duration::ZERO;
    }

    /// How long it goes on.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        let ends = if self.rule.time.is_zero() { now } else { self.ends };
        ends.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    fn failed(&mut self, party: &Party) -> Option<String> {
        self.failures += 1;
        if self.failed.len() < self.rule.failed_clients {
            self.failed.insert(party.clone());
        }
        let Probation { failed_clients, failed_percent, .. } = self.rule;
        let is_bad = failed_clients > 0
            && self.failed.len() >= failed_clients
            && self.failures * 100 >= self.calls * u64::from(failed_percent);
        is_bad.then(|| {
            let (failures, calls) = (self.failures, self.calls);
            format!("{failures} of {calls} calls failed, for {failed_clients} clients or more")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: Share = Share { judged: 200, denied: 20 };

    fn party(number: usize) -> Party {
        Party::Source(std::net::Ipv4Addr::from(u32::try_from(number).expect("a small number")).into())
    }

    fn watch(before: Share, now: Instant) -> Watch {
        Watch::new(Probation::default(), before, now)
    }

    #[test]
    fn five_clients_that_fail_are_enough_and_one_never_is() {
        let now = Instant::now();
        let mut alone = watch(BEFORE, now);
        assert!((0..1000).all(|_| alone.ended(&party(1), Ended::Failed, now).is_none()));
        let mut many = watch(BEFORE, now);
        assert!((0..4).all(|number| many.ended(&party(number), Ended::Failed, now).is_none()));
        let why = many.ended(&party(4), Ended::Failed, now).expect("taken back");
        assert!(why.contains("5 of 5 calls failed"), "{why}");
        // Five of a hundred and five are too few.
        let mut busy = watch(BEFORE, now);
        (0..100).for_each(|number| drop(busy.ended(&party(number), Ended::Otherwise, now)));
        assert!((0..5).all(|number| busy.ended(&party(number), Ended::Failed, now).is_none()));
    }

    #[test]
    fn refusing_many_more_than_the_version_before_is_too_much() {
        let now = Instant::now();
        let mut watch = watch(BEFORE, now);
        for number in 0..60 {
            assert_eq!(watch.ended(&party(number), Ended::Otherwise, now), None);
        }
        // 10 percent were refused before: more than 40 percent of all is too much.
        let refused =
            (60..).find_map(|number| Some((number, watch.ended(&party(number), Ended::Denied, now)?)));
        let (number, why) = refused.expect("taken back");
        assert_eq!(number + 1 - 60, 42, "{why}");
        assert!(why.contains("42 of 102 clients (41 %), and the version before 10 %"), "{why}");
    }

    #[test]
    fn one_client_that_is_refused_again_and_again_is_one() {
        let now = Instant::now();
        let mut watch = watch(BEFORE, now);
        (0..60).for_each(|number| drop(watch.ended(&party(number), Ended::Otherwise, now)));
        assert!((0..1000).all(|_| watch.ended(&party(60), Ended::Denied, now).is_none()));
    }

    #[test]
    fn without_a_version_to_compare_with_refusals_are_no_reason() {
        let now = Instant::now();
        let few = Share { judged: 49, denied: 0 };
        let mut watch = watch(few, now);
        assert!((0..200).all(|number| watch.ended(&party(number), Ended::Denied, now).is_none()));
    }

    #[test]
    fn it_ends() {
        let now = Instant::now();
        let mut watch = watch(BEFORE, now);
        let later = now + Duration::from_secs(300);
        assert!((0..50).all(|number| watch.ended(&party(number), Ended::Failed, later).is_none()));
    }

    #[test]
    fn clients_beyond_the_bound_are_not_remembered() {
        let now = Instant::now();
        let mut watch = watch(BEFORE, now);
        (0..MOST_CLIENTS + 10).for_each(|number| drop(watch.ended(&party(number), Ended::Otherwise, now)));
        assert_eq!(watch.judged.len(), MOST_CLIENTS);
    }
}
