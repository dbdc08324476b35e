//! A client that is not read for a while because its listener has had as much as it may.

use std::sync::Arc;

use mqgate_protocol::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Driver;
use crate::rates::{Held, Rates};

#[derive(Debug)]
pub(super) struct Brake {
    rates: Arc<Rates>,
    ends: Option<Instant>,
}

impl Brake {
    pub(super) fn of(rates: Option<&Arc<Rates>>) -> Option<Box<Self>> {
        let rates = rates.filter(|rates| rates.counts_traffic())?;
        Some(Box::new(Self { rates: Arc::clone(rates), ends: None }))
    }

    pub(super) fn ends(&self) -> Option<Instant> {
        self.ends
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Driver<S> {
    /// Counts what the client sent, and stops reading it if that was too much.
    pub(super) fn brake(&mut self, messages: usize, bytes: usize) {
        let Some(brake) = &mut self.brake else { return };
        let now = self.broker.now();
        let Some((wait, held)) = brake.rates.traffic(now, messages, bytes) else { return };
        if brake.ends.is_none() {
            let metrics = &self.broker.metrics;
            match held {
                Held::Messages => metrics.rate_limited_listener_messages.inc(),
                Held::Bytes => metrics.rate_limited_listener_bytes.inc(),
            }
        }
        let end = now.after(wait);
        brake.ends = Some(brake.ends.map_or(end, |ends| ends.max(end)));
    }

    pub(super) fn release_brake(&mut self) {
        let now = self.broker.now();
        if let Some(brake) = &mut self.brake {
            brake.ends.take_if(|end| *end <= now);
        }
    }
}
