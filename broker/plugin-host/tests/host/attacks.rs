//! Attacks of docs/plugins/security.md that no other file is about.

use mqgate_identity::hooks::{Authentication, FailureKind};
use mqgate_plugin_host::{Capability, Grants, Position, Stage};

use crate::alone::{alone, resident_bytes};
use crate::fixture::{Fixture, device_id, settings};
use crate::guest::{ABSTAIN, Guest, accept, accepts_as};

async fn kind_of(guest: Guest) -> FailureKind {
    let fixture = Fixture::new();
    fixture.load("p", guest.build()).await.expect("loads");
    let kind = fixture.kind_of_failure("p").await;
    assert_eq!(fixture.kind_of_failure("p").await, kind, "the next instance is as fresh as the first");
    fixture.no_instance_left().await;
    kind
}

#[tokio::test]
async fn a_table_does_not_grow_without_end() {
    let grow = "(loop $l (br_if $l (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1))))
        unreachable";
    let guest = Guest::new().function("(table $t 1 funcref)").authenticator(grow);
    assert_eq!(kind_of(guest).await, FailureKind::Memory);
}

#[tokio::test]
async fn one_step_to_four_gigabytes_is_refused() {
    let grow =
        "(if (i32.eq (memory.grow (i32.const 65000)) (i32.const -1)) (then unreachable)) (i32.const 0)";
    assert_eq!(kind_of(Guest::new().authenticator(grow)).await, FailureKind::Memory);
}

#[tokio::test]
async fn long_copies_end_at_the_deadline_too() {
    // One instruction copies 12 MiB; between two of them the budget is looked at.
    let copy = "(drop (memory.grow (i32.const 400)))
        (loop $l (memory.copy (i32.const 12582912) (i32.const 0) (i32.const 12582912)) (br $l)) unreachable";
    assert_eq!(kind_of(Guest::new().authenticator(copy)).await, FailureKind::Deadline);
}

#[tokio::test]
async fn what_asks_for_too_much_from_the_start_is_refused() {
    let fixture = Fixture::new();
    let mut large = b"\0asm\x0d\0\x01\0".to_vec();
    large.resize((32 << 20) + 1, 0);
    let error = fixture.load("p", large).await.expect_err("refused");
    assert_eq!(error.stage, Stage::Verify);
    assert!(error.message.contains("at most 33554432 bytes"), "{error}");

    // More than any plugin may have is refused by the engine already, where instances have places of a fixed size.
    let four_gigabytes = Guest::new().pages(65_536).authenticator(ABSTAIN).build();
    let error = fixture.load("p", four_gigabytes).await.expect_err("refused");
    assert!(
        matches!(error.stage, Stage::Compile | Stage::Inspect) && error.message.contains("memory"),
        "{error}"
    );
    // More than this one may have is what the host finds.
    let forty_megabytes = Guest::new().pages(640).authenticator(ABSTAIN).build();
    let error = fixture.load("p", forty_megabytes).await.expect_err("refused");
    assert_eq!(error.stage, Stage::Inspect, "{error}");

    let memories = "(memory 1) ".repeat(10_000);
    let many = wat::parse_str(format!("(component (core module {memories}))")).expect("text");
    let error = fixture.load("p", many).await.expect_err("refused");
    assert_eq!(error.stage, Stage::Compile, "{error}");
    assert!(fixture.host.list().is_empty());
}

#[tokio::test]
async fn one_plugin_does_not_see_the_keys_of_another() {
    let writer = format!(
        "(call $set (i32.const 64) (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 0) (i32.const 0)
          (i32.const 4096)) {}",
        accept(1)
    );
    let writer = Guest::new()
        .text("k")
        .import("key-value", "set", "set", "(param i32 i32 i32 i32 i32 i32 i32)")
        .authenticator(&writer)
        .build();
    // Accepts where the key is there.
    let reader = format!(
        "(call $get (i32.const 64) (i32.const 1) (i32.const 4096))
         (if (result i32) (i32.load8_u offset=8 (i32.const 4096)) (then {}) (else {ABSTAIN}))",
        accept(1)
    );
    let reader = Guest::new()
        .text("k")
        .import("key-value", "get", "get", "(param i32 i32 i32)")
        .authenticator(&reader)
        .build();
    let fixture = Fixture::new();
    let load = async |name: &str, component: &Vec<u8>| {
        let mut plugin = settings(name, component.clone());
        plugin.grants = Grants::of([Capability::KeyValue]);
        fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    };
    load("a", &writer).await;
    load("b", &reader).await;
    assert_eq!(device_id(fixture.authenticate("a", "l").await), "k");
    assert_eq!(fixture.authenticate("b", "l").await.ok(), Some(Authentication::Abstain));
    // The same component under the name of the first does: keys belong to the name.
    fixture.host.unload("a", true).await.expect("gone");
    load("a", &reader).await;
    assert_eq!(device_id(fixture.authenticate("a", "l").await), "k");
}

