//! Certificate policies: RFC 5280, 6.1, rule by rule. `differential` holds the same rules against OpenSSL.

use mqgate_identity::evaluation::{PathPolicy, evaluate};
use mqgate_identity::reason::Reason;
use rcgen::{CertificateParams, CustomExtension};

use crate::differential::der::{integer, oid, sequence, tlv};
use crate::pki::{Authority, NOW, anchors, ca_params, named};

const A: &str = "1.3.6.1.4.1.99999.1";
const B: &str = "1.3.6.1.4.1.99999.2";
const ANY: &str = "2.5.29.32.0";

/// What one certificate says.
#[derive(Clone, Copy)]
enum Says {
    Policies(&'static [&'static str]),
    Maps(&'static str, &'static str),
    /// `requireExplicitPolicy`
    Explicit(u32),
    /// `inhibitPolicyMapping`
    NoMapping(u32),
    /// `inhibitAnyPolicy`
    NoAny(u32),
    Raw(&'static [u64], &'static [u8]),
}
use Says::{Explicit, Maps, NoAny, NoMapping, Policies, Raw};

fn extended(mut params: CertificateParams, says: &[Says]) -> CertificateParams {
    for says in says {
        let (last, value) = match *says {
            Policies(list) => {
                let list: Vec<u8> = list.iter().flat_map(|policy| sequence(&[&oid(policy)])).collect();
                (32, tlv(0x30, &list))
            }
            Maps(from, to) => (33, sequence(&[&sequence(&[&oid(from), &oid(to)])])),
            Explicit(skip) => (36, sequence(&[&tlv(0x80, &integer(skip)[2..])])),
            NoMapping(skip) => (36, sequence(&[&tlv(0x81, &integer(skip)[2..])])),
            NoAny(skip) => (54, integer(skip)),
            Raw(id, value) => {
                let mut extension = CustomExtension::from_oid_content(id, value.to_vec());
                extension.set_criticality(true);
                params.custom_extensions.push(extension);
                continue;
            }
        };
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, last], value);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    }
    params
}

/// A root that says nothing, CAs below it, and a client's certificate.
fn judge(cas: &[&[Says]], leaf: &[Says]) -> Reason {
    judge_below(&[], cas, leaf)
}

fn judge_below(root: &[Says], cas: &[&[Says]], leaf: &[Says]) -> Reason {
    let root = Authority::root_from(extended(ca_params("root"), root));
    let trusted = anchors(&[("root", &root.der)]);
    let mut chain = Vec::new();
    let mut above = root;
    for (at, says) in cas.iter().enumerate() {
        above = above.intermediate_from(extended(ca_params(&format!("ca {at}")), says));
        chain.push(above.der.clone());
    }
    let leaf = above.sign(extended(named("device"), leaf));
    match evaluate(&leaf, &chain, &trusted, &PathPolicy::default(), NOW) {
        Ok(_) => Reason::Ok,
        Err(rejection) => rejection.reason,
    }
}

#[test]
fn where_nobody_demands_a_policy_any_path_will_do() {
    assert_eq!(judge(&[&[]], &[]), Reason::Ok);
    assert_eq!(judge(&[&[Policies(&[A])]], &[Policies(&[B])]), Reason::Ok);
    assert_eq!(judge(&[&[NoAny(0)]], &[Policies(&[ANY])]), Reason::Ok);
    assert_eq!(judge(&[&[Policies(&[A]), Maps(A, B), NoMapping(0)]], &[]), Reason::Ok);
}

#[test]
fn a_demanded_policy_is_valid_along_the_path() {
    let demanding: &[Says] = &[Policies(&[A]), Explicit(0)];
    assert_eq!(judge(&[demanding], &[Policies(&[A])]), Reason::Ok);
    assert_eq!(judge(&[demanding], &[Policies(&[A, B])]), Reason::Ok);
    assert_eq!(judge(&[demanding], &[Policies(&[B])]), Reason::CertPolicy);
    assert_eq!(judge(&[demanding], &[]), Reason::CertPolicy);
    assert_eq!(judge(&[demanding], &[Policies(&[ANY])]), Reason::Ok);
    // A CA that says nothing of policies ends them for all below.
    assert_eq!(judge(&[demanding, &[]], &[Policies(&[A])]), Reason::CertPolicy);
    assert_eq!(judge(&[demanding, &[Policies(&[ANY])]], &[Policies(&[A])]), Reason::Ok);
    assert_eq!(judge(&[demanding, &[Policies(&[ANY])]], &[Policies(&[B])]), Reason::CertPolicy);
}

#[test]
fn a_demand_begins_after_so_many_certificates() {
    // The leaf is one certificate after the CA: a demand that skips one is not reached before the end.
    assert_eq!(judge(&[&[Policies(&[A]), Explicit(1)]], &[Policies(&[A])]), Reason::Ok);
    assert_eq!(judge(&[&[Policies(&[A]), Explicit(1)]], &[]), Reason::CertPolicy);
    assert_eq!(judge(&[&[Policies(&[A]), Explicit(2)]], &[]), Reason::Ok);
    assert_eq!(judge(&[&[Policies(&[A]), Explicit(2)], &[]], &[]), Reason::CertPolicy);
    // Never later than what was demanded above.
    assert_eq!(judge(&[&[Policies(&[A]), Explicit(0)], &[Explicit(9)]], &[]), Reason::CertPolicy);
    // A number that no path is long enough for.
    let far: &[Says] = &[Raw(&[2, 5, 29, 36], &[0x30, 7, 0x80, 5, 0x7f, 0xff, 0xff, 0xff, 0xff])];
    assert_eq!(judge(&[far], &[]), Reason::Ok);
    // What the last certificate demands of itself counts only if it is now.
    assert_eq!(judge(&[&[]], &[Explicit(0)]), Reason::CertPolicy);
    assert_eq!(judge(&[&[Policies(&[A])]], &[Policies(&[A]), Explicit(0)]), Reason::Ok);
    assert_eq!(judge(&[&[]], &[Explicit(1)]), Reason::Ok);
}

