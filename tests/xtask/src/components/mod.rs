//! Builds the plugin projects below `plugins/` into components under `target/components/NAME.wasm`.
//!
//! Owns: which of them are asked for, when a component is stale, where it lives, and the order of the steps. How a
//! project becomes a component is `mqgate-plugin-build`'s business.
//!
//! The folder holds one stamp for all components. It names everything that went into each, so an up-to-date build
//! costs a few file reads and a changed one is never missed.

mod inputs;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

use mqgate_plugin_build::encode::{self, Shape};
use mqgate_plugin_build::files::{lock, sha256, write_atomically};
use mqgate_plugin_build::manifest::{self, Engine, Language};
use mqgate_plugin_build::progress::Progress;
use mqgate_plugin_build::project::{Project, Tools};
use mqgate_plugin_build::rust;
use mqgate_plugin_build::rust::toolchain::Toolchain;

/// Which components are wanted, by what their tool chains take to be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Those in Rust: everything that is bundled.
    Bundled,
    /// Those in C, too: what the fast tier of the tests runs.
    Fast,
    /// All languages.
    All,
}

impl Which {
    fn has(self, language: Language) -> bool {
        match language {
            Language::Rust => true,
            Language::C => self != Self::Bundled,
            Language::JavaScript | Language::Python | Language::Go => self == Self::All,
        }
    }

    /// The fewest that have this language.
    fn with(language: Language) -> Self {
        [Self::Bundled, Self::Fast].into_iter().find(|which| which.has(language)).unwrap_or(Self::All)
    }
}

