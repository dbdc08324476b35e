//! What happens next on a connection: orders, answers of the gate, mail, bytes, time; and whose turn it is.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf;
use mqgate_identity::reason::Reason;
use mqgate_protocol::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{ANSWERS_HIGH_WATER, Driver, Event, READ_FIRST_EVERY};
use crate::turns::{Turn, Turns};

/// Of a client that comes again, so many pieces of what it said before are read.
const LAST_READS: usize = 16;

/// Looks once whether something is ready.
pub(super) async fn once<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    poll_fn(|cx| Poll::Ready(poll(cx))).await
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Driver<S> {
    /// Waits for the next thing that happens. A busy connection has a turn when it is to be done.
    pub(super) async fn next<'t>(
        &mut self,
        turns: &'t Turns,
        turn: &mut Option<Turn<'t>>,
        mut shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> Event {
        loop {
            if turn.is_none() && self.unfinished && self.account.is_busy() {
                *turn = turns.try_take();
                if turn.is_none() {
                    if !turns.line_is_short() {
                        self.wakes.wake();
                    }
                    *turn = Some(turns.take().await);
                }
            }
            if turn.is_some() || self.unfinished {
                if let Poll::Ready(event) = once(|cx| self.poll(cx, shutdown.as_mut())).await {
                    return event;
                }
                if self.unfinished {
                    return Event::Unfinished;
                }
            }
            if let Some(turn) = turn.take() {
                turns.pass(turn, self.account.pause()).await;
            }
            let mut slept = false;
            let event = poll_fn(|cx| {
                if slept {
                    self.account.pause();
                    if self.account.is_busy() {
                        return Poll::Ready(None); // What it is has to be seen in its turn.
                    }
                }
                slept = true;
                self.poll(cx, shutdown.as_mut()).map(Some)
            });
            let event = event.await;
            if self.account.is_busy() {
                *turn = Some(turns.take().await);
            }
            if let Some(event) = event {
                return event;
            }
        }
    }

    /// The next thing that happens. What leaves comes before what arrives.
    fn poll(&mut self, cx: &mut Context<'_>, shutdown: Pin<&mut impl Future<Output = ()>>) -> Poll<Event> {
        self.now = self.broker.now();
        self.account.look(self.now, &self.broker.turns);
        let order = self.handle.orders(cx.waker());
        if let Some(farewell) = order.farewell {
            if farewell.reason == Reason::TakenOver {
                self.hear_out(cx);
            }
            if self.closing.is_none() {
                self.close(farewell.code, farewell.reason);
            }
            return Poll::Ready(Event::Ordered);
        }
        if order.reauthorize && self.connect.is_some() {
            self.ask();
        }
        if !order.requests.is_empty() {
            order.requests.into_iter().for_each(|request| self.requested(request));
            return Poll::Ready(Event::Ordered);
        }
        if let Some(asking) = &mut self.asking
            && let Poll::Ready(answer) = asking.as_mut().poll(cx)
        {
            self.answered(answer);
            return Poll::Ready(Event::Ordered);
        }
        if self.poll_talk(cx).is_ready() {
            return Poll::Ready(Event::Ordered);
        }
        self.round = (self.round + 1) % READ_FIRST_EVERY;
        if self.round == 0 {
            if let Poll::Ready(event) = self.poll_input(cx) {
                return Poll::Ready(event);
            }
            if self.poll_timer(cx).is_ready() {
                return Poll::Ready(Event::Timeout);
            }
        }
        if let Poll::Ready(event) = self.poll_write(cx) {
            return Poll::Ready(event);
        }
        if self.output.has_remaining() {
            self.stalled.get_or_insert(self.now);
        }
        if let Some(mailbox) = &self.mailbox
            && mailbox.poll_news(cx.waker())
        {
            return Poll::Ready(Event::Mail);
        }
        if let Poll::Ready(event) = self.poll_input(cx) {
            return Poll::Ready(event);
        }
        if self.poll_timer(cx).is_ready() {
            return Poll::Ready(Event::Timeout);
        }
        shutdown.poll(cx).map(|()| Event::Shutdown)
    }

    pub(super) fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if self.machine.wants_packet() && self.reads() { self.poll_read(cx) } else { Poll::Pending }
    }

    /// What a client said before it came again counts, above all DISCONNECT: there is no will after it, and it may
    /// end the session.
    fn hear_out(&mut self, cx: &mut Context<'_>) {
        for _ in 0..LAST_READS {
            let Poll::Ready(Event::Read(count)) = self.poll_input(cx) else { return };
            self.tally.bytes_received(count);
            self.packets();
            if self.closing.is_some() {
                return;
            }
        }
    }

    /// Whether there is room for what the client says.
    pub(super) fn reads(&self) -> bool {
        self.held.is_none()
            && !self.unfinished
            && self.output.remaining() < ANSWERS_HIGH_WATER
            && self.brake.as_ref().is_none_or(|brake| brake.ends().is_none())
    }

    pub(super) fn stall_ends(&self) -> Option<Instant> {
        Some(self.stalled?.after(self.write_stall_timeout))
    }

    /// The machine's deadline mostly moves away: the timer follows only when it has run out.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let brake = self.brake.as_ref().and_then(|brake| brake.ends());
        let deadlines = [self.machine.deadline(), self.stall_ends(), brake, self.detach_at];
        let Some(deadline) = deadlines.into_iter().flatten().min() else { return Poll::Pending };
        let deadline = self.broker.when(deadline);
        if deadline < self.timer.deadline() {
            self.timer.as_mut().reset(deadline);
        }
        loop {
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if deadline <= tokio::time::Instant::now() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(deadline);
        }
    }
}
