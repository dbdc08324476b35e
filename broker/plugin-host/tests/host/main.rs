//! The host against guests that are written to misbehave, and against the plugins that come with the broker.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

mod again;
mod alone;
mod attacks;
mod built;
mod bundled;
mod compiling;
mod dialogue;
mod five;
mod fixture;
mod golden;
mod guest;
mod hostile;
mod http;
mod isolation;
mod kept;
mod offline;
mod probation;
mod recording;
mod refused;
mod running;
mod server;
mod several;
mod shadow;
mod signed;
mod storage;
mod swap;
mod wasi;
mod wit;
