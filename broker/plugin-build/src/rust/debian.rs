//! Debian's Rust compiler for WebAssembly, unpacked into a cache folder; nothing is installed.
//!
//! `apt-get download` needs no root and checks the archive's signatures; `dpkg-deb -x` only unpacks. A folder
//! appears under its final name once it is complete, so an interrupted download is never taken for a compiler.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::files::{Partial, cache, lock};
use crate::progress::Progress;

const COMPILER: &str = "rustc-web";
const SOURCE: &str = "rust-web-src";
/// Within the cache: one folder per version.
const FOLDER: &str = "wasm-toolchain";

/// What the plugins are written for. A package index that was made before the archive's updates has an older compiler.
const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");

/// A compiler that is there, complete.
#[derive(Debug, Clone)]
pub struct Fetched {
    pub version: String,
    pub root: PathBuf,
}

impl Fetched {
    /// A script, because the compiler must find its own libraries.
    pub fn rustc(&self) -> PathBuf {
        self.root.join("rustc")
    }
}

/// A package as apt offers it.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    name: String,
    version: String,
    size: u64,
}

/// The newest compiler an earlier build fetched.
pub fn fetched() -> Option<Fetched> {
    let mut found: Vec<Fetched> = cache(FOLDER)
        .ok()?
        .read_dir()
        .ok()?
        .flatten()
        .filter_map(|entry| {
            Some(Fetched { version: entry.file_name().into_string().ok()?, root: entry.path() })
        })
        .filter(|fetched| {
            !fetched.version.starts_with('.') && is_new_enough(&fetched.version) && fetched.rustc().is_file()
        })
        .collect();
    found.sort_by_key(|fetched| numbers(&fetched.version));
    found.pop()
}

/// Downloads and unpacks the compiler that apt offers. A new machine's package index is absent or names
/// packages that the archive has replaced; root can mend that.
pub fn fetch(progress: &Progress<'_>) -> Result<Fetched> {
    match fetch_once(progress) {
        Ok(fetched) => Ok(fetched),
        Err(error) if nix::unistd::Uid::effective().is_root() => {
            progress.step(&format!("{error:#}; the package index may be old: apt-get update"));
            run(apt_get().arg("update"), "apt-get update")?;
            fetch_once(progress)
        }
        Err(error) => Err(error.context("if the package index is old, `sudo apt-get update` mends it")),
    }
}

fn fetch_once(progress: &Progress<'_>) -> Result<Fetched> {
    for tool in ["apt-get", "apt-cache", "dpkg-deb"] {
        ensure!(runs(tool), "{tool} is not there (this is not Debian or one of its descendants)");
    }
    ensure!(!offers(&[COMPILER.into()])?.is_empty(), "{COMPILER} is not offered");
    let mut names = vec![COMPILER.to_owned(), SOURCE.to_owned()];
    names.extend(libraries(&dependencies(COMPILER)?));
    let packages = offers(&names)?;
    for name in &names {
        ensure!(packages.iter().any(|package| package.name == *name), "{name} is not offered");
    }
    let version = packages
        .iter()
        .find(|package| package.name == COMPILER)
        .map(|package| folder_name(&package.version))
        .context("rustc-web is not offered")?;
    ensure!(is_new_enough(&version), "{COMPILER} {version} is offered, and the plugins need {OLDEST}");

    let cache = cache(FOLDER)?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let _lock = lock(&cache.join(".lock"), progress)?;
    let root = cache.join(&version);
    let fetched = Fetched { version, root };
    if fetched.rustc().is_file() {
        return Ok(fetched);
    }
    let total = packages.iter().map(|package| package.size).sum::<u64>();
    progress.step(&format!(
        "fetching Debian's WebAssembly compiler and standard library source ({} MB, once)",
        total / 1_000_000
    ));
    let started = Instant::now();
    let partial = Partial::create(&cache)?;
    unpack(&packages, &partial.0, progress)?;
    script(&partial.0.join("rustc"), "bin/rustc")?;
    // The documentation is a third of the files and of no use here.
    let _ = fs::remove_dir_all(partial.0.join("usr/share/doc"));
    check(&partial.0)?;
    if fetched.root.exists() {
        fs::remove_dir_all(&fetched.root)?;
    }
    fs::rename(&partial.0, &fetched.root).context("cannot move the compiler into the cache")?;
    progress.step(&format!("fetched and unpacked in {} s", started.elapsed().as_secs()));
    Ok(fetched)
}

