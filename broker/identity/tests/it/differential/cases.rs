//! Chains of every kind, from a seed.

use rcgen::KeyPair;

use super::der::{
    Draft, ECDSA_SHA256, Extension, boolean, extension, integer, name, name_of, oid, sequence, time, tlv,
};
use super::policies::policies;
use super::webs::{cross_signing, key_identifier, loops, name_form, same_name};

/// When the chains are judged.
pub const NOW: i64 = 1_700_000_000;
pub(super) const YEAR: i64 = 31_536_000;
pub const CN: &str = "2.5.4.3";
pub(super) const O: &str = "2.5.4.10";
const EMAIL: &str = "1.2.840.113549.1.9.1";

pub(super) const BASIC_CONSTRAINTS: &str = "2.5.29.19";
const KEY_USAGE: &str = "2.5.29.15";
const EXTENDED_KEY_USAGE: &str = "2.5.29.37";
const ALTERNATIVE_NAME: &str = "2.5.29.17";
const NAME_CONSTRAINTS: &str = "2.5.29.30";
pub(super) const SUBJECT_KEY_ID: &str = "2.5.29.14";
pub(super) const AUTHORITY_KEY_ID: &str = "2.5.29.35";

/// The same numbers for the same seed.
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

#[derive(Debug)]
pub struct Case {
    pub class: &'static str,
    /// What is particular about it, for whoever reads a failure.
    pub about: String,
    pub leaf: Vec<u8>,
    pub sent: Vec<Vec<u8>>,
    pub anchors: Vec<Vec<u8>>,
}

/// Drafts from the anchor down to the leaf.
pub(super) struct Chain {
    pub(super) drafts: Vec<Draft>,
    pub(super) about: Vec<String>,
}

/// Makes one case of a class.
type Maker = fn(&mut Random, &[KeyPair]) -> Case;

pub const CLASSES: &[(&str, Maker)] = &[
    ("plain", plain),
    ("name-constraints", name_constraints),
    ("path-length", path_length),
    ("key-usage", key_usage),
    ("extended-key-usage", extended_key_usage),
    ("critical-extension", critical_extension),
    ("policies", policies),
    ("malformed", malformed),
    ("duplicated-extension", duplicated_extension),
    ("signature", signature),
    ("validity", validity),
    ("version", version),
    ("cross-signing", cross_signing),
    ("loop", loops),
    ("same-name", same_name),
    ("key-identifier", key_identifier),
    ("name-form", name_form),
];

fn subject(level: usize, depth: usize) -> Vec<u8> {
    match level {
        0 => name(&[(O, "Acme"), (CN, "root")]),
        level if level == depth + 1 => name(&[(O, "Acme"), (CN, "device-7")]),
        level => name(&[(O, "Acme"), (CN, &format!("CA {level}"))]),
    }
}

pub(super) fn ca_constraints(limit: Option<u32>) -> Extension {
    let limit = limit.map(integer).unwrap_or_default();
    extension(BASIC_CONSTRAINTS, true, sequence(&[&boolean(true), &limit]))
}

fn usage(bits: u16) -> Extension {
    let bytes = bits.to_be_bytes();
    let content = match (bytes[0], bytes[1]) {
        (first, 0) => vec![first.trailing_zeros().min(7) as u8, first],
        (first, second) => vec![second.trailing_zeros() as u8, first, second],
    };
    extension(KEY_USAGE, true, tlv(0x03, &content))
}

impl Chain {
    pub(super) fn new(random: &mut Random, depth: usize) -> Self {
        let valid = (NOW - YEAR - random.below(1000) as i64, NOW + YEAR);
        let drafts = (0..depth + 2)
            .map(|level| {
                let above = level.saturating_sub(1);
                let (name, issuer) = (subject(level, depth), subject(above, depth));
                let draft = Draft::new(name, level, issuer, above, valid);
                if level <= depth { draft.with(ca_constraints(None)) } else { draft }
            })
            .collect();
        Self { drafts, about: vec![format!("depth {depth}")] }
    }

