//! Cases asked apart from a broker: what a plugin sees of the world is what stands in them.

use mqgate_plugin_host::case::{self, Case, LimitsOfCase, Verdict};
use mqgate_plugin_host::offline::{Instance, Offline, OfflineError};
use mqgate_plugin_host::{HostSettings, PluginSettings, Source};
use serde_json::{Value, json};

use crate::built::component;
use crate::guest::{ABSTAIN, Guest, TRAP, accepts_as};

pub fn offline(component: Vec<u8>) -> Offline {
    // A loaded machine is no failure.
    limited(component, &["wall=20s", "init=20s"])
}

/// For components that compute so much that a host without optimisation needs most of the time they have.
pub fn unhurried(component: Vec<u8>) -> Offline {
    limited(component, &["wall=20s", "init=20s", "cpu=10s"])
}

fn limited(component: Vec<u8>, limits: &[&str]) -> Offline {
    let offline = Offline::new("p", Source::Bytes(component.into()), HostSettings::default());
    let mut patient = LimitsOfCase::default();
    for limit in limits {
        patient.set(limit).expect("a limit");
    }
    offline.expect("it compiles").with_limits(LimitsOfCase::default(), patient)
}

pub fn case(value: &Value) -> Case {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("case.json");
    std::fs::write(&file, value.to_string()).expect("written");
    case::read(&file).expect("a case").remove(0)
}

/// What the plugin said, as the detail for the audit log.
fn detail(offline: &mut Offline, value: &Value) -> String {
    let ran = offline.run(&case(value), Instance::Fresh).expect("asked");
    ran.answer
        .audit_detail
        .unwrap_or_else(|| panic!("{value}: {}", serde_json::to_string(&ran.answer.verdict).expect("JSON")))
}

#[test]
fn a_plugin_that_remembers_is_found_out_by_a_used_instance() {
    // A device id of as many bytes as the instance has seen calls.
    let counting = "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (i32.store (i32.const 2056) (i32.const 64)) (i32.store (i32.const 2060) (global.get $calls))
        (i32.const 2048)";
    let mut offline = offline(Guest::new().text("xxxx").authenticator(counting).build());
    let one = case(&json!({ "name": "n", "hook": "authenticator", "expect": { "device_id": "x" } }));
    let told = |offline: &mut Offline, instance| {
        let ran = offline.run(&one, instance).expect("asked");
        (ran.answer.device_id.clone(), ran.fresh, one.differences(&ran.answer).len())
    };
    for _ in 0..3 {
        assert_eq!(told(&mut offline, Instance::Fresh), (Some(String::from("x")), true, 0));
    }
    assert_eq!(told(&mut offline, Instance::Reused), (Some(String::from("x")), true, 0), "its first call");
    assert_eq!(told(&mut offline, Instance::Reused), (Some(String::from("xx")), false, 1));
}

#[test]
fn entries_are_those_of_the_case_each_time() {
    // Adds 1 to "k", and traps unless that makes 8.
    let adding = format!(
        "(call $add (i32.const 64) (i32.const 1) (i64.const 1) (i32.const 0) (i32.const 0) (i32.const 4096))
        (if (i64.ne (i64.load (i32.const 4104)) (i64.const 8)) (then {TRAP})) {ABSTAIN}"
    );
    let guest = Guest::new()
        .text("k")
        .import("key-value", "add", "add", "(param i32 i32 i64 i32 i32 i32)")
        .authenticator(&adding);
    let mut offline = offline(guest.build());
    let with = |entries: Value| {
        case(&json!({ "name": "n", "hook": "authenticator", "host": { "key_value": entries } }))
    };
    for instance in Instance::ALL {
        for _ in 0..2 {
            let ran = offline.run(&with(json!({ "k": "7" })), instance).expect("asked");
            assert_eq!(ran.answer.verdict, Verdict::Abstain);
            assert_eq!(ran.calls, ["kv add 1 to \"k\" -> 8"]);
            let ran = offline.run(&with(json!({})), instance).expect("asked");
            assert_eq!(ran.answer.verdict, Verdict::Fail, "it began at 0");
            for (expires, verdict) in
                [("2026-01-01T00:00:01Z", Verdict::Abstain), ("2026-01-01T00:00:00Z", Verdict::Fail)]
            {
                let entry = json!({ "k": { "value": "7", "expires": expires } });
                let ran = offline.run(&with(entry), instance).expect("asked");
                assert_eq!(ran.answer.verdict, verdict, "by the clock of the case: {expires}");
            }
        }
    }
}

