//! Guests that do harm while they are asked. Each ends in a failure of the right kind, alone.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mqgate_identity::hooks::{Authentication, FailureKind};
use mqgate_plugin_host::{Capability, Change, Grants, Position, Source};

use crate::fixture::{Fixture, device_id, settings};
use crate::guest::{ABSTAIN, Guest, LISTENER_LENGTH, LOOP, TRAP, accept, accepts_as, transient};

#[tokio::test]
async fn a_loop_ends_at_the_deadline_and_holds_nobody_up() {
    let fixture = Fixture::new();
    fixture.load("good", accepts_as("d")).await.expect("loads");
    // Loops for listeners with a name of four bytes.
    let body = format!(
        "(if (i32.eq (i32.load offset={LISTENER_LENGTH} (local.get 0)) (i32.const 4)) (then {LOOP})) {ABSTAIN}"
    );
    fixture.load("bad", Guest::new().authenticator(&body).build()).await.expect("loads");

    let begun = Instant::now();
    let looping = async {
        let failure = fixture.authenticate("bad", "loop").await.expect_err("no answer");
        (failure.kind, begun.elapsed())
    };
    let others = async {
        assert_eq!(device_id(fixture.authenticate("good", "loop").await), "d");
        assert_eq!(fixture.authenticate("bad", "other").await.ok(), Some(Authentication::Abstain));
        begun.elapsed()
    };
    let ((kind, ended), others) = tokio::join!(looping, others);
    assert_eq!(kind, FailureKind::Deadline);
    // 20 ms of computing; the rest is for a machine that is busy with other tests.
    assert!(ended < Duration::from_secs(10), "{ended:?}");
    assert!(others < Duration::from_secs(10), "{others:?}");
    assert_eq!(
        fixture
            .metric("mqgate_plugin_failures_total{hook=\"authenticator\",kind=\"deadline\",plugin=\"bad\"}"),
        Some(1.0)
    );
    assert_eq!(
        fixture
            .metric("mqgate_plugin_calls_total{hook=\"authenticator\",plugin=\"bad\",result=\"continue\"}"),
        Some(1.0)
    );
    fixture.no_instance_left().await;
}

#[tokio::test]
async fn a_client_that_broke_a_call_waits_and_no_other_does() {
    let fixture = Fixture::new();
    let body = format!(
        "(if (i32.eq (i32.load offset={LISTENER_LENGTH} (local.get 0)) (i32.const 4)) (then {LOOP})) {ABSTAIN}"
    );
    let mut plugin = settings("bad", Guest::new().authenticator(&body).build());
    plugin.limits.backoff = Duration::from_secs(600);
    fixture.host.load(plugin.clone(), Position::Last, "test").await.expect("loads");

    let broke = fixture.authenticate("bad", "loop").await.expect_err("no answer");
    assert_eq!(broke.kind, FailureKind::Deadline);
    let waits = fixture.authenticate("bad", "other").await.expect_err("it would abstain if it were asked");
    assert_eq!(waits.kind, FailureKind::Deadline);
    assert!(waits.detail.starts_with("not called"), "{}", waits.detail);
    let other = fixture.authenticate_as("bad", "other", "another-client").await;
    assert_eq!(other.ok(), Some(Authentication::Abstain));
    let subjects = "mqgate_plugin_poisoned_subjects{plugin=\"bad\"}";
    assert_eq!(fixture.metric(subjects), Some(1.0));

    // Another version may do better.
    let Source::Bytes(component) = plugin.source else { unreachable!("it was made from bytes") };
    fixture.host.swap("bad", Change::by("test").to(component)).await.expect("swaps");
    assert_eq!(fixture.authenticate("bad", "other").await.ok(), Some(Authentication::Abstain));
}

#[tokio::test]
async fn what_a_guest_does_wrong_has_a_kind() {
    let grow = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable";
    let bad_variant = "(i32.store8 (i32.const 2052) (i32.const 77)) (i32.const 2048)";
    let out_of_bounds = "(i32.store8 (i32.const 2048) (i32.const 1))
        (i32.store (i32.const 2056) (i32.const -16)) (i32.store (i32.const 2060) (i32.const 1)) (i32.const 2048)";
    let kinds = [
        ("trap", FailureKind::Trap, TRAP, ""),
        ("recursion", FailureKind::Trap, "(call $deeper (i32.const 0))", ""),
        ("next-page", FailureKind::Trap, "(i32.load8_u (i32.shl (memory.size) (i32.const 16)))", ""),
        ("last-address", FailureKind::Trap, "(i32.load8_u (i32.sub (i32.const 0) (memory.size)))", ""),
        (
            "beyond-all",
            FailureKind::Trap,
            "(i32.load offset=0xfffffff0 (i32.sub (i32.const 0) (memory.size)))",
            "",
        ),
        ("grow", FailureKind::Memory, grow, ""),
        ("huge", FailureKind::Memory, &transient(2 << 20), ""),
        ("unavailable", FailureKind::Unavailable, &transient(5), "later"),
        ("variant", FailureKind::Invalid, bad_variant, ""),
        ("bounds", FailureKind::Invalid, out_of_bounds, ""),
        ("pointer", FailureKind::Invalid, "(i32.const -4)", ""),
        ("utf8", FailureKind::Invalid, &accept(2), "\\ff\\fe"),
        ("empty-id", FailureKind::Invalid, &accept(0), ""),
        ("slash", FailureKind::Invalid, &accept(3), "a/b"),
        ("hash", FailureKind::Invalid, &accept(1), "#"),
        ("control", FailureKind::Invalid, &accept(2), "a\\00"),
        ("long-id", FailureKind::Invalid, &accept(257), &"x".repeat(257)),
    ];
    let fixture = Fixture::new();
    for (name, kind, body, text) in kinds {
        let recursive =
            "(func $deeper (param i32) (result i32) (i32.add (call $deeper (local.get 0)) (i32.const 1)))";
        let mut guest = Guest::new().text(text).pages(40).authenticator(body);
        if body.contains("$deeper") {
            guest = guest.function(recursive);
        }
        fixture.load(name, guest.build()).await.expect("loads");
        for _ in 0..2 {
            let failure = fixture.authenticate(name, "mqtts").await.expect_err(name);
            assert_eq!(failure.kind, kind, "{name}: {}", failure.detail);
            assert!(failure.detail.len() < 4096, "{name}: {} bytes", failure.detail.len());
        }
        fixture.no_instance_left().await;
        let series = format!(
            "mqgate_plugin_failures_total{{hook=\"authenticator\",kind=\"{}\",plugin=\"{name}\"}}",
            kind.as_str()
        );
        assert_eq!(fixture.metric(&series), Some(2.0), "{series}");
    }
    assert_eq!(fixture.metric("mqgate_plugin_memory_bytes{plugin=\"grow\"}"), Some(0.0));
    let peak = fixture.metric("mqgate_plugin_memory_peak_bytes{plugin=\"grow\"}").expect("a peak");
    assert!(peak <= f64::from(32 << 20) && peak > f64::from(30 << 20), "{peak}");
}

