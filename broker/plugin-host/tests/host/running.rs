//! What a plugin that behaves can rely on.

use std::sync::Arc;

use mqgate_identity::audit::{AuditEvent, Outcome, names};
use mqgate_identity::certificate::CertificateFingerprint;
use mqgate_identity::hooks::{Acl, Authentication, Authorization, FailureKind, HookFailure, Identity};
use mqgate_identity::reason::Reason;
use mqgate_identity::registry::DeviceState;
use mqgate_plugin_host::{Capability, Grants, PluginSettings, Position, Source};

use crate::fixture::{Fixture, connection, settings};
use crate::guest::{ABSTAIN, Guest, TRAP, accepts_as};

fn events(sequences: std::ops::RangeInclusive<u64>) -> Vec<Arc<AuditEvent>> {
    sequences
        .map(|sequence| {
            let mut event = AuditEvent::new(names::BROKER_STARTED, Outcome::Success, Reason::Ok);
            event.sequence = sequence;
            Arc::new(event)
        })
        .collect()
}

async fn record(
    fixture: &Fixture,
    plugin: &str,
    sequences: std::ops::RangeInclusive<u64>,
) -> Result<u64, HookFailure> {
    let set = fixture.host.hooks().load_full();
    let member = set.members.iter().find(|member| &*member.name == plugin).expect("the plugin is live");
    member.auditor.clone().expect("it has the hook").record_events(&events(sequences)).await
}

/// Traps when it gets three events; otherwise counts its calls and says that as many events are safe.
const COUNTING_AUDITOR: &str = "(if (i32.eq (local.get 1) (i32.const 3)) (then unreachable))
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (i64.store (i32.const 2056) (i64.extend_i32_u (global.get $calls)))
    (i32.const 2048)";

#[tokio::test]
async fn an_auditor_lives_on_until_it_fails() {
    let fixture = Fixture::new();
    let guest = Guest::new()
        .export("auditor", "record-events", "(param i32 i32) (result i32)", COUNTING_AUDITOR)
        .build();
    let info = fixture.load("audit", guest).await.expect("loads");
    assert_eq!((info.isolation, info.hooks.as_slice()), ("single", &[String::from("auditor")][..]));
    for expected in 1..=5 {
        assert_eq!(record(&fixture, "audit", 1..=10).await, Ok(expected));
        assert_eq!(fixture.host.instances(), 1);
    }
    let failure = record(&fixture, "audit", 1..=3).await.expect_err("it trapped");
    assert_eq!(failure.kind, FailureKind::Trap);
    assert_eq!(record(&fixture, "audit", 1..=10).await, Ok(1), "a new instance");
    // Its second answer would be 2, beyond the last event.
    assert_eq!(
        record(&fixture, "audit", 1..=1).await.map_err(|failure| failure.kind),
        Err(FailureKind::Invalid)
    );
    assert_eq!(record(&fixture, "audit", 1..=1).await, Ok(1), "a new instance");
    assert_eq!(fixture.host.unload("audit", true).await, Ok(()));
    fixture.no_instance_left().await;
}

#[tokio::test]
async fn an_instance_sees_one_call_only() {
    // A device id of as many bytes as the instance has seen calls.
    let counting = "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (i32.store (i32.const 2056) (i32.const 64)) (i32.store (i32.const 2060) (global.get $calls))
        (i32.const 2048)";
    let fixture = Fixture::new();
    fixture.load("p", Guest::new().text("xxxx").authenticator(counting).build()).await.expect("loads");
    for _ in 0..3 {
        assert_eq!(crate::fixture::device_id(fixture.authenticate("p", "l").await), "x");
    }
}

