//! Revocation lists of every kind, written by hand.

use std::sync::Arc;
use std::time::Duration;

use mqgate_identity::certificate::CertificateFacts;
use mqgate_identity::evaluation::{
    Anchor, ListError, PathPolicy, RevocationList, RevocationLists, RevocationPolicy, RevocationScope,
    StaleLists, TrustAnchors, UnknownStatus, distribution_urls, evaluate,
};
use mqgate_identity::reason::Reason;
use mqgate_identity::time::UnixSeconds;
use rcgen::{KeyPair, SigningKey as _};

use crate::differential::cases::{CN, NOW};
use crate::differential::der::{
    Draft, ECDSA_SHA256, Extension, boolean, extension, integer, name, oid, sequence, time, tlv,
};

const MOMENT: UnixSeconds = UnixSeconds(NOW);
const DAY: i64 = 86_400;
const VALID: (i64, i64) = (NOW - DAY, NOW + DAY);
const IDP: &str = "2.5.29.28";

/// A list before it is signed.
struct ListDraft {
    version: Option<Vec<u8>>,
    issuer: Vec<u8>,
    this_update: i64,
    next_update: Option<i64>,
    number: u32,
    /// Serial numbers and entry extensions.
    entries: Vec<(Vec<u8>, Vec<Extension>)>,
    extensions: Vec<Extension>,
    outer: Vec<u8>,
}

fn encoded(extensions: &[Extension]) -> Vec<u8> {
    let list: Vec<u8> = extensions
        .iter()
        .flat_map(|extension| {
            let critical = extension.critical.clone().unwrap_or_default();
            sequence(&[&oid(extension.oid), &critical, &tlv(0x04, &extension.value)])
        })
        .collect();
    tlv(0x30, &list)
}

impl ListDraft {
    fn new(issuer: Vec<u8>, revoked: &[u32]) -> Self {
        Self {
            version: Some(integer(1)),
            issuer,
            this_update: NOW - 100,
            next_update: Some(NOW + 100),
            number: 7,
            entries: revoked.iter().map(|&serial| (integer(serial), Vec::new())).collect(),
            extensions: Vec::new(),
            outer: sequence(&[&oid(ECDSA_SHA256)]),
        }
    }

    fn with(mut self, extension: Extension) -> Self {
        self.extensions.push(extension);
        self
    }

    fn sign(&self, key: &KeyPair) -> Vec<u8> {
        let algorithm = sequence(&[&oid(ECDSA_SHA256)]);
        let entries: Vec<u8> = self
            .entries
            .iter()
            .flat_map(|(serial, extensions)| {
                let extensions = if extensions.is_empty() { Vec::new() } else { encoded(extensions) };
                sequence(&[serial, &time(NOW - 200), &extensions])
            })
            .collect();
        let entries = if entries.is_empty() { Vec::new() } else { tlv(0x30, &entries) };
        let mut extensions = self.extensions.clone();
        extensions.push(extension("2.5.29.20", false, integer(self.number)));
        let extensions = match &self.version {
            Some(_) => tlv(0xa0, &encoded(&extensions)),
            None => Vec::new(),
        };
        let tbs = sequence(&[
            &self.version.clone().unwrap_or_default(),
            &algorithm,
            &self.issuer,
            &time(self.this_update),
            &self.next_update.map(time).unwrap_or_default(),
            &entries,
            &extensions,
        ]);
        let mut signature = vec![0];
        signature.extend(key.sign(&tbs).unwrap());
        sequence(&[&tbs, &self.outer, &tlv(0x03, &signature)])
    }
}

/// A list with something of everything, for the fuzzer.
pub fn specimen() -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    let mut draft = ListDraft::new(name(&[(CN, "CA")]), &[1, 2, 300, 70_000]).with(extension(
        IDP,
        true,
        sequence(&[&point("http://x/a.crl"), &tlv(0x81, &[0xff])]),
    ));
    draft.entries[1].1.push(extension("2.5.29.21", false, tlv(0x0a, &[1])));
    draft.sign(&key)
}