    pub(super) fn leaf(&mut self) -> &mut Draft {
        self.drafts.last_mut().unwrap()
    }

    pub(super) fn note(&mut self, what: impl Into<String>) {
        self.about.push(what.into());
    }

    pub(super) fn case(self, class: &'static str, keys: &[KeyPair]) -> Case {
        let mut ders: Vec<_> = self.drafts.iter().map(|draft| draft.sign(keys)).collect();
        let leaf = ders.pop().unwrap();
        let anchor = ders.remove(0);
        Case { class, about: self.about.join(", "), leaf, sent: ders, anchors: vec![anchor] }
    }
}

fn plain(random: &mut Random, keys: &[KeyPair]) -> Case {
    let depth = random.below(8);
    let mut chain = Chain::new(random, depth);
    if random.one_in(3) {
        chain.leaf().extensions.push(usage(0x8000));
        chain.leaf().extensions.push(usages(&[CLIENT]));
    }
    if depth > 0 && random.one_in(6) {
        // Trust the nearest CA instead of the root, and do not send the rest.
        chain.drafts.drain(..depth);
        chain.note("anchor is an intermediate");
    } else if depth > 0 && random.one_in(6) {
        chain.drafts.remove(1 + random.below(depth));
        chain.note("one is missing");
    }
    let mut case = chain.case("plain", keys);
    if random.one_in(3) {
        case.sent.reverse();
    }
    case
}

const DNS_BASES: &[&str] = &["example.com", ".example.com", "com", "device.example.com", "example.org", ""];
const DNS_NAMES: &[&str] = &[
    "example.com",
    "a.example.com",
    "A.EXAMPLE.com",
    "a.b.example.com",
    "notexample.com",
    "example.org",
    "x",
];
const MAIL_BASES: &[&str] = &["example.com", ".example.com", "a@example.com", "b@example.com"];
const MAIL_NAMES: &[&str] =
    &["a@example.com", "a@EXAMPLE.com", "b@x.example.com", "a@example.org", "A@example.com", "plain"];
const URI_BASES: &[&str] = &["example.com", ".example.com", "host.example.com"];
const URI_NAMES: &[&str] = &[
    "http://example.com/x",
    "http://host.example.com:8080/",
    "http://a@host.example.com/",
    "urn:dev:7",
    "http://127.0.0.1/",
    "coap://example.org",
    "mailto:a@example.com",
];
const NETS: &[&[u8]] = &[
    &[10, 0, 0, 0, 255, 0, 0, 0],
    &[10, 1, 0, 0, 255, 255, 0, 0],
    &[0, 0, 0, 0, 0, 0, 0, 0],
    &[192, 0, 2, 0, 255, 255, 255, 0],
    &[
        0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0,
    ],
];
const ADDRESSES: &[&[u8]] = &[
    &[10, 0, 0, 1],
    &[10, 1, 2, 3],
    &[192, 0, 2, 7],
    &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
];

fn base(random: &mut Random, form: u8) -> (Vec<u8>, String) {
    match form {
        1 => text(0x81, random.pick(MAIL_BASES)),
        2 => text(0x82, random.pick(DNS_BASES)),
        4 => {
            let names: &[&[(&str, &str)]] =
                &[&[(O, "Acme")], &[(O, "ACME ")], &[(O, "Other")], &[(CN, "device-7")], &[]];
            let name_parts = random.pick(names);
            (tlv(0xa4, &name(name_parts)), format!("directory {name_parts:?}"))
        }
        6 => text(0x86, random.pick(URI_BASES)),
        7 => {
            let net = random.pick(NETS);
            (tlv(0x87, net), format!("net {net:?}"))
        }
        _ => (tlv(0x88, &[0x2a, 3, 4]), "registered id".into()),
    }
}

