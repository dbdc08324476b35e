//! What was decided while a broker ran is so again when it is started again; or it says why not, and nobody gets in.

use std::future::ready;
use std::path::Path;

use mqgate_identity::hooks::{ChainMember, Reauthorize};
use mqgate_plugin_host::{
    Capability, Change, Configured, Grants, HostSettings, How, LoadError, PluginInfo, PluginSettings,
    PluginState, Position, Source, Stage, StartOutcome, Started, UnloadError,
};
use serde_json::json;

use crate::fixture::{Fixture, device_id, settings};
use crate::guest::{ABSTAIN, DENY, Guest, TRAP, accept, accepts_as};

/// A broker's folder, whose broker comes and goes.
struct Home {
    folder: tempfile::TempDir,
    natives: Vec<&'static str>,
}

impl Home {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), natives: Vec::new() }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// A component that the configuration names.
    fn file(&self, name: &str, component: &[u8]) -> PluginSettings {
        let path = self.path(&format!("{name}.wasm"));
        std::fs::write(&path, component).expect("written");
        PluginSettings { source: Source::File(path), ..settings(name, Vec::new()) }
    }

    async fn begin(&self, configured: &[PluginSettings]) -> (Fixture, Vec<Started>) {
        let order: Vec<String> = configured.iter().map(|plugin| plugin.name.clone()).collect();
        let settings = HostSettings {
            store_dir: Some(self.path("plugins")),
            cache_dir: Some(self.path("compiled")),
            order,
            ..HostSettings::default()
        };
        let native = |name: &&str| ChainMember {
            name: (*name).into(),
            digest: None,
            authenticator: None,
            enhanced_authenticator: None,
            registrar: None,
            authorizer: None,
            auditor: None,
        };
        let fixture = Fixture::with(settings, self.natives.iter().map(native).collect());
        let configured =
            configured.iter().map(|settings| Configured { settings: settings.clone(), missing: None });
        let started = fixture.host.start(configured.collect()).await;
        (fixture, started)
    }
}

async fn load(fixture: &Fixture, name: &str, device: &str, position: Position) -> PluginInfo {
    let plugin = PluginSettings { required: false, ..settings(name, accepts_as(device)) };
    fixture.host.load(plugin, position, "admin").await.expect("loads")
}

async fn swap(fixture: &Fixture, name: &str, device: &str) -> PluginInfo {
    fixture.host.swap(name, Change::by("admin").to(accepts_as(device))).await.expect("swaps")
}

fn order(fixture: &Fixture) -> Vec<String> {
    fixture.host.hooks().load().members.iter().map(|member| member.name.to_string()).collect()
}

fn missing(fixture: &Fixture) -> Vec<String> {
    fixture.host.hooks().load().missing.iter().map(|(name, _)| name.to_string()).collect()
}

fn manifest(home: &Home) -> String {
    std::fs::read_to_string(home.path("plugins").join("manifest.json")).unwrap_or_default()
}

#[tokio::test]
async fn what_was_unloaded_leaves_no_settings_and_is_live_once_the_configuration_names_it() {
    let home = Home::new();
    let (first, _) = home.begin(&[]).await;
    let mut plugin = PluginSettings { required: false, ..settings("p", accepts_as("d")) };
    plugin.config = json!({ "password": "s3cret" });
    first.host.load(plugin, Position::Last, "admin").await.expect("loads");
    assert!(manifest(&home).contains("s3cret"));
    assert_eq!(first.host.unload("p", false).await, Ok(()));
    assert!(!manifest(&home).contains("s3cret"));
    let components = std::fs::read_dir(home.path("plugins").join("components")).expect("a folder");
    assert_eq!(components.count(), 0);
    // Of others as well, and not of all that there ever were.
    for number in 0..70 {
        let name = format!("q{number}");
        load(&first, &name, "d", Position::Last).await;
        assert_eq!(first.host.unload(&name, false).await, Ok(()));
    }
    assert_eq!(manifest(&home).matches("\"name\"").count(), 64);
    assert_eq!(first.host.unloaded(), Vec::<String>::new());
    drop(first);
    let (second, started) = home.begin(&[home.file("q69", &accepts_as("e"))]).await;
    assert!(matches!(&started[..], [Started { outcome: StartOutcome::Live { kept: false, .. }, .. }]));
    assert_eq!(device_id(second.authenticate("q69", "l").await), "e");
}

