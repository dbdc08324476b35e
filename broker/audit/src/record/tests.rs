use proptest::prelude::*;

use super::*;

const LOG: &str = "0011223344556677";

fn place() -> Place<'static> {
    let prev = Hash([0xcd; 32]).half();
    Place { log: LOG, sequence: 42, prev, time: "2023-11-14T22:13:20.123Z", hide: None }
}

fn line(event: &AuditEvent, place: &Place<'_>) -> String {
    let mut out = Vec::new();
    encode(event, place, &mut out);
    String::from_utf8(out).unwrap()
}

fn full() -> AuditEvent {
    let mut full = AuditEvent::new(names::CONNECTION_REFUSED, Outcome::Failure, Reason::PluginDenied)
        .actor("client")
        .field("trace_id", "00ff");
    full.at = UnixMillis(1_700_000_000_123);
    full.connection_id = Some(7);
    full.client_id = Some("meter \"7\"\n".into());
    full.device_id = Some("meter-7".into());
    full.peer_address = Some("[2001:db8::1]:40000".into());
    full.listener = Some("mqtts".into());
    full.certificate_fingerprint = Some(CertificateFingerprint([0xab; 32]));
    full.subject = Some("CN=meter-7".into());
    full.server_name = Some("broker.example".into());
    full.plugins = vec![
        PluginVerdict {
            name: "cert-acl".into(),
            digest: Some("sha256:00".into()),
            hook: "authorizer",
            result: "deny",
            microseconds: 120,
        },
        PluginVerdict {
            name: "static".into(),
            digest: None,
            hook: "authenticator",
            result: "deadline",
            microseconds: 0,
        },
    ];
    for (name, value) in [
        ("plugin.count", Value::Integer(-1)),
        ("tls.resumed", Value::Boolean(true)),
        ("plugin.large", Value::Integer(i64::MAX)),
        ("plugin.list", Value::Texts(vec!["a".into(), "b".into()])),
    ] {
        full.fields.push(Attribute { name: name.into(), value });
    }
    full
}

/// A change of this text is a change of the schema: `VERSION`, docs/audit.md, the changelog.
#[test]
fn the_schema() {
    let expected = concat!(
        r#"{"actor":"client","category":"authn","client_id":"meter \"7\"\n","connection_id":7,"device_id":"meter-7","#,
        r#""fields":{"plugin.count":-1,"plugin.large":"9223372036854775807","plugin.list":["a","b"],"tls.resumed":true,"#,
        r#""trace_id":"00ff"},"fingerprint":"abababababababababababababababababababababababababababababababab","#,
        r#""listener":"mqtts","log":"0011223344556677","name":"connection.refused","outcome":"failure","#,
        r#""peer":"[2001:db8::1]:40000","plugins":[{"digest":"sha256:00","hook":"authorizer","name":"cert-acl","#,
        r#""result":"deny","us":120},{"hook":"authenticator","name":"static","result":"deadline"}],"#,
        r#""prev":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd","reason":"plugin_denied","seq":42,"#,
        r#""sni":"broker.example","subject":"CN=meter-7","time":"2023-11-14T22:13:20.123Z","v":1}"#,
    );
    assert_eq!(line(&full(), &place()), expected);
    let least = AuditEvent::new(names::BROKER_STARTED, Outcome::Success, Reason::Ok);
    let members = line(&least, &place());
    assert!(members.starts_with(
        r#"{"actor":"system","category":"system","log":"0011223344556677","name":"broker.started""#
    ));
}

#[test]
fn a_sequel_does_not_repeat_whose_connection_it_is() {
    let mut event = full();
    (event.is_sequel, event.plugins) = (true, Vec::new());
    let whole = line(&event, &place());
    for (name, value) in [("ca", "factory"), ("tls.version", "1.3"), ("proxy", "192.0.2.1")] {
        event = event.field(name, value);
    }
    let repeated = line(&event, &place());
    assert_eq!(repeated, whole);
    let expected = concat!(
        r#"{"actor":"client","category":"authn","client_id":"meter \"7\"\n","connection_id":7,"device_id":"meter-7","#,
        r#""fields":{"plugin.count":-1,"plugin.large":"9223372036854775807","plugin.list":["a","b"],"trace_id":"00ff"},"#,
        r#""log":"0011223344556677","name":"connection.refused","outcome":"failure","#,
        r#""prev":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd","reason":"plugin_denied","seq":42,"time":"2023-11-14T22:13:20.123Z","v":1}"#,
    );
    assert_eq!(repeated, expected);
    event.fields.retain(|field| field.name == "ca");
    assert!(!line(&event, &place()).contains("fields"));
}

