//! What was published and what of it has arrived: holds publishers back, and finds what is lost, late or
//! doubled. One thread, so nothing is locked.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::{microseconds, record};

/// Which flow, the number in it, and when: what a payload begins with.
pub const SMALLEST_PAYLOAD: usize = 16;

pub(super) struct Ledger {
    flows: Vec<Flow>,
    started: Instant,
    /// Publishers go on.
    pub(super) open: Cell<bool>,
    measuring: Cell<bool>,
    /// Stop to measure after so many.
    until: Cell<u64>,
    pub(super) full: tokio::sync::Notify,
    published: Cell<u64>,
    delivered: Cell<u64>,
    lost: Cell<u64>,
    out_of_order: Cell<u64>,
    latency: RefCell<Histogram<u64>>,
}

/// One publisher.
struct Flow {
    /// Deliveries of each message.
    copies: u32,
    /// The number of the next message.
    next: Cell<u64>,
    /// Everything before this number was delivered to all, or given up.
    done: Cell<u64>,
    /// Deliveries that are due, by number modulo the window.
    due: RefCell<Box<[u32]>>,
    /// Messages that may be published by now; without a rate there is no end to them.
    allowed: Cell<u64>,
    waker: Cell<Option<Waker>>,
}

/// What the payload of a message says.
pub(super) type Stamp = [u8; SMALLEST_PAYLOAD];

impl Ledger {
    pub(super) fn new(copies: impl Iterator<Item = u32>, window: u32, paced: bool) -> Self {
        let flows = copies.map(|copies| Flow {
            copies,
            next: Cell::new(0),
            done: Cell::new(0),
            due: RefCell::new(vec![0; window as usize].into()),
            allowed: Cell::new(if paced { 0 } else { u64::MAX }),
            waker: Cell::new(None),
        });
        Self {
            flows: flows.collect(),
            started: Instant::now(),
            open: Cell::new(true),
            measuring: Cell::new(false),
            until: Cell::new(u64::MAX),
            full: tokio::sync::Notify::new(),
            published: Cell::new(0),
            delivered: Cell::new(0),
            lost: Cell::new(0),
            out_of_order: Cell::new(0),
            latency: RefCell::new(microseconds()),
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// How many messages a publisher may send now. With none, it is woken when there are some.
    pub(super) fn room(&self, flow: usize, cx: &Context<'_>) -> u64 {
        let flow = &self.flows[flow];
        let window = flow.due.borrow().len() as u64;
        let room = (flow.done.get() + window).min(flow.allowed.get()).saturating_sub(flow.next.get());
        if room == 0 || !self.open.get() {
            flow.waker.set(Some(cx.waker().clone()));
            return 0;
        }
        room
    }

    /// The next message of a flow goes out; `now` is from [`Ledger::now`].
    pub(super) fn publish(&self, flow: usize, now: u64) -> (u64, Stamp) {
        let number = self.flows[flow].next.get();
        let flow_state = &self.flows[flow];
        let mut due = flow_state.due.borrow_mut();
        let at = (number % due.len() as u64) as usize;
        due[at] = flow_state.copies;
        flow_state.next.set(number + 1);
        if self.measuring.get() {
            self.published.set(self.published.get() + 1);
        }
        let mut stamp = Stamp::default();
        stamp[..4].copy_from_slice(&(flow as u32).to_be_bytes());
        stamp[4..8].copy_from_slice(&(number as u32).to_be_bytes());
        stamp[8..].copy_from_slice(&now.to_be_bytes());
        (number, stamp)
    }

    /// A message has arrived. `seen` is what its receiver got last of each flow, plus one.
    pub(super) fn deliver(&self, payload: &[u8], seen: &mut [u32], now: u64) {
        let Some((flow, number, sent)) = read(payload) else { return };
        let Some(state) = self.flows.get(flow) else { return };
        match seen.get_mut(flow) {
            Some(last) if *last <= number => *last = number + 1,
            Some(_) | None => {
                self.out_of_order.set(self.out_of_order.get() + 1);
                return;
            }
        }
        if self.measuring.get() {
            let delivered = self.delivered.get() + 1;
            self.delivered.set(delivered);
            record(&mut self.latency.borrow_mut(), now.saturating_sub(sent) / 1000);
            if delivered == self.until.get() {
                self.full.notify_one();
            }
        }
        let mut due = state.due.borrow_mut();
        let window = due.len() as u64;
        let at = (u64::from(number) % window) as usize;
        due[at] = due[at].saturating_sub(1);
        let (mut done, next) = (state.done.get(), state.next.get());
        if due[at] > 0 {
            return;
        }
        while done < next && due[(done % window) as usize] == 0 {
            done += 1;
        }
        drop(due);
        if done > state.done.replace(done) {
            state.wake();
        }
    }

    /// Lets each publisher send so many more in all.
    pub(super) fn allow(&self, flow: usize, messages: u64) {
        let flow = &self.flows[flow];
        flow.allowed.set(flow.allowed.get() + messages);
        flow.wake();
    }

    pub(super) fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Messages that are published and not delivered to all.
    pub(super) fn under_way(&self) -> u64 {
        self.flows.iter().map(|flow| flow.next.get() - flow.done.get()).sum()
    }

    /// Rises with everything that is delivered.
    pub(super) fn progress(&self) -> u64 {
        self.flows.iter().map(|flow| flow.done.get()).sum()
    }

    /// Nothing has come for long: what is under way is lost, and publishers go on.
    pub(super) fn give_up(&self) {
        for flow in &self.flows {
            let missing: u32 = flow.due.borrow_mut().iter_mut().map(std::mem::take).sum();
            self.lost.set(self.lost.get() + u64::from(missing));
            flow.done.set(flow.next.get());
            flow.wake();
        }
    }

    pub(super) fn start(&self, until: u64) {
        self.until.set(until);
        self.measuring.set(true);
    }

    pub(super) fn stop(&self) {
        self.measuring.set(false);
        self.open.set(false);
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            published: self.published.get(),
            delivered: self.delivered.get(),
            lost: self.lost.get(),
            out_of_order: self.out_of_order.get(),
            latency: self.latency.borrow().clone(),
        }
    }
}

pub(super) struct Counts {
    pub(super) published: u64,
    pub(super) delivered: u64,
    pub(super) lost: u64,
    pub(super) out_of_order: u64,
    pub(super) latency: Histogram<u64>,
}

impl Flow {
    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

fn read(payload: &[u8]) -> Option<(usize, u32, u64)> {
    let flow = u32::from_be_bytes(payload.get(..4)?.try_into().ok()?);
    let number = u32::from_be_bytes(payload.get(4..8)?.try_into().ok()?);
    let sent = u64::from_be_bytes(payload.get(8..SMALLEST_PAYLOAD)?.try_into().ok()?);
    Some((flow as usize, number, sent))
}

/// With nothing delivered for this long, what is under way counts as lost.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
