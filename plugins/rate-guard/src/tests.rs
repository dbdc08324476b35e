//! Who is refused when, as the README has it.

use mqgate_plugin_sdk::testing::{self, MemoryHost};
use mqgate_plugin_sdk::types::{ChainStatus, NameAttribute, TrustAnchor};

use super::*;

fn plugin(config: &str) -> RateGuard {
    RateGuard::init(&testing::context(config), &MemoryHost::default()).unwrap()
}

fn of(subject: &[(&str, &str)]) -> Connection {
    testing::connection(Some(testing::certificate(subject)))
}

fn connects(plugin: &RateGuard, on: &Connection, host: &MemoryHost) -> String {
    match plugin.authenticate(on, host) {
        Ok(Authentication::Abstain) => "abstain".into(),
        Ok(Authentication::Deny(denial)) => format!("{:?}: {}", denial.reason, denial.audit_detail.unwrap()),
        Ok(Authentication::Accept(_)) => panic!("it lets nobody in"),
        Err(error) => format!("{error:?}"),
    }
}

fn limit(more: &str) -> RateGuard {
    plugin(&format!(r#"{{"limits": [{{"name": "l", "rate": 60, "burst": 2, {more}}}]}}"#))
}

/// How many of ten connections pass.
fn passing(plugin: &RateGuard, on: &Connection, host: &MemoryHost) -> usize {
    (0..10).filter(|_| connects(plugin, on, host) == "abstain").count()
}

#[test]
fn a_burst_passes_and_then_the_rate() {
    let (plugin, host) = (limit(r#""per": "ou""#), MemoryHost::default());
    let mut meter = of(&[("ou", "meters")]);
    assert_eq!(passing(&plugin, &meter, &host), 2);
    let refused = "ConnackReason::ConnectionRateExceeded: l: more than 60 in 60 s for ou \"meters\"";
    assert_eq!(connects(&plugin, &meter, &host), refused);
    meter.accepted_at += 1000;
    assert_eq!(passing(&plugin, &meter, &host), 1);
    // Another unit, another bucket.
    assert_eq!(passing(&plugin, &of(&[("ou", "pumps")]), &host), 2);
    let Ok(Authentication::Deny(denial)) = plugin.authenticate(&meter, &host) else { panic!("passed") };
    assert_eq!(denial.attributes, [Attribute::text("policy.limit", "l")]);
    assert_eq!(denial.cache, None);
}

type Change = fn(&mut Connection);

#[test]
fn a_certificate_an_authority_an_address_a_listener_and_everybody_have_buckets() {
    let changes: [(&str, Change); 5] = [
        ("fingerprint", |on| on.certificate.as_mut().unwrap().leaf.fingerprint_sha256 = vec![0x77; 32]),
        ("anchor-fingerprint", |on| {
            let anchor = TrustAnchor { name: "test-ca".into(), fingerprint_sha256: vec![0x44; 32] };
            on.certificate.as_mut().unwrap().chain = ChainStatus::Verified(anchor);
        }),
        ("issuer-cn", |on| {
            on.certificate.as_mut().unwrap().leaf.issuer = testing::name(&[("cn", "Other CA")]);
        }),
        ("address", |on| on.peer.address = "192.0.2.2".into()),
        ("listener", |on| on.listener = "other".into()),
    ];
    for (per, change) in changes {
        let (plugin, host) = (limit(&format!(r#""per": "{per}""#)), MemoryHost::default());
        let mut on = of(&[("cn", "d")]);
        assert_eq!(passing(&plugin, &on, &host), 2, "{per}");
        change(&mut on);
        assert_eq!(passing(&plugin, &on, &host), 2, "another {per}");
        assert_eq!(passing(&plugin, &on, &host), 0, "{per}");
    }
    let (plugin, host) = (limit(r#""per": "everybody""#), MemoryHost::default());
    assert_eq!(passing(&plugin, &of(&[("cn", "a")]), &host), 2);
    assert_eq!(
        connects(&plugin, &testing::connection(None), &host),
        "ConnackReason::ConnectionRateExceeded: l: more than 60 in 60 s for everybody"
    );
}

#[test]
fn addresses_of_version_6_count_by_network() {
    let (plugin, host) = (limit(r#""per": "address""#), MemoryHost::default());
    let from = |address: &str| {
        let mut on = testing::connection(None);
        on.peer.address = address.into();
        connects(&plugin, &on, &host)
    };
    assert_eq!(from("2001:db8::1"), "abstain");
    assert_eq!(from("2001:db8::ffff:0:0:2"), "abstain");
    assert!(from("2001:db8:0:0:1::").ends_with("for address \"2001:db8::/64\""));
    assert_eq!(from("2001:db8:0:1::1"), "abstain");
    assert_eq!((from(""), from("")), ("abstain".into(), "abstain".into()));
    assert!(from("").contains("for address"));
}

#[test]
fn every_value_is_charged_and_none_is_a_bucket_too() {
    let (plugin, host) = (limit(r#""per": "ou""#), MemoryHost::default());
    assert_eq!(passing(&plugin, &of(&[("ou", "a"), ("ou", "b"), ("ou", "a")]), &host), 2);
    assert_eq!(passing(&plugin, &of(&[("ou", "b")]), &host), 0);
    // To leave the field out is no way around.
    assert_eq!(passing(&plugin, &of(&[("cn", "x")]), &host), 2);
    assert!(connects(&plugin, &of(&[("cn", "y")]), &host).ends_with("in 60 s for ou"));
    let many: Vec<String> = (0..9).map(|n| n.to_string()).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|n| ("ou", n.as_str())).collect();
    assert_eq!(
        connects(&plugin, &of(&many), &host),
        "ConnackReason::NotAuthorized: the certificate has 9 values for ou, more than 8"
    );
}

#[test]
fn a_value_that_is_no_text_is_refused() {
    for more in [r#""per": "ou""#, r#""per": "cn", "match": {"ou": "x"}"#] {
        let mut on = of(&[("cn", "d")]);
        let opaque = NameAttribute { oid: "2.5.4.11".into(), text: None, raw: vec![0xff] };
        on.certificate.as_mut().unwrap().leaf.subject.attributes.push(opaque);
        assert_eq!(
            connects(&limit(more), &on, &MemoryHost::default()),
            "ConnackReason::NotAuthorized: ou of the certificate is not plain text"
        );
    }
}

#[test]
fn a_limit_is_about_whom_it_says() {
    let (plugin, host) = (limit(r#""per": "everybody", "match": {"ou": "meters"}"#), MemoryHost::default());
    assert_eq!(passing(&plugin, &of(&[("ou", "pumps")]), &host), 10);
    assert_eq!(passing(&plugin, &testing::connection(None), &host), 10);
    assert_eq!(passing(&plugin, &of(&[("ou", "meters")]), &host), 2);
}

#[test]
fn a_forged_certificate_uses_up_nobodys_tokens() {
    let (plugin, host) = (limit(r#""per": "ou""#), MemoryHost::default());
    let mut forged = of(&[("ou", "meters")]);
    forged.certificate.as_mut().unwrap().chain = ChainStatus::Unverified("unknown issuer".into());
    assert_eq!(passing(&plugin, &forged, &host), 10);
    assert_eq!(passing(&plugin, &testing::connection(None), &host), 10);
    assert!(host.entries.borrow().is_empty());
}

#[test]
fn registrations_are_counted_for_themselves() {
    let plugin = plugin(
        r#"{"limits": [{"name": "c", "per": "anchor", "rate": 60, "burst": 3},
            {"name": "r", "of": "registrations", "per": "anchor", "rate": 1, "period": 3600}]}"#,
    );
    let (host, on) = (MemoryHost::default(), of(&[("cn", "d")]));
    assert_eq!(plugin.register(&on, None, &host), Ok(RegistrationDecision::Abstain));
    let Ok(RegistrationDecision::Deny(denial)) = plugin.register(&on, None, &host) else { panic!("passed") };
    assert_eq!(denial.reason, ConnackReason::ConnectionRateExceeded);
    assert_eq!(denial.audit_detail.unwrap(), "r: more than 1 in 3600 s for anchor \"test-ca\"");
    assert_eq!(passing(&plugin, &on, &host), 3);
}

#[test]
fn whoever_a_narrow_limit_refuses_does_not_use_up_the_wide_one_behind_it() {
    let plugin = plugin(
        r#"{"limits": [{"name": "one", "per": "cn", "rate": 60, "burst": 1},
            {"name": "all", "per": "anchor", "rate": 60, "burst": 3}]}"#,
    );
    let host = MemoryHost::default();
    assert_eq!(passing(&plugin, &of(&[("cn", "loud")]), &host), 1);
    assert_eq!(passing(&plugin, &of(&[("cn", "b")]), &host), 1);
    assert_eq!(passing(&plugin, &of(&[("cn", "c")]), &host), 1);
    assert!(connects(&plugin, &of(&[("cn", "d")]), &host).contains("all: more than"));
}

#[test]
fn a_live_session_is_not_counted_again() {
    let (plugin, host) = (limit(r#""per": "cn""#), MemoryHost::default());
    let on = of(&[("cn", "d")]);
    assert_eq!(passing(&plugin, &on, &host), 2);
    assert_eq!(passing(&plugin, &testing::reauthorized(on, 1_800_000_000_000), &host), 10);
}

#[test]
fn a_client_that_names_an_authentication_method_is_counted_by_the_authorizer() {
    let (plugin, host) = (limit(r#""per": "cn""#), MemoryHost::default());
    let who = Identity::new("d");
    let passing = |on: &Connection| {
        (0..10).filter(|_| plugin.authorize(on, &who, &host) == Ok(Authorization::Abstain)).count()
    };
    let mut on = of(&[("cn", "d")]);
    // Its authenticators counted the others.
    assert_eq!(passing(&on), 10);
    on.connect.authentication_method = Some("SCRAM-SHA-256".into());
    assert_eq!(passing(&on), 2);
    let Ok(Authorization::Deny(denial)) = plugin.authorize(&on, &who, &host) else { panic!("passed") };
    assert_eq!(denial.reason, ConnackReason::ConnectionRateExceeded);
    assert_eq!(passing(&testing::reauthorized(on, 1_800_000_000_000)), 10);
}

#[test]
fn who_cannot_be_counted_is_refused_unless_told_otherwise() {
    let host = MemoryHost::default();
    *host.unavailable.borrow_mut() = true;
    let on = of(&[("cn", "d")]);
    assert!(matches!(limit(r#""per": "cn""#).authenticate(&on, &host), Err(HookError::Transient(_))));
    let open = plugin(r#"{"unavailable": "let-pass", "limits": [{"name": "l", "per": "cn", "rate": 1}]}"#);
    assert_eq!(passing(&open, &on, &host), 10);
    let messages = host.messages.borrow();
    assert!(messages[0].0 == Level::Warn && messages[0].1.contains("not counted"), "{messages:?}");
}