fn alternative(random: &mut Random, form: u8) -> (Vec<u8>, String) {
    match form {
        1 => text(0x81, random.pick(MAIL_NAMES)),
        2 => text(0x82, random.pick(DNS_NAMES)),
        4 => {
            let names: &[&[(&str, &str)]] = &[&[(O, "Acme"), (CN, "x")], &[(O, "Other")], &[(O, "acme")]];
            let parts = random.pick(names);
            (tlv(0xa4, &name(parts)), format!("directory {parts:?}"))
        }
        6 => text(0x86, random.pick(URI_NAMES)),
        7 => {
            let address = random.pick(ADDRESSES);
            (tlv(0x87, address), format!("address {address:?}"))
        }
        _ => (tlv(0x88, &[0x2a, 3, 5]), "registered id".into()),
    }
}

fn text(tag: u8, text: &str) -> (Vec<u8>, String) {
    (tlv(tag, text.as_bytes()), format!("{tag:#x} {text:?}"))
}

fn constraints(random: &mut Random, about: &mut Vec<String>) -> Vec<u8> {
    let mut parts = Vec::new();
    let kinds = 1 + random.below(3);
    for (tag, bit) in [(0xa0, 1), (0xa1, 2)] {
        if kinds & bit == 0 {
            continue;
        }
        let mut trees = Vec::new();
        for _ in 0..1 + random.below(2) {
            let form = random.pick(&[1, 2, 2, 4, 6, 7, 8]);
            let (tree, what) = base(random, form);
            about.push(format!("{} {what}", if tag == 0xa0 { "permitted" } else { "excluded" }));
            trees.extend(tlv(0x30, &tree));
        }
        parts.extend(tlv(tag, &trees));
    }
    tlv(0x30, &parts)
}

fn name_constraints(random: &mut Random, keys: &[KeyPair]) -> Case {
    let depth = random.below(3);
    let mut chain = Chain::new(random, depth);
    let mut about = Vec::new();
    let level = random.below(depth + 1);
    let value = constraints(random, &mut about);
    chain.drafts[level].extensions.push(extension(NAME_CONSTRAINTS, !random.one_in(8), value));
    let mut names = Vec::new();
    for _ in 0..random.below(3) {
        let form = random.pick(&[1, 2, 2, 4, 6, 7, 8]);
        let (name, what) = alternative(random, form);
        about.push(format!("name {what}"));
        names.extend(name);
    }
    if !names.is_empty() {
        chain.leaf().extensions.push(extension(ALTERNATIVE_NAME, false, tlv(0x30, &names)));
    }
    if random.one_in(5) {
        let common = random.pick(&["a.example.com", "example.org", "device-7"]);
        chain.leaf().subject = name(&[(O, "Acme"), (CN, common)]);
        about.push(format!("CN {common}"));
    }
    if random.one_in(8) {
        let mail = random.pick(MAIL_NAMES);
        chain.leaf().subject = name_of(0x16, &[(O, "Acme"), (EMAIL, mail)]);
        about.push(format!("subject mailbox {mail}"));
    }
    chain.about.extend(about);
    chain.case("name-constraints", keys)
}

fn path_length(random: &mut Random, keys: &[KeyPair]) -> Case {
    let depth = random.below(5);
    let mut chain = Chain::new(random, depth);
    for level in 0..=depth {
        if random.one_in(2) {
            let limit = random.below(4) as u32;
            chain.drafts[level].extensions[0] = ca_constraints(Some(limit));
            chain.note(format!("CA {level}: at most {limit}"));
        }
    }
    if depth > 1 && random.one_in(3) {
        // The second CA's name is that of the first: a self-issued certificate, of another key.
        chain.drafts[2].subject = chain.drafts[1].subject.clone();
        chain.drafts[2].issuer = chain.drafts[1].subject.clone();
        chain.drafts[3].issuer = chain.drafts[2].subject.clone();
        chain.note("self-issued");
    }
    if random.one_in(10) {
        let value = match random.below(3) {
            0 => sequence(&[&boolean(true), &tlv(0x02, &[0xff])]),
            1 => sequence(&[&boolean(false), &integer(1)]),
            _ => sequence(&[&integer(1)]),
        };
        let level = random.below(depth + 2);
        let critical = chain.drafts[level].extensions.iter().position(|known| known.oid == BASIC_CONSTRAINTS);
        let odd = extension(BASIC_CONSTRAINTS, true, value);
        match critical {
            Some(at) => chain.drafts[level].extensions[at] = odd,
            None => chain.drafts[level].extensions.push(odd),
        }
        chain.note(format!("odd constraints at {level}"));
    }
    chain.case("path-length", keys)
}

