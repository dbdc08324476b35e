//! Replacing plugins while they are asked.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mqgate_identity::hooks::{Authentication, ChainMember, Reauthorize};
use mqgate_plugin_host::{Change, HostSettings, Position, UnloadError};

use crate::alone::{alone, resident_bytes};
use crate::fixture::{Fixture, connection, device_id, settings};
use crate::guest::{ABSTAIN, Guest, accepts_as};

fn eager(component: Arc<[u8]>) -> Change {
    Change { reauthorize: Reauthorize::Eager, ..Change::by("test").to(component) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_and_none_mixes_versions_while_plugins_are_swapped() {
    let fixture = Arc::new(Fixture::new());
    fixture.load("first", accepts_as("v0")).await.expect("loads");
    fixture.load("second", accepts_as("v0")).await.expect("loads");
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let fixture = Arc::clone(&fixture);
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut seen = BTreeSet::new();
                let mut calls = 0;
                while !stop.load(Ordering::SeqCst) {
                    // One snapshot per connection: within it, a member stays what it is.
                    let set = fixture.host.hooks().load_full();
                    let member = &set.members[0];
                    let authenticator = member.authenticator.as_ref().expect("the hook");
                    let one = device_id(authenticator.authenticate(&connection("l")).await);
                    tokio::task::yield_now().await;
                    let two = device_id(authenticator.authenticate(&connection("l")).await);
                    assert_eq!(one, two, "generation {}", set.generation);
                    seen.insert(one);
                    calls += 2;
                }
                (seen, calls)
            })
        })
        .collect();
    let versions: Vec<Arc<[u8]>> = (1..=20).map(|n| accepts_as(&format!("v{n}")).into()).collect();
    for (number, component) in versions.iter().enumerate() {
        let before = fixture.host.hooks().load().generation;
        let info = fixture.host.swap("first", eager(Arc::clone(component))).await.expect("swaps");
        let set = fixture.host.hooks().load_full();
        assert_eq!((set.generation, info.generation), (before + 1, before + 1));
        assert_eq!(set.reauthorize, Reauthorize::Eager);
        assert_eq!(set.members.iter().map(|member| &*member.name).collect::<Vec<_>>(), ["first", "second"]);
        assert_eq!(device_id(fixture.authenticate("first", "l").await), format!("v{}", number + 1));
    }
    stop.store(true, Ordering::SeqCst);
    let mut total = 0;
    let mut seen = BTreeSet::new();
    for caller in callers {
        let (versions, calls) = caller.await.expect("no call failed");
        total += calls;
        seen.extend(versions);
    }
    assert!(total > 20, "the callers were at work: {total}");
    assert!(seen.len() > 1, "they saw versions come and go: {seen:?}");
    assert_eq!(fixture.metric("mqgate_plugin_swaps_total{plugin=\"first\",result=\"ok\"}"), Some(20.0));
    fixture.no_instance_left().await;
}

#[tokio::test]
async fn two_hundred_swaps_leave_nothing_behind() {
    if alone("swap::two_hundred_swaps_leave_nothing_behind") {
        nothing_is_left_after(200).await;
    }
}

#[tokio::test]
#[ignore = "full: a thousand swaps take a minute"]
async fn a_thousand_swaps_leave_nothing_behind() {
    if alone("swap::a_thousand_swaps_leave_nothing_behind") {
        nothing_is_left_after(1_000).await;
    }
}

async fn nothing_is_left_after(swaps: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let cache_dir = folder.path().join("compiled");
    let fixture = Fixture::with(
        HostSettings { cache_dir: Some(cache_dir.clone()), ..HostSettings::default() },
        Vec::new(),
    );
    let versions: [Arc<[u8]>; 2] = [accepts_as("even").into(), accepts_as("odd").into()];
    fixture.load("gate", versions[0].to_vec()).await.expect("loads");
    let mut weak = Vec::new();
    let mut resident_after_warm_up = 0;
    for number in 1..=swaps {
        weak.push(Arc::downgrade(&fixture.host.hooks().load_full().members[0]));
        let component = Arc::clone(&versions[number % 2]);
        fixture.host.swap("gate", Change::by("test").to(component)).await.expect("swaps");
        let expected = ["even", "odd"][number % 2];
        assert_eq!(device_id(fixture.authenticate("gate", "l").await), expected);
        if number == 50 {
            resident_after_warm_up = resident_bytes();
        }
    }
    assert!(weak.iter().all(|member| member.upgrade().is_none()), "an old version is still held");
    fixture.no_instance_left().await;
    let grown = resident_bytes().saturating_sub(resident_after_warm_up);
    // 150 times four pages are more.
    assert!(grown < 2 << 20, "{grown} bytes");
    assert_eq!(std::fs::read_dir(&cache_dir).expect("the cache").count(), 2, "one file per component");
    let info_series =
        fixture.metrics_text().lines().filter(|line| line.starts_with("mqgate_plugin_info{")).count();
    assert_eq!(info_series, 1);

    assert_eq!(fixture.host.unload("gate", true).await, Ok(()));
    assert_eq!(fixture.host.unload("gate", true).await, Err(UnloadError::NoSuchPlugin));
    assert!(!fixture.metrics_text().contains("gate"), "{}", fixture.metrics_text());
}

#[tokio::test]
async fn a_restart_loads_what_was_compiled() {
    let folder = tempfile::tempdir().expect("a folder");
    let cached =
        || HostSettings { cache_dir: Some(folder.path().join("compiled")), ..HostSettings::default() };
    let compiled = |fixture: &Fixture| {
        fixture.metric("mqgate_plugin_compile_seconds_count{plugin=\"p\"}").unwrap_or(0.0)
    };
    let first = Fixture::with(cached(), Vec::new());
    first.load("p", accepts_as("d")).await.expect("loads");
    assert_eq!(compiled(&first), 1.0);
    drop(first);
    let second = Fixture::with(cached(), Vec::new());
    second.load("p", accepts_as("d")).await.expect("loads");
    assert_eq!(compiled(&second), 0.0);
    assert_eq!(device_id(second.authenticate("p", "l").await), "d");
}

