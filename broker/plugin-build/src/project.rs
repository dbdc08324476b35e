//! A plugin project, and how it becomes a component that has been held to its manifest.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::encode::{self, Shape};
use crate::files::{lock, sha256, write_atomically};
use crate::manifest::{Language, Manifest};
use crate::progress::Progress;
use crate::rust::toolchain::{self, Toolchain};
use crate::wheel::{COMPONENTIZE_PY, GO, ZIG};
use crate::{c, go, javascript, python, rust, world};

/// A folder with a manifest.
#[derive(Debug, Clone)]
pub struct Project {
    pub folder: PathBuf,
    pub manifest: Manifest,
}

/// What builds the components of a language, there and ready.
#[derive(Debug)]
pub enum Tools {
    Rust(Toolchain),
    C(c::Compiler),
    JavaScript(javascript::Componentizer),
    Python(python::Componentizer),
    Go(go::Compiler),
}

/// A component that is what its manifest says.
#[derive(Debug, Clone)]
pub struct Built {
    pub path: PathBuf,
    pub size: u64,
    /// `sha256:…`
    pub digest: String,
    pub shape: Shape,
    pub took: Duration,
}

impl Tools {
    /// Finds the tools that a manifest wants, or fetches them.
    pub fn find(manifest: &Manifest, progress: &Progress<'_>) -> Result<Self> {
        Ok(match manifest.language {
            Language::Rust => Self::Rust(toolchain::find(progress)?),
            Language::C => Self::C(c::Compiler::find(progress)?),
            Language::JavaScript => {
                Self::JavaScript(javascript::Componentizer::find(manifest.engine, progress)?)
            }
            Language::Python => Self::Python(python::Componentizer::find(progress)?),
            Language::Go => Self::Go(go::Compiler::find(progress)?),
        })
    }

    /// What builds: the same text makes the same bytes of the same sources.
    pub fn describe(&self) -> String {
        match self {
            Self::Rust(toolchain) => toolchain.describe(),
            Self::C(_) => ZIG.id(),
            Self::JavaScript(componentizer) => componentizer.id(),
            Self::Python(_) => COMPONENTIZE_PY.id(),
            Self::Go(_) => GO.id(),
        }
    }
}

impl Project {
    pub fn open(folder: &Path) -> Result<Self> {
        let manifest = Manifest::read(folder)?;
        let folder = folder.canonicalize().with_context(|| format!("cannot read {}", folder.display()))?;
        Ok(Self { folder, manifest })
    }

    /// Where its component is written.
    pub fn component_file(&self) -> PathBuf {
        self.folder.join("target").join(format!("{}.wasm", self.manifest.name))
    }

    /// Where a build keeps what it generates.
    pub fn work(&self) -> PathBuf {
        self.folder.join("target/plugin")
    }

    /// Builds the component into the project's `target` folder.
    pub fn build(&self, progress: &Progress<'_>) -> Result<Built> {
        let work = self.work();
        self.check_links()?;
        let tools = Tools::find(&self.manifest, progress)?;
        fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
        let _lock = lock(&work.join(".lock"), progress)?;
        let started = Instant::now();
        progress.step(&format!("building {} with {}", self.manifest.name, tools.describe()));
        let (component, shape) = self.component(&tools, &work, progress)?;
        let path = self.component_file();
        write_atomically(&path, &component)?;
        Ok(Built {
            path,
            size: component.len() as u64,
            digest: sha256(&component),
            shape,
            took: started.elapsed(),
        })
    }

    /// What a build writes and clears away is the project's: a link that came with it would lead somewhere else.
    fn check_links(&self) -> Result<()> {
        let (target, work) = (self.folder.join("target"), self.work());
        for folder in [&target, &work, &work.join("c")] {
            let entries = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
            for path in std::iter::once(folder.clone()).chain(entries) {
                ensure!(
                    !path.is_symlink(),
                    "{} is a link, and a build writes there: remove it, and it writes into the project",
                    path.display()
                );
            }
        }
        Ok(())
    }

    /// The component, checked. Everything that is written meanwhile is below `work`.
    pub fn component(&self, tools: &Tools, work: &Path, progress: &Progress<'_>) -> Result<(Vec<u8>, Shape)> {
        let (folder, wit) = (&self.folder, &work.join("wit"));
        if !matches!(tools, Tools::Rust(_)) {
            world::write(&self.manifest, wit)?;
        }
        let component = match tools {
            Tools::Rust(toolchain) => rust::build(folder, toolchain, &work.join("cargo"), folder, progress)?,
            Tools::C(compiler) => compiler.build(folder, wit, work, progress)?,
            Tools::JavaScript(componentizer) => componentizer.build(folder, wit, work, progress)?,
            Tools::Python(componentizer) => componentizer.build(folder, wit, work, progress)?,
            Tools::Go(compiler) => compiler.build(folder, wit, work, progress)?,
        };
        let shape = self.checked(&component)?;
        Ok((component, shape))
    }

    /// What a component is, if it is what the manifest says.
    pub fn checked(&self, component: &[u8]) -> Result<Shape> {
        let shape = encode::shape(component)?;
        encode::check(&shape, &self.manifest)?;
        Ok(shape)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_build_does_not_follow_links_out_of_the_project() {
        let (base, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let precious = outside.path().join("precious");
        fs::write(&precious, "kept").unwrap();
        for (number, (link, to)) in [
            ("target", outside.path()),
            ("target/plugin", outside.path()),
            ("target/plugin/.lock", precious.as_path()),
            ("target/plugin/go", outside.path()),
            ("target/plugin/c", outside.path()),
            ("target/plugin/c/plugin.c", precious.as_path()),
            ("target/gate.partial", precious.as_path()),
        ]
        .into_iter()
        .enumerate()
        {
            let folder = base.path().join(number.to_string());
            let link = folder.join(link);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            fs::write(
                folder.join("plugin.toml"),
                "[plugin]\nname = \"gate\"\nlanguage = \"c\"\nhooks = [\"authorizer\"]\n",
            )
            .unwrap();
            symlink(to, &link).unwrap();
            let error = Project::open(&folder).unwrap().build(&Progress::new(&|_| ())).unwrap_err();
            assert!(error.to_string().contains("is a link"), "{}: {error:#}", link.display());
        }
        assert_eq!(fs::read_to_string(&precious).unwrap(), "kept");
        assert_eq!(outside.path().read_dir().unwrap().count(), 1);
    }
}
