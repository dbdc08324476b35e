//! Rust: which compiler, from where, and what it is told.

pub mod compile;
mod debian;
pub mod toolchain;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::encode;
use crate::progress::Progress;

/// Names of a folder's package and of the library it makes.
pub fn package(folder: &Path) -> Result<(String, String)> {
    let file = folder.join("Cargo.toml");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let table: toml::Table = text.parse().with_context(|| file.display().to_string())?;
    let name = |section: &str| Some(table.get(section)?.get("name")?.as_str()?.to_owned());
    let package = name("package").with_context(|| format!("{} names no package", file.display()))?;
    let library = name("lib").unwrap_or_else(|| package.clone());
    Ok((package, library))
}

/// Builds the one package in `project`, keeping everything below `work`.
pub fn build(
    project: &Path,
    toolchain: &toolchain::Toolchain,
    work: &Path,
    progress: &Progress<'_>,
) -> Result<Vec<u8>> {
    let (target, names) = (work.join("cargo"), [package(project)?]);
    let packages = compile::Packages {
        folder: project,
        target: &target,
        names: &names,
        root: project,
        lock: compile::Lock::Written,
    };
    let modules = compile::compile(&packages, toolchain, progress)?;
    encode::component(modules.first().context("cargo made no module")?, &[])
}
