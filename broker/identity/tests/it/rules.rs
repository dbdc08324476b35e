//! The settings of a path, each at the edge where it decides.

use std::sync::Arc;

use mqgate_identity::certificate::CertificateFacts;
use mqgate_identity::evaluation::{
    AbsentUsage, Anchor, AnchorLint, CaAsLeaf, PathPolicy, Step, Strictness, TrustAnchors, UsageRule,
    explain, lint,
};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixSeconds;
use rcgen::KeyPair;

use crate::differential::cases::{CN, NOW};
use crate::differential::der::{
    Draft, Extension, boolean, extension, integer, name, name_of, oid, sequence, tlv,
};

const MOMENT: UnixSeconds = UnixSeconds(NOW);
const DAY: i64 = 86_400;
const VALID: (i64, i64) = (NOW - DAY, NOW + DAY);
const CLIENT: &str = "1.3.6.1.5.5.7.3.2";
const SERVER: &str = "1.3.6.1.5.5.7.3.1";
const ANY: &str = "2.5.29.37.0";
const OWN: &str = "1.3.6.1.4.1.99999.7";

fn keys() -> Vec<KeyPair> {
    (0..10).map(|_| KeyPair::generate().unwrap()).collect()
}

fn ca() -> Extension {
    extension("2.5.29.19", true, sequence(&[&boolean(true)]))
}

fn usages(oids: &[&str]) -> Extension {
    extension("2.5.29.37", false, tlv(0x30, &oids.iter().flat_map(|usage| oid(usage)).collect::<Vec<_>>()))
}

fn root() -> Draft {
    Draft::new(name(&[(CN, "root")]), 0, name(&[(CN, "root")]), 0, VALID).with(ca())
}

fn below() -> Draft {
    Draft::new(name(&[(CN, "below")]), 1, name(&[(CN, "root")]), 0, VALID).with(ca())
}

fn leaf() -> Draft {
    Draft::new(name(&[(CN, "device-7")]), 2, name(&[(CN, "below")]), 1, VALID)
}

fn judge(drafts: [&Draft; 3], keys: &[KeyPair], policy: &PathPolicy) -> Reason {
    let [root, below, leaf] = drafts.map(|draft| draft.sign(keys));
    let anchors = TrustAnchors::new(vec![Anchor { name: "root".into(), der: Arc::from(root) }]);
    let anchors = match anchors {
        Ok(anchors) => anchors,
        Err(error) => panic!("{error}"),
    };
    let explanation = explain(&[leaf, below], &anchors, policy, MOMENT);
    match explanation.verdict {
        Ok(_) => Reason::Ok,
        Err(rejection) => {
            assert_eq!(explanation.refused_at, Some(Step::of(rejection.reason)));
            rejection.reason
        }
    }
}

#[test]
fn usages_are_asked_of_the_client_and_of_cas_that_have_them() {
    let keys = keys();
    let rule = |oids: &[&str], absent| PathPolicy {
        usage: UsageRule { one_of: oids.iter().map(|oid| (*oid).to_owned()).collect(), absent },
        ..PathPolicy::default()
    };
    let (allow, deny) = (AbsentUsage::Allow, AbsentUsage::Deny);
    let none: Option<&[&str]> = None;
    for (policy, of_root, of_ca, of_leaf, expected) in [
        (rule(&[CLIENT], allow), none, none, none, Reason::Ok),
        (rule(&[CLIENT], deny), none, none, none, Reason::CertPurpose),
        (rule(&[CLIENT], deny), none, none, Some(&[CLIENT][..]), Reason::Ok),
        (rule(&[CLIENT], allow), none, none, Some(&[SERVER]), Reason::CertPurpose),
        (rule(&[CLIENT], allow), none, none, Some(&[SERVER, ANY]), Reason::Ok),
        (rule(&[CLIENT], allow), none, Some(&[SERVER]), Some(&[CLIENT]), Reason::CertPurpose),
        (rule(&[CLIENT], allow), none, Some(&[ANY]), Some(&[CLIENT]), Reason::Ok),
        (rule(&[CLIENT], allow), Some(&[SERVER]), none, Some(&[CLIENT]), Reason::CertPurpose),
        (rule(&[OWN], allow), none, none, Some(&[CLIENT]), Reason::CertPurpose),
        (rule(&[OWN], deny), none, none, Some(&[CLIENT, OWN]), Reason::Ok),
        (rule(&[CLIENT, OWN], deny), none, none, Some(&[OWN]), Reason::Ok),
        (rule(&[], deny), Some(&[SERVER]), Some(&[OWN]), Some(&[SERVER]), Reason::Ok),
        (rule(&[], deny), none, none, none, Reason::Ok),
    ] {
        let with = |draft: Draft, list: Option<&[&str]>| match list {
            Some(list) => draft.with(usages(list)),
            None => draft,
        };
        let drafts = [&with(root(), of_root), &with(below(), of_ca), &with(leaf(), of_leaf)];
        assert_eq!(judge(drafts, &keys, &policy), expected, "{policy:?} {of_root:?} {of_ca:?} {of_leaf:?}");
    }
}

