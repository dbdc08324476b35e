//! The entry points of outside bytes, called with specimens that are nearly right: none of them panics.

use std::sync::OnceLock;

use rcgen::KeyPair;

use crate::differential::cases::{CLASSES, Random};
use crate::entry::{evaluation, facts, revocation_list};
use crate::lists;

fn specimens() -> &'static [Vec<Vec<u8>>] {
    static SPECIMENS: OnceLock<Vec<Vec<Vec<u8>>>> = OnceLock::new();
    SPECIMENS.get_or_init(|| {
        let keys: Vec<_> = (0..10).map(|_| KeyPair::generate().unwrap()).collect();
        let mut random = Random::new(1);
        (0..CLASSES.len() * 4)
            .map(|number| {
                let case = CLASSES[number % CLASSES.len()].1(&mut random, &keys);
                case.anchors.into_iter().take(1).chain([case.leaf]).chain(case.sent).collect()
            })
            .collect()
    })
}

/// Changes bytes, cuts, repeats, and puts pieces of one into another.
fn mutate(random: &mut Random, data: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..1 + random.below(6) {
        if data.is_empty() {
            return;
        }
        let at = random.below(data.len());
        match random.below(8) {
            0 | 1 => data[at] ^= 1 << random.below(8),
            2 => data[at] = random.next() as u8,
            3 => data[at] = [0, 0x7f, 0x80, 0xff, 0x30, 0x31, 0xa0, 0x82][random.below(8)],
            4 => data.truncate(at),
            5 => data.insert(at, random.next() as u8),
            6 => {
                data.remove(at);
            }
            _ if !other.is_empty() => {
                let from = random.below(other.len());
                let piece = &other[from..(from + 1 + random.below(16)).min(other.len())];
                let end = (at + piece.len()).min(data.len());
                data.splice(at..end, piece.iter().copied());
            }
            _ => {}
        }
    }
}

fn run(rounds: usize, seed: u64) {
    let mut random = Random::new(seed);
    let specimens = specimens();
    let list = lists::specimen();
    for _ in 0..rounds {
        let chain = &specimens[random.below(specimens.len())];
        let other = &specimens[random.below(specimens.len())][0];
        let mut one = chain[random.below(chain.len())].clone();
        mutate(&mut random, &mut one, other);
        facts(&one);

        let mut all = vec![random.next() as u8];
        for (at, der) in chain.iter().enumerate() {
            let mut der = der.clone();
            if random.one_in(1 + chain.len() - at) {
                mutate(&mut random, &mut der, other);
            }
            all.extend((der.len() as u16).to_be_bytes());
            all.extend(der);
        }
        if random.one_in(8) {
            mutate(&mut random, &mut all, other);
        }
        evaluation(&all);

        let mut changed = list.clone();
        mutate(&mut random, &mut changed, other);
        revocation_list(&changed);
    }
}

#[test]
fn nothing_panics_on_what_is_nearly_right() {
    run(4_000, 11);
}

#[test]
#[ignore = "full: 400,000 rounds"]
fn nothing_panics_on_much_that_is_nearly_right() {
    run(400_000, 12);
}
