//! Runs cargo on the plugins' own workspace. The result is one core module per plugin; the bytes depend on
//! the sources and the toolchain, not on the folder.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::progress::Progress;
use super::toolchain::{Std, TARGET, Toolchain, tool};

/// Same for every plugin, or the standard library would be built once for each. 64 KiB of stack instead of
/// 1 MiB halve the cost of a fresh instance.
pub const LINK_FLAGS: [&str; 2] = ["-C", "link-arg=-zstack-size=65536"];

/// Compiles `names` and returns their core modules, in order.
pub fn compile(
    workspace: &Path,
    toolchain: &Toolchain,
    names: &[String],
    progress: &Progress<'_>,
) -> Result<Vec<Vec<u8>>> {
    let plugins = workspace.join("plugins");
    // Apart from the host's folder, so that the two builds never wait for each other's lock.
    let target = workspace.join("target/plugins");
    let mut cargo = tool(&toolchain.cargo);
    cargo.args(["build", "--locked", "--release", "--target", TARGET]);
    for name in names {
        cargo.args(["--package", name]);
    }
    cargo.current_dir(&plugins).env("CARGO_TARGET_DIR", &target).env("RUSTC", &toolchain.rustc);
    if let Std::FromSource { linker, .. } = &toolchain.std {
        cargo.arg("-Zbuild-std=std,panic_abort").env("RUSTC_BOOTSTRAP", "1");
        cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
    }
    // Unlike RUSTFLAGS this form survives blanks in paths, and it overrides every configuration file.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags(workspace, toolchain).join("\u{1f}"));
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
        bail!("cargo could not build the plugins with {}:\n{}", toolchain.describe(), said.trim_end());
    }
    let folder = target.join(TARGET).join("release");
    names
        .iter()
        .map(|name| {
            let file = folder.join(format!("{}.wasm", name.replace('-', "_")));
            fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
        })
        .collect()
}

/// Paths are replaced by fixed names: they would otherwise end up in panic messages.
fn flags(workspace: &Path, toolchain: &Toolchain) -> Vec<String> {
    let mut flags: Vec<String> = LINK_FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
    let mut remap =
        |from: &Path, to: &str| flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    if let Some(home) = cargo_home() {
        remap(&home, "/cargo");
    }
    remap(workspace, "/mqgate");
    if let Std::FromSource { root, .. } = &toolchain.std {
        remap(&root.join("usr"), "/toolchain");
    }
    flags
}

fn cargo_home() -> Option<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home)
}
