//! Paths of version 3 certificates.

use std::sync::Arc;
use std::time::Duration;

use mqgate_identity::evaluation::{
    Anchor, AnchorError, AnchorLint, PathDepth, PathLint, PathPolicy, TrustAnchors, evaluate,
};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixSeconds;
use rcgen::{
    BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyUsagePurpose,
    NameConstraints, SanType, date_time_ymd,
};

use crate::pki::{Authority, NOW, anchors, ca_params, named};

const NONE: &[Vec<u8>] = &[];

fn reason(leaf: &[u8], chain: &[Vec<u8>], trusted: &TrustAnchors) -> Reason {
    judged(leaf, chain, trusted, &PathPolicy::default(), NOW)
}

fn judged(
    leaf: &[u8],
    chain: &[Vec<u8>],
    trusted: &TrustAnchors,
    policy: &PathPolicy,
    now: UnixSeconds,
) -> Reason {
    match evaluate(leaf, chain, trusted, policy, now) {
        Ok(_) => Reason::Ok,
        Err(rejection) => {
            assert!(!rejection.detail.is_empty());
            rejection.reason
        }
    }
}

#[test]
fn a_leaf_of_an_anchor_is_accepted_and_the_anchor_named() {
    let (root, other) = (Authority::root("root"), Authority::root("other"));
    let trusted = anchors(&[("other", &other.der), ("factory", &root.der)]);
    let path = evaluate(&root.leaf("device-7"), NONE, &trusted, &PathPolicy::default(), NOW).unwrap();
    assert_eq!((&*path.anchor.name, path.depth, path.lints), ("factory", 0, vec![]));

    assert_eq!(reason(&Authority::root("stranger").leaf("x"), NONE, &trusted), Reason::CertUnknownCa);
    assert_eq!(reason(&root.leaf("x"), NONE, &TrustAnchors::default()), Reason::CertUnknownCa);
    // The same name, another key.
    assert_eq!(reason(&Authority::root("root").leaf("x"), NONE, &trusted), Reason::CertBadSignature);
    let selfsigned = named("x").self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    assert_eq!(reason(selfsigned.der(), NONE, &trusted), Reason::CertUnknownCa);
}

#[test]
fn anchors_of_the_same_name_are_all_tried() {
    let (old, new) = (Authority::root("root"), Authority::root("root"));
    for order in [[("old", &old), ("new", &new)], [("new", &new), ("old", &old)]] {
        let trusted = anchors(&order.map(|(name, authority)| (name, &*authority.der)));
        for (name, authority) in order {
            let path = evaluate(&authority.leaf("x"), NONE, &trusted, &PathPolicy::default(), NOW).unwrap();
            assert_eq!(&*path.anchor.name, name);
        }
    }
}

#[test]
fn intermediates_are_found_in_any_order_and_missed_by_name() {
    let root = Authority::root("root");
    let first = root.intermediate("first");
    let second = first.intermediate("second");
    let leaf = second.leaf("x");
    let trusted = anchors(&[("root", &root.der)]);
    let policy = PathPolicy::default();
    for chain in [
        vec![second.der.clone(), first.der.clone()],
        vec![first.der.clone(), second.der.clone()],
        vec![root.der.clone(), first.der.clone(), first.der.clone(), second.der.clone()],
    ] {
        assert_eq!(evaluate(&leaf, &chain, &trusted, &policy, NOW).unwrap().depth, 2);
    }
    for chain in [vec![], vec![second.der.clone()], vec![first.der.clone()]] {
        let rejection = evaluate(&leaf, &chain, &trusted, &policy, NOW).unwrap_err();
        assert_eq!(rejection.reason, Reason::CertUnknownCa);
        assert!(rejection.detail.contains("missing_intermediate"), "{}", rejection.detail);
    }
    // An intermediate may be trusted itself.
    let partial = anchors(&[("second", &second.der)]);
    assert_eq!(&*evaluate(&leaf, NONE, &partial, &policy, NOW).unwrap().anchor.name, "second");
    // One that is not a CA leads nowhere.
    let fake_key = rcgen::KeyPair::generate().unwrap();
    let fake =
        named("fake").signed_by(&fake_key, &rcgen::Issuer::from_params(&named("root"), &fake_key)).unwrap();
    let below =
        named("x").signed_by(&fake_key, &rcgen::Issuer::from_params(&named("fake"), &fake_key)).unwrap();
    assert_ne!(reason(below.der(), &[fake.der().to_vec()], &trusted), Reason::Ok);
    let end_entity = Authority::root("root").intermediate_from(named("no-ca"));
    let trusted_parent = root.intermediate_from(named("no-ca"));
    assert_eq!(
        reason(&trusted_parent.leaf("x"), std::slice::from_ref(&trusted_parent.der), &trusted),
        Reason::CertPurpose
    );
    assert_ne!(reason(&end_entity.leaf("x"), std::slice::from_ref(&end_entity.der), &trusted), Reason::Ok);
}