fn point(url: &str) -> Vec<u8> {
    tlv(0xa0, &tlv(0xa0, &tlv(0x86, url.as_bytes())))
}

struct World {
    keys: Vec<KeyPair>,
    root: Vec<u8>,
    below: Vec<u8>,
    /// Of the root, and of the CA below it; serial numbers 0x1002 and 0x1003.
    leaf: Vec<u8>,
    deep: Vec<u8>,
}

fn root_name() -> Vec<u8> {
    name(&[(CN, "root")])
}

fn below_name() -> Vec<u8> {
    name(&[(CN, "below")])
}

fn ca() -> Extension {
    extension("2.5.29.19", true, sequence(&[&boolean(true)]))
}

impl World {
    fn new() -> Self {
        let keys: Vec<_> = (0..5).map(|_| KeyPair::generate().unwrap()).collect();
        let points =
            extension("2.5.29.31", false, sequence(&[&sequence(&[&point("http://pki.example/leaf.crl")])]));
        let draft = |subject, key, issuer, signer| Draft::new(subject, key, issuer, signer, VALID);
        Self {
            root: draft(root_name(), 0, root_name(), 0).with(ca()).sign(&keys),
            below: draft(below_name(), 1, root_name(), 0).with(ca()).sign(&keys),
            leaf: draft(name(&[(CN, "leaf")]), 2, root_name(), 0).with(points).sign(&keys),
            deep: draft(name(&[(CN, "deep")]), 3, below_name(), 1).sign(&keys),
            keys,
        }
    }

    fn judge(&self, leaf: &[u8], lists: &[Vec<u8>], policy: RevocationPolicy) -> Reason {
        self.judge_below(leaf, &[&self.below], lists, policy)
    }

    fn judge_below(
        &self,
        leaf: &[u8],
        sent: &[&[u8]],
        lists: &[Vec<u8>],
        policy: RevocationPolicy,
    ) -> Reason {
        let anchors =
            TrustAnchors::new(vec![Anchor { name: "root".into(), der: Arc::from(&*self.root) }]).unwrap();
        let facts = CertificateFacts::parse(&self.root).unwrap();
        let lists = lists.iter().map(|der| Arc::new(RevocationList::parse(der, 1 << 20).unwrap()));
        let anchors = anchors.with_revocation_lists(Arc::new(RevocationLists::new(lists, &[&facts])));
        let policy = PathPolicy { revocation: Some(policy), ..PathPolicy::default() };
        evaluate(leaf, sent, &anchors, &policy, MOMENT)
            .map_or_else(|rejection| rejection.reason, |_| Reason::Ok)
    }

    fn strictly(&self, leaf: &[u8], lists: &[Vec<u8>]) -> Reason {
        self.judge(leaf, lists, RevocationPolicy::default())
    }
}

#[test]
fn who_is_on_the_list_is_out() {
    let world = World::new();
    let list = |revoked: &[u32]| ListDraft::new(root_name(), revoked).sign(&world.keys[0]);
    assert_eq!(world.strictly(&world.leaf, &[list(&[])]), Reason::Ok);
    assert_eq!(world.strictly(&world.leaf, &[list(&[1, 0x1002, 0x2000])]), Reason::CertRevokedCrl);
    assert_eq!(world.strictly(&world.leaf, &[list(&[0x1003])]), Reason::Ok);
    // The newest counts, in either order.
    let mut newer = ListDraft::new(root_name(), &[]);
    newer.number = 8;
    let newer = newer.sign(&world.keys[0]);
    for lists in [[newer.clone(), list(&[0x1002])], [list(&[0x1002]), newer]] {
        assert_eq!(world.strictly(&world.leaf, &lists), Reason::Ok);
    }
    // The name of the issuer is compared as names are.
    let other_case = ListDraft::new(name(&[(CN, "ROOT")]), &[0x1002]).sign(&world.keys[0]);
    assert_eq!(world.strictly(&world.leaf, &[other_case]), Reason::CertRevokedCrl);
}

