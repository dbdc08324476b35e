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

/// Cedar would go on without that policy, and the one that forbids would be gone.
#[test]
fn a_policy_that_cannot_be_evaluated_is_a_refusal() {
    let plugin = plugin(
        r#"permit (principal, action, resource);
        @id("short-lived")
        forbid (principal, action == Action::"subscribe", resource)
        when { context has certificate && context.certificate.notAfter * 9000000000 > 0 };"#,
    );
    let mut on = of(&[("ou", "x")]);
    let refused = says(&plugin, &on, &meter("meter")).unwrap_err();
    assert!(refused.contains("overflow") && refused.contains("short-lived"), "{refused}");
    on.certificate.as_mut().unwrap().leaf.not_after = 0;
    assert_eq!(says(&plugin, &on, &meter("meter")).unwrap().len(), 6);
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
    let mut facts: Vec<(String, bool)> = Vec::new();
    for (fact, holds) in [
        (r#"context has address && context.address.isInRange(ip("192.0.2.0/24"))"#, true),
        (r#"context has address && context.address.isInRange(ip("198.51.100.0/24"))"#, false),
        (r#"context.listener == "mqtts" && context.clientId == "client""#, true),
        (r#"context has userName && context.userName == "u""#, true),
        (r#"context has tls && context.tls == "1.3" && context.protocolLevel == 5"#, true),
        (r#"principal in Tenant::"acme""#, true),
        (r#"principal in Tenant::"other" || principal in Tag::"acme""#, false),
        (r#"principal == Device::"d""#, true),
    ] {
        facts.push((fact.to_owned(), holds));
    }
    for (fact, holds) in [
        (r#"cn == ["c"]"#, true),
        (r#"cn.contains("C")"#, false),
        (r#"serialNumber.contains("sn")"#, true),
        (r#"sanUri.contains("urn:x")"#, true),
        (r#"sanDns.contains("d")"#, true),
        (r#"sanEmail.contains("e")"#, true),
        (r#"issuerCn.contains("Test CA")"#, true),
        (r#"issuerDn.contains("CN=Test CA,O=Test")"#, true),
        (r#"issuerOu.isEmpty()"#, true),
        (r#"anchor.contains("test-ca")"#, true),
        (r#"serial == ["01"]"#, true),
        (r#"keyBits == 256"#, true),
        (r#"notAfter - context.certificate.notBefore <= 2592000"#, true),
    ] {
        facts.push((format!("context has certificate && context.certificate.{fact}"), holds));
    }
    for (fact, holds) in facts {
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

/// Policies are checked against the schema, and asked with these: the two must be about the same.
#[test]
fn what_policies_are_told_is_what_the_schema_has() {
    let plugin = plugin(POLICIES);
    let schema = schema::Types::built_in().schema().unwrap();
    let conforms = |on: &Connection| {
        let client = Client::new(&plugin.config, on, &Identity::new("d")).unwrap();
        for (action, resource) in [
            (&plugin.connect, &plugin.broker),
            (&plugin.publish, &plugin.config.topics[0].uid),
            (&plugin.subscribe, &plugin.config.topics[0].uid),
        ] {
            let (principal, context) = (client.principal.clone(), client.context.clone());
            Request::new(principal, action.clone(), resource.clone(), context, Some(&schema)).unwrap();
        }
    };
    let mut on = of(&[("cn", "c"), ("o", "acme")]);
    on.connect.user_name = Some("u".into());
    conforms(&on);
    on.tls = None;
    on.connect.user_name = None;
    on.peer.address = String::new();
    on.certificate = None;
    conforms(&on);
}

/// What the operator wrote of one device reaches those that are in it or refer to it.
#[test]
fn devices_in_devices() {
    let config = json!({
        "policies": r#"permit (principal, action, resource);
            @id("closed") forbid (principal in Site::"closed", action, resource);
            @id("stolen") forbid (principal, action, resource)
            when { principal has via && principal.via has stolen && principal.via.stolen };
            @id("tag") forbid (principal in Tag::"x", action, resource);"#,
        "entities": [
            {"uid": {"type": "Device", "id": "gateway"}, "parents": [{"type": "Site", "id": "closed"}]},
            {"uid": {"type": "Device", "id": "child"}, "parents": [{"type": "Device", "id": "gateway"}]},
            {"uid": {"type": "Device", "id": "lost"}, "attrs": {"stolen": true}},
            {"uid": {"type": "Device", "id": "other"}, "attrs": {"via": {"__entity": {"type": "Device", "id": "lost"}}}},
            {"uid": {"type": "Device", "id": "plain"}},
        ],
        "topics": [{"filter": "a"}],
        "limits": {"maximum-qos": 1},
    });
    let plugin = Cedar::init(&testing::context(&config.to_string()), &MemoryHost::default()).unwrap();
    let on = testing::connection(None);
    let refused = |who: &Identity| says(&plugin, &on, who).unwrap_err();
    assert_eq!(refused(&Identity::new("gateway")), "connect is forbidden by closed");
    assert_eq!(refused(&Identity::new("child")), "connect is forbidden by closed");
    assert_eq!(refused(&Identity::new("other")), "connect is forbidden by stolen");
    assert!(says(&plugin, &on, &Identity::new("plain")).is_ok());
    // Tags and tenants come on top, also of a device whose parents are not written.
    let tagged = |id: &str| Identity { tags: vec!["x".into()], ..Identity::new(id) };
    assert_eq!(refused(&tagged("plain")), "connect is forbidden by tag");
    assert_eq!(refused(&tagged("nobody")), "connect is forbidden by tag");
}

/// A device is the one that the chain said it is, whatever its certificate and CONNECT say.
#[test]
fn a_device_does_not_choose_who_it_is() {
    let plugin = plugin(r#"permit (principal == Device::"builder", action, resource);"#);
    let mut on = of(&[("cn", "builder"), ("cn", "Device::\"builder\""), ("ou", "builder"), ("o", "acme")]);
    on.connect.client_id = "builder".into();
    on.connect.user_name = Some("builder".into());
    for other in
        ["Builder", "builder ", "builder\0", "BUILDER", "build\u{435}r", "Device::\"builder\"", "builder\""]
    {
        let who = Identity { tenant: Some("builder".into()), ..meter("builder") };
        let who = Identity { device_id: other.into(), ..who };
        assert_eq!(says(&plugin, &on, &who).unwrap_err(), "no policy permits connect", "{other:?}");
    }
    assert!(says(&plugin, &on, &Identity::new("builder")).is_ok());
}
