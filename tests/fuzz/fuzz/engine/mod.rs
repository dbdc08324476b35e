//! A fuzzer for one thread: keeps what reaches something new, and changes it.

#[allow(dead_code, reason = "the replay keeps nothing")]
pub mod corpus;
#[allow(dead_code, reason = "the replay has no counters")]
pub mod coverage;
#[allow(dead_code, reason = "the replay uses it in its own tests only")]
pub mod mutate;
#[allow(dead_code, reason = "the replay searches nothing")]
pub mod search;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What takes bytes and must not panic.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// Words of its format.
    pub dictionary: &'static [&'static [u8]],
    /// Longest input that is tried.
    pub longest: usize,
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    pub run: fn(&[u8]),
}

/// Runs the target once; the panic's words if there was one.
pub fn outcome_of(target: &Target, data: &[u8]) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| (target.run)(data))).map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
    })
}
