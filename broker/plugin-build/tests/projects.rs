//! What `mqgate plugin new` writes builds, imports no more than its manifest says, and passes its own tests: in every
//! language, far from this repository. Rust and C belong to the fast tier; the tools of the others are large.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mqgate_plugin_build::manifest::{Hook, Language};
use mqgate_plugin_build::progress::Progress;
use mqgate_plugin_build::project::{Built, Project};
use mqgate_plugin_build::rust;
use mqgate_plugin_build::rust::toolchain;
use mqgate_plugin_build::template::{self, Wanted};

struct New {
    _folder: tempfile::TempDir,
    project: PathBuf,
}

/// A project with all hooks.
fn new(language: Language) -> New {
    with(language, &Hook::ALL)
}

fn with(language: Language, hooks: &[Hook]) -> New {
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().join("my-gate");
    let hooks = hooks.iter().copied().collect();
    template::write(&Wanted { name: "my-gate".into(), language, hooks }, &project).unwrap();
    New { _folder: folder, project }
}

fn build(new: &New) -> Result<Built, String> {
    let progress = Progress::new(&|_| ());
    Project::open(&new.project).unwrap().build(&progress).map_err(|error| format!("{error:#}"))
}

fn passes_its_own_tests(new: &New) -> Result<String, String> {
    let progress = Progress::new(&|_| ());
    let ran = Project::open(&new.project).unwrap().test(&progress);
    ran.map(|runner| runner.unwrap_or("nothing").to_owned()).map_err(|error| format!("{error:#}"))
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
    assert_eq!(passes_its_own_tests(&new).as_deref(), Ok("test/*.c"));

    let source = new.project.join("src/plugin.c");
    let right = fs::read_to_string(&source).unwrap();
    fs::write(&source, right.replace("static names_t blocked;", "static names_t blocked")).unwrap();
    let error = build(&new).unwrap_err();
    assert!(error.contains("plugin.c:") && error.contains("expected ';'"), "{error}");
    assert_eq!(fs::metadata(&built.path).unwrap().len(), built.size, "the component before is gone");
}

/// A hook's code stands on its own: nothing of it is left out where the others are not.
#[test]
fn each_hook_alone_builds_in_c_and_passes_its_own_tests() {
    for hook in Hook::ALL.into_iter().filter(|hook| *hook != Hook::Health) {
        let new = with(Language::C, &[hook]);
        build(&new).unwrap_or_else(|error| panic!("{hook}: {error}"));
        assert_eq!(passes_its_own_tests(&new).as_deref(), Ok("test/*.c"), "{hook}");
    }
}

#[test]
fn a_slip_in_c_fails_its_own_tests() {
    let new = new(Language::C);
    let source = new.project.join("src/plugin.c");
    let right = fs::read_to_string(&source).unwrap();
    assert_eq!(passes_its_own_tests(&new).as_deref(), Ok("test/*.c"));
    for (one, other, test) in [
        ("return differs == 0;", "return true;", "a_device_proves_itself_by_its_pin"),
        ("/${device-id}/#", "/#", "a_device_has_its_own_topics"),
        (" would be refused", "", "settings_that_refuse_who_must_pass_fail_the_self_test"),
        (
            "mqgate_copy(name)),\n        .on_conflict",
            "mqgate_text(\"x\")),\n        .on_conflict",
            "a_device_is_registered",
        ),
    ] {
        assert!(right.contains(one), "{one}");
        fs::write(&source, right.replace(one, other)).unwrap();
        let error = passes_its_own_tests(&new).unwrap_err();
        assert!(error.contains(&format!("FAILED  {test}")) && error.contains("1 failed"), "{error}");
    }
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

/// Those in Rust are tests of their workspace.
fn tests_of_cert_core_pass(folder: &str, runner: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let project = Project::open(&root.join("plugins/cert-core").join(folder)).unwrap();
    let ran = project.test(&Progress::new(&|_| ()));
    assert_eq!(ran.map_err(|error| format!("{error:#}")), Ok(Some(runner)), "{folder}");
}

#[test]
fn the_tests_of_cert_core_in_c_pass() {
    tests_of_cert_core_pass("c", "test/*.c");
}

#[test]
#[ignore = "fetches componentize-py and Go from PyPI"]
fn the_tests_of_cert_core_in_other_languages_pass() {
    tests_of_cert_core_pass("javascript", "node --test");
    tests_of_cert_core_pass("python", "python3 -m unittest");
    tests_of_cert_core_pass("go", "go test");
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
    assert_eq!(passes_its_own_tests(&new).as_deref(), Ok("node --test"));
}

/// Its bytes are others each time, so nobody compares them.
#[test]
#[ignore = "fetches StarlingMonkey from npm"]
fn a_new_project_in_javascript_builds_around_the_other_engine() {
    let new = new(Language::JavaScript);
    let manifest = new.project.join("plugin.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    let text =
        text.replace("language = \"javascript\"", "language = \"javascript\"\nengine = \"starlingmonkey\"");
    fs::write(&manifest, &text).unwrap();
    let built = build(&new).unwrap();
    imports_only_the_log(&built);
    let types = fs::read_to_string(new.project.join("target/plugin/plugin.d.ts")).unwrap();
    assert!(types.contains("bigint"), "{types}");
}

#[test]
#[ignore = "fetches componentize-py from PyPI"]
fn a_new_project_in_python_builds_and_passes_its_own_tests() {
    let new = new(Language::Python);
    imports_only_the_log(&build(&new).unwrap());
    assert_eq!(passes_its_own_tests(&new).as_deref(), Ok("python3 -m unittest"));
}

#[test]
#[ignore = "fetches Go from PyPI"]
fn a_new_project_in_go_builds_and_passes_its_own_tests() {
    let new = new(Language::Go);
    imports_only_the_log(&build(&new).unwrap());
    assert_eq!(passes_its_own_tests(&new).as_deref(), Ok("go test"));
}

/// In the languages whose compilers say what is missing. The others find it out when they run.
#[test]
#[ignore = "fetches Go from PyPI"]
fn each_hook_alone_builds_in_go() {
    for hook in Hook::ALL.into_iter().filter(|hook| *hook != Hook::Health) {
        let new = with(Language::Go, &[hook, Hook::Health]);
        build(&new).unwrap_or_else(|error| panic!("{hook}: {error}"));
        assert_eq!(passes_its_own_tests(&new).as_deref(), Ok("go test"), "{hook}");
    }
}