#[tokio::test]
async fn a_probation_goes_on_after_a_restart() {
    let home = Home::new();
    let (first, _) = home.begin(&[]).await;
    load(&first, "p", "good", Position::Last).await;
    let trap = Guest::new().authenticator(TRAP).build();
    first.host.swap("p", Change::by("admin").to(trap)).await.expect("swaps");
    drop(first);
    let (second, _) = home.begin(&[]).await;
    let left = second.host.find("p").and_then(|info| info.probation).expect("it is on probation");
    assert!(left < mqgate_plugin_host::Probation::default().time, "{left:?}");
    for address in 0..5 {
        second.authenticate_from("p", address).await.expect_err("it traps");
    }
    let (told, mut taken) = tokio::sync::mpsc::unbounded_channel();
    let host = std::sync::Arc::clone(&second.host);
    let watching = tokio::spawn(async move {
        host.watch_versions(Reauthorize::None, |taken| {
            drop(told.send(taken));
            ready(())
        })
        .await;
    });
    let told = tokio::time::timeout(std::time::Duration::from_secs(20), taken.recv()).await;
    told.expect("in time").expect("the host lives").outcome.expect("taken back");
    assert_eq!(device_id(second.authenticate("p", "l").await), "good");
    watching.abort();
    let _ = watching.await;
    drop(second);
    // What ran before is not on probation, after a restart either.
    let (third, _) = home.begin(&[]).await;
    assert_eq!(third.host.find("p").and_then(|info| info.probation), None);
}

#[tokio::test]
async fn loaded_swapped_and_unloaded_plugins_are_as_they_were() {
    let mut home = Home::new();
    home.natives = vec!["static"];
    let configured = [home.file("a", &accepts_as("a1")), home.file("b", &accepts_as("b1"))];
    let (first, _) = home.begin(&configured).await;
    assert_eq!(order(&first), ["a", "b", "static"]);
    load(&first, "x", "x1", Position::First).await;
    load(&first, "y", "y1", Position::Before(String::from("static"))).await;
    let gone = load(&first, "gone", "g1", Position::Last).await.digest;
    assert_eq!(first.host.unload("gone", false).await, Ok(()));
    swap(&first, "b", "b2").await;
    swap(&first, "x", "x2").await;
    assert_eq!(first.host.unload("a", true).await, Ok(()));
    assert_eq!(order(&first), ["x", "b", "y", "static"]);
    drop(first);

    let (second, started) = home.begin(&configured).await;
    assert_eq!(order(&second), ["x", "b", "y", "static"]);
    for (name, device) in [("x", "x2"), ("b", "b2"), ("y", "y1")] {
        assert_eq!(device_id(second.authenticate(name, "l").await), device);
    }
    assert!(started.iter().any(|one| one.name == "a" && matches!(one.outcome, StartOutcome::Unloaded)));
    assert_eq!(second.host.unloaded(), ["a"]);
    assert_eq!(missing(&second), Vec::<String>::new());
    // A watched folder that still has it does not bring it back.
    assert!(second.host.knows("gone", &gone) && !second.host.knows("gone", "sha256:00"));

    // What the configuration says holds again where that is asked for, and stays so.
    second.host.reset("a", "admin", Reauthorize::None).await.expect("reset");
    second.host.reset("b", "admin", Reauthorize::None).await.expect("reset");
    let refused = second.host.reset("x", "admin", Reauthorize::None).await.expect_err("it is in no file");
    assert!(refused.message.contains("unload"), "{refused}");
    drop(second);
    let (third, _) = home.begin(&configured).await;
    assert_eq!(order(&third), ["x", "a", "b", "y", "static"]);
    assert_eq!(device_id(third.authenticate("b", "l").await), "b1");
}

