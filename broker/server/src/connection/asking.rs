//! The gate is asked again about a session that is live.

use std::sync::Arc;

use mqgate_protocol::connection::Input;
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