#[test]
fn a_list_of_somebody_else_says_nothing() {
    let world = World::new();
    let forged = ListDraft::new(root_name(), &[]).sign(&world.keys[4]);
    assert_eq!(world.strictly(&world.leaf, &[]), Reason::CrlUnknown);
    assert_eq!(world.strictly(&world.leaf, &[forged]), Reason::CrlUnknown);
    let other = ListDraft::new(below_name(), &[]).sign(&world.keys[0]);
    assert_eq!(world.strictly(&world.leaf, &[other]), Reason::CrlUnknown);
    let mut future = ListDraft::new(root_name(), &[]);
    (future.this_update, future.next_update) = (NOW + 1_000, Some(NOW + 2_000));
    assert_eq!(world.strictly(&world.leaf, &[future.sign(&world.keys[0])]), Reason::CrlUnknown);
    let lenient = RevocationPolicy { unknown: UnknownStatus::Allow, ..RevocationPolicy::default() };
    assert_eq!(world.judge(&world.leaf, &[], lenient), Reason::Ok);
    // A CA whose key usage does not let it sign lists.
    let usage = extension("2.5.29.15", true, tlv(0x03, &[2, 0x04]));
    let root = Draft::new(root_name(), 0, root_name(), 0, VALID).with(ca()).with(usage).sign(&world.keys);
    let list = ListDraft::new(root_name(), &[]).sign(&world.keys[0]);
    let world = World { root, ..world };
    assert_eq!(world.strictly(&world.leaf, &[list]), Reason::CrlUnknown);
}

#[test]
fn intermediates_are_looked_up_when_the_whole_chain_is() {
    let world = World::new();
    let by_root = |revoked: &[u32]| ListDraft::new(root_name(), revoked).sign(&world.keys[0]);
    let by_below = |revoked: &[u32]| ListDraft::new(below_name(), revoked).sign(&world.keys[1]);
    let chain = RevocationPolicy { scope: RevocationScope::Chain, ..RevocationPolicy::default() };
    let leaf = RevocationPolicy::default();
    for (lists, policy, expected) in [
        (vec![by_below(&[])], leaf, Reason::Ok),
        (vec![by_below(&[0x1003])], leaf, Reason::CertRevokedCrl),
        (vec![by_below(&[])], chain, Reason::CrlUnknown),
        (vec![by_below(&[]), by_root(&[])], chain, Reason::Ok),
        (vec![by_below(&[]), by_root(&[0x1001])], chain, Reason::CertRevokedCrl),
        (vec![by_below(&[]), by_root(&[0x1001])], leaf, Reason::Ok),
    ] {
        assert_eq!(world.judge(&world.deep, &lists, policy), expected, "{policy:?}");
    }
}

#[test]
fn what_an_old_list_is_worth_is_a_choice() {
    let world = World::new();
    let list = |next_update, revoked: &[u32]| {
        let mut draft = ListDraft::new(root_name(), revoked);
        (draft.this_update, draft.next_update) = (NOW - 10_000, next_update);
        draft.sign(&world.keys[0])
    };
    let late = list(Some(NOW - 600), &[]);
    let undated = list(None, &[]);
    let policy = |stale| RevocationPolicy { stale, ..RevocationPolicy::default() };
    let grace = |seconds| policy(StaleLists::Grace(Duration::from_secs(seconds)));
    for (list, policy, expected) in [
        (&late, policy(StaleLists::FailClosed), Reason::CrlStale),
        (&late, policy(StaleLists::FailOpen), Reason::Ok),
        (&late, grace(600), Reason::Ok),
        (&late, grace(599), Reason::CrlStale),
        (&undated, policy(StaleLists::FailClosed), Reason::CrlStale),
        (&undated, policy(StaleLists::FailOpen), Reason::Ok),
        (&undated, grace(1_000_000), Reason::CrlStale),
        (&list(Some(NOW), &[]), policy(StaleLists::FailClosed), Reason::Ok),
        (&list(Some(NOW - 600), &[0x1002]), policy(StaleLists::FailOpen), Reason::CertRevokedCrl),
    ] {
        assert_eq!(world.judge(&world.leaf, std::slice::from_ref(list), policy), expected, "{policy:?}");
    }
}