/// Debian's WebAssembly linker, for a Rust that ships none (that of a distribution).
pub fn linker(fetched: &Fetched, progress: &Progress<'_>) -> Result<PathBuf> {
    let script_file = fetched.root.join("wasm-ld");
    if script_file.is_file() {
        return Ok(script_file);
    }
    // The linker that matches the compiler's own LLVM.
    let major = libraries(&dependencies(COMPILER)?)
        .iter()
        .find_map(|name| name.strip_prefix("libllvm").and_then(|major| major.parse::<u32>().ok()))
        .context("rustc-web names no LLVM library")?;
    let package = format!("lld-{major}");
    let packages = offers(std::slice::from_ref(&package))?;
    ensure!(
        !packages.is_empty(),
        "there is no WebAssembly linker; install {package}, or Rust from https://rustup.rs"
    );
    progress.step(&format!("fetching Debian's WebAssembly linker ({package})"));
    unpack(&packages, &fetched.root, progress)?;
    script(&script_file, &format!("lib/llvm-{major}/bin/wasm-ld"))?;
    Ok(script_file)
}

/// Downloads `packages` and unpacks them into `root`.
fn unpack(packages: &[Offer], root: &Path, progress: &Progress<'_>) -> Result<()> {
    let debs = Partial::create(root)?;
    let total = packages.iter().map(|package| package.size).sum();
    let mut download = apt_get();
    download.arg("download").current_dir(&debs.0).stdin(Stdio::null()).stdout(Stdio::null());
    // The exact version: what was measured and named is what is fetched.
    download.args(packages.iter().map(|package| format!("{}={}", package.name, package.version)));
    let errors = debs.0.join(".errors");
    download.stderr(fs::File::create(&errors)?);
    let mut child = download.spawn().context("apt-get does not run")?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        progress.bytes(size_of_files(&debs.0), total);
        thread::sleep(Duration::from_millis(100));
    };
    ensure!(status.success(), "apt-get download: {}", fs::read_to_string(&errors).unwrap_or_default().trim());

    for entry in debs.0.read_dir()?.flatten() {
        let file = entry.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            progress.detail(&format!("unpacking {}", entry.file_name().display()));
            run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(root), "dpkg-deb")?;
            fs::remove_file(&file)?;
        }
    }
    Ok(())
}

