//! What is asked, and what each answer comes to, as the README has it.

use std::cell::RefCell;

use mqgate_plugin_sdk::testing::{self, MemoryHost};
use mqgate_plugin_sdk::types::{
    Acl, Actions, ChainStatus, ConnackReason, Effect, GeneralName, NameAttribute, Will,
};
use serde_json::{Value, json};

use super::*;

const URL: &str = "https://policy.example/v1";

fn plugin(more: &str) -> Webhook {
    let config = format!(r#"{{"url": "{URL}", "bearer-token": "t0ken"{more}}}"#);
    Webhook::init(&testing::context(&config), &MemoryHost::default()).unwrap()
}

fn host(status: u16, body: impl Into<Vec<u8>>) -> MemoryHost {
    let host = MemoryHost::default();
    let answer = HttpResponse { status, headers: Vec::new(), body: body.into() };
    host.answers.borrow_mut().insert(URL.into(), Ok(answer));
    host
}

fn client() -> Connection {
    testing::connection(Some(testing::certificate(&[("cn", "meter-7"), ("ou", "meters")])))
}

fn authenticated(answer: Value) -> Result<Authentication, HookError> {
    plugin("").authenticate(&client(), &host(200, answer.to_string()))
}

fn authorized(answer: Value) -> Result<Authorization, HookError> {
    plugin("").authorize(&client(), &Identity::new("meter-7"), &host(200, answer.to_string()))
}

#[test]
fn the_question_has_the_facts_and_no_secrets() {
    let host = host(200, r#"{"decision": "abstain"}"#);
    let mut on = client();
    on.connect.user_name = Some("u".into());
    on.connect.password = Some(b"secret".to_vec());
    on.connect.will = Some(Will { topic: "w".into(), qos: 1, retain: true, payload_length: 9 });
    on.connect.user_properties = vec![("k".into(), "v".into())];
    let leaf = &mut on.certificate.as_mut().unwrap().leaf;
    leaf.der = vec![0x30, 0];
    leaf.subject.attributes.push(NameAttribute { oid: "2.5.4.10".into(), text: None, raw: vec![0xff] });
    leaf.subject_alt_names = vec![
        GeneralName::Uri("urn:x".into()),
        GeneralName::Ip(vec![192, 0, 2, 1]),
        GeneralName::Malformed((2, vec![0xff])),
    ];
    let mut who = Identity::new("meter-7");
    who.tags = vec!["t".into()];
    assert_eq!(plugin("").authorize(&on, &who, &host), Ok(Authorization::Abstain));
    let requests = host.requests.borrow();
    let [request] = &requests[..] else { panic!("{} requests", requests.len()) };
    assert_eq!((request.method.as_str(), request.url.as_str()), ("POST", URL));
    assert!(request.headers.contains(&("authorization".into(), "Bearer t0ken".into())));
    assert!(request.headers.contains(&("content-type".into(), "application/json".into())));
    assert_eq!(request.timeout.unwrap().as_millis(), 1500);
    let asked: Value = serde_json::from_slice(&request.body).unwrap();
    let expected = json!({
        "version": 1, "hook": "authorizer", "listener": "mqtts", "address": "192.0.2.1", "via-proxy": null,
        "tls": {"version": "1.3", "server-name": null, "alpn": null},
        "connect": {
            "protocol-level": 5, "client-id": "client", "clean-start": true, "keep-alive": 60, "session-expiry": null,
            "user-name": "u", "will": {"topic": "w", "qos": 1, "retain": true}, "user-properties": [["k", "v"]]
        },
        "certificate": {
            "verified": true, "anchor": {"name": "test-ca", "fingerprint": "33".repeat(32)},
            "fingerprint": "11".repeat(32), "spki-fingerprint": "22".repeat(32), "version": 3, "serial": "01",
            "subject": [{"oid": "2.5.4.3", "text": "meter-7"}, {"oid": "2.5.4.11", "text": "meters"}, {"oid": "2.5.4.10", "text": null}],
            "issuer": [{"oid": "2.5.4.10", "text": "Test"}, {"oid": "2.5.4.3", "text": "Test CA"}],
            "not-before": 1_767_225_600, "not-after": 1_769_817_600,
            "subject-alt-names": [
                {"type": "uri", "value": "urn:x"}, {"type": "ip", "value": "c0000201"}, {"type": "malformed", "tag": 2, "value": "/w=="}
            ],
            "extended-key-usage": [], "is-ca": false, "key": {"algorithm": "1.2.840.10045.2.1", "bits": 256}
        },
        "identity": {"device-id": "meter-7", "tenant": null, "tags": ["t"]},
        "call": {"id": 1, "trace-id": "0123456789abcdef0123456789abcdef", "at": 1_767_312_000_000_u64, "live": false, "port": 50000}
    });
    assert_eq!(asked, expected);
    assert!(!String::from_utf8_lossy(&request.body).contains("secret"));
}

#[test]
fn the_certificate_as_a_whole_is_sent_where_it_is_asked_for() {
    let host = host(200, r#"{"decision": "abstain"}"#);
    let mut on = client();
    on.certificate.as_mut().unwrap().leaf.der = vec![0x30, 0];
    plugin(r#", "der": true"#).authenticate(&on, &host).unwrap();
    on.certificate.as_mut().unwrap().chain = ChainStatus::Unverified("unknown issuer".into());
    plugin("").authenticate(&on, &host).unwrap();
    on.certificate = None;
    plugin("").authenticate(&on, &host).unwrap();
    let requests = host.requests.borrow();
    let asked = |at: usize| serde_json::from_slice::<Value>(&requests[at].body).unwrap();
    assert_eq!(asked(0)["certificate"]["der"], "MAA=");
    assert_eq!(
        (&asked(1)["certificate"]["verified"], &asked(1)["certificate"]["anchor"]),
        (&json!(false), &Value::Null)
    );
    assert_eq!(asked(2)["certificate"], Value::Null);
}

#[test]
fn a_device_is_accepted() {
    let answer =
        json!({"decision": "accept", "device-id": "m", "tenant": "acme", "tags": ["a"], "cache": 60});
    let Ok(Authentication::Accept(accepted)) = authenticated(answer) else { panic!("not accepted") };
    assert_eq!(
        (accepted.identity.device_id.as_str(), accepted.identity.tenant.as_deref()),
        ("m", Some("acme"))
    );
    assert_eq!((accepted.identity.tags, accepted.cache), (vec!["a".to_owned()], None));
}

#[test]
fn topics_and_limits_are_granted() {
    let answer = json!({"decision": "allow", "valid-for": 60, "limits": {"maximum-qos": 1},
        "topics": {"allow-publish": ["m/${device-id}/#"], "deny-publish": ["m/x"], "allow-subscribe": ["+/c"]}});
    let Ok(Authorization::Allow(grant)) = authorized(answer) else { panic!("not allowed") };
    let Acl::Inline(rules) = &grant.acl else { panic!("a named list") };
    let shown: Vec<_> = rules.iter().map(|rule| (rule.effect, rule.actions, rule.filter.as_str())).collect();
    assert_eq!(
        shown,
        [
            (Effect::Deny, Actions::PUBLISH, "m/x"),
            (Effect::Allow, Actions::PUBLISH, "m/${device-id}/#"),
            (Effect::Allow, Actions::SUBSCRIBE, "+/c"),
        ]
    );
    assert_eq!(
        (grant.otherwise, grant.valid_for, grant.limits.maximum_qos),
        (Effect::Deny, Some(60), Some(1))
    );
    let Ok(Authorization::Allow(grant)) = authorized(json!({"decision": "allow"})) else {
        panic!("not allowed")
    };
    assert_eq!(grant.acl, Acl::Inline(Vec::new()));
}

#[test]
fn a_client_is_refused_with_a_reason() {
    let Ok(Authentication::Deny(denial)) = authenticated(json!({"decision": "deny"})) else {
        panic!("not denied")
    };
    assert_eq!(
        (denial.reason, denial.audit_detail.as_deref()),
        (ConnackReason::NotAuthorized, Some("the service refuses it"))
    );
    let answer =
        json!({"decision": "deny", "reason": "quota-exceeded", "message": "go away", "detail": "too many"});
    let Ok(Authorization::Deny(denial)) = authorized(answer) else { panic!("not denied") };
    assert_eq!(denial.reason, ConnackReason::QuotaExceeded);
    assert_eq!(
        (denial.client_message.as_deref(), denial.audit_detail.as_deref()),
        (Some("go away"), Some("too many"))
    );
}

#[test]
fn what_is_no_answer_is_no_decision() {
    for answer in [
        json!({}),
        json!([]),
        json!({"decision": "yes"}),
        json!({"decision": "allow", "device-id": "m"}),
        json!({"decision": "accept"}),
        json!({"decision": "accept", "device-id": ""}),
        json!({"decision": "accept", "device-id": "a/#"}),
        json!({"decision": "accept", "device-id": "m", "tenant": "+"}),
        json!({"decision": "accept", "device-id": "m", "tenannt": "acme"}),
        json!({"decision": "accept", "device-id": "m", "tags": [""]}),
        json!({"decision": "accept", "device-id": "m", "tags": vec!["t"; 65]}),
        json!({"decision": "accept", "device-id": 7}),
        json!({"decision": "deny", "reason": "because"}),
        json!({"decision": "deny", "detail": "x".repeat(4097)}),
        json!({"decision": "abstain", "device-id": "m"}),
    ] {
        assert!(matches!(authenticated(answer.clone()), Err(HookError::Permanent(_))), "{answer}");
    }
    for answer in [
        json!({"decision": "accept", "device-id": "m"}),
        json!({"decision": "allow", "topics": {"allow-publish": ["a/#/b"]}}),
        json!({"decision": "allow", "topics": {"allow-publish": ["a/${cn}"]}}),
        json!({"decision": "allow", "topics": {"allow": ["a"]}}),
        json!({"decision": "allow", "limits": {"maximum-qos": 3}}),
        json!({"decision": "allow", "limits": {"qos": 1}}),
        json!({"decision": "allow", "valid-for": 0}),
        json!({"decision": "allow", "valid-for": -1}),
    ] {
        assert!(matches!(authorized(answer.clone()), Err(HookError::Permanent(_))), "{answer}");
    }
    for body in ["", "<html>", "{\"decision\": \"abstain\"} x", "null"] {
        assert!(plugin("").authenticate(&client(), &host(200, body)).is_err(), "{body}");
    }
}

#[test]
fn every_failure_is_no_decision() {
    const YES: &str = r#"{"decision": "accept", "device-id": "m"}"#;
    for status in [201, 204, 301, 302, 400, 401, 403, 404, 429, 500, 503] {
        let failed = plugin("").authenticate(&client(), &host(status, YES));
        assert_eq!(failed, Err(HookError::Transient(format!("the service answers with status {status}"))));
    }
    for (error, is_transient) in [
        (HttpError::Invalid("x".into()), false),
        (HttpError::Refused("x".into()), false),
        (HttpError::AnswerTooLarge("x".into()), false),
        (HttpError::Timeout("x".into()), true),
        (HttpError::Unreachable("x".into()), true),
        (HttpError::Failed("x".into()), true),
    ] {
        let host = MemoryHost::default();
        host.answers.borrow_mut().insert(URL.into(), Err(error.clone()));
        let failed = plugin("").authorize(&client(), &Identity::new("m"), &host).unwrap_err();
        assert_eq!(matches!(failed, HookError::Transient(_)), is_transient, "{error:?}: {failed:?}");
        // Once more only where there was no connection.
        let expected = if matches!(error, HttpError::Unreachable(_)) { 2 } else { 1 };
        assert_eq!(host.requests.borrow().len(), expected, "{error:?}");
    }
    let large = host(200, format!("{YES}{}", " ".repeat(65536)));
    assert!(plugin("").authenticate(&client(), &large).is_err());
    let small = plugin(r#", "maximum-answer": 40"#);
    assert!(small.authenticate(&client(), &host(200, YES)).is_ok());
    assert!(plugin(r#", "maximum-answer": 39"#).authenticate(&client(), &host(200, YES)).is_err());
}

#[test]
fn a_hook_that_is_not_configured_has_no_opinion_and_asks_nobody() {
    let host = host(200, "{}");
    let one = plugin(r#", "hooks": ["authorizer"]"#);
    assert_eq!(one.authenticate(&client(), &host), Ok(Authentication::Abstain));
    let other = plugin(r#", "hooks": ["authenticator"]"#);
    assert_eq!(other.authorize(&client(), &Identity::new("m"), &host), Ok(Authorization::Abstain));
    assert!(host.requests.borrow().is_empty());
}

/// How many of these questions, asked one after the other, reach the service.
fn asked(more: &str, answer: &Value, clients: &[Connection]) -> usize {
    let host = host(200, answer.to_string());
    for on in clients {
        plugin(more).authenticate(on, &host).unwrap();
    }
    host.requests.into_inner().len()
}

#[test]
fn an_answer_is_kept_for_the_same_facts_only() {
    let keep = json!({"decision": "accept", "device-id": "m", "cache": 60});
    let again = || Connection { id: 2, trace_id: "f".repeat(32), accepted_at: 9, ..client() };
    assert_eq!(asked("", &keep, &[client(), again()]), 1);
    // The service did not say so, or the operator does not want it.
    assert_eq!(asked("", &json!({"decision": "accept", "device-id": "m"}), &[client(), client()]), 2);
    assert_eq!(asked(r#", "maximum-cache": 0"#, &keep, &[client(), client()]), 2);
    // A live session is not judged by what was kept.
    assert_eq!(asked("", &keep, &[client(), testing::reauthorized(client(), 5)]), 2);
    let changes: [fn(&mut Connection); 6] = [
        |on| on.connect.client_id = "other".into(),
        |on| on.connect.user_name = Some("other".into()),
        |on| on.peer.address = "192.0.2.2".into(),
        |on| on.listener = "other".into(),
        |on| on.certificate = None,
        |on| on.certificate.as_mut().unwrap().leaf.fingerprint_sha256[0] = 0,
    ];
    for change in changes {
        let mut other = client();
        change(&mut other);
        assert_eq!(asked("", &keep, &[client(), other]), 2);
    }
    // Another configuration, another question; and what one hook is told is no answer to the other.
    let host = host(200, keep.to_string());
    plugin("").authenticate(&client(), &host).unwrap();
    plugin(r#", "timeout": 9"#).authenticate(&client(), &host).unwrap();
    assert!(plugin("").authorize(&client(), &Identity::new("m"), &host).is_err());
    assert_eq!(host.requests.borrow().len(), 3);
}

#[test]
fn answers_are_kept_no_longer_than_anybody_allows() {
    use mqgate_plugin_sdk::types::{Entry, KeyValueError, Page, Seconds};
    /// Remembers for how long things are kept.
    struct Keeper(MemoryHost, RefCell<Vec<Option<Seconds>>>);
    impl KeyValue for Keeper {
        fn get(&self, _: &str) -> Result<Option<Entry>, KeyValueError> {
            Err(KeyValueError::Denied)
        }
        fn set(&self, _: &str, _: &[u8], ttl: Option<Seconds>) -> Result<(), KeyValueError> {
            self.1.borrow_mut().push(ttl);
            Err(KeyValueError::QuotaExceeded)
        }
        fn swap(&self, _: &str, _: Option<u64>, _: &[u8], _: Option<Seconds>) -> Result<u64, KeyValueError> {
            Err(KeyValueError::Denied)
        }
        fn add(&self, _: &str, _: i64, _: Option<Seconds>) -> Result<i64, KeyValueError> {
            Err(KeyValueError::Denied)
        }
        fn delete(&self, _: &str) -> Result<(), KeyValueError> {
            Err(KeyValueError::Denied)
        }
        fn list(&self, _: &str, _: Option<&str>, _: u32) -> Result<Page, KeyValueError> {
            Err(KeyValueError::Denied)
        }
    }
    impl Http for Keeper {
        fn send(&self, request: &HttpRequest) -> Result<HttpResponse, HttpError> {
            self.0.send(request)
        }
    }
    impl Log for Keeper {
        fn enabled(&self, _: Level) -> bool {
            true
        }
        fn log(&self, level: Level, message: &str, fields: &[mqgate_plugin_sdk::types::Attribute]) {
            self.0.log(level, message, fields);
        }
    }
    let kept = |answer: Value| {
        let keeper = Keeper(host(200, answer.to_string()), RefCell::default());
        let plugin = plugin("");
        let asked = (Hook::Authorizer, None);
        // A space that is full or out of order is no reason to refuse anybody.
        assert!(plugin.ask(&client(), asked, &keeper, answer::authorization, Authorization::Deny).is_ok());
        keeper.1.into_inner()
    };
    assert_eq!(kept(json!({"decision": "allow", "cache": 60})), [Some(60)]);
    assert_eq!(kept(json!({"decision": "allow", "cache": 9999})), [Some(300)]);
    assert_eq!(kept(json!({"decision": "allow", "cache": 60, "valid-for": 5})), [Some(5)]);
    assert_eq!(kept(json!({"decision": "deny", "cache": 7})), [Some(7)]);
    assert_eq!(kept(json!({"decision": "abstain"})), []);
}

/// A plugin that fails for a few clients is not asked for any: no client has that in its hand.
#[test]
fn a_client_that_says_too_much_is_refused_and_is_no_failure() {
    let refused = |on: &Connection, host: &MemoryHost| match plugin("").authenticate(on, host) {
        Ok(Authentication::Deny(denial)) => denial.audit_detail.unwrap(),
        other => panic!("{other:?}"),
    };
    let host = MemoryHost::default();
    host.answers.borrow_mut().insert(URL.into(), Err(HttpError::TooLarge("x".into())));
    assert_eq!(refused(&client(), &host), "it says more than the service may be sent: x");
    let who = Identity::new("meter-7");
    assert!(matches!(plugin("").authorize(&client(), &who, &host), Ok(Authorization::Deny(_))));
    assert_eq!(host.requests.borrow().len(), 2);
}