#[tokio::test]
async fn memory_of_one_instance_is_not_seen_by_the_next() {
    // One fills 30 pages of its memory; the other has as many, and traps when a byte of them is not zero.
    let fill = format!("(memory.fill (i32.const 65536) (i32.const 170) (i32.const 1966080)) {ABSTAIN}");
    let seek = format!(
        "(local $at i32) (local.set $at (i32.const 65536))
         (loop $l
           (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then unreachable))
           (local.set $at (i32.add (local.get $at) (i32.const 8)))
           (br_if $l (i32.lt_u (local.get $at) (i32.const 2031616))))
         {ABSTAIN}"
    );
    // So few places that each is used again and again.
    let host = mqgate_plugin_host::HostSettings { instances: 4, ..Default::default() };
    let fixture = Fixture::with(host, Vec::new());
    for (name, body) in [("secret", &fill), ("spy", &seek)] {
        let mut plugin = settings(name, Guest::new().pages(32).authenticator(body).build());
        plugin.limits.concurrency = 4;
        plugin.limits.cpu = std::time::Duration::from_secs(10);
        fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    }
    for round in 0..200 {
        for name in ["secret", "spy"] {
            let answer = fixture.authenticate(name, "l").await;
            assert_eq!(answer.ok(), Some(Authentication::Abstain), "{name}, round {round}");
        }
    }
}

#[tokio::test]
async fn a_trap_in_any_hook_is_a_failure_of_that_call() {
    let fixture = Fixture::new();
    let guest = Guest::new()
        .authenticator("unreachable")
        .export("registrar", "register", "(param i32) (result i32)", "unreachable")
        .export("authorizer", "authorize", "(param i32) (result i32)", "unreachable")
        .export("auditor", "record-events", "(param i32 i32) (result i32)", "unreachable")
        .build();
    fixture.load("p", guest).await.expect("loads");
    fixture.load("good", accepts_as("d")).await.expect("loads");
    let set = fixture.host.hooks().load_full();
    let member = &set.members[0];
    let on = crate::fixture::connection("l");
    let who = mqgate_identity::hooks::Identity {
        device_id: "d".into(),
        tenant: None,
        tags: Vec::new(),
        attributes: Vec::new(),
    };
    let kinds = [
        member.authenticator.as_ref().expect("the hook").authenticate(&on).await.err(),
        member.registrar.as_ref().expect("the hook").register(&on, None).await.err(),
        member.authorizer.as_ref().expect("the hook").authorize(&on, &who).await.err(),
        member.auditor.as_ref().expect("the hook").record_events(&[]).await.err(),
    ];
    for failure in kinds {
        assert_eq!(failure.map(|failure| failure.kind), Some(FailureKind::Trap));
    }
    assert_eq!(device_id(fixture.authenticate("good", "l").await), "d");
    fixture.no_instance_left().await;
}

#[tokio::test]
#[ignore = "full: a million calls take minutes"]
async fn a_million_calls_leave_nothing_behind() {
    if !alone("attacks::a_million_calls_leave_nothing_behind") {
        return;
    }
    let fixture = Fixture::new();
    fixture.load("p", accepts_as("d")).await.expect("loads");
    let call = async |count: usize| {
        for _ in 0..count {
            assert_eq!(device_id(fixture.authenticate("p", "l").await), "d");
        }
    };
    call(10_000).await;
    let before = resident_bytes();
    call(1_000_000).await;
    let grown = resident_bytes().saturating_sub(before);
    // A byte of each call would be a megabyte.
    assert!(grown < 8 << 20, "{grown} bytes");
    fixture.no_instance_left().await;
}
