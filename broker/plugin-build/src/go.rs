//! Go: bindings made from the project's world, compiled by Go's own compiler as a library for WASI, which is answered
//! by [`crate::wasi`]. No module is fetched: what the bindings need of Go is in `support/go`.
//!
//! The bindings import the packages `export_mqgate_plugin_*` of the module `wit_component`; those are the author's. So
//! the project is laid into a folder together with the bindings, and built there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use wit_bindgen_core::Files;
use wit_bindgen_go::{Format, Opts};

use crate::embedded;
use crate::encode;
use crate::progress::Progress;
use crate::run::run;
use crate::wasi;
use crate::wheel::GO;
use crate::world;

#[derive(Debug)]
pub struct Compiler {
    go: PathBuf,
    cache: PathBuf,
}

impl Compiler {
    pub fn find(progress: &Progress<'_>) -> Result<Self> {
        let folder = GO.folder(progress)?;
        let go = folder.join("go/bin/go");
        ensure!(go.is_file(), "{} is not there", go.display());
        Ok(Self { go, cache: folder.with_extension("cache") })
    }

    pub fn build(&self, project: &Path, wit: &Path, work: &Path, progress: &Progress<'_>) -> Result<Vec<u8>> {
        let tree = laid_out(project, wit, work)?;
        let core = work.join("core.wasm");
        let mut go = self.command(&tree);
        go.args(["build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-o"]);
        go.arg(&core).arg(".").envs([("GOOS", "wasip1"), ("GOARCH", "wasm")]);
        run(&mut go, "the Go compiler", progress)?;
        let mut module = fs::read(&core).with_context(|| format!("cannot read {}", core.display()))?;
        let (resolve, world) = world::read(wit)?;
        encode::with_world(&mut module, &resolve, world)?;
        wasi::component(&module)
    }

    /// Runs the tests of all of the project's packages on this machine.
    pub fn test(&self, project: &Path, wit: &Path, work: &Path, progress: &Progress<'_>) -> Result<String> {
        let tree = laid_out(project, wit, work)?;
        let mut go = self.command(&tree);
        // Generated code is not as the vet wants it.
        go.args(["test", "-vet=off", "./..."]).env("CGO_ENABLED", "0");
        run(&mut go, "go test", progress)
    }

    /// What the user's own Go is set to has no say here, and nothing is fetched.
    fn command(&self, tree: &Path) -> Command {
        let mut go = Command::new(&self.go);
        go.current_dir(tree);
        go.envs([("GOTOOLCHAIN", "local"), ("GOPROXY", "off"), ("GOFLAGS", "-mod=mod"), ("GOWORK", "off")]);
        go.env_remove("GOROOT").env_remove("GOOS").env_remove("GOARCH").env("GOCACHE", &self.cache);
        go
    }
}

/// The project, with the bindings and what they need laid over it. The folder.
fn laid_out(project: &Path, wit: &Path, work: &Path) -> Result<PathBuf> {
    let (mut resolve, world) = world::read(wit)?;
    let tree = work.join("go");
    let _ = fs::remove_dir_all(&tree);
    lay(project, &tree)?;
    for (name, text) in embedded::SUPPORT {
        if let Some(name) = name.strip_prefix("go/") {
            write(&tree.join(name.strip_suffix(".in").unwrap_or(name)), text.as_bytes())?;
        }
    }
    let mut files = Files::default();
    let options = Opts { format: Format::False, quiet: true, ..Opts::default() };
    options
        .build()
        .generate(&mut resolve, world, &mut files)
        .map_err(|error| anyhow::anyhow!("bindings for Go: {error:#}"))?;
    for (name, bytes) in files.iter().filter(|(name, _)| *name != "go.mod") {
        write(&tree.join(name), bytes)?;
    }
    Ok(tree)
}

/// Copies what Go reads of the project.
fn lay(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() {
            let passed = ["target", "mqgate", "cases", "wit-runtime"].iter().any(|passed| name == *passed);
            if !passed && !name.as_encoded_bytes().starts_with(b".") {
                lay(&path, &to.join(name))?;
            }
        } else if path.extension().is_some_and(|extension| extension == "go") {
            let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            write(&to.join(name), &text)?;
        }
    }
    Ok(())
}

fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    let parent = file.parent().expect("it was joined to a folder");
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(file, bytes))
        .with_context(|| format!("cannot write {}", file.display()))
}
