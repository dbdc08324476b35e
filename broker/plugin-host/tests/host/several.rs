//! Components that are made of several: what they may have together, and what they leave behind for others.

use mqgate_identity::hooks::{Authentication, FailureKind};
use mqgate_plugin_host::{HostSettings, LoadError, Position, Stage};

use crate::fixture::{Fixture, settings};
use crate::guest::{ABSTAIN, Guest, TRAP};

/// Sections of a component that hold a component, and that make instances of some.
const COMPONENT: u8 = 4;
const INSTANCE: u8 = 5;

fn number(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(0x80 | u8::try_from(value & 0x7f).expect("seven bits"));
        value >>= 7;
    }
    bytes.push(u8::try_from(value).expect("seven bits"));
    bytes
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id][..], &*number(content.len()), content].concat()
}

/// How many components there are in a component, not counting those within them.
fn components_in(mut rest: &[u8]) -> usize {
    let mut count = 0;
    rest = &rest[8..];
    while let Some((id, after)) = rest.split_first() {
        let (mut length, mut at) = (0, 0);
        loop {
            length |= usize::from(after[at] & 0x7f) << (7 * at);
            at += 1;
            if after[at - 1] & 0x80 == 0 {
                break;
            }
        }
        count += usize::from(*id == COMPONENT);
        rest = &after[at + length..];
    }
    count
}

/// A guest with the body of an authenticator, and an instance of another component inside, which is text.
fn with(body: &str, inner: &str) -> Vec<u8> {
    let guest = Guest::new().authenticator(body).build();
    let index = number(components_in(&guest));
    let inner =
        wat::parse_str(format!("(component {inner})")).unwrap_or_else(|error| panic!("{error}\n{inner}"));
    let instance = [&[1_u8, 0][..], &*index, &[0]].concat();
    [guest, section(COMPONENT, &inner), section(INSTANCE, &instance)].concat()
}

/// So many instances of a module.
fn times(count: usize, module: &str) -> String {
    format!("(core module $m {module}) {}", "(core instance (instantiate $m))".repeat(count))
}

async fn refused(component: Vec<u8>) -> LoadError {
    let fixture = Fixture::new();
    let error = fixture.load("p", component).await.expect_err("refused");
    assert!(fixture.host.list().is_empty());
    fixture.no_instance_left().await;
    error
}

#[tokio::test]
async fn memories_hold_together_what_one_may() {
    // 32 MiB are 512 pages; the guest itself has two.
    let begins = |pages: usize| with(ABSTAIN, &times(3, &format!("(memory {pages})")));
    let grows = |pages: usize| {
        let start = format!(
            "(memory 1) (start $s)
             (func $s (if (i32.eq (memory.grow (i32.const {pages})) (i32.const -1)) (then unreachable)))"
        );
        with(ABSTAIN, &times(3, &start))
    };
    for (enough, more) in [(begins(170), begins(171)), (grows(169), grows(170))] {
        let fixture = Fixture::new();
        fixture.load("p", enough).await.expect("loads");
        fixture.authenticate("p", "l").await.expect("an answer");
        fixture.no_instance_left().await;
        let memory = "mqgate_plugin_memory_bytes{plugin=\"p\"}";
        assert_eq!(fixture.metric(memory), Some(0.0), "{}", fixture.metrics_text());
        let error = refused(more).await;
        assert_eq!(error.stage, Stage::Trial, "{error}");
        assert!(error.message.contains("memory"), "{error}");
    }
}

#[tokio::test]
async fn no_more_of_anything_than_there_are_places_for() {
    let fixture = Fixture::new();
    let most = with(ABSTAIN, &times(47, "(func)"));
    fixture.load("p", most).await.expect("48 core instances, the guest's included");
    for (what, inner) in [
        ("core module instances", times(48, "(func)")),
        ("linear memories", times(4, "(memory 1)")),
        ("tables", times(9, "(table 1 funcref)")),
        ("memories", times(1, "(memory 1) (memory 1)")),
        ("threads", times(1, "(memory 1 1 shared)")),
        ("memory64", times(1, "(memory i64 1)")),
        ("memory64", times(1, "(table i64 1 funcref)")),
        ("page size", times(1, "(memory 1 (pagesize 1))")),
        // The room of an instance for what is no memory: these have 16 bytes each.
        ("exceeds", times(2, &"(global (mut i64) (i64.const 0))".repeat(40_000))),
        ("exceeds", times(1, "(table 20001 funcref)")),
    ] {
        let error = refused(with(ABSTAIN, &inner)).await;
        assert_eq!(error.stage, Stage::Compile, "{what}: {error}");
        assert!(error.message.contains(what), "{what}: {error}");
    }
}

#[tokio::test]
async fn handles_of_its_own_have_an_end() {
    let inner = "(type $r (resource (rep i32)))
        (core func $new (canon resource.new $r))
        (core module $m
          (import \"\" \"new\" (func $new (param i32) (result i32)))
          (start $s)
          (func $s (loop $l (drop (call $new (i32.const 0))) (br $l))))
        (core instance (instantiate $m (with \"\" (instance (export \"new\" (func $new))))))";
    let error = refused(with(ABSTAIN, inner)).await;
    assert_eq!(error.stage, Stage::Trial, "{error}");
    assert!(error.message.contains("handle limit"), "{error}");
}

#[tokio::test]
async fn nothing_of_several_memories_and_tables_is_seen_by_the_next() {
    // One fills what it has, in the beginning and what it grew; the other traps where it finds something.
    let fill = "(memory 16) (table $t 100 funcref) (start $s) (elem declare func $s)
        (func $s
          (drop (memory.grow (i32.const 16))) (drop (table.grow $t (ref.null func) (i32.const 1000)))
          (memory.fill (i32.const 0) (i32.const 170) (i32.const 2097152))
          (table.fill $t (i32.const 0) (ref.func $s) (i32.const 1100)))";
    let seek = "(memory 16) (table $t 100 funcref) (start $s)
        (func $s (local $at i32)
          (drop (memory.grow (i32.const 16))) (drop (table.grow $t (ref.null func) (i32.const 1000)))
          (loop $l
            (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then unreachable))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br_if $l (i32.lt_u (local.get $at) (i32.const 2097152))))
          (local.set $at (i32.const 0))
          (loop $l
            (if (i32.eqz (ref.is_null (table.get $t (local.get $at)))) (then unreachable))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br_if $l (i32.lt_u (local.get $at) (i32.const 1100)))))";
    let fixture = Fixture::with(HostSettings { instances: 4, ..HostSettings::default() }, Vec::new());
    for (name, body, inner) in [("secret", ABSTAIN, fill), ("trapped", TRAP, fill), ("spy", ABSTAIN, seek)] {
        let mut plugin = settings(name, with(body, &times(3, inner)));
        plugin.limits.concurrency = 4;
        plugin.limits.cpu = std::time::Duration::from_secs(10);
        fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    }
    for round in 0..40 {
        let answer = fixture.authenticate("secret", "l").await;
        assert_eq!(answer.ok(), Some(Authentication::Abstain), "round {round}");
        assert_eq!(fixture.kind_of_failure("trapped").await, FailureKind::Trap, "round {round}");
        let answer = fixture.authenticate("spy", "l").await;
        assert_eq!(answer, Ok(Authentication::Abstain), "round {round}");
    }
    fixture.no_instance_left().await;
}
