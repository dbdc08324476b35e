//! Shares of the processor: connections that do much wait in line with each other, one at a time on each core, so that
//! one that does little is never behind more than one of them.
//!
//! tokio runs tasks in the order in which they were woken, and looks for new bytes on sockets between many of them:
//! without this, a hundred busy connections are a hundred turns that everybody waits for. Nothing is limited here: a
//! busy connection gets all that nobody else wants.
//!
//! What work takes is estimated from what was done, not measured: it is the same in virtual time, and whoever the
//! machine interrupted is not blamed for it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use mqgate_protocol::time::Instant;
use prometheus::IntCounter;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Estimates, in nanoseconds of one core.
pub(crate) mod cost {
    /// A call of the kernel that reads …
    pub(crate) const READ: u32 = 3_000;
    /// … or writes; the other side is woken.
    pub(crate) const WRITE: u32 = 6_000;
    /// Of what was read or written.
    pub(crate) const KIBIBYTE: u32 = 200;
    /// A packet from a client.
    pub(crate) const PACKET: u32 = 400;
    /// A message that is put into a queue, or taken out of it.
    pub(crate) const DELIVERY: u32 = 100;
    /// A message that is written for one client, by itself.
    pub(crate) const SENDING: u32 = 300;
    /// A message that is retained.
    pub(crate) const RETAINING: u32 = 5_000;
    /// A subscription that comes or goes.
    pub(crate) const SUBSCRIPTION: u32 = 2_000;
    /// A place that is looked at for retained messages.
    pub(crate) const VISIT: u32 = 100;
    /// The judgement of a CONNECT.
    pub(crate) const CONNECT: u32 = 50_000;
    /// The end of a connection that was none yet.
    pub(crate) const CLOSE: u32 = 25_000;
}

/// Shares are reckoned for so long.
const PERIOD: Duration = Duration::from_millis(250);
/// Who does more than this at once lets everybody else run before going on.
const SLICE: u32 = 100_000;
/// When busy connections have done so much together, everybody else is let run.
const PAUSE_AFTER: u32 = 50_000;
/// Behind so many for each core a connection waits some 10 ms at most: their turns are slices, and mostly shorter.
const SHORT_LINE: u32 = 100;

/// What connections share.
pub(crate) struct Turns {
    /// As many may be busy at the same time as there are cores.
    line: Semaphore,
    cores: u32,
    /// Those that wait in line.
    waiting: AtomicU32,
    /// What busy connections have done since everybody else was let run.
    done: AtomicU32,
    period: AtomicU32,
    /// Clients that did something in this period.
    active: AtomicU32,
    /// What a connection may do in this period without being busy.
    share: AtomicU32,
    waited: IntCounter,
}

/// The right to do something, until it is passed on.
pub(crate) type Turn<'a> = SemaphorePermit<'a>;

/// What one connection has done.
#[derive(Debug)]
pub(crate) struct Account {
    /// The period that the rest is about; `u32::MAX` before the first.
    period: u32,
    share: u32,
    used: u32,
    /// Since others were let run.
    slice: u32,
    /// The client was let in.
    known: bool,
    busy: bool,
}

impl Turns {
    /// To be made within the runtime that runs the connections.
    pub(crate) fn new(waited: IntCounter) -> Self {
        let workers =
            tokio::runtime::Handle::try_current().map_or(1, |handle| handle.metrics().num_workers());
        let cores = u32::try_from(workers.max(1)).unwrap_or(u32::MAX);
        Self {
            line: Semaphore::new(workers.max(1)),
            cores,
            waiting: AtomicU32::new(0),
            done: AtomicU32::new(0),
            period: AtomicU32::new(0),
            active: AtomicU32::new(0),
            share: AtomicU32::new(share(cores, 1)),
            waited,
        }
    }

