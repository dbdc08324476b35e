//! What policies come to, as the README has it.

use mqgate_plugin_sdk::testing::{self, MemoryHost};
use mqgate_plugin_sdk::types::{AclRule, ChainStatus, ClientCertificate, GeneralName, NameAttribute};
use serde_json::json;

use super::*;

const POLICIES: &str = r#"
    @id("members")
    permit (principal, action == Action::"connect", resource)
    when { context has certificate && context.certificate.o.contains("acme") };

    @id("banned")
    forbid (principal, action, resource)
    when { context has certificate && context.certificate.ou.contains("banned") };

    @id("telemetry")
    permit (principal in Tag::"meter", action == Action::"publish", resource in TopicGroup::"telemetry");

    @id("commands")
    permit (principal, action == Action::"subscribe", resource == Topic::"commands/${device-id}/#");

    @id("no-firmware")
    forbid (principal, action == Action::"publish", resource == Topic::"meters/${device-id}/firmware")
    unless { principal in Role::"builders" };

    permit (principal in Role::"builders", action in [Action::"publish", Action::"subscribe"], resource);
"#;

fn plugin(policies: &str) -> Cedar {
    let config = json!({
        "policies": policies,
        "entities": [
            {"uid": {"type": "Device", "id": "builder"}, "attrs": {"level": 3}, "parents": [{"type": "Role", "id": "builders"}]},
            {"uid": {"type": "Tag", "id": "smart-meter"}, "attrs": {}, "parents": [{"type": "Tag", "id": "meter"}]},
        ],
        "topics": [
            {"filter": "meters/${device-id}/#", "in": ["telemetry"]},
            {"filter": "meters/${device-id}/firmware", "in": ["telemetry"]},
            {"filter": "commands/${device-id}/#"},
        ],
        "limits": {"maximum-qos": 1},
    });
    Cedar::init(&testing::context(&config.to_string()), &MemoryHost::default()).unwrap()
}

fn of(subject: &[(&str, &str)]) -> Connection {
    testing::connection(Some(testing::certificate(subject)))
}

fn meter(tag: &str) -> Identity {
    Identity { tags: vec![tag.into()], ..Identity::new("meter-7") }
}

fn says(plugin: &Cedar, on: &Connection, who: &Identity) -> Result<Vec<String>, String> {
    match plugin.authorize(on, who, &MemoryHost::default()).unwrap() {
        Authorization::Allow(grant) => {
            assert_eq!(
                (grant.otherwise, grant.limits.maximum_qos, grant.cache),
                (Effect::Deny, Some(1), None)
            );
            let Acl::Inline(lines) = grant.acl else { panic!("a named list") };
            let show = |line: &AclRule| {
                let action = if line.actions == Actions::PUBLISH { "publish" } else { "subscribe" };
                format!("{:?} {action} {}", line.effect, line.filter).replace("Effect::", "")
            };
            Ok(lines.iter().map(show).collect())
        }
        Authorization::Deny(denial) => {
            assert_eq!(denial.reason, ConnackReason::NotAuthorized);
            Err(denial.audit_detail.unwrap())
        }
        Authorization::Abstain => panic!("it has an opinion"),
    }
}

#[test]
fn the_grant_is_what_policies_permit() {
    let plugin = plugin(POLICIES);
    let on = of(&[("o", "acme"), ("cn", "meter-7")]);
    assert_eq!(
        says(&plugin, &on, &meter("meter")).unwrap(),
        [
            "Deny publish meters/${device-id}/firmware",
            "Allow publish meters/${device-id}/#",
            "Allow subscribe commands/${device-id}/#",
        ]
    );
    // A tag in a tag, by the entities of the configuration.
    assert_eq!(says(&plugin, &on, &meter("smart-meter")).unwrap().len(), 3);
    assert_eq!(
        says(&plugin, &on, &meter("pump")).unwrap(),
        ["Deny publish meters/${device-id}/firmware", "Allow subscribe commands/${device-id}/#"]
    );
    // A device with a role of its own.
    assert_eq!(says(&plugin, &on, &Identity::new("builder")).unwrap().len(), 6);
    let Ok(Authorization::Allow(grant)) = plugin.authorize(&on, &meter("meter"), &MemoryHost::default())
    else {
        panic!("refused")
    };
    let names = ["commands", "members", "no-firmware", "telemetry"].map(str::to_owned).to_vec();
    assert_eq!(grant.attributes, [Attribute { name: "policy.rule".into(), value: Value::Texts(names) }]);
}

