//! What each certificate comes to, as the README has it.

use mqgate_plugin_sdk::testing::{self, MemoryHost};
use mqgate_plugin_sdk::types::{
    AclRule, Actions, CacheScope, ChainStatus, ClientCertificate, GeneralName, KeyUsage, TrustAnchor,
};

use super::*;

const CONFIG: &str = r#"{
    "trust-domains": [
        {"name": "plant.example", "anchors": ["test-ca"]},
        {"name": "partner.example", "anchors": ["partner-ca"]}
    ],
    "ids": [
        {"name": "retired", "path": "/region/eu/meter/m-0", "refuse": true},
        {"name": "meters", "trust-domain": "plant.example", "path": "/region/${region}/meter/${id}",
         "device-id": "${region}:${id}", "tenant": "${region}", "tags": ["meter", "region-${region}"],
         "allow-publish": ["meters/${region}/${id}/#"],
         "deny-publish": ["meters/${region}/${id}/secret"],
         "allow-subscribe": ["commands/${device-id}"],
         "limits": {"maximum-qos": 1}},
        {"name": "guests", "trust-domain": "partner.example", "path": "/${name}",
         "device-id": "${name}@${trust-domain}"}
    ]
}"#;

/// A certificate with these URIs, of this anchor.
fn svid(uris: &[&str], anchor: &str) -> ClientCertificate {
    let mut certificate = testing::certificate(&[]);
    certificate.leaf.subject_alt_names = uris.iter().map(|uri| GeneralName::Uri((*uri).into())).collect();
    certificate.leaf.key_usage = Some(KeyUsage::DIGITAL_SIGNATURE);
    certificate.chain =
        ChainStatus::Verified(TrustAnchor { name: anchor.into(), fingerprint_sha256: vec![0x33; 32] });
    certificate
}

fn plugin(config: &str) -> Spiffe {
    Spiffe::init(&testing::context(config), &MemoryHost::default()).unwrap()
}

/// The answers of both hooks; they refuse and abstain alike.
fn judged(plugin: &Spiffe, certificate: Option<ClientCertificate>) -> String {
    let host = MemoryHost::default();
    let on = testing::connection(certificate);
    let authentication = plugin.authenticate(&on, &host).unwrap();
    let authorization = plugin.authorize(&on, &Identity::new("d"), &host).unwrap();
    match (authentication, authorization) {
        (Authentication::Accept(accepted), Authorization::Allow(grant)) => {
            assert_eq!(accepted.cache, grant.cache);
            assert_eq!(grant.otherwise, Effect::Deny);
            let who = accepted.identity;
            let Acl::Inline(lines) = grant.acl else { panic!("a named list") };
            let show = |line: &AclRule| {
                let action = if line.actions == Actions::PUBLISH { "publish" } else { "subscribe" };
                let effect = if line.effect == Effect::Allow { "allow" } else { "deny" };
                format!("; {effect} {action} {}", line.filter)
            };
            let lines: String = lines.iter().map(show).collect();
            format!("{} of {:?} {:?}{lines}", who.device_id, who.tenant, who.tags)
        }
        (Authentication::Deny(one), Authorization::Deny(other)) => {
            assert_eq!(one, other);
            assert_eq!(one.reason, ConnackReason::NotAuthorized);
            one.audit_detail.unwrap()
        }
        (Authentication::Abstain, Authorization::Abstain) => "abstain".into(),
        other => panic!("the hooks disagree: {other:?}"),
    }
}

fn uri(uri: &str) -> String {
    judged(&plugin(CONFIG), Some(svid(&[uri], "test-ca")))
}

#[test]
fn a_spiffe_id_names_device_tenant_tags_and_topics() {
    assert_eq!(
        uri("spiffe://plant.example/region/eu/meter/m-7"),
        "eu:m-7 of Some(\"eu\") [\"meter\", \"region-eu\"]; deny publish meters/eu/m-7/secret; \
         allow publish meters/eu/m-7/#; allow subscribe commands/${device-id}"
    );
    let guest = svid(&["spiffe://partner.example/x"], "partner-ca");
    assert_eq!(judged(&plugin(CONFIG), Some(guest)), "x@partner.example of None []");
}

#[test]
fn the_id_reaches_grant_and_identity_and_holds_for_the_certificate() {
    let (plugin, host) = (plugin(CONFIG), MemoryHost::default());
    const URI: &str = "spiffe://plant.example/region/eu/meter/m-7";
    let on = testing::connection(Some(svid(&[URI], "test-ca")));
    let Ok(Authentication::Accept(accepted)) = plugin.authenticate(&on, &host) else { panic!("refused") };
    assert_eq!(accepted.identity.attributes, [Attribute::text("spiffe.id", URI)]);
    let Ok(Authorization::Allow(grant)) = plugin.authorize(&on, &accepted.identity, &host) else {
        panic!("refused")
    };
    assert_eq!(
        grant.attributes,
        [Attribute::text("policy.rule", "meters"), Attribute::text("spiffe.id", URI)]
    );
    assert_eq!(grant.limits.maximum_qos, Some(1));
    let hint = grant.cache.unwrap();
    assert_eq!((hint.scope, hint.ttl), (CacheScope::Certificate, 300));
}

