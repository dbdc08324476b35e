//! What `mqgate plugin new` writes builds, imports no more than its manifest says, and passes its own tests: in every
//! language, far from this repository. Rust and C belong to the fast tier; the tools of the others are large.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mqgate_plugin_build::manifest::Language;
use mqgate_plugin_build::progress::Progress;
use mqgate_plugin_build::project::{Built, Project};
use mqgate_plugin_build::rust;
use mqgate_plugin_build::rust::toolchain;
use mqgate_plugin_build::template::{self, Wanted};

struct New {
    _folder: tempfile::TempDir,
    project: PathBuf,
}

/// A project with all hooks that the language has a template for.
fn new(language: Language) -> New {
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().join("my-gate");
    let hooks = template::hooks(language).into_iter().collect();
    template::write(&Wanted { name: "my-gate".into(), language, hooks }, &project).unwrap();
    New { _folder: folder, project }
}

fn build(new: &New) -> Result<Built, String> {
    let progress = Progress::new(&|_| ());
    Project::open(&new.project).unwrap().build(&progress).map_err(|error| format!("{error:#}"))
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{command:?}\n{}", said.join("\n"));
}

/// Nothing but the log can be called, and there is nothing of WASI.
fn imports_only_the_log(built: &Built) {
    let called = built.shape.imports.iter().filter(|name| !built.shape.types_only.contains(name));
    assert_eq!(called.collect::<Vec<_>>(), ["mqgate:plugin/log@1.0.0"]);
    assert!(!built.shape.imports.iter().any(|name| name.starts_with("wasi:")), "{built:?}");
}

#[test]
fn a_new_project_in_c_builds_and_a_mistake_is_quoted() {
    let new = new(Language::C);
    let built = build(&new).unwrap();
    imports_only_the_log(&built);
    assert_eq!(built.path, new.project.canonicalize().unwrap().join("target/my-gate.wasm"));
    assert_eq!(fs::metadata(&built.path).unwrap().len(), built.size);
    assert_eq!(build(&new).unwrap().digest, built.digest, "the same sources made other bytes");

    let source = new.project.join("src/plugin.c");
    let right = fs::read_to_string(&source).unwrap();
    fs::write(&source, right.replace("static size_t blocked_length;", "static size_t blocked_length"))
        .unwrap();
    let error = build(&new).unwrap_err();
    assert!(error.contains("plugin.c:") && error.contains("expected ';'"), "{error}");
    assert_eq!(fs::metadata(&built.path).unwrap().len(), built.size, "the component before is gone");
}

#[test]
fn what_a_project_imports_has_to_stand_in_its_manifest() {
    let new = new(Language::C);
    let manifest = new.project.join("plugin.toml");
    let asks = fs::read_to_string(&manifest).unwrap();
    // The world has no log then, and the source calls it.
    fs::write(&manifest, asks.replace("imports = [\"log\"]", "imports = []")).unwrap();
    let error = build(&new).unwrap_err();
    assert!(error.contains("mqgate_plugin_log"), "{error}");
}

/// A component's own bytes count, whatever world the tools were given: a Rust plugin brings its own bindings.
#[test]
fn a_project_in_rust_builds_and_is_held_to_its_manifest() {
    let new = new(Language::Rust);
    let progress = Progress::new(&|_| ());
    let toolchain = toolchain::find(&progress).unwrap();
    // As the bundled plugins are built: what they have in common, the standard library above all, is there already.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let target = root.join("target/plugins");
    let component = |folder: &Path| {
        let project = Project::open(folder).unwrap();
        let bytes = rust::build(folder, &toolchain, &target, root, &progress).unwrap();
        project.checked(&bytes).map(|shape| (bytes, shape)).map_err(|error| format!("{error:#}"))
    };
    let (bytes, shape) = component(&new.project).unwrap();
    assert!(bytes.len() < 200 << 10, "{} bytes", bytes.len());
    let called: Vec<_> = shape.imports.iter().filter(|name| !shape.types_only.contains(name)).collect();
    assert_eq!(called, ["mqgate:plugin/log@1.0.0"]);

    let manifest = new.project.join("plugin.toml");
    let asks = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, asks.replace("imports = [\"log\"]", "imports = [\"metrics\"]")).unwrap();
    let error = component(&new.project).unwrap_err();
    assert!(
        error.contains("imports mqgate:plugin/log@1.0.0, which its manifest does not ask for"),
        "{error}"
    );
}

#[test]
#[ignore = "compiles the SDK once more, for this machine"]
fn a_new_project_in_rust_passes_its_own_tests() {
    let new = new(Language::Rust);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rust-project-native");
    succeeds(
        Command::new(env!("CARGO")).arg("test").current_dir(&new.project).env("CARGO_TARGET_DIR", target),
    );
}

#[test]
#[ignore = "fetches QuickJS from npm"]
fn a_new_project_in_javascript_builds_and_passes_its_own_tests() {
    let new = new(Language::JavaScript);
    imports_only_the_log(&build(&new).unwrap());
    succeeds(Command::new("node").arg("--test").current_dir(&new.project));
}

#[test]
#[ignore = "fetches componentize-py from PyPI"]
fn a_new_project_in_python_builds_and_passes_its_own_tests() {
    let new = new(Language::Python);
    imports_only_the_log(&build(&new).unwrap());
    let mut python = Command::new("python3");
    succeeds(python.args(["-m", "unittest", "discover", "tests"]).current_dir(&new.project));
}

#[test]
#[ignore = "fetches Go from PyPI"]
fn a_new_project_in_go_builds() {
    imports_only_the_log(&build(&new(Language::Go)).unwrap());
}
