//! The harness of the end-to-end tests: a broker as a process, a PKI made for the test, real clients.
//!
//! Each test has its own folder, its own broker and its own ports (the system chooses them); what a test
//! starts is stopped by process id when the test ends, however it ends.

#![allow(clippy::print_stderr, reason = "tests speak to the person who runs them")]

pub mod admin;
pub mod broker;
pub mod mosquitto;
pub mod pki;
pub mod tools;

pub use admin::Admin;
pub use broker::{Broker, BrokerBuilder, PATIENT};
pub use mosquitto::Mosquitto;
pub use pki::{Identity, Pki};

use std::time::{Duration, Instant};

/// Asks `probe` until it gives a value; panics with `what` after ten seconds.
///
/// For what crosses a process boundary and cannot be awaited: a line in a file, a number in `/metrics`.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited ten seconds for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