#[test]
fn a_list_of_a_part_is_about_that_part() {
    let world = World::new();
    let of = |parts: &[&[u8]]| {
        ListDraft::new(root_name(), &[0x1002])
            .with(extension(IDP, true, sequence(parts)))
            .sign(&world.keys[0])
    };
    let users = of(&[&tlv(0x81, &[0xff])]);
    let cas = of(&[&tlv(0x82, &[0xff])]);
    let here = of(&[&point("http://pki.example/leaf.crl")]);
    let elsewhere = of(&[&point("http://pki.example/other.crl")]);
    for (list, expected) in [
        (&users, Reason::CertRevokedCrl),
        (&cas, Reason::CrlUnknown),
        (&here, Reason::CertRevokedCrl),
        (&elsewhere, Reason::CrlUnknown),
    ] {
        assert_eq!(world.strictly(&world.leaf, std::slice::from_ref(list)), expected);
    }
    let facts = CertificateFacts::parse(&world.leaf).unwrap();
    assert_eq!(distribution_urls(&facts), ["http://pki.example/leaf.crl"]);
}

/// RFC 5280, 4.2.1.13: one RDN, below the name of who made the list.
#[test]
fn a_point_may_be_named_relative_to_the_issuer() {
    let world = World::new();
    let rdn = |text: &str, tag| sequence(&[&oid(CN), &tlv(tag, text.as_bytes())]);
    let relative = |text, tag| tlv(0xa0, &tlv(0xa1, &rdn(text, tag)));
    let full = |attributes: &[(&str, &str)]| tlv(0xa0, &tlv(0xa0, &tlv(0xa4, &name(attributes))));
    let leaf = |point: &[u8]| {
        let points = extension("2.5.29.31", false, sequence(&[&sequence(&[point])]));
        Draft::new(name(&[(CN, "leaf")]), 2, root_name(), 0, VALID).with(points).sign(&world.keys)
    };
    let list = |point: &[u8]| {
        let point = extension(IDP, true, sequence(&[point]));
        ListDraft::new(root_name(), &[0x1002]).with(point).sign(&world.keys[0])
    };
    let here = full(&[(CN, "root"), (CN, "crl 1")]);
    for (of_leaf, of_list, expected) in [
        (relative("crl 1", 0x0c), relative("crl 1", 0x0c), Reason::CertRevokedCrl),
        (relative("CRL 1", 0x13), relative("crl 1", 0x0c), Reason::CertRevokedCrl),
        (here.clone(), relative("crl 1", 0x0c), Reason::CertRevokedCrl),
        (relative("crl 1", 0x0c), here, Reason::CertRevokedCrl),
        (relative("crl 2", 0x0c), relative("crl 1", 0x0c), Reason::CrlUnknown),
        (full(&[(CN, "crl 1")]), relative("crl 1", 0x0c), Reason::CrlUnknown),
    ] {
        assert_eq!(world.strictly(&leaf(&of_leaf), &[list(&of_list)]), expected);
    }
    let nothing = RevocationList::parse(&list(&tlv(0xa0, &tlv(0xa1, &[]))), 1 << 20);
    assert!(matches!(nothing, Err(ListError::Malformed(_))));
}

