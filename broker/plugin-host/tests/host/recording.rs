//! Calls of live plugins become cases, and are asked again.

use std::sync::Arc;
use std::time::Duration;

use mqgate_identity::hooks::{Exchange, Secret};
use mqgate_plugin_host::case::{Case, Lines};
use mqgate_plugin_host::offline::{Instance, Offline};
use mqgate_plugin_host::{Capability, Change, Grants, Position, RecordingTerms};

use crate::fixture::{Fixture, connection, settings};
use crate::guest::{ABSTAIN, DENY, Guest, TRAP, accepts_as};
use crate::offline::offline;

fn terms(count: u64) -> RecordingTerms {
    RecordingTerms { count, time: Duration::from_secs(600), every: 1, listener: None }
}

fn cases(lines: &[String]) -> Vec<Case> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("captures.ndjson");
    std::fs::write(&file, lines.join("\n")).expect("written");
    Lines::open(&file).expect("it is there").collect::<Result<_, _>>().expect("cases")
}

/// The fields in which another component answers otherwise.
fn differing(offline: &mut Offline, case: &Case) -> Vec<String> {
    let ran = offline.run(case, Instance::Fresh).expect("asked");
    assert_eq!(ran.unknown, [""; 0]);
    case.differences(&ran.answer).into_iter().map(|difference| difference.field).collect()
}

#[tokio::test]
async fn what_was_recorded_is_asked_again() {
    let fixture = Fixture::new();
    let component = accepts_as("d");
    fixture.load("p", component.clone()).await.expect("loads");
    fixture.host.record("p", terms(2)).expect("begins");
    for client_id in ["one", "two", "three"] {
        fixture.authenticate_as("p", "l", client_id).await.expect("an answer");
    }
    let page = fixture.host.recorded("p", 0).expect("there is one");
    assert_eq!((page.report.taken, page.report.ended, page.next), (2, true, 2));
    let recorded = cases(&page.lines);
    let ids: Vec<_> = recorded.iter().map(|case| case.connection().connect.client_id.as_str()).collect();
    assert_eq!(ids, ["one", "two"]);
    // What was fetched is forgotten.
    let page = fixture.host.recorded("p", page.next).expect("there is one");
    assert!(page.lines.is_empty() && page.finished);

    tokio::task::spawn_blocking(move || {
        let (mut same, mut other) = (offline(component), offline(accepts_as("e")));
        let mut refusing = offline(Guest::new().authenticator(DENY).build());
        for case in &recorded {
            assert_eq!(differing(&mut same, case), [""; 0]);
            assert_eq!(differing(&mut other, case), ["device_id"]);
            assert!(differing(&mut refusing, case).contains(&String::from("verdict")));
        }
    })
    .await
    .expect("no panic");
}

#[tokio::test]
async fn entries_that_were_read_are_those_of_that_time() {
    let reading = |key: char| {
        // Traps unless there is an entry.
        let get = format!(
            "(call $get (i32.const 64) (i32.const 1) (i32.const 4096))
            (if (i32.eqz (i32.load8_u (i32.const 4104))) (then {TRAP})) {ABSTAIN}"
        );
        Guest::new()
            .text(&key.to_string())
            .import("key-value", "get", "get", "(param i32 i32 i32)")
            .authenticator(&get)
            .build()
    };
    let fixture = Fixture::new();
    let mut plugin = settings("p", reading('k'));
    plugin.grants = Grants::of([Capability::KeyValue]);
    fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    fixture.host.record("p", terms(9)).expect("begins");
    fixture.authenticate("p", "l").await.expect_err("it trapped");
    let key = (String::from("p"), String::from("k"));
    fixture.storage.kv.lock().unwrap().insert(key, b"there".to_vec());
    fixture.authenticate("p", "l").await.expect("an answer");
    let recorded = cases(&fixture.host.recorded("p", 0).expect("there is one").lines);
    assert_eq!(recorded.len(), 2);

    tokio::task::spawn_blocking(move || {
        let mut same = offline(reading('k'));
        assert!(differing(&mut same, &recorded[0]).is_empty(), "it traps again");
        assert!(differing(&mut same, &recorded[1]).is_empty());
        let ran = offline(reading('z')).run(&recorded[1], Instance::Fresh).expect("asked");
        assert_eq!(ran.unknown, ["the key-value entry \"z\""], "nobody looked at that one");
    })
    .await
    .expect("no panic");
}

#[tokio::test]
async fn secrets_are_left_out_and_decide_nothing() {
    let fixture = Fixture::new();
    let mut plugin = settings("p", accepts_as("d"));
    plugin.grants = Grants::of([Capability::Credentials]);
    fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    fixture.load("hidden", accepts_as("d")).await.expect("loads");
    for name in ["p", "hidden"] {
        fixture.host.record(name, terms(9)).expect("begins");
        let mut on = (*connection("l")).clone();
        on.connect.password = Some(Secret(b"hunter2".to_vec()));
        let set = fixture.host.hooks().load_full();
        let member = set.members.iter().find(|member| &*member.name == name).expect("live");
        member.authenticator.clone().expect("the hook").authenticate(&Arc::new(on)).await.expect("an answer");
        let page = fixture.host.recorded(name, 0).expect("there is one");
        let text = page.lines.join("\n");
        assert!(!text.contains("hunter2") && text.contains("redacted"), "{text}");
        let recorded = cases(&page.lines);
        let hidden = tokio::task::spawn_blocking(move || {
            let offline = offline(accepts_as("d"));
            offline.hidden(&recorded[0])
        });
        let hidden = hidden.await.expect("no panic");
        // Who is not granted passwords decides without them.
        assert_eq!(!hidden.is_empty(), name == "p");
    }
}