#[tokio::test]
async fn settings_grants_and_what_is_disabled_outlive_the_process() {
    let home = Home::new();
    // Accepts where its settings are fourteen bytes long, as `{"secret":"s"}` is.
    let body = format!(
        "(if (result i32) (i32.eq (global.get $calls) (i32.const 14)) (then {}) (else {ABSTAIN}))",
        accept(1)
    );
    let picky = Guest::new()
        .text("d")
        .init("(global.set $calls (local.get 7)) (i32.const 1024)")
        .authenticator(&body)
        .build();
    let configured = [home.file("a", &picky)];
    let (first, _) = home.begin(&configured).await;
    let config = json!({ "secret": "s" });
    let change = Change { config: Some(config), ..Change::by("admin") };
    let info = first.host.swap("a", change).await.expect("configured");
    assert_eq!((info.number, info.how), (2, Some(How::Configured)));
    assert_eq!(device_id(first.authenticate("a", "l").await), "d");
    let mut plugin = settings("kv", reads_keys());
    plugin.grants = Grants::of([Capability::KeyValue]);
    plugin.grants.kv.entries = 7;
    plugin.limits.concurrency = 3;
    plugin.required = true;
    first.host.load(plugin, Position::Last, "admin").await.expect("loads");
    assert_eq!(first.host.disable("kv", false).await.err(), Some(UnloadError::Required));
    first.host.disable("kv", true).await.expect("disabled");
    assert_eq!(order(&first), ["a"]);
    assert_eq!(missing(&first), Vec::<String>::new(), "somebody wanted that");
    drop(first);

    let (second, _) = home.begin(&configured).await;
    assert!(second.host.has_settings_of_its_own("a"));
    assert_eq!(device_id(second.authenticate("a", "l").await), "d");
    let disabled = second.host.find("kv").expect("it is there");
    assert_eq!(disabled.state, PluginState::Disabled);
    assert_eq!(order(&second), ["a"]);
    // Its component came back with its settings and its grants.
    let enabled = second.host.enable("kv", Reauthorize::None).await.expect("enabled");
    assert_eq!((enabled.state, enabled.required), (PluginState::Live, true));
    assert_eq!(order(&second), ["a", "kv"]);
    assert_eq!(second.host.granted("kv"), Some([Capability::KeyValue].into()));
    drop(second);
    let (third, _) = home.begin(&configured).await;
    assert_eq!(order(&third), ["a", "kv"]);
    assert!(manifest(&home).contains("\"entries\": 7") && manifest(&home).contains("\"concurrency\": 3"));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(home.path("plugins").join("manifest.json")).expect("there").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600, "settings may be secret");
}

fn reads_keys() -> Vec<u8> {
    Guest::new()
        .text("k")
        .import("key-value", "get", "get", "(param i32 i32 i32)")
        .authenticator(&format!("(call $get (i32.const 64) (i32.const 1) (i32.const 4096)) {ABSTAIN}"))
        .build()
}

#[tokio::test]
async fn what_cannot_be_brought_back_keeps_the_listeners_shut() {
    let home = Home::new();
    let (first, _) = home.begin(&[]).await;
    let info = load(&first, "gate", "d", Position::Last).await;
    assert!(!info.required);
    drop(first);
    let digits = info.digest.trim_start_matches("sha256:");
    let component = home.path("plugins").join("components").join(format!("{digits}.wasm"));
    let mut bytes = std::fs::read(&component).expect("it is kept by its digest");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&component, bytes).expect("written");

    let (second, started) = home.begin(&[]).await;
    let StartOutcome::Failed { error, closes: true } = &started[0].outcome else { panic!("{started:?}") };
    assert!(error.message.contains("damaged"), "{error}");
    assert_eq!(missing(&second), ["gate"]);
    // Whoever decides otherwise opens them.
    assert_eq!(second.host.unload("gate", false).await, Ok(()));
    assert_eq!(missing(&second), Vec::<String>::new());
    drop(second);
    let (third, started) = home.begin(&[]).await;
    assert!(started.is_empty(), "{started:?}");
    drop(third);
}

