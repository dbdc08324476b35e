//! Enhanced authentication by a guest: its steps, what bounds them, and what happens to an exchange under way.

use std::sync::Arc;
use std::time::Duration;

use mqgate_identity::hooks::{
    AuthenticationStep, ChainMember, ConnackReason, Connection, EnhancedAuthenticator, Exchange, FailureKind,
    HookFailure, HookFuture, HookSet, Occasion,
};
use mqgate_plugin_host::{Change, HostError, HostSettings, PluginHost, PluginSettings, Position};

use crate::fixture::{Fixture, connection, settings};
use crate::guest::{Guest, LOOP, TRAP, transient};
use crate::storage::FakeStorage;

const INTERFACE: &str = "enhanced-authenticator";
/// Where the parameters of a step hold what it is about.
const ROUND: usize = 424;
const STATE: usize = 428;
const DATA: usize = 440;
const RANDOM: usize = 452;

/// A guest that serves `method`; the rest of `text` follows it in memory, from address 64 + its length on.
fn serves(method: &str, text: &str, step: &str) -> Guest {
    let length = method.len();
    Guest::new()
        .text(&format!("{method}{text}"))
        .export(INTERFACE, "step", "(param i32) (result i32)", step)
        .function(&format!(
            "(func (export \"mqgate:plugin/{INTERFACE}@1.0.0#methods\") (result i32)
               (i32.store (i32.const 3072) (i32.const 3080)) (i32.store (i32.const 3076) (i32.const 1))
               (i32.store (i32.const 3080) (i32.const 64)) (i32.store (i32.const 3084) (i32.const {length}))
               (i32.const 3072))"
        ))
}

/// Answers what the client said, and has `length` bytes from address 65 remembered.
fn challenge(length: usize) -> String {
    format!(
        "(i32.store8 (i32.const 2056) (i32.const 1))
         (i32.store (i32.const 2060) (i32.load offset={DATA} (local.get 0)))
         (i32.store (i32.const 2064) (i32.load offset={DATA_LENGTH} (local.get 0)))
         (i32.store (i32.const 2068) (i32.const 65)) (i32.store (i32.const 2072) (i32.const {length}))
         (i32.const 2048)",
        DATA_LENGTH = DATA + 4
    )
}

/// Accepts as what it had remembered, and shows how many random bytes it was given by as many bytes.
fn accept() -> String {
    format!(
        "(i32.store8 (i32.const 2052) (i32.const 1))
         (i32.store (i32.const 2056) (i32.load offset={STATE} (local.get 0)))
         (i32.store (i32.const 2060) (i32.load offset={STATE_LENGTH} (local.get 0)))
         (i32.store8 (i32.const 2092) (i32.const 1))
         (i32.store (i32.const 2096) (i32.load offset={RANDOM} (local.get 0)))
         (i32.store (i32.const 2100) (i32.load offset={RANDOM_LENGTH} (local.get 0)))
         (i32.const 2048)",
        STATE_LENGTH = STATE + 4,
        RANDOM_LENGTH = RANDOM + 4
    )
}

/// The first step answers `first`, all others `then`.
fn steps(first: &str, then: &str) -> String {
    format!(
        "(if (result i32) (i32.eqz (i32.load offset={ROUND} (local.get 0))) (then {first}) (else {then}))"
    )
}

/// Serves `M`: a challenge, and acceptance as `device`.
fn accepts_as(device: &str) -> Vec<u8> {
    serves("M", device, &steps(&challenge(device.len()), &accept())).build()
}

async fn ask(
    set: &HookSet,
    round: u32,
    state: &[u8],
    data: Option<&[u8]>,
) -> Result<AuthenticationStep, HookFailure> {
    ask_on(set, &connection("l"), round, state, data).await
}

async fn ask_on(
    set: &HookSet,
    on: &Arc<Connection>,
    round: u32,
    state: &[u8],
    data: Option<&[u8]>,
) -> Result<AuthenticationStep, HookFailure> {
    let hook = set.members[0].enhanced_authenticator.as_ref().expect("the hook");
    hook.step(on, Exchange { method: "M", round, state, data, again: false }).await
}