#[tokio::test]
async fn an_exchange_is_recorded_without_what_was_said() {
    let fixture = Fixture::new();
    let step = "(i32.store8 (i32.const 2052) (i32.const 2)) (i32.const 2048)";
    let guest = Guest::new()
        .text("M")
        .export("enhanced-authenticator", "step", "(param i32) (result i32)", step)
        .function(
            "(func (export \"mqgate:plugin/enhanced-authenticator@1.0.0#methods\") (result i32)
               (i32.store (i32.const 3072) (i32.const 3080)) (i32.store (i32.const 3076) (i32.const 1))
               (i32.store (i32.const 3080) (i32.const 64)) (i32.store (i32.const 3084) (i32.const 1))
               (i32.const 3072))",
        )
        .build();
    fixture.load("p", guest).await.expect("loads");
    fixture.host.record("p", terms(9)).expect("begins");
    let set = fixture.host.hooks().load_full();
    let hook = set.members[0].enhanced_authenticator.clone().expect("the hook");
    let exchange =
        Exchange { method: "M", round: 1, state: b"secret state", data: Some(b"secret data"), again: false };
    hook.step(&connection("l"), exchange).await.expect("an answer");
    let text = fixture.host.recorded("p", 0).expect("there is one").lines.join("\n");
    assert!(!text.contains("secret") && text.contains("\"method\":\"M\""), "{text}");
}

#[tokio::test]
async fn a_recording_is_bounded_sampled_and_of_one_listener() {
    let fixture = Fixture::new();
    fixture.load("p", accepts_as("d")).await.expect("loads");
    let sampled = RecordingTerms { every: 3, listener: Some(String::from("wanted")), ..terms(100) };
    fixture.host.record("p", sampled).expect("begins");
    for number in 0..9 {
        fixture.authenticate_as("p", "other", "c").await.expect("an answer");
        fixture.authenticate_as("p", "wanted", &number.to_string()).await.expect("an answer");
        fixture.explain("p", "wanted").await.expect("an answer");
    }
    let recorded = cases(&fixture.host.recorded("p", 0).expect("there is one").lines);
    let ids: Vec<_> = recorded.iter().map(|case| case.connection().connect.client_id.clone()).collect();
    assert_eq!(ids, ["0", "3", "6"]);

    // Nobody fetches: what there is no room for is dropped and counted, and no call waits.
    fixture.host.record("p", terms(1_000_000)).expect("begins anew");
    for _ in 0..4_200 {
        fixture.authenticate("p", "l").await.expect("an answer");
    }
    let page = fixture.host.recorded("p", 0).expect("there is one");
    assert_eq!((page.report.taken, page.report.dropped), (4_200, 104));
    let series = |result: &str| {
        fixture.metric(&format!("mqgate_plugin_recorded_calls_total{{plugin=\"p\",result=\"{result}\"}}"))
    };
    assert_eq!((series("kept"), series("dropped")), (Some(4_099.0), Some(104.0)));
    // It ends with the version that runs.
    let change = Change::by("test").to(accepts_as("e"));
    fixture.host.swap("p", change).await.expect("swapped");
    fixture.authenticate("p", "l").await.expect("an answer");
    let page = fixture.host.recorded("p", page.next).expect("there is one");
    assert_eq!((page.report.ended, page.report.taken), (true, 4_200));
    let report = fixture.host.end_recording("p").expect("there was one");
    assert!(report.ended && fixture.host.recorded("p", 0).is_none());
    fixture.authenticate("p", "l").await.expect("an answer");
    assert_eq!(series("kept"), Some(4_099.0), "nobody listens any more");
    assert!(fixture.host.record("nobody", terms(1)).is_err());
}

#[tokio::test]
async fn what_clients_send_does_not_make_a_recording_large() {
    let fixture = Fixture::new();
    fixture.load("p", accepts_as("d")).await.expect("loads");
    fixture.host.record("p", terms(4000)).expect("begins");
    let mut on = (*connection("l")).clone();
    on.connect.user_name = Some("u".repeat(60_000));
    on.connect.password = Some(Secret(vec![b'p'; 60_000]));
    let on = Arc::new(on);
    let set = fixture.host.hooks().load_full();
    let authenticator = set.members[0].authenticator.clone().expect("the hook");
    // Of 120 kB each there is room for less than 300.
    for _ in 0..400 {
        authenticator.authenticate(&on).await.expect("an answer");
    }
    let report = fixture.host.recorded("p", 0).expect("there is one").report;
    assert_eq!(report.taken, 400);
    assert!((100..200).contains(&report.dropped), "{report:?}");
}
