//! The plugins that come with the broker load. Skipped, with a word, where they were not built.

use mqgate_plugin_host::{Capability, Grants, PluginSettings, Source};

use crate::built::component;
use crate::fixture::Fixture;

/// `wasi:http` and what it needs of `wasi:io`.
fn is_http(import: &str) -> bool {
    import.starts_with("wasi:http/") || import.starts_with("wasi:io/")
}

#[tokio::test]
async fn the_bundled_components_are_plugins() {
    let fixture = Fixture::new();
    for (name, hooks) in [
        ("cert-acl", &["authenticator", "authorizer"][..]),
        ("auto-register", &["registrar"]),
        ("audit-log", &["auditor"]),
        ("scram", &["enhanced-authenticator"]),
        ("spiffe", &["authenticator", "authorizer"]),
        ("rate-guard", &["authenticator", "registrar", "authorizer"]),
        ("jwt", &["authenticator", "authorizer"]),
        ("webhook", &["authenticator", "authorizer"]),
        ("cedar", &["authorizer"]),
    ] {
        let Some(path) = component(&format!("{name}.wasm")) else { continue };
        let bytes = std::fs::read(&path).expect("the component");
        let found = fixture.host.inspect(Source::Bytes(bytes.into())).await.expect("described");
        assert_eq!(found.hooks, hooks, "{name}");
        assert!(
            found.imports.iter().all(|import| {
                import.starts_with("mqgate:plugin/") || (name == "webhook" && is_http(import))
            }),
            "{name}: {:?}",
            found.imports
        );
        let mut plugin = PluginSettings::new(name, Source::File(path));
        plugin.grants = Grants::of(Capability::ALL);
        plugin.grants.http.allow = vec!["http://policy.test".parse().expect("a destination")];
        // Whether an empty configuration will do is the plugin's choice, and it says so before going live.
        match fixture.host.load(plugin, mqgate_plugin_host::Position::Last, "test").await {
            Ok(info) => {
                eprintln!("{name}: {} bytes, cold start {:?}", info.size, info.cold_start);
                if hooks.contains(&"authenticator") {
                    // No certificate, no user name: whatever it decides, it decides.
                    fixture.authenticate(name, "mqtts").await.expect("a decision");
                }
            }
            Err(error) => assert!(error.message.contains("configuration"), "{name}: {error}"),
        }
    }
    // Instances may wait for calls as long as their plugin is there.
    for plugin in fixture.host.list() {
        fixture.host.unload(&plugin.name, true).await.expect("gone");
    }
    fixture.no_instance_left().await;
}
