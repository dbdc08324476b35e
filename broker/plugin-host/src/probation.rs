//! The first minutes of a version that took over: whether it fails, or refuses, more clients than it may.
//!
//! Clients are counted, not calls. Takes the time as an argument; who takes the version back is [`crate::host`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::poison::Party;
use crate::settings::Probation;

/// Clients of a version that are told apart; of more, those that came first are forgotten.
const MOST_CLIENTS: usize = 4_096;

/// How many of the clients that a version judged it refused.
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

/// Whom a version judged, each once: however often one comes, it is one.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    /// Whether the last answer was a refusal.
    denied: HashMap<Party, bool>,
    /// In the order in which they came first.
    came: VecDeque<Party>,
    refused: u64,
}

impl Judged {
    pub(crate) fn note(&mut self, party: &Party, denied: bool) {
        let before = match self.denied.get_mut(party) {
            Some(known) => std::mem::replace(known, denied),
            None => {
                if self.came.len() >= MOST_CLIENTS {
                    let gone = self.came.pop_front().and_then(|first| self.denied.remove(&first));
                    self.refused -= u64::from(gone.unwrap_or_default());
                }
                self.denied.insert(party.clone(), denied);
                self.came.push_back(party.clone());
                false
            }
        };
        self.refused = self.refused + u64::from(denied) - u64::from(before);
    }

    pub(crate) fn share(&self) -> Share {
        Share { judged: self.denied.len() as u64, denied: self.refused }
    }
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
    judged: Judged,
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
            judged: Judged::default(),
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
        self.judged.note(party, denied);
        let share = self.judged.share();
        // Refusals alone can make it too many.
        if !denied || share.judged < self.rule.judged_clients as u64 {
            return None;
        }
        let before = self.before?;
        let (percent, Share { judged, denied }) = (share.percent(), share);
        (percent > before + u64::from(self.rule.denied_points)).then(|| {
            format!(
                "it refused {denied} of {judged} clients ({percent} %), and the version before {before} %"
            )
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
    fn one_client_is_one_and_its_last_answer_counts() {
        let mut judged = Judged::default();
        (0..100).for_each(|_| judged.note(&party(1), true));
        assert_eq!(judged.share(), Share { judged: 1, denied: 1 });
        judged.note(&party(1), false);
        judged.note(&party(2), true);
        assert_eq!(judged.share(), Share { judged: 2, denied: 1 });
    }

    #[test]
    fn beyond_the_bound_the_first_clients_are_forgotten() {
        let mut judged = Judged::default();
        (0..MOST_CLIENTS).for_each(|number| judged.note(&party(number), number < 10));
        let most = MOST_CLIENTS as u64;
        assert_eq!(judged.share(), Share { judged: most, denied: 10 });
        // Who comes again makes nobody go.
        judged.note(&party(10), false);
        assert_eq!(judged.share(), Share { judged: most, denied: 10 });
        (0..4).for_each(|number| judged.note(&party(MOST_CLIENTS + number), false));
        assert_eq!(judged.share(), Share { judged: most, denied: 6 });
        assert_eq!((judged.denied.len(), judged.came.len()), (MOST_CLIENTS, MOST_CLIENTS));
    }
}