async fn loaded(component: Vec<u8>, change: impl FnOnce(&mut PluginSettings)) -> Fixture {
    let fixture = Fixture::new();
    let mut plugin = settings("p", component);
    change(&mut plugin);
    fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    fixture
}

fn calls(fixture: &Fixture, result: &str) -> Option<f64> {
    fixture.metric(&format!(
        "mqgate_plugin_calls_total{{hook=\"enhanced-authenticator\",plugin=\"p\",result=\"{result}\"}}"
    ))
}

fn challenged(step: Result<AuthenticationStep, HookFailure>) -> (Option<Vec<u8>>, Vec<u8>) {
    match step {
        Ok(AuthenticationStep::Continue { data, state }) => (data, state.0),
        other => panic!("no challenge: {other:?}"),
    }
}

fn proved(step: Result<AuthenticationStep, HookFailure>) -> (String, Vec<u8>) {
    match step {
        Ok(AuthenticationStep::Accept { identity, data }) => {
            (identity.device_id, data.expect("random bytes"))
        }
        other => panic!("not accepted: {other:?}"),
    }
}

#[tokio::test]
async fn a_step_gets_what_the_one_before_remembered() {
    let fixture = loaded(accepts_as("device"), |_| ()).await;
    assert_eq!(fixture.host.find("p").expect("it is live").hooks, ["enhanced-authenticator"]);
    let set = fixture.host.hooks().load_full();
    let hook = set.members[0].enhanced_authenticator.as_ref().expect("the hook");
    assert_eq!(hook.methods(), ["M"]);
    let (data, state) = challenged(ask(&set, 0, b"", Some(b"hello")).await);
    assert_eq!((data.as_deref(), &state[..]), (Some(&b"hello"[..]), &b"device"[..]));
    let (device, random) = proved(ask(&set, 1, &state, None).await);
    assert_eq!((device.as_str(), random.len()), ("device", 32));
    let (_, other) = proved(ask(&set, 1, &state, None).await);
    assert_ne!(random, other, "random bytes are fresh at every step");
    assert_eq!((calls(&fixture, "challenge"), calls(&fixture, "allow")), (Some(1.0), Some(2.0)));
    // What it makes up is no device.
    let failure = ask(&set, 1, b"a/+", None).await.expect_err("no device id");
    assert_eq!(failure.kind, FailureKind::Invalid);
    fixture.no_instance_left().await;
}

#[tokio::test]
async fn a_step_may_refuse_or_have_no_answer() {
    let deny = "(i32.store8 (i32.const 2052) (i32.const 2)) (i32.store8 (i32.const 2056) (i32.const 4))
        (i32.const 2048)";
    let component = serves("M", "", &steps(deny, &transient(1))).build();
    let fixture = loaded(component, |_| ()).await;
    let set = fixture.host.hooks().load_full();
    match ask(&set, 0, b"", None).await {
        Ok(AuthenticationStep::Deny(denial)) => assert_eq!(denial.reason, ConnackReason::NotAuthorized),
        other => panic!("{other:?}"),
    }
    let failure = ask(&set, 1, b"", None).await.expect_err("no answer");
    assert_eq!((failure.kind, failure.detail.as_str()), (FailureKind::Unavailable, "M"));
    assert_eq!((calls(&fixture, "deny"), calls(&fixture, "error")), (Some(1.0), Some(1.0)));
}