fn key_usage(random: &mut Random, keys: &[KeyPair]) -> Case {
    let depth = random.below(3);
    let mut chain = Chain::new(random, depth);
    for level in 1..depth + 2 {
        let bits = match random.below(4) {
            0 => continue,
            1 => 0x0400,
            2 => 0x8000,
            _ => ((random.next() as u16) & 0xff80).max(0x0080),
        };
        chain.drafts[level].extensions.push(usage(bits));
        chain.note(format!("{level}: {bits:#06x}"));
    }
    chain.case("key-usage", keys)
}

const CLIENT: &str = "1.3.6.1.5.5.7.3.2";

pub(super) fn usages(oids: &[&str]) -> Extension {
    let list: Vec<u8> = oids.iter().flat_map(|usage| oid(usage)).collect();
    extension(EXTENDED_KEY_USAGE, false, tlv(0x30, &list))
}

fn extended_key_usage(random: &mut Random, keys: &[KeyPair]) -> Case {
    let depth = random.below(3);
    let mut chain = Chain::new(random, depth);
    for level in 0..depth + 2 {
        let list: &[&str] = match random.below(7) {
            0 | 1 => continue,
            2 => &[CLIENT],
            3 => &["1.3.6.1.5.5.7.3.1"],
            4 => &["2.5.29.37.0"],
            5 => &["1.3.6.1.5.5.7.3.1", CLIENT],
            _ => &["1.3.6.1.4.1.99999.7"],
        };
        let mut added = usages(list);
        if random.one_in(3) {
            added.critical = Some(boolean(true));
        }
        chain.drafts[level].extensions.push(added);
        chain.note(format!("{level}: {list:?}"));
    }
    chain.case("extended-key-usage", keys)
}

fn critical_extension(random: &mut Random, keys: &[KeyPair]) -> Case {
    let depth = random.below(3);
    let mut chain = Chain::new(random, depth);
    let level = random.below(depth + 2);
    let (id, value): (&'static str, Vec<u8>) = match random.below(8) {
        0 | 1 => ("1.3.6.1.4.1.99999.1", vec![5, 0]),
        2 => ("2.5.29.32", sequence(&[&sequence(&[&oid("2.5.29.32.0")])])),
        3 => ("2.5.29.36", sequence(&[&tlv(0x80, &[0])])),
        4 => ("2.5.29.54", integer(0)),
        5 => (
            "1.3.6.1.5.5.7.1.1",
            sequence(&[&sequence(&[&oid("1.3.6.1.5.5.7.48.1"), &tlv(0x86, b"http://x/")])]),
        ),
        6 => (SUBJECT_KEY_ID, tlv(0x04, &[7; 20])),
        _ => ("2.5.29.31", sequence(&[&sequence(&[&tlv(0xa0, &tlv(0xa0, &tlv(0x86, b"http://x/c.crl")))])])),
    };
    let critical = !random.one_in(4);
    chain.drafts[level].extensions.push(extension(id, critical, value));
    chain.note(format!("{id} at {level}, {}", if critical { "critical" } else { "not critical" }));
    chain.case("critical-extension", keys)
}

