//! A version beside the live one: asked, compared, never believed.

use std::time::Duration;

use mqgate_identity::hooks::Reauthorize;
use mqgate_plugin_host::{Capability, Change, Difference, Grants, How, Position, Report};

use crate::fixture::{Fixture, device_id, settings};
use crate::guest::{ABSTAIN, DENY, Guest, TRAP, accept, accepts_as};

fn with(body: &str) -> Vec<u8> {
    Guest::new().authenticator(body).build()
}

/// Waits until so many answers were compared.
async fn compared(fixture: &Fixture, count: u64) -> Report {
    let found = async {
        loop {
            let report = fixture.host.shadow_report("p").expect("it has a shadow");
            if report.same + report.different + report.skipped >= count {
                return report;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.expect("in time")
}

#[tokio::test]
async fn its_answers_are_compared_and_not_enforced() {
    for (shadow, same, difference) in [
        (accepts_as("d"), 3, None),
        (accepts_as("e"), 0, Some(Difference::Other)),
        (with(DENY), 0, Some(Difference::Denies)),
        (with(ABSTAIN), 0, Some(Difference::Abstains)),
        (with(TRAP), 0, Some(Difference::Fails)),
    ] {
        let fixture = Fixture::new();
        fixture.load("p", accepts_as("d")).await.expect("loads");
        let report = fixture.host.shadow("p", Change::by("admin").to(shadow)).await.expect("begun");
        assert_eq!(fixture.host.find("p").and_then(|info| info.shadow), Some(report.digest));
        for _ in 0..3 {
            assert_eq!(device_id(fixture.authenticate("p", "l").await), "d");
        }
        let report = compared(&fixture, 3).await;
        assert_eq!((report.same, report.different), (same, 3 - same), "{difference:?}");
        let Some(difference) = difference else {
            assert!(report.samples.is_empty());
            continue;
        };
        assert_eq!(report.by_difference[difference as usize], 3);
        let sample = &report.samples[0];
        assert_eq!((sample.difference, sample.hook), (difference, "authenticator"));
        assert_eq!((sample.client_id.as_str(), sample.live.as_str()), ("c", "accept as d"));
        let series = format!(
            "mqgate_plugin_shadow_disagreements_total{{hook=\"authenticator\",kind=\"{}\",plugin=\"p\"}}",
            difference.as_str()
        );
        assert_eq!(fixture.metric(&series), Some(3.0));
        // What it does is not counted as the live version's.
        let failures = "mqgate_plugin_failures_total{hook=\"authenticator\",kind=\"trap\",plugin=\"p\"}";
        assert_eq!(fixture.metric(failures), Some(0.0));
    }
}

#[tokio::test]
async fn an_explanation_is_not_compared() {
    let fixture = Fixture::new();
    fixture.load("p", accepts_as("d")).await.expect("loads");
    fixture.host.shadow("p", Change::by("admin").to(with(DENY))).await.expect("begun");
    for _ in 0..3 {
        assert_eq!(device_id(fixture.explain("p", "l").await), "d");
    }
    assert_eq!(device_id(fixture.authenticate("p", "l").await), "d");
    let report = compared(&fixture, 1).await;
    assert_eq!((report.same, report.different, report.skipped), (0, 1, 0));
}

#[tokio::test]
async fn one_that_loops_costs_the_live_version_nothing() {
    let fixture = Fixture::new();
    fixture.load("p", accepts_as("d")).await.expect("loads");
    let looping = with(crate::guest::LOOP);
    fixture.host.shadow("p", Change::by("admin").to(looping)).await.expect("begun");
    for address in 0..100 {
        assert_eq!(device_id(fixture.authenticate_from("p", address).await), "d");
    }
    let report = compared(&fixture, 100).await;
    assert_eq!((report.same, report.different + report.skipped), (0, 100));
    fixture.host.drop_shadow("p").await.expect("dropped");
    fixture.no_instance_left().await;
}

#[tokio::test]
async fn it_is_promoted_or_dropped() {
    let fixture = Fixture::new();
    fixture.load("p", accepts_as("d")).await.expect("loads");
    let none = fixture.host.promote("p", "admin", Reauthorize::None).await.expect_err("there is none");
    assert!(none.message.contains("no shadow"), "{none}");
    let begin = async || fixture.host.shadow("p", Change::by("admin").to(accepts_as("e"))).await;
    begin().await.expect("begun");
    fixture.host.drop_shadow("p").await.expect("dropped");
    assert!(fixture.host.shadow_report("p").is_none());
    begin().await.expect("begun");
    let info = fixture.host.promote("p", "admin", Reauthorize::None).await.expect("promoted");
    assert_eq!((info.number, info.how, info.shadow), (2, Some(How::Promoted), None));
    assert_eq!(device_id(fixture.authenticate("p", "l").await), "e");
    // A swap ends what was compared with the version before.
    begin().await.expect("begun");
    fixture.host.swap("p", Change::by("admin").to(accepts_as("f"))).await.expect("swaps");
    assert!(fixture.host.shadow_report("p").is_none());
    // One that fails its trial is none.
    let bad = Guest::new().init(TRAP).authenticator(ABSTAIN).build();
    fixture.host.shadow("p", Change::by("admin").to(bad)).await.expect_err("refused");
    assert!(fixture.host.shadow_report("p").is_none());
}

#[tokio::test]
async fn what_it_writes_is_not_kept() {
    let body = format!(
        "(call $set (i32.const 64) (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 0) (i32.const 0)
          (i32.const 4096)) {}",
        accept(1)
    );
    let writer = Guest::new()
        .text("d")
        .import("key-value", "set", "set", "(param i32 i32 i32 i32 i32 i32 i32)")
        .authenticator(&body)
        .build();
    let fixture = Fixture::new();
    let mut plugin = settings("p", accepts_as("d"));
    plugin.grants = Grants::of([Capability::KeyValue]);
    fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    fixture.host.shadow("p", Change::by("admin").to(writer)).await.expect("begun");
    fixture.authenticate("p", "l").await.expect("an answer");
    let report = compared(&fixture, 1).await;
    assert_eq!((report.same, report.different), (1, 0), "{report:?}");
    assert!(fixture.storage.kv.lock().unwrap().is_empty());
    fixture.host.promote("p", "admin", Reauthorize::None).await.expect("promoted");
    fixture.authenticate("p", "l").await.expect("an answer");
    assert_eq!(fixture.storage.kv.lock().unwrap().len(), 1, "now it counts");
}
