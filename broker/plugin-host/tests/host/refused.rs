//! Components that never go live, and what the operator is told.

use mqgate_identity::hooks::FailureKind;
use mqgate_plugin_host::{
    Capability, Change, Configured, Grants, LoadError, PluginSettings, PluginState, Position, Stage,
    StartOutcome, UnloadError,
};

use crate::fixture::{Fixture, device_id, settings};
use crate::guest::{ABSTAIN, Guest, LOOP, TRAP, accepts_as};

/// Loads, and expects to be refused without a trace.
async fn refused(component: Vec<u8>) -> LoadError {
    let fixture = Fixture::new();
    let before = fixture.host.hooks().load_full();
    let error = fixture.load("bad", component).await.expect_err("refused");
    let after = fixture.host.hooks().load_full();
    assert_eq!((before.generation, before.members.len()), (after.generation, after.members.len()));
    assert!(fixture.host.list().is_empty());
    assert!(!fixture.metrics_text().contains("\"bad\""), "{}", fixture.metrics_text());
    fixture.no_instance_left().await;
    assert!(error.message.lines().count() <= 3, "{error}");
    error
}

fn assert_says(error: &LoadError, stage: Stage, texts: &[&str]) {
    assert_eq!(error.stage, stage, "{error}");
    for text in texts {
        assert!(error.message.contains(text), "{text:?} is not in: {error}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_component() {
    assert_says(&refused(Vec::new()).await, Stage::Verify, &["empty"]);
    assert_says(&refused(b"hello".to_vec()).await, Stage::Verify, &["not WebAssembly"]);
    let module = wat::parse_str("(module)").expect("text");
    assert_says(
        &refused(module).await,
        Stage::Verify,
        &["core WebAssembly module", "wasm-tools component new"],
    );
    let mut torn = accepts_as("d");
    torn.truncate(torn.len() / 2);
    assert_eq!(refused(torn).await.stage, Stage::Compile);
    let compiled = wasmtime_compiled(&accepts_as("d"));
    assert_says(&refused(compiled).await, Stage::Verify, &["machine code"]);
}

fn wasmtime_compiled(component: &[u8]) -> Vec<u8> {
    wasmtime::Engine::default().precompile_component(component).expect("compiles")
}

#[tokio::test]
async fn exports_this_broker_cannot_serve() {
    let none = wat::parse_str("(component)").expect("text");
    assert_says(&refused(none).await, Stage::Inspect, &["exports nothing", "authenticator"]);
    assert_says(&refused(Guest::new().build()).await, Stage::Inspect, &["no hook"]);
    let headless = Guest::new().without_lifecycle().authenticator(ABSTAIN).build();
    assert_says(&refused(headless).await, Stage::Inspect, &["does not export lifecycle", "init"]);

    // Releases of the same track fit, another track does not.
    let newer = |version: &str| {
        Guest::new()
            .authenticator(ABSTAIN)
            .wit("mqgate:plugin@1.0.0;", &format!("mqgate:plugin@{version};"))
            .wit("(version = 1.0.0)", &format!("(version = {version})"))
            .build()
    };
    let fixture = Fixture::new();
    fixture.load("patch", newer("1.0.7")).await.expect("the same track");
    fixture.load("minor", newer("1.4.0")).await.expect("the same track, and nothing new is used");
    for version in ["0.1.0", "2.0.0", "10.0.0"] {
        let said = format!("@{version}");
        assert_says(&refused(newer(version)).await, Stage::Inspect, &[&said, "track 1 "]);
    }

    let unknown = Guest::new()
        .authenticator(ABSTAIN)
        .wit("interface health {", "interface gatekeeper { ask: func(); }\ninterface health {")
        .export("gatekeeper", "ask", "", "")
        .build();
    assert_says(&refused(unknown).await, Stage::Inspect, &["gatekeeper", "does not know"]);
}

#[tokio::test]
async fn types_that_differ_are_found_before_a_connection_does() {
    let other = Guest::new()
        .authenticator(ABSTAIN)
        .wit("client-id: string,\n    clean-start", "client-id: string,\n    extra: u8,\n    clean-start")
        .build();
    assert_says(&refused(other).await, Stage::Link, &["Rebuild"]);
    let newer_import = Guest::new()
        .wit("enabled: func(level: level) -> bool;", "enabled: func(level: level, more: u8) -> bool;")
        .import("log", "enabled", "enabled", "(param i32 i32) (result i32)")
        .authenticator("(drop (call $enabled (i32.const 4) (i32.const 0))) unreachable")
        .build();
    assert_says(&refused(newer_import).await, Stage::Link, &["log", "Rebuild"]);
}

fn reads_keys() -> Vec<u8> {
    Guest::new()
        .import("key-value", "get", "get", "(param i32 i32 i32)")
        .authenticator(&format!("(call $get (i32.const 64) (i32.const 0) (i32.const 4096)) {ABSTAIN}"))
        .build()
}

#[tokio::test]
async fn imports_that_are_not_granted() {
    let error = refused(reads_keys()).await;
    assert_says(&error, Stage::Inspect, &["key-value@1.0.0", "It is granted: nothing", "grant = [\"kv\"]"]);

    // The line names what is granted already, too, and the grant is enough.
    let fixture = Fixture::new();
    let mut plugin = settings("keys", reads_keys());
    plugin.grants = Grants::of([Capability::Metrics]);
    let error = fixture.host.load(plugin.clone(), Position::Last, "test").await.expect_err("refused");
    assert_says(&error, Stage::Inspect, &["grant = [\"kv\", \"metrics\"]"]);
    plugin.grants = Grants::of([Capability::KeyValue]);
    fixture.host.load(plugin, Position::Last, "test").await.expect("granted");

    let foreign = Guest::new()
        .world("import foreign: interface { f: func(); }")
        .raw_import("foreign", "f", "foreign", "")
        .authenticator(&format!("(call $foreign) {ABSTAIN}"))
        .build();
    assert_says(&refused(foreign).await, Stage::Inspect, &["imports foreign", "nothing else"]);
}

#[tokio::test]
async fn a_trial_that_fails() {
    let quick = |init: &str| Guest::new().init(init).authenticator(ABSTAIN).build();
    let fixture = Fixture::new();
    fixture.load("gate", accepts_as("old")).await.expect("loads");
    let generation = fixture.host.hooks().load().generation;

    let grows = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable";
    // err(failed("no")) and err(invalid-config([]))
    let says_no = "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1028) (i32.const 1))
        (i32.store (i32.const 1032) (i32.const 64)) (i32.store (i32.const 1036) (i32.const 2)) (i32.const 1024)";
    let bad_config = "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.const 1024)";
    let unwell = "(i32.store8 (i32.const 2048) (i32.const 1))
        (i32.store (i32.const 2052) (i32.const 64)) (i32.store (i32.const 2056) (i32.const 4)) (i32.const 2048)";
    let cases = [
        (quick(TRAP), "trap"),
        (quick(grows), "memory"),
        (Guest::new().text("no").init(says_no).authenticator(ABSTAIN).build(), "init failed: no"),
        (quick(bad_config), "the configuration is wrong"),
        (
            Guest::new()
                .text("sick\\1b[2J")
                .authenticator(ABSTAIN)
                .export("health", "check", "(result i32)", unwell)
                .build(),
            "the self-test failed: sick",
        ),
    ];
    for (component, said) in cases {
        let error = fixture.host.swap("gate", Change::by("test").to(component)).await.expect_err("refused");
        assert_says(&error, Stage::Trial, &[said]);
        assert!(!error.message.contains('\u{1b}'), "{error}");
        assert_eq!(device_id(fixture.authenticate("gate", "l").await), "old");
    }
    assert_eq!(fixture.host.hooks().load().generation, generation);
    assert_eq!(fixture.metric("mqgate_plugin_swaps_total{plugin=\"gate\",result=\"refused\"}"), Some(5.0));
    fixture.no_instance_left().await;
}

#[tokio::test]
async fn a_loop_in_init_or_in_the_self_test_is_ended() {
    let fixture = Fixture::new();
    let mut plugin = settings("gate", accepts_as("old"));
    plugin.limits.init = std::time::Duration::from_millis(200);
    fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    let loops = [
        Guest::new().init(LOOP).authenticator(ABSTAIN).build(),
        Guest::new().authenticator(ABSTAIN).export("health", "check", "(result i32)", LOOP).build(),
    ];
    for component in loops {
        let error = fixture.host.swap("gate", Change::by("test").to(component)).await.expect_err("refused");
        assert_says(&error, Stage::Trial, &["did not end within 200ms", "limits.init"]);
        assert_eq!(device_id(fixture.authenticate("gate", "l").await), "old");
    }
    fixture.no_instance_left().await;
}

#[tokio::test]
async fn an_init_too_dear_for_every_call_is_refused() {
    // Counts down for longer than a call may compute, but not for ever.
    let slow = "(local $n i64) (local.set $n (i64.const 400000000))
        (loop $l (local.set $n (i64.sub (local.get $n) (i64.const 1)))
          (br_if $l (i64.ne (local.get $n) (i64.const 0)))) (i32.const 1024)";
    let fixture = Fixture::new();
    let error = fixture
        .load("slow", Guest::new().init(slow).authenticator(ABSTAIN).build())
        .await
        .expect_err("refused");
    assert_says(&error, Stage::Trial, &["limits.cpu"]);
}

#[tokio::test]
async fn settings_that_make_no_sense() {
    let fixture = Fixture::new();
    for name in ["", "A", "a b", "a/b", &"a".repeat(65)] {
        let error = fixture.load(name, accepts_as("d")).await.expect_err("refused");
        assert_says(&error, Stage::Verify, &["name"]);
    }
    let mut plugin = settings("p", accepts_as("d"));
    plugin.limits.memory = 1 << 30;
    let error = fixture.host.load(plugin, Position::Last, "test").await.expect_err("refused");
    assert_says(&error, Stage::Verify, &["limits.memory"]);
    let mut plugin = settings("p", Guest::new().pages(32).authenticator(ABSTAIN).build());
    plugin.limits.memory = 1 << 20;
    let error = fixture.host.load(plugin, Position::Last, "test").await.expect_err("refused");
    assert_says(&error, Stage::Inspect, &["memory"]);
}

/// The broker begins, and the configuration names this one.
async fn begin(fixture: &Fixture, plugin: &PluginSettings) {
    let configured = Configured { settings: plugin.clone(), missing: None };
    let started = fixture.host.start(vec![configured]).await;
    assert!(matches!(started[0].outcome, StartOutcome::Failed { .. }), "{started:?}");
}

#[tokio::test]
async fn a_required_plugin_that_failed_keeps_the_gate_shut_until_it_loads() {
    let fixture = Fixture::new();
    let mut plugin = settings("gate", Guest::new().init(TRAP).authenticator(ABSTAIN).build());
    begin(&fixture, &plugin).await;
    let set = fixture.host.hooks().load_full();
    assert_eq!(set.missing.len(), 1);
    assert!(set.missing[0].1.contains("trap"), "{:?}", set.missing);
    assert!(matches!(fixture.host.list()[0].state, PluginState::Failed(_)));
    assert_eq!(fixture.metric("mqgate_plugin_state{plugin=\"gate\",state=\"failed\"}"), Some(1.0));

    fixture
        .host
        .swap("gate", Change::by("test").to(accepts_as("d")))
        .await
        .expect("a good one takes its place");
    assert!(fixture.host.hooks().load().missing.is_empty());
    assert_eq!(fixture.metric("mqgate_plugin_state{plugin=\"gate\",state=\"failed\"}"), Some(0.0));
    assert_eq!(device_id(fixture.authenticate("gate", "l").await), "d");

    // Taking it out would open the gate for good: nobody would ask for it any more.
    assert_eq!(fixture.host.unload("gate", false).await, Err(UnloadError::Required));
    assert_eq!(device_id(fixture.authenticate("gate", "l").await), "d");
    assert_eq!(fixture.host.unload("gate", true).await, Ok(()));
    begin(&fixture, &plugin).await;
    assert_eq!(fixture.host.unload("gate", false).await, Err(UnloadError::Required));
    assert_eq!(fixture.host.hooks().load().missing.len(), 1, "and neither does it go while it is not live");
    let known = fixture.host.settings_of_failed("gate").expect("its settings are kept");
    assert!(known.required);
    assert!(fixture.host.settings_of_failed("nobody").is_none());

    plugin.name = String::from("extra");
    plugin.required = false;
    begin(&fixture, &plugin).await;
    assert_eq!(fixture.host.hooks().load().missing.len(), 1, "it is not required");
    assert_eq!(fixture.host.unload("extra", false).await, Ok(()));
}

#[tokio::test]
async fn an_init_that_fails_later_makes_the_call_unavailable() {
    // Succeeds in trials only: the byte `trial` is the eleventh parameter.
    let init = "(i32.store8 (i32.const 1024) (i32.eqz (local.get 10)))
        (i32.store8 (i32.const 1028) (i32.const 1)) (i32.const 1024)";
    let fixture = Fixture::new();
    fixture.load("p", Guest::new().init(init).authenticator(ABSTAIN).build()).await.expect("loads");
    assert_eq!(fixture.kind_of_failure("p").await, FailureKind::Unavailable);
}
