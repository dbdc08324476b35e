//! Chains whose CAs demand certificate policies, map them, and forbid the one that stands for any.

use rcgen::KeyPair;

use super::cases::{Case, Chain, Random};
use super::der::{Extension, extension, integer, oid, sequence, tlv};

const POLICIES: &[&str] =
    &["1.3.6.1.4.1.99999.1", "1.3.6.1.4.1.99999.2", "1.3.6.1.4.1.99999.3", "2.5.29.32.0"];

fn list(policies: &[&str]) -> Extension {
    let list: Vec<u8> = policies.iter().flat_map(|policy| sequence(&[&oid(policy)])).collect();
    extension("2.5.29.32", false, tlv(0x30, &list))
}

fn mappings(pairs: &[(&str, &str)]) -> Extension {
    let list: Vec<u8> = pairs.iter().flat_map(|(from, to)| sequence(&[&oid(from), &oid(to)])).collect();
    extension("2.5.29.33", true, tlv(0x30, &list))
}

/// Content of an INTEGER with another tag.
fn number(tag: u8, value: usize) -> Vec<u8> {
    tlv(tag, &integer(value as u32)[2..])
}

pub(super) fn policies(random: &mut Random, keys: &[KeyPair]) -> Case {
    let depth = random.below(4);
    let mut chain = Chain::new(random, depth);
    for level in 1..depth + 2 {
        if !random.one_in(6) {
            let chosen: Vec<_> = POLICIES.iter().copied().filter(|_| random.one_in(2)).collect();
            if !chosen.is_empty() {
                chain.note(format!("{level}: {chosen:?}"));
                chain.drafts[level].extensions.push(list(&chosen));
            }
        }
        if level <= depth && random.one_in(3) {
            let pairs: Vec<_> = (0..1 + random.below(2))
                .map(|_| (random.pick(&POLICIES[..3]), random.pick(&POLICIES[..3])))
                .collect();
            let pairs = if random.one_in(12) { vec![(POLICIES[0], POLICIES[3])] } else { pairs };
            chain.note(format!("{level}: maps {pairs:?}"));
            chain.drafts[level].extensions.push(mappings(&pairs));
        }
        if random.one_in(2) {
            let explicit = random.below(depth + 2);
            let mut fields = number(0x80, explicit);
            chain.note(format!("{level}: explicit after {explicit}"));
            if random.one_in(3) {
                let mapping = random.below(2);
                fields.extend(number(0x81, mapping));
                chain.note(format!("{level}: no mapping after {mapping}"));
            }
            chain.drafts[level].extensions.push(extension("2.5.29.36", true, tlv(0x30, &fields)));
        }
        if random.one_in(4) {
            let any = random.below(2);
            chain.note(format!("{level}: no any-policy after {any}"));
            chain.drafts[level].extensions.push(extension("2.5.29.54", true, integer(any as u32)));
        }
    }
    chain.case("policies", keys)
}
