//! JavaScript: QuickJS around an ES module, by componentize-qjs. It comes from npm, with a lock file of ours: npm
//! takes exactly the files that were looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::embedded;
use crate::files::{Partial, cache, lock};
use crate::progress::Progress;
use crate::run::{on_path, run};
use crate::{typescript, world};

/// As package.json has it.
const VERSION: &str = "0.4.5";
const HOLDS: &str = "node_modules/componentize-qjs/package.json";

#[derive(Debug)]
pub struct Engine {
    node: PathBuf,
    folder: PathBuf,
}

/// Names what makes the bytes.
pub fn id() -> String {
    format!("componentize-qjs {VERSION}")
}

impl Engine {
    pub fn find(progress: &Progress<'_>) -> Result<Self> {
        let Some(node) = on_path("node") else { bail!("{}", missing("node")) };
        let cache = cache("tools")?;
        let folder = cache.join(format!("componentize-qjs-{VERSION}"));
        if !folder.join(HOLDS).is_file() {
            fetch(&cache, &folder, progress)?;
        }
        // Ours, and small: written anew so that it is always the one of this mqgate.
        fs::write(folder.join("build.mjs"), embedded::text(embedded::SUPPORT, "javascript/build.mjs"))
            .context("cannot write build.mjs")?;
        Ok(Self { node, folder })
    }

    pub fn build(&self, project: &Path, wit: &Path, work: &Path, progress: &Progress<'_>) -> Result<Vec<u8>> {
        let source = project.join("src/plugin.js");
        ensure!(source.is_file(), "{} is not there", source.display());
        // For editors, and for `tsc`; jsconfig.json of the project names it.
        let (resolve, world) = world::read(wit)?;
        fs::write(work.join("plugin.d.ts"), typescript::declarations(&resolve, world))
            .with_context(|| format!("cannot write below {}", work.display()))?;
        let out = work.join("component.wasm");
        let mut node = Command::new(&self.node);
        node.arg(self.folder.join("build.mjs")).arg(wit).arg(&source).arg(&out);
        run(&mut node, "componentize-qjs", progress)?;
        fs::read(&out).with_context(|| format!("cannot read {}", out.display()))
    }
}

fn missing(program: &str) -> String {
    format!(
        "JavaScript plugins are built with Node.js, and there is no {program} on the PATH. Install Node.js 18 or later \
         with npm (Debian: apt-get install nodejs npm; Fedora: dnf install nodejs; macOS: brew install node)"
    )
}

fn fetch(cache: &Path, folder: &Path, progress: &Progress<'_>) -> Result<()> {
    let Some(npm) = on_path("npm") else { bail!("{}", missing("npm")) };
    fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let _lock = lock(&cache.join(".lock"), progress)?;
    if folder.join(HOLDS).is_file() {
        return Ok(());
    }
    progress.step(&format!(
        "fetching QuickJS as a component (componentize-qjs {VERSION} from npm: 38 MB unpacked, once) into {}",
        folder.display()
    ));
    let started = Instant::now();
    let partial = Partial::create(cache)?;
    for name in ["package.json", "package-lock.json"] {
        fs::write(partial.0.join(name), embedded::text(embedded::SUPPORT, &format!("javascript/{name}")))?;
    }
    let mut command = Command::new(npm);
    // `install` and not `ci`: that wants every optional package for other machines to be there. What is in the lock file
    // holds for both. Without scripts: nothing that is fetched runs before it is used.
    command.args(["install", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&partial.0);
    run(&mut command, "npm", progress).context("cannot fetch componentize-qjs from npm")?;
    ensure!(partial.0.join(HOLDS).is_file(), "npm brought no componentize-qjs");
    let _ = fs::remove_dir_all(folder);
    fs::rename(&partial.0, folder).context("cannot move it into the cache")?;
    progress.step(&format!("fetched in {} s", started.elapsed().as_secs()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_is_for_this_version() {
        for name in ["javascript/package.json", "javascript/package-lock.json"] {
            assert!(embedded::text(embedded::SUPPORT, name).contains(VERSION), "{name}");
        }
    }
}
