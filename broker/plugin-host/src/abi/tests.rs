//! A release that does not exist, served beside the one that does: it adds a function to `log`.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

use super::*;
use crate::case::Case;
use crate::offline::{Instance, Offline, OfflineError};
use crate::settings::{HostSettings, Source};

#[allow(dead_code, reason = "the tests of the host use all of it")]
#[path = "../../tests/host/guest.rs"]
mod guest;

use self::guest::{Guest, accept};

pub(super) const MADE_UP: Release =
    Release { version: Version { major: 1, minor: 1, patch: 0 }, link: made_up };
const NEXT: &str = "1.1.0";

/// How often `log.flush` was called.
static FLUSHED: AtomicU32 = AtomicU32::new(0);

fn made_up(linker: &mut Linker<StoreState>, _: &Grants) -> wasmtime::Result<()> {
    let mut log = linker.instance("mqgate:plugin/log@1.1.0")?;
    log.func_wrap("flush", |_, ()| Ok((FLUSHED.fetch_add(1, Ordering::SeqCst) + 1,)))
}

/// A plugin of the made-up release.
fn of_the_next(guest: Guest) -> Guest {
    guest.wit("package mqgate:plugin@1.0.0;", "package mqgate:plugin@1.1.0;").wit(
        "  enabled: func(level: level) -> bool;",
        "  enabled: func(level: level) -> bool;\n  flush: func() -> u32;",
    )
}

fn device_of(component: Vec<u8>) -> Result<Option<String>, OfflineError> {
    let mut host = Offline::new("p", Source::Bytes(component.into()), HostSettings::default())?;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("case.json");
    std::fs::write(&file, json!({ "name": "n", "hook": "authenticator" }).to_string()).expect("written");
    let case: Case = crate::case::read(&file).expect("a case").remove(0);
    Ok(host.run(&case, Instance::Fresh)?.answer.device_id)
}

fn refused(component: Vec<u8>) -> String {
    device_of(component).expect_err("it is refused").to_string()
}

#[test]
fn plugins_of_two_releases_run_beside_each_other() {
    let former = Guest::new().text("former").authenticator(&accept(6)).build();
    assert_eq!(device_of(former).expect("runs"), Some(String::from("former")));

    let calls = format!("(drop (call $flush)) {}", accept(4));
    let next =
        Guest::new().text("next").import("log", "flush", "flush", "(result i32)").authenticator(&calls);
    assert_eq!(device_of(of_the_next(next).build()).expect("runs"), Some(String::from("next")));
    assert!(FLUSHED.load(Ordering::SeqCst) > 0, "the new function is that of the new release");

    // Built for the next release, and content with what there was before.
    let content = of_the_next(Guest::new().text("calm").authenticator(&accept(4))).build();
    assert_eq!(device_of(content).expect("runs"), Some(String::from("calm")));
}

#[test]
fn what_no_release_has_is_refused_by_name() {
    let later = |from: &str| {
        Guest::new()
            .wit("package mqgate:plugin@1.0.0;", "package mqgate:plugin@1.2.0;")
            .wit("  enabled: func(level: level) -> bool;", from)
            .import("log", "sync", "sync", "(result i32)")
            .authenticator(&format!("(drop (call $sync)) {}", accept(1)))
            .build()
    };
    let said = refused(later("  enabled: func(level: level) -> bool;\n  sync: func() -> u32;"));
    for text in
        ["mqgate:plugin/log@1.2.0", "built for mqgate:plugin@1.2.0", "has mqgate:plugin@1.1.0", "wit/"]
    {
        assert!(said.contains(text), "{text:?} is not in: {said}");
    }
    let other = Guest::new().wit("package mqgate:plugin@1.0.0;", "package mqgate:plugin@2.0.0;");
    let said = refused(other.text("x").authenticator(&accept(1)).build());
    assert!(said.contains("2.0.0") && said.contains("track 1 "), "{said}");
}

#[test]
fn tracks_are_those_of_semantic_versions() {
    let version = |text| Version::parse(text).unwrap_or_else(|| panic!("{text}"));
    for (one, other, same) in [
        ("0.1.0", "0.1.9", true),
        ("0.1.0", "0.2.0", false),
        ("1.0.0", "1.4.2", true),
        ("1.0.0", "2.0.0", false),
        ("0.0.1", "0.0.2", false),
    ] {
        assert_eq!(version(one).track() == version(other).track(), same, "{one} {other}");
    }
    for none in ["", "1", "1.0", "1.0.0-rc.1", "1.0.0.0", "1.0.", "+1.0.0", "1.0.x", "99999999999.0.0"] {
        assert_eq!(Version::parse(none), None, "{none}");
    }
    assert_eq!(version("1.1.0").to_string(), NEXT);
    assert_eq!(
        (version("0.1.7").track().to_string(), version("2.3.4").track().to_string()),
        ("0.1".into(), "2".into())
    );
    assert!(RELEASES.is_sorted_by_key(|release| release.version));
    assert!(RELEASES.iter().all(|release| release.version.track() == track()));
}