#[test]
fn depth_is_limited_by_policy_and_by_the_cas() {
    let root = Authority::root("root");
    let trusted = anchors(&[("root", &root.der)]);
    let mut chain = vec![root.intermediate("ca-1")];
    for number in 2..=7 {
        let next = chain[chain.len() - 1].intermediate(&format!("ca-{number}"));
        chain.push(next);
    }
    let ders: Vec<_> = chain.iter().map(|ca| ca.der.clone()).collect();
    for (depth, expected) in [(1, Reason::Ok), (6, Reason::Ok), (7, Reason::CertDepth)] {
        assert_eq!(reason(&chain[depth - 1].leaf("x"), &ders[..depth], &trusted), expected, "{depth}");
    }
    for (limit, expected) in [(0, Reason::CertDepth), (1, Reason::CertDepth), (2, Reason::Ok)] {
        let policy = PathPolicy { max_depth: PathDepth::new(limit).unwrap(), ..PathPolicy::default() };
        assert_eq!(judged(&chain[1].leaf("x"), &ders, &trusted, &policy, NOW), expected, "{limit}");
    }
    let error = PathDepth::new(7).unwrap_err().to_string();
    assert!(
        error.starts_with("a depth of 7 intermediates is not supported: the most is 6, because"),
        "{error}"
    );

    let mut params = ca_params("narrow");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let narrow = Authority::root_from(params.clone());
    let below = narrow.intermediate("below");
    assert_eq!(
        reason(&below.leaf("x"), std::slice::from_ref(&below.der), &anchors(&[("narrow", &narrow.der)])),
        Reason::CertDepth
    );
    let narrow = root.intermediate_from(params);
    let below = narrow.intermediate("below");
    assert_eq!(reason(&below.leaf("x"), &[below.der.clone(), narrow.der], &trusted), Reason::CertDepth);
}

#[test]
fn sizes_are_limited() {
    let root = Authority::root("root");
    let trusted = anchors(&[("root", &root.der)]);
    let leaf = root.leaf("x");
    assert_eq!(reason(&leaf, &vec![root.der.clone(); 9], &trusted), Reason::Ok);
    assert_eq!(reason(&leaf, &vec![root.der.clone(); 10], &trusted), Reason::CertTooLarge);
    assert_eq!(reason(&leaf, &[vec![0; 64 * 1024]], &trusted), Reason::CertTooLarge);
    assert_eq!(reason(&vec![0x30; 70_000], NONE, &trusted), Reason::CertTooLarge);
    assert_eq!(reason(b"", NONE, &trusted), Reason::CertMalformed);
    // Rubbish among the intermediates does no harm.
    assert_eq!(reason(&leaf, &[vec![], vec![0x30, 0x80], leaf.clone()], &trusted), Reason::Ok);
}

#[test]
fn what_a_certificate_is_for() {
    let root = Authority::root("root");
    let trusted = anchors(&[("root", &root.der)]);
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    use KeyUsagePurpose::{DigitalSignature, KeyAgreement, KeyEncipherment};
    for (extended, usage, expected) in [
        (vec![], vec![], Reason::Ok),
        (vec![ClientAuth], vec![DigitalSignature], Reason::Ok),
        (vec![ServerAuth, ClientAuth], vec![], Reason::Ok),
        (vec![ServerAuth], vec![], Reason::CertPurpose),
        (vec![], vec![KeyAgreement], Reason::Ok),
        (vec![], vec![KeyEncipherment], Reason::CertPurpose),
    ] {
        let mut params = named("x");
        params.extended_key_usages = extended.clone();
        params.key_usages = usage.clone();
        assert_eq!(reason(&root.sign(params), NONE, &trusted), expected, "{extended:?} {usage:?}");
    }
    // CAs cannot be clients, trusted or not.
    assert_eq!(reason(&root.intermediate("ca").der, NONE, &trusted), Reason::CertCaAsLeaf);
    assert_eq!(reason(&root.der, NONE, &trusted), Reason::CertCaAsLeaf);
    let mut params = named("x");
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(true);
    params.custom_extensions.push(extension);
    assert_eq!(reason(&root.sign(params), NONE, &trusted), Reason::CertMalformed);
    // A CA whose key usage does not allow signing certificates.
    let mut params = ca_params("no-sign");
    params.key_usages = vec![KeyUsagePurpose::CrlSign];
    let weak = root.intermediate_from(params);
    assert_eq!(reason(&weak.leaf("x"), std::slice::from_ref(&weak.der), &trusted), Reason::CertPurpose);
}

