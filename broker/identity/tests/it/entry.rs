//! What outside bytes reach, as functions of bytes: none of them panics, whatever it is given. Called by the tests
//! beside this file and by the fuzzer in tests/fuzz.

use mqgate_identity::certificate::{CertificateFacts, certificates_from_pem};
use mqgate_identity::evaluation::{
    Anchor, PathPolicy, RevocationList, RevocationLists, RevocationPolicy, RevocationScope, Strictness,
    TrustAnchors, UsageRule, distribution_urls, explain, lint,
};
use mqgate_identity::time::UnixSeconds;

/// When the specimens are judged.
const MOMENT: UnixSeconds = UnixSeconds(1_700_000_000);

/// Certificate facts, and what is derived from them alone.
pub fn facts(data: &[u8]) {
    let _ = certificates_from_pem(data);
    if let Ok(facts) = CertificateFacts::parse(data) {
        assert!(!facts.subject.display.chars().any(char::is_control));
        let _ = lint(&facts, &PathPolicy::default(), MOMENT);
        let _ = distribution_urls(&facts);
        // As a CA that the operator gives.
        let _ = TrustAnchors::new(vec![Anchor { name: "x".into(), der: data.into() }]);
    }
}

/// A chain and its anchors: each certificate behind two bytes of length, the first byte chooses the policy.
pub fn evaluation(data: &[u8]) {
    let Some((&choice, mut rest)) = data.split_first() else { return };
    let mut parts = Vec::new();
    while let [high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (part, after) = after.split_at(length);
        parts.push(part);
        rest = after;
    }
    let anchors = 1 + usize::from(choice & 3);
    let anchors: Vec<_> = parts
        .iter()
        .take(anchors)
        .filter_map(|der| TrustAnchors::new(vec![Anchor { name: "x".into(), der: (*der).into() }]).ok())
        .collect();
    let policy = PathPolicy {
        strictness: if choice & 4 == 0 { Strictness::Standard } else { Strictness::Strict },
        usage: match choice & 8 {
            0 => UsageRule::default(),
            _ => UsageRule { one_of: Vec::new(), ..UsageRule::default() },
        },
        revocation: (choice & 16 != 0)
            .then(|| RevocationPolicy { scope: RevocationScope::Chain, ..RevocationPolicy::default() }),
        ..PathPolicy::default()
    };
    for trusted in anchors {
        let _ = explain(&parts, &trusted, &policy, MOMENT);
    }
}

/// A revocation list, and the question whether it is about a certificate.
pub fn revocation_list(data: &[u8]) {
    if let Ok(list) = RevocationList::parse(data, 1 << 20) {
        let serials: Vec<Vec<u8>> = list.serials().map(<[u8]>::to_vec).collect();
        assert_eq!(serials.len(), list.len());
        assert!(serials.iter().all(|serial| list.reason_of(serial).is_some()));
        let _ = RevocationLists::new([std::sync::Arc::new(list)], &[]);
    }
}
