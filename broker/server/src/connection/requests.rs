//! What an operator wants of a session that is online.

use mqgate_codec::ReasonCode;
use mqgate_identity::reason::Reason;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Driver;
use crate::inspect::{Request, SessionFacts};

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Driver<S> {
    /// Whoever asked may be gone by now: an answer that nobody takes is no error.
    pub(super) fn requested(&mut self, request: Request) {
        match request {
            Request::Show(answer) => {
                if let Some(facts) = self.facts() {
                    let _ = answer.send(facts);
                }
            }
            Request::Subscribe { filter, options, answer } => {
                if self.machine.session().is_some() {
                    let done = self.subscribe_for(&filter, options);
                    self.effects();
                    let _ = answer.send(done);
                }
            }
            Request::Unsubscribe { filter, answer } => {
                if self.machine.session().is_some() {
                    let done = self.machine.unsubscribe_for(&filter);
                    self.effects();
                    let _ = answer.send(done);
                }
            }
            Request::End(answer) => {
                self.machine.end_session_with_connection();
                self.close(ReasonCode::ADMINISTRATIVE_ACTION, Reason::AdminAction);
                let _ = answer.send(());
            }
        }
    }

    fn facts(&self) -> Option<SessionFacts> {
        let session = self.machine.session()?;
        let mut facts = SessionFacts::of(session, self.mailbox.as_deref()?, self.broker.now());
        facts.connection_id = Some(self.accepted.id);
        facts.keep_alive = self.machine.keep_alive();
        facts.protocol = self.machine.version().map(crate::inspect::protocol_name);
        if let Some(connect) = &self.connect {
            facts.clean_start = Some(connect.clean_start);
            facts.user_name = connect.user_name.as_ref().map(ToString::to_string);
            facts.will_topic = connect.will.as_ref().map(|will| will.topic.as_str().to_owned());
        }
        Some(facts)
    }
}