fn malformed(random: &mut Random, keys: &[KeyPair]) -> Case {
    let depth = random.below(2);
    let mut chain = Chain::new(random, depth);
    let level = 1 + random.below(depth + 1);
    let draft = &mut chain.drafts[level];
    let what = match random.below(22) {
        0 => {
            draft.version = Some(tlv(0xa0, &integer(3)));
            "version 4"
        }
        1 => {
            draft.serial = tlv(0x02, &[0, 1]);
            "serial number with a spare zero"
        }
        2 => {
            draft.serial = tlv(0x02, &[]);
            "empty serial number"
        }
        3 => {
            draft.serial = tlv(0x02, &[0x81]);
            "negative serial number"
        }
        4 => {
            draft.serial = tlv(0x02, &[0x11; 30]);
            "long serial number"
        }
        5 => {
            draft.not_before = tlv(0x17, b"2301010000Z");
            "time without seconds"
        }
        6 => {
            draft.not_before = tlv(0x17, b"230101000000+0000");
            "time with an offset"
        }
        7 => {
            draft.not_before = tlv(0x18, b"20230101000000Z");
            "GeneralizedTime before 2050"
        }
        8 => {
            draft.not_before = tlv(0x18, b"20230101000000.5Z");
            "fraction of a second"
        }
        9 => {
            draft.not_before = tlv(0x17, b"230231000000Z");
            "the 31st of February"
        }
        10 => {
            draft.extensions.push(Extension {
                oid: "1.3.6.1.4.1.99999.1",
                critical: Some(boolean(false)),
                value: vec![5, 0],
            });
            "a default written down"
        }
        11 => {
            draft.extensions.push(Extension {
                oid: "1.3.6.1.4.1.99999.1",
                critical: Some(tlv(0x01, &[1])),
                value: vec![5, 0],
            });
            "TRUE that is not 0xff"
        }
        12 => {
            draft.raw_extensions = Some(tlv(0xa3, &tlv(0x30, &[])));
            "an empty list of extensions"
        }
        13 => {
            draft.extensions.push(extension(KEY_USAGE, true, tlv(0x03, &[8, 0x80])));
            "eight unused bits"
        }
        14 => {
            draft.extensions.push(extension(KEY_USAGE, true, tlv(0x04, &[0x80])));
            "key usage of another type"
        }
        15 => {
            draft.extensions.push(extension(EXTENDED_KEY_USAGE, false, tlv(0x30, &[])));
            "no extended key usage"
        }
        16 => {
            draft.extensions.push(extension(ALTERNATIVE_NAME, false, tlv(0x30, &[])));
            "no alternative name"
        }
        17 => {
            draft.extensions.push(extension(ALTERNATIVE_NAME, false, tlv(0x30, &[0x82, 0x05, b'a'])));
            "alternative name beyond its end"
        }
        18 => {
            draft.subject = tlv(0x30, &tlv(0x31, &[]));
            "an empty RDN"
        }
        19 => {
            draft.extensions.push(extension(AUTHORITY_KEY_ID, false, vec![0x30, 0x03, 0x80]));
            "broken authority key identifier"
        }
        20 => {
            draft.extensions.push(extension(NAME_CONSTRAINTS, true, tlv(0x30, &[])));
            "empty name constraints"
        }
        _ => {
            draft.issuer = tlv(0x30, &[]);
            "no issuer"
        }
    };
    chain.note(format!("{what} at {level}"));
    let mut case = chain.case("malformed", keys);
    if random.one_in(8) {
        case.leaf.push(0);
        case.about.push_str(", a byte after the leaf");
    } else if random.one_in(8) {
        // The outer length in a longer form than needed.
        let length = case.leaf.len() - 4;
        let mut longer = vec![0x30, 0x83, 0, (length >> 8) as u8, length as u8];
        longer.extend(&case.leaf[4..]);
        case.leaf = longer;
        case.about.push_str(", a long form of length");
    }
    case
}

