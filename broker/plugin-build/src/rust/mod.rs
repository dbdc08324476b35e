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

/// Builds the one package in `project`. Cargo puts what it builds into `target`; files below `root` are named relative
/// to it. With the same two, what packages have in common is built once.
pub fn build(
    project: &Path,
    toolchain: &toolchain::Toolchain,
    target: &Path,
    root: &Path,
    progress: &Progress<'_>,
) -> Result<Vec<u8>> {
    let names = [package(project)?];
    let packages =
        compile::Packages { folder: project, target, names: &names, root, lock: compile::Lock::Written };
    let modules = compile::compile(&packages, toolchain, progress)?;
    encode::component(modules.first().context("cargo made no module")?, &[])
}
