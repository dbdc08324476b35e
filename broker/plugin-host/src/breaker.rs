//! A hook that fails for many clients is not called for a while, so that a plugin whose backend is gone does not cost
//! every client its whole deadline.
//!
//! Clients are counted, not calls: one that breaks the plugin again and again is one. Takes the time as an argument;
//! knows nothing of plugins.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use crate::poison::Party;
use crate::settings::Limits;

/// The longest that a hook is not called.
const LONGEST: Duration = Duration::from_secs(60);
/// A trial call that never came to an end stands for a failure after this.
const TRIAL: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Breaker {
    rule: Rule,
    state: State,
    window: Window,
    /// Times it opened in a row.
    opened: u32,
}

#[derive(Debug, Clone, Copy)]
struct Rule {
    subjects: usize,
    percent: u64,
    window: Duration,
    wait: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        until: Instant,
    },
    /// One call is under way that tells whether it can be closed.
    Trying {
        since: Instant,
    },
}

/// What happened since it began.
#[derive(Debug)]
struct Window {
    begun: Instant,
    calls: u64,
    failures: u64,
    /// As many as matter.
    failed: HashSet<Party>,
}

impl Breaker {
    pub(crate) fn new(limits: &Limits, now: Instant) -> Self {
        let rule = Rule {
            subjects: limits.breaker_subjects,
            percent: u64::from(limits.breaker_percent),
            window: limits.breaker_window,
            wait: limits.breaker_wait,
        };
        Self { rule, state: State::Closed, window: Window::new(now), opened: 0 }
    }

    /// Whether a call may be made; if not, how long that stays so.
    pub(crate) fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        if let Some(wait) = self.wait(now) {
            return Err(wait);
        }
        if self.state != State::Closed {
            self.state = State::Trying { since: now };
        }
        Ok(())
    }

    /// How long no call may be made; asking changes nothing.
    pub(crate) fn wait(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Open { until } if now < until => Some(until - now),
            State::Trying { since } if now < since + TRIAL => Some(self.rule.wait),
            State::Closed | State::Open { .. } | State::Trying { .. } => None,
        }
    }

    /// A call that was let through was never made: another may try.
    pub(crate) fn told_nothing(&mut self, now: Instant) {
        if let State::Trying { .. } = self.state {
            self.state = State::Open { until: now };
        }
    }

    /// Remembers how a call ended.
    pub(crate) fn ended(&mut self, party: Party, failed: bool, now: Instant) {
        if self.rule.subjects == 0 {
            return;
        }
        match (self.state, failed) {
            (State::Trying { .. }, true) => return self.open(now),
            (State::Trying { .. }, false) => {
                self.state = State::Closed;
                self.opened = 0;
                self.window = Window::new(now);
            }
            // It began before the breaker opened.
            (State::Open { .. }, _) => return,
            (State::Closed, _) => {}
        }
        if now >= self.window.begun + self.rule.window {
            self.window = Window::new(now);
        }
        self.window.calls += 1;
        if !failed {
            return;
        }
        self.window.failures += 1;
        if self.window.failed.len() < self.rule.subjects {
            self.window.failed.insert(party);
        }
        if self.window.failed.len() >= self.rule.subjects
            && self.window.failures * 100 >= self.window.calls * self.rule.percent
        {
            self.open(now);
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    fn open(&mut self, now: Instant) {
        let wait = self.rule.wait.saturating_mul(1 << self.opened.min(16)).min(LONGEST);
        self.opened += 1;
        // Plugins that fail together do not all try again together.
        let percent = u32::try_from(RandomState::new().build_hasher().finish() % 26).unwrap_or(0);
        self.state = State::Open { until: now + wait - wait * percent / 100 };
        self.window = Window::new(now);
    }
}

impl Window {
    fn new(now: Instant) -> Self {
        Self { begun: now, calls: 0, failures: 0, failed: HashSet::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(number: u8) -> Party {
        Party::Certificate([number; 32])
    }

    fn breaker(now: Instant) -> Breaker {
        Breaker::new(&Limits::default(), now)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_client_never_opens_it_and_five_do() {
        let now = Instant::now();
        let mut one = breaker(now);
        (0..1000).for_each(|_| one.ended(party(1), true, now));
        assert!(!one.is_open());
        let mut five = breaker(now);
        (1..5).for_each(|number| five.ended(party(number), true, now));
        assert!(!five.is_open(), "four are too few");
        five.ended(party(5), true, now);
        assert!(five.is_open());
        assert!(five.admit(now).is_err());
    }

    #[test]
    fn few_failures_among_many_calls_do_not_open_it() {
        let now = Instant::now();
        let mut breaker = breaker(now);
        (0..100).for_each(|_| breaker.ended(party(0), false, now));
        // Nineteen of a hundred and nineteen are 16 percent.
        (1..20).for_each(|number| breaker.ended(party(number), true, now));
        assert!(!breaker.is_open());
        (20..40).for_each(|number| breaker.ended(party(number), true, now));
        assert!(breaker.is_open());
    }

    #[test]
    fn what_is_long_ago_does_not_count() {
        let now = Instant::now();
        let mut breaker = breaker(now);
        (1..5).for_each(|number| breaker.ended(party(number), true, now));
        breaker.ended(party(5), true, now + 10 * SECOND);
        assert!(!breaker.is_open());
    }

    #[test]
    fn one_call_tries_and_each_failure_doubles_the_wait() {
        let mut now = Instant::now();
        let mut breaker = breaker(now);
        (1..6).for_each(|number| breaker.ended(party(number), true, now));
        for longest in [1, 2, 4, 8, 16, 32, 60, 60] {
            let wait = breaker.admit(now).expect_err("it is open");
            let most = Duration::from_secs(longest);
            assert!(wait <= most && wait >= most.mul_f64(0.74), "{wait:?}");
            now += wait;
            assert_eq!(breaker.admit(now), Ok(()), "one may try");
            assert!(breaker.admit(now).is_err(), "and no other meanwhile");
            breaker.ended(party(1), true, now);
        }
        now += LONGEST;
        assert_eq!(breaker.admit(now), Ok(()));
        breaker.ended(party(1), false, now);
        assert!(!breaker.is_open());
        assert_eq!(breaker.admit(now), Ok(()));
    }

    #[test]
    fn a_trial_call_that_is_lost_does_not_keep_it_open() {
        let mut now = Instant::now();
        let mut breaker = breaker(now);
        (1..6).for_each(|number| breaker.ended(party(number), true, now));
        now += SECOND;
        assert_eq!(breaker.admit(now), Ok(()));
        assert_eq!(breaker.admit(now + TRIAL), Ok(()));
    }

    #[test]
    fn a_trial_call_for_which_there_was_no_room_closes_nothing_and_lets_another_try() {
        let mut now = Instant::now();
        let mut breaker = breaker(now);
        (1..6).for_each(|number| breaker.ended(party(number), true, now));
        now += SECOND;
        assert_eq!(breaker.wait(now), None);
        assert_eq!(breaker.admit(now), Ok(()));
        assert!(breaker.wait(now).is_some(), "one tries");
        breaker.told_nothing(now);
        assert!(breaker.is_open());
        assert_eq!(breaker.admit(now), Ok(()));
        assert!(breaker.admit(now).is_err(), "still one at a time");
    }

    #[test]
    fn a_rule_of_no_clients_opens_nothing() {
        let now = Instant::now();
        let mut breaker = Breaker::new(&Limits { breaker_subjects: 0, ..Limits::default() }, now);
        (1..100).for_each(|number| breaker.ended(party(number), true, now));
        assert_eq!(breaker.admit(now), Ok(()));
    }
}
