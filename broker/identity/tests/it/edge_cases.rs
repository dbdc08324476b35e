//! The edge cases of docs/registry-edge-cases.md that a certificate and a set of CAs decide by themselves. Each test has
//! the name of its case.

use std::time::Duration;

use mqgate_identity::certificate::CertificateFacts;
use mqgate_identity::evaluation::{PathLint, PathPolicy, TrustAnchors, evaluate};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::common_name;
use mqgate_identity::time::UnixSeconds;
use rcgen::{CustomExtension, DnType, DnValue, Issuer, KeyPair, date_time_ymd};

use crate::pki::{Authority, NOW, anchors, ca_params, named};

const NONE: &[Vec<u8>] = &[];
/// Attributes are kept by their type: with the type in digits, there can be two of one.
const COMMON_NAME: &[u64] = &[2, 5, 4, 3];

fn anchor_of(leaf: &[u8], chain: &[Vec<u8>], trusted: &TrustAnchors) -> Result<String, Reason> {
    let path = evaluate(leaf, chain, trusted, &PathPolicy::default(), NOW);
    path.map(|path| path.anchor.name.to_string()).map_err(|rejection| rejection.reason)
}

#[test]
fn clock_skew_device_cert_a_little_in_the_future() {
    let root = Authority::root("root");
    let trusted = anchors(&[("root", &root.der)]);
    let mut params = named("x");
    params.not_before = date_time_ymd(2024, 1, 1);
    params.not_after = date_time_ymd(2025, 1, 1);
    let leaf = root.sign(params);
    let (from, to) = (1_704_067_200, 1_735_689_600);
    let at = |policy: &PathPolicy, now| {
        evaluate(&leaf, NONE, &trusted, policy, UnixSeconds(now)).map_err(|rejection| rejection.reason)
    };
    let usual = PathPolicy::default();
    assert_eq!(at(&usual, from - 300).unwrap().lints, [PathLint::NotYetValidWithinSkew], "at the limit");
    assert_eq!(at(&usual, from - 301).unwrap_err(), Reason::CertNotYetValid);
    // At the end there is none unless it is asked for.
    assert!(at(&usual, to).is_ok());
    assert_eq!(at(&usual, to + 1).unwrap_err(), Reason::CertExpired);
    let lenient = PathPolicy { expiry_skew: Duration::from_secs(60), ..PathPolicy::default() };
    assert!(at(&lenient, to + 60).is_ok());
    assert_eq!(at(&lenient, to + 61).unwrap_err(), Reason::CertExpired);
}

#[test]
fn two_cas_with_the_same_subject_dn_in_both_orders() {
    let (old, new) = (Authority::root("root"), Authority::root("root"));
    let (of_old, of_new) = (old.leaf("x"), new.leaf("x"));
    for order in [[("old", &old), ("new", &new)], [("new", &new), ("old", &old)]] {
        let trusted = anchors(&order.map(|(name, authority)| (name, &*authority.der)));
        assert_eq!(anchor_of(&of_old, NONE, &trusted).as_deref(), Ok("old"));
        assert_eq!(anchor_of(&of_new, NONE, &trusted).as_deref(), Ok("new"));
    }
    // Intermediates with one name and two keys, sent in either order.
    let root = Authority::root("above");
    let (one, two) = (root.intermediate("below"), root.intermediate("below"));
    let trusted = anchors(&[("above", &root.der)]);
    for chain in [vec![one.der.clone(), two.der.clone()], vec![two.der.clone(), one.der.clone()]] {
        assert_eq!(anchor_of(&one.leaf("x"), &chain, &trusted).as_deref(), Ok("above"));
        assert_eq!(anchor_of(&two.leaf("x"), &chain, &trusted).as_deref(), Ok("above"));
    }
}

