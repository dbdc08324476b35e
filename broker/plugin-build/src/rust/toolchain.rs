//! Finds a compiler with a standard library for `wasm32-unknown-unknown`.
//!
//! In this order: an installed target; Debian's compiler if an earlier build fetched it; `rustup target add`;
//! Debian's `rustc-web` through apt ([`super::debian`]); otherwise an error that says what to install.
//! `MQGATE_FORCE_DEBIAN_TOOLCHAIN=1` takes Debian's at once, which keeps that path tested.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::debian;
use crate::progress::Progress;
use crate::run::on_path;

pub const TARGET: &str = "wasm32-unknown-unknown";
const FORCE_DEBIAN: &str = "MQGATE_FORCE_DEBIAN_TOOLCHAIN";

/// A compiler for the components.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// Names the compiler, its standard library and its cargo: the same id makes the same bytes.
    pub id: String,
    pub cargo: PathBuf,
    pub rustc: PathBuf,
    pub std: Std,
}

/// Where the standard library comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Std {
    /// The compiler has it.
    Installed,
    /// Built from the source in `root`, linked by `linker`.
    FromSource { root: PathBuf, linker: PathBuf },
}

impl Toolchain {
    pub fn describe(&self) -> String {
        match &self.std {
            Std::Installed => format!("{} and its {TARGET} library", self.id),
            Std::FromSource { .. } => format!("{} and its own build of the standard library", self.id),
        }
    }

    /// One that compiles nothing.
    #[doc(hidden)]
    pub fn for_tests() -> Self {
        Self { id: "tests".into(), cargo: "cargo".into(), rustc: "rustc".into(), std: Std::Installed }
    }
}

/// The cargo and rustc this process was started by, or those of the path.
#[derive(Debug, Clone)]
struct HostRust {
    cargo: PathBuf,
    rustc: PathBuf,
}

/// Finds a toolchain; fetches one when there is none.
pub fn find(progress: &Progress<'_>) -> Result<Toolchain> {
    let host = HostRust::find();
    let forced = env::var_os(FORCE_DEBIAN).is_some_and(|value| !value.is_empty() && value != "0");
    let mut tried = Vec::new();
    if !forced {
        if host.has_target() {
            return installed(&host);
        }
        if let Some(fetched) = debian::fetched() {
            return from_source(&host, &fetched, progress);
        }
        match host.add_target(progress) {
            Ok(()) => return installed(&host),
            Err(error) => tried.push(format!("rustup: {error:#}")),
        }
    }
    match debian::fetched().map_or_else(|| debian::fetch(progress), Ok) {
        Ok(fetched) => from_source(&host, &fetched, progress),
        Err(error) => {
            tried.push(format!("apt: {error:#}"));
            bail!(
                "building the plugins needs Rust's standard library for {TARGET}, and it is not there.\n\
                 Get it with one of\n\
                 \x20 rustup target add {TARGET}            (Rust from https://rustup.rs)\n\
                 \x20 apt-get update                                      (Debian 12 or later: mqgate then unpacks rustc-web itself)\n\
                 \x20 dnf install rust-std-static-{TARGET}  (Fedora)\n\
                 and run the same command again.\n\
                 Tried: {}",
                tried.join("; "),
            )
        }
    }
}

fn installed(host: &HostRust) -> Result<Toolchain> {
    let id = format!("{}, {}", version(&host.rustc)?, version(&host.cargo)?);
    Ok(Toolchain { id, cargo: host.cargo.clone(), rustc: host.rustc.clone(), std: Std::Installed })
}

fn from_source(host: &HostRust, fetched: &debian::Fetched, progress: &Progress<'_>) -> Result<Toolchain> {
    let linker = match host.rust_lld().or_else(|| on_path("wasm-ld")) {
        Some(linker) => linker,
        None => debian::linker(fetched, progress)?,
    };
    let id = format!("Debian's rustc-web {}, {}", fetched.version, version(&host.cargo)?);
    let std = Std::FromSource { root: fetched.root.clone(), linker };
    Ok(Toolchain { id, cargo: host.cargo.clone(), rustc: fetched.rustc(), std })
}

