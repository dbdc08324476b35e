//! What one call shares with the next, by what the operator chose.

use std::time::Duration;

use mqgate_identity::hooks::FailureKind;
use mqgate_plugin_host::{HostSettings, Isolation, Position};

use crate::fixture::{Fixture, settings};
use crate::guest::{ABSTAIN, Guest, transient};

/// Abstains in the first call of an instance, and says `later` in those that follow.
fn remembers() -> Vec<u8> {
    let body = format!(
        "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
         (if (result i32) (i32.eq (global.get $calls) (i32.const 1)) (then {ABSTAIN}) (else {}))",
        transient(5)
    );
    Guest::new().text("later").authenticator(&body).build()
}

async fn loaded(isolation: Isolation, component: Vec<u8>) -> Fixture {
    let fixture = Fixture::new();
    let mut plugin = settings("p", component);
    plugin.isolation = isolation;
    let info = fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    assert_eq!(info.isolation, isolation.as_str());
    fixture
}

/// How many of ten calls, one after the other, found a fresh instance.
async fn fresh(fixture: &Fixture) -> usize {
    let mut fresh = 0;
    for _ in 0..10 {
        fresh += usize::from(fixture.authenticate("p", "l").await.is_ok());
    }
    fresh
}

#[tokio::test]
async fn per_call_nothing_is_shared() {
    let fixture = loaded(Isolation::PerCall, remembers()).await;
    assert_eq!(fresh(&fixture).await, 10);
    fixture.no_instance_left().await;
}

#[tokio::test]
async fn an_instance_of_a_pool_lives_on() {
    for isolation in [Isolation::Pooled, Isolation::Single] {
        let fixture = loaded(isolation, remembers()).await;
        assert_eq!(fresh(&fixture).await, 1, "{isolation:?}");
        assert_eq!(fixture.host.instances(), 1);
        // It goes with its version.
        fixture.host.unload("p", true).await.expect("gone");
        fixture.no_instance_left().await;
    }
}

#[tokio::test]
async fn an_explanation_meets_no_instance_of_a_pool() {
    let fixture = loaded(Isolation::Single, remembers()).await;
    fixture.explain("p", "l").await.expect("a fresh instance");
    fixture.no_instance_left().await;
    fixture.authenticate("p", "l").await.expect("the first call of the one instance");
    fixture.explain("p", "l").await.expect("a fresh instance, beside the one that waits");
    fixture.authenticate("p", "l").await.expect_err("its second call");
}

#[tokio::test]
async fn instances_that_wait_leave_places_to_others() {
    let fixture = Fixture::with(HostSettings { instances: 4, ..HostSettings::default() }, Vec::new());
    let busy = format!(
        "(local $n i32)
         (loop $l (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 30000000))))
         {ABSTAIN}"
    );
    let mut plugin = settings("p", Guest::new().authenticator(&busy).build());
    plugin.isolation = Isolation::Pooled;
    plugin.limits.cpu = Duration::from_secs(10);
    plugin.limits.concurrency = 4;
    fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    let ask = || fixture.authenticate("p", "l");
    let (a, b, c, d) = tokio::join!(ask(), ask(), ask(), ask());
    for answer in [a, b, c, d] {
        answer.expect("an answer");
    }
    // A quarter of the places is free, and one that is in use when it is looked.
    assert!((1..=2).contains(&fixture.host.instances()), "{} wait", fixture.host.instances());
}

#[tokio::test]
async fn what_trapped_is_not_used_again() {
    // The third call of an instance traps.
    let body = format!(
        "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
         (if (i32.eq (global.get $calls) (i32.const 3)) (then unreachable)) {ABSTAIN}"
    );
    let fixture = loaded(Isolation::Pooled, Guest::new().authenticator(&body).build()).await;
    for round in 0..3 {
        for _ in 0..2 {
            fixture.authenticate("p", "l").await.expect("an answer");
        }
        let failure = fixture.authenticate("p", "l").await.expect_err("it traps");
        assert_eq!(failure.kind, FailureKind::Trap, "round {round}");
        assert_eq!(fixture.host.instances(), 0);
    }
}

#[tokio::test]
async fn an_instance_that_grew_too_large_is_not_used_again() {
    // Half of 32 MiB and a page: it grows in its first call.
    let body = format!(
        "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
         (drop (memory.grow (i32.const 256)))
         (if (result i32) (i32.eq (global.get $calls) (i32.const 1)) (then {ABSTAIN}) (else {}))",
        transient(5)
    );
    let guest = Guest::new().text("later").authenticator(&body).build();
    let fixture = loaded(Isolation::Pooled, guest).await;
    assert_eq!(fresh(&fixture).await, 10);
    assert_eq!(fixture.host.instances(), 0);
}

#[tokio::test]
async fn calls_at_once_have_instances_of_their_own() {
    let fixture = loaded(Isolation::Pooled, remembers()).await;
    let both = tokio::join!(fixture.authenticate("p", "l"), fixture.authenticate("p", "l"));
    // Whether they met or not: no call found an instance in which another was under way.
    assert!(both.0.is_ok() || both.1.is_ok(), "{both:?}");
    let single = loaded(Isolation::Single, remembers()).await;
    let both = tokio::join!(single.authenticate("p", "l"), single.authenticate("p", "l"));
    assert_eq!([both.0, both.1].iter().filter(|answer| answer.is_ok()).count(), 1);
    assert_eq!(single.host.instances(), 1);
}