#[test]
fn name_constraints_hold() {
    let mut params = ca_params("limited");
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("devices.example".into())],
        excluded_subtrees: vec![],
    });
    let limited = Authority::root_from(params);
    let trusted = anchors(&[("limited", &limited.der)]);
    for (name, expected) in
        [("a.devices.example", Reason::Ok), ("a.other.example", Reason::CertNameConstraint)]
    {
        let mut params = named("x");
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        assert_eq!(reason(&limited.sign(params), NONE, &trusted), expected, "{name}");
    }
}

#[test]
fn validity_and_skew() {
    let root = Authority::root("root");
    let trusted = anchors(&[("root", &root.der)]);
    let mut params = named("x");
    params.not_before = date_time_ymd(2024, 1, 1);
    params.not_after = date_time_ymd(2025, 1, 1);
    let leaf = root.sign(params);
    let (from, to) = (1_704_067_200, 1_735_689_600);
    let lenient = PathPolicy { expiry_skew: Duration::from_secs(60), ..PathPolicy::default() };
    let strict = PathPolicy { clock_skew: Duration::ZERO, ..PathPolicy::default() };
    let usual = PathPolicy::default();
    for (policy, now, expected) in [
        (&usual, from - 301, Reason::CertNotYetValid),
        (&usual, from - 300, Reason::Ok),
        (&strict, from - 1, Reason::CertNotYetValid),
        (&strict, from, Reason::Ok),
        (&usual, to, Reason::Ok),
        (&usual, to + 1, Reason::CertExpired),
        (&lenient, to + 60, Reason::Ok),
        (&lenient, to + 61, Reason::CertExpired),
        (&usual, i64::MIN, Reason::CertNotYetValid),
        (&usual, i64::MAX, Reason::CertExpired),
    ] {
        assert_eq!(judged(&leaf, NONE, &trusted, policy, UnixSeconds(now)), expected, "{now}");
    }
    let early = evaluate(&leaf, NONE, &trusted, &usual, UnixSeconds(from - 10)).unwrap();
    assert_eq!((early.lints, early.not_after), (vec![PathLint::NotYetValidWithinSkew], UnixSeconds(to)));

    // The end of the path is that of its shortest certificate; intermediates and anchors expire too.
    let mut params = ca_params("short");
    params.not_after = date_time_ymd(2024, 6, 1);
    let short = root.intermediate_from(params.clone());
    let chain = [short.der.clone()];
    let path = evaluate(&short.leaf("x"), &chain, &trusted, &usual, UnixSeconds(from)).unwrap();
    assert_eq!(path.not_after, UnixSeconds(1_717_200_000));
    assert_eq!(judged(&short.leaf("x"), &chain, &trusted, &usual, UnixSeconds(to)), Reason::CertExpired);
    let short = Authority::root_from(params);
    let expired = anchors(&[("short", &short.der)]);
    assert_eq!(judged(&short.leaf("x"), NONE, &expired, &usual, UnixSeconds(from)), Reason::Ok);
    assert_eq!(judged(&short.leaf("x"), NONE, &expired, &usual, UnixSeconds(to)), Reason::CertExpired);
    assert_eq!(expired.warnings(&usual, UnixSeconds(to))[0].lint, AnchorLint::Expired);
}

/// One flipped bit anywhere makes a certificate that is refused.
#[test]
fn every_flipped_bit_is_refused() {
    let root = Authority::root("root");
    let trusted = anchors(&[("root", &root.der)]);
    let leaf = root.leaf("device-7");
    for at in 0..leaf.len() {
        for bit in 0..8 {
            let mut changed = leaf.clone();
            changed[at] ^= 1 << bit;
            assert_ne!(reason(&changed, NONE, &trusted), Reason::Ok, "byte {at} bit {bit}");
        }
    }
}

#[test]
fn anchors_must_be_cas() {
    let root = Authority::root("root");
    let load = |der: Vec<u8>| TrustAnchors::new(vec![Anchor { name: "ca".into(), der: Arc::from(der) }]);
    let mut params = named("leaf");
    params.is_ca = IsCa::ExplicitNoCa;
    let error = load(root.sign(params)).unwrap_err();
    assert!(matches!(error, AnchorError::NotACa { .. }), "{error}");
    assert!(matches!(load(b"no".to_vec()), Err(AnchorError::Malformed { .. })));
    let unmarked = load(root.leaf("unmarked")).unwrap();
    assert_eq!(unmarked.warnings(&PathPolicy::default(), NOW)[0].lint, AnchorLint::NoBasicConstraints);
    let twice = anchors(&[("a", &root.der), ("b", &root.der)]);
    assert_eq!(twice.warnings(&PathPolicy::default(), NOW)[0].lint, AnchorLint::Duplicate);
    let path = evaluate(&root.leaf("x"), NONE, &twice, &PathPolicy::default(), NOW).unwrap();
    assert_eq!(&*path.anchor.name, "a");
}