#[test]
fn a_stamp_is_the_time() {
    let mut stamp = Stamp::default();
    let moments =
        [0, 7, 999, 1_000, 1_700_000_000_123, 1_700_000_000_045, 1_699_999_999_999, u64::MAX, u64::MAX - 1];
    for at in moments.map(UnixMillis) {
        assert_eq!(stamp.of(at), time(at));
    }
}

#[test]
fn every_member_is_documented_and_no_other() {
    let full: serde_json::Value = serde_json::from_str(&line(&full(), &place())).unwrap();
    let written: Vec<&str> = full.as_object().unwrap().keys().map(String::as_str).collect();
    let documented: Vec<&str> = MEMBERS.iter().map(|member| member.name).collect();
    assert_eq!(written, documented);
}

#[test]
fn what_was_recorded_is_read_again() {
    let mut event = full();
    let line = line(&event, &place());
    let stored = Stored { sequence: 42, line: line.clone().into_bytes().into() };
    let read = stored.event().unwrap();
    event.sequence = 42;
    event.fields.sort_by(|a, b| a.name.cmp(&b.name));
    event.fields.iter_mut().filter(|field| field.name == "plugin.large").for_each(|field| {
        field.value = Value::Text(i64::MAX.to_string());
    });
    assert_eq!(read, event);
    let record = stored.parse().unwrap();
    assert_eq!(serde_json::to_string(&record).unwrap(), line, "a parsed record is the same text again");
}

#[test]
fn what_is_hidden_is_hidden_everywhere() {
    let mut event = full().field("user_name", "secret");
    event.fields.push(Attribute { name: "names".into(), value: Value::Texts(vec!["secret".into()]) });
    event.client_id = Some("secret".into());
    let hide = |member: &str, _: &str| {
        ["client_id", "user_name", "names"].contains(&member).then(|| "hidden".to_owned())
    };
    let line = line(&event, &Place { hide: Some(&hide), ..place() });
    assert_eq!((line.contains("secret"), line.matches("hidden").count()), (false, 3), "{line}");
}

/// RFC 8785 once more, from the values instead of from the event.
fn canonical(value: &serde_json::Value, out: &mut String) {
    match value {
        serde_json::Value::Object(members) => {
            let mut names: Vec<&String> = members.keys().collect();
            names.sort_by_key(|name| name.encode_utf16().collect::<Vec<_>>());
            let parts = names.into_iter().map(|name| {
                let mut part = serde_json::to_string(name).unwrap() + ":";
                canonical(&members[name], &mut part);
                part
            });
            *out += &format!("{{{}}}", parts.collect::<Vec<_>>().join(","));
        }
        serde_json::Value::Array(items) => {
            let parts = items.iter().map(|item| {
                let mut part = String::new();
                canonical(item, &mut part);
                part
            });
            *out += &format!("[{}]", parts.collect::<Vec<_>>().join(","));
        }
        other => *out += &other.to_string(),
    }
}

proptest! {
    #[test]
    fn a_time_is_the_same_by_either_way(first in 0..253_402_300_799_000_u64, after in 0..2_000_u64) {
        let mut stamp = Stamp::default();
        for at in [first, first + after, first].map(UnixMillis) {
            prop_assert_eq!(stamp.of(at), time(at));
        }
    }

    #[test]
    fn every_record_is_canonical(
        client_id in any::<String>(),
        fields in prop::collection::vec((any::<String>(), any::<String>(), any::<i64>()), 0..12),
    ) {
        let mut event = full();
        event.client_id = Some(client_id.clone());
        for (name, text, number) in fields {
            event.fields.push(Attribute { name: name.clone(), value: Value::Text(text) });
            event.fields.push(Attribute { name: format!("{name}n"), value: Value::Integer(number) });
        }
        let line = line(&event, &place());
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(value["client_id"].as_str(), Some(&*client_id));
        let mut again = String::new();
        canonical(&value, &mut again);
        prop_assert_eq!(again, line);
    }
}