/// One plugin of this repository, built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltComponent {
    /// As its manifest has it.
    pub name: String,
    pub language: Language,
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
#[derive(Debug, Default, Serialize, Deserialize)]
struct Stamp {
    components: BTreeMap<String, StampedComponent>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StampedComponent {
    /// Everything that went in.
    inputs: String,
    /// What compiled it, for readers.
    tools: String,
    digest: String,
    imports: Vec<String>,
    exports: Vec<String>,
}

/// Builds what is stale and says where everything is. Safe to call from several processes at once: the
/// second waits and then finds the work done. `say` gets a line per step.
pub fn build(which: Which, say: &dyn Fn(&str)) -> Result<Vec<BuiltComponent>> {
    let progress = &Progress::new(say);
    let workspace = workspace();
    let folder = workspace.join("target/components");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let _lock = lock(&folder.join(".lock"), progress)?;

    let projects = projects(&workspace.join("plugins"))?;
    let mut stamp = read_stamp(&folder);
    let mut built = Vec::new();
    let kits: BTreeSet<(Language, Engine)> = projects.iter().map(kit).collect();
    for wanted in kits.into_iter().filter(|(language, _)| which.has(*language)) {
        let mine: Vec<&Project> = projects.iter().filter(|project| kit(project) == wanted).collect();
        let Some(first) = mine.first() else { continue };
        let tools = Tools::find(&first.manifest, progress)?;
        let mut inputs = BTreeMap::new();
        for project in &mine {
            inputs.insert(
                project.manifest.name.as_str(),
                inputs::digest(&workspace, &projects, project, &tools)?,
            );
        }
        let current = |project: &Project, stamp: &Stamp| {
            let name = project.manifest.name.as_str();
            up_to_date(&folder, stamp, project, &inputs[name])
        };
        let stale: Vec<&Project> =
            mine.iter().filter(|project| current(project, &stamp).is_none()).copied().collect();
        if !stale.is_empty() {
            let started = Instant::now();
            progress.step(&format!("building {} components with {}", stale.len(), tools.describe()));
            for (project, (bytes, shape)) in stale.iter().zip(compile(&workspace, &stale, &tools, progress)?)
            {
                let name = &project.manifest.name;
                write_atomically(&component_file(&folder, name), &bytes)?;
                let stamped = StampedComponent {
                    inputs: inputs[name.as_str()].clone(),
                    tools: tools.describe(),
                    digest: sha256(&bytes),
                    imports: shape.imports,
                    exports: shape.exports,
                };
                stamp.components.insert(name.clone(), stamped);
            }
            write_atomically(&folder.join("stamp.json"), &serde_json::to_vec_pretty(&stamp)?)?;
            progress.step(&format!("built in {} s", started.elapsed().as_secs()));
        }
        for project in mine {
            built.push(current(project, &stamp).context("a component vanished while it was being built")?);
        }
    }
    Ok(built)
}

/// What has the same for two projects has the same tools, too.
fn kit(project: &Project) -> (Language, Engine) {
    (project.manifest.language, project.manifest.engine)
}

/// Compiles projects of one language, in order. Those in Rust share a workspace, and one run of cargo.
fn compile(
    workspace: &Path,
    projects: &[&Project],
    tools: &Tools,
    progress: &Progress<'_>,
) -> Result<Vec<(Vec<u8>, Shape)>> {
    if let Tools::Rust(toolchain) = tools {
        return compile_rust(workspace, projects, toolchain, progress);
    }
    let one = |project: &&Project| {
        let name = &project.manifest.name;
        progress.detail(name);
        let work = workspace.join("target/components/build").join(name);
        fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
        project.component(tools, &work, progress).with_context(|| format!("plugin {name}"))
    };
    projects.iter().map(one).collect()
}

fn compile_rust(
    workspace: &Path,
    projects: &[&Project],
    toolchain: &Toolchain,
    progress: &Progress<'_>,
) -> Result<Vec<(Vec<u8>, Shape)>> {
    let names: Vec<(String, String)> =
        projects.iter().map(|project| rust::package(&project.folder)).collect::<Result<_>>()?;
    let packages = rust::compile::Packages {
        folder: &workspace.join("plugins"),
        // Apart from the host's folder, so that the two builds never wait for each other's lock.
        target: &workspace.join("target/plugins"),
        names: &names,
        root: workspace,
        lock: rust::compile::Lock::Kept,
    };
    let modules = rust::compile::compile(&packages, toolchain, progress)?;
    let encode = |project: &Project, module: &[u8]| -> Result<(Vec<u8>, Shape)> {
        let component = encode::component(module, &[])?;
        let shape = project.checked(&component)?;
        Ok((component, shape))
    };
    let one = |(project, module): (&&Project, &Vec<u8>)| {
        encode(project, module).with_context(|| format!("plugin {}", project.manifest.name))
    };
    projects.iter().zip(&modules).map(one).collect()
}

/// The component of one plugin, built first when it is stale. For tests: looks once per process.
pub fn path(name: &str) -> Result<PathBuf> {
    static BUILT: OnceLock<Result<Vec<BuiltComponent>, String>> = OnceLock::new();
    #[expect(clippy::print_stderr, reason = "a test that builds for minutes should say so")]
    let say = |line: &str| eprintln!("{line}");
    let find = |built: &[BuiltComponent]| {
        built.iter().find(|component| component.name == name).map(|component| component.path.clone())
    };
    let bundled = BUILT.get_or_init(|| build(Which::Bundled, &say).map_err(|error| format!("{error:#}")));
    let bundled = bundled.as_ref().map_err(|error| anyhow!("cannot build the bundled plugins: {error}"))?;
    if let Some(path) = find(bundled) {
        return Ok(path);
    }
    let project = projects(&workspace().join("plugins"))?
        .into_iter()
        .find(|project| project.manifest.name == name)
        .with_context(|| format!("there is no plugin {name:?} below plugins/"))?;
    let built = build(Which::with(project.manifest.language), &say)?;
    find(&built).with_context(|| format!("{name} was not built"))
}

/// The folder that holds the workspace's `Cargo.toml`.
fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("tests/xtask is two folders below the workspace").to_path_buf()
}

/// Every project below `plugins`, by name.
fn projects(plugins: &Path) -> Result<Vec<Project>> {
    let mut found = Vec::new();
    collect(plugins, &mut found)?;
    found.sort_by(|a, b| a.manifest.name.cmp(&b.manifest.name));
    for pair in found.windows(2) {
        let [one, other] = pair else { continue };
        ensure!(
            one.manifest.name != other.manifest.name,
            "{} and {} have the same name",
            one.folder.display(),
            other.folder.display()
        );
    }
    Ok(found)
}

fn collect(folder: &Path, found: &mut Vec<Project>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if !path.is_dir() || name == "target" || name == "node_modules" {
            continue;
        }
        if path.join(manifest::FILE).is_file() {
            found.push(Project::open(&path)?);
        } else if path.join("Cargo.toml").is_file() {
            bail!("{} is a plugin without a {}", path.display(), manifest::FILE);
        } else {
            collect(&path, found)?;
        }
    }
    Ok(())
}

