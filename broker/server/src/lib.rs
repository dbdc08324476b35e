//! Sockets, TLS, connection tasks, admission, audit log, admin API and metrics.
//!
//! Async code here is a thin driver: what a broker does with packets is `mqgate-protocol`, what a
//! certificate means is `mqgate-identity`. Knows neither wasmtime nor the database: plugins and storage
//! stand behind the traits of `mqgate-identity`.

pub mod admin;
pub mod audit;
pub mod broker;
pub mod clock;
mod connection;
mod delivery;
pub mod directory;
pub mod gate;
pub mod metrics;
mod chain;
pub mod listener;
pub mod readiness;
pub mod registry;
mod routing;
mod sessions;
pub mod stream;
pub mod tls;
pub mod trust;
#[cfg(test)]
mod testing;