fn native(name: &str) -> ChainMember {
    ChainMember {
        name: name.into(),
        digest: None,
        authenticator: None,
        enhanced_authenticator: None,
        registrar: None,
        authorizer: None,
        auditor: None,
    }
}

fn order(fixture: &Fixture) -> Vec<String> {
    fixture.host.hooks().load().members.iter().map(|member| member.name.to_string()).collect()
}

#[tokio::test]
async fn members_stand_where_they_are_put() {
    let configured = ["one", "static", "two", "users"].map(String::from).to_vec();
    let settings_of_host = HostSettings { order: configured, ..HostSettings::default() };
    let fixture = Fixture::with(settings_of_host, vec![native("static"), native("users")]);
    let component = Guest::new().authenticator(ABSTAIN).build();
    let put = async |name: &str, position: Position| {
        fixture.host.load(settings(name, component.clone()), position, "test").await.map(|info| info.name)
    };
    put("two", Position::Configured).await.expect("loads");
    put("one", Position::Configured).await.expect("loads");
    put("unnamed", Position::Configured).await.expect("loads");
    assert_eq!(order(&fixture), ["one", "static", "two", "users", "unnamed"]);
    put("zero", Position::First).await.expect("loads");
    put("before", Position::Before(String::from("users"))).await.expect("loads");
    put("after", Position::After(String::from("users"))).await.expect("loads");
    assert_eq!(order(&fixture), ["zero", "one", "static", "two", "before", "users", "after", "unnamed"]);
    assert!(put("x", Position::Before(String::from("nobody"))).await.is_err());
    assert!(put("static", Position::Last).await.is_err(), "a built-in member's name");
    assert!(put("one", Position::Last).await.is_err(), "live already");
    assert_eq!(fixture.host.unload("two", true).await, Ok(()));
    let native = fixture.host.unload("static", true).await;
    assert_eq!(native, Err(UnloadError::NoSuchPlugin), "built-in members stay");
    let listed: Vec<String> = fixture.host.list().into_iter().map(|info| info.name).collect();
    assert_eq!(listed, ["zero", "one", "before", "after", "unnamed"]);
    assert_eq!(fixture.authenticate("one", "l").await.ok(), Some(Authentication::Abstain));
}

/// Defines the gauge `x` with this help and one label, both of one letter, and traps when it may not.
fn defines(help: char, label: char) -> Vec<u8> {
    let init = "(i32.store (i32.const 512) (i32.const 66)) (i32.store (i32.const 516) (i32.const 1))
        (call $define (i32.const 64) (i32.const 1) (i32.const 65) (i32.const 1) (i32.const 1)
          (i32.const 512) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 4096))
        (if (i32.load8_u (i32.const 4096)) (then unreachable))
        (call $record (i32.load (i32.const 4100)) (f64.const 1) (i32.const 512) (i32.const 1))
        (i32.const 1024)";
    Guest::new()
        .text(&format!("x{help}{label}"))
        .import("metrics", "define", "define", "(param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)")
        .import("metrics", "record", "record", "(param i32 f64 i32 i32)")
        .init(init)
        .authenticator(ABSTAIN)
        .build()
}

#[tokio::test]
async fn a_new_version_may_change_its_metrics() {
    let fixture = Fixture::new();
    let load = async |name: &str, component: Vec<u8>| {
        let mut plugin = settings(name, component);
        plugin.grants = mqgate_plugin_host::Grants::of([mqgate_plugin_host::Capability::Metrics]);
        fixture.host.load(plugin, Position::Last, "test").await
    };
    let shown = || {
        let text = fixture.metrics_text();
        let own = text.lines().filter(|line| line.contains("mqgate_plugin_custom_x"));
        own.map(str::to_owned).collect::<Vec<_>>().join("\n")
    };
    load("p", defines('h', 'a')).await.expect("loads");
    assert_eq!(shown(), "", "the trial shows nothing");
    fixture.authenticate("p", "l").await.expect("an answer");
    assert!(shown().contains(r#"x{a="a",plugin="p"} 1"#), "{}", shown());

    for (help, label) in [('i', 'a'), ('i', 'b')] {
        let next = defines(help, label);
        fixture.host.swap("p", Change::by("test").to(next)).await.expect("swaps");
        fixture.authenticate("p", "l").await.expect("an answer");
        let line = format!("mqgate_plugin_custom_x{{{label}=\"{label}\",plugin=\"p\"}} 1");
        let lines =
            format!("# HELP mqgate_plugin_custom_x {help}\n# TYPE mqgate_plugin_custom_x gauge\n{line}");
        assert_eq!(shown(), lines);
    }

    let refused = load("q", defines('h', 'a')).await.expect_err("the name is taken");
    assert!(refused.message.contains("the plugin p has a gauge x with the labels [b]"), "{refused}");
    fixture.authenticate("p", "l").await.expect("an answer");
    load("q", defines('h', 'b')).await.expect("the same meaning");
    fixture.authenticate("q", "l").await.expect("an answer");
    let next = defines('i', 'a');
    let refused = fixture.host.swap("p", Change::by("test").to(next)).await.expect_err("q has it");
    assert!(refused.message.contains("the plugin q has a gauge x"), "{refused}");
    assert_eq!(shown().lines().count(), 4, "{}", shown());
}
