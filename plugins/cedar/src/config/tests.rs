//! What is refused before any client comes, and how it is said.

use mqgate_plugin_sdk::testing;

use super::*;

fn read(changes: Value) -> Result<Config, (String, String)> {
    let mut config = json!({"policies": "permit(principal, action, resource);", "topics": [{"filter": "a"}]});
    for (name, value) in changes.as_object().unwrap() {
        config[name] = value.clone();
    }
    Config::read(&testing::context(&config.to_string())).map_err(|error| match error {
        InitError::InvalidConfig(problems) => (problems[0].at.clone(), problems[0].message.clone()),
        InitError::Failed(message) => (String::new(), message),
    })
}

fn refused(changes: Value) -> (String, String) {
    let shown = changes.to_string();
    read(changes).err().unwrap_or_else(|| panic!("{shown} was taken"))
}

/// What is said of policies; `None` if they are taken.
fn said(policies: &str) -> Option<String> {
    let entities = json!([
        {"uid": {"type": "Device", "id": "d"}, "attrs": {"level": 3, "site": {"name": "x"}, "seen": [], "at": {"__extn": {"fn": "ip", "arg": "::1"}}, "since": {"__extn": {"fn": "datetime", "arg": "2026-01-01"}}},
         "parents": [{"type": "Role", "id": "builders"}]},
        {"uid": {"type": "Device", "id": "e"}, "attrs": {"gateway": {"__entity": {"type": "Device", "id": "d"}}, "seen": [1]}},
    ]);
    let topics = json!([{"filter": "a/#", "in": ["all"]}]);
    match read(json!({"policies": policies, "entities": entities, "topics": topics})) {
        Ok(_) => None,
        Err((at, why)) => {
            assert_eq!(at, "/policies", "{why}");
            Some(why)
        }
    }
}

fn entity(kind: &str, id: &str) -> Value {
    json!({"uid": {"type": kind, "id": id}, "attrs": {}, "parents": []})
}

#[test]
fn mistakes_are_pointed_at() {
    let at = |changes: Value| refused(changes).0;
    assert!(read(json!({})).is_ok());
    assert_eq!(at(json!({"policies": " ".repeat(65537)})), "/policies");
    assert_eq!(at(json!({"policy": ""})), "/policy");
    assert_eq!(at(json!({"topics": [{"filter": "a"}, {"filter": "a/#/b"}]})), "/topics/1/filter");
    assert_eq!(at(json!({"topics": [{"filter": "a"}, {"filter": "a"}]})), "/topics/1/filter");
    assert_eq!(at(json!({"topics": [{"filter": "${cn}"}]})), "/topics/0/filter");
    assert_eq!(at(json!({"limits": {"maximum-qos": 3}})), "/limits/maximum-qos");
    let many: Vec<Value> = (0..65).map(|n| json!({"filter": n.to_string()})).collect();
    assert_eq!(at(json!({"topics": many})), "/topics");
}

#[test]
fn entities_that_mislead_are_refused() {
    let at = |entities: Value| refused(json!({"entities": entities})).0;
    assert_eq!(at(json!([{"uid": "x"}])), "/entities/0/uid");
    assert_eq!(at(json!([{"uid": {"type": "Tag", "id": "a"}, "parent": []}])), "/entities/0/parent");
    for own in ["Topic", "Action", "Broker", "Other::Device", "Device "] {
        assert_eq!(at(json!([entity(own, "a")])), "/entities/0", "{own}");
        let below = json!([{"uid": {"type": "Tag", "id": "a"}, "parents": [{"type": own, "id": "a"}]}]);
        assert_eq!(at(below), "/entities/0", "{own}");
    }
    assert_eq!(at(json!([entity("Device", "a"), entity("Device", "a")])), "/entities/1");
    let with = |kind: &str, id: &str, attrs: Value| json!({"uid": {"type": kind, "id": id}, "attrs": attrs});
    assert_eq!(at(json!([entity("Tag", "a"), with("Tag", "a", json!({"level": 1}))])), "/entities");
    // One attribute, two kinds: what policies say of it could hold for one of them only.
    assert_eq!(
        at(json!([with("Tag", "a", json!({"n": 1})), with("Tag", "b", json!({"n": "1"}))])),
        "/entities/1"
    );
    assert_eq!(at(json!([with("Tag", "a", json!({"n": [1, "1"]}))])), "/entities/0");
    assert_eq!(at(json!([with("Tag", "a", json!({"n": null}))])), "/entities/0");
    assert_eq!(at(json!([with("Tag", "a", json!({"n": 1.5}))])), "/entities/0");
    let below = |id: &str, above: &str| json!({"uid": {"type": "Tag", "id": id}, "parents": [{"type": "Tag", "id": above}]});
    assert_eq!(at(json!([below("a", "b"), below("b", "a")])), "/entities");
    let many: Vec<Value> = (0..1001).map(|n| entity("Tag", &n.to_string())).collect();
    assert_eq!(at(json!(many)), "/entities");
}

