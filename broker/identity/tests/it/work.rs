//! What strangers may ask for is bounded: names, constraints and lists that are made to be looked at for long. None of
//! these tests measures time; with work that grows as the product of what was sent they do not end in minutes.

use mqgate_identity::evaluation::{ListError, PathPolicy, RevocationList, evaluate};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixSeconds;
use rcgen::KeyPair;

use crate::differential::cases::{CN, NOW};
use crate::differential::der::{Draft, boolean, extension, integer, name, oid, sequence, time, tlv};
use crate::pki::{Authority, anchors};

const VALID: (i64, i64) = (NOW - 86_400, NOW + 86_400);
const ALTERNATIVE_NAME: &str = "2.5.29.17";
const NAME_CONSTRAINTS: &str = "2.5.29.30";

fn long_tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    let from = length.iter().position(|&byte| byte != 0).unwrap_or(3);
    match content.len() {
        0..0x1_0000 => tlv(tag, content),
        _ => [&[tag, 0x80 | (4 - from) as u8], &length[from..], content].concat(),
    }
}

/// A leaf below three CAs with three certificates each, of which the uppermost constrain names: as many paths as fit
/// into what may be sent.
fn web(names: &[u8], constraints: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let keys: Vec<_> = (0..5).map(|_| KeyPair::generate().unwrap()).collect();
    let ca = |level: usize| name(&[(CN, ["leaf", "a", "b", "c", "nobody"][level])]);
    let is_ca = extension("2.5.29.19", true, sequence(&[&boolean(true)]));
    let leaf = Draft::new(ca(0), 0, ca(1), 1, VALID)
        .with(extension(ALTERNATIVE_NAME, false, tlv(0x30, names)))
        .sign(&keys);
    let mut sent = Vec::new();
    for level in 1..4 {
        for number in 0..3 {
            let mut draft = Draft::new(ca(level), level, ca(level + 1), level + 1, VALID).with(is_ca.clone());
            draft.serial = integer(100 + number);
            if level == 3 && number == 0 {
                let value = sequence(&[&tlv(0xa0, constraints)]);
                draft = draft.with(extension(NAME_CONSTRAINTS, true, value));
            }
            sent.push(draft.sign(&keys));
        }
    }
    (leaf, sent)
}

fn bases(base: &[u8], count: usize) -> Vec<u8> {
    tlv(0x30, base).repeat(count)
}

#[test]
fn names_and_constraints_without_measure_cost_little() {
    let root = Authority::root("root");
    let trusted = anchors(&[("root", &root.der)]);
    let long = "x".repeat(28_000);
    let mailbox = tlv(0x81, format!("a@{long}").as_bytes());
    let uri = tlv(0x86, format!("urn://{long}").as_bytes());
    let short = tlv(0x82, b"a").repeat(256);
    for (what, names, constraints) in [
        ("mailboxes", &mailbox, bases(&tlv(0x81, b"a"), 5_500)),
        ("URIs", &uri, bases(&tlv(0x86, b"a"), 5_500)),
        ("another form", &short, bases(&tlv(0x86, b"a"), 9_000)),
    ] {
        let (leaf, sent) = web(names, &constraints);
        let judged = evaluate(&leaf, &sent, &trusted, &PathPolicy::default(), UnixSeconds(NOW));
        let reason = judged.unwrap_err().reason;
        assert!(matches!(reason, Reason::CertUnknownCa | Reason::CertNameConstraint), "{what}: {reason}");
    }
}

#[test]
fn a_list_of_extensions_without_measure_is_refused() {
    let algorithm = sequence(&[&oid("1.2.840.10045.4.3.2")]);
    let list = |count: u32| {
        let extensions: Vec<u8> = (0..count)
            .flat_map(|number| {
                let digits =
                    [number >> 21 & 0x7f | 0x80, number >> 14 & 0x7f | 0x80, number >> 7 & 0x7f | 0x80];
                let [a, b, c] = digits.map(|digit| digit as u8);
                let id = tlv(0x06, &[0x2b, 0x81, a, b, c, (number & 0x7f) as u8]);
                sequence(&[&id, &tlv(0x04, &[])])
            })
            .collect();
        let tbs = long_tlv(
            0x30,
            &[
                integer(1),
                algorithm.clone(),
                name(&[(CN, "CA")]),
                time(NOW),
                long_tlv(0xa0, &long_tlv(0x30, &extensions)),
            ]
            .concat(),
        );
        long_tlv(0x30, &[tbs, algorithm.clone(), tlv(0x03, &[0, 1])].concat())
    };
    let parse = |count| RevocationList::parse(&list(count), 10 << 20).map(drop);
    assert_eq!(parse(64), Ok(()));
    for count in [65, 500_000] {
        assert!(matches!(parse(count), Err(ListError::Malformed(_))), "{count}");
    }
}
