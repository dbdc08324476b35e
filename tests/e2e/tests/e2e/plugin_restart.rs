//! What was decided about plugins while the broker ran is so after it was killed, at whatever moment.

use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use mqgate_client::Client;
use mqgate_codec::ReasonCode;
use mqgate_e2e::{Broker, Identity, PATIENT};
use serde_json::Value;

use crate::plugin_lifecycle::test_guest;

/// Names, digests and states of the chain, in its order.
fn chain(list: &Value) -> Vec<(String, String, String)> {
    let plugins = list.as_array().expect("a list");
    let word = |plugin: &Value, name: &str| plugin[name].as_str().unwrap_or_default().to_owned();
    plugins
        .iter()
        .map(|plugin| (word(plugin, "name"), word(plugin, "digest"), word(plugin, "state")))
        .collect()
}

/// What the chain says. On a loaded machine a plugin may not answer in time: then it is asked once more.
async fn is_let_in(broker: &Broker, device: &Identity) -> Result<(), Option<ReasonCode>> {
    mqgate_e2e::eventually("an answer of the chain", async || {
        let answer = tried(broker, device).await;
        (answer != Err(Some(ReasonCode::SERVER_UNAVAILABLE))).then_some(answer)
    })
    .await
}

async fn tried(broker: &Broker, device: &Identity) -> Result<(), Option<ReasonCode>> {
    Client::connect(broker.options("x", device)).await.map(drop).map_err(|error| error.reason_code())
}

#[tokio::test]
async fn what_was_decided_at_runtime_holds_after_a_kill() {
    let mut broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("device-1");
    is_let_in(&broker, &device).await.expect("as configured");
    let admin = broker.admin();
    let deny = r#"{"authenticate":"deny"}"#;
    admin.run(&["plugin", "load", &test_guest(), "--name", "closed", "--first", "--config-json", deny]);
    admin.run(&["plugin", "load", &test_guest(), "--name", "quiet", "--before", "cert-acl"]);
    admin.run(&["plugin", "disable", "quiet"]);
    admin.run(&["plugin", "unload", "audit-log", "--force"]);
    let before = chain(&admin.json(&["plugin", "list"]));
    let names: Vec<_> = before.iter().map(|(name, _, state)| format!("{name} {state}")).collect();
    assert_eq!(names, ["closed live", "auto-register live", "quiet disabled", "cert-acl live"]);
    let denied = Err(Some(ReasonCode::NOT_AUTHORIZED));
    assert_eq!(is_let_in(&broker, &device).await, denied);

    broker.kill_and_restart();
    assert_eq!(chain(&broker.admin().json(&["plugin", "list"])), before);
    assert_eq!(is_let_in(&broker, &device).await, denied, "the plugin that was loaded is asked again");

    // Back to the configuration, one by one; that holds, too.
    let admin = broker.admin();
    admin.run(&["plugin", "unload", "closed"]);
    admin.run(&["plugin", "unload", "quiet"]);
    admin.run(&["plugin", "reset", "audit-log"]);
    broker.kill_and_restart();
    let names: Vec<_> =
        chain(&broker.admin().json(&["plugin", "list"])).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["auto-register", "cert-acl", "audit-log"]);
    is_let_in(&broker, &device).await.expect("as configured");
    broker.audited("the reset", |line| line["name"] == "plugin.reset").await;
}

#[tokio::test]
async fn a_plugin_that_is_not_there_any_more_keeps_the_listener_shut() {
    let mut broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("device-1");
    broker.admin().run(&["plugin", "load", &test_guest(), "--name", "extra", "--first"]);
    is_let_in(&broker, &device).await.expect("it has no opinion");
    broker.stop();
    let kept = broker.folder.join("data/plugins/components");
    let list = std::fs::read_dir(&kept).expect("components are kept");
    let guest = std::fs::read(test_guest()).expect("it was built");
    for file in list.flatten().map(|entry| entry.path()) {
        if std::fs::read(&file).expect("it can be read") == guest {
            std::fs::write(&file, b"damaged").expect("it is ours");
        }
    }
    broker.restart_shut();
    let (status, why) = broker.admin().page("/ready");
    assert!(status == 503 && why.contains("extra") && why.contains("damaged"), "{status} {why}");
    // Whoever decides that it goes without opens the listener.
    broker.admin().run(&["plugin", "unload", "extra"]);
    broker.open();
    is_let_in(&broker, &device).await.expect("as configured");
}

/// The component with a section that nobody reads: another digest, the same plugin.
pub fn numbered(component: &[u8], number: usize) -> Vec<u8> {
    let label = format!("0.0.{number}");
    let mut section = vec![7];
    section.extend_from_slice(b"version");
    section.extend_from_slice(label.as_bytes());
    let mut bytes = component.to_vec();
    bytes.push(0);
    bytes.push(u8::try_from(section.len()).expect("it is short"));
    bytes.extend(section);
    bytes
}