/// A CA that changes its key certifies one with the other, and signs its lists with one of them.
#[test]
fn a_list_may_be_signed_with_another_key_of_the_ca_on_the_path() {
    let world = World::new();
    let usage = |bits: u8| extension("2.5.29.15", true, tlv(0x03, &[1, bits]));
    let rolled =
        Draft::new(below_name(), 4, below_name(), 1, VALID).with(ca()).with(usage(0x06)).sign(&world.keys);
    let deep = Draft::new(name(&[(CN, "deep")]), 3, below_name(), 4, VALID).sign(&world.keys);
    let list = |key: usize, revoked: &[u32]| ListDraft::new(below_name(), revoked).sign(&world.keys[key]);
    let judge = |below: &[u8], list: Vec<u8>| {
        world.judge_below(&deep, &[&rolled, below], &[list], RevocationPolicy::default())
    };
    assert_eq!(judge(&world.below, list(1, &[])), Reason::Ok);
    assert_eq!(judge(&world.below, list(4, &[])), Reason::Ok);
    assert_eq!(judge(&world.below, list(1, &[0x1003])), Reason::CertRevokedCrl);
    assert_eq!(judge(&world.below, list(0, &[])), Reason::CrlUnknown, "a key of another CA on the path");
    assert_eq!(judge(&world.below, list(2, &[])), Reason::CrlUnknown, "a key that is not on the path");
    // The other certificate does not let its key sign lists.
    let only_certificates =
        Draft::new(below_name(), 1, root_name(), 0, VALID).with(ca()).with(usage(0x04)).sign(&world.keys);
    assert_eq!(judge(&only_certificates, list(1, &[])), Reason::CrlUnknown);
    assert_eq!(judge(&only_certificates, list(4, &[])), Reason::Ok);
}

/// Numbers below zero are no good serial numbers, and there are some: -1 is not 255.
#[test]
fn serial_numbers_have_a_sign() {
    let world = World::new();
    let minus_one = || tlv(0x02, &[0xff]);
    let leaf = |serial| {
        let mut draft = Draft::new(name(&[(CN, "leaf")]), 2, root_name(), 0, VALID);
        draft.serial = serial;
        draft.sign(&world.keys)
    };
    let list = |serials: Vec<Vec<u8>>| {
        let mut draft = ListDraft::new(root_name(), &[]);
        draft.entries = serials.into_iter().map(|serial| (serial, Vec::new())).collect();
        draft.sign(&world.keys[0])
    };
    for (serial, revoked, expected) in [
        (minus_one(), vec![minus_one()], Reason::CertRevokedCrl),
        (minus_one(), vec![integer(255)], Reason::Ok),
        (integer(255), vec![minus_one()], Reason::Ok),
        (integer(255), vec![integer(1), minus_one(), integer(255), integer(256)], Reason::CertRevokedCrl),
        (minus_one(), vec![integer(1), integer(255), minus_one(), integer(256)], Reason::CertRevokedCrl),
    ] {
        assert_eq!(world.strictly(&leaf(serial), &[list(revoked)]), expected);
    }
}

#[test]
fn delta_indirect_and_partial_lists_are_refused_by_name() {
    let key = KeyPair::generate().unwrap();
    let plain = || ListDraft::new(root_name(), &[5]);
    let idp = |parts: &[&[u8]]| plain().with(extension(IDP, true, sequence(parts)));
    let mut entry_of_another = plain();
    entry_of_another.entries[0].1.push(extension("2.5.29.29", true, sequence(&[])));
    let mut unknown_in_entry = plain();
    unknown_in_entry.entries[0].1.push(extension("1.3.6.1.4.1.99999.1", true, vec![5, 0]));
    for (draft, expected) in [
        (plain().with(extension("2.5.29.27", true, integer(1))), ListError::Delta),
        (idp(&[&tlv(0x84, &[0xff])]), ListError::Indirect),
        (idp(&[&tlv(0x83, &[1, 0x40])]), ListError::SomeReasons),
        (idp(&[&tlv(0x85, &[0xff])]), ListError::AttributeCertificates),
        (entry_of_another, ListError::Indirect),
        (plain().with(extension("1.3.6.1.4.1.99999.1", true, vec![5, 0])), ListError::UnknownExtension),
        (unknown_in_entry, ListError::UnknownExtension),
    ] {
        assert_eq!(RevocationList::parse(&draft.sign(&key), 1 << 20).unwrap_err(), expected);
    }
    let malformed = |der: &[u8]| matches!(RevocationList::parse(der, 1 << 20), Err(ListError::Malformed(_)));
    let mut differs = plain();
    differs.outer = sequence(&[&oid("1.2.840.10045.4.3.3")]);
    let mut version_3 = plain();
    version_3.version = Some(integer(2));
    assert!(malformed(&differs.sign(&key)) && malformed(&version_3.sign(&key)));
    let both = idp(&[&tlv(0x81, &[0xff]), &tlv(0x82, &[0xff])]);
    assert!(malformed(&both.sign(&key)));
    let good = plain().sign(&key);
    assert!(malformed(&good[..good.len() - 1]) && malformed(&[&*good, &[0]].concat()) && malformed(b""));
    assert!(matches!(RevocationList::parse(&good, good.len() - 1), Err(ListError::TooLarge(..))));
    let read = RevocationList::parse(&good, good.len()).unwrap();
    assert_eq!((read.len(), read.issuer(), read.number.clone()), (1, "CN=root", Some(vec![7])));
    // Version 1 has no extensions, and is a list.
    let mut old = plain();
    old.version = None;
    assert_eq!(RevocationList::parse(&old.sign(&key), 1 << 20).unwrap().number, None);
}