#[tokio::test]
async fn a_guest_that_waits_is_left_at_the_wall_deadline() {
    let fixture = Fixture::new();
    // `get("k")`, then no opinion.
    let body = format!("(call $get (i32.const 64) (i32.const 1) (i32.const 4096)) {ABSTAIN}");
    let guest = Guest::new()
        .text("k")
        .import("key-value", "get", "get", "(param i32 i32 i32)")
        .authenticator(&body)
        .build();
    let mut plugin = settings("waits", guest);
    plugin.grants = Grants::of([Capability::KeyValue]);
    plugin.limits.wall = Duration::from_millis(300);
    plugin.limits.queue_wait = Duration::from_millis(10);
    plugin.limits.concurrency = 1;
    fixture.host.load(plugin, Position::Last, "test").await.expect("loads");

    fixture.storage.block();
    let begun = Instant::now();
    let (first, second) = tokio::join!(fixture.kind_of_failure("waits"), fixture.kind_of_failure("waits"));
    assert_eq!(first, FailureKind::Deadline);
    assert_eq!(second, FailureKind::Overload, "one at a time, and no long wait");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    fixture.storage.release();
    fixture.no_instance_left().await;
}

/// A plugin that reads a key whenever it is called.
async fn load_one_that_asks(fixture: &Fixture) {
    let body = format!("(call $get (i32.const 64) (i32.const 1) (i32.const 4096)) {ABSTAIN}");
    let guest = Guest::new()
        .text("k")
        .import("key-value", "get", "get", "(param i32 i32 i32)")
        .authenticator(&body)
        .build();
    let mut plugin = settings("asks", guest);
    plugin.grants = Grants::of([Capability::KeyValue]);
    fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
}

#[tokio::test]
async fn a_storage_that_panics_fails_its_call_alone() {
    for at_once in [false, true] {
        a_panic_fails_its_call_alone(at_once).await;
    }
}

async fn a_panic_fails_its_call_alone(at_once: bool) {
    let fixture = Fixture::new();
    fixture.storage.at_once.store(at_once, Ordering::Relaxed);
    load_one_that_asks(&fixture).await;
    fixture.storage.panic();
    assert_eq!(fixture.authenticate("asks", "l").await.ok(), Some(Authentication::Abstain));
    let series = |result: &str| {
        format!("mqgate_plugin_host_calls_total{{interface=\"kv\",plugin=\"asks\",result=\"{result}\"}}")
    };
    assert_eq!(fixture.metric(&series("error")), Some(1.0));
    fixture.storage.release();
    assert_eq!(fixture.authenticate("asks", "l").await.ok(), Some(Authentication::Abstain));
    assert_eq!(fixture.metric(&series("ok")), Some(1.0));
}

#[tokio::test]
async fn what_the_storage_answers_at_once_waits_for_nobody() {
    let fixture = Fixture::new();
    load_one_that_asks(&fixture).await;
    fixture.storage.at_once.store(true, Ordering::Relaxed);
    fixture.storage.block();
    assert_eq!(fixture.authenticate("asks", "l").await.ok(), Some(Authentication::Abstain));
    fixture.storage.release();
}

#[tokio::test]
async fn endless_calls_of_the_host_are_computing_too() {
    let fixture = Fixture::new();
    let body = "(loop $l (drop (call $enabled (i32.const 4))) (br $l)) unreachable";
    let guest = Guest::new()
        .import("log", "enabled", "enabled", "(param i32) (result i32)")
        .authenticator(body)
        .build();
    fixture.load("chatty", guest).await.expect("loads");
    assert_eq!(fixture.kind_of_failure("chatty").await, FailureKind::Deadline);
    fixture.no_instance_left().await;
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_its_instance_with_it() {
    let fixture = Fixture::new();
    let mut plugin = settings("loops", Guest::new().authenticator(LOOP).build());
    plugin.limits.cpu = Duration::from_secs(3600);
    plugin.limits.init = Duration::from_secs(3600);
    plugin.limits.wall = Duration::from_secs(3600);
    fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    let call = fixture.authenticate("loops", "l");
    let seen = async {
        while fixture.host.instances() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        answer = call => panic!("{answer:?}"),
        () = seen => {}
    }
    fixture.no_instance_left().await;
}
