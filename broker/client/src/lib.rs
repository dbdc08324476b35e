//! MQTT client on the codec: behind `mqgate pub|sub|bench`, the tests, and whatever else has to speak to a broker.
//!
//! [`Client`] is one connection with correct QoS flows both ways. [`RawConnection`] sends anything, right or
//! wrong. One connection is one session's time here: reconnecting is the caller's decision.

pub mod bench;
pub mod cli;
mod client;
mod driver;
mod error;
mod options;
mod raw;
mod session;
mod tls;
mod transport;

#[cfg(test)]
mod tests;

pub use client::{Client, Event, Handle, Message};
pub use error::{ClientError, ConnectError, RawError, TlsError};
pub use options::{ConnectOptions, WillOptions};
pub use raw::RawConnection;
pub use tls::{TlsOptions, TlsVersion};
pub use transport::Transport;
