//! One decision, written in five languages and once more here: `plugins/cert-core`. All of them are asked about the same
//! certificates and connections, in the host as it is, and must give one answer. What that answer is, nobody computes; for
//! some of them it stands in [`expected`], so that six who are wrong together are found out.

mod certificates;
mod clients;
mod corpus;
#[path = "../../../../identity/tests/it/differential/der.rs"]
#[allow(dead_code, reason = "what its owner needs beyond this")]
mod der;
mod expected;
mod model;

use std::path::Path;
use std::time::Duration;

use mqgate_identity::hooks::{
    Acl, AclRule, Authentication, Authorization, ConnackReason, Denial, HookFailure, Identity, Value,
};
use mqgate_plugin_host::{HostSettings, Isolation, PluginSettings, Position, Source};

use self::corpus::{Case, corpus, refused_by_the_parser};
use crate::built::component;
use crate::fixture::{Fixture, settings};

/// Built wherever components are built, and those that take the tool chains of other languages.
const FAST: [&str; 2] = ["rust", "c"];
/// JavaScript is there twice: its sources around either engine.
const ALL: [&str; 6] = ["rust", "c", "javascript", "starlingmonkey", "python", "go"];

/// What both hooks say.
#[derive(Debug, PartialEq)]
struct Verdict {
    who: Result<Authentication, HookFailure>,
    may: Result<Authorization, HookFailure>,
}

impl Case {
    /// Whom the authorizer is asked about: who was claimed; otherwise who was found, or somebody.
    fn asked_about(&self) -> String {
        match (&self.claimed, model::authenticate(&self.on)) {
            (Some(claimed), _) => claimed.clone(),
            (None, Authentication::Accept { identity, .. }) => identity.device_id,
            (None, _) => String::from("device-7"),
        }
    }

    fn by_the_model(&self) -> Verdict {
        Verdict {
            who: Ok(model::authenticate(&self.on)),
            may: Ok(model::authorize(&self.on, &self.asked_about())),
        }
    }

    async fn by_plugin(&self, fixture: &Fixture, plugin: &str) -> Verdict {
        let set = fixture.host.hooks().load_full();
        let member = set.members.iter().find(|member| &*member.name == plugin).expect("the plugin is live");
        let authenticator = member.authenticator.as_ref().expect("it has the hook");
        let authorizer = member.authorizer.as_ref().expect("it has the hook");
        let who = Identity {
            device_id: self.asked_about(),
            tenant: None,
            tags: Vec::new(),
            attributes: Vec::new(),
        };
        Verdict {
            who: authenticator.authenticate(&self.on).await,
            may: authorizer.authorize(&self.on, &who).await,
        }
    }
}

#[test]
fn there_are_enough_of_them_and_the_parser_keeps_the_rest() {
    let cases = corpus().0;
    assert!(cases.len() >= 200, "{}", cases.len());
    for (what, leaf) in refused_by_the_parser() {
        assert!(leaf.read().is_err(), "{what} was read");
    }
}

/// A corpus in which every certificate is refused would prove nothing, and neither would one in which none is.
#[test]
fn every_way_to_end_is_there() {
    let (mut accepted, mut denied, mut abstained, mut details) = (0, 0, 0, std::collections::BTreeSet::new());
    for case in corpus().0 {
        match case.by_the_model().who.expect("an answer") {
            Authentication::Accept { .. } => accepted += 1,
            Authentication::Abstain => abstained += 1,
            Authentication::Deny(denial) => {
                denied += 1;
                details.insert(denial.audit_detail);
            }
        }
    }
    assert!(accepted >= 80 && denied >= 80 && abstained >= 3, "{accepted}, {denied}, {abstained}");
    assert!(details.len() >= 30, "{details:#?}");
}

#[test]
fn the_verdicts_are_those_that_were_expected() {
    let cases = corpus().0;
    assert!(expected::EXPECTED.len() >= 30);
    for (name, who, may) in expected::EXPECTED {
        let case = cases.iter().find(|case| case.name == name);
        let verdict = case.unwrap_or_else(|| panic!("no case is called {name}")).by_the_model();
        assert_eq!((show_who(&verdict.who).as_str(), show_may(&verdict.may).as_str()), (who, may), "{name}");
    }
}

#[tokio::test]
async fn rust_and_c_say_the_same() {
    let compiled = tempfile::tempdir().expect("a folder");
    for language in FAST {
        let Some(path) = component(&format!("cert-core-{language}.wasm")) else { continue };
        agrees_with_the_model(language, &path, Isolation::PerCall, compiled.path()).await;
    }
}

/// What it would cost the broker to give each instance more is in the SDK's allocator.
#[tokio::test]
async fn a_usual_certificate_fits_into_what_an_instance_begins_with() {
    let Some(path) = component("cert-core-rust.wasm") else { return };
    let engine = wasmtime::Engine::default();
    let begins_with = wasmtime::component::Component::from_file(&engine, &path)
        .expect("a component")
        .resources_required()
        .and_then(|required| required.max_initial_memory_size)
        .expect("one memory")
        * (64 << 10);
    let fixture = Fixture::new();
    let plugin = settings("rust", std::fs::read(&path).expect("the component"));
    fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    let cases = corpus().0;
    let case = cases.iter().find(|case| case.name == "cn-plain").expect("it is there");
    assert_eq!(case.by_plugin(&fixture, "rust").await, case.by_the_model());
    let peak = fixture.metric("mqgate_plugin_memory_peak_bytes{plugin=\"rust\"}").expect("the series");
    assert_eq!(peak, begins_with as f64, "it grew");
}

