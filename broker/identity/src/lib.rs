//! Certificates as facts, their evaluation, the rules of the registry, and the model the hooks speak.
//!
//! Pure: no I/O, no clock (time comes in as an argument), no lock, no randomness. Knows nothing of MQTT
//! packets, sockets, WebAssembly or the database; it defines the traits behind which those stand.

pub mod audit;
pub mod certificate;
pub mod evaluation;
pub mod hooks;
pub mod posture;
pub mod reach;
pub mod reason;
pub mod registry;
pub mod source;
pub mod time;
