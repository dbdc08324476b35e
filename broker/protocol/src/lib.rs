//! What a broker does with packets: connection and session machine, subscription index, retained messages,
//! outboxes, permits.
//!
//! Pure: no I/O, no tokio, no clock, no lock, no randomness. Takes inputs, emits effects.

pub mod bridge;
pub mod connection;
pub mod limits;
pub mod message;
pub mod outbox;
pub mod permit;
pub mod persistent;
pub mod retained;
pub mod session;
pub mod subscriptions;
pub mod time;
pub mod topics;
