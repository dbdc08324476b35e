//! Who goes first when threads want the same core.
//!
//! Linux 6.12 and later let a thread that wakes go before one whose slice of the processor is longer; others let it wait until the
//! slice ends, which they notice four milliseconds later where their clock has 250 ticks a second. So the threads of the broker,
//! which do little at a time, have shorter slices than those on which plugins compute for long, and the one that counts what plugins
//! compute has the shortest. A call that begins is short until it has computed for a step: otherwise it would wait behind one
//! that is not. It takes no permission, moves no share of the processor, and is ignored by older kernels. Where the operator chose
//! another policy (`CPUSchedulingPolicy=` of systemd, `chrt`), that one stays as it is.

use std::cell::Cell;
use std::time::Duration;

/// The shortest there is.
pub(crate) const SHORTEST: Duration = Duration::from_micros(100);
/// Shorter than what any machine gives a thread that did not ask: 0.7 ms on one core, 2.8 on eight and more.
const SHORT: Duration = Duration::from_micros(500);

/// Longer than what anybody has that did not ask.
const LONG: Duration = Duration::from_millis(20);

thread_local! {
    /// This thread goes after others.
    static LAST: Cell<bool> = const { Cell::new(false) };
}

/// For this thread and those that it starts: they do little at a time, and others wait for it.
pub fn go_first() {
    ask_for(SHORT);
}

/// For this thread, until it [goes first again](go_first_again): a guest computes on it, and has for a while.
pub(crate) fn go_last() {
    if !LAST.replace(true) {
        ask_for(LONG);
    }
}

/// For this thread: somebody waits for what it does next, or it has nothing to do and somebody may.
pub(crate) fn go_first_again() {
    if LAST.replace(false) {
        ask_for(SHORT);
    }
}

#[allow(unsafe_code, reason = "no crate in use wraps it")]
pub(crate) fn ask_for(slice: Duration) {
    // SAFETY: it takes and returns numbers.
    if unsafe { libc::sched_getscheduler(0) } != libc::SCHED_OTHER {
        return;
    }
    // SAFETY: it takes and returns numbers. Nothing can fail: the thread that is asked about is this one.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let attributes = libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>()).unwrap_or_default(),
        sched_policy: libc::SCHED_OTHER.cast_unsigned(),
        sched_flags: 0,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: u64::try_from(slice.as_nanos()).unwrap_or_default(),
        sched_deadline: 0,
        sched_period: 0,
    };
    let flags: libc::c_uint = 0;
    // SAFETY: `attributes` is as long as it says, lives until the call returns, and is only read. Thread 0 is this one.
    let outcome = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, flags) };
    if outcome != 0 {
        let error = std::io::Error::last_os_error();
        tracing::debug!(%error, "this thread goes neither before others nor after them");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In nanoseconds. `None`: this kernel shows none.
    fn slice() -> Option<u128> {
        let shown = std::fs::read_to_string("/proc/thread-self/sched").ok()?;
        let line = shown.lines().find(|line| line.starts_with("se.slice"))?;
        line.split(':').nth(1)?.trim().parse().ok()
    }

    #[test]
    #[allow(unsafe_code, reason = "as above")]
    fn a_policy_that_somebody_chose_stays() {
        let policies = std::thread::spawn(|| {
            let parameters = libc::sched_param { sched_priority: 0 };
            // SAFETY: `parameters` lives until the call returns, and is only read; the other takes and returns numbers.
            let chosen = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
            assert_eq!(chosen, 0, "nobody needs a permission for that");
            go_first();
            // SAFETY: as above.
            unsafe { libc::sched_getscheduler(0) }
        });
        assert_eq!(policies.join().expect("a thread that only looks"), libc::SCHED_BATCH);
    }

    #[test]
    fn threads_inherit_a_short_slice_and_have_a_long_one_while_they_compute() {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux");
        let numbers: Vec<u32> = release.split('.').map_while(|part| part.parse().ok()).collect();
        let found = std::thread::spawn(|| {
            let before = slice();
            go_first();
            let inherited = std::thread::spawn(|| {
                let inherited = slice();
                go_last();
                let long = slice();
                go_first_again();
                (inherited, long, slice())
            });
            (before, slice(), inherited.join().expect("a thread that only looks"))
        });
        let (before, short, (inherited, long, again)) = found.join().expect("a thread that only looks");
        assert_eq!((inherited, again), (short, short));
        if numbers >= vec![6, 12] && before.is_some() {
            assert_eq!((short, long), (Some(SHORT.as_nanos()), Some(LONG.as_nanos())));
            assert!(short < before && before < long);
        } else {
            assert_eq!((short, long), (before, before), "before 6.12 there is one slice for all");
        }
    }
}
