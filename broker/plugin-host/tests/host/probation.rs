//! A hook that fails for many clients is not called for a while; a version that does worse than the one before is taken
//! back.

use std::future::ready;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use mqgate_identity::hooks::{Authentication, FailureKind, Reauthorize};
use mqgate_plugin_host::{Change, HostSettings, How, Probation, TakenBack};
use tokio::sync::mpsc;

use crate::fixture::{Fixture, device_id, settings};
use crate::guest::{DENY, Guest, LISTENER_LENGTH, TRAP, accept, accepts_as};

fn with(body: &str) -> Vec<u8> {
    Guest::new().authenticator(body).build()
}

/// A host that takes versions back, and where it says so.
fn watching(probation: Probation) -> (Arc<Fixture>, mpsc::UnboundedReceiver<TakenBack>) {
    let fixture = Arc::new(Fixture::with(HostSettings { probation, ..HostSettings::default() }, Vec::new()));
    let (told, taken) = mpsc::unbounded_channel();
    let watched = Arc::clone(&fixture);
    tokio::spawn(async move {
        let noted = |taken| {
            drop(told.send(taken));
            ready(())
        };
        watched.host.watch_versions(Reauthorize::Eager, noted).await;
    });
    (fixture, taken)
}

async fn next(taken: &mut mpsc::UnboundedReceiver<TakenBack>) -> TakenBack {
    let told = tokio::time::timeout(Duration::from_secs(20), taken.recv()).await;
    told.expect("in time").expect("the host lives")
}

#[tokio::test]
async fn a_hook_that_fails_for_five_clients_is_not_called_for_a_while() {
    let fixture = Fixture::new();
    let mut plugin = settings("p", with(TRAP));
    plugin.limits.breaker_wait = Duration::from_secs(30);
    fixture.host.load(plugin, mqgate_plugin_host::Position::Last, "test").await.expect("loads");
    let traps = "mqgate_plugin_failures_total{hook=\"authenticator\",kind=\"trap\",plugin=\"p\"}";
    let open = "mqgate_plugin_breaker_open{hook=\"authenticator\",plugin=\"p\"}";
    // One client that breaks it again and again harms nobody else.
    for _ in 0..20 {
        let failure = fixture.authenticate_from("p", 1).await.expect_err("it traps");
        assert_eq!(failure.kind, FailureKind::Trap);
    }
    assert_eq!(fixture.metric(open), Some(0.0));
    for address in 2..6 {
        let failure = fixture.authenticate_from("p", address).await.expect_err("it traps");
        assert_eq!(failure.kind, FailureKind::Trap);
    }
    assert_eq!((fixture.metric(open), fixture.metric(traps)), (Some(1.0), Some(24.0)));
    for address in 1..20 {
        let failure = fixture.authenticate_from("p", address).await.expect_err("it is not asked");
        assert_eq!(failure.kind, FailureKind::Unavailable);
        assert!(failure.detail.contains("not called"), "{failure:?}");
    }
    assert_eq!(fixture.metric(traps), Some(24.0));
    // A new version is asked at once.
    fixture.host.swap("p", Change::by("test").to(accepts_as("d"))).await.expect("swaps");
    assert_eq!(device_id(fixture.authenticate_from("p", 1).await), "d");
}

#[tokio::test]
async fn an_ipv6_network_is_one_client() {
    let fixture = Fixture::new();
    let mut plugin = settings("p", with(TRAP));
    plugin.limits.breaker_wait = Duration::from_secs(30);
    fixture.host.load(plugin, mqgate_plugin_host::Position::Last, "test").await.expect("loads");
    let open = "mqgate_plugin_breaker_open{hook=\"authenticator\",plugin=\"p\"}";
    let from = |network: u16, host: u16| Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, host).into();
    // One host picks its addresses as it likes.
    for host in 0..20 {
        let failure = fixture.authenticate_at("p", from(0, host)).await.expect_err("it traps");
        assert_eq!(failure.kind, FailureKind::Trap);
    }
    assert_eq!(fixture.metric(open), Some(0.0));
    for network in 1..5 {
        fixture.authenticate_at("p", from(network, 1)).await.expect_err("it traps");
    }
    assert_eq!(fixture.metric(open), Some(1.0));
}

