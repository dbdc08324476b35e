//! A project's own tests: they run on this machine, without WebAssembly, by what its language has for that. Needs the tools of
//! the language for this machine, but no component.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::files::lock;
use crate::manifest::Language;
use crate::progress::Progress;
use crate::project::Project;
use crate::run::{on_path, run};
use crate::{c, go, javascript, python, world};

impl Project {
    /// Runs the project's own tests, which have passed then. What ran them; nothing where it has none.
    pub fn test(&self, progress: &Progress<'_>) -> Result<Option<&'static str>> {
        if !self.has_tests() {
            return Ok(None);
        }
        let (folder, work) = (&self.folder, self.work());
        std::fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
        let _lock = lock(&work.join(".lock"), progress)?;
        let wit = work.join("wit");
        // The bindings of those that generate some.
        if matches!(self.manifest.language, Language::C | Language::Python | Language::Go) {
            world::write(&self.manifest, &wit)?;
        }
        progress.step(&format!("testing {} on this machine", self.manifest.name));
        let runner = match self.manifest.language {
            Language::Rust => {
                let Some(cargo) = on_path("cargo") else {
                    bail!("tests in Rust are run by cargo, and there is none on the PATH: https://rustup.rs")
                };
                run(Command::new(cargo).arg("test").current_dir(folder), "cargo test", progress)?;
                "cargo test"
            }
            Language::C => {
                c::native::test(folder, &wit, &work, progress)?;
                "test/*.c"
            }
            Language::JavaScript => {
                let mut node = Command::new(javascript::node()?);
                run(node.arg("--test").current_dir(folder), "node --test", progress)?;
                "node --test"
            }
            Language::Python => {
                let tests = self.test_folder().unwrap_or_else(|| folder.join("tests"));
                python::Componentizer::find(progress)?.test(folder, &tests, &wit, &work, progress)?;
                "python3 -m unittest"
            }
            Language::Go => {
                go::Compiler::find(progress)?.test(folder, &wit, &work, progress)?;
                "go test"
            }
        };
        Ok(Some(runner))
    }

    /// Whether there are any. Cargo is asked in any case: tests in Rust stand in the sources.
    fn has_tests(&self) -> bool {
        match self.manifest.language {
            Language::Rust => true,
            Language::C => c::native::has_tests(&self.folder),
            Language::JavaScript | Language::Python => self.test_folder().is_some(),
            Language::Go => has_go_tests(&self.folder),
        }
    }

    /// Both names are common.
    fn test_folder(&self) -> Option<PathBuf> {
        ["test", "tests"].map(|name| self.folder.join(name)).into_iter().find(|folder| folder.is_dir())
    }
}

fn has_go_tests(folder: &Path) -> bool {
    let entries = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    entries.into_iter().any(|path| {
        let name = path.file_name().unwrap_or_default();
        match path.is_dir() {
            true => name != "target" && name != "mqgate" && has_go_tests(&path),
            false => name.as_encoded_bytes().ends_with(b"_test.go"),
        }
    })
}