fn duplicated_extension(random: &mut Random, keys: &[KeyPair]) -> Case {
    let depth = random.below(3);
    let mut chain = Chain::new(random, depth);
    let level = random.below(depth + 2);
    let added = match random.below(5) {
        0 => usage(if level <= depth { 0x0400 } else { 0x8000 }),
        1 => usages(&[CLIENT]),
        2 => extension(SUBJECT_KEY_ID, false, tlv(0x04, &[7; 20])),
        3 => extension(ALTERNATIVE_NAME, false, sequence(&[&tlv(0x82, b"a.example.com")])),
        _ => extension("1.3.6.1.4.1.99999.1", false, vec![5, 0]),
    };
    let id = added.oid;
    chain.drafts[level].extensions.extend([added.clone(), added]);
    chain.note(format!("{id} twice at {level}"));
    chain.case("duplicated-extension", keys)
}

fn signature(random: &mut Random, keys: &[KeyPair]) -> Case {
    let depth = random.below(3);
    let mut chain = Chain::new(random, depth);
    let level = 1 + random.below(depth + 1);
    let other = sequence(&[&oid("1.2.840.10045.4.3.3")]);
    let draft = &mut chain.drafts[level];
    let what = match random.below(8) {
        0 => {
            draft.spoil = true;
            "one bit of the signature"
        }
        1 => {
            draft.signer = 9;
            "another key"
        }
        2 => {
            draft.outer_algorithm = other;
            "algorithms differ"
        }
        3 => {
            (draft.inner_algorithm, draft.outer_algorithm) = (other.clone(), other);
            "another digest"
        }
        4 => {
            let algorithm = sequence(&[&oid("1.2.840.10045.4.1")]);
            (draft.inner_algorithm, draft.outer_algorithm) = (algorithm.clone(), algorithm);
            "SHA-1"
        }
        5 => {
            let algorithm = sequence(&[&oid("1.2.840.113549.1.1.11"), &[5, 0]]);
            (draft.inner_algorithm, draft.outer_algorithm) = (algorithm.clone(), algorithm);
            "an algorithm of other keys"
        }
        6 => {
            let algorithm = sequence(&[&oid(ECDSA_SHA256), &[5, 0]]);
            (draft.inner_algorithm, draft.outer_algorithm) = (algorithm.clone(), algorithm);
            "parameters where there are none"
        }
        _ => "nothing",
    };
    chain.note(format!("{what} at {level}"));
    chain.case("signature", keys)
}

fn validity(random: &mut Random, keys: &[KeyPair]) -> Case {
    let depth = random.below(3);
    let mut chain = Chain::new(random, depth);
    let level = random.below(depth + 2);
    let edge = random.pick(&[-YEAR, -1, 0, 1, YEAR]);
    let draft = &mut chain.drafts[level];
    let what = if random.one_in(2) {
        draft.not_before = time(NOW + edge);
        "begins"
    } else {
        draft.not_before = time(NOW - 2 * YEAR);
        draft.not_after = time(NOW + edge);
        "ends"
    };
    if random.one_in(6) {
        chain.leaf().not_after = time(2_600_000_000);
        chain.note("ends after 2050");
    }
    chain.note(format!("{level} {what} at {edge}"));
    chain.case("validity", keys)
}

fn version(random: &mut Random, keys: &[KeyPair]) -> Case {
    let depth = random.below(3);
    let mut chain = Chain::new(random, depth);
    let level = random.below(depth + 2);
    let draft = &mut chain.drafts[level];
    let what = match random.below(6) {
        0 | 1 => {
            draft.version = None;
            draft.extensions.clear();
            "version 1"
        }
        2 => {
            draft.version = Some(tlv(0xa0, &integer(1)));
            draft.extensions.clear();
            "version 2"
        }
        3 => {
            draft.version = None;
            draft.extensions.push(usages(&[CLIENT]));
            "version 1 with extensions"
        }
        4 => {
            draft.version = Some(tlv(0xa0, &integer(0)));
            draft.extensions.clear();
            "version 1 written down"
        }
        _ => {
            draft.unique_ids = tlv(0x82, &[0, 7]);
            "version 3 with a unique identifier"
        }
    };
    chain.note(format!("{what} at {level}"));
    chain.case("version", keys)
}