#[test]
fn a_ca_may_be_a_client_if_the_policy_says_so() {
    let keys = keys();
    let policy = PathPolicy { ca_as_leaf: CaAsLeaf::Allow, ..PathPolicy::default() };
    let leaf = leaf().with(ca());
    assert_eq!(judge([&root(), &below(), &leaf], &keys, &PathPolicy::default()), Reason::CertCaAsLeaf);
    assert_eq!(judge([&root(), &below(), &leaf], &keys, &policy), Reason::Ok);
    // RFC 5280, 4.2.1.9: the last certificate is not counted.
    let narrow = Draft {
        extensions: vec![extension("2.5.29.19", true, sequence(&[&boolean(true), &integer(0)]))],
        ..below()
    };
    assert_eq!(judge([&root(), &narrow, &leaf], &keys, &policy), Reason::Ok);
}

fn well_formed(draft: Draft, own: u8, above: u8) -> Draft {
    draft.with(extension("2.5.29.14", false, tlv(0x04, &[own; 20]))).with(extension(
        "2.5.29.35",
        false,
        sequence(&[&tlv(0x80, &[above; 20])]),
    ))
}

#[test]
fn the_strict_form_is_asked_for_only_when_configured() {
    let keys = keys();
    let sign = extension("2.5.29.15", true, tlv(0x03, &[2, 0x04]));
    let root = || well_formed(root(), 0, 0).with(sign.clone());
    let below = || well_formed(below(), 1, 0).with(sign.clone());
    let leaf = || well_formed(leaf(), 2, 1);
    let without = |draft: Draft, id: &str| Draft {
        extensions: draft.extensions.iter().filter(|extension| extension.oid != id).cloned().collect(),
        ..draft
    };
    let strict = PathPolicy { strictness: Strictness::Strict, ..PathPolicy::default() };
    assert_eq!(judge([&root(), &below(), &leaf()], &keys, &strict), Reason::Ok);
    let plain_constraints = extension("2.5.29.19", false, sequence(&[&boolean(true)]));
    let name_constraints = sequence(&[&tlv(0xa1, &sequence(&[&tlv(0x82, b"x.example")]))]);
    let dotted = sequence(&[&tlv(0xa0, &sequence(&[&tlv(0x82, b".example")]))]);
    let odd = [
        (
            "an identifier of the issuer that is not its key's",
            [
                root(),
                below(),
                without(leaf(), "2.5.29.35").with(extension("2.5.29.35", false, sequence(&[]))),
            ],
        ),
        (
            "a DNS constraint that begins with a dot",
            [root(), below().with(extension("2.5.29.30", true, dotted)), leaf()],
        ),
        ("no identifier of the issuer", [root(), below(), without(leaf(), "2.5.29.35")]),
        ("no identifier of its own", [root(), without(below(), "2.5.29.14"), leaf()]),
        ("no key usage", [root(), without(below(), "2.5.29.15"), leaf()]),
        ("no key usage of the root", [without(root(), "2.5.29.15"), below(), leaf()]),
        (
            "constraints that are not critical",
            [root(), without(below(), "2.5.29.19").with(plain_constraints), leaf()],
        ),
        (
            "name constraints that are not critical",
            [root(), below().with(extension("2.5.29.30", false, name_constraints)), leaf()],
        ),
        ("serial number zero", [root(), below(), Draft { serial: integer(0), ..leaf() }]),
        ("negative serial number", [root(), below(), Draft { serial: tlv(0x02, &[0x81]), ..leaf() }]),
        ("long serial number", [root(), below(), Draft { serial: tlv(0x02, &[1; 21]), ..leaf() }]),
        (
            "a date in the other type",
            [root(), below(), Draft { not_before: tlv(0x18, b"20230101000000Z"), ..leaf() }],
        ),
        (
            "a default written down",
            [
                root(),
                below(),
                leaf().with(Extension { oid: "1.2.3.4", critical: Some(boolean(false)), value: vec![5, 0] }),
            ],
        ),
        (
            "a client that may sign certificates",
            [root(), below(), leaf().with(extension("2.5.29.15", true, tlv(0x03, &[2, 0x84])))],
        ),
        (
            "no subject, and alternative names that are not critical",
            [
                root(),
                below(),
                Draft {
                    subject: tlv(0x30, &[]),
                    ..leaf().with(extension("2.5.29.17", false, sequence(&[&tlv(0x82, b"x.example")])))
                },
            ],
        ),
        ("unique identifiers", [root(), below(), Draft { unique_ids: tlv(0x82, &[0, 1]), ..leaf() }]),
    ];
    for (what, [root, below, leaf]) in &odd {
        assert_eq!(judge([root, below, leaf], &keys, &PathPolicy::default()), Reason::Ok, "{what}");
        let refused = judge([root, below, leaf], &keys, &strict);
        assert_eq!(refused, Reason::CertMalformed, "{what}");
    }
}