impl HostRust {
    /// Cargo tells the processes it starts which cargo it is; under rustup the compiler beside it is the one
    /// that goes with it, whatever the default toolchain may be.
    fn find() -> Self {
        let cargo = env::var_os("CARGO").map(PathBuf::from).filter(|cargo| cargo.is_file());
        let rustc = cargo.as_ref().map(|cargo| cargo.with_file_name("rustc")).filter(|rustc| rustc.is_file());
        Self {
            cargo: cargo.unwrap_or_else(|| "cargo".into()),
            rustc: rustc.unwrap_or_else(|| "rustc".into()),
        }
    }

    fn print(&self, what: &[&str]) -> Option<PathBuf> {
        let output = tool(&self.rustc).arg("--print").args(what).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| PathBuf::from(text.trim()))
    }

    fn has_target(&self) -> bool {
        let Some(folder) = self.print(&["target-libdir", "--target", TARGET]) else { return false };
        folder.read_dir().is_ok_and(|entries| {
            entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
        })
    }

    /// The linker rustup ships beside its libraries.
    fn rust_lld(&self) -> Option<PathBuf> {
        let lld = self.print(&["target-libdir"])?.parent()?.join("bin/rust-lld");
        lld.is_file().then_some(lld)
    }

    fn add_target(&self, progress: &Progress<'_>) -> Result<()> {
        let sysroot = self.print(&["sysroot"]).context("rustc does not run")?;
        let toolchains = sysroot.parent().filter(|folder| folder.ends_with("toolchains"));
        let (Some(_), Some(name)) = (toolchains, sysroot.file_name()) else {
            bail!("{} is not a toolchain of rustup", sysroot.display());
        };
        progress.step(&format!("rustup target add {TARGET} (20 MB)"));
        let mut rustup = tool(Path::new("rustup"));
        rustup.args(["target", "add", TARGET, "--toolchain"]).arg(name).stdin(Stdio::null());
        let output = rustup.output().context("rustup does not run")?;
        if output.status.success() && self.has_target() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message");
        progress.step(&format!("rustup cannot: {}", last.trim()));
        bail!("{}", last.trim())
    }
}

/// First line of `--version`.
fn version(program: &Path) -> Result<String> {
    let output = tool(program).arg("--version").output().with_context(|| {
        format!("{} does not run; install Rust from https://rustup.rs", program.display())
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().map(str::to_owned).with_context(|| format!("{} has no version", program.display()))
}

/// A command in which no setting of an outer cargo, of rustup or of the user's shell bends the build. Where
/// to find things (homes, registries, proxies) stays.
pub fn tool(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if bends_the_build(&name) {
            command.env_remove(name);
        }
    }
    command
}

fn bends_the_build(name: &OsString) -> bool {
    const KEPT: [&str; 7] = [
        "CARGO_HOME",
        "RUSTUP_HOME",
        "RUSTUP_DIST_SERVER",
        "RUSTUP_UPDATE_ROOT",
        "RUSTUP_USE_CURL",
        "RUSTUP_USE_RUSTLS",
        "CARGO_BUILD_JOBS",
    ];
    const KEPT_GROUPS: [&str; 5] =
        ["CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_CREDENTIAL_"];
    let Some(name) = name.to_str() else { return false };
    let ours =
        name.starts_with("CARGO") || name.starts_with("RUST") || name == "__CARGO_DEFAULT_LIB_METADATA";
    ours && !KEPT.contains(&name) && !KEPT_GROUPS.iter().any(|group| name.starts_with(group))
        || matches!(
            name,
            "MAKEFLAGS"
                | "MFLAGS"
                | "TARGET"
                | "HOST"
                | "OUT_DIR"
                | "OPT_LEVEL"
                | "PROFILE"
                | "DEBUG"
                | "NUM_JOBS"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_an_outer_build_do_not_reach_ours() {
        for name in [
            "CARGO",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_MANIFEST_DIR",
            "CARGO_PROFILE_RELEASE_LTO",
            "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS",
            "CARGO_UNSTABLE_BUILD_STD",
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "MAKEFLAGS",
        ] {
            assert!(bends_the_build(&name.into()), "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "CARGO_HOME",
            "RUSTUP_HOME",
            "CARGO_HTTP_PROXY",
            "CARGO_NET_OFFLINE",
            "https_proxy",
        ] {
            assert!(!bends_the_build(&name.into()), "{name}");
        }
    }
}
