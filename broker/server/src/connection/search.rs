//! Retained messages are looked for in pieces, between which others are let run.

use mqgate_protocol::connection::Input;
use mqgate_protocol::outbox::DropReason;
use mqgate_protocol::session::Session;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Driver;
use crate::turns::cost;

/// Topic levels that are looked at in one piece.
const AT_ONCE: usize = 512;

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Driver<S> {
    /// Goes on for one piece. What the client says next waits for the rest, and messages that are newer do, too.
    pub(super) fn search(&mut self) {
        self.unfinished = false;
        let Some(searching) = &mut self.searching else { return };
        let (mut found, visits) = searching.go_on(self.now, AT_ONCE);
        self.account.spend_on(visits, cost::VISIT);
        self.unfinished = !searching.is_over();
        self.broker.metrics.retained_cut.inc_by(searching.take_cut());
        if searching.narrowed
            && let Some(permit) = self.machine.permit()
        {
            let before = found.len();
            found.retain(|outgoing| permit.may_receive(&outgoing.message.topic));
            self.broker.metrics.dropped(DropReason::NotPermitted, (before - found.len()) as u64);
        }
        if !self.unfinished {
            self.searching = None;
        }
        if !found.is_empty() {
            self.machine.handle(self.now, Input::Retained(found));
        }
    }

    /// What is found from now on has to be covered by the permit that there is now.
    pub(super) fn review_search(&mut self) {
        if let Some(searching) = &mut self.searching {
            searching.narrowed = true;
        }
    }

    /// Looks to the end for a session that outlives its connection: it was promised all of it.
    pub(super) async fn finish_search(&mut self, session: &mut Session) {
        let now = self.broker.now();
        let Some(mut searching) = self.searching.take() else { return };
        if session.ends_at.is_some_and(|at| at <= now) || searching.narrowed {
            return;
        }
        while !searching.is_over() {
            let turn = self.broker.turns.take().await;
            let (found, visits) = searching.go_on(now, AT_ONCE);
            session.backlog.extend(found);
            let done = u32::try_from(visits).unwrap_or(u32::MAX).saturating_mul(cost::VISIT);
            self.broker.turns.pass(turn, done).await;
        }
    }
}