/// What is refused under every policy although each part of it can be read.
#[test]
fn constraints_that_cannot_be_applied_refuse() {
    let keys = keys();
    let constrained = |value: Vec<u8>| below().with(extension("2.5.29.30", true, value));
    let permitted = |base: Vec<u8>| sequence(&[&tlv(0xa0, &tlv(0x30, &base))]);
    let with_name = |entry: Vec<u8>| leaf().with(extension("2.5.29.17", false, sequence(&[&entry])));
    let policy = PathPolicy::default();
    for (what, value, leaf, expected) in [
        ("nothing at all", tlv(0x30, &[]), leaf(), Reason::CertUnknownCa),
        ("an empty list", sequence(&[&tlv(0xa0, &[])]), leaf(), Reason::CertUnknownCa),
        (
            "a minimum",
            sequence(&[&tlv(0xa0, &sequence(&[&tlv(0x82, b"x.example"), &tlv(0x80, &[1])]))]),
            leaf(),
            Reason::CertUnknownCa,
        ),
        (
            "a mask with a hole",
            permitted(tlv(0x87, &[10, 0, 0, 0, 255, 0, 255, 0])),
            leaf(),
            Reason::CertUnknownCa,
        ),
        ("half an address", permitted(tlv(0x87, &[10, 0, 0])), leaf(), Reason::CertUnknownCa),
        ("a wildcard", permitted(tlv(0x82, b"*.example")), leaf(), Reason::CertUnknownCa),
        ("other names, and none of them", permitted(tlv(0x88, &[0x2a, 3])), leaf(), Reason::Ok),
        (
            "other names, and one of them",
            permitted(tlv(0x88, &[0x2a, 3])),
            with_name(tlv(0x88, &[0x2a, 3])),
            Reason::CertNameConstraint,
        ),
        (
            "a name that is no DNS name",
            permitted(tlv(0x82, b"")),
            with_name(tlv(0x82, b"a b.example")),
            Reason::CertNameConstraint,
        ),
        (
            "a name that does not decode",
            permitted(tlv(0x82, b"example")),
            with_name(tlv(0x82, b"\xff.example")),
            Reason::CertNameConstraint,
        ),
        (
            "a wildcard that covers what is excluded",
            sequence(&[&tlv(0xa1, &tlv(0x30, &tlv(0x82, b"a.example")))]),
            with_name(tlv(0x82, b"*.example")),
            Reason::CertNameConstraint,
        ),
        (
            "a wildcard that covers what is excluded, with a final dot",
            sequence(&[&tlv(0xa1, &tlv(0x30, &tlv(0x82, b"a.example")))]),
            with_name(tlv(0x82, b"*.example.")),
            Reason::CertNameConstraint,
        ),
        ("a mailbox", permitted(tlv(0x81, b"example")), with_name(tlv(0x81, b"a.b+c@Example")), Reason::Ok),
        (
            "a mailbox with a string in quotation marks",
            permitted(tlv(0x81, b"example")),
            with_name(tlv(0x81, b"\"a@b\"@example")),
            Reason::Ok,
        ),
        (
            "what is no mailbox",
            permitted(tlv(0x81, b"example")),
            with_name(tlv(0x81, b"a@b@example")),
            Reason::CertNameConstraint,
        ),
        (
            "a constraint that is no mailbox",
            permitted(tlv(0x81, b"a@b@example")),
            leaf(),
            Reason::CertUnknownCa,
        ),
        (
            "a mailbox that is excluded, in quotation marks",
            sequence(&[&tlv(0xa1, &tlv(0x30, &tlv(0x81, b"a@example")))]),
            with_name(tlv(0x81, b"\"\\a\"@example")),
            Reason::CertNameConstraint,
        ),
        (
            "a URI without a host",
            permitted(tlv(0x86, b"example")),
            with_name(tlv(0x86, b"urn:dev:7")),
            Reason::CertNameConstraint,
        ),
        (
            "the host of a URI, below a domain",
            permitted(tlv(0x86, b".example")),
            with_name(tlv(0x86, b"coaps://a.example:5684/x")),
            Reason::Ok,
        ),
        (
            "the directory name in the subject",
            sequence(&[&tlv(0xa1, &tlv(0x30, &tlv(0xa4, &name(&[(CN, "DEVICE-7")]))))]),
            leaf(),
            Reason::CertNameConstraint,
        ),
        (
            "a string that is not decoded",
            sequence(&[&tlv(0xa1, &tlv(0x30, &tlv(0xa4, &name(&[(CN, "other")]))))]),
            Draft { subject: name_of(0x14, &[(CN, "device-7")]), ..leaf() },
            Reason::CertNameConstraint,
        ),
    ] {
        assert_eq!(judge([&root(), &constrained(value), &leaf], &keys, &policy), expected, "{what}");
    }
}