/// Kills the broker at moments spread over a swap.
async fn killed_while_swapping(times: usize) {
    let mut broker =
        Broker::builder().with_bundled_plugins().with_plugin("gate", &test_guest(), PATIENT).start().await;
    let component = std::fs::read(test_guest()).expect("it was built");
    let file = |number: usize| broker.folder.join(format!("gate-{number}.wasm"));
    let files: Vec<_> = (0..=times).map(file).collect();
    for (number, file) in files.iter().enumerate() {
        std::fs::write(file, numbered(&component, number)).expect("the test's folder is writable");
    }
    let swap = |admin: &mqgate_e2e::Admin, number: usize| {
        admin.try_run(&["plugin", "swap", "gate", files[number].to_str().expect("UTF-8"), "--json"])
    };
    let begun = Instant::now();
    let output = swap(&broker.admin(), 0);
    let whole = begun.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut acknowledged = chain(&broker.admin().json(&["plugin", "list"]));
    let (mut done, mut undone) = (0, 0);
    for number in 1..=times {
        let admin = broker.admin();
        // From before it begins until after it has ended.
        let delay = whole.mul_f64(1.2 * number as f64 / times as f64);
        let output = std::thread::scope(|scope| {
            let swapping = scope.spawn(|| swap(&admin, number));
            std::thread::sleep(delay);
            broker.kill_and_restart();
            swapping.join().expect("it ends")
        });
        let found = chain(&broker.admin().json(&["plugin", "list"]));
        let mut swapped = acknowledged.clone();
        let gate = swapped.iter_mut().find(|(name, ..)| name == "gate").expect("it is there");
        gate.1 = digest(&numbered(&component, number));
        if output.status.success() {
            assert_eq!(found, swapped, "swap {number} was acknowledged");
        } else {
            // Nobody was told how it ended: it is as before, or done.
            assert!(found == acknowledged || found == swapped, "swap {number}: {found:?}");
        }
        if found == swapped {
            done += 1;
        } else {
            undone += 1;
        }
        acknowledged = found;
    }
    let device = broker.pki.device("device-1");
    is_let_in(&broker, &device).await.expect("the chain decides as ever");
    assert!(times < 10 || (done > 0 && undone > 0), "the moments were spread: {done} done, {undone} not");
}

pub fn digest(component: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    format!("sha256:{}", hex::encode(Sha256::digest(component)))
}

#[tokio::test]
async fn a_kill_during_a_swap_leaves_the_last_acknowledged_set() {
    killed_while_swapping(4).await;
}

#[tokio::test]
#[ignore = "full: restarts the broker fifty times"]
async fn fifty_kills_during_swaps_leave_the_last_acknowledged_set() {
    killed_while_swapping(50).await;
}