#[test]
fn ca_renewed_with_the_same_key() {
    let key = KeyPair::generate().unwrap();
    let certified = |until: i32| {
        let mut params = ca_params("root");
        params.not_after = date_time_ymd(until, 1, 1);
        params.self_signed(&key).unwrap().der().to_vec()
    };
    let (old, new) = (certified(2030), certified(2040));
    let params = ca_params("root");
    let issuer = Issuer::from_params(&params, &key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = named("x").signed_by(&leaf_key, &issuer).unwrap();
    for trusted in [anchors(&[("old", &old)]), anchors(&[("new", &new)])] {
        assert!(anchor_of(leaf.der(), NONE, &trusted).is_ok(), "either of them will do");
    }
    for order in [[("old", &old), ("new", &new)], [("new", &new), ("old", &old)]] {
        let trusted = anchors(&order.map(|(name, der)| (name, &**der)));
        assert!(anchor_of(leaf.der(), NONE, &trusted).is_ok());
    }
}

#[test]
fn intermediate_missing_from_the_clients_chain() {
    let root = Authority::root("root");
    let between = root.intermediate("between");
    let leaf = between.leaf("x");
    let trusted = anchors(&[("root", &root.der)]);
    let missing = evaluate(&leaf, NONE, &trusted, &PathPolicy::default(), NOW).unwrap_err();
    assert_eq!(missing.reason, Reason::CertUnknownCa);
    assert!(missing.detail.starts_with("missing_intermediate"), "{}", missing.detail);
    assert!(missing.detail.contains("CN=between"), "it says which: {}", missing.detail);
    assert_eq!(anchor_of(&leaf, std::slice::from_ref(&between.der), &trusted).as_deref(), Ok("root"));
    // Registered beside the root, it need not be sent.
    let both = anchors(&[("root", &root.der), ("between", &between.der)]);
    assert_eq!(anchor_of(&leaf, NONE, &both).as_deref(), Ok("between"));
}

#[test]
fn trust_anchor_is_an_intermediate() {
    let root = Authority::root("root");
    let between = root.intermediate("between");
    let partial = anchors(&[("between", &between.der)]);
    assert_eq!(anchor_of(&between.leaf("x"), NONE, &partial).as_deref(), Ok("between"));
    // With the rest of the chain, too, which nobody trusts.
    let chain = [between.der.clone(), root.der.clone()];
    assert_eq!(anchor_of(&between.leaf("x"), &chain, &partial).as_deref(), Ok("between"));
    assert_eq!(anchor_of(&root.leaf("x"), NONE, &partial), Err(Reason::CertUnknownCa));
}

#[test]
fn unknown_critical_extension() {
    let root = Authority::root("root");
    let trusted = anchors(&[("root", &root.der)]);
    let with = |critical: bool| {
        let mut params = named("x");
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
        extension.set_criticality(critical);
        params.custom_extensions.push(extension);
        root.sign(params)
    };
    assert_eq!(anchor_of(&with(true), NONE, &trusted), Err(Reason::CertMalformed));
    assert_eq!(anchor_of(&with(false), NONE, &trusted).as_deref(), Ok("root"));
}

#[test]
fn no_cn_many_cns_nul_bidi_non_utf8() {
    let root = Authority::root("root");
    let texts = |params: rcgen::CertificateParams| -> Vec<Option<String>> {
        let facts = CertificateFacts::parse(&root.sign(params)).unwrap();
        let last = facts.subject.attributes.iter().rfind(|attribute| attribute.oid == "2.5.4.3");
        assert_eq!(common_name(&facts), last.and_then(|last| last.text.clone()), "the last one counts");
        let names = facts.subject.attributes.iter().filter(|attribute| attribute.oid == "2.5.4.3");
        names.map(|attribute| attribute.text.clone()).collect()
    };
    let one = |value: DnValue| {
        let mut params = named("");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, value);
        texts(params)
    };
    let mut nobody = named("");
    nobody.distinguished_name = rcgen::DistinguishedName::new();
    assert_eq!(texts(nobody), Vec::<Option<String>>::new());
    // All of them are there, in order: the last one is the most specific.
    let mut many = named("first");
    many.distinguished_name.push(DnType::CustomDnType(COMMON_NAME.to_vec()), "second");
    assert_eq!(texts(many), [Some("first".to_owned()), Some("second".to_owned())]);
    for misleading in ["a\0b", "a\u{1b}b", "a\u{7f}", "a\u{202e}b", "a\u{200b}b", "\u{feff}a", "a\u{85}b"] {
        assert_eq!(one(DnValue::Utf8String(misleading.to_owned())), [None], "{misleading:?}");
    }
    assert_eq!(one(DnValue::Utf8String("Gerät 7".to_owned())), [Some("Gerät 7".to_owned())]);
    // Not UTF-8 although it says so: the bytes of a name are searched and spoilt.
    let mut leaf = root.leaf("spoilt-name");
    let at = leaf.windows(11).position(|bytes| bytes == b"spoilt-name").unwrap();
    leaf[at] = 0xff;
    let facts = CertificateFacts::parse(&leaf).unwrap();
    let spoilt = facts.subject.attributes.iter().find(|attribute| attribute.oid == "2.5.4.3").unwrap();
    assert_eq!(spoilt.text, None);
}
