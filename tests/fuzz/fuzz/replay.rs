//! Every input that is kept, and every input the targets begin with, once through its target.

#![allow(clippy::unwrap_used, reason = "this is a test; clippy sees that only inside test functions")]

mod engine;
mod targets;

use std::collections::BTreeSet;

use engine::{corpus, mutate::Mutator, outcome_of};
use fastrand::Rng;
use targets::differential::{difference, differences};

fn replay(name: &str) {
    let target = targets::ALL.iter().find(|target| target.name == name).unwrap();
    let kept = corpus::read(&corpus::path(name)).unwrap();
    assert!(!kept.is_empty(), "no input is kept for {name}: `cargo xtask fuzz {name} --keep`");
    for data in kept.into_iter().chain((target.seeds)()) {
        assert!(data.len() <= target.longest, "{name}: an input of {} bytes", data.len());
        if let Err(said) = outcome_of(target, &data) {
            panic!("{name}: {said}\n  the input: {}", hex::encode(&data));
        }
    }
}

#[test]
fn codec() {
    replay("codec");
}

#[test]
fn differential() {
    replay("differential");
}

#[test]
fn connection() {
    replay("connection");
}

#[test]
fn websocket() {
    replay("websocket");
}

#[test]
fn proxy() {
    replay("proxy");
}

#[test]
fn identity() {
    replay("identity");
}

#[test]
fn every_target_is_replayed() {
    let names: Vec<_> = targets::ALL.iter().map(|target| target.name).collect();
    assert_eq!(names, ["codec", "differential", "connection", "websocket", "proxy", "identity"]);
}

#[test]
fn what_was_compared_gets_into_the_input() {
    let mut rng = Rng::with_seed(1);
    for (number, expected) in [(0x4D51_5454, b"MQTT"), (0x5454_514D, b"TTQM"), (u64::from(b'x'), b"x___")] {
        let compared = [(u64::from(u32::from_be_bytes(*b"____")), number, 4), (0x5F, number, 1)];
        let mut seen = BTreeSet::new();
        for _ in 0..100 {
            let mut data = b"____".to_vec();
            Mutator { rng: &mut rng, dictionary: &[], compared: &compared, longest: 100 }.meet(&mut data);
            seen.insert(data);
        }
        assert!(seen.contains(expected.as_slice()), "{seen:?}");
    }
}

#[test]
fn no_input_grows_beyond_its_limit() {
    let mut rng = Rng::with_seed(2);
    let mut data = Vec::new();
    let mut lengths = BTreeSet::new();
    for _ in 0..10_000 {
        Mutator { rng: &mut rng, dictionary: &[b"word"], compared: &[], longest: 50 }
            .mutate(&mut data, b"other");
        assert!(data.len() <= 50);
        lengths.insert(data.len());
    }
    assert!(lengths.len() > 40, "{lengths:?}");
}

/// A row that nothing shows any more is taken out; a row without a clause is no decision.
#[test]
fn every_difference_is_shown_by_an_input_that_is_kept() {
    std::panic::set_hook(Box::new(|_| {}));
    let kept = corpus::read(&corpus::path("differential")).unwrap();
    let shown: BTreeSet<_> = kept.iter().filter_map(|data| difference(data)).collect();
    let _ = std::panic::take_hook();
    let listed: BTreeSet<_> = differences().keys().cloned().collect();
    assert_eq!(shown, listed);
    for (name, decision) in differences() {
        let cites =
            decision.contains("[MQTT-") || decision.contains("[MQTT 5.0") || decision.contains("[MQTT 3.1.1");
        assert!(cites, "{name}: `{decision}` names no clause");
    }
}
