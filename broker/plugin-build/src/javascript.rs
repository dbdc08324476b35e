//! JavaScript: an ES module and an engine as one component. The tools come from npm, with a lock file of ours: npm takes
//! exactly the files that were looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::embedded;
use crate::files::{Partial, cache, lock};
use crate::manifest::Engine;
use crate::progress::Progress;
use crate::run::{on_path, run};
use crate::{typescript, world};

/// A package of npm that puts an engine around a module.
#[derive(Debug)]
struct Package {
    /// In the registry.
    package: &'static str,
    /// Without what would make a folder of it.
    name: &'static str,
    /// As package.json has it.
    version: &'static str,
    /// What it is, for the person who waits, and its size on the disk.
    what: &'static str,
}

const QUICKJS: Package = Package {
    package: "componentize-qjs",
    name: "componentize-qjs",
    version: "0.4.5",
    what: "QuickJS as a component; 38 MB unpacked",
};

const STARLINGMONKEY: Package = Package {
    package: "@bytecodealliance/componentize-js",
    name: "componentize-js",
    version: "0.23.0",
    what: "StarlingMonkey as a component; 385 MB unpacked",
};

/// The tools of one engine, there and ready.
#[derive(Debug)]
pub struct Componentizer {
    engine: Engine,
    node: PathBuf,
    folder: PathBuf,
}

impl Package {
    fn of(engine: Engine) -> &'static Self {
        match engine {
            Engine::QuickJs => &QUICKJS,
            Engine::StarlingMonkey => &STARLINGMONKEY,
        }
    }

    /// A file that is there once it was fetched.
    fn holds(&self) -> PathBuf {
        Path::new("node_modules").join(self.package).join("package.json")
    }

    fn folder(&self, cache: &Path) -> PathBuf {
        cache.join(format!("{}-{}", self.name, self.version))
    }
}

/// One of the files that go with an engine.
fn support(engine: Engine, name: &str) -> &'static str {
    embedded::text(embedded::SUPPORT, &format!("javascript/{}/{name}", engine.name()))
}

impl Componentizer {
    pub fn find(engine: Engine, progress: &Progress<'_>) -> Result<Self> {
        let node = node()?;
        let cache = cache("tools")?;
        let package = Package::of(engine);
        let folder = package.folder(&cache);
        if !folder.join(package.holds()).is_file() {
            fetch(engine, &cache, &folder, progress)?;
        }
        // Ours, and small: written anew so that it is always the one of this mqgate.
        fs::write(folder.join("build.mjs"), support(engine, "build.mjs"))
            .context("cannot write build.mjs")?;
        Ok(Self { engine, node, folder })
    }

    /// Names what makes the bytes.
    pub fn id(&self) -> String {
        let package = Package::of(self.engine);
        format!("{} {}", package.name, package.version)
    }

    pub fn build(&self, project: &Path, wit: &Path, work: &Path, progress: &Progress<'_>) -> Result<Vec<u8>> {
        let source = project.join("src/plugin.js");
        ensure!(source.is_file(), "{} is not there", source.display());
        // For editors, and for `tsc`; jsconfig.json of the project names it.
        let (resolve, world) = world::read(wit)?;
        fs::write(work.join("plugin.d.ts"), typescript::declarations(&resolve, world, self.engine))
            .with_context(|| format!("cannot write below {}", work.display()))?;
        let out = work.join("component.wasm");
        let mut node = Command::new(&self.node);
        node.arg(self.folder.join("build.mjs")).arg(wit).arg(&source).arg(&out);
        run(&mut node, Package::of(self.engine).name, progress)?;
        fs::read(&out).with_context(|| format!("cannot read {}", out.display()))
    }
}

/// Node.js, which runs the tests, too.
pub fn node() -> Result<PathBuf> {
    match on_path("node") {
        Some(node) => Ok(node),
        None => bail!("{}", missing("node")),
    }
}

fn missing(program: &str) -> String {
    format!(
        "JavaScript plugins are built with Node.js, and there is no {program} on the PATH. Install Node.js 18 or later \
         with npm (Debian: apt-get install nodejs npm; Fedora: dnf install nodejs; macOS: brew install node)"
    )
}

fn fetch(engine: Engine, cache: &Path, folder: &Path, progress: &Progress<'_>) -> Result<()> {
    let Some(npm) = on_path("npm") else { bail!("{}", missing("npm")) };
    fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let package = Package::of(engine);
    let _lock = lock(&cache.join(".lock"), progress)?;
    if folder.join(package.holds()).is_file() {
        return Ok(());
    }
    progress.step(&format!(
        "fetching {} {} from npm ({}, once) into {}",
        package.name,
        package.version,
        package.what,
        folder.display()
    ));
    let started = Instant::now();
    let partial = Partial::create(cache)?;
    for name in ["package.json", "package-lock.json"] {
        fs::write(partial.0.join(name), support(engine, name))?;
    }
    let mut command = Command::new(npm);
    // `install` and not `ci`: that wants every optional package for other machines to be there. What is in the lock file
    // holds for both. Without scripts: nothing that is fetched runs before it is used.
    command.args(["install", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&partial.0);
    run(&mut command, "npm", progress)
        .with_context(|| format!("cannot fetch {} from npm", package.package))?;
    ensure!(partial.0.join(package.holds()).is_file(), "npm brought no {}", package.package);
    let _ = fs::remove_dir_all(folder);
    fs::rename(&partial.0, folder).context("cannot move it into the cache")?;
    progress.step(&format!("fetched in {} s", started.elapsed().as_secs()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// And every package in it with the hash of its files, wherever npm takes them from.
    #[test]
    fn the_lock_files_are_for_these_versions() {
        for engine in Engine::ALL {
            let version = Package::of(engine).version;
            for name in ["package.json", "package-lock.json"] {
                assert!(support(engine, name).contains(version), "{engine:?}: {name}");
            }
            let lock = support(engine, "package-lock.json");
            let count = |text: &str| lock.matches(text).count();
            assert_eq!(count("\"node_modules/"), count("\"integrity\": \"sha512-"), "{engine:?}");
            assert_eq!(count("\"resolved\""), 0, "{engine:?}");
        }
    }
}