#[tokio::test]
async fn a_breaker_closes_when_a_call_succeeds() {
    // Traps while its key-value space has no entry: what a backend that comes back looks like.
    let body = format!(
        "(call $get (i32.const 64) (i32.const 1) (i32.const 4096))
         (if (i32.eqz (i32.load8_u offset=8 (i32.const 4096))) (then unreachable))
         {}",
        accept(1)
    );
    let guest = Guest::new()
        .text("d")
        .import("key-value", "get", "get", "(param i32 i32 i32)")
        .authenticator(&body)
        .build();
    let fixture = Fixture::new();
    let mut plugin = settings("p", guest);
    plugin.grants = mqgate_plugin_host::Grants::of([mqgate_plugin_host::Capability::KeyValue]);
    plugin.limits.breaker_wait = Duration::from_millis(1);
    fixture.host.load(plugin, mqgate_plugin_host::Position::Last, "test").await.expect("loads");
    for address in 1..6 {
        fixture.authenticate_from("p", address).await.expect_err("it traps");
    }
    let key = (String::from("p"), String::from("d"));
    fixture.storage.kv.lock().unwrap().insert(key, b"here".to_vec());
    // The wait doubles with each trial; the first that comes after it is let through.
    let closed = async {
        while fixture.authenticate_from("p", 9).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), closed).await.expect("it closes");
    assert_eq!(fixture.metric("mqgate_plugin_breaker_open{hook=\"authenticator\",plugin=\"p\"}"), Some(0.0));
}

#[tokio::test]
async fn without_a_store_it_is_said_and_nothing_happens() {
    let (fixture, mut taken) = watching(Probation::default());
    fixture.load("p", accepts_as("good")).await.expect("loads");
    let swapped = fixture.host.swap("p", Change::by("admin").to(with(TRAP))).await.expect("swaps");
    for address in 0..5 {
        fixture.authenticate_from("p", address).await.expect_err("it traps");
    }
    let told = next(&mut taken).await;
    assert_eq!((told.name.as_str(), &told.digest), ("p", &swapped.digest));
    assert!(told.outcome.is_err(), "{told:?}");
}

#[tokio::test]
async fn a_new_version_that_traps_is_taken_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let store_dir = Some(folder.path().join("plugins"));
    let fixture = Arc::new(Fixture::with(HostSettings { store_dir, ..HostSettings::default() }, Vec::new()));
    fixture.host.start(Vec::new()).await;
    let (told, mut taken) = mpsc::unbounded_channel();
    let watched = Arc::clone(&fixture);
    tokio::spawn(async move {
        watched
            .host
            .watch_versions(Reauthorize::Eager, |taken| {
                drop(told.send(taken));
                ready(())
            })
            .await;
    });
    fixture.load("p", accepts_as("good")).await.expect("loads");
    for round in 0..3 {
        let swapped = fixture.host.swap("p", Change::by("admin").to(with(TRAP))).await.expect("swaps");
        assert!(swapped.probation.is_some(), "it is on probation");
        let failed = async {
            // As many as it takes: one that is not asked any more tells nothing.
            for address in 0..=255 {
                let _ = fixture.authenticate_from("p", address).await;
                tokio::task::yield_now().await;
            }
        };
        failed.await;
        let told = next(&mut taken).await;
        assert_eq!(told.digest, swapped.digest, "round {round}");
        assert!(told.why.contains("calls failed"), "{told:?}");
        let info = told.outcome.expect("taken back");
        assert_eq!((info.how, info.probation), (Some(How::RolledBack), None));
        assert_eq!(device_id(fixture.authenticate_from("p", 1).await), "good");
    }
    let taken_back = fixture.metric("mqgate_plugin_swaps_total{plugin=\"p\",result=\"rolled_back\"}");
    assert_eq!(taken_back, Some(3.0));
    let withdrawn = fixture.host.versions("p").expect("there");
    assert!(withdrawn.iter().filter(|version| version.withdrawn.is_some()).count() >= 3);
    assert_eq!(fixture.host.hooks().load().reauthorize, Reauthorize::Eager);
}

#[tokio::test]
async fn a_probation_that_ended_has_ended() {
    let probation = Probation { time: Duration::from_millis(300), ..Probation::default() };
    let fixture = Fixture::with(HostSettings { probation, ..HostSettings::default() }, Vec::new());
    fixture.load("p", accepts_as("one")).await.expect("loads");
    let swapped = fixture.host.swap("p", Change::by("admin").to(accepts_as("two"))).await.expect("swaps");
    assert!(swapped.probation.is_some());
    while fixture.host.find("p").is_some_and(|info| info.probation.is_some()) {
        tokio::task::yield_now().await;
    }
    fixture.host.disable("p", true).await.expect("disabled");
    let enabled = fixture.host.enable("p", Reauthorize::None).await.expect("enabled");
    assert_eq!((enabled.number, enabled.probation), (2, None));
}

