//! Python: CPython with the project's modules, by componentize-py. WASI is answered inside of the component.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::progress::Progress;
use crate::run::run;
use crate::wheel::{self, COMPONENTIZE_PY};
use crate::world::WORLD;

/// The wheel has no program that would work without being installed. Where we are is the first place in which Python looks
/// for modules, and may be the project: nothing of it is run here.
const START: &str = "import sys; sys.path[:] = [place for place in sys.path if place]; from componentize_py import script; script()";

#[derive(Debug)]
pub struct Componentizer {
    python: PathBuf,
    folder: PathBuf,
}

impl Componentizer {
    pub fn find(progress: &Progress<'_>) -> Result<Self> {
        let python = wheel::python().context("Python plugins are built with Python")?;
        Ok(Self { python, folder: COMPONENTIZE_PY.folder(progress)? })
    }

    pub fn build(&self, project: &Path, wit: &Path, work: &Path, progress: &Progress<'_>) -> Result<Vec<u8>> {
        let source = project.join("src/plugin.py");
        ensure!(source.is_file(), "{} is not there", source.display());
        let out = work.join("component.wasm");
        self.bindings(wit, &work.join("bindings"), progress)?;
        let mut python = self.command(wit);
        python.args(["componentize", "--stub-wasi", "plugin", "-p"]).arg(project.join("src"));
        python.arg("-o").arg(&out);
        run(&mut python, "componentize-py", progress)?;
        fs::read(&out).with_context(|| format!("cannot read {}", out.display()))
    }

    /// Runs the tests of a folder in this machine's Python, with those types beside the project's modules.
    pub fn test(
        &self,
        project: &Path,
        tests: &Path,
        wit: &Path,
        work: &Path,
        progress: &Progress<'_>,
    ) -> Result<String> {
        let bindings = work.join("bindings");
        self.bindings(wit, &bindings, progress)?;
        let path =
            std::env::join_paths([bindings, project.join("src")]).context("a folder with `:` in its name")?;
        let mut python = Command::new(&self.python);
        python.args(["-m", "unittest", "discover"]).arg(tests).current_dir(project);
        run(python.env("PYTHONPATH", path), "python3 -m unittest", progress)
    }

    /// The types of the project's world, for editors and for tests that run without WebAssembly.
    fn bindings(&self, wit: &Path, into: &Path, progress: &Progress<'_>) -> Result<()> {
        let _ = fs::remove_dir_all(into);
        run(self.command(wit).arg("bindings").arg(into), "componentize-py", progress)?;
        Ok(())
    }

    fn command(&self, wit: &Path) -> Command {
        let mut python = Command::new(&self.python);
        python.args(["-c", START, "-q", "-d"]).arg(wit).args(["-w", WORLD]);
        // The order of sets would go into the component.
        python.env("PYTHONPATH", &self.folder).env("PYTHONHASHSEED", "0");
        python
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::on_path;

    #[test]
    fn no_module_of_the_project_is_run_here() {
        let Some(python) = on_path("python3") else {
            eprintln!("skipped: there is no python3");
            return;
        };
        let (tool, project) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(tool.path().join("componentize_py.py"), "def script(): print('the tool')").unwrap();
        for name in ["componentize_py.py", "random.py", "typing.py"] {
            fs::write(project.path().join(name), "print('the project')\ndef script(): pass").unwrap();
        }
        let componentizer = Componentizer { python, folder: tool.path().to_owned() };
        let mut command = componentizer.command(Path::new("wit"));
        let said = command.current_dir(project.path()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "the tool", "{said:?}");
    }
}
