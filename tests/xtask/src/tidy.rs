//! What no compiler checks: which crate may use which, how long a file may grow, what may not be left lying
//! about. Every finding names file, line and remedy.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::process::{cargo, output, say, step};

/// Our crates and which of ours each may use. ARCHITECTURE.md shows the same table.
const LAYERS: &[(&str, &[&str])] = &[
    ("mqgate-codec", &[]),
    ("mqgate-identity", &[]),
    ("mqgate-protocol", &["mqgate-codec", "mqgate-identity"]),
    ("mqgate-plugin-host", &["mqgate-codec", "mqgate-identity"]),
    ("mqgate-plugin-build", &[]),
    ("mqgate-storage", &["mqgate-protocol", "mqgate-identity"]),
    ("mqgate-audit", &["mqgate-identity"]),
    ("mqgate-server", &["mqgate-audit", "mqgate-protocol", "mqgate-codec", "mqgate-identity"]),
    ("mqgate-client", &["mqgate-codec"]),
    (
        "mqgate",
        &[
            "mqgate-audit",
            "mqgate-codec",
            "mqgate-identity",
            "mqgate-protocol",
            "mqgate-plugin-build",
            "mqgate-plugin-host",
            "mqgate-storage",
            "mqgate-server",
            "mqgate-client",
        ],
    ),
    ("mqgate-e2e", &["mqgate-codec", "mqgate-client", "xtask"]),
    ("mqgate-fuzz", &["mqgate-codec", "mqgate-identity", "mqgate-protocol", "mqgate-server"]),
    ("mqgate-sim", &["mqgate-codec", "mqgate-identity", "mqgate-protocol", "mqgate-server"]),
    ("xtask", &["mqgate-plugin-build"]),
];

/// Dependencies that only the named crates may have.
const FENCED: &[(&str, &[&str])] = &[
    ("wasmtime", &["mqgate-plugin-host"]),
    ("fjall", &["mqgate-storage"]),
    ("aws-lc-rs", &["mqgate-audit", "mqgate-plugin-host"]),
    ("rustls", &["mqgate-server", "mqgate-client", "mqgate-plugin-host", "mqgate-e2e"]),
    ("tokio-rustls", &["mqgate-server", "mqgate-client", "mqgate-plugin-host", "mqgate-e2e"]),
    ("clap", &["mqgate", "xtask"]),
    ("anyhow", &["mqgate", "mqgate-plugin-build", "xtask", "mqgate-e2e"]),
];

/// Crates without I/O, clock, lock or randomness.
const PURE: &[&str] = &["mqgate-codec", "mqgate-identity", "mqgate-protocol"];
const IMPURE_NAMES: &[&str] =
    &["tokio::", "std::net::Tcp", "SystemTime", "Instant::now", "Mutex", "RwLock", "getrandom", "std::fs"];

/// Lines of a source file before its tests; past this it has become two subjects.
const LONGEST_FILE: usize = 650;

pub fn run() -> anyhow::Result<()> {
    step("tidy");
    let mut findings = Vec::new();
    layering(&mut findings)?;
    findings.extend(crate::spec::findings()?);
    findings.extend(crate::planted::stale()?);
    findings.extend(crate::wit::findings(&crate::root())?);
    for path in tracked_files()? {
        if let Ok(text) = fs::read_to_string(crate::root().join(&path)) {
            check_text(&path, &text, &mut findings);
        }
    }
    if findings.is_empty() {
        say("tidy");
        return Ok(());
    }
    for finding in &findings {
        say(finding);
    }
    bail!("{} findings", findings.len());
}

