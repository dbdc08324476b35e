//! MQTT client on the codec: behind `mqgate pub|sub|bench`, the bridges, the tests, and whatever else has to speak to a broker.
//!
//! [`Client`] is one connection with correct QoS flows both ways. [`RawConnection`] sends anything, right or
//! wrong. A [`Link`] is a session that goes on with the next connection; when to connect is the caller's decision.

pub mod bench;
pub mod cli;
mod client;
mod driver;
mod error;
mod link;
mod options;
mod raw;
mod session;
mod tls;
mod transport;

#[cfg(test)]
mod tests;

pub use client::{Client, Delivery, Event, Handle, Message, Published, Token};
pub use error::{ClientError, ConnectError, RawError, TlsError};
pub use link::{Acknowledge, Connected, Incoming, Link, LinkOptions};
pub use options::{ConnectOptions, WillOptions};
pub use raw::RawConnection;
pub use tls::{TlsOptions, TlsVersion};
pub use transport::{Stream, Transport};