    /// Where nobody is in line.
    pub(crate) fn try_take(&self) -> Option<Turn<'_>> {
        self.line.try_acquire().ok()
    }

    /// Waits in line.
    pub(crate) async fn take(&self) -> Turn<'_> {
        if let Some(turn) = self.try_take() {
            return turn;
        }
        self.waited.inc();
        let _place = Place::behind(&self.waiting);
        Box::pin(self.line.acquire()).await.expect("nobody closes the line")
    }

    /// Whether who gets in line now has a turn soon.
    pub(crate) fn line_is_short(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) <= SHORT_LINE.saturating_mul(self.cores)
    }

    /// Passes a turn on, in which so much was done. Now and then everybody else is let run before.
    pub(crate) async fn pass(&self, turn: Turn<'_>, done: u32) {
        if self.done.fetch_add(done, Ordering::Relaxed).saturating_add(done) >= PAUSE_AFTER {
            self.done.store(0, Ordering::Relaxed);
            // The runtime looks for whoever is ready, sockets included, before it comes back here.
            tokio::task::yield_now().await;
        }
        drop(turn);
    }

    /// Runs `work` to its end, a turn for each piece of it.
    pub(crate) async fn run<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        let woken = Arc::new(Woken::default());
        loop {
            let turn = self.take().await;
            woken.flag.store(false, Ordering::Relaxed);
            let polled = std::future::poll_fn(|cx| {
                woken.task.register(cx.waker());
                let waker = Waker::from(Arc::clone(&woken));
                Poll::Ready(work.as_mut().poll(&mut Context::from_waker(&waker)))
            });
            if let Poll::Ready(output) = polled.await {
                return output; // Whoever waits for it may be cancelled: it is not kept back.
            }
            self.pass(turn, PAUSE_AFTER).await;
            std::future::poll_fn(|cx| {
                woken.task.register(cx.waker());
                if woken.flag.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }

    /// A connection does something in a period; says what it may do without being busy. Those that `count` are
    /// clients: a storm of strangers takes nothing away from their shares.
    fn enter(&self, period: u32, counts: bool) -> u32 {
        let before = self.period.load(Ordering::Relaxed);
        let is_next =
            || self.period.compare_exchange(before, period, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if period > before && is_next() {
            let active = self.active.swap(0, Ordering::Relaxed);
            self.share.store(share(self.cores, active), Ordering::Relaxed);
        }
        self.active.fetch_add(u32::from(counts), Ordering::Relaxed);
        self.share.load(Ordering::Relaxed)
    }
}

/// One who waits in line, and may go away.
struct Place<'a>(&'a AtomicU32);

impl<'a> Place<'a> {
    fn behind(waiting: &'a AtomicU32) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Half of what each could have if all did the same: those that are not busy can never use up what there is.
fn share(cores: u32, active: u32) -> u32 {
    let all = PERIOD.as_nanos() * u128::from(cores);
    let each = all / 2 / u128::from(active.max(1));
    u32::try_from(each).unwrap_or(u32::MAX).max(SLICE)
}

/// Whether a piece of work was woken while it was not looked at.
#[derive(Default)]
struct Woken {
    flag: AtomicBool,
    task: Task,
}

/// The task that is to be woken.
#[derive(Default)]
struct Task(std::sync::Mutex<Option<Waker>>);

impl Task {
    fn register(&self, waker: &Waker) {
        let mut task = crate::directory::lock(&self.0);
        if !task.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.flag.store(true, Ordering::Release);
        let task = crate::directory::lock(&self.task.0).clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl Account {
    /// Of a connection that has just come: it is busy until it is known, and has shown that it is not.
    pub(crate) fn new() -> Self {
        Self { period: u32::MAX, share: 0, used: 0, slice: 0, known: false, busy: true }
    }

    /// The client was let in. What came before was not its own choice.
    pub(crate) fn admit(&mut self) {
        (self.known, self.used) = (true, 0);
    }

    /// It looks for something to do.
    pub(crate) fn look(&mut self, now: Instant, turns: &Turns) {
        let period = u32::try_from(now.elapsed().as_millis() / PERIOD.as_millis()).unwrap_or(u32::MAX - 1);
        if period == self.period {
            return;
        }
        // What was done long ago is no reason to be busy now.
        let just_now = period == self.period.wrapping_add(1);
        self.busy = !self.known || just_now && self.used > self.share;
        self.share = turns.enter(period, self.known);
        (self.period, self.used) = (period, 0);
    }

    /// It has done something.
    pub(crate) fn spend(&mut self, cost: u32) {
        self.used = self.used.saturating_add(cost);
        self.slice = self.slice.saturating_add(cost);
        self.busy |= self.used > self.share;
    }

    /// The same for several things.
    pub(crate) fn spend_on(&mut self, count: usize, cost: u32) {
        self.spend(u32::try_from(count).unwrap_or(u32::MAX).saturating_mul(cost));
    }

    /// It has called the kernel to move so many bytes.
    pub(crate) fn spend_on_call(&mut self, call: u32, bytes: usize) {
        self.spend(call);
        self.spend_on(bytes / 1024, cost::KIBIBYTE);
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    pub(crate) fn slice_is_over(&self) -> bool {
        self.slice >= SLICE
    }

    /// Others were let run; says what was done before.
    pub(crate) fn pause(&mut self) -> u32 {
        std::mem::take(&mut self.slice)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn turns() -> Turns {
        Turns::new(IntCounter::new("waited", "In tests.").unwrap())
    }

    fn at(millis: u64) -> Instant {
        Instant::ZERO.after(Duration::from_millis(millis))
    }

    #[test]
    fn who_does_more_than_half_of_an_equal_share_is_busy_until_it_does_less() {
        let turns = turns();
        let mut accounts: Vec<Account> = (0..100).map(|_| Account::new()).collect();
        let each = |accounts: &mut Vec<Account>, millis| {
            accounts.iter_mut().for_each(|account| account.look(at(millis), &turns));
        };
        each(&mut accounts, 0);
        each(&mut accounts, 250);
        assert!(accounts.iter().all(Account::is_busy), "nobody knows them yet");
        accounts.iter_mut().for_each(Account::admit);
        assert!(accounts.iter().all(Account::is_busy), "nobody knows what they are like");
        each(&mut accounts, 500);
        assert!(!accounts.iter().any(Account::is_busy));
        assert_eq!(accounts[0].share, 125_000_000, "strangers have no share");
        each(&mut accounts, 750);
        // 250 ms of one core, halved, among a hundred.
        accounts[0].spend(1_250_000);
        assert!(!accounts[0].is_busy());
        accounts[1].spend(1_250_001);
        assert!(accounts[1].is_busy());
        each(&mut accounts, 1000);
        assert_eq!((accounts[0].is_busy(), accounts[1].is_busy()), (false, true), "as in the period before");
        each(&mut accounts, 1250);
        assert!(!accounts[1].is_busy());
        accounts[1].spend(1_250_001);
        each(&mut accounts, 5000);
        assert!(!accounts[1].is_busy(), "that was long ago");
    }

    #[test]
    fn a_share_is_never_less_than_a_slice_and_never_more_than_half_of_the_machine() {
        assert_eq!(share(1, 0), 125_000_000);
        assert_eq!(share(4, 2), 250_000_000);
        assert_eq!(share(1, 1_000_000), SLICE);
        assert_eq!(share(1000, 1), u32::MAX);
    }

    /// What happened, in order.
    type Story = Arc<Mutex<Vec<&'static str>>>;

    #[tokio::test]
    async fn those_that_do_little_run_between_those_that_do_much() {
        let turns = Arc::new(turns());
        let story = Story::default();
        let tell = |story: &Story, what| story.lock().unwrap().push(what);
        let mut tasks = Vec::new();
        for _ in 0..3 {
            let (turns, story) = (Arc::clone(&turns), Arc::clone(&story));
            tasks.push(tokio::spawn(async move {
                let turn = turns.take().await;
                tell(&story, "much");
                turns.pass(turn, PAUSE_AFTER).await;
            }));
        }
        for _ in 0..2 {
            let story = Arc::clone(&story);
            tasks.push(tokio::spawn(async move { tell(&story, "little") }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*story.lock().unwrap(), ["much", "little", "little", "much", "much"]);
        assert_eq!(turns.waited.get(), 2);
    }

    #[tokio::test]
    async fn the_line_is_as_long_as_those_who_are_still_in_it() {
        let turns = Arc::new(turns());
        let turn = turns.take().await;
        let stand = || {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move { drop(turns.take().await) })
        };
        let mut line: Vec<_> = (0..SHORT_LINE).map(|_| stand()).collect();
        tokio::task::yield_now().await;
        assert!(turns.line_is_short());
        line.push(stand());
        tokio::task::yield_now().await;
        assert!(!turns.line_is_short());
        let leaves = line.swap_remove(7);
        leaves.abort();
        assert!(leaves.await.unwrap_err().is_cancelled());
        assert!(turns.line_is_short());
        drop(turn);
        for task in line {
            task.await.unwrap();
        }
        assert_eq!(turns.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn work_that_waits_holds_no_turn_and_misses_nothing() {
        let turns = Arc::new(turns());
        let (tell, mut told) = tokio::sync::mpsc::channel(3);
        let works = Arc::clone(&turns);
        let work = tokio::spawn(async move {
            works.run(async { while told.recv().await != Some(3) {} }).await;
        });
        for number in 1..=3 {
            let turn = turns.take().await;
            tell.send(number).await.unwrap();
            turns.pass(turn, 0).await;
        }
        work.await.unwrap();
        assert_eq!(turns.line.available_permits(), 1);
    }
}
