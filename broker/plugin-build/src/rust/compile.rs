//! Runs cargo for WebAssembly. The result is one core module per package; the bytes depend on the sources and the
//! toolchain, not on the folder.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::toolchain::{Std, TARGET, Toolchain, tool};
use crate::progress::Progress;

/// Same for every plugin, or the standard library would be built once for each. 64 KiB of stack instead of
/// 1 MiB halve the cost of a fresh instance.
pub const LINK_FLAGS: [&str; 2] = ["-C", "link-arg=-zstack-size=65536"];

/// What is to be compiled, and where.
#[derive(Debug)]
pub struct Packages<'a> {
    /// The folder cargo is run in: a workspace, or a package.
    pub folder: &'a Path,
    /// Where it puts what it builds.
    pub target: &'a Path,
    /// Names of packages, and of the libraries they make.
    pub names: &'a [(String, String)],
    /// The folder whose files are named relative to it in what is built.
    pub root: &'a Path,
    pub lock: Lock,
}

/// What becomes of Cargo.lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// It is there and stays.
    Kept,
    /// Cargo may write it.
    Written,
}

/// Compiles `packages` and returns their core modules, in order.
pub fn compile(
    packages: &Packages<'_>,
    toolchain: &Toolchain,
    progress: &Progress<'_>,
) -> Result<Vec<Vec<u8>>> {
    let target = packages.target;
    let mut cargo = tool(&toolchain.cargo);
    cargo.args(["build", "--release", "--target", TARGET]);
    if packages.lock == Lock::Kept {
        cargo.arg("--locked");
    }
    for (package, _) in packages.names {
        cargo.args(["--package", package]);
    }
    cargo.current_dir(packages.folder).env("CARGO_TARGET_DIR", target).env("RUSTC", &toolchain.rustc);
    if let Std::FromSource { linker, .. } = &toolchain.std {
        cargo.arg("-Zbuild-std=std,panic_abort").env("RUSTC_BOOTSTRAP", "1");
        cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
    }
    // Unlike RUSTFLAGS this form survives blanks in paths, and it overrides every configuration file.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags(packages.root, toolchain).join("\u{1f}"));
    if cfg!(unix) {
        cargo.env("RUSTC_WORKSPACE_WRAPPER", same_names(target)?);
    }
    cargo.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());

    let mut child = cargo.spawn().with_context(|| format!("{} does not run", toolchain.cargo.display()))?;
    let mut said = String::new();
    let stderr = child.stderr.take().expect("standard error is piped above");
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        progress.detail(line.trim());
        said.push_str(&line);
        said.push('\n');
    }
    if !child.wait()?.success() {
        bail!("cargo could not build it with {}:\n{}", toolchain.describe(), said.trim_end());
    }
    let folder = target.join(TARGET).join("release");
    packages
        .names
        .iter()
        .map(|(_, library)| {
            let file = folder.join(format!("{}.wasm", library.replace('-', "_")));
            fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
        })
        .collect()
}

/// Cargo mixes the folder of a package into the names of its symbols, and the order of functions follows
/// those. This script puts the crate's name in place of what cargo mixed; it is asked for our crates only.
const SAME_NAMES: &str = r#"#!/bin/sh
for argument; do
  shift
  case $previous in --crate-name) name=$argument ;; esac
  previous=$argument
  case $argument in metadata=*) argument=metadata=$name ;; esac
  set -- "$@" "$argument"
done
exec "$@"
"#;

/// Writes the script and says where. Left alone when it is there: a new one would mean a new compiler.
fn same_names(target: &Path) -> Result<PathBuf> {
    let script = target.join("same-names");
    if fs::read(&script).is_ok_and(|text| text == SAME_NAMES.as_bytes()) {
        return Ok(script);
    }
    fs::create_dir_all(target)
        .and_then(|()| fs::write(&script, SAME_NAMES))
        .and_then(|()| make_executable(&script))
        .with_context(|| format!("cannot write {}", script.display()))?;
    Ok(script)
}

#[cfg(unix)]
fn make_executable(file: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> std::io::Result<()> {
    Ok(())
}

/// Paths are replaced by fixed names: they would otherwise end up in panic messages.
fn flags(root: &Path, toolchain: &Toolchain) -> Vec<String> {
    let mut flags: Vec<String> = LINK_FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
    let mut remap =
        |from: &Path, to: &str| flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    if let Some(home) = cargo_home() {
        remap(&home, "/cargo");
    }
    remap(root, "/mqgate");
    if let Std::FromSource { root, .. } = &toolchain.std {
        remap(&root.join("usr"), "/toolchain");
    }
    flags
}

fn cargo_home() -> Option<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home)
}