fn layering(findings: &mut Vec<String>) -> anyhow::Result<()> {
    let text = output(cargo().args(["metadata", "--locked", "--format-version=1", "--no-deps"]))
        .context("`cargo metadata --locked` failed; is Cargo.lock up to date?")?;
    let metadata: Value = serde_json::from_str(&text)?;
    let layers: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(allowed) = layers.get(name) else {
            findings.push(format!("{name}: a crate that tidy's table does not know; add it to LAYERS"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or_default();
            let for_tests = dependency["kind"].as_str() == Some("dev");
            if layers.contains_key(used) && !allowed.contains(&used) && !for_tests {
                findings.push(format!(
                    "{name}: may not use {used} (ARCHITECTURE.md, \"Which crate may use which\")"
                ));
            }
            if let Some((_, owners)) = FENCED.iter().find(|(fenced, _)| *fenced == used)
                && !owners.contains(&name)
                && !for_tests
            {
                findings.push(format!("{name}: may not use {used}; only {} may", owners.join(", ")));
            }
        }
    }
    Ok(())
}

pub fn tracked_files() -> anyhow::Result<Vec<String>> {
    let mut git = std::process::Command::new("git");
    git.current_dir(crate::root()).args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let text = output(&mut git).context("`git ls-files` failed; tidy looks at what git tracks")?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn check_text(path: &str, text: &str, findings: &mut Vec<String>) {
    if path.ends_with("Cargo.lock") || path == "tests/xtask/src/tidy.rs" {
        return;
    }
    if path.ends_with("rust-toolchain.toml") || path.ends_with("rust-toolchain") {
        findings.push(format!("{path}: makes rustup download a toolchain; the version stands in Cargo.toml"));
    }
    let places = places_of_this_machine();
    for (number, line) in text.lines().enumerate() {
        let at = format!("{path}:{}", number + 1);
        for marker in ["TODO", "FIXME", "XXX:", "todo!(", "unimplemented!(", "dbg!("] {
            if line.contains(marker) {
                findings.push(format!("{at}: {marker} is left; finish it or leave it out and say so"));
            }
        }
        for place in &places {
            if line.contains(place) {
                findings.push(format!("{at}: a path of one machine ({place})"));
            }
        }
        if line.ends_with([' ', '\t']) && !path.ends_with(".md") && !path.ends_with(".snap") {
            findings.push(format!("{at}: white space at the end of the line"));
        }
    }
    if path.ends_with(".rs") {
        check_source(path, text, findings);
    }
    if path.ends_with(".md") {
        check_links(path, text, findings);
        check_tests(path, text, findings);
    }
}

/// The checkout's folder and the home folder: a path that leaked into a file begins with one of them.
fn places_of_this_machine() -> Vec<String> {
    let home = std::env::var("HOME").unwrap_or_default();
    let folder = crate::root().display().to_string();
    // A home of `/` says nothing.
    [home, folder].into_iter().filter(|place| place.len() > 2).map(|place| place + "/").collect()
}

fn check_source(path: &str, text: &str, findings: &mut Vec<String>) {
    // The tests of a module, in a file of their own, are described by the module.
    if !text.starts_with("//!") && !text.starts_with("#!") && !path.ends_with("/tests.rs") {
        findings.push(format!("{path}:1: begins without `//!` that says what the file owns"));
    }
    let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let lines = code.lines().count();
    if lines > LONGEST_FILE {
        findings.push(format!(
            "{path}: {lines} lines before its tests (limit {LONGEST_FILE}): two subjects; part them"
        ));
    }
    let pure = PURE.iter().any(|name| path.starts_with(&format!("broker/{}/src", &name["mqgate-".len()..])));
    if pure && !path.contains("test") {
        for (number, line) in code.lines().enumerate() {
            let code_part = line.split("//").next().unwrap_or_default();
            for name in IMPURE_NAMES.iter().filter(|name| code_part.contains(**name)) {
                findings.push(format!(
                    "{path}:{}: {name} in a crate without I/O, clock, lock or randomness",
                    number + 1
                ));
            }
        }
    }
}

/// Links to files of this repository must lead somewhere.
fn check_links(path: &str, text: &str, findings: &mut Vec<String>) {
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    for (number, line) in text.lines().enumerate() {
        for piece in line.split("](").skip(1) {
            let target = piece.split([')', '#', ' ']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if !crate::root().join(folder).join(target).exists() {
                findings.push(format!("{path}:{}: a link to {target}, which is not there", number + 1));
            }
        }
    }
}

/// Tests that a document names, as `path/to/file.rs::test`, must be there.
fn check_tests(path: &str, text: &str, findings: &mut Vec<String>) {
    for (number, line) in text.lines().enumerate() {
        for named in line.split('`').skip(1).step_by(2) {
            let Some((file, test)) = named.split_once(".rs::") else { continue };
            let source = fs::read_to_string(crate::root().join(format!("{file}.rs"))).unwrap_or_default();
            // Either a function, or a line of a macro that makes one.
            let is_there = source.lines().any(|line| {
                let line = line.trim_start();
                line.strip_prefix("async ").unwrap_or(line).starts_with(&format!("fn {test}("))
                    || line.starts_with(&format!("{test}:"))
            });
            if !is_there {
                findings.push(format!("{path}:{}: there is no test {test} in {file}.rs", number + 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check_text(path, text, &mut findings);
        findings
    }

    #[test]
    fn each_kind_of_litter_is_found() {
        assert_eq!(findings("a.rs", "//! Fine.\nfn a() {}\n"), Vec::<String>::new());
        assert_eq!(findings("a.rs", "fn a() {}\n").len(), 1);
        assert_eq!(findings("a.rs", "//! x\n// FIXME later\n").len(), 1);
        let leaked = format!("path = \"{}\"\n", crate::root().join("x").display());
        assert_eq!(findings("a.toml", &leaked).len(), 1);
        assert_eq!(findings("broker/codec/src/a.rs", "//! x\nuse tokio::net;\n").len(), 1);
        assert_eq!(findings("broker/codec/src/a.rs", "//! x\n// unlike tokio::net\n").len(), 0);
        assert_eq!(findings("x.md", "[a](no/such/file.md)").len(), 1);
        assert_eq!(findings("x.md", "`tests/xtask/src/tidy.rs::each_kind_of_litter_is_found`").len(), 0);
        assert_eq!(findings("x.md", "`tests/xtask/src/tidy.rs::each_kind_of_bird`, `no.rs::x`").len(), 2);
        assert_eq!(findings("a.rs", &format!("//! x\n{}", "fn a() {}\n".repeat(LONGEST_FILE))).len(), 1);
    }
}
