//! Chains that are no chains: several ways up, circles, CAs of one name, identifiers and names that mislead.

use rcgen::{KeyPair, PublicKeyData as _};

use super::cases::{
    AUTHORITY_KEY_ID, BASIC_CONSTRAINTS, CN, Case, Chain, NOW, O, Random, SUBJECT_KEY_ID, YEAR,
    ca_constraints, usages,
};
use super::der::{Draft, extension, name, name_of, sequence, time, tlv};

/// The leaf's CA has certificates of several roots; only some of the ways up hold.
pub fn cross_signing(random: &mut Random, keys: &[KeyPair]) -> Case {
    let mut chain = Chain::new(random, 1);
    let valid = (NOW - YEAR, NOW + YEAR);
    let mut sent = Vec::new();
    let mut about = vec![String::new()];
    let mut anchors = Vec::new();
    for root in 0..2 + random.below(2) {
        let key = 5 + root;
        let root_name = name(&[(O, "Acme"), (CN, &format!("root {root}"))]);
        let mut anchor =
            Draft::new(root_name.clone(), key, root_name.clone(), key, valid).with(ca_constraints(None));
        let mut cross =
            Draft::new(chain.drafts[1].subject.clone(), 1, root_name, key, valid).with(ca_constraints(None));
        match random.below(6) {
            0 => cross.not_after = time(NOW - 10),
            1 => cross.extensions.push(usages(&["1.3.6.1.5.5.7.3.1"])),
            2 => cross.spoil = true,
            3 => anchor.not_after = time(NOW - 10),
            4 => cross.extensions[0] = extension(BASIC_CONSTRAINTS, true, sequence(&[])),
            _ => about.push(format!("root {root} holds")),
        }
        sent.push(cross.sign(keys));
        if !random.one_in(4) {
            anchors.push(anchor.sign(keys));
        }
    }
    chain.about.extend(about);
    let mut case = chain.case("cross-signing", keys);
    case.sent = sent;
    if random.one_in(2) {
        case.sent.reverse();
    }
    if anchors.is_empty() {
        case.about.push_str(", no anchor but another");
    } else {
        case.anchors = anchors;
    }
    case
}

/// CAs that certify each other in a circle, with or without a way out.
pub fn loops(random: &mut Random, keys: &[KeyPair]) -> Case {
    let valid = (NOW - YEAR, NOW + YEAR);
    let count = 2 + random.below(4);
    let ca = |at: usize| name(&[(O, "Acme"), (CN, &format!("circle {at}"))]);
    let mut sent = Vec::new();
    for at in 0..count {
        let next = (at + 1) % count;
        sent.push(Draft::new(ca(at), at, ca(next), next, valid).with(ca_constraints(None)).sign(keys));
    }
    let leaf = Draft::new(name(&[(CN, "device-7")]), 8, ca(0), 0, valid).sign(keys);
    let root = name(&[(CN, "root")]);
    let mut anchor =
        Draft::new(root.clone(), 7, root.clone(), 7, valid).with(ca_constraints(None)).sign(keys);
    let way_out = random.below(3);
    let at = random.below(count);
    match way_out {
        0 => sent.push(Draft::new(ca(at), at, root, 7, valid).with(ca_constraints(None)).sign(keys)),
        1 => anchor = Draft::new(ca(at), at, ca(at), at, valid).with(ca_constraints(None)).sign(keys),
        _ => {}
    }
    Case {
        class: "loop",
        about: format!("{count} in a circle, way out {way_out} at {at}"),
        leaf,
        sent,
        anchors: vec![anchor],
    }
}

/// Several CAs of one name, each with its key.
pub fn same_name(random: &mut Random, keys: &[KeyPair]) -> Case {
    let valid = (NOW - YEAR, NOW + YEAR);
    let ca = name(&[(O, "Acme"), (CN, "The CA")]);
    let count = 2 + random.below(3);
    let with_ids = random.one_in(2);
    let mut anchors = Vec::new();
    for key in 0..count {
        let mut draft = Draft::new(ca.clone(), key, ca.clone(), key, valid).with(ca_constraints(None));
        if with_ids {
            draft.extensions.push(extension(SUBJECT_KEY_ID, false, tlv(0x04, &key_id(&keys[key]))));
        }
        if random.one_in(4) {
            draft.not_after = time(NOW - 10);
        }
        anchors.push(draft.sign(keys));
    }
    let signer = random.below(count + 1);
    let mut leaf = Draft::new(name(&[(CN, "device-7")]), 8, ca, signer, valid);
    if with_ids {
        let id = tlv(0x80, &key_id(&keys[signer]));
        leaf.extensions.push(extension(AUTHORITY_KEY_ID, false, tlv(0x30, &id)));
    }
    let about = format!("{count} CAs, signed by {signer}, identifiers {with_ids}");
    Case { class: "same-name", about, leaf: leaf.sign(keys), sent: Vec::new(), anchors }
}

fn key_id(key: &KeyPair) -> Vec<u8> {
    mqgate_identity::certificate::CertificateFingerprint::of(&key.subject_public_key_info()).0[..20].to_vec()
}

pub fn key_identifier(random: &mut Random, keys: &[KeyPair]) -> Case {
    let depth = random.below(3);
    let mut chain = Chain::new(random, depth);
    for level in 0..depth + 2 {
        let draft = &mut chain.drafts[level];
        if random.one_in(2) {
            let own = key_id(&keys[draft.key]);
            draft.extensions.push(extension(SUBJECT_KEY_ID, false, tlv(0x04, &own)));
        }
        let about = match random.below(6) {
            0 | 1 => {
                let id = tlv(0x80, &key_id(&keys[draft.signer]));
                draft.extensions.push(extension(AUTHORITY_KEY_ID, false, tlv(0x30, &id)));
                "right"
            }
            2 => {
                draft.extensions.push(extension(AUTHORITY_KEY_ID, false, tlv(0x30, &tlv(0x80, &[7; 20]))));
                "wrong"
            }
            3 => {
                draft.extensions.push(extension(AUTHORITY_KEY_ID, false, tlv(0x30, &[])));
                "empty"
            }
            _ => continue,
        };
        chain.note(format!("{about} identifier at {level}"));
    }
    chain.case("key-identifier", keys)
}

/// The same name, written in another way.
pub fn name_form(random: &mut Random, keys: &[KeyPair]) -> Case {
    let mut chain = Chain::new(random, 1);
    let (what, issuer) = match random.below(6) {
        0 => ("upper case", name(&[(O, "ACME"), (CN, "ca 1")])),
        1 => ("spaces", name(&[(O, " Acme"), (CN, "CA  1 ")])),
        2 => ("PrintableString", name_of(0x13, &[(O, "Acme"), (CN, "CA 1")])),
        3 => ("other order", name(&[(CN, "CA 1"), (O, "Acme")])),
        4 => ("one more", name(&[(O, "Acme"), (CN, "CA 1"), (CN, "CA 1")])),
        _ => ("the same", name(&[(O, "Acme"), (CN, "CA 1")])),
    };
    chain.leaf().issuer = issuer;
    chain.note(what);
    chain.case("name-form", keys)
}