#[tokio::test]
async fn versions_are_listed_taken_back_and_gone_back_to() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let device = broker.pki.device("device-1");
    let admin = broker.admin();
    is_let_in(&broker, &device).await.expect("as configured");
    let deny = r#"{"authenticate":"deny"}"#;
    admin.run(&["plugin", "load", &test_guest(), "--name", "first", "--first", "--config-json", deny]);
    let denied = Err(Some(ReasonCode::NOT_AUTHORIZED));
    assert_eq!(is_let_in(&broker, &device).await, denied);
    admin.run(&["plugin", "configure", "first", "--config-json", "{}"]);
    is_let_in(&broker, &device).await.expect("its settings changed");
    admin.run(&["plugin", "rollback", "first", "--why", "we want it shut"]);
    assert_eq!(is_let_in(&broker, &device).await, denied);
    let versions = admin.json(&["plugin", "versions", "first"]);
    let how: Vec<_> =
        versions.as_array().expect("a list").iter().map(|version| version["how"].as_str().unwrap()).collect();
    assert_eq!(how, ["rolled-back", "configured", "loaded"]);
    assert_eq!(versions[1]["withdrawn"], "we want it shut");
    assert!(!versions.to_string().contains("deny"), "settings may be secret: {versions}");
    admin.run(&["plugin", "rollback", "first", "--to", "2"]);
    is_let_in(&broker, &device).await.expect("the second version lets in");
    let output = admin.try_run(&["plugin", "rollback", "first", "--to", "77"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("77") && said.contains("plugin versions"), "{said}");
    let line = broker.audited("the rollback", |line| line["name"] == "plugin.rolled_back").await;
    assert!(line.to_string().contains("we want it shut"), "{line}");
    // Large settings do not fit into a query, and need not.
    let long = format!(r#"{{"authenticate":"abstain","loop-on-client-id":"{}"}}"#, "x".repeat(200_000));
    let settings = broker.folder.join("long.json");
    std::fs::write(&settings, long).unwrap();
    admin.run(&["plugin", "configure", "first", "--config-file", settings.to_str().unwrap()]);
    is_let_in(&broker, &device).await.expect("it has no opinion");
}

#[tokio::test]
async fn a_version_that_traps_is_taken_back_by_itself() {
    let broker = Broker::builder().with_bundled_plugins().start().await;
    let devices: Vec<Identity> =
        (0..8).map(|number| broker.pki.device(&format!("device-{number}"))).collect();
    is_let_in(&broker, &devices[0]).await.expect("as configured");
    let admin = broker.admin();
    let before = chain(&admin.json(&["plugin", "list"]));
    admin.run(&["plugin", "swap", "cert-acl", &test_guest(), "--config-json", r#"{"authenticate":"trap"}"#]);
    for device in &devices {
        let _ = tried(&broker, device).await;
    }
    let line = broker.audited("the rollback", |line| line["name"] == "plugin.rolled_back").await;
    assert_eq!(line["actor"], "system");
    assert!(line.to_string().contains("calls failed"), "{line}");
    assert_eq!(chain(&admin.json(&["plugin", "list"])), before);
    is_let_in(&broker, &devices[0]).await.expect("the version before decides again");
    let series = "mqgate_plugin_swaps_total{plugin=\"cert-acl\",result=\"rolled_back\"}";
    assert!((admin.metric(series) - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_version_that_cannot_be_taken_back_has_nobody_asked_again() {
    let broker =
        Broker::builder().config("[policy]\nreauthorize = \"eager\"").with_bundled_plugins().start().await;
    let devices: Vec<Identity> =
        (0..8).map(|number| broker.pki.device(&format!("device-{number}"))).collect();
    is_let_in(&broker, &devices[0]).await.expect("as configured");
    let admin = broker.admin();
    let list = chain(&admin.json(&["plugin", "list"]));
    let (_, digest, _) = list.iter().find(|(name, ..)| name == "cert-acl").expect("it is bundled");
    let config = r#"{"authenticate":"trap"}"#;
    admin.run(&[
        "plugin",
        "swap",
        "cert-acl",
        &test_guest(),
        "--config-json",
        config,
        "--reauthorize",
        "none",
    ]);
    // What it would go back to is no component any more.
    let digits = digest.trim_start_matches("sha256:");
    let former = broker.folder.join(format!("data/plugins/components/{digits}.wasm"));
    std::fs::write(&former, b"damaged").unwrap();
    for device in &devices {
        let _ = tried(&broker, device).await;
    }
    let line = broker.audited("what failed", |line| line["name"] == "plugin.refused").await;
    assert_eq!(line["actor"], "system");
    assert!(line.to_string().contains("damaged"), "{line}");
    admin.json(&["plugin", "list"]);
    assert_eq!(broker.logged("live sessions are asked for again"), Vec::<String>::new());
}

#[tokio::test]
async fn only_signed_components_are_loaded_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (key, component) = (at("release.key"), at("gate.wasm"));
    std::fs::copy(test_guest(), &component).unwrap();
    // None of this needs a broker.
    let offline = mqgate_e2e::Admin::new(1, "none.toml".into(), at("no-token").into());
    std::fs::write(at("no-token"), "x").unwrap();
    let public = offline.json(&["plugin", "keygen", &key])["key"].as_str().unwrap().to_owned();
    assert!(!offline.try_run(&["plugin", "keygen", &key]).status.success(), "a key is not overwritten");
    let signed = offline.json(&["plugin", "sign", &component, "--key", &key]);
    offline.run(&["plugin", "verify", &component, "--key", &public]);
    let stranger = offline.json(&["plugin", "keygen", &at("other.key")])["key"].as_str().unwrap().to_owned();
    assert!(!offline.try_run(&["plugin", "verify", &component, "--key", &stranger]).status.success());

    let watched = tempfile::tempdir().unwrap();
    let host = format!(
        "[plugin_host]\nrequire_signed = true\nwatch = \"{}\"\nwatch_interval = \"100ms\"\n\
         [[plugin_host.trusted_keys]]\nname = \"release\"\nkey = \"{public}\"",
        watched.path().display()
    );
    let broker = Broker::builder()
        .config(&host)
        .with_bundled_plugins()
        .with_plugin("gate", &component, PATIENT)
        .start()
        .await;
    let admin = broker.admin();
    let list = admin.json(&["plugin", "list"]);
    let gate = list.as_array().unwrap().iter().find(|plugin| plugin["name"] == "gate").unwrap();
    assert_eq!((gate["state"].as_str(), gate["signed_by"].as_str()), (Some("live"), Some("release")));
    let output = admin.try_run(&["plugin", "load", &test_guest(), "--name", "unsigned"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("signature") && said.contains("plugin sign"), "{said}");
    admin.run(&["plugin", "load", &component, "--name", "signed"]);
    let line = broker.audited("the loading", |line| line["fields"]["plugin"] == "signed").await;
    assert_eq!(line["fields"]["signed_by"], "release");
    assert_eq!(line["fields"]["digest"], signed["digest"]);
    let looked_at = admin.json(&["plugin", "inspect", &component, "--name", "gate"]);
    assert_eq!(looked_at["signature"]["state"], "trusted");
    assert_eq!(looked_at["against"]["same"], true);
    // A version that runs again tells as well who signed it.
    std::fs::write(at("two.wasm"), numbered(&std::fs::read(&component).unwrap(), 2)).unwrap();
    admin.run(&["plugin", "sign", &at("two.wasm"), "--key", &key]);
    admin.run(&["plugin", "swap", "gate", &at("two.wasm")]);
    admin.run(&["plugin", "rollback", "gate"]);
    let line = broker.audited("the rollback", |line| line["name"] == "plugin.rolled_back").await;
    assert_eq!(line["fields"]["signed_by"], "release", "{line}");
    // In the watched folder a component waits for its signature.
    let late = watched.path().join("late.wasm");
    put(&late, &std::fs::read(&component).unwrap());
    let about_late = |line: &Value| line["name"] == "plugin.refused" && line["fields"]["plugin"] == "late";
    broker.audited("the refusal", about_late).await;
    put(&watched.path().join("late.wasm.sig"), &std::fs::read(format!("{component}.sig")).unwrap());
    broker
        .audited("the loading", |line| line["name"] == "plugin.loaded" && line["fields"]["plugin"] == "late")
        .await;
    // One byte more, and the signature is for another component.
    let mut bytes = std::fs::read(&component).unwrap();
    bytes.extend_from_slice(b"\x00\x02\x01x");
    std::fs::write(&component, bytes).unwrap();
    let output = admin.try_run(&["plugin", "swap", "gate", &component]);
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(admin.json(&["plugin", "inspect", &component])["signature"]["state"], "refused");
}

#[tokio::test]
async fn a_watched_folder_brings_plugins_and_new_versions_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let host = format!("[plugin_host]\nwatch = \"{}\"\nwatch_interval = \"100ms\"", folder.path().display());
    let broker = Broker::builder().config(&host).with_bundled_plugins().start().await;
    let component = std::fs::read(test_guest()).unwrap();
    let file = folder.path().join("gate.wasm");
    put(&folder.path().join("gate.json"), br#"{"authenticate":"trap"}"#);
    put(&file, &component);
    let number = async |wanted: u64| {
        mqgate_e2e::eventually("the folder is looked at", async || {
            let list = broker.admin().json(&["plugin", "list"]);
            let gate = list.as_array()?.iter().find(|plugin| plugin["name"] == "gate")?.clone();
            (gate["number"] == wanted).then_some(gate)
        })
        .await
    };
    let gate = number(1).await;
    assert_eq!((gate["state"].as_str(), gate["by"].as_str()), (Some("live"), Some("system")));
    let second = numbered(&component, 2);
    put(&folder.path().join("gate.json"), br#"{"authenticate":"tell"}"#);
    put(&file, &second);
    let gate = number(2).await;
    assert_eq!(gate["version"], "0.0.2");
    // One that is no component changes nothing, and is said once.
    put(&file, b"hello");
    broker.audited("the refusal", |line| line["name"] == "plugin.refused").await;
    number(2).await;
    // What was rolled back does not come back by itself.
    broker.admin().run(&["plugin", "rollback", "gate"]);
    put(&file, &second);
    put(&folder.path().join("other.wasm"), &component);
    mqgate_e2e::eventually("the folder is looked at", async || {
        let list = broker.admin().json(&["plugin", "list"]);
        list.as_array()?.iter().any(|plugin| plugin["name"] == "other").then_some(())
    })
    .await;
    number(3).await;
    // Other settings alone are a change, too.
    put(&folder.path().join("other.json"), br#"{"authenticate":"tell"}"#);
    let line = broker.audited("the settings", |line| line["name"] == "plugin.configured").await;
    assert_eq!((line["fields"]["plugin"].as_str(), line["actor"].as_str()), (Some("other"), Some("system")));
    number(3).await;
    let refusals = broker.audit().into_iter().filter(|line| line["name"] == "plugin.refused").count();
    assert_eq!(refusals, 1);
}

/// Writes a file into which nobody else can write.
fn put(file: &std::path::Path, content: &[u8]) {
    std::fs::write(file, content).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
}
