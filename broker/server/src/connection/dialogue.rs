//! Enhanced authentication, as the driver sees it: the gate thinks and asks while packets come and go.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use mqgate_codec::Connect;
use mqgate_protocol::connection::{Input, Refused};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Driver;
use crate::broker::WITHDRAWN;
use crate::directory::Farewell;
use crate::gate::{Admission, Data, Dialogue, Interpreter, Reauthorization};

/// One exchange with the gate.
pub(super) struct Talk {
    judging: Pin<Box<dyn Future<Output = Verdict> + Send>>,
    interpreter: Interpreter,
}

enum Verdict {
    OfConnect(Admission),
    Again(Reauthorization),
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Driver<S> {
    /// Has the gate judge a CONNECT that asks for enhanced authentication.
    pub(super) fn talk(&mut self, connect: Arc<Connect>) {
        self.connect = Some(Arc::clone(&connect));
        let (dialogue, interpreter) = Dialogue::new(connect.properties.authentication_data.clone());
        let (broker, accepted) = (Arc::clone(&self.broker), Arc::clone(&self.accepted));
        let judging =
            Box::pin(
                async move { Verdict::OfConnect(broker.admit(&accepted, &connect, Some(dialogue)).await) },
            );
        self.talk = Some(Box::new(Talk { judging, interpreter }));
    }

    /// The client wants to prove once more who it is.
    pub(super) fn talk_again(&mut self, data: Data) {
        let (Some(connect), Some(permit)) = (self.connect.clone(), self.machine.permit().cloned()) else {
            return;
        };
        let (dialogue, interpreter) = Dialogue::new(data);
        let (broker, accepted) = (Arc::clone(&self.broker), Arc::clone(&self.accepted));
        let judging = Box::pin(async move {
            Verdict::Again(broker.reauthorize(&accepted, &connect, &permit, Some(dialogue)).await)
        });
        self.talk = Some(Box::new(Talk { judging, interpreter }));
    }

    /// What the client answered.
    pub(super) fn proof(&self, data: Data) {
        if let Some(talk) = &self.talk {
            talk.interpreter.tell(data);
        }
    }

    /// Whether the gate has said something.
    pub(super) fn poll_talk(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(talk) = &mut self.talk else { return Poll::Pending };
        if let Poll::Ready(verdict) = talk.judging.as_mut().poll(cx) {
            self.talk = None;
            match verdict {
                Verdict::OfConnect(admission) => self.judged(admission),
                Verdict::Again(Reauthorization::Replaced(permit)) => {
                    self.handle.permitted(&permit);
                    self.handle(Input::Reauthenticated(permit));
                }
                Verdict::Again(Reauthorization::Withdrawn(refusal)) => self.close(WITHDRAWN, refusal.reason),
                Verdict::Again(Reauthorization::Kept) => {
                    self.close(WITHDRAWN, mqgate_identity::reason::Reason::Other);
                }
            }
            return Poll::Ready(());
        }
        match talk.interpreter.challenges.poll_recv(cx) {
            Poll::Ready(Some(challenge)) => {
                self.handle(Input::Challenge(challenge));
                Poll::Ready(())
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// The gate has decided about a CONNECT.
    pub(super) fn judged(&mut self, admission: Admission) {
        self.handle(match admission {
            Admission::Admitted(permit) => {
                self.handle.permitted(&permit);
                match self.handle.farewell().or_else(|| self.broker.ban_on(&self.handle)) {
                    None => Input::Admitted(permit),
                    // Revoked while the gate was thinking.
                    Some(Farewell { code, reason }) => Input::Close { code, reason },
                }
            }
            Admission::Refused(refusal) => Input::Refused(Refused {
                code: refusal.code,
                reason: refusal.reason,
                reason_string: refusal.reason_string,
                server_reference: refusal.server_reference,
                retry_after: refusal.retry_after,
            }),
        });
    }
}