#[test]
fn who_may_not_connect_is_refused_by_name() {
    let plugin = plugin(POLICIES);
    let refused = |on: &Connection| says(&plugin, on, &meter("meter")).unwrap_err();
    assert_eq!(refused(&of(&[("o", "other")])), "no policy permits connect");
    assert_eq!(
        refused(&of(&[("o", "acme"), ("ou", "x"), ("ou", "banned")])),
        "connect is forbidden by banned"
    );
    assert_eq!(refused(&testing::connection(None)), "no policy permits connect");
    // Anybody can write anything into a certificate that no anchor signed.
    let mut forged = of(&[("o", "acme")]);
    forged.certificate.as_mut().unwrap().chain = ChainStatus::Unverified("unknown issuer".into());
    assert_eq!(refused(&forged), "no policy permits connect");
}

#[test]
fn a_policy_that_cannot_be_evaluated_is_a_refusal() {
    let plugin = plugin(
        r#"permit (principal, action, resource);
        forbid (principal, action, resource) when { context.certificate.ou.contains("banned") };"#,
    );
    assert_eq!(says(&plugin, &of(&[("ou", "x")]), &meter("meter")).unwrap().len(), 6);
    let refused = says(&plugin, &testing::connection(None), &meter("meter")).unwrap_err();
    assert!(refused.contains("certificate"), "{refused}");
}

#[test]
fn a_field_that_is_no_text_leads_past_nothing() {
    let mut on = of(&[("o", "acme")]);
    let opaque = NameAttribute { oid: "2.5.4.11".into(), text: None, raw: b"banned".to_vec() };
    on.certificate.as_mut().unwrap().leaf.subject.attributes.push(opaque);
    assert_eq!(
        says(&plugin(POLICIES), &on, &meter("meter")).unwrap_err(),
        "ou of the certificate is not plain text"
    );
}

#[test]
fn every_fact_is_there() {
    let mut on = of(&[("cn", "c"), ("o", "acme"), ("ou", "u"), ("2.5.4.5", "sn")]);
    on.connect.user_name = Some("u".into());
    let names = &mut on.certificate.as_mut().unwrap().leaf.subject_alt_names;
    *names =
        vec![GeneralName::Uri("urn:x".into()), GeneralName::Dns("d".into()), GeneralName::Email("e".into())];
    for (fact, holds) in [
        (r#"context.address.isInRange(ip("192.0.2.0/24"))"#, true),
        (r#"context.address.isInRange(ip("198.51.100.0/24"))"#, false),
        (r#"context.listener == "mqtts" && context.clientId == "client" && context.userName == "u""#, true),
        (r#"context.tls == "1.3" && context.protocolLevel == 5"#, true),
        (r#"context.certificate.cn == ["c"] && context.certificate.serialNumber.contains("sn")"#, true),
        (r#"context.certificate.sanUri.contains("urn:x") && context.certificate.sanDns.contains("d")"#, true),
        (
            r#"context.certificate.sanEmail.contains("e") && context.certificate.issuerCn.contains("Test CA")"#,
            true,
        ),
        (
            r#"context.certificate.issuerDn.contains("CN=Test CA,O=Test") && context.certificate.anchor.contains("test-ca")"#,
            true,
        ),
        (r#"context.certificate.serial == ["01"] && context.certificate.keyBits == 256"#, true),
        (r#"context.certificate.notAfter - context.certificate.notBefore <= 2592000"#, true),
        (r#"context.certificate.issuerOu.isEmpty() && principal in Tenant::"acme""#, true),
    ] {
        let plugin = plugin(&format!("permit (principal, action, resource) when {{ {fact} }};"));
        let who = Identity { tenant: Some("acme".into()), ..Identity::new("d") };
        let said = says(&plugin, &on, &who);
        assert_eq!(said.is_ok(), holds, "{fact}: {said:?}");
    }
}

#[test]
fn odd_names_are_only_names() {
    let plugin = plugin(POLICIES);
    for odd in ["\"", "\\", "'; permit(principal, action, resource);", "__entity", "é\u{301}"] {
        let mut who = meter("meter");
        who.device_id = odd.into();
        who.tags.push(odd.into());
        let on = of(&[("o", "acme"), ("cn", odd)]);
        assert_eq!(says(&plugin, &on, &who).unwrap().len(), 3, "{odd:?}");
    }
    let many = testing::certificate(&vec![("ou", "x"); 1000]);
    let on = testing::connection(Some(ClientCertificate { ..many }));
    assert_eq!(says(&plugin, &on, &meter("meter")).unwrap_err(), "no policy permits connect");
}

#[test]
fn what_is_not_an_address_is_left_out() {
    let plugin = plugin(r#"permit (principal, action, resource) when { !(context has address) };"#);
    let mut on = testing::connection(None);
    on.peer.address = String::new();
    assert!(says(&plugin, &on, &meter("meter")).is_ok());
}