/// Writes an executable that runs `program` of the unpacked tree with the tree's libraries.
fn script(file: &Path, program: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let text = format!(
        "#!/bin/sh\n\
         tree=$(dirname \"$0\")/usr\n\
         libraries=$(echo \"$tree\"/lib/*-linux-gnu*)\n\
         LD_LIBRARY_PATH=\"$libraries${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\" exec \"$tree/{program}\" \"$@\"\n"
    );
    fs::write(file, text)?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The compiler must run before it is trusted with its final name.
fn check(root: &Path) -> Result<()> {
    run(Command::new(root.join("rustc")).arg("--version"), "the unpacked rustc").context(
        "install what it misses (on a minimal system: apt-get install libxml2 libz3-4), or Rust from https://rustup.rs",
    )
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    // Where we are root, apt would drop to a user who cannot write into our folder.
    command.env("LC_ALL", "C").args(["-qq", "-o", "APT::Sandbox::User=root"]);
    command
}

/// What apt would install for each name; a name it does not know is left out.
fn offers(names: &[String]) -> Result<Vec<Offer>> {
    let mut command = Command::new("apt-cache");
    command.env("LC_ALL", "C").args(["show", "--no-all-versions"]).args(names);
    let output = command.output().context("apt-cache does not run")?;
    Ok(parse_offers(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_offers(text: &str) -> Vec<Offer> {
    text.split("\n\n")
        .filter_map(|paragraph| {
            let field = |name: &str| {
                paragraph
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
            };
            Some(Offer {
                name: field("Package")?,
                version: field("Version")?,
                size: field("Size").and_then(|size| size.parse().ok()).unwrap_or(0),
            })
        })
        .collect()
}

fn dependencies(package: &str) -> Result<String> {
    let mut command = Command::new("apt-cache");
    command.env("LC_ALL", "C").args(["depends", "--recurse", "--no-recommends", "--no-suggests"]);
    command.args(["--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances", package]);
    let output = command.output().context("apt-cache does not run")?;
    ensure!(output.status.success(), "apt-cache depends: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The compiler's own libraries among its dependencies; their names hold version numbers that move.
fn libraries(dependencies: &str) -> Vec<String> {
    let mut names: Vec<String> = dependencies
        .lines()
        .filter(|line| line.starts_with("libstd-rust-web") || line.starts_with("libllvm"))
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    names
}

/// A version as the name of a folder. Its text is not trusted to be one.
fn folder_name(version: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || ".-+~".contains(c) { c } else { '_' };
    version.trim_start_matches('.').chars().map(safe).collect()
}

fn is_new_enough(version: &str) -> bool {
    // An epoch says nothing of the compiler.
    let upstream = version.split_once([':', '_']).map_or(version, |(_, upstream)| upstream);
    numbers(upstream) >= numbers(OLDEST)
}

/// The numbers of a version, for ordering folders.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

fn runs(tool: &str) -> bool {
    Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn run(command: &mut Command, name: &str) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{name} does not run"))?;
    if !output.status.success() {
        bail!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn size_of_files(folder: &Path) -> u64 {
    let Ok(entries) = folder.read_dir() else { return 0 };
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_is_read_as_it_writes() {
        let text = "Package: rustc-web\nVersion: 1.96.0+dfsg1-1\nDepends: gcc\nSize: 42\n\nPackage: x\nVersion: 1:2\n";
        let offer =
            |name: &str, version: &str, size| Offer { name: name.into(), version: version.into(), size };
        assert_eq!(parse_offers(text), [offer("rustc-web", "1.96.0+dfsg1-1", 42), offer("x", "1:2", 0)]);

        let depends = "rustc-web\n  Depends: libc6\nlibstd-rust-web-dev\n  Depends: libstd-rust-web-1.96\n\
                       libstd-rust-web-1.96\nlibllvm22\nlibllvm22\nlibc6\n";
        assert_eq!(libraries(depends), ["libllvm22", "libstd-rust-web-1.96", "libstd-rust-web-dev"]);
    }

    #[test]
    fn a_version_is_a_safe_and_ordered_folder_name() {
        assert_eq!(folder_name("1:1.96.0+dfsg1-1~deb12u2"), "1_1.96.0+dfsg1-1~deb12u2");
        assert_eq!(folder_name("../../etc"), "_.._etc");
        assert!(numbers("1.100.0-1") > numbers("1.96.0-1"));
    }

    #[test]
    fn an_old_compiler_is_none() {
        for (version, expected) in [
            ("1.85.0+dfsg3-1~deb12u3", false),
            (&format!("{OLDEST}.0+dfsg1-1"), true),
            ("1.196.0+dfsg1-1", true),
            ("2.0.0", true),
            ("1:1.85.0-1", false),
            ("1_1.96.0-1", true),
        ] {
            assert_eq!(is_new_enough(version), expected, "{version}");
        }
    }
}
