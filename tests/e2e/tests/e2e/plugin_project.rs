//! What `mqgate plugin new` writes, with every hook, passes `mqgate plugin test`: its own tests, and its cases on the very
//! component. C belongs to the fast tier; the tools of the others are large, and Rust compiles a standard library.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mqgate_e2e::broker::mqgate;
use mqgate_e2e::tools::succeed;

const HOOKS: &str = "authenticator,enhanced-authenticator,registrar,authorizer,auditor,health";

fn plugin(arguments: &[&str], project: &Path) -> Command {
    let mut command = Command::new(mqgate());
    command.arg("plugin").args(arguments).arg(project);
    command
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

fn new(language: &str, folder: &Path) -> PathBuf {
    let project = folder.join("my-gate");
    succeed(&mut plugin(&["new", "--lang", language, "--hook", HOOKS, "my-gate", "--dir"], &project));
    succeed(&mut plugin(&["build"], &project));
    project
}

fn passes_its_tests_and_cases(language: &str) {
    let folder = tempfile::tempdir().unwrap();
    let project = new(language, folder.path());
    // An interpreter on a busy machine takes its time.
    let patient = ["test", "--limit", "cpu=20s", "--limit", "wall=20s", "--limit", "init=60s"];
    let told = said(&succeed(&mut plugin(&patient, &project)));
    assert!(told.contains("its own tests (") && told.contains("): passed"), "{told}");
    assert!(told.contains("11 cases, each on a fresh and on a reused instance: as expected"), "{told}");
}

#[test]
fn a_new_project_in_c_passes_its_tests_and_cases() {
    passes_its_tests_and_cases("c");
}

#[test]
#[ignore = "compiles a standard library"]
fn a_new_project_in_rust_passes_its_tests_and_cases() {
    passes_its_tests_and_cases("rust");
}

#[test]
#[ignore = "fetches QuickJS from npm"]
fn a_new_project_in_javascript_passes_its_tests_and_cases() {
    passes_its_tests_and_cases("javascript");
}

#[test]
#[ignore = "fetches componentize-py from PyPI"]
fn a_new_project_in_python_passes_its_tests_and_cases() {
    passes_its_tests_and_cases("python");
}

#[test]
#[ignore = "fetches Go from PyPI"]
fn a_new_project_in_go_passes_its_tests_and_cases() {
    passes_its_tests_and_cases("go");
}

/// The same slip is found by the project's own tests, and where those are left out by the cases on the component.
#[test]
fn a_slip_is_found_twice() {
    let folder = tempfile::tempdir().unwrap();
    let project = new("c", folder.path());
    let source = project.join("src/plugin.c");
    let right = fs::read_to_string(&source).unwrap();
    fs::write(&source, right.replace("!holds(&blocked, name)", "holds(&blocked, name)")).unwrap();

    let failed = plugin(&["test"], &project).output().unwrap();
    let told = said(&failed);
    assert_eq!(failed.status.code(), Some(1), "{told}");
    assert!(told.contains("FAILED  a_blocked_device_is_nobody"), "{told}");
    assert!(told.contains("test/plugin_test.c:") && told.contains("this does not hold: "), "{told}");
    assert!(told.contains("ok      a_wrong_configuration_is_refused"), "{told}");

    succeed(&mut plugin(&["build"], &project));
    let cases = project.join("cases").display().to_string();
    let failed = plugin(&["test", "--cases", &cases], &project).output().unwrap();
    let told = said(&failed);
    assert_eq!(failed.status.code(), Some(1), "{told}");
    assert!(told.contains("FAILED  a blocked device is refused (authenticator, fresh instance)"), "{told}");
    assert!(!told.contains("its own tests"), "{told}");
}

/// A crash ends one test and not the others, and what a test does not define ends it with a word.
#[test]
fn tests_in_c_do_not_take_each_other_along() {
    let folder = tempfile::tempdir().unwrap();
    let project = new("c", folder.path());
    let manifest = fs::read_to_string(project.join("plugin.toml")).unwrap();
    fs::write(
        project.join("plugin.toml"),
        manifest.replace("imports = [\"log\"]", "imports = [\"log\", \"key-value\"]"),
    )
    .unwrap();
    fs::write(
        project.join("test/more.c"),
        r#"#include <mqgate_test.h>
TEST(it_crashes) { abort(); }
TEST(it_asks_the_broker) {
  plugin_string_t key = mqgate_text("k");
  mqgate_plugin_key_value_error_t error;
  mqgate_plugin_key_value_delete(&key, &error);
}
TEST(it_is_well) { CHECK(true); }
"#,
    )
    .unwrap();
    let failed = plugin(&["test", "--native"], &project).output().unwrap();
    let told = said(&failed);
    assert!(!failed.status.success(), "{told}");
    for line in [
        "it was ended by signal 6\nFAILED  it_crashes",
        "the plugin called mqgate_plugin_key_value_delete; the test has to define it\nFAILED  it_asks_the_broker",
        "ok      it_is_well",
        "ok      a_blocked_device_is_nobody",
    ] {
        assert!(told.contains(line), "{line}\nis not in\n{told}");
    }

    fs::write(
        project.join("test/more.c"),
        r#"#include <mqgate_test.h>
static bool deleted;
bool mqgate_plugin_key_value_delete(plugin_string_t *key, mqgate_plugin_key_value_error_t *err) {
  (void)err;
  deleted = mqgate_is(*key, "k");
  return true;
}
TEST(it_asks_the_broker) {
  plugin_string_t key = mqgate_text("k");
  mqgate_plugin_key_value_error_t error;
  CHECK(mqgate_plugin_key_value_delete(&key, &error) && deleted);
}
"#,
    )
    .unwrap();
    succeed(&mut plugin(&["test", "--native"], &project));
}
