//! Answers that are given again without a call.

use std::time::Duration;

use mqgate_identity::hooks::{Authorization, Identity};
use mqgate_plugin_host::{Capability, Change, Grants, PluginSettings, Position};

use crate::fixture::{Fixture, connection, settings};
use crate::guest::Guest;

/// Body of `authorize` that denies and says how long that holds for the identity it was asked about: 60 s.
/// `scope`: 0 connection, 1 certificate, 2 identity.
fn denies(scope: u32) -> String {
    format!(
        "(i32.store8 (i32.const 2052) (i32.const 1))
         (i32.store8 (i32.const 2096) (i32.const 1))
         (i32.store8 (i32.const 2100) (i32.const {scope})) (i32.store (i32.const 2104) (i32.const 60))
         (i32.const 2048)"
    )
}

fn guest(scope: u32) -> Vec<u8> {
    Guest::new().hook("authorizer", "authorize", &denies(scope)).build()
}

pub async fn asked(fixture: &Fixture, device_id: &str) {
    let set = fixture.host.hooks().load_full();
    let authorizer = set.members[0].authorizer.clone().expect("the hook");
    let who =
        Identity { device_id: device_id.into(), tenant: None, tags: Vec::new(), attributes: Vec::new() };
    let answer = authorizer.authorize(&connection("l"), &who).await.expect("an answer");
    let Authorization::Deny(denial) = answer else { panic!("not denied") };
    assert_eq!(denial.cache.map(|hint| hint.ttl), Some(Duration::from_secs(60)));
}

/// Calls, hits and narrowed answers so far.
pub fn counts(fixture: &Fixture) -> (f64, f64, f64) {
    let calls = "mqgate_plugin_calls_total{hook=\"authorizer\",plugin=\"p\",result=\"deny\"}";
    let cache = |result: &str| {
        let series = format!(
            "mqgate_plugin_cache_requests_total{{hook=\"authorizer\",plugin=\"p\",result=\"{result}\"}}"
        );
        fixture.metric(&series).expect("it is counted")
    };
    (fixture.metric(calls).expect("it is counted"), cache("hit"), cache("narrowed"))
}

async fn loaded(scope: u32, change: impl FnOnce(&mut PluginSettings)) -> Fixture {
    let fixture = Fixture::new();
    let mut plugin = settings("p", guest(scope));
    change(&mut plugin);
    fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    fixture
}

#[tokio::test]
async fn an_answer_for_an_identity_is_given_to_that_identity_again() {
    let fixture = loaded(2, |_| {}).await;
    for _ in 0..3 {
        asked(&fixture, "a").await;
    }
    assert_eq!(counts(&fixture), (1.0, 2.0, 0.0));
    asked(&fixture, "b").await;
    assert_eq!(counts(&fixture), (2.0, 2.0, 0.0), "another identity is asked about");
    assert_eq!(fixture.metric("mqgate_plugin_cache_entries{plugin=\"p\"}"), Some(2.0));
}

#[tokio::test]
async fn a_new_version_is_asked_itself() {
    let fixture = loaded(2, |_| {}).await;
    asked(&fixture, "a").await;
    fixture.host.swap("p", Change::by("test").to(guest(2))).await.expect("swaps");
    asked(&fixture, "a").await;
    assert_eq!(counts(&fixture), (2.0, 0.0, 0.0));
}

#[tokio::test]
async fn an_answer_for_a_connection_or_without_a_certificate_is_not_kept() {
    for (scope, narrowed) in [(0, 0.0), (1, 2.0)] {
        let fixture = loaded(scope, |_| {}).await;
        asked(&fixture, "a").await;
        asked(&fixture, "a").await;
        assert_eq!(counts(&fixture), (2.0, 0.0, narrowed), "scope {scope}");
    }
}

#[tokio::test]
async fn the_operator_may_have_every_question_asked() {
    let fixture = loaded(2, |plugin| plugin.limits.longest_cached = Duration::ZERO).await;
    asked(&fixture, "a").await;
    asked(&fixture, "a").await;
    assert_eq!(counts(&fixture), (2.0, 0.0, 0.0));
}

#[tokio::test]
async fn what_depends_on_more_than_the_plugin_says_is_not_kept() {
    // It looks for the key "k" first.
    let body = format!("(call $get (i32.const 64) (i32.const 1) (i32.const 4096)) {}", denies(2));
    let reader = Guest::new()
        .text("k")
        .import("key-value", "get", "get", "(param i32 i32 i32)")
        .hook("authorizer", "authorize", &body)
        .build();
    let fixture = Fixture::new();
    let mut plugin = settings("p", reader);
    plugin.grants = Grants::of([Capability::KeyValue]);
    fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    asked(&fixture, "a").await;
    asked(&fixture, "a").await;
    assert_eq!(counts(&fixture), (2.0, 0.0, 2.0));
}

#[tokio::test]
async fn there_are_never_more_answers_than_the_bound() {
    let fixture = loaded(2, |plugin| plugin.limits.cached_decisions = 4).await;
    for number in 0..8 {
        asked(&fixture, &number.to_string()).await;
        let kept = fixture.metric("mqgate_plugin_cache_entries{plugin=\"p\"}").expect("it is counted");
        assert!(kept <= 4.0, "{kept}");
    }
    let evicted = fixture.metric("mqgate_plugin_cache_evictions_total{plugin=\"p\"}");
    assert!(evicted > Some(0.0), "{evicted:?}");
}
