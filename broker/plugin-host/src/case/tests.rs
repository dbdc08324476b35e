//! What is in a file of cases, and what is wrong with it.

use std::path::PathBuf;

use mqgate_identity::hooks::Connection;
use serde_json::{Value, json};

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn with(self, name: &str, content: &str) -> Self {
        std::fs::write(self.path(name), content).expect("written");
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn read_json(value: &Value) -> Result<Vec<Case>, String> {
    let folder = Folder::new().with("cases.json", &value.to_string());
    read(&folder.path("cases.json"))
        .map_err(|error| error.to_string().replace(&folder.0.path().display().to_string(), "."))
}

fn certificate() -> (rcgen::Certificate, String) {
    let mut params = rcgen::CertificateParams::new(vec![String::from("meter.example")]).expect("names");
    params.distinguished_name.push(rcgen::DnType::CommonName, "meter-7");
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("signed");
    let pem = certificate.pem();
    (certificate, pem)
}

#[test]
fn a_short_case_is_a_whole_question() {
    let cases =
        read_json(&json!({ "name": "n", "hook": "authenticator", "expect": "deny" })).expect("a case");
    let [case] = cases.as_slice() else { panic!("{cases:?}") };
    let on: &Connection = case.connection();
    assert_eq!((&*on.listener, on.connect.client_id.as_str()), ("mqtts", "client"));
    assert_eq!(on.accepted_at.0, 1_767_225_600_000, "the host's clock");
    assert!(on.tls.is_none() && on.certificate.is_none() && on.connect.password.is_none());
}

#[test]
fn what_cases_have_in_common_is_written_once() {
    let (_, pem) = certificate();
    let folder = Folder::new().with("meter.pem", &pem).with(
        "cases.json",
        &json!({
            "common": {
                "plugin": { "config": { "a": 1, "b": 2 } },
                "connection": { "certificate": "meter.pem", "connect": { "client_id": "meter-7" } },
                "expect": { "verdict": "accept", "device_id": "meter-7" },
            },
            "cases": [
                { "name": "as it is", "hook": "authenticator" },
                { "name": "laid over", "hook": "authenticator",
                  "plugin": { "config": { "b": 3 } },
                  "connection": { "certificate": null, "connect": { "user_name": "u" } },
                  "expect": { "verdict": "deny" } },
                { "name": "no TLS", "hook": "authenticator", "connection": { "tls": null } },
            ],
        })
        .to_string(),
    );
    let cases = read_all(folder.0.path()).expect("cases");
    let [plain, other, bare] = cases.as_slice() else { panic!("{cases:?}") };
    let leaf = &plain.connection().certificate.as_ref().expect("a certificate").leaf;
    assert!(leaf.subject.display.contains("meter-7"), "{}", leaf.subject.display);
    assert!(plain.connection().tls.is_some(), "a certificate comes with TLS");
    assert_eq!(other.plugin.config(), json!({ "a": 1, "b": 3 }));
    let on = other.connection();
    assert!(on.certificate.is_none() && on.tls.is_none());
    assert_eq!((on.connect.client_id.as_str(), on.connect.user_name.as_deref()), ("meter-7", Some("u")));
    let deny = Answer { verdict: Verdict::Deny, ..Answer::default() };
    assert_eq!(other.differences(&deny), [], "the expectation is another one, not both");
    assert!(bare.connection().tls.is_none() && bare.connection().certificate.is_some());
}

#[test]
fn one_case_per_line_is_read_line_by_line() {
    let lines =
        "{\"common\":{\"hook\":\"registrar\"}}\n\n{\"name\":\"a\"}\n{\"name\":\"b\",\"identity\":\"d\"}\n";
    for name in ["cases.ndjson", "cases.json"] {
        let folder = Folder::new().with(name, lines);
        let cases = read(&folder.path(name)).expect(name);
        let names: Vec<_> = cases.iter().map(|case| (case.name.as_str(), case.hook())).collect();
        assert_eq!(names, [("a", "registrar"), ("b", "registrar")]);
    }
    let folder = Folder::new().with("cases.ndjson", &format!("{lines}{{\"name\":7}}\n"));
    let error = read(&folder.path("cases.ndjson")).expect_err("a bad line").to_string();
    assert!(error.contains("cases.ndjson, line 5: name: invalid type"), "{error}");
}

#[test]
fn an_error_says_where_and_what_to_do() {
    let case = |more: Value| {
        let mut case = json!({ "name": "n", "hook": "authenticator" });
        for (name, value) in more.as_object().expect("fields") {
            case[name] = value.clone();
        }
        case
    };
    for (more, expected) in [
        (json!({ "hook": "auditor" }), "case \"n\": hook: unknown variant `auditor`"),
        (json!({ "nmae": "x" }), "unknown field `nmae`"),
        (json!({ "connection": { "peer": "nowhere" } }), "connection.peer: \"nowhere\" is no IP address"),
        (json!({ "connection": { "connect": { "keepalive": 1 } } }), "unknown field `keepalive`"),
        (
            json!({ "connection": { "certificate": "no.pem" } }),
            "connection.certificate: ./no.pem cannot be read",
        ),
        (
            json!({ "connection": { "certificate": { "der": "AAAA" } } }),
            "the broker refuses it before any plugin",
        ),
        (json!({ "connection": { "certificate": {} } }), "write one of \"file\", \"pem\" and \"der\""),
        (json!({ "hook": "authorizer" }), "write \"identity\": \"DEVICE-ID\""),
        (json!({ "identity": "d" }), "an authenticator is not told one"),
        (json!({ "hook": "enhanced-authenticator" }), "write \"exchange\""),
        (json!({ "plugin": { "grant": ["root"] } }), "plugin.grant[0]: unknown variant `root`"),
        (json!({ "plugin": { "limits": { "cpu": "fast" } } }), "plugin.limits.cpu: \"fast\" is no duration"),
        (json!({ "plugin": { "http_allow": ["ftp://x"] } }), "plugin.http_allow"),
        (
            json!({ "host": { "http": { "https://x": { "status": 200 } } } }),
            "is not like \"GET https://host/path\"",
        ),
        (json!({ "host": { "http": { "GET https://x": {} } } }), "write \"status\" or \"failure\""),
        (json!({ "host": { "clock": "soon" } }), "host.clock: \"soon\" is no time"),
        (json!({ "expect": { "verdict": "maybe" } }), "expect.verdict: unknown variant `maybe`"),
        (json!({ "answer": { "verdict": "deny" } }), "what you expect is written as \"expect\""),
    ] {
        let error = read_json(&case(more.clone())).expect_err(&more.to_string());
        assert!(error.starts_with("./cases.json, case \"n\": "), "{error}");
        assert!(error.contains(expected), "{error}");
    }
    let twice = json!([{ "name": "n", "hook": "registrar" }, { "name": "n", "hook": "registrar" }]);
    let folder = Folder::new().with("cases.json", &twice.to_string());
    let error = read_all(folder.0.path()).expect_err("one name twice").to_string();
    assert!(error.contains("another case has it"), "{error}");
}

#[test]
fn a_redacted_secret_matters_to_those_who_would_be_shown_it() {
    let cases = read_json(&json!({
        "name": "n", "hook": "authenticator",
        "connection": { "connect": { "password": { "redacted": true } } },
    }));
    let case = cases.expect("a case").remove(0);
    assert_eq!(case.hidden(&BTreeSet::new()), [""; 0]);
    assert_eq!(case.hidden(&BTreeSet::from([Capability::Credentials])), ["connection.connect.password"]);
    let cases = read_json(&json!({
        "name": "n", "hook": "enhanced-authenticator",
        "exchange": { "method": "M", "data": { "redacted": true } },
    }));
    assert_eq!(cases.expect("a case")[0].hidden(&BTreeSet::new()), ["exchange"]);
}