#[tokio::test]
async fn a_rollback_goes_back_one_version_and_is_kept() {
    let home = Home::new();
    let configured = [home.file("a", &accepts_as("one"))];
    let (first, _) = home.begin(&configured).await;
    swap(&first, "a", "two").await;
    let three = swap(&first, "a", "three").await;
    assert_eq!((three.number, three.former), (3, Some(2)));
    let back = first.host.rollback("a", None, None, "it was wrong", Change::by("admin")).await.expect("back");
    assert_eq!((back.number, back.former, back.how), (4, Some(1), Some(How::RolledBack)));
    assert_eq!(device_id(first.authenticate("a", "l").await), "two");
    drop(first);

    let (second, _) = home.begin(&configured).await;
    assert_eq!(device_id(second.authenticate("a", "l").await), "two");
    let withdrawn = &second.host.versions("a").expect("there")[2];
    assert_eq!(withdrawn.withdrawn.as_deref(), Some("it was wrong"));
    assert!(second.host.knows("a", &three.digest));
    // The file's own, although the file holds another by now.
    home.file("a", &accepts_as("other"));
    let back = second.host.rollback("a", None, None, "again", Change::by("admin")).await.expect("back");
    assert_eq!(device_id(second.authenticate("a", "l").await), "one");
    assert_eq!(back.former, None);
    let end = second.host.rollback("a", None, None, "again", Change::by("admin")).await;
    assert_eq!(end.map(|info| info.number).expect_err("nothing is left").stage, Stage::Verify);
    // By its number, forwards too.
    second.host.rollback("a", Some("3"), None, "it was right", Change::by("admin")).await.expect("forth");
    assert_eq!(device_id(second.authenticate("a", "l").await), "three");
    let by_digest = second.host.versions("a").expect("there")[1].digest.clone();
    second.host.rollback("a", Some(&by_digest), None, "", Change::by("admin")).await.expect("by digest");
    assert_eq!(device_id(second.authenticate("a", "l").await), "two");
}

#[tokio::test]
async fn what_cannot_be_kept_does_not_go_live() {
    let home = Home::new();
    let (first, _) = home.begin(&[]).await;
    load(&first, "a", "one", Position::Last).await;
    let before = manifest(&home);
    // Nothing can be renamed over a folder, and nothing written beside a file that is a folder.
    let blocked = home.path("plugins").join("manifest.new");
    std::fs::create_dir(&blocked).expect("a folder in the way");
    let change = || Change::by("admin").to(accepts_as("two"));
    let refused: LoadError = first.host.swap("a", change()).await.expect_err("it cannot be kept");
    assert_eq!(refused.stage, Stage::Store);
    assert!(matches!(first.host.unload("a", false).await, Err(UnloadError::Store(_))));
    assert!(matches!(first.host.disable("a", false).await, Err(UnloadError::Store(_))));
    assert_eq!(device_id(first.authenticate("a", "l").await), "one");
    assert_eq!(manifest(&home), before);
    std::fs::remove_dir(&blocked).expect("out of the way");
    first.host.swap("a", change()).await.expect("swaps");
    drop(first);
    let (second, _) = home.begin(&[]).await;
    assert_eq!(device_id(second.authenticate("a", "l").await), "two");
}

#[tokio::test]
async fn a_refused_swap_leaves_nothing_behind() {
    let home = Home::new();
    let (first, _) = home.begin(&[]).await;
    load(&first, "a", "one", Position::Last).await;
    let before = manifest(&home);
    let bad = Guest::new().init(TRAP).authenticator(ABSTAIN).build();
    let refused = first.host.swap("a", Change::by("admin").to(bad)).await.expect_err("it traps");
    assert_eq!(refused.stage, Stage::Trial);
    assert_eq!(manifest(&home), before);
    assert_eq!(components(&home.path("plugins")), 1);
}

fn components(store: &Path) -> usize {
    std::fs::read_dir(store.join("components")).expect("there").count()
}

#[tokio::test]
async fn so_many_versions_are_kept_and_no_component_more() {
    let home = Home::new();
    let (first, _) = home.begin(&[]).await;
    load(&first, "a", "v0", Position::Last).await;
    for number in 1..20 {
        swap(&first, "a", &format!("v{number}")).await;
    }
    assert_eq!(first.host.versions("a").expect("there").len(), 8);
    assert_eq!(components(&home.path("plugins")), 8);
    assert_eq!(first.host.unload("a", false).await, Ok(()));
    assert_eq!(components(&home.path("plugins")), 0);
}

