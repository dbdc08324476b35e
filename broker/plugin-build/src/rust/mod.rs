//! Rust: which compiler, from where, and what it is told.

pub mod compile;
mod debian;
pub mod toolchain;
