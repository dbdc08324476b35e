//! From the mailbox to the output: messages that wait for the client.

use bytes::Buf;
use mqgate_codec::QoS;
use mqgate_protocol::connection::Input;
use mqgate_protocol::outbox::Outgoing;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Driver, OUTPUT_HIGH_WATER};
use crate::turns::cost;

/// Bytes of messages taken from the mailbox at once.
const BATCH_BYTES: usize = 16 * 1024;

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Driver<S> {
    /// Moves waiting messages to the output, as many as the client takes.
    pub(super) fn take_mail(&mut self) {
        // Where little is left for all clients, a message is written for one that has taken those before.
        let high_water = self.broker.router.room(&self.tally).free().clamp(1, OUTPUT_HIGH_WATER);
        let batch_bytes = BATCH_BYTES.min(high_water);
        while self.closing.is_none()
            && self.output.remaining() < high_water
            && self.machine.send_backlog(self.now, batch_bytes)
        {
            self.effects();
            if self.account.slice_is_over() {
                self.unfinished = true;
                return;
            }
        }
        if self.searching.is_some() {
            return; // What waits is newer than what is looked for.
        }
        let Some(mailbox) = self.mailbox.clone().filter(|_| self.mail && self.closing.is_none()) else {
            return;
        };
        let mut batch: Vec<Outgoing> = Vec::new();
        while self.output.remaining() < high_water {
            let Some(quota) = self.machine.quota() else { break };
            let taken = mailbox.take(&mut self.output, &mut batch, quota, batch_bytes);
            if taken.messages == 0 {
                // Empty, or waiting for acknowledgements: those that come are a reason to look again.
                self.mail = quota == 0;
                break;
            }
            self.tally.queued(-(taken.messages as i64), -(taken.bytes as i64));
            self.account.spend_on(taken.messages, cost::DELIVERY);
            self.tally.messages_sent(QoS::AtMostOnce, taken.written);
            for outgoing in batch.drain(..) {
                self.machine.handle(self.now, Input::Deliver(outgoing));
                self.effects();
            }
            if self.account.slice_is_over() {
                self.unfinished = true;
                return;
            }
        }
    }

    /// Messages that have waited for the client for a while get memory of their own.
    pub(super) fn detach(&mut self) {
        self.detach_at = None;
        if let Some(mailbox) = &self.mailbox {
            mailbox.detach_small();
            self.machine.detach_small();
        }
    }
}