#[tokio::test]
async fn an_authorizer_answers_with_rules() {
    // ok(allow(grant)) with one rule at 3072: allow publish, text as filter, QoS 0 and 1, any.
    let grants = |length: usize| {
        format!(
            "(i32.store (i32.const 2060) (i32.const 3072)) (i32.store (i32.const 2064) (i32.const 1))
             (i32.store8 (i32.const 2068) (i32.const 1))
             (i32.store8 (i32.const 3073) (i32.const 1))
             (i32.store (i32.const 3076) (i32.const 64)) (i32.store (i32.const 3080) (i32.const {length}))
             (i32.store8 (i32.const 3084) (i32.const 3)) (i32.const 2048)"
        )
    };
    let fixture = Fixture::new();
    let authorize = async |name: &str, filter: &str| {
        let guest = Guest::new().text(filter).hook("authorizer", "authorize", &grants(filter.len())).build();
        fixture.load(name, guest).await.expect("loads");
        let set = fixture.host.hooks().load_full();
        let member = set.members.iter().find(|member| &*member.name == name).expect("live");
        let who =
            Identity { device_id: String::from("d"), tenant: None, tags: Vec::new(), attributes: Vec::new() };
        member.authorizer.clone().expect("the hook").authorize(&connection("l"), &who).await
    };
    match authorize("good", "devices/${device-id}/#").await {
        Ok(Authorization::Allow(grant)) => match grant.acl {
            Acl::Inline(rules) => {
                assert_eq!(rules.len(), 1);
                assert_eq!(rules[0].filter, "devices/${device-id}/#");
                assert!(rules[0].publish && !rules[0].subscribe);
                assert_eq!(rules[0].qos, 0b011);
            }
            Acl::Named(name) => panic!("{name}"),
        },
        other => panic!("{other:?}"),
    }
    for (name, filter) in [("hash", "#/x"), ("unknown", "${user}"), ("wide", "${device-id}#")] {
        let failure = authorize(name, filter).await.expect_err("refused");
        assert_eq!(failure.kind, FailureKind::Invalid, "{filter}");
        assert!(failure.detail.contains("rule 1"), "{}", failure.detail);
    }
}

#[tokio::test]
async fn a_trial_keeps_nothing_and_a_call_does() {
    // `init` writes the key "k".
    let init =
        "(call $set (i32.const 64) (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 0) (i32.const 0)
        (i32.const 4096)) (i32.const 1024)";
    let guest = Guest::new()
        .text("k")
        .import("key-value", "set", "set", "(param i32 i32 i32 i32 i32 i32 i32)")
        .init(init)
        .authenticator(ABSTAIN)
        .build();
    let fixture = Fixture::new();
    let mut plugin = settings("keeps", guest);
    plugin.grants = Grants::of([Capability::KeyValue]);
    fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    assert!(fixture.storage.kv.lock().unwrap().is_empty(), "the trial wrote");
    let counted = || {
        let calls = |line: &&str| line.starts_with("mqgate_plugin_calls_total") && !line.ends_with(" 0");
        fixture.metrics_text().lines().filter(calls).count()
    };
    assert_eq!(fixture.explain("keeps", "l").await, Ok(Authentication::Abstain));
    assert!(fixture.storage.kv.lock().unwrap().is_empty(), "the explanation wrote");
    assert_eq!(counted(), 0, "the explanation was counted");
    fixture.authenticate("keeps", "l").await.expect("an answer");
    let keys: Vec<_> = fixture.storage.kv.lock().unwrap().keys().cloned().collect();
    assert_eq!(keys, [(String::from("keeps"), String::from("k"))]);
    assert_eq!(counted(), 1);
}

#[tokio::test]
async fn the_default_limits_are_enough_for_a_plugin_that_behaves() {
    let fixture = Fixture::new();
    let component = accepts_as("d");
    let plugin = PluginSettings::new("p", Source::Bytes(component.into()));
    let info = fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    assert!(info.cold_start > std::time::Duration::ZERO);
    let dear = info.cold_start > std::time::Duration::from_micros(100);
    assert_eq!(info.isolation, if dear { "pooled" } else { "per-call" });
}

#[tokio::test]
async fn a_component_can_be_looked_at_without_running_it() {
    let fixture = Fixture::new();
    let guest = Guest::new()
        .init("unreachable")
        .import("log", "enabled", "enabled", "(param i32) (result i32)")
        .authenticator("(drop (call $enabled (i32.const 0))) unreachable")
        .hook("authorizer", "authorize", "unreachable")
        .build();
    let found = fixture.host.inspect(Source::Bytes(guest.into())).await.expect("described");
    assert_eq!(found.hooks, ["authenticator", "authorizer"]);
    assert_eq!(found.imports, ["mqgate:plugin/log@1.0.0"]);
    assert!(found.needs.is_empty() && found.unserved.is_empty(), "everybody may log");
    assert!(found.digest.starts_with("sha256:") && found.digest.len() == 71);
    assert!(fixture.host.list().is_empty());
}

