//! Clocks and randomness by grant, and no more of WASI than that. Skipped, with a word, where `plugins/test-caller` was
//! not built.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mqgate_identity::hooks::Authentication;
use mqgate_plugin_host::{
    Capability, Grants, LoadError, PluginSettings, Position, Source, Stage, grant_line,
};
use serde_json::json;

use crate::built::component;
use crate::fixture::{Fixture, settings};
use crate::guest::{ABSTAIN, Guest};

fn plugin(granted: &[Capability]) -> Option<PluginSettings> {
    let file = component("test-caller.wasm")?;
    let mut plugin = settings("p", std::fs::read(file).expect("the component"));
    plugin.grants = Grants::of(granted.iter().copied());
    plugin.grants.http.allow = vec!["http://policy.test".parse().expect("a destination")];
    plugin.limits.cpu = Duration::from_secs(10);
    Some(plugin)
}

async fn refused(plugin: PluginSettings) -> LoadError {
    let fixture = Fixture::new();
    let error = fixture.host.load(plugin, Position::Last, "test").await.expect_err("refused");
    assert!(fixture.host.list().is_empty());
    assert_eq!(error.stage, Stage::Inspect, "{error}");
    assert!(error.message.lines().count() <= 3, "{error}");
    error
}

#[tokio::test]
async fn what_is_not_granted_is_refused_with_the_line_that_grants_it() {
    use Capability::{Clock, Http, Random};
    for (granted, missing) in [
        (vec![Http, Clock], vec!["wasi:random/random@0.2"]),
        (vec![Http, Random], vec!["wasi:clocks/monotonic-clock@0.2", "wasi:clocks/wall-clock@0.2"]),
        (
            vec![Clock, Random],
            vec!["wasi:http/outgoing-handler@0.2", "wasi:http/types@0.2", "wasi:io/streams@0.2"],
        ),
        (vec![], vec!["wasi:http/", "wasi:clocks/", "wasi:random/", "wasi:io/"]),
    ] {
        let Some(plugin) = plugin(&granted) else { return };
        let error = refused(plugin).await;
        for import in missing {
            assert!(error.message.contains(import), "{import} with {granted:?}: {error}");
        }
        for capability in &granted {
            let package =
                format!("wasi:{}/", if *capability == Clock { "clocks" } else { capability.as_str() });
            let first = error.message.lines().next().unwrap_or_default();
            assert!(!first.contains(&package), "{package} is granted: {error}");
        }
        let line = "grant = { capabilities = [\"http\", \"clock\", \"random\"], http = { allow = [\"http://policy.test:80\"] } }";
        assert!(error.message.ends_with(line), "{error}");
    }
}

#[tokio::test]
async fn an_inspection_names_what_a_component_needs() {
    let Some(file) = component("test-caller.wasm") else { return };
    let bytes = std::fs::read(file).expect("the component");
    let found = Fixture::new().host.inspect(Source::Bytes(bytes.into())).await.expect("described");
    assert_eq!(found.needs, [Capability::Http, Capability::Clock, Capability::Random].into());
    assert_eq!(found.unserved, Vec::<String>::new());
    assert_eq!(
        grant_line(&found.needs, &[]),
        "grant = { capabilities = [\"http\", \"clock\", \"random\"], http = { allow = [\"https://HOST:443\"] } }"
    );
}

#[tokio::test]
async fn what_is_granted_is_there() {
    let Some(mut plugin) = plugin(&[Capability::Http, Capability::Clock, Capability::Random]) else { return };
    plugin.config = json!({ "steps": ["clock", { "random": 32 }, { "random": 32 }] });
    let fixture = Fixture::new();
    fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    let Ok(Authentication::Deny(denial)) = fixture.authenticate("p", "l").await else { panic!("not denied") };
    let said = denial.audit_detail.expect("it tells");
    let lines: Vec<&str> = said.lines().collect();
    let (now, _) = lines[0].split_once(' ').expect("two times");
    let now = Duration::from_millis(now.parse().expect("milliseconds"));
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    assert!(ours.abs_diff(now) < Duration::from_secs(60), "{said}");
    assert_ne!(lines[1], lines[2], "chance does not repeat itself");
    for (interface, count) in [("clock", 2.0), ("random", 2.0), ("http", 0.0)] {
        let series =
            format!("mqgate_plugin_host_calls_total{{interface=\"{interface}\",plugin=\"p\",result=\"ok\"}}");
        assert_eq!(fixture.metric(&series), Some(count), "{interface}");
    }
}

#[tokio::test]
async fn no_more_of_wasi_is_there_whatever_is_granted() {
    for import in ["wasi:cli/environment@0.2.0", "wasi:filesystem/types@0.2.3", "wasi:sockets/tcp@0.2.0"] {
        let other = Guest::new().authenticator(ABSTAIN).foreign(import).build();
        let mut plugin = settings("p", other);
        plugin.grants = Grants::of(Capability::ALL);
        plugin.grants.http.allow = vec!["http://*:*".parse().expect("a destination")];
        let error = refused(plugin).await;
        assert!(error.message.contains(import) && error.message.contains("nothing else"), "{error}");
    }
}
