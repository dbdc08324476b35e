//! Library half of xtask: what tests need too.

pub mod attack;
pub mod components;