/// Work is bounded, whatever a client sends: many CAs of one name that all certify each other, and many names under
/// many constraints.
#[test]
fn chains_that_would_take_for_ever_are_refused() {
    let keys = keys();
    let ca_name = name(&[(CN, "below")]);
    let sent: Vec<_> = (1..10)
        .map(|key| {
            let signer = if key == 9 { 1 } else { key + 1 };
            Draft::new(ca_name.clone(), key, ca_name.clone(), signer, VALID).with(ca()).sign(&keys)
        })
        .collect();
    let anchors = (0..32)
        .map(|at| Anchor { name: format!("{at}").into(), der: Arc::from(root().sign(&keys)) })
        .collect();
    let anchors = TrustAnchors::new(anchors).unwrap();
    let chain: Vec<_> = std::iter::once(leaf().sign(&keys)).chain(sent).collect();
    let refused = explain(&chain, &anchors, &PathPolicy::default(), MOMENT).verdict.unwrap_err();
    let expected = [Reason::CertTooLarge, Reason::CertUnknownCa, Reason::CertBadSignature];
    assert!(expected.contains(&refused.reason), "{refused}");

    let bases: Vec<u8> =
        (0..1500).flat_map(|at| tlv(0x30, &tlv(0x82, format!("x{at}.example").as_bytes()))).collect();
    let names: Vec<u8> = (0..250).flat_map(|at| tlv(0x82, format!("y{at}.example").as_bytes())).collect();
    let bomb = below().with(extension("2.5.29.30", true, sequence(&[&tlv(0xa1, &bases)])));
    let leaf = leaf().with(extension("2.5.29.17", false, tlv(0x30, &names)));
    assert_eq!(judge([&root(), &bomb, &leaf], &keys, &PathPolicy::default()), Reason::CertTooLarge);
}

#[test]
fn cas_are_looked_at_before_clients_are() {
    let keys = keys();
    let found = |draft: &Draft, now: i64| -> Vec<&'static str> {
        let facts = CertificateFacts::parse(&draft.sign(&keys)).unwrap();
        let lints = lint(&facts, &PathPolicy::default(), UnixSeconds(now));
        lints
            .into_iter()
            .map(|(lint, detail)| {
                assert!(!detail.is_empty());
                lint.as_str()
            })
            .collect()
    };
    let sha1 = sequence(&[&oid("1.2.840.10045.4.1")]);
    assert_eq!(found(&root(), NOW), Vec::<&str>::new());
    assert_eq!(found(&root(), NOW + 2 * DAY), ["expired"]);
    assert_eq!(found(&root(), NOW - 2 * DAY), ["not_yet_valid"]);
    assert_eq!(found(&Draft { version: None, extensions: Vec::new(), ..root() }, NOW), ["version_1"]);
    assert_eq!(found(&Draft { extensions: Vec::new(), ..root() }, NOW), ["no_basic_constraints"]);
    let weak = Draft { inner_algorithm: sha1.clone(), outer_algorithm: sha1, ..root() };
    assert_eq!(found(&weak, NOW), ["weak_signature"]);
    assert_eq!(found(&root().with(usages(&[SERVER])), NOW), ["unusable"]);
    let unknown = extension("1.3.6.1.4.1.99999.1", true, vec![5, 0]);
    assert_eq!(found(&root().with(unknown), NOW), ["unusable"]);
    assert_eq!(AnchorLint::ServerChain.as_str(), "server_chain");
}