#[tokio::test]
async fn a_trap_and_a_loop_in_a_step_end_that_exchange_alone() {
    for (harm, kind) in [(TRAP, FailureKind::Trap), (LOOP, FailureKind::Deadline)] {
        let component = serves("M", "device", &steps(&challenge(6), harm)).build();
        let fixture = loaded(component, |plugin| plugin.limits.backoff = Duration::from_millis(1)).await;
        let set = fixture.host.hooks().load_full();
        let (_, state) = challenged(ask(&set, 0, b"", None).await);
        assert_eq!(ask(&set, 1, &state, None).await.expect_err("no answer").kind, kind);
        let failures = format!(
            "mqgate_plugin_failures_total{{hook=\"enhanced-authenticator\",kind=\"{}\",plugin=\"p\"}}",
            kind.as_str()
        );
        assert_eq!(fixture.metric(&failures), Some(1.0));
        let mut other = (*connection("l")).clone();
        other.connect.client_id = String::from("other");
        challenged(ask_on(&set, &Arc::new(other), 0, b"", None).await);
        // A challenge says nothing about whether the client will break the step after it.
        while ask(&set, 0, b"", None).await.is_err() {
            tokio::task::yield_now().await;
        }
        assert_eq!(fixture.metric("mqgate_plugin_poisoned_subjects{plugin=\"p\"}"), Some(1.0));
        fixture.no_instance_left().await;
    }
}

#[tokio::test]
async fn a_client_that_broke_a_step_waits_before_the_first() {
    let component = serves("M", "device", &steps(&challenge(6), TRAP)).build();
    let fixture = loaded(component, |plugin| plugin.limits.backoff = Duration::from_secs(600)).await;
    let set = fixture.host.hooks().load_full();
    challenged(ask(&set, 0, b"", None).await);
    ask(&set, 1, b"", None).await.expect_err("it traps");
    let waits = ask(&set, 0, b"", None).await.expect_err("it would be challenged if it were asked");
    assert!(waits.detail.starts_with("not called"), "{}", waits.detail);
}

#[tokio::test]
async fn state_and_steps_are_bounded() {
    let component = serves("M", "device", &challenge(6)).build();
    let fixture = loaded(component.clone(), |plugin| {
        (plugin.limits.auth_state, plugin.limits.auth_steps) = (6, 3);
    })
    .await;
    let set = fixture.host.hooks().load_full();
    for round in 0..2 {
        challenged(ask(&set, round, b"", None).await);
    }
    let failure = ask(&set, 2, b"", None).await.expect_err("a third challenge has no fourth step");
    assert_eq!(failure.kind, FailureKind::Invalid);
    assert!(failure.detail.contains("after 3 steps"), "{}", failure.detail);

    let fixture = loaded(component.clone(), |plugin| plugin.limits.auth_state = 5).await;
    let set = fixture.host.hooks().load_full();
    let failure = ask(&set, 0, b"", None).await.expect_err("six bytes are too many");
    assert_eq!(failure.kind, FailureKind::Invalid);
    assert!(failure.detail.contains("limits.auth_state allows 5"), "{}", failure.detail);

    for (steps, good) in [(0, false), (1, true), (16, true), (17, false)] {
        let mut plugin = settings("p", component.clone());
        plugin.limits.auth_steps = steps;
        let loaded = Fixture::new().host.load(plugin, Position::Last, "test").await;
        assert_eq!(loaded.is_ok(), good, "{steps}");
    }
}

#[tokio::test]
async fn an_exchange_ends_with_the_version_that_began_it() {
    let fixture = loaded(accepts_as("old"), |_| ()).await;
    let begun = fixture.host.hooks().load_full();
    let (_, state) = challenged(ask(&begun, 0, b"", None).await);
    fixture.host.swap("p", Change::by("test").to(accepts_as("new"))).await.expect("swaps");
    assert_eq!(proved(ask(&begun, 1, &state, None).await).0, "old");
    let now = fixture.host.hooks().load_full();
    let (_, state) = challenged(ask(&now, 0, b"", None).await);
    assert_eq!(proved(ask(&now, 1, &state, None).await).0, "new");
    fixture.host.unload("p", true).await.expect("goes");
    assert_eq!(proved(ask(&now, 1, &state, None).await).0, "new");
    assert!(fixture.host.hooks().load().members.is_empty());
}

