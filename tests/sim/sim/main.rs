//! Simulation: a handful of clients do what a seed says to the broker's real connection code (machine, sessions,
//! routing, delivery), over in-memory transports, in one thread and virtual time. After every step the checkers
//! look at what each client saw.
//!
//! A seed that fails prints itself; `MQGATE_SIM_SEED=17 cargo test -p mqgate-sim -- --nocapture one_seed` tells its
//! whole story. `MQGATE_SIM_SEEDS=5000` sets how many the long test plays.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]

mod check;
mod client;
mod model;
mod story;
mod wire;
mod world;

/// Seeds of the fast tier.
const FEW: u64 = 150;
/// Seeds of the full tier.
const MANY: u64 = 10_000;

#[test]
fn few_seeds_hold() {
    play_all(0..FEW, Times::Once);
}

#[test]
#[ignore = "full: 10,000 seeds, each played twice"]
fn many_seeds_hold() {
    let count = std::env::var("MQGATE_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(MANY);
    play_all(FEW..FEW + count, Times::Twice);
}

/// The same seed tells the same story, or a failure could not be looked into.
#[test]
fn a_seed_is_one_story() {
    play_all(0..20, Times::Twice);
}

#[test]
fn one_seed() {
    let Some(seed) = std::env::var("MQGATE_SIM_SEED").ok().and_then(|text| text.parse().ok()) else { return };
    let outcome = story::play(seed);
    for line in &outcome.trace {
        println!("{line}");
    }
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Times {
    Once,
    /// And the second time is like the first.
    Twice,
}

fn play_all(seeds: std::ops::Range<u64>, times: Times) {
    let mut deliveries = 0;
    for seed in seeds {
        let outcome = story::play(seed);
        deliveries += outcome.deliveries;
        if times == Times::Twice {
            assert_eq!(outcome.trace, story::play(seed).trace, "seed {seed}");
        }
        assert!(
            outcome.violations.is_empty(),
            "seed {seed}: {:#?}\nits end:\n{}",
            outcome.violations,
            outcome.trace[outcome.trace.len().saturating_sub(40)..].join("\n")
        );
    }
    assert!(deliveries > 0, "nothing was ever delivered");
}