#[tokio::test]
async fn an_upload_is_used_by_its_digest() {
    let home = Home::new();
    let (first, _) = home.begin(&[]).await;
    let found = first.host.stage(accepts_as("d").into()).await.expect("taken in");
    let stored = |digest: &str| PluginSettings {
        source: Source::Stored(digest.to_owned()),
        ..settings("a", Vec::new())
    };
    let info = first.host.load(stored(&found.digest), Position::Last, "admin").await.expect("loads");
    assert_eq!(info.digest, found.digest);
    let other = format!("sha256:{}", "0".repeat(64));
    let change = Change { component: Some(Source::Stored(other)), ..Change::by("admin") };
    let error = first.host.swap("a", change).await.expect_err("nobody uploaded it");
    assert!(error.message.contains("no component"), "{error}");
    // The oldest upload goes, one that is used does not.
    for number in 0..10 {
        first.host.stage(accepts_as(&format!("u{number}")).into()).await.expect("taken in");
    }
    assert_eq!(components(&home.path("plugins")), 9);
}

#[tokio::test]
async fn a_component_is_pinned_by_its_digest() {
    let home = Home::new();
    let (fixture, _) = home.begin(&[]).await;
    let digest = fixture.host.stage(accepts_as("d").into()).await.expect("taken in").digest;
    let mut plugin = settings("a", accepts_as("other"));
    plugin.digest = Some(digest);
    let error = fixture.host.load(plugin.clone(), Position::Last, "admin").await.expect_err("another one");
    assert_eq!(error.stage, Stage::Verify);
    assert!(error.message.contains("It was to be sha256:"), "{error}");
    plugin.source = Source::Bytes(accepts_as("d").into());
    fixture.host.load(plugin, Position::Last, "admin").await.expect("the one that was meant");
}

#[tokio::test]
async fn a_file_that_names_a_plugin_no_longer_is_believed() {
    let home = Home::new();
    let configured = [home.file("a", &accepts_as("one")), home.file("b", &accepts_as("b"))];
    let (first, _) = home.begin(&configured).await;
    swap(&first, "a", "two").await;
    drop(first);
    let (second, started) = home.begin(&configured[1..]).await;
    assert_eq!(order(&second), ["b"]);
    assert!(started.iter().any(|one| one.name == "a" && matches!(one.outcome, StartOutcome::Forgotten)));
}

#[tokio::test]
async fn what_is_forgotten_is_off_the_list_before_its_components_go() {
    let home = Home::new();
    let configured = [home.file("a", &accepts_as("one")), home.file("b", &accepts_as("b"))];
    let (first, _) = home.begin(&configured).await;
    let two = swap(&first, "a", "two").await;
    drop(first);
    let kept = components(&home.path("plugins"));
    // The list cannot be written: nothing that it names may go.
    let blocked = home.path("plugins").join("manifest.new");
    std::fs::create_dir(&blocked).expect("a folder in the way");
    let (second, _) = home.begin(&configured[1..]).await;
    let upload =
        second.host.stage(accepts_as("upload").into()).await.expect_err("the list cannot be written");
    assert_eq!(upload.stage, Stage::Store);
    drop(second);
    assert!(manifest(&home).contains(&two.digest));
    assert_eq!(components(&home.path("plugins")), kept + 1, "the upload waits to be removed");
    std::fs::remove_dir(&blocked).expect("out of the way");
    let (third, _) = home.begin(&configured[1..]).await;
    drop(third);
    assert!(!manifest(&home).contains(&two.digest));
    assert_eq!(components(&home.path("plugins")), 1);
    // Named again, it is as the configuration has it.
    let (fourth, _) = home.begin(&configured).await;
    assert_eq!(device_id(fourth.authenticate("a", "l").await), "one");
}

