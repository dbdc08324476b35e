//! Builds the bundled plugins into components under `target/components/NAME.wasm`.
//!
//! Owns: when a component is stale, where it lives, and the order of the steps. Which compiler is used is
//! [`toolchain`]'s business, how a core module becomes a component is [`encode`]'s.
//!
//! The folder holds one stamp for all components. A stamp names everything that went into them, so an
//! up-to-date build costs a few file reads and a changed one is never missed.

mod inputs;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use mqgate_plugin_build::encode;
use mqgate_plugin_build::files::{lock, sha256, write_atomically};
use mqgate_plugin_build::progress::Progress;
use mqgate_plugin_build::rust::{compile, toolchain};

/// One bundled plugin, built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltComponent {
    /// Name of its folder under `plugins/`.
    pub name: String,
    pub path: PathBuf,
    pub size: u64,
    /// `sha256:…`, as the broker writes digests.
    pub digest: String,
    /// Interfaces the component imports.
    pub imports: Vec<String>,
    /// Interfaces it exports.
    pub exports: Vec<String>,
}

/// Written beside the components after a successful build.
#[derive(Debug, Serialize, Deserialize)]
struct Stamp {
    /// Everything that went in.
    inputs: String,
    /// What compiled it, for readers.
    toolchain: String,
    components: BTreeMap<String, StampedComponent>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StampedComponent {
    digest: String,
    imports: Vec<String>,
    exports: Vec<String>,
}

/// Builds what is stale and says where everything is. Safe to call from several processes at once: the
/// second waits and then finds the work done. `say` gets a line per step.
pub fn build(say: &dyn Fn(&str)) -> Result<Vec<BuiltComponent>> {
    let progress = &Progress::new(say);
    let workspace = workspace();
    let folder = workspace.join("target/components");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let _lock = lock(&folder.join(".lock"), progress)?;

    let names = plugin_names(&workspace.join("plugins"))?;
    let toolchain = toolchain::find(&workspace, progress)?;
    let inputs = inputs::digest(&workspace, &toolchain)?;
    if let Some(built) = up_to_date(&folder, &inputs, &names) {
        return Ok(built);
    }

    let started = Instant::now();
    progress.step(&format!("building {} components with {}", names.len(), toolchain.describe()));
    let modules = compile::compile(&workspace, &toolchain, &names, progress)?;
    let mut components = BTreeMap::new();
    for (name, module) in names.iter().zip(&modules) {
        let encoded = encode::component(module).with_context(|| format!("plugin {name}"))?;
        write_atomically(&component_file(&folder, name), &encoded.bytes)?;
        let digest = sha256(&encoded.bytes);
        let stamped = StampedComponent { digest, imports: encoded.imports, exports: encoded.exports };
        components.insert(name.clone(), stamped);
    }
    let stamp = Stamp { inputs: inputs.clone(), toolchain: toolchain.describe(), components };
    write_atomically(&folder.join("stamp.json"), &serde_json::to_vec_pretty(&stamp)?)?;
    progress.step(&format!("built in {} s", started.elapsed().as_secs()));
    up_to_date(&folder, &inputs, &names).context("a component vanished while it was being built")
}

/// The component of one bundled plugin, built first when it is stale. For tests: looks once per process.
pub fn path(name: &str) -> Result<PathBuf> {
    static BUILT: OnceLock<Result<Vec<BuiltComponent>, String>> = OnceLock::new();
    #[expect(clippy::print_stderr, reason = "a test that builds for minutes should say so")]
    let say = |line: &str| eprintln!("{line}");
    let built = BUILT.get_or_init(|| build(&say).map_err(|error| format!("{error:#}")));
    let components = built.as_ref().map_err(|error| anyhow!("cannot build the bundled plugins: {error}"))?;
    let found = components.iter().find(|component| component.name == name);
    Ok(found.with_context(|| format!("there is no bundled plugin {name:?}"))?.path.clone())
}

/// The folder that holds the workspace's `Cargo.toml`.
fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("tests/xtask is two folders below the workspace").to_path_buf()
}

/// Every folder below `plugins/` that holds a package, in order.
fn plugin_names(plugins: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(plugins).with_context(|| format!("cannot read {}", plugins.display()))? {
        let entry = entry?;
        if entry.path().join("Cargo.toml").is_file() {
            match entry.file_name().into_string() {
                Ok(name) => names.push(name),
                Err(name) => bail!("plugin folder {} is not named in UTF-8", name.display()),
            }
        }
    }
    names.sort();
    Ok(names)
}

fn component_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.wasm"))
}

/// The components of `names`, if the stamp says that they were built from `inputs` and the files are still
/// those that were written.
fn up_to_date(folder: &Path, inputs: &str, names: &[String]) -> Option<Vec<BuiltComponent>> {
    let stamp: Stamp = serde_json::from_slice(&fs::read(folder.join("stamp.json")).ok()?).ok()?;
    if stamp.inputs != inputs {
        return None;
    }
    names
        .iter()
        .map(|name| {
            let stamped = stamp.components.get(name)?;
            let path = component_file(folder, name);
            let bytes = fs::read(&path).ok()?;
            (sha256(&bytes) == stamped.digest).then(|| BuiltComponent {
                name: name.clone(),
                path,
                size: bytes.len() as u64,
                digest: stamped.digest.clone(),
                imports: stamped.imports.clone(),
                exports: stamped.exports.clone(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_plugins_are_found() {
        let names = plugin_names(&workspace().join("plugins")).unwrap();
        for bundled in ["audit-log", "auto-register", "cert-acl", "scram"] {
            assert!(names.iter().any(|name| name == bundled), "{names:?}");
        }
    }

    #[test]
    fn a_damaged_or_foreign_component_is_stale() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = b"component";
        fs::write(component_file(folder.path(), "p"), bytes).unwrap();
        let stamped = StampedComponent {
            digest: sha256(bytes),
            imports: vec!["log".into()],
            exports: vec!["lifecycle".into()],
        };
        let stamp = Stamp {
            inputs: "inputs".into(),
            toolchain: "some".into(),
            components: [("p".to_owned(), stamped)].into(),
        };
        fs::write(folder.path().join("stamp.json"), serde_json::to_vec(&stamp).unwrap()).unwrap();

        let names = ["p".to_owned()];
        assert_eq!(up_to_date(folder.path(), "inputs", &names).unwrap()[0].size, 9);
        assert!(up_to_date(folder.path(), "other inputs", &names).is_none());
        assert!(up_to_date(folder.path(), "inputs", &["p".to_owned(), "q".to_owned()]).is_none());
        fs::write(component_file(folder.path(), "p"), b"damaged").unwrap();
        assert!(up_to_date(folder.path(), "inputs", &names).is_none());
    }
}
