//! Programs that the tests talk through. `cargo xtask test` fetches them and tells where they are.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Mosquitto's client `program`, or nothing when this machine lacks it.
pub fn mosquitto(program: &str) -> Option<Command> {
    let mut command = find(program, "--help")?;
    with_libraries(&mut command);
    Some(command)
}

/// Mosquitto's broker.
pub fn mosquitto_broker() -> Option<Command> {
    let mut command = find("mosquitto", "-h")?;
    with_libraries(&mut command);
    Some(command)
}

/// Lets a program that uses OpenSSL offer nothing newer than TLS 1.2. (Mosquitto's `--tls-version` is a minimum.)
pub fn at_most_tls_1_2(command: &mut Command, folder: &Path) {
    const CONF: &str =
        "openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\nMaxProtocol = TLSv1.2\n";
    let file = folder.join("tls-1.2.cnf");
    std::fs::write(&file, CONF).expect("the test's folder is writable");
    command.env("OPENSSL_CONF", file);
}

pub fn promtool() -> Option<Command> {
    find("promtool", "--version")
}

pub fn openssl() -> Option<Command> {
    find("openssl", "version")
}

/// A Python, whatever it has.
pub fn python() -> Option<Command> {
    let python = the_python();
    let works = Command::new(&python).arg("--version").output();
    present("Python", works.is_ok_and(|output| output.status.success())).then(|| Command::new(python))
}

fn the_python() -> PathBuf {
    std::env::var_os("MQGATE_TEST_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from)
}

/// A Python that has paho-mqtt.
pub fn python_with_paho() -> Option<Command> {
    let python = the_python();
    let works = Command::new(&python).args(["-c", "import paho.mqtt.client"]).output();
    present("paho-mqtt", works.is_ok_and(|output| output.status.success())).then(|| Command::new(python))
}

/// The fuzzer that reads OpenAPI descriptions.
pub fn schemathesis() -> Option<Command> {
    let program = std::env::var_os("MQGATE_TEST_SCHEMATHESIS")
        .map_or_else(|| PathBuf::from("schemathesis"), PathBuf::from);
    let works = Command::new(&program).arg("--version").output();
    present("schemathesis", works.is_ok_and(|output| output.status.success())).then(|| Command::new(program))
}

/// A Node.js that has MQTT.js.
pub fn node_with_mqtt() -> Option<Command> {
    let with_modules = || {
        let mut node = Command::new("node");
        if let Some(modules) = std::env::var_os("MQGATE_TEST_NODE_MODULES") {
            node.env("NODE_PATH", modules);
        }
        node
    };
    let works = with_modules().args(["-e", "require('mqtt')"]).output();
    present("MQTT.js", works.is_ok_and(|output| output.status.success())).then(with_modules)
}

pub fn nginx() -> Option<Command> {
    find("nginx", "-v")
}

pub fn haproxy() -> Option<Command> {
    let mut command = find("haproxy", "-v")?;
    with_libraries(&mut command);
    Some(command)
}

/// Chromium without a window, and NSS's tool that says whom it trusts.
pub fn chromium_and_certutil() -> Option<(Command, Command)> {
    let mut both = (find("chromium-headless-shell", "--version")?, find("certutil", "-H")?);
    with_libraries(&mut both.0);
    with_libraries(&mut both.1);
    Some(both)
}

/// Runs `command`; panics with its output unless it succeeds.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn find(program: &str, probe: &str) -> Option<Command> {
    let mut command = Command::new(program);
    with_libraries(&mut command);
    let there =
        command.arg(probe).output().is_ok_and(|output| output.status.code().is_some_and(|code| code < 4));
    present(program, there).then(|| Command::new(program))
}

fn with_libraries(command: &mut Command) {
    if let Some(libraries) = std::env::var_os("MQGATE_TEST_LIBRARIES") {
        command.env("LD_LIBRARY_PATH", libraries);
    }
}

/// Whether a test may go on; without the tool it skips itself, except where all tools are known to be there.
fn present(what: &str, there: bool) -> bool {
    let required = std::env::var_os("MQGATE_TEST_REQUIRE_TOOLS").is_some();
    assert!(there || !required, "{what} was prepared for the tests, and does not run");
    if !there {
        skip(&format!("{what} is not on this machine; `cargo xtask test` fetches it where it can"));
    }
    there
}

/// Says what a test has measured, to whoever runs it with `--nocapture`.
pub fn note(what: &str) {
    eprintln!("{what}");
}

/// Says that the test that runs on this thread proves nothing here, and why. `cargo xtask test` counts it.
pub fn skip(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("skipped: {name}: {why}");
    if let Some(file) = std::env::var_os("MQGATE_TEST_SKIPS")
        && let Ok(mut file) = std::fs::File::options().append(true).create(true).open(file)
    {
        let _ = writeln!(file, "{name}: {why}");
    }
}