#[test]
fn an_anchor_demands_as_any_ca() {
    assert_eq!(judge_below(&[Explicit(0)], &[], &[]), Reason::CertPolicy);
    assert_eq!(judge_below(&[Explicit(0)], &[], &[Policies(&[A])]), Reason::Ok);
    assert_eq!(judge_below(&[Explicit(0), NoAny(0)], &[], &[Policies(&[ANY])]), Reason::CertPolicy);
    assert_eq!(judge_below(&[Explicit(2)], &[], &[]), Reason::Ok);
}

#[test]
fn any_policy_can_be_forbidden() {
    let demanding: &[Says] = &[Policies(&[A]), Explicit(0), NoAny(0)];
    assert_eq!(judge(&[demanding], &[Policies(&[ANY])]), Reason::CertPolicy);
    assert_eq!(judge(&[demanding], &[Policies(&[A])]), Reason::Ok);
    let later: &[Says] = &[Policies(&[A]), Explicit(0), NoAny(1)];
    assert_eq!(judge(&[later], &[Policies(&[ANY])]), Reason::Ok);
    assert_eq!(judge(&[later, &[Policies(&[ANY])]], &[Policies(&[ANY])]), Reason::CertPolicy);
}

#[test]
fn policies_are_mapped() {
    let mapping: &[Says] = &[Policies(&[A]), Maps(A, B), Explicit(0)];
    assert_eq!(judge(&[mapping], &[Policies(&[B])]), Reason::Ok);
    assert_eq!(judge(&[mapping], &[Policies(&[A])]), Reason::CertPolicy);
    // Of a policy that is valid through any-policy as well.
    let any: &[Says] = &[Policies(&[ANY]), Maps(A, B), Explicit(0)];
    assert_eq!(judge(&[any], &[Policies(&[B])]), Reason::Ok);
    // Not of one that is not valid.
    assert_eq!(judge(&[&[Policies(&[B]), Maps(A, B), Explicit(0)]], &[Policies(&[A])]), Reason::CertPolicy);
    // Where mapping is forbidden, what would be mapped is no longer valid.
    let forbidding: &[Says] = &[Policies(&[A]), NoMapping(0)];
    assert_eq!(judge(&[forbidding, mapping], &[Policies(&[B])]), Reason::CertPolicy);
    assert_eq!(judge(&[forbidding, mapping], &[Policies(&[A])]), Reason::CertPolicy);
    for pair in [Maps(A, ANY), Maps(ANY, A)] {
        assert_eq!(judge(&[&[Policies(&[A]), pair]], &[Policies(&[A])]), Reason::CertPolicy);
    }
}

#[test]
fn what_cannot_be_read_refuses() {
    const CONSTRAINTS: &[u64] = &[2, 5, 29, 36];
    for (id, value) in [
        (CONSTRAINTS, &[0x30, 0][..]),
        (CONSTRAINTS, &[0x30, 3, 0x80, 1, 0x81]),
        (CONSTRAINTS, &[0x30, 3, 0x82, 1, 0]),
        (CONSTRAINTS, &[0x30, 6, 0x81, 1, 0, 0x80, 1, 0]),
        (CONSTRAINTS, &[0x02, 1, 0]),
        (&[2, 5, 29, 54], &[0x02, 1, 0xff]),
        (&[2, 5, 29, 54], &[0x30, 0]),
        (&[2, 5, 29, 33], &[0x30, 0]),
        (&[2, 5, 29, 33], &[0x30, 5, 0x30, 3, 0x06, 1, 0x2a]),
    ] {
        assert_eq!(judge(&[&[Raw(id, value)]], &[]), Reason::CertMalformed, "{value:x?}");
    }
    // Policies are read where they matter: none at all, and one twice.
    for policies in [Policies(&[]), Policies(&[A, A])] {
        assert_eq!(judge(&[&[Policies(&[A]), Explicit(0)]], &[policies]), Reason::CertMalformed);
    }
}

/// A tree would have a node for each way to arrive at a policy; here the work grows with what was sent.
#[test]
fn mappings_do_not_multiply() {
    let policies: Vec<String> = (0..24).map(|at| format!("1.3.6.1.4.1.99999.{at}")).collect();
    let list: Vec<u8> = policies.iter().flat_map(|policy| sequence(&[&oid(policy)])).collect();
    let pairs: Vec<u8> = policies
        .iter()
        .flat_map(|from| policies.iter().flat_map(|to| sequence(&[&oid(from), &oid(to)])))
        .collect();
    let extended = |mut params: CertificateParams, pairs: &[u8]| {
        for (last, list) in [(32, &list[..]), (33, pairs)] {
            if !list.is_empty() {
                let extension = CustomExtension::from_oid_content(&[2, 5, 29, last], tlv(0x30, list));
                params.custom_extensions.push(extension);
            }
        }
        params
    };
    let root = Authority::root("root");
    let trusted = anchors(&[("root", &root.der)]);
    let mut chain = Vec::new();
    let mut above = root;
    for at in 0..3 {
        above = above.intermediate_from(extended(ca_params(&format!("ca {at}")), &pairs));
        chain.push(above.der.clone());
    }
    let leaf = above.sign(extended(named("device"), &[]));
    assert!(evaluate(&leaf, &chain, &trusted, &PathPolicy::default(), NOW).is_ok());
}