#[test]
fn what_is_no_svid_is_left_to_others_unless_it_is_required() {
    let mut forged = svid(&["spiffe://plant.example/region/eu/meter/m-7"], "test-ca");
    forged.chain = ChainStatus::Unverified("unknown issuer".into());
    let mut named = svid(&["https://plant.example/region/eu/meter/m-7", "urn:x"], "test-ca");
    named.leaf.subject_alt_names.push(GeneralName::Dns("spiffe.example".into()));
    for certificate in [None, Some(forged), Some(svid(&[], "test-ca")), Some(named)] {
        assert_eq!(judged(&plugin(CONFIG), certificate.clone()), "abstain");
        let strict = CONFIG.replacen('{', r#"{"required": true,"#, 1);
        assert_eq!(judged(&plugin(&strict), certificate), "the client has no certificate with a SPIFFE ID");
    }
}

#[test]
fn exactly_one_uri() {
    const GOOD: &str = "spiffe://plant.example/region/eu/meter/m-7";
    let two = "an X.509-SVID has one URI; this certificate has 2";
    for uris in [[GOOD, GOOD], [GOOD, "spiffe://plant.example/region/us/meter/m-7"], ["https://x", GOOD]] {
        assert_eq!(judged(&plugin(CONFIG), Some(svid(&uris, "test-ca"))), two, "{uris:?}");
    }
    // Other kinds of names may stand beside it.
    let mut beside = svid(&[GOOD], "test-ca");
    beside.leaf.subject_alt_names.insert(0, GeneralName::Dns("m-7.example".into()));
    assert!(judged(&plugin(CONFIG), Some(beside.clone())).starts_with("eu:m-7 of"));
    // But none that could be a second URI.
    beside.leaf.subject_alt_names.push(GeneralName::Malformed((6, b"spiffe://\xff".to_vec())));
    assert_eq!(judged(&plugin(CONFIG), Some(beside)), "san.uri of the certificate is not plain text");
}

#[test]
fn a_malformed_id_is_refused_and_not_left_to_others() {
    assert_eq!(
        uri("SPIFFE://plant.example/region/eu/meter/m-7"),
        "the URI \"SPIFFE://plant.example/region/eu/meter/m-7\" does not begin with spiffe://"
    );
    assert_eq!(
        uri("spiffe://plant.example"),
        "spiffe://plant.example is a trust domain and no workload: it has no path"
    );
    assert!(uri("spiffe://Plant.example/x").ends_with("has 'P' in its trust domain"));
    assert!(uri("spiffe://plant.example/region/eu/meter/+").ends_with("has '+' in its path"));
    assert!(
        uri("spiffe://plant.example/region/eu/../meter/x").ends_with("has a segment . or .. in its path")
    );
    let long = uri(&format!("spiffe://plant.example/{}", "x".repeat(3000)));
    assert!(long.ends_with("has 3023 bytes, more than 2048") && long.len() < 400, "{long}");
}

#[test]
fn a_key_that_signs_certificates_is_no_workload() {
    const GOOD: &str = "spiffe://plant.example/region/eu/meter/m-7";
    let with = |change: fn(&mut ClientCertificate)| {
        let mut certificate = svid(&[GOOD], "test-ca");
        change(&mut certificate);
        judged(&plugin(CONFIG), Some(certificate))
    };
    assert_eq!(with(|c| c.leaf.is_ca = true), "the certificate is that of a CA");
    assert_eq!(
        with(|c| c.leaf.key_usage = Some(KeyUsage::DIGITAL_SIGNATURE | KeyUsage::KEY_CERT_SIGN)),
        "the key of the certificate is for keyCertSign"
    );
    assert_eq!(
        with(|c| c.leaf.key_usage = Some(KeyUsage::DIGITAL_SIGNATURE | KeyUsage::CRL_SIGN)),
        "the key of the certificate is for cRLSign"
    );
    assert_eq!(
        with(|c| c.leaf.key_usage = Some(KeyUsage::KEY_AGREEMENT)),
        "the key of the certificate is not for digitalSignature"
    );
    assert!(with(|c| c.leaf.key_usage = None).starts_with("eu:m-7"));
}

#[test]
fn an_anchor_vouches_for_its_trust_domain_alone() {
    let of = |uri: &str, anchor: &str| judged(&plugin(CONFIG), Some(svid(&[uri], anchor)));
    assert_eq!(
        of("spiffe://plant.example/region/eu/meter/m-7", "partner-ca"),
        "the trust anchor partner-ca does not vouch for the trust domain plant.example"
    );
    assert_eq!(of("spiffe://other.example/x", "test-ca"), "the trust domain other.example is not configured");
    // An entry of one trust domain is about no other.
    assert_eq!(
        of("spiffe://partner.example/region/eu/meter/m-7", "partner-ca"),
        "no entry is about spiffe://partner.example/region/eu/meter/m-7"
    );
}

#[test]
fn the_first_entry_that_fits_decides() {
    assert_eq!(
        uri("spiffe://plant.example/region/eu/meter/m-0"),
        "spiffe://plant.example/region/eu/meter/m-0 is refused by \"retired\""
    );
    assert_eq!(
        uri("spiffe://plant.example/region/eu/pump/m-7"),
        "no entry is about spiffe://plant.example/region/eu/pump/m-7"
    );
}

#[test]
fn names_that_are_too_long_are_refused() {
    let long = "x".repeat(257);
    assert!(uri(&format!("spiffe://plant.example/region/eu/meter/{long}")).contains("id is longer than 256"));
    let tag = "x".repeat(128);
    let refused = uri(&format!("spiffe://plant.example/region/{tag}/meter/m"));
    assert!(refused.contains("tag"), "{refused}");
}
