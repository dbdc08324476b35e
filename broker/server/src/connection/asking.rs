//! The gate is asked again about a session that is live.

use std::sync::Arc;

use mqgate_protocol::connection::Input;
use mqgate_protocol::outbox::{DropReason, Origin};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Driver;
use crate::broker::WITHDRAWN;
use crate::gate::Reauthorization;

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Driver<S> {
    /// Has the gate judge a session that is live. It goes on meanwhile: an order to close it does not wait.
    pub(super) fn ask(&mut self) {
        if self.asking.is_some() {
            self.ask_again = true;
            return;
        }
        let (Some(connect), Some(permit)) = (self.connect.clone(), self.machine.permit().cloned()) else {
            return;
        };
        let (broker, accepted) = (Arc::clone(&self.broker), Arc::clone(&self.accepted));
        self.asking =
            Some(Box::pin(async move { broker.reauthorize(&accepted, &connect, &permit, None).await }));
    }

    /// Takes out of the mailbox what a narrower permit does not let the client have. Messages of shared
    /// subscriptions go to another member, if there is one.
    pub(super) fn review_mail(&mut self) {
        let (Some(mailbox), Some(permit)) = (&self.mailbox, self.machine.permit()) else { return };
        let reviewed = mailbox.review(|topic| permit.may_receive(topic));
        if reviewed.messages == 0 {
            return;
        }
        self.tally.queued(-(reviewed.messages as i64), -(reviewed.bytes as i64));
        let (shared, own): (Vec<_>, Vec<_>) =
            reviewed.gone.into_iter().partition(|outgoing| Origin::is_shared(outgoing.origin.as_ref()));
        let left = match shared.is_empty() {
            true => Vec::new(),
            false => self.broker.router.hand_on(shared, mailbox.key, false, &mut self.tally),
        };
        let lost = own.len() + left.len() + reviewed.written;
        self.broker.metrics.dropped(DropReason::NotPermitted, lost as u64);
    }

    pub(super) fn answered(&mut self, answer: Reauthorization) {
        self.asking = None;
        match answer {
            Reauthorization::Kept => self.handle(Input::PermitKept),
            Reauthorization::Replaced(permit) => {
                self.handle.permitted(&permit);
                self.handle(Input::Reauthorized(permit));
            }
            Reauthorization::Withdrawn(refusal) => return self.close(WITHDRAWN, refusal.reason),
        }
        if std::mem::take(&mut self.ask_again) {
            self.ask();
        }
    }
}