#[tokio::test]
async fn one_client_does_not_take_a_version_back() {
    let (fixture, mut taken) = watching(Probation::default());
    fixture.load("p", accepts_as("good")).await.expect("loads");
    fixture.host.swap("p", Change::by("admin").to(with(TRAP))).await.expect("swaps");
    for _ in 0..100 {
        fixture.authenticate_from("p", 1).await.expect_err("it traps");
    }
    assert!(taken.try_recv().is_err());
    assert_eq!(fixture.host.find("p").map(|info| info.number), Some(2));
}

#[tokio::test]
async fn a_new_version_that_refuses_many_more_is_taken_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let probation = Probation { judged_clients: 8, ..Probation::default() };
    let store_dir = Some(folder.path().join("plugins"));
    let fixture =
        Arc::new(Fixture::with(HostSettings { store_dir, probation, ..HostSettings::default() }, Vec::new()));
    fixture.host.start(Vec::new()).await;
    let (told, mut taken) = mpsc::unbounded_channel();
    let watched = Arc::clone(&fixture);
    tokio::spawn(async move {
        watched
            .host
            .watch_versions(Reauthorize::None, |taken| {
                drop(told.send(taken));
                ready(())
            })
            .await;
    });
    fixture.load("p", accepts_as("good")).await.expect("loads");
    for address in 0..8 {
        fixture.authenticate_from("p", address).await.expect("an answer");
    }
    fixture.host.swap("p", Change::by("admin").to(with(DENY))).await.expect("swaps");
    for address in 0..7 {
        let answer = fixture.authenticate_from("p", address).await.expect("an answer");
        assert!(matches!(answer, Authentication::Deny(_)));
    }
    assert!(taken.try_recv().is_err(), "seven are too few to say anything");
    fixture.authenticate_from("p", 7).await.expect("an answer");
    let told = next(&mut taken).await;
    assert!(told.why.contains("refused 8 of 8 clients (100 %), and the version before 0 %"), "{told:?}");
    told.outcome.expect("taken back");
    assert_eq!(device_id(fixture.authenticate_from("p", 1).await), "good");
}

/// Has eight clients ask a version that denies everybody, after `before` asked the one it took over from; the plugin of
/// which it is said first that it does too badly: this one, or `last`, of which it is said in any case.
async fn judged_after(before: impl AsyncFn(&Fixture), first: Vec<u8>) -> String {
    let probation = Probation { judged_clients: 8, ..Probation::default() };
    let fixture = Arc::new(Fixture::with(HostSettings { probation, ..HostSettings::default() }, Vec::new()));
    fixture.load("p", first).await.expect("loads");
    before(&fixture).await;
    fixture.host.swap("p", Change::by("admin").to(with(DENY))).await.expect("swaps");
    for address in 0..8 {
        fixture.authenticate_from("p", address).await.expect("an answer");
    }
    // One that is sure to be told, after whatever was to be told of the first.
    fixture.load("last", accepts_as("good")).await.expect("loads");
    fixture.host.swap("last", Change::by("admin").to(with(TRAP))).await.expect("swaps");
    for address in 0..5 {
        fixture.authenticate_from("last", address).await.expect_err("it traps");
    }
    let (told, mut taken) = mpsc::unbounded_channel();
    let watched = Arc::clone(&fixture);
    tokio::spawn(async move {
        watched
            .host
            .watch_versions(Reauthorize::None, |taken| {
                drop(told.send(taken));
                ready(())
            })
            .await;
    });
    next(&mut taken).await.name
}

#[tokio::test]
async fn one_client_that_comes_again_and_again_is_no_measure() {
    let looping = async |fixture: &Fixture| {
        for _ in 0..100 {
            fixture.authenticate_from("p", 1).await.expect("an answer");
        }
    };
    assert_eq!(judged_after(looping, accepts_as("good")).await, "last", "one client is too few to compare");
}

#[tokio::test]
async fn one_client_that_is_refused_again_and_again_hides_nothing() {
    // Refuses whom the listener `loop` brings.
    let picky = format!(
        "(if (result i32) (i32.eq (i32.load offset={LISTENER_LENGTH} (local.get 0)) (i32.const 4))
           (then {DENY}) (else {}))",
        accept(1)
    );
    let looping = async |fixture: &Fixture| {
        for address in 0..8 {
            fixture.authenticate_from("p", address).await.expect("an answer");
        }
        for _ in 0..1000 {
            fixture.authenticate("p", "loop").await.expect("an answer");
        }
    };
    let picky = Guest::new().text("d").authenticator(&picky).build();
    assert_eq!(judged_after(looping, picky).await, "p", "one of nine clients was refused before");
}