#[test]
fn the_clock_stands_chance_is_drawn_and_servers_answer_as_written() {
    let Some(path) = component("test-caller.wasm") else { return };
    let mut offline = offline(std::fs::read(path).expect("the component"));
    let asked = |steps: Value, host: Value| json!({ "name": "n", "hook": "authenticator", "plugin": { "config": { "steps": steps } }, "host": host });
    let mut told = |steps: Value, host: Value| detail(&mut offline, &asked(steps, host));

    let host = json!({ "clock": "2026-02-03T04:05:06.789Z", "random": 1 });
    let at = told(json!(["clock"]), host.clone());
    assert!(at.contains("1770091506789") || at.contains("1770091506"), "{at}");
    let drawn = |seed: Value, told: &mut dyn FnMut(Value, Value) -> String| {
        told(json!([{ "random": 4 }]), json!({ "random": seed }))
    };
    let first = drawn(json!(1), &mut told);
    assert_eq!(first, drawn(json!(1), &mut told));
    assert_ne!(first, drawn(json!(2), &mut told));
    assert_eq!(drawn(json!({ "base64": "AQIDBA==" }), &mut told), "[1, 2, 3, 4]");

    let url = "https://policy.test/v1?who=7";
    let send =
        |method: &str, body: usize| json!([{ "send": { "url": url, "method": method, "body": body } }]);
    let servers = json!({ "http": {
        "GET https://policy.test/v1?who=7": { "status": 200, "body": "yes" },
        "POST https://policy.test/v1?who=7": [
            { "when_body_contains": "xx", "status": 403 },
            { "status": 201 },
            { "failure": "timeout" },
        ],
    } });
    assert_eq!(told(send("GET", 0), servers.clone()), "200 3 yes");
    assert_eq!(told(send("POST", 2), servers.clone()), "403 0 ");
    assert_eq!(told(send("POST", 1), servers.clone()), "201 0 ");
    let twice = json!([send("POST", 1)[0], send("POST", 1)[0]]);
    let second = told(twice, servers.clone());
    assert!(second.starts_with("201 0 \n") && second.contains("Timeout"), "{second}");
    let nobody = told(json!([{ "send": { "url": "https://policy.test/other" } }]), servers);
    assert!(nobody.contains("Refused") || nobody.contains("refused"), "{nobody}");
}

#[test]
fn a_case_that_cannot_be_asked_is_no_answer() {
    let mut offline = offline(accepts_as("d"));
    let other = case(&json!({ "name": "n", "hook": "registrar" }));
    match offline.run(&other, Instance::Fresh) {
        Err(OfflineError::NoHook(hook, has)) => {
            assert_eq!((hook, has.as_str()), ("registrar", "authenticator"));
        }
        other => panic!("{other:?}"),
    }
    let refusing = Guest::new().init(TRAP).authenticator(ABSTAIN).build();
    let mut offline = self::offline(refusing);
    let one = case(&json!({ "name": "n", "hook": "authenticator" }));
    assert!(matches!(offline.run(&one, Instance::Fresh), Err(OfflineError::Load(_))));
    let ran = offline.judge(&one, Instance::Fresh).expect("no answer is one, too");
    let expected = json!({ "verdict": "fail", "failure": "unavailable", "detail": { "contains": "trap" } });
    let expecting = case(&json!({ "name": "n", "hook": "authenticator", "expect": expected }));
    assert!(ran.answer.verdict == Verdict::Fail && expecting.differences(&ran.answer).is_empty(), "{ran:?}");
    let settings = PluginSettings::new("p", Source::Bytes(Vec::new().into()));
    assert!(offline.check(&settings).is_err());
}

#[test]
fn limits_are_real() {
    let mut offline = offline(Guest::new().authenticator(crate::guest::LOOP).build());
    let one = case(&json!({ "name": "n", "hook": "authenticator", "expect": { "failure": "deadline" } }));
    let ran = offline.run(&one, Instance::Fresh).expect("asked");
    assert_eq!(one.differences(&ran.answer), []);
    assert!(ran.cpu >= std::time::Duration::from_millis(10), "{:?}", ran.cpu);
}
