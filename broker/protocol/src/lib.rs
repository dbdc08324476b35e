//! What a broker does with packets: connection and session machine, subscription index, retained messages,
//! outboxes, permits.
//!
//! Pure: no I/O, no tokio, no clock, no lock, no randomness. Takes inputs, emits effects.

pub mod permit;