#[tokio::test]
async fn what_was_here_once_is_known_after_a_restart_and_nothing_else() {
    let home = Home::new();
    let configured = [home.file("a", &accepts_as("one"))];
    let (first, _) = home.begin(&configured).await;
    // Reset, loaded again after it was unloaded, taken back so long ago that it is no version any more.
    let reset = swap(&first, "a", "two").await.digest;
    first.host.reset("a", "admin", Reauthorize::None).await.expect("reset");
    let unloaded = load(&first, "p", "before", Position::Last).await.digest;
    assert_eq!(first.host.unload("p", false).await, Ok(()));
    load(&first, "p", "after", Position::Last).await;
    load(&first, "q", "good", Position::Last).await;
    let withdrawn = swap(&first, "q", "bad").await.digest;
    first.host.rollback("q", None, None, "it was wrong", Change::by("admin")).await.expect("back");
    for number in 0..8 {
        swap(&first, "q", &format!("v{number}")).await;
    }
    let versions = first.host.versions("q").expect("there");
    assert!(versions.iter().all(|version| version.digest != withdrawn));
    let known = |fixture: &Fixture| {
        let of = [("a", &reset), ("p", &unloaded), ("q", &withdrawn)];
        of.map(|(name, digest)| fixture.host.knows(name, digest))
    };
    assert_eq!(known(&first), [true; 3]);
    drop(first);
    let (second, _) = home.begin(&configured).await;
    assert_eq!(known(&second), [true; 3]);
    assert!(!second.host.knows("a", &withdrawn), "another plugin never had it");
    let new = second.host.stage(accepts_as("new").into()).await.expect("taken in").digest;
    assert!(!second.host.knows("q", &new));
}

#[tokio::test]
async fn a_version_that_is_loaded_again_is_compared_with_the_one_before() {
    let home = Home::new();
    let configured = [home.file("a", &accepts_as("one"))];
    let (fixture, _) = home.begin(&configured).await;
    let clients = 0..mqgate_plugin_host::Probation::default().judged_clients as u8;
    for address in clients.clone() {
        fixture.authenticate_from("a", address).await.expect("an answer");
    }
    let deny = Guest::new().authenticator(DENY).build();
    fixture.host.swap("a", Change::by("admin").to(deny)).await.expect("swaps");
    let none = Reauthorize::None;
    fixture.host.reconfigure("a", json!({ "of": "file" }), none).await.expect("taken over");
    for address in clients {
        fixture.authenticate_from("a", address).await.expect("an answer");
    }
    let (told, mut taken) = tokio::sync::mpsc::unbounded_channel();
    let host = std::sync::Arc::clone(&fixture.host);
    tokio::spawn(async move {
        host.watch_versions(none, |taken| {
            drop(told.send(taken));
            ready(())
        })
        .await;
    });
    let told = tokio::time::timeout(std::time::Duration::from_secs(20), taken.recv()).await;
    let told = told.expect("in time").expect("the host lives");
    assert!(told.why.contains("and the version before 0 %"), "{told:?}");
}

#[tokio::test]
async fn settings_of_the_configuration_count_where_none_were_set_at_runtime() {
    let home = Home::new();
    let configured = [home.file("a", &accepts_as("one"))];
    let (first, _) = home.begin(&configured).await;
    let none = Reauthorize::None;
    let before = first.host.reconfigure("a", json!({ "of": "file" }), none).await.expect("taken over");
    assert_eq!(before, json!({}));
    assert!(!first.host.has_settings_of_its_own("a"));
    let change = Change { config: Some(json!({ "of": "admin" })), ..Change::by("admin") };
    first.host.swap("a", change).await.expect("configured");
    let generation = first.host.hooks().load().generation;
    let before = first.host.reconfigure("a", json!({ "of": "file 2" }), none).await.expect("noted");
    assert_eq!(before, json!({ "of": "file" }));
    assert_eq!(first.host.hooks().load().generation, generation, "what the admin set goes on");
    // Once it is taken back, the file's hold.
    first.host.reset("a", "admin", none).await.expect("reset");
    assert!(!first.host.has_settings_of_its_own("a"));
    assert_eq!(first.host.unload("a", true).await, Ok(()));
    let before = first.host.reconfigure("a", json!({}), none).await.expect("noted");
    assert_eq!(before, json!({ "of": "file 2" }));
}