#[test]
fn what_does_not_parse_is_pointed_at() {
    let policies = "permit(principal, action, resource);\n  forbid(principal action, resource);";
    let why = said(policies).unwrap();
    assert!(why.starts_with("line 2, column 20: "), "{why}");
    assert!(said("permit(principal == ?principal, action, resource);").unwrap().contains("template"));
    let twice =
        r#"@id("a") permit(principal, action, resource); @id("a") forbid(principal, action, resource);"#;
    assert_eq!(said(twice).unwrap(), r#"two policies have the name "a""#);
    let taken = r#"permit(principal, action, resource); @id("policy0") forbid(principal, action, resource);"#;
    assert_eq!(said(taken).unwrap(), r#"two policies have the name "policy0""#);
    assert!(said("@id(\"\") permit(principal, action, resource);").unwrap().contains("plain text"));
    assert!(said("@id(\"a\\n\") permit(principal, action, resource);").unwrap().contains("plain text"));
}

/// Each of them would otherwise never apply, or fail for every client: a slip in one that forbids must not go unnoticed.
#[test]
fn policies_ask_for_what_there_is() {
    for (condition, word) in [
        ("context.certificate.ou.contains(\"x\")", "certificate"),
        ("context has certificat", "impossible"),
        ("context has certificate && context.certificate.oh.contains(\"x\")", "oh"),
        ("context has certificate && context.certificate.ou == \"x\"", "String"),
        ("context has certificate && context.certificate.notAfter.contains(\"x\")", "Set"),
        ("context.protocolLevel == \"5\"", "String"),
        ("context has userName && context.userName > 1", "String"),
        ("principal.level > 2", "level"),
        ("principal has level && principal.level == \"3\"", "String"),
        ("principal has lvl && principal.lvl > 2", "impossible"),
        ("principal in TopicGroup::\"all\"", "impossible"),
        ("principal in Rolle::\"builders\"", "Rolle"),
        ("principal is device", "device"),
        ("resource.filter like \"a/*\"", "filter"),
        ("principal in Tag::\"x\" && false", "false"),
        ("resource == Topic::\"a/b\"", "Topic::\"a/b\""),
        ("resource in TopicGroup::\"al\"", "TopicGroup::\"al\""),
        ("resource == Broker::\"mqgat\"", "Broker::\"mqgat\""),
        ("resource in [Topic::\"a/#\", Topic::\"a/b\"]", "Topic::\"a/b\""),
        ("action == Action::\"read\"", "Action::\"read\""),
        ("principal has since && principal.since < \"2027-01-01\"", "datetime"),
        ("context.clientId == \"a\u{202e}b\"", "BIDI"),
    ] {
        let policy = format!("@id(\"careful\")\nforbid(principal, action, resource) when {{ {condition} }};");
        let why = said(&policy).unwrap_or_else(|| panic!("{condition} was taken"));
        assert!(why.contains(word) && why.contains("careful"), "{condition}: {why}");
    }
    for scope in [
        "principal, action == Action::\"read\", resource",
        "principal, action == Action::\"connect\", resource in TopicGroup::\"all\"",
        "principal, action == Action::\"publish\", resource == Broker::\"mqgate\"",
        "principal == Tag::\"x\", action, resource",
        "principal is Tenant, action, resource",
    ] {
        assert!(said(&format!("forbid({scope});")).is_some(), "{scope}");
    }
    for fine in [
        "context has certificate && context.certificate.ou.contains(\"x\")",
        "context has certificate && context.certificate.notAfter - context.certificate.notBefore > 86400",
        "context has address && context.address.isInRange(ip(\"192.0.2.0/24\"))",
        "context has tls && context.tls == \"1.3\"",
        "principal has level && principal.level > 2",
        "principal has site && principal.site has name && principal.site.name like \"a*\"",
        "principal has at && principal.at.isLoopback()",
        "principal has since && principal.since < datetime(\"2027-01-01\")",
        "principal has seen && principal.seen.contains(1)",
        "principal has gateway && principal.gateway in Role::\"builders\"",
        "resource is Topic && resource.filter like \"a/*\"",
        "principal in [Tag::\"y\", Tag::\"x\"] || principal in Tenant::\"acme\"",
        "context has certificate && context.certificate.o.contains(\"Завод Z\")",
    ] {
        let policy = format!("forbid(principal, action, resource) when {{ {fine} }};");
        assert_eq!(said(&policy), None, "{fine}");
    }
}

#[test]
fn the_place_of_a_mistake_is_told() {
    let policies = "permit(principal, action, resource);\n@id(\"level\")\nforbid(principal, action, resource)\n  when { principal has level && principal.level == \"3\" };\n";
    let why = said(policies).unwrap();
    assert!(why.starts_with("line 4, column ") && why.contains("`level`"), "{why}");
    let many = "forbid(principal, action, resource) when { context.x };\n".repeat(20);
    let why = said(&many).unwrap();
    assert!(why.starts_with("line 1, ") && why.contains("line 2, ") && why.ends_with("more"), "{why}");
}