/// Fresh and used instances; with the settings an operator has who writes none; and what a component may not do.
#[tokio::test]
#[ignore = "wants the tool chains of five languages; `cargo xtask test --full` builds the components and runs it"]
async fn all_five_languages_say_the_same() {
    for language in ALL {
        let Some(path) = component(&format!("cert-core-{language}.wasm")) else { continue };
        // An interpreter is compiled for longer than it is asked; once will do.
        let compiled = tempfile::tempdir().expect("a folder");
        for isolation in [Isolation::PerCall, Isolation::Pooled] {
            agrees_with_the_model(language, &path, isolation, compiled.path()).await;
        }
        default_limits_are_enough(language, &path, compiled.path()).await;
        it_imports_no_more_than_it_needs_and_takes_no_settings(language, &path, compiled.path()).await;
    }
}

async fn default_limits_are_enough(language: &str, path: &Path, compiled: &Path) {
    let fixture = caching(compiled);
    let plugin = PluginSettings::new(language, Source::File(path.to_owned()));
    let info = fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    eprintln!("{language}: {} bytes, cold start {:?}, {}", info.size, info.cold_start, info.isolation);
    let cases = corpus().0;
    let case = cases.iter().find(|case| case.name == "cn-plain").expect("it is there");
    assert_eq!(case.by_plugin(&fixture, language).await, case.by_the_model(), "{language}");
}

async fn it_imports_no_more_than_it_needs_and_takes_no_settings(
    language: &str,
    path: &Path,
    compiled: &Path,
) {
    let fixture = caching(compiled);
    let found = fixture.host.inspect(Source::File(path.to_owned())).await.expect("described");
    // The SDK for Rust logs a panic before it ends in a trap.
    let is_log = |import: &String| language == "rust" && import.starts_with("mqgate:plugin/log@");
    assert!(found.imports.iter().all(is_log), "{language}: {:?}", found.imports);
    assert_eq!(found.hooks, ["authenticator", "authorizer"], "{language}");
    for settings in [serde_json::json!({ "device-id": ["cn"] }), serde_json::json!({ "": null })] {
        let mut plugin = patient(language, path);
        plugin.config = settings;
        let refused =
            fixture.host.load(plugin, Position::Last, "test").await.expect_err("it has no settings");
        assert!(refused.message.contains("cert-core has no settings"), "{language}: {refused}");
    }
}

fn caching(compiled: &Path) -> Fixture {
    let cache_dir = Some(compiled.join("cache"));
    Fixture::with(HostSettings { cache_dir, ..HostSettings::default() }, Vec::new())
}

async fn agrees_with_the_model(language: &str, path: &Path, isolation: Isolation, compiled: &Path) {
    let fixture = caching(compiled);
    let plugin = PluginSettings { isolation, ..patient(language, path) };
    fixture.host.load(plugin, Position::Last, "test").await.expect("loads");
    let cases = corpus().0;
    let mut different = Vec::new();
    for case in &cases {
        let (expected, answer) = (case.by_the_model(), case.by_plugin(&fixture, language).await);
        if answer != expected {
            different.push(format!("{}\n  expected {expected:?}\n  {language} {answer:?}", case.name));
        }
    }
    let count = different.len();
    different.truncate(10);
    assert_eq!(
        count,
        0,
        "of {} verdicts by {language}, as {isolation:?}:\n{}",
        cases.len(),
        different.join("\n")
    );
}

/// What a loaded machine takes longer for is no difference.
fn patient(name: &str, path: &Path) -> PluginSettings {
    let bytes = std::fs::read(path).expect("the component");
    let mut plugin = settings(name, bytes);
    plugin.limits.cpu = Duration::from_secs(20);
    plugin
}

fn show_who(who: &Result<Authentication, HookFailure>) -> String {
    match who {
        Ok(Authentication::Accept { identity, cache: None }) => {
            let tenant = identity.tenant.as_ref().map(|tenant| format!(" of {tenant}")).unwrap_or_default();
            let by: Vec<String> = identity
                .attributes
                .iter()
                .map(|attribute| match &attribute.value {
                    Value::Text(text) => format!("{} {text}", attribute.name),
                    other => format!("{} {other:?}", attribute.name),
                })
                .collect();
            let tags = identity.tags.join(" ");
            format!("accept {}{tenant}, {tags}, {}", identity.device_id, by.join(" "))
        }
        Ok(Authentication::Deny(denial)) => show_denial(denial),
        Ok(Authentication::Abstain) => String::from("abstain"),
        other => format!("{other:?}"),
    }
}

fn show_may(may: &Result<Authorization, HookFailure>) -> String {
    let show_rule = |rule: &AclRule| {
        let actions = match (rule.publish, rule.subscribe) {
            (true, true) => "publish+subscribe",
            (true, false) => "publish",
            (false, true) => "subscribe",
            (false, false) => "nothing",
        };
        format!("{:?} {actions} {}", rule.effect, rule.filter)
    };
    match may {
        Ok(Authorization::Allow(grant)) => {
            let Acl::Inline(rules) = &grant.acl else { return format!("{grant:?}") };
            let mut parts: Vec<String> = rules.iter().map(show_rule).collect();
            parts.extend(grant.limits.maximum_qos.map(|most| format!("qos {most}")));
            parts.extend(grant.assigned_client_id.as_ref().map(|id| format!("as {id}")));
            parts.join(", ")
        }
        Ok(Authorization::Deny(denial)) => show_denial(denial),
        Ok(Authorization::Abstain) => String::from("abstain"),
        Err(failure) => format!("{failure:?}"),
    }
}

fn show_denial(denial: &Denial) -> String {
    let detail = denial.audit_detail.as_deref().unwrap_or("no detail");
    match denial.reason {
        ConnackReason::NotAuthorized => detail.to_owned(),
        reason => format!("{reason:?}: {detail}"),
    }
}