/// RFC 5280, 5.2.3: a CA counts the lists of each scope by themselves, so that numbers say nothing across scopes.
#[test]
fn what_any_list_of_the_ca_revokes_is_revoked() {
    let world = World::new();
    let point = |revoked: &[u32]| {
        let at = extension(IDP, true, sequence(&[&point("http://pki.example/leaf.crl")]));
        ListDraft::new(root_name(), revoked).with(at)
    };
    let whole = |number, revoked: &[u32]| ListDraft { number, ..ListDraft::new(root_name(), revoked) };
    let stale = |mut draft: ListDraft| {
        (draft.this_update, draft.next_update) = (NOW - 10_000, Some(NOW - 600));
        draft
    };
    for (a, b, expected) in [
        (point(&[]), whole(9_000, &[]), Reason::Ok),
        (point(&[0x1002]), whole(9_000, &[]), Reason::CertRevokedCrl),
        (point(&[]), whole(1, &[0x1002]), Reason::CertRevokedCrl),
        (stale(point(&[0x1002])), whole(9_000, &[]), Reason::CertRevokedCrl),
        // Each is complete for the certificate.
        (stale(point(&[])), whole(1, &[]), Reason::Ok),
        (point(&[]), stale(whole(9_000, &[])), Reason::Ok),
        (stale(point(&[])), stale(whole(9_000, &[])), Reason::CrlStale),
    ] {
        let (a, b) = (a.sign(&world.keys[0]), b.sign(&world.keys[0]));
        for lists in [[a.clone(), b.clone()], [b, a]] {
            assert_eq!(world.strictly(&world.leaf, &lists), expected);
        }
    }
}

/// A list of 100,000 entries has some megabytes: who made it is found out once, not with every client.
#[test]
fn the_maker_of_a_list_is_found_out_once() {
    let world = World::new();
    let parse = |der: &[u8]| Arc::new(RevocationList::parse(der, 1 << 20).unwrap());
    let genuine = parse(&ListDraft::new(below_name(), &[]).sign(&world.keys[1]));
    let forged =
        parse(&ListDraft { number: 9, ..ListDraft::new(below_name(), &[0x1003]) }.sign(&world.keys[4]));
    let successor = parse(&ListDraft { number: 8, ..ListDraft::new(below_name(), &[]) }.sign(&world.keys[1]));
    let facts = CertificateFacts::parse(&world.root).unwrap();
    let anchors =
        TrustAnchors::new(vec![Anchor { name: "root".into(), der: Arc::from(&*world.root) }]).unwrap();
    let lists = RevocationLists::new([Arc::clone(&forged), Arc::clone(&genuine)], &[&facts]);
    let anchors = anchors.with_revocation_lists(Arc::new(lists));
    let policy = PathPolicy { revocation: Some(RevocationPolicy::default()), ..PathPolicy::default() };
    assert!(!genuine.is_proved() && !successor.is_made_as(&genuine));
    for _ in 0..2 {
        assert!(evaluate(&world.deep, &[&world.below], &anchors, &policy, MOMENT).is_ok());
        assert!(genuine.is_proved() && !forged.is_proved());
    }
    assert!(successor.is_made_as(&genuine) && !forged.is_made_as(&genuine));
    assert!(!genuine.is_made_as(&forged));
}
