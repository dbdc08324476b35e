//! The cases of the plugins that come with the broker, against the very components. Skipped, with a word, where they were
//! not built.

use std::path::{Path, PathBuf};

use mqgate_plugin_host::case;
use mqgate_plugin_host::offline::Instance;

use crate::built::component;
use crate::offline::unhurried;

/// Folders of plugins with cases.
fn plugins() -> Vec<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins"));
    let entries = std::fs::read_dir(folder).expect("the plugins are there");
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    found.retain(|plugin| plugin.join("cases").is_dir());
    found.sort();
    found
}

#[test]
fn the_bundled_plugins_decide_as_their_cases_say() {
    let plugins = plugins();
    assert!(plugins.len() >= 2, "{plugins:?}");
    let mut wrong = Vec::new();
    for plugin in plugins {
        let name = plugin.file_name().expect("a name").to_string_lossy().into_owned();
        let cases = case::read_all(&plugin.join("cases")).unwrap_or_else(|error| panic!("{error}"));
        let Some(built) = component(&format!("{name}.wasm")) else { continue };
        let mut offline = unhurried(std::fs::read(built).expect("the component"));
        for instance in Instance::ALL {
            for one in &cases {
                assert!(one.expected.is_some(), "{name}: {} expects nothing", one.name);
                let ran = offline.judge(one, instance);
                let ran = ran.unwrap_or_else(|error| panic!("{name}: {}: {error}", one.name));
                for differs in one.differences(&ran.answer) {
                    let failure = ran.answer.failure;
                    wrong.push(format!(
                        "{name}: {} ({}): {differs:?} {failure:?}",
                        one.name,
                        instance.as_str()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