fn component_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.wasm"))
}

/// What earlier builds wrote down; nothing if it cannot be read.
fn read_stamp(folder: &Path) -> Stamp {
    let bytes = fs::read(folder.join("stamp.json")).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// The component of `project`, if the stamp says that it was built from `inputs` and the file is still the one
/// that was written.
fn up_to_date(folder: &Path, stamp: &Stamp, project: &Project, inputs: &str) -> Option<BuiltComponent> {
    let name = &project.manifest.name;
    let stamped = stamp.components.get(name).filter(|stamped| stamped.inputs == inputs)?;
    let path = component_file(folder, name);
    let bytes = fs::read(&path).ok()?;
    (sha256(&bytes) == stamped.digest).then(|| BuiltComponent {
        name: name.clone(),
        language: project.manifest.language,
        path,
        size: bytes.len() as u64,
        digest: stamped.digest.clone(),
        imports: stamped.imports.clone(),
        exports: stamped.exports.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_plugins_are_found() {
        let found = projects(&workspace().join("plugins")).unwrap();
        for bundled in ["audit-log", "auto-register", "cert-acl", "scram"] {
            assert!(found.iter().any(|project| project.manifest.name == bundled), "{bundled}");
        }
    }

    #[test]
    fn a_plugin_without_a_manifest_and_two_of_one_name_are_refused() {
        let plugins = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let file = plugins.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        let manifest = "[plugin]\nname = \"one\"\nlanguage = \"c\"\nhooks = [\"auditor\"]\n";
        write("a/plugin.toml", manifest);
        write("deeper/b/plugin.toml", &manifest.replace("one", "two"));
        write("target/c/plugin.toml", "not looked at");
        let names = |found: Vec<Project>| -> Vec<String> {
            found.into_iter().map(|project| project.manifest.name).collect()
        };
        assert_eq!(names(projects(plugins.path()).unwrap()), ["one", "two"]);
        write("deeper/b/plugin.toml", manifest);
        assert!(projects(plugins.path()).unwrap_err().to_string().contains("the same name"));
        write("deeper/b/plugin.toml", &manifest.replace("one", "two"));
        write("c/Cargo.toml", "");
        assert!(projects(plugins.path()).unwrap_err().to_string().contains("without a plugin.toml"));
    }

    #[test]
    fn only_the_languages_that_are_asked_for_are_built() {
        let of = |which: Which| Language::ALL.into_iter().filter(|language| which.has(*language)).count();
        assert_eq!([of(Which::Bundled), of(Which::Fast), of(Which::All)], [1, 2, 5]);
        for language in Language::ALL {
            assert!(Which::with(language).has(language));
        }
        assert_eq!(Which::with(Language::C), Which::Fast);
    }

    #[test]
    fn a_damaged_or_foreign_component_is_stale() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = b"component";
        fs::write(component_file(folder.path(), "p"), bytes).unwrap();
        let stamped = StampedComponent {
            inputs: "inputs".into(),
            tools: "some".into(),
            digest: sha256(bytes),
            imports: vec!["log".into()],
            exports: vec!["lifecycle".into()],
        };
        let stamp = Stamp { components: [("p".to_owned(), stamped)].into() };
        fs::write(folder.path().join("stamp.json"), serde_json::to_vec(&stamp).unwrap()).unwrap();

        let project = |name: &str| {
            let text = format!("[plugin]\nname = \"{name}\"\nlanguage = \"rust\"\nhooks = [\"auditor\"]\n");
            let manifest = manifest::Manifest::parse(&text).unwrap();
            Project { folder: folder.path().to_owned(), manifest }
        };
        let now = |name: &str, inputs: &str| {
            up_to_date(folder.path(), &read_stamp(folder.path()), &project(name), inputs)
        };
        assert_eq!(now("p", "inputs").unwrap().size, 9);
        assert!(now("p", "other inputs").is_none());
        assert!(now("q", "inputs").is_none());
        fs::write(component_file(folder.path(), "p"), b"damaged").unwrap();
        assert!(now("p", "inputs").is_none());
        fs::write(folder.path().join("stamp.json"), "{}").unwrap();
        assert!(now("p", "inputs").is_none());
    }
}