/// Writes as many lines as it gets events.
const WRITING_AUDITOR: &str = "(local $n i32)
    (loop $next
      (call $write (i32.const 2) (i32.const 64) (i32.const 1) (i32.const 0) (i32.const 0))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $n) (local.get 1))))
    (i64.store (i32.const 2056) (i64.const 1))
    (i32.const 2048)";

#[tokio::test]
async fn every_event_of_a_batch_becomes_a_line() {
    let lines = Lines::default();
    // Plugins run on threads of their own, which know only the subscriber of the process.
    tracing::subscriber::set_global_default(lines.clone()).expect("the only one of these tests");
    let guest = Guest::new()
        .text("e")
        .pages(32)
        .import("log", "write", "write", "(param i32 i32 i32 i32 i32)")
        .export("auditor", "record-events", "(param i32 i32) (result i32)", WRITING_AUDITOR)
        .build();
    let fixture = Fixture::new();
    fixture.load("audit", guest).await.expect("loads");
    for batch in 1..=3 {
        record(&fixture, "audit", 1..=256).await.expect("taken");
        assert_eq!(lines.of("mqgate::audit_log"), batch * 256);
    }
    let dropped = "mqgate_plugin_host_calls_total{interface=\"log\",plugin=\"audit\",result=\"dropped\"}";
    assert_eq!(fixture.metric(dropped), Some(0.0));
}

/// Counts events by target.
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<std::collections::BTreeMap<String, usize>>>);

impl Lines {
    fn of(&self, target: &str) -> usize {
        self.0.lock().unwrap().get(target).copied().unwrap_or(0)
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        *self.0.lock().unwrap().entry(event.metadata().target().to_owned()).or_default() += 1;
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_large_fleet_is_counted_by_its_anchor() {
    const FLEET: u64 = 1_000_000;
    // Traps unless the registry counts FLEET devices under the tag at 64.
    let counting = format!(
        "(call $count (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 64) (i32.const 67)
          (i32.const 4096))
        (if (i32.load8_u (i32.const 4096)) (then unreachable))
        (if (i64.ne (i64.load (i32.const 4104)) (i64.const {FLEET})) (then unreachable)) {ABSTAIN}"
    );
    let guest = Guest::new()
        .text(&format!("ca:{}", "07".repeat(32)))
        .import("registry", "count", "count", "(param i32 i32 i32 i32 i32 i32 i32)")
        .authenticator(&counting)
        .build();
    let fixture = Fixture::new();
    let (ours, other) = (CertificateFingerprint([7; 32]), CertificateFingerprint([8; 32]));
    *fixture.storage.counts.lock().unwrap() = [
        ((ours, DeviceState::Active), FLEET - 11),
        ((ours, DeviceState::PendingActivation), 10),
        ((ours, DeviceState::Inactive), 1),
        ((ours, DeviceState::Revoked), 5),
        ((ours, DeviceState::Tombstone), 5),
        ((other, DeviceState::Active), 5),
    ]
    .into();
    let mut plugin = settings("counts", guest);
    plugin.grants = Grants::of([Capability::RegistryRead]);
    fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    fixture.authenticate("counts", "l").await.expect("the count fits");
}

#[tokio::test]
async fn a_load_that_is_only_tried_leaves_no_series_behind() {
    let fixture = Fixture::new();
    let before = fixture.metrics_text();
    fixture.host.rehearse_load(&settings("p", accepts_as("d"))).await.expect("it would load");
    assert_eq!(fixture.metrics_text(), before);
    let bad = Guest::new().init(TRAP).authenticator(ABSTAIN).build();
    fixture.host.rehearse_load(&settings("p", bad)).await.expect_err("it would not");
    assert_eq!(fixture.metrics_text(), before);
}