#[tokio::test]
async fn an_explanation_is_neither_counted_nor_remembered() {
    let fixture = loaded(accepts_as("device"), |_| ()).await;
    let set = fixture.host.hooks().load_full();
    let mut on = (*connection("l")).clone();
    on.occasion = Occasion::Explanation;
    challenged(ask_on(&set, &Arc::new(on), 0, b"", None).await);
    assert_eq!(calls(&fixture, "challenge"), Some(0.0));
}

#[tokio::test]
async fn a_plugin_names_methods_that_can_be_served() {
    for (methods, why) in [
        ("(i32.const 3072)", "serves 0 authentication methods"),
        (
            "(i32.store (i32.const 3072) (i32.const 3080)) (i32.store (i32.const 3076) (i32.const 2))
             (i32.store (i32.const 3080) (i32.const 64)) (i32.store (i32.const 3084) (i32.const 1))
             (i32.store (i32.const 3088) (i32.const 64)) (i32.store (i32.const 3092) (i32.const 1))
             (i32.const 3072)",
            "names the authentication method M twice",
        ),
        ("unreachable", "the trial ended with trap"),
    ] {
        let component = Guest::new()
            .text("M")
            .export(INTERFACE, "step", "(param i32) (result i32)", TRAP)
            .function(&format!(
                "(func (export \"mqgate:plugin/{INTERFACE}@1.0.0#methods\") (result i32) {methods})"
            ))
            .build();
        let error = Fixture::new().load("p", component).await.expect_err("refused");
        assert!(error.message.contains(why), "{error}");
    }
}

struct Native(Vec<String>);

impl EnhancedAuthenticator for Native {
    fn methods(&self) -> &[String] {
        &self.0
    }

    fn step<'a>(&'a self, _: &'a Arc<Connection>, _: Exchange<'a>) -> HookFuture<'a, AuthenticationStep> {
        Box::pin(std::future::ready(Ok(AuthenticationStep::Abstain)))
    }
}

fn native(name: &str, method: &str) -> ChainMember {
    ChainMember {
        name: name.into(),
        digest: None,
        authenticator: None,
        enhanced_authenticator: Some(Arc::new(Native(vec![method.to_owned()]))),
        registrar: None,
        authorizer: None,
        auditor: None,
    }
}

#[tokio::test]
async fn one_member_serves_a_method() {
    let fixture = Fixture::with(HostSettings::default(), vec![native("built-in", "M")]);
    let component = accepts_as("device");
    let names_both = |error: &str, first: &str, second: &str| {
        assert!(error.contains(&format!("M is served by {first} and by {second}")), "{error}");
    };
    let error = fixture.load("p", component.clone()).await.expect_err("the method is taken");
    names_both(&error.message, "built-in", "p");
    assert_eq!(fixture.host.order(), ["built-in"]);

    let other = serves("N", "device", &challenge(6)).build();
    fixture.load("p", other.clone()).await.expect("another method");
    let error = fixture.load("q", other.clone()).await.expect_err("the method is taken");
    assert!(error.message.contains("N is served by p and by q"), "{error}");
    let change = Change::by("test").to(component);
    names_both(&fixture.host.swap("p", change).await.expect_err("taken").message, "built-in", "p");
    // What is not asked serves nothing, until somebody wants it back.
    fixture.host.disable("p", true).await.expect("disabled");
    fixture.load("q", other).await.expect("the method is free");
    let error = fixture.host.enable("p", mqgate_identity::hooks::Reauthorize::None).await;
    assert!(error.expect_err("taken").message.contains("N is served by q and by p"));

    let twice = PluginHost::new(
        HostSettings { instances: 4, ..HostSettings::default() },
        vec![native("one", "M"), native("two", "M")],
        Arc::new(FakeStorage::default()),
        &prometheus::Registry::new(),
    );
    match twice.err() {
        Some(HostError::DuplicateMethod { method, first, second }) => {
            assert_eq!([method, first, second], ["M", "one", "two"]);
        }
        other => panic!("{other:?}"),
    }
}
