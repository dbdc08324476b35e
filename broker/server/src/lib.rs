//! Sockets, TLS, connection tasks, admission, audit log, admin API and metrics.
//!
//! Async code here is a thin driver: what a broker does with packets is `mqgate-protocol`, what a
//! certificate means is `mqgate-identity`. Knows neither wasmtime nor the database: plugins and storage
//! stand behind the traits of `mqgate-identity`.

pub mod admin;
pub mod audit;
pub mod bans;
pub mod broker;
pub mod bundles;
mod chain;
pub mod clock;
mod connection;
pub mod crl;
pub mod delayed;
mod delivery;
pub mod directory;
pub mod events;
pub mod extras;
pub mod fetch;
pub mod flapping;
pub mod gate;
pub mod import;
pub mod inner;
mod inspect;
pub mod listener;
pub mod live;
pub mod metrics;
pub mod network;
pub mod ocsp;
pub mod posture;
pub mod provision;
pub mod proxy_protocol;
pub mod quic;
pub mod rates;
pub mod readiness;
pub mod registry;
pub mod retirement;
mod routing;
mod searching;
mod sessions;
pub mod sharing;
pub mod slow;
pub mod stream;
pub mod sys;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod trace;
pub mod trust;
mod turns;
pub mod units;
pub mod websocket;
